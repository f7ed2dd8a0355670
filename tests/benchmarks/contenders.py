"""What is measured: a network with its optimisers, as its own training script runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence
from torch.optim import AdamW, Optimizer

from han.batching import Batch
from han.module import HANModule
from han.transformer import Blocks

EMBEDDING_SIZE, HIDDEN_SIZE, ATTENTION_SIZE = 200, 50, 100
LEARNING_RATE = 1e-2
LARGEST_NORM = 1.0  # of the gradients, as `han fit` clips them by default
TOLERANCE = 1e-4


class Prepared(NamedTuple):
    """A batch as a network takes it.

    Attributes:
        inputs: The arguments of its `forward`.
        labels: int64 (B,), in the order of its logits.
        order: int64 (B,), which document of the batch each logit is of.
    """

    inputs: tuple[Any, ...]
    labels: Tensor
    order: Tensor


class Contender:
    """A network that can be trained and asked.

    Args:
        network: Its `forward` returns logits (B, C) first, then its attention weights.
        optimizers: What changes its weights.
        prepare: Turns a labelled batch into what the network's own data loader would give it.
        clip: Called between the backward pass and the optimisers.
        label_smoothing: Of the cross-entropy.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizers: Sequence[Optimizer],
        prepare: Callable[[Batch], Prepared],
        clip: Callable[[], object] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.network = network
        self.prepare = prepare
        self._optimizers = optimizers
        self._clip = clip
        self.label_smoothing = label_smoothing

    def train(self, batches: Sequence[Prepared]) -> None:
        """Take one training step on each batch."""
        self.network.train()
        for inputs, labels, _ in batches:
            logits, *_ = self.network(*inputs)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            for optimizer in self._optimizers:
                optimizer.zero_grad()
            loss.backward()
            if self._clip is not None:
                self._clip()
            for optimizer in self._optimizers:
                optimizer.step()

    def infer(self, batches: Sequence[Prepared]) -> list[Tensor]:
        """Return the logits (B, C) of each batch; the weights are computed as well."""
        self.network.eval()
        with torch.inference_mode():
            return [self.network(*inputs)[0] for inputs, _, _ in batches]


def ours(vocabulary_size: int, num_classes: int, **options: Any) -> Contender:  # noqa: ANN401
    """Return one member and the optimiser that `HANModule` configures, without its dropouts.

    A step is what `han fit` runs for a batch and one member, less Lightning's own work: logging and
    the schedule. The network is an `Ensemble` of that member.

    Args:
        vocabulary_size: Number of word ids.
        num_classes: Number of classes.
        options: Of `HANModule`.
    """
    module = HANModule(
        vocabulary_size,
        num_classes,
        EMBEDDING_SIZE,
        members=1,
        hidden_size=HIDDEN_SIZE,
        attention_size=ATTENTION_SIZE,
        word_dropout=0,
        embedding_dropout=0,
        encoder_dropout=0,
        classifier_dropout=0,
        sentence_dropout=0,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        transformer=Blocks(dropout=0),
        **options,
    )
    module.trainer = pl.Trainer(  # gradients are clipped by its means
        accelerator="cpu",
        devices=1,
        gradient_clip_val=LARGEST_NORM,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    optimizer = module.configure_optimizers()["optimizer"]
    return Contender(
        module.network,
        [optimizer],
        _as_it_is,
        clip=lambda: module.configure_gradient_clipping(optimizer, LARGEST_NORM, "norm"),
        label_smoothing=module.hparams["label_smoothing"],
    )


def packed(our: Contender, vocabulary_size: int, num_classes: int) -> Contender:
    """Return the same network with the same weights on `torch.nn.GRU`, trained by plain AdamW.

    AdamW is torch's fused one, its fastest, on dense gradients. Loss and clipping are as in ours.
    """
    network = PackedNetwork(vocabulary_size, num_classes)
    (member,) = our.network.get_submodule("members").children()
    network.load_state_dict(member.state_dict())
    parameters = list(network.parameters())
    return Contender(
        network,
        [AdamW(parameters, lr=LEARNING_RATE, fused=True)],
        _as_it_is,
        clip=lambda: nn.utils.clip_grad_norm_(parameters, LARGEST_NORM),
        label_smoothing=our.label_smoothing,
    )


def require_equal(one: Contender, other: Contender, batch: Batch) -> None:
    """Compare logits and weights of two networks for a batch, whose documents they keep in order.

    Raises:
        AssertionError: They differ, so that to compare times would mean nothing.
    """
    outputs = []
    for contender in (one, other):
        contender.network.eval()
        with torch.inference_mode():
            outputs.append(contender.network(batch)[:3])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=TOLERANCE, atol=TOLERANCE)


