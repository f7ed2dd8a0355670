"""`han tune`: train again and again with other options, and keep those that do best."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from rich.console import Console
from rich.table import Table

from han.atomic import atomic_file
from han.cli.resuming import Termination
from han.cli.runs import ROOT
from han.cli.training import HANCLI, running
from han.corpus.identity import identify_source
from han.datamodule import HANDataModule, bundled_corpus
from han.embeddings import BUILTIN
from han.module import HANModule
from han.tuning import (
    DEFAULT_SPACE,
    ERROR,
    SPACE,
    TRIALS,
    Search,
    Space,
    Trial,
    TrialPruned,
    extremes,
    first_values,
    read_space,
)

BEST_CONFIG = "best.yaml"
SHOWN = 5  # trials in the last table
# Of training, in which no trial is cut short. In the first fifth the learning rate rises under
# `one_cycle`; of nine trials on the bundled abstracts the one that was best in the end was the
# sixth after its first epoch, and the first after its third.
FIRST_SHARE = 0.25
# A trial's validation figure does not depend on these, or they are compared otherwise.
NOT_COMPARED = (
    "name", "run_dir", "ckpt_path", "refit", "baseline", "config", "trainer.enable_progress_bar",
    "data.train", "data.validation", "data.test", "data.predict", "data.cache_dir",
    "data.num_workers",
)  # fmt: skip
# With other documents for validation the figures would not be of the same thing.
NOT_SEARCHED = (
    "data.train", "data.validation", "data.test", "data.predict", "data.validation_share",
    "data.vocabulary_from", "data.cache_dir",
)  # fmt: skip


def tune(command: argparse.Namespace) -> None:
    """Search for options, and write the best ones.

    Raises:
        ValueError: An option, the space, the documents or the study is unfit, or no trial came to a
            figure.
        OSError: A file cannot be read or written.
    """
    began = time.monotonic()
    if command.trials < 1:
        raise ValueError(f"--trials must be at least 1, got {command.trials}.")
    space_file = Path(command.space) if command.space is not None else DEFAULT_SPACE
    space = read_space(space_file)
    given = list(command.options_of_fit)
    with running():
        plan = _Plan(given, space, space_file)
    name, monitor = plan.wanted.name, plan.wanted.monitor
    folder = ROOT / name / "tune" if command.study is None else Path(command.study)
    with Search.alone(folder):
        minimize, seed = monitor == "val_loss", int(plan.wanted.seed_everything)
        search = Search(folder, space, minimize=minimize, seed=seed)
        search.begin(plan.facts(), first_values(space, plan.own_values()))
        if not (folder / SPACE).exists():
            with atomic_file(folder / SPACE) as file:
                file.write(space_file.read_text(encoding="utf-8"))
        try:
            while (count := len(search.ended)) < command.trials:
                if command.timeout is not None and time.monotonic() - began > command.timeout:
                    break
                _try(search, folder, plan, f"{count + 1} of {command.trials}")
        except KeyboardInterrupt:
            sys.stderr.write(
                f"{len(search.ended)} of {command.trials} trials have ended; to go on, give the "
                "same command.\n"
            )
            raise
        if not search.best:
            failed = "".join(
                f"; trial {t.number}: {t.user_attrs[ERROR]}" for t in search.failed[-1:]
            )
            raise ValueError(f"None of {len(search.ended)} trials came to a figure{failed}")
        _write_best(search, folder, plan)
        _show(search, monitor)
        best = search.best[0]
        sys.stdout.write(f"best: {monitor} {best.values[0]:.4f}, trial {best.number}\n")
        sys.stdout.write(f"config: {folder / BEST_CONFIG}\n")


def _try(search: Search, folder: Path, plan: _Plan, progress: str) -> None:
    """Run one trial, and say what came of it."""
    trial = search.ask()
    began = time.perf_counter()
    tried = ", ".join(f"{_own(name)} {_text(value)}" for name, value in trial.params.items())
    sys.stderr.write(f"trial {trial.number} ({progress}): {tried}\n")
    try:
        figure, epochs = _train(plan, trial, folder)
        search.complete(trial, figure)
        outcome = f"{plan.wanted.monitor} {figure:.4f} after {epochs}"
    except TrialPruned as pruned:
        search.cut_short(trial)
        outcome = str(pruned)
    except (ValueError, RuntimeError) as error:  # that of torch where memory is short
        search.fail(trial, str(error))
        outcome = f"failed: {' '.join(str(error).split())}"
    except BaseException:
        search.put_back(trial)
        raise
    finally:
        gc.collect()  # a trainer and its module refer to each other
        if (wandb := sys.modules.get("wandb")) is not None:
            wandb.finish()  # or the next trial's logger goes on with this one's run
    seconds = time.perf_counter() - began
    best = ""
    if search.best:
        first = search.best[0]
        best = f"; best so far {first.values[0]:.4f}, trial {first.number}"
        if first.number == trial.number:
            _write_best(search, folder, plan)
            best = ", the best so far"
    sys.stderr.write(f"trial {trial.number}: {outcome}, {seconds:.0f} s{best}\n")


def _train(plan: _Plan, trial: Trial, folder: Path) -> tuple[float, str]:
    """Return the best epoch's figure and how many epochs there were."""
    given = [*plan.given, *_flags(trial.params), *plan.of_trials]
    with running():
        run = _TrialRun([*given, f"--run_dir={folder / TRIALS / str(trial.number)}"], trial)
    return run.figure, _epochs(run.trainer)


