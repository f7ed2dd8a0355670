"""Gather an overview from a stream of explanations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np

from han.explanation import METHODS, Explanation
from han.overview.values import Calibration, CalibrationBin, ClassWords, Overview, Positions
from han.overview.words import Block, WordSums, seven_digits

TENTHS = 10
"""Into how many parts documents and sentences are cut for `Positions`, and confidence into bins."""

_EDGES = [k / TENTHS for k in range(1, TENTHS)]
BLOCK_WORDS = 32_768  # of documents that are added up together


class OverviewBuilder:
    """Gathers an overview from explanations as they pass, without holding them.

    Words that differ in upper and lower case only are the same. In the list of a class they stand
    by their `weight`, and only those whose weight is above 0 and at least a hundredth of the
    heaviest's; none is left out for what it is. By a
    signed method, the weight is the mean figure for the class over the word's occurrences in the
    documents that were given the class. Attention does not say which class it is for. There, the
    weight is the mean of lift - 1, times a / (a + o), where a is the attention that the word has in
    a document of the class, on average, and o the same in all other documents. So what the model
    passes over, such as most stop words and punctuation, has no weight, and little has what it
    looks at whatever the class.

    A mean over few documents says little. The weight of a word that d documents have is taken times
    d / (d + 10), as if ten more had it to no effect.

    Where documents may have several labels, one counts in full for each that it is given.

    The memory that it takes grows with the number of different words, not with that of documents.

    Args:
        words: How many words to keep a class.
        examples: How many examples to keep a word.
        min_count: Words that occur less often in the documents of a class are left out.
        method: Which method's figures order the words and choose the examples, one of
            `han.explanation.METHODS`; by default the first signed one that the explanations have,
            or else attention.

    Raises:
        ValueError: A number is out of range, or there is no such method.
    """

    def __init__(
        self, *, words: int = 50, examples: int = 3, min_count: int = 5, method: str | None = None
    ) -> None:
        for name, number, least in (
            ("words", words, 1),
            ("examples", examples, 0),
            ("min_count", min_count, 1),
        ):
            if number < least:
                raise ValueError(f"`{name}` must be at least {least}, got {number}.")
        if method is not None and method not in METHODS:
            raise ValueError(f"There is no method {method!r}; choose among {', '.join(METHODS)}.")
        self._words, self._examples, self._min_count = words, examples, min_count
        self._method = method
        self._count = 0
        self._documents: dict[str, int] = {}
        self._bins = np.zeros((TENTHS, 3))
        self._signed: tuple[str, ...] = ()
        self._block = Block()
        self._sums: WordSums | None = None
        self._in_documents = _Profile()
        self._in_sentences = _Profile()

    def add(self, explanation: Explanation) -> None:
        """Take in one more document.

        Raises:
            ValueError: Its model has other labels than those of the documents before it, or other
                methods explain it.
        """
        if not self._documents:
            self._documents = dict.fromkeys(explanation.labels, 0)
        elif explanation.labels != tuple(self._documents):
            raise ValueError(
                f"{explanation.id}: the model's labels are {list(explanation.labels)}, those of "
                f"the documents before it {list(self._documents)}; make an overview for each model."
            )
        labels = explanation.predicted_labels
        for label in (explanation.predicted,) if labels is None else labels:
            if words := explanation.words:
                self._check_methods(explanation)
                self._block.add(explanation, words, self._count, label)
            self._documents[label] += 1
        self._count += 1
        if explanation.true in explanation.labels:
            confidence, right = explanation.probability, bool(explanation.right)
            self._bins[bisect_left(_EDGES, confidence)] += (1, confidence, right)
        if len(self._block.words) >= BLOCK_WORDS:
            self._add_up()

    def build(self) -> Overview:
        """Return the overview of the documents so far."""
        self._add_up()
        return Overview(
            documents=self._count,
            classes=tuple(self._classes()),
            positions=self._positions(),
            calibration=self._calibration(),
            method=METHODS[0] if self._sums is None else self._sums.method,
        )

    def _check_methods(self, explanation: Explanation) -> None:
        signed = explanation.methods[1:]
        if self._sums is None:
            method = self._method or (signed or METHODS)[0]
            if method not in explanation.methods:
                raise ValueError(
                    f"{explanation.id}: there are no scores of the method {method!r}, only "
                    f"{list(explanation.methods)}."
                )
            self._signed = signed
            self._block = Block(signed)
            self._sums = WordSums(tuple(self._documents), signed, method, self._examples)
        elif set(signed) != set(self._signed):
            raise ValueError(
                f"{explanation.id} is explained by {list(explanation.methods)}, the documents "
                f"before it by {[METHODS[0], *self._signed]}; explain all alike."
            )

    def _add_up(self) -> None:
        """Take the documents of the block into the sums, and begin a new one."""
        if self._sums is not None and self._block.words:
            block, self._block = self._block, Block(self._signed)
            self._sums.add(block)
            self._in_documents.add(block.sentence_weights, block.num_sentences)
            self._in_sentences.add(block.weights, block.num_words)

    def _classes(self) -> Iterable[ClassWords]:
        if self._sums is None:
            return (ClassWords(label, count, ()) for label, count in self._documents.items())
        return self._sums.classes(self._documents, self._min_count, self._words)

    def _positions(self) -> Positions | None:
        if self._sums is None:
            return None
        return Positions(self._in_documents.means(), self._in_sentences.means())

    def _calibration(self) -> Calibration | None:
        documents = int(self._bins[:, 0].sum())
        if not documents:
            return None
        bins = tuple(
            CalibrationBin(low, high, int(count), seven_digits(confidence / count), right / count)
            for low, high, (count, confidence, right) in zip(
                [0.0, *_EDGES], [*_EDGES, 1.0], self._bins.tolist(), strict=True
            )
            if count
        )
        gap = np.abs(self._bins[:, 1] - self._bins[:, 2]).sum() / documents
        return Calibration(bins, seven_digits(gap), documents)


def summarize(
    explanations: Iterable[Explanation],
    *,
    words: int = 50,
    examples: int = 3,
    min_count: int = 5,
    method: str | None = None,
) -> Overview:
    """Return the overview of explanations, such as `Predictor.explain` gives.

    Args:
        explanations: Explanations by one model and the same methods.
        words: How many words to keep a class.
        examples: How many examples to keep a word.
        min_count: Words that occur less often in the documents of a class are left out.
        method: Which method's figures order the words, see `OverviewBuilder`.

    Raises:
        ValueError: As by `OverviewBuilder` and its `add`.
    """
    builder = OverviewBuilder(words=words, examples=examples, min_count=min_count, method=method)
    for explanation in explanations:
        builder.add(explanation)
    return builder.build()


class _Profile:
    """Sums of lifts by place, over segments that are cut into tenths."""

    def __init__(self) -> None:
        self._sums = np.zeros(TENTHS)
        self._segments = 0

    def add(self, weights: Sequence[float], lengths: Sequence[int]) -> None:
        """Take in segments.

        Args:
            weights: (N,), those of each segment sum to 1.
            lengths: (S,), sums to N; a segment of length 0 counts for nothing.
        """
        weight = np.array(weights)
        length = np.array([[length] for length in lengths if length])
        starts = length.cumsum(0) - length
        places = length * np.arange(TENTHS + 1) / TENTHS  # (S, 11), in units of the segment
        before = np.minimum(places.astype(np.int64), length - 1)
        sums = np.concatenate([[0.0], weight.cumsum()])
        reached = sums[starts + before] + (places - before) * weight[starts + before]
        self._sums += TENTHS * np.diff(reached, axis=1).sum(0)
        self._segments += len(length)

    def means(self) -> tuple[float, ...]:
        """Return the mean lift in each tenth."""
        return tuple(map(seven_digits, (self._sums / self._segments).tolist()))
