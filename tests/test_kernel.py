from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from han import kernel, native
from han.attention import AdditiveAttention
from han.gru import RaggedGRU

LIBRARIES = {name: library for name in native.BUILDS if (library := native.load(name))}
WITH_BFLOAT16 = [name for name, library in LIBRARIES.items() if library.han_has_bfloat16()]


def any_of(builds: list[str], otherwise: str) -> list[Any]:
    """Return the builds as parameters, or one that says why there is none."""
    return builds or [pytest.param("none", marks=pytest.mark.skip(otherwise))]


@pytest.fixture(params=any_of([*LIBRARIES], "not compiled"))
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the compiled builds that run on this processor, one after the other."""
    monkeypatch.setattr(native, "library", LIBRARIES[request.param])
    return str(request.param)


@pytest.fixture(params=any_of(WITH_BFLOAT16, "this processor has no products of bfloat16"))
def bfloat16_build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of those with products of bfloat16."""
    monkeypatch.setattr(native, "library", LIBRARIES[request.param])


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads, also for work that would not be worth it."""
    monkeypatch.setattr(kernel, "STEPS_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return int(request.param)


def assert_near(ours: Tensor | None, exact: Tensor | None, tolerance: float) -> None:
    """Compare with what double precision gives, relative to its largest value.

    A sum whose terms, of about 1, cancel keeps the rounding of the terms.
    """
    assert ours is not None
    assert exact is not None
    assert ours.shape == exact.shape
    if exact.numel() > 0:
        assert (ours.double() - exact).abs().max() <= tolerance * exact.abs().max() + 5e-7


def run_gru(lengths: list[int], input_size: int, hidden_size: int) -> None:
    """Compare values and gradients with those of torch's own GRU on each sequence alone."""
    ours = RaggedGRU(input_size, hidden_size)
    theirs = nn.GRU(input_size, hidden_size, bidirectional=True).double()
    theirs.load_state_dict(ours.state_dict())
    rows = torch.randint(5, (sum(lengths),))
    table = torch.randn(5, input_size, requires_grad=True)
    same = table.detach().double().requires_grad_()

    states = ours(table, torch.tensor(lengths), rows)
    parts = [part for part in same[rows].split(lengths) if len(part)]
    expected = torch.cat([theirs(part[:, None])[0][:, 0] for part in parts])
    assert_near(states, expected, 1e-5)

    weights = torch.randn_like(states)
    (states * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_near(table.grad, same.grad, 1e-4)
    for parameter, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_near(parameter.grad, reference.grad, 1e-4)


def run_attention(lengths: list[int], width: int, size: int) -> None:
    """Compare values and gradients with those of plain torch in double precision."""
    ours = AdditiveAttention(width, size)
    exact = AdditiveAttention(width, size).double()
    exact.load_state_dict(ours.state_dict())
    hidden = torch.randn(sum(lengths), width, requires_grad=True)
    same = hidden.detach().double().requires_grad_()

    results = ours(hidden, torch.tensor(lengths))
    expected = exact(same, torch.tensor(lengths))
    for result, reference in zip(results, expected, strict=True):
        assert_near(result, reference, 1e-5)

    weights = [torch.randn_like(result) for result in results]
    sum((a * b).sum() for a, b in zip(results, weights, strict=True)).backward()
    sum((a * b).sum() for a, b in zip(expected, weights, strict=True)).backward()
    assert_near(hidden.grad, same.grad, 1e-4)
    for parameter, reference in zip(ours.parameters(), exact.parameters(), strict=True):
        assert_near(parameter.grad, reference.grad, 1e-4)


SHAPES: list[tuple[list[int], int, int]] = [
    ([1], 1, 1),
    ([4], 3, 2),
    ([1, 1, 1], 7, 5),
    ([3, 0, 1, 6, 0], 7, 16),
    ([40, 1, 2, 39], 20, 17),
    ([2] * 60, 5, 33),
    ([300, 7], 4, 8),
    ([9, 8, 7] * 20, 12, 50),
]


@pytest.mark.usefixtures("build", "threads")
class TestExactness:
    @pytest.mark.parametrize(("lengths", "input_size", "hidden_size"), SHAPES)
    def test_recurrence_equals_torch_gru(
        self, lengths: list[int], input_size: int, hidden_size: int
    ) -> None:
        torch.manual_seed(0)
        run_gru(lengths, input_size, hidden_size)

    @pytest.mark.parametrize(("lengths", "width", "size"), SHAPES)
    def test_attention_equals_plain_torch(self, lengths: list[int], width: int, size: int) -> None:
        torch.manual_seed(0)
        run_attention(lengths, width, size)

    @pytest.mark.parametrize(("rows", "width", "columns"), [(1, 1, 1), (70, 300, 67), (13, 5, 130)])
    def test_linear_equals_torch(self, rows: int, width: int, columns: int) -> None:
        torch.manual_seed(0)
        inputs = torch.randn(rows, width, requires_grad=True)
        weight = torch.randn(width, columns).t().requires_grad_()  # lies column after column
        bias = torch.randn(columns, requires_grad=True)
        doubles = [x.detach().double().requires_grad_() for x in (inputs, weight, bias)]
        ours, exact = kernel.linear(inputs, weight, bias), nn.functional.linear(*doubles)
        assert_near(ours, exact, 1e-6)
        factors = torch.randn_like(ours)
        (ours * factors).sum().backward()
        (exact * factors).sum().backward()
        for x, double in zip((inputs, weight, bias), doubles, strict=True):
            assert_near(x.grad, double.grad, 1e-6)


@pytest.mark.usefixtures("build")
class TestAnyShape:
    lengths = st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any)

    @settings(max_examples=40, deadline=None)
    @given(lengths, st.integers(1, 40), st.integers(1, 40))
    def test_recurrence(self, lengths: list[int], input_size: int, hidden_size: int) -> None:
        run_gru(lengths, input_size, hidden_size)

    @settings(max_examples=40, deadline=None)
    @given(lengths, st.integers(1, 40), st.integers(1, 40))
    def test_attention(self, lengths: list[int], width: int, size: int) -> None:
        run_attention(lengths, width, size)


