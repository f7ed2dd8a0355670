"""The search of `han tune`: a space of options, and a study of trials in a folder, by Optuna."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from jsonargparse import get_loader

try:
    import optuna
except ImportError as error:
    raise ImportError(
        '`han tune` needs the `optuna` package: pip install "han-classifier[tune]".'
    ) from error
from optuna import Trial, TrialPruned
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.exceptions import OptunaError
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

__all__ = [
    "DEFAULT_SPACE",
    "ERROR",
    "SPACE",
    "TRIALS",
    "Search",
    "Space",
    "Trial",
    "TrialPruned",
    "extremes",
    "first_values",
    "read_space",
]

STUDY, SPACE, TRIALS, LOCK = "study.db", "space.yaml", "trials", ".lock"
DEFAULT_SPACE = Path(str(files("han") / "data" / SPACE))
UNPRUNED = 5  # trials that come to their end before any is cut short
RANKED = 20  # trials from which the importance of an option is guessed: the best tenth are two
ERROR = "error"  # why a trial failed
_RETRY_OF, _KILLED = "retry_of", "killed"

Space = dict[str, BaseDistribution]
"""The values of each option that is searched, by its name, such as `model.hidden_size`."""


def read_space(path: Path) -> Space:
    """Read a search space: YAML, see the default one.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file; the message names it and the option.
    """
    try:
        content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} names no option; see `han tune --help` for what it may hold.")
    space: Space = {}
    for name, values in content.items():
        try:
            space[str(name)] = _distribution(values)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: {name}: {json.dumps(values, default=str)} is not a range of values: "
                f"{error}"
            ) from error
    return space


def _distribution(values: object) -> BaseDistribution:
    kinds = ("float", "int", "choice")
    if not isinstance(values, dict) or len(set(kinds) & values.keys()) != 1:
        raise ValueError("give {float: [from, to]}, {int: [from, to]} or {choice: [...]}.")
    options = dict(values)
    [kind] = set(kinds) & values.keys()
    within = options.pop(kind)
    unknown = options.keys() - ({"log", "step"} if kind != "choice" else set())
    if unknown:
        raise ValueError(f"`{min(unknown)}` has no meaning with `{kind}`.")
    if not isinstance(within, list):
        raise ValueError(f"`{kind}` needs a list.")
    if kind == "choice":
        if any(isinstance(value, list | dict) for value in within):
            raise ValueError("a choice is a number, a word, true, false or null.")
        return CategoricalDistribution(within)
    whole = kind == "int"
    numbers = [*within, *([options["step"]] if options.get("step") is not None else [])]
    if len(within) != 2 or any(
        isinstance(n, bool) or not isinstance(n, int if whole else int | float) for n in numbers
    ):
        raise ValueError(f"`{kind}` needs two {'whole ' if whole else ''}numbers.")
    low, high = within
    if not isinstance(log := options.get("log", False), bool):
        raise ValueError("`log` is true or false.")
    if whole:
        return IntDistribution(low, high, log=log, step=options.get("step", 1))
    return FloatDistribution(low, high, log=log, step=options.get("step"))


def extremes(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the ends of a range, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def first_values(space: Space, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `own` values, by option, that the space holds."""
    return {name: own[name] for name, values in space.items() if _holds(values, own[name])}


def _holds(distribution: BaseDistribution, value: Any) -> bool:  # noqa: ANN401
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(distribution._contains(distribution.to_internal_repr(value)))


