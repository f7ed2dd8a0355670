"""`han fit` of a network that pools by the maximum instead of by attention: HN-MAX.

    python -m tests.benchmarks.max_pooling fit --config configs/paper.yaml ...

Yang et al. 2016 compare their network with it in Table 2. There are no weights to learn and none to
show, so that `han` itself does not have it: the model directory that this leaves is not to be read.
"""

from __future__ import annotations

import sys
from unittest import mock

import torch
from torch import Tensor

from han.attention import AttentionPooling, segment_index
from han.cli import main


class MaxPooling(AttentionPooling):
    """Pool each segment by the largest value of each element: there is nothing to learn."""

    def forward(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the hidden states of each segment.

        Args:
            hidden: Floats (N, D), segment after segment.
            lengths: int64 (S,), sums to N; an empty segment pools to zeros.

        Returns:
            Pooled vectors (S, D), and for each state (N, 1) the share of the elements of the vector
            that it supplies (of those that several supply, the same part each).
        """
        segments = segment_index(lengths)
        index = segments[:, None].expand_as(hidden)
        pooled = hidden.new_zeros(len(lengths), hidden.shape[1])
        pooled = pooled.scatter_reduce(0, index, hidden, "amax", include_self=False)
        supplies = (hidden == pooled[segments]).to(hidden.dtype)
        suppliers = torch.zeros_like(pooled).index_add(0, segments, supplies)
        return pooled, (supplies / suppliers[segments]).mean(1, keepdim=True)


if __name__ == "__main__":
    with mock.patch("han.model.attention_pooling", side_effect=lambda *_: MaxPooling()):
        sys.exit(main(sys.argv[1:]))
