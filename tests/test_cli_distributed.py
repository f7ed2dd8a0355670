"""Training, testing and classifying in two processes, which comes to what one does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.reviews import (
    CACHE,
    FILES,
    PLAIN,
    QUICK,
    assert_same_weights,
    figures,
    files,
    fit,
    read_csv,
    weights,
    write_reviews,
)
from tests.reviews import han as run_han

pytestmark = pytest.mark.slow

SPREAD = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")
TRAIN = ("fit", "--data.train=reviews.csv", *QUICK, "--data.batch_size=2", *SPREAD)
# A process that is asked to end, or has a loss that is no number, at its fourth batch.
DISTURBED = """\
import os, signal, sys
import torch
from han.cli import main
from han.module import HANModule

original, count = HANModule.training_step, iter(range(1, 1000))

def training_step(self, batch, batch_index):
    if next(count) == 4 and self.global_rank == 1:
        if sys.argv[1] == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            torch.nn.init.constant_(self.network.members[0].classifier.bias, float("nan"))
    return original(self, batch, batch_index)

HANModule.training_step = training_step
sys.exit(main(sys.argv[2:]))
"""


def in_two_processes(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` on two processes."""
    command = [sys.executable, "-m", "han", *args, *SPREAD]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=300
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that two processes trained."""
    folder = tmp_path_factory.mktemp("shared")
    write_reviews(folder / "reviews.csv", 41)
    in_two_processes(folder, "fit", "--data.train=reviews.csv", *QUICK, "--data.batch_size=2")
    return folder


class TestTwoProcesses:
    def test_one_run_directory_comes_of_it(self, shared: Path) -> None:
        assert files(shared / "runs") == {f"reviews/1/{name}" for name in FILES}

    def test_every_document_counts_once(self, shared: Path) -> None:
        found = figures(shared / "runs/reviews/1")
        assert found["documents"] == 8
        assert [c["documents"] for c in found["per_class"].values()] == [4, 4]

    def test_the_figures_are_those_of_one_process(self, shared: Path) -> None:
        with contextlib.chdir(shared):
            args = ("--data.train=reviews.csv", "--ckpt_path=runs/reviews/1", "--name=one", CACHE)
            assert run_han("test", *args) == 0
        alone, together = figures(shared / "runs/one/1"), figures(shared / "runs/reviews/1")
        shutil.rmtree(shared / "runs/one")
        assert together["confusion_matrix"] == alone["confusion_matrix"]
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-6)

    def test_predictions_are_those_of_one_process(self, shared: Path) -> None:
        with contextlib.chdir(shared):
            args = ("--data.predict=reviews.csv", "--ckpt_path=runs/reviews/1", CACHE)
            in_two_processes(shared, "predict", *args, "--run_dir=two")
            assert run_han("predict", *args, "--run_dir=one") == 0
        one, two = (
            [json.loads(s) for s in (shared / run / "predictions.jsonl").read_text().splitlines()]
            for run in ("one", "two")
        )
        assert [record["id"] for record in two] == [f"d{i}" for i in range(41)]
        assert files(shared / "two") == {"predictions.jsonl"}
        for first, second in zip(one, two, strict=True):
            assert second["probability"] == pytest.approx(first["probability"], abs=1e-6)
            assert second["label"] == first["label"]

    def test_messages_come_once(self, shared: Path) -> None:
        args = ("--data.train=reviews.csv", *QUICK, "--run_dir=talk", "--baseline")
        done = in_two_processes(shared, "fit", *args)
        assert done.stdout.count("model: ") == 1
        assert done.stdout.count("earns its keep") + done.stdout.count("earn its keep") == 1
        compared = json.loads((shared / "talk/baseline.json").read_text())["comparison"]["network"]
        tested = figures(shared / "talk")
        assert compared["confusion_matrix"] == tested["confusion_matrix"]
        assert done.stderr.count("2 classes") == 1
        assert "Traceback" not in done.stderr
        assert "It is recommended" not in done.stderr


class TestLaunching:
    """By torchrun and by SLURM, as by Lightning itself."""

    @pytest.fixture(autouse=True)
    def folder(self, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        shutil.copy(shared / "reviews.csv", tmp_path)
        return tmp_path

    def test_by_torchrun(self, shared: Path, folder: Path) -> None:
        command = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
        done = run([*command, f"--master_port={free_port()}", "-m", "han", *TRAIN])
        assert done.stdout.count("model: runs/reviews/1/model") == 1
        assert files(folder / "runs") == {f"reviews/1/{name}" for name in FILES}
        assert_same_weights(shared / "runs/reviews/1", folder / "runs/reviews/1")

    def test_by_slurm(self, shared: Path, folder: Path) -> None:
        job = {
            "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "localhost", "SLURM_NODEID": "0",
            "MASTER_PORT": str(free_port()),
        }  # fmt: skip
        tasks = [
            subprocess.Popen(
                [sys.executable, "-m", "han", *TRAIN],
                env={**os.environ, **job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            for rank in "01"
        ]
        assert [task.wait(300) for task in tasks] == [0, 0]
        assert files(folder / "runs") == {f"reviews/1/{name}" for name in FILES}
        assert_same_weights(shared / "runs/reviews/1", folder / "runs/reviews/1")

    def test_all_processes_end_together_and_go_on(self, shared: Path, folder: Path) -> None:
        (folder / "disturbed.py").write_text(DISTURBED)
        done = run(["disturbed.py", "terminate", *TRAIN, "--run_dir=cut"], status=143)
        assert done.stderr.count("To go on where it ended") == 1
        saved = torch.load(folder / "cut/checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == 4
        run(["-m", "han", *TRAIN, "--run_dir=cut", "--ckpt_path=last"])
        assert_same_weights(shared / "runs/reviews/1", folder / "cut")

    def test_a_loss_that_is_no_number_in_one_ends_all(self, folder: Path) -> None:
        (folder / "disturbed.py").write_text(DISTURBED)
        done = run(["disturbed.py", "spoil", *TRAIN, "--run_dir=cut"], status=1)
        assert "the loss of batch 4 in epoch 1 is not a finite number (documents d" in done.stderr
        assert "Traceback" not in done.stderr


class TestOneStep:
    def test_two_processes_train_as_one_with_batches_twice_as_large(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_reviews(tmp_path / "reviews.csv", 40)
        options = (*PLAIN, "--model.optimizer=sgd", "--model.learning_rate=0.1")
        run(["-m", "han", *TRAIN, *options, "--run_dir=two"])
        assert fit("--data.batch_size=4", *options, "--run_dir=one") == 0
        one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
        for name, weight in one.items():
            assert torch.allclose(two[name], weight, rtol=0, atol=1e-6), name
        for key in ("train_loss_epoch", "val_loss", "val_accuracy", "val_macro_f1"):
            found = [
                [float(row[key]) for row in read_csv(tmp_path / run / "metrics.csv") if row[key]]
                for run in ("one", "two")
            ]
            assert found[0] == pytest.approx(found[1], abs=1e-6)
            assert len(found[0]) == 2


def run(arguments: Sequence[str], *, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python in the current folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])
