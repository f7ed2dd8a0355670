"""What is on disk, as it is read: a corpus, and the memory-mapped documents of its splits."""

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
    """The documents of one split, memory-mapped: what is read of them is what is in memory.

    Args:
        directory: The split's folder in the store of a corpus.

    Attributes:
        ids: Each document's id.
        texts: Each document's text.
        labels: int64 (B,), each document's class; -1 where it is not known.
        truncated: bool (B,), whether a limit cut the document.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tokens = _load_array(directory, "tokens")
        self._token_offsets = _load_array(directory, "token_offsets")
        self._words_per_sentence = _load_array(directory, "words_per_sentence")
        self._sentence_offsets = _load_array(directory, "sentence_offsets")
        self.labels: IntArray = _load_array(directory, "labels")
        self.truncated: npt.NDArray[np.bool_] = _load_array(directory, "truncated")
        rows = pa.ipc.open_file(pa.memory_map(str(directory / "rows.arrow"))).read_all()
        self.ids = StringColumn(rows["id"])
        self.texts = StringColumn(rows["text"])
        self._columns = StringColumn(rows["columns"])
        if (
            self._token_offsets[-1] != len(self._tokens)
            or self._sentence_offsets[-1] != len(self._words_per_sentence)
            or len(self._token_offsets) != len(self) + 1
            or len(self._sentence_offsets) != len(self) + 1
            or len(self.ids) != len(self)
        ):
            raise ValueError(f"{directory}: the arrays do not fit together; delete the folder.")

    def __len__(self) -> int:
        """Return the number of documents B."""
        return len(self.labels)

    def __reduce__(self) -> tuple[type[StoredDocuments], tuple[Path]]:
        """Pickle the folder alone: another process maps the same files."""
        return StoredDocuments, (self._directory,)

    @cached_property
    def words_per_document(self) -> IntArray:
        """The number of words of each document, int64 (B,)."""
        return np.diff(self._token_offsets)

    @cached_property
    def sentences_per_document(self) -> IntArray:
        """The number of sentences of each document, int64 (B,)."""
        return np.diff(self._sentence_offsets)

    def columns(self, index: int) -> dict[str, Value]:
        """Return the extra columns that were kept of a document."""
        return cast(dict[str, Value], json.loads(self._columns[index]))

    def gather(self, indices: Sequence[int]) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Lay the documents at `indices`, B of them, end to end.

        Returns:
            tokens (N,), words_per_sentence (S,), sentences_per_document (B,) and labels (B,), all
            int64 and owned by the caller.

        Raises:
            IndexError: An index is negative or too large.
        """
        rows = np.asarray(indices, np.int64)
        if rows.size and rows.min() < 0:
            raise IndexError(f"Document {rows.min()} does not exist; indices start at 0.")
        return (
            _gather(self._tokens, self._token_offsets, rows),
            _gather(self._words_per_sentence, self._sentence_offsets, rows),
            self._sentence_offsets[rows + 1] - self._sentence_offsets[rows],
            self.labels[rows],
        )


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


def _load_array(directory: Path, name: str) -> npt.NDArray[Any]:
    # A plain view: slicing np.memmap itself is several times slower.
    return np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _gather(values: npt.NDArray[Any], offsets: IntArray, rows: IntArray) -> IntArray:
    """Return `values[offsets[i]:offsets[i + 1]]` for each i of `rows`, one after the other."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    ends = np.cumsum(lengths)
    shifts = np.repeat(starts - ends + lengths, lengths)
    gathered: IntArray = values[np.arange(len(shifts)) + shifts].astype(np.int64)
    return gathered
