"""The fast path on a CPU: the compiled loops of `han.native` on tensors, with their gradients.

They equal what `han.gru` and `han.attention` compute in plain torch, up to rounding. What they
compute for a sequence does not depend on the sequences around it, bit for bit.

Where no gradient is asked for, recurrence and attention multiply in bfloat16 if torch is told to do
so on a CPU (`bfloat16`) and this processor can.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from han import native

STEPS_PER_THREAD = 256  # of a recurrence; less work is not worth waking a thread for
MAX_COPIES = 4  # of the inputs' gradient; to add up more takes longer than their threads save

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # it has no annotations


def usable(*tensors: Tensor) -> bool:
    """Return whether the compiled loops can take these tensors: floats in the CPU's memory."""
    return native.library is not None and all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors
    )


@contextmanager
def bfloat16() -> Iterator[None]:
    """Let products of single-precision matrices on a CPU be of bfloat16, summed as before.

    This is torch's own setting: `torch.backends.mkldnn.matmul.fp32_precision = "bf16"`. Numbers are
    rounded to eight bits before they are multiplied, in pairs, by half as many instructions.
    `han.native.has_bfloat16` tells whether the compiled loops can do so here; if not, they do as
    before.
    """
    before = _matmul.fp32_precision
    _matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        _matmul.fp32_precision = before


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return inputs W^T + b, as `torch.nn.functional.linear` does.

    Args:
        inputs: Floats (U, E).
        weight: Floats (M, E).
        bias: Floats (M,).

    Returns:
        Floats (U, M).

    Raises:
        ValueError: The widths E differ.
    """
    _require_width("inputs", inputs, weight.shape[1])
    if not torch.is_grad_enabled():
        return _product(inputs, weight.t(), bias)
    return _Linear.apply(inputs, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def recurrence(
    projected: Tensor, weight_hh: Tensor, bias_n: Tensor, rows: Tensor, lengths: Tensor
) -> Tensor:
    """Run both directions of a GRU over sequences that lie one after the other.

    Args:
        projected: Floats (U, 6H), inputs times input weights: gates r, z, n of the forward, then of
            the backward direction, with every bias but `bias_n`.
        weight_hh: Floats (2, 3H, H), the recurrent weights.
        bias_n: Floats (2, H), the recurrent bias of n.
        rows: int64 (N,), which row of `projected` stands at each step.
        lengths: int64 (S,), steps of each sequence.

    Returns:
        Hidden states (N, 2H).

    Raises:
        ValueError: The lengths do not sum to N, a row is not one of `projected`, or that has not
            the width of the weights.
    """
    _require_width("projected", projected, 6 * weight_hh.shape[2])
    arguments = (projected, weight_hh, bias_n, rows.long(), lengths.long())
    if torch.is_grad_enabled():
        return _Recurrence.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
    return _read(*map(Tensor.contiguous, arguments), bfloat16=_in_bfloat16())[0]


def attention(
    hidden: Tensor, weight: Tensor, bias: Tensor, context: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Pool each segment of the hidden states with additive attention.

    Args:
        hidden: Floats (N, D), segment after segment.
        weight: Floats (A, D).
        bias: Floats (A,).
        context: Floats (A,).
        lengths: int64 (S,), steps of each segment.

    Returns:
        Pooled vectors (S, D) and weights (N,).

    Raises:
        ValueError: The lengths do not sum to N, or the widths D differ.
    """
    _require_width("hidden", hidden, weight.shape[1])
    arguments = (hidden, weight, bias, context, lengths.long())
    if torch.is_grad_enabled():
        return _Attention.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
    contiguous = map(Tensor.contiguous, arguments)
    pooled, weights, _ = _pool(*contiguous, keep=False, bfloat16=_in_bfloat16())
    return pooled, weights


