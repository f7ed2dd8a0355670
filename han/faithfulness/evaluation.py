"""Score every method of explanations by what happens to the decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from han.explanation import Explanation, Span
from han.faithfulness.figures import (
    BINS,
    DOCUMENT_FIGURES,
    RANDOM,
    Divergence,
    Faithfulness,
    MethodFigures,
    RationaleAgreement,
    UniformCheck,
)
from han.faithfulness.rankings import Marks, Ranking, Table, rank, score_agreement
from han.faithfulness.rationales import mark_words, score_rationales
from han.faithfulness.removal import Classifier, PerturbedDocument, WithAttention, score_removal


class NoWordsError(ValueError):
    """No document has a word that could be taken away."""


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
    section 4.2); the smallest part of the words whose removal changes the label, to a thousandth
    (Serrano & Smith 2019); Kendall's tau-b between the methods' absolute figures (Jain & Wallace
    2019).

    Args:
        classifier: A model that `han.load` returned, or any function from a list of B texts to
            their probabilities (B, C), with the classes in the order of the explanations' labels.
        explanations: Explanations of the documents to score, all by the same methods.
        rationales: By the position of a document in `explanations`, the spans that people marked,
            in code points; a document of which no word is marked is not compared.
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
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}.")
    generator = np.random.default_rng(seed)
    table = Table(resamples, seed)
    scored: list[Explanation] = []
    positions: list[int] = []
    marked: list[tuple[Marks, list[Ranking]]] = []
    total = 0
    for position, explanation in enumerate(explanations):
        total += 1
        if explanation.empty:
            continue
        if scored and explanation.methods != scored[0].methods:
            raise ValueError(
                f"{explanation.id}: explained by {list(explanation.methods)}, the documents before "
                f"it by {list(scored[0].methods)}; score documents that are explained alike."
            )
        scored.append(explanation)
        positions.append(position)
        document = PerturbedDocument(classifier, explanation)
        rankings = list(rank(explanation, document.label, random_rankings, generator))
        score_removal(table, document, rankings, bins)
        score_agreement(table, rankings)
        if rationales and position in rationales:
            marks = mark_words(explanation, rationales[position])
            if marks.any():
                marked.append((marks, rankings))
        if each is not None:
            methods = (*explanation.methods, RANDOM)
            each(
                position,
                {
                    method: {name: table.last(method, figure) for name, figure in DOCUMENT_FIGURES}
                    for method in methods
                },
            )
    if beyond := [position for position in rationales or {} if not 0 <= position < total]:
        raise ValueError(f"`rationales` has one of document {beyond[0]}; there are {total}.")
    if not scored:
        raise NoWordsError("There is no document with a word to score.")
    if marked:
        score_rationales(table, marked)
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
            _divergence(name, scored, positions, list(other), total, table)
            for name, other in (others or {}).items()
        ),
        seed=seed,
    )


def _figures(
    table: Table, method: str, methods: Sequence[str], num_bins: int, num_marked: int
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
            if other not in (method, RANDOM) and table.defined(method, f"tau {other}")
        },
        rationales=RationaleAgreement(
            num_marked,
            *(estimate(method, name) for name in ("precision", "recall", "f1", "iou_f1", "auprc")),
        )
        if num_marked
        else None,
        gain=None if method == RANDOM else table.gain(method, "aopc_comprehensiveness"),
    )


def _uniform(
    classifier: WithAttention, explanations: Sequence[Explanation], table: Table
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
    others: Sequence[Explanation],
    total: int,
    table: Table,
) -> Divergence:
    """Compare the attention of two models on the same words."""
    from scipy.special import rel_entr

    if len(others) != total:
        raise ValueError(f"{name}: {len(others)} explanations of {total} documents; give one each.")
    divergences, same = [], []
    for explanation, position in zip(explanations, positions, strict=True):
        pair = others[position]
        if pair.labels != explanation.labels:
            raise ValueError(
                f"{name}: it knows the classes {list(pair.labels)}, not "
                f"{list(explanation.labels)}; compare models of the same classes."
            )
        spans = [(word.start, word.end) for word in explanation.words]
        if spans != [(word.start, word.end) for word in pair.words]:
            raise ValueError(
                f"{name}: its explanation of {explanation.id!r} is of other words; compare models "
                "that find the same words in a text, on the same documents."
            )
        one, two = np.array(explanation.share), np.array(pair.share)
        one, two = one / one.sum(), two / two.sum()
        middle = (one + two) / 2
        nats = (rel_entr(one, middle).sum() + rel_entr(two, middle).sum()) / 2
        divergences.append(max(0.0, float(nats) / math.log(2)))  # rounding can make it negative
        same.append(explanation.predicted == pair.predicted)
    return Divergence(name, table.interval(np.array(divergences)), sum(same) / len(same))
