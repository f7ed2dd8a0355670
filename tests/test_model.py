"""The ten properties that other implementations were found to lack, and the paper's equations."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import AdamW

from han import model
from han.attention import Weighting
from han.batching import Batch
from han.model import (
    AttentiveEncoder,
    Ensemble,
    HANOutput,
    HierarchicalAttentionNetwork,
    average,
    network_options,
)
from han.vocabulary import Vocabulary
from tests.varieties import VARIETIES

WORDS = 30
UNIFORM = Weighting(normalization="uniform")
Document = list[list[int]]
documents_strategy = st.lists(
    st.lists(st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=8), max_size=5),
    min_size=1,
    max_size=6,
)


def make_network(**options: Any) -> HierarchicalAttentionNetwork:  # noqa: ANN401
    """A small network in double precision with sizes that all differ."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 7, "hidden_size": 5, "attention_size": 3} | options
    return HierarchicalAttentionNetwork(WORDS, 4, **sizes).double().eval()


def make_documents() -> list[Document]:
    """Documents of many shapes: ordinary, one word, one sentence, empty, unknown words alone."""
    generator = torch.Generator().manual_seed(1)

    def sentence(length: int) -> list[int]:
        return torch.randint(WORDS, (length,), generator=generator).tolist()

    return [
        [sentence(9), sentence(2), sentence(1)],
        [[3]],
        [],
        [sentence(40)],
        [[Vocabulary.UNKNOWN] * 3, [Vocabulary.UNKNOWN]],
        [sentence(n) for n in (1, 5, 3, 8, 2, 7)],
    ]


def read_one_by_one(
    network: HierarchicalAttentionNetwork, documents: list[Document]
) -> tuple[Tensor, Tensor, Tensor]:
    """The oracle: the paper's equations, a loop over documents and sentences, torch's own GRU."""

    def encode(encoder: AttentiveEncoder, inputs: Tensor) -> tuple[Tensor, Tensor]:
        gru = nn.GRU(inputs.shape[1], encoder.reader.hidden_size, bidirectional=True).double()
        states = torch.func.functional_call(
            gru, dict(encoder.reader.named_parameters()), (inputs[:, None],)
        )[0][:, 0]
        scores = encoder.attention.projection(states).tanh() @ encoder.attention.context
        weights = scores.softmax(0)
        return weights @ states, weights

    logits, word_weights, sentence_weights = [], [torch.zeros(0)], [torch.zeros(0)]
    for document in documents:
        vector = torch.zeros(network.classifier.in_features, dtype=torch.float64)
        if document:
            encoded = [
                encode(network.word_encoder, network.embedding(torch.tensor(sentence)))
                for sentence in document
            ]
            vector, weights = encode(
                network.sentence_encoder, torch.stack([pooled for pooled, _ in encoded])
            )
            word_weights += [weights for _, weights in encoded]
            sentence_weights.append(weights)
        logits.append(network.classifier(vector))
    return torch.stack(logits), torch.cat(word_weights), torch.cat(sentence_weights)


def split_by_document(output: HANOutput, documents: list[Document]) -> list[tuple[Tensor, ...]]:
    """Return each document's logits, word weights and sentence weights."""
    words = [sum(map(len, document)) for document in documents]
    sentences = [len(document) for document in documents]
    return list(
        zip(
            output.logits,
            output.word_attention.split(words),
            output.sentence_attention.split(sentences),
            strict=True,
        )
    )


class TestAttentiveEncoder:
    def test_dropout_leaves_out_the_same_of_all_steps_of_a_sequence(self) -> None:
        torch.manual_seed(0)
        encoder = AttentiveEncoder(7, 20, 3, dropout=0.5).train()
        pooled, _ = encoder.pool(torch.ones(12, 40), torch.tensor([5, 1, 6]))
        left_out = pooled == 0
        assert torch.allclose(pooled, torch.where(left_out, 0.0, 2.0))
        assert 0.3 < left_out.float().mean() < 0.7
        assert not torch.equal(left_out[0], left_out[2])
        pooled, _ = encoder.eval().pool(torch.ones(12, 40), torch.tensor([5, 1, 6]))
        assert torch.allclose(pooled, torch.ones(3, 40))


