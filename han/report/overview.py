"""Draw the overview of a whole set of documents, for a terminal."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from han.explanation import METHODS, method_name
from han.overview import ClassWord, ClassWords, Example, Overview, Positions
from han.report.layout import percent, short
from han.report.terminal import VISIBLE, plain_console

_WIDTH = 80
_LONGEST_WORD = 20
_LEAST_CONTEXT = 16
_GAP = 2
_SIGNED = METHODS[1:]


def render_overview(overview: Overview, console: Console | None = None) -> str:
    """Return the words of each class, each with an example in context, as lines of text.

    Below them stand the mean attention by place and the calibration. Control characters of the
    texts and bidirectional controls are shown as symbols, never sent. Where there are no colours,
    the word stands in brackets in its context.

    Args:
        overview: What to draw.
        console: Whose width and colours to use; else 80 columns and no colours.

    Returns:
        The lines, each with its end; without any escape sequence where there are no colours.
    """
    if console is None or console.color_system is None or console.no_color:
        console = plain_console(_WIDTH if console is None else console.width)
    coloured = console.color_system is not None
    with console.capture() as captured:
        for one in overview.classes:
            noun = "document" if one.documents == 1 else "documents"
            console.print(
                Text.assemble(
                    (one.label.translate(VISIBLE), "bold"), (f"   {one.documents:,} {noun}", "dim")
                )
            )
            console.print(_words(one, overview.method, console.width, coloured=coloured))
            console.print()
        if overview.positions is not None:
            console.print(_places(overview.positions))
            console.print()
        console.print(Text(_closing(overview), style="dim"))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _words(one: ClassWords, method: str, width: int, *, coloured: bool) -> Table | Text:
    if not one.words:
        return Text("No word occurs often enough and carries the class.", style="italic")
    header = [
        "word",
        "times",
        "in docs",
        "share",
        "lift",
        *(["score"] if method in _SIGNED else []),
    ]
    rows = [[_name(word), *_figures(word, method)] for word in one.words]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
        width -= max(len(name), *(row[place].cell_len for row in rows)) + _GAP
    if any(word.examples for word in one.words):
        table.add_column("in context", no_wrap=True)
    room = max(width, _LEAST_CONTEXT)
    for word, row in zip(one.words, rows, strict=True):
        contexts = [_context(example, room, coloured) for example in word.examples]
        table.add_row(*row, *contexts[:1])
        for context in contexts[1:]:
            table.add_row(*("" for _ in row), context)
    return table


def _figures(word: ClassWord, method: str) -> list[Text]:
    figures = [f"{word.occurrences:,}", f"{word.documents:,}", percent(word.share)]
    figures.append(f"{word.lift:.1f}")
    if method in _SIGNED:
        figures.append(short(method, word.scores[method]))
    return list(map(Text, figures))


def _name(word: ClassWord) -> Text:
    name = Text(word.word.translate(VISIBLE), style="bold")
    name.truncate(_LONGEST_WORD, overflow="ellipsis")
    return name.append(" (unknown)", style="not bold dim") if word.unknown else name


def _context(example: Example, room: int, coloured: bool) -> Text:
    """Return a word between its neighbours; it begins where those above and below it do."""
    before, middle = example.before.translate(VISIBLE), room * 2 // 5
    while cell_len(before) > middle:
        before = before.partition(" ")[2] if " " in before[:-1] else before[1:]
    word = example.word.translate(VISIBLE)
    context = Text.assemble(
        " " * (middle - cell_len(before)),
        before,
        (word, "bold #c8660a") if coloured else f"[{word}]",
        example.after.translate(VISIBLE),
    )
    context.truncate(room, overflow="ellipsis")
    return context


def _places(positions: Positions) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("lift, tenth by tenth", no_wrap=True)
    for tenth in range(1, len(positions.sentences) + 1):
        table.add_column(str(tenth), justify="right", no_wrap=True)
    for name, lifts in (
        ("sentences of documents", positions.sentences),
        ("words of sentences", positions.words),
    ):
        table.add_row(name, *(f"{lift:.2f}" for lift in lifts))
    return table


def _closing(overview: Overview) -> str:
    closing = (
        f"{overview.documents:,} document{'s' * (overview.documents != 1)}. Words by "
        f"{method_name(overview.method)}; those that few documents have stand further down."
    )
    if (calibration := overview.calibration) is not None:
        closing += (
            f" Confidence and accuracy differ by {percent(calibration.expected_error)} on average "
            f"(expected calibration error, {calibration.documents:,} labelled)."
        )
    return closing
