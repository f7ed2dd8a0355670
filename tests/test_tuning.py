from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from han.tuning import (
    DEFAULT_SPACE,
    ERROR,
    UNPRUNED,
    Search,
    Space,
    first_values,
    read_space,
)

SPACE: Space = {
    "model.x": FloatDistribution(0.1, 10, log=True),
    "model.y": CategoricalDistribution([1, 2, "z"]),
}
Figures = list[tuple[dict[str, object], float]]


def search_in(folder: Path, space: Space = SPACE, seed: int = 0, **facts: object) -> Search:
    search = Search(folder, space, minimize=True, seed=seed)
    search.begin(facts, {"model.x": 1.0})
    return search


def run(search: Search, trials: int, lose: Callable[[int], bool] = lambda number: False) -> None:
    """Run until so many trials ended; leave one as a killed process does where `lose` says so."""
    while len(search.ended) < trials:
        trial = search.ask()
        figure = abs(trial.params["model.x"] - 2) + (trial.params["model.y"] == "z")
        if lose(trial.number):
            return
        search.complete(trial, figure)


def figures(search: Search) -> Figures:
    return [(trial.params, trial.values[0]) for trial in search.ended]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    search = search_in(tmp_path_factory.mktemp("study"))
    run(search, 12)
    return figures(search)


class TestReadSpace:
    def test_the_default_one_is_readable(self) -> None:
        space = read_space(DEFAULT_SPACE)
        assert space["model.learning_rate"] == FloatDistribution(0.001, 0.02, log=True)
        assert space["data.batch_size"] == CategoricalDistribution([8, 16, 32, 64])

    def test_ranges_and_choices(self, folder: Path) -> None:
        path = folder / "space.yaml"
        path.write_text(
            "model.a: {float: [1e-3, 1], log: true}\nmodel.b: {int: [8, 64], step: 8}\n"
            "model.c: {choice: [null, 1, gru, true]}\n"
        )
        assert read_space(path) == {
            "model.a": FloatDistribution(0.001, 1, log=True),
            "model.b": IntDistribution(8, 64, step=8),
            "model.c": CategoricalDistribution([None, 1, "gru", True]),
        }

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ("", "names no option"),
            ("- model.a", "names no option"),
            ("model.a: [1", "is not YAML"),
            ("model.a: 3", "model.a: 3 is not a range of values"),
            ("model: {a: {int: [1, 2]}}", "give {float: [from, to]}"),
            ("model.a: {int: [1, 2], float: [1, 2]}", "give {float: [from, to]}"),
            ("model.a: {int: [1, 2], lgo: true}", "`lgo` has no meaning"),
            ("model.a: {choice: [1, 2], log: true}", "`log` has no meaning"),
            ("model.a: {int: [1, 2, 3]}", "needs two whole numbers"),
            ("model.a: {int: [1, 2.5]}", "needs two whole numbers"),
            ("model.a: {float: [a, b]}", "needs two numbers"),
            ("model.a: {float: 1}", "needs a list"),
            ("model.a: {float: [2, 1]}", "low <= high"),
            ("model.a: {float: [0, 1], log: true}", "low"),
            ("model.a: {float: [0, 1], log: 1}", "`log` is true or false"),
            ("model.a: {choice: []}", "choices"),
            ("model.a: {choice: [[1]]}", "a choice is a number"),
        ],
    )
    def test_what_it_cannot_be(self, folder: Path, content: str, part: str) -> None:
        path = folder / "space.yaml"
        path.write_text(content)
        with pytest.raises(ValueError, match=r"space\.yaml") as error:
            read_space(path)
        assert part in str(error.value)


class TestFirstValues:
    def test_those_that_the_space_holds(self) -> None:
        space: Space = {
            "a": FloatDistribution(0, 1),
            "b": FloatDistribution(0, 1),
            "c": IntDistribution(1, 9, step=2),
            "d": IntDistribution(1, 9, step=2),
            "e": CategoricalDistribution([None, "x"]),
            "f": CategoricalDistribution([1, 2]),
            "g": FloatDistribution(0, 1),
        }
        own = {"a": 0.5, "b": 2.0, "c": 3, "d": 4, "e": None, "f": 3, "g": None}
        assert first_values(space, own) == {"a": 0.5, "c": 3, "e": None}


