from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

import han
from han.batching import Batch
from han.datamodule import HANDataModule
from han.module import HANModule
from tests.commands import packages_after
from tests.reviews import QUICK, read_csv, rows, write_reviews, write_rows
from tests.reviews import han as run_han

# The first trial has this seed's and these options' values; test documents are not there at all.
OPTIONS = ("--data.train=reviews.csv", "--data.test=test.csv", *QUICK, "--model.hidden_size=30")
STUDY = Path("runs/reviews/tune")


def tune(*options: str | Path) -> int:
    return run_han("tune", *OPTIONS, *options)


def circumstances() -> dict[str, Any]:
    """Return what a command could leave behind in its process."""
    return {
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "run": os.environ.get("HAN_RUN_DIR"),
        "warnings": list(warnings.filters),
        "networks": sum(type(one) is HANModule for one in gc.get_objects()),
        "folder": Path.cwd(),
    }


def trials(study: Path = STUDY) -> dict[str, tuple[str, list[str]]]:
    """Return what trials there are: their options, and the validation loss of each epoch."""
    found = {}
    for run in sorted((study / "trials").iterdir()):
        if not all((run / name).exists() for name in ("config.yaml", "metrics.csv")):
            continue  # of a process that was killed
        losses = [row["val_loss"] for row in read_csv(run / "metrics.csv") if row["val_loss"]]
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        found[run.name] = (yaml.safe_dump({**config["model"], **config["data"]}), losses)
    return found


