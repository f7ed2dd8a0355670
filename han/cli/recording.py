"""What training writes to its run directory as it goes: checkpoints, figures, its configuration."""

from __future__ import annotations

import csv
import io
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import CSVLogger, Logger

from han import native
from han.atomic import atomic_file
from han.bundle import DISTRIBUTION
from han.cli.runs import CONFIG, METRICS


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


class Clock(pl.Callback):
    """Count the seconds that training takes, also those before it went on from a checkpoint.

    Lightning's `Timer` does so too, but one that is there makes the trainer ignore `max_time`.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training and validation so far."""
        now = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._before + now

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._started = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self._before, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._before = float(state_dict["seconds"])


class RefitLogger(Logger):
    """Log a second training where the first was logged, after it and under other names.

    Args:
        loggers: Those of the first, at least one: `train_loss` of the second is `refit_loss` there.
        steps: Updates of the weights in the first, from where steps are counted on.
    """

    def __init__(self, loggers: Sequence[Logger], steps: int) -> None:
        super().__init__()
        self._loggers = loggers
        self._steps = steps

    @property
    def name(self) -> str | None:
        """The first logger's."""
        return self._loggers[0].name

    @property
    def version(self) -> int | str | None:
        """The first logger's."""
        return self._loggers[0].version

    @property
    def save_dir(self) -> str | None:
        """The first logger's."""
        return self._loggers[0].save_dir

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Log nothing: they are the first training's."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log figures."""
        renamed = {
            name if name == "epoch" else f"refit_{name.removeprefix('train_')}": value
            for name, value in metrics.items()
        }
        for logger in self._loggers:
            logger.log_metrics(renamed, None if step is None else step + self._steps)

    def save(self) -> None:
        """Write what was logged."""
        for logger in self._loggers:
            logger.save()

    def finalize(self, status: str) -> None:
        """Write what was logged; the loggers are closed with the first training's trainer."""
        self.save()


def circumstances(trainer: pl.Trainer) -> dict[str, Any]:
    """Return on what a run's figures and times depend besides its command: JSON values."""
    device = trainer.strategy.root_device
    cuda = device.type == "cuda"
    return {
        "hardware": {
            "processor": processor_name(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "loops": native.description(),
            "device": torch.cuda.get_device_name(device) if cuda else device.type,
            "devices": trainer.world_size,
        },
        "versions": {
            "han": version(DISTRIBUTION),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": version("numpy"),
        },
    }


def launched_rank() -> int:
    """Return which process this is among those that torchrun or SLURM launched; 0 for the first."""
    return int(getattr(rank_zero_only, "rank", 0))


def processor_name() -> str:
    """Return what the processor is called."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def metrics_file(run_dir: Path, steps: int) -> CSVLogger:
    """Return a logger to `metrics.csv` that keeps what an interrupted run logged before `steps`.

    Args:
        run_dir: Where the file is.
        steps: Updates of the weights after which training goes on.
    """
    path = run_dir / METRICS
    rows: list[dict[str, Any]] = []
    if path.is_file() and launched_rank() == 0:
        with open(path, encoding="utf-8", newline="") as file:
            whole = (row for row in csv.DictReader(file) if None not in row.values())
            rows = [row for row in whole if int(row["step"]) < steps]  # a killed process cut one
    logger = CSVLogger(run_dir, name="", version="")
    for row in rows:  # into a new file: Lightning removes the old one
        logged = {name: value for name, value in row.items() if value and name != "step"}
        logger.experiment.log_metrics(logged, int(row["step"]))
    logger.save()
    return logger
