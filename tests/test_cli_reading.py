from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import han.cli.reading
from han import load, native
from han.cli import TRAINING, main
from tests.commands import ROWS, Place, packages_after, run_process
from tests.tiny import TEXTS, save_model


class TestClassify:
    def test_text_gives_one_record(self, place: Place) -> None:
        outcome = place.run("classify", TEXTS[0])
        assert (outcome.status, outcome.err) == (0, "")
        expected = load(place.model).classify(TEXTS[0]).to_record() | {"id": "text"}
        assert outcome.records() == [expected]

    @pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a b.csv.gz"])
    def test_file_gives_a_record_a_row(self, place: Place, name: str) -> None:
        records = place.run("classify", place.write_rows(name)).records()
        assert [record["id"] for record in records] == ["r0", "r1", "r2"]
        expected = [prediction.probability for prediction in load(place.model).classify(TEXTS)]
        assert [record["probability"] for record in records] == pytest.approx(expected, abs=1e-6)

    def test_documents_below_the_least_confidence_stay_undecided(self, place: Place) -> None:
        plain = load(place.model).classify(TEXTS)
        least = sorted(one.probability for one in plain)[1] - 1e-6
        [undecided] = [i for i, one in enumerate(plain) if one.probability < least]
        source = place.write_rows("a.csv")
        outcome = place.run("classify", source, f"--min_confidence={least}")
        labels = [None if i == undecided else one.label for i, one in enumerate(plain)]
        assert [record["label"] for record in outcome.records()] == labels
        for record, one in zip(outcome.records(), plain, strict=True):
            assert record["probability"] == pytest.approx(one.probability, abs=1e-6)
        right = sum(row["label"] == label for row, label in zip(ROWS, labels, strict=True))
        assert outcome.err == (
            "1 of 3 documents left undecided\n"
            f"accuracy {right / 2:.4f} on the 2 labelled documents that are decided\n"
        )
        place.run("classify", source, f"--min_confidence={least}", f"--output={place.folder}/o.csv")
        with open(place.folder / "o.csv", encoding="utf-8", newline="") as file:
            assert [row["label"] or None for row in csv.DictReader(file)] == labels
        place.run(
            "classify", source, f"--min_confidence={least}", f"--output={place.folder}/o.parquet"
        )
        assert pq.read_table(place.folder / "o.parquet")["label"].to_pylist() == labels

    @pytest.mark.parametrize("there", [True, False])
    def test_bfloat16_gives_nearly_the_same_where_there_is_any(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, there: bool
    ) -> None:
        if not there:
            monkeypatch.setattr(native, "library", None)
        elif not native.has_bfloat16():
            pytest.skip("this processor has no products of bfloat16")
        expected = [prediction.probability for prediction in load(place.model).classify(TEXTS)]
        outcome = place.run("classify", place.write_rows("a.csv"), "--bfloat16")
        found = [record["probability"] for record in outcome.records()]
        assert found == pytest.approx(expected, abs=5e-3)
        assert (found == pytest.approx(expected, abs=1e-7)) != there
        note = "--bfloat16: there are no products of bfloat16 here (plain torch, no compiled loops)"
        assert (f"{note}\n" in outcome.err) != there

    def test_bfloat16_on_another_device_is_said_to_be_none(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        predictions = iter(())
        assert han.cli.reading._in_bfloat16(predictions, "cuda") is predictions
        expected = "--bfloat16: there are no products of bfloat16 here (the model is on cuda)\n"
        assert capsys.readouterr().err == expected

    @pytest.mark.parametrize("least", ["-0.1", "1.5", "nan"])
    def test_a_confidence_out_of_range_is_refused(self, place: Place, least: str) -> None:
        outcome = place.run("classify", TEXTS[0], f"--min_confidence={least}")
        outcome.assert_one_line("`--min_confidence` must be from 0 to 1")

    def test_text_file_is_one_document(self, place: Place) -> None:
        [record] = place.run("classify", place.write("letter.txt", "\n".join(TEXTS))).records()
        assert record["id"] == "letter.txt:1"

    def test_folder_is_read(self, place: Place) -> None:
        for name, text in zip(("good/a.txt", "bad/b.txt", "c.txt"), TEXTS, strict=True):
            place.write(f"texts/{name}", text)
        outcome = place.run("classify", place.folder / "texts")
        assert [one["id"] for one in outcome.records()] == ["c.txt", "bad/b.txt", "good/a.txt"]
        assert "on the 2 labelled documents" in outcome.err

    def test_run_directory_stands_for_its_model(self, place: Place) -> None:
        save_model(place.folder / "runs" / "3" / "model")
        assert place.run_main("classify", str(place.folder / "runs"), "Soup.").status == 0

    def test_accuracy_goes_to_standard_error(self, place: Place) -> None:
        first, second, third = (one.label for one in load(place.model).classify(TEXTS))
        labels = [first, second, {"bad": "good", "good": "bad"}[third]]
        rows = [{**row, "label": label} for row, label in zip(ROWS, labels, strict=True)]
        outcome = place.run("classify", place.write_rows("a.csv", rows))
        assert outcome.err == "accuracy 0.6667 on the 3 labelled documents\n"

    def test_labels_that_the_model_does_not_know_are_said_and_not_scored(
        self, place: Place
    ) -> None:
        rows = [{**row, "label": "b\x1bd"} for row in ROWS]
        outcome = place.run("classify", place.write_rows("a.jsonl", rows))
        assert outcome.status == 0
        assert outcome.err.startswith("3 documents not scored")
        assert outcome.err.endswith("such as 'b\\x1bd'\n")

    def test_columns_are_kept_beside_the_id(self, place: Place) -> None:
        source = place.write_rows("a.jsonl")
        records = place.run("classify", source, "--keep_columns", "year, text").records()
        assert list(records[0])[:4] == ["id", "year", "text", "label"]
        assert [record["year"] for record in records] == [2010, 2011, 2012]

    def test_other_column_names_are_options(self, place: Place) -> None:
        source = place.write("a.csv", "n,review\n7,Cold soup.\n")
        place.run("classify", source).assert_one_line("set `--text_column` to one of them")
        options = ("--text_column", "review", "--id_column", "n")
        assert place.run("classify", source, *options).records()[0]["id"] == "7"

    def test_split_chooses_documents(self, place: Place) -> None:
        outcome = place.run("classify", place.write_rows("a.csv"), "--split", "test")
        assert [record["id"] for record in outcome.records()] == ["r1", "r2"]

    def test_skipped_rows_are_counted(self, place: Place) -> None:
        source = place.write("a.csv", "text\nCold soup.\none,two\n")
        place.run("classify", source).assert_one_line("`--on_bad_row`")
        outcome = place.run("classify", source, "--on_bad_row", "skip")
        assert (outcome.status, outcome.err) == (0, "skipped 1: ragged row\n")
        assert len(outcome.records()) == 1

    @pytest.mark.parametrize(
        "text",
        ["", " ", "Great.", "Not\na.csv\n", "x" * 5000, "a\x00b", "-5 today", "a/b c", "\udce9"],
    )
    def test_text_is_not_taken_for_a_path(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.chdir(place.folder)
        [record] = place.run("classify", text).records()
        assert record["id"] == "text"

    def test_terminal_gets_short_lines(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [{"text": TEXTS[0], "id": "a\x1b[31m"}, {"text": "", "id": "b"}]
        source = place.write_rows("a.jsonl", rows)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        lines = place.run("classify", source).out.splitlines()
        best = load(place.model).classify(TEXTS[0])
        other = {"bad": "good", "good": "bad"}[best.label]
        shown = [f"{label:<4} {best.probabilities[label]:6.1%}" for label in (best.label, other)]
        assert lines[0] == f"{shown[0]}   then {shown[1]}   a\\x1b[31m"
        assert lines[1].endswith("   b  (no words)")
        lines = place.run("classify", source, "--min_confidence=1").out.splitlines()
        assert lines[1].endswith("   b  (no words)  (undecided)")

    def test_progress_leaves_standard_output_alone(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = place.write_rows("a.csv")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        outcome = place.run("classify", source)
        assert len(outcome.records()) == 3
        assert "Classifying" in outcome.err


class TestOutput:
    @pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.tsv.gz", "o.parquet"])
    def test_predictions_go_to_the_file_alone(self, place: Place, name: str) -> None:
        target = place.folder / "new" / name
        outcome = place.run("classify", place.write_rows("a.csv"), "--output", str(target))
        assert (outcome.status, outcome.out) == (0, "")
        assert outcome.err.startswith(f"3 predictions: {target}\n")
        assert target.stat().st_size > 0
        assert [path.name for path in target.parent.iterdir()] == [name]

    def test_table_has_the_kept_columns_and_one_for_each_class(self, place: Place) -> None:
        source, target = place.write_rows("a.parquet"), place.folder / "o.parquet"
        place.run("classify", source, "--keep_columns=year", f"--output={target}")
        table = pq.read_table(target)
        assert table.column_names[:5] == ["id", "year", "label", "probability", "p_bad"]
        assert table["year"].to_pylist() == [2010, 2011, 2012]

    @pytest.mark.parametrize("command", ["classify", "explain"])
    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("o.xlsx", "'.xlsx'"),
            ("o", "o: "),
            ("folder.jsonl", "is a folder"),
            ("pipe.jsonl", "no regular file"),
            ("a.jsonl", "is the input"),
            ("a.jsonl/o.jsonl", "is no folder"),
        ],
    )
    def test_unfit_target_is_refused_and_left_alone(
        self, place: Place, command: str, name: str, part: str
    ) -> None:
        source = place.write_rows("a.jsonl")
        (place.folder / "folder.jsonl").mkdir()
        os.mkfifo(place.folder / "pipe.jsonl")
        before = place.names()
        outcome = place.run(command, source, "--output", str(place.folder / name))
        outcome.assert_one_line(part)
        assert place.names() == before

    @pytest.mark.parametrize("name", ["o.csv", "o.jsonl.gz", "o.parquet"])
    def test_failure_on_the_way_leaves_no_file(self, place: Place, name: str) -> None:
        source = place.write("a.csv", "text\nCold soup.\none,two\n")
        before = place.names()
        outcome = place.run("classify", source, "--output", str(place.folder / name))
        outcome.assert_one_line("a.csv:3: 2 fields")
        assert place.names() == before

    def test_failure_on_the_way_keeps_the_old_file(self, place: Place) -> None:
        source, target = place.write("a.csv", "text\none,two\n"), place.write("o.txt", "old")
        place.run("explain", source, "--output", str(target)).assert_one_line("a.csv:2")
        assert target.read_text() == "old"


class TestExplain:
    def test_explanations_are_printed(self, place: Place) -> None:
        outcome = place.run("explain", place.write_rows("a.csv"))
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.index("r0\n") < outcome.out.index("r1\n") < outcome.out.index("r2\n")
        assert "in truth bad" in outcome.out or "which is right" in outcome.out
        assert "\x1b" not in outcome.out

    def test_text_is_explained(self, place: Place) -> None:
        assert "Read as" in place.run("explain", "Cold soup.").out

    def test_surrogates_of_the_command_line_are_explained(self, place: Place) -> None:
        assert "\ufffd" in place.run("explain", "Cold \udce9 soup.").out

    @pytest.mark.parametrize("name", ["o.html", "o.json", "o.jsonl", "o.txt"])
    def test_report_goes_to_the_file_alone(self, place: Place, name: str) -> None:
        target = place.folder / "new" / name
        outcome = place.run("explain", place.write_rows("a.csv"), "--output", str(target))
        assert (outcome.status, outcome.out) == (0, "")
        assert outcome.err == f"report: {target}\n"
        assert "soup" in target.read_text(encoding="utf-8")

    def test_limit_reads_only_the_first_documents(self, place: Place) -> None:
        source = place.write("a.csv", "text\nCold soup.\nKind waiter.\none,two\n")
        target = place.folder / "o.jsonl"
        options = ("--limit", "2", "--output", str(target))
        assert place.run("explain", source, *options).status == 0
        records = [json.loads(line) for line in target.read_text().splitlines()]
        assert [record["text"] for record in records] == ["Cold soup.", "Kind waiter."]

    @pytest.mark.parametrize("limit", ["0", "-1"])
    def test_limit_below_one_is_refused(self, place: Place, limit: str) -> None:
        place.run("explain", "Soup.", f"--limit={limit}").assert_one_line("at least 1")


class TestErrors:
    @pytest.mark.parametrize(
        "source", ["missing.csv", "my missing.JSONL.gz", "missing/folder", "/missing", "../x.txt"]
    )
    def test_what_looks_like_a_path_must_be_there(self, place: Place, source: str) -> None:
        place.run("classify", source).assert_one_line(f"{source}: no such file or folder")

    def test_missing_model_is_said(self, place: Place) -> None:
        outcome = place.run_main("classify", str(place.folder / "none"), "Soup.")
        outcome.assert_one_line("none: no such model directory")

    def test_arguments_in_the_wrong_order_are_said(self, place: Place) -> None:
        source = str(place.write_rows("a.csv"))
        outcome = place.run_main("classify", source, place.model)
        outcome.assert_one_line("a.csv is no model directory")

    def test_damaged_model_is_said(self, place: Place) -> None:
        Path(place.model, "model.safetensors").write_bytes(b"")
        place.run("classify", "Soup.").assert_one_line("model.safetensors is damaged")

    @pytest.mark.parametrize("content", ["", "text\n"])
    def test_file_without_documents_is_said(self, place: Place, content: str) -> None:
        place.run("classify", place.write("a.csv", content)).assert_one_line("a.csv: ")

    def test_folder_without_texts_is_said(self, place: Place) -> None:
        place.write("pictures/a.png", "")
        outcome = place.run("classify", place.folder / "pictures")
        outcome.assert_one_line("pictures: a folder must hold text files")

    def test_file_of_another_kind_is_said(self, place: Place) -> None:
        outcome = place.run("classify", place.write("a.docx", "PK"))
        outcome.assert_one_line("the suffix '.docx' is not known")

    def test_split_that_no_document_has_is_said(self, place: Place) -> None:
        source = place.write_rows("a.csv")
        outcome = place.run("classify", source, "--split", "validation")
        assert outcome.status == 1
        assert "'validation' (found: train, test)" in outcome.err

    def test_a_column_of_the_file_is_not_taken_for_an_option(self, place: Place) -> None:
        source = place.write_rows("a.jsonl", [{"note_column": 7}])
        outcome = place.run("classify", source, "--text_column=note_column")
        outcome.assert_one_line("`note_column` is")

    @pytest.mark.parametrize("option", ["label_column", "id_column", "split_column"])
    def test_a_column_that_is_named_must_be_there(self, place: Place, option: str) -> None:
        source = place.write_rows("a.csv")
        for command in ("classify", "explain"):
            place.run(command, source, f"--{option}=nope").assert_one_line(
                f"set `--{option}` to one of them"
            )

    @pytest.mark.parametrize("options", [("--split", "test"), ("--keep_columns", "year")])
    def test_options_of_files_do_not_fit_a_text(
        self, place: Place, options: tuple[str, str]
    ) -> None:
        outcome = place.run("classify", "Cold soup.", *options)
        outcome.assert_one_line("no file or folder 'Cold soup.'")

    @pytest.mark.parametrize("column", ["label", "probabilities", "id"])
    def test_column_with_the_name_of_a_result_is_refused(self, place: Place, column: str) -> None:
        outcome = place.run("classify", place.write_rows("a.csv"), "--keep_columns", column)
        outcome.assert_one_line(f"'{column}' would be in the output twice")

    def test_column_that_is_not_there_is_said(self, place: Place) -> None:
        outcome = place.run("classify", place.write_rows("a.csv"), "--keep_columns", "month")
        outcome.assert_one_line("no column 'month'")

    def test_message_holds_no_terminal_control(self, place: Place) -> None:
        place.run("classify", "no\x1b[31m.csv").assert_one_line("no\\x1b[31m.csv: no such")

    def test_error_of_the_system_names_the_file(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(command: object) -> None:
            raise PermissionError(13, "Permission denied", "secret.csv")

        monkeypatch.setattr(han.cli.reading, "classify", fail)
        place.run("classify", "Soup.").assert_one_line("han: secret.csv: Permission denied")

    def test_interruption_is_one_line(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(command: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(han.cli.reading, "classify", fail)
        place.run("classify", "Soup.").assert_one_line("interrupted", status=130)

    def test_missing_package_is_one_line(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        place.run("classify", "hf://owner/name").assert_one_line("han-classifier[hub]")


class TestMain:
    @pytest.mark.parametrize("args", [(), ("--help",)])
    def test_help_is_printed(self, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(args)
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for command in (*TRAINING, "demo", "classify", "explain", "baseline", "vectors"):
            assert f"\n    {command} " in out

    @pytest.mark.parametrize("command", ["classify", "explain"])
    def test_help_of_a_command_names_its_options(
        self, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for option in ("--output", "--text_column", "--split", "--encoding", "--on_bad_row"):
            assert option in out

    @pytest.mark.parametrize("compiled", [True, False])
    def test_torch_s_threads_wait_without_work(
        self, compiled: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
            monkeypatch.setenv(name, "")  # so that it is put back afterwards
            monkeypatch.delenv(name)
        monkeypatch.setattr(native, "library", object() if compiled else None)
        assert main(["classify", "no_such_model", "text"]) == 1
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
        assert os.environ.get("OMP_NUM_THREADS") == (None if compiled else "1")

    def test_a_user_s_threads_are_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        monkeypatch.setattr(native, "library", None)
        assert main(["classify", "no_such_model", "text"]) == 1
        assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("ACTIVE", "3")

    def test_version_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--version"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert out == f"han {version('han-classifier')} ({native.description()})\n"

    @pytest.mark.parametrize(
        "args", [["nonsense"], ["classify"], ["classify", "m", "t", "--split", "all"]]
    )
    def test_wrong_command_line_has_status_two(
        self, capsys: pytest.CaptureFixture[str], args: list[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(args)
        assert caught.value.code == 2
        assert capsys.readouterr().out == ""


class TestProcess:
    @pytest.mark.parametrize(
        ("source", "ids"),
        [
            ("Cold soup.\n\nKind wäiter.\n", ["stdin:1", "stdin:2"]),
            ('{"text": "Cold soup.", "id": 7}\n{"text": ""}\n', ["7", "stdin:2"]),
        ],
    )
    def test_standard_input_is_read(self, place: Place, source: str, ids: list[str]) -> None:
        outcome = run_process("classify", place.model, "-", source=source.encode())
        assert (outcome.status, outcome.err) == (0, "")
        assert [record["id"] for record in outcome.records()] == ids

    def test_output_is_utf8_whatever_the_locale(self, place: Place) -> None:
        source = '{"text": "Cold soup.", "id": "é"}\n'.encode()
        for encoding in ("ascii", "cp1252"):
            outcome = run_process(
                "classify", place.model, "-", source=source, PYTHONIOENCODING=encoding
            )
            assert outcome.records()[0]["id"] == "é"

    def test_reader_that_has_seen_enough_is_no_error(self, place: Place) -> None:
        rows = [{"text": TEXTS[i % 3], "id": "r" * 50} for i in range(2000)]
        source = str(place.write_rows("a.jsonl", rows))
        process = subprocess.Popen(
            [sys.executable, "-m", "han", "classify", place.model, source],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"id"')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
        process.stderr.close()

    def test_failure_is_one_line(self) -> None:
        run_process("classify", "none", "Soup.").assert_one_line("no such model directory")

    def test_help_imports_nothing_heavy(self) -> None:
        code = "import sys; from han.cli import main; main(['--help'])"
        loaded = packages_after(f"try:\n    exec({code!r})\nexcept SystemExit: pass")
        assert not loaded & {"torch", "numpy", "pyarrow", "rich", "jinja2", "tokenizers"}

    def test_classify_imports_only_what_it_uses(self, place: Place) -> None:
        arguments = ["classify", place.model, "Cold soup."]
        loaded = packages_after(f"from han.cli import main; main({arguments!r})")
        assert "torch" in loaded
        assert not loaded & {
            "jinja2",
            "jsonargparse",
            "lightning_fabric",
            "pyarrow",
            "pytorch_lightning",
            "rich",
            "sklearn",
            "torchmetrics",
            "torchtext",
            "wandb",
        }