class TestSearch:
    def test_the_first_trial_is_told_and_the_best_comes_first(self, folder: Path) -> None:
        search = search_in(folder)
        run(search, 3)
        assert search.ended[0].params["model.x"] == 1.0
        assert [t.values[0] for t in search.best] == sorted(f for _, f in figures(search))

    @pytest.mark.parametrize("last", [1, 11])
    def test_killed_and_begun_again_it_tries_the_same(
        self, folder: Path, uninterrupted: Figures, last: int
    ) -> None:
        run(search_in(folder), 12, lambda number: number == last)
        search = search_in(folder)
        run(search, 12)
        assert figures(search) == uninterrupted

    def test_interrupted_and_begun_again_it_tries_the_same(
        self, folder: Path, uninterrupted: Figures
    ) -> None:
        for done in (0, 0, 5):
            search = search_in(folder)
            run(search, done)
            search.put_back(search.ask())
        run(search, 12)
        assert figures(search) == uninterrupted

    def test_another_seed_tries_others(self, folder: Path, uninterrupted: Figures) -> None:
        search = search_in(folder, seed=1)
        run(search, 3)
        assert figures(search)[1:] != uninterrupted[1:3]

    def test_a_trial_that_kills_the_process_twice_is_not_tried_again(self, folder: Path) -> None:
        for _ in range(2):
            trial = search_in(folder).ask()
            assert trial.params["model.x"] == 1.0
        search = search_in(folder)
        [failed] = search.failed
        assert failed.user_attrs[ERROR] == "the process was killed twice"
        assert search.ask().params["model.x"] != 1.0
        assert len(search.ended) == 1

    def test_failed_trials_count_and_are_never_best(self, folder: Path) -> None:
        search = search_in(folder)
        search.fail(search.ask(), "no memory")
        run(search, 2)
        assert [trial.state for trial in search.ended] == [TrialState.FAIL, TrialState.COMPLETE]
        assert search.best == search.ended[1:]
        assert search.failed[0].user_attrs[ERROR] == "no memory"

    def test_a_hopeless_trial_can_be_cut_short(self, folder: Path) -> None:
        search = search_in(folder)
        told = []
        for figure in (*range(UNPRUNED), 100):
            trial = search.ask()
            trial.report(figure, 0)
            told.append(trial.should_prune())
            search.complete(trial, figure)
        assert told == [False] * UNPRUNED + [True]

    @pytest.mark.parametrize(
        ("space", "facts", "part"),
        [
            (SPACE, {"documents": "b"}, 'another documents ("a", not "b")'),
            (SPACE, {}, "another documents"),
            ({"model.x": SPACE["model.x"]}, {"documents": "a"}, "another space of model.y"),
            (
                {**SPACE, "model.x": FloatDistribution(0.1, 9)},
                {"documents": "a"},
                "another space of model.x",
            ),
        ],
    )
    def test_another_study_is_refused(
        self, folder: Path, space: Space, facts: dict[str, object], part: str
    ) -> None:
        search_in(folder, documents="a")
        search_in(folder, documents="a")
        with pytest.raises(ValueError, match="choose another --study") as error:
            search_in(folder, space, **facts)
        assert part in str(error.value)

    def test_two_processes_do_not_meddle(self, folder: Path) -> None:
        with (
            Search.alone(folder),
            pytest.raises(ValueError, match="Another process"),
            Search.alone(folder),
        ):
            pass
        with Search.alone(folder):  # free again
            pass

    def test_what_is_no_study_is_an_error_of_the_file(self, folder: Path) -> None:
        (folder / "study.db").write_text("no database, but more than a hundred bytes" * 9)
        with (
            pytest.raises(OSError, match=r"study\.db cannot be read"),
            Search.alone(folder),
        ):
            search_in(folder)

    def test_trials_without_their_study_are_refused(self, folder: Path) -> None:
        run(search_in(folder), 1)
        (folder / "trials").mkdir()
        (folder / "study.db").unlink()
        with pytest.raises(ValueError, match=r"has trials, but no study\.db"):
            search_in(folder)

    def test_any_name_of_a_folder_will_do(self, folder: Path) -> None:
        odd = folder / "a?b#c %20d"
        odd.mkdir()
        run(search_in(odd), 1)
        moved = shutil.copytree(odd, folder / "plain")
        assert (odd / "study.db").exists()
        assert len(search_in(moved).ended) == 1

    def test_other_programs_can_read_the_study(self, folder: Path) -> None:
        run(search_in(folder), 2)
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")
        assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 2

    def test_importance_is_told_when_there_are_enough_trials(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("han.tuning.RANKED", 5)
        search = search_in(folder)
        run(search, 4)
        assert search.importance() == {}
        run(search, 5)
        assert search.importance().keys() == SPACE.keys()
        assert sum(search.importance().values()) == pytest.approx(1)
