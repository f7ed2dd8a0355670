from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical

from han.attention import (
    HardGumbel,
    HardReinforce,
    normalize_entmax,
    normalize_softmax,
    normalize_sparsemax,
    normalize_uniform,
)
from han.attention.normalization import Normalize, normalizer

LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=7)
SOFT = {  # of which the weights are a function of the scores
    "softmax": normalize_softmax,
    "sparsemax": normalize_sparsemax,
    "entmax": normalize_entmax,
    "uniform": normalize_uniform,
}
NAMES = (*SOFT, "hard_reinforce", "hard_gumbel")
LEARNED = [name for name in SOFT if name != "uniform"]
HARD = [HardReinforce, HardGumbel]


def entmax_by_bisection(scores: Tensor, alpha: float) -> Tensor:
    """The oracle of one segment's scores (N,): Peters et al. 2019; sparsemax is alpha 2.

    p_i = max(0, (alpha - 1) z_i - tau)^(1 / (alpha - 1)), with the tau for which they sum to 1.
    """
    scaled, power = (alpha - 1) * scores, 1 / (alpha - 1)
    with torch.no_grad():
        low, high = scaled.max() - 1, scaled.max()
        for _ in range(60):
            tau = (low + high) / 2
            enough = ((scaled - tau).clamp_min(0) ** power).sum() > 1
            low, high = (tau, high) if enough else (low, tau)
    # A step of Newton's method, whose value is next to nothing, gives tau its gradient.
    above = scaled[scaled > tau] - tau
    slope = (power * above ** (power - 1)).sum().detach()
    tau = tau + ((above**power).sum() - 1) / slope
    return (scaled - tau).clamp_min(0) ** power


def normalize_alone(name: str, scores: Tensor) -> Tensor:
    """The oracle of one segment's scores (N,), which are at least one."""
    match name:
        case "softmax":
            return scores.softmax(0)
        case "sparsemax":
            return entmax_by_bisection(scores, 2.0)
        case "entmax":
            return entmax_by_bisection(scores, 1.5)
        case "uniform":
            return torch.full_like(scores, 1 / len(scores))
    raise ValueError(name)


def normalize_by_loop(name: str, scores: Tensor, lengths: list[int]) -> Tensor:
    """The oracle of scores (N, K): each column of each segment alone."""
    weights = torch.zeros_like(scores)
    for rows in torch.arange(len(scores)).split(lengths):
        for column in range(scores.shape[1]) if len(rows) else ():
            alone = normalize_alone(name, scores[rows, column])
            weights = weights.index_put((rows, torch.tensor(column)), alone)
    return weights


def make_scores(lengths: list[int], columns: int = 2, size: float = 1.0) -> Tensor:
    return (size * torch.randn(sum(lengths), columns, dtype=torch.float64)).requires_grad_()


def columns_of(weights: Tensor, lengths: list[int]) -> list[list[float]]:
    """The weights of each segment and column that has any."""
    return [column for part in weights.split(lengths) if len(part) for column in part.t().tolist()]


def draw_often(normalize: Normalize, scores: list[list[float]], times: int) -> Tensor:
    """Which of the units (T, K) of a segment is drawn each time: int64 (times, K)."""
    segment = torch.tensor(scores, dtype=torch.float64)
    weights = normalize(segment.repeat(times, 1), torch.full((times,), len(segment)))
    return weights.view(times, *segment.shape).argmax(1)


