"""What a model looks at over a whole set of documents: words of each class, places, confidence."""

from __future__ import annotations

from han.overview.building import OverviewBuilder, summarize
from han.overview.values import (
    SCHEMA,
    Calibration,
    CalibrationBin,
    ClassWord,
    ClassWords,
    Example,
    Overview,
    Positions,
)

__all__ = [
    "SCHEMA",
    "Calibration",
    "CalibrationBin",
    "ClassWord",
    "ClassWords",
    "Example",
    "Overview",
    "OverviewBuilder",
    "Positions",
    "summarize",
]
