"""The recurrent encoder: a bidirectional GRU over ragged sequences (Yang et al. 2016, eqs. 1-4).

`RaggedGRU` computes what `torch.nn.GRU` computes over packed sequences. On a CPU it does so with
the compiled loops of `han.kernel` or, where those are not at hand, in plain torch with its own
backward pass: the one that autograd derives from a packed sequence takes time that grows with
steps x tokens, because every step's `narrow` adds a zero tensor as large as the whole input.
On any other device it hands the packed sequence to `torch.nn.GRU` (cuDNN).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from han import kernel


class RaggedGRU(nn.GRU):
    """Bidirectional GRU over sequences that lie one after the other in a flat tensor.

    Parameters have the names, the layout and the initial values of `torch.nn.GRU`, so that weights
    can be exchanged with it.

    Args:
        input_size: Width E of each input.
        hidden_size: Width H of each direction's hidden state.

    Attributes:
        output_size: Width 2H of the states.
        projected_size: Width 6H of what `project` returns.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, bidirectional=True)
        self.output_size = 2 * hidden_size
        self.projected_size = 6 * hidden_size

    def forward(  # type: ignore[override]  # ragged sequences instead of padded ones
        self, inputs: Tensor, lengths: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Encode each sequence from a zero state.

        Args:
            inputs: Floats (N, E), sequence after sequence; with `rows`, (U, E): distinct inputs.
            lengths: int64 (S,), steps of each sequence; zeros are allowed.
            rows: int64 (N,), which row of `inputs` stands at each step. Inputs that occur more than
                once are then multiplied by the input weights once (exact, and much less work).

        Returns:
            Hidden states (N, 2H), forward direction first, in the order of the input.
        """
        if inputs.device.type != "cpu":
            return self._forward_packed(inputs if rows is None else inputs[rows], lengths)
        if rows is None:
            rows = torch.arange(len(inputs))
        return self.encode(self.project(inputs), lengths, rows)

    def project(self, inputs: Tensor) -> Tensor:
        """Multiply distinct inputs (U, E) by the input weights and add what biases can be added.

        Returns:
            Floats (U, 6H): the inputs of the gates r, z and n of the forward direction, then those
            of the backward direction.
        """
        (weight, _, bias_ih, bias_hh), (weight_back, _, bias_back, bias_hh_back) = self.all_weights
        biases = (bias_ih + self._without_n(bias_hh), bias_back + self._without_n(bias_hh_back))
        weights, bias = torch.cat((weight, weight_back)), torch.cat(biases)
        if kernel.usable(inputs, weights, bias):
            return kernel.linear(inputs, weights, bias)
        projected = functional.linear(inputs, weights, bias)
        return projected.to(weights.dtype)  # autocast may have narrowed it

    def encode(self, projected: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
        """Encode sequences on a CPU, given what `project` returned for their distinct inputs.

        Args:
            projected: Floats (U, 6H).
            lengths: int64 (S,), steps of each sequence.
            rows: int64 (N,), which row of `projected` stands at each step.

        Returns:
            Hidden states (N, 2H).
        """
        (_, weight, _, bias), (_, weight_back, _, bias_back) = self.all_weights
        weight_hh = torch.stack((weight, weight_back))  # (2, 3H, H)
        bias_n = torch.stack((bias, bias_back))[:, 2 * self.hidden_size :]  # (2, H)
        if kernel.usable(projected, weight_hh, bias_n):
            return kernel.recurrence(projected, weight_hh, bias_n, rows, lengths)
        packing = Packing.of(lengths)
        return _Recurrence.apply(projected, weight_hh, bias_n, rows, packing)  # type: ignore[no-any-return, no-untyped-call]

    def _without_n(self, bias_hh: Tensor) -> Tensor:
        """Return a recurrent bias (3H,) with zeros for n, whose own is multiplied by r."""
        return functional.pad(bias_hh[: 2 * self.hidden_size], (0, self.hidden_size))

    def _forward_packed(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Run `torch.nn.GRU` over the steps in packed order and put its states back in place."""
        packing = Packing.of(lengths)
        if not packing.batch_sizes:
            return inputs.new_zeros(0, 2 * self.hidden_size)
        packed = PackedSequence(inputs[packing.order], torch.tensor(packing.batch_sizes))
        states, _ = super().forward(packed)
        return torch.empty_like(states.data).index_copy(0, packing.order, states.data)


class Packing(NamedTuple):
    """The order in which a recurrence visits ragged sequences: step by step, the longest first.

    Attributes:
        order: int64 (N,), the flat position that is visited k-th.
        reverse_order: int64 (N,), the same when every sequence is read from its end.
        batch_sizes: How many sequences have a first, a second, ... step.
    """

    order: Tensor
    reverse_order: Tensor
    batch_sizes: list[int]

    @classmethod
    def of(cls, lengths: Tensor) -> Packing:
        """Plan the visit of sequences of these `lengths` (int64, (S,))."""
        device = lengths.device
        num_sequences, num_steps = len(lengths), int(lengths.sum())
        if num_steps == 0:
            nothing = torch.empty(0, dtype=torch.int64, device=device)
            return cls(nothing, nothing, [])
        longest_first = torch.argsort(lengths, descending=True, stable=True)
        rank = torch.empty_like(longest_first)
        rank[longest_first] = torch.arange(num_sequences, device=device)
        ended = torch.bincount(lengths).cumsum(0)[:-1]  # (T,): sequences of at most t steps
        batch_sizes = num_sequences - ended
        first_of_step = batch_sizes.cumsum(0) - batch_sizes

        flat = torch.arange(num_steps, device=device)
        starts = lengths.cumsum(0) - lengths
        step = flat - starts.repeat_interleave(lengths, output_size=num_steps)
        steps_after = lengths.repeat_interleave(lengths, output_size=num_steps) - 1 - step
        rank = rank.repeat_interleave(lengths, output_size=num_steps)
        order, reverse_order = torch.empty_like(flat), torch.empty_like(flat)
        order[first_of_step[step] + rank] = flat
        reverse_order[first_of_step[steps_after] + rank] = flat
        return cls(order, reverse_order, batch_sizes.tolist())


class _Recurrence(torch.autograd.Function):
    """Both directions of the recurrence, side by side, with the gradient written out.

    With r, z, n the gates and m = U_n h + c_n (eqs. 1-4; n and m as in `torch.nn.GRU`):
    n = tanh(x_n + r * m) and h' = n + z * (h - n).

    The steps' arrays are laid out step by step, in each step the forward direction's sequences and
    then the backward direction's, so that a step is one contiguous block of 2 x batch_size rows.
    Autocast leaves it alone, since every product is written in place or to a given tensor.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # autograd passes whatever it likes
        projected: Tensor,
        weight_hh: Tensor,
        bias_n: Tensor,
        rows: Tensor,
        packing: Packing,
    ) -> Tensor:
        num_steps, width = len(packing.order), weight_hh.shape[2]  # N, H
        blocks = _Blocks.of(packing)
        weight_rz = weight_hh[:, : 2 * width].transpose(1, 2).contiguous()  # (2, H, 2H)
        weight_n = weight_hh[:, 2 * width :].transpose(1, 2).contiguous()  # (2, H, H)
        bias_n = bias_n.unsqueeze(1)  # (2, 1, H)
        source = 2 * rows[blocks.position] + blocks.direction  # row of the (2U, 3H) inputs
        inputs = projected.view(-1, 3 * width)
        gates_rz = inputs[:, : 2 * width].index_select(0, source)  # (2N, 2H)
        gates_n = inputs[:, 2 * width :].index_select(0, source)  # (2N, H)
        m = torch.empty_like(gates_n)
        states = torch.empty_like(gates_n)

        previous = states.new_zeros(2, packing.batch_sizes[0] if packing.batch_sizes else 0, width)
        for start, size in blocks.steps:
            block = slice(start, start + 2 * size)
            previous = previous[:, :size]
            rz, n = gates_rz[block].view(2, size, -1), gates_n[block].view(2, size, -1)
            m_step, state = m[block].view(2, size, -1), states[block].view(2, size, -1)
            torch.baddbmm(rz, previous, weight_rz, out=rz).sigmoid_()
            torch.baddbmm(bias_n, previous, weight_n, out=m_step)
            n.addcmul_(rz[..., :width], m_step).tanh_()
            torch.lerp(n, previous, rz[..., width:], out=state)
            previous = state

        ctx.save_for_backward(gates_rz, gates_n, m, states, weight_hh, source)
        ctx.blocks, ctx.num_rows = blocks, len(projected)
        output = states.new_empty(2 * num_steps, width)
        output.index_copy_(0, 2 * blocks.position + blocks.direction, states)
        return output.view(num_steps, 2 * width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gates_rz, gates_n, m, states, weight_hh, source = ctx.saved_tensors
        blocks: _Blocks = ctx.blocks
        width = weight_hh.shape[2]
        weight_rz, weight_n = weight_hh[:, : 2 * width], weight_hh[:, 2 * width :]
        output_row = 2 * blocks.position + blocks.direction
        grad_states = grad_output.reshape(-1, width).index_select(0, output_row)
        zero = states.new_zeros(1, width)
        before = torch.cat((states, zero)).index_select(0, blocks.before)  # the previous states
        # What does not depend on later steps is computed for all steps at once.
        r, z = gates_rz[:, :width], gates_rz[:, width:]
        n_slope = (1 - z) * (1 - gates_n * gates_n)  # d h' / d (x_n + r m)
        z_slope = (before - gates_n) * z * (1 - z)  # d h' / d z's input
        r_slope = n_slope * m * r * (1 - r)  # d h' / d r's input
        slopes_rz = torch.cat((r_slope, z_slope), 1)
        slopes_m = n_slope * r  # d h' / d m
        grad_rz, grad_m = torch.empty_like(gates_rz), torch.empty_like(m)

        carried: Tensor | None = None
        for start, size in reversed(blocks.steps):
            block = slice(start, start + 2 * size)
            grad_state = grad_states[block].view(2, size, -1)
            if carried is not None:
                grad_state[:, : carried.shape[1]] += carried
            step_rz = grad_rz[block].view(2, size, 2, width)
            step_m = grad_m[block].view(2, size, -1)
            torch.mul(
                slopes_rz[block].view(2, size, 2, width), grad_state.unsqueeze(2), out=step_rz
            )
            torch.mul(slopes_m[block].view(2, size, -1), grad_state, out=step_m)
            carried = grad_state * z[block].view(2, size, -1)
            carried.baddbmm_(step_rz.view(2, size, -1), weight_rz).baddbmm_(step_m, weight_n)
        grad_n = grad_states.mul_(n_slope)  # each step added what it carried to grad_states

        grad_weight, grad_bias_n = torch.empty_like(weight_hh), weight_hh.new_empty(2, width)
        for direction in (0, 1):
            chosen = (blocks.direction == direction).nonzero().squeeze(1)
            grad_n_of = grad_m.index_select(0, chosen)
            grad = torch.cat((grad_rz.index_select(0, chosen), grad_n_of), 1)
            torch.mm(grad.t(), before.index_select(0, chosen), out=grad_weight[direction])
            torch.sum(grad_n_of, 0, out=grad_bias_n[direction])
        grad_gates = torch.cat((grad_rz, grad_n), 1)  # (2N, 3H)
        grad_projected = grad_gates.new_zeros(2 * ctx.num_rows, 3 * width)
        grad_projected.scatter_add_(0, source[:, None].expand_as(grad_gates), grad_gates)
        return grad_projected.view(ctx.num_rows, 6 * width), grad_weight, grad_bias_n, None, None


class _Blocks(NamedTuple):
    """Where the rows of the recurrence's arrays come from: both directions of a step together.

    Attributes:
        position: int64 (2N,), the flat position of each row.
        direction: int64 (2N,), 0 forward, 1 backward.
        before: int64 (2N,), the row of the same sequence's previous step, 2N at its first.
        steps: For each step its first row and its number of sequences.
    """

    position: Tensor
    direction: Tensor
    before: Tensor
    steps: list[tuple[int, int]]

    @classmethod
    def of(cls, packing: Packing) -> _Blocks:
        sizes = torch.tensor(packing.batch_sizes, dtype=torch.int64)
        num_steps = len(packing.order)
        first = sizes.cumsum(0) - sizes
        size = sizes.repeat_interleave(sizes, output_size=num_steps)
        start = first.repeat_interleave(sizes, output_size=num_steps)
        forward_row = torch.arange(num_steps) + start  # twice the steps before, then one's rank
        position = torch.empty(2 * num_steps, dtype=torch.int64)
        position[forward_row] = packing.order
        position[forward_row + size] = packing.reverse_order
        direction = torch.zeros(2 * num_steps, dtype=torch.int64)
        direction[forward_row + size] = 1
        before = torch.full((2 * num_steps,), 2 * num_steps)
        if len(sizes) > 1:
            later = slice(int(sizes[0]), None)
            rank = torch.arange(num_steps) - start
            size_before = sizes[:-1].repeat_interleave(sizes[1:])
            row_before = 2 * first[:-1].repeat_interleave(sizes[1:]) + rank[later]
            before[forward_row[later]] = row_before
            before[forward_row[later] + size[later]] = row_before + size_before
        steps = list(zip((2 * first).tolist(), packing.batch_sizes, strict=True))
        return cls(position, direction, before, steps)
