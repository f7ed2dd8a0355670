"""Going on after an interruption: what a checkpoint must hold for it, and when one is written."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from han.batching import Batch, TrainingLoader
from han.cli.runs import LAST, checkpoint_file

_RANDOM_STATES = "random_states"


class LastCheckpoint(ModelCheckpoint):
    """Write `last.ckpt` after every validation, whether the network became better or not.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LAST, save_on_train_epoch_end=False, enable_version_counter=False)


class Resumption(pl.Callback):
    """Let a run that goes on from a checkpoint do what it would have done uninterrupted.

    It has the batches that are left of an epoch, draws the same random numbers if as many processes
    go on, and stops at once where it had stopped early.

    Args:
        stopping: What stops early; its patience is the one it has now, not that of the checkpoint.
    """

    def __init__(self, stopping: EarlyStopping) -> None:
        self._stopping = stopping
        self._patience = stopping.patience
        self._states: list[dict[str, Any]] = []
        self._batches: list[dict[str, int]] = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state of every process's random generators."""
        states: list[Any] = [_random_state()]
        if trainer.world_size > 1:
            states *= trainer.world_size
            torch.distributed.all_gather_object(states, states[0])
        checkpoint[_RANDOM_STATES] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the states along; a checkpoint of an earlier version has none."""
        self._states = checkpoint.get(_RANDOM_STATES, [])
        self._batches = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the states."""
        self._stopping.patience = self._patience
        for state in self._batches:  # Lightning, too, unless the schedule has asked for the loader
            cast(TrainingLoader, trainer.train_dataloader).load_state_dict(state)
        if len(self._states) == trainer.world_size:
            own = self._states[trainer.global_rank]
            torch.set_rng_state(own["cpu"])
            if torch.cuda.is_available() and len(own["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(own["cuda"])
        amid = any(state["batches_done"] < state["batches"] for state in self._batches)
        self._states, self._batches = [], []
        if amid:
            self._stop_again(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where early stopping had, when the epoch that was at its end has ended again."""
        self._stop_again(trainer)

    def _stop_again(self, trainer: pl.Trainer) -> None:
        if self._stopping.wait_count >= max(1, self._patience):
            trainer.should_stop = True


class Termination(pl.Callback):
    """End training in good order when the process is asked to (SIGTERM), as schedulers do.

    Training ends after the current step, or where validation follows, after that, in all processes
    at once if any was asked; `last.ckpt` is as of then. Lightning's own way can leave processes
    waiting for each other.

    Args:
        run_dir: The run that keeps the checkpoint; None for a training of which none is kept.
    """

    def __init__(self, run_dir: Path | None) -> None:
        self._path = None if run_dir is None else checkpoint_file(run_dir, LAST)
        self._asked = False
        self._validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to the signal in place of Lightning, which leaves it as it was in the end."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that there is a checkpoint of the weights as they are."""
        self._validated = True

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """End here after a validation."""
        if self._validated:
            self._validated = False
            self._end_if_asked(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """End here, unless the step is not whole or validation comes next."""
        done = batch_idx + 1
        whole = done % trainer.accumulate_grad_batches == 0
        if whole and done < trainer.num_training_batches and done % _validated_every(trainer):
            self._end_if_asked(trainer, self._path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End here after the last validation."""
        self._end_if_asked(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _end_if_asked(self, trainer: pl.Trainer, checkpoint: Path | None = None) -> None:
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            if checkpoint is not None:
                trainer.save_checkpoint(checkpoint)
            raise SIGTERMException


def _validated_every(trainer: pl.Trainer) -> float:
    """Return after how many batches validation comes; Lightning knows it once training starts."""
    return trainer.val_check_batch or float("inf")


def _random_state() -> dict[str, Any]:
    """Return the state of torch's generators, as tensors, which a checkpoint may hold."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
