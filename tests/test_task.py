from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from han.task import check_order, check_weights, decisions, label_weights, loss, probabilities

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

    def test_of_several_labels_having_one_counts_as_much_as_not_having_it(self) -> None:
        labels = np.array([[1, 0], [0, 0], [0, 1], [0, 1]])
        assert label_weights("balanced", ("a", "b"), labels).tolist() == [3, 1]
        assert label_weights({"b": 4.0}, ("a", "b"), labels).tolist() == [1, 4]

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
        found = loss(logits, targets, "multiclass", weights=weights, smoothing=0.1)
        assert float(6 * found) == pytest.approx(float(expected))

    def test_of_several_labels_it_is_how_likely_they_are_together(self) -> None:
        logits, targets = torch.randn(5, 3), torch.randint(2, (5, 3))
        p = probabilities(logits.double(), "multilabel")
        likelihood = torch.where(targets == 1, p, 1 - p).prod(1)
        of_each = loss(logits, targets, "multilabel", smoothing=0.1, reduction="none")
        assert of_each.tolist() == pytest.approx((-likelihood.log()).tolist(), rel=1e-5)
        assert float(loss(logits, targets, "multilabel")) == pytest.approx(float(of_each.mean()))

    def test_weights_of_several_labels_count_where_a_document_has_them(self) -> None:
        logits, targets = torch.zeros(1, 2), torch.tensor([[1, 0]])
        weighted = loss(logits, targets, "multilabel", weights=torch.tensor([3.0, 7.0]))
        assert float(weighted) == pytest.approx((3 + 1) * np.log(2))


class TestDecisions:
    def test_a_threshold_is_reached_by_what_equals_it(self) -> None:
        p = torch.tensor([[0.2, 0.9], [0.1, 0.4]])
        found = decisions(p, "multilabel", torch.tensor([0.2, 0.5]))
        assert found.tolist() == [[1, 1], [0, 0]]

    def test_of_ordered_classes_it_is_the_likeliest(self) -> None:
        assert decisions(torch.tensor([[0.2, 0.5, 0.3]]), "ordinal", None).tolist() == [1]


class TestCheckOrder:
    def test_numbers_are_an_order(self) -> None:
        check_order(("1", "2 fair", "class 10"))

    def test_names_without_numbers_are_refused(self) -> None:
        with pytest.raises(ValueError, match="'good' has none; rename them"):
            check_order(("1", "good"))
