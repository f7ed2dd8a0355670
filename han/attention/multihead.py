"""Several scaled dot products side by side, within a sequence or across two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from han.attention.normalization import normalize_softmax
from han.attention.segments import alike, require_fit, visible_pairs


class MultiHeadAttention(nn.Module):
    """softmax(Q_h K_h^T / sqrt(D / H)) V_h of each head h, side by side, projected once more.

    Vaswani et al. 2017, section 3.2.2; it computes what `torch.nn.MultiheadAttention` does.
    Segments of the same lengths are computed together, so that there is no padding.

    Args:
        size: Width D of queries, keys and results.
        heads: Number H of heads, which divides D.

    Raises:
        ValueError: It does not.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or size % heads:
            raise ValueError(f"`heads` must divide the width, {size}, got {heads}.")
        self.heads = heads
        self.of_query = nn.Linear(size, size)
        self.of_key = nn.Linear(size, 2 * size)  # keys, then values
        self.output = nn.Linear(size, size)

    def forward(
        self,
        queries: Tensor,
        query_lengths: Tensor,
        keys: Tensor,
        key_lengths: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Let each query look at the keys of its segment.

        Args:
            queries: Floats (M, D), segment after segment.
            query_lengths: int64 (S,), sums to M.
            keys: Floats (N, D), segment after segment; for self-attention the queries.
            key_lengths: int64 (S,), sums to N.
            mask: bool (P,), which pairs may see each other, in the order of `Pairs`; see
                `causal_mask`. By default all.

        Returns:
            Floats (M, D); a query that sees no key has the output's bias.
        """
        require_fit(queries, query_lengths, keys, key_lengths, mask)
        lengths = (query_lengths, key_lengths, query_lengths * key_lengths)
        groups = [group for group in alike(*lengths) if group[2].numel()]
        if not groups:
            return self.output(torch.zeros_like(queries))  # type: ignore[no-any-return]
        of_queries, of_keys, of_pairs = zip(*groups, strict=True)
        order = torch.cat([rows.flatten() for rows in of_queries])
        # Sorted once and split, since the gradient of each look-up is as large as all there is.
        query = self._in_groups(self.of_query(queries), of_queries)
        key, value = (self._in_groups(states, of_keys) for states in self.of_key(keys).chunk(2, 1))
        results = []
        for group, pairs in enumerate(of_pairs):
            allowed = None
            if mask is not None:
                sizes = query[group].shape[2], key[group].shape[2]
                allowed = mask[pairs].view(len(pairs), 1, *sizes)
            attended = functional.scaled_dot_product_attention(
                query[group], key[group], value[group], attn_mask=allowed
            )
            if allowed is not None:
                attended = attended.masked_fill(~allowed.any(-1, keepdim=True), 0)
            results.append(attended.transpose(1, 2).reshape(-1, queries.shape[1]))
        together = torch.cat(results)  # autocast may have narrowed it
        attended = together.new_zeros(queries.shape).index_copy(0, order, together)
        output: Tensor = self.output(attended)
        return output

    def weights(
        self,
        queries: Tensor,
        query_lengths: Tensor,
        keys: Tensor,
        key_lengths: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the weight (P, H) of each pair in each head; takes what `forward` does."""
        pairs = visible_pairs(queries, query_lengths, keys, key_lengths, mask)
        query = self._split(self.of_query(queries))
        key = self._split(self.of_key(keys).chunk(2, 1)[0])
        scores = (query[pairs.query] * key[pairs.key]).sum(2) * query.shape[2] ** -0.5  # (P, H)
        weights = normalize_softmax(scores, pairs.keys_per_query)
        if mask is not None:
            weights = weights.new_zeros(len(mask), self.heads).index_put((mask,), weights)
        return weights

    def _in_groups(self, states: Tensor, groups: Sequence[Tensor]) -> list[Tensor]:
        """Return the states (N, D) of each group, (G, T), of segments: (G, H, T, D / H)."""
        ordered = self._split(states[torch.cat([rows.flatten() for rows in groups])])
        parts = torch.split(ordered, [rows.numel() for rows in groups])
        return [
            part.view(*rows.shape, *part.shape[1:]).transpose(1, 2)
            for part, rows in zip(parts, groups, strict=True)
        ]

    def _split(self, states: Tensor) -> Tensor:
        """Split the width (N, D) into the heads': (N, H, D / H)."""
        return states.reshape(len(states), self.heads, states.shape[1] // self.heads)
