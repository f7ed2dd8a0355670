from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from han.attention import Alignment, Normalization, Score, causal_mask
from tests.test_attention_normalization import normalize_alone

SCORES = get_args(Score)
OF_ONE_WIDTH = ("dot", "scaled_dot", "cosine")
BOTH_LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4)


def make_alignment(
    score: Score, normalization: Normalization = "softmax", seed: int = 0
) -> Alignment:
    """Return an alignment in double precision whose every parameter is random."""
    torch.manual_seed(seed)
    key_size = 4 if score in OF_ONE_WIDTH else 3
    alignment = Alignment(4, key_size, 5, score, normalization).double()
    with torch.no_grad():
        for parameter in alignment.parameters():
            parameter.normal_()
    return alignment


def make_states(score: Score, both: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries and keys with their lengths, as `Alignment` takes them."""
    query_lengths, key_lengths = torch.tensor(both, dtype=torch.int64).view(-1, 2).t()
    key_size = 4 if score in OF_ONE_WIDTH else 3
    queries = torch.randn(int(query_lengths.sum()), 4, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(int(key_lengths.sum()), key_size, dtype=torch.float64, requires_grad=True)
    return queries, query_lengths, keys, key_lengths


def fill(parameter: Any, values: Any) -> None:  # noqa: ANN401
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def score_alone(
    alignment: Any,  # noqa: ANN401
    score: Score,
    query: Tensor,
    key: Tensor,
    place: int,
) -> Tensor:
    """The oracle of one pair, as in the papers that `Alignment` names."""
    match score:
        case "additive":
            of_query, of_key = alignment.of_query.weight @ query, alignment.of_key.weight @ key
            return alignment.context.dot(torch.tanh(of_query + of_key + alignment.of_key.bias))
        case "dot":
            return query.dot(key)
        case "scaled_dot":
            return query.dot(key) / math.sqrt(len(query))
        case "general":
            return query.dot(alignment.of_key.weight @ key)
        case "cosine":
            cosine = query.dot(key) / (query.dot(query) * key.dot(key)).sqrt()
            return torch.log(1 + alignment.strength.exp()) * cosine
        case "location":
            of_place: Tensor = alignment.of_query.weight[place].dot(query)
            return of_place + alignment.of_query.bias[place]
    raise ValueError(score)


def align_by_loop(
    alignment: Alignment,
    score: Score,
    normalization: str,
    states: tuple[Tensor, Tensor, Tensor, Tensor],
    allowed: list[bool],
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    """The oracle: each query alone, with those keys of its segment that it may see."""
    queries, query_lengths, keys, key_lengths = states
    marks = iter(allowed)
    pooled, weights = [], []
    of_segments = zip(
        queries.split(query_lengths.tolist()),
        keys.split(key_lengths.tolist()),
        values.split(key_lengths.tolist()),
        strict=True,
    )
    for of_queries, of_keys, of_values in of_segments:
        for query in of_queries:
            seen = [place for place in range(len(of_keys)) if next(marks)]
            of_query = keys.new_zeros(len(of_keys))
            vector = values.new_zeros(values.shape[1])
            if seen:
                scores = [
                    score_alone(alignment, score, query, of_keys[place], place) for place in seen
                ]
                found = normalize_alone(normalization, torch.stack(scores))
                of_query = of_query.index_put((torch.tensor(seen),), found)
                for weight, place in zip(found, seen, strict=True):
                    vector = vector + weight * of_values[place]
            pooled.append(vector)
            weights.append(of_query)
    # The empty ones stand for no queries at all.
    none = values.new_zeros(0, values.shape[1]), keys.new_zeros(0)
    return torch.cat([none[0], *(each[None] for each in pooled)]), torch.cat([none[1], *weights])


def count_pairs(both: list[tuple[int, int]]) -> int:
    return sum(queries * keys for queries, keys in both)


class TestHandComputed:
    """Two queries and two keys in the first segment, one of each in the second."""

    query_lengths = key_lengths = torch.tensor([2, 1])
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    keys = torch.tensor([[0.0, 1.0], [3.0, 4.0], [7.0, 8.0]])

    def assert_odds(self, alignment: Alignment, first: float, second: float) -> None:
        """Check weights and vectors, given the odds of the first key for either query."""
        pooled, weights = alignment(self.queries, self.query_lengths, self.keys, self.key_lengths)
        shares = [odds / (1 + odds) for odds in (first, second)]
        expected = [part for share in shares for part in (share, 1 - share)]
        torch.testing.assert_close(weights, torch.tensor([*expected, 1.0]))
        vectors = [[3 * (1 - share), share + 4 * (1 - share)] for share in shares]
        torch.testing.assert_close(pooled, torch.tensor([*vectors, [7.0, 8.0]]))

    def test_additive(self) -> None:
        alignment = Alignment(2, 2, 1, "additive")
        fill(alignment.of_query.weight, [[0.5, 0.25]])
        fill(alignment.of_key.weight, [[0.5, -0.5]])
        fill(alignment.of_key.bias, [0.25])
        fill(alignment.context, [2.0])
        # W q is 0.5 for both queries, U k + b is -0.25 for both keys: all is even ...
        self.assert_odds(alignment, 1.0, 1.0)
        fill(alignment.of_key.weight, [[0.0, 0.5]])
        # ... and with other keys 0.75 and 2.25.
        odds = math.exp(2 * math.tanh(1.25) - 2 * math.tanh(2.75))
        self.assert_odds(alignment, odds, odds)

    def test_dot(self) -> None:
        self.assert_odds(Alignment(2, 2, score="dot"), math.exp(0 - 3), math.exp(2 - 8))

    def test_scaled_dot(self) -> None:
        root = math.sqrt(2)
        odds = math.exp(-3 / root), math.exp(-6 / root)
        self.assert_odds(Alignment(2, 2, score="scaled_dot"), *odds)
        self.assert_odds(Alignment(2, 2), *odds)  # which it is by default

    def test_general(self) -> None:
        alignment = Alignment(2, 2, score="general")
        fill(alignment.of_key.weight, [[1.0, 2.0], [0.5, 0.0]])
        # W k is (2, 0) and (11, 1.5).
        self.assert_odds(alignment, math.exp(2 - 11), math.exp(0 - 3))

    def test_cosine(self) -> None:
        alignment = Alignment(2, 2, score="cosine")
        fill(alignment.strength, math.log(math.exp(2.0) - 1))  # softplus makes it 2
        self.assert_odds(alignment, math.exp(2 * (0 - 0.6)), math.exp(2 * (1 - 0.8)))

    def test_location(self) -> None:
        alignment = Alignment(2, 2, score="location")
        nn.init.zeros_(alignment.of_query.weight)
        nn.init.zeros_(alignment.of_query.bias)
        fill(alignment.of_query.weight[:2], [[1.0, 0.0], [3.0, 1.0]])
        fill(alignment.of_query.bias[:2], [0.0, 0.5])
        # The places score 1 and 3.5 for the first query, 0 and 2.5 for the second.
        self.assert_odds(alignment, math.exp(-2.5), math.exp(-2.5))
        fill(alignment.of_query.weight[:2], [[1.0, 0.0], [0.0, 1.0]])
        self.assert_odds(alignment, math.exp(0.5), math.exp(-2.5))


@pytest.mark.parametrize("score", SCORES)
class TestEachScore:
    @settings(max_examples=25, deadline=None)
    @given(
        both=BOTH_LENGTHS,
        normalization=st.sampled_from(["softmax", "sparsemax", "entmax", "uniform"]),
        share=st.sampled_from([None, 0.3, 0.8]),
        width=st.sampled_from([None, 1, 5]),
        seed=st.integers(0, 9),
    )
    def test_equals_a_loop_over_the_queries(
        self,
        score: Score,
        both: list[tuple[int, int]],
        normalization: Normalization,
        share: float | None,
        width: int | None,
        seed: int,
    ) -> None:
        alignment = make_alignment(score, normalization, seed)
        states = make_states(score, both)
        mask = None if share is None else torch.rand(count_pairs(both)) < share
        values = None
        if width is not None:
            values = torch.randn(len(states[2]), width, dtype=torch.float64, requires_grad=True)
        results = alignment(*states, mask, values)
        values = states[2] if values is None else values
        allowed = [True] * count_pairs(both) if mask is None else mask.tolist()
        expected = align_by_loop(alignment, score, normalization, states, allowed, values)
        torch.testing.assert_close(results, expected)

        if not any(allowed):
            return
        factors = [torch.randn_like(result) for result in results]
        leaves = [states[0], states[2], values, *alignment.parameters()]
        ours, theirs = (
            torch.autograd.grad(
                sum((a * b).sum() for a, b in zip(each, factors, strict=True)),
                leaves,
                materialize_grads=True,
            )
            for each in (results, expected)
        )
        torch.testing.assert_close(ours, theirs)

    def test_a_query_that_sees_no_key_pools_to_zeros(self, score: Score) -> None:
        alignment, both = make_alignment(score), [(2, 3), (2, 0), (0, 2)]
        queries, query_lengths, keys, key_lengths = make_states(score, both)
        mask = torch.tensor([False] * 3 + [True, False, True])
        pooled, weights = alignment(queries, query_lengths, keys, key_lengths, mask)
        assert not pooled[0].any()
        assert not pooled[2:].any()
        assert weights[~mask].tolist() == [0.0] * 4
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64))

        (pooled.square().sum() + weights.square().sum()).backward()
        for leaf in (queries, keys, *alignment.parameters()):
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
        assert queries.grad is not None
        assert not queries.grad[[0, 2, 3]].any()

    @pytest.mark.parametrize("normalization", get_args(Normalization))
    def test_a_mask_that_allows_nothing_leaves_zeros(
        self, score: Score, normalization: Normalization
    ) -> None:
        alignment = make_alignment(score, normalization)
        states = make_states(score, [(2, 3)])
        pooled, weights = alignment(*states, torch.zeros(6, dtype=torch.bool))
        assert not pooled.any()
        assert weights.tolist() == [0.0] * 6

    def test_a_causal_query_does_not_know_of_later_keys(self, score: Score) -> None:
        alignment, lengths = make_alignment(score), torch.tensor([4, 2])
        queries, _, keys, _ = make_states(score, [(4, 4), (2, 2)])
        mask = causal_mask(lengths)
        pooled, weights = alignment(queries, lengths, keys, lengths, mask)
        (of_keys,) = torch.autograd.grad(pooled[2].sum(), keys)
        assert of_keys[:3].any(1).all()
        assert not of_keys[3:].any()
        assert not weights[:16].view(4, 4).triu(1).any()
        torch.testing.assert_close(weights[[0, 16]], torch.ones(2, dtype=torch.float64))

    def test_a_segment_does_not_know_of_its_neighbours(self, score: Score) -> None:
        alignment, both = make_alignment(score), [(2, 3), (0, 1), (1, 0), (3, 2)]
        states = make_states(score, both)
        pooled, weights = alignment(*states)
        parts = zip(
            both,
            states[0].split([queries for queries, _ in both]),
            states[2].split([keys for _, keys in both]),
            pooled.split([queries for queries, _ in both]),
            weights.split([queries * keys for queries, keys in both]),
            strict=True,
        )
        for sizes, queries, keys, vectors, of_pairs in parts:
            query_length, key_length = torch.tensor(sizes).split(1)
            alone = alignment(queries, query_length, keys, key_length)
            torch.testing.assert_close(alone, (vectors, of_pairs))


class TestValues:
    def test_are_pooled_in_place_of_the_keys(self) -> None:
        alignment, (queries, query_lengths, keys, key_lengths) = (
            make_alignment("dot"),
            make_states("dot", [(1, 2), (1, 1)]),
        )
        values = torch.tensor([[1.0], [0.0], [5.0]], dtype=torch.float64)
        pooled, weights = alignment(queries, query_lengths, keys, key_lengths, None, values)
        torch.testing.assert_close(pooled.flatten(), torch.stack([weights[0], 5 * weights[2]]))
        _, of_keys = alignment(queries, query_lengths, keys, key_lengths)
        assert torch.equal(weights, of_keys)

    def test_may_be_of_another_precision_than_the_keys(self) -> None:
        # As on a GPU under autocast, which sums up scores in single precision.
        alignment, lengths = Alignment(4, 4), torch.tensor([2])
        queries, keys = torch.randn(2, 2, 4)
        values = torch.tensor([[1.0], [0.0]])
        pooled, weights = alignment(queries, lengths, keys, lengths, None, values.bfloat16())
        torch.testing.assert_close(pooled.flatten().float(), weights[::2], rtol=0.01, atol=0)


class TestLocation:
    def test_keys_beyond_the_first_512_have_the_score_of_the_last(self) -> None:
        alignment = make_alignment("location")
        states = make_states("location", [(1, 2), (1, 514)])
        _, weights = alignment(*states)
        assert len(set(weights[-4:].tolist())) == 2
        torch.testing.assert_close(weights[-3:], weights[-1:].expand(3), rtol=0, atol=0)

    def test_a_masked_key_still_takes_its_place(self) -> None:
        alignment, states = make_alignment("location"), make_states("location", [(1, 3)])
        _, weights = alignment(*states, torch.tensor([False, True, True]))
        scores = alignment.of_query(states[0])[0, 1:3]
        torch.testing.assert_close(weights[1:], scores.softmax(0))


@pytest.mark.parametrize("normalization", ["hard_reinforce", "hard_gumbel"])
class TestHardAlignment:
    def test_evaluation_copies_the_best_key(self, normalization: Normalization) -> None:
        alignment = make_alignment("dot", normalization).eval()
        states = make_states("dot", [(3, 4), (1, 1)])
        queries, _, keys, _ = states
        pooled, _ = alignment(*states)
        best = [(queries[:3] @ keys[:4].t()).argmax(1), torch.tensor([4])]
        torch.testing.assert_close(pooled, keys[torch.cat(best)])

    def test_training_copies_some_key_that_the_query_may_see(
        self, normalization: Normalization
    ) -> None:
        alignment, states = make_alignment("dot", normalization), make_states("dot", [(50, 4)])
        mask = torch.tensor([True, False, True, True]).repeat(50)
        pooled, weights = alignment(*states, mask)
        drawn = weights.view(50, 4).argmax(1)
        torch.testing.assert_close(pooled, states[2][drawn])
        assert set(drawn.tolist()) == {0, 2, 3}


class TestTakeDraw:
    def test_has_the_log_probability_and_the_entropy_of_each_query(self) -> None:
        alignment = make_alignment("dot", "hard_reinforce")
        queries, query_lengths, keys, key_lengths = make_states("dot", [(2, 3), (1, 0)])
        mask = torch.tensor([True, False, True, False, False, False])
        _, weights = alignment(queries, query_lengths, keys, key_lengths, mask)
        draw = alignment.take_draw()
        assert draw is not None
        logarithms = (keys[[0, 2]] @ queries[0]).log_softmax(0)
        zeros = [torch.zeros(1, dtype=torch.float64)] * 2  # the other queries see no key
        chosen = (logarithms * weights[[0, 2]]).sum()[None]
        entropy = -(logarithms.exp() * logarithms).sum()[None]
        torch.testing.assert_close(draw[0], torch.stack([chosen, *zeros]))
        torch.testing.assert_close(draw[1], torch.stack([entropy, *zeros]))
        assert alignment.take_draw() is None

    def test_is_none_of_other_normalizations(self) -> None:
        alignment = make_alignment("dot")
        alignment(*make_states("dot", [(2, 3)]))
        assert alignment.take_draw() is None


class TestRefusals:
    @pytest.mark.parametrize("score", OF_ONE_WIDTH)
    def test_widths_that_cannot_be_compared(self, score: Score) -> None:
        with pytest.raises(
            ValueError,
            match=f"`{score}` compares queries and keys of one width, got 4 and 3; take additive",
        ):
            Alignment(4, 3, score=score)

    def test_a_score_that_there_is_not(self) -> None:
        with pytest.raises(ValueError, match=r"There is no score 'concat'\."):
            Alignment(4, 4, score="concat")  # type: ignore[arg-type]

    def test_a_normalization_that_there_is_not(self) -> None:
        with pytest.raises(ValueError, match=r"There is no normalization 'hardmax'\."):
            Alignment(4, 4, normalization="hardmax")  # type: ignore[arg-type]

    def test_another_number_of_segments(self) -> None:
        queries, lengths, keys, _ = make_states("dot", [(2, 2), (1, 1)])
        with pytest.raises(ValueError, match="needs one of keys, got 2 and 1 segments"):
            make_alignment("dot")(queries, lengths, keys, torch.tensor([3]))

    @pytest.mark.parametrize("marks", [4, 6])
    def test_another_number_of_marks(self, marks: int) -> None:
        states = make_states("dot", [(2, 2), (1, 1)])
        with pytest.raises(ValueError, match="`mask` must have one mark for each of 5 pairs"):
            make_alignment("dot")(*states, torch.ones(marks, dtype=torch.bool))

    @pytest.mark.parametrize(
        ("query_lengths", "key_lengths"),
        [
            ([2], [3]),
            ([4], [3]),
            ([3], [2]),
            ([3], [4]),
            ([4, -1], [3, 0]),
            ([3, 0], [-1, 4]),
        ],
    )
    def test_lengths_that_do_not_sum_to_the_states(
        self, query_lengths: list[int], key_lengths: list[int]
    ) -> None:
        queries, _, keys, _ = make_states("dot", [(3, 3)])
        with pytest.raises(ValueError, match="lengths` must be at least 0 and sum to 3"):
            make_alignment("dot")(
                queries, torch.tensor(query_lengths), keys, torch.tensor(key_lengths)
            )

    def test_another_number_of_values(self) -> None:
        states = make_states("dot", [(2, 2), (1, 1)])
        with pytest.raises(ValueError, match="`values` must be one for each of 3 keys, got 2"):
            make_alignment("dot")(*states, values=torch.zeros(2, 4))