class TestNormalizeSoftmax:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.floats(0, 200))
    def test_equals_softmax_of_each_segment_alone(self, lengths: list[int], size: float) -> None:
        torch.manual_seed(0)
        scores = make_scores(lengths, 3, size)
        weights = normalize_softmax(scores, torch.tensor(lengths))
        expected = torch.cat([part.softmax(0) for part in scores.split(lengths)])
        torch.testing.assert_close(weights, expected)

        factors = torch.randn_like(weights)
        ours, theirs = (
            torch.autograd.grad((result * factors).sum(), scores) for result in (weights, expected)
        )
        torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_scores_of_200_stay_finite(self, dtype: torch.dtype) -> None:
        scores = torch.tensor([200.0, -200.0, -200.0, -200.0], dtype=dtype, requires_grad=True)
        weights = normalize_softmax(scores[:, None], torch.tensor([2, 2])).squeeze(1)
        assert weights.tolist() == [1.0, 0.0, 0.5, 0.5]
        weights[0].backward()
        assert scores.grad is not None
        assert scores.grad.isfinite().all()


class TestNormalizeSparsemax:
    def test_hand_computed(self) -> None:
        scores = torch.tensor([[0.5], [0.2], [-2.0], [1.0], [0.0], [7.0], [0.3], [0.3], [0.3]])
        weights = normalize_sparsemax(scores, torch.tensor([3, 2, 1, 3]))
        # tau is (0.5 + 0.2 - 1) / 2 = -0.15 in the first, 0 in the second: 1 below the highest.
        expected = [0.65, 0.35, 0.0, 1.0, 0.0, 1.0, 1 / 3, 1 / 3, 1 / 3]
        torch.testing.assert_close(weights.flatten(), torch.tensor(expected))

    @settings(max_examples=40, deadline=None)
    @given(LENGTHS, st.floats(0.1, 5))
    def test_is_the_point_of_the_simplex_nearest_to_the_scores(
        self, lengths: list[int], size: float
    ) -> None:
        torch.manual_seed(0)
        scores = make_scores(lengths, 2, size).detach()
        weights = normalize_sparsemax(scores, torch.tensor(lengths))
        for point, nearest in zip(
            columns_of(scores, lengths), columns_of(weights, lengths), strict=True
        ):
            assert min(nearest) >= 0
            assert sum(nearest) == pytest.approx(1)
            # No corner lies on the far side: (corner - nearest) . (point - nearest) <= 0.
            away = [a - b for a, b in zip(point, nearest, strict=True)]
            along = sum(a * b for a, b in zip(away, nearest, strict=True))
            assert all(of_corner - along <= 1e-9 for of_corner in away)


class TestNormalizeEntmax:
    def test_hand_computed(self) -> None:
        scores = torch.tensor([[0.0], [0.0], [2.0], [0.0], [2.0], [-1.0], [1.2], [0.0]])
        weights = normalize_entmax(scores, torch.tensor([2, 2, 1, 1, 2]))
        # The last: (0.6 - tau)^2 + tau^2 = 1 has the root tau = 0.3 - sqrt(0.41).
        tau = 0.3 - math.sqrt(0.41)
        expected = [0.5, 0.5, 1.0, 0.0, 1.0, 1.0, (0.6 - tau) ** 2, tau**2]
        torch.testing.assert_close(weights.flatten(), torch.tensor(expected))

    @settings(max_examples=40, deadline=None)
    @given(LENGTHS, st.floats(0.1, 5))
    def test_maximizes_the_expected_score_with_the_entropy_of_tsallis(
        self, lengths: list[int], size: float
    ) -> None:
        torch.manual_seed(0)
        scores = make_scores(lengths, 2, size).detach()
        weights = normalize_entmax(scores, torch.tensor(lengths))
        for of_scores, of_weights in zip(
            columns_of(scores, lengths), columns_of(weights, lengths), strict=True
        ):
            assert min(of_weights) >= 0
            assert sum(of_weights) == pytest.approx(1)
            # The slope of p . z + (1 - sum p^1.5) / (0.5 * 1.5) is the same for all that weigh
            # something, and no higher for the others.
            slopes = [z - 2 * math.sqrt(p) for z, p in zip(of_scores, of_weights, strict=True)]
            highest = max(slopes)
            assert all(
                slope == pytest.approx(highest, abs=1e-6)
                for slope, weight in zip(slopes, of_weights, strict=True)
                if weight > 1e-12
            )


