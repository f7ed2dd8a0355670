"""Prepare documents once: read, split and encode them into a store that is memory-mapped.

A store is found by its content: its name is a hash of the sources' bytes, of every option that
matters and of the code that reads and encodes. So an unchanged run opens it at once, and a change
of anything makes another one.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import pkgutil
import re
import shutil
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from han.atomic import atomic_directory
from han.documents import Document, read_documents
from han.tokenization import Tokenizer
from han.vocabulary import EncodedText, Vocabulary

SPLITS = ("train", "validation", "test", "predict")

_BLOCK_CHARACTERS = 2_000_000
_BLOCK_DOCUMENTS = 10_000
_ROWS = pa.schema([(name, pa.string()) for name in ("id", "text", "columns")])

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


def prepare_corpus(
    *,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    predict: str | Path | None = None,
    text_column: str = "text",
    label_column: str | None = "label",
    id_column: str | None = "id",
    split_column: str | None = "split",
    keep_columns: Sequence[str] = (),
    encoding: str = "utf-8",
    on_bad_row: Literal["error", "skip"] = "error",
    language: str = "en",
    lowercase: bool = True,
    max_sentences: int | None = None,
    max_words_per_sentence: int | None = None,
    min_count: int = 2,
    validation_share: float = 0.1,
    seed: int = 0,
    cache_dir: str | Path,
    vocabulary: Vocabulary | None = None,
    labels: Sequence[str] | None = None,
    progress: bool = True,
) -> Corpus:
    """Open the store of these documents and options; read and encode the documents if need be.

    Rows of `train` go to the split that their split column names, to training if it names none.
    Where that yields no validation documents and none are given, a share of the training documents
    is split off: drawn by `seed`, from every class in proportion, and never the last one of a
    class. `validation` and `test` contribute the rows that their split column does not give to
    another split; all rows of `predict` count, whatever their split.

    Processes that prepare the same documents at once wait for the first. One that is killed leaves
    nothing that could be taken for a store. The documents need not fit into memory.

    Args:
        train: The training documents, anything that `read_documents` reads but standard input. A
            data set of the hub counts as unchanged while its address is the same.
        validation: Documents for choosing when to stop.
        test: Documents for the final figures.
        predict: Documents to classify; labels are optional here alone.
        text_column: See `read_documents`, as for the next six.
        label_column: Where the labels are.
        id_column: Where the documents' ids are, if anywhere.
        split_column: Where the split of a row is named, if anywhere.
        keep_columns: Columns to keep for the user's records.
        encoding: Of text files.
        on_bad_row: Whether a row that cannot be read is an error or skipped and counted.
        language: See `Tokenizer`, as for the next three. Not used where `vocabulary` is given.
        lowercase: Whether upper and lower case are one.
        max_sentences: Most sentences read of a document.
        max_words_per_sentence: Most words read of a sentence.
        min_count: How often a word occurs in the training documents to be known.
        validation_share: Share of the training documents to split off; 0 for none.
        seed: Of that split; not negative.
        cache_dir: Where stores are kept.
        vocabulary: That of a trained model; by default it is built from the training documents.
        labels: Those of a trained model, in its order; by default those of the training documents,
            sorted, numbers by value.
        progress: Whether to show progress on standard error.

    Raises:
        ValueError: An option or the documents are unfit; the message says where.
        OSError: A source cannot be read or the cache cannot be written.
    """
    sources = {
        role: source
        for role, source in zip(SPLITS, (train, validation, test, predict), strict=True)
        if source is not None
    }
    if not sources:
        raise ValueError("There are no documents to prepare; give `train` (or another split).")
    if train is None and (vocabulary is None or labels is None):
        raise ValueError("`train` is missing; without a trained model there is nothing to go by.")
    if not 0 <= validation_share < 1:
        raise ValueError(f"`validation_share` must be from 0 to below 1, got {validation_share}.")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}.")

    tokenizer = (
        Tokenizer(language, lowercase, max_sentences, max_words_per_sentence)
        if vocabulary is None
        else vocabulary.tokenizer
    )
    reader = {
        "text_column": text_column,
        "label_column": label_column,
        "id_column": id_column,
        "split_column": split_column,
        "keep_columns": list(keep_columns),
        "encoding": encoding,
        "on_bad_row": on_bad_row,
    }
    identity = {
        "sources": {role: _identify(source) for role, source in sources.items()},
        "reader": reader,
        "tokenizer": tokenizer.options(),
        "min_count": min_count,
        "validation_share": validation_share,
        "seed": seed,
        "code": _identify_code(),
        "vocabulary": None,
        "labels": None,
    }
    cache_dir = Path(cache_dir)
    if vocabulary is not None or labels is not None:
        # A trained model that meets its own training documents again needs no second store.
        corpus = _open(cache_dir / _key(identity))
        if (
            corpus is not None
            and (vocabulary is None or corpus.vocabulary.words == vocabulary.words)
            and (labels is None or corpus.labels == tuple(labels))
        ):
            return corpus
        identity["vocabulary"] = None if vocabulary is None else _hash(vocabulary.to_json())
        identity["labels"] = None if labels is None else list(labels)

    directory = cache_dir / _key(identity)
    corpus = _open(directory)
    if corpus is not None:
        return corpus
    with _locked(directory, progress):
        corpus = _open(directory)  # another process may have made it meanwhile
        if corpus is None:
            with (
                _naming_a_full_disk(cache_dir),
                atomic_directory(directory) as beside,
                _progress_bar(progress) as bar,
            ):
                builder = _Builder(beside, bar)
                builder.read(sources, reader)
                builder.check_labels(sources, labels)
                if "validation" not in builder.present() and validation_share > 0:
                    builder.split_off_validation(validation_share, seed)
                if vocabulary is None:
                    vocabulary = builder.build_vocabulary(tokenizer, min_count)
                builder.write(vocabulary)
            corpus = _open(directory)
            assert corpus is not None, "a store that was just written can be opened"
    return corpus


class _Builder:
    """Fill the directory of a store, in the order of the methods.

    The texts pass through a temporary file; memory holds each document's split, label and lengths
    only.
    """

    def __init__(self, directory: Path, bar: Progress) -> None:
        self._directory = directory
        self._bar = bar
        self._spool = directory / "spool.arrow"
        self._split = np.zeros(0, np.int8)  # index in SPLITS, of each document
        self._label = np.zeros(0, np.int64)  # index in _names, then in labels; -1: none
        self._names: list[str] = []  # the labels in the order of their appearance
        self._first: dict[tuple[int, int], str] = {}  # (split, label): where it was met first
        self._skipped: dict[str, Counter[str]] = {}
        self.labels: tuple[str, ...] = ()

    def read(self, sources: Mapping[str, str | Path], reader: Mapping[str, Any]) -> None:
        """Read all sources once into the temporary file."""
        splits, labels = array("b"), array("q")
        numbers: dict[str, int] = {}
        with pa.OSFile(str(self._spool), "wb") as file, pa.ipc.new_stream(file, _ROWS) as writer:
            for role, source in sources.items():
                task = self._bar.add_task(f"Reading {_name(source)}", total=None)
                self._skipped[role] = Counter()
                documents = self._documents(role, sources, reader)
                for block in _blocks(documents):
                    for document in block:
                        split = document.split if role == "train" and document.split else role
                        splits.append(SPLITS.index(split))
                        label = -1
                        if document.label is not None:
                            label = numbers.setdefault(document.label, len(numbers))
                            self._first.setdefault((splits[-1], label), document.location)
                        labels.append(label)
                    writer.write_batch(_rows(block))
                    self._bar.advance(task, len(block))
                self._bar.update(task, total=self._bar.tasks[task].completed)
        self._split = np.array(splits, np.int8)
        self._label = np.array(labels, np.int64)
        self._names = list(numbers)
        for role, source in sources.items():
            if role not in self.present():
                raise ValueError(
                    f"{source}: no documents for {role}; give another file, or check the column "
                    f"{reader['split_column']!r}."
                )

    def _documents(
        self, role: str, sources: Mapping[str, str | Path], reader: Mapping[str, Any]
    ) -> Iterator[Document]:
        """Read one source, without the documents that belong to another one's split."""
        for document in read_documents(
            sources[role],
            **reader,
            labels_required=role != "predict",
            skipped=self._skipped[role],
        ):
            if document.split not in (None, role) and role != "predict":
                if role != "train":
                    self._skipped[role][f"split {document.split}"] += 1
                    continue
                if document.split in sources:
                    raise ValueError(
                        f"{document.location}: this row is for {document.split}, for which "
                        f"{sources[document.split]} is given as well; leave out one of "
                        "the two."
                    )
            yield document

    def present(self) -> list[str]:
        """Return the splits that have documents."""
        return [SPLITS[i] for i in np.unique(self._split)]

    def check_labels(self, sources: Mapping[str, str | Path], labels: Sequence[str] | None) -> None:
        """Settle the labels, and see that every document that needs one has one of them."""
        if labels is None:
            numbers = np.unique(self._label[self._split == SPLITS.index("train")])
            labels = sorted((self._names[i] for i in numbers), key=_natural)
            if len(labels) < 2:
                raise ValueError(
                    f"{sources['train']}: all training documents have the label {labels[0]!r}; at "
                    "least two classes are needed."
                )
        self.labels = tuple(labels)
        index = {name: i for i, name in enumerate(self.labels)}
        for (split, label), location in self._first.items():
            if self._names[label] not in index and SPLITS[split] != "predict":
                known = ", ".join(repr(name) for name in self.labels[:20])
                raise ValueError(
                    f"{location}: the label {self._names[label]!r} of this {SPLITS[split]} "
                    f"document is not one of those trained on ({known}"
                    f"{', …' if len(self.labels) > 20 else ''}); correct it or leave it out."
                )
        renumber = np.array([*(index.get(name, -1) for name in self._names), -1], np.int64)
        self._label = renumber[self._label]

    def split_off_validation(self, share: float, seed: int) -> None:
        """Move a share of the training documents to validation, in proportion to the classes."""
        train = np.flatnonzero(self._split == SPLITS.index("train"))
        if not len(train):
            return
        random = np.random.PCG64(seed).random_raw(len(train))
        train = train[np.lexsort((random, self._label[train]))]
        # By class, shuffled within it; the first of each class stays. Taken at even distances,
        # each class gives its share to within one document.
        may_go = train[1:][np.diff(self._label[train]) == 0]
        count = max(1, round(share * len(train)))
        if count > len(may_go):
            raise ValueError(
                f"`validation_share` {share} of {len(train)} training documents cannot be split "
                "off: each class must keep one. Give a validation file, more documents or a "
                "smaller share."
            )
        chosen = may_go[((np.arange(count) + 0.5) * len(may_go) / count).astype(np.int64)]
        self._split[chosen] = SPLITS.index("validation")

    def build_vocabulary(self, tokenizer: Tokenizer, min_count: int) -> Vocabulary:
        """Collect the words of the training documents."""
        total = int((self._split == SPLITS.index("train")).sum())
        task = self._bar.add_task("Building the vocabulary", total=total)

        def texts() -> Iterator[str]:
            for split, block, _ in self._spooled():
                if split == "train":
                    yield from block["text"].to_pylist()
                    self._bar.advance(task, len(block))

        vocabulary = Vocabulary.build(texts(), tokenizer, min_count)
        if len(vocabulary) == 1:
            raise ValueError(
                f"No word occurs {min_count} times in the training documents; lower `min_count` "
                "or check that the texts are what they should be."
            )
        return vocabulary

    def write(self, vocabulary: Vocabulary) -> None:
        """Encode all documents and write what makes a store, last the list of its files."""
        task = self._bar.add_task("Encoding", total=len(self._split))
        present = self.present()
        with ExitStack() as files:
            writers = {
                split: _SplitWriter(self._directory / split, len(vocabulary), files)
                for split in present
            }
            for split, block, labels in self._spooled():
                encoded = vocabulary.encode(block["text"].to_pylist())
                writers[split].write(block, encoded, labels)
                self._bar.advance(task, len(block))
            summary = {
                split: {
                    **writer.finish(self.labels),
                    "skipped": dict(self._skipped.get(split, {})),
                }
                for split, writer in writers.items()
            }
        self._spool.unlink()
        (self._directory / "tokenizer.json").write_text(vocabulary.to_json(), encoding="utf-8")
        manifest = {
            "labels": self.labels,
            "tokenizer": vocabulary.tokenizer.options(),
            "splits": present,
            "summary": summary,
            "files": {
                file.relative_to(self._directory).as_posix(): file.stat().st_size
                for file in sorted(self._directory.rglob("*"))
                if file.is_file()
            },
        }
        text = json.dumps(manifest, indent=1)
        (self._directory / "corpus.json").write_text(text, encoding="utf-8")

    def _spooled(self) -> Iterator[tuple[str, pa.RecordBatch, IntArray]]:
        """Yield the documents again, some thousand of one split at a time, with their labels."""
        first = 0
        with pa.OSFile(str(self._spool)) as file, pa.ipc.open_stream(file) as blocks:
            for block in blocks:
                here = slice(first, first + len(block))
                first += len(block)
                for split in np.unique(self._split[here]):
                    chosen = self._split[here] == split
                    yield SPLITS[split], block.filter(pa.array(chosen)), self._label[here][chosen]