class TestHierarchicalAttentionNetwork:
    def test_document_alone_reads_as_in_any_batch_in_any_order(self) -> None:
        network, documents = make_network(), make_documents()
        alone = [network(Batch.from_lists([document])) for document in documents]
        for order in itertools.islice(itertools.permutations(range(len(documents))), 0, 720, 61):
            shuffled = [documents[index] for index in order]
            parts = split_by_document(network(Batch.from_lists(shuffled)), shuffled)
            for index, (logits, word_attention, sentence_attention) in zip(
                order, parts, strict=True
            ):
                torch.testing.assert_close(logits, alone[index].logits[0])
                torch.testing.assert_close(word_attention, alone[index].word_attention)
                torch.testing.assert_close(sentence_attention, alone[index].sentence_attention)

    @settings(max_examples=60, deadline=None)
    @given(documents_strategy)
    def test_attention_of_each_sentence_and_document_sums_to_one(
        self, documents: list[Document]
    ) -> None:
        output = make_network()(Batch.from_lists(documents))
        sentences = [sentence for document in documents for sentence in document]
        assert (output.word_attention >= 0).all()
        assert (output.sentence_attention >= 0).all()
        for weights in output.word_attention.split([len(sentence) for sentence in sentences]):
            assert weights.sum().item() == pytest.approx(1.0)
        for document, weights in zip(
            documents,
            output.sentence_attention.split([len(document) for document in documents]),
            strict=True,
        ):
            assert weights.sum().item() == pytest.approx(1.0 if document else 0.0)

    def test_sentence_vector_does_not_depend_on_other_sentences(self) -> None:
        encoder = make_network().word_encoder
        first, second = torch.randn(4, 7).double(), torch.randn(6, 7).double()
        together, _ = encoder(torch.cat((first, second)), torch.tensor([4, 6]))
        alone, _ = encoder(second, torch.tensor([6]))
        torch.testing.assert_close(together[1], alone[0])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_large_scores_stay_finite(self, dtype: torch.dtype) -> None:
        network = make_network().to(dtype)
        with torch.no_grad():
            network.word_encoder.attention.context.fill_(200)
            network.sentence_encoder.attention.context.fill_(-200)
        output = network(Batch.from_lists(make_documents()))
        assert all(values.isfinite().all() for values in output[:3])

    def test_a_batch_of_one_word_works(self) -> None:
        output = make_network()(Batch.from_lists([[[5]]]))
        assert output.word_attention.tolist() == output.sentence_attention.tolist() == [1.0]

    def test_empty_document_gives_the_bias_and_a_flag(self) -> None:
        network = make_network()
        for documents in ([[]], [[], [[1, 2]], []], [[[1]], []]):
            output = network(Batch.from_lists(documents))
            assert output.empty.tolist() == [not document for document in documents]
            for logits, document in zip(output.logits, documents, strict=True):
                if not document:
                    torch.testing.assert_close(logits, network.classifier.bias)

    def test_every_parameter_is_initialised_and_receives_a_gradient(self) -> None:
        network = make_network().train()
        batch = Batch.from_lists([[list(range(WORDS)), [1, 2]], [[0, 3], [4]]])
        network(batch).logits.square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.isfinite().all(), name
            assert parameter.abs().max() < 10, name
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).any(), name
        assert network.embedding.weight.grad is not None
        assert (network.embedding.weight.grad[Vocabulary.UNKNOWN] != 0).any()

    @settings(max_examples=30, deadline=None)
    @given(documents_strategy)
    def test_equals_a_loop_over_documents_with_torch_gru(self, documents: list[Document]) -> None:
        network = make_network()
        results = []
        for read in (lambda: network(Batch.from_lists(documents))[:3], None):
            network.zero_grad()
            logits, words, sentences = read() if read else read_one_by_one(network, documents)
            weights = torch.arange(len(words), dtype=torch.float64).sin()
            (logits.sin().sum() + (words * weights).sum() + sentences.square().sum()).backward()
            gradients = [
                torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for p in network.parameters()
            ]
            results.append([logits, words.double(), sentences.double(), *gradients])
        for ours, oracle in zip(*results, strict=True):
            torch.testing.assert_close(ours, oracle, rtol=1e-7, atol=1e-9)

    def test_weights_return_in_the_order_of_the_input(self) -> None:
        network = make_network()
        short, long = [[1, 2]], [[3] * 6, [4, 5, 6]]
        output = network(Batch.from_lists([short, long]))
        first = network(Batch.from_lists([short])).word_attention
        torch.testing.assert_close(output.word_attention[:2], first)

    def test_uniform_attention_stays_even_while_the_rest_learns(self) -> None:
        network = HierarchicalAttentionNetwork(
            9, 3, 8, 5, 6, word_attention=UNIFORM, sentence_attention=UNIFORM
        )
        batch = Batch.from_lists([[[1, 2, 3], [4]], [[5, 6]]], labels=[0, 2])
        before = network.classifier.weight.clone()
        optimizer = AdamW(network.parameters(), lr=0.1)
        nn.functional.cross_entropy(network(batch).logits, batch.labels).backward()
        optimizer.step()
        assert not torch.equal(network.classifier.weight, before)
        output = network.eval()(batch)
        torch.testing.assert_close(output.word_attention, torch.tensor([3, 3, 3, 1, 2, 2]) ** -1.0)
        torch.testing.assert_close(output.sentence_attention, torch.tensor([0.5, 0.5, 1]))

    def test_word_dropout_reads_a_type_as_unknown_throughout_the_batch(self) -> None:
        network = make_network(word_dropout=0.999).train()
        torch.manual_seed(3)
        dropped = network(Batch.from_lists([[[4, 5, 4]], [[5]]]))
        unknown = network(Batch.from_lists([[[Vocabulary.UNKNOWN] * 3], [[Vocabulary.UNKNOWN]]]))
        torch.testing.assert_close(dropped.logits, unknown.logits)

    def test_dropouts_do_nothing_in_evaluation(self) -> None:
        names = ("word", "embedding", "encoder", "classifier")
        network = make_network(**{f"{name}_dropout": 0.5 for name in names})
        plain = make_network()
        plain.load_state_dict(network.state_dict())
        batch = Batch.from_lists(make_documents())
        torch.testing.assert_close(network(batch).logits, plain(batch).logits)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("hidden_size", 0), ("embedding_size", -1), ("word_dropout", 1.0), ("encoder_dropout", 2)],
    )
    def test_impossible_options_are_refused_by_name(self, option: str, value: float) -> None:
        with pytest.raises(ValueError, match=option):
            make_network(**{option: value})

    def test_options_build_the_same_network(self) -> None:
        network = make_network(word_dropout=0.1)
        again = HierarchicalAttentionNetwork(**network_options(network.options)).double()
        again.load_state_dict(network.state_dict())
        assert again.options == network.options

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self) -> None:
        network, batch = make_network(), Batch.from_lists(make_documents())
        expected = network(batch)
        output = network.cuda()(batch.to("cuda"))
        for ours, reference in zip(output[:-1], expected[:-1], strict=True):
            torch.testing.assert_close(ours.cpu(), reference)


@pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
class TestEveryVariety:
    def test_a_document_alone_reads_as_in_a_batch(self, options: dict[str, Any]) -> None:
        network, documents = make_network(**options), make_documents()
        together = split_by_document(network(Batch.from_lists(documents)), documents)
        for document, parts in zip(documents, together, strict=True):
            alone = network(Batch.from_lists([document]))
            for ours, other in zip(parts, (alone.logits[0], *alone[1:3]), strict=True):
                torch.testing.assert_close(ours, other)

    def test_attention_is_a_share_and_the_mean_of_its_heads(self, options: dict[str, Any]) -> None:
        batch = Batch.from_lists(make_documents())
        output = make_network(**options)(batch)
        for heads, mean, lengths in (
            (output.word_heads, output.word_attention, batch.words_per_sentence),
            (output.sentence_heads, output.sentence_attention, batch.sentences_per_document),
        ):
            assert (heads >= 0).all()
            sums = torch.stack([part.sum(0) for part in heads.split(lengths.tolist())])
            torch.testing.assert_close(sums, (lengths > 0).double()[:, None].expand_as(sums))
            torch.testing.assert_close(mean, heads.mean(1))

    def test_every_parameter_receives_a_gradient(self, options: dict[str, Any]) -> None:
        network = make_network(**options).train()
        torch.manual_seed(1)
        documents = [[list(range(n % 7, WORDS)), [1, 2], [n, 5, 7]] for n in range(12)]
        output = network(Batch.from_lists(documents))
        loss = output.logits.square().sum()
        if output.draws is not None:
            loss = loss + (torch.arange(12) * output.draws.log_probability).sum()
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.isfinite().all(), name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_stays_finite(self, options: dict[str, Any], dtype: torch.dtype) -> None:
        batch = Batch.from_lists(make_documents())
        network = make_network(**options).float().train()
        with torch.autocast("cpu", dtype):
            network(batch).logits.square().sum().backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        output = network.to(dtype).eval()(batch)
        assert all(values.isfinite().all() for values in output[:3])

    def test_empty_documents_and_single_words_are_read(self, options: dict[str, Any]) -> None:
        network = make_network(**options).train()
        output = network(Batch.from_lists([[], [[5]], []]))
        assert output.word_attention.tolist() == output.sentence_attention.tolist() == [1.0]
        torch.testing.assert_close(output.logits[0], network.classifier.bias)
        nothing = network(Batch.from_lists([[], []]))
        assert nothing.word_attention.shape == nothing.sentence_attention.shape == (0,)

    def test_a_table_of_words_changes_nothing(self, options: dict[str, Any]) -> None:
        network, batch = make_network(**options), Batch.from_lists(make_documents())
        expected = network(batch)
        with torch.no_grad():
            for _ in range(3):  # the table is made on the way
                output = network(batch)
                for ours, other in zip(output[:-1], expected[:-1], strict=True):
                    torch.testing.assert_close(ours, other)

    def test_options_are_json_and_build_the_same(self, options: dict[str, Any]) -> None:
        network = make_network(**options)
        read = json.loads(json.dumps(network.options))
        again = HierarchicalAttentionNetwork(**network_options(read)).double()
        again.load_state_dict(network.state_dict())
        batch = Batch.from_lists(make_documents())
        assert again.options == network.options == read
        assert torch.equal(again.eval()(batch).logits, network(batch).logits)


