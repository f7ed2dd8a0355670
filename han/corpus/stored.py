"""What is on disk, as it is read: a corpus, and the documents of its splits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary

SPLITS = ("train", "validation", "test", "predict")

Value = str | int | float | bool | None
IntArray = npt.NDArray[np.int64]


class StoredDocuments:
    """The documents of one split, on disk: memory holds a few numbers of each, and what is read.

    Args:
        directory: The split's folder in the store of a corpus.

    Attributes:
        labels: int64 (B,), each document's class; or int8 (B, C), whether a document has each
            label, where it may have several. -1 where it is not known.
        truncated: bool (B,), whether a limit cut the document.
        sentences_per_document: int64 (B,), the number of sentences of each document.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._words = _ArrayFile(directory / "words.npy")
        self._offsets = _load_array(directory, "offsets")
        self.sentences_per_document: IntArray = _load_array(directory, "sentences_per_document")
        self.labels: IntArray = _load_array(directory, "labels")
        self.truncated: npt.NDArray[np.bool_] = _load_array(directory, "truncated")
        if (
            self._offsets[-1] != len(self._words)
            or len(self._offsets) != len(self) + 1
            or len(self.sentences_per_document) != len(self)
            or len(self.truncated) != len(self)
        ):
            raise ValueError(f"{directory}: the arrays do not fit together; delete the folder.")

    def __len__(self) -> int:
        """Return the number of documents B."""
        return len(self.labels)

    def __reduce__(self) -> tuple[type[StoredDocuments], tuple[Path]]:
        """Pickle the folder alone: another process opens the same files."""
        return StoredDocuments, (self._directory,)

    @cached_property
    def words_per_document(self) -> IntArray:
        """The number of words of each document, int64 (B,)."""
        return np.diff(self._offsets)

    @cached_property
    def ids(self) -> StringColumn:
        """Each document's id."""
        return StringColumn(self._rows["id"])

    @cached_property
    def texts(self) -> StringColumn:
        """Each document's text."""
        return StringColumn(self._rows["text"])

    def columns(self, index: int) -> dict[str, Value]:
        """Return the extra columns that were kept of a document."""
        return cast(dict[str, Value], json.loads(self._columns[index]))

    def gather(self, indices: Sequence[int]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Lay the documents at `indices`, B of them, end to end.

        Returns:
            tokens (N,), words_per_sentence (S,), sentences_per_document (B,) and labels (B,) or
            (B, C), all int64 and owned by the caller.

        Raises:
            IndexError: An index is negative or too large.
        """
        rows = np.asarray(indices, np.int64)
        if rows.size and rows.min() < 0:
            raise IndexError(f"Document {rows.min()} does not exist; indices start at 0.")
        words = self._words.read(self._offsets[rows], self._offsets[rows + 1])
        tokens, words_per_sentence = unmark_sentences(words)
        labels = self.labels[rows].astype(np.int64, copy=False)
        return tokens, words_per_sentence, self.sentences_per_document[rows], labels

    @cached_property
    def _columns(self) -> StringColumn:
        return StringColumn(self._rows["columns"])

    @cached_property
    def _rows(self) -> pa.Table:
        # Mapped when first asked for: training never does.
        return pa.ipc.open_file(pa.memory_map(str(self._directory / "rows.arrow"))).read_all()


class StringColumn(Sequence[str]):
    """A memory-mapped column of strings; each is decoded when it is asked for.

    Args:
        column: Strings without nulls.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one string, or a list of several."""
        if isinstance(index, slice):
            return cast(list[str], self._column[index].to_pylist())
        return cast(str, self._column[int(index)].as_py())


@dataclass(frozen=True)
class Corpus:
    """Documents that are ready to train on.

    Attributes:
        directory: The store.
        vocabulary: Built from the training documents, or as given.
        labels: The classes' names; a class's index is its number.
        splits: The splits that are there, of `"train"`, `"validation"`, `"test"`, `"predict"`.
        summary: For each split the number of `documents`, `sentences`, `words`, `unknown_words`,
            `empty` and `truncated` documents, `classes` (documents of each label) and `skipped`
            (rows of the split's own source that were left out, by reason).
    """

    directory: Path
    vocabulary: Vocabulary
    labels: tuple[str, ...]
    splits: Mapping[str, StoredDocuments]
    summary: Mapping[str, Mapping[str, Any]]

    @property
    def multilabel(self) -> bool:
        """Whether a document may have several labels."""
        return any(documents.labels.ndim == 2 for documents in self.splits.values())


def open_corpus(directory: Path) -> Corpus | None:
    """Open a store; None where there is none or it is not whole."""
    try:
        manifest = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
        for name, size in manifest["files"].items():
            if (directory / name).stat().st_size != size:
                return None
        return Corpus(
            directory=directory,
            vocabulary=Vocabulary.from_json(
                (directory / "tokenizer.json").read_text(encoding="utf-8"),
                Tokenizer(**manifest["tokenizer"]),
            ),
            labels=tuple(manifest["labels"]),
            splits={split: StoredDocuments(directory / split) for split in manifest["splits"]},
            summary=manifest["summary"],
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def mark_sentences(
    tokens: npt.NDArray[Any], words_per_sentence: npt.NDArray[Any], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return what is stored of words: each one's id doubled, plus 1 where it ends a sentence.

    So a document is in one place, for one reading.

    Args:
        tokens: int (N,), the words' ids.
        words_per_sentence: int (S,), at least 1 each, sums to N.
        dtype: Unsigned integers that can hold twice the largest id.
    """
    words = tokens.astype(dtype) << 1
    words[np.cumsum(words_per_sentence) - 1] |= 1
    return words


def unmark_sentences(words: npt.NDArray[Any]) -> tuple[IntArray, IntArray]:
    """Return the tokens (N,) and the words_per_sentence (S,) of `mark_sentences`, both int64."""
    ends = np.flatnonzero((words & 1).astype(bool))
    words_per_sentence = ends + 1
    words_per_sentence[1:] = ends[1:] - ends[:-1]
    return (words >> 1).astype(np.int64), words_per_sentence


class _ArrayFile:
    """A one-dimensional .npy file, of which pieces are read.

    It is not mapped: what is touched of a mapping counts as the process's memory, around each place
    up to some megabytes, so that training would seem to need as much memory as there are documents.
    """

    def __init__(self, path: Path) -> None:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self._length, self._dtype, self._first = len(array), array.dtype, array.offset
        self._file = pa.OSFile(str(path))

    def __len__(self) -> int:
        return self._length

    def read(self, starts: IntArray, ends: IntArray) -> npt.NDArray[Any]:
        """Return the pieces from `starts` to before `ends`, one after the other."""
        sizes = (ends - starts) * self._dtype.itemsize
        positions = starts * self._dtype.itemsize + self._first
        pieces = map(self._file.read_at, sizes.tolist(), positions.tolist())
        return np.frombuffer(b"".join(pieces), self._dtype)


def _load_array(directory: Path, name: str) -> npt.NDArray[Any]:
    # A plain view: slicing np.memmap itself is several times slower.
    return np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False))
