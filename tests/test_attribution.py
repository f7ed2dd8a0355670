from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from han import attribution
from han.attention import Weighting
from han.attribution import (
    attention_gradient,
    input_gradient,
    masked_probabilities,
    occlusion,
    uniform_output,
)
from han.batching import Batch
from han.model import Ensemble, HierarchicalAttentionNetwork, network_options
from han.transformer import RaggedTransformer
from tests.varieties import VARIETIES

VOCABULARY = 12
KINDS = {**VARIETIES, "ordinal": {"task": "ordinal"}}
DOCUMENTS = [
    [[1, 2, 3, 4], [5], [6, 7, 2]],
    [],
    [[8, 9]],
    [[1], [1], [10, 11, 0, 0, 3]],
]


def make_network(members: int = 2, **options: Any) -> Ensemble:  # noqa: ANN401
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "embedding_size": 7, "hidden_size": 5, "attention_size": 5}
    network = Ensemble(members, vocabulary_size=VOCABULARY, **sizes, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    return network.eval()


def flat(document: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    words = [word for sentence in document for word in sentence]
    return np.array(words, np.int32), np.array([len(sentence) for sentence in document], np.int32)


def probabilities(network: Ensemble, document: Sequence[Sequence[int]]) -> Tensor:
    """Return what the network says of one document, empty sentences left out."""
    left = [sentence for sentence in document if sentence]
    with torch.no_grad():
        return network(Batch.from_lists([left])).logits.double().softmax(1)[0]


class DocumentByHand:
    """One document in double precision with `torch.nn.GRU`, as one network reads it.

    Each method maps how much there is of something, 1 as it is, to logits (1, C).
    """

    def __init__(
        self,
        network: HierarchicalAttentionNetwork,
        document: Sequence[Sequence[int]],
    ) -> None:
        double = HierarchicalAttentionNetwork(**network_options(network.options))
        double.load_state_dict(network.state_dict())
        self.network = double.double().eval()
        self.document = document
        tokens = torch.tensor([word for sentence in document for word in sentence])
        self.vectors = self.network.embedding.weight[tokens].detach()

    def encode(self, level: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of one sequence, (T, D), and their weights, (T, K)."""
        encoder, steps = getattr(self.network, level), torch.tensor([len(inputs)])
        if isinstance(encoder.reader, RaggedTransformer):
            states = encoder.reader(inputs, steps)
        else:
            gru = torch.nn.GRU(inputs.shape[1], encoder.reader.hidden_size, bidirectional=True)
            gru.double().load_state_dict(encoder.reader.state_dict())
            states, _ = gru(inputs)
        if self.network.options["word_attention"] == asdict(Weighting()):
            attention = encoder.attention
            scores = attention.projection(states).tanh() @ attention.context
            return states, scores.softmax(0)[:, None]
        return states, encoder.attention(states, steps)[1]

    def split(self, numbers: Tensor) -> tuple[Tensor, ...]:
        return numbers.split([len(sentence) for sentence in self.document])

    def word_states(self) -> list[tuple[Tensor, Tensor]]:
        return [self.encode("word_encoder", part) for part in self.split(self.vectors)]

    def of_word_weights(self, amounts: Tensor) -> Tensor:
        """Multiply the words' weights by (1, N)."""
        pairs = zip(self.split(amounts[0]), self.word_states(), strict=True)
        sentences = torch.stack(
            [pooled(states, amount[:, None] * weight) for amount, (states, weight) in pairs]
        )
        return self.network.classifier(pooled(*self.encode("sentence_encoder", sentences)))[None]

    def of_sentence_weights(self, amounts: Tensor) -> Tensor:
        """Multiply the sentences' weights by (1, S)."""
        sentences = torch.stack([pooled(*pair) for pair in self.word_states()])
        states, weight = self.encode("sentence_encoder", sentences)
        return self.network.classifier(pooled(states, amounts[0][:, None] * weight))[None]

    def of_vectors(self, amounts: Tensor) -> Tensor:
        """Multiply the words' vectors by (1, N)."""
        vectors = self.vectors * amounts[0][:, None]
        pairs = [self.encode("word_encoder", part) for part in self.split(vectors)]
        sentences = torch.stack([pooled(*pair) for pair in pairs])
        return self.network.classifier(pooled(*self.encode("sentence_encoder", sentences)))[None]


def pooled(states: Tensor, weights: Tensor) -> Tensor:
    """Return what each head sums the states (T, D) to by its weights (T, K), end to end: (K D,)."""
    return torch.cat([weights[:, head] @ states for head in range(weights.shape[1])])


def gains(
    network: Ensemble,
    document: Sequence[Sequence[int]],
    method: Callable[[DocumentByHand, Tensor], Tensor],
    count: int,
) -> Tensor:
    """Return (count, C): what the mean logits gain as something grows alike in all members."""
    members = [DocumentByHand(member, document) for member in network.members]

    def logits(amounts: Tensor) -> Tensor:
        return torch.stack([method(member, amounts) for member in members]).mean(0)

    amounts = torch.ones(1, count, dtype=torch.float64, requires_grad=True)
    oracle = InputXGradient(logits)
    return torch.stack([oracle.attribute(amounts, target=c)[0].detach() for c in range(3)], 1)


class TestAttentionGradient:
    def test_output_is_that_of_the_network(self) -> None:
        network, batch = make_network(), Batch.from_lists(DOCUMENTS)
        output, _ = attention_gradient(network, batch)
        expected = network(batch)
        for name in ("logits", "word_attention", "sentence_attention"):
            torch.testing.assert_close(getattr(output, name), getattr(expected, name).detach())
            assert not getattr(output, name).requires_grad
        assert torch.equal(output.empty, expected.empty)

    @pytest.mark.parametrize("members", [1, 3])
    def test_captum_finds_the_same_from_a_document_computed_by_hand(self, members: int) -> None:
        network = make_network(members)
        for document in filter(None, DOCUMENTS):
            _, found = attention_gradient(network, Batch.from_lists([document]))
            pairs = (
                (found.words, DocumentByHand.of_word_weights),
                (found.sentences, DocumentByHand.of_sentence_weights),
            )
            for ours, method in pairs:
                expected = gains(network, document, method, len(ours))
                torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=1e-4)

    @pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
    def test_captum_finds_the_same_of_every_variety(self, options: dict[str, Any]) -> None:
        network = make_network(1, **options)
        for document in filter(None, DOCUMENTS):
            _, found = attention_gradient(network, Batch.from_lists([document]))
            for ours, method in zip(
                found,
                (DocumentByHand.of_word_weights, DocumentByHand.of_sentence_weights),
                strict=True,
            ):
                expected = gains(network, document, method, len(ours))
                torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-4)

    def test_an_ensemble_has_the_mean_of_its_members(self) -> None:
        network, batch = make_network(), Batch.from_lists(DOCUMENTS)
        _, found = attention_gradient(network, batch)
        alone = []
        for member in network.members:
            one = Ensemble(1, **member.options)
            one.members[0].load_state_dict(member.state_dict())
            alone.append(attention_gradient(one.eval(), batch)[1])
        assert (alone[0].words - alone[1].words).abs().max() > 0.1
        for ours, first, second in zip(found, *alone, strict=True):
            torch.testing.assert_close(ours, (first + second) / 2)

    def test_sentences_add_up_to_the_logit_without_its_bias(self) -> None:
        network, batch = make_network(), Batch.from_lists(DOCUMENTS[:1])
        output, found = attention_gradient(network, batch)
        bias = torch.stack([member.classifier.bias for member in network.members]).mean(0)
        torch.testing.assert_close(found.sentences.sum(0), output.logits[0] - bias.detach())

    def test_it_leaves_no_gradient_behind(self) -> None:
        network = make_network()
        attention_gradient(network, Batch.from_lists(DOCUMENTS))
        assert all(parameter.grad is None for parameter in network.parameters())


class TestInputGradient:
    @pytest.mark.parametrize("members", [1, 3])
    def test_captum_finds_the_same_from_a_document_computed_by_hand(self, members: int) -> None:
        network = make_network(members)
        for document in filter(None, DOCUMENTS):
            found = input_gradient(network, Batch.from_lists([document])).words
            expected = gains(network, document, DocumentByHand.of_vectors, len(found))
            torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_captum_finds_the_same_of_every_variety(self, options: dict[str, Any]) -> None:
        network = make_network(1, **options)
        for document in filter(None, DOCUMENTS):
            found = input_gradient(network, Batch.from_lists([document])).words
            expected = gains(network, document, DocumentByHand.of_vectors, len(found))
            torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-4)

    def test_sentences_are_the_sums_of_their_words(self) -> None:
        found = input_gradient(make_network(), Batch.from_lists(DOCUMENTS))
        lengths = [len(sentence) for document in DOCUMENTS for sentence in document]
        sums = torch.stack([part.sum(0) for part in found.words.split(lengths)])
        torch.testing.assert_close(found.sentences, sums)


