"""Classify and explain texts with a trained model; needs torch, not Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch

from han import attribution
from han.batching import Batch
from han.bundle import Bundle
from han.documents import Document, in_blocks
from han.explanation import METHODS, Explanation, ModelReference
from han.model import ATTENTIONS, HANOutput
from han.task import Task
from han.vocabulary import EncodedText, Vocabulary

BLOCK_DOCUMENTS, BLOCK_CHARACTERS = 2048, 4_000_000  # read, encoded and sorted together
BATCH_WORDS = 32_768  # run through the network together; a longer document goes alone

Result = TypeVar("Result")
Scores = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The class of one document, or its labels.

    Args:
        id: The document's identifier.
        label: The class with the highest probability, of `labels`, if there are any; None where
            that is below the least confidence that was asked for.
        probability: The highest probability, of `labels`, if there are any.
        probabilities: The probability of each class; they sum to 1. Where a document may have
            several labels, of each label by itself.
        truncated: Whether a limit of the model cut the document.
        empty: Whether the document has no word; its probabilities are then the model's prior.
        columns: The id columns that came with the document.
        true: The document's own label, or labels, where they are known.
        labels: Where a document may have several labels, those whose probability reaches the
            label's threshold, perhaps none, in the order of the model's labels; else None.
    """

    id: str
    label: str | None
    probability: float
    probabilities: Mapping[str, float]
    truncated: bool
    empty: bool
    columns: Mapping[str, str | int | float | bool | None]
    true: str | tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None

    @classmethod
    def from_probabilities(
        cls,
        id: str,
        labels: Sequence[str],
        probabilities: Sequence[float],
        *,
        truncated: bool,
        empty: bool,
        columns: Mapping[str, str | int | float | bool | None],
        true: str | tuple[str, ...] | None = None,
        thresholds: Sequence[float] | None = None,
        min_confidence: float = 0.0,
    ) -> Prediction:
        """Choose the likeliest class, or the labels that reach their thresholds.

        Args:
            id: The document's identifier.
            labels: The C classes.
            probabilities: C floats, in the order of `labels`.
            truncated: See the class, as for the next three.
            empty: Whether the document has no word.
            columns: The id columns that came with the document.
            true: The document's own label, or labels.
            thresholds: C floats, where a document may have several labels.
            min_confidence: No class is chosen where the highest probability is below.
        """
        label, given = decide(labels, probabilities, thresholds)
        of_each = dict(zip(labels, probabilities, strict=True))
        return cls(
            id=id,
            label=label if of_each[label] >= min_confidence else None,
            probability=of_each[label],
            probabilities=of_each,
            truncated=truncated,
            empty=empty,
            columns=columns,
            true=true,
            labels=given,
        )

    def to_record(self) -> dict[str, object]:
        """Return the prediction record: JSON values, the id columns after `id`.

        It has `label` and `probability`, or `labels` where a document may have several.
        """
        decision: dict[str, object] = {"label": self.label, "probability": self.probability}
        if self.labels is not None:
            decision = {"labels": list(self.labels)}
        return {
            "id": self.id,
            **self.columns,
            **decision,
            "probabilities": dict(self.probabilities),
            "truncated": self.truncated,
            "empty": self.empty,
        }


class Reading(NamedTuple):
    """What the network makes of one document, as arrays: labels and weights at the least cost.

    Attributes:
        document: The document.
        words: Its sentences and words, with their spans in the text and their ids.
        label: The class with the highest probability.
        probabilities: float64 (C,), of each class, in the order of `Predictor.labels`.
        word_attention: float32 (N,), the weight of each word in its sentence.
        sentence_attention: float32 (S,), the weight of each sentence in the document.
        word_heads: float32 (N, K), the weights of each head, where the model has several: those of
            its first network, then those of the second, and so on; else None.
        sentence_heads: float32 (S, K'), the same of the sentences.
        scores: By method, what its words (N, C) and its sentences (S, C) contribute to each class.
        labels: Where a document may have several labels, those that it has; else None.
    """

    document: Document
    words: EncodedText
    label: str
    probabilities: npt.NDArray[np.float64]
    word_attention: npt.NDArray[np.float32]
    sentence_attention: npt.NDArray[np.float32]
    word_heads: npt.NDArray[np.float32] | None = None
    sentence_heads: npt.NDArray[np.float32] | None = None
    scores: Mapping[str, Scores] = MappingProxyType({})
    labels: tuple[str, ...] | None = None


