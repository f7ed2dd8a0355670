from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from han.batching import Batch
from han.tracking import WorstMistakes
from tests.reviews import QUICK, fit, read_csv, rows, write_rows

CONFIGS = Path(__file__).parent.parent / "configs"
OVERLAY = f"--config={CONFIGS / 'wandb.yaml'}"
LABELS = {"bad": '1/5 [a.b], "x"\n{y}', "good": "日本 =<b>&é"}  # as they may stand in a file
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
    asked: bool  # whether the server was

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
    return read_log(log)


def read_log(log: Path) -> list[dict[str, Any]]:
    """Read one."""
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", log]
    environment = {**os.environ, **NO_ACCOUNT}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


def in_process(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, which knows W&B anew."""
    command = [sys.executable, "-m", "han", "fit", "--data.train=reviews.csv", *QUICK]
    return subprocess.run(
        [*command, "--run_dir=run", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )


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
    args = ("--trainer.log_every_n_steps=1", "--refit=true")
    stderr = io.StringIO()
    with contextlib.chdir(folder):
        assert fit("--run_dir=plain", *args) == 0
        with contextlib.redirect_stderr(stderr), socket.create_server(("127.0.0.1", 0)) as server:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
                patch.delenv("WANDB_ERROR_REPORTING")
                assert fit(OVERLAY, "--run_dir=tracked", *args) == 0
            server.setblocking(False)
            try:
                server.accept()[0].close()
                asked = True
            except BlockingIOError:
                asked = False
    return Tracked(folder, stderr.getvalue(), read_offline(folder / "tracked"), asked)


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

    def test_without_a_key_nothing_is_sent(self, tracked: Tracked) -> None:
        assert not tracked.asked

    def test_switched_off_it_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_odd_reviews(tmp_path / "reviews.csv")
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert fit(OVERLAY, "--run_dir=off", "--trainer.max_epochs=1") == 0
        assert "W&B" not in capsys.readouterr().err
        assert not (tmp_path / "off" / "wandb").exists()
        assert {path.name for path in tmp_path.iterdir()} == {"cache", "off", "reviews.csv"}

    @pytest.mark.slow
    def test_training_that_goes_on_is_another_run_of_the_same_group(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_odd_reviews(tmp_path / "reviews.csv")
        assert fit(OVERLAY) == 0
        assert fit(OVERLAY, "--ckpt_path=last", "--trainer.max_epochs=3") == 0
        runs = [read_log(log) for log in sorted(tmp_path.glob("runs/reviews/1/wandb/*/*.wandb"))]
        said = [next(r["run"] for r in records if r["type"] == "run") for records in runs]
        assert len({run["run_id"] for run in said}) == 2
        assert len({run["run_group"] for run in said}) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("host", ["127.0.0.1:9", "host.invalid"])
    def test_a_server_that_does_not_answer_keeps_nobody_waiting(
        self, tmp_path: Path, host: str
    ) -> None:
        write_odd_reviews(tmp_path / "reviews.csv")
        key = {"WANDB_API_KEY": 40 * "0", "WANDB_INIT_TIMEOUT": "2"}
        done = in_process(tmp_path, OVERLAY, WANDB_BASE_URL=f"http://{host}", **key)
        assert done.returncode == 0, done.stderr
        [line] = [line for line in done.stderr.splitlines() if "W&B" in line]
        assert "offline (" in line
        assert (tmp_path / "run/model").is_dir()
        assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))

    @pytest.mark.slow
    def test_two_processes_log_one_run(self, tmp_path: Path) -> None:
        write_odd_reviews(tmp_path / "reviews.csv")
        spread = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")
        done = in_process(tmp_path, OVERLAY, *spread, "--data.eval_batch_size=2")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("W&B") == 1
        found = Tracked(tmp_path, done.stderr, read_offline(tmp_path / "run"), False)
        files = found.artifact("val_mistakes")
        table = json.loads(files["val_mistakes.table.json"].read_text(encoding="utf-8"))
        assert {row[0] for row in table["data"]} == {f"d{i}" for i in range(26, 32)}
        losses = [row[-1] for row in table["data"]]
        assert losses == sorted(losses, reverse=True)
        assert sum(losses) / 6 == pytest.approx(found.history("val_loss")[-1])
        f1 = [found.history(f"val_f1/{label}")[-1] for label in SHOWN.values()]
        assert sum(f1) / 2 == pytest.approx(found.history("val_macro_f1")[-1])
        assert found.artifact("model-")


class TestMeasurements:
    def test_speed_is_of_training_without_validation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_odd_reviews(tmp_path / "reviews.csv")
        # Training starts, its epoch does, validation takes 97 of the seconds.
        seconds = iter([-7.0, 0.0, 3.0, 100.0, 102.0])
        monkeypatch.setattr(
            "han.tracking.time", SimpleNamespace(perf_counter=lambda: next(seconds))
        )
        assert fit("--run_dir=run", "--trainer.max_epochs=1") == 0
        speeds = [row["words_per_second"] for row in read_csv(Path("run/metrics.csv"))]
        words = json.loads(Path("run/model/config.json").read_text())["data"]["train"]["words"]
        assert [float(speed) for speed in speeds if speed] == pytest.approx([words / 5])


class TestWorstMistakes:
    @pytest.mark.parametrize(
        ("task", "labels", "predicted"),
        [("multiclass", [0, 0], (1,)), ("multilabel", [[1, 0], [1, 0]], (0, 1))],
    )
    def test_it_keeps_the_largest_losses_of_all_batches(
        self, task: str, labels: list[Any], predicted: tuple[int, ...]
    ) -> None:
        callback = WorstMistakes(documents=2)
        batches = [[0, 1], [2, 3]]
        trainer: Any = SimpleNamespace(val_dataloaders=SimpleNamespace(sampler=batches))
        module: Any = SimpleNamespace(hparams={"task": task})
        callback.on_validation_start(trainer, module)
        for index, logits in enumerate([[[0.0, 5.0], [0.0, 1.0]], [[0.0, 3.0], [2.0, 0.0]]]):
            batch = Batch.from_lists([[[1]], [[1]]], labels)
            callback.on_validation_batch_end(trainer, module, torch.tensor(logits), batch, index)
        assert [-negative for _, negative, *_ in callback._worst] == [0, 2]
        assert [found for *_, found in callback._worst] == [predicted, predicted]


class TestTensorBoard:
    def test_it_logs_to_the_run_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_odd_reviews(tmp_path / "reviews.csv")
        overlay = f"--config={CONFIGS / 'tensorboard.yaml'}"
        assert fit(overlay, "--run_dir=run", "--trainer.max_epochs=1") == 0
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        tags = events.Tags()["scalars"]
        assert {"val_loss", "words_per_second", "test_accuracy"} <= set(tags)
        assert len([tag for tag in tags if tag.startswith("val_f1/")]) == 2
        [written] = [
            float(r["val_loss"]) for r in read_csv(Path("run/metrics.csv")) if r["val_loss"]
        ]
        assert events.Scalars("val_loss")[0].value == pytest.approx(written)

    def test_without_the_package_one_line_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_odd_reviews(tmp_path / "reviews.csv")
        monkeypatch.setattr("han.tracking.importlib.util.find_spec", lambda name: None)
        assert fit(f"--config={CONFIGS / 'tensorboard.yaml'}") == 1
        [line] = capsys.readouterr().err.splitlines()
        assert "han-classifier[tensorboard]" in line
        assert not (tmp_path / "runs").exists()
