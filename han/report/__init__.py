"""Explanations as files and pictures: pure functions of the value objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from han.atomic import atomic_file
from han.explanation import Explanation
from han.faithfulness import Faithfulness
from han.report.html import render_html, render_notebook
from han.report.json import render_json, render_json_lines
from han.report.latex import render_latex
from han.report.markdown import render_markdown
from han.report.svg import render_svg
from han.report.terminal import render_terminal

__all__ = [
    "SUFFIXES",
    "check_report_path",
    "render_html",
    "render_json",
    "render_json_lines",
    "render_latex",
    "render_markdown",
    "render_notebook",
    "render_svg",
    "render_terminal",
    "write_report",
]

SUFFIXES = (".html", ".json", ".jsonl", ".txt", ".md", ".tex", ".svg")


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
    path: str | Path,
    explanations: Iterable[Explanation],
    *,
    title: str = "Explanations",
    method: str = "attention",
    label: str | None = None,
    faithfulness: Faithfulness | None = None,
    compare: Iterable[Explanation] | None = None,
) -> None:
    r"""Write explanations in the format that the path's ending names, whole or not at all.

    Args:
        path: The file: `.html` (one page that needs no network), `.json` (an array), `.jsonl`
            (a record a line), `.txt` (as in a terminal without colours), `.md` (Markdown), `.tex`
            (LaTeX, by itself or for `\input`) or `.svg` (one picture, the documents below each
            other). JSON, text and Markdown are written as the explanations come, without holding
            them in memory.
        explanations: What to write, in order.
        title: The title of a page, of Markdown, LaTeX and a picture.
        method: The method whose figures to draw, one of `Explanation.methods`. A page and JSON hold
            all of them.
        label: The class that these speak for or against; by default the predicted one. JSON holds
            all of them; a page opens with this one, and holds the three likeliest classes of each
            document, the true one and that of `label`.
        faithfulness: How far the highlights can be trusted, for a page.
        compare: Another model's explanations of the same documents in the same order, for a page.

    Raises:
        ValueError: The ending is unknown, an explanation has no such method or class, the
            explanations of a page are of models with other labels, or another format than a page
            shall hold `faithfulness` or `compare`.
        OSError: The file cannot be written.
    """
    check_report_path(path)
    suffix = Path(path).suffix.lower()
    if suffix != ".html" and not (faithfulness is None and compare is None):
        raise ValueError(f"{path}: only a .html report can hold `faithfulness` and `compare`.")
    with atomic_file(path) as file:
        if suffix == ".html":
            page = render_html(
                explanations,
                title=title,
                faithfulness=faithfulness,
                compare=compare,
                label=label,
            )
            file.write(page)
        else:
            file.writelines(_parts(suffix, explanations, title, method, label))


def _parts(
    suffix: str, explanations: Iterable[Explanation], title: str, method: str, label: str | None
) -> Iterator[str]:
    if suffix == ".json":
        yield from render_json(explanations)
    elif suffix == ".jsonl":
        yield from render_json_lines(explanations)
    elif suffix == ".md":
        yield from render_markdown(explanations, title=title, method=method, label=label)
    elif suffix == ".tex":
        yield render_latex(explanations, title=title, method=method, label=label)
    elif suffix == ".svg":
        yield render_svg(explanations, title=title, method=method, label=label)
    else:
        for i, explanation in enumerate(explanations):
            yield "\n" * (i > 0) + render_terminal(explanation, method=method, label=label)
