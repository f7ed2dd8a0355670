from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from han.task import check_weights, label_weights, loss

LABELS = np.repeat([0, 1, 2], [70, 20, 10])
NAMES = ("a", "b", "c")


class TestLabelWeights:
    def test_balanced_ones_are_scikit_learn_s(self) -> None:
        expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
        assert label_weights("balanced", NAMES, LABELS) == pytest.approx(expected)

    def test_given_ones_keep_their_ratio_and_have_the_mean_1(self) -> None:
        weights = label_weights({"c": 5.0}, NAMES, LABELS)
        assert weights[LABELS].mean() == pytest.approx(1)
        assert weights[2] / weights[0] == pytest.approx(5)
        assert weights[1] == weights[0]

    def test_a_class_without_documents_has_a_finite_one(self) -> None:
        assert np.isfinite(label_weights("balanced", (*NAMES, "d"), LABELS)).all()

    def test_a_name_that_is_no_label_is_refused(self) -> None:
        with pytest.raises(ValueError, match="`class_weights` names 'd', which is not one of"):
            label_weights({"d": 1.0}, NAMES, LABELS)

    @pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
    def test_what_is_no_weight_is_refused(self, weight: float) -> None:
        with pytest.raises(ValueError, match="`class_weights` must be numbers above 0, got"):
            check_weights({"a": weight})


class TestLoss:
    def test_weights_count_documents(self) -> None:
        logits, targets = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2])
        weights = torch.tensor([1.0, 2.0, 3.0])
        repeated = torch.tensor([0, 1, 2, 3, 3, 4, 4, 5, 5, 5])
        expected = functional.cross_entropy(
            logits[repeated], targets[repeated], label_smoothing=0.1, reduction="sum"
        )
        found = loss(logits, targets, weights=weights, smoothing=0.1)
        assert float(6 * found) == pytest.approx(float(expected))
