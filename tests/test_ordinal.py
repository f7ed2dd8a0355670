from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from han.ordinal import ContinuationRatio


def make_head(num_classes: int = 4) -> ContinuationRatio:
    torch.manual_seed(0)
    return ContinuationRatio(3, num_classes)


class TestContinuationRatio:
    def test_each_probability_is_the_product_of_its_answers(self) -> None:
        head, documents = make_head(), torch.randn(5, 3)
        higher = head.higher(documents).sigmoid()
        above = torch.ones(5)
        for k, log_probability in enumerate(head(documents).unbind(1)):
            here = 1 - higher[:, k] if k < 3 else torch.ones(5)
            assert log_probability.exp().tolist() == pytest.approx((above * here).tolist())
            above = above * higher[:, k] if k < 3 else above

    def test_they_sum_to_one_and_stay_finite_whatever_the_weights(self) -> None:
        head = make_head()
        torch.nn.init.normal_(head.higher.weight, std=300)
        found = head(torch.randn(50, 3))
        assert found.isfinite().all()
        assert found.exp().sum(1).tolist() == pytest.approx([1] * 50)

    def test_the_loss_is_that_of_the_questions_that_arise(self) -> None:
        head, documents, targets = make_head(), torch.randn(4, 3), torch.tensor([0, 1, 2, 3])
        head.requires_grad_(requires_grad=False)
        higher = head.higher(documents)
        expected = sum(
            functional.binary_cross_entropy_with_logits(higher[i, k], torch.tensor(float(t > k)))
            for i, t in enumerate(targets.tolist())
            for k in range(min(t + 1, 3))
        )
        found = functional.cross_entropy(head(documents), targets, reduction="sum")
        assert float(found) == pytest.approx(float(expected))

    def test_two_classes_are_logistic_regression(self) -> None:
        head, documents = make_head(2), torch.randn(5, 3)
        expected = head.higher(documents)[:, 0].sigmoid()
        assert head(documents)[:, 1].exp().tolist() == pytest.approx(expected.tolist())

    def test_one_class_has_no_order(self) -> None:
        with pytest.raises(ValueError, match="`num_classes` must be at least 2"):
            make_head(1)
