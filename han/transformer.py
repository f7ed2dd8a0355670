"""The self-attention encoder: pre-norm blocks over ragged sequences, in place of the GRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from han.attention import MultiHeadAttention
from han.attention.segments import places_in_segments

Positions = Literal["sinusoidal", "learned"]
LEARNED = 512  # places with a vector of their own; all later ones have the last's
LONGEST_WAVE = 10_000.0  # of the sinusoidal positions, over 2 pi


@dataclass(frozen=True)
class Blocks:
    """The self-attention blocks of a transformer, where it stands in place of a GRU.

    Args:
        layers: Number of blocks.
        heads: Heads of a block's attention; they divide its width, which is twice `hidden_size`.
        feedforward_size: Width between the two layers that follow the attention.
        positions: How places are told apart: `sinusoidal` (Vaswani et al. 2017, section 3.5), or
            `learned`, for the first 512.
        dropout: Dropout of what each half of a block adds, and of the first block's input.

    Raises:
        ValueError: A number is out of range, or there are no such positions.
    """

    layers: int = 1
    heads: int = 4
    feedforward_size: int = 200
    positions: Positions = "sinusoidal"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name in ("layers", "heads", "feedforward_size"):
            if (size := getattr(self, name)) < 1:
                raise ValueError(f"`transformer.{name}` must be at least 1, got {size}.")
        if self.positions not in get_args(Positions):
            known = ", ".join(get_args(Positions))
            raise ValueError(
                f"`transformer.positions` must be one of {known}, got {self.positions!r:.40}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"`transformer.dropout` must be at least 0 and below 1, got {self.dropout}."
            )


class RaggedTransformer(nn.Module):
    """Transformer encoder over sequences that lie one after the other in a flat tensor.

    Each block is x + attention(norm(x)), then x + feedforward(norm(x)) (pre-norm: Xiong et al.
    2020), with a norm after the last; the parts are those of Vaswani et al. 2017, section 3.

    Args:
        input_size: Width E of each input, which is projected on the blocks' width.
        output_size: Width D of the blocks.
        blocks: Their number and parts.

    Raises:
        ValueError: The heads do not divide the width.
    """

    def __init__(self, input_size: int, output_size: int, blocks: Blocks = Blocks()) -> None:
        super().__init__()
        if output_size % blocks.heads:
            raise ValueError(
                "`transformer.heads` must divide the width, which is twice `hidden_size`: "
                f"{output_size}, got {blocks.heads}."
            )
        self.output_size = self.projected_size = output_size
        self.input = nn.Linear(input_size, output_size)
        self.positions: nn.Parameter | None = None
        if blocks.positions == "learned":
            self.positions = nn.Parameter(torch.empty(LEARNED, output_size))
            nn.init.normal_(self.positions, std=0.02)  # as BERT has it (Devlin et al. 2019)
        self.dropout = nn.Dropout(blocks.dropout)
        self.layers = nn.ModuleList(_Block(output_size, blocks) for _ in range(blocks.layers))
        self.norm = nn.LayerNorm(output_size)

    def forward(self, inputs: Tensor, lengths: Tensor, rows: Tensor | None = None) -> Tensor:
        """Encode each sequence.

        Args:
            inputs: Floats (N, E), sequence after sequence; with `rows`, (U, E): distinct inputs.
            lengths: int64 (S,), steps of each sequence; zeros are allowed.
            rows: int64 (N,), which row of `inputs` stands at each step.

        Returns:
            Hidden states (N, D), in the order of the input.
        """
        if rows is None:
            rows = torch.arange(len(inputs), device=inputs.device)
        return self.encode(self.project(inputs), lengths, rows)

    def project(self, inputs: Tensor) -> Tensor:
        """Project distinct inputs (U, E) on the blocks' width: floats (U, D)."""
        projected: Tensor = self.input(inputs)
        return projected

    def encode(self, projected: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
        """Encode sequences, given what `project` returned for their distinct inputs.

        Args:
            projected: Floats (U, D).
            lengths: int64 (S,), steps of each sequence.
            rows: int64 (N,), which row of `projected` stands at each step.

        Returns:
            Hidden states (N, D).
        """
        places = places_in_segments(lengths)
        if self.positions is None:
            longest = int(lengths.max()) if len(places) else 0
            of_places: Tensor = sinusoids(longest, self.output_size).to(projected)
        else:
            of_places, places = self.positions, places.clamp_max(LEARNED - 1)
        states = self.dropout(projected[rows] + of_places[places])
        for layer in self.layers:
            states = layer(states, lengths)
        normed: Tensor = self.norm(states)
        return normed


class _Block(nn.Module):
    """Attention and a network of two layers, each of which adds to what it reads."""

    def __init__(self, size: int, blocks: Blocks) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(size, blocks.heads)
        self.attention_norm = nn.LayerNorm(size)
        self.feedforward = nn.Sequential(
            nn.Linear(size, blocks.feedforward_size),
            nn.ReLU(),
            nn.Linear(blocks.feedforward_size, size),
        )
        self.feedforward_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(blocks.dropout)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Return states (N, D) that know of those of their sequence."""
        normed = self.attention_norm(states)
        states = states + self.dropout(self.attention(normed, lengths, normed, lengths))
        added: Tensor = self.dropout(self.feedforward(self.feedforward_norm(states)))
        return states + added


def sinusoids(count: int, size: int) -> Tensor:
    """Return a vector for each of `count` places (Vaswani et al. 2017, section 3.5).

    Returns:
        Floats (count, size): sines in the even columns, cosines in the odd ones.
    """
    frequencies = LONGEST_WAVE ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(count)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)[:, :size]
