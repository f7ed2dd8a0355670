"""How far explanations can be trusted: what happens to the decision when words are taken away."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from han.explanation import METHOD_NAMES, Explanation, Span

SCHEMA = "han.faithfulness/1"
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Parts of a document's words that are taken away or kept (DeYoung et al. 2020)."""

RANDOM = "random"
"""The name of the ranking that knows nothing."""

DOCUMENT_FIGURES = (
    ("comprehensiveness", "aopc_comprehensiveness"),
    ("sufficiency", "aopc_sufficiency"),
    ("word_flip", "word_flip"),
    ("sentence_flip", "sentence_flip"),
)
"""The figures of one document, and which of `MethodFigures` is the mean of each."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over documents and its bootstrap interval of 95 %.

    Args:
        mean: The mean.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RationaleAgreement:
    """How a ranking agrees with what people marked (DeYoung et al. 2020).

    Args:
        documents: Documents with a rationale.
        precision: Of the words chosen (as many as people mark on average), the part people marked.
        recall: Of the words people marked, the part chosen.
        f1: Their harmonic mean, a document at a time.
        iou_f1: F1 of runs of words, where a run counts as found at an intersection over union of
            at least 0.5.
        auprc: Area under the curve of precision and recall over all thresholds.
    """

    documents: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    iou_f1: Estimate
    auprc: Estimate


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """What one ranking of the words is worth.

    Args:
        method: The name of the method; `"random"` is the mean of several random rankings.
        comprehensiveness: For each bin, p of the predicted class minus p without the top words.
        sufficiency: For each bin, p of the predicted class minus p with the top words alone.
        aopc_comprehensiveness: The mean over the bins; more is better.
        aopc_sufficiency: The mean over the bins; less is better.
        over_random: `aopc_comprehensiveness` over that of the random rankings.
        word_flip: The smallest part of the words whose removal, in rank order, changes the label;
            1 where none does. Less is better.
        sentence_flip: The same of sentences.
        flipped: The part of the documents whose label some removal of words changes.
        rank_agreement: Kendall's tau-b with each other method, of the absolute figures.
        rationales: The agreement with what people marked, where that is known.
    """

    method: str
    comprehensiveness: tuple[Estimate, ...]
    sufficiency: tuple[Estimate, ...]
    aopc_comprehensiveness: Estimate
    aopc_sufficiency: Estimate
    over_random: Estimate | None
    word_flip: Estimate
    sentence_flip: Estimate
    flipped: float
    rank_agreement: Mapping[str, Estimate] = field(default_factory=dict, hash=False)
    rationales: RationaleAgreement | None = None


@dataclass(frozen=True, slots=True)
class UniformCheck:
    """What becomes of the decisions when every word and sentence gets the same attention.

    Args:
        same_label: The part of the documents that keep their label.
        probability_change: Mean absolute change of the predicted class's probability.
        accuracy: Accuracy as trained, on the documents whose true class is one of the model's.
        uniform_accuracy: Accuracy with uniform attention, on the same.
    """

    same_label: float
    probability_change: Estimate
    accuracy: float | None = None
    uniform_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """How differently another model, trained alike, distributes its attention.

    Args:
        model: The other model.
        words: Jensen-Shannon divergence of the words' shares, in bits: 0 (same) to 1.
        same_label: The part of the documents to which both give the same label.
    """

    model: str
    words: Estimate
    same_label: float


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """The figures of every method on a sample of documents.

    Args:
        documents: How many documents were scored.
        words: How many words they have.
        bins: The parts of the words that are taken away or kept.
        methods: The figures of each method, `"random"` last.
        uniform: The check with uniform attention, of models that have attention.
        divergence: The comparison with other models.
        seed: Of the sample, the random rankings and the bootstrap.
    """

    documents: int
    words: int
    bins: tuple[float, ...]
    methods: tuple[MethodFigures, ...]
    uniform: UniformCheck | None = None
    divergence: tuple[Divergence, ...] = ()
    seed: int = 0

    def of(self, method: str) -> MethodFigures:
        """Return the figures of one method.

        Raises:
            KeyError: It was not scored.
        """
        for figures in self.methods:
            if figures.method == method:
                return figures
        raise KeyError(f"{method!r} was not scored, only {[f.method for f in self.methods]}.")

    def summary(self) -> tuple[str, ...]:
        """Say in plain sentences what the figures mean for this model."""
        return tuple(_summary(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `han.faithfulness/1`, made of JSON's types only."""
        return {"schema": SCHEMA, "summary": list(self.summary()), **_as_json(asdict(self))}

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=2)


