from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from han.documents import read_documents
from han.records import check_output, json_line, write_records

LABELS = ["neg", "pos"]


def make_record(id: str = "a", **columns: object) -> dict[str, object]:
    return {
        "id": id,
        **columns,
        "label": "pos",
        "probability": 0.75,
        "probabilities": {"neg": 0.25, "pos": 0.75},
        "truncated": False,
        "empty": True,
    }


def read_csv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


class TestJsonLine:
    def test_line_holds_the_record(self) -> None:
        record = make_record("Köln 🎉", year=2016)
        line = json_line(record)
        assert json.loads(line) == record
        assert "Köln 🎉" in line

    @given(st.text(st.characters()))
    def test_line_is_safe_to_print_and_keeps_the_text(self, text: str) -> None:
        line = json_line(make_record(text))
        assert json.loads(line)["id"] == text
        assert len(line.splitlines()) == 1
        assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in line)
        line.encode("utf-8")

    def test_direction_marks_are_escaped(self) -> None:
        assert "\\u202e" in json_line(make_record("a\u202eb"))


class TestCheckOutput:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.CSV", "a.tsv.gz", "a.ndjson.zst", "a.parquet"])
    def test_known_suffixes_pass(self, tmp_path: Path, name: str) -> None:
        check_output(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.json"])
    def test_unknown_suffix_names_the_known_ones(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"{name}: the suffix .* \.jsonl, .*\.parquet"):
            check_output(name)

    def test_compressed_parquet_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"compresses its columns itself; leave \.gz out"):
            check_output("a.parquet.gz")

    def test_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").mkdir()
        with pytest.raises(ValueError, match="this is a folder"):
            check_output(tmp_path / "a.csv")

    @pytest.mark.parametrize("column", ["id", "label", "probabilities", "p_neg", "n"])
    def test_column_that_would_come_twice_is_refused(self, column: str) -> None:
        with pytest.raises(ValueError, match=f"'{column}' would be in the output twice; rename"):
            check_output("a.jsonl", LABELS, ["n", column])


