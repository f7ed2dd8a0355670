"""For which class words and sentences speak: gradients and occlusion, exact, in batches."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from han.attention import UniformAttention
from han.batching import Batch
from han.model import Ensemble, HANOutput, HierarchicalAttentionNetwork, average

VARIANT_WORDS = 65_536  # of the changed sentences that are read together
VARIANT_MARKS = 1_048_576  # of documents' words, kept or not, that are in memory together


class Attribution(NamedTuple):
    """What each unit contributes to each of C classes, of a batch of S sentences and N words.

    Attributes:
        words: Floats (N, C).
        sentences: Floats (S, C).
    """

    words: Tensor
    sentences: Tensor


def attention_gradient(network: Ensemble, batch: Batch) -> tuple[HANOutput, Attribution]:
    """Multiply each weight of the attention by what the logits would gain if it grew.

    A word's figure for class c is share * d logit_c / d share = a_it * d logit_c / d a_it, with b_i
    as the measure of the share and all that the word's weight acts upon carried along: its
    sentence's vector, the sentences' states, their weights. A sentence's is b_i * d logit_c / d b_i
    (gradient x input on the attention weights: Serrano & Smith 2019, section 3). Of an ensemble
    they are what its logits would gain if the weight grew in every member in proportion: the mean
    of the members' figures.

    The words' states are computed without gradients, so that a class costs a backward pass over the
    sentences alone and a product with the words' states.

    Args:
        network: The ensemble, in evaluation mode.
        batch: B documents.

    Returns:
        What the ensemble computes for the batch, and the figures, in units of the logits (as the
        network computes them, not divided by its temperature).
    """
    outputs, found = zip(
        *(_attention_gradient(member, batch) for member in network.members), strict=True
    )
    return average(outputs, batch), _mean(found)


def _attention_gradient(
    network: HierarchicalAttentionNetwork, batch: Batch
) -> tuple[HANOutput, Attribution]:
    words_per_sentence, encoder = batch.words_per_sentence, network.sentence_encoder
    with torch.no_grad():
        hidden = network.read_words(batch.tokens, words_per_sentence)  # (N, D)
        sentences, word_heads = network.word_encoder.pool(hidden, words_per_sentence)
    sentences.requires_grad_()
    with torch.enable_grad(), _differentiable_rnn(hidden.device):
        states = encoder.reader(sentences, batch.sentences_per_document)  # (S, D)
        documents, sentence_heads = encoder.pool(states, batch.sentences_per_document)
        logits = network.classifier(documents)
        of_words = []
        for gradient in _of_each_class(logits, sentences):  # (S, K D): d logit_c / d s_i
            spread = gradient.repeat_interleave(
                words_per_sentence, dim=0, output_size=len(batch.tokens)
            )
            of_heads = spread.view(*word_heads.shape, hidden.shape[1]).mul_(hidden[:, None])
            of_words.append(of_heads.sum(2).mul_(word_heads).sum(1))
        # The document's vector is the sums of b_ik h_i.
        if isinstance(network.classifier, nn.Linear):  # of which the gradient is the same for all
            weight = network.classifier.weight.view(len(of_words), -1, states.shape[1])
            of_sentences = torch.einsum("sd,ckd,sk->sc", states, weight, sentence_heads)
        else:
            of_sentences = torch.stack(
                [
                    torch.einsum(
                        "sd,skd,sk->s",
                        states,
                        gradient.view(len(batch), -1, states.shape[1]).repeat_interleave(
                            batch.sentences_per_document, dim=0
                        ),
                        sentence_heads,
                    )
                    for gradient in _of_each_class(logits, documents)
                ],
                1,
            )
    empty = batch.sentences_per_document == 0
    output = HANOutput.of_heads(logits.detach(), word_heads, sentence_heads.detach(), empty)
    return output, Attribution(torch.stack(of_words, 1), of_sentences.detach())


def input_gradient(network: Ensemble, batch: Batch) -> Attribution:
    """Multiply each word's vector by the gradient of the logits (Simonyan et al. 2014).

    A word's figure for class c is x_it . d logit_c / d x_it, the gradient with respect to how much
    of the word there is (Jain & Wallace 2019, section 4.1.1, before its absolute value); a
    sentence's is the sum of its words'. An ensemble's is the mean of its members'.

    Args:
        network: The ensemble, in evaluation mode.
        batch: B documents.

    Returns:
        The figures, in units of the logits.
    """
    return _mean([_input_gradient(member, batch) for member in network.members])


def _input_gradient(network: HierarchicalAttentionNetwork, batch: Batch) -> Attribution:
    tokens, words_per_sentence = batch.tokens, batch.words_per_sentence
    encoder, rows = network.word_encoder, torch.arange(len(tokens), device=tokens.device)
    vectors = network.embedding.weight.detach()[tokens]  # (N, E)
    with torch.enable_grad(), _differentiable_rnn(tokens.device):
        if tokens.device.type == "cpu":
            # x . W' g = W x . g: the gradient is needed behind the input weights alone.
            with torch.no_grad():
                inputs = encoder.reader.project(vectors)  # (N, 6H) of a GRU
                parts = inputs - encoder.reader.project(torch.zeros_like(vectors[:1]))
            hidden = encoder.reader.encode(inputs.requires_grad_(), words_per_sentence, rows)
        else:
            parts = vectors
            inputs = vectors.clone().requires_grad_()
            hidden = encoder.reader(inputs, words_per_sentence, rows)
        sentences, _ = encoder.pool(hidden, words_per_sentence)
        documents, _ = network.sentence_encoder(sentences, batch.sentences_per_document)
        logits = network.classifier(documents)
        words = torch.stack(
            [torch.linalg.vecdot(parts, gradient) for gradient in _of_each_class(logits, inputs)], 1
        )
    of_sentence = torch.arange(len(sentences), device=words.device)
    of_sentence = of_sentence.repeat_interleave(words_per_sentence)
    sums = words.new_zeros(len(sentences), words.shape[1]).index_add(0, of_sentence, words)
    return Attribution(words, sums)


def occlusion(
    network: Ensemble,
    tokens: npt.NDArray[np.integer],
    words_per_sentence: npt.NDArray[np.integer],
) -> Attribution:
    """Take away each word, and each sentence, and see what the probabilities lose.

    A figure for class c is p_c(x) - p_c(x without the word or sentence) (Zeiler & Fergus 2014; Li
    et al. 2016). Other words and the sentences' boundaries stay. Probabilities are those of
    `Ensemble.probabilities`, in double precision.

    Args:
        network: The ensemble, in evaluation mode.
        tokens: (N,), the ids of one document's words.
        words_per_sentence: (S,), sums to N.
    """
    lengths = np.asarray(words_per_sentence, np.int64)
    num_words, num_sentences = len(tokens), len(lengths)
    sentence = np.arange(num_sentences).repeat(lengths)  # of each word

    def variants(start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return the document itself, without each word, without each sentence: some of these."""
        index = np.arange(start, stop)[:, None] - 1
        kept: npt.NDArray[np.bool_] = index != np.arange(num_words)
        kept &= index - num_words != sentence
        return kept

    count = 1 + num_words + num_sentences
    found = _masked_probabilities(network, tokens, lengths, variants, count)
    lost = found[0] - found[1:]
    return Attribution(lost[:num_words], lost[num_words:])


