"""`han fit`, `validate`, `test`, `predict`: LightningCLI over `HANModule` and `HANDataModule`."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from pytorch_lightning.loggers import CSVLogger

from han.atomic import atomic_file
from han.bundle import Bundle
from han.cli.runs import find_checkpoint, new_run
from han.datamodule import HANDataModule
from han.module import HANModule
from han.records import write_records

MODEL, TEST_METRICS, PREDICTIONS = "model", "test_metrics.json", "predictions.jsonl"
_RUN_DIR = "HAN_RUN_DIR"  # tells the processes that Lightning launches which run they belong to
_DEFAULTS: dict[str, Any] = {
    "max_epochs": 12,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


def run(args: Sequence[str]) -> HANCLI:
    """Run a training command.

    Args:
        args: The command line after `han`.

    Returns:
        The command line with all that it made: `run_dir`, `model`, `datamodule`, `trainer`.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Batches are gathered from memory-mapped arrays; worker processes gain nothing by default.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    return HANCLI(
        HANModule,
        HANDataModule,
        args=list(args),
        trainer_defaults=_DEFAULTS,
        seed_everything_default=0,
        save_config_callback=_SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "han", "exit_on_error": False},
    )


class HANCLI(LightningCLI):
    """The training commands; everything that they write goes to one run directory."""

    run_dir: Path

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and place, and the two callbacks that every training has."""
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run: it goes to runs/<name>/<n> (default: that of the train file).",
        )
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of the run, instead of runs/<name>/<n>.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val_loss",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
                "early_stopping.monitor": "val_loss",
                "early_stopping.patience": 5,
            }
        )
        for size in ("vocabulary_size", "num_classes", "embedding_size"):
            parser.link_arguments(f"data.{size}", f"model.{size}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, then find the checkpoint that is meant and read its vocabulary before all else."""
        super().parse_arguments(parser, args)
        config = self._config
        if config.name is None:
            config.name = _name(config.data)
        if config.ckpt_path is not None:
            checkpoint = find_checkpoint(config.ckpt_path, config.run_dir, config.name)
            config.ckpt_path = str(checkpoint)
            config.data.vocabulary_from = str(checkpoint)
        elif self.config.subcommand != "fit":
            raise ValueError(
                f"`han {self.config.subcommand}` needs a trained network: give --ckpt_path a file, "
                "a run directory, or best."
            )

    def before_instantiate_classes(self) -> None:
        """Choose the run directory."""
        config = self._config
        resumed = Path(config.ckpt_path).parent.parent if config.ckpt_path else None
        if _RUN_DIR in os.environ:
            self.run_dir = Path(os.environ[_RUN_DIR])
        elif config.run_dir is not None:
            self.run_dir = Path(config.run_dir)
        elif self.config.subcommand == "fit" and resumed is not None:
            self.run_dir = resumed
        else:
            self.run_dir = new_run(config.name)
        if self.config.subcommand == "fit" and resumed != self.run_dir:
            _refuse_used(self.run_dir)
        os.environ[_RUN_DIR] = str(self.run_dir)
        config.checkpoint.dirpath = str(self.run_dir / "checkpoints")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:  # noqa: ANN401  # Lightning's own
        """Log to the run directory, and show progress on standard error."""
        trainer = self._config.trainer
        if trainer.logger in (None, True):
            kwargs["logger"] = CSVLogger(self.run_dir, name="", version="")
        if trainer.enable_progress_bar is not False:
            bar = RichProgressBar(console_kwargs={"stderr": True})
            kwargs["callbacks"] = [
                *(self.config_init[self.subcommand].trainer.callbacks or []),
                bar,
            ]
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Test the best checkpoint, if there are test documents, and write the model directory."""
        best = self.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        if not best:
            return  # fast_dev_run and the like keep no checkpoint
        figures = None
        if "test" in self.datamodule.corpus.splits:
            self.trainer.test(self.model, self.datamodule, ckpt_path=best, verbose=False)
            figures = self._write_figures()
        else:
            state = torch.load(best, weights_only=True, map_location="cpu")["state_dict"]
            self.model.load_state_dict(state)
        if self.trainer.is_global_zero:
            facts = {"data": self.datamodule.corpus.summary, "training": dict(self.model.hparams)}
            bundle = Bundle(
                self.model.network,
                self.datamodule.vocabulary,
                self.datamodule.labels,
                facts | ({"metrics": figures} if figures else {}),
            )
            bundle.save(self.run_dir / MODEL)
            sys.stdout.write(f"model: {self.run_dir / MODEL}\n")

    def after_test(self) -> None:
        """Write the figures."""
        self._write_figures()

    def validate(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Compute and print the figures of the validation documents."""
        (figures,) = self.trainer.validate(**kwargs, verbose=False)
        if self.trainer.is_global_zero:
            sys.stdout.write(json.dumps(figures, indent=2) + "\n")

    def test(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Compute the figures of the test documents."""
        self.trainer.test(**kwargs, verbose=False)

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Classify the documents of `--data.predict` and write prediction records."""
        batches: Any = self.trainer.predict(**kwargs)  # a list of what `predict_step` returned
        probabilities = torch.cat(batches).tolist()
        documents, labels = self.datamodule.corpus.splits["predict"], self.datamodule.labels
        records = (
            {
                "id": documents.ids[index],
                "label": labels[max(range(len(row)), key=row.__getitem__)],
                "probability": max(row),
                "probabilities": dict(zip(labels, row, strict=True)),
                "truncated": bool(documents.truncated[index]),
                "empty": bool(documents.words_per_document[index] == 0),
            }
            for index, row in enumerate(probabilities)
        )
        write_records(self.run_dir / PREDICTIONS, records, labels)
        sys.stdout.write(f"predictions: {self.run_dir / PREDICTIONS}\n")

    @property
    def _config(self) -> Namespace:
        return cast(Namespace, self.config[self.config.subcommand])

    def _write_figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.model.test_figures
        if self.trainer.is_global_zero:
            with atomic_file(self.run_dir / TEST_METRICS) as file:
                json.dump(figures, file, ensure_ascii=False, indent=2)
                file.write("\n")
            sys.stdout.write(
                f"test: accuracy {figures['accuracy']:.4f}, macro-F1 {figures['macro_f1']:.4f}, "
                f"{figures['documents']} documents ({self.run_dir / TEST_METRICS})\n"
            )
        return figures


class _SaveConfig(SaveConfigCallback):
    """Write `config.yaml` to the run directory when training starts, and never otherwise."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            config = self.config.clone()
            for key in ("run_dir", "ckpt_path"):  # where this run is, not what it is
                config[key] = None
            config.checkpoint.dirpath = None
            config.data.vocabulary_from = None
            with atomic_file(Path(os.environ[_RUN_DIR]) / "config.yaml") as file:
                file.write(self.parser.dump(config, skip_none=False))


def _name(data: Namespace) -> str:
    """Name a run after its documents."""
    source = data.train or data.test or data.predict or data.validation or "run"
    stem = Path(source).name.split(".")[0]
    return re.sub(r"[^\w-]+", "-", stem).strip("-") or "run"


def _refuse_used(run_dir: Path) -> None:
    if (run_dir / "checkpoints").exists():
        raise ValueError(
            f"{run_dir} holds a run already; choose another --run_dir, or --ckpt_path last to "
            "continue that one."
        )
