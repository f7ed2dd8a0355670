"""Scores become weights: at least 0, and those of a segment sum to 1.

Each takes the scores (N, K) of segments that lie one after the other, and int64 (S,), how many
each has; the K columns do not know of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from han.attention.segments import alike, segment_index

Normalization = Literal[
    "softmax", "sparsemax", "entmax", "hard_reinforce", "hard_gumbel", "uniform"
]
Normalize = Callable[[Tensor, Tensor], Tensor]


def normalize_softmax(scores: Tensor, lengths: Tensor) -> Tensor:
    """Softmax within each segment, stable for scores of any size.

    Args:
        scores: Floats (N, K).
        lengths: int64 (S,), sums to N; segments may be empty.

    Returns:
        Weights (N, K), all above 0 up to rounding. Computed in single precision where `scores` have
        less.
    """
    segments = segment_index(lengths)
    precise = _precise(scores)
    highest = precise.new_full((len(lengths), scores.shape[1]), -torch.inf)
    columns = segments[:, None].expand_as(precise)
    highest = highest.scatter_reduce(0, columns, precise.detach(), "amax")
    exponentials = (precise - highest[segments]).exp()
    sums = torch.zeros_like(highest).index_add(0, segments, exponentials)
    return (exponentials / sums[segments]).to(scores.dtype)


def normalize_sparsemax(scores: Tensor, lengths: Tensor) -> Tensor:
    """Project each segment's scores onto the simplex (Martins & Astudillo 2016).

    Takes and returns what `normalize_softmax` does; scores that are 1 below the highest weigh 0.
    """
    from entmax import sparsemax

    return _of_alike(sparsemax, scores, lengths)


def normalize_entmax(scores: Tensor, lengths: Tensor) -> Tensor:
    """Entmax of alpha 1.5 within each segment, between softmax and sparsemax (Peters et al. 2019).

    Takes and returns what `normalize_softmax` does; scores that are 2 below the highest weigh 0.
    """
    from entmax import entmax15

    return _of_alike(entmax15, scores, lengths)


def normalize_uniform(scores: Tensor, lengths: Tensor) -> Tensor:
    """Weigh all the same, whatever the scores; takes and returns what `normalize_softmax` does."""
    share = lengths.to(scores.dtype).reciprocal().repeat_interleave(lengths)
    return share[:, None].expand_as(scores)


class HardReinforce(nn.Module):
    """Look at one unit a segment (Xu et al. 2015, section 4.1): drawn in training, else the best.

    In training a unit is drawn with the probabilities of softmax, and has weight 1. The draw has no
    gradient: what it was worth is for the loss to say, which finds here how likely it was
    (REINFORCE: Williams 1992).

    Attributes:
        draw: Of the last training pass, the logarithm of the probability of each segment's draw and
            the entropy that the draw had, floats (S, K) in nats; else None. An empty segment has 0.
    """

    draw: tuple[Tensor, Tensor] | None = None

    def forward(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Return weights (N, K), of which one in each segment and column is 1, the others 0."""
        segments = segment_index(lengths)
        self.draw = None
        if not self.training:
            return _of_highest(scores, lengths)
        drawn = _of_highest(_with_gumbel_noise(scores), lengths).to(scores.dtype)
        probabilities = normalize_softmax(_precise(scores), lengths)
        logarithms = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        of_segments = logarithms.new_zeros(len(lengths), scores.shape[1])
        self.draw = (
            of_segments.index_add(0, segments, logarithms * drawn),
            of_segments.index_add(0, segments, -probabilities * logarithms),
        )
        return drawn


class HardGumbel(nn.Module):
    """Look at one unit a segment: drawn in training with softmax's gradient, else the best.

    Gumbel noise on the scores draws by the probabilities of softmax; the gradient is that of the
    softmax of the noisy scores, straight through the choice (Jang et al. 2017, section 2.2, at
    temperature 1).
    """

    def forward(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Return weights (N, K), of which one in each segment and column is 1, the others 0."""
        if not self.training:
            return _of_highest(scores, lengths)
        noisy = _with_gumbel_noise(scores)
        soft = normalize_softmax(noisy, lengths)
        return (_of_highest(noisy, lengths) + (soft - soft.detach())).to(scores.dtype)


def normalizer(name: Normalization) -> Normalize:
    """Return what makes weights of scores.

    Raises:
        ValueError: There is none of that name.
    """
    match name:
        case "softmax":
            return normalize_softmax
        case "sparsemax":
            return normalize_sparsemax
        case "entmax":
            return normalize_entmax
        case "hard_reinforce":
            return HardReinforce()
        case "hard_gumbel":
            return HardGumbel()
        case "uniform":
            return normalize_uniform
    raise ValueError(f"There is no normalization {name!r}.")


def take_draw(normalize: Normalize) -> tuple[Tensor, Tensor] | None:
    """Return what `HardReinforce` drew last and forget it; None of another normalization."""
    if not isinstance(normalize, HardReinforce):
        return None
    draw, normalize.draw = normalize.draw, None
    return draw


def _precise(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _of_alike(normalize: Callable[..., Tensor], scores: Tensor, lengths: Tensor) -> Tensor:
    """Apply to segments of the same length together what knows of no other segments."""
    groups = [rows for (rows,) in alike(lengths)]
    if not groups:
        return scores
    places = torch.cat([rows.flatten() for rows in groups])
    # Sorted once and split, since the gradient of each look-up is as large as all there is.
    parts = torch.split(_precise(scores)[places], [rows.numel() for rows in groups])
    weights = torch.cat(
        [
            normalize(part.view(*rows.shape, -1), dim=1).flatten(0, 1)
            for part, rows in zip(parts, groups, strict=True)
        ]
    )
    return torch.empty_like(weights).index_copy(0, places, weights).to(scores.dtype)


def _of_highest(scores: Tensor, lengths: Tensor) -> Tensor:
    """Return 1 for the highest score of each segment, the first of equals, and 0 for the others."""
    scores = scores.detach()
    chosen = torch.zeros_like(scores)
    for (rows,) in alike(lengths):
        of_alike = scores[rows]  # (G, T, K)
        best = of_alike.argmax(1, keepdim=True)
        chosen[rows] = torch.zeros_like(of_alike).scatter_(1, best, 1)
    return chosen


def _with_gumbel_noise(scores: Tensor) -> Tensor:
    """Add what makes the highest score a draw by the probabilities of softmax (Gumbel 1954)."""
    precise = _precise(scores)
    return precise - torch.empty_like(precise, requires_grad=False).exponential_().log()
