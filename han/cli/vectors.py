"""`han vectors`: word vectors from one's own text."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs

from han.cli import COLUMNS
from han.cli.reading import check_target, report_skipped, with_progress
from han.documents import Document, read_documents
from han.embeddings import BUILTIN, find_vectors, write_vectors
from han.lexicon import UNKNOWN_WORD
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary
from han.word2vec import Integers, Word2Vec, require_gensim

_DOCUMENTS_AT_ONCE = 256
_OPTION = re.compile(
    r"`(text_column|split_column|encoding|on_bad_row|language|min_count|"
    rf"{'|'.join(field.name for field in fields(Word2Vec))})`"
)


def vectors(command: argparse.Namespace) -> None:
    """Learn word vectors and write them."""
    path = Path(command.output)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: the name must end in .npz, the format of what is written.")
    check_target(command.output, *command.input)
    try:
        _learn(command, path)
    except ValueError as error:
        raise ValueError(_OPTION.sub(r"`--\1`", str(error))) from error


def _learn(command: argparse.Namespace, path: Path) -> None:
    options = {field.name: getattr(command, field.name) for field in fields(Word2Vec)}
    if command.size is None:
        del options["size"]
    training = Word2Vec(**options)
    require_gensim()
    tokenizer = Tokenizer(command.language, lowercase=command.lowercase == "true")
    texts = Texts(command)
    counted = with_progress(texts, "Counting words")
    vocabulary = Vocabulary.build(counted, tokenizer, command.min_count)
    if not texts.count:
        raise ValueError("There are only test documents; pass --include_test to read them.")
    sys.stderr.write(
        f"{texts.count:,} documents, {len(vocabulary) - 1:,} words that occur at least "
        f"{command.min_count} times\n"
    )
    texts.report_left_out()
    start = _start(command, vocabulary) if command.start is not None else {}
    if start:
        [size] = {len(vector) for vector in start.values()}
        if command.size not in (None, size):
            raise ValueError(
                f"The vectors {command.start} are {size} wide, `size` says {command.size}; leave "
                "it out."
            )
        training = replace(training, size=size)
    path.parent.mkdir(parents=True, exist_ok=True)
    learned = training.train(
        _encoded(texts, vocabulary),
        vocabulary.words,
        count=texts.count,
        folder=path.parent,
        start=start,
    )
    write_vectors(path, learned)
    sys.stderr.write(f"vectors: {path} (for --data.vectors of `han fit`)\n")


class Texts:
    """The texts that the command line names, read anew each time they are asked for.

    Args:
        command: The parsed command line.

    Attributes:
        count: How many there were when they were last read to the end.

    Raises:
        ValueError: A source can be read only once.
    """

    def __init__(self, command: argparse.Namespace) -> None:
        self._command = command
        self.count = self._num_test = 0
        self._skipped: Counter[str] = Counter()
        for source in command.input:
            path = Path(source)
            if source == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
                raise ValueError(f"{source}: this can be read only once; give a file.")

    def __iter__(self) -> Iterator[str]:
        """Read the texts, without those of test documents unless they are asked for."""
        self.count = self._num_test = 0
        self._skipped.clear()
        for document in itertools.chain.from_iterable(map(self._read, self._command.input)):
            if document.split == "test" and not self._command.include_test:
                self._num_test += 1
            else:
                self.count += 1
                yield document.text

    def report_left_out(self) -> None:
        """Say on standard error how many documents and rows were left out, and why."""
        if self._num_test:
            sys.stderr.write(
                f"left out {self._num_test:,} test documents (--include_test reads them)\n"
            )
        report_skipped(self._skipped)

    def _read(self, source: str) -> Iterator[Document]:
        command = self._command
        if source == BUILTIN:
            from han.datamodule import bundled_corpus

            source = bundled_corpus()
        named = command.split_column != COLUMNS["split_column"]
        return read_documents(
            source,
            text_column=command.text_column,
            label_column=None,
            id_column=None,
            split_column=command.split_column,
            labels_required=False,
            named_columns=("split_column",) if named else (),
            encoding=command.encoding,
            on_bad_row=command.on_bad_row,
            skipped=self._skipped,
        )


def _start(
    command: argparse.Namespace, vocabulary: Vocabulary
) -> dict[str, npt.NDArray[np.float32]]:
    """Read the vectors that words start from."""
    cache_dir = Path(command.cache_dir or platformdirs.user_cache_dir("han")) / "vectors"
    vectors, rows = find_vectors(vocabulary.words, command.start, cache_dir=cache_dir)
    start = {
        word: vectors.matrix[row]
        for word, row in zip(vocabulary.words, rows, strict=True)
        if row >= 0
    }
    count = len(start.keys() - {UNKNOWN_WORD})
    if not count:
        raise ValueError(f"None of the words has a vector in {command.start}; choose other ones.")
    sys.stderr.write(f"{count:,} of them start from {command.start}\n")
    return start


def _encoded(texts: Texts, vocabulary: Vocabulary) -> Iterator[tuple[Integers, Integers]]:
    """Yield the ids of each text's words and the number of words of each sentence."""
    pending = iter(texts)
    while block := list(itertools.islice(pending, _DOCUMENTS_AT_ONCE)):
        for text in vocabulary.encode(block):
            yield text.tokens, text.words_per_sentence