class _SplitWriter:
    """Write the files that `StoredDocuments` reads."""

    def __init__(self, directory: Path, vocabulary_size: int, files: ExitStack) -> None:
        directory.mkdir()
        self._directory = directory
        dtype = np.uint16 if vocabulary_size <= 2**16 else np.int32
        self._tokens = _ArrayWriter(directory / "tokens.npy", dtype, files)
        self._words_per_sentence = _ArrayWriter(
            directory / "words_per_sentence.npy", np.int32, files
        )
        self._rows = files.enter_context(pa.ipc.new_file(str(directory / "rows.arrow"), _ROWS))
        self._words, self._sentences = array("q"), array("q")  # of each document
        self._truncated = array("b")
        self._labels: list[IntArray] = []
        self._unknown_words = 0

    def write(self, rows: pa.RecordBatch, encoded: list[EncodedText], labels: IntArray) -> None:
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
        self._labels.append(labels)
        self._unknown_words += int((tokens == Vocabulary.UNKNOWN).sum())

    def finish(self, names: Sequence[str]) -> dict[str, Any]:
        """Write what is known only at the end and return the split's summary."""
        self._tokens.finish()
        self._words_per_sentence.finish()
        labels = np.concatenate(self._labels)
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


def _open(directory: Path) -> Corpus | None:
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