class PackedNetwork(nn.Module):
    """`HierarchicalAttentionNetwork` as one writes it with `torch.nn.GRU`; same parameters' names.

    Args:
        vocabulary_size: Number of word ids V.
        num_classes: Number of classes C.
        embedding_size: Width E of the word vectors.
        hidden_size: Width H of each GRU direction.
        attention_size: Width A of the context vectors.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int,
        embedding_size: int = EMBEDDING_SIZE,
        hidden_size: int = HIDDEN_SIZE,
        attention_size: int = ATTENTION_SIZE,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.word_encoder = PackedEncoder(embedding_size, hidden_size, attention_size)
        self.sentence_encoder = PackedEncoder(2 * hidden_size, hidden_size, attention_size)
        self.classifier = nn.Linear(2 * hidden_size, num_classes)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Read documents, each of which has a sentence: logits, word and sentence attention."""
        words = self.embedding(batch.tokens)  # (N, E)
        sentences, word_attention = self.word_encoder(words, batch.words_per_sentence)
        documents, sentence_attention = self.sentence_encoder(
            sentences, batch.sentences_per_document
        )
        return self.classifier(documents), word_attention, sentence_attention


class PackedEncoder(nn.Module):
    """`torch.nn.GRU` over a packed sequence, then `PlainAttention`.

    Args:
        input_size: Width E of each input.
        hidden_size: Width H of each GRU direction.
        attention_size: Width A of the context vector.
    """

    def __init__(self, input_size: int, hidden_size: int, attention_size: int) -> None:
        super().__init__()
        self.reader = nn.GRU(input_size, hidden_size, bidirectional=True)
        self.attention = PlainAttention(2 * hidden_size, attention_size)

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode sequences that lie one after the other in `inputs` (N, E); lengths are above 0."""
        ordered, longest_first = lengths.sort(descending=True)
        starts = (lengths.cumsum(0) - lengths)[longest_first]
        steps = torch.arange(int(ordered[0]))[:, None]
        visited = steps < ordered  # (T, S)
        order = (starts + steps)[visited]  # (N,), where the steps lie, those of one time together
        states, _ = self.reader(PackedSequence(inputs.index_select(0, order), visited.sum(1)))
        hidden = torch.empty_like(states.data).index_copy(0, order, states.data)  # (N, 2H)
        pooled, weights = self.attention(hidden, lengths)
        return pooled, weights


class PlainAttention(nn.Module):
    """Additive attention over ragged sequences, in operations of torch.

    Args:
        input_size: Width D of each hidden state.
        attention_size: Width A of the projection and of the context vector.
    """

    def __init__(self, input_size: int, attention_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(input_size, attention_size)
        self.context = nn.Parameter(torch.empty(attention_size))

    def forward(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool each sequence of hidden states (N, D): vectors (S, D) and weights (N,)."""
        scores = self.projection(hidden).tanh() @ self.context  # (N,)
        sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
        highest = torch.segment_reduce(scores.detach(), "max", lengths=lengths)
        exponentials = (scores - highest[sequence]).exp()
        sums = exponentials.new_zeros(len(lengths)).index_add(0, sequence, exponentials)
        weights = exponentials / sums[sequence]
        pooled = hidden.new_zeros(len(lengths), hidden.shape[1])
        return pooled.index_add(0, sequence, hidden * weights[:, None]), weights


def _as_it_is(batch: Batch) -> Prepared:
    assert batch.labels is not None
    return Prepared((batch,), batch.labels, torch.arange(len(batch)))
