"""What a store is known by: its sources' content, its options and the code that reads them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import json
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from han.documents.folders import files_below
from han.documents.hub import SCHEME

_STAGES = ("documents", "lexicon", "tokenization", "vocabulary", "embeddings", "corpus")


def key_of(identity: Mapping[str, object]) -> str:
    """Return the name of the store that this identity, of JSON's types, has."""
    content = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def source_name(source: str | Path) -> str:
    """Return the part of a source's address that enters the ids of its documents."""
    return str(source) if str(source).startswith(SCHEME) else Path(source).name


def identify_source(source: str | Path) -> list[str]:
    """Return a source's name and a hash of its content.

    A folder's content is its files' names and bytes, hidden ones left out, as when it is read. Of a
    data set of the hub the address is all there is to go by; its hash is empty.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: The source can be read only once.
    """
    address = str(source)
    path = Path(address)
    if address.startswith(SCHEME):
        path = Path(address.removeprefix(SCHEME).partition("?")[0])
        if not path.exists():
            return [address, ""]
    if address == "-":
        raise ValueError("Standard input cannot be prepared, as it is read once; give a file.")
    if not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder.")
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"{source}: a pipe cannot be prepared, as it is read once; give a file.")
    digest = hashlib.sha256()
    for file in files_below(path) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        name = file.relative_to(path).as_posix()
        digest.update(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return [source_name(source), digest.hexdigest()]


def identify_vectors(source: str) -> list[str]:
    """Return the name of pretrained vectors, and of a file a hash of its content."""
    path = Path(source).expanduser()
    return identify_source(path) if path.is_file() else [source, ""]


def identify_code() -> list[str]:
    """Return what stands for the code whose change would change a store."""
    digest = hashlib.sha256()
    for module in _modules():
        digest.update(module.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("sentencex", "tokenizers")]
    return [digest.hexdigest(), *versions]


def _modules() -> Iterator[Traversable]:
    """Yield the source files of the stages from documents to the store, in a fixed order."""
    package = importlib.resources.files("han")
    for stage in _STAGES:
        folder = package / stage
        if folder.is_dir():
            files = [file for file in folder.iterdir() if file.name.endswith(".py")]
            yield from sorted(files, key=lambda file: file.name)
        else:
            yield package / f"{stage}.py"
    yield package / "native" / "words.cpp"  # finds what `lexicon` finds, only faster