@pytest.mark.parametrize("method", [attention_gradient, input_gradient])
class TestEveryGradient:
    def test_documents_do_not_depend_on_their_neighbours(self, method) -> None:  # noqa: ANN001
        def words(documents: list[list[list[int]]]) -> Tensor:
            found = method(make_network(), Batch.from_lists(documents))
            return (found[1] if method is attention_gradient else found).words

        alone = torch.cat([words([document]) for document in DOCUMENTS])
        torch.testing.assert_close(words(DOCUMENTS), alone, atol=1e-6, rtol=1e-5)

    def test_no_documents_and_no_words_give_no_figures(self, method) -> None:  # noqa: ANN001
        for documents in ([], [[]]):
            found = method(make_network(), Batch.from_lists(documents))
            found = found[1] if method is attention_gradient else found
            assert found.words.shape == found.sentences.shape == (0, 3)


class TestMaskedProbabilities:
    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_variants_are_classified_by_every_variety(self, options: dict[str, Any]) -> None:
        network, document = make_network(**options), [[1, 2, 3], [4], [5, 6]]
        variants = [[1, 0, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1], [1] * 6, [0] * 6]
        found = masked_probabilities(network, *flat(document), np.array(variants, bool))
        for row, marks in zip(found, variants, strict=True):
            left = iter(marks)
            reduced = [[word for word in sentence if next(left)] for sentence in document]
            torch.testing.assert_close(row, probabilities(network, reduced), atol=1e-6, rtol=1e-5)

    @given(
        st.lists(
            st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), max_size=5
        ).flatmap(
            lambda document: st.tuples(
                st.just(document),
                st.lists(
                    st.lists(
                        st.booleans(),
                        min_size=sum(map(len, document)),
                        max_size=sum(map(len, document)),
                    ),
                    max_size=6,
                ),
            )
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_each_variant_is_classified_as_if_it_were_alone(
        self, case: tuple[list[list[int]], list[list[bool]]]
    ) -> None:
        document, variants = case
        network = make_network()
        tokens, lengths = flat(document)
        kept = np.array(variants, bool).reshape(len(variants), len(tokens))
        found = masked_probabilities(network, tokens, lengths, kept)
        assert found.shape == (len(variants), 3)
        for row, marks in zip(found, variants, strict=True):
            left = iter(marks)
            reduced = [[word for word in sentence if next(left)] for sentence in document]
            torch.testing.assert_close(row, probabilities(network, reduced), atol=1e-6, rtol=1e-5)

    def test_many_variants_are_read_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network, (tokens, lengths) = make_network(), flat(DOCUMENTS[0])
        kept = np.array(list(itertools.product([False, True], repeat=len(tokens))))
        expected = masked_probabilities(network, tokens, lengths, kept)
        monkeypatch.setattr(attribution, "VARIANT_WORDS", 3)
        monkeypatch.setattr(attribution, "VARIANT_MARKS", 40)
        found = masked_probabilities(network, tokens, lengths, kept)
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)

    def test_another_number_of_words_is_refused(self) -> None:
        tokens, lengths = flat(DOCUMENTS[0])
        with pytest.raises(ValueError, match=r"each of 8 words, got shape \(2, 7\)"):
            masked_probabilities(make_network(), tokens, lengths, np.ones((2, 7), bool))


