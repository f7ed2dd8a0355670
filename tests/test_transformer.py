from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from han.transformer import Blocks, Positions, RaggedTransformer, sinusoids

INPUT_SIZE = 5


def make_blocks(
    layers: int = 2, heads: int = 2, positions: Positions = "sinusoidal", dropout: float = 0.0
) -> Blocks:
    return Blocks(layers, heads, feedforward_size=7, positions=positions, dropout=dropout)


def make_transformer(
    blocks: Blocks, output_size: int = 6, dtype: torch.dtype = torch.float64
) -> RaggedTransformer:
    """Return a transformer whose every parameter is random."""
    torch.manual_seed(0)
    transformer = RaggedTransformer(INPUT_SIZE, output_size, blocks).to(dtype)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(std=0.5)
    return transformer


def make_inputs(lengths: list[int]) -> Tensor:
    return torch.randn(sum(lengths), INPUT_SIZE, dtype=torch.float64, requires_grad=True)


def wave(place: int, column: int, size: int) -> float:
    """Vaswani et al. 2017, section 3.5: sines in columns 2i, cosines in columns 2i + 1."""
    even = column - column % 2
    angle = place / 10000 ** (even / size)
    return math.sin(angle) if column == even else math.cos(angle)


def norm_by_hand(norm: Any, states: Tensor) -> Tensor:  # noqa: ANN401
    """Layer normalization (Ba et al. 2016) with the parameters of `norm`."""
    centred = states - states.mean(1, keepdim=True)
    deviation = (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    normed: Tensor = norm.weight * centred / deviation + norm.bias
    return normed


def encode_one_by_one(
    ours: Any,  # noqa: ANN401
    blocks: Blocks,
    inputs: Tensor,
    lengths: list[int],
) -> Tensor:
    """The oracle: torch's own layers, with our parameters, on each sequence alone."""
    size = ours.output_size
    theirs = nn.TransformerEncoderLayer(
        size,
        blocks.heads,
        blocks.feedforward_size,
        dropout=0,
        activation="relu",
        batch_first=True,
        norm_first=True,
    ).to(inputs)
    encoded = [inputs.new_zeros(0, size)]
    for sequence in inputs.split(lengths):
        if not len(sequence):
            continue
        places = range(len(sequence))
        if blocks.positions == "learned":
            of_places = torch.stack([ours.positions[min(place, 511)] for place in places])
        else:
            waves = [[wave(place, column, size) for column in range(size)] for place in places]
            of_places = torch.tensor(waves, dtype=inputs.dtype)
        states = sequence @ ours.input.weight.t() + ours.input.bias + of_places
        for _, layer in zip(range(blocks.layers), ours.layers, strict=True):
            attention, (wide, _, narrow) = layer.attention, layer.feedforward
            parameters = {
                "self_attn.in_proj_weight": torch.cat(
                    [attention.of_query.weight, attention.of_key.weight]
                ),
                "self_attn.in_proj_bias": torch.cat(
                    [attention.of_query.bias, attention.of_key.bias]
                ),
                "self_attn.out_proj.weight": attention.output.weight,
                "self_attn.out_proj.bias": attention.output.bias,
                "linear1.weight": wide.weight,
                "linear1.bias": wide.bias,
                "linear2.weight": narrow.weight,
                "linear2.bias": narrow.bias,
                "norm1.weight": layer.attention_norm.weight,
                "norm1.bias": layer.attention_norm.bias,
                "norm2.weight": layer.feedforward_norm.weight,
                "norm2.bias": layer.feedforward_norm.bias,
            }
            states = torch.func.functional_call(theirs, parameters, (states[None],))[0]
        encoded.append(norm_by_hand(ours.norm, states))
    return torch.cat(encoded)


def assert_same(
    ours: RaggedTransformer, blocks: Blocks, lengths: list[int], tolerance: float
) -> None:
    """Compare values and gradients with those of torch on each sequence alone."""
    inputs = make_inputs(lengths)
    states = ours(inputs, torch.tensor(lengths, dtype=torch.int64))
    expected = encode_one_by_one(ours, blocks, inputs, lengths)
    near = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(states, expected, **near)
    if not any(lengths):
        return
    factors, leaves = torch.randn_like(states), [inputs, *ours.parameters()]
    found, exact = (
        torch.autograd.grad((each * factors).sum(), leaves) for each in (states, expected)
    )
    torch.testing.assert_close(found, exact, **near)


class TestBlocks:
    @pytest.mark.parametrize("option", ["layers", "heads", "feedforward_size"])
    @pytest.mark.parametrize("number", [0, -1])
    def test_numbers_below_1_are_refused(self, option: str, number: int) -> None:
        message = rf"`transformer\.{option}` must be at least 1, got {number}\."
        with pytest.raises(ValueError, match=message):
            Blocks(**{option: number})  # type: ignore[arg-type]

    def test_positions_that_there_are_not_are_refused(self) -> None:
        message = r"`transformer\.positions` must be one of sinusoidal, learned, got 'rotary'\."
        with pytest.raises(ValueError, match=message):
            Blocks(positions="rotary")  # type: ignore[arg-type]

    @pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
    def test_dropout_out_of_range_is_refused(self, dropout: float) -> None:
        message = r"`transformer\.dropout` must be at least 0 and below 1, got "
        with pytest.raises(ValueError, match=message):
            Blocks(dropout=dropout)

    def test_the_least_of_each_is_taken(self) -> None:
        blocks = Blocks(layers=1, heads=1, feedforward_size=1, dropout=0.0)
        states = RaggedTransformer(2, 1, blocks)(torch.randn(3, 2), torch.tensor([3]))
        assert states.shape == (3, 1)


class TestSinusoids:
    def test_hand_computed(self) -> None:
        expected = [
            [0.0, 1.0, 0.0, 1.0],
            [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)],
            [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)],
        ]
        torch.testing.assert_close(sinusoids(3, 4), torch.tensor(expected))

    @pytest.mark.parametrize("size", [1, 2, 5, 6, 9])
    def test_equals_the_formula(self, size: int) -> None:
        expected = [[wave(place, column, size) for column in range(size)] for place in range(300)]
        torch.testing.assert_close(
            sinusoids(300, size), torch.tensor(expected), rtol=1e-4, atol=1e-4
        )

    def test_of_no_places_there_are_none(self) -> None:
        assert sinusoids(0, 5).shape == (0, 5)


