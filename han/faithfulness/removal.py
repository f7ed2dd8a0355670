"""What a classifier makes of documents of which words are taken away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from han.explanation import Explanation
from han.faithfulness.rankings import Marks, Ranking, Table, by_method

ROUNDING = 1e-6  # by which a probability may leave 0 to 1
FLIP_STEPS = 1000
"""In how many steps at most the words are taken away until the label changes."""


@runtime_checkable
class Perturbable(Protocol):
    """A model that classifies texts of which words are left out, such as `han.load` returns."""

    def masked_probabilities(
        self, text: str, kept: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """Return the probabilities (M, C) of variants of a text that have the words of (M, N)."""


@runtime_checkable
class WithAttention(Protocol):
    """A model whose attention can be made uniform, such as `han.load` returns."""

    def uniform_probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the probabilities (B, C) of texts when every unit has the same attention."""


Classifier: TypeAlias = Perturbable | Callable[[list[str]], npt.ArrayLike]


class PerturbedDocument:
    """One document and what the classifier makes of its variants."""

    def __init__(self, classifier: Classifier, explanation: Explanation) -> None:
        self.num_words = len(explanation.words)
        self._classifier = classifier
        self._explanation = explanation
        whole = self.probabilities(np.ones((1, self.num_words), bool))[0]
        self.label = int(whole.argmax())
        self.probability = float(whole[self.label])

    def probabilities(self, kept: Marks) -> npt.NDArray[np.float64]:
        """Return the probabilities (M, C) of variants that have the words of (M, N)."""
        explanation = self._explanation
        found: npt.ArrayLike
        if isinstance(self._classifier, Perturbable):
            found = self._classifier.masked_probabilities(explanation.text, kept)
        else:
            found = self._classifier([_text_of(explanation, row) for row in kept])
        shape = (len(kept), len(explanation.labels))
        try:
            rows = np.asarray(found, np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{explanation.id}: the classifier must return an array of probabilities: {error}"
            ) from error
        if rows.shape != shape:
            raise ValueError(
                f"{explanation.id}: the classifier must return probabilities of shape {shape}, a "
                f"row for each text and a column for each of {list(explanation.labels)}; it "
                f"returned shape {rows.shape}."
            )
        if not ((rows >= -ROUNDING) & (rows <= 1 + ROUNDING)).all():
            raise ValueError(
                f"{explanation.id}: the classifier must return probabilities, from 0 to 1; it "
                f"returned {rows.min():g} to {rows.max():g}."
            )
        return rows


def _text_of(explanation: Explanation, kept: Marks) -> str:
    """Return the text without the characters of the words that are not kept."""
    parts, at = [], 0
    for word, keep in zip(explanation.words, kept.tolist(), strict=True):
        if not keep:
            parts.append(explanation.text[at : word.start])
            at = word.end
    return "".join((*parts, explanation.text[at:]))


def score_removal(
    table: Table, document: PerturbedDocument, rankings: Sequence[Ranking], bins: Sequence[float]
) -> None:
    """Take words away, and keep them alone, in the order of each ranking."""
    # Rounding must not make 10 % of 30 words four.
    counts = np.array([max(1, math.ceil(part * document.num_words - 1e-9)) for part in bins])
    places = np.stack([ranking.place for ranking in rankings])  # (R, N)
    top = places[:, None] < counts[:, None]  # (R, K, N)
    kept = np.stack((~top, top)).reshape(-1, document.num_words)
    left = document.probabilities(kept)[:, document.label].reshape(2, len(rankings), len(bins))
    lost = document.probability - left
    word_flips = _first_flips(document, places)
    sentence_flips = _first_flips(document, np.stack([r.place_of_sentence for r in rankings]))
    for method, rows in by_method(rankings).items():
        for name, of_rankings in zip(("comprehensiveness", "sufficiency"), lost, strict=True):
            for k in range(len(bins)):
                table.add(method, f"{name} {k}", of_rankings[rows, k].tolist())
            table.add(method, f"aopc_{name}", of_rankings[rows].mean(1).tolist())
        table.add(method, "word_flip", word_flips[rows].clip(max=1).tolist())
        table.add(method, "sentence_flip", sentence_flips[rows].clip(max=1).tolist())
        table.add(method, "flipped", (word_flips[rows] <= 1).astype(float).tolist())


def _first_flips(
    document: PerturbedDocument, places: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return by which part of the units the label first changes, as they are taken away in order.

    Args:
        document: The document.
        places: (R, N), the place of each word's unit (itself or its sentence) in each order.

    Returns:
        (R,), above 0 and at most 1, to a thousandth; infinity where the label never changes.
    """
    flips = np.full(len(places), np.inf)
    num_units = int(places.max()) + 1
    stride = -(-num_units // FLIP_STEPS)
    counts_left = np.append(np.arange(stride, num_units, stride), num_units)
    size = 8
    while len(counts_left) and np.isinf(flips).any():
        counts, counts_left = counts_left[:size], counts_left[size:]
        rows = np.isinf(flips).nonzero()[0]
        kept = places[rows, None] >= counts[:, None]  # (R', K, N)
        found = document.probabilities(kept.reshape(-1, document.num_words)).argmax(1)
        flipped = found.reshape(len(rows), len(counts)) != document.label
        first = counts[flipped.argmax(1)] / num_units
        flips[rows] = np.where(flipped.any(1), first, np.inf)
        size = min(2 * size, 64)
    return flips
