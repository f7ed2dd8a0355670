"""Pooling by attention: each segment of hidden states becomes a vector, by learned weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from han import kernel
from han.attention.normalization import Normalization, normalizer, take_draw
from han.attention.scores import KEY_STRENGTH, PLACES, Score
from han.attention.segments import places_in_segments, segment_index

MOST_HEADS = 64


@dataclass(frozen=True)
class Weighting:
    """How attention weighs the units of a segment: a sentence's words, a document's sentences.

    Args:
        score: How a hidden state h is compared with a learned context vector c: `additive`
            (c . tanh(W h + b): Yang et al. 2016), `dot` (c . h), `scaled_dot` (c . h over the root
            of h's width: Vaswani et al. 2017), `general` (c . W h: Luong et al. 2015), `cosine`
            (the cosine times a learned factor: Graves et al. 2014), or `location`, which compares
            nothing: each of the first 512 places has a score of its own.
        normalization: What makes weights of scores: `softmax`; `entmax` (alpha 1.5: Peters et al.
            2019) or `sparsemax` (Martins & Astudillo 2016), under which many weights are 0;
            `hard_reinforce` or `hard_gumbel`, under which one unit has all the weight, drawn in
            training (Xu et al. 2015; Jang et al. 2017); or `uniform`, the same weight for all,
            whatever the score (HN-AVE in Yang et al. 2016).
        heads: Number K of context vectors. Each has weights of its own and pools a vector; the next
            level reads them end to end, and the weights shown are the mean (Lin et al. 2017).

    Raises:
        ValueError: There is no such score or normalization, or the heads are not from 1 to 64.
    """

    score: Score = "additive"
    normalization: Normalization = "softmax"
    heads: int = 1

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        for name, known in (("score", Score), ("normalization", Normalization)):
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(
                    f"`{name}` must be one of {', '.join(get_args(known))}, got {value!r:.40}."
                )
        if not 1 <= self.heads <= MOST_HEADS:
            raise ValueError(f"`heads` must be from 1 to {MOST_HEADS}, got {self.heads}.")


class AttentionPooling(nn.Module):
    """Pool each segment by weights that scores become, once for each of K heads.

    s_k = sum over the segment of weight_tk h_t,  weight_k = normalization of score_k.

    Args:
        heads: Number K of context vectors.
        normalization: What makes weights of scores.
    """

    def __init__(self, heads: int = 1, normalization: Normalization = "softmax") -> None:
        super().__init__()
        self.heads = heads
        self.normalization: Normalization = normalization
        self.normalize = normalizer(normalization)

    def score(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (N, K) of hidden states (N, D), segment after segment."""
        raise NotImplementedError

    def forward(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the hidden states of each segment.

        Args:
            hidden: Floats (N, D), segment after segment.
            lengths: int64 (S,), sums to N; an empty segment pools to zeros.

        Returns:
            Pooled vectors (S, K D), one head after the other, and weights (N, K).
        """
        weights = self.normalize(self.score(hidden, lengths), lengths)
        return weighted_sums(hidden, weights, lengths), weights

    def take_draw(self) -> tuple[Tensor, Tensor] | None:
        """Return what `HardReinforce` drew last, its log-probabilities and entropies (S, K)."""
        return take_draw(self.normalize)


class AdditiveAttention(AttentionPooling):
    """u_t = tanh(W h_t + b); score_tk = u_t . c_k (Yang et al. 2016: eqs. 5-6, 8-9).

    Args:
        input_size: Width D of each hidden state (2H for a bidirectional GRU).
        attention_size: Width A of the projection and of the context vectors.
        heads: Number K of context vectors, which share the projection (Lin et al. 2017, eq. 6).
        normalization: What makes weights of scores.
    """

    def __init__(
        self,
        input_size: int,
        attention_size: int,
        heads: int = 1,
        normalization: Normalization = "softmax",
    ) -> None:
        super().__init__(heads, normalization)
        self.projection = nn.Linear(input_size, attention_size)
        self.context = _contexts(heads, attention_size)

    def score(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (N, K) of hidden states (N, D)."""
        scores: Tensor = self.projection(hidden).tanh() @ self.context.view(self.heads, -1).t()
        return scores

    def forward(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool as any attention does: one head with softmax by the compiled loops, where there."""
        parameters = (self.projection.weight, self.projection.bias, self.context)
        if (
            self.heads == 1
            and self.normalization == "softmax"
            and kernel.usable(hidden, *parameters)
        ):
            pooled, weights = kernel.attention(hidden, *parameters, lengths)
            return pooled, weights[:, None]
        return super().forward(hidden, lengths)


class DotAttention(AttentionPooling):
    """score_tk = c_k . h_t, or that over the root of D (Vaswani et al. 2017, eq. 1).

    Args:
        input_size: Width D of each hidden state.
        scaled: Whether the product is divided by the root of D.
        heads: Number K of context vectors.
        normalization: What makes weights of scores.
    """

    def __init__(
        self,
        input_size: int,
        *,
        scaled: bool,
        heads: int = 1,
        normalization: Normalization = "softmax",
    ) -> None:
        super().__init__(heads, normalization)
        self.scale = input_size**-0.5 if scaled else 1.0
        self.context = _contexts(heads, input_size)

    def score(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (N, K) of hidden states (N, D)."""
        return self.scale * hidden @ self.context.view(self.heads, -1).t()


class GeneralAttention(AttentionPooling):
    """score_tk = c_k . W h_t, the bilinear form of Luong et al. 2015 (section 3.1).

    Args:
        input_size: Width D of each hidden state.
        attention_size: Width A of the context vectors.
        heads: Number K of context vectors, which share the projection.
        normalization: What makes weights of scores.
    """

    def __init__(
        self,
        input_size: int,
        attention_size: int,
        heads: int = 1,
        normalization: Normalization = "softmax",
    ) -> None:
        super().__init__(heads, normalization)
        self.projection = nn.Linear(input_size, attention_size, bias=False)
        self.context = _contexts(heads, attention_size)

    def score(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (N, K) of hidden states (N, D)."""
        scores: Tensor = self.projection(hidden) @ self.context.view(self.heads, -1).t()
        return scores


class CosineAttention(AttentionPooling):
    """score_tk = b_k cos(c_k, h_t), with a learned b_k > 0 (Graves et al. 2014, eqs. 5-6).

    Args:
        input_size: Width D of each hidden state.
        heads: Number K of context vectors.
        normalization: What makes weights of scores.
    """

    def __init__(
        self, input_size: int, heads: int = 1, normalization: Normalization = "softmax"
    ) -> None:
        super().__init__(heads, normalization)
        self.context = _contexts(heads, input_size)
        self.strength = nn.Parameter(torch.full((heads,), KEY_STRENGTH))  # before softplus

    def score(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (N, K) of hidden states (N, D)."""
        contexts = functional.normalize(self.context.view(self.heads, -1), dim=1)
        cosines = functional.normalize(hidden, dim=1) @ contexts.t()
        return functional.softplus(self.strength) * cosines


class LocationAttention(AttentionPooling):
    """score_tk depends on the place t alone, whatever stands there (Luong et al. 2015, eq. 8).

    Places beyond the first 512 have the score of the last of them.

    Args:
        heads: Number K of rows of scores.
        normalization: What makes weights of scores.
    """

    def __init__(self, heads: int = 1, normalization: Normalization = "softmax") -> None:
        super().__init__(heads, normalization)
        self.scores = nn.Parameter(torch.zeros(PLACES, heads))

    def score(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores (N, K) of hidden states (N, D)."""
        return self.scores[places_in_segments(lengths).clamp_max(PLACES - 1)].to(hidden.dtype)


class UniformAttention(AttentionPooling):
    """The same weight for each state of a segment (HN-AVE in Yang et al. 2016, Table 2).

    Args:
        heads: How many times, as if there were so many context vectors.
    """

    def __init__(self, heads: int = 1) -> None:
        super().__init__(heads, "uniform")

    def score(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return scores (N, K) that are all 0."""
        return hidden.new_zeros(len(hidden), self.heads)


def attention_pooling(
    input_size: int, attention_size: int, weighting: Weighting = Weighting()
) -> AttentionPooling:
    """Make the attention that a weighting names.

    Args:
        input_size: Width D of each hidden state.
        attention_size: Width A of the projection, where there is one.
        weighting: Score, normalization and number of heads.
    """
    heads, normalization = weighting.heads, weighting.normalization
    if normalization == "uniform":
        return UniformAttention(heads)
    match weighting.score:
        case "additive":
            return AdditiveAttention(input_size, attention_size, heads, normalization)
        case "dot" | "scaled_dot" as score:
            scaled = score == "scaled_dot"
            return DotAttention(input_size, scaled=scaled, heads=heads, normalization=normalization)
        case "general":
            return GeneralAttention(input_size, attention_size, heads, normalization)
        case "cosine":
            return CosineAttention(input_size, heads, normalization)
        case "location":
            return LocationAttention(heads, normalization)


def weighted_sums(hidden: Tensor, weights: Tensor, lengths: Tensor) -> Tensor:
    """Sum the states (N, D) of each segment by weights (N, K): floats (S, K D), head after head."""
    weighted = (weights[:, :, None] * hidden[:, None, :]).flatten(1)  # (N, K D)
    pooled = weighted.new_zeros(len(lengths), weighted.shape[1])
    return pooled.index_add(0, segment_index(lengths), weighted)


def _contexts(heads: int, size: int) -> nn.Parameter:
    """Make context vectors (K A,), one after the other."""
    contexts = nn.Parameter(torch.empty(heads * size))
    nn.init.normal_(contexts, std=size**-0.5)
    return contexts
