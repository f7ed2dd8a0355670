"""The hierarchical attention network (Yang et al. 2016) on the ragged batch, and several as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from han.attention import Weighting, attention_pooling, segment_index
from han.batching import Batch
from han.gru import RaggedGRU
from han.ordinal import ContinuationRatio
from han.task import Task, probabilities
from han.transformer import Blocks, RaggedTransformer
from han.vocabulary import Vocabulary

MOST_MEMBERS = 100
Encoder = Literal["gru", "transformer"]
ATTENTIONS = ("word_attention", "sentence_attention")
GROUPS: dict[str, type[Weighting | Blocks]] = {
    **dict.fromkeys(ATTENTIONS, Weighting),
    "transformer": Blocks,
}
LARGEST_TABLES = 64_000_000  # numbers, of all members; a quarter of a gigabyte in single precision


class Draws(NamedTuple):
    """How likely it was what hard attention drew in each of B documents, in training.

    Attributes:
        log_probability: Floats (B,), in nats, of all its sentences' and its own draws together.
        entropy: Floats (B,), in nats, the sum of theirs.
    """

    log_probability: Tensor
    entropy: Tensor


class HANOutput(NamedTuple):
    """What the network computes for a batch of B documents, S sentences and N words.

    Attributes:
        logits: Floats (B, C), unnormalised scores of the classes; of an empty document the
            classifier's bias.
        word_attention: Floats (N,), at least 0; those of one sentence sum to 1. Where there are
            several heads, their mean.
        sentence_attention: Floats (S,), at least 0; those of one document sum to 1. Where there
            are several heads, their mean.
        empty: bool (B,), documents without a word.
        word_heads: Floats (N, K), the word attention of each head.
        sentence_heads: Floats (S, K), the sentence attention of each head.
        draws: What hard attention drew; None where all that it does has a gradient.
    """

    logits: Tensor
    word_attention: Tensor
    sentence_attention: Tensor
    empty: Tensor
    word_heads: Tensor
    sentence_heads: Tensor
    draws: Draws | None = None

    @classmethod
    def of_heads(
        cls,
        logits: Tensor,
        word_heads: Tensor,
        sentence_heads: Tensor,
        empty: Tensor,
        draws: Draws | None = None,
    ) -> HANOutput:
        """Make an output of what each head computed, whose means are what is shown."""
        words, sentences = (
            heads[:, 0] if heads.shape[1] == 1 else heads.mean(1)
            for heads in (word_heads, sentence_heads)
        )
        return cls(logits, words, sentences, empty, word_heads, sentence_heads, draws)


class AttentiveEncoder(nn.Module):
    """Read each sequence with a bidirectional GRU and pool its states by attention.

    The network applies it twice: to the words of each sentence (Yang et al. 2016, eqs. 1-7), and to
    the sentences of each document (eqs. 8-10). A transformer may read in place of the GRU.

    Args:
        input_size: Width E of each input.
        hidden_size: Width H of each GRU direction; a transformer is 2H wide.
        attention_size: Width A of the context vectors.
        dropout: Probability of setting an element of the hidden states to zero in training, the
            same ones in all steps of a sequence (variational dropout: Gal & Ghahramani 2016).
        weighting: How attention weighs the states.
        encoder: What reads the sequences.
        blocks: The blocks of a transformer.

    Attributes:
        reader: What makes hidden states (N, D) of inputs; D is 2H.
        attention: What pools them to vectors (S, K D), for K heads.
        output_size: K D.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        attention_size: int,
        dropout: float = 0.0,
        weighting: Weighting = Weighting(),
        encoder: Encoder = "gru",
        blocks: Blocks = Blocks(),
    ) -> None:
        super().__init__()
        self.reader: RaggedGRU | RaggedTransformer
        if encoder == "gru":
            self.reader = RaggedGRU(input_size, hidden_size)
        else:
            self.reader = RaggedTransformer(input_size, 2 * hidden_size, blocks)
        self.attention = attention_pooling(self.reader.output_size, attention_size, weighting)
        self.dropout = nn.Dropout(dropout)
        self.output_size = weighting.heads * self.reader.output_size

    def forward(
        self, inputs: Tensor, lengths: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode sequences that lie one after the other.

        Args:
            inputs: Floats (N, E), or with `rows` (int64, (N,)) the distinct inputs (U, E).
            lengths: int64 (S,), steps of each sequence.
            rows: Which row of `inputs` stands at each step.

        Returns:
            A vector (S, K D) for each sequence, and the weights (N, K) of each step in its
            sequence.
        """
        return self.pool(self.reader(inputs, lengths, rows), lengths)

    def pool(self, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the hidden states (N, D) of the reader; returns what `forward` does."""
        if self.training and self.dropout.p > 0:
            kept = self.dropout(hidden.new_ones(len(lengths), hidden.shape[1]))
            hidden = hidden * kept.repeat_interleave(lengths, 0)
        pooled, weights = self.attention(hidden, lengths)
        return pooled, weights


class HierarchicalAttentionNetwork(nn.Module):
    """Hierarchical attention network for document classification (Yang et al. 2016).

    Every default size is the paper's (section 3.3). The dropouts, which the paper does not have,
    are 0 here.

    Args:
        vocabulary_size: Number of word ids V; id 0 stands for unknown words and has its own row.
        num_classes: Number of classes C.
        embedding_size: Width E of the word vectors.
        hidden_size: Width H of each GRU direction, at both levels.
        attention_size: Width A of the context vectors, at both levels.
        word_dropout: Probability that a word of the vocabulary is read as unknown throughout a
            training batch, which teaches the network to do without it.
        embedding_dropout: Dropout of word vectors, the same wherever a word occurs in a batch.
        encoder_dropout: Dropout of the hidden states, at both levels, see `AttentiveEncoder`.
        classifier_dropout: Dropout of the document vector.
        word_attention: How attention weighs the words of a sentence.
        sentence_attention: How attention weighs the sentences of a document.
        word_encoder: What reads the words of a sentence.
        sentence_encoder: What reads the sentences of a document.
        transformer: The blocks of a transformer, at either level.
        task: What labels are; where it is `ordinal`, the logits are log-probabilities, see
            `ContinuationRatio`.

    Attributes:
        options: The constructor's arguments by name, those of a group by theirs: JSON values,
            enough to build such a network again, see `network_options`.

    Raises:
        ValueError: A size is below 1, a probability outside [0, 1), or there is no such encoder.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int,
        embedding_size: int = 200,
        hidden_size: int = 50,
        attention_size: int = 100,
        word_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        encoder_dropout: float = 0.0,
        classifier_dropout: float = 0.0,
        word_attention: Weighting = Weighting(),
        sentence_attention: Weighting = Weighting(),
        word_encoder: Encoder = "gru",
        sentence_encoder: Encoder = "gru",
        transformer: Blocks = Blocks(),
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        sizes = {
            "vocabulary_size": vocabulary_size,
            "num_classes": num_classes,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "attention_size": attention_size,
        }
        dropouts = {
            "word_dropout": word_dropout,
            "embedding_dropout": embedding_dropout,
            "encoder_dropout": encoder_dropout,
            "classifier_dropout": classifier_dropout,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}.")
        for name, probability in dropouts.items():
            if not 0 <= probability < 1:
                raise ValueError(f"`{name}` must be at least 0 and below 1, got {probability}.")
        encoders = {"word_encoder": word_encoder, "sentence_encoder": sentence_encoder}
        for name, encoder in encoders.items():
            if encoder not in get_args(Encoder):
                known = ", ".join(get_args(Encoder))
                raise ValueError(f"`{name}` must be one of {known}, got {encoder!r:.40}.")
        if task not in get_args(Task):
            raise ValueError(
                f"`task` must be one of {', '.join(get_args(Task))}, got {task!r:.40}."
            )
        self.options: dict[str, Any] = {
            **sizes,
            **dropouts,
            "word_attention": asdict(word_attention),
            "sentence_attention": asdict(sentence_attention),
            **encoders,
            "transformer": asdict(transformer),
            "task": task,
        }
        self.word_dropout = word_dropout
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.word_encoder = AttentiveEncoder(
            embedding_size,
            hidden_size,
            attention_size,
            encoder_dropout,
            word_attention,
            word_encoder,
            transformer,
        )
        self.sentence_encoder = AttentiveEncoder(
            self.word_encoder.output_size,
            hidden_size,
            attention_size,
            encoder_dropout,
            sentence_attention,
            sentence_encoder,
            transformer,
        )
        self.word_table = _WordTable()
        self.classifier_dropout = nn.Dropout(classifier_dropout)
        head = ContinuationRatio if task == "ordinal" else nn.Linear
        self.classifier = head(self.sentence_encoder.output_size, num_classes)

    def forward(self, batch: Batch) -> HANOutput:
        """Read the batch's documents; each one's result does not depend on the others."""
        hidden = self.read_words(batch.tokens, batch.words_per_sentence)  # (N, D)
        sentences, word_heads = self.word_encoder.pool(hidden, batch.words_per_sentence)
        documents, sentence_heads = self.sentence_encoder(sentences, batch.sentences_per_document)
        logits = self.classifier(self.classifier_dropout(documents))  # (B, C)
        empty = batch.sentences_per_document == 0
        draws = self._take_draws(batch)
        return HANOutput.of_heads(logits, word_heads, sentence_heads, empty, draws)

    def read_words(self, tokens: Tensor, words_per_sentence: Tensor) -> Tensor:
        """Return the hidden states (N, D) of the words of sentences that lie end to end.

        Args:
            tokens: int64 (N,), word ids.
            words_per_sentence: int64 (S,), sums to N.
        """
        reader = self.word_encoder.reader
        if self.training or torch.is_grad_enabled() or tokens.device.type != "cpu":
            self.word_table.forget()  # the weights may be about to change
            dropout = self.word_dropout if self.training else 0.0
            words, rows = _distinct(tokens, len(self.embedding.weight), dropout)
            vectors = self.embedding_dropout(self.embedding(words))  # (U, E)
            states: Tensor = reader(vectors, words_per_sentence, rows)
            return states
        projected, rows = self.word_table.look_up(tokens, self.embedding.weight, reader)
        return reader.encode(projected, words_per_sentence, rows)

    def _take_draws(self, batch: Batch) -> Draws | None:
        """Add up what hard attention drew for each document, at both levels."""
        of_words = self.word_encoder.attention.take_draw()
        of_sentences = self.sentence_encoder.attention.take_draw()
        totals = []  # (2, B)
        if of_words is not None:
            document = segment_index(batch.sentences_per_document)  # (S,)
            of_each = torch.stack(of_words).sum(2)  # (2, S)
            totals.append(of_each.new_zeros(2, len(batch)).index_add(1, document, of_each))
        if of_sentences is not None:
            totals.append(torch.stack(of_sentences).sum(2))
        return Draws(*torch.stack(totals).sum(0)) if totals else None


class Ensemble(nn.Module):
    """Networks that read the same documents; the mean of their logits is the answer.

    They differ in the weights that they start from and in what training leaves out for each, so
    that they err in different places (deep ensembles: Lakshminarayanan et al. 2017). Their
    attention becomes one, see `average`.

    Args:
        members: Number of networks.
        options: Arguments of each `HierarchicalAttentionNetwork`; groups of them may be mappings.

    Attributes:
        members: The networks.
        options: The arguments by name, enough to build such an ensemble again.
        temperature: What logits are divided by before they become probabilities; 1 until it is
            fitted on documents (Guo et al. 2017).

    Raises:
        ValueError: There is no member or too many, or what a network refuses.
    """

    members: Sequence[HierarchicalAttentionNetwork]

    def __init__(self, members: int = 1, **options: Any) -> None:  # noqa: ANN401  # a network's
        super().__init__()
        if not 1 <= members <= MOST_MEMBERS:
            raise ValueError(f"`members` must be from 1 to {MOST_MEMBERS}, got {members}.")
        self.members = nn.ModuleList(  # type: ignore[assignment]  # it is a sequence of them
            HierarchicalAttentionNetwork(**network_options(options)) for _ in range(members)
        )
        for member in self.members:
            member.word_table.largest = LARGEST_TABLES // members
        self.options: dict[str, Any] = {
            "members": members,
            **self.members[0].options,
        }
        self.temperature = 1.0
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]

    @property
    def embeddings(self) -> list[nn.Embedding]:
        """The word vectors of each member."""
        return [member.embedding for member in self.members]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.members[0].embedding.weight.device

    def forward(self, batch: Batch) -> HANOutput:
        """Read the batch's documents; each one's result does not depend on the others."""
        return average([member(batch) for member in self.members], batch)

    def probabilities(self, logits: Tensor, temperature: float | None = None) -> Tensor:
        """Return the probability of each class or label: everywhere by this function.

        Logits are divided by T before, see `han.task.probabilities`.

        Args:
            logits: (B, C), of this ensemble.
            temperature: T; by default the ensemble's own.

        Returns:
            float64 (B, C). The likeliest class is that of the largest logit, whatever T is.
        """
        return probabilities(
            logits.double() / (temperature or self.temperature), self.options["task"]
        )


def average(outputs: Sequence[HANOutput], batch: Batch) -> HANOutput:
    """Make one of what several networks compute for a batch.

    A logit is the mean of theirs. So is a sentence's weight, and so is a word's share of the
    document, the product of its weight and its sentence's: a word's weight in its sentence is the
    mean of theirs, each as heavy as the weight that its network gives the sentence. The heads are
    those of the first network, then those of the second, and so on.

    Args:
        outputs: One of each network, at least one.
        batch: B documents, S sentences, N words.
    """
    if len(outputs) == 1:
        return outputs[0]
    sentence = segment_index(batch.words_per_sentence)  # (N,)
    sentences = torch.stack([output.sentence_attention for output in outputs])  # (M, S)
    words = torch.stack([output.word_attention for output in outputs])  # (M, N)
    total = sentences.sum(0)  # (S,)
    # A sentence that no network looks at has words all the same.
    heaviness = torch.where(total > 0, sentences / total, 1 / len(outputs))
    return HANOutput(
        torch.stack([output.logits for output in outputs]).mean(0),
        (words * heaviness[:, sentence]).sum(0),
        sentences.mean(0),
        outputs[0].empty,
        torch.cat([output.word_heads for output in outputs], 1),
        torch.cat([output.sentence_heads for output in outputs], 1),
    )


def network_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network, of `HierarchicalAttentionNetwork.options`.

    Raises:
        ValueError: A group of them is unfit.
        TypeError: There is no such argument in a group.
    """
    arguments = dict(options)
    for name, made in GROUPS.items():
        if isinstance(arguments.get(name), Mapping):
            arguments[name] = made(**arguments[name])
    return arguments


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Read weights that were saved when there were no ensembles, and no reader but the GRU."""
    of_members = f"{prefix}members."
    for name in [name for name in state if name.startswith(prefix)]:
        value, own = state.pop(name), name
        if not own.startswith(of_members):
            own = f"{of_members}0.{name.removeprefix(prefix)}"
        state[own.replace("_encoder.gru.", "_encoder.reader.")] = value


class _WordTable:
    """What the input weights of the words' reader make of each word, once for many batches.

    Without training, every batch multiplies much the same words by the same weights. Once a quarter
    as many have been multiplied as the vocabulary holds, all of it is, and batches only look their
    words up: one text waits for no table. A vocabulary whose table would be too large has none.

    The table is of certain weights, which are known by their place, their version numbers and how
    many steps optimisers have taken: fused ones change weights but not the numbers.

    Attributes:
        largest: How many numbers the table may have.
    """

    def __init__(self) -> None:
        self.largest = LARGEST_TABLES
        self._state: tuple[object, int, Tensor | None] = (None, 0, None)

    def forget(self) -> None:
        """Start anew."""
        self._state = (None, 0, None)

    def look_up(
        self, tokens: Tensor, vectors: Tensor, reader: RaggedGRU | RaggedTransformer
    ) -> tuple[Tensor, Tensor]:
        """Return what `reader.project` makes of words, and which of its rows each token is.

        Args:
            tokens: int64 (N,), word ids.
            vectors: Floats (V, E), the word vectors.
            reader: What reads the words.
        """
        parameters = (vectors, *reader.parameters())
        weights = None
        if not any(p.is_inference() for p in parameters):  # those have no version number
            weights = [(p.data_ptr(), p._version, _steps_taken) for p in parameters]
        of_weights, multiplied, table = self._state
        if weights is None or of_weights != weights:
            multiplied, table = 0, None
        numbers = len(vectors) * reader.projected_size
        if table is None and 4 * multiplied >= len(vectors) and numbers <= self.largest:
            table = reader.project(vectors)
        if table is None:
            words, rows = _distinct(tokens, len(vectors))
            projected, multiplied = reader.project(vectors[words]), multiplied + len(words)
        else:
            projected, rows = table, tokens
        self._state = (weights, multiplied, table)
        return projected, rows


_steps_taken = 0  # by all optimisers together


def _count_step(*_: object) -> None:
    global _steps_taken
    _steps_taken += 1


register_optimizer_step_post_hook(_count_step)


def _distinct(tokens: Tensor, vocabulary_size: int, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the distinct words among the tokens, and which of them stands at each token.

    Args:
        tokens: int64 (N,), word ids.
        vocabulary_size: V.
        dropout: Probability that a word is taken for unknown, wherever it stands.

    Returns:
        int64 (U,), increasing, and int64 (N,).
    """
    occurs = tokens.new_zeros(vocabulary_size, dtype=torch.bool)
    occurs[tokens] = True
    if dropout == 0:
        return occurs.nonzero().squeeze(1), (occurs.cumsum(0) - 1)[tokens]
    kept = occurs & (torch.rand(vocabulary_size, device=tokens.device) >= dropout)
    kept[Vocabulary.UNKNOWN] = True
    index = (kept.cumsum(0) - 1).masked_fill_(~kept, Vocabulary.UNKNOWN)
    return kept.nonzero().squeeze(1), index[tokens]
