"""Attention over ragged segments: scores become weights, weights pool what they are given.

A query is compared with keys, which gives a score for each key; the scores become weights, and the
values are summed by weight (Bahdanau et al. 2015). The family, by module:

- `scores`: their names.
- `normalization`: scores to weights, of which all, few or a single one are above 0.
- `pooling`: a learned query for each segment, which is what the classifier has at both levels.
- `alignment`: the states of one sequence attend to those of another.
- `multihead`: several scaled dot products side by side, for self-attention and across sequences.
"""

from han.attention.alignment import Alignment
from han.attention.multihead import MultiHeadAttention
from han.attention.normalization import (
    HardGumbel,
    HardReinforce,
    Normalization,
    normalize_entmax,
    normalize_softmax,
    normalize_sparsemax,
    normalize_uniform,
)
from han.attention.pooling import (
    AdditiveAttention,
    AttentionPooling,
    CosineAttention,
    DotAttention,
    GeneralAttention,
    LocationAttention,
    UniformAttention,
    Weighting,
    attention_pooling,
)
from han.attention.scores import Score
from han.attention.segments import Pairs, causal_mask, segment_index

__all__ = [
    "AdditiveAttention",
    "Alignment",
    "AttentionPooling",
    "CosineAttention",
    "DotAttention",
    "GeneralAttention",
    "HardGumbel",
    "HardReinforce",
    "LocationAttention",
    "MultiHeadAttention",
    "Normalization",
    "Pairs",
    "Score",
    "UniformAttention",
    "Weighting",
    "attention_pooling",
    "causal_mask",
    "normalize_entmax",
    "normalize_softmax",
    "normalize_sparsemax",
    "normalize_uniform",
    "segment_index",
]
