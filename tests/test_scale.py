from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import han.scale
from han.parts import PartFolder, cut
from han.predictor import load
from han.records import write_records
from han.scale import Classifier, PartClassifier, Reading, identify_model
from tests.tiny import TEXTS, make_bundle, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("scale") / "model")


def make_table(**columns: object) -> pa.Table:
    return pa.table({"text": [*TEXTS, ""], **columns})


class TestClassifier:
    def test_records_are_those_of_the_predictor(self, model: Path, tmp_path: Path) -> None:
        found = Classifier(model)(make_table(id=["a", "b", "c", "d"]))
        predictions = load(model).classify([*TEXTS, ""])
        records = [
            one.to_record() | {"id": id} for one, id in zip(predictions, "abcd", strict=True)
        ]
        write_records(tmp_path / "a.parquet", records, ("bad", "good"))
        assert found.equals(pq.read_table(tmp_path / "a.parquet"))
        assert found["empty"].to_pylist() == [False, False, False, True]

    @pytest.mark.parametrize("methods", [(), ("attention_gradient",)])
    def test_several_labels_are_a_list(self, tmp_path: Path, methods: tuple[str, ...]) -> None:
        bundle = make_bundle(options={"task": "multilabel"})
        replace(bundle, thresholds=(0.0, 1.0)).save(tmp_path / "m")
        own = [["good"], [], ["bad", "good"], None]
        found = Classifier(tmp_path / "m", methods=methods)(make_table(label=own))
        assert found.column_names[:4] == ["true", "labels", "p_bad", "p_good"]
        assert found["true"].to_pylist() == own
        assert found["labels"].to_pylist() == [["bad"]] * 4

    def test_arrays_do_as_well(self, model: Path) -> None:
        table = make_table(n=[1, 2, 3, 4])
        arrays = {"text": np.array([*TEXTS, ""], object), "n": np.array([1, 2, 3, 4])}
        assert Classifier(model)(arrays).equals(Classifier(model)(table))

    def test_other_columns_stay_as_they_are(self, model: Path) -> None:
        nested = pa.array([[1], None, [], [2, 3]], pa.list_(pa.int8()))
        found = Classifier(model)(make_table(n=nested, label=[1, 2, None, 4]))
        assert found.column_names[:4] == ["n", "true", "label", "probability"]
        assert found["n"].combine_chunks().equals(nested)
        assert found["true"].to_pylist() == [1, 2, None, 4]

    def test_columns_can_be_chosen(self, model: Path) -> None:
        classifier = Classifier(model, id_column="key", keep_columns=["m", "text"])
        found = classifier(make_table(key=[7, 8.0, 9, 10], m=list("abcd"), n=list("abcd")))
        assert found.column_names[:4] == ["id", "m", "text", "label"]
        assert found["id"].to_pylist() == ["7", "8", "9", "10"]
        assert found["text"].to_pylist() == [*TEXTS, ""]

    def test_explanations_are_those_of_the_predictor(self, model: Path) -> None:
        methods = ["attention", "gradient"]
        found = Classifier(model, methods=methods)(make_table(id=list("0123")))
        expected = load(model).explain([*TEXTS, ""], methods)
        records = [json.loads(one) for one in found["explanation"].to_pylist()]
        assert records == [json.loads(one.to_json()) for one in expected]
        plain = Classifier(model)(make_table(id=list("0123")))
        for name in ("p_bad", "probability"):
            assert found[name].to_numpy() == pytest.approx(plain[name].to_numpy(), abs=1e-6)
        assert found["label"].equals(plain["label"])

    def test_bad_rows_are_named_or_left_out(self, model: Path) -> None:
        table = pa.table({"text": [TEXTS[0], None, TEXTS[1]], "n": [1, 2, 3]})
        with pytest.raises(ValueError, match=r"row 2: `text` is null, not a string; .*on_bad_row"):
            Classifier(model)(table)
        assert Classifier(model, on_bad_row="skip")(table)["n"].to_pylist() == [1, 3]
        nothing = Classifier(model, on_bad_row="skip")(table.slice(1, 1))
        assert (len(nothing), nothing.schema.field("p_bad").type) == (0, pa.float64())

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"a": ["x"]}, r"no column 'text'; the columns are 'a': set `text_column`"),
            ({"text": [7]}, r"`text` is int64, not a string"),
            ({"text": ["x"], "p_bad": [1]}, r"'p_bad' would be in the output twice"),
            ({"text": ["x"], "label": ["y"], "true": [1]}, r"'true' would be in the output twice"),
        ],
    )
    def test_unfit_columns_are_named(
        self, model: Path, columns: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            Classifier(model)(pa.table(columns))

    def test_a_method_must_be_one(self, model: Path) -> None:
        with pytest.raises(ValueError, match="no method 'magic'"):
            Classifier(model, methods=["magic"])


class TestPartClassifier:
    @pytest.fixture(autouse=True)
    def pool(self) -> Iterator[None]:
        """Keep the allocator, which a worker changes."""
        before = pa.default_memory_pool()
        yield
        pa.set_memory_pool(before)

    def test_blocks_make_one_file_in_order(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(han.scale, "BLOCK_DOCUMENTS", 3)
        monkeypatch.setattr("han.parts._ROWS_AT_ONCE", 2)
        path = tmp_path / "a.parquet"
        texts = [TEXTS[number % 3] for number in range(9)]
        pq.write_table(pa.table({"text": texts, "n": list(range(9))}), path)
        found, (part,), _ = cut(path, "text")
        folder = PartFolder(tmp_path / "out", {"model": identify_model(model)})
        schema = Reading().schema(found, ("bad", "good"), named=True)
        (tmp_path / "out").mkdir()
        work = PartClassifier(folder, schema, ["text", "n"], str(model), {})
        assert work(asdict(part)) == {"rows": 9, "error": ""}
        written = pq.read_table(folder.path / part.name)
        assert written["n"].to_pylist() == list(range(9))
        assert written["id"].to_pylist() == [f"a.parquet:{number}" for number in range(1, 10)]
        alone = Classifier(model)(pa.table({"text": texts}))
        assert written["p_bad"].to_numpy() == pytest.approx(alone["p_bad"].to_numpy(), abs=1e-6)

    def test_what_is_wrong_comes_back_as_one_line(self, model: Path, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "a.parquet")
        found, (part,), _ = cut(tmp_path / "a.parquet", "text")
        schema = Reading().schema(found, ("bad", "good"), named=True)
        folder = PartFolder(tmp_path, {"model": identify_model(model)})
        error = PartClassifier(folder, schema, ["text"], str(model), {})(asdict(part))["error"]
        assert error.startswith(f"{tmp_path / 'a.parquet'}:2: `text` is null")
        gone = PartClassifier(folder, schema, ["text"], str(tmp_path / "gone"), {})(asdict(part))
        assert gone == {"rows": 0, "error": f"{tmp_path / 'gone'}: no such model directory."}
        other = str(save_model(tmp_path / "other", ("good", "bad")))
        changed = PartClassifier(folder, schema, ["text"], other, {})(asdict(part))["error"]
        assert changed.startswith(f"{other}: the model has changed since the command began")

    def test_rows_that_kill_workers_do_not_do_so_for_ever(
        self, model: Path, tmp_path: Path
    ) -> None:
        pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
        found, (part,), _ = cut(tmp_path / "a.parquet", "text")
        schema = Reading().schema(found, ("bad", "good"), named=True)
        for attempt in range(3):
            (tmp_path / f".{part.name}.{attempt}").touch()
        work = PartClassifier(PartFolder(tmp_path, {}), schema, ["text"], str(model), {})
        assert "rows 1 to 2: 3 workers died over them." in work(asdict(part))["error"]


class TestIdentifyModel:
    def test_another_model_has_another_identity(self, model: Path, tmp_path: Path) -> None:
        copy = save_model(tmp_path / "run/model")
        assert identify_model(copy.parent) == identify_model(model)
        other = save_model(tmp_path / "other", ("good", "bad"))
        assert identify_model(other) != identify_model(model)
