"""What a model looks at over a whole set of documents: words of each class, places, confidence."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from han.explanation import METHODS, Explanation, Span, Word

SCHEMA = "han.overview/1"
TENTHS = 10
"""Into how many parts documents and sentences are cut for `Positions`, and confidence into bins."""

PRIOR_DOCUMENTS = 10
"""A word's mean figure counts as if so many more documents had it, to no effect."""

_EDGES = [k / TENTHS for k in range(1, TENTHS)]
_BLOCK_WORDS = 32_768  # of documents that are added up together
_CONTEXT_WORDS, _CONTEXT_CHARACTERS = 8, 60  # shown on either side of an example
_CONTEXT_KEPT = 90  # characters, among which there may be much white space
_DECIMALS = 6  # of a mean lift; rounded weights that are even differ after these


@dataclass(frozen=True, slots=True)
class Example:
    """A word in its context.

    Args:
        id: The document's identifier.
        before: The text before the word, in its sentence, cut to a few words; white space is one
            space, and an ellipsis says that the sentence begins earlier.
        word: The word as its author wrote it.
        after: The text after it, in the same manner.
    """

    id: str
    before: str
    word: str
    after: str


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
        documents: Documents whose true class is known; one that the model has no name for is known
            too, and the model wrong.
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
        calibration: None where no true class is known.
        method: The method whose figures order the words and choose the examples.
    """

    documents: int
    classes: tuple[ClassWords, ...]
    positions: Positions | None
    calibration: Calibration | None
    method: str = METHODS[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the overview, made of JSON's types only."""
        return {"schema": SCHEMA} | {name: _json(value) for name, value in asdict(self).items()}