class _Fit(HANCLI):
    """The command `han fit` alone, which takes less time to make than all four."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the command."""
        return {"fit": HANCLI.subcommands()["fit"]}


class _Plan(_Fit):
    """The command without anything searched: it reads the documents and trains nothing.

    Args:
        given: The options of `han fit`.
        space: What is searched.
        space_file: Where that comes from.
    """

    wanted: Namespace

    def __init__(self, given: Sequence[str], space: Space, space_file: Path) -> None:
        self.given = list(given)
        self.of_trials = ["--data.test=null"]
        if not sys.stderr.isatty():  # in a file, what is told of each trial is enough
            self.of_trials.append("--trainer.enable_progress_bar=false")
        self._space = space
        self._space_file = space_file
        super().__init__(["fit", *given])

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and check the space against the command line."""
        super().parse_arguments(parser, args)
        self.wanted = self._config.clone()
        for option in ("run_dir", "ckpt_path"):
            if self.wanted[option] is not None:
                raise ValueError(
                    f"Each trial trains anew in a directory below --study; leave --{option} out."
                )
        if self.wanted.trainer.fast_dev_run:
            raise ValueError("Nothing can be compared after --trainer.fast_dev_run; leave it out.")
        _construct(self.wanted)
        for name, values in self._space.items():
            self._check(name, extremes(values))
        config = self._config
        config.data.test = config.trainer.logger = None
        if config.trainer.devices == "auto":
            config.trainer.devices = 1
            self.of_trials.append("--trainer.devices=1")

    def _check(self, name: str, values: Sequence[Any]) -> None:
        """See that an option can be searched and takes these values."""
        group, known = name.partition(".")[0], self.wanted.get(name, self)
        where = f"{self._space_file}: {name}"
        if group not in ("model", "data", "trainer") or known is self:
            raise ValueError(f"{where}: `han fit` has no such option --model, --data or --trainer.")
        if name in NOT_SEARCHED or isinstance(known, Namespace):
            raise ValueError(f"{where} cannot be searched.")
        parser = self._parser("fit")
        for value in values:
            try:
                _construct(parser.parse_args([*self.given, *_flags({name: value})]))
            except (argparse.ArgumentError, ValueError, TypeError) as error:
                raise ValueError(f"{where}: {error}") from error

    def before_instantiate_classes(self) -> None:
        """Choose no run directory."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:  # noqa: ANN401  # Lightning's own
        """Make a trainer, to see that it can be made, and that it is of one process."""
        trainer = LightningCLI.instantiate_trainer(self, **kwargs, logger=False)
        if trainer.world_size > 1:
            raise ValueError(
                "A trial takes one process; set --trainer.devices 1 and no --trainer.num_nodes."
            )
        return trainer

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401  # what Lightning's has
        """Train nothing; see that there is something to compare trials by."""
        if "validation" not in self.datamodule.corpus.splits:
            raise ValueError(
                "There are no documents for validation, by which trials are compared; give "
                "`validation` or a share of the others (`validation_share`)."
            )

    def after_fit(self) -> None:
        """Note what follows from the documents, and hold nothing while trials train."""
        self._recipe, self._embedding_size = self.datamodule.recipe, self.datamodule.embedding_size
        del self.datamodule, self.model, self.trainer, self.config_init

    def facts(self) -> dict[str, Any]:
        """Return on what figures depend, besides the space: JSON values by their names."""
        options = json.loads(self._parser("fit").dump(self.wanted, format="json"))
        facts: dict[str, Any] = {
            f"--{name}": value
            for name, value in _leaves(options).items()
            if name not in NOT_COMPARED and not name.startswith("trainer.logger")
        }
        for split in ("train", "validation"):
            source = self.wanted.data[split]
            if source is not None:
                source = identify_source(bundled_corpus() if source == BUILTIN else source)
            facts[f"--data.{split}"] = source
        return facts

    def own_values(self) -> dict[str, Any]:
        """Return the value of each searched option that the command has without the search."""
        recipe, rate = self._recipe, self.wanted.model.learning_rate
        rate = recipe.learning_rate if rate is None else rate
        followed = {
            "model.learning_rate": rate,
            "model.embedding_learning_rate": rate,
            "data.batch_size": recipe.batch_size,
            "data.embedding_size": self._embedding_size,
            "trainer.max_epochs": recipe.epochs,
        }
        own = {}
        for name, values in self._space.items():
            own[name] = self.wanted[name]
            if own[name] is None and None not in extremes(values):
                own[name] = followed.get(name)
        return own

    def yaml(self, params: Mapping[str, Any]) -> str:
        """Return the command's options with these, those that differ from the defaults."""
        parser = self._parser("fit")
        config = parser.parse_args([*self.given, *_flags(params)])
        config.name = self.wanted.name
        _, _, content = str(parser.dump(config, skip_default=True)).partition("\n")
        return content.lstrip("\n")


