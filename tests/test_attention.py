from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from han.attention import (
    AdditiveAttention,
    AttentionPooling,
    CosineAttention,
    DotAttention,
    GeneralAttention,
    LocationAttention,
    Normalization,
    Score,
    UniformAttention,
    Weighting,
    attention_pooling,
)
from tests.test_attention_normalization import normalize_alone

SCORES = get_args(Score)
WEIGHTINGS = [
    Weighting(score, normalization, heads)
    for score in SCORES
    for normalization in get_args(Normalization)
    for heads in (1, 3)
    if normalization != "uniform" or score == "additive"  # which does not look at the score
]
LENGTHS = [4, 0, 1, 7, 3]
WIDTH = 6


def name_of(weighting: Weighting) -> str:
    return f"{weighting.score}-{weighting.normalization}-{weighting.heads}"


each_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS, ids=name_of)


def make_attention(weighting: Weighting, width: int = WIDTH, seed: int = 0) -> AttentionPooling:
    """Return attention in double precision whose every parameter is random."""
    torch.manual_seed(seed)
    attention = attention_pooling(width, 5, weighting).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    return attention


def make_hidden(lengths: list[int], width: int = WIDTH) -> Tensor:
    return torch.randn(sum(lengths), width, dtype=torch.float64, requires_grad=True)


def fill(parameter: Any, values: Any) -> None:  # noqa: ANN401
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def score_alone(
    attention: Any,  # noqa: ANN401
    score: Score,
    head: int,
    state: Tensor,
    place: int,
) -> Tensor:
    """The oracle of the score of one state, as in the papers that `Weighting` names."""
    if score == "location":
        of_place: Tensor = attention.scores[min(place, 511), head]
        return of_place
    context = attention.context.chunk(attention.heads)[head]
    match score:
        case "additive":
            projected = torch.tanh(attention.projection.weight @ state + attention.projection.bias)
            return context.dot(projected)
        case "dot":
            return context.dot(state)
        case "scaled_dot":
            return context.dot(state) / math.sqrt(len(state))
        case "general":
            return context.dot(attention.projection.weight @ state)
        case "cosine":
            cosine = context.dot(state) / (context.dot(context) * state.dot(state)).sqrt()
            return torch.log(1 + attention.strength[head].exp()) * cosine
    raise ValueError(score)


def pool_by_loop(
    attention: AttentionPooling, weighting: Weighting, hidden: Tensor, lengths: list[int]
) -> tuple[Tensor, Tensor]:
    """The oracle: each segment alone, each head alone, each state alone."""
    pooled, weights = [], []
    for part in hidden.split(lengths):
        of_heads = []
        for head in range(weighting.heads) if len(part) else ():
            scores = [
                score_alone(attention, weighting.score, head, state, place)
                for place, state in enumerate(part)
            ]
            of_heads.append(normalize_alone(weighting.normalization, torch.stack(scores)))
        zeros = hidden.new_zeros(hidden.shape[1])
        for head in range(weighting.heads):
            terms = zip(of_heads[head], part, strict=True) if of_heads else ()
            pooled.append(sum((weight * state for weight, state in terms), zeros))
        weights.extend(of_heads and [torch.stack(of_heads, 1)])
    return torch.cat(pooled).view(len(lengths), -1), torch.cat(weights)


class TestAdditiveAttention:
    def test_hand_computed(self) -> None:
        attention = AdditiveAttention(2, 1)
        with torch.no_grad():
            attention.projection.weight.copy_(torch.tensor([[1.0, -1.0]]))
            attention.projection.bias.fill_(0.5)
            attention.context.fill_(2.0)
        hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 5.0]])
        pooled, weights = attention(hidden, torch.tensor([2, 1]))

        scores = [2 * math.tanh(1.5), 2 * math.tanh(-0.5)]
        first = math.exp(scores[0]) / (math.exp(scores[0]) + math.exp(scores[1]))
        torch.testing.assert_close(weights, torch.tensor([[first], [1 - first], [1.0]]))
        torch.testing.assert_close(pooled, torch.tensor([[first, 1 - first], [3.0, 5.0]]))

    def test_two_heads_share_the_projection_and_lie_end_to_end(self) -> None:
        attention = AdditiveAttention(2, 1, heads=2)
        fill(attention.projection.weight, [[1.0, -1.0]])
        fill(attention.projection.bias, [0.5])
        fill(attention.context, [2.0, -1.0])
        pooled, weights = attention(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2]))

        apart = math.tanh(1.5) - math.tanh(-0.5)
        first, other = 1 / (1 + math.exp(-2 * apart)), 1 / (1 + math.exp(apart))
        torch.testing.assert_close(weights, torch.tensor([[first, other], [1 - first, 1 - other]]))
        torch.testing.assert_close(pooled, torch.tensor([[first, 1 - first, other, 1 - other]]))

    def test_sizes_need_not_match(self) -> None:
        pooled, weights = AdditiveAttention(6, 11)(torch.randn(5, 6), torch.tensor([2, 3]))
        assert pooled.shape == (2, 6)
        assert weights.shape == (5, 1)

    def test_an_empty_segment_pools_to_zeros(self) -> None:
        pooled, weights = AdditiveAttention(3, 2)(torch.randn(2, 3), torch.tensor([0, 2, 0]))
        assert pooled[0].tolist() == pooled[2].tolist() == [0.0, 0.0, 0.0]
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


