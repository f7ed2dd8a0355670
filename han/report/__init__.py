"""Explanations as files and pictures: pure functions of the value objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from han.atomic import atomic_file
from han.explanation import Explanation
from han.report.html import render_html, render_notebook
from han.report.json import render_json, render_json_lines
from han.report.terminal import render_terminal

__all__ = [
    "SUFFIXES",
    "check_report_path",
    "render_html",
    "render_json",
    "render_json_lines",
    "render_notebook",
    "render_terminal",
    "write_report",
]

SUFFIXES = (".html", ".json", ".jsonl", ".txt")


def check_report_path(path: str | Path) -> None:
    """Refuse a path whose ending names no format, before any work is done for it.

    Args:
        path: Where a report shall be written.

    Raises:
        ValueError: The ending is unknown, or the path is a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path}: cannot tell the format of a report from {path.suffix or 'no ending'!r}; "
            f"use a name that ends in one of {', '.join(SUFFIXES)}."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write the report to.")


def write_report(
    path: str | Path, explanations: Iterable[Explanation], *, title: str = "Explanations"
) -> None:
    """Write explanations in the format that the path's ending names, whole or not at all.

    Args:
        path: The file: `.html` (one page that needs no network), `.json` (an array), `.jsonl`
            (a record a line) or `.txt` (as in a terminal without colours). All but `.html` are
            written as the explanations come, without holding them in memory.
        explanations: What to write, in order.
        title: The title of the page.

    Raises:
        ValueError: The ending is unknown, or the explanations are of models with other labels.
        OSError: The file cannot be written.
    """
    check_report_path(path)
    with atomic_file(path) as file:
        file.writelines(_parts(Path(path).suffix.lower(), explanations, title))


def _parts(suffix: str, explanations: Iterable[Explanation], title: str) -> Iterator[str]:
    if suffix == ".html":
        yield render_html(explanations, title=title)
    elif suffix == ".json":
        yield from render_json(explanations)
    elif suffix == ".jsonl":
        yield from render_json_lines(explanations)
    else:
        for i, explanation in enumerate(explanations):
            yield "\n" + render_terminal(explanation) if i else render_terminal(explanation)
