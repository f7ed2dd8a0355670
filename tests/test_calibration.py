from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import log_softmax, softmax

from han.calibration import (
    CONFIDENCES,
    calibration_figures,
    expected_calibration_error,
    fit_temperature,
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def make_documents(
    count: int, classes: int, temperature: float, seed: int = 0
) -> tuple[Floats, Integers]:
    """Return logits, and classes drawn with the probabilities softmax(logits / temperature)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2.0, size=(count, classes))
    true = softmax(logits / temperature, axis=1)
    draws = generator.random((count, 1))
    return logits, (true.cumsum(axis=1) < draws).sum(axis=1).clip(max=classes - 1)


def cross_entropy(logits: Floats, targets: Integers, temperature: float) -> float:
    rows = log_softmax(logits / temperature, axis=1)
    return float(-rows[np.arange(len(targets)), targets].mean())


def of_confidence(*confidences: float) -> Floats:
    """Return the probabilities of two classes, of which the first is the likelier."""
    return np.array([[one, 1 - one] for one in confidences])


class TestFitTemperature:
    @pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
    @pytest.mark.parametrize("classes", [2, 7])
    def test_it_recovers_that_of_the_documents(self, temperature: float, classes: int) -> None:
        documents = make_documents(20_000, classes, temperature)
        assert fit_temperature(*documents) == pytest.approx(temperature, rel=0.05)

    def test_it_makes_the_confidence_the_accuracy_where_all_logits_are_alike(self) -> None:
        logits = np.tile([math.log(3), 0.0], (10, 1))  # a confidence of 3 / 4
        targets = np.array([0] * 6 + [1] * 4)
        expected = math.log(3) / math.log(0.6 / 0.4)
        assert fit_temperature(logits, targets) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("seed", range(10))
    def test_the_cross_entropy_never_grows(self, seed: int) -> None:
        logits, targets = make_documents(5, 3, [0.3, 3.0][seed % 2], seed)
        temperature = fit_temperature(logits, targets)
        assert 0.05 <= temperature <= 20
        assert cross_entropy(logits, targets, temperature) <= cross_entropy(logits, targets, 1.0)

    @pytest.mark.parametrize("count", [1, 8, 98])
    def test_documents_that_are_all_right_make_no_surer_than_their_number(self, count: int) -> None:
        logits = np.tile([0.5, 0.0, -0.2], (count, 1))  # modest
        logits[:, 0] += np.linspace(0, 0.1, count)
        temperature = fit_temperature(logits, np.zeros(count, np.int64))
        confidence = softmax(logits / temperature, axis=1).max(axis=1).mean()
        assert confidence == pytest.approx((count + 1) / (count + 2), abs=1e-6)

    def test_who_is_surer_than_that_already_stays_so(self) -> None:
        assert fit_temperature(np.tile([9.0, 0.0], (5, 1)), np.zeros(5, np.int64)) == 1

    def test_it_is_bounded_where_all_are_wrong(self) -> None:
        found = fit_temperature(np.tile([9.0, 0.0], (5, 1)), np.ones(5, np.int64))
        assert found == pytest.approx(20, rel=1e-3)

    def test_a_class_without_documents_is_no_matter(self) -> None:
        logits, targets = make_documents(2000, 4, 0.5)
        kept = targets != 3
        found = fit_temperature(logits[kept], targets[kept])
        assert 0.05 < found < 20
        assert found != 1


class TestExpectedCalibrationError:
    def test_it_is_that_by_hand(self) -> None:
        # Bins: .95 and .97 (mean .96, half of them right), .62, and .71.
        probabilities = of_confidence(0.95, 0.97, 0.62, 0.71)
        found = expected_calibration_error(probabilities, np.array([0, 1, 0, 1]))
        assert found == pytest.approx((2 * (0.96 - 0.5) + (1 - 0.62) + 0.71) / 4, abs=1e-6)

    def test_certainty_is_in_the_last_bin(self) -> None:
        found = expected_calibration_error(of_confidence(1.0, 0.96), np.array([0, 1]))
        assert found == pytest.approx(0.98 - 0.5, abs=1e-6)

    def test_the_right_confidence_has_none(self) -> None:
        probabilities = of_confidence(*[0.75] * 4)
        assert expected_calibration_error(probabilities, np.array([0, 0, 1, 0])) == 0


class TestCalibrationFigures:
    def test_they_are_those_by_hand(self) -> None:
        before, after = of_confidence(0.6, 0.6, 0.6), of_confidence(0.75, 0.96, 0.75)
        found = calibration_figures(before, after, np.array([0, 0, 1]))
        assert found["documents"] == 3
        assert found["ece"]["before"] == pytest.approx(2 / 3 - 0.6, abs=1e-6)
        assert found["ece"]["after"] == pytest.approx((2 * (0.75 - 0.5) + 0.04) / 3, abs=1e-6)
        expected = -math.log(0.6 * 0.6 * 0.4) / 3, -math.log(0.75 * 0.96 * 0.25) / 3
        assert tuple(found["nll"].values()) == pytest.approx(expected)
        assert [row["min_confidence"] for row in found["coverage"]] == list(CONFIDENCES)
        by_threshold = {row["min_confidence"]: row for row in found["coverage"]}
        assert by_threshold[0.7]["coverage"] == 1
        assert by_threshold[0.7]["accuracy"] == pytest.approx(2 / 3)
        assert by_threshold[0.8]["coverage"] == pytest.approx(1 / 3)
        assert by_threshold[0.8]["accuracy"] == 1
        assert by_threshold[0.99] == {"min_confidence": 0.99, "coverage": 0, "accuracy": None}

    def test_a_class_held_impossible_leaves_a_finite_number(self) -> None:
        found = calibration_figures(of_confidence(1.0), of_confidence(0.9), np.array([1]))
        assert math.isfinite(found["nll"]["before"])