class TestHardAttention:
    def test_only_reinforce_tells_what_it_drew_and_in_training_alone(self) -> None:
        batch = Batch.from_lists(make_documents())
        for name, options in VARIETIES.items():
            network = make_network(**options)
            assert network(batch).draws is None
            assert (network.train()(batch).draws is None) == (name != "hard_reinforce")

    def test_draws_of_a_document_are_those_of_its_sentences_and_its_own(self) -> None:
        network = make_network(**VARIETIES["hard_reinforce"]).train()
        documents = make_documents()
        torch.manual_seed(4)
        output = network(Batch.from_lists(documents))
        assert output.draws is not None
        assert output.draws.log_probability.shape == output.draws.entropy.shape == (6,)
        single = torch.tensor([len(d) == 0 or d == [[3]] for d in documents])
        assert output.draws.log_probability[single].tolist() == [0, 0]  # there was no choice
        assert (output.draws.log_probability[~single] < 0).all()
        assert (output.draws.entropy[~single] > 0).all()
        # Of even scores: a draw of T has the probability 1 / T.
        with torch.no_grad():
            for encoder in (network.word_encoder, network.sentence_encoder):
                encoder.attention.context.zero_()
        even = network(Batch.from_lists(documents)).draws
        expected = [
            -sum(math.log(n) for n in [*map(len, document), max(len(document), 1)])
            for document in documents
        ]
        assert even is not None
        assert even.log_probability.tolist() == pytest.approx(expected)
        assert even.entropy.tolist() == pytest.approx([-number for number in expected])