class TestNormalizeUniform:
    def test_hand_computed(self) -> None:
        weights = normalize_uniform(torch.randn(5, 2), torch.tensor([4, 0, 1]))
        assert weights.tolist() == [[0.25, 0.25]] * 4 + [[1.0, 1.0]]


@pytest.mark.parametrize("name", SOFT)
class TestEachSoftNormalization:
    @settings(max_examples=25, deadline=None)
    @given(lengths=LENGTHS, columns=st.integers(1, 3), size=st.floats(0.1, 5))
    def test_equals_its_definition_on_each_segment_and_column_alone(
        self, name: str, lengths: list[int], columns: int, size: float
    ) -> None:
        torch.manual_seed(0)
        scores = make_scores(lengths, columns, size)
        weights = SOFT[name](scores, torch.tensor(lengths))
        expected = normalize_by_loop(name, scores, lengths)
        torch.testing.assert_close(weights, expected)
        if name == "uniform" or not any(lengths):
            return
        factors = torch.randn_like(weights)
        ours, theirs = (
            torch.autograd.grad((result * factors).sum(), scores) for result in (weights, expected)
        )
        torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_a_high_score_among_low_ones_stays_finite(self, name: str, dtype: torch.dtype) -> None:
        scores = torch.tensor([200.0, -200.0, -200.0, -200.0, 200.0, 200.0], dtype=dtype)
        scores = scores[:, None].requires_grad_()
        weights = SOFT[name](scores, torch.tensor([2, 2, 2]))
        first = [0.5, 0.5] if name == "uniform" else [1.0, 0.0]
        expected = torch.tensor([*first, 0.5, 0.5, 0.5, 0.5], dtype=dtype)
        torch.testing.assert_close(weights.flatten(), expected)
        if name != "uniform":
            (weights * torch.arange(6)[:, None]).sum().backward()
            assert scores.grad is not None
            assert scores.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_of_lesser_precision_is_that_of_single_precision_rounded(
        self, name: str, dtype: torch.dtype
    ) -> None:
        torch.manual_seed(0)
        scores, lengths = (3 * torch.randn(3000, 1)).to(dtype), torch.tensor([2900, 100])
        weights = SOFT[name](scores, lengths)
        assert torch.equal(weights, SOFT[name](scores.float(), lengths).to(dtype))


@pytest.mark.parametrize("name", LEARNED)
class TestEachNormalizationThatLearns:
    def test_gradients_agree_with_finite_differences(self, name: str) -> None:
        torch.manual_seed(0)
        lengths = torch.tensor([4, 0, 1, 3])
        scores = make_scores([4, 0, 1, 3])
        assert torch.autograd.gradcheck(lambda scores: SOFT[name](scores, lengths), (scores,))

    def test_adding_to_all_scores_of_a_segment_changes_nothing(self, name: str) -> None:
        torch.manual_seed(0)
        lengths = torch.tensor([4, 3])
        scores = make_scores([4, 3]).detach()
        moved = scores + torch.tensor([5.0, -3.0]).repeat_interleave(lengths)[:, None]
        weights = [SOFT[name](each, lengths) for each in (scores, moved)]
        torch.testing.assert_close(*weights)


class TestSparsity:
    def test_sparsemax_drops_more_than_entmax_and_softmax_nothing(self) -> None:
        scores, lengths = torch.tensor([[1.0], [0.5], [-0.5], [-2.0]]), torch.tensor([4])
        kept = {name: int((SOFT[name](scores, lengths) > 0).sum()) for name in LEARNED}
        assert kept == {"softmax": 4, "entmax": 3, "sparsemax": 2}