def masked_probabilities(
    network: Ensemble,
    tokens: npt.NDArray[np.integer],
    words_per_sentence: npt.NDArray[np.integer],
    kept: npt.NDArray[np.bool_],
) -> Tensor:
    """Classify variants of one document in which words are left out.

    A sentence of which no word is kept is left out; the other sentences keep their boundaries. A
    sentence that several variants share is read once.

    Args:
        network: The ensemble, in evaluation mode.
        tokens: (N,), the ids of the document's words.
        words_per_sentence: (S,), sums to N.
        kept: (M, N), the words that each variant has.

    Returns:
        float64 (M, C), the probability of each class.

    Raises:
        ValueError: `kept` has another number of words.
    """
    kept = np.asarray(kept, bool)
    if kept.ndim != 2 or kept.shape[1] != len(tokens):
        raise ValueError(
            f"`kept` must have a column for each of {len(tokens)} words, got shape {kept.shape}."
        )
    lengths = np.asarray(words_per_sentence, np.int64)
    return _masked_probabilities(
        network, tokens, lengths, lambda start, stop: kept[start:stop], len(kept)
    )


def uniform_output(network: Ensemble, batch: Batch) -> HANOutput:
    """Return what the ensemble computes when every word and every sentence weighs the same."""
    shared = [*network.parameters(), *(member.word_table for member in network.members)]
    evened = copy.deepcopy(network, {id(part): part for part in shared})
    for member in evened.members:
        for encoder in (member.word_encoder, member.sentence_encoder):
            encoder.attention = UniformAttention(encoder.attention.heads)
    with torch.no_grad():
        output: HANOutput = evened(batch)
    return output


def _mean(attributions: Sequence[Attribution]) -> Attribution:
    words, sentences = (torch.stack(parts).mean(0) for parts in zip(*attributions, strict=True))
    return Attribution(words, sentences)


