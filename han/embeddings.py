"""Pretrained word vectors, and the embedding matrix that they make for a vocabulary.

Only the rows that a vocabulary needs are kept, and nothing derived from a file is stored: two
million vectors take no more memory than the vocabulary does, and a changed file never gives its old
vectors. That is why torchtext, which names the published vectors here (their files and addresses),
does not load them: its loader holds every row, takes ten times as long, stores a pickle under the
file's base name, takes half a download for a whole one and stops verifying TLS certificates.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from importlib.resources import files
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from han.atomic import atomic_file

BUILTIN = "builtin"
_LONGEST = 200
_ENTRIES = ("words", "vectors", "scale")
_SUFFIXES = (".npz", ".txt", ".vec", ".gz", ".zip")
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError)


class Vectors(NamedTuple):
    """Words and their vectors.

    Args:
        words: The words, each once.
        matrix: Their vectors, float32 (len(words), E).
    """

    words: Sequence[str]
    matrix: NDArray[np.float32]


class PretrainedVectors(NamedTuple):
    """Where pretrained vectors are, before any are read.

    Args:
        source: What `load_vectors` takes.
        cache_dir: Where downloaded vectors are kept.
    """

    source: str
    cache_dir: Path

    def words_among(self, words: Collection[str]) -> list[str]:
        """Return those of `words` that have a vector, as they are or in lower case.

        Raises:
            ValueError: As for `load_vectors`.
            OSError: As for `load_vectors`.
        """
        spellings = {*words, *map(str.lower, words)}
        found = set(load_vectors(self.source, spellings, cache_dir=self.cache_dir).words)
        return [word for word in words if word in found or word.lower() in found]


class PretrainedEmbedding(NamedTuple):
    """The initial embedding of a vocabulary.

    Args:
        matrix: One row a word of the vocabulary, float32 (V, E).
        found: How many words have a pretrained vector, not counting row 0, the unknown word.
    """

    matrix: NDArray[np.float32]
    found: int


def embedding_matrix(
    words: Sequence[str], source: str, *, cache_dir: Path, seed: int
) -> PretrainedEmbedding:
    """Make the embedding matrix of a vocabulary from pretrained vectors.

    A word that the vectors lack is tried in lower case. If that fails too, its row is normal noise
    with the standard deviation of the numbers in the rows that were found.

    Args:
        words: The vocabulary by id; `words[0]` is the unknown word.
        source: What `load_vectors` takes.
        cache_dir: Where downloaded vectors are kept.
        seed: Decides the noise.

    Raises:
        ValueError: None of the words has a vector, or as for `load_vectors`.
        OSError: As for `load_vectors`.
    """
    vectors, index = find_vectors(words, source, cache_dir=cache_dir)
    known = index >= 0
    found = int(known[1:].sum())
    if not found:
        raise ValueError(
            f"None of the vocabulary's {len(words) - 1} words has a vector in {source}; "
            "choose vectors for the language of the texts, or none."
        )
    pretrained = vectors.matrix[index[known]]
    noise = np.random.default_rng(seed).standard_normal(
        (len(words), pretrained.shape[1]), np.float32
    )
    matrix = noise * pretrained.std()
    matrix[known] = pretrained
    return PretrainedEmbedding(matrix, found)


def find_vectors(
    words: Sequence[str], source: str, *, cache_dir: Path
) -> tuple[Vectors, NDArray[np.int64]]:
    """Read the vectors of words; one that is not there is tried in lower case.

    Args:
        words: The words.
        source: What `load_vectors` takes, as the next and the errors.
        cache_dir: Where downloaded vectors are kept.

    Returns:
        The vectors, and the row of each word in them, int64 (len(words),); -1 where it has none.
    """
    vectors = load_vectors(source, {*words, *map(str.lower, words)}, cache_dir=cache_dir)
    rows = {word: row for row, word in enumerate(vectors.words)}
    index = np.array([rows.get(word, rows.get(word.lower(), -1)) for word in words], np.int64)
    return vectors, index


@np.errstate(over="ignore")  # a number too large for float32 is told as one that is not finite
def load_vectors(source: str, words: Collection[str], *, cache_dir: Path) -> Vectors:
    """Read the vectors of those of `words` that `source` has.

    Args:
        source: `builtin` (English, 50 numbers a word, part of the package), a file, or a name that
            torchtext knows, such as `glove.6B.100d`, which is downloaded once. A file is `.npz`
            with `words` and `vectors` (and `scale`, where the vectors are to be multiplied by it),
            or text: one word and its numbers a line, separated by spaces or tabs, with or without
            word2vec's first line of two counts, plain or packed (`.gz`, `.tar.gz`, `.zip`). Where
            a word stands twice, the first one counts.
        words: The words wanted, spelt as they are to be found.
        cache_dir: Where downloaded vectors are kept. A file put there by hand saves the download.

    Raises:
        ValueError: The source is not known, or the file is damaged or does not hold vectors.
        FileNotFoundError: There is no such file.
        ConnectionError: The vectors cannot be downloaded.
    """
    path = Path(source).expanduser()
    try:
        if source == BUILTIN:
            with (files("han") / "data" / "glove50.npz").open("rb") as file:
                vectors = _read_npz(file, source, words)
        elif path.is_file() and path.suffix == ".npz":
            with path.open("rb") as file:
                vectors = _read_npz(file, source, words)
        elif path.is_file():
            vectors = _read_text(path, None, words)
        else:
            vectors = _read_published(source, words, cache_dir)
    except _DAMAGED as error:
        raise ValueError(f"{source} cannot be unpacked ({error}); is the file whole?") from error
    finite = np.isfinite(vectors.matrix).all(axis=1)
    if not finite.all():
        word = vectors.words[int(finite.argmin())]
        raise ValueError(f"{source}: the vector of {word!r} has a number that is not finite.")
    return vectors


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Write vectors as a NumPy archive that `load_vectors` reads, whole or not at all.

    Words of more than 200 characters are left out: each word takes the room of the longest.

    Raises:
        OSError: The file cannot be written.
    """
    kept = [row for row, word in enumerate(vectors.words) if len(word) <= _LONGEST]
    words = np.array([vectors.words[row] for row in kept], str)
    with atomic_file(path, "wb") as file:
        np.savez(file, words=words, vectors=vectors.matrix[kept])