class NoWordsError(ValueError):
    """No document has a word that could be taken away."""


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


def evaluate(
    classifier: Classifier,
    explanations: Iterable[Explanation],
    *,
    rationales: Mapping[int, Sequence[Span]] | None = None,
    others: Mapping[str, Iterable[Explanation]] | None = None,
    each: Callable[[int, dict[str, dict[str, float]]], object] | None = None,
    bins: Sequence[float] = BINS,
    random_rankings: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> Faithfulness:
    """Score every method of explanations by what happens to the classifier's decisions.

    Words are taken away in the order of a method's figures for the predicted class, the largest
    first; ties keep the order of the text. A model that `han.load` returns reads what is left with
    the sentences' boundaries as they were; any other classifier gets the text without those
    characters. Documents without a word are left out.

    comprehensiveness_k = p(x) - p(x without the top n_k words), sufficiency_k = p(x) - p(the top
    n_k words alone), of the predicted class, with n_k = max(1, ceil(k N)) (DeYoung et al. 2020,
    section 4.2); the smallest part of the words whose removal changes the label (Serrano & Smith
    2019); Kendall's tau-b between the methods' absolute figures (Jain & Wallace 2019).

    Args:
        classifier: A model that `han.load` returned, or any function from a list of B texts to
            their probabilities (B, C), with the classes in the order of the explanations' labels.
        explanations: Explanations of the documents to score, all by the same methods.
        rationales: By the position of a document in `explanations`, the spans that people marked,
            in code points.
        others: By another model's name, its explanations of the same documents in the same order.
        each: Called after each document with its position in `explanations` and its own figures by
            method (`DOCUMENT_FIGURES`), as `Explanation.faithfulness` holds them.
        bins: Parts of the words to take away, each above 0 and at most 1.
        random_rankings: How many random rankings the baseline is the mean of.
        resamples: Of the bootstrap over documents, for the intervals.
        seed: Of the random rankings and the bootstrap.

    Returns:
        The figures of each method and of the random rankings.

    Raises:
        NoWordsError: No document has a word.
        ValueError: A bin is out of range, the explanations are by different methods, the classifier
            returns something else than probabilities, or another model's explanations are of other
            documents or other words.
    """
    if not bins or any(not 0 < part <= 1 for part in bins):
        raise ValueError(f"`bins` must be above 0 and at most 1, got {tuple(bins)}.")
    if random_rankings < 1 or resamples < 1:
        raise ValueError("`random_rankings` and `resamples` must be at least 1.")
    generator = np.random.default_rng(seed)
    table = _Table(resamples, seed)
    scored: list[Explanation] = []
    positions: list[int] = []
    marked: list[tuple[_Marks, list[_Ranking]]] = []
    for position, explanation in enumerate(explanations):
        if explanation.empty:
            continue
        if scored and explanation.methods != scored[0].methods:
            raise ValueError(
                f"{explanation.id}: explained by {list(explanation.methods)}, the documents before "
                f"it by {list(scored[0].methods)}; score documents that are explained alike."
            )
        scored.append(explanation)
        positions.append(position)
        document = _Document(classifier, explanation)
        rankings = list(_rankings(explanation, document.label, random_rankings, generator))
        _score_removal(table, document, rankings, bins)
        _score_agreement(table, rankings)
        if rationales and position in rationales:
            marked.append((_marks(explanation, rationales[position]), rankings))
        if each is not None:
            methods = (*explanation.methods, RANDOM)
            each(
                position,
                {
                    method: {name: table.last(method, figure) for name, figure in DOCUMENT_FIGURES}
                    for method in methods
                },
            )
    if not scored:
        raise NoWordsError("There is no document with a word to score.")
    if marked:
        _score_rationales(table, marked)
    methods = (*scored[0].methods, RANDOM)
    return Faithfulness(
        documents=len(scored),
        words=sum(len(explanation.words) for explanation in scored),
        bins=tuple(bins),
        methods=tuple(
            _figures(table, method, methods, len(bins), len(marked)) for method in methods
        ),
        uniform=_uniform(classifier, scored, table)
        if isinstance(classifier, WithAttention)
        else None,
        divergence=tuple(
            _divergence(name, scored, positions, other, table)
            for name, other in (others or {}).items()
        ),
        seed=seed,
    )


def rationale_spans(rationale: object, text: str) -> tuple[Span, ...]:
    """Read what people marked in a text, in one of the ways in which corpora hold it.

    Args:
        rationale: A list of spans, each a pair of start and end or an object with `start` and
            `end`, in code points; or a mark, 0 or 1, for each of the text's words between white
            space, as a list or as a string such as `"00110"`. Either may be JSON.
        text: The text.

    Returns:
        Spans in code points, in the order of the text.

    Raises:
        ValueError: It is none of these, or does not fit the text; the message says why.
    """
    if isinstance(rationale, str):
        if rationale.strip().startswith("["):
            try:
                rationale = json.loads(rationale)
            except ValueError as error:
                raise ValueError(f"is no JSON ({error})") from error
        else:
            rationale = ["01".find(mark) for mark in rationale.strip()]
    if not isinstance(rationale, list | tuple):
        raise ValueError(f"must be spans, or marks of 0 and 1, got {rationale!r:.60}")
    if all(type(mark) in (int, bool) for mark in rationale):
        words = [match.span() for match in re.finditer(r"\S+", text)]
        if len(rationale) != len(words) or not all(mark in (0, 1) for mark in rationale):
            raise ValueError(
                f"must have a 0 or 1 for each of the text's {len(words)} words between white "
                f"space, got {len(rationale)} marks"
            )
        return tuple(word for word, mark in zip(words, rationale, strict=True) if mark)
    spans = []
    for span in rationale:
        pair = [span.get("start"), span.get("end")] if isinstance(span, dict) else span
        if (
            not isinstance(pair, list | tuple)
            or [type(number) for number in pair] != [int, int]
            or not 0 <= pair[0] < pair[1] <= len(text)
        ):
            raise ValueError(
                f"must hold spans [start, end] within the text's {len(text)} characters, got "
                f"{span!r:.60}"
            )
        spans.append((pair[0], pair[1]))
    return tuple(sorted(spans))


_Marks = npt.NDArray[np.bool_]


class _Document:
    """One document and what the classifier makes of its variants."""

    def __init__(self, classifier: Classifier, explanation: Explanation) -> None:
        self.num_words = len(explanation.words)
        self._classifier = classifier
        self._explanation = explanation
        whole = self.probabilities(np.ones((1, self.num_words), bool))[0]
        self.label = int(whole.argmax())
        self.probability = float(whole[self.label])

    def probabilities(self, kept: _Marks) -> npt.NDArray[np.float64]:
        """Return the probabilities (M, C) of variants that have the words of (M, N)."""
        explanation = self._explanation
        found: npt.ArrayLike
        if isinstance(self._classifier, Perturbable):
            found = self._classifier.masked_probabilities(explanation.text, kept)
        else:
            found = self._classifier([_text_of(explanation, row) for row in kept])
        rows = np.asarray(found, np.float64)
        shape = (len(kept), len(explanation.labels))
        if rows.shape != shape or not np.isfinite(rows).all():
            raise ValueError(
                f"{explanation.id}: the classifier must return finite probabilities of shape "
                f"{shape}, a row for each text and a column for each of {list(explanation.labels)};"
                f" it returned shape {rows.shape}."
            )
        return rows


def _text_of(explanation: Explanation, kept: _Marks) -> str:
    """Return the text without the characters of the words that are not kept."""
    parts, at = [], 0
    for word, keep in zip(explanation.words, kept.tolist(), strict=True):
        if not keep:
            parts.append(explanation.text[at : word.start])
            at = word.end
    return "".join((*parts, explanation.text[at:]))


@dataclass(frozen=True, slots=True)
class _Ranking:
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
    ) -> _Ranking:
        figures = np.asarray(words, np.float64)
        of_sentence = _places(np.asarray(sentences, np.float64))
        return cls(method, figures, _places(figures), np.repeat(of_sentence, words_per_sentence))