def _of_each_class(logits: Tensor, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the gradient of each column of `logits`, summed, with respect to `inputs`."""
    for column in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, column].sum(), inputs, retain_graph=True)
        yield gradient


@contextmanager
def _differentiable_rnn(device: torch.device) -> Iterator[None]:
    """Leave cuDNN aside: its recurrences have a gradient in training mode alone.

    The switch is the process's, so that threads take turns.
    """
    if device.type != "cuda":
        yield
        return
    with _cudnn:
        enabled, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
        try:
            yield
        finally:
            torch.backends.cudnn.enabled = enabled


_cudnn = threading.Lock()


def _masked_probabilities(
    network: Ensemble,
    tokens: npt.NDArray[np.integer],
    words_per_sentence: npt.NDArray[np.int64],
    variants: Callable[[int, int], npt.NDArray[np.bool_]],
    count: int,
) -> Tensor:
    """Classify `count` variants of a document, whose words `variants(start, stop)` marks."""
    step = max(1, VARIANT_MARKS // max(1, len(tokens)))
    logits = [torch.empty(0, int(network.options["num_classes"]), device=network.device)]
    with torch.inference_mode():
        for start in range(0, count, step):
            kept = variants(start, min(start + step, count))
            sentences, rows = _variant_sentences(kept, words_per_sentence)
            blocks = [(tokens[words], lengths) for words, lengths in _blocks(sentences)]
            of_members = [_read_variants(member, blocks, rows) for member in network.members]
            logits.append(torch.stack(of_members).mean(0))
        return network.probabilities(torch.cat(logits))


def _read_variants(
    network: HierarchicalAttentionNetwork,
    blocks: Sequence[tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]],
    rows: npt.NDArray[np.int64],
) -> Tensor:
    """Return the logits (M, C) of variants of a document.

    Args:
        network: The network.
        blocks: The tokens and the lengths of different sentences, which lie end to end.
        rows: (M, S), which of the sentences stands where in each variant; -1 for none.
    """
    vectors = torch.cat([_read_sentences(network, tokens, lengths) for tokens, lengths in blocks])
    there = rows >= 0
    documents, _ = network.sentence_encoder(
        vectors,
        torch.from_numpy(there.sum(1)).to(vectors.device),
        torch.from_numpy(rows[there]).to(vectors.device),
    )
    logits: Tensor = network.classifier(documents)
    return logits


def _variant_sentences(
    kept: npt.NDArray[np.bool_], words_per_sentence: npt.NDArray[np.int64]
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
    """Find the different sentences of a document's variants.

    Returns:
        The positions of the words of each, and (M, S) which of them stands where in each variant;
        -1 where the variant lacks the sentence.
    """
    sentences: list[npt.NDArray[np.int64]] = []
    rows = np.full((len(kept), len(words_per_sentence)), -1, np.int64)
    ends = words_per_sentence.cumsum()
    for i, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        marks = kept[:, start:end]
        if marks.all():
            rows[:, i] = len(sentences)
            sentences.append(np.arange(start, end))
            continue
        packed = np.ascontiguousarray(np.packbits(marks, axis=1))
        keys = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        numbers = np.full(len(first), -1, np.int64)
        for k, variant in enumerate(first.tolist()):
            words = start + marks[variant].nonzero()[0]
            if len(words):
                numbers[k] = len(sentences)
                sentences.append(words)
        rows[:, i] = numbers[inverse]
    return sentences, rows


def _blocks(
    sentences: list[npt.NDArray[np.int64]],
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Cut sentences into blocks that end about every `VARIANT_WORDS` words; yield at least one."""
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    block = lengths.cumsum() // VARIANT_WORDS
    cuts = (np.diff(block) > 0).nonzero()[0] + 1
    for start, end in pairwise([0, *cuts.tolist(), len(sentences)]):
        words = sentences[start:end]
        yield np.concatenate(words) if words else np.zeros(0, np.int64), lengths[start:end]


def _read_sentences(
    network: HierarchicalAttentionNetwork,
    tokens: npt.NDArray[np.integer],
    lengths: npt.NDArray[np.int64],
) -> Tensor:
    """Return the vectors (S, 2H) of sentences that lie end to end."""
    device = network.embedding.weight.device
    words_per_sentence = torch.from_numpy(lengths).to(device)
    words = torch.from_numpy(tokens.astype(np.int64)).to(device)
    hidden = network.read_words(words, words_per_sentence)
    return network.word_encoder.pool(hidden, words_per_sentence)[0]