def normalize_seeded(name: str, scores: Tensor, lengths: list[int], *, training: bool) -> Tensor:
    normalize = normalizer(name)  # type: ignore[arg-type]
    if isinstance(normalize, torch.nn.Module):
        normalize.train(training)
    torch.manual_seed(1)
    return normalize(scores, torch.tensor(lengths, dtype=torch.int64))


@pytest.mark.parametrize("name", NAMES)
class TestNormalizer:
    @pytest.mark.parametrize("training", [True, False])
    @settings(max_examples=15, deadline=None)
    @given(lengths=LENGTHS, columns=st.integers(1, 3))
    def test_weights_of_each_segment_are_a_distribution(
        self, name: str, training: bool, lengths: list[int], columns: int
    ) -> None:
        torch.manual_seed(0)
        scores = make_scores(lengths, columns, 3.0)
        weights = normalize_seeded(name, scores, lengths, training=training)
        assert weights.shape == scores.shape
        assert (weights >= 0).all()
        for part in weights.split(lengths):
            if len(part):
                torch.testing.assert_close(part.sum(0), torch.ones(columns, dtype=torch.float64))

    def test_columns_do_not_know_of_each_other(self, name: str) -> None:
        torch.manual_seed(0)
        lengths = [4, 1, 3]
        scores = make_scores(lengths, 3)
        weights = normalize_seeded(name, scores, lengths, training=False)
        for column in range(3):
            alone = normalize_seeded(name, scores[:, [column]], lengths, training=False)
            assert torch.equal(weights[:, [column]], alone)

    def test_a_segment_does_not_know_of_its_neighbours(self, name: str) -> None:
        torch.manual_seed(0)
        lengths = [4, 0, 1, 3, 4]
        scores = make_scores(lengths, 2)
        weights = normalize_seeded(name, scores, lengths, training=False)
        for alone, among in zip(scores.split(lengths), weights.split(lengths), strict=True):
            of_alone = normalize_seeded(name, alone, [len(alone)], training=False)
            assert torch.equal(of_alone, among)

    @pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
    @pytest.mark.parametrize("training", [True, False])
    def test_of_no_scores_there_are_no_weights(
        self, name: str, lengths: list[int], training: bool
    ) -> None:
        weights = normalize_seeded(name, torch.randn(0, 2), lengths, training=training)
        assert weights.shape == (0, 2)


class TestNormalizerNames:
    def test_another_name_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"There is no normalization 'hardmax'\."):
            normalizer("hardmax")  # type: ignore[arg-type]


