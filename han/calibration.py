"""Probabilities that mean what they say: one temperature, and how far off they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, softmax
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Thresholds of which `calibration_figures` says how many documents they leave undecided."""

_LEAST, _MOST = 0.05, 20.0
_BELOW_ONE = 1 - 2.0**-24  # the largest float32 below 1: what is at 1 would be in a bin of its own

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


def fit_temperature(logits: Floats, targets: Integers) -> float:
    """Return the T with which softmax(logits / T) has the least cross-entropy (Guo et al. 2017).

    The cross-entropy is convex in 1 / T, and never larger than with T = 1. Where all documents are
    right it falls for ever as T does. Therefore T is no smaller, unless 1 is, than makes the mean
    confidence (n + 1) / (n + 2): after n right of n, so likely is it that the next one will be
    right (Laplace's rule of succession). A few documents cannot make a model sure of itself.

    Args:
        logits: (B, C) of documents that the network was not trained on, finite; at least one.
        targets: int (B,), their true classes.

    Returns:
        T, from 0.05 to 20; above 1 where the network is too sure of itself, below where too modest.
    """
    logits, rows = logits.astype(np.float64), np.arange(len(targets))

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[rows, targets].mean())

    def excess(log_temperature: float) -> float:
        confidence = softmax(logits / np.exp(log_temperature), axis=1).max(axis=1).mean()
        return float(confidence) - (len(targets) + 1) / (len(targets) + 2)

    bounds = (np.log(_LEAST), np.log(_MOST))
    found = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    best = float(found.x)
    if best < 0 and excess(best) > 0:
        best = brentq(excess, best, 0.0) if excess(0.0) < 0 else 0.0
    return float(np.exp(best)) if cross_entropy(best) < cross_entropy(0.0) else 1.0


def calibration_figures(before: Floats, after: Floats, targets: Integers) -> dict[str, Any]:
    """Compare probabilities without and with a temperature with what is true.

    Args:
        before: (B, C), the probability of each class without it; at least one document.
        after: (B, C), with it.
        targets: int (B,), the true classes.

    Returns:
        JSON values: `documents`; `ece` and `nll` (see `expected_calibration_error`; the mean
        negative log-probability of the true class, in nats), each an object of `before` and
        `after`; and `coverage`, for each of `CONFIDENCES` an object of `min_confidence`, `coverage`
        (the part of the documents of which one class has so much probability, after) and
        `accuracy` (of those; None where there are none).
    """
    confidence, right = after.max(axis=1), after.argmax(axis=1) == targets
    coverage = []
    for least in CONFIDENCES:
        decided = confidence >= least
        accuracy = float(right[decided].mean()) if decided.any() else None
        coverage.append(
            {"min_confidence": least, "coverage": float(decided.mean()), "accuracy": accuracy}
        )
    both = {"before": before, "after": after}
    return {
        "documents": len(targets),
        "ece": {name: expected_calibration_error(p, targets) for name, p in both.items()},
        "nll": {name: _negative_log_likelihood(p, targets) for name, p in both.items()},
        "coverage": coverage,
    }


def expected_calibration_error(probabilities: Floats, targets: Integers) -> float:
    """Return how far confidence and accuracy are apart, on average over documents.

    Documents are put into 15 bins of equal width by their highest probability; a document's
    distance is that between its bin's mean confidence and accuracy (Guo et al. 2017, eq. 3).

    Args:
        probabilities: (B, C), at least one document.
        targets: int (B,), the true classes.
    """
    found = multiclass_calibration_error(
        torch.from_numpy(np.minimum(probabilities, _BELOW_ONE)),
        torch.from_numpy(targets.astype(np.int64)),
        num_classes=probabilities.shape[1],
        n_bins=BINS,
    )
    return float(found)


def _negative_log_likelihood(probabilities: Floats, targets: Integers) -> float:
    of_true = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(of_true, np.finfo(np.float64).tiny)).mean())
