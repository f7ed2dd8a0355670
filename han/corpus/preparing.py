"""Find the store of these documents and options, or have it built by one process at a time."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from han.atomic import atomic_directory, remove_debris
from han.corpus.building import Builder
from han.corpus.identity import identify_code, identify_source, identify_vectors, key_of
from han.corpus.stored import SPLITS, Corpus, open_corpus
from han.embeddings import PretrainedVectors
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary


def prepare_corpus(
    *,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    predict: str | Path | None = None,
    text_column: str = "text",
    label_column: str | None = "label",
    label_separator: str | None = None,
    id_column: str | None = "id",
    split_column: str | None = "split",
    keep_columns: Sequence[str] = (),
    encoding: str = "utf-8",
    on_bad_row: Literal["error", "skip"] = "error",
    language: str = "en",
    lowercase: bool = True,
    hierarchical: bool = True,
    max_sentences: int | None = None,
    max_words_per_sentence: int | None = None,
    min_count: int = 2,
    pretrained: PretrainedVectors | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    cache_dir: str | Path,
    vocabulary: Vocabulary | None = None,
    labels: Sequence[str] | None = None,
    multilabel: bool | None = None,
    progress: bool = True,
) -> Corpus:
    """Open the store of these documents and options; read and encode the documents if need be.

    Rows of `train` go to the split that their split column names, to training if it names none.
    Where that yields no validation documents and none are given, a share of the training documents
    is split off: drawn by `seed`, from every class in proportion, and never the last one of a
    class; where documents may have several labels, each counts as of the rarest of its own.
    `validation` and `test` contribute the rows that their split column does not give to another
    split; all rows of `predict` count, whatever their split.

    Processes that prepare the same documents at once wait for the first. One that is killed leaves
    nothing that could be taken for a store. The documents need not fit into memory.

    Args:
        train: The training documents, anything that `read_documents` reads but standard input. A
            data set of the hub counts as unchanged while its address is the same.
        validation: Documents for choosing when to stop.
        test: Documents for the final figures.
        predict: Documents to classify; labels are optional here alone.
        text_column: See `read_documents`, as for the next seven.
        label_column: Where the labels are.
        label_separator: What stands between several labels of a document, if anything.
        id_column: Where the documents' ids are, if anywhere.
        split_column: Where the split of a row is named, if anywhere.
        keep_columns: Columns to keep for the user's records.
        encoding: Of text files.
        on_bad_row: Whether a row that cannot be read is an error or skipped and counted.
        language: See `Tokenizer`, as for the next four. Not used where `vocabulary` is given.
        lowercase: Whether upper and lower case are one.
        hierarchical: Whether a document is read as sentences, or as one.
        max_sentences: Most sentences read of a document.
        max_words_per_sentence: Most words read of a sentence.
        min_count: How often a word occurs in the training documents to be known.
        pretrained: Vectors whose words are known if they occur once; published ones count as
            unchanged while their name is the same.
        validation_share: Share of the training documents to split off; 0 for none.
        seed: Of that split; not negative.
        cache_dir: Where stores are kept.
        vocabulary: That of a trained model; by default it is built from the training documents.
        labels: Those of a trained model, in its order; by default those of the training documents,
            sorted, numbers by value.
        multilabel: Whether a document may have several labels: a single one is then one of them,
            and without it several are an error. By default as the documents have it.
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
        Tokenizer(language, lowercase, hierarchical, max_sentences, max_words_per_sentence)
        if vocabulary is None
        else vocabulary.tokenizer
    )
    reader = {
        "text_column": text_column,
        "label_column": label_column,
        "label_separator": label_separator,
        "id_column": id_column,
        "split_column": split_column,
        "keep_columns": list(keep_columns),
        "encoding": encoding,
        "on_bad_row": on_bad_row,
    }
    identity: dict[str, object] = {
        "sources": {role: identify_source(source) for role, source in sources.items()},
        "reader": reader,
        "tokenizer": tokenizer.options(),
        "min_count": min_count,
        "pretrained": pretrained and identify_vectors(pretrained.source),
        "validation_share": validation_share,
        "seed": seed,
        "code": identify_code(),
    }
    cache_dir = Path(cache_dir)
    if vocabulary is not None or labels is not None:
        # A trained model that meets its own training documents again needs no second store.
        corpus = open_corpus(cache_dir / key_of(identity))
        if (
            corpus is not None
            and (vocabulary is None or corpus.vocabulary.words == vocabulary.words)
            and (labels is None or corpus.labels == tuple(labels))
            and multilabel in (None, corpus.multilabel)
        ):
            return corpus
        identity["vocabulary"] = None if vocabulary is None else vocabulary.to_json()
        identity["labels"] = None if labels is None else list(labels)
    if multilabel is not None:
        identity["multilabel"] = multilabel

    directory = cache_dir / key_of(identity)
    corpus = open_corpus(directory)
    if corpus is not None:
        return corpus
    with _locked(directory, progress):
        corpus = open_corpus(directory)  # another process may have made it meanwhile
        if corpus is not None:
            return corpus
        with (
            _naming_a_full_disk(cache_dir),
            _giving_memory_back(),
            atomic_directory(directory) as beside,
            progress_bar(progress) as bar,
        ):
            builder = Builder(beside, bar)
            builder.read(sources, reader, multilabel)
            builder.check_labels(sources, labels)
            if "validation" not in builder.present() and validation_share > 0:
                builder.split_off_validation(validation_share, seed)
            if vocabulary is None:
                vocabulary = builder.build_vocabulary(tokenizer, min_count, pretrained)
            builder.write(vocabulary)
        corpus = open_corpus(directory)
        assert corpus is not None, "a store that was just written can be opened"
        return corpus


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
        remove_debris(directory)
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


@contextmanager
def _giving_memory_back() -> Iterator[None]:
    """Let Arrow give back what it frees; its own allocator keeps more of it from block to block."""
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(pool)


def progress_bar(progress: bool) -> Progress:
    """Return what shows on standard error how far work in several steps has come."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not progress,
    )
