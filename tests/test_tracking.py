from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import wandb
import yaml

from han.tracking import WorstMistakes
from tests.reviews import fit, read_csv, rows, write_rows
from tests.reviews import han as run_han

CONFIGS = Path(__file__).parent.parent / "configs"
OVERLAY = f"--config={CONFIGS / 'wandb.yaml'}"
LABELS = {"bad": "1/5 [a.b], \"x\"\n{y}", "good": "日本 =<b>&é"}  # as they may stand in a file
SHOWN = {"bad": '1/5 [a.b], "x"␊{y}', "good": LABELS["good"]}
NO_ACCOUNT = {  # whoever runs the tests may have one
    "NETRC": "/nowhere",
    "WANDB_CONFIG_DIR": "/nowhere",
    "WANDB_ERROR_REPORTING": "false",
}


class Tracked(NamedTuple):
    """A run that was logged offline, and one that was not."""

    folder: Path
    stderr: str
    records: list[dict[str, Any]]

    @property
    def run(self) -> Path:
        return self.folder / "tracked"

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    def history(self, key: str) -> list[Any]:
        """Return what was logged under a key, in order."""
        return [record["item"][key] for record in self.of("history") if key in record["item"]]

    def artifact(self, name: str) -> dict[str, Path]:
        """Return the files of the last artifact whose name has this in it, by their paths in it."""
        found = [artifact for artifact in self.of("artifact") if name in artifact["name"]]
        contents = found[-1]["manifest"]["contents"]
        return {file["path"]: Path(file["local_path"]) for file in contents}


def read_offline(run_dir: Path) -> list[dict[str, Any]]:
    """Read the log of W&B in a run directory with W&B's own reader."""
    [log] = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", log]
    environment = {**os.environ, **NO_ACCOUNT}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "model" / "model.safetensors")


def write_odd_reviews(path: Path) -> Path:
    return write_rows(path, [(*row[:2], LABELS[row[2]], row[3]) for row in rows()])


@pytest.fixture(scope="module", autouse=True)
def _no_account() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name, value in NO_ACCOUNT.items():
            patch.setenv(name, value)
        yield
    wandb.teardown()


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """Train with the same seed, with tracking and without; nobody may change it."""
    folder = tmp_path_factory.mktemp("tracked")
    write_odd_reviews(folder / "reviews.csv")
    stderr = (folder / "stderr").open("w+", encoding="utf-8")
    with contextlib.chdir(folder), stderr, contextlib.redirect_stderr(stderr):
        args = ("--trainer.log_every_n_steps=1", "--refit=true")
        assert fit("--run_dir=plain", *args) == 0
        stderr.truncate(0)
        assert fit(OVERLAY, "--run_dir=tracked", *args) == 0
    said = (folder / "stderr").read_text(encoding="utf-8")
    (folder / "stderr").unlink()
    return Tracked(folder, said, read_offline(folder / "tracked"))


