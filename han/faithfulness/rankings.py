"""The orders in which words are taken away, and what is noted of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from han.explanation import Explanation
from han.faithfulness.figures import RANDOM, Estimate

Marks: TypeAlias = npt.NDArray[np.bool_]
"""Which of a document's words are meant."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The figures of one method for a document's words and sentences.

    Attributes:
        method: Its name.
        words: (N,), the larger the earlier it is taken away.
        place: int64 (N,), the place of each word in that order.
        place_of_sentence: int64 (N,), the place of each word's sentence in the sentences' order.
    """

    method: str
    words: npt.NDArray[np.float64]
    place: npt.NDArray[np.int64]
    place_of_sentence: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        method: str,
        words: npt.ArrayLike,
        sentences: npt.ArrayLike,
        words_per_sentence: Sequence[int],
    ) -> Ranking:
        """Rank by figures of N words and of S sentences."""
        figures = np.asarray(words, np.float64)
        of_sentence = _places(np.asarray(sentences, np.float64))
        return cls(method, figures, _places(figures), np.repeat(of_sentence, words_per_sentence))


def _places(figures: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the place of each figure, the largest first; ties keep their order."""
    places = np.empty(len(figures), np.int64)
    places[np.argsort(-figures, kind="stable")] = np.arange(len(figures))
    return places


def rank(
    explanation: Explanation, label: int, random_rankings: int, generator: np.random.Generator
) -> Iterator[Ranking]:
    """Yield the rankings of a document: by each method for a class, and random ones."""
    name = explanation.labels[label]
    lengths = [len(sentence.words) for sentence in explanation.sentences]
    for method in explanation.methods:
        words, sentences = (
            explanation.scores(method, name),
            explanation.sentence_scores(method, name),
        )
        yield Ranking.of(method, words, sentences, lengths)
    for _ in range(random_rankings):
        of_words, of_sentences = generator.random(sum(lengths)), generator.random(len(lengths))
        yield Ranking.of(RANDOM, of_words, of_sentences, lengths)


def by_method(rankings: Sequence[Ranking]) -> dict[str, list[int]]:
    """Return the indices of each method's rankings."""
    rows: dict[str, list[int]] = {}
    for index, ranking in enumerate(rankings):
        rows.setdefault(ranking.method, []).append(index)
    return rows


class Table:
    """The figures of each document: by method and figure, a number for each, NaN where undefined.

    A method that ranks a document more than once (at random) is given the mean.
    """

    def __init__(self, resamples: int, seed: int) -> None:
        self._columns: dict[tuple[str, str], list[float]] = {}
        self._resamples = resamples
        self._seed = seed

    def add(self, method: str, figure: str, values: Sequence[float]) -> None:
        """Add a document's figure: the mean of `values`, without those that are undefined."""
        defined = [value for value in values if not math.isnan(value)]
        mean = math.fsum(defined) / len(defined) if defined else math.nan
        self._columns.setdefault((method, figure), []).append(mean)

    def last(self, method: str, figure: str) -> float:
        """Return a figure of the document that was added last, to seven digits."""
        return float(f"{self._columns[method, figure][-1]:.7g}")

    def column(self, method: str, figure: str) -> npt.NDArray[np.float64]:
        """Return a figure of every document to which it was added."""
        return np.array(self._columns.get((method, figure), ()))

    def estimate(self, method: str, figure: str) -> Estimate:
        """Return a figure's mean over documents, and its interval."""
        return self.interval(self.column(method, figure))

    def interval(self, values: npt.NDArray[np.float64]) -> Estimate:
        """Return the mean of documents' figures, of which one at least is defined."""
        return self._bootstrap((values[~np.isnan(values)],), np.mean)

    def defined(self, method: str, figure: str) -> bool:
        """Return whether a figure is defined for any document."""
        return not np.isnan(self.column(method, figure)).all()

    def gain(self, method: str, figure: str) -> Estimate:
        """Return the mean of a figure's difference from the random rankings, by document."""
        return self.interval(self.column(method, figure) - self.column(RANDOM, figure))

    def ratio(self, method: str, figure: str) -> Estimate | None:
        """Return the ratio of a figure's mean to the random rankings', if that is above zero."""
        random = self.column(RANDOM, figure)
        if self.interval(random).low <= 0:
            return None
        return self._bootstrap((self.column(method, figure), random), _ratio)

    def _bootstrap(
        self, samples: tuple[npt.NDArray[np.float64], ...], statistic: Callable[..., Any]
    ) -> Estimate:
        mean = float(statistic(*samples, axis=-1))
        if len(samples[0]) == 1:
            return Estimate(mean, mean, mean)  # one document tells nothing of the others
        from scipy.stats import bootstrap

        interval = bootstrap(
            samples,
            statistic,
            paired=len(samples) > 1,
            vectorized=True,
            n_resamples=self._resamples,
            method="percentile",
            rng=np.random.default_rng(self._seed),
        ).confidence_interval
        return Estimate(mean, float(interval.low), float(interval.high))


def _ratio(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], axis: int = -1) -> Any:  # noqa: ANN401  # a number or an array, by the axis
    return a.mean(axis) / b.mean(axis)


def score_agreement(table: Table, rankings: Sequence[Ranking]) -> None:
    """Compare the orders of the methods, by the size of their figures for each word."""
    from scipy.stats import kendalltau

    methods = [ranking for ranking in rankings if ranking.method != RANDOM]
    for one, other in combinations(methods, 2):
        tau = math.nan
        sizes = np.abs(one.words), np.abs(other.words)
        if all(len(np.unique(size)) > 1 for size in sizes):  # else there is no order to compare
            tau = float(kendalltau(*sizes).statistic)
        table.add(one.method, f"tau {other.method}", [tau])
        table.add(other.method, f"tau {one.method}", [tau])