class TestWriteRecords:
    @pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".ndjson.zst"])
    def test_json_lines_hold_the_records(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"new/a{suffix}"
        records = [make_record(text=f"é{number}") for number in range(3)]
        assert write_records(path, iter(records), LABELS, ["text"]) == 3
        with pa.input_stream(path, compression="detect") as stream:
            assert [json.loads(line) for line in stream.read().splitlines()] == records

    @pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
    def test_tables_have_a_column_for_each_class(
        self, tmp_path: Path, suffix: str, delimiter: str
    ) -> None:
        path = tmp_path / f"a{suffix}"
        assert write_records(path, [make_record("k", n=7, x=None)], LABELS, ["n", "x"]) == 1
        assert path.read_bytes().decode() == (
            "id,n,x,label,probability,p_neg,p_pos,truncated,empty\r\n"
            "k,7,,pos,0.75,0.25,0.75,false,true\r\n"
        ).replace(",", delimiter)

    @pytest.mark.parametrize(
        "text",
        [
            "=1+1",
            "+cmd|x",
            "-1+2",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "\n=1",
            "\uff1d1+1",
            "-",
            "=",
            "+49 170",
        ],
    )
    def test_formulas_are_neutralised(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "a.csv"
        write_records(path, [make_record(text, **{text: text})], LABELS, [text])
        header, row = read_csv(path)
        assert header[1] == row[0] == row[1] == f"'{text}"

    @pytest.mark.parametrize("value", [-1.5, -7, "-1.5", "+7", "-1e-3", "-.5", "a=b", "", "'=1"])
    def test_numbers_and_other_texts_stay_as_they_are(
        self, tmp_path: Path, value: str | float
    ) -> None:
        path = tmp_path / "a.csv"
        write_records(path, [make_record(n=value)], LABELS, ["n"])
        assert read_csv(path)[1][1] == str(value)

    def test_formula_as_a_label_is_neutralised(self, tmp_path: Path) -> None:
        record = make_record() | {"label": "=x", "probabilities": {"=x": 1.0}}
        write_records(tmp_path / "a.csv", [record], ["=x"])
        header, row = read_csv(tmp_path / "a.csv")
        assert (header[3], row[1]) == ("p_=x", "'=x")

    @settings(deadline=None)  # it writes files
    @given(st.text(st.characters(codec="utf-8")))
    def test_csv_cells_survive_any_text(
        self, tmp_path_factory: pytest.TempPathFactory, text: str
    ) -> None:
        path = tmp_path_factory.mktemp("csv") / "a.csv"
        write_records(path, [make_record(text), make_record("b")], LABELS)
        _, row, last = read_csv(path)
        assert row[0] in (text, f"'{text}")
        assert last[0] == "b"

    def test_parquet_has_a_typed_column_for_each_class(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        records = [make_record(str(n), n=n, s="=1", x=None) for n in range(3000)]
        assert write_records(path, iter(records), LABELS, ["n", "s", "x"]) == 3000
        table = pq.read_table(path)
        names = ["id", "n", "s", "x", "label", "probability", "p_neg", "p_pos", "truncated"]
        assert table.column_names == [*names, "empty"]
        assert [str(one) for one in table.schema.types] == [
            *("string", "int64", "string", "string", "string"),
            *("double", "double", "double", "bool", "bool"),
        ]
        assert table["id"].to_pylist() == [str(n) for n in range(3000)]
        assert table["s"][0].as_py() == "=1"

    @pytest.mark.parametrize("values", [[1, "a"], [None, 5], [10**30, 1]])
    def test_parquet_holds_mixed_columns_as_strings(
        self, tmp_path: Path, values: list[Any]
    ) -> None:
        records = [make_record(n=value) for value in [values[0]] * 5000 + [values[1]]]
        if values[0] is not None:
            records[1]["n"] = values[1]
        path = tmp_path / "a.parquet"
        write_records(path, records, LABELS, ["n"])
        assert pq.read_table(path)["n"][5000].as_py() == str(values[1])

    def test_parquet_names_a_column_that_changes_its_type(self, tmp_path: Path) -> None:
        records = [make_record(n=value) for value in [1] * 5000 + ["x"]]
        with pytest.raises(ValueError, match=r"a\.parquet: the column 'n' begins with int64 and"):
            write_records(tmp_path / "a.parquet", records, LABELS, ["n"])
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".csv.gz", ".jsonl.zst"])
    def test_no_records_make_a_readable_file(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        assert write_records(path, [], LABELS) == 0
        with pytest.raises(ValueError, match=r"no documents|the file is empty"):
            list(read_documents(path, text_column="id"))

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".csv.gz", ".jsonl.zst"])
    def test_error_in_the_records_leaves_the_old_file(self, tmp_path: Path, suffix: str) -> None:
        def records() -> Iterator[dict[str, object]]:
            for number in range(5000):
                yield make_record(str(number))
            raise ValueError("bad row")

        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"old")
        with pytest.raises(ValueError, match="bad row"):
            write_records(path, records(), LABELS)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_unusable_path_is_refused_before_a_record_is_made(self) -> None:
        records = iter([make_record()])
        with pytest.raises(ValueError, match="the suffix"):
            write_records("a.xlsx", records, LABELS)
        assert next(records)

    def test_compressed_output_can_be_read_by_others(self, tmp_path: Path) -> None:
        write_records(tmp_path / "a.csv.gz", [make_record()], LABELS)
        assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).startswith(b"id,label,")

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv.zst", ".parquet"])
    def test_output_can_be_read_as_documents(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        records = [make_record("k1", text='one,\n"two"'), make_record("k2", text="")]
        write_records(path, records, LABELS, ["text"])
        documents = list(read_documents(path))
        assert [(one.id, one.text, one.label) for one in documents] == [
            ("k1", 'one,\n"two"', "pos"),
            ("k2", "", "pos"),
        ]
