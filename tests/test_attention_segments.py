from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from han.attention import Pairs, causal_mask, segment_index
from han.attention.segments import alike, places_in_segments

LENGTHS = st.lists(st.integers(0, 5), max_size=7)
BOTH_LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6)


def make_lengths(lengths: list[int]) -> torch.Tensor:
    return torch.tensor(lengths, dtype=torch.int64)


def pair_by_loop(both: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The oracle: each query with each key of its segment, written out."""
    found, first_query, first_key = [], 0, 0
    for queries, keys in both:
        for query in range(first_query, first_query + queries):
            for key in range(first_key, first_key + keys):
                found.append((query, key))
        first_query, first_key = first_query + queries, first_key + keys
    return found


def make_pairs(both: list[tuple[int, int]]) -> Pairs:
    return Pairs.of(make_lengths([q for q, _ in both]), make_lengths([k for _, k in both]))


class TestSegmentIndex:
    @settings(max_examples=30, deadline=None)
    @given(LENGTHS)
    def test_names_the_segment_of_each_element(self, lengths: list[int]) -> None:
        expected = [segment for segment, length in enumerate(lengths) for _ in range(length)]
        index = segment_index(make_lengths(lengths))
        assert index.tolist() == expected
        assert index.dtype == torch.int64


class TestPlacesInSegments:
    @settings(max_examples=30, deadline=None)
    @given(LENGTHS)
    def test_counts_from_0_in_each_segment(self, lengths: list[int]) -> None:
        expected = [place for length in lengths for place in range(length)]
        places = places_in_segments(make_lengths(lengths))
        assert places.tolist() == expected
        assert places.dtype == torch.int64


class TestAlike:
    def test_hand_computed(self) -> None:
        groups = [rows.tolist() for (rows,) in alike(torch.tensor([2, 0, 1, 2]))]
        assert groups == [[[2]], [[0, 1], [3, 4]]]

    def test_segments_that_are_empty_in_one_way_only_are_kept(self) -> None:
        groups = list(alike(torch.tensor([2, 0, 0]), torch.tensor([0, 0, 3])))
        shapes = [tuple(tuple(rows.shape) for rows in group) for group in groups]
        assert shapes == [((1, 0), (1, 3)), ((1, 2), (1, 0))]

    @settings(max_examples=40, deadline=None)
    @given(BOTH_LENGTHS)
    def test_each_segment_is_in_the_one_group_of_its_lengths(
        self, both: list[tuple[int, int]]
    ) -> None:
        elements, first_query, first_key = [], 0, 0
        for queries, keys in both:
            if queries or keys:
                of_queries = tuple(range(first_query, first_query + queries))
                elements.append((of_queries, tuple(range(first_key, first_key + keys))))
            first_query, first_key = first_query + queries, first_key + keys

        found, sizes = [], []
        lengths = [make_lengths([each[way] for each in both]) for way in (0, 1)]
        for queries, keys in alike(*lengths):
            sizes.append((queries.shape[1], keys.shape[1]))
            of_group = zip(map(tuple, queries.tolist()), map(tuple, keys.tolist()), strict=True)
            found.extend(of_group)
        assert Counter(found) == Counter(elements)
        assert len(sizes) == len(set(sizes))


class TestPairs:
    def test_hand_computed(self) -> None:
        pairs = Pairs.of(torch.tensor([2, 1]), torch.tensor([1, 3]))
        assert pairs.query.tolist() == [0, 1, 2, 2, 2]
        assert pairs.key.tolist() == [0, 0, 1, 2, 3]
        assert pairs.keys_per_query.tolist() == [1, 1, 3]

    @settings(max_examples=40, deadline=None)
    @given(BOTH_LENGTHS)
    def test_are_those_of_a_loop(self, both: list[tuple[int, int]]) -> None:
        pairs, expected = make_pairs(both), pair_by_loop(both)
        assert list(zip(pairs.query.tolist(), pairs.key.tolist(), strict=True)) == expected
        assert pairs.keys_per_query.tolist() == [
            keys for queries, keys in both for _ in range(queries)
        ]

    @settings(max_examples=40, deadline=None)
    @given(BOTH_LENGTHS, st.integers(0, 9))
    def test_only_those_that_are_marked_stay(self, both: list[tuple[int, int]], seed: int) -> None:
        torch.manual_seed(seed)
        every = pair_by_loop(both)
        mask = torch.rand(len(every)) < 0.5
        pairs = make_pairs(both).only(mask)

        expected = list(itertools.compress(every, mask.tolist()))
        assert list(zip(pairs.query.tolist(), pairs.key.tolist(), strict=True)) == expected
        counts = Counter(query for query, _ in expected)
        num_queries = sum(queries for queries, _ in both)
        assert pairs.keys_per_query.tolist() == [counts[query] for query in range(num_queries)]

    def test_another_number_of_segments_is_refused(self) -> None:
        with pytest.raises(
            ValueError,
            match=r"Each segment of queries needs one of keys, got 2 and 3 segments\.",
        ):
            Pairs.of(torch.tensor([2, 1]), torch.tensor([2, 1, 0]))

    @pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (2, 2), ()])
    def test_a_mask_of_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        pairs = Pairs.of(torch.tensor([2]), torch.tensor([2]))
        with pytest.raises(
            ValueError, match="`mask` must have one mark for each of 4 pairs"
        ) as error:
            pairs.only(torch.ones(shape, dtype=torch.bool))
        assert str(error.value).endswith(f"got shape {shape}.")


class TestCausalMask:
    def test_hand_computed(self) -> None:
        # fmt: off
        assert causal_mask(torch.tensor([3, 0, 1])).tolist() == [
            True, False, False,
            True, True, False,
            True, True, True,
            True,
        ]
        # fmt: on

    @settings(max_examples=30, deadline=None)
    @given(LENGTHS)
    def test_each_step_sees_itself_and_what_came_before(self, lengths: list[int]) -> None:
        expected = [
            key <= query for length in lengths for query in range(length) for key in range(length)
        ]
        mask = causal_mask(make_lengths(lengths))
        assert mask.tolist() == expected
        assert mask.dtype == torch.bool
