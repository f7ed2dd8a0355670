"""How far explanations can be trusted: what happens to the decision when words are taken away."""

from __future__ import annotations

from han.faithfulness.evaluation import NoWordsError, evaluate
from han.faithfulness.figures import (
    BINS,
    DOCUMENT_FIGURES,
    RANDOM,
    SCHEMA,
    Divergence,
    Estimate,
    Faithfulness,
    MethodFigures,
    RationaleAgreement,
    UniformCheck,
)
from han.faithfulness.rationales import rationale_spans
from han.faithfulness.removal import Classifier, Perturbable, WithAttention

__all__ = [
    "BINS",
    "DOCUMENT_FIGURES",
    "RANDOM",
    "SCHEMA",
    "Classifier",
    "Divergence",
    "Estimate",
    "Faithfulness",
    "MethodFigures",
    "NoWordsError",
    "Perturbable",
    "RationaleAgreement",
    "UniformCheck",
    "WithAttention",
    "evaluate",
    "rationale_spans",
]