@pytest.mark.usefixtures("build")
class TestStability:
    @pytest.mark.parametrize("bfloat16", [False, True])
    def test_a_sequence_alone_gives_the_same_bits_as_among_others(self, bfloat16: bool) -> None:
        torch.manual_seed(0)
        gru, attention = RaggedGRU(6, 11), AdditiveAttention(22, 9)
        lengths = torch.randint(1, 30, (80,))
        inputs = torch.randn(int(lengths.sum()), 6)

        def run(inputs: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
            states = gru(inputs, lengths)
            return (states, *attention(states, lengths))

        with kernel.bfloat16() if bfloat16 else nullcontext(), torch.set_grad_enabled(not bfloat16):
            together = run(inputs, lengths)
            parts = inputs.split(lengths.tolist())
            alone = [run(part, length[None]) for part, length in zip(parts, lengths, strict=True)]
        for all_at_once, one_by_one in zip(together, zip(*alone, strict=True), strict=True):
            assert torch.equal(all_at_once, torch.cat(one_by_one))

    @pytest.mark.usefixtures("threads")
    def test_the_same_work_gives_the_same_bits(self) -> None:
        torch.manual_seed(0)
        gru, lengths = RaggedGRU(6, 10), torch.randint(1, 30, (80,))
        inputs = torch.randn(int(lengths.sum()), 6, requires_grad=True)
        gradients = []
        for _ in range(2):
            gru.zero_grad()
            inputs.grad = None
            gru(inputs, lengths).square().sum().backward()
            gradients.append([x.grad for x in (inputs, *gru.parameters())])
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))

    @pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
    def test_huge_inputs_saturate(self, size: float) -> None:
        gru = RaggedGRU(3, 4)
        inputs = (size * torch.randn(50, 3)).requires_grad_()
        states = gru(inputs, torch.tensor([20, 30]))
        assert states.abs().max() <= 1
        states.sum().backward()
        assert inputs.grad is not None
        assert inputs.grad.isfinite().all()

    def test_scores_of_200_stay_finite(self) -> None:
        attention = AdditiveAttention(1, 1)
        with torch.no_grad():
            attention.projection.weight.fill_(9.0)
            attention.projection.bias.fill_(0.0)
            attention.context.fill_(200.0)
        hidden = torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]], requires_grad=True)
        pooled, weights = attention(hidden, torch.tensor([2, 2]))
        torch.testing.assert_close(weights, torch.tensor([[1.0], [0.0], [0.5], [0.5]]))
        pooled.sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.isfinite().all()

    @pytest.mark.parametrize("place", [0, 7, 19])
    def test_what_is_no_number_stays_none(self, place: int) -> None:
        gru, attention = RaggedGRU(3, 4), AdditiveAttention(8, 5)
        inputs = torch.randn(20, 3)
        inputs[place, 1] = torch.nan
        states = gru(inputs, torch.tensor([20]))
        assert states[place].isnan().all()
        pooled, weights = attention(states, torch.tensor([20]))
        assert pooled.isnan().all()
        assert weights.isnan().any()