@contextmanager
def _locked(directory: Path, progress: bool) -> Iterator[None]:
    """Keep other processes from making the same store, and remove what killed ones left."""
    lock = FileLock(directory.with_suffix(".lock"))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if progress:
                Console(stderr=True).print("Another process prepares these documents; waiting.")
            lock.acquire()
    except OSError as error:
        raise OSError(
            f"{directory.parent}: prepared documents cannot be kept here ({error.strerror}); give "
            "another `cache_dir`."
        ) from error
    try:
        for debris in directory.parent.glob(f".{directory.name}.*"):
            shutil.rmtree(debris, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def _naming_a_full_disk(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(f"{cache_dir}: the disk is full; give another `cache_dir`.") from error


def _progress_bar(progress: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=not progress,
    )


def _key(identity: Mapping[str, object]) -> str:
    return _hash(json.dumps(identity, sort_keys=True))[:32]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _identify(source: str | Path) -> list[str]:
    """Return a source's name, which enters the documents' ids, and a hash of its content.

    Of a data set of the hub the address is all there is to go by.
    """
    name = str(source)
    if name == "-":
        raise ValueError("Standard input cannot be prepared, as it is read once; give a file.")
    hub = name.startswith("hf://")
    path = Path(name.removeprefix("hf://").partition("?")[0] if hub else name)
    if not path.exists():
        if hub:
            return [name, ""]
        raise FileNotFoundError(f"{source}: no such file or folder.")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(_hash(file.relative_to(path).as_posix()).encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return [_name(source), digest.hexdigest()]


def _identify_code() -> list[str]:
    """Return what stands for the code whose change would change a store."""
    digest = hashlib.sha256()
    for module in ("documents", "tokenization", "vocabulary", "corpus"):
        digest.update(pkgutil.get_data("han", f"{module}.py") or b"")
    versions = [importlib.metadata.version(name) for name in ("sentencex", "tokenizers")]
    return [digest.hexdigest(), *versions]


def _name(source: str | Path) -> str:
    return str(source) if str(source).startswith("hf://") else Path(source).name


def _blocks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield the documents in lists of about the same number of characters."""
    block: list[Document] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += len(document.text)
        if characters >= _BLOCK_CHARACTERS or len(block) == _BLOCK_DOCUMENTS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _rows(documents: list[Document]) -> pa.RecordBatch:
    return pa.record_batch(
        [
            [document.id for document in documents],
            [document.text for document in documents],
            [json.dumps(dict(document.columns)) for document in documents],
        ],
        schema=_ROWS,
    )


def _natural(label: str) -> tuple[int, float, list[tuple[int, int, str]]]:
    """Return a key that sorts numbers by value, before other labels, and "class 2" before "10"."""
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", label):
        return 0, float(label), [(0, 0, label)]
    parts = [part for part in re.split(r"([0-9]+)", label) if part]
    return (
        1,
        0.0,
        [(0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts],
    )


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
