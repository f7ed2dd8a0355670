"""Word vectors learned from one's own text, by word2vec (Mikolov et al. 2013) as gensim has it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from han.corpus import Corpus, StoredDocuments
from han.corpus.identity import key_of
from han.corpus.preparing import progress_bar
from han.embeddings import Vectors, write_vectors

WORD2VEC = "word2vec"
_SPLITS = ("train", "validation")
_LONGEST = 10_000  # words of a line; gensim leaves out what comes after them

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Word2Vec:
    """How word vectors are learned: those of words that stand near the same words become alike.

    What is no field is gensim's default: 5 words drawn as negative examples for each true one, and
    very frequent words left out at random.

    Args:
        size: Width E of the vectors; 200 as in Yang et al. 2016, section 3.3.
        window: How many words before and after a word count as near it, at most.
        epochs: How often the text is read.
        architecture: Whether a word predicts each one near it (`skip_gram`), or is predicted from
            their mean (`cbow`, several times as fast).
        seed: Decides all that is random.
        workers: Threads. With more than one the vectors differ a little from run to run.

    Raises:
        ValueError: A number is below 1, or the seed below 0.
    """

    size: int = 200
    window: int = 5
    epochs: int = 5
    architecture: Literal["skip_gram", "cbow"] = "skip_gram"
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("size", "window", "epochs", "workers"):
            if (number := getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be from 0 to 2**32 - 1, got {self.seed}.")

    def train(
        self,
        documents: Iterable[tuple[Integers, Integers]],
        words: Sequence[str],
        *,
        count: int,
        folder: Path,
        start: Mapping[str, npt.NDArray[np.float32]] | None = None,
        progress: bool = True,
    ) -> Vectors:
        """Learn the vectors of the words of some text.

        The text goes to disk, so that it may be larger than memory.

        Args:
            documents: Read once: of each, the words' ids (N,) and the number of words of each
                sentence (S,), which sums to N. Words of another sentence are not near.
            words: The vocabulary by id.
            count: The number of documents, to show progress.
            folder: Where the ids are kept meanwhile: about 5 bytes a word.
            start: Vectors (E,) that words start from; the others start near 0.
            progress: Whether to show progress on standard error.

        Returns:
            The words that occur, in the order of `words`, and their vectors.

        Raises:
            ValueError: No word of the vocabulary but the first, the unknown one, occurs.
            ImportError: gensim is missing.
            OSError: The folder cannot be written.
        """
        require_gensim()
        from gensim.models import Word2Vec as Model
        from gensim.models.callbacks import CallbackAny2Vec

        with (
            _quiet(),
            tempfile.TemporaryDirectory(dir=folder, prefix=".word2vec.") as scratch,
            progress_bar(progress) as bar,
        ):
            path = Path(scratch, "ids.txt")
            task = bar.add_task("Reading words", total=count)
            with open(path, "w", encoding="ascii") as file:
                counts = np.zeros(len(words), np.int64)
                for tokens, words_per_sentence in documents:
                    ids, occurrences = np.unique(tokens, return_counts=True)
                    counts[ids] += occurrences
                    _write_ids(file, tokens, words_per_sentence)
                    bar.advance(task)
            if not counts[1:].any():
                raise ValueError("There are no words to learn the vectors of; lower `min_count`.")
            task = bar.add_task("Learning word vectors", total=self.epochs)

            class Advance(CallbackAny2Vec):  # type: ignore[misc]  # gensim comes without types
                def on_epoch_end(self, _: object) -> None:
                    bar.advance(task)

            model = Model(
                vector_size=self.size,
                window=self.window,
                min_count=1,
                sg=self.architecture == "skip_gram",
                seed=self.seed,
                workers=self.workers,
            )
            occurring = np.flatnonzero(counts).tolist()
            frequencies = {str(index): int(counts[index]) for index in occurring}
            model.build_vocab_from_freq(frequencies)
            for index in occurring:
                if start is not None and words[index] in start:
                    model.wv.vectors[model.wv.key_to_index[str(index)]] = start[words[index]]
            model.train(
                corpus_file=str(path),
                total_words=int(counts.sum()),
                epochs=self.epochs,
                callbacks=[Advance()],
            )
        rows = [model.wv.key_to_index[key] for key in frequencies]
        return Vectors([words[index] for index in occurring], model.wv.vectors[rows])


def corpus_vectors(corpus: Corpus, training: Word2Vec, *, progress: bool = True) -> Path:
    """Return a file of vectors learned from a corpus's own training and validation documents.

    Yang et al. 2016 start from such (section 3.3); test documents are not read. Words that the
    vocabulary lacks are the unknown word, which gets a vector, too. The file is kept beside the
    corpus; processes that ask for it at once wait for the first.

    Args:
        corpus: The documents and the vocabulary.
        training: How to learn.
        progress: Whether to show progress on standard error.

    Raises:
        ValueError: As for `Word2Vec.train`.
        ImportError: gensim is missing.
        OSError: The folder of the corpus cannot be written.
    """
    require_gensim()
    identity = {
        "training": asdict(training),
        "code": (files("han") / "word2vec.py").read_text(encoding="utf-8"),
        "gensim": importlib.metadata.version("gensim"),
    }
    folder, store = corpus.directory.parent, corpus.directory.name
    path = folder / f"{store}.{WORD2VEC}.{key_of(identity)}.npz"
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            splits = [corpus.splits[split] for split in _SPLITS if split in corpus.splits]
            vectors = training.train(
                chain.from_iterable(map(_encoded, splits)),
                corpus.vocabulary.words,
                count=sum(map(len, splits)),
                folder=folder,
                progress=progress,
            )
            write_vectors(path, vectors)
    return path


def require_gensim() -> None:
    """Raise an `ImportError` that says what to install where gensim is missing."""
    if importlib.util.find_spec("gensim") is None:
        raise ImportError(
            "Learning word vectors needs the `gensim` package: "
            'pip install "han-classifier[word2vec]".'
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep gensim's warnings, which are for its developers, from showing until the block ends."""
    logger = logging.getLogger("gensim")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _encoded(documents: StoredDocuments) -> Iterator[tuple[Integers, Integers]]:
    for index in range(len(documents)):
        tokens, words_per_sentence, _, _ = documents.gather([index])
        yield tokens, words_per_sentence


def _write_ids(file: TextIO, tokens: Integers, words_per_sentence: Integers) -> None:
    """Write a line of ids for each sentence.

    Ids are what every reader of the file takes for the same words, whatever characters words have.
    """
    keys = list(map(str, tokens.tolist()))
    ends = np.cumsum(words_per_sentence).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        for cut in range(start, end, _LONGEST):
            file.write(" ".join(keys[cut : min(cut + _LONGEST, end)]) + "\n")
