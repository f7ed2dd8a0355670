"""What the kind of label decides: the loss, and how much each label counts in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional


def loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return the cross-entropy, in nats: its mean, or that of each document (B,).

    Args:
        logits: Floats (B, C).
        targets: int64 (B,), the classes.
        weights: Floats (C,), how much each class counts, see `label_weights`. The mean is over
            the documents, not over their weights, so that a batch of frequent classes alone counts
            for less than another.
        smoothing: Share of each target's probability that is spread over all classes.
        reduction: Whether to return the mean.
    """
    if weights is None:
        return functional.cross_entropy(
            logits, targets, label_smoothing=smoothing, reduction=reduction
        )
    of_each = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    of_each = of_each * weights.to(of_each)[targets]
    return of_each.mean() if reduction == "mean" else of_each


def label_weights(
    given: Literal["balanced"] | Mapping[str, float],
    names: Sequence[str],
    labels: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """Return how much each label counts in the loss, float64 (C,).

    The mean over the documents is 1, so that the learning rate keeps its meaning.

    Args:
        given: `balanced`, in inverse proportion to the documents of a class (King & Zeng 2001, as
            scikit-learn has it), or a weight by the label's name, 1 where it has none.
        names: The C labels.
        labels: (B,), each document's class.

    Raises:
        ValueError: A name is not one of the labels, or a weight is not a number above 0.
    """
    counts = np.bincount(labels, minlength=len(names))
    weights = 1 / np.maximum(counts, 1) if given == "balanced" else _by_name(given, names)
    weights *= counts.sum() / (weights @ counts)
    return weights


def check_weights(given: object) -> None:
    """Refuse weights that are no numbers above 0; what the labels are is not known yet.

    Raises:
        ValueError: One is not.
    """
    for name, weight in given.items() if isinstance(given, Mapping) else ():
        if not 0 < weight < float("inf"):
            raise ValueError(f"`class_weights` must be numbers above 0, got {weight} for {name!r}.")


def _by_name(given: Mapping[str, float], names: Sequence[str]) -> npt.NDArray[np.float64]:
    if unknown := [str(name) for name in given if str(name) not in names]:
        known = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
        raise ValueError(
            f"`class_weights` names {unknown[0]!r}, which is not one of the labels ({known})."
        )
    by_name = {str(name): float(weight) for name, weight in given.items()}
    return np.array([by_name.get(name, 1.0) for name in names])