class TestDotAttention:
    def test_hand_computed(self) -> None:
        attention = DotAttention(2, scaled=False)
        fill(attention.context, [math.log(3), math.log(2)])
        hidden = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [5.0, 7.0]])
        pooled, weights = attention(hidden, torch.tensor([3, 1]))
        # Scores are the logarithms of 9, 2 and 3.
        expected = torch.tensor([[9 / 14], [2 / 14], [3 / 14], [1.0]])
        torch.testing.assert_close(weights, expected)
        torch.testing.assert_close(pooled, torch.tensor([[21 / 14, 2 / 14], [5.0, 7.0]]))

    def test_scaled_divides_by_the_root_of_the_width(self) -> None:
        attention = DotAttention(4, scaled=True)
        fill(attention.context, [2 * math.log(3), 0.0, 0.0, 2 * math.log(2)])
        _, weights = attention(torch.eye(4), torch.tensor([4]))
        torch.testing.assert_close(weights, torch.tensor([[3 / 7], [1 / 7], [1 / 7], [2 / 7]]))


class TestGeneralAttention:
    def test_hand_computed(self) -> None:
        attention = GeneralAttention(2, 3)
        fill(attention.projection.weight, [[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
        fill(attention.context, [math.log(2), math.log(3), math.log(5)])
        pooled, weights = attention(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2]))
        # c . W h is ln 2 + 3 ln 5 = ln 250 and 2 ln 2 + ln 3 = ln 12.
        torch.testing.assert_close(weights, torch.tensor([[250 / 262], [12 / 262]]))
        torch.testing.assert_close(pooled, torch.tensor([[250 / 262, 12 / 262]]))


class TestCosineAttention:
    def test_hand_computed(self) -> None:
        attention = CosineAttention(2)
        fill(attention.strength, [math.log(math.exp(2.0) - 1)])  # softplus makes it 2
        fill(attention.context, [3.0, 4.0])
        hidden = torch.tensor([[40.0, 30.0], [-4.0, 3.0]])
        _, weights = attention(hidden, torch.tensor([2]))
        # The cosines are 240 / 250 and 0.
        first = 1 / (1 + math.exp(-2 * 0.96))
        torch.testing.assert_close(weights, torch.tensor([[first], [1 - first]]))

    def test_the_length_of_a_state_does_not_count(self) -> None:
        attention, hidden = CosineAttention(3, 2), torch.randn(5, 3)
        lengths = torch.tensor([5])
        longer = hidden * torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e3])[:, None]
        torch.testing.assert_close(attention(longer, lengths)[1], attention(hidden, lengths)[1])

    def test_a_state_of_zeros_scores_0(self) -> None:
        attention = CosineAttention(3)
        hidden = torch.zeros(2, 3, requires_grad=True)
        pooled, weights = attention(hidden, torch.tensor([2]))
        assert weights.tolist() == [[0.5], [0.5]]
        pooled.sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.isfinite().all()


class TestLocationAttention:
    def test_hand_computed(self) -> None:
        attention = LocationAttention(2)
        fill(attention.scores[:2], [[0.0, math.log(3)], [math.log(4), 0.0]])
        hidden = torch.tensor([[1.0], [2.0], [9.0], [5.0], [5.0]])
        pooled, weights = attention(hidden, torch.tensor([2, 1, 2]))
        two = [[0.2, 0.75], [0.8, 0.25]]
        torch.testing.assert_close(weights, torch.tensor([*two, [1.0, 1.0], *two]))
        torch.testing.assert_close(pooled, torch.tensor([[1.8, 1.25], [9.0, 9.0], [5.0, 5.0]]))

    def test_places_beyond_the_first_512_have_the_score_of_the_last(self) -> None:
        torch.manual_seed(0)
        attention = LocationAttention().double()
        torch.nn.init.normal_(attention.scores)
        hidden = torch.randn(515, 2, dtype=torch.float64)
        _, weights = attention(hidden, torch.tensor([515]))
        exponentials = attention.scores.exp().flatten()
        exponentials = torch.cat([exponentials, exponentials[-1:].repeat(3)])
        torch.testing.assert_close(weights.flatten(), exponentials / exponentials.sum())

    def test_what_stands_at_a_place_does_not_count(self) -> None:
        attention, lengths = LocationAttention(), torch.tensor([3])
        torch.nn.init.normal_(attention.scores)
        weights = [attention(torch.randn(3, 2), lengths)[1] for _ in range(2)]
        assert torch.equal(*weights)


