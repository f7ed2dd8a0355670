"""Draw an explanation in a terminal, or as plain lines where there are no colours."""

from __future__ import annotations

import io
import re
from itertools import groupby
from operator import itemgetter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from han.explanation import Explanation, method_name
from han.report.layout import (
    AGAINST,
    FOR,
    IMPORTANT,
    SYMBOLS,
    Piece,
    arrange,
    figure,
    odds,
    short,
    verdict,
)

_WIDTH = 80
_BAR = 6

# Ink and paper are both set, and the paper is of middling lightness throughout, so that the steps
# read in the same order on dark and on light terminals.
_STYLES = (
    "",
    "",
    "underline",
    "black on #b9ab8c",
    "black on #c5a875",
    "black on #d1a55c",
    "black on #dda042",
    "black on #e99a26",
    "bold underline black on #f59300",
    # From here on against the class, from -8 to -1.
    "bold underline black on #3fa0ff",
    "black on #58a8f8",
    "black on #6eaeeb",
    "black on #82b1dc",
    "black on #95b2cc",
    "black on #a3b0bc",
    "underline #4a90d0",
    "",
)

_BIDIRECTIONAL = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
VISIBLE = SYMBOLS | {code: f"<U+{code:04X}>" for code in (*_BIDIRECTIONAL, 0x2028, 0x2029)}


def render_terminal(
    explanation: Explanation,
    console: Console | None = None,
    *,
    method: str = "attention",
    label: str | None = None,
) -> str:
    """Return an explanation as lines of text, wrapped to the terminal's width.

    Each sentence has its figure in the gutter (attention as a part of the document's weight in per
    cent) and as a bar. Words are coloured by theirs, blue where they speak against the class; where
    there are no colours, the important ones are written as `[word|.32]` with their share of the
    document's weight, or as `[word|+.32]` and `[word|-.05]`. Control characters, line ends within
    words and bidirectional controls of the text are shown as symbols, never sent.

    Args:
        explanation: What to draw.
        console: Whose width and colours to use; else 80 columns and no colours.
        method: The method whose figures to draw, one of `explanation.methods`.
        label: The class that they speak for or against; by default the predicted one.

    Returns:
        The lines, each with its end; without any escape sequence where there are no colours.

    Raises:
        ValueError: The explanation has no such method, or the model no such class.
    """
    if console is None or console.color_system is None or console.no_color:
        # A console without colours of its own would still send bold and underline.
        console = plain_console(_WIDTH if console is None else console.width)
    coloured = console.color_system is not None
    with console.capture() as captured:
        console.print(Text(explanation.id.translate(VISIBLE), style="bold"))
        parts = verdict(explanation)
        console.print(
            Text.assemble(
                *((part.translate(VISIBLE), "bold" if name else "") for part, name in parts)
            )
        )
        console.print(Text("   ".join(odds(explanation)).translate(VISIBLE), style="dim"))
        if method != "attention":
            console.print(_legend(explanation, method, label, coloured=coloured))
        console.print()
        console.print(_sentences(explanation, method, label, console.width, coloured=coloured))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def plain_console(width: int) -> Console:
    """Return a console that sends text alone, without colours and styles."""
    return Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        legacy_windows=False,
    )


def _legend(explanation: Explanation, method: str, label: str | None, *, coloured: bool) -> Text:
    label = (explanation.predicted if label is None else label).translate(VISIBLE)
    marks = (("orange", FOR), ("blue", AGAINST)) if coloured else (("+", ""), ("-", ""))
    return Text.assemble(
        f"{method_name(method).translate(VISIBLE)}: ",
        marks[0],
        f" speaks for {label}, ",
        marks[1],
        " against it",
    )


def _sentences(
    explanation: Explanation, method: str, label: str | None, width: int, *, coloured: bool
) -> Table | Text:
    if explanation.empty:
        return Text("No words: the class comes from the classifier's bias alone.", style="italic")
    rows = []
    for block in arrange(explanation, method, label):
        number, bar = "", Text()
        if block.sentence is not None:
            number, bar = figure(method, block.score), _bar(block.height)
        pieces = (_piece(piece, method, coloured=coloured) for piece in block.pieces)
        runs = groupby(pieces, key=itemgetter(1))  # far fewer than pieces
        text = Text.assemble(*(("".join(part for part, _ in run), style) for style, run in runs))
        rows.append((Text(number, style="bold" if block.key else "dim"), bar, text))
    # Columns of a given width need not be measured.
    gutter = max(number.cell_len for number, _, _ in rows)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True, width=gutter)
    table.add_column(no_wrap=True, width=_BAR)
    table.add_column(overflow="fold", width=max(1, width - gutter - _BAR - 2))
    for row in rows:
        table.add_row(*row)
    return table


def _bar(height: float) -> Text:
    eighths = round(8 * _BAR * abs(height))
    full, part = divmod(eighths, 8)
    bar = "█" * full + ("", *"▏▎▍▌▋▊▉")[part]
    return Text(bar.ljust(_BAR), style=FOR if height >= 0 else AGAINST)


def _piece(piece: Piece, method: str, *, coloured: bool) -> tuple[str, str]:
    """Return how a piece of the text is written, and in which style."""
    if piece.cut:
        return f"[{len(piece.text):,} characters not read]", "dim"
    if piece.word is None:
        return re.sub(r"\s+", " ", piece.text).translate(VISIBLE), ""
    word = piece.text.translate(VISIBLE)
    if coloured:
        style = _STYLES[piece.step]
        return word, f"italic {style}" if piece.word.unknown else style
    if abs(piece.step) >= IMPORTANT:
        return f"[{word}|{short(method, piece.score)}]", ""
    return word, ""
