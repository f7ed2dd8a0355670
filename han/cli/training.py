"""`han fit`, `validate`, `test`, `predict`: LightningCLI over `HANModule` and `HANDataModule`."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse import ActionYesNo, Namespace
from jsonargparse.typing import NonNegativeInt
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import (
    EarlyStopping,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table

from han import native
from han.atomic import atomic_file, remove_debris
from han.baseline import compare, train_baseline
from han.bundle import Bundle
from han.cli import TERMINATED
from han.cli.baseline import figures_table, report_notes
from han.cli.predicting import RecordWriter
from han.cli.reading import report_skipped
from han.cli.recording import (
    AtomicCheckpointIO,
    Clock,
    ConfigFile,
    RefitLogger,
    circumstances,
    launched_rank,
    metrics_file,
)
from han.cli.resuming import LastCheckpoint, Resumption, Termination
from han.cli.runs import (
    BEST,
    CHECKPOINT_FOLDER,
    CHECKPOINTS,
    CONFIG,
    LAST,
    METRICS,
    REFIT,
    ROOT,
    RUN,
    begun_run,
    checkpoint_file,
    find_checkpoint,
    new_run,
    run_of,
)
from han.datamodule import HANDataModule, Learned, read_checkpoint
from han.metrics import FIGURES
from han.model import GROUPS
from han.module import HANModule
from han.tracking import (
    RUN_DIR,
    Measurements,
    close,
    log_best,
    log_configuration,
    log_model,
    require_logger,
)
from han.training import (
    DIVERGED,
    MONITOR,
    PATIENCE,
    TRAINER,
    Epochs,
    Monitor,
    epochs_to_refit,
    load_weights,
    quiet,
    refit,
    refits,
    selection,
    without_selection,
)

MODEL, TEST_METRICS, PREDICTIONS = "model", "test_metrics.json", "predictions.jsonl"
BASELINE = "baseline.json"
SPLITS = {"fit": "train", "validate": "validation", "test": "test", "predict": "predict"}


def run(args: Sequence[str]) -> HANCLI:
    """Run a training command.

    Args:
        args: The command line after `han`.

    Returns:
        The command line with all that it made: `run_dir`, `model`, `datamodule`, `trainer`.

    Raises:
        argparse.ArgumentError: The command line is wrong.
        ValueError: An option or the documents are unfit.
        OSError: A file cannot be read or written.
    """
    with running():
        return HANCLI(args)


@contextmanager
def running() -> Iterator[None]:
    """Keep Lightning quiet, call arguments by their options, and leave the environment as it was.

    Raises:
        ValueError: An option or the documents are unfit.
        OSError: A file cannot be read or written.
    """
    launched = RUN_DIR in os.environ
    try:
        with quiet():
            yield
    except (MisconfigurationException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's words
        raise ValueError(_naming_options(str(error))) from error
    finally:
        if not launched:
            os.environ.pop(RUN_DIR, None)


class HANCLI(LightningCLI):
    """The training commands; everything that they write goes to one run directory.

    Args:
        args: The command line after `han`.
    """

    run_dir: Path

    def __init__(self, args: Sequence[str]) -> None:
        self._given = list(args)
        self._began = time.perf_counter()
        self._clock = Clock()
        self._made: Path | None = None
        self._trained: Learned | None = None  # what the checkpoint that is given knows
        self._checkpoint: ModelCheckpoint | None = None
        self._stopping: EarlyStopping | None = None
        self._refit_epochs: int | None = None
        self._starts_again = False  # in the directory of a run that ended before any checkpoint
        try:
            super().__init__(
                HANModule,
                HANDataModule,
                args=self._given,
                trainer_defaults=dict(TRAINER),
                save_config_callback=None,  # see `ConfigFile`
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # plain arguments need none
                parser_kwargs={"prog": "han", "exit_on_error": False},
            )
        finally:
            if isinstance(trainer := getattr(self, "trainer", None), pl.Trainer):
                close(trainer, failed=sys.exc_info()[0] is not None)
            if self._made is not None and not any(self._made.iterdir()):
                os.removedirs(self._made)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, each with the arguments of the trainer's method that it decides."""
        decided = {"ckpt_path", "weights_only", "verbose", "return_predictions"}
        return {name: skip | decided for name, skip in LightningCLI.subcommands().items()}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed."""
        parser.add_argument(
            "--seed_everything",
            type=NonNegativeInt,
            default=0,
            help="Decides everything that is random; the same seed gives the same network.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and place, the checkpoint, and what decides when to stop."""
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run: it goes to runs/<name>/<n> (default: that of the documents).",
        )
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of the run, instead of runs/<name>/<n>.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to use, or for fit to go on from: a file, a run directory (for test "
            "and predict that of its model, else its best one), or best, last or refit of "
            "--run_dir or else of the latest run of --name.",
        )
        parser.add_argument(
            "--monitor",
            type=Monitor,
            default=MONITOR,
            help="Which figure of the validation documents makes a checkpoint the best.",
        )
        parser.add_argument(
            "--patience",
            type=NonNegativeInt,
            default=PATIENCE,
            help="Training stops when the figure has not improved for so many validations.",
        )
        parser.add_argument(
            "--refit",
            type=bool | None,
            default=None,
            help="Whether fit trains anew on training and validation documents together, when it "
            "has done so on the training documents alone (default: if those are fewer than "
            "50,000, and --trainer.max_time is not set).",
        )
        parser.add_argument(
            "--baseline",
            action=ActionYesNo,
            nargs="?",
            default=False,
            help="Whether fit ends by training linear models on bags of words (see `han baseline`) "
            "and says whether the network is better.",
        )
        parser.link_arguments("seed_everything", "data.seed")
        for known in ("vocabulary_size", "num_classes", "embedding_size", "task"):
            parser.link_arguments(f"data.{known}", f"model.{known}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, then find the checkpoint that is meant and read its vocabulary before all else."""
        super().parse_arguments(parser, args)
        command, config = self.config.subcommand, self._config
        if config.name is None:
            config.name = _name(config.data)
        if command == "fit" and config.ckpt_path == LAST:
            self._find_last(config)
        if config.ckpt_path is not None:
            checkpoint = find_checkpoint(
                config.ckpt_path,
                config.run_dir,
                config.name,
                of_run=(REFIT, BEST) if command in ("test", "predict") else (BEST,),
            )
            self._trained = read_checkpoint(checkpoint)
            if command == "fit" and not self._trained.resumable:
                raise ValueError(
                    f"{checkpoint} holds weights alone, from which training cannot go on; give "
                    "--ckpt_path last, or another checkpoint."
                )
            self._refuse_other_network(command, self._trained)
            config.model.members = self._trained.options["members"]  # older ones do not tell it
            config.ckpt_path = config.data.vocabulary_from = str(checkpoint)
        elif command != "fit":
            raise ValueError(
                f"`han {command}` needs a trained network: give --ckpt_path a file, a run "
                "directory, or best."
            )
        _leave_out_other_documents(command, config.data)

    def _find_last(self, config: Namespace) -> None:
        """See what `last` means for training: to start where an interrupted run has none yet."""
        run_dir = begun_run(config.run_dir, config.name)
        if run_dir is not None and checkpoint_file(run_dir, LAST).is_file():
            config.ckpt_path = str(checkpoint_file(run_dir, LAST))
            return
        where = config.run_dir or run_dir or f"any run in {ROOT / config.name}"
        if run_dir is not None and (run_dir / MODEL).exists():
            raise FileNotFoundError(f"There is a model, but no checkpoint `{LAST}` in {where}.")
        self._starts_again = True
        config.ckpt_path = None
        if run_dir is not None:
            config.run_dir = str(run_dir)
        if launched_rank() == 0:
            sys.stderr.write(f"no checkpoint in {where} yet: training starts from the beginning\n")

    def before_instantiate_classes(self) -> None:
        """See that loggers are there, and choose the run directory."""
        config = self._config
        for logger in _listed(config.trainer.logger):
            require_logger(logger.class_path)
        resumed = None
        if self.subcommand == "fit" and config.ckpt_path is not None:
            resumed = run_of(Path(config.ckpt_path))
        if RUN_DIR in os.environ:
            self.run_dir = Path(os.environ[RUN_DIR])
            return
        if launched_rank() > 0:  # torchrun or SLURM launched this process
            self.run_dir = Path(config.run_dir or ROOT)  # until `_agree`
            return
        if config.run_dir is not None:
            self.run_dir = Path(config.run_dir)
            if not self.run_dir.exists():
                self.run_dir.mkdir(parents=True)
                self._made = self.run_dir
        elif resumed is not None:
            self.run_dir = resumed
        else:
            self.run_dir = self._made = new_run(config.name)
        os.environ[RUN_DIR] = str(self.run_dir)
        if self.subcommand != "fit":
            return
        if self._starts_again or (resumed is not None and self.run_dir.samefile(resumed)):
            for name in (CONFIG, METRICS, RUN, MODEL, TEST_METRICS, BASELINE):
                remove_debris(self.run_dir / name)
            for name in CHECKPOINTS:
                remove_debris(checkpoint_file(self.run_dir, name))
        else:
            _refuse_used(self.run_dir)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:  # noqa: ANN401  # Lightning's own
        """Log to the run directory, keep checkpoints there, and show progress on standard error."""
        given = self.config_init[self.subcommand].trainer
        callbacks = [LambdaCallback(setup=self._agree), *_progress(given)]
        if given.max_epochs is None:
            callbacks.append(Epochs())
        loggers = _listed(given.logger)
        if self.subcommand == "fit" and not given.fast_dev_run:
            callbacks += self._training_callbacks()
            callbacks += _measurements(given)
            callbacks.append(LambdaCallback(on_train_start=self._describe_recipe))
            callbacks.append(LambdaCallback(on_train_start=self._log_configuration))
            steps = self._trained.steps if self._trained else 0
            loggers = [metrics_file(self.run_dir, steps), *loggers]
        self.trainer_defaults["callbacks"] = callbacks
        plugins = [*_listed(given.plugins), AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs, logger=loggers or False, plugins=plugins)

    def _agree(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Let all processes have the first one's run directory."""
        self.run_dir = Path(trainer.strategy.broadcast(str(self.run_dir)))

    def before_fit(self) -> None:
        """Say what was read, and what will compute; see that training anew will be possible."""
        if self.trainer.is_global_zero:
            _describe(self.datamodule)
            if self.trainer.strategy.root_device.type == "cpu":
                threads = torch.get_num_threads()
                sys.stderr.write(f"{threads} thread{'s'[: threads - 1]}, {native.description()}\n")
        if self._refits() and self._trained is not None:
            self.datamodule.check_vectors()

    def _describe_recipe(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Say how training goes, also what follows from the documents."""
        options = self.model.options
        most = trainer.max_epochs or -1
        epochs = "" if most == -1 else f"at most {most} epoch{'s' if most > 1 else ''}, "
        members = options["members"]
        networks = f"{members} networks, " if members > 1 else ""
        if trainer.is_global_zero:
            sys.stderr.write(
                f"{networks}{epochs}batches of {self.datamodule.batch_size}, "
                f"learning rate {options['learning_rate']:.2g}\n"
            )

    def _log_configuration(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Tell loggers what the run is, with what follows from the documents."""
        content = json.loads(self._as_text("json"))
        content["model"] |= self.model.options
        content["data"]["batch_size"] = self.datamodule.batch_size
        content["trainer"]["max_epochs"] = trainer.max_epochs
        log_configuration(trainer, content)

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Train; when interrupted, say how to go on."""
        with self._saying_how_to_go_on():
            self.trainer.fit(**kwargs, ckpt_path=self._config.ckpt_path, weights_only=True)

    def after_fit(self) -> None:
        """Take the best checkpoint or train anew, then test that and write the model directory."""
        checkpoint, stopping = self._checkpoint, self._stopping
        if checkpoint is None or stopping is None:
            return  # fast_dev_run tries whether everything runs, and keeps nothing
        if not checkpoint.best_model_path:
            raise ValueError(
                "Training ended before any validation, so that there is no model; let it run for "
                "an epoch at least (--trainer.max_epochs, --trainer.max_steps) and validate."
            )
        reason = stopping.stopping_reason_message
        if self.trainer.should_stop and reason and self.trainer.is_global_zero:
            sys.stderr.write(f"Stopped after epoch {self.trainer.current_epoch}. {reason}\n")
        score = checkpoint.best_model_score  # None where the best is of a run in another directory
        if score is not None and self.trainer.is_global_zero:
            sys.stdout.write(f"best: {self._config.monitor} {float(score):.4f}\n")
            log_best(self.trainer, self._config.monitor, float(score))
        load_weights(self.model, checkpoint.best_model_path)
        selected = self.model
        if self._refits():
            self._save_model()  # should training anew come to nothing
            self._refit(epochs_to_refit(self.trainer, self.model, checkpoint.best_model_path))
        elif self.trainer.is_global_zero:
            checkpoint_file(self.run_dir, REFIT).unlink(missing_ok=True)  # an earlier model's
        figures = None
        if "test" in self.datamodule.corpus.splits:
            self.trainer.test(self.model, self.datamodule, verbose=False)
            figures = self._write_figures()
        elif self.trainer.is_global_zero:
            _report_calibration(self.model.calibration, "validation")
        self._save_model(figures)
        log_model(self.trainer, self.run_dir / MODEL)
        if self.trainer.is_global_zero:
            sys.stdout.write(f"model: {self.run_dir / MODEL}\n")
            self._write_record()
        if self._config.baseline:
            self._compare_with_baseline(selected)

    def _refits(self) -> bool:
        asked = self._config.refit
        if asked is None and self._config.trainer.max_time is not None:
            return False  # it would take as long again
        return refits(asked, self.datamodule, self.model)

    def _save_model(self, figures: dict[str, Any] | None = None) -> None:
        """Write the model directory.

        Args:
            figures: Those of the test documents.
        """
        data = self.datamodule
        training = {**self.model.options, "refit": self._refit_epochs is not None}
        facts = {"data": data.corpus.summary, "training": training}
        if self.model.calibration is not None:
            facts["calibration"] = self.model.calibration
        if figures is not None:
            facts["metrics"] = figures
        if self.trainer.is_global_zero:
            bundle = Bundle(
                self.model.network,
                data.vocabulary,
                data.labels,
                facts,
                thresholds=self.model.plain_thresholds,
            )
            bundle.save(self.run_dir / MODEL)

    def _refit(self, epochs: int) -> None:
        """Train the networks anew on training and validation documents."""
        if self.trainer.is_global_zero:
            count = sum(len(self.datamodule.corpus.splits[s]) for s in ("train", "validation"))
            plural = "s" if epochs > 1 else ""
            sys.stderr.write(
                f"anew on all {count:,} training and validation documents, {epochs} epoch{plural}\n"
            )
        trainer, seed = self._another_trainer(epochs), self._config.seed_everything
        with self._saying_how_to_go_on():
            self.model = refit(trainer, self.model, self.datamodule, int(seed))
        trainer.save_checkpoint(checkpoint_file(self.run_dir, REFIT), weights_only=True)
        self._refit_epochs = epochs

    def _another_trainer(self, epochs: int) -> pl.Trainer:
        """Make a trainer as the first one, which neither validates nor keeps checkpoints."""
        parser = LightningArgumentParser()
        parser.add_lightning_class_args(pl.Trainer, "trainer")
        wanted = Namespace(trainer=self._config.trainer.clone())  # type: ignore[no-untyped-call]
        wanted.trainer.logger = None  # the first one's go on: some begin a record when made
        given = parser.instantiate(wanted).trainer
        options = {
            **given.as_dict(),
            "callbacks": [
                *without_selection(_listed(given.callbacks)),
                *_progress(given),
                *_measurements(given),
                self._clock,
                Termination(None),
            ],
            "logger": RefitLogger(self.trainer.loggers, self.trainer.global_step),
            "plugins": [*_listed(given.plugins), AtomicCheckpointIO()],
            "enable_checkpointing": False,
            "limit_val_batches": 0,
            **dict.fromkeys(("min_epochs", "min_steps")),
            "max_epochs": epochs,  # and no more than `max_steps`, as before
        }
        return pl.Trainer(**options)

    @contextmanager
    def _saying_how_to_go_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            raise OSError(f"{self.run_dir}: the disk is full; make room and go on.") from error
        except SystemExit as error:  # Lightning makes this of an interrupt, and of SIGTERM
            terminated = isinstance(error, SIGTERMException)
            if self.trainer.is_global_zero and checkpoint_file(self.run_dir, LAST).is_file():
                where = "where it ended" if terminated else "after the last whole epoch"
                sys.stderr.write(
                    f"To go on {where}, give the same command with "
                    f"--run_dir {self.run_dir} --ckpt_path last.\n"
                )
            raise (SystemExit(TERMINATED) if terminated else KeyboardInterrupt) from None

    def validate(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Compute and print the figures of the validation documents."""
        if Path(self._config.ckpt_path).name == f"{REFIT}.ckpt" and self.trainer.is_global_zero:
            sys.stderr.write(
                "These networks were trained on the validation documents of their run too; "
                "--ckpt_path best is of those before.\n"
            )
        load_weights(self.model, self._config.ckpt_path)
        (figures,) = self.trainer.validate(**kwargs, verbose=False)
        if self.trainer.is_global_zero:
            sys.stdout.write(json.dumps(figures, indent=2) + "\n")

    def test(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Compute, print and write the figures of the test documents."""
        load_weights(self.model, self._config.ckpt_path)
        self.trainer.test(**kwargs, verbose=False)
        self._write_figures()

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Classify the documents of `--data.predict` and write prediction records."""
        load_weights(self.model, self._config.ckpt_path)
        path, documents = self.run_dir / PREDICTIONS, self.datamodule.corpus.splits["predict"]
        self.trainer.callbacks.append(  # type: ignore[attr-defined]
            RecordWriter(path, documents, self.datamodule.labels, self.model.plain_thresholds)
        )
        self.trainer.predict(**kwargs, return_predictions=False)
        if self.trainer.is_global_zero:
            sys.stdout.write(f"predictions: {path}\n")

    def _probabilities(self, **kwargs: Any) -> list[list[float]]:  # noqa: ANN401  # Lightning's
        """Return each class's probability for each document, in the documents' order."""
        batches: Any = self.trainer.predict(**kwargs)  # a list of what `predict_step` returned
        rows = [row for batch in batches for row in batch.tolist()]
        if self.trainer.world_size > 1:
            shares: list[list[list[float]]] = [[]] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, rows)
            rows = [row for share in shares for row in share]  # contiguous shares, by rank
        return rows

    def _compare_with_baseline(self, selected: HANModule) -> None:
        """Print and write the network's figures beside those of linear models.

        Args:
            selected: Trained on the training documents alone.
        """
        corpus = self.datamodule.corpus
        if "test" in corpus.splits:
            split, predictions = "test", self.model.test_classes
            scores = self.model.test_scores
        else:
            documents = self.datamodule.val_dataloader()
            scores = np.array(self._probabilities(model=selected, dataloaders=documents))
            split, predictions = "validation", scores.argmax(axis=1)
            if selected.plain_thresholds is not None:
                predictions = scores >= np.array(selected.plain_thresholds)
        if not self.trainer.is_global_zero:
            return
        task = self.datamodule.task
        baseline = train_baseline(corpus, task=task, seed=int(self._config.seed_everything))
        comparison = compare(baseline, corpus, predictions, split, task=task, scores=scores)
        path = self.run_dir / BASELINE
        with atomic_file(path) as file:
            record = {**baseline.to_dict(), "comparison": comparison.to_dict()}
            json.dump(record, file, ensure_ascii=False, indent=2)
            file.write("\n")
        figures = {"network": {split: comparison.figures}}
        figures |= {model.name: {split: model.figures[split]} for model in baseline.models}
        table = figures_table(figures)
        sys.stdout.write(f"baseline: {path}\n\n{table}\n{comparison.verdict()}\n")
        report_notes(baseline)

    @property
    def _config(self) -> Namespace:
        return cast(Namespace, self.config[self.config.subcommand])

    def _as_text(self, format: str) -> str:
        """Return what this run is, without where it goes and where it goes on from."""
        config = self._config.clone()
        if config.ckpt_path is not None:
            config.data.vocabulary_from = None
        config.run_dir = config.ckpt_path = None
        return str(self._parser(self.subcommand).dump(config, format, skip_unset=False))

    def _refuse_other_network(self, command: str, trained: Learned) -> None:
        """Refuse options of the network that the checkpoint's own would silently replace."""
        defaults = self._parser(command).get_defaults().model
        trained_with = _flat(trained.options)
        for name, value in self._config.model.items():  # of a group: `word_attention.score`
            own = trained_with.get(name, value)
            if value not in (own, defaults.get(name)):
                raise ValueError(
                    f"--model.{name} is {value}, but the checkpoint was trained with {own}, which "
                    "stays; leave the option out."
                )

    def _training_callbacks(self) -> list[pl.Callback]:
        self._checkpoint, self._stopping = selection(
            self.run_dir / CHECKPOINT_FOLDER,
            self._config.monitor,
            # int: a checkpoint that holds jsonargparse's own would not load.
            int(self._config.patience),
            resumable=True,
        )
        return [
            self._checkpoint,
            LastCheckpoint(self.run_dir / CHECKPOINT_FOLDER),
            self._stopping,
            ConfigFile(self.run_dir, self._as_text("yaml")),
            self._clock,
            Resumption(self._stopping),
            Termination(self.run_dir),
        ]

    def _write_record(self) -> None:
        """Write how the run came about, when all else of the network is there."""
        documents, options = self.datamodule.corpus.splits, self.model.options
        epochs = self.trainer.max_epochs
        record = {
            "command": ["han", *self._given],
            "seed": int(self._config.seed_everything),
            "documents": {split: len(of_split) for split, of_split in documents.items()},
            "classes": self.datamodule.num_classes,
            "epochs": self.trainer.current_epoch,
            "recipe": {
                "epochs": None if epochs == -1 else epochs,  # `max_steps` is the limit
                "batch_size": self.datamodule.batch_size,
                "learning_rate": options["learning_rate"],
                "refit": self._refit_epochs is not None,
            },
            "refit_epochs": self._refit_epochs,
            "seconds": {
                "training": self._clock.seconds,
                "command": time.perf_counter() - self._began,
            },
            **circumstances(self.trainer),
        }
        with atomic_file(self.run_dir / RUN) as file:
            json.dump(record, file, ensure_ascii=False, indent=2)
            file.write("\n")

    def _write_figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.model.test_figures
        if not math.isfinite(figures["loss"]):
            raise ValueError(f"{DIVERGED}.")
        if self.trainer.is_global_zero:
            with atomic_file(self.run_dir / TEST_METRICS) as file:
                json.dump(figures, file, ensure_ascii=False, indent=2)
                file.write("\n")
            shown = ", ".join(
                f"{name} {figures[key]:.4f}" for key, name in FIGURES.items() if key in figures
            )
            sys.stdout.write(
                f"test: {shown}, {figures['documents']} documents ({self.run_dir / TEST_METRICS})\n"
            )
            _report_calibration(figures.get("calibration"), "test")
        return figures


def _describe(data: HANDataModule) -> None:
    """Write the counts of documents, sentences, words and skipped rows to standard error."""
    console = Console(stderr=True)
    table = Table(box=None, pad_edge=False)
    for heading in ("documents", "count", "sentences", "words", "unknown", "empty", "cut"):
        table.add_column(heading, justify="left" if heading == "documents" else "right")
    for split, counts in data.corpus.summary.items():
        unknown = counts["unknown_words"] / max(1, counts["words"])
        numbers = [counts[key] for key in ("documents", "sentences", "words")]
        flagged = [counts[key] for key in ("empty", "truncated")]
        table.add_row(
            split, *(f"{n:,}" for n in numbers), f"{unknown:.1%}", *(f"{n:,}" for n in flagged)
        )
    console.print(table)
    for split, counts in data.corpus.summary.items():
        report_skipped(counts["skipped"], split)
    found = ""
    if data.pretrained is not None:
        share = data.pretrained.found / max(1, data.vocabulary_size - 1)
        found = f", {share:.1%} of them with a pretrained vector"
    kind = "labels" if data.task == "multilabel" else "classes"
    console.print(f"{data.num_classes} {kind}, {data.vocabulary_size - 1:,} words{found}")
    if data.task == "ordinal":
        console.print(f"in this order: {' < '.join(data.labels)}", markup=False, highlight=False)


def _report_calibration(calibration: Mapping[str, Any] | None, split: str) -> None:
    """Write what a temperature makes of the probabilities of a split's documents."""
    if calibration is not None:
        error = calibration["ece"]
        sys.stdout.write(
            f"calibration: temperature {calibration['temperature']:.2f}, expected calibration "
            f"error on {split} {error['before']:.4f} before, {error['after']:.4f} after\n"
        )


def _leave_out_other_documents(command: str, data: Namespace) -> None:
    """Do not read documents that a command has no use for, and see that it has some."""
    split = SPLITS[command]
    if data[split] is None and (data.train is None or split == "predict"):
        own = (
            "" if split in ("train", "predict") else f" (or --data.train, if some are for {split})"
        )
        raise ValueError(f"`han {command}` needs documents: give --data.{split}{own}.")
    if split == "train":
        data.predict = None
    elif data[split] is not None:
        for other in {"train", "validation", "test", "predict"} - {split}:
            data[other] = None


def _progress(given: Namespace) -> list[pl.Callback]:
    """Show progress on standard error, unless the trainer's options say that there is none."""
    if given.enable_progress_bar is False:
        return []
    return [RichProgressBar(console_kwargs={"stderr": True})]


def _measurements(given: Namespace) -> list[pl.Callback]:
    """Log speed, gradients and learning rates, the latter unless the user's callbacks do."""
    own = any(isinstance(one, LearningRateMonitor) for one in _listed(given.callbacks))
    return [Measurements(), *([] if own else [LearningRateMonitor("step")])]


def _listed(value: Any) -> list[Any]:  # noqa: ANN401  # how the trainer takes loggers and plugins
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [value]


def _name(data: Namespace) -> str:
    """Name a run after its documents."""
    source = data.train or data.test or data.predict or data.validation or "run"
    stem = Path(source).name.split(".")[0]
    return re.sub(r"[^\w-]+", "-", stem).strip("-") or "run"


def _naming_options(message: str) -> str:
    """Call arguments what the command line calls them: `train` is `--data.train`."""
    options = {
        name: f"--{group}.{name}"
        for group, made in (("model", HANModule), ("data", HANDataModule))
        for name in inspect.signature(made).parameters
    }
    options |= {"seed": "--seed_everything", "refit": "--refit"}
    return re.sub(r"`(\w+)`", lambda found: f"`{options.get(found[1], found[1])}`", message)


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name, those of a group by its name and theirs, with a dot between."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        of_group = value if name in GROUPS else {}
        flat |= {f"{name}.{key}": inner for key, inner in of_group.items()} or {name: value}
    return flat


def _refuse_used(run_dir: Path) -> None:
    taken = [
        name for name in (CONFIG, METRICS, CHECKPOINT_FOLDER, MODEL) if (run_dir / name).exists()
    ]
    if taken:
        raise ValueError(
            f"{run_dir} holds a run already ({', '.join(taken)}); choose another --run_dir, or "
            "--ckpt_path last to go on with that run."
        )
