"""What the command line and the estimator share: what is kept, training anew on all, silence."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
)

from han.datamodule import HANDataModule
from han.module import HANModule

Monitor = Literal["val_loss", "val_accuracy", "val_macro_f1"]
MONITOR: Monitor = "val_loss"
PATIENCE = 5
TRAINER: dict[str, Any] = {
    "max_epochs": None,  # see `Epochs`
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # our samplers share the documents themselves
}
DIVERGED = "Training diverged, the loss is not a finite number; lower `learning_rate`"
_HARMLESS = (
    "`max_epochs` was not set.*",  # `Epochs` sets it
    ".*does not have many workers.*",  # the main process gathers batches faster than others do
    ".*args parameter is intended to run from within Python.*",  # it is how `han` passes them
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning's to mend
    ".*is smaller than the logging interval.*",  # every epoch is logged all the same
    # Where a run goes on: `metrics_file` keeps what was logged, and the checkpoints are its own.
    "Experiment logs directory .* exists and is not empty.*",
    "Checkpoint directory .* exists and is not empty.*",
    "`ModelCheckpoint\\(monitor=.*could not find the monitored key.*",  # the caller says it
    "The dirpath has changed .*",  # where it goes on in another directory, with a best of its own
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling what nobody asked, until the block ends."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def selection(
    folder: Path, monitor: Monitor, patience: int, *, resumable: bool
) -> tuple[ModelCheckpoint, EarlyStopping]:
    """Make the callbacks that keep the best checkpoint and stop when it is long past.

    Args:
        folder: Where checkpoints go, the best one as `best.ckpt`.
        monitor: Which figure of the validation documents makes a checkpoint the best.
        patience: Training stops when the figure has not improved for so many validations.
        resumable: Whether the checkpoint holds what training needs to go on.
    """
    mode = "min" if monitor == "val_loss" else "max"
    checkpoint = ModelCheckpoint(
        folder,
        "best",
        monitor=monitor,
        mode=mode,
        save_weights_only=not resumable,
        save_on_train_epoch_end=False,  # before `last.ckpt`, which must know which is the best
        enable_version_counter=False,
    )
    stopping = EarlyStopping(
        monitor,
        mode=mode,
        patience=patience,
        strict=False,
        check_on_train_epoch_end=False,  # before the checkpoint is written, which must know of it
    )
    return checkpoint, stopping


class Epochs(pl.Callback):
    """Set how many epochs to train by the number of documents, where the user says nothing."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set it before the schedule asks."""
        if stage == "fit" and trainer.max_steps == -1:
            datamodule: HANDataModule = trainer.datamodule  # type: ignore[attr-defined]
            epochs = datamodule.recipe.epochs
            trainer.fit_loop.max_epochs = max(epochs, trainer.min_epochs or 0)


def refits(asked: bool | None, data: HANDataModule, module: HANModule) -> bool:
    """Return whether to train anew on all documents: as asked, else as many documents there are.

    Raises:
        ValueError: It is asked for with a schedule that goes by validation documents.
    """
    if "validation" not in data.corpus.splits:
        return False
    if module.hparams["schedule"] == "plateau":
        if asked:
            raise ValueError(
                "`refit` trains on the validation documents too, by which `schedule` plateau goes; "
                "leave it out, or choose another schedule."
            )
        return False
    return data.recipe.refit if asked is None else asked


def epochs_to_refit(trainer: pl.Trainer, module: HANModule, best: str) -> int:
    """Return for how many epochs to train anew.

    Where the schedule ends with small steps, as many as the first training took, so that the last
    of them are such; otherwise as many as were best.

    Args:
        trainer: The first training's.
        module: What it trained.
        best: Its best checkpoint.
    """
    if module.hparams["schedule"] != "constant":
        return trainer.current_epoch
    content = torch.load(best, weights_only=True, map_location="cpu", mmap=True)
    return int(content["epoch"]) + 1


def refit(trainer: pl.Trainer, module: HANModule, data: HANDataModule, seed: int) -> HANModule:
    """Train such networks anew, on the training and the validation documents.

    Args:
        trainer: One that has not trained yet, for as many epochs as `epochs_to_refit` says.
        module: Trained on the training documents alone. It stays as it is.
        data: The documents.
        seed: That of the first training, so that these networks start where those did.

    Raises:
        ValueError: Training diverged.
    """
    seed_generators(seed)
    fresh = HANModule(**module.hparams)
    data.refitting = True
    try:
        trainer.fit(fresh, data)
    finally:
        data.refitting = False
    if fresh.thresholds is not None and module.thresholds is not None:
        fresh.thresholds.copy_(module.thresholds)  # no document is left to tune them on
    if not all(weight.isfinite().all() for weight in fresh.network.parameters()):
        raise ValueError(f"{DIVERGED}.")
    fresh.calibrate(module.calibration)  # no documents are left to fit a temperature on
    return fresh


def seed_generators(seed: int) -> None:
    """Seed all random generators as Lightning does, but leave the environment alone."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def without_selection(callbacks: Iterable[pl.Callback]) -> list[pl.Callback]:
    """Leave out callbacks that go by validation documents or choose a rate or a batch size.

    The first training has chosen already, and validation documents are trained on.
    """
    selecting = Checkpoint | EarlyStopping | LearningRateFinder | BatchSizeFinder
    return [one for one in callbacks if not isinstance(one, selecting)]


def load_weights(module: pl.LightningModule, path: str) -> None:
    """Load the weights of a checkpoint, and the temperature, not what training needs to go on."""
    checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