def update_rows(
    parameter: Tensor,
    mean: Tensor,
    square: Tensor,
    rows: Tensor,
    grads: Tensor,
    *,
    rate: float,
    betas: tuple[float, float],
    square_correction: float,
    epsilon: float,
) -> None:
    """Take a step of Adam on some rows of a parameter.

    Args:
        parameter: Floats (V, E), contiguous, as are its running averages.
        mean: Running average of the gradients.
        square: Running average of their squares.
        rows: int64 (U,), distinct.
        grads: Floats (U, E).
        rate: Learning rate, divided by the mean's bias correction.
        betas: What each average keeps in a step.
        square_correction: Square root of the squares' bias correction.
        epsilon: Added to the root of the squares.
    """
    _call(
        "han_adamw_rows",
        _threads(grads.numel() // 50),
        parameter, mean, square, rows.contiguous(), grads.contiguous(), len(rows), grads.shape[1],
        rate, *betas, square_correction, epsilon,
    )  # fmt: skip


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401  # autograd passes whatever it likes
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        grad_inputs = _product(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_inputs, _product(grad.t(), inputs), grad.sum(0)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        projected: Tensor,
        weight_hh: Tensor,
        bias_n: Tensor,
        rows: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        arguments = tuple(map(Tensor.contiguous, (projected, weight_hh, bias_n, rows, lengths)))
        states, order, starts = _read(*arguments)
        ctx.save_for_backward(*arguments, states, order, starts)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        projected, weight_hh, bias_n, rows, lengths, states, order, starts = ctx.saved_tensors
        steps, width = len(rows), weight_hh.shape[2]
        copies = min(MAX_COPIES, max(1, _threads(steps) // 2))
        threads = min(
            _threads(steps), 2 * copies
        )  # one direction's gradients never meet the other's
        grad_projected = states.new_zeros(copies, *projected.shape)
        grad_weight = states.new_empty(copies, 2, 3 * width, width)
        grad_bias = states.new_empty(copies, 2, width)
        _call(
            "han_gru_backward",
            threads,
            projected, rows, order, starts, lengths, len(order), len(projected), width,
            weight_hh, bias_n, states, grad_states.contiguous(),
            grad_projected, grad_weight, grad_bias,
        )  # fmt: skip
        return _total(grad_projected), _total(grad_weight), _total(grad_bias), None, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        context: Tensor,
        lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:
        arguments = tuple(map(Tensor.contiguous, (hidden, weight, bias, context, lengths)))
        pooled, weights, activations = _pool(*arguments, keep=any(ctx.needs_input_grad))
        hidden, weight, _, context, lengths = arguments
        ctx.save_for_backward(hidden, weight, context, lengths, weights, activations)
        ctx.set_materialize_grads(False)
        return pooled, weights

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad_pooled: Tensor | None,
        grad_weights: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, context, lengths, weights, activations = ctx.saved_tensors
        (steps, width), size = hidden.shape, len(context)
        if grad_pooled is None:
            grad_pooled = hidden.new_zeros(len(lengths), width)
        threads = _threads(steps)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = hidden.new_empty(threads, size, width)
        grad_bias, grad_context = hidden.new_empty(2, threads, size)
        _call(
            "han_attention_backward",
            threads,
            hidden, lengths, len(lengths), steps, width, size,
            weight, context, weights, activations,
            grad_pooled.contiguous(), None if grad_weights is None else grad_weights.contiguous(),
            grad_hidden, grad_weight, grad_bias, grad_context,
        )  # fmt: skip
        return grad_hidden, _total(grad_weight), _total(grad_bias), _total(grad_context), None


def _read(
    projected: Tensor,
    weight_hh: Tensor,
    bias_n: Tensor,
    rows: Tensor,
    lengths: Tensor,
    *,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states (N, 2H), the sequences, longest first, and where each starts (S,)."""
    steps, width = len(rows), weight_hh.shape[2]  # N, H
    order, starts = lengths.new_empty(2, len(lengths))
    assert native.library is not None
    found: int = native.library.han_gru_order(
        *map(_as_c, (lengths, len(lengths), rows, steps, len(projected), order, starts))
    )
    if found == -1:
        raise ValueError(_LENGTHS.format(steps))
    if found == -2:
        raise ValueError(f"`rows` must lie within 0 and {len(projected) - 1}, the inputs' rows.")
    if found == -3:
        raise MemoryError(native.NO_MEMORY)
    order = order[:found]
    states = projected.new_empty(steps, 2 * width)
    native.keep_freed_memory()
    _call(
        "han_gru_forward",
        _threads(steps),
        projected, rows, order, starts, lengths, len(order), width, weight_hh, bias_n, states,
        bfloat16,
    )  # fmt: skip
    return states, order, starts


def _pool(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    context: Tensor,
    lengths: Tensor,
    *,
    keep: bool,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the pooled vectors (S, D), the weights (N,) and, to `keep`, the activations (N, A)."""
    (steps, width), size = hidden.shape, len(context)  # N, D, A
    pooled, weights = hidden.new_empty(len(lengths), width), hidden.new_empty(steps)
    activations = hidden.new_empty(steps, size) if keep else None
    refused = _call(
        "han_attention_forward",
        _threads(steps),
        hidden, lengths, len(lengths), steps, width, size, weight, bias, context,
        pooled, weights, activations, bfloat16,
    )  # fmt: skip
    if refused:
        raise ValueError(_LENGTHS.format(steps))
    return pooled, weights, activations


_LENGTHS = "`lengths` must be at least 0 and sum to {}, the number of steps."


def _in_bfloat16() -> bool:
    return bool(_matmul.fp32_precision == "bf16")


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return A B (+ bias in every row): floats (R, K), of any strides, times (K, M)."""
    (rows, depth), columns = a.shape, b.shape[1]
    product = a.new_empty(rows, columns)
    _call(
        "han_product",
        _threads(rows * columns * depth // 10_000),
        rows, columns, depth, a, *a.stride(), b, *b.stride(),
        None if bias is None else bias.contiguous(), product,
    )  # fmt: skip
    return product


def _require_width(name: str, rows: Tensor, width: int) -> None:
    """Keep the compiled loops, which see no shapes, within the memory that they are given."""
    if rows.shape[1] != width:
        raise ValueError(f"`{name}` must be {width} wide, as the weights are, got {rows.shape[1]}.")


def _threads(steps: int) -> int:
    """Return how many threads share work that takes as long as so many steps of a recurrence."""
    return max(1, min(torch.get_num_threads(), steps // STEPS_PER_THREAD))


def _call(name: str, threads: int, *arguments: Tensor | int | float | None) -> int:
    """Call a function of the library, which reads tensors as they lie in memory."""
    return native.call_in_threads(
        getattr(native.library, name),
        threads,
        *map(_as_c, arguments),
    )


def _as_c(argument: Tensor | int | float | None) -> native.Argument:
    match argument:
        case int():
            return ctypes.c_int64(argument)
        case float():
            return ctypes.c_double(argument)
        case None:
            return ctypes.c_void_p(None)
    return ctypes.c_void_p(argument.data_ptr())


def _total(copies: Tensor) -> Tensor:
    """Return the sum of the threads' gradients."""
    return copies[0] if len(copies) == 1 else copies.sum(0)
