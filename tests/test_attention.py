from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from han.attention import AdditiveAttention, normalize_softmax


class TestNormalizeSoftmax:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.floats(0, 200))
    def test_equals_softmax_of_each_segment_alone(self, lengths: list[int], size: float) -> None:
        scores = size * torch.randn(sum(lengths), dtype=torch.float64)
        weights = normalize_softmax(scores[:, None], torch.tensor(lengths)).squeeze(1)
        expected = torch.cat([part.softmax(0) for part in scores.split(lengths)])
        torch.testing.assert_close(weights, expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_scores_of_200_stay_finite(self, dtype: torch.dtype) -> None:
        scores = torch.tensor([200.0, -200.0, -200.0, -200.0], dtype=dtype, requires_grad=True)
        weights = normalize_softmax(scores[:, None], torch.tensor([2, 2])).squeeze(1)
        assert weights.tolist() == [1.0, 0.0, 0.5, 0.5]
        weights[0].backward()
        assert scores.grad is not None
        assert scores.grad.isfinite().all()


class TestAdditiveAttention:
    def test_hand_computed(self) -> None:
        attention = AdditiveAttention(2, 1)
        with torch.no_grad():
            attention.projection.weight.copy_(torch.tensor([[1.0, -1.0]]))
            attention.projection.bias.fill_(0.5)
            attention.context.fill_(2.0)
        hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 5.0]])
        pooled, weights = attention(hidden, torch.tensor([2, 1]))

        scores = [2 * math.tanh(1.5), 2 * math.tanh(-0.5)]
        first = math.exp(scores[0]) / (math.exp(scores[0]) + math.exp(scores[1]))
        torch.testing.assert_close(weights, torch.tensor([[first], [1 - first], [1.0]]))
        torch.testing.assert_close(pooled, torch.tensor([[first, 1 - first], [3.0, 5.0]]))

    def test_sizes_need_not_match(self) -> None:
        pooled, weights = AdditiveAttention(6, 11)(torch.randn(5, 6), torch.tensor([2, 3]))
        assert pooled.shape == (2, 6)
        assert weights.shape == (5, 1)

    def test_an_empty_segment_pools_to_zeros(self) -> None:
        pooled, weights = AdditiveAttention(3, 2)(torch.randn(2, 3), torch.tensor([0, 2, 0]))
        assert pooled[0].tolist() == pooled[2].tolist() == [0.0, 0.0, 0.0]
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
