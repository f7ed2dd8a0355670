"""A run that was ended at any moment goes on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from han.batching import Batch
from han.cli.runs import begun_run
from han.module import HANModule
from tests.reviews import (
    FILES,
    NETWORK,
    assert_same_weights,
    files,
    fit,
    read_csv,
    record,
    validation_losses,
    write_reviews,
)

# Dropout at every place, as by default; 26 documents in seven batches.
RUN = ("--data.batch_size=4", "--trainer.max_epochs=3")
STEPS = 21
Step = Callable[[HANModule, Batch, int], Tensor]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder that holds `reviews.csv` alone."""
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "reviews.csv")
    return tmp_path


@pytest.fixture
def before_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what makes something happen once, as a batch is trained on, counted from 1."""
    original: Step = HANModule.training_step

    def choose(batch_number: int, happen: Callable[[HANModule], None]) -> None:
        count = iter(range(1, 10_000))

        def training_step(self: HANModule, batch: Batch, batch_index: int) -> Tensor:
            if next(count) == batch_number:
                monkeypatch.setattr(HANModule, "training_step", original)
                happen(self)
            return original(self, batch, batch_index)

        monkeypatch.setattr(HANModule, "training_step", training_step)

    return choose


def terminate(_: HANModule) -> None:
    """Ask this process to end, as a scheduler does."""
    os.kill(os.getpid(), signal.SIGTERM)


def spoil(module: HANModule) -> None:
    """Make the next loss not a number."""
    with torch.no_grad():
        module.network.members[0].classifier.bias.fill_(float("nan"))


def last(run: Path) -> dict[str, object]:
    """Return a run's last checkpoint."""
    content: dict[str, object] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return content


def assert_same_run(first: Path, second: Path) -> None:
    assert_same_weights(first, second)
    assert validation_losses(first) == validation_losses(second)
    assert record(first)["epochs"] == record(second)["epochs"]


class TestTermination:
    @pytest.mark.parametrize(
        ("options", "batch", "saved"),
        [
            ((), 10, 10),
            ((), 14, 14),  # the last of an epoch: validation comes first
            (("--trainer.accumulate_grad_batches=2",), 8, 5),  # the next completes the step
            (("--trainer.val_check_interval=3",), 3, 3),
            # The third epoch of six is the best.
            (("--trainer.max_epochs=6", "--model.learning_rate=0.2"), 21, 21),
            pytest.param(("--data.num_workers=1",), 9, 9, marks=pytest.mark.slow),
            pytest.param(
                ("--model.schedule=constant", "--model.optimizer=sgd"), 9, 9, marks=pytest.mark.slow
            ),
        ],
    )
    def test_the_run_goes_on_where_it_ended(
        self,
        folder: Path,
        before_batch: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
        options: tuple[str, ...],
        batch: int,
        saved: int,
    ) -> None:
        assert fit(*RUN, *options, "--run_dir=whole") == 0
        handler = signal.getsignal(signal.SIGTERM)
        before_batch(batch, terminate)
        assert fit(*RUN, *options, "--run_dir=cut") == 143
        assert signal.getsignal(signal.SIGTERM) is handler
        err = capsys.readouterr().err
        assert "To go on where it ended, give the same command with --run_dir cut --ckpt" in err
        assert err.splitlines()[-1] == "han: terminated"
        assert last(folder / "cut")["global_step"] == saved
        assert fit(*RUN, *options, "--run_dir=cut", "--ckpt_path=last") == 0
        assert_same_run(folder / "whole", folder / "cut")

    def test_training_anew_begins_again(
        self,
        folder: Path,
        before_batch: Callable[..., None],
    ) -> None:
        assert fit(*RUN, "--refit=true", "--run_dir=whole") == 0
        before_batch(STEPS + 3, terminate)
        assert fit(*RUN, "--refit=true", "--run_dir=cut") == 143
        assert fit(*RUN, "--refit=true", "--run_dir=cut", "--ckpt_path=last") == 0
        assert_same_run(folder / "whole", folder / "cut")

    def test_it_is_refused_with_steps_of_another_size(
        self,
        folder: Path,
        before_batch: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before_batch(10, terminate)
        assert fit(*RUN, "--run_dir=cut") == 143
        args = ("--trainer.max_epochs=3", "--run_dir=cut", "--ckpt_path=last")
        assert fit(*args, "--data.batch_size=5") == 1
        assert "4 documents a step, this one has 5; go on" in capsys.readouterr().err


class TestResumption:
    def test_a_run_that_stopped_early_does_not_train_on(self, folder: Path) -> None:
        args = ("--model.learning_rate=0.2", "--patience=1", "--trainer.max_epochs=8")
        assert fit(*args, "--data.batch_size=4", "--run_dir=whole") == 0
        before = last(folder / "whole")
        assert record(folder / "whole")["epochs"] < 8
        again = (*args, "--data.batch_size=4", "--run_dir=whole", "--ckpt_path=last")
        assert fit(*again) == 0
        assert last(folder / "whole")["global_step"] == before["global_step"]
        assert fit(*again, "--patience=8") == 0
        assert record(folder / "whole")["epochs"] == 8

    def test_the_last_checkpoint_is_of_the_last_epoch(self, folder: Path) -> None:
        """Also where an earlier one was better."""
        args = ("--model.learning_rate=0.2", "--patience=2", "--trainer.max_epochs=8")
        assert fit(*args, "--data.batch_size=4", "--run_dir=run") == 0
        losses = validation_losses(folder / "run")
        assert losses[-1] > min(losses)
        assert last(folder / "run")["epoch"] == len(losses) - 1

    def test_a_row_of_figures_that_was_cut_is_left_out(self, folder: Path) -> None:
        assert fit(*RUN, "--run_dir=run") == 0
        path = folder / "run/metrics.csv"
        before = read_csv(path)
        with open(path, "a") as file:
            file.write("2,,1")  # the process was killed as it wrote
        assert fit(*RUN, "--run_dir=run", "--ckpt_path=last") == 0
        losses = [row["val_loss"] for row in read_csv(path)]
        assert losses == [row["val_loss"] for row in before]


class TestStartingAgain:
    def test_a_run_without_a_checkpoint_starts_again_in_its_directory(
        self,
        folder: Path,
        before_batch: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def interrupt(_: HANModule) -> None:
            raise KeyboardInterrupt

        handler = signal.getsignal(signal.SIGINT)
        before_batch(3, interrupt)
        assert fit(*RUN) == 130
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
        assert files(folder / "runs") >= {"reviews/1/config.yaml"}
        capsys.readouterr()
        assert fit(*RUN, "--ckpt_path=last") == 0
        assert "no checkpoint in runs/reviews/1 yet" in capsys.readouterr().err
        assert fit(*RUN, "--run_dir=whole") == 0
        assert_same_run(folder / "whole", folder / "runs/reviews/1")
        logged, again = (
            [{**row, "words_per_second": ""} for row in read_csv(Path(run, "metrics.csv"))]
            for run in ("whole", "runs/reviews/1")
        )
        assert again == logged

    def test_the_same_command_serves_from_the_first(self, folder: Path) -> None:
        assert fit(*RUN, "--run_dir=run", "--ckpt_path=last") == 0
        assert record(folder / "run")["epochs"] == 3

    def test_a_model_without_its_checkpoints_is_not_lost(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "run/model").mkdir(parents=True)
        assert fit(*RUN, "--run_dir=run", "--ckpt_path=last") == 1
        assert "a model, but no checkpoint `last` in run" in capsys.readouterr().err
        assert files(folder / "run") == set()

    def test_what_a_killed_process_left_is_removed(self, folder: Path) -> None:
        (folder / "run/checkpoints").mkdir(parents=True)
        (folder / "run/.model.x1y2").mkdir()
        (folder / "run/.model.x1y2/config.json").write_text("half")
        (folder / "run/checkpoints/.best.ckpt.x1y2").write_text("half")
        assert fit(*RUN, "--run_dir=run", "--ckpt_path=last") == 0
        assert files(folder / "run") == FILES
        assert not (folder / "run/.model.x1y2").exists()

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ({"1": ["config.yaml"], "2": ["test_metrics.json"]}, "1"),
            ({"1": ["config.yaml"], "2": []}, "2"),
            ({"9": ["checkpoints"], "10": ["metrics.csv"]}, "10"),
            ({"1": ["predictions.jsonl"]}, None),
            ({}, None),
        ],
    )
    def test_the_run_meant_is_the_latest_that_trained(
        self, folder: Path, content: dict[str, list[str]], found: str | None
    ) -> None:
        for number, names in content.items():
            (folder / "runs/a" / number).mkdir(parents=True)
            for name in names:
                (folder / "runs/a" / number / name).touch()
        assert begun_run(None, "a") == (found and Path("runs/a", found))