class TestRaggedTransformer:
    @pytest.mark.parametrize(
        "lengths", [[4], [1], [1, 1, 1], [3, 0, 1, 6, 4, 6], [0, 0], [], [20, 1, 2, 19], [2] * 30]
    )
    @pytest.mark.parametrize(("positions", "tolerance"), [("sinusoidal", 1e-5), ("learned", 1e-9)])
    def test_equals_torch_run_over_each_sequence_alone(
        self, positions: Positions, tolerance: float, lengths: list[int]
    ) -> None:
        blocks = make_blocks(positions=positions)
        assert_same(make_transformer(blocks), blocks, lengths, tolerance)

    @pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
    @pytest.mark.parametrize(
        ("layers", "heads", "output_size"), [(1, 1, 1), (1, 3, 9), (3, 5, 5), (2, 1, 7)]
    )
    def test_equals_torch_at_any_width(
        self, positions: Positions, layers: int, heads: int, output_size: int
    ) -> None:
        blocks = make_blocks(layers, heads, positions)
        assert_same(make_transformer(blocks, output_size), blocks, [4, 0, 1, 3, 4], 1e-5)

    def test_learned_places_beyond_the_last_share_its_vector(self) -> None:
        blocks = make_blocks(1, 1, "learned")
        assert_same(make_transformer(blocks, 2), blocks, [514, 2], 1e-9)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(1, 6))
    def test_rows_stand_for_repeated_inputs(self, lengths: list[int], num_rows: int) -> None:
        transformer = make_transformer(make_blocks(1))
        rows = torch.randint(num_rows, (sum(lengths),))
        table = make_inputs([num_rows])

        through_rows = transformer(table, torch.tensor(lengths), rows)
        spelled_out = transformer(table[rows], torch.tensor(lengths))
        torch.testing.assert_close(through_rows, spelled_out)
        projected = transformer.project(table)
        torch.testing.assert_close(
            transformer.encode(projected, torch.tensor(lengths), rows), spelled_out
        )

        factors = torch.randn_like(through_rows)
        of_rows, of_all = (
            torch.autograd.grad((states * factors).sum(), table)
            for states in (through_rows, spelled_out)
        )
        torch.testing.assert_close(of_rows, of_all)

    @pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
    def test_order_matters(self, positions: Positions) -> None:
        transformer = make_transformer(make_blocks(positions=positions))
        inputs, lengths = make_inputs([4]), torch.tensor([4])
        states, reverse = transformer(inputs, lengths), transformer(inputs.flip(0), lengths).flip(0)
        assert ((states - reverse).abs().amax(1) > 1e-3).all()

    def test_order_matters_by_the_positions_alone(self) -> None:
        transformer = make_transformer(make_blocks(positions="learned"))
        assert transformer.positions is not None
        nn.init.zeros_(transformer.positions)
        inputs, lengths = make_inputs([4]), torch.tensor([4])
        torch.testing.assert_close(
            transformer(inputs.flip(0), lengths).flip(0), transformer(inputs, lengths)
        )

    def test_single_precision_is_within_rounding_of_double(self) -> None:
        transformer, lengths = make_transformer(make_blocks()), torch.tensor([30, 3, 17])
        inputs = make_inputs([50])
        expected = transformer(inputs, lengths)
        states = transformer.float()(inputs.float(), lengths)
        assert states.dtype == torch.float32
        torch.testing.assert_close(states.double(), expected, rtol=1e-4, atol=1e-4)

    def test_heads_that_do_not_divide_the_width_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"heads` must divide the width, .*6, got 4\."):
            RaggedTransformer(5, 6, make_blocks(heads=4))

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self) -> None:
        transformer, lengths = make_transformer(make_blocks()), torch.tensor([3, 0, 1, 6])
        inputs = make_inputs([10])
        expected = transformer(inputs, lengths)
        states = transformer.cuda()(inputs.cuda(), lengths.cuda())
        torch.testing.assert_close(states.cpu(), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.gpu
    def test_gpu_learns_in_mixed_precision(self) -> None:
        transformer = make_transformer(make_blocks(dropout=0.1), dtype=torch.float32).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            states = transformer(make_inputs([9]).float().cuda(), torch.tensor([3, 0, 6]).cuda())
        states.float().square().sum().backward()
        for parameter in transformer.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()


def drop_of_input(transformer: Any) -> None:  # noqa: ANN401
    nn.init.ones_(transformer.input.bias)


def drop_of_attention(transformer: Any) -> None:  # noqa: ANN401
    nn.init.ones_(transformer.layers[0].attention.output.bias)


def drop_of_feedforward(transformer: Any) -> None:  # noqa: ANN401
    nn.init.ones_(transformer.layers[0].feedforward[2].bias)


class TestDropout:
    def test_does_nothing_in_evaluation(self) -> None:
        with_dropout = make_transformer(make_blocks(dropout=0.5)).eval()
        without = make_transformer(make_blocks(dropout=0.0))
        inputs, lengths = make_inputs([4, 0, 3]), torch.tensor([4, 0, 3])
        assert torch.equal(with_dropout(inputs, lengths), without(inputs, lengths))

    @pytest.mark.parametrize("add_ones", [drop_of_input, drop_of_attention, drop_of_feedforward])
    def test_drops_of_the_input_and_of_each_half_in_training(
        self, add_ones: Callable[[RaggedTransformer], None]
    ) -> None:
        blocks = make_blocks(1, positions="learned", dropout=0.25)
        transformer = make_transformer(blocks, 10)
        for parameter in transformer.parameters():
            nn.init.zeros_(parameter)
        add_ones(transformer)
        transformer.norm = nn.Identity()  # type: ignore[assignment]
        states = transformer(make_inputs([40, 60]), torch.tensor([40, 60]))
        kept = states != 0
        torch.testing.assert_close(states[kept], torch.full_like(states[kept], 4 / 3))
        assert kept.double().mean() == pytest.approx(0.75, abs=4 * 0.25**0.5 * 1000**-0.5)
        assert (transformer.eval()(make_inputs([9]), torch.tensor([9])) == 1).all()
