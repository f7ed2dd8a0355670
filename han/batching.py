"""Ragged batches and the samplers that decide which documents make one.

The letters for axes, used in every docstring of the package:
B documents, S sentences, N words, E embedding, H hidden, A attention, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    from han.corpus import StoredDocuments

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Documents laid end to end, without padding.

    The constructor takes what it is given; `from_arrays` and `from_lists` check it.

    Args:
        tokens: Word ids, document after document, int64 (N,).
        words_per_sentence: At least 1 each, sums to N, int64 (S,).
        sentences_per_document: Sums to S, 0 for an empty document, int64 (B,).
        labels: Class of each document, int64 (B,), or whether it has each label, int64 (B, C) of 0
            and 1; None where they are not known.
    """

    tokens: torch.Tensor
    words_per_sentence: torch.Tensor
    sentences_per_document: torch.Tensor
    labels: torch.Tensor | None = None

    @classmethod
    def from_arrays(
        cls,
        tokens: IntArray,
        words_per_sentence: IntArray,
        sentences_per_document: IntArray,
        labels: IntArray | None = None,
    ) -> Batch:
        """Build a batch of NumPy arrays of integers, shapes as in the class.

        Raises:
            ValueError: An array is not one-dimensional or not of integers, or the lengths do not
                add up.
        """
        arrays = {
            "tokens": np.asarray(tokens),
            "words_per_sentence": np.asarray(words_per_sentence),
            "sentences_per_document": np.asarray(sentences_per_document),
        }
        if labels is not None:
            arrays["labels"] = np.asarray(labels)
        _validate(arrays)
        return cls(**{name: _tensor(array) for name, array in arrays.items()})

    @classmethod
    def from_lists(
        cls,
        documents: Sequence[Sequence[Sequence[int]]],
        labels: Sequence[int] | Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """Build a batch by hand: a list of documents, each a list of sentences of word ids.

        Raises:
            ValueError: A sentence has no words, an id is negative, or the number of labels is not
                that of the documents.
        """
        sentences = [sentence for document in documents for sentence in document]
        words = [word for sentence in sentences for word in sentence]
        return cls.from_arrays(
            np.array(words) if words else np.zeros(0, np.int64),
            np.array([len(sentence) for sentence in sentences], np.int64),
            np.array([len(document) for document in documents], np.int64),
            None if labels is None else np.array(labels) if labels else np.zeros(0, np.int64),
        )

    def __len__(self) -> int:
        """Return the number of documents B."""
        return len(self.sentences_per_document)

    def drop_sentences(self, dropped: torch.Tensor) -> Batch:
        """Return the batch without the sentences that `dropped` marks, bool (S,).

        A document of which no sentence would be left keeps all of them.
        """
        documents = torch.arange(len(self), device=dropped.device)
        documents = documents.repeat_interleave(self.sentences_per_document)  # (S,)
        left = torch.bincount(documents[~dropped], minlength=len(self))
        kept = ~dropped | (left == 0)[documents]
        return Batch(
            self.tokens[kept.repeat_interleave(self.words_per_sentence)],
            self.words_per_sentence[kept],
            torch.bincount(documents[kept], minlength=len(self)),
            self.labels,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copy the batch to `device`; `non_blocking` needs pinned memory to have an effect."""
        return Batch(
            self.tokens.to(device, non_blocking=non_blocking),
            self.words_per_sentence.to(device, non_blocking=non_blocking),
            self.sentences_per_document.to(device, non_blocking=non_blocking),
            None if self.labels is None else self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """Copy the batch to page-locked memory, from where it moves to a GPU faster."""
        return Batch(
            self.tokens.pin_memory(),
            self.words_per_sentence.pin_memory(),
            self.sentences_per_document.pin_memory(),
            None if self.labels is None else self.labels.pin_memory(),
        )


class BatchDataset(Dataset[Batch]):
    """Stored documents as a data set whose items are batches.

    Use it with a batch sampler and without collation:
    `DataLoader(BatchDataset(documents), sampler=sampler, batch_size=None)`.

    Args:
        splits: Splits of a corpus, whose documents are numbered one after the other. Unless every
            document has a label, no batch has labels.
    """

    def __init__(self, *splits: StoredDocuments) -> None:
        self._splits = splits
        self._starts = np.cumsum([0, *map(len, splits)])
        self._labelled = all((documents.labels >= 0).all() for documents in splits)

    def __len__(self) -> int:
        """Return the number of documents, the range of the indices."""
        return int(self._starts[-1])

    @property
    def words_per_document(self) -> IntArray:
        """The number of words of each document, int64 (B,)."""
        return np.concatenate([documents.words_per_document for documents in self._splits])

    def id_of(self, index: int) -> str:
        """Return what the user calls a document."""
        split = int(np.searchsorted(self._starts[1:-1], index, side="right"))
        return str(self._splits[split].ids[index - int(self._starts[split])])

    @property
    def labels(self) -> IntArray:
        """The labels of each document, as `StoredDocuments.labels`."""
        return np.concatenate([documents.labels for documents in self._splits])

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """Return the documents at `indices` as one batch.

        They are in that order, but for those of an earlier split before those of a later one.
        """
        rows = np.asarray(indices, np.int64)
        split = np.searchsorted(self._starts[1:-1], rows, side="right")
        parts = [
            documents.gather(rows[split == number] - self._starts[number])
            for number, documents in enumerate(self._splits)
        ]
        tokens, words, sentences, labels = map(np.concatenate, zip(*parts, strict=True))
        return Batch.from_arrays(tokens, words, sentences, labels if self._labelled else None)


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Batches of documents of similar length, in an order shuffled anew each epoch.

    The documents are shuffled, cut into large chunks, sorted by length within each chunk and cut
    into batches, whose order is shuffled. Every process takes its share of each step's documents:
    the processes get batches of the same size and of nearly the same number of words, and the mean
    of their gradients is the gradient of the whole step. Up to `num_replicas - 1` documents, other
    ones each epoch, are left out so that the shares are equal; one process leaves out none.

    The order depends on `seed`, the epoch, the lengths, the classes and `batch_size * num_replicas`
    alone, and only on parts of NumPy whose output is fixed across versions and machines.

    Args:
        words_per_document: Length of each document, int64 (B,).
        batch_size: Documents in each batch of one process.
        classes: Class of each document, int64 (B,), to draw as many of each class: an epoch is
            still of B documents, but those of a rare class occur several times, each about as
            often as the others, and of a frequent class there are other ones each epoch. By
            default each document occurs once.
        seed: Non-negative; the same seed gives the same batches.
        rank: Number of this process, from 0.
        num_replicas: Number of processes that train together.
    """

    def __init__(
        self,
        words_per_document: Sequence[int] | IntArray,
        batch_size: int,
        *,
        classes: Sequence[int] | IntArray | None = None,
        seed: int,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        self._lengths = np.asarray(words_per_document, np.int64)
        self._classes = None if classes is None else np.asarray(classes, np.int64)
        _validate_sampler(batch_size, rank, num_replicas)
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}.")
        if len(self._lengths) < num_replicas:
            raise ValueError(
                f"{len(self._lengths)} documents cannot be shared by {num_replicas} process(es); "
                "each needs at least one document to train on."
            )
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._num_replicas = num_replicas
        self._epoch = 0
        self._start = 0
        self._done = 0

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch, also while one is being resumed."""
        return -(-(len(self._lengths) // self._num_replicas) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch, after `load_state_dict` those that were not done."""
        start, self._start = self._start, 0
        batches = self._batches()
        for self._done in range(start + 1, len(batches) + 1):
            yield batches[self._done - 1].tolist()

    @property
    def start(self) -> int:
        """How many batches of the epoch the next iteration passes over."""
        return self._start

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate over next; Lightning calls it before each."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._start = self._done = 0

    def batch(self, number: int) -> list[int]:
        """Return a batch of the epoch, from 0."""
        indices: list[int] = self._batches()[number].tolist()
        return indices

    def state_dict(self, batches_done: int | None = None) -> dict[str, int]:
        """Return where the epoch stands, for `load_state_dict` of any process.

        Args:
            batches_done: How many batches of this epoch were trained on. By default as many as
                were handed out, which is more where a data loader's workers read ahead.
        """
        done = self._done if batches_done is None else batches_done
        return {
            "seed": self._seed,
            "epoch": self._epoch,
            "batches": len(self),
            "batches_done": done,
            "step_size": self._step_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken: the next iteration yields the remaining batches.

        Raises:
            ValueError: The state is of another seed, or amid an epoch of steps of another size, so
                that the batches would differ.
        """
        if state["seed"] != self._seed:
            raise ValueError(
                f"The saved order of batches has seed {state['seed']}, this one has {self._seed}; "
                "resume with the seed of the interrupted run."
            )
        amid = 0 < state["batches_done"] < state["batches"]
        if amid and state["step_size"] != self._step_size:
            raise ValueError(
                f"The run was interrupted in the middle of an epoch with {state['step_size']} "
                f"documents a step, this one has {self._step_size}; go on with as many processes "
                "and the same `batch_size`."
            )
        self._epoch = state["epoch"]
        self._start = self._done = state["batches_done"]

    @property
    def _step_size(self) -> int:
        """Documents that all processes together take in one step."""
        return self._batch_size * self._num_replicas

    def _batches(self) -> list[IntArray]:
        """Return this process's batches of the epoch."""
        replicas, step_size = self._num_replicas, self._step_size
        # PCG64's raw output is fixed for ever, that of Generator.permutation is not.
        random = np.random.PCG64(np.random.SeedSequence([self._seed, self._epoch]))
        order = np.argsort(random.random_raw(len(self._lengths)), kind="stable")
        if self._classes is not None:
            order = _as_many_of_each(order, self._classes[order])
            order = order[np.argsort(random.random_raw(len(order)), kind="stable")]
        order = order[: len(order) - len(order) % replicas]

        # Large chunks make the lengths in a batch alike; at least four keep its members changing.
        chunk_size = step_size * max(1, min(50, len(order) // (4 * step_size)))
        chunk = np.arange(len(order)) // chunk_size
        order = order[np.lexsort((-self._lengths[order], chunk))]

        rows = order.reshape(-1, replicas)
        words_so_far = np.zeros(replicas, np.int64)
        batches = []
        for step in np.split(rows, range(self._batch_size, len(rows), self._batch_size)):
            # Dealt like cards, to and fro, the columns have about the same number of words; the
            # process that has the fewest so far gets the column with the most.
            step[1::2] = step[1::2, ::-1].copy()
            words = self._lengths[step].sum(axis=0)
            column = np.empty(replicas, np.int64)
            column[np.argsort(words_so_far, kind="stable")] = np.argsort(-words, kind="stable")
            words_so_far += words[column]
            batches.append(step[:, column[self._rank]])
        return [batches[i] for i in np.argsort(random.random_raw(len(batches)), kind="stable")]


class TrainingLoader(DataLoader[Batch]):
    """A loader of training batches that goes on amid an epoch; Lightning keeps where it stands.

    Its sampler is a `LengthGroupedBatchSampler`.
    """

    sampler: LengthGroupedBatchSampler
    _handed_out = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch's type is private
        """Yield the batches of the epoch, after `load_state_dict` those that were not done."""
        self._handed_out = self.sampler.start
        state = torch.get_rng_state()
        batches = super().__iter__()  # draws a number, for workers
        if self._handed_out > 0:  # that was drawn when the epoch began
            torch.set_rng_state(state)
        for batch in batches:
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where the epoch stands, whatever workers read ahead."""
        return self.sampler.state_dict(self._handed_out)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken; errors are those of the sampler."""
        self.sampler.load_state_dict(state)
        self._handed_out = state["batches_done"]


class SequentialBatchSampler(Sampler[list[int]]):
    """Batches in the order of the documents, each document once.

    Every process takes one contiguous share, so that the results of the processes, put one after
    the other by rank, are in the order of the documents. The shares differ by at most one document
    and may differ by one batch.

    Args:
        num_documents: How many documents there are.
        batch_size: Documents in each batch.
        rank: Number of this process, from 0.
        num_replicas: Number of processes that share the documents.

    Attributes:
        first: The first document of this process's share.
    """

    def __init__(
        self, num_documents: int, batch_size: int, *, rank: int = 0, num_replicas: int = 1
    ) -> None:
        _validate_sampler(batch_size, rank, num_replicas)
        self._batch_size = batch_size
        self.first = num_documents * rank // num_replicas
        self._last = num_documents * (rank + 1) // num_replicas

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return -(-(self._last - self.first) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this process."""
        for first in range(self.first, self._last, self._batch_size):
            yield list(range(first, min(first + self._batch_size, self._last)))


def _as_many_of_each(documents: IntArray, classes: IntArray) -> IntArray:
    """Draw as many documents, as many of each class but for one: repeat the few, cut the many."""
    of_each = [documents[classes == number] for number in np.unique(classes)]
    ends = np.arange(len(of_each) + 1) * len(documents) // len(of_each)
    counts = np.diff(ends).tolist()
    return np.concatenate([np.resize(d, count) for d, count in zip(of_each, counts, strict=True)])


def _tensor(array: np.ndarray[Any, np.dtype[Any]]) -> torch.Tensor:
    """Return `array` as int64; a copy where torch could not safely share its memory."""
    return torch.from_numpy(np.require(array, np.int64, ["C", "W"]))


def _validate(arrays: dict[str, np.ndarray[Any, np.dtype[Any]]]) -> None:
    """Check what the arrays of a batch must be for each to mean what it says."""
    for name, array in arrays.items():
        flat = array.ndim == 1 or (name == "labels" and array.ndim == 2)
        if not flat or array.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` must be a one-dimensional array of integers, got shape {array.shape} "
                f"of {array.dtype}."
            )
    tokens, words, sentences = list(arrays.values())[:3]
    if tokens.size and tokens.min() < 0:
        raise ValueError(f"`tokens` must not be negative, got {tokens.min()}.")
    if words.size and words.min() < 1:
        raise ValueError(
            f"Every sentence must have a word, sentence {int(words.argmin())} has none; leave it "
            "out (a document may have no sentences)."
        )
    if sentences.size and sentences.min() < 0:
        raise ValueError(f"`sentences_per_document` must not be negative, got {sentences.min()}.")
    if words.sum() != len(tokens):
        raise ValueError(
            f"`words_per_sentence` must sum to the number of tokens {len(tokens)}, its sum is "
            f"{words.sum()}."
        )
    if sentences.sum() != len(words):
        raise ValueError(
            f"`sentences_per_document` must sum to the number of sentences {len(words)}, its sum "
            f"is {sentences.sum()}."
        )
    if "labels" in arrays and len(arrays["labels"]) != len(sentences):
        raise ValueError(f"{len(sentences)} documents have {len(arrays['labels'])} labels.")


def _validate_sampler(batch_size: int, rank: int, num_replicas: int) -> None:
    """Check the arguments that both samplers share."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if not 0 <= rank < num_replicas:
        raise ValueError(f"`rank` must be from 0 to {num_replicas - 1}, got {rank}.")