def _read_npz(file: IO[bytes], source: str, words: Collection[str]) -> Vectors:
    """Read the wanted rows of a NumPy archive."""
    advice = "save it with numpy.savez(path, words=..., vectors=...)"
    try:
        archive = np.load(file, allow_pickle=False)
        entries = {name: archive[name] for name in archive.files if name in _ENTRIES}
        names, matrix = entries["words"], entries["vectors"]
    except (AttributeError, KeyError, OSError, ValueError) as error:
        raise ValueError(
            f"{source} is not a NumPy archive of arrays `words` and `vectors` ({error}); {advice}."
        ) from error
    scale = entries.get("scale", np.ones((), np.float32))
    if (
        names.dtype.kind != "U"
        or matrix.dtype.kind not in "fi"
        or matrix.ndim != 2
        or names.shape != matrix.shape[:1]
        or scale.shape not in ((), (len(matrix), 1))
    ):
        raise ValueError(
            f"{source}: `words` must be V strings and `vectors` V rows of numbers, they are "
            f"{names.dtype} {names.shape} and {matrix.dtype} {matrix.shape}; {advice}."
        )
    wanted = set(words)
    rows: dict[str, int] = {}
    for row, word in enumerate(names.tolist()):
        if word in wanted:
            rows.setdefault(word, row)
    chosen = np.fromiter(rows.values(), np.int64, len(rows))
    scale = np.broadcast_to(scale, (len(matrix), 1))[chosen].astype(np.float32)
    return Vectors(list(rows), matrix[chosen].astype(np.float32) * scale)


def _read_text(path: Path, member: str | None, words: Collection[str]) -> Vectors:
    """Read the wanted lines of a text file; the numbers of the others are only counted."""
    wanted = {word.encode("utf-8", "surrogatepass"): word for word in words}
    found: dict[str, NDArray[np.float32]] = {}
    separator, width = b" ", 0
    with _open_text(path, member) as lines:
        for number, line in enumerate(lines, start=1):
            row = line.rstrip(b" \t\r\n")
            if not row or (number == 1 and _is_header(row)):
                continue
            first = not width
            if first:
                separator = b"\t" if b"\t" in row else b" "
                width = row.count(separator)
            if not width or row.count(separator) != width:
                raise ValueError(
                    f"{path}:{number}: {row.count(separator)} numbers, {width or 'some'} expected; "
                    "each line must be a word and its vector, all of one length."
                )
            key, _, numbers = row.partition(separator)
            if first or key in wanted:
                vector = _parse(numbers.split(separator), f"{path}:{number}", key)
                if key in wanted:
                    found[wanted.pop(key)] = vector
    if not width:
        raise ValueError(f"{path} holds no vectors; each line must be a word and its vector.")
    matrix = np.stack(list(found.values())) if found else np.empty((0, width), np.float32)
    return Vectors(list(found), matrix)


def _is_header(row: bytes) -> bool:
    """Tell whether a first line is word2vec's: the number of words and that of dimensions."""
    counts = row.split()
    return len(counts) == 2 and counts[0].isdigit() and counts[1].isdigit()


