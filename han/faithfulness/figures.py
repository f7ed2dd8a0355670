"""The figures: value objects that need neither the model nor the documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

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
        low: The lower end of the interval; the mean itself where one document was scored, which
            tells nothing of others.
        high: The upper end of the interval; likewise.
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
        over_random: `aopc_comprehensiveness` over that of the random rankings; None where that may
            be zero.
        word_flip: The smallest part of the words whose removal, in rank order, changes the label;
            1 where none does. Less is better.
        sentence_flip: The same of sentences.
        flipped: The part of the documents whose label some removal of words changes.
        rank_agreement: Kendall's tau-b with each other method, of the absolute figures; a method
            is missing where no document has an order to compare.
        rationales: The agreement with what people marked, where that is known.
        gain: `aopc_comprehensiveness` less that of the random rankings of the same documents.
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
    gain: Estimate | None = None


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
        left_out: How many documents of the sample were too long to be scored.
    """

    documents: int
    words: int
    bins: tuple[float, ...]
    methods: tuple[MethodFigures, ...]
    uniform: UniformCheck | None = None
    divergence: tuple[Divergence, ...] = ()
    seed: int = 0
    left_out: int = 0

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
        from han.faithfulness.summary import summarize

        return tuple(summarize(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `han.faithfulness/1`, made of JSON's types only."""
        figures = json.loads(json.dumps(asdict(self), allow_nan=False))
        return {"schema": SCHEMA, "summary": list(self.summary()), **figures}

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=2)