def make_ensemble(members: int, **options: Any) -> Ensemble:  # noqa: ANN401
    """Small networks in double precision whose weights, and so whose attention, differ much."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 7, "hidden_size": 5, "attention_size": 3, **options}
    ensemble = Ensemble(members, vocabulary_size=WORDS, num_classes=4, **sizes).double().eval()
    if not options:
        for parameter in ensemble.parameters():
            nn.init.normal_(parameter, std=0.8)
    return ensemble


class TestEnsemble:
    @settings(max_examples=40, deadline=None)
    @given(documents_strategy, st.integers(1, 4))
    def test_equals_the_mean_of_networks_read_one_by_one(
        self, documents: list[Document], members: int
    ) -> None:
        ensemble = make_ensemble(members)
        output = ensemble(Batch.from_lists(documents))
        alone = [read_one_by_one(member, documents) for member in ensemble.members]
        torch.testing.assert_close(output.logits, sum(one[0] for one in alone) / members)
        sentences = sum(one[2] for one in alone) / members
        torch.testing.assert_close(output.sentence_attention.double(), sentences.double())
        lengths = [len(sentence) for document in documents for sentence in document]
        repeats = torch.tensor(lengths, dtype=torch.int64)
        shares = sum(one[1] * one[2].repeat_interleave(repeats) for one in alone) / members
        found = output.word_attention * output.sentence_attention.repeat_interleave(repeats)
        torch.testing.assert_close(found.double(), shares.double())
        for weights in output.word_attention.split(lengths):
            assert weights.sum().item() == pytest.approx(1.0)

    def test_members_start_from_different_weights(self) -> None:
        first, second = make_ensemble(2, word_dropout=0.0).members
        for name, parameter in first.named_parameters():
            assert not torch.equal(parameter, second.get_parameter(name)), name

    def test_one_member_is_the_network(self) -> None:
        network, batch = make_network(), Batch.from_lists(make_documents())
        ensemble = make_ensemble(1, word_dropout=0.0)
        ensemble.members[0].load_state_dict(network.state_dict())
        for ours, expected in zip(ensemble(batch)[:-1], network(batch)[:-1], strict=True):
            assert torch.equal(ours, expected)

    def test_options_build_the_same_ensemble(self) -> None:
        ensemble = make_ensemble(3, word_dropout=0.1, word_attention=UNIFORM)
        again = Ensemble(**ensemble.options).double()
        again.load_state_dict(ensemble.state_dict())
        assert again.options == ensemble.options
        assert again.options == {"members": 3, **ensemble.members[2].options}

    @pytest.mark.parametrize("members", [0, -1, 101, 10**9])
    def test_no_member_or_too_many_are_refused(self, members: int) -> None:
        with pytest.raises(ValueError, match=f"`members` must be from 1 to 100, got {members}"):
            make_ensemble(members)

    def test_what_a_network_refuses_is_refused(self) -> None:
        with pytest.raises(ValueError, match="hidden_size"):
            make_ensemble(2, hidden_size=0)

    def test_many_batches_read_as_the_first(self) -> None:
        ensemble, batch = make_ensemble(2), Batch.from_lists(make_documents())
        expected = ensemble(batch)
        with torch.no_grad():
            outputs = [ensemble(batch) for _ in range(5)]
        assert all(member.word_table._state[2] is not None for member in ensemble.members)
        for output in outputs:
            for result, reference in zip(output, expected, strict=True):
                torch.testing.assert_close(result, reference)


class TestWeightsOfBeforeEnsembles:
    def test_they_are_those_of_the_only_member(self) -> None:
        network, ensemble = make_network(), make_ensemble(1)
        state = network.state_dict()
        ensemble.load_state_dict(state)
        assert state.keys() == network.state_dict().keys()  # the caller's are left alone
        for name, parameter in network.named_parameters():
            assert torch.equal(ensemble.members[0].get_parameter(name), parameter)

    def test_inside_another_module_its_other_weights_stay(self) -> None:
        network = make_network()
        outer = nn.ModuleDict({"network": make_ensemble(1), "other": nn.Linear(2, 2)})
        state = {f"network.{name}": weight for name, weight in network.state_dict().items()}
        outer.load_state_dict(
            state | {"other.weight": torch.ones(2, 2), "other.bias": torch.ones(2)}
        )
        assert torch.equal(outer.get_parameter("other.bias"), torch.ones(2))
        assert torch.equal(
            outer.get_parameter("network.members.0.embedding.weight"), network.embedding.weight
        )

    def test_they_are_not_enough_for_several(self) -> None:
        with pytest.raises(RuntimeError, match=r"Missing key.*members\.1\.embedding\.weight"):
            make_ensemble(2).load_state_dict(make_network().state_dict())

    def test_one_that_no_network_has_is_refused(self) -> None:
        state = make_network().state_dict() | {"foreign": torch.ones(1)}
        with pytest.raises(RuntimeError, match=r"Unexpected key.*foreign"):
            make_ensemble(1).load_state_dict(state)


def as_output(logits: list[list[float]], words: list[float], sentences: list[float]) -> HANOutput:
    """An output of documents of which none is empty, in double precision."""
    numbers = [torch.tensor(part, dtype=torch.float64) for part in (logits, words, sentences)]
    empty = torch.zeros(len(logits), dtype=torch.bool)
    return HANOutput.of_heads(numbers[0], numbers[1][:, None], numbers[2][:, None], empty)


class TestAverage:
    def test_a_case_by_hand(self) -> None:
        """A document of the sentences (1, 2) and (3,), and one of the sentence (4, 5)."""
        batch = Batch.from_lists([[[1, 2], [3]], [[4, 5]]])
        first = as_output([[1, 2], [0, 8]], [0.5, 0.5, 1, 0.9, 0.1], [0.8, 0.2, 1])
        second = as_output([[3, -4], [2, 0]], [0.1, 0.9, 1, 0.3, 0.7], [0.2, 0.8, 1])
        output = average([first, second], batch)
        assert output.logits.tolist() == [[2, -1], [1, 4]]
        assert output.sentence_attention.tolist() == pytest.approx([0.5, 0.5, 1])
        # Of word 1 the shares are 0.5 x 0.8 and 0.1 x 0.2: their mean is 0.21 of 0.5.
        assert output.word_attention.tolist() == pytest.approx([0.42, 0.58, 1, 0.6, 0.4])
        assert output.empty.tolist() == [False, False]

    def test_a_sentence_that_one_network_ignores_is_weighed_by_the_other(self) -> None:
        batch = Batch.from_lists([[[1, 2], [3]]])
        first = as_output([[0]], [0.25, 0.75, 1], [0, 1])
        second = as_output([[0]], [0.6, 0.4, 1], [0.5, 0.5])
        output = average([first, second], batch)
        assert output.sentence_attention.tolist() == [0.25, 0.75]
        assert output.word_attention.tolist() == pytest.approx([0.6, 0.4, 1])

    def test_a_sentence_that_all_networks_ignore_has_weights_of_words_all_the_same(self) -> None:
        batch = Batch.from_lists([[[1, 2], [3]]])
        first = as_output([[0]], [0.25, 0.75, 1], [0, 1])
        second = as_output([[0]], [0.75, 0.25, 1], [0, 1])
        third = as_output([[0]], [0.5, 0.5, 1], [0, 1])
        output = average([first, second, third], batch)
        assert output.sentence_attention.tolist() == [0, 1]
        assert output.word_attention.tolist() == pytest.approx([0.5, 0.5, 1])

    def test_the_smallest_weights_are_no_division_by_zero(self) -> None:
        batch = Batch.from_lists([[[1, 2], [3]]])
        smallest = torch.finfo(torch.float32).smallest_normal / 2**20
        outputs = [
            HANOutput.of_heads(
                one.logits.float(), one.word_heads.float(), one.sentence_heads.float(), one.empty
            )
            for one in (
                as_output([[0]], [0.25, 0.75, 1], [smallest, 1]),
                as_output([[0]], [0.5, 0.5, 1], [0, 1]),
            )
        ]
        words = average(outputs, batch).word_attention
        assert words.tolist() == pytest.approx([0.25, 0.75, 1])

    def test_one_output_is_returned_as_it_is(self) -> None:
        output = as_output([[0]], [1], [1])
        assert average([output], Batch.from_lists([[[1]]])) is output

    def test_the_order_of_the_networks_does_not_matter(self) -> None:
        batch = Batch.from_lists(make_documents())
        outputs = [member(batch) for member in make_ensemble(3).members]
        forth, back = average(outputs, batch), average(outputs[::-1], batch)
        for name in ("logits", "word_attention", "sentence_attention", "empty"):
            torch.testing.assert_close(getattr(forth, name), getattr(back, name))
        for name in ("word_heads", "sentence_heads"):
            assert torch.equal(getattr(forth, name), getattr(back, name).flip(1))

    def test_an_empty_document_gets_the_mean_of_the_biases(self) -> None:
        ensemble = make_ensemble(2)
        output = ensemble(Batch.from_lists([[], [[1, 2]]]))
        first, second = (member.classifier.bias for member in ensemble.members)
        torch.testing.assert_close(output.logits[0], (first + second) / 2)
        assert output.empty.tolist() == [True, False]
        assert output.sentence_attention.tolist() == [1]
        assert output.word_attention.sum().item() == pytest.approx(1)

    @pytest.mark.parametrize("documents", [[], [[]], [[], []]])
    def test_no_words_give_no_weights(self, documents: list[Document]) -> None:
        output = make_ensemble(2)(Batch.from_lists(documents))
        assert output.logits.shape == (len(documents), 4)
        assert output.word_attention.shape == output.sentence_attention.shape == (0,)
        assert output.empty.tolist() == [True] * len(documents)


def set_in_place(network: HierarchicalAttentionNetwork) -> None:
    with torch.no_grad():
        network.embedding.weight.mul_(2)


def load_other_weights(network: HierarchicalAttentionNetwork) -> None:
    network.load_state_dict({k: 2 * v for k, v in network.state_dict().items()})


def replace_a_parameter(network: HierarchicalAttentionNetwork) -> None:
    network.word_encoder.reader.weight_ih_l0.data = (
        network.word_encoder.reader.weight_ih_l0.data * 2
    )


def train_by_hand(network: HierarchicalAttentionNetwork) -> None:
    with torch.enable_grad():
        network(Batch.from_lists(make_documents())).logits.sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        parameter.data -= parameter.grad  # no version number tells of it


def take_a_fused_step(network: HierarchicalAttentionNetwork) -> None:
    """A step after which nothing but the optimiser has touched the network."""
    optimizer = AdamW(network.parameters(), lr=0.1, fused=True)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


class TestWordTable:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_many_batches_read_as_the_first(self, dtype: torch.dtype) -> None:
        network, batch = make_network().to(dtype), Batch.from_lists(make_documents())
        expected = network(batch)
        with torch.no_grad():
            outputs = [network(batch) for _ in range(5)]
        assert network.word_table._state[2] is not None
        for output in outputs:
            for result, reference in zip(output, expected, strict=True):
                torch.testing.assert_close(result, reference)

    def test_a_large_vocabulary_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model, "LARGEST_TABLES", WORDS * 6 * 5 - 1)
        network, batch = make_network(), Batch.from_lists(make_documents())
        with torch.no_grad():
            logits = [network(batch).logits for _ in range(5)]
        assert network.word_table._state[2] is None
        torch.testing.assert_close(logits[-1], logits[0])

    @pytest.mark.parametrize(
        "change",
        [
            set_in_place,
            load_other_weights,
            replace_a_parameter,
            train_by_hand,
            take_a_fused_step,
            nn.Module.half,
        ],
    )
    def test_other_weights_make_another_table(
        self, change: Callable[[HierarchicalAttentionNetwork], object]
    ) -> None:
        network, batch = make_network(), Batch.from_lists(make_documents())
        with torch.no_grad():
            before = [network(batch).logits for _ in range(5)][-1]
            change(network)
            network.double()
            after = [network(batch).logits for _ in range(5)]
        expected = copy.deepcopy(network)
        expected.word_table.forget()
        assert not torch.equal(after[0], before)
        for logits in after:
            torch.testing.assert_close(logits, expected(batch).logits)

    def test_weights_made_in_inference_mode_have_none(self) -> None:
        batch = Batch.from_lists(make_documents())
        with torch.inference_mode():
            network = make_network()
            first = [network(batch).logits for _ in range(5)][-1]
            network.embedding.weight.mul_(2)
            assert not torch.equal(network(batch).logits, first)
