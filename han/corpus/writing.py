"""Write the files of one split, which `StoredDocuments` reads, as documents come."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from han.corpus.stored import IntArray
from han.documents import Document
from han.vocabulary import EncodedText, Vocabulary

ROWS = pa.schema([(name, pa.string()) for name in ("id", "text", "columns")])


def as_rows(documents: Sequence[Document]) -> pa.RecordBatch:
    """Return what is kept of documents besides their numbers."""
    return pa.record_batch(
        [
            [document.id for document in documents],
            [document.text for document in documents],
            [json.dumps(dict(document.columns)) for document in documents],
        ],
        schema=ROWS,
    )


class SplitWriter:
    """Write the files that `StoredDocuments` reads."""

    def __init__(self, directory: Path, vocabulary_size: int, files: ExitStack) -> None:
        directory.mkdir()
        self._directory = directory
        dtype = np.uint16 if vocabulary_size <= 2**16 else np.int32
        self._tokens = _ArrayWriter(directory / "tokens.npy", dtype, files)
        self._words_per_sentence = _ArrayWriter(
            directory / "words_per_sentence.npy", np.int32, files
        )
        self._rows = files.enter_context(pa.ipc.new_file(str(directory / "rows.arrow"), ROWS))
        self._words, self._sentences = array("q"), array("q")  # of each document
        self._truncated = array("b")
        self._unknown_words = 0

    def write(self, rows: pa.RecordBatch, encoded: list[EncodedText]) -> None:
        """Append documents."""
        tokens = np.concatenate([text.tokens for text in encoded])
        self._tokens.write(tokens)
        self._words_per_sentence.write(
            np.concatenate([text.words_per_sentence for text in encoded])
        )
        self._rows.write_batch(rows)
        self._words.extend(len(text.tokens) for text in encoded)
        self._sentences.extend(len(text.words_per_sentence) for text in encoded)
        self._truncated.extend(bool(text.cut) for text in encoded)
        self._unknown_words += int((tokens == Vocabulary.UNKNOWN).sum())

    def finish(self, labels: IntArray, names: Sequence[str]) -> dict[str, Any]:
        """Write the arrays of a number a document and return the split's summary."""
        self._tokens.finish()
        self._words_per_sentence.finish()
        words, sentences = np.array(self._words), np.array(self._sentences)
        truncated = np.array(self._truncated, np.bool_)
        for name, values in {
            "token_offsets": np.concatenate([[0], np.cumsum(words)]),
            "sentence_offsets": np.concatenate([[0], np.cumsum(sentences)]),
            "labels": labels,
            "truncated": truncated,
        }.items():
            np.save(self._directory / f"{name}.npy", values)
        return {
            "documents": len(labels),
            "sentences": int(sentences.sum()),
            "words": int(words.sum()),
            "unknown_words": self._unknown_words,
            "empty": int((words == 0).sum()),
            "truncated": int(truncated.sum()),
            "classes": {name: int((labels == i).sum()) for i, name in enumerate(names)},
        }


class _ArrayWriter:
    """Write a one-dimensional .npy file whose length is known only at the end."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, files: ExitStack) -> None:
        self._file = files.enter_context(open(path, "wb"))  # noqa: SIM115  (`files` closes it)
        self._dtype = np.dtype(dtype)
        self._length = 0
        self._write_header()
        self._header_size = self._file.tell()

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append values."""
        self._file.write(values.astype(self._dtype).data)
        self._length += len(values)

    def finish(self) -> None:
        """Put the length into the header, in which NumPy keeps room for it."""
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._header_size

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._length,),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
