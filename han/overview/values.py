"""The overview as data: frozen value objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from han.explanation import METHODS

SCHEMA = "han.overview/1"


@dataclass(frozen=True, slots=True)
class Example:
    """A word in its context.

    Args:
        id: The document's identifier.
        before: The text before the word, in its sentence, cut to a few words; white space and
            `<br>` are one space, and an ellipsis says that the sentence begins earlier.
        word: The word as its author wrote it.
        after: The text after it, in the same manner.
        position: How many documents came before this one; ids may repeat.
    """

    id: str
    before: str
    word: str
    after: str
    position: int = 0


@dataclass(frozen=True, slots=True)
class ClassWord:
    """A word of the documents that were given one class.

    Args:
        word: In lower case.
        occurrences: How often it occurs in the documents of the class.
        documents: In how many of them.
        share: Mean share of a document's attention, over its occurrences.
        lift: Mean lift over its occurrences; 1 means an even share.
        scores: Mean figure for the class by each signed method.
        examples: Where its figure was largest, in context, each in another document.
        weight: What the words are ordered by, see `OverviewBuilder`.
        unknown: Whether the vocabulary lacks the word, so that the model saw only "some word".
    """

    word: str
    occurrences: int
    documents: int
    share: float
    lift: float
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    examples: tuple[Example, ...] = ()
    weight: float = 0.0
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class ClassWords:
    """The words that carry one class.

    Args:
        label: The class.
        documents: How many documents were read as this class.
        words: The words, the one with most weight first.
    """

    label: str
    documents: int
    words: tuple[ClassWord, ...]


@dataclass(frozen=True, slots=True)
class Positions:
    """Where in documents and sentences the attention lies; 1 means an even share.

    The i-th of n sentences takes up the place from (i - 1) / n to i / n of its document, and its
    weight is spread evenly over that place, so that each document, however short, has a part in
    every tenth and the ten figures have the mean 1. The same holds for the words of a sentence.

    Args:
        sentences: Mean lift of sentences by their place, from a document's first tenth to its last.
        words: Mean lift of words within their sentence by their place, first tenth to last.
    """

    sentences: tuple[float, ...]
    words: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Documents of similar confidence.

    Args:
        low: The probability of the predicted class is above this in the bin.
        high: Greatest probability in the bin.
        documents: How many there are.
        confidence: Their mean probability.
        accuracy: The part of them that is right.
    """

    low: float
    high: float
    documents: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether the model is right as often as it is sure (Guo et al. 2017).

    Args:
        bins: Bins of equal width that hold documents, the least sure first.
        expected_error: Expected calibration error: the mean over documents of the distance between
            their bin's confidence and accuracy.
        documents: Documents whose true class is one of the model's.
    """

    bins: tuple[CalibrationBin, ...]
    expected_error: float
    documents: int


@dataclass(frozen=True, slots=True)
class Overview:
    """A whole set of documents at a glance.

    Args:
        documents: How many.
        classes: The words of each class, in the order of the model's labels.
        positions: Where the attention lies; None where no document has a word.
        calibration: None where no true class is known, or documents may have several labels.
        method: The method whose figures order the words and choose the examples.
    """

    documents: int
    classes: tuple[ClassWords, ...]
    positions: Positions | None
    calibration: Calibration | None
    method: str = METHODS[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the overview, made of JSON's types only."""
        return {"schema": SCHEMA, **json.loads(json.dumps(asdict(self), allow_nan=False))}