class Predictor:
    """A trained model that reads text: `han.load` makes one.

    It computes on the device of the bundle's network.

    Args:
        bundle: The trained model.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._network = bundle.network.eval()
        self._device = bundle.network.device

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of every array of probabilities."""
        return self.bundle.labels

    @property
    def task(self) -> Task:
        """What labels are."""
        task: Task = self._network.options["task"]
        return task

    def __repr__(self) -> str:
        """Return the number of words and classes."""
        words, labels = len(self.bundle.vocabulary), len(self.labels)
        return f"<han.Predictor: {words:,} words, {labels} classes>"

    @overload
    def classify(  # type: ignore[overload-overlap]  # str comes first
        self, texts: str, *, min_confidence: float = ...
    ) -> Prediction: ...
    @overload
    def classify(
        self, texts: Iterable[str], *, min_confidence: float = ...
    ) -> list[Prediction]: ...
    def classify(
        self, texts: str | Iterable[str], *, min_confidence: float = 0.0
    ) -> Prediction | list[Prediction]:
        """Classify one text, or many.

        Args:
            texts: A text, or texts; ids are then their positions, from 0.
            min_confidence: Texts of which no class is so probable get None for their label.

        Returns:
            A prediction, or a list of them in the order of the texts.

        Raises:
            ValueError: `min_confidence` is not from 0 to 1.
        """
        return _one_or_all(partial(self.classify_documents, min_confidence=min_confidence), texts)

    @overload
    def explain(  # type: ignore[overload-overlap]  # str comes first
        self, texts: str, methods: Sequence[str] = ...
    ) -> Explanation: ...
    @overload
    def explain(self, texts: Iterable[str], methods: Sequence[str] = ...) -> list[Explanation]: ...
    def explain(
        self, texts: str | Iterable[str], methods: Sequence[str] = ("attention",)
    ) -> Explanation | list[Explanation]:
        """Classify one text, or many, and keep what each sentence and word had to do with it.

        Args:
            texts: A text, or texts; ids are then their positions, from 0.
            methods: The ways to explain, of `han.explanation.METHODS`. Attention is always there.
                `"attention_gradient"` costs little more, `"gradient"` a training step for each
                class, `"occlusion"` as many readings of a sentence as it has words.

        Returns:
            An explanation, or a list of them in the order of the texts.

        Raises:
            ValueError: There is no such method.
        """
        return _one_or_all(partial(self.explain_documents, methods=methods), texts)

    @overload
    def read(self, texts: str) -> Reading: ...  # type: ignore[overload-overlap]  # str comes first
    @overload
    def read(self, texts: Iterable[str]) -> list[Reading]: ...
    def read(self, texts: str | Iterable[str]) -> Reading | list[Reading]:
        """Classify one text, or many, and return the weights as arrays.

        Args:
            texts: A text, or texts; ids are then their positions, from 0.

        Returns:
            A reading, or a list of them in the order of the texts.
        """
        return _one_or_all(self.read_documents, texts)

    def probabilities(self, texts: Iterable[str]) -> npt.NDArray[np.float64]:
        """Return the probability (B, C) of each class for each text, classes as in `labels`.

        As all probabilities, they are made by `Ensemble.probabilities`, with the temperature that
        the model directory holds.
        """
        rows = [reading.probabilities for reading in self.read_documents(_numbered(texts))]
        return np.stack(rows) if rows else np.zeros((0, len(self.labels)))

    def classify_documents(
        self, documents: Iterable[Document], *, min_confidence: float = 0.0
    ) -> Iterator[Prediction]:
        """Classify documents as they come, in their order, a block of them in memory at a time.

        Args:
            documents: The documents.
            min_confidence: As in `classify`.

        Raises:
            ValueError: It is not from 0 to 1, or documents may have several labels.
        """
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"`min_confidence` must be from 0 to 1, got {min_confidence}.")
        if min_confidence > 0 and self.bundle.thresholds is not None:
            raise ValueError(
                "`min_confidence` is for documents of one class; of several labels each has a "
                "threshold of its own."
            )
        for reading in self.read_documents(documents):
            document, words = reading.document, reading.words
            yield Prediction.from_probabilities(
                document.id,
                self.labels,
                reading.probabilities.tolist(),
                truncated=bool(words.cut),
                empty=len(words.tokens) == 0,
                columns=document.columns,
                true=document.label,
                thresholds=self.bundle.thresholds,
                min_confidence=min_confidence,
            )

    def explain_documents(
        self, documents: Iterable[Document], methods: Sequence[str] = ("attention",)
    ) -> Iterator[Explanation]:
        """Explain documents as they come, in their order, a block of them in memory at a time.

        Args:
            documents: The documents.
            methods: As in `explain`.
        """
        several = self.bundle.thresholds is not None
        for reading in self.read_documents(documents, methods):
            document, words, true = reading.document, reading.words, reading.document.label
            true_labels = (true,) if isinstance(true, str) else true
            yield Explanation.from_attention(
                id=document.id,
                text=document.text,
                labels=self.labels,
                probabilities=reading.probabilities,
                word_spans=words.word_spans,
                sentence_spans=words.sentence_spans,
                words_per_sentence=words.words_per_sentence,
                word_attention=reading.word_attention,
                sentence_attention=reading.sentence_attention,
                unknown=words.tokens == Vocabulary.UNKNOWN,
                model=self.bundle.reference or ModelReference(sha256="", version=""),
                cut=words.cut,
                true=true if isinstance(true, str) and not several else None,
                word_scores={method: of_words for method, (of_words, _) in reading.scores.items()},
                sentence_scores={
                    method: of_sentences for method, (_, of_sentences) in reading.scores.items()
                },
                word_heads=reading.word_heads,
                sentence_heads=reading.sentence_heads,
                predicted_labels=reading.labels,
                true_labels=true_labels if several else None,
            )

    def read_documents(
        self, documents: Iterable[Document], methods: Sequence[str] = ("attention",)
    ) -> Iterator[Reading]:
        """Read documents as they come, in their order, a block of them in memory at a time.

        Within a block they go through the network in batches of similar length.

        Args:
            documents: The documents.
            methods: As in `explain`.

        Raises:
            ValueError: There is no such method.
        """
        methods = check_methods(methods)
        for block in in_blocks(
            documents, max_documents=BLOCK_DOCUMENTS, max_characters=BLOCK_CHARACTERS
        ):
            words = self.bundle.vocabulary.encode([document.text for document in block])
            readings: dict[int, Reading] = {}
            by_length = sorted(range(len(block)), key=lambda index: len(words[index].tokens))
            for batch in _batches(by_length, words):
                results = self._run([words[i] for i in batch], methods)
                for index, result in zip(batch, results, strict=True):
                    readings[index] = Reading(block[index], words[index], *result)
            for index in range(len(block)):
                yield readings.pop(index)

    def masked_probabilities(
        self, text: str, kept: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """Classify variants of a text in which words are left out; sentences keep their boundaries.

        Args:
            text: The text.
            kept: bool (M, N), which of the words of `explain(text)` each variant has.

        Returns:
            float64 (M, C), the probability of each class, classes as in `labels`.

        Raises:
            ValueError: `kept` has another number of words.
        """
        (words,) = self.bundle.vocabulary.encode([text])
        found = attribution.masked_probabilities(
            self._network, words.tokens, words.words_per_sentence, kept
        )
        return found.cpu().numpy()

    def uniform_probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Classify texts with the same attention on every word and on every sentence.

        Args:
            texts: B texts.

        Returns:
            float64 (B, C), the probability of each class, classes as in `labels`.
        """
        rows = np.zeros((len(texts), len(self.labels)))
        words = self.bundle.vocabulary.encode(texts)
        by_length = sorted(range(len(texts)), key=lambda index: len(words[index].tokens))
        for batch in _batches(by_length, words):
            ragged = _ragged([words[i] for i in batch]).to(self._device)
            output = attribution.uniform_output(self._network, ragged)
            rows[batch] = self._probabilities(output)
        return rows

    def _run(
        self, texts: list[EncodedText], methods: Sequence[str]
    ) -> Iterator[
        tuple[
            str,
            npt.NDArray[np.float64],
            npt.NDArray[np.float32],
            npt.NDArray[np.float32],
            npt.NDArray[np.float32] | None,
            npt.NDArray[np.float32] | None,
            Mapping[str, Scores],
            tuple[str, ...] | None,
        ]
    ]:
        """Yield what `Reading` has of each text, but for the document and its words."""
        output, found = self._compute(texts, methods)
        scores = {
            method: (of.words.double().cpu().numpy(), of.sentences.double().cpu().numpy())
            for method, of in found.items()
        }
        of_each, thresholds = self._probabilities(output), self.bundle.thresholds
        word_attention = output.word_attention.float().cpu().numpy()
        sentence_attention = output.sentence_attention.float().cpu().numpy()
        options = self._network.options
        word_heads, sentence_heads = (
            heads.float().cpu().numpy() if options[level]["heads"] > 1 else None
            for level, heads in zip(
                ATTENTIONS, (output.word_heads, output.sentence_heads), strict=True
            )
        )
        word_ends = np.cumsum([0, *(len(text.tokens) for text in texts)]).tolist()
        sentence_ends = np.cumsum([0, *(len(text.words_per_sentence) for text in texts)]).tolist()
        for row, words, sentences in zip(
            of_each, pairwise(word_ends), pairwise(sentence_ends), strict=True
        ):
            label, given = decide(self.labels, row.tolist(), thresholds)
            yield (
                label,
                row,
                word_attention[slice(*words)],
                sentence_attention[slice(*sentences)],
                None if word_heads is None else word_heads[slice(*words)],
                None if sentence_heads is None else sentence_heads[slice(*sentences)],
                {
                    method: (of_words[slice(*words)], of_sentences[slice(*sentences)])
                    for method, (of_words, of_sentences) in scores.items()
                },
                given,
            )

    def _probabilities(self, output: HANOutput) -> npt.NDArray[np.float64]:
        return self._network.probabilities(output.logits).cpu().numpy()

    def _compute(
        self, texts: list[EncodedText], methods: Sequence[str]
    ) -> tuple[HANOutput, dict[str, attribution.Attribution]]:
        """Return what the network makes of texts, and what each signed method does."""
        found: dict[str, attribution.Attribution] = {}
        with torch.inference_mode(False):  # whatever the caller's mode: gradients need it so
            batch = _ragged(texts).to(self._device)
            if "attention_gradient" in methods:
                output, found["attention_gradient"] = attribution.attention_gradient(
                    self._network, batch
                )
            else:
                with torch.inference_mode():
                    output = self._network(batch)
            if "gradient" in methods:
                found["gradient"] = attribution.input_gradient(self._network, batch)
        if "occlusion" in methods:
            of_each = [
                attribution.occlusion(self._network, text.tokens, text.words_per_sentence)
                for text in texts
            ]
            found["occlusion"] = attribution.Attribution(
                *map(torch.cat, zip(*of_each, strict=True))
            )
        return output, found


def decide(
    labels: Sequence[str], probabilities: Sequence[float], thresholds: Sequence[float] | None
) -> tuple[str, tuple[str, ...] | None]:
    """Return the likeliest class, and the labels that a document has where it may have several.

    Args:
        labels: The C classes.
        probabilities: C floats.
        thresholds: C floats, from which probability on a document has a label; None where it has
            one class. The likeliest is of those labels, if there are any.
    """
    of_each = dict(zip(labels, probabilities, strict=True))
    if thresholds is None:
        return max(labels, key=of_each.__getitem__), None
    rows = zip(of_each.items(), thresholds, strict=True)
    given = tuple(label for (label, probability), least in rows if probability >= least)
    return max(given or labels, key=of_each.__getitem__), given


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Return methods in the order of `METHODS`, attention always among them.

    Args:
        methods: Names of methods.

    Raises:
        ValueError: One is no method.
    """
    if isinstance(methods, str):
        raise ValueError(f"`methods` must be names in a list or a tuple, got {methods!r}.")
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"There is no method {method!r}; choose among {', '.join(METHODS)}.")
    return tuple(method for method in METHODS if method in methods or method == METHODS[0])