def _parse(numbers: Iterable[bytes], location: str, key: bytes) -> NDArray[np.float32]:
    try:
        return np.array([float(number) for number in numbers], dtype=np.float32)
    except ValueError as error:
        word = key.decode("utf-8", "replace")[:40]
        raise ValueError(
            f"{location}: what follows {word!r} is not a vector; is this a text file of numbers?"
        ) from error


@contextmanager
def _open_text(path: Path, member: str | None) -> Iterator[Iterable[bytes]]:
    """Open a text file that may be packed: `member` of an archive, by default its only file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            with archive.open(_choose(names, member, path)) as file:
                yield file
    elif path.name.endswith(".tar.gz"):
        with tarfile.open(path, "r:gz") as tar:
            name = _choose([entry.name for entry in tar if entry.isfile()], member, path)
            file_in_tar = tar.extractfile(name)
            assert file_in_tar is not None  # only a link or a folder gives none
            yield file_in_tar
    elif path.suffix == ".gz":
        with gzip.open(path) as file:
            yield file
    else:
        with path.open("rb") as file:
            yield file


def _choose(names: Sequence[str], member: str | None, path: Path) -> str:
    """Return the name of the one file that is meant among those in an archive."""
    meant = [name for name in names if member in (None, PurePosixPath(name).name)]
    if len(meant) != 1:
        listing = ", ".join(names[:10]) or "nothing"
        raise ValueError(
            f"{path} must hold one file {member or 'of vectors'}, it holds {listing}; "
            "unpack it and give the path of one file."
        )
    return meant[0]


def _read_published(name: str, words: Collection[str], cache_dir: Path) -> Vectors:
    """Read vectors that torchtext knows by name, from the cache or else from the network."""
    path = Path(name)
    if path.exists() or len(path.parts) > 1 or path.suffix in _SUFFIXES:
        raise FileNotFoundError(f"There is no file of word vectors at {name}; check the path.")
    file_name, url = _locate(name)
    path = cache_dir / file_name
    if not path.is_file():
        path = cache_dir / PurePosixPath(url).name
    if not path.is_file():
        _download(url, path)
    if not name.startswith("charngram"):
        return _read_text(path, file_name, words)
    ngrams = {word: _character_ngrams(word) for word in words if word != "<unk>"}
    return _compose(ngrams, _read_text(path, file_name, {*chain.from_iterable(ngrams.values())}))


def _locate(name: str) -> tuple[str, str]:
    """Return the file and the address of published vectors, as torchtext would load them."""
    from torchtext.vocab import pretrained_aliases  # loads torch, so only where it is needed

    if name not in pretrained_aliases:
        raise ValueError(
            f"Unknown word vectors {name!r}; give {BUILTIN}, the path of a file, or one of "
            f"{', '.join(pretrained_aliases)}."
        )
    alias = pretrained_aliases[name]
    places: list[tuple[str, str]] = []

    def note_place(_: object, file: str, cache: None, url: str, max_vectors: None) -> None:
        places.append((file, url))

    type("Located", (alias.func,), {"cache": note_place})(**alias.keywords)
    return places[0]


def _download(url: str, path: Path) -> None:
    """Store the file at `url` as `path`, whole or not at all."""
    from rich.console import Console
    from rich.progress import wrap_file

    try:
        with urlopen(url, timeout=60) as response:
            size = int(response.headers.get("Content-Length", 0))
            console = Console(stderr=True)
            with (
                wrap_file(response, size, console=console, description=path.name) as counted,
                atomic_file(path, "wb") as file,
            ):
                shutil.copyfileobj(counted, file)
                if file.tell() < size:
                    raise ConnectionError(f"it ended after {file.tell()} of {size} bytes")
    except (HTTPException, OSError) as error:
        raise ConnectionError(
            f"Cannot download {url} ({error}); get it by other means and save it as {path}."
        ) from error


def _character_ngrams(word: str) -> list[str]:
    """Return the names of a word's character n-grams (Hashimoto et al. 2017), n from 2 to 4."""
    characters = ["#BEGIN#", *word, "#END#"]
    return [
        f"{n}gram-{''.join(characters[start : start + n])}"
        for n in (2, 3, 4)
        for start in range(len(characters) - n + 1)
    ]


def _compose(ngrams: Mapping[str, Sequence[str]], vectors: Vectors) -> Vectors:
    """Return each word's mean over those of its n-grams that have a vector."""
    rows = {ngram: row for row, ngram in enumerate(vectors.words)}
    chosen = {
        word: [rows[name] for name in names if name in rows] for word, names in ngrams.items()
    }
    means = {word: vectors.matrix[index].mean(axis=0) for word, index in chosen.items() if index}
    matrix = np.stack(list(means.values())) if means else vectors.matrix[:0]
    return Vectors(list(means), matrix)
