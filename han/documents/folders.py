"""Text files, each one document: alone, or in a folder with a sub-folder for each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from han.documents.lines import Lines, inner_suffix, open_unpacked
from han.documents.rows import SPLITS, LocatedRow, RowError, encodable

TEXT_SUFFIXES = (".txt", ".text", ".md", "")


def read_text(path: Path, encoding: str) -> str | RowError:
    """Return the whole text of a file, or what is wrong with it."""
    with open_unpacked(path) as stream:
        lines = Lines(stream, encoding)
        text = "".join(lines)
    return lines.error() if lines.problem else text


def folder_rows(
    folder: Path, encoding: str, labels_required: bool, skipped: Counter[str]
) -> Iterator[LocatedRow]:
    """Read text files; the first folder below `folder`, or below its splits, is the class.

    Args:
        folder: Where to look.
        encoding: Of the files.
        labels_required: Whether files outside a class folder are left out.
        skipped: Counts what is left out.

    Yields:
        Rows with the columns `text`, `label`, `split` and `id`.
    """
    top = [child for child in folder.iterdir() if child.is_dir() and child.name[0] != "."]
    has_splits = bool(top) and all(
        child.name.lower() in SPLITS and any(below.is_dir() for below in child.iterdir())
        for child in top
    )
    found = False
    other = ""
    for path in files_below(folder):
        inside = path.relative_to(folder)
        parts = inside.parts
        split, parts = (parts[0], parts[1:]) if has_splits and len(parts) > 1 else (None, parts)
        if inner_suffix(path) not in TEXT_SUFFIXES:
            skipped["not a text file"] += 1
            other = other or path.name
        elif len(parts) == 1 and labels_required:
            skipped["outside a class folder"] += 1
        else:
            found = True
            text = read_text(path, encoding)
            label = parts[0] if len(parts) > 1 else None
            row = {"text": text, "label": label, "split": split, "id": inside.as_posix()}
            yield encodable(str(path)), text if isinstance(text, RowError) else row
    if not found:
        where = "sub-folders, one for each class" if labels_required else "it"
        raise ValueError(
            f"{folder}: a folder must hold text files (.txt, .text, .md or no suffix) in {where}; "
            f"there are none{other and f', but {other}: name a file to read it'}."
        )


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in sorted order, links followed, hidden ones left out."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (Path(parent, name) for name in sorted(files) if name[0] != ".")
