"""What training writes to its run directory as it goes: checkpoints, figures, its configuration."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.loggers import CSVLogger

from han.atomic import atomic_file

CONFIG, METRICS = "config.yaml", "metrics.csv"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all: on a full disk the earlier one stays."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any = None,  # noqa: ANN401  # Lightning's own
    ) -> None:
        """Write `checkpoint` beside `path` and move it into place.

        Raises:
            OSError: It cannot be written.
        """
        content = io.BytesIO()  # writing to the disk itself, torch would hide why that failed
        torch.save(checkpoint, content)
        try:
            with atomic_file(os.fspath(path), "wb") as file:
                file.write(content.getbuffer())
        except OSError as error:
            raise OSError(f"{path}: the checkpoint cannot be written: {error.strerror}.") from error


class ConfigFile(pl.Callback):
    """Write `config.yaml` as training starts: unfit options and documents were refused by then.

    Args:
        run_dir: Where to.
        content: The configuration.
    """

    def __init__(self, run_dir: Path, content: str) -> None:
        self._path = run_dir / CONFIG
        self._content = content

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file."""
        if trainer.is_global_zero:
            with atomic_file(self._path) as file:
                file.write(self._content)


def metrics_file(run_dir: Path, steps: int) -> CSVLogger:
    """Return a logger to `metrics.csv` that keeps what an interrupted run logged before `steps`.

    Args:
        run_dir: Where the file is.
        steps: Updates of the weights after which training goes on.
    """
    path = run_dir / METRICS
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < steps]
    logger = CSVLogger(run_dir, name="", version="")
    for row in rows:  # into a new file: Lightning removes the old one
        logged = {name: value for name, value in row.items() if value and name != "step"}
        logger.experiment.log_metrics(logged, int(row["step"]))
    logger.save()
    return logger
