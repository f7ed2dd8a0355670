"""Attention across two sequences: each state of one looks at the states of the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from han.attention.normalization import Normalization, normalizer, take_draw
from han.attention.scores import KEY_STRENGTH, PLACES, Score
from han.attention.segments import Pairs, places_in_segments, visible_pairs


class Alignment(nn.Module):
    """Align the states of one sequence, the queries, with those of another, the keys.

    Scores of a query q and a key k: `additive` v . tanh(W q + U k + b) (Bahdanau et al. 2015,
    section A.1.2), `dot` q . k, `scaled_dot` that over the root of the width (Vaswani et al. 2017,
    eq. 1), `general` q . W k (Luong et al. 2015, section 3.1), `cosine` b cos(q, k) with a learned
    b > 0 (Graves et al. 2014, eq. 5), `location` row t of W q for the key in place t, whatever it
    is (Luong et al. 2015, eq. 8).

    Args:
        query_size: Width of the queries.
        key_size: Width of the keys; for `dot`, `scaled_dot` and `cosine` that of the queries.
        attention_size: Width A of `additive`, which the others do not use.
        score: How a query and a key are compared.
        normalization: What makes weights of the scores of one query.

    Raises:
        ValueError: The widths must be the same and are not, or there is no such score.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        attention_size: int = 100,
        score: Score = "scaled_dot",
        normalization: Normalization = "softmax",
    ) -> None:
        super().__init__()
        self.score_name: Score = score
        self.normalize = normalizer(normalization)
        if score in ("dot", "scaled_dot", "cosine") and query_size != key_size:
            raise ValueError(
                f"`{score}` compares queries and keys of one width, got {query_size} and "
                f"{key_size}; take additive or general."
            )
        match score:
            case "additive":
                self.of_query = nn.Linear(query_size, attention_size, bias=False)
                self.of_key = nn.Linear(key_size, attention_size)
                self.context = nn.Parameter(torch.empty(attention_size))
                nn.init.normal_(self.context, std=attention_size**-0.5)
            case "general":
                self.of_key = nn.Linear(key_size, query_size, bias=False)
            case "location":
                self.of_query = nn.Linear(query_size, PLACES)
            case "cosine":
                self.strength = nn.Parameter(torch.tensor(KEY_STRENGTH))
            case "dot" | "scaled_dot":
                pass
            case _:
                raise ValueError(f"There is no score {score!r}.")

    def forward(
        self,
        queries: Tensor,
        query_lengths: Tensor,
        keys: Tensor,
        key_lengths: Tensor,
        mask: Tensor | None = None,
        values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pool the values for each query, by how its scores weigh their keys.

        Args:
            queries: Floats (M, query size), segment after segment.
            query_lengths: int64 (S,), sums to M.
            keys: Floats (N, key size), segment after segment.
            key_lengths: int64 (S,), sums to N.
            mask: bool (P,), which pairs may see each other, in the order of `Pairs`; see
                `causal_mask`. By default all.
            values: Floats (N, V), what each key stands for. By default the keys.

        Returns:
            Pooled vectors (M, V), zeros where a query sees no key, and the weight (P,) of each
            pair; a query's sum to 1.

        Raises:
            ValueError: The lengths, the mask or the values do not fit.
        """
        pairs = visible_pairs(queries, query_lengths, keys, key_lengths, mask)
        scores = self.score(queries, keys, pairs, key_lengths)
        weights = self.normalize(scores[:, None], pairs.keys_per_query).squeeze(1)
        values = keys if values is None else values
        if len(values) != len(keys):
            raise ValueError(
                f"`values` must be one for each of {len(keys)} keys, got {len(values)}."
            )
        weighted = weights[:, None] * values[pairs.key]
        pooled = weighted.new_zeros(len(queries), values.shape[1])
        pooled = pooled.index_add(0, pairs.query, weighted)
        if mask is not None:
            weights = weights.new_zeros(len(mask)).masked_scatter(mask, weights)
        return pooled, weights

    def take_draw(self) -> tuple[Tensor, Tensor] | None:
        """Return what `HardReinforce` drew last, its log-probabilities and entropies (M, 1)."""
        return take_draw(self.normalize)

    def score(self, queries: Tensor, keys: Tensor, pairs: Pairs, key_lengths: Tensor) -> Tensor:
        """Return the score (P,) of each pair."""
        match self.score_name:
            case "additive":
                sums = self.of_query(queries)[pairs.query] + self.of_key(keys)[pairs.key]
                of_pairs: Tensor = sums.tanh() @ self.context
                return of_pairs
            case "location":
                place = places_in_segments(key_lengths).clamp_max(PLACES - 1)
                of_places: Tensor = self.of_query(queries)
                return of_places[pairs.query, place[pairs.key]]
            case "general":
                keys = self.of_key(keys)
            case "cosine":
                queries = functional.softplus(self.strength) * functional.normalize(queries, dim=1)
                keys = functional.normalize(keys, dim=1)
            case "scaled_dot":
                queries = queries * queries.shape[1] ** -0.5
        return (queries[pairs.query] * keys[pairs.key]).sum(1)