class TestDivergence:
    def test_training_stops_at_the_step_and_keeps_what_was_sound(
        self,
        folder: Path,
        before_batch: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before_batch(9, spoil)
        assert fit(*RUN, "--run_dir=run") == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("han: Training diverged, the loss of batch 2 in epoch 2 is not")
        assert "(documents d" in message
        assert "lower `--model.learning_rate`" in message
        assert last(folder / "run")["epoch"] == 0
        assert not (folder / "run/model").exists()

    def test_a_network_that_fails_on_validation_documents_is_not_kept(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        original = HANModule.validation_step

        def spoiled(self: HANModule, batch: Batch, batch_index: int) -> None:
            if self.current_epoch == 1:
                spoil(self)
            original(self, batch, batch_index)

        monkeypatch.setattr(HANModule, "validation_step", spoiled)
        assert fit(*RUN, "--run_dir=run") == 1
        assert "the loss of the validation documents in epoch 2" in capsys.readouterr().err
        assert last(folder / "run")["epoch"] == 0


@pytest.mark.slow
def test_it_may_be_killed_at_any_moment(folder: Path) -> None:
    """Twenty runs are killed at random, three times each, while they read, train and write."""
    command = [
        sys.executable, "-m", "han", "fit", "--data.train=reviews.csv", *NETWORK,
        "--data.batch_size=4", "--trainer.max_epochs=6", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run(
        [*command, "--run_dir=whole", "--data.cache_dir=whole_cache"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    whole = time.monotonic() - started
    moments = random.Random(0)
    for number in range(20):
        again = [*command, f"--run_dir={number}", f"--data.cache_dir=cache{number}"]
        again.append("--ckpt_path=last")
        for _ in range(3):
            process = subprocess.Popen(again, env=environment, stderr=subprocess.DEVNULL)
            try:
                process.wait(moments.uniform(0.3, 1) * whole)
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
        subprocess.run(again, env=environment, check=True, capture_output=True)
        assert_same_run(folder / "whole", folder / str(number))
        assert files(folder / str(number)) == files(folder / "whole")