@pytest.mark.parametrize("hard", HARD)
class TestHardAttention:
    @pytest.mark.parametrize("training", [True, False])
    @settings(max_examples=25, deadline=None)
    @given(lengths=LENGTHS, columns=st.integers(1, 3))
    def test_one_unit_of_each_segment_and_column_has_all_the_weight(
        self,
        hard: type[HardReinforce | HardGumbel],
        training: bool,
        lengths: list[int],
        columns: int,
    ) -> None:
        torch.manual_seed(0)
        normalize = hard().train(training)
        weights = normalize(make_scores(lengths, columns), torch.tensor(lengths))
        if hard is HardReinforce or not training:
            assert set(weights.flatten().tolist()) <= {0.0, 1.0}
        for column in columns_of(weights, lengths):
            assert sorted(column) == pytest.approx([*[0.0] * (len(column) - 1), 1.0], abs=1e-12)

    def test_evaluation_takes_the_highest_and_the_first_of_equals(
        self, hard: type[HardReinforce | HardGumbel]
    ) -> None:
        scores = torch.tensor([[1.0, 7.0], [3.0, 7.0], [3.0, -1.0], [-5.0, -5.0], [2.0, 2.5]])
        weights = hard().eval()(scores, torch.tensor([3, 1, 1]))
        assert weights.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
        of_equals = hard().eval()(torch.zeros(99, 3), torch.tensor([99]))
        assert of_equals.argmax(0).tolist() == [0, 0, 0]

    def test_draws_have_the_frequencies_of_softmax(
        self, hard: type[HardReinforce | HardGumbel]
    ) -> None:
        torch.manual_seed(0)
        times = 20_000
        shares = torch.tensor([[0.6, 0.2], [0.3, 0.2], [0.1, 0.6]], dtype=torch.float64)
        drawn = draw_often(hard(), (shares.log() + 2).tolist(), times)
        found = torch.stack([(drawn == unit).double().mean(0) for unit in range(3)])
        assert (found - shares).abs().max() < 4 * 0.5 * times**-0.5  # four standard errors

    def test_columns_draw_for_themselves(self, hard: type[HardReinforce | HardGumbel]) -> None:
        torch.manual_seed(0)
        times = 20_000
        drawn = draw_often(hard(), [[0.0, 0.0], [0.0, 0.0]], times)
        same = (drawn[:, 0] == drawn[:, 1]).double().mean()
        assert abs(same - 0.5) < 4 * 0.5 * times**-0.5

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_equals_are_drawn_as_often_whatever_the_precision(
        self, hard: type[HardReinforce | HardGumbel], dtype: torch.dtype
    ) -> None:
        torch.manual_seed(0)
        times = 20_000
        scores = torch.full((2 * times, 1), 64.0, dtype=dtype)
        weights = hard()(scores, torch.full((times,), 2))
        assert weights.dtype == dtype
        assert abs(weights[::2].double().mean() - 0.5) < 4 * 0.5 * times**-0.5

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("training", [True, False])
    def test_scores_of_200_stay_finite(
        self, hard: type[HardReinforce | HardGumbel], dtype: torch.dtype, training: bool
    ) -> None:
        torch.manual_seed(0)
        scores = torch.tensor([[200.0], [-200.0], [-200.0]], dtype=dtype, requires_grad=True)
        normalize = hard().train(training)
        weights = normalize(scores, torch.tensor([2, 1]))
        assert weights.flatten().tolist() == [1.0, 0.0, 1.0]
        if not training:
            return
        learns = weights.sum()
        if isinstance(normalize, HardReinforce):
            assert normalize.draw is not None
            assert all(of_draw.isfinite().all() for of_draw in normalize.draw)
            learns = torch.stack(normalize.draw).sum()
        learns.backward()
        assert scores.grad is not None
        assert scores.grad.isfinite().all()


