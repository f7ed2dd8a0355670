from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from han import load
from han.cli.words import words
from han.explanation import METHODS
from han.overview import summarize
from han.report.overview import render_overview
from tests.commands import Outcome, Place, packages_after, run_process
from tests.tiny import TEXTS

ROWS = [{"id": f"r{i}", "text": text, "label": "bad"} for i, text in enumerate(TEXTS * 3)]
FIRST = ["class", "rank", "word", "unknown", "occurrences", "documents"]


def expected(place: Place, method: str = "attention_gradient", **options: int) -> dict[str, Any]:
    """Return the overview that the command should write."""
    texts = [row["text"] for row in ROWS]
    explanations = load(place.model).explain(texts, (method,))
    return summarize(explanations, words=20, examples=1, method=method, **options).to_dict()


def listed(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["label"], word["word"]) for one in record["classes"] for word in one["words"]]


class TestWords:
    def test_a_pipe_gets_a_line_of_json_a_word(self, place: Place) -> None:
        outcome = place.run("words", place.write_rows("a.jsonl", ROWS), "--min_count", "2")
        assert (outcome.status, outcome.err) == (0, "")
        record = expected(place, min_count=2)
        found = outcome.records()
        assert [(one["class"], one["word"]) for one in found] == listed(record)
        assert len(found) > 5
        first = next(one["words"][0] for one in record["classes"] if one["words"])
        assert found[0]["scores"] == pytest.approx(first["scores"])
        assert found[0]["rank"] == 1
        [example] = found[0]["examples"]
        assert example["word"].lower() == found[0]["word"]
        assert example["id"] in {row["id"] for row in ROWS}

    def test_a_terminal_gets_tables(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        source = place.write_rows("a.jsonl", ROWS)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "80")
        out = place.run("words", source).out
        explanations = load(place.model).explain([row["text"] for row in ROWS], METHODS[:2])
        lines = render_overview(summarize(explanations, words=20, examples=1)).splitlines()
        for line in lines:
            if not line.endswith("…") and "[" not in line:
                assert line in out
        assert out.startswith("bad   ")
        assert "in context" in out

    @pytest.mark.parametrize("method", METHODS)
    def test_method_orders_the_words(self, place: Place, method: str) -> None:
        source = place.write_rows("a.jsonl", ROWS)
        outcome = place.run("words", source, "--method", method, "--min_count", "1")
        record = expected(place, method, min_count=1)
        assert [(one["class"], one["word"]) for one in outcome.records()] == listed(record)
        assert {key for one in outcome.records() for key in one["scores"]} == {method} - {
            "attention"
        }

    def test_options_choose_what_is_listed(self, place: Place) -> None:
        source = place.write_rows("a.jsonl", ROWS)
        options = ("--min_count", "1", "--top", "2", "--examples", "3", "--method", "attention")
        records = place.run("words", source, *options).records()
        assert max(record["rank"] for record in records) == 2
        assert max(len(record["examples"]) for record in records) == 3
        label = records[0]["class"]
        of_class = place.run("words", source, *options, "--label", label).records()
        assert of_class == [record for record in records if record["class"] == label]
        limited = place.run("words", source, *options, "--limit", "1").records()
        assert all(record["documents"] == 1 for record in limited)

    @pytest.mark.parametrize("name", ["w.csv", "w.tsv", "w.csv.gz", "w.parquet"])
    def test_tables_are_written(self, place: Place, name: str) -> None:
        path = place.folder / name
        source = place.write_rows("a.jsonl", ROWS)
        options = ("--min_count", "2", "--examples", "2", "--output", str(path))
        outcome = place.run("words", source, *options)
        assert outcome == Outcome(0, "", f"words: {path}\n")
        found = read_table(path)
        record = expected(place, min_count=2)
        header = [*FIRST, "weight", "share", "lift", "attention_gradient", "example_1", "example_2"]
        assert list(found[0]) == header
        shown = [(row["class"], row["word"].removeprefix("'")) for row in found]
        assert shown == listed(record)
        assert found[0]["word"] in found[0]["example_1"].lower()
        if name == "w.parquet":
            kinds = {type(found[0][column]) for column in ("occurrences", "lift", "unknown")}
            assert kinds == {int, float, bool}

    def test_whole_overview_is_written_as_json(self, place: Place) -> None:
        source = place.write_rows("a.jsonl", ROWS)
        place.run("words", source, "--min_count", "2", "--output", str(place.folder / "w.json"))
        record = json.loads((place.folder / "w.json").read_text(encoding="utf-8"))
        assert record["schema"] == "han.overview/1"
        assert listed(record) == listed(expected(place, min_count=2))
        assert record["documents"] == record["calibration"]["documents"] == len(ROWS)
        assert len(record["positions"]["words"]) == 10

    def test_lines_hold_the_records(self, place: Place) -> None:
        source = place.write_rows("a.jsonl", ROWS)
        options = ("--min_count", "2", "--label", "bad")
        piped = place.run("words", source, *options)
        place.run("words", source, *options, "--output", str(place.folder / "w.jsonl"))
        assert (place.folder / "w.jsonl").read_text(encoding="utf-8") == piped.out

    def test_a_spreadsheet_runs_no_word(self, place: Place) -> None:
        rows = [{"text": "=HYPERLINK(x) =cmd @sum -1+1 \x1b[31m"} for _ in range(9)]
        source = place.write_rows("a.jsonl", rows)
        path = place.folder / "w.csv"
        place.run("words", source, "--method", "occlusion", "--output", str(path))
        place.run("words", source, "--method", "attention", "--output", str(path))
        with open(path, encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert len(cells) > 15
        assert not [cell for cell in cells if cell[:1] in "=+@" and cell]

    def test_nothing_to_list_is_no_error(self, place: Place) -> None:
        for name in ("w.csv", "w.parquet", "w.jsonl"):
            path = place.folder / name
            assert place.run("words", "Cold soup.", "--output", str(path)).status == 0
            assert read_table(path) == []
        assert place.run("words", "Cold soup.") == Outcome(0, "", "")

    def test_skipped_rows_are_counted(self, place: Place) -> None:
        source = place.write("a.csv", "text\nCold soup.\none,two\n")
        outcome = place.run("words", source, "--on_bad_row", "skip")
        assert outcome == Outcome(0, "", "skipped 1: ragged row\n")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--top", "0"), "`--top` must be at least 1, got 0"),
            (("--min_count", "0"), "`--min_count` must be at least 1"),
            (("--limit", "0"), "`--limit` must be at least 1"),
            (("--examples", "-1"), "`--examples` must be at least 0"),
            (("--method", "magic"), "no method 'magic'; choose among attention, "),
            (("--label", "b\x1bd"), "knows no class 'b\\x1bd', only bad, good"),
            (("--output", "w.html"), "w.html: the suffix '.html' is not known"),
            (("--output", "w.json.gz.txt"), "suffix '.txt' is not known"),
        ],
    )
    def test_bad_options_are_one_line(
        self, place: Place, options: tuple[str, ...], message: str
    ) -> None:
        place.run("words", "Cold soup.", *options).assert_one_line(message)

    def test_input_is_not_overwritten(self, place: Place) -> None:
        source = place.write_rows("a.jsonl", ROWS)
        before = source.read_bytes()
        place.run("words", source, "--output", str(source)).assert_one_line("is the input")
        assert source.read_bytes() == before

    def test_failure_leaves_no_file(self, place: Place) -> None:
        source = place.write("a.csv", "text\nCold soup.\none,two\n")
        path = place.folder / "w.json"
        place.run("words", source, "--output", str(path)).assert_one_line("a.csv:3")
        assert not path.exists()

    def test_standard_input_is_read(self, place: Place) -> None:
        source = "\n".join(TEXTS * 3).encode()
        outcome = run_process("words", place.model, "-", "--min_count", "2", source=source)
        assert (outcome.status, outcome.err) == (0, "")
        assert len(outcome.records()) > 5

    def test_help_names_the_methods(self, capsys: pytest.CaptureFixture[str]) -> None:
        from han.cli import main

        with pytest.raises(SystemExit):
            main(["words", "--help"])
        out = capsys.readouterr().out
        assert all(method in out for method in METHODS)
        assert words.__doc__

    def test_a_pipe_needs_neither_pyarrow_nor_rich(self, place: Place) -> None:
        arguments = ["words", place.model, "Cold soup."]
        loaded = packages_after(f"from han.cli import main; main({arguments!r})")
        assert "torch" in loaded
        assert not loaded & {"jinja2", "pyarrow", "rich", "pytorch_lightning", "sklearn"}


def read_table(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    delimiter = "\t" if path.suffix == ".tsv" else ","
    return list(csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter))
