"""Attention over ragged segments: scores become weights that sum to 1 within each segment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from han import kernel


def segment_index(lengths: Tensor) -> Tensor:
    """Return which segment each element belongs to: int64 (sum of lengths,) from int64 (S,)."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def segment_softmax(scores: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """Softmax within each segment, stable for scores of any size.

    Args:
        scores: Floats (N,).
        segments: int64 (N,), the segment of each score, see `segment_index`.
        num_segments: S; segments may be empty.

    Returns:
        Weights (N,), at least 0; those of one segment sum to 1. Computed in single precision where
        `scores` have less.
    """
    precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
    highest = precise.new_full((num_segments,), -torch.inf)
    highest = highest.scatter_reduce(0, segments, precise.detach(), "amax")
    exponentials = (precise - highest[segments]).exp()
    sums = precise.new_zeros(num_segments).index_add(0, segments, exponentials)
    return (exponentials / sums[segments]).to(scores.dtype)


class AdditiveAttention(nn.Module):
    """Pool each segment with a learned context vector.

    u_t = tanh(W h_t + b);  weight_t = exp(u_t . u_w) / sum over the segment;
    s = sum of weight_t h_t  (Yang et al. 2016: eqs. 5-7 for words, 8-10 for sentences).

    Args:
        input_size: Width D of each hidden state (2H for a bidirectional GRU).
        attention_size: Width A of the projection and of the context vector.
    """

    def __init__(self, input_size: int, attention_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(input_size, attention_size)
        self.context = nn.Parameter(torch.empty(attention_size))
        nn.init.normal_(self.context, std=attention_size**-0.5)

    def make_uniform(self) -> None:
        """Give each state of a segment the same weight: the context is 0, and not trained."""
        nn.init.zeros_(self.context).requires_grad_(False)

    def forward(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the hidden states of each segment.

        Args:
            hidden: Floats (N, D), segment after segment.
            lengths: int64 (S,), sums to N; an empty segment pools to zeros.

        Returns:
            Pooled vectors (S, D) and weights (N,).
        """
        parameters = (self.projection.weight, self.projection.bias, self.context)
        if kernel.usable(hidden, *parameters):
            return kernel.attention(hidden, *parameters, lengths)
        scores = self.projection(hidden).tanh() @ self.context  # (N,)
        segments = segment_index(lengths)
        weights = segment_softmax(scores, segments, len(lengths))
        weighted = hidden * weights[:, None]
        pooled = weighted.new_zeros(len(lengths), hidden.shape[1])
        return pooled.index_add(0, segments, weighted), weights