def rounded(numbers: Tensor) -> Tensor:
    """Return the nearest numbers of bfloat16, in double precision."""
    return numbers.float().bfloat16().double()


def read_rounded(inputs: Tensor, gru: nn.GRU) -> Tensor:
    """Read a sequence (N, E) in both directions: equations 1-4 with products of bfloat16."""
    directions = []
    for suffix, steps in (("", inputs), ("_reverse", inputs.flip(0))):
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(gru, f"{name}_l0{suffix}").detach().double()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state, states = steps.new_zeros(gru.hidden_size).double(), []
        for step in steps.double():
            x_r, x_z, x_n = (weight_ih @ step + bias_ih).chunk(3)
            h_r, h_z, h_n = (rounded(weight_hh) @ rounded(state) + bias_hh).chunk(3)
            n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
            z = torch.sigmoid(x_z + h_z)
            state = (1 - z) * n + z * state
            states.append(state)
        directions.append(torch.stack(states))
    return torch.cat((directions[0], directions[1].flip(0)), 1)


class TestBfloat16:
    @pytest.mark.usefixtures("bfloat16_build", "threads")
    @pytest.mark.parametrize("size", [1, 2, 16, 33, 50])
    def test_states_are_those_of_rounded_products(self, size: int) -> None:
        torch.manual_seed(0)
        gru, lengths = RaggedGRU(3, size), [4, 1, 3, 0, 2]
        inputs = torch.randn(sum(lengths), 3)
        with torch.no_grad(), kernel.bfloat16():
            states = gru(inputs, torch.tensor(lengths))
        parts = [part for part in inputs.split(lengths) if len(part)]
        assert_near(states, torch.cat([read_rounded(part, gru) for part in parts]), 1e-5)

    @pytest.mark.usefixtures("bfloat16_build", "threads")
    @pytest.mark.parametrize(("lengths", "width", "size"), SHAPES)
    def test_attention_is_that_of_rounded_products(
        self, lengths: list[int], width: int, size: int
    ) -> None:
        torch.manual_seed(0)
        ours, exact = AdditiveAttention(width, size), AdditiveAttention(width, size).double()
        exact.load_state_dict(ours.state_dict())
        hidden = torch.randn(sum(lengths), width)
        with torch.no_grad():
            with kernel.bfloat16():
                pooled, weights = ours(hidden, torch.tensor(lengths))
            exact.projection.weight.copy_(rounded(ours.projection.weight))
            _, expected = exact(rounded(hidden), torch.tensor(lengths))
        assert_near(weights, expected, 1e-5)
        averaged = (expected * hidden.double()).split(lengths)  # what was not rounded
        assert_near(pooled, torch.stack([part.sum(0) for part in averaged]), 1e-5)

    @pytest.mark.usefixtures("bfloat16_build")
    def test_it_is_near_single_precision(self) -> None:
        torch.manual_seed(0)
        gru, attention = RaggedGRU(20, 50), AdditiveAttention(100, 100)
        lengths = torch.randint(1, 60, (40,))
        inputs = torch.randn(int(lengths.sum()), 20)
        with torch.no_grad():
            exact = attention(gru(inputs, lengths), lengths)
            with kernel.bfloat16():
                near = attention(gru(inputs, lengths), lengths)
        for ours, expected in zip(near, exact, strict=True):
            assert not torch.equal(ours, expected)
            torch.testing.assert_close(ours, expected, rtol=0, atol=5e-3)

    @pytest.mark.usefixtures("build")
    def test_training_stays_in_single_precision(self) -> None:
        torch.manual_seed(0)
        gru, attention = RaggedGRU(6, 10), AdditiveAttention(20, 9)
        inputs, lengths = torch.randn(9, 6), torch.tensor([4, 5])
        exact = attention(gru(inputs, lengths), lengths)
        with kernel.bfloat16():
            in_training = attention(gru(inputs, lengths), lengths)
        assert all(map(torch.equal, in_training, exact))

    @pytest.mark.usefixtures("build")
    def test_nothing_changes_but_where_there_are_such_products(self) -> None:
        torch.manual_seed(0)
        gru, attention = RaggedGRU(6, 10), AdditiveAttention(20, 9)
        inputs, lengths = torch.randn(9, 6), torch.tensor([4, 5])
        with torch.no_grad():
            exact = attention(gru(inputs, lengths), lengths)
            with kernel.bfloat16():
                found = attention(gru(inputs, lengths), lengths)
        assert all(map(torch.equal, found, exact)) != native.has_bfloat16()

    def test_it_is_torch_s_own_setting_and_ends(self) -> None:
        matmul = torch.backends.mkldnn.matmul
        before = matmul.fp32_precision
        with kernel.bfloat16():
            assert matmul.fp32_precision == "bf16"
        assert matmul.fp32_precision == before