@dataclass
class Tuned:
    """A study of three trials, and what the command said."""

    folder: Path
    out: str = ""
    err: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Run a study that nobody may change."""
    result = Tuned(tmp_path_factory.mktemp("tuned"))
    write_rows(result.folder / "reviews.csv", [row for row in rows() if row[3] != "test"])
    with contextlib.chdir(result.folder), pytest.MonkeyPatch.context() as patch:
        patch.delattr(HANDataModule, "test_dataloader")
        gc.collect()
        result.before = circumstances()
        outs = [open(name, "w+", encoding="utf-8") for name in ("out", "err")]  # noqa: SIM115
        with contextlib.redirect_stdout(outs[0]), contextlib.redirect_stderr(outs[1]):
            assert tune("--trials=3") == 0
        result.after = circumstances()
        for file in outs:
            file.close()
        result.out, result.err = (Path(name).read_text("utf-8") for name in ("out", "err"))
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder that holds `reviews.csv` alone, without test documents."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "reviews.csv", [row for row in rows() if row[3] != "test"])
    return tmp_path


@pytest.fixture
def copied(tuned: Tuned, folder: Path) -> Path:
    """Copy that study to this folder."""
    for name in ("runs", "cache"):
        shutil.copytree(tuned.folder / name, folder / name)
    return folder / STUDY


class TestTune:
    def test_a_study_holds_what_it_should_and_nothing_else(self, tuned: Tuned) -> None:
        study = tuned.folder / STUDY
        files = {str(f.relative_to(study)) for f in study.rglob("*") if f.is_file()}
        kept = {f"trials/{n}/{name}" for n in range(3) for name in ("config.yaml", "metrics.csv")}
        assert files - {".lock"} == {"study.db", "space.yaml", "best.yaml", *kept}
        assert {path.name for path in tuned.folder.iterdir()} == {
            "reviews.csv", "cache", "runs", "out", "err",
        }  # fmt: skip

    def test_the_result_is_the_best_epoch_of_the_best_trial(self, tuned: Tuned) -> None:
        losses = {n: min(map(float, of)) for n, (_, of) in trials(tuned.folder / STUDY).items()}
        best = min(losses, key=losses.__getitem__)
        assert tuned.out == (
            f"best: val_loss {losses[best]:.4f}, trial {best}\nconfig: {STUDY / 'best.yaml'}\n"
        )
        assert len(set(losses.values())) == 3

    def test_progress_goes_to_standard_error(self, tuned: Tuned) -> None:
        lines = tuned.err.splitlines()
        assert "2 classes, 22 words" in lines
        told = [line for line in lines if re.match(r"trial \d", line)]
        assert re.match(r"trial 0 \(1 of 3\): learning_rate 0.007, .* batch_size 16$", told[0])
        assert re.match(
            r"trial 0: val_loss \d\.\d{4} after 2 epochs, \d+ s, the best so far", told[1]
        )
        assert len(told) == 6
        assert [line.split()[0] for line in lines[-10:-8]] == ["val_loss", "learning_rate"]

    def test_the_first_trial_is_the_command_alone(self, tuned: Tuned) -> None:
        with contextlib.chdir(tuned.folder):
            options = (*QUICK, "--model.hidden_size=30", "--run_dir=alone")
            assert run_han("fit", "--data.train=reviews.csv", *options) == 0
            alone = read_csv(Path("alone/metrics.csv"))
            shutil.rmtree("alone")
        [losses] = [of for name, (_, of) in trials(tuned.folder / STUDY).items() if name == "0"]
        assert [row["val_loss"] for row in alone if row["val_loss"]] == losses

    def test_han_fit_trains_the_best_options_to_the_same_figures(
        self, copied: Path, folder: Path, tuned: Tuned, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_reviews(folder / "test.csv")
        test = [row for row in rows() if row[3] == "test"]
        write_rows(folder / "test.csv", [row[:3] for row in test], ("id", "text", "label"))
        assert run_han("fit", "--config", copied / "best.yaml") == 0
        out = capsys.readouterr().out.splitlines()
        [best, _] = tuned.out.splitlines()
        number = best.rpartition(" ")[2]
        assert out[0] == best.partition(",")[0]
        assert out[1].startswith("test: accuracy ")
        assert han.load("runs/reviews").labels == ("bad", "good")  # the run's, beside the study
        run = folder / "runs/reviews/1"
        losses = [row["val_loss"] for row in read_csv(run / "metrics.csv") if row["val_loss"]]
        assert losses == trials(copied)[number][1]
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        tried = yaml.safe_load((copied / f"trials/{number}/config.yaml").read_text("utf-8"))
        assert config["model"] == tried["model"]
        assert config["data"] == {**tried["data"], "test": "test.csv"}

    def test_one_trial_leaves_nothing_to_the_next(self, tuned: Tuned) -> None:
        networks = [state.pop("networks") for state in (dict(tuned.before), dict(tuned.after))]
        assert networks[1] <= networks[0]  # other tests' may still be there
        assert {**tuned.after, "networks": 0} == {**tuned.before, "networks": 0}

    def test_it_goes_on_to_as_many_trials_as_it_is_asked_for(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = trials()
        (copied / "best.yaml").unlink()
        assert tune("--trials=9", "--timeout=0") == 0
        assert trials() == before
        assert (copied / "best.yaml").exists()
        assert tune("--trials=4") == 0
        assert trials().keys() == {*before, "3"}
        assert "trial 3 (4 of 4): " in capsys.readouterr().err

    def test_interrupted_and_begun_again_it_comes_to_the_same(
        self,
        folder: Path,
        tuned: Tuned,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        shutil.copytree(tuned.folder / "cache", folder / "cache")
        validate = HANModule.validation_step
        seen = []

        def interrupt(module: HANModule, batch: Batch, index: int) -> None:
            seen.append(index)
            if len(seen) == 4:  # the second epoch of the second trial
                raise KeyboardInterrupt
            validate(module, batch, index)

        with monkeypatch.context() as patch:
            patch.setattr(HANModule, "validation_step", interrupt)
            handler = signal.getsignal(signal.SIGINT)
            try:
                assert tune("--trials=3") == 130
            finally:
                signal.signal(signal.SIGINT, handler)  # Lightning turns it off as it ends
        err = capsys.readouterr().err
        assert "1 of 3 trials have ended; to go on, give the same command." in err.splitlines()
        assert "Traceback" not in err
        assert (folder / STUDY / "best.yaml").exists()
        assert tune("--trials=3") == 0
        done, before = trials(), trials(tuned.folder / STUDY)
        assert [done[name] for name in ("0", "2", "3")] == [before[name] for name in "012"]
        assert capsys.readouterr().out.partition(",")[0] == tuned.out.partition(",")[0]

    def test_a_trial_that_does_worse_is_cut_short(
        self, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(optuna.Trial, "should_prune", lambda _: True)
        assert tune("--trials=4") == 0
        out, err = capsys.readouterr()
        assert len(trials()["3"][1]) == 1
        assert re.search(r"^trial 3: val_loss \d.\d{4}, cut short after 1 epoch, \d+ s", err, re.M)
        assert "trial 3" not in out

    def test_trials_that_fail_are_told_and_it_goes_on(
        self, folder: Path, tuned: Tuned, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(tuned.folder / "cache", folder / "cache")
        (folder / "space.yaml").write_text("model.learning_rate: {choice: [1e+37, 1e+38]}")
        assert tune("--trials=2", "--space=space.yaml", "--study=wild") == 1
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if "failed" in line]
        assert [line.partition(",")[0] for line in lines] == [
            f"trial {n}: failed: Training diverged" for n in (0, 1)
        ]
        assert err.splitlines()[-1].startswith(
            "han: None of 2 trials came to a figure; trial 1: Training diverged"
        )
        assert (out, "Traceback" in err) == ("", False)
        assert not (folder / "wild/best.yaml").exists()

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ("model.hidden_sizes: {int: [2, 3]}", "model.hidden_sizes: `han fit` has no such"),
            ("model.hidden_size: {int: [0, 3]}", "`--model.hidden_size` must be at least 1, got 0"),
            ("model.word_encoder: {choice: [gru, lstm]}", "model.word_encoder: Parser key"),
            ("model.word_attention: {choice: [1]}", "model.word_attention cannot be searched"),
            ("data.validation_share: {float: [0.1, 0.2]}", "share cannot be searched"),
        ],
    )
    def test_a_space_that_does_not_fit_is_one_line(
        self, folder: Path, content: str, part: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "space.yaml").write_text(content)
        assert tune("--space=space.yaml") == 1
        self.assert_one_line(capsys, f"space.yaml: {content.partition(':')[0]}", part)
        assert {path.name for path in folder.iterdir()} == {"reviews.csv", "space.yaml"}

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            (["--space=none.yaml"], "none.yaml: No such file"),
            (["--trials=0"], "--trials must be at least 1"),
            (["--run_dir=x"], "leave --run_dir out"),
            (["--data.train=none.csv"], "none.csv: no such file"),
            (["--model.members=0"], "han: `--model.members` must be from 1 to 100"),
            (["--data.validation_share=0", "--data.split_column=x"], "no documents for validation"),
        ],
    )
    def test_a_command_that_does_not_fit_begins_nothing(
        self,
        folder: Path,
        options: list[str],
        part: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert tune(*options) == 1
        assert part in capsys.readouterr().err.splitlines()[-1]
        assert not (folder / "runs").exists()

    @pytest.mark.parametrize("argument", ["--no_such_option=1", "reviews.csv"])
    def test_what_han_fit_does_not_take_is_a_wrong_command_line(
        self, folder: Path, argument: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tune(argument) == 2
        self.assert_one_line(capsys, argument.partition("=")[0])

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            (["--monitor=val_accuracy"], 'another --monitor ("val_loss", not "val_accuracy")'),
            (["--data.train=other.csv"], "another --data.train"),
        ],
    )
    def test_another_study_in_the_same_folder_is_refused(
        self, copied: Path, options: list[str], part: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_rows(Path("other.csv"), rows(38))
        before = trials(copied)
        assert tune(*options, f"--study={STUDY}", "--trials=4") == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert part in err.splitlines()[-1]
        assert trials(copied) == before

    @pytest.mark.slow
    def test_killed_and_begun_again_it_comes_to_the_same(self, folder: Path, tuned: Tuned) -> None:
        shutil.copytree(tuned.folder / "cache", folder / "cache")
        command = [sys.executable, "-m", "han", "tune", *OPTIONS, "--trials=3"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (folder / STUDY / "trials/1").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
        with contextlib.closing(sqlite3.connect(folder / STUDY / "study.db")) as database:
            states = [state for (state,) in database.execute("SELECT state FROM trials")]
        assert states == ["COMPLETE", "RUNNING"]
        assert tune("--trials=3") == 0
        done, before = trials(), trials(tuned.folder / STUDY)
        assert [done[name] for name in ("0", "2", "3")] == [before[name] for name in "012"]

    @staticmethod
    def assert_one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        assert err.startswith("han: ")
        assert all(part in err for part in parts), err


class TestOptuna:
    def test_without_it_the_command_says_what_to_install(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        for name in ("han.tuning", "han.cli.tuning"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        assert tune() == 1
        assert 'needs the `optuna` package: pip install "han-classifier[tune]"' in (
            capsys.readouterr().err
        )

    def test_help_needs_nothing(self) -> None:
        code = "from han.cli import main\ntry: main(['tune', '--help'])\nexcept SystemExit: pass\n"
        assert not packages_after(code) & {"optuna", "torch", "jsonargparse"}