class OverviewBuilder:
    """Gathers an overview from explanations as they pass, without holding them.

    Words that differ in upper and lower case only are the same. In the list of a class they stand
    by their `weight`, and only those whose weight is above 0; none is left out for what it is. By a
    signed method, the weight is the mean figure for the class over the word's occurrences in the
    documents that were given the class. Attention does not say which class it is for. There, the
    weight is the mean of lift - 1, times a / (a + o), where a is the attention that the word has in
    a document of the class, on average, and o the same in all other documents. So what the model
    passes over, such as most stop words and punctuation, has no weight, and little has what it
    looks at whatever the class.

    A mean over few documents says little. The weight of a word that d documents have is taken times
    d / (d + 10), as if ten more had it to no effect.

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
        self._documents: dict[str, int] = {}
        self._bins = np.zeros((TENTHS, 3))
        self._signed: tuple[str, ...] = ()
        self._block = _Block()
        self._sums: _WordSums | None = None
        self._in_documents = _Profile()
        self._in_sentences = _Profile()

    def add(self, explanation: Explanation) -> None:
        """Take in one more document.

        Raises:
            ValueError: Its model has other labels than those of the documents before it, or other
                methods explain it.
        """
        label = explanation.predicted
        if not self._documents:
            self._documents = dict.fromkeys(explanation.labels, 0)
        elif explanation.labels != tuple(self._documents):
            raise ValueError(
                f"{explanation.id}: the model's labels are {list(explanation.labels)}, those of "
                f"the documents before it {list(self._documents)}; make an overview for each model."
            )
        if words := explanation.words:
            self._check_methods(explanation)
            self._block.add(explanation, words)
        self._documents[label] += 1
        if explanation.true is not None:
            confidence = explanation.probability
            right = explanation.true == label
            self._bins[bisect_left(_EDGES, confidence)] += (1, confidence, right)
        if len(self._block.words) >= _BLOCK_WORDS:
            self._add_up()

    def build(self) -> Overview:
        """Return the overview of the documents so far."""
        self._add_up()
        return Overview(
            documents=sum(self._documents.values()),
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
            self._block = _Block(signed)
            self._sums = _WordSums(tuple(self._documents), signed, method, self._examples)
        elif set(signed) != set(self._signed):
            raise ValueError(
                f"{explanation.id} is explained by {list(explanation.methods)}, the documents "
                f"before it by {[METHODS[0], *self._signed]}; explain all alike."
            )

    def _add_up(self) -> None:
        """Take the documents of the block into the sums, and begin a new one."""
        if self._sums is not None and self._block.words:
            block, self._block = self._block, _Block(self._signed)
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
            CalibrationBin(low, high, int(count), _short(confidence / count), right / count)
            for low, high, (count, confidence, right) in zip(
                [0.0, *_EDGES], [*_EDGES, 1.0], self._bins.tolist(), strict=True
            )
            if count
        )
        gap = np.abs(self._bins[:, 1] - self._bins[:, 2]).sum() / documents
        return Calibration(bins, _short(gap), documents)


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


class _Block:
    """Documents that are added up together: their figures as flat lists, without the explanations.

    Those are many small objects, which would cost the garbage collector more than their sums take.

    Args:
        signed: The methods that have scores.
    """

    def __init__(self, signed: Iterable[str] = ()) -> None:
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.classes: list[str] = []
        self.num_sentences: list[int] = []
        self.sentences: list[Span] = []
        self.sentence_weights: list[float] = []
        self.num_words: list[int] = []
        self.words: list[str] = []
        self.starts: list[int] = []
        self.weights: list[float] = []
        self.shares: list[float] = []
        self.unknown: list[bool] = []
        self.scores: dict[str, list[float]] = {method: [] for method in signed}

    def add(self, explanation: Explanation, words: Sequence[Word]) -> None:
        """Take in a document and its words."""
        text, sentences = explanation.text, explanation.sentences
        self.ids.append(explanation.id)
        self.texts.append(text)
        self.classes.append(explanation.predicted)
        self.num_sentences.append(len(sentences))
        self.sentences += [(sentence.start, sentence.end) for sentence in sentences]
        self.sentence_weights += [sentence.weight for sentence in sentences]
        self.num_words += [len(sentence.words) for sentence in sentences]
        self.words += [text[word.start : word.end] for word in words]
        self.starts += [word.start for word in words]
        self.weights += [word.weight for word in words]
        self.shares += [word.share for word in words]
        self.unknown += [word.unknown for word in words]
        column = explanation.labels.index(explanation.predicted)
        for method, scores in self.scores.items():
            scores += [word.scores[method][column] for word in words]


_Occurrence = tuple[float, str, int, str, int, int, bool, bool]
"""The figure with its sign changed, the document's id, where the word starts; a piece of the text,
where the word starts and ends in it, whether the sentence begins before it and ends after it."""

_COUNT, _DOCUMENTS, _UNKNOWN, _SHARE, _LIFT, _SCORES = range(6)


class _WordSums:
    """Sums over the occurrences of each word in the documents of each class.

    Args:
        labels: The classes.
        signed: The methods that have scores.
        method: Whose figures order the words and choose the examples.
        examples: How many examples to keep a word.
    """

    def __init__(
        self, labels: Iterable[str], signed: tuple[str, ...], method: str, examples: int
    ) -> None:
        self.method = method
        self._signed = signed
        next_row = itertools.count().__next__
        self._rows = {label: defaultdict[str, int](next_row) for label in labels}
        self._sums = np.zeros((0, _SCORES + len(signed)))
        self._most = examples
        self._examples: defaultdict[int, list[_Occurrence]] = defaultdict(list)
        self._least = np.zeros(0)  # what a figure must reach to be among the examples of its row

    def add(self, block: _Block) -> None:
        """Take in documents, at least one."""
        num_sentences, num_words = np.array(block.num_sentences), np.array(block.num_words)
        document_of_sentence = np.repeat(np.arange(len(num_sentences)), num_sentences)
        sentence_of = np.repeat(np.arange(len(num_words)), num_words)
        document_of = document_of_sentence[sentence_of]
        row_of = [self._rows[label].__getitem__ for label in block.classes]
        rows = np.array(
            [
                row_of[document](word.lower())
                for document, word in zip(document_of.tolist(), block.words, strict=True)
            ]
        )
        self._make_room(int(rows.max()) + 1)

        values = np.zeros((len(rows), self._sums.shape[1]))
        values[:, _COUNT] = 1
        values[:, _UNKNOWN] = block.unknown
        values[:, _SHARE] = block.shares
        evenly = num_sentences[document_of_sentence] * num_words
        values[:, _LIFT] = values[:, _SHARE] * evenly[sentence_of]
        for column, method in enumerate(self._signed, _SCORES):
            values[:, column] = block.scores[method]

        # The sort is stable: the words of a row stay in the order of the documents.
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        starts = _starts(rows, document_of[order])
        values[starts, _DOCUMENTS] = 1
        of_row = _starts(rows)
        self._sums[rows[of_row]] += np.add.reduceat(values, of_row)
        if self._most:
            figures = values[:, self._column]
            best = _places_of_largest(figures, starts)
            best = best[figures[best] >= self._least[rows[best]]]
            for row, figure, place in zip(
                rows[best].tolist(), figures[best].tolist(), order[best].tolist(), strict=True
            ):
                self._keep(row, figure, block, document_of[place], sentence_of[place], place)

    def classes(
        self, documents: Mapping[str, int], min_count: int, words: int
    ) -> Iterator[ClassWords]:
        """Yield the words of each class.

        Args:
            documents: How many documents each class has.
            min_count: How often a word must occur in them.
            words: How many words at most.
        """
        everywhere: defaultdict[str, float] = defaultdict(float)
        for rows in self._rows.values():
            shares = self._sums[list(rows.values()), _SHARE].tolist()
            for word, share in zip(rows, shares, strict=True):
                everywhere[word] += share
        for label, rows in self._rows.items():
            sums = self._sums[list(rows.values())]
            often = sums[:, _COUNT] >= min_count
            sums, names = sums[often], list(itertools.compress(rows, often))
            weights = self._weights(
                sums,
                np.array([everywhere[name] for name in names]),
                documents[label],
                sum(documents.values()) - documents[label],
            )
            ranking = sorted(
                (-weight, -count, name)
                for weight, count, name in zip(
                    weights, sums[:, _COUNT].tolist(), names, strict=True
                )
                if weight > 0
            )
            heaviest = [
                self._class_word(name, rows[name], -weight) for weight, _, name in ranking[:words]
            ]
            yield ClassWords(label, documents[label], tuple(heaviest))

    def _weights(
        self,
        sums: npt.NDArray[np.float64],
        everywhere: npt.NDArray[np.float64],
        documents: int,
        others: int,
    ) -> list[float]:
        """Return what the words of a class are ordered by, see `OverviewBuilder`.

        Args:
            sums: (W, columns), of the class.
            everywhere: (W,), the sum of each word's shares in all documents.
            documents: How many documents have the class.
            others: How many have another.
        """
        if self.method == METHODS[0]:
            here = sums[:, _SHARE] / max(documents, 1)
            both = here + (everywhere - sums[:, _SHARE]).clip(0) / max(others, 1)
            weights = (sums[:, _LIFT] / sums[:, _COUNT] - 1).round(_DECIMALS)
            weights *= np.divide(here, both, out=np.zeros(len(both)), where=both > 0)
        else:
            weights = sums[:, self._column] / sums[:, _COUNT]
        weights *= sums[:, _DOCUMENTS] / (sums[:, _DOCUMENTS] + PRIOR_DOCUMENTS)
        return list(map(_short, weights.tolist()))

    def _class_word(self, name: str, row: int, weight: float) -> ClassWord:
        count, documents, unknown, *totals = self._sums[row].tolist()
        share, lift, *scores = (_short(total / count) for total in totals)
        return ClassWord(
            word=name,
            occurrences=int(count),
            documents=int(documents),
            share=share,
            lift=lift,
            scores=dict(zip(self._signed, scores, strict=True)),
            examples=tuple(map(_example, self._examples.get(row, ()))),
            weight=weight,
            unknown=unknown == count,
        )

    @property
    def _column(self) -> int:
        """The column of the figures of `method`."""
        if self.method == METHODS[0]:
            return _SHARE
        return _SCORES + self._signed.index(self.method)

    def _make_room(self, num_rows: int) -> None:
        missing = num_rows - len(self._sums)
        if missing > 0:
            missing = max(missing, len(self._sums))
            self._sums = np.pad(self._sums, ((0, missing), (0, 0)))
            self._least = np.pad(self._least, (0, missing), constant_values=-np.inf)

    def _keep(
        self, row: int, figure: float, block: _Block, document: int, sentence: int, place: int
    ) -> None:
        """Keep an occurrence if it is among the best of its row."""
        kept = self._examples[row]
        if len(kept) == self._most and -figure > kept[-1][0]:
            return
        (begin, end), start = block.sentences[sentence], block.starts[place]
        stop = start + len(block.words[place])
        first, last = max(start - _CONTEXT_KEPT, begin), min(stop + _CONTEXT_KEPT, end)
        occurrence = (
            -figure,
            block.ids[document],
            start,
            block.texts[document][first:last],
            start - first,
            stop - first,
            begin < first,
            last < end,
        )
        insort(kept, occurrence)
        del kept[self._most :]
        if len(kept) == self._most:
            self._least[row] = -kept[-1][0]


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
        return tuple(map(_short, (self._sums / self._segments).tolist()))


def _starts(*keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where runs of equal keys begin."""
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


