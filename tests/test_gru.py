from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from han.gru import Packing, RaggedGRU


def make_grus(
    input_size: int = 7, hidden_size: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[RaggedGRU, nn.GRU]:
    """Return ours and torch's with the same weights."""
    torch.manual_seed(0)
    ours = RaggedGRU(input_size, hidden_size).to(dtype)
    theirs = nn.GRU(input_size, hidden_size, bidirectional=True).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run_one_by_one(gru: nn.GRU, inputs: Tensor, lengths: list[int]) -> Tensor:
    """The oracle: every sequence alone, through torch's own GRU."""
    empty = inputs.new_zeros(0, 2 * gru.hidden_size)
    return torch.cat(
        [gru(part[:, None])[0][:, 0] if len(part) else empty for part in inputs.split(lengths)]
    )


class TestRaggedGRU:
    @pytest.mark.parametrize(
        "lengths",
        [[4], [1], [1, 1, 1], [3, 0, 1, 6, 4, 6], [0, 0], [], [40, 1, 2, 39], [2] * 30],
    )
    @pytest.mark.parametrize("sizes", [(7, 5), (1, 1), (3, 17)])
    def test_equals_torch_gru_run_over_each_sequence_alone(
        self, lengths: list[int], sizes: tuple[int, int]
    ) -> None:
        ours, theirs = make_grus(*sizes)
        inputs = torch.randn(sum(lengths), sizes[0], dtype=torch.float64, requires_grad=True)
        same = inputs.detach().clone().requires_grad_()
        weights = torch.randn(sum(lengths), 2 * sizes[1], dtype=torch.float64)

        states = ours(inputs, torch.tensor(lengths, dtype=torch.int64))
        expected = run_one_by_one(theirs, same, lengths) if lengths else weights
        torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-12)

        if not any(lengths):
            return
        (states * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(inputs.grad, same.grad, rtol=1e-9, atol=1e-12)
        for (name, parameter), reference in zip(
            ours.named_parameters(), theirs.parameters(), strict=True
        ):
            torch.testing.assert_close(
                parameter.grad, reference.grad, rtol=1e-9, atol=1e-12, msg=name
            )

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(1, 6))
    def test_rows_stand_for_repeated_inputs(self, lengths: list[int], num_rows: int) -> None:
        ours, _ = make_grus()
        rows = torch.randint(num_rows, (sum(lengths),))
        table = torch.randn(num_rows, 7, dtype=torch.float64, requires_grad=True)
        same = table.detach().clone().requires_grad_()

        through_rows = ours(table, torch.tensor(lengths), rows)
        spelled_out = ours(same[rows], torch.tensor(lengths))
        torch.testing.assert_close(through_rows, spelled_out)

        weights = torch.randn_like(through_rows)
        (through_rows * weights).sum().backward()
        (spelled_out * weights).sum().backward()
        torch.testing.assert_close(table.grad, same.grad)

    def test_single_precision_is_within_rounding_of_double(self) -> None:
        ours, theirs = make_grus(dtype=torch.float32)
        lengths = [30, 3, 17]
        inputs = torch.randn(50, 7)
        expected = run_one_by_one(theirs, inputs, lengths)
        torch.testing.assert_close(
            ours(inputs, torch.tensor(lengths)), expected, rtol=1e-5, atol=1e-6
        )

    def test_autocast_leaves_the_recurrence_in_single_precision(self) -> None:
        ours, _ = make_grus(dtype=torch.float32)
        lengths, inputs = torch.tensor([30, 20]), torch.randn(50, 7)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = ours(inputs, lengths)
        assert states.dtype == torch.float32
        torch.testing.assert_close(states, ours(inputs, lengths), rtol=0, atol=0.02)
        states.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())

    def test_gradients_agree_with_finite_differences(self) -> None:
        ours, _ = make_grus(3, 2)
        lengths, rows = torch.tensor([3, 1, 0, 2]), torch.tensor([0, 1, 1, 2, 0, 3])
        names = [name for name, _ in ours.named_parameters()]

        def run(table: Tensor, *parameters: Tensor) -> Tensor:
            weights = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(ours, weights, (table, lengths, rows))

        table = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        parameters = [p.detach().clone().requires_grad_() for p in ours.parameters()]
        assert torch.autograd.gradcheck(run, (table, *parameters))

    def test_packed_path_of_other_devices_equals_the_cpu_path(self) -> None:
        ours, _ = make_grus()
        lengths = torch.tensor([3, 0, 1, 6])
        inputs = torch.randn(10, 7, dtype=torch.float64)
        packed = ours._forward_packed(inputs, lengths)
        torch.testing.assert_close(packed, ours(inputs, lengths))
        assert ours._forward_packed(inputs[:0], lengths[:0]).shape == (0, 10)

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self) -> None:
        ours, _ = make_grus()
        lengths = torch.tensor([3, 0, 1, 6])
        inputs = torch.randn(10, 7, dtype=torch.float64)
        expected = ours(inputs, lengths)
        states = ours.cuda()(inputs.cuda(), lengths.cuda())
        torch.testing.assert_close(states.cpu(), expected)


class TestPacking:
    def test_visits_every_step_once_in_each_direction(self) -> None:
        packing = Packing.of(torch.tensor([2, 0, 3]))
        assert packing.batch_sizes == [2, 2, 1]
        assert packing.order.tolist() == [2, 0, 3, 1, 4]  # longest first, step by step
        assert packing.reverse_order.tolist() == [4, 1, 3, 0, 2]