class TestWandb:
    def test_training_is_the_same_bit_for_bit(self, tracked: Tracked) -> None:
        one, other = weights(tracked.folder / "plain"), weights(tracked.run)
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_it_logs_what_the_run_is(self, tracked: Tracked) -> None:
        config = {key: v for record in tracked.of("config") for key, v in record["update"].items()}
        assert config["data"]["train"] == "reviews.csv"
        assert config["model"]["learning_rate"] == 0.007  # which followed from the documents
        assert config["trainer"]["max_epochs"] == 2
        assert tracked.of("run")[0]["display_name"] == "tracked"

    def test_it_logs_how_training_goes(self, tracked: Tracked) -> None:
        for key in ("train_loss_step", "gradient_norm/2", "lr-RowwiseAdamW/pg1"):
            assert len(tracked.history(key)) == 4, key
            assert len(tracked.history(f"refit_{key.removeprefix('train_')}")) == 4, key
        assert len(tracked.history("words_per_second")) == 2
        assert min(tracked.history("words_per_second")) > 0
        assert len(tracked.history("test_loss")) == 1
        assert tracked.history("best_val_loss") == [min(tracked.history("val_loss"))]

    def test_the_csv_file_has_it_too(self, tracked: Tracked) -> None:
        written = read_csv(tracked.run / "metrics.csv")
        for key in ("gradient_norm/1", "words_per_second", f"val_f1/{SHOWN['bad']}"):
            found = [float(row[key]) for row in written if row[key]]
            assert found == pytest.approx(tracked.history(key)), key

    def test_without_the_overlay_it_has_speed_gradients_and_rates(self, tracked: Tracked) -> None:
        written = read_csv(tracked.folder / "plain" / "metrics.csv")
        assert written[0].keys() >= {"words_per_second", "gradient_norm/1", "lr-RowwiseAdamW/pg1"}
        assert not any(key.startswith("val_f1") for key in written[0])

    def test_figures_of_each_class_are_those_of_the_whole(self, tracked: Tracked) -> None:
        f1 = [tracked.history(f"val_f1/{label}") for label in SHOWN.values()]
        means = [sum(of_all) / 2 for of_all in zip(*f1, strict=True)]
        assert means == pytest.approx(tracked.history("val_macro_f1"))
        recall = [tracked.history(f"val_recall/{label}") for label in SHOWN.values()]
        means = [sum(of_all) / 2 for of_all in zip(*recall, strict=True)]
        assert means == pytest.approx(tracked.history("val_accuracy"))  # as many of each class

    def test_the_confusion_matrix_counts_each_document_once(self, tracked: Tracked) -> None:
        table = json.loads(next(tracked.run.glob("wandb/off*/files/**/*confusion*")).read_text())
        assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
        counts = {tuple(row[:2]): row[2] for row in table["data"]}
        assert {true for true, _ in counts} == set(SHOWN.values())
        assert sum(counts.values()) == 6
        right = sum(counts[label, label] for label in SHOWN.values())
        assert right / 6 == pytest.approx(tracked.history("val_accuracy")[0])

    def test_the_worst_mistakes_come_first(self, tracked: Tracked) -> None:
        files = tracked.artifact("val_mistakes")
        table = json.loads(files["val_mistakes.table.json"].read_text(encoding="utf-8"))
        found = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        losses = [row["loss"] for row in found]
        assert losses == sorted(losses, reverse=True)
        assert sum(losses) / 6 == pytest.approx(tracked.history("val_loss")[-1])  # all six
        of_text = {id: (text, LABELS[label]) for id, text, label, _ in rows()}
        for row in found:
            text, label = of_text[row["id"]]
            assert row["label"] == label
            likelier = row["probability of the label"] > 0.5
            assert (row["predicted"] == label) == likelier
            page = files[row["document"]["path"]].read_text(encoding="utf-8")
            assert page.count("% of the weight") == len(text.replace("!", " !").split()) + 1
            assert text.split()[0] in page
        assert len(tracked.history("val_mistakes.nrows")) == 2  # after each validation

    def test_highlights_are_pages_that_load_nothing(self, tracked: Tracked) -> None:
        pages = [path for name, path in tracked.artifact("mistakes").items() if "html" in name]
        for page in (path.read_text(encoding="utf-8") for path in pages):
            assert page.startswith("<!doctype html>")
            assert "日本 =&lt;b&gt;&amp;é" in page
            assert not any(part in page for part in ("<script", "<link", "src=", "url(", "http"))

    def test_the_model_directory_is_an_artifact(self, tracked: Tracked) -> None:
        files = tracked.artifact("model-")
        assert files.keys() == {path.name for path in (tracked.run / "model").iterdir()}
        for name, path in files.items():
            assert path.read_bytes() == (tracked.run / "model" / name).read_bytes()
            assert path.is_relative_to(tracked.run)  # no matter what becomes of other folders

    def test_it_ends_well(self, tracked: Tracked) -> None:
        assert tracked.of("exit")[0]["exit_code"] == 0

    def test_its_files_are_in_the_run_directory(self, tracked: Tracked) -> None:
        assert {path.name for path in tracked.folder.iterdir()} == {
            "cache", "reviews.csv", "plain", "tracked",
        }  # fmt: skip

    def test_without_a_key_it_says_so_in_one_line(self, tracked: Tracked) -> None:
        [line] = [line for line in tracked.stderr.splitlines() if "W&B" in line]
        assert "offline (no API key is known: `wandb login`)" in line
        assert "wandb: " not in tracked.stderr