def _places_of_largest(
    figures: npt.NDArray[np.float64], starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return where the largest figure of each run stands, the first where several are."""
    runs = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(figures)))
    largest = np.flatnonzero(figures == np.maximum.reduceat(figures, starts)[runs])
    return largest[_starts(runs[largest])]


def _example(occurrence: _Occurrence) -> Example:
    """Return an occurrence for people to read."""
    _, id, _, text, start, end, begins_before, ends_after = occurrence
    before = _opening(text[:start][::-1], begins_before)[::-1]
    return Example(id, before, text[start:end], _opening(text[end:], ends_after))


def _opening(text: str, goes_on: bool) -> str:
    """Return the first words of a text, with single spaces, and an ellipsis if there is more."""
    spaced = re.sub(r"\s+", " ", text)
    short = " ".join(spaced.split(" ")[:_CONTEXT_WORDS])
    if len(short) > _CONTEXT_CHARACTERS:
        short = short[:_CONTEXT_CHARACTERS]
        short = short.rpartition(" ")[0] or short
    return f"{short} …" if goes_on or len(short) < len(spaced) else short


def _short(number: float) -> float:
    """Return a number to seven significant digits, as explanations have them."""
    return float(f"{number:.7g}")


def _json(value: object) -> object:
    """Return what `asdict` makes, with lists for tuples."""
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    return value
