"""Write the files of one split, which `StoredDocuments` reads, as documents come."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from han.corpus.stored import IntArray, mark_sentences
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
        dtype = np.uint16 if vocabulary_size <= 2**15 else np.uint32
        self._words = _ArrayWriter(directory / "words.npy", dtype, files)
        self._offsets = _ArrayWriter(directory / "offsets.npy", np.int64, files)
        self._sentences = _ArrayWriter(directory / "sentences_per_document.npy", np.int64, files)
        self._truncated = _ArrayWriter(directory / "truncated.npy", np.bool_, files)
        self._rows = files.enter_context(pa.ipc.new_file(str(directory / "rows.arrow"), ROWS))
        self._offsets.write(np.zeros(1, np.int64))
        self._counts = Counter[str]()

    def write(self, rows: pa.RecordBatch, encoded: list[EncodedText]) -> None:
        """Append documents."""
        tokens = np.concatenate([text.tokens for text in encoded])
        words_per_sentence = np.concatenate([text.words_per_sentence for text in encoded])
        words = np.array([len(text.tokens) for text in encoded])
        sentences = np.array([len(text.words_per_sentence) for text in encoded])
        truncated = np.array([bool(text.cut) for text in encoded])
        self._words.write(mark_sentences(tokens, words_per_sentence, self._words.dtype))
        self._offsets.write(self._counts["words"] + np.cumsum(words))
        self._sentences.write(sentences)
        self._truncated.write(truncated)
        self._rows.write_batch(rows)
        self._counts.update(
            documents=len(encoded),
            sentences=len(words_per_sentence),
            words=len(tokens),
            unknown_words=int((tokens == Vocabulary.UNKNOWN).sum()),
            empty=int((words == 0).sum()),
            truncated=int(truncated.sum()),
        )

    def finish(self, labels: IntArray, names: Sequence[str]) -> dict[str, Any]:
        """Write the labels and what is known at the end, and return the split's summary."""
        for writer in (self._words, self._offsets, self._sentences, self._truncated):
            writer.finish()
        np.save(self._directory / "labels.npy", labels)
        if labels.ndim == 2:
            counts = (labels == 1).sum(0).tolist()
            classes = dict(zip(names, counts, strict=True))
        else:
            classes = {name: int((labels == i).sum()) for i, name in enumerate(names)}
        return {**self._counts, "classes": classes}


class _ArrayWriter:
    """Write a one-dimensional .npy file whose length is known only at the end."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, files: ExitStack) -> None:
        self._file = files.enter_context(open(path, "wb"))  # noqa: SIM115  (`files` closes it)
        self.dtype = np.dtype(dtype)
        self._length = 0
        self._write_header()
        self._header_size = self._file.tell()

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append values."""
        self._file.write(values.astype(self.dtype).data)
        self._length += len(values)

    def finish(self) -> None:
        """Put the length into the header, in which NumPy keeps room for it."""
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._header_size

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self._length,),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
