"""Ragged segments: which element is of which, which are alike, which pairs two of them make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


def segment_index(lengths: Tensor) -> Tensor:
    """Return which segment each element belongs to: int64 (sum of lengths,) from int64 (S,)."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def places_in_segments(lengths: Tensor) -> Tensor:
    """Return each element's place in its segment, from 0: int64 (sum of lengths,) from (S,)."""
    starts = lengths.cumsum(0) - lengths
    places = torch.arange(int(lengths.sum()), device=lengths.device)
    return places - starts.repeat_interleave(lengths)


def alike(*lengths: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Find the segments of the same lengths, so that they can be computed without padding.

    Args:
        lengths: int64 (S,), one for each way in which the segments are long.

    Yields:
        For G segments that are alike, the elements of each as int64 (G, T), one for each of
        `lengths`. Segments that are empty in all ways are left out.
    """
    stacked = torch.stack(lengths, 1)  # (S, K)
    starts = stacked.cumsum(0) - stacked
    kinds, kind, counts = torch.unique(stacked, dim=0, return_inverse=True, return_counts=True)
    members = kind.argsort(stable=True).split(counts.tolist())
    for sizes, segments in zip(kinds.tolist(), members, strict=True):
        if any(sizes):
            yield tuple(
                starts[segments, way, None] + torch.arange(size, device=stacked.device)
                for way, size in enumerate(sizes)
            )


class Pairs(NamedTuple):
    """Every query of a segment with every key of the same segment, query after query.

    Attributes:
        query: int64 (P,), which query.
        key: int64 (P,), which key.
        keys_per_query: int64 (M,), sums to P.
    """

    query: Tensor
    key: Tensor
    keys_per_query: Tensor

    @classmethod
    def of(cls, query_lengths: Tensor, key_lengths: Tensor) -> Pairs:
        """Pair the elements of segments: int64 (S,) queries and int64 (S,) keys of each.

        Raises:
            ValueError: There is another number of segments of keys than of queries.
        """
        _require_as_many(query_lengths, key_lengths)
        keys_per_query = key_lengths.repeat_interleave(query_lengths)
        first_key = (key_lengths.cumsum(0) - key_lengths).repeat_interleave(query_lengths)
        query = segment_index(keys_per_query)
        return cls(query, first_key[query] + places_in_segments(keys_per_query), keys_per_query)

    def only(self, mask: Tensor) -> Pairs:
        """Leave out the pairs (bool (P,)) that are not marked.

        Raises:
            ValueError: There is another number of marks than of pairs.
        """
        _require_mark_of_each(mask, len(self.query))
        query = self.query[mask]
        return Pairs(query, self.key[mask], query.bincount(minlength=len(self.keys_per_query)))


def require_fit(
    queries: Tensor,
    query_lengths: Tensor,
    keys: Tensor,
    key_lengths: Tensor,
    mask: Tensor | None = None,
) -> None:
    """Refuse lengths (S,) that are not those of the states, and a mask that is not of the pairs.

    Raises:
        ValueError: They do not fit.
    """
    _require_as_many(query_lengths, key_lengths)
    for kind, states, lengths in (("query", queries, query_lengths), ("key", keys, key_lengths)):
        if (lengths < 0).any() or int(lengths.sum()) != len(states):
            raise ValueError(
                f"`{kind}_lengths` must be at least 0 and sum to {len(states)}, the number of "
                "states."
            )
    if mask is not None:
        _require_mark_of_each(mask, int((query_lengths * key_lengths).sum()))


def visible_pairs(
    queries: Tensor,
    query_lengths: Tensor,
    keys: Tensor,
    key_lengths: Tensor,
    mask: Tensor | None = None,
) -> Pairs:
    """Return the pairs of queries and keys that may see each other; takes what `require_fit` does.

    Raises:
        ValueError: The lengths or the mask do not fit.
    """
    require_fit(queries, query_lengths, keys, key_lengths, mask)
    every = Pairs.of(query_lengths, key_lengths)
    return every if mask is None else every.only(mask)


def _require_as_many(query_lengths: Tensor, key_lengths: Tensor) -> None:
    if len(query_lengths) != len(key_lengths):
        raise ValueError(
            f"Each segment of queries needs one of keys, got {len(query_lengths)} and "
            f"{len(key_lengths)} segments."
        )


def _require_mark_of_each(mask: Tensor, pairs: int) -> None:
    if mask.shape != (pairs,):
        raise ValueError(
            f"`mask` must have one mark for each of {pairs} pairs, got shape {tuple(mask.shape)}."
        )


def causal_mask(lengths: Tensor) -> Tensor:
    """Mark the pairs of a sequence with itself whose key is not after the query.

    Args:
        lengths: int64 (S,), steps of each sequence.

    Returns:
        bool (P,), in the order of `Pairs`.
    """
    pairs = Pairs.of(lengths, lengths)
    return pairs.key <= pairs.query
