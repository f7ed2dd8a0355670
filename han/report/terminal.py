"""Draw an explanation in a terminal, or as plain lines where there are no colours."""

from __future__ import annotations

import io
import re

from rich.console import Console
from rich.table import Table
from rich.text import Text

from han.explanation import STEPS, Explanation
from han.report.layout import CONTROLS, Piece, arrange, percent

_WIDTH = 80
_BAR = 6
_CLASSES = 6
_IMPORTANT = STEPS // 2
"""The step from which a word is marked where there are no colours."""

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
)

_BIDIRECTIONAL = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE: dict[int, int | str] = {
    **CONTROLS,
    **{ord(character): 0x2400 + ord(character) for character in "\t\n\r"},
    **{code: f"<U+{code:04X}>" for code in (*_BIDIRECTIONAL, 0x2028, 0x2029)},
}


def render_terminal(explanation: Explanation, console: Console | None = None) -> str:
    """Return an explanation as lines of text, wrapped to the terminal's width.

    Each sentence has its part of the document's weight in the gutter, in per cent and as a bar.
    Words are coloured by their weight; where there are no colours, the important ones are written
    as `[word|.32]` with their share of the document's weight. Control characters, line ends within
    words and bidirectional controls of the text are shown as symbols, never sent.

    Args:
        explanation: What to draw.
        console: Whose width and colours to use; else 80 columns and no colours.

    Returns:
        The lines, each with its end; without any escape sequence where there are no colours.
    """
    if console is None or console.color_system is None or console.no_color:
        # A console without colours of its own would still send bold and underline.
        width = _WIDTH if console is None else console.width
        return _draw(explanation, _plain_console(width), coloured=False)
    return _draw(explanation, console, coloured=True)


def _plain_console(width: int) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        legacy_windows=False,
    )


def _draw(explanation: Explanation, console: Console, *, coloured: bool) -> str:
    with console.capture() as captured:
        console.print(Text(explanation.id.translate(_VISIBLE), style="bold"))
        console.print(_verdict(explanation))
        console.print(_classes(explanation))
        console.print()
        console.print(_sentences(explanation, coloured=coloured))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _verdict(explanation: Explanation) -> Text:
    verdict = Text.assemble(
        "Read as ",
        (explanation.predicted.translate(_VISIBLE), "bold"),
        f" with {percent(explanation.probability)}",
    )
    if explanation.true == explanation.predicted:
        verdict.append(", which is right")
    elif explanation.true is not None:
        verdict.append(", in truth ").append(explanation.true.translate(_VISIBLE), "bold")
    return verdict.append(".")


def _classes(explanation: Explanation) -> Text:
    pairs = sorted(
        zip(explanation.labels, explanation.probabilities, strict=True), key=lambda pair: -pair[1]
    )
    shown = [f"{label.translate(_VISIBLE)} {percent(p)}" for label, p in pairs[:_CLASSES]]
    if len(pairs) > _CLASSES:
        shown.append(f"{len(pairs) - _CLASSES} more")
    return Text("   ".join(shown), style="dim")


def _sentences(explanation: Explanation, *, coloured: bool) -> Table | Text:
    if explanation.empty:
        return Text("No words: the class comes from the classifier's bias alone.", style="italic")
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for block in arrange(explanation):
        if block.sentence is None:
            gutter, bar = "", Text()
        else:
            gutter, bar = percent(block.sentence.weight), _bar(block.height)
        text = Text.assemble(*(_piece(piece, coloured=coloured) for piece in block.pieces))
        table.add_row(Text(gutter, style="bold" if block.key else "dim"), bar, text)
    return table


def _bar(height: float) -> Text:
    eighths = round(8 * _BAR * height)
    full, part = divmod(eighths, 8)
    bar = "█" * full + ("", *"▏▎▍▌▋▊▉")[part]
    return Text(bar.ljust(_BAR), style="#c8660a")


def _piece(piece: Piece, *, coloured: bool) -> Text:
    if piece.cut:
        return Text(f"[{len(piece.text):,} characters not read]", style="dim")
    if piece.word is None:
        return Text(re.sub(r"\s+", " ", piece.text).translate(_VISIBLE))
    word = piece.text.translate(_VISIBLE)
    if coloured:
        style = _STYLES[piece.step]
        return Text(word, style=f"italic {style}" if piece.word.unknown else style)
    if piece.step >= _IMPORTANT:
        return Text(f"[{word}|{_two_digits(piece.word.share)}]")
    return Text(word)


def _two_digits(share: float) -> str:
    """Write a share of 1 with two significant digits: `.32`, `.0047`, `1.0`."""
    if share >= 0.995:
        return f"{share:.1f}"
    digits = f"{share:.2g}" if share < 0.1 else f"{share:.2f}"
    return f"{float(digits):.10f}".rstrip("0").removeprefix("0") if share else ".00"
