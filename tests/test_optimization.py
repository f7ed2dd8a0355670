from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, SparseAdam

from han import native
from han.optimization import RowwiseAdamW, distinct_rows

LIBRARIES = ["off", *(name for name in native.BUILDS if native.load(name) is not None)]


@pytest.fixture(params=LIBRARIES, autouse=True)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", native.choose(request.param)[1])


def sparse(rows: list[int], values: Tensor, num_rows: int = 6) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), values, (num_rows, values.shape[1]), check_invariants=True
    )


def make_rows(width: int = 21) -> nn.Parameter:
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(6, width))


def make_optimizer(parameter: nn.Parameter) -> RowwiseAdamW:
    return RowwiseAdamW([{"params": [parameter], "rowwise": True}], lr=0.1, weight_decay=0.5)


class TestRowwiseAdamW:
    def test_equals_adamw_where_every_row_has_a_gradient(self) -> None:
        ours = make_rows()
        theirs = copy.deepcopy(ours)
        optimizers = [
            make_optimizer(ours), AdamW([theirs], lr=0.1, weight_decay=0.0)
        ]  # fmt: skip
        for _ in range(5):
            values = torch.randn(6, 21)
            ours.grad, theirs.grad = sparse(list(range(6)), values), values
            for optimizer in optimizers:
                optimizer.step()
        torch.testing.assert_close(ours, theirs)

    def test_equals_sparse_adam_on_any_rows(self) -> None:
        ours = make_rows()
        theirs = copy.deepcopy(ours)
        optimizers = [make_optimizer(ours), SparseAdam([theirs], lr=0.1)]
        for rows in ([0, 2], [2, 5], [5], [0, 1, 2]):
            ours.grad = sparse(rows, torch.randn(len(rows), 21))
            theirs.grad = ours.grad.clone()
            for optimizer in optimizers:
                optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_a_dense_gradient_changes_the_same_rows(self) -> None:
        sparsely, densely = make_rows(), make_rows()
        optimizers = [make_optimizer(sparsely), make_optimizer(densely)]
        for rows in ([0, 2], [2, 5], [5]):
            sparsely.grad = sparse(rows, torch.randn(len(rows), 21))
            densely.grad = sparsely.grad.to_dense()
            for optimizer in optimizers:
                optimizer.step()
        assert torch.equal(sparsely, densely)

    def test_rows_without_a_gradient_keep_their_bits(self) -> None:
        parameter = make_rows()
        before = parameter.detach().clone()
        optimizer = make_optimizer(parameter)
        for _ in range(2):
            parameter.grad = sparse([1, 4], torch.ones(2, 21))
            optimizer.step()
        kept = [0, 2, 3, 5]
        assert torch.equal(parameter[kept], before[kept])
        assert (parameter[[1, 4]] < before[[1, 4]]).all()

    def test_a_row_that_comes_twice_gets_the_sum(self) -> None:
        once, twice = make_rows(), make_rows()
        once.grad = sparse([3], torch.full((1, 21), 5.0))
        twice.grad = sparse([3, 3], torch.tensor([[2.0] * 21, [3.0] * 21]))
        for parameter in (once, twice):
            make_optimizer(parameter).step()
        assert torch.equal(once, twice)

    @pytest.mark.parametrize("fused", [True, False])
    def test_other_parameters_get_adamw(self, fused: bool) -> None:
        rows, ours = make_rows(), nn.Parameter(torch.randn(3, 4))
        theirs = copy.deepcopy(ours)
        groups = [{"params": [rows], "rowwise": True}, {"params": [ours]}]
        optimizers = [RowwiseAdamW(groups, fused=fused), AdamW([theirs], fused=fused)]
        for _ in range(3):
            rows.grad = sparse([1], torch.ones(1, 21))
            ours.grad = torch.randn(3, 4)
            theirs.grad = ours.grad.clone()
            for optimizer in optimizers:
                optimizer.step()
        assert torch.equal(ours, theirs)
        assert rows.grad is not None

    def test_goes_on_from_its_state(self) -> None:
        parameter = make_rows()
        optimizer = make_optimizer(parameter)
        gradients = [torch.randn(2, 21) for _ in range(4)]
        for values in gradients[:2]:
            parameter.grad = sparse([0, 3], values)
            optimizer.step()
        other = copy.deepcopy(parameter)
        resumed = make_optimizer(other)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for values in gradients[2:]:
            parameter.grad = sparse([0, 3], values)
            other.grad = sparse([0, 3], values)
            optimizer.step()
            resumed.step()
        assert torch.equal(parameter, other)

    def test_a_gradient_scaler_s_scale_is_taken_out(self) -> None:
        plain, scaled = make_rows(), make_rows()
        for parameter, scaler in (
            (plain, torch.amp.GradScaler("cpu", enabled=False)),
            (scaled, torch.amp.GradScaler("cpu", init_scale=1024.0)),
        ):
            groups = [{"params": [parameter], "rowwise": True}]
            optimizer = RowwiseAdamW(groups, lr=0.1, eps=1.0, fused=True)
            for rows in ([0, 3], [3, 5]):
                optimizer.zero_grad()
                vectors = nn.functional.embedding(torch.tensor(rows), parameter, sparse=True)
                scaler.scale(vectors.square().sum()).backward()
                scaler.step(optimizer)
                scaler.update()
        torch.testing.assert_close(scaled, plain)

    def test_runs_a_closure(self) -> None:
        parameter = make_rows()

        def closure() -> float:
            assert torch.is_grad_enabled()
            parameter.grad = sparse([0], torch.ones(1, 21))
            return 2.5

        before = parameter.detach().clone()
        assert make_optimizer(parameter).step(closure) == 2.5
        assert not torch.equal(parameter, before)


class TestDistinctRows:
    def test_increasing_rows_are_left_as_they_are(self) -> None:
        grad = sparse([0, 2, 5], torch.randn(3, 2))
        assert distinct_rows(grad) is grad

    def test_of_a_dense_gradient_those_that_are_not_zero(self) -> None:
        grad = torch.tensor([[0.0, 0.0], [0.0, -1.0], [0.0, 0.0], [torch.nan, 0.0]])
        tidy = distinct_rows(grad)
        assert tidy.is_coalesced()
        assert tidy.indices().tolist() == [[1, 3]]
        torch.testing.assert_close(tidy.to_dense(), grad, equal_nan=True)

    @pytest.mark.parametrize("rows", [[2, 0, 5], [0, 0, 5], [5, 0, 0]])
    def test_others_are_sorted_and_summed(self, rows: list[int]) -> None:
        grad = sparse(rows, torch.randn(3, 2))
        tidy = distinct_rows(grad)
        assert tidy._indices()[0].tolist() == sorted(set(rows))
        torch.testing.assert_close(tidy.to_dense(), grad.to_dense())
