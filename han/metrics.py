"""Final figures of a classifier, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


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