class TestUniformAttention:
    def test_pools_to_the_mean_as_often_as_there_are_heads(self) -> None:
        hidden = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 5.0]])
        pooled, weights = UniformAttention(2)(hidden, torch.tensor([2, 0, 1]))
        assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]
        assert pooled.tolist() == [[2.0, 4.0, 2.0, 4.0], [0.0] * 4, [5.0] * 4]


class TestWeighting:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"score": "concat"}, "`score` must be one of additive, dot, .*, got 'concat'"),
            (
                {"normalization": "hardmax"},
                "`normalization` must be one of softmax, sparsemax, .*, got 'hardmax'",
            ),
            ({"heads": 0}, "`heads` must be from 1 to 64, got 0"),
            ({"heads": 65}, "`heads` must be from 1 to 64, got 65"),
        ],
    )
    def test_what_there_is_not_is_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Weighting(**options)

    def test_from_1_to_64_heads_are_taken(self) -> None:
        assert [Weighting(heads=heads).heads for heads in (1, 64)] == [1, 64]


@pytest.mark.parametrize("score", SCORES)
class TestEachScore:
    @settings(max_examples=25, deadline=None)
    @given(
        lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any),
        heads=st.integers(1, 3),
        normalization=st.sampled_from(["softmax", "sparsemax", "entmax"]),
        seed=st.integers(0, 9),
    )
    def test_equals_a_loop_over_segments_heads_and_states(
        self,
        score: Score,
        lengths: list[int],
        heads: int,
        normalization: Normalization,
        seed: int,
    ) -> None:
        weighting = Weighting(score, normalization, heads)
        attention = make_attention(weighting, 4, seed)
        hidden = make_hidden(lengths, 4)
        results = attention(hidden, torch.tensor(lengths))
        expected = pool_by_loop(attention, weighting, hidden, lengths)
        torch.testing.assert_close(results, expected)

        factors = [torch.randn_like(result) for result in results]
        leaves = [hidden, *attention.parameters()]
        ours, theirs = (
            torch.autograd.grad(
                sum((a * b).sum() for a, b in zip(each, factors, strict=True)),
                leaves,
                materialize_grads=True,
            )
            for each in (results, expected)
        )
        torch.testing.assert_close(ours, theirs)


