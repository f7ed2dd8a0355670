from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from han.attention import MultiHeadAttention, causal_mask

BOTH_LENGTHS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=5)
States = tuple[Tensor, Tensor, Tensor, Tensor]


def make_attention(size: int = 6, heads: int = 3, seed: int = 0) -> MultiHeadAttention:
    """Return attention in double precision whose every parameter is random."""
    torch.manual_seed(seed)
    attention = MultiHeadAttention(size, heads).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    return attention


def make_states(both: list[tuple[int, int]], size: int = 6) -> States:
    """Return queries and keys with their lengths, as `MultiHeadAttention` takes them."""
    query_lengths, key_lengths = torch.tensor(both, dtype=torch.int64).view(-1, 2).t()
    queries, keys = (
        torch.randn(int(lengths.sum()), size, dtype=torch.float64, requires_grad=True)
        for lengths in (query_lengths, key_lengths)
    )
    return queries, query_lengths, keys, key_lengths


def make_mask(both: list[tuple[int, int]], share: float) -> list[Tensor]:
    """Return which keys each query may see, at least one where there are any: bool (T, U) each."""
    masks = [torch.rand(sizes) < share for sizes in both]
    for mask in masks:
        if mask.numel():
            of_each = torch.arange(len(mask))
            mask[of_each, torch.randint(mask.shape[1], (len(mask),))] = True
    return masks