class TestHardReinforce:
    @settings(max_examples=30, deadline=None)
    @given(LENGTHS.filter(any), st.integers(1, 3), st.integers(0, 9))
    def test_draw_holds_log_probability_and_entropy_of_the_categorical(
        self, lengths: list[int], columns: int, seed: int
    ) -> None:
        torch.manual_seed(seed)
        normalize, scores = HardReinforce(), make_scores(lengths, columns, 2.0)
        weights = normalize(scores, torch.tensor(lengths))
        assert not weights.requires_grad
        assert normalize.draw is not None

        expected = torch.zeros(2, len(lengths), columns, dtype=torch.float64)
        parts = zip(scores.split(lengths), weights.split(lengths), strict=True)
        for segment, (of_scores, of_weights) in enumerate(parts):
            if len(of_scores):
                exact = Categorical(logits=of_scores.t())
                both = torch.stack((exact.log_prob(of_weights.argmax(0)), exact.entropy()))
                expected = expected.index_put((torch.arange(2), torch.tensor(segment)), both)
        torch.testing.assert_close(torch.stack(normalize.draw), expected)

        factors = torch.randn_like(expected)
        ours, theirs = (
            torch.autograd.grad((result * factors).sum(), scores)
            for result in (torch.stack(normalize.draw), expected)
        )
        torch.testing.assert_close(ours, theirs)

    def test_the_gradient_that_reinforce_expects_is_that_of_the_expected_reward(self) -> None:
        torch.manual_seed(0)
        scores = torch.tensor([0.3, -0.7, 1.1, 0.2, -0.4], dtype=torch.float64, requires_grad=True)
        reward = torch.tensor([[1.0, -2.0], [0.5, 4.0], [3.0, 0.0]], dtype=torch.float64)
        first, second = scores[:3].softmax(0), scores[3:].softmax(0)
        (expected,) = torch.autograd.grad((first[:, None] * second * reward).sum(), scores)

        # Draw from the two segments until each outcome has come up, and weigh the surrogate of
        # each by how likely it is.
        normalize, times = HardReinforce(), 300
        weights = normalize(scores.repeat(times)[:, None], torch.tensor([3, 2]).repeat(times))
        assert normalize.draw is not None
        log_probability = normalize.draw[0].view(times, 2).sum(1)
        outcomes = [
            (part[:3].argmax().item(), part[3:].argmax().item()) for part in weights.view(times, 5)
        ]
        total = torch.zeros_like(scores)
        for one, other in itertools.product(range(3), range(2)):
            of_outcome = log_probability[outcomes.index((one, other))]
            surrogate = reward[one, other] * of_outcome
            (gradient,) = torch.autograd.grad(surrogate, scores, retain_graph=True)
            total += (first[one] * second[other]).detach() * gradient
        torch.testing.assert_close(total, expected)

    def test_evaluation_draws_nothing(self) -> None:
        normalize = HardReinforce()
        normalize(make_scores([3]), torch.tensor([3]))
        assert normalize.draw is not None
        normalize.eval()(make_scores([3]), torch.tensor([3]))
        assert normalize.draw is None

    def test_an_empty_segment_has_a_draw_of_0(self) -> None:
        normalize = HardReinforce()
        normalize(make_scores([0, 1, 0]), torch.tensor([0, 1, 0]))
        assert normalize.draw is not None
        assert torch.stack(normalize.draw).tolist() == [[[0.0, 0.0]] * 3] * 2


class TestHardGumbel:
    def test_gradient_is_that_of_the_softmax_of_the_noisy_scores(self) -> None:
        torch.manual_seed(0)
        times = 4000
        segment = torch.tensor([0.5, -0.5, 0.1], dtype=torch.float64)
        scores = segment.repeat(times)[:, None].requires_grad_()
        weights = HardGumbel()(scores, torch.full((times,), 3)).view(times, 3)
        rows = [
            torch.autograd.grad(weights[:, unit].sum(), scores, retain_graph=True)[0].view(times, 3)
            for unit in range(3)
        ]
        # Softmax s has the derivatives s_i (1 - s_i) and -s_i s_j, from which s can be told.
        found = torch.stack(rows, 1)
        a, b, c = -found[:, 0, 1], -found[:, 0, 2], -found[:, 1, 2]
        soft = torch.stack((a * b / c, a * c / b, b * c / a), 1).sqrt()
        exact = torch.diag_embed(soft) - soft[:, :, None] * soft[:, None, :]
        torch.testing.assert_close(found, exact)
        torch.testing.assert_close(soft.sum(1), torch.ones(times, dtype=torch.float64))
        # The unit that was chosen has the highest noisy score, ...
        assert torch.equal(soft.argmax(1), weights.argmax(1))
        # ... and the noise is Gumbel's: the difference of two is logistic.
        noise = soft.log() - segment
        for one, other in ((0, 1), (0, 2), (1, 2)):
            difference = noise[:, one] - noise[:, other]
            assert abs(difference.mean()) < 4 * 1.82 * times**-0.5
            assert difference.var() == pytest.approx(math.pi**2 / 3, rel=0.1)
            assert (difference.abs() < 1).double().mean() == pytest.approx(
                math.tanh(0.5), abs=4 * 0.5 * times**-0.5
            )

    def test_evaluation_has_no_gradient(self) -> None:
        weights = HardGumbel().eval()(make_scores([3]), torch.tensor([3]))
        assert not weights.requires_grad
