"""What the model looked at, as data: frozen value objects that need neither torch nor the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "han.explanation/1"
SCHEMA_FILE = Path(__file__).with_name("explanation.schema.json")
STEPS = 9
"""How many steps the colour of a word has; step 0 is not coloured."""

METHOD_NAMES = {
    "attention": "attention",
    "attention_gradient": "attention × gradient",
    "gradient": "input × gradient",
    "occlusion": "occlusion",
}
"""The ways to explain, the cheapest first, and what people call them. All but the first are signed,
with a score a class."""

METHODS = tuple(METHOD_NAMES)


def method_name(method: str) -> str:
    """Return what people call a method; one that is not of `METHODS` keeps its name."""
    return METHOD_NAMES.get(method, method)


Span = tuple[int, int]
Scores = Mapping[str, tuple[float, ...]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Word:
    """One word and how much of the model's attention it had.

    Args:
        start: Where the word begins in the text, in Unicode code points.
        end: Where it ends; `text[start:end]` is the word as the author wrote it.
        weight: Its attention within its sentence, a_it; sums to 1 over the sentence.
        share: Its part of the document's attention, b_i * a_it; sums to 1 over the document.
        unknown: Whether the vocabulary lacks the word, so that the model saw only "some word".
        scores: Other methods' figures by the method's name, one number per class.
        heads: Where the model has several heads, each one's attention on the word within its
            sentence; of one network `weight` is their mean.
    """

    start: int
    end: int
    weight: float
    share: float
    unknown: bool = False
    scores: Scores = field(default_factory=dict, hash=False)
    heads: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and its words.

    Args:
        start: Where the sentence begins in the text, in Unicode code points.
        end: Where it ends.
        weight: Its attention within the document, b_i; sums to 1 over the document.
        words: Its words, in order.
        scores: Other methods' figures by the method's name, one number per class.
        heads: Where the model has several heads, each one's attention on the sentence within the
            document; `weight` is their mean.
    """

    start: int
    end: int
    weight: float
    words: tuple[Word, ...]
    scores: Scores = field(default_factory=dict, hash=False)
    heads: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Which model an explanation is of.

    Args:
        sha256: Digest of the model's weights, in hexadecimal.
        version: The version of `han` that explained.
    """

    sha256: str
    version: str


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """One classified document with the attention on each sentence and word.

    Lone surrogates, which no UTF-8 file can hold, are replaced by U+FFFD in every string; spans
    stay valid.

    Args:
        id: The document's identifier.
        text: The document as the author wrote it.
        labels: The classes that the model knows.
        probabilities: The probability of each class, in the order of `labels`; of each label by
            itself, where a document may have several.
        predicted: The class with the highest probability; of `predicted_labels`, if there are any.
        sentences: The sentences that the model read, in order; none for an empty document.
        model: The model that explains.
        true: The document's true class, where it is known.
        truncated: Spans of the text that the model did not read because of a length limit.
        faithfulness: How far the highlights can be trusted, by the figure's name.
        predicted_labels: Where a document may have several labels, those that it is given, perhaps
            none; else None. `predicted` is then what is explained unless another is asked for.
        true_labels: Where a document may have several labels, its true ones, if they are known.

    Raises:
        ValueError: Figures, labels or spans contradict each other.
    """

    id: str
    text: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    predicted: str
    sentences: tuple[Sentence, ...]
    model: ModelReference
    true: str | None = None
    truncated: tuple[Span, ...] = ()
    faithfulness: Mapping[str, Any] | None = field(default=None, hash=False)
    predicted_labels: tuple[str, ...] | None = None
    true_labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Make the strings encodable and refuse what no renderer could draw."""
        for name in ("id", "text", "predicted", "true"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _encodable(value))
        for name in ("labels", "predicted_labels", "true_labels"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(map(_encodable, values)))
        model = ModelReference(_encodable(self.model.sha256), _encodable(self.model.version))
        object.__setattr__(self, "model", model)
        if len(self.probabilities) != len(self.labels):
            raise ValueError(
                f"Explanation of {self.id!r}: {len(self.probabilities)} `probabilities` for "
                f"{len(self.labels)} `labels`; give one for each."
            )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"Explanation of {self.id!r}: `labels` repeats a class.")
        if self.predicted not in self.labels:
            raise ValueError(
                f"Explanation of {self.id!r}: `predicted` is {self.predicted!r}, "
                f"which is not one of `labels`."
            )
        if unknown := set(self.predicted_labels or ()) - {*self.labels}:
            raise ValueError(
                f"Explanation of {self.id!r}: `predicted_labels` has {min(unknown)!r}, which is "
                "not one of `labels`."
            )
        _check_numbers(f"`probabilities` of {self.id!r}", self.probabilities)
        _check_spans("`truncated`", self.truncated, 0, len(self.text))
        sentences = self.sentences
        _check_spans("`sentences`", [(s.start, s.end) for s in sentences], 0, len(self.text))
        _check_numbers("`weight` of `sentences`", [sentence.weight for sentence in sentences])
        for i, sentence in enumerate(sentences):
            spans = [(word.start, word.end) for word in sentence.words]
            _check_spans(f"`sentences[{i}].words`", spans, sentence.start, sentence.end)
            weights = [number for word in sentence.words for number in (word.weight, word.share)]
            _check_numbers(f"`weight` of `sentences[{i}].words`", weights)
        self._check_scores()
        _check_heads("sentence", [sentence.heads for sentence in sentences])
        _check_heads("word", [word.heads for word in self.words])
        if self.truncated:
            read = [(word.start, word.end) for word in self.words]
            _check_spans(
                "`truncated` and words", sorted([*self.truncated, *read]), 0, len(self.text)
            )

    def _check_scores(self) -> None:
        """Refuse scores that only some words have, or not for each class."""
        methods = self.sentences[0].scores.keys() if self.sentences else ()
        if METHODS[0] in methods:
            raise ValueError("`scores` must not have 'attention', which is `weight` and `share`.")
        for i, sentence in enumerate(self.sentences):
            all_scores = [sentence.scores, *(word.scores for word in sentence.words)]
            for scores in all_scores:
                if scores.keys() != methods:
                    raise ValueError(
                        f"`sentences[{i}]`: every sentence and word must have `scores` of the same "
                        f"methods, got {list(scores)} beside {list(methods)}."
                    )
            for method in methods:
                rows = [scores[method] for scores in all_scores]
                numbers = list(chain.from_iterable(rows))
                if {*map(len, rows)} != {len(self.labels)} or not all(map(math.isfinite, numbers)):
                    raise ValueError(
                        f"`sentences[{i}]`: `scores.{method}` must be {len(self.labels)} finite "
                        "numbers, one a class, of the sentence and of each of its words."
                    )

    @classmethod
    def from_attention(
        cls,
        *,
        id: str,
        text: str,
        labels: Sequence[str],
        probabilities: npt.ArrayLike,
        word_spans: npt.ArrayLike,
        sentence_spans: npt.ArrayLike,
        words_per_sentence: npt.ArrayLike,
        word_attention: npt.ArrayLike,
        sentence_attention: npt.ArrayLike,
        unknown: npt.ArrayLike,
        model: ModelReference,
        cut: Sequence[Span] = (),
        true: str | None = None,
        word_scores: Mapping[str, npt.ArrayLike] | None = None,
        sentence_scores: Mapping[str, npt.ArrayLike] | None = None,
        word_heads: npt.ArrayLike | None = None,
        sentence_heads: npt.ArrayLike | None = None,
        predicted_labels: Sequence[str] | None = None,
        true_labels: Sequence[str] | None = None,
    ) -> Explanation:
        """Make an explanation from a document's spans and the model's flat attention weights.

        Numbers are kept to seven significant digits, the precision of float32.

        Args:
            id: The document's identifier.
            text: The document as the author wrote it.
            labels: The C classes that the model knows.
            probabilities: (C,) probability of each class.
            word_spans: (N, 2) half-open spans of the words, in code points of `text`.
            sentence_spans: (S, 2) half-open spans of the sentences.
            words_per_sentence: (S,) sums to N.
            word_attention: (N,) sums to 1 over each sentence.
            sentence_attention: (S,) sums to 1.
            unknown: (N,) whether the vocabulary lacks the word.
            model: The model that explains.
            cut: Spans of the text that were not read because of a length limit.
            true: The document's true class, where it is known.
            word_scores: Other methods' figures by the method's name, each (N, C).
            sentence_scores: The same of the sentences, each (S, C).
            word_heads: (N, K), the word attention of each of several heads.
            sentence_heads: (S, K'), the sentence attention of each of several heads.
            predicted_labels: Those that the document is given, where it may have several.
            true_labels: Its true ones, where they are known.

        Returns:
            The explanation; empty where S is 0.

        Raises:
            ValueError: The arrays' lengths or the spans contradict each other.
        """
        words_per_sentence = np.asarray(words_per_sentence, dtype=np.int64).reshape(-1)
        word_attention = np.asarray(word_attention, dtype=np.float64).reshape(-1)
        sentence_attention = np.asarray(sentence_attention, dtype=np.float64).reshape(-1)
        word_spans = np.asarray(word_spans, dtype=np.int64).reshape(-1, 2)
        sentence_spans = np.asarray(sentence_spans, dtype=np.int64).reshape(-1, 2)
        unknown = np.asarray(unknown, dtype=bool).reshape(-1)
        num_words, num_sentences = len(word_spans), len(sentence_spans)
        if not (
            len(words_per_sentence) == len(sentence_attention) == num_sentences
            and len(word_attention) == len(unknown) == words_per_sentence.sum() == num_words
        ):
            raise ValueError(
                f"Explanation of {id!r}: {num_words} word spans, {len(word_attention)} word "
                f"weights, {len(unknown)} unknown flags, {num_sentences} sentence spans, "
                f"{len(sentence_attention)} sentence weights and {words_per_sentence.sum()} words "
                f"in {len(words_per_sentence)} sentences do not fit each other."
            )
        probabilities = np.asarray(probabilities, dtype=np.float64).reshape(-1)
        if len(probabilities) != len(labels):
            raise ValueError(
                f"Explanation of {id!r}: {len(probabilities)} `probabilities` for {len(labels)} "
                "`labels`; give one for each."
            )
        shares = word_attention * np.repeat(sentence_attention, words_per_sentence)
        shape = (num_words, len(labels))
        words = [
            Word(start, end, weight, share, missing, scores, heads)
            for (start, end), weight, share, missing, scores, heads in zip(
                word_spans.tolist(),
                _seven_digits(word_attention),
                _seven_digits(shares),
                unknown.tolist(),
                _scores_of_each(f"`word_scores` of {id!r}", word_scores, shape),
                _heads_of_each(f"`word_heads` of {id!r}", word_heads, num_words),
                strict=True,
            )
        ]
        shape = (num_sentences, len(labels))
        ends = np.cumsum(words_per_sentence).tolist()
        starts = [0, *ends[:-1]]
        sentences = tuple(
            Sentence(start, end, weight, tuple(words[first:last]), scores, heads)
            for (start, end), weight, first, last, scores, heads in zip(
                sentence_spans.tolist(),
                _seven_digits(sentence_attention),
                starts[:num_sentences],
                ends,
                _scores_of_each(f"`sentence_scores` of {id!r}", sentence_scores, shape),
                _heads_of_each(f"`sentence_heads` of {id!r}", sentence_heads, num_sentences),
                strict=True,
            )
        )
        return cls(
            id=id,
            text=text,
            labels=tuple(labels),
            probabilities=tuple(_seven_digits(probabilities)),
            predicted=max(
                predicted_labels or labels, key=lambda label: probabilities[labels.index(label)]
            ),
            sentences=sentences,
            model=model,
            true=true,
            truncated=tuple((int(start), int(end)) for start, end in cut),
            predicted_labels=None if predicted_labels is None else tuple(predicted_labels),
            true_labels=None if true_labels is None else tuple(true_labels),
        )

    @property
    def empty(self) -> bool:
        """Whether the model found no word, so that its answer is the classifier's bias alone."""
        return not self.words

    @property
    def words(self) -> tuple[Word, ...]:
        """Every word of the document, in order."""
        return tuple(word for sentence in self.sentences for word in sentence.words)

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
        return self.probabilities[self.labels.index(self.predicted)]

    @property
    def right(self) -> bool | None:
        """Whether the class, or all labels, are the true ones; None where those are not known."""
        if self.predicted_labels is None:
            return None if self.true is None else self.true == self.predicted
        return None if self.true_labels is None else {*self.true_labels} == {*self.predicted_labels}

    @property
    def share(self) -> tuple[float, ...]:
        """The share b_i * a_it of each word, for ranking and sums; sums to 1 over the document."""
        return tuple(word.share for word in self.words)

    @property
    def display(self) -> tuple[float, ...]:
        """The paper's sqrt(b_i) * a_it of each word, for colour within a document."""
        return tuple(
            math.sqrt(sentence.weight) * word.weight
            for sentence in self.sentences
            for word in sentence.words
        )

    @property
    def lift(self) -> tuple[float, ...]:
        """The share times S * T_i of each word, for comparing across documents; 1 means uniform."""
        num_sentences = len(self.sentences)
        return tuple(
            word.share * num_sentences * len(sentence.words)
            for sentence in self.sentences
            for word in sentence.words
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """The colour of each word, from 0 (none) to 8: `display` over its maximum, rounded."""
        display = self.display
        top = max(display, default=0.0) or 1.0
        return tuple(math.floor((STEPS - 1) * value / top + 0.5) for value in display)

    def of_head(self, word: int | None = None, sentence: int | None = None) -> Explanation:
        """Return the explanation with the attention of single heads in place of their mean.

        It draws itself as any other does.

        Args:
            word: Which head weighs the words, from 0; None for their mean.
            sentence: Which head weighs the sentences, from 0; None for their mean.

        Raises:
            ValueError: There is no such head.
        """
        sentences = []
        for of_all in self.sentences:
            of_sentence = _of_head("sentence", sentence, of_all.weight, of_all.heads)
            words = []
            for one in of_all.words:
                weight = _of_head("word", word, one.weight, one.heads)
                words.append(replace(one, weight=weight, share=_rounded(of_sentence * weight)))
            sentences.append(replace(of_all, weight=of_sentence, words=tuple(words)))
        return replace(self, sentences=tuple(sentences))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that explain this document: `"attention"`, and those with scores."""
        return ("attention", *(self.sentences[0].scores if self.sentences else ()))

    def scores(self, method: str, label: str | None = None) -> tuple[float, ...]:
        """Return each word's figure by one method, for ranking and sums.

        Args:
            method: One of `methods`.
            label: The class that the words speak for or against; by default the predicted one.
                Attention knows no classes: its figure is the share.

        Raises:
            ValueError: The explanation has no such method, or the model no such class.
        """
        if method == "attention":
            return self.share
        column = self._column(method, label)
        return tuple(word.scores[method][column] for word in self.words)

    def sentence_scores(self, method: str, label: str | None = None) -> tuple[float, ...]:
        """Return each sentence's figure by one method; as `scores`, for attention the weight."""
        if method == "attention":
            return tuple(sentence.weight for sentence in self.sentences)
        column = self._column(method, label)
        return tuple(sentence.scores[method][column] for sentence in self.sentences)

    def signed_steps(self, method: str, label: str | None = None) -> tuple[int, ...]:
        """Return the colour of each word by one method, from -8 (against the class) to 8 (for it).

        The step is the figure over the largest of any word and any class in the document, so that
        classes compare with each other. Attention has the steps of `steps`.

        Args:
            method: One of `methods`.
            label: The class; by default the predicted one.

        Raises:
            ValueError: The explanation has no such method, or the model no such class.
        """
        if method == "attention":
            return self.steps
        column = self._column(method, label)
        figures = [word.scores[method] for word in self.words]
        top = max((abs(value) for row in figures for value in row), default=0.0) or 1.0
        return tuple(
            int(math.copysign(math.floor((STEPS - 1) * abs(row[column]) / top + 0.5), row[column]))
            for row in figures
        )

    def _column(self, method: str, label: str | None) -> int:
        label = self.predicted if label is None else label
        if label not in self.labels:
            raise ValueError(f"The model knows no class {label!r}; it knows {list(self.labels)}.")
        if self.words and method not in self.methods:
            raise ValueError(
                f"Explanation of {self.id!r}: there are no scores of the method {method!r}, only "
                f"{list(self.methods)}."
            )
        return self.labels.index(label)

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `han.explanation/1`, made of JSON's types only."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "text": self.text,
            "offset_unit": "codepoint",
            "model": {"sha256": self.model.sha256, "version": self.model.version},
            "labels": list(self.labels),
            "probabilities": list(self.probabilities),
            "predicted": self.predicted,
            "true": self.true,
            "truncated": {"spans": [list(s) for s in self.truncated]} if self.truncated else None,
            "empty": self.empty,
            "sentences": [
                {
                    "start": sentence.start,
                    "end": sentence.end,
                    "weight": sentence.weight,
                    "scores": {name: list(values) for name, values in sentence.scores.items()},
                    **({"heads": list(sentence.heads)} if sentence.heads else {}),
                    "words": [
                        {
                            "start": word.start,
                            "end": word.end,
                            "weight": word.weight,
                            "share": word.share,
                            "unknown": word.unknown,
                            "scores": {name: list(values) for name, values in word.scores.items()},
                            **({"heads": list(word.heads)} if word.heads else {}),
                        }
                        for word in sentence.words
                    ],
                }
                for sentence in self.sentences
            ],
            "faithfulness": None if self.faithfulness is None else dict(self.faithfulness),
            **{
                name: list(values)
                for name in ("predicted_labels", "true_labels")
                if (values := getattr(self, name)) is not None
            },
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Explanation:
        """Read a record that `to_dict` made.

        Args:
            record: The record, as `json.loads` gives it.

        Returns:
            The explanation; `to_dict` of it is the record again.

        Raises:
            ValueError: A field is missing, has the wrong type or contradicts another.
        """
        if not isinstance(record, Mapping) or record.get("schema") != SCHEMA:
            found = record.get("schema") if isinstance(record, Mapping) else type(record).__name__
            raise ValueError(f"Not an explanation: `schema` must be {SCHEMA!r}, got {found!r}.")
        if (unit := _get(record, "offset_unit", str)) != "codepoint":
            raise ValueError(f"`offset_unit` must be 'codepoint', got {unit!r}.")
        model = _get(record, "model", dict)
        truncated = _get_or_none(record, "truncated", dict)
        explanation = cls(
            id=_get(record, "id", str),
            text=_get(record, "text", str),
            labels=_items(_get(record, "labels", list), "`labels`", str),
            probabilities=_items(_get(record, "probabilities", list), "`probabilities`", float),
            predicted=_get(record, "predicted", str),
            sentences=tuple(
                _sentence_from_dict(sentence, f"sentences[{i}]")
                for i, sentence in enumerate(_get(record, "sentences", list))
            ),
            model=ModelReference(
                sha256=_get(model, "sha256", str, where="model."),
                version=_get(model, "version", str, where="model."),
            ),
            true=_get_or_none(record, "true", str),
            truncated=() if truncated is None else _spans_from_dict(truncated),
            faithfulness=_get_or_none(record, "faithfulness", dict),
            **{
                name: _items(record[name], f"`{name}`", str)
                for name in ("predicted_labels", "true_labels")
                if name in record
            },
        )
        if _get(record, "empty", bool) != explanation.empty:
            raise ValueError(
                f"`empty` is {record['empty']}, but the record has {len(explanation.words)} words."
            )
        return explanation

    def to_json(self) -> str:
        """Return the record as one line of JSON, without a line end."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def to_html(self, title: str | None = None) -> str:
        """Return a whole HTML page of this document that works without a network.

        Args:
            title: The page's title; the document's id if none is given.
        """
        from han.report.html import render_html

        return render_html([self], title=self.id if title is None else title)

    def to_text(
        self,
        console: Console | None = None,
        *,
        method: str = "attention",
        label: str | None = None,
    ) -> str:
        """Return the explanation as lines for a terminal or a text file.

        Args:
            console: Whose width and colours to use; else 80 columns and no colours.
            method: The method whose figures to draw, one of `methods`.
            label: The class that they speak for or against; by default the predicted one.
        """
        from han.report.terminal import render_terminal

        return render_terminal(self, console, method=method, label=label)

    def to_markdown(self, *, method: str = "attention", label: str | None = None) -> str:
        """Return the explanation as Markdown; see `to_text` for the arguments."""
        from han.report.markdown import render_markdown

        return "".join(render_markdown([self], method=method, label=label))

    def to_latex(self, *, method: str = "attention", label: str | None = None) -> str:
        r"""Return a LaTeX document, also for `\input`; see `to_text` for the arguments."""
        from han.report.latex import render_latex

        return render_latex([self], method=method, label=label)

    def to_svg(self, *, method: str = "attention", label: str | None = None) -> str:
        """Return an SVG picture; see `to_text` for the arguments."""
        from han.report.svg import render_svg

        return render_svg([self], method=method, label=label)

    def _repr_html_(self) -> str:
        """Draw the explanation in a notebook."""
        from han.report.html import render_notebook

        return render_notebook(self)

    def __repr__(self) -> str:
        """Say what was predicted and how much text that rests on."""
        return (
            f"<Explanation of {self.id!r}: {self.predicted!r} with {self.probability:.3f}, "
            f"{len(self.sentences)} sentences, {len(self.words)} words>"
        )


def _encodable(text: str) -> str:
    """Replace each lone surrogate by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


def _seven_digits(values: npt.NDArray[np.float64]) -> list[float]:
    return [_rounded(value) for value in values.tolist()]


def _heads_of_each(
    name: str, heads: npt.ArrayLike | None, count: int
) -> Iterable[tuple[float, ...]]:
    """Return the weights of the heads of each of n words (or sentences)."""
    if heads is None:
        return repeat((), count)
    array = np.asarray(heads, dtype=np.float64)
    if array.ndim != 2 or len(array) != count:
        raise ValueError(f"{name} must be a row for each of {count}, got shape {array.shape}.")
    return (tuple(_seven_digits(row)) for row in array)


def _of_head(kind: str, head: int | None, mean: float, heads: Sequence[float]) -> float:
    if head is None:
        return mean
    if not 0 <= head < len(heads):
        there = f"only {len(heads)}, from 0" if heads else "only one, whose weights are shown"
        raise ValueError(
            f"There is no {kind} head {head}: there {'are' if heads else 'is'} {there}."
        )
    return heads[head]


def _check_heads(kind: str, heads: Sequence[tuple[float, ...]]) -> None:
    """Refuse heads that only some have, and weights that are none."""
    if len({*map(len, heads)}) > 1:
        raise ValueError(f"Every {kind} must have the weights of as many `heads`.")
    _check_numbers(f"`heads` of a {kind}", chain.from_iterable(heads))


def _scores_of_each(
    name: str, scores: Mapping[str, npt.ArrayLike] | None, shape: tuple[int, int]
) -> Iterable[Scores]:
    """Return the figures of each of n words (or sentences), a tuple of C numbers a method."""
    methods: list[Iterable[tuple[float, ...]]] = []
    for method, values in (scores or {}).items():
        array = np.asarray(values, dtype=np.float64)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(
                f"{name}: {method!r} must be finite numbers of shape {shape}, one a class; "
                f"got shape {array.shape}."
            )
        numbers = iter(_seven_digits(array.reshape(-1)))
        methods.append(zip(*[numbers] * shape[1], strict=True))
    if not scores:
        return ({} for _ in range(shape[0]))
    return (dict(zip(scores, rows, strict=True)) for rows in zip(*methods, strict=True))


def _check_spans(name: str, spans: Iterable[Span], start: int, end: int) -> None:
    """Refuse spans that are empty, overlap, are out of order or leave `[start, end)`."""
    at = start
    for i, (first, last) in enumerate(spans):
        if not at <= first < last <= end:
            raise ValueError(
                f"{name}[{i}] is the span [{first}, {last}); spans must increase, have at least "
                f"one code point, not overlap and lie in [{start}, {end})."
            )
        at = last


LARGEST = 1.000001  # of what is 1 up to rounding


def _check_numbers(name: str, numbers: Iterable[float]) -> None:
    for number in numbers:
        if not 0 <= number <= LARGEST:
            raise ValueError(f"{name} must be finite, not negative and at most 1, got {number}.")


def _sentence_from_dict(record: object, name: str) -> Sentence:
    where = f"{name}."
    return Sentence(
        start=_get(record, "start", int, where=where),
        end=_get(record, "end", int, where=where),
        weight=_get(record, "weight", float, where=where),
        words=tuple(
            _word_from_dict(word, f"{where}words[{i}].")
            for i, word in enumerate(_get(record, "words", list, where=where))
        ),
        scores=_scores_from_dict(record, where),
        heads=_heads_from_dict(record, where),
    )


def _word_from_dict(record: object, where: str) -> Word:
    return Word(
        start=_get(record, "start", int, where=where),
        end=_get(record, "end", int, where=where),
        weight=_get(record, "weight", float, where=where),
        share=_get(record, "share", float, where=where),
        unknown=_get(record, "unknown", bool, where=where),
        scores=_scores_from_dict(record, where),
        heads=_heads_from_dict(record, where),
    )


def _scores_from_dict(record: object, where: str) -> dict[str, tuple[float, ...]]:
    scores = _get(record, "scores", dict, where=where)
    return {
        name: _items(_get(scores, name, list, where=where), f"`{where}scores.{name}`", float)
        for name in scores
    }


def _heads_from_dict(record: object, where: str) -> tuple[float, ...]:
    """Return the heads of a sentence or word; a record has them where there are several."""
    if not isinstance(record, Mapping) or "heads" not in record:
        return ()
    return _items(record["heads"], f"`{where}heads`", float)


def _spans_from_dict(record: Mapping[str, Any]) -> tuple[Span, ...]:
    spans = [
        _items(span, "`truncated.spans`", int)
        for span in _get(record, "spans", list, where="truncated.")
    ]
    if any(len(span) != 2 for span in spans):
        raise ValueError("`truncated.spans` must hold pairs of start and end.")
    return tuple((start, end) for start, end in spans)


def _get(record: object, key: str, kind: type[T], where: str = "") -> T:
    """Return `record[key]` if it is of `kind`; where a float is asked for, an integer will do."""
    if not isinstance(record, Mapping):
        raise ValueError(f"`{where.rstrip('.')}` must be an object, got {record!r:.60}.")
    if key not in record:
        raise ValueError(f"`{where}{key}` is missing.")
    return _typed(record[key], f"`{where}{key}`", kind)


def _get_or_none(record: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    return None if key in record and record[key] is None else _get(record, key, kind)


def _items(values: object, name: str, kind: type[T]) -> tuple[T, ...]:
    return tuple(_typed(value, name, kind) for value in _typed(values, name, list))


def _typed(value: object, name: str, kind: type[T]) -> T:
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} must be {_JSON_NAMES[kind]}, got {value!r:.60}.")
    return value


_JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
}
