"""Sums over the occurrences of each word."""

from __future__ import annotations

import itertools
import re
from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from han.explanation import METHODS, Explanation, Span, Word
from han.overview.values import ClassWord, ClassWords, Example

PRIOR_DOCUMENTS = 10
"""A word's mean figure counts as if so many more documents had it, to no effect."""

LEAST_PART = 0.01
"""The weight of a word that is listed, at least, over that of the heaviest of its class."""

_SPACE = re.compile(r"(?:\s|<br\s*/?>)+", re.IGNORECASE)  # what parts words, and is none
_CONTEXT_WORDS, _CONTEXT_CHARACTERS = 8, 60  # shown on either side of an example
_CONTEXT_KEPT = 90  # characters, among which there may be much white space
_DECIMALS = 6  # of a mean lift; rounded weights that are even differ after these


class Block:
    """Documents that are added up together: their figures as flat lists, without the explanations.

    Those are many small objects, which would cost the garbage collector more than their sums take.

    Args:
        signed: The methods that have scores.
    """

    def __init__(self, signed: Iterable[str] = ()) -> None:
        self.ids: list[str] = []
        self.positions: list[int] = []
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

    def add(
        self, explanation: Explanation, words: Sequence[Word], position: int, label: str
    ) -> None:
        """Take in a document as one of `label`, its words and how many documents came before it."""
        text, sentences = explanation.text, explanation.sentences
        self.ids.append(explanation.id)
        self.positions.append(position)
        self.texts.append(text)
        self.classes.append(label)
        self.num_sentences.append(len(sentences))
        self.sentences += [(sentence.start, sentence.end) for sentence in sentences]
        self.sentence_weights += [sentence.weight for sentence in sentences]
        self.num_words += [len(sentence.words) for sentence in sentences]
        self.words += [text[word.start : word.end] for word in words]
        self.starts += [word.start for word in words]
        self.weights += [word.weight for word in words]
        self.shares += [word.share for word in words]
        self.unknown += [word.unknown for word in words]
        column = explanation.labels.index(label)
        for method, scores in self.scores.items():
            scores += [word.scores[method][column] for word in words]


_Occurrence = tuple[float, str, int, str, int, int, bool, bool, int]
"""The figure with its sign changed, the document's id, where the word starts; a piece of the text,
where the word starts and ends in it, whether the sentence begins before it and ends after
it; how many documents came before its own."""

_COUNT, _DOCUMENTS, _UNKNOWN, _SHARE, _LIFT, _SCORES = range(6)


class WordSums:
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

    def add(self, block: Block) -> None:
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
                self._class_word(name, rows[name], -weight)
                for weight, _, name in ranking[:words]
                if weight <= LEAST_PART * ranking[0][0]  # both are negative
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
        return list(map(seven_digits, weights.tolist()))

    def _class_word(self, name: str, row: int, weight: float) -> ClassWord:
        count, documents, unknown, *totals = self._sums[row].tolist()
        share, lift, *scores = (seven_digits(total / count) for total in totals)
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
        self, row: int, figure: float, block: Block, document: int, sentence: int, place: int
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
            block.positions[document],
        )
        insort(kept, occurrence)
        del kept[self._most :]
        if len(kept) == self._most:
            self._least[row] = -kept[-1][0]


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
    _, id, _, text, start, end, begins_before, ends_after, position = occurrence
    before, after = _SPACE.sub(" ", text[:start]), _SPACE.sub(" ", text[end:])
    before = _opening(before[::-1], begins_before)[::-1]
    return Example(id, before, text[start:end], _opening(after, ends_after), position)


def _opening(text: str, goes_on: bool) -> str:
    """Return the first words of a text of single spaces, and an ellipsis if there is more."""
    short = " ".join(text.split(" ")[:_CONTEXT_WORDS])
    if len(short) > _CONTEXT_CHARACTERS:
        short = short[:_CONTEXT_CHARACTERS]
        short = short.rpartition(" ")[0] or short
    return f"{short} …" if goes_on or len(short) < len(text) else short


def seven_digits(number: float) -> float:
    """Return a number to seven significant digits, as explanations have them."""
    return float(f"{number:.7g}")
