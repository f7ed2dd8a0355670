"""Figures of a classifier, by scikit-learn, and the thresholds that make the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from han.task import Task

FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "average_precision": "average precision",
    "mean_absolute_error": "mean absolute error",
    "quadratic_weighted_kappa": "quadratic weighted kappa",
}
"""What people call the figures of a whole set of documents; which there are, the task decides."""


def classification_figures(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str]
) -> dict[str, Any]:
    """Compare predicted with true classes.

    Args:
        targets: int (B,), the true classes.
        predictions: int (B,), the predicted classes.
        labels: The C classes' names.

    Returns:
        JSON values: `accuracy`, `macro_f1` (the mean over the classes of `labels`, also those
        without a document), `documents`, `per_class` (for each label `precision`, `recall`, `f1`
        and `documents`; 0 where a figure is not defined) and `confusion_matrix` (C x C counts, rows
        true and columns predicted).

    Raises:
        ValueError: There are no documents, or a class is not one of `labels`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if not len(targets):
        raise ValueError("There are no documents to compute figures of.")
    classes = np.arange(len(labels))
    if not np.isin([targets, predictions], classes).all():
        raise ValueError(f"A class is not one of the {len(labels)} labels, 0 to {len(labels) - 1}.")
    precision, recall, f1, documents = precision_recall_fscore_support(
        targets, predictions, labels=classes, zero_division=0.0
    )
    per_class = {
        label: {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "documents": int(documents[index]),
        }
        for index, label in enumerate(labels)
    }
    return {
        "accuracy": float(np.mean(targets == predictions)),
        "macro_f1": float(np.mean(f1)),
        "documents": len(targets),
        "per_class": per_class,
        "confusion_matrix": confusion_matrix(targets, predictions, labels=classes).tolist(),
    }


def ordinal_figures(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, labels: Sequence[str]
) -> dict[str, Any]:
    """Compare predicted with true classes that have an order.

    Args:
        targets: int (B,), the true classes.
        predictions: int (B,), the predicted classes.
        labels: The C classes' names, in their order.

    Returns:
        What `classification_figures` returns, and `mean_absolute_error` (how many classes lie
        between, on average: 1 for a neighbour) and `quadratic_weighted_kappa` (Cohen 1968; 1 is
        perfect, 0 is chance, and 0 where it is not defined).

    Raises:
        ValueError: As by `classification_figures`.
    """
    from sklearn.metrics import cohen_kappa_score

    figures = classification_figures(targets, predictions, labels)
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    kappa = 0.0
    if len(np.unique([targets, predictions])) > 1:
        classes = np.arange(len(labels))
        kappa = cohen_kappa_score(targets, predictions, labels=classes, weights="quadratic")
    return {
        "accuracy": figures.pop("accuracy"),
        "macro_f1": figures.pop("macro_f1"),
        "mean_absolute_error": float(np.abs(targets - predictions).mean()),
        "quadratic_weighted_kappa": float(kappa),
        **figures,
    }


def figures_of(
    task: Task,
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    labels: Sequence[str],
    scores: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Compare what was predicted with what is true, in the figures of a task.

    Args:
        task: What labels are.
        targets: int (B,) or, of `multilabel`, (B, C).
        predictions: The same.
        labels: The C labels' names.
        scores: Floats (B, C), of `multilabel`.
    """
    if task == "multilabel":
        assert scores is not None
        return multilabel_figures(targets, predictions, scores, labels)
    of_classes = ordinal_figures if task == "ordinal" else classification_figures
    return of_classes(targets, predictions, labels)


def multilabel_figures(
    targets: npt.ArrayLike,
    predictions: npt.ArrayLike,
    scores: npt.ArrayLike,
    labels: Sequence[str],
) -> dict[str, Any]:
    """Compare the labels that documents are given with those that they have.

    Args:
        targets: int (B, C), 1 where a document has a label.
        predictions: int (B, C), 1 where it is given one.
        scores: Floats (B, C), such as probabilities, by which average precision ranks documents.
        labels: The C labels' names.

    Returns:
        JSON values: `accuracy` (subset accuracy: the share of documents that are given exactly
        their labels), `macro_f1` (the mean over labels), `micro_f1` (over all decisions),
        `average_precision` (the mean over the labels that some document has), `documents`, and
        `per_class` (for each label `precision`, `recall`, `f1`, `average_precision` and
        `documents`; 0 where a figure is not defined).

    Raises:
        ValueError: There are no documents, or not a column for each label.
    """
    from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

    targets, predictions, scores = map(np.asarray, (targets, predictions, scores))
    if not len(targets):
        raise ValueError("There are no documents to compute figures of.")
    if not targets.shape == predictions.shape == scores.shape == (len(targets), len(labels)):
        raise ValueError(
            f"Labels of shape {targets.shape}, decisions of {predictions.shape} and scores of "
            f"{scores.shape} do not fit {len(labels)} labels."
        )
    precision, recall, f1, documents = precision_recall_fscore_support(
        targets, predictions, zero_division=0.0
    )
    known = documents > 0
    average_precision = np.zeros(len(labels))
    for index in np.flatnonzero(known):
        average_precision[index] = average_precision_score(targets[:, index], scores[:, index])
    return {
        "accuracy": float((targets == predictions).all(1).mean()),
        "macro_f1": float(np.mean(f1)),
        "micro_f1": float(f1_score(targets, predictions, average="micro", zero_division=0.0)),
        "average_precision": float(average_precision[known].mean()) if known.any() else 0.0,
        "documents": len(targets),
        "per_class": {
            label: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "average_precision": float(average_precision[index]),
                "documents": int(documents[index]),
            }
            for index, label in enumerate(labels)
        },
    }


def best_thresholds(
    targets: npt.ArrayLike, scores: npt.ArrayLike, default: float
) -> npt.NDArray[np.float64]:
    """Return for each label from which score on to give it, so that its F1 is the highest (C,).

    The threshold lies in the middle between two documents' scores (Lipton, Elkan & Naryanaswamy
    2014; of several that are as good, the highest). On the documents that it is chosen by, F1 is
    flattered, the more so the fewer of them have the label.

    Args:
        targets: int (B, C), 1 where a document has a label.
        scores: Floats (B, C), such as probabilities.
        default: The threshold of a label that no document has.
    """
    targets, scores = np.asarray(targets), np.asarray(scores)
    thresholds = np.full(targets.shape[1], default)
    for index in np.flatnonzero(targets.any(0)):
        order = np.argsort(-scores[:, index], kind="stable")
        score, right = scores[order, index], targets[order, index].cumsum()
        f1 = 2 * right / (np.arange(1, len(order) + 1) + right[-1])  # of giving it to so many
        apart = np.append(score[:-1] > score[1:], True)
        last = int(np.where(apart, f1, -1.0).argmax())
        below = score[last + 1] if last + 1 < len(score) else min(score[last], default)
        middle = (score[last] + below) / 2
        thresholds[index] = middle if middle > below else score[last]
    return thresholds
