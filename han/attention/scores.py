"""What a query can be compared with a key by; `pooling` and `alignment` have the equations."""

from __future__ import annotations

from typing import Literal

Score = Literal["additive", "dot", "scaled_dot", "general", "location", "cosine"]

PLACES = 512  # that `location` tells apart; all later ones are as the last of them
KEY_STRENGTH = 5.0  # the factor of `cosine` that training starts from, before softplus