class TestOcclusion:
    def test_it_is_what_the_probabilities_lose(self) -> None:
        network = make_network()
        for document in DOCUMENTS:
            found = occlusion(network, *flat(document))
            whole = probabilities(network, document)
            expected_words = [
                whole
                - probabilities(
                    network,
                    [
                        [word for t, word in enumerate(other) if (k, t) != (i, place)]
                        for k, other in enumerate(document)
                    ],
                )
                for i, sentence in enumerate(document)
                for place in range(len(sentence))
            ]
            expected_sentences = [
                whole - probabilities(network, document[:i] + document[i + 1 :])
                for i in range(len(document))
            ]
            for part, expected in zip(found, (expected_words, expected_sentences), strict=True):
                assert part.shape == (len(expected), 3)
                for row, numbers in zip(part, expected, strict=True):
                    torch.testing.assert_close(row, numbers, atol=1e-6, rtol=1e-5)

    def test_the_classes_lose_together_what_they_gain(self) -> None:
        found = occlusion(make_network(), *flat(DOCUMENTS[0]))
        assert found.words.sum(1).abs().max() < 1e-12
        assert found.words.abs().max() > 1e-3


class TestUniformOutput:
    def test_every_weight_is_even_and_pools_the_mean(self) -> None:
        network, batch = make_network(), Batch.from_lists(DOCUMENTS)
        output = uniform_output(network, batch)
        lengths = batch.words_per_sentence
        even = (1 / lengths).repeat_interleave(lengths)
        torch.testing.assert_close(output.word_attention, even)
        of_sentences = batch.sentences_per_document
        even = (1 / of_sentences).repeat_interleave(of_sentences)
        torch.testing.assert_close(output.sentence_attention, even)
        of_members = []
        for member in network.members:
            by_hand = DocumentByHand(member, DOCUMENTS[0])
            sentences = torch.stack([states.mean(0) for states, _ in by_hand.word_states()])
            states, _ = by_hand.encode("sentence_encoder", sentences)
            of_members.append(by_hand.network.classifier(states.mean(0)).float())
        expected = torch.stack(of_members).mean(0).detach()
        torch.testing.assert_close(output.logits[0], expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_every_variety_is_evened(self, options: dict[str, Any]) -> None:
        network, batch = make_network(2, **options), Batch.from_lists(DOCUMENTS)
        output = uniform_output(network, batch)
        for heads, lengths in (
            (output.word_heads, batch.words_per_sentence),
            (output.sentence_heads, batch.sentences_per_document),
        ):
            even = (1 / lengths).repeat_interleave(lengths)[:, None].expand_as(heads)
            torch.testing.assert_close(heads, even)
        uniform = options.get("word_attention") == Weighting(normalization="uniform")
        same = torch.allclose(output.logits, network(batch).logits, atol=1e-6)
        assert same == uniform

    def test_it_leaves_the_network_as_it_was(self) -> None:
        network, batch = make_network(), Batch.from_lists(DOCUMENTS)
        with torch.inference_mode():
            expected = network(batch).logits
            uniform_output(network, batch)
            assert torch.equal(network(batch).logits, expected)


@pytest.mark.gpu
class TestOnAGPU:
    def test_every_method_finds_the_same(self) -> None:
        network, batch = make_network(), Batch.from_lists(DOCUMENTS)
        expected = (attention_gradient(network, batch)[1], input_gradient(network, batch))
        uniform = uniform_output(network, batch).logits
        one = flat(DOCUMENTS[0])
        alone = occlusion(network, *one)
        network, batch = network.cuda(), batch.to("cuda")
        found = (attention_gradient(network, batch)[1], input_gradient(network, batch))
        for pair in zip((*expected, alone), (*found, occlusion(network, *one)), strict=True):
            for before, after in zip(*pair, strict=True):
                torch.testing.assert_close(after.cpu(), before, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(uniform_output(network, batch).logits.cpu(), uniform)
        assert torch.backends.cudnn.enabled