def load(path: str | Path) -> Predictor:
    """Load a trained model, on the first CUDA device if there is one.

    Args:
        path: A model directory, or the run directory that holds one.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: The model directory is damaged.
    """
    bundle = Bundle.load(path)
    if torch.cuda.is_available():
        bundle.network.cuda()
    return Predictor(bundle)


def _one_or_all(
    run: Callable[[Iterable[Document]], Iterator[Result]], texts: str | Iterable[str]
) -> Result | list[Result]:
    """Return what `run` makes of one text, or the list of what it makes of many."""
    if isinstance(texts, str):
        return next(run([Document("0", texts)]))
    return list(run(_numbered(texts)))


def _numbered(texts: Iterable[str]) -> Iterator[Document]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Text {index} is {type(text).__name__}, not a string.")
        yield Document(str(index), text)


def _ragged(texts: Sequence[EncodedText]) -> Batch:
    return Batch.from_arrays(
        np.concatenate([text.tokens for text in texts]).astype(np.int64),
        np.concatenate([text.words_per_sentence for text in texts]).astype(np.int64),
        np.array([len(text.words_per_sentence) for text in texts], np.int64),
    )


def _batches(indices: list[int], encoded: list[EncodedText]) -> Iterator[list[int]]:
    """Cut documents, sorted by length, into batches of at most `BATCH_WORDS` words."""
    batch: list[int] = []
    words = 0
    for index in indices:
        length = len(encoded[index].tokens)
        if batch and words + length > BATCH_WORDS:
            yield batch
            batch, words = [], 0
        batch.append(index)
        words += length
    if batch:
        yield batch