@pytest.mark.usefixtures("build")
class TestArguments:
    @pytest.mark.parametrize("lengths", [[4], [6], [-1, 6], [0]])
    def test_lengths_must_sum_to_the_steps(self, lengths: list[int]) -> None:
        with pytest.raises(ValueError, match="sum to 5, the number of steps"):
            RaggedGRU(3, 4)(torch.randn(5, 3), torch.tensor(lengths))
        with pytest.raises(ValueError, match="sum to 5, the number of steps"):
            AdditiveAttention(3, 4)(torch.randn(5, 3), torch.tensor(lengths))

    @pytest.mark.parametrize("row", [-1, 2])
    def test_rows_must_exist(self, row: int) -> None:
        with pytest.raises(ValueError, match="must lie within 0 and 1"):
            RaggedGRU(3, 4)(torch.randn(2, 3), torch.tensor([2]), torch.tensor([0, row]))

    def test_widths_must_be_those_of_the_weights(self) -> None:
        with pytest.raises(ValueError, match="`inputs` must be 5 wide, as the weights are, got 3"):
            RaggedGRU(5, 4)(torch.randn(6, 3), torch.tensor([6]))
        with pytest.raises(ValueError, match="`hidden` must be 8 wide, as the weights are, got 9"):
            AdditiveAttention(8, 4)(torch.randn(6, 9), torch.tensor([6]))
        rows = torch.arange(6)
        with pytest.raises(
            ValueError, match="`projected` must be 24 wide, as the weights are, got 6"
        ):
            RaggedGRU(5, 4).encode(torch.randn(6, 6), torch.tensor([6]), rows)

    def test_weights_of_another_precision_are_left_to_torch(self) -> None:
        with pytest.raises(RuntimeError, match="dtype"):
            AdditiveAttention(5, 4).double()(torch.randn(6, 5), torch.tensor([6]))
        with pytest.raises(RuntimeError, match="dtype"):
            RaggedGRU(5, 4).double()(torch.randn(6, 5), torch.tensor([6]))

    def test_integers_of_any_size_will_do(self) -> None:
        gru, attention = RaggedGRU(5, 4), AdditiveAttention(8, 3)
        inputs, rows, lengths = torch.randn(3, 5), torch.tensor([0, 2, 1, 1]), torch.tensor([3, 1])
        states = gru(inputs, lengths, rows)
        assert torch.equal(gru(inputs, lengths.int(), rows.int()), states)
        assert torch.equal(attention(states, lengths.int())[0], attention(states, lengths)[0])

    def test_any_strides_will_do(self) -> None:
        torch.manual_seed(0)
        gru, attention = RaggedGRU(3, 4), AdditiveAttention(8, 5)
        inputs, lengths = torch.randn(3, 9).t(), torch.tensor([4, 0, 5, 0])[::2]
        states = gru(inputs, lengths)
        assert torch.equal(states, gru(inputs.contiguous(), lengths.contiguous()))
        strided = states.t().contiguous().t()
        for result, expected in zip(
            attention(strided, lengths), attention(states, lengths), strict=True
        ):
            assert torch.equal(result, expected)


class TestUsable:
    @pytest.mark.parametrize("make", [torch.Tensor.double, torch.Tensor.half])
    @pytest.mark.usefixtures("build")
    def test_single_precision_alone(self, make: Callable[[Tensor], Tensor]) -> None:
        assert kernel.usable(torch.randn(2))
        assert not kernel.usable(torch.randn(2), make(torch.randn(2)))

    def test_without_a_library_nothing_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(native, "library", None)
        assert not kernel.usable(torch.randn(2))