class Search:
    """A study in a folder, which this process alone may go on with.

    What is tried next depends on the seed and on the trials that ended, not on when the process was
    interrupted in between: a trial that was running then is tried again. If the process is killed
    in it a second time, it counts as failed, since it may be why.

    Args:
        folder: Where it is.
        space: What is searched.
        minimize: Whether a smaller figure is better.
        seed: Decides what is tried.
    """

    def __init__(self, folder: Path, space: Space, *, minimize: bool, seed: int) -> None:
        self._space = space
        self._seed = seed
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the caller says what happens
        path = folder / STUDY
        if not path.exists() and (folder / TRIALS).exists():
            raise ValueError(f"{folder} has trials, but no {STUDY}; choose another --study.")
        address = URL.create("sqlite", database=str(path)).render_as_string()
        try:
            storage = RDBStorage(address)
        except RuntimeError as error:  # of another version
            raise ValueError(f"{path}: {error}") from error
        self._study = optuna.create_study(
            storage=storage,
            study_name="han",
            direction="minimize" if minimize else "maximize",
            # Not Hyperband, which stops most trials after a share of their training, by figures
            # that say little as long as the learning rate has not come down (`one_cycle`).
            pruner=MedianPruner(n_startup_trials=UNPRUNED),
            load_if_exists=True,
        )

    @staticmethod
    @contextmanager
    def alone(folder: Path) -> Iterator[None]:
        """Make the folder, and keep other processes from it until the block ends.

        Raises:
            ValueError: Another process is there.
            OSError: What is kept there cannot be read or written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(
                f"Another process goes on with the study in {folder}; wait, or choose another "
                "--study."
            ) from None
        try:
            yield
        except (SQLAlchemyError, OptunaError) as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise OSError(f"{folder / STUDY} cannot be read or written: {reason}.") from error
        finally:
            lock.release()

    def begin(self, facts: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        """Note what a new study is of, or see that an earlier one is of the same.

        Args:
            facts: JSON values by what they are called, on which the figures of trials depend.
            first: What to try first.

        Raises:
            ValueError: Another study is there; the message says what differs.
        """
        of_space = {
            f"space of {name}": json.loads(distribution_to_json(values))["attributes"]
            for name, values in self._space.items()
        }
        facts = {**facts, **of_space}
        before = self._study.user_attrs.get("facts")
        if before is None:
            self._study.enqueue_trial(dict(first), skip_if_exists=True)
            self._study.set_user_attr("facts", facts)
            return
        for name in sorted(before.keys() | facts.keys()):
            if before.get(name) != facts.get(name):
                raise ValueError(
                    f"The study was begun with another {name} "
                    f"({_short(before.get(name))}, not {_short(facts.get(name))}), so that its "
                    "trials cannot be compared with others; choose another --study."
                )
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            killed = trial.user_attrs.get(_KILLED, 0) + 1
            if killed > 1:
                self.fail(Trial(self._study, trial._trial_id), "the process was killed twice")
            else:
                self.put_back(trial, killed)

    @property
    def ended(self) -> list[FrozenTrial]:
        """The trials that came to a figure, were cut short or failed, in their order."""
        trials = self._study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(_RETRY_OF) for trial in trials}
        return [t for t in trials if t.state.is_finished() and t.number not in repeated]

    @property
    def best(self) -> list[FrozenTrial]:
        """The trials that came to a figure, the best first."""
        minimize = self._study.direction == optuna.study.StudyDirection.MINIMIZE
        trials = [trial for trial in self.ended if trial.state == TrialState.COMPLETE]
        return sorted(trials, key=lambda t: t.values[0] if minimize else -t.values[0])

    @property
    def failed(self) -> list[FrozenTrial]:
        """The trials that came to no figure, each with the reason as `user_attrs[ERROR]`."""
        return [trial for trial in self.ended if ERROR in trial.user_attrs]

    def ask(self) -> Trial:
        """Begin a trial; its `params` are the values to try."""
        seeds = np.random.SeedSequence([self._seed, len(self.ended)])
        self._study.sampler = TPESampler(seed=int(seeds.generate_state(1)[0]))
        return self._study.ask(self._space)

    def complete(self, trial: Trial, figure: float) -> None:
        """End a trial with its figure."""
        self._study.tell(trial, figure)

    def cut_short(self, trial: Trial) -> None:
        """End a trial that is not worth going on with."""
        self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """End a trial that comes to no figure."""
        trial.set_user_attr(ERROR, reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def put_back(self, trial: Trial | FrozenTrial, killed: int | None = None) -> None:
        """End a trial that was interrupted, so that the next one is the same.

        Args:
            trial: That trial.
            killed: How often the process was killed in it; by default as often as before.
        """
        if killed is None:
            killed = trial.user_attrs.get(_KILLED, 0)
        self._study.tell(trial.number, state=TrialState.FAIL)
        self._study.enqueue_trial(trial.params, {_RETRY_OF: trial.number, _KILLED: killed})

    def importance(self) -> dict[str, float]:
        """Return each option's share in what the best tenth of the trials have of their own.

        By PED-ANOVA (Watanabe et al. 2023); empty as long as too few trials came to a figure.
        """
        if len(self.best) < RANKED:
            return {}
        return optuna.importance.get_param_importances(self._study)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
