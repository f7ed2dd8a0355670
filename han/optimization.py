"""AdamW that leaves alone the word vectors which a batch does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import AdamW

from han import kernel


class RowwiseAdamW(AdamW):
    """AdamW (Loshchilov & Hutter 2019), of word vectors for those alone that a batch has.

    Of a parameter in a group with `rowwise` only the rows that have a gradient are changed,
    together with their running averages, as `torch.optim.SparseAdam` does: a batch has a few
    thousand of a vocabulary's words, and the others would take a good part of the time of a step.
    The gradient may be sparse. Such a parameter has no weight decay. The other groups are left to
    `AdamW`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # what AdamW takes
        super().__init__(*args, **options)
        # Fused, AdamW would have a gradient scaler leave the scale in the gradients.
        self._step_supports_amp_scaling = False

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters once; returns what the closure, if any, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rowwise = [
            (parameter, group, parameter.grad)
            for group in self.param_groups
            for parameter in group["params"]
            if group.get("rowwise", False) and parameter.grad is not None
        ]
        for parameter, _, _ in rowwise:
            parameter.grad = None
        super().step()
        for parameter, group, grad in rowwise:
            parameter.grad = grad
            rate, betas, epsilon = group["lr"], group["betas"], group["eps"]
            self._update_rows(parameter, distinct_rows(grad), float(rate), betas, epsilon)
        return loss

    def _update_rows(
        self,
        parameter: Tensor,
        grad: Tensor,
        rate: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        first, second = (1 - beta ** float(state["step"]) for beta in betas)  # bias corrections
        rows, grads = grad._indices()[0], grad._values()
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        if kernel.usable(parameter, grads) and parameter.is_contiguous():
            kernel.update_rows(
                parameter, mean, square, rows, grads,
                rate=rate / first, betas=betas, square_correction=second**0.5, epsilon=epsilon,
            )  # fmt: skip
            torch.autograd.graph.increment_version(parameter)
            return
        mean[rows] = new_mean = mean[rows].lerp_(grads, 1 - betas[0])
        square[rows] = new_square = (
            square[rows].mul_(betas[1]).addcmul_(grads, grads, value=1 - betas[1])
        )
        root = new_square.sqrt().div_(second**0.5).add_(epsilon)
        parameter.index_add_(0, rows, new_mean / root, alpha=-rate / first)


def distinct_rows(grad: Tensor) -> Tensor:
    """Return a gradient as a sparse one that has each row once; itself if it is so already.

    Of a dense gradient the rows that are not zero are taken. The sparse gradient of an embedding of
    increasing ids has each row once, but does not say so.
    """
    if not grad.is_sparse:
        rows = grad.any(1).nonzero().squeeze(1)
        return torch.sparse_coo_tensor(
            rows[None], grad[rows], grad.shape, is_coalesced=True, check_invariants=False
        )
    rows = grad._indices()[0]
    if bool((rows[1:] > rows[:-1]).all()):
        return grad
    return grad.coalesce()
