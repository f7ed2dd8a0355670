"""Write files and directories whole or not at all: beside the target, then moved into place."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal


@contextmanager
def atomic_file(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` that takes its place when the block ends without an error.

    Args:
        path: The file to write or replace; its folder is made if it is missing.
        mode: `"w"` for UTF-8 text (line ends as written), `"wb"` for bytes.

    Yields:
        The open file. If the block raises, the old file stays as it was and nothing is left over.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # of a name that nobody has given
        raise type(error)(error.errno, error.strerror, str(path)) from error
    text: dict[str, str] = {} if mode == "wb" else {"encoding": "utf-8", "newline": ""}
    try:
        with open(descriptor, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _flush(path.parent)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Fill a new directory beside `path` that takes its place when the block ends without an error.

    Args:
        path: The directory to write or replace.

    Yields:
        The temporary directory. If the block raises, an old directory stays as it was.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield beside
        for path_inside in (beside, *beside.rglob("*")):
            _flush(path_inside)
        os.chmod(beside, 0o777 & ~_umask())
        _swap(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _flush(path.parent)


def remove_debris(path: str | Path) -> None:
    """Remove what processes that were killed as they wrote `path` left beside it.

    Nobody may be writing it.
    """
    path = Path(path)
    for debris in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if debris.is_dir():
            shutil.rmtree(debris, ignore_errors=True)
        else:
            debris.unlink(missing_ok=True)


def _swap(new: Path, path: Path) -> None:
    """Move `new` to `path`; a directory cannot replace a full one, so the old one steps aside."""
    if not path.exists():
        os.rename(new, path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    os.rename(path, old / path.name)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old / path.name, path)
        os.rmdir(old)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    """Make what was written to a file or folder durable (not all systems can open a folder)."""
    if os.name == "posix" or path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
