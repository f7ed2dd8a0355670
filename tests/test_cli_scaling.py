from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import han.cli.scaling
import han.parts
from han import load
from han.parts import Part, PartFolder
from han.scale import PartClassifier
from tests.commands import Outcome, Place
from tests.tiny import TEXTS, save_model

ROWS = [{"id": f"d{i}", "text": TEXTS[i % 3], "label": "bad", "year": i} for i in range(50)]


def written(place: Place) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(place.folder / "out").to_pylist()
    return rows


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Do parts of ten rows in this process, without Ray; stop before as many as asked for."""
    limit = {"parts": 99}
    before = pa.default_memory_pool()

    def classify_parts(
        folder: PartFolder,
        parts: Sequence[Part],
        schema: pa.Schema,
        columns: Sequence[str],
        model: str,
        options: Mapping[str, Any],
        **resources: object,
    ) -> Iterator[int]:
        assert set(resources) == {"workers", "num_cpus", "num_gpus"}
        work = PartClassifier(folder, schema, columns, model, {**options, "threads": None})
        for number, part in enumerate(parts):
            if number == limit["parts"]:
                raise KeyboardInterrupt
            result = work(asdict(part))
            if result["error"]:
                raise ValueError(result["error"])
            yield result["rows"]

    monkeypatch.setattr(han.parts, "PART_ROWS", 10)
    monkeypatch.setattr(han.cli.scaling, "classify_parts", classify_parts)
    monkeypatch.setattr(han.cli.scaling, "require_ray", lambda: None)
    yield limit
    pa.set_memory_pool(before)


class TestRay:
    def run(self, place: Place, *options: str, rows: Sequence[dict[str, Any]] = ROWS) -> Outcome:
        if not (place.folder / "in.parquet").exists():
            place.write_rows("in.parquet", rows)
        output = str(place.folder / "out")
        return place.run("ray", place.folder / "in.parquet", "--output", output, *options)

    @pytest.mark.usefixtures("here")
    def test_each_row_gives_one_record_in_order(self, place: Place) -> None:
        outcome = self.run(place)
        assert (outcome.status, outcome.out) == (0, "")
        assert outcome.err == f"50 predictions: {place.folder / 'out'}\n"
        records = written(place)
        assert [record["id"] for record in records] == [row["id"] for row in ROWS]
        assert [record["year"] for record in records] == list(range(50))
        labels = [one.label for one in load(place.model).classify([row["text"] for row in ROWS])]
        assert [record["label"] for record in records] == labels
        assert {record["true"] for record in records} == {"bad"}

    def test_the_same_command_goes_on_where_it_stopped(
        self, place: Place, here: dict[str, int]
    ) -> None:
        here["parts"] = 2
        assert self.run(place).status == 130
        first = place.folder / "out/part-00000-of-00005.parquet"
        done = first.stat().st_mtime_ns
        here["parts"] = 3
        assert self.run(place).err.startswith("2 of 5 parts are there already\n50 predictions")
        assert [record["id"] for record in written(place)] == [row["id"] for row in ROWS]
        assert first.stat().st_mtime_ns == done

    def test_nothing_is_left_to_do_after_the_end(self, place: Place, here: dict[str, int]) -> None:
        self.run(place)
        here["parts"] = 0
        assert self.run(place).err.startswith("5 of 5 parts are there already\n50 predictions")

    @pytest.mark.usefixtures("here")
    def test_rows_that_were_skipped_are_counted_also_by_a_later_command(self, place: Place) -> None:
        rows = [{**row, "text": None if row["year"] in (3, 33) else row["text"]} for row in ROWS]
        self.run(place, rows=rows).assert_one_line("in.parquet:4: `text` is null")
        for _ in range(2):
            outcome = self.run(place, "--on_bad_row", "skip")
            assert outcome.err.endswith("out\nskipped 2: text is not a string\n")
        assert [one["year"] for one in written(place)] == [i for i in range(50) if i not in (3, 33)]

    @pytest.mark.usefixtures("here")
    def test_explanations_are_a_column_of_records(self, place: Place) -> None:
        assert self.run(place, "--explain").status == 0
        record = written(place)[7]
        explanation = json.loads(record["explanation"])
        assert (explanation["id"], explanation["true"]) == ("d7", "bad")
        assert (explanation["text"], explanation["predicted"]) == (ROWS[7]["text"], record["label"])

    @pytest.mark.usefixtures("here")
    def test_another_command_needs_another_folder(self, place: Place) -> None:
        self.run(place)
        self.run(place, "--keep_columns", "year").assert_one_line("results of another options")
        save_model(Path(place.model), ("good", "bad"))
        self.run(place).assert_one_line("results of another model")

    @pytest.mark.usefixtures("here")
    def test_another_input_needs_another_folder(self, place: Place) -> None:
        self.run(place)
        place.write_rows("in.parquet", ROWS[:-1])
        self.run(place).assert_one_line("results of another input")

    @pytest.mark.usefixtures("here")
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--text_column", "review"), "in.parquet: no column 'review'; the columns are 'id'"),
            (("--text_column", "year"), "in.parquet: `year` is int64, not a string; set `--text_"),
            (("--keep_columns", "price"), "no column 'price'"),
            (("--id_column", "key"), "in.parquet: no column 'key'"),
            (("--keep_columns", "id"), "'id' would be in the output twice"),
            (("--explain", "magic"), "no method 'magic'"),
            (("--workers", "0"), "`--workers` must be at least 1, got 0."),
            (("--num_gpus", "-1"), "`--num_gpus` must not be negative"),
        ],
    )
    def test_bad_options_are_one_line_and_write_nothing(
        self, place: Place, options: tuple[str, ...], message: str
    ) -> None:
        self.run(place, *options).assert_one_line(message)
        assert not (place.folder / "out").exists()

    @pytest.mark.usefixtures("here")
    def test_no_rows_are_an_error(self, place: Place) -> None:
        empty = pa.table({"text": pa.array([], pa.string())})
        pq.write_table(empty, place.folder / "in.parquet")
        self.run(place).assert_one_line("in.parquet: no documents in it")

    def test_without_ray_it_says_what_to_install(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        self.run(place).assert_one_line('pip install "han-classifier[ray]"')

    def test_a_cluster_that_does_not_answer_is_named(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("ray")
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        self.run(place).assert_one_line("No cluster of Ray answers at RAY_ADDRESS 127.0.0.1:1 (")


@pytest.mark.slow
class TestWorkers:
    def test_a_killed_run_goes_on_without_losing_or_doubling_rows(self, place: Place) -> None:
        pytest.importorskip("ray")
        source = place.folder / "in"
        source.mkdir()
        rows = [{**ROWS[i % 50], "id": f"d{i}", "year": i} for i in range(60_000)]
        for number in range(12):
            place.write_rows(f"in/{number:02}.parquet", rows[number * 5000 : number * 5000 + 5000])
        output = place.folder / "out"
        command = [sys.executable, "-m", "han", "ray", place.model, str(source)]
        command += ["--output", str(output), "--workers", "2"]
        running = subprocess.Popen(command, start_new_session=True)
        while len(list(output.glob("part-*"))) < 4:
            assert running.poll() is None, "it was killed before it ended"
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "of 12 parts are there already\n" in done.stderr
        assert done.stderr.endswith(f"60000 predictions: {output}\n")
        assert len(done.stderr.splitlines()) == 2
        assert [one["id"] for one in written(place)] == [row["id"] for row in rows]

    def test_the_classifier_is_a_stage_of_ones_own_pipeline(self, place: Place) -> None:
        pytest.importorskip("ray")
        place.write_rows("in.parquet", ROWS)
        code = (
            "import ray, han.scale\n"
            "ray.init(address='local', num_cpus=2, include_dashboard=False)\n"
            "ray.data.read_parquet('in.parquet').map_batches(\n"
            f"    han.scale.Classifier, fn_constructor_args=[{place.model!r}], concurrency=1\n"
            ").write_parquet('out')\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=place.folder, check=True)
        found = sorted(written(place), key=lambda record: int(record["year"]))
        assert [record["id"] for record in found] == [row["id"] for row in ROWS]
        assert set(found[0]) == {
            *("id", "true", "year", "label", "probability", "p_bad", "p_good"),
            *("truncated", "empty"),
        }
