"""Classify documents with a hierarchical attention network, and see what it looked at."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from han.datamodule import HANDataModule
    from han.estimator import HANClassifier
    from han.explanation import Explanation
    from han.model import Ensemble, HierarchicalAttentionNetwork
    from han.module import HANModule
    from han.predictor import load

__all__ = [
    "Ensemble",
    "Explanation",
    "HANClassifier",
    "HANDataModule",
    "HANModule",
    "HierarchicalAttentionNetwork",
    "load",
]

_HOMES = {
    "Ensemble": "han.model",
    "Explanation": "han.explanation",
    "HANClassifier": "han.estimator",
    "HANDataModule": "han.datamodule",
    "HANModule": "han.module",
    "HierarchicalAttentionNetwork": "han.model",
    "load": "han.predictor",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import han` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