def attend_one_by_one(
    ours: MultiHeadAttention, states: States, masks: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The oracle: torch's own attention on each segment alone, with our parameters."""
    queries, query_lengths, keys, key_lengths = states
    theirs = nn.MultiheadAttention(queries.shape[1], ours.heads, batch_first=True).to(queries)
    parameters = {
        "in_proj_weight": torch.cat([ours.of_query.weight, ours.of_key.weight]),
        "in_proj_bias": torch.cat([ours.of_query.bias, ours.of_key.bias]),
        "out_proj.weight": ours.output.weight,
        "out_proj.bias": ours.output.bias,
    }
    attended = [queries.new_zeros(0, queries.shape[1])]
    weights = [queries.new_zeros(0, ours.heads)]
    parts = zip(
        queries.split(query_lengths.tolist()), keys.split(key_lengths.tolist()), strict=True
    )
    for segment, (of_queries, of_keys) in enumerate(parts):
        if len(of_queries) and len(of_keys):
            found = torch.func.functional_call(
                theirs,
                parameters,
                (of_queries[None], of_keys[None], of_keys[None]),
                {
                    "attn_mask": None if masks is None else ~masks[segment],
                    "average_attn_weights": False,
                },
            )
            attended.append(found[0][0])
            weights.append(found[1][0].flatten(1).t())  # (H, T, U) to (T U, H)
        else:
            attended.append(ours.output.bias.expand(len(of_queries), -1))
    return torch.cat(attended), torch.cat(weights)


def assert_same(
    ours: MultiHeadAttention, states: States, masks: list[Tensor] | None = None
) -> None:
    """Compare results, weights and the gradients of both with the oracle's."""
    mask = None if masks is None else torch.cat([each.flatten() for each in masks])
    results = ours(*states, mask), ours.weights(*states, mask)
    expected = attend_one_by_one(ours, states, masks)
    torch.testing.assert_close(results, expected)

    factors = [torch.randn_like(result) for result in results]
    leaves = [states[0], states[2], *ours.parameters()]
    found, exact = (
        torch.autograd.grad(
            sum((a * b).sum() for a, b in zip(each, factors, strict=True)),
            leaves,
            materialize_grads=True,
        )
        for each in (results, expected)
    )
    torch.testing.assert_close(found, exact)


class TestMultiHeadAttention:
    @pytest.mark.parametrize(("size", "heads"), [(6, 1), (6, 3), (6, 6), (9, 3), (1, 1)])
    @pytest.mark.parametrize("lengths", [[3], [1], [3, 0, 1, 5, 3], [0, 0], [2] * 9])
    def test_within_a_sequence_equals_torch(
        self, size: int, heads: int, lengths: list[int]
    ) -> None:
        ours = make_attention(size, heads)
        both = [(length, length) for length in lengths]
        states, _, keys, of_each = make_states(both, size)
        assert_same(ours, (states, of_each, states, of_each))
        assert_same(ours, (states, of_each, keys, of_each))

    @settings(max_examples=30, deadline=None)
    @given(BOTH_LENGTHS, st.integers(0, 9))
    def test_across_sequences_equals_torch(self, both: list[tuple[int, int]], seed: int) -> None:
        ours = make_attention(seed=seed)
        assert_same(ours, make_states(both))

    @settings(max_examples=30, deadline=None)
    @given(BOTH_LENGTHS, st.sampled_from([0.2, 0.6]), st.integers(0, 9))
    def test_with_any_mask_equals_torch(
        self, both: list[tuple[int, int]], share: float, seed: int
    ) -> None:
        ours = make_attention(seed=seed)
        assert_same(ours, make_states(both), make_mask(both, share))

    @pytest.mark.parametrize("lengths", [[4], [3, 0, 1, 5, 3]])
    def test_with_a_causal_mask_equals_torch(self, lengths: list[int]) -> None:
        ours = make_attention()
        states, of_each, _, _ = make_states([(length, length) for length in lengths])
        masks = [torch.ones(length, length).tril().bool() for length in lengths]
        assert_same(ours, (states, of_each, states, of_each), masks)
        found = ours(states, of_each, states, of_each, causal_mask(of_each))
        expected, _ = attend_one_by_one(ours, (states, of_each, states, of_each), masks)
        torch.testing.assert_close(found, expected)

    def test_hand_computed(self) -> None:
        ours = MultiHeadAttention(2, 1)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.zero_()
            ours.of_query.weight.copy_(torch.eye(2))
            ours.of_key.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]]))  # swaps
            ours.output.weight.copy_(2 * torch.eye(2))
            ours.output.bias.copy_(torch.tensor([0.0, 1.0]))
        queries, keys = torch.tensor([[2.0**0.5, 0.0]]), torch.tensor([[3.0, 0.0], [2.0, 5.0]])
        lengths = torch.tensor([1]), torch.tensor([2])
        # The scores are 3 and 2: what 2 keys of width 2 give over the root of 2.
        first = 1 / (1 + torch.tensor(-1.0).exp())
        other = 1 - first
        weights = ours.weights(queries, lengths[0], keys, lengths[1])
        torch.testing.assert_close(weights, torch.stack([first, other])[:, None])
        expected = torch.stack([2 * 5 * other, 2 * (3 * first + 2 * other) + 1])[None]
        attended = ours(queries, lengths[0], keys, lengths[1])
        torch.testing.assert_close(attended, expected)

    def test_single_precision_is_within_rounding_of_double(self) -> None:
        ours, both = make_attention(), [(7, 40), (30, 2), (7, 40)]
        states, masks = make_states(both), make_mask(both, 0.5)
        mask = torch.cat([each.flatten() for each in masks])
        expected = ours(*states, mask)
        queries, query_lengths, keys, key_lengths = states
        found = ours.float()(queries.float(), query_lengths, keys.float(), key_lengths, mask)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

    def test_a_segment_does_not_know_of_its_neighbours(self) -> None:
        ours, both = make_attention(), [(2, 3), (4, 1), (2, 3), (1, 2)]
        states = make_states(both)
        attended, weights = ours(*states), ours.weights(*states)
        parts = zip(
            both,
            states[0].split([queries for queries, _ in both]),
            states[2].split([keys for _, keys in both]),
            attended.split([queries for queries, _ in both]),
            weights.split([queries * keys for queries, keys in both]),
            strict=True,
        )
        for sizes, queries, keys, of_queries, of_pairs in parts:
            query_length, key_length = torch.tensor(sizes).split(1)
            alone = (queries, query_length, keys, key_length)
            torch.testing.assert_close(ours(*alone), of_queries)
            torch.testing.assert_close(ours.weights(*alone), of_pairs)

    @pytest.mark.parametrize("both", [[(2, 2), (0, 3)], [(2, 2), (3, 0)], [(2, 0)], [(0, 2)]])
    def test_a_segment_may_be_empty_on_one_side(self, both: list[tuple[int, int]]) -> None:
        ours = make_attention()
        assert_same(ours, make_states(both))

    @pytest.mark.parametrize("both", [[], [(0, 0)], [(0, 0), (0, 0)]])
    def test_of_nothing_there_is_nothing(self, both: list[tuple[int, int]]) -> None:
        ours, states = make_attention(), make_states(both)
        assert ours(*states).shape == (0, 6)
        assert ours.weights(*states).shape == (0, 3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_query_that_sees_no_key_has_the_bias(self, dtype: torch.dtype) -> None:
        ours = make_attention().to(dtype)
        queries, query_lengths, keys, key_lengths = make_states([(3, 4), (2, 2)])
        queries, keys = (x.detach().to(dtype).requires_grad_() for x in (queries, keys))
        mask = torch.tensor([True] * 4 + [False] * 4 + [True, False] * 2 + [False] * 4)
        states = queries, query_lengths, keys, key_lengths
        attended, weights = ours(*states, mask), ours.weights(*states, mask)
        for blind in (1, 3, 4):
            torch.testing.assert_close(attended[blind], ours.output.bias)
        assert (attended[[0, 2]] != ours.output.bias).any(1).all()
        assert not weights[~mask].any()
        torch.testing.assert_close(weights.sum(0), torch.full((3,), 2.0, dtype=dtype))

        (attended.square().sum() + weights.square().sum()).backward()
        for leaf in (queries, keys, *ours.parameters()):
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
        assert queries.grad is not None
        assert not queries.grad[[1, 3, 4]].any()
        assert keys.grad is not None
        assert not keys.grad[4:].any()

    @pytest.mark.parametrize(("size", "heads"), [(6, 4), (6, 0), (6, -1), (3, 6)])
    def test_heads_that_do_not_divide_the_width_are_refused(self, size: int, heads: int) -> None:
        with pytest.raises(ValueError, match=f"`heads` must divide the width, {size}, got {heads}"):
            MultiHeadAttention(size, heads)

    @pytest.mark.parametrize("method", ["forward", "weights"])
    def test_another_number_of_segments_is_refused(self, method: str) -> None:
        ours = make_attention()
        queries, lengths, keys, _ = make_states([(2, 2), (1, 1)])
        with pytest.raises(ValueError, match="needs one of keys, got 2 and 1 segments"):
            getattr(ours, method)(queries, lengths, keys, torch.tensor([3]))

    @pytest.mark.parametrize("method", ["forward", "weights"])
    @pytest.mark.parametrize(
        ("query_lengths", "key_lengths"),
        [([2], [3]), ([4], [3]), ([3], [2]), ([3], [4]), ([4, -1], [3, 0])],
    )
    def test_lengths_that_do_not_sum_to_the_states_are_refused(
        self, method: str, query_lengths: list[int], key_lengths: list[int]
    ) -> None:
        ours, (queries, _, keys, _) = make_attention(), make_states([(3, 3)])
        lengths = torch.tensor(query_lengths), torch.tensor(key_lengths)
        with pytest.raises(ValueError, match="lengths` must be at least 0 and sum to 3"):
            getattr(ours, method)(queries, lengths[0], keys, lengths[1])

    @pytest.mark.parametrize("method", ["forward", "weights"])
    @pytest.mark.parametrize("marks", [4, 6])
    def test_another_number_of_marks_is_refused(self, method: str, marks: int) -> None:
        ours, states = make_attention(), make_states([(2, 2), (1, 1)])
        with pytest.raises(ValueError, match="`mask` must have one mark for each of 5 pairs"):
            getattr(ours, method)(*states, torch.ones(marks, dtype=torch.bool))

    def test_projections_may_be_of_lesser_precision_than_the_states(self) -> None:
        # As under autocast; on the CPU it would hide that the dtypes differ.
        ours, lengths = MultiHeadAttention(6, 3), torch.tensor([3, 2])
        states = torch.randn(5, 6)
        expected = ours(states, lengths, states, lengths)
        for projection in (ours.of_query, ours.of_key):
            projection.register_forward_hook(lambda _, __, projected: projected.bfloat16())
        ours.output.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        found = ours(states, lengths, states, lengths)
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self) -> None:
        ours, both = make_attention(), [(2, 3), (4, 1), (2, 3), (1, 2)]
        states = make_states(both)
        mask = torch.cat([each.flatten() for each in make_mask(both, 0.5)])
        expected = ours(*states, mask)
        found = ours.cuda()(*(x.cuda() for x in states), mask.cuda())
        torch.testing.assert_close(found.cpu(), expected)

    @pytest.mark.gpu
    def test_gpu_attends_in_mixed_precision(self) -> None:
        ours, lengths = make_attention().float().cuda(), torch.tensor([3, 2]).cuda()
        states = torch.randn(5, 6, device="cuda", requires_grad=True)
        expected = ours(states, lengths, states, lengths)
        with torch.autocast("cuda", torch.bfloat16):
            found = ours(states, lengths, states, lengths)
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
        found.float().sum().backward()
        assert states.grad is not None
        assert states.grad.isfinite().all()