class TestAttentionPooling:
    @each_weighting
    @pytest.mark.parametrize("training", [True, False])
    def test_weights_sum_to_one_and_pool_the_states(
        self, weighting: Weighting, training: bool
    ) -> None:
        attention, hidden = make_attention(weighting).train(training), make_hidden(LENGTHS)
        pooled, weights = attention(hidden, torch.tensor(LENGTHS))
        assert pooled.shape == (len(LENGTHS), weighting.heads * WIDTH)
        assert weights.shape == (sum(LENGTHS), weighting.heads)

        parts = zip(pooled, hidden.split(LENGTHS), weights.split(LENGTHS), strict=True)
        for vector, states, of_states in parts:
            for head, of_head in enumerate(vector.split(WIDTH)):
                terms = zip(of_states[:, head], states, strict=True)
                expected = sum((a * b for a, b in terms), torch.zeros(WIDTH, dtype=torch.float64))
                torch.testing.assert_close(of_head, expected)
            if len(states):
                ones = torch.ones(weighting.heads, dtype=torch.float64)
                torch.testing.assert_close(of_states.sum(0), ones)
            else:
                assert not vector.any()

    @each_weighting
    def test_gradients_reach_every_parameter_of_every_head(self, weighting: Weighting) -> None:
        attention, hidden = make_attention(weighting), make_hidden(LENGTHS)
        pooled, _ = attention(hidden / 4, torch.tensor(LENGTHS))  # few of the scores far apart
        loss = (pooled * torch.randn_like(pooled)).sum()
        draw = attention.take_draw()
        assert (draw is not None) == (weighting.normalization == "hard_reinforce")
        if draw is not None:
            loss = loss + (draw[0] * torch.randn_like(draw[0])).sum()
        loss.backward()

        assert hidden.grad is not None
        assert hidden.grad.isfinite().all()
        parameters = dict(attention.named_parameters())
        assert (not parameters) == (weighting.normalization == "uniform")
        for name, parameter in parameters.items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if name.startswith("projection"):
                assert parameter.grad.any(), name
            else:  # one part for each head
                ways = 1 if name == "scores" else 0
                for of_head in parameter.grad.chunk(weighting.heads, ways):
                    assert of_head.any(), name

    @each_weighting
    def test_single_precision_is_within_rounding_of_double(self, weighting: Weighting) -> None:
        attention, hidden = make_attention(weighting).eval(), make_hidden(LENGTHS)
        lengths = torch.tensor(LENGTHS)
        expected = attention(hidden, lengths)
        for result, exact in zip(attention.float()(hidden.float(), lengths), expected, strict=True):
            assert result.dtype == torch.float32
            torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-5)

    @each_weighting
    def test_a_segment_read_alone_gives_the_same(self, weighting: Weighting) -> None:
        attention, hidden = make_attention(weighting).eval(), make_hidden(LENGTHS)
        pooled, weights = attention(hidden, torch.tensor(LENGTHS))
        parts = zip(hidden.split(LENGTHS), pooled, weights.split(LENGTHS), strict=True)
        for states, vector, of_states in parts:
            alone = attention(states, torch.tensor([len(states)]))
            torch.testing.assert_close(alone, (vector[None], of_states))

    @each_weighting
    def test_nothing_but_empty_segments_pools_to_zeros(self, weighting: Weighting) -> None:
        attention = make_attention(weighting)
        for count in range(3):
            lengths = torch.zeros(count, dtype=torch.int64)
            pooled, weights = attention(make_hidden([]), lengths)
            assert pooled.shape == (count, weighting.heads * WIDTH)
            assert not pooled.any()
            assert weights.shape == (0, weighting.heads)

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self) -> None:
        lengths = torch.tensor(LENGTHS)
        for weighting in WEIGHTINGS:
            attention, hidden = make_attention(weighting).eval(), make_hidden(LENGTHS)
            expected = attention(hidden, lengths)
            results = attention.cuda()(hidden.cuda(), lengths.cuda())
            for result, exact in zip(results, expected, strict=True):
                torch.testing.assert_close(result.cpu(), exact, msg=name_of(weighting))

    @pytest.mark.gpu
    def test_gpu_learns_in_mixed_precision(self) -> None:
        lengths = torch.tensor(LENGTHS).cuda()
        for weighting in WEIGHTINGS:
            attention = make_attention(weighting).float().cuda()
            hidden = torch.randn(sum(LENGTHS), WIDTH, device="cuda", requires_grad=True)
            with torch.autocast("cuda", torch.bfloat16):
                pooled, _ = attention(hidden, lengths)
            assert pooled.isfinite().all(), name_of(weighting)
            pooled.float().square().sum().backward()
            assert hidden.grad is not None
            assert hidden.grad.isfinite().all(), name_of(weighting)


class TestTakeDraw:
    def test_has_the_log_probability_and_the_entropy_of_each_segment_and_head(self) -> None:
        attention = make_attention(Weighting("dot", "hard_reinforce", 2))
        hidden, lengths = make_hidden(LENGTHS), torch.tensor(LENGTHS)
        _, drawn = attention(hidden, lengths)
        draw = attention.take_draw()
        assert draw is not None
        scores = hidden @ attention.context.view(2, WIDTH).t()  # type: ignore[operator]
        parts = zip(scores.split(LENGTHS), drawn.split(LENGTHS), strict=True)
        for segment, (of_segment, weights) in enumerate(parts):
            logarithms = of_segment.log_softmax(0)
            torch.testing.assert_close(draw[0][segment], (logarithms * weights).sum(0))
            torch.testing.assert_close(draw[1][segment], -(logarithms.exp() * logarithms).sum(0))

    def test_can_be_taken_once(self) -> None:
        attention = make_attention(Weighting(normalization="hard_reinforce"))
        attention(make_hidden([2]), torch.tensor([2]))
        assert attention.take_draw() is not None
        assert attention.take_draw() is None

    def test_is_none_where_nothing_was_drawn(self) -> None:
        attention = make_attention(Weighting(normalization="hard_reinforce"))
        assert attention.take_draw() is None
        attention.eval()(make_hidden([2]), torch.tensor([2]))
        assert attention.take_draw() is None