class _TrialRun(_Fit):
    """One training, of which configuration and figures are kept, and no weights.

    Args:
        given: The options of `han fit`.
        trial: Where figures are reported.

    Raises:
        TrialPruned: Others did better by then.
    """

    figure: float

    def __init__(self, given: Sequence[str], trial: Trial) -> None:
        self._trial = trial
        super().__init__(["fit", *given])

    @property
    def monitor(self) -> str:
        """Which figure is compared."""
        return str(self._config.monitor)

    def before_fit(self) -> None:
        """Say nothing of the documents, which are the same in all trials."""

    def _describe_recipe(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Say nothing: the trial's options are told."""

    def _training_callbacks(self) -> list[pl.Callback]:
        others = [
            one
            for one in super()._training_callbacks()
            if not isinstance(one, Checkpoint | Termination)
        ]
        return [ModelCheckpoint(save_top_k=0), *others, _Report(self._trial, self.monitor)]

    def after_fit(self) -> None:
        """Take the best epoch's figure; test nothing, and train nothing anew."""
        assert self._stopping is not None
        if self.monitor not in self.trainer.callback_metrics:
            raise ValueError("Training ended before any validation.")
        self.figure = float(self._stopping.best_score)


class _Report(pl.Callback):
    """Report each validation's figure, and end a trial that is not worth going on with.

    Args:
        trial: Where to.
        monitor: Which figure.
    """

    def __init__(self, trial: Trial, monitor: str) -> None:
        self._trial = trial
        self._monitor = monitor
        self._validations = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report.

        Raises:
            TrialPruned: Others did better by then.
        """
        figure = trainer.callback_metrics[self._monitor]
        if trainer.sanity_checking or not figure.isfinite():
            return  # where it is no number, training ends by itself
        self._trial.report(float(figure), self._validations)
        self._validations += 1
        share = trainer.global_step / trainer.estimated_stepping_batches
        judged = FIRST_SHARE < share < 1 or share == 0  # of training without an end
        if judged and self._trial.should_prune():
            raise TrialPruned(
                f"{self._monitor} {float(figure):.4f}, cut short after {_epochs(trainer, 1)}"
            )


def _construct(config: Namespace) -> None:
    """Make a network of a few words and a data module, whose constructors refuse what is unfit."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(HANModule, "model")
    parser.add_lightning_class_args(HANDataModule, "data")
    wanted = Namespace(model=config.model.clone(), data=config.data)  # type: ignore[no-untyped-call]
    for size in ("vocabulary_size", "num_classes", "embedding_size"):
        wanted.model[size] = 8
    parser.instantiate(wanted)


def _flags(params: Mapping[str, Any]) -> list[str]:
    """Return values as options of `han fit`."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in params.items()
    ]


def _write_best(search: Search, folder: Path, plan: _Plan) -> None:
    """Write the best options, for `han fit --config`."""
    best, path = search.best[0], folder / BEST_CONFIG
    with atomic_file(path) as file:
        file.write(
            f"# Trial {best.number} of `han tune`: {plan.wanted.monitor} {best.values[0]:.4f}, the "
            f"best of {len(search.ended)} trials.\n#   han fit --config {path}\n"
        )
        file.write(plan.yaml(best.params))


def _show(search: Search, monitor: str) -> None:
    """Write the best trials' options to standard error, and how much each option matters."""
    best, importance = search.best[:SHOWN], search.importance()
    table = Table(box=None, pad_edge=False)
    table.add_column("trial")
    for trial in best:
        table.add_column(str(trial.number), justify="right")
    if importance:
        table.add_column("importance", justify="right")
    table.add_row(monitor, *(f"{trial.values[0]:.4f}" for trial in best))
    for name in sorted(best[0].params, key=lambda name: -importance.get(name, 0)):
        share = [f"{importance[name]:.0%}"] if importance else []
        table.add_row(_own(name), *(_text(trial.params[name]) for trial in best), *share)
    Console(stderr=True).print(table)


def _own(name: str) -> str:
    """Return an option's name without its group."""
    return name.partition(".")[2]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _epochs(trainer: pl.Trainer, more: int = 0) -> str:
    count = trainer.current_epoch + more
    return f"{count} epoch{'s' if count != 1 else ''}"


def _leaves(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return options by name, those of groups with a dot between."""
    leaves: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
