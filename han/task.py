"""What the kind of label decides: probabilities, decisions, the loss, what a label counts in it.

- `multiclass`: a document is of one of C classes.
- `multilabel`: it has any number of C labels, also none.
- `ordinal`: it is of one of C classes that have an order, such as ratings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Task = Literal["multiclass", "multilabel", "ordinal"]

THRESHOLD = 0.5
"""From which probability on a document has a label, where nothing else is known."""


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Return the probability (B, C) of each class, which sum to 1, or of each label.

    Args:
        logits: Floats (B, C), in the precision of the result. Those of an ordinal network are
            log-probabilities, so that they are read as those of any classes are.
        task: What labels are.
    """
    return logits.sigmoid() if task == "multilabel" else logits.softmax(1)


def decisions(scores: Tensor, task: Task, thresholds: Tensor | None) -> Tensor:
    """Return the likeliest class, int64 (B,), or whether a document has each label, int64 (B, C).

    Args:
        scores: Floats (B, C), probabilities; logits will do for classes.
        task: What labels are.
        thresholds: Floats (C,), from which probability on a document has a label, of `multilabel`.
    """
    if task == "multilabel":
        assert thresholds is not None
        return (scores >= thresholds).long()
    return scores.argmax(1)


def loss(
    logits: Tensor,
    targets: Tensor,
    task: Task,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return the cross-entropy, in nats: its mean, or that of each document (B,).

    Args:
        logits: Floats (B, C).
        targets: int64 (B,), the classes; of `multilabel` int64 (B, C), 1 where a document has a
            label. The loss is then the sum of the labels' binary cross-entropies: the logarithm of
            how likely all of a document's labels are together, were they independent.
        task: What labels are.
        weights: Floats (C,), how much each class counts, see `label_weights`. The mean is over
            the documents, not over their weights, so that a batch of frequent classes alone counts
            for less than another.
        smoothing: Share of each target's probability that is spread over all classes; of
            `multilabel` there is none, since it would give every rare label some probability.
        reduction: Whether to return the mean.
    """
    from torch.nn import functional  # here: who asks for the kind alone needs no torch

    if task == "multilabel":
        of_each = functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits), pos_weight=weights, reduction="none"
        ).sum(1)
    elif weights is None:
        return functional.cross_entropy(
            logits, targets, label_smoothing=smoothing, reduction=reduction
        )
    else:
        of_each = functional.cross_entropy(
            logits, targets, label_smoothing=smoothing, reduction="none"
        )
        of_each = of_each * weights.to(of_each)[targets]
    return of_each.mean() if reduction == "mean" else of_each


def initial_loss(num_classes: int, task: Task) -> float:
    """Return the loss, in nats, of a network that knows nothing."""
    return float(num_classes * np.log(2) if task == "multilabel" else np.log(num_classes))


def label_weights(
    given: Literal["balanced"] | Mapping[str, float],
    names: Sequence[str],
    labels: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """Return how much each label counts in the loss, float64 (C,).

    Of classes the mean over the documents is 1, so that the learning rate keeps its meaning. Of
    several labels it is how much having one counts beside not having it, which counts 1.

    Args:
        given: `balanced`, in inverse proportion to the documents of a class (King & Zeng 2001, as
            scikit-learn has it; of several labels to those that have one, beside those that have
            it not), or a weight by the label's name, 1 where it has none.
        names: The C labels.
        labels: (B,), each document's class; or (B, C), 1 where it has a label.

    Raises:
        ValueError: A name is not one of the labels, or a weight is not a number above 0.
    """
    several = labels.ndim == 2
    counts = (labels == 1).sum(0) if several else np.bincount(labels, minlength=len(names))
    if given != "balanced":
        weights = _by_name(given, names)
    elif several:
        weights = np.maximum(len(labels) - counts, 1) / np.maximum(counts, 1)
    else:
        weights = 1 / np.maximum(counts, 1)
    if not several:
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


def check_order(names: Sequence[str]) -> None:
    """Refuse classes whose names do not say in which order they are.

    Raises:
        ValueError: A name has no number.
    """
    for name in names:
        if not re.search(r"[0-9]", name):
            raise ValueError(
                f"`task` ordinal puts classes in the order of the numbers in their names, and "
                f"{name!r} has none; rename them, for instance '1 bad', '2 fair', '3 good'."
            )


def _by_name(given: Mapping[str, float], names: Sequence[str]) -> npt.NDArray[np.float64]:
    if unknown := [str(name) for name in given if str(name) not in names]:
        known = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
        raise ValueError(
            f"`class_weights` names {unknown[0]!r}, which is not one of the labels ({known})."
        )
    by_name = {str(name): float(weight) for name, weight in given.items()}
    return np.array([by_name.get(name, 1.0) for name in names])