def _places(figures: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the place of each figure, the largest first; ties keep their order."""
    places = np.empty(len(figures), np.int64)
    places[np.argsort(-figures, kind="stable")] = np.arange(len(figures))
    return places


def _rankings(
    explanation: Explanation, label: int, random_rankings: int, generator: np.random.Generator
) -> Iterator[_Ranking]:
    """Yield the rankings of a document: by each method for a class, and random ones."""
    name = explanation.labels[label]
    lengths = [len(sentence.words) for sentence in explanation.sentences]
    for method in explanation.methods:
        words, sentences = (
            explanation.scores(method, name),
            explanation.sentence_scores(method, name),
        )
        yield _Ranking.of(method, words, sentences, lengths)
    for _ in range(random_rankings):
        of_words, of_sentences = generator.random(sum(lengths)), generator.random(len(lengths))
        yield _Ranking.of(RANDOM, of_words, of_sentences, lengths)


class _Table:
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
        """Return the mean of documents' figures, and its interval; 0 where none is defined."""
        values = values[~np.isnan(values)]
        if len(values) == 0:
            return Estimate(0.0, 0.0, 0.0)
        return self._bootstrap((values,), np.mean)

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


def _by_method(rankings: Sequence[_Ranking]) -> dict[str, list[int]]:
    """Return the indices of each method's rankings."""
    rows: dict[str, list[int]] = {}
    for index, ranking in enumerate(rankings):
        rows.setdefault(ranking.method, []).append(index)
    return rows


def _score_removal(
    table: _Table, document: _Document, rankings: Sequence[_Ranking], bins: Sequence[float]
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
    for method, rows in _by_method(rankings).items():
        for name, of_rankings in zip(("comprehensiveness", "sufficiency"), lost, strict=True):
            for k in range(len(bins)):
                table.add(method, f"{name} {k}", of_rankings[rows, k].tolist())
            table.add(method, f"aopc_{name}", of_rankings[rows].mean(1).tolist())
        table.add(method, "word_flip", word_flips[rows].clip(max=1).tolist())
        table.add(method, "sentence_flip", sentence_flips[rows].clip(max=1).tolist())
        table.add(method, "flipped", (word_flips[rows] <= 1).astype(float).tolist())


def _first_flips(document: _Document, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return by which part of the units the label first changes, as they are taken away in order.

    Args:
        document: The document.
        places: (R, N), the place of each word's unit (itself or its sentence) in each order.

    Returns:
        (R,), above 0 and at most 1; infinity where the label never changes.
    """
    flips = np.full(len(places), np.inf)
    num_units = int(places.max()) + 1
    start, step = 1, 8
    while start <= num_units and np.isinf(flips).any():
        counts = np.arange(start, min(start + step, num_units + 1))
        rows = np.isinf(flips).nonzero()[0]
        kept = places[rows, None] >= counts[:, None]  # (R', K, N)
        found = document.probabilities(kept.reshape(-1, document.num_words)).argmax(1)
        flipped = found.reshape(len(rows), len(counts)) != document.label
        first = counts[flipped.argmax(1)] / num_units
        flips[rows] = np.where(flipped.any(1), first, np.inf)
        start, step = start + step, min(2 * step, 64)
    return flips


def _score_agreement(table: _Table, rankings: Sequence[_Ranking]) -> None:
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


def _marks(explanation: Explanation, spans: Sequence[Span]) -> _Marks:
    """Return which words (N,) overlap what people marked."""
    starts = np.array([word.start for word in explanation.words])
    ends = np.array([word.end for word in explanation.words])
    marked = np.zeros(len(starts), bool)
    for start, end in spans:
        marked |= (starts < end) & (start < ends)
    return marked


def _score_rationales(
    table: _Table, documents: Sequence[tuple[_Marks, Sequence[_Ranking]]]
) -> None:
    """Compare the words of largest figure, as many as people mark on average, with theirs."""
    from sklearn.metrics import auc, precision_recall_curve

    part = float(np.mean([marked.mean() for marked, _ in documents]))
    for marked, rankings in documents:
        count = max(1, round(part * len(marked)))
        figures: list[dict[str, float]] = []
        for ranking in rankings:
            chosen = ranking.place < count
            both = int((chosen & marked).sum())
            precision, recall = both / count, both / marked.sum() if marked.any() else math.nan
            auprc = math.nan
            if marked.any():
                precisions, recalls, _ = precision_recall_curve(marked, ranking.words)
                auprc = float(auc(recalls, precisions))
            figures.append(
                {
                    "precision": precision,
                    "recall": float(recall),
                    "f1": 2 * both / (count + int(marked.sum())),
                    "iou_f1": _iou_f1(_runs(chosen), _runs(marked)),
                    "auprc": auprc,
                }
            )
        for method, rows in _by_method(rankings).items():
            for name in figures[0]:
                table.add(method, name, [figures[row][name] for row in rows])


def _runs(marks: _Marks) -> list[Span]:
    """Return the runs of marked words, as half-open spans of positions."""
    edges = np.diff(marks.astype(np.int8), prepend=0, append=0).nonzero()[0].tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _iou_f1(chosen: Sequence[Span], marked: Sequence[Span]) -> float:
    """Return the F1 of runs, found where intersection over union is at least a half."""

    def found(run: Span, others: Sequence[Span]) -> bool:
        for start, end in others:
            both = min(end, run[1]) - max(start, run[0])
            if both > 0 and 2 * both >= max(end, run[1]) - min(start, run[0]):
                return True
        return False

    right = sum(found(run, marked) for run in chosen)
    seen = sum(found(run, chosen) for run in marked)
    if not right or not seen:
        return 0.0
    precision, recall = right / len(chosen), seen / len(marked)
    return 2 * precision * recall / (precision + recall)


def _figures(
    table: _Table, method: str, methods: Sequence[str], num_bins: int, num_marked: int
) -> MethodFigures:
    """Gather what the table has of one method."""
    estimate = table.estimate
    return MethodFigures(
        method=method,
        comprehensiveness=tuple(
            estimate(method, f"comprehensiveness {k}") for k in range(num_bins)
        ),
        sufficiency=tuple(estimate(method, f"sufficiency {k}") for k in range(num_bins)),
        aopc_comprehensiveness=estimate(method, "aopc_comprehensiveness"),
        aopc_sufficiency=estimate(method, "aopc_sufficiency"),
        over_random=None if method == RANDOM else table.ratio(method, "aopc_comprehensiveness"),
        word_flip=estimate(method, "word_flip"),
        sentence_flip=estimate(method, "sentence_flip"),
        flipped=float(table.column(method, "flipped").mean()),
        rank_agreement={}
        if method == RANDOM
        else {
            other: estimate(method, f"tau {other}")
            for other in methods
            if other not in (method, RANDOM)
        },
        rationales=RationaleAgreement(
            num_marked,
            *(estimate(method, name) for name in ("precision", "recall", "f1", "iou_f1", "auprc")),
        )
        if num_marked
        else None,
    )


def _uniform(
    classifier: WithAttention, explanations: Sequence[Explanation], table: _Table
) -> UniformCheck:
    """Compare the model's decisions with those it makes with uniform attention."""
    labels = explanations[0].labels
    found = classifier.uniform_probabilities([explanation.text for explanation in explanations])
    trained = np.array([explanation.probabilities for explanation in explanations])
    before, after = trained.argmax(1), found.argmax(1)
    rows = np.arange(len(explanations))
    change = np.abs(trained[rows, before] - found[rows, before])

    def accuracy(predicted: npt.NDArray[np.int64]) -> float | None:
        pairs = zip(explanations, predicted.tolist(), strict=True)
        right = [one.true == labels[best] for one, best in pairs if one.true in labels]
        return sum(right) / len(right) if right else None

    return UniformCheck(
        same_label=float((before == after).mean()),
        probability_change=table.interval(change),
        accuracy=accuracy(before),
        uniform_accuracy=accuracy(after),
    )


def _divergence(
    name: str,
    explanations: Sequence[Explanation],
    positions: Sequence[int],
    other: Iterable[Explanation],
    table: _Table,
) -> Divergence:
    """Compare the attention of two models on the same words."""
    from scipy.spatial.distance import jensenshannon

    others = list(other)
    divergences, same = [], []
    for explanation, position in zip(explanations, positions, strict=True):
        pair = others[position] if position < len(others) else None
        spans = [(word.start, word.end) for word in explanation.words]
        if pair is None or spans != [(word.start, word.end) for word in pair.words]:
            raise ValueError(
                f"{name}: its explanation of {explanation.id!r} is of other words; compare models "
                "that find the same words in a text, on the same documents."
            )
        divergences.append(float(jensenshannon(explanation.share, pair.share, base=2)) ** 2)
        same.append(explanation.predicted == pair.predicted)
    return Divergence(name, table.interval(np.array(divergences)), sum(same) / len(same))


def _as_json(value: Any) -> Any:  # noqa: ANN401  # whatever JSON can hold
    """Return tuples as lists, throughout."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value


def _summary(result: Faithfulness) -> Iterator[str]:
    """Yield the sentences of a summary, the most important first."""
    attention, random = result.of("attention"), result.of(RANDOM)
    k = min(range(len(result.bins)), key=lambda k: abs(result.bins[k] - 0.1))
    part = f"{100 * result.bins[k]:g} %"
    yield _verdict(result)
    yield (
        f"Taking away the {part} of words with most attention lowers the probability of the "
        f"predicted class by {_with_interval(attention.comprehensiveness[k])}; as many random "
        f"words lower it by {random.comprehensiveness[k].mean:.2f}."
    )
    yield (
        f"With those {part} alone, the probability is {_change(attention.sufficiency[k])}; with as "
        f"many random words alone, {_change(random.sufficiency[k])}."
    )
    yield (
        f"Until the label changes, {_percent(attention.word_flip.mean)} of the words must go in "
        f"the order of attention, {_percent(random.word_flip.mean)} in random order (means over "
        "documents; 100 % where it never changes)."
    )
    best = max(result.methods, key=lambda figures: figures.aopc_comprehensiveness.mean)
    if best.method not in ("attention", RANDOM):
        yield (
            f"Of the methods, {METHOD_NAMES[best.method]} finds the words that matter best: over "
            f"all parts they lower the probability by {_over_random(best)}, those of attention by "
            f"{_over_random(attention)}."
        )
    if (occlusion := attention.rank_agreement.get("occlusion")) is not None:
        yield (
            f"Attention {_agreement(occlusion.mean)} ranks words as their occlusion does "
            f"(Kendall's tau-b {_with_interval(occlusion)}; 1 is the same order, 0 chance)."
        )
    if (uniform := result.uniform) is not None:
        accuracies = ""
        if uniform.accuracy is not None and uniform.uniform_accuracy is not None:
            accuracies = f"; accuracy {uniform.accuracy:.3f}, then {uniform.uniform_accuracy:.3f}"
        yield (
            f"With the same attention on every word and sentence, {_percent(uniform.same_label)} "
            f"of the documents keep their label{accuracies}. The more they are, the less of the "
            "decision lies in the attention."
        )
    for other in result.divergence:
        yield (
            f"{other.model} gives {_percent(other.same_label)} of the documents the same label, "
            f"and its attention diverges by {_with_interval(other.words)} (Jensen-Shannon, in "
            "bits: 0 is the same attention, 1 none in common)."
        )
    if attention.rationales is not None and random.rationales is not None:
        people, chance = attention.rationales, random.rationales
        yield (
            f"Of the words with most attention, people marked {_percent(people.precision.mean)} "
            f"(of random words {_percent(chance.precision.mean)}), in {people.documents} documents "
            "with rationales."
        )


def _verdict(result: Faithfulness) -> str:
    """Say how far the highlights of attention can be trusted."""
    attention = result.of("attention").aopc_comprehensiveness
    random = result.of(RANDOM).aopc_comprehensiveness
    best = max(figures.aopc_comprehensiveness.mean for figures in result.methods)
    if attention.low <= random.high:
        return "Attention tells no more than chance which words the decision rests on."
    if attention.mean < best / 2:
        return (
            "Attention points to words that matter, but to less than half of what the best method "
            "finds; use that one where much hangs on it."
        )
    return "Attention points to words that matter to the decision."


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.2f} (95 % interval {estimate.low:.2f} to {estimate.high:.2f})"


def _change(lost: Estimate) -> str:
    if abs(lost.mean) < 0.005:
        return "the same"
    return f"{abs(lost.mean):.2f} {'lower' if lost.mean > 0 else 'higher'}"


def _over_random(figures: MethodFigures) -> str:
    mean = f"{figures.aopc_comprehensiveness.mean:.2f}"
    if figures.over_random is None:
        return mean
    return f"{mean}, {figures.over_random.mean:.1f} times what random words do"


def _agreement(tau: float) -> str:
    return "hardly" if tau < 0.2 else "partly" if tau < 0.5 else "largely"


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"
