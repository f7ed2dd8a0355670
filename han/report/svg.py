"""Draw explanations as one SVG picture, for slides and papers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from xml.sax.saxutils import escape

from han.explanation import Explanation, method_name
from han.report.layout import (
    AGAINST,
    FOR,
    LINES,
    PAPER,
    SYMBOLS,
    Block,
    arrange,
    directions,
    figure,
    has_direction,
    is_rtl,
    may_break,
    odds,
    verdict,
)

_WIDTH = 960
_MARGIN = 30
_GUTTER = 84
_SIZE = 18
_LINE = 29
_SMALL = 13
_INK, _QUIET, _PAGE, _RULE = "#1d1b18", "#655f56", "#fbfaf7", "#e4e0d8"

# Widths of the ASCII characters from the space on in Helvetica, which Arial shares, in 1/1000 of
# the size of the type.
_HELVETICA = (
    *(278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278),
    *(556,) * 10,
    *(278, 278, 584, 584, 584, 556, 1015),
    *(667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833),
    *(722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611),
    *(278, 278, 278, 469, 556, 333),
    *(556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833),
    *(556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500),
    *(334, 260, 334, 584),
)
_OTHERS = {"Lu": 690, "Lo": 600, "So": 1000, "Po": 400, "Pd": 700, "Zs": 278}


@dataclass(frozen=True, slots=True)
class _Run:
    """Text that is drawn in one manner and never parted: a word, a part of one, or a space."""

    text: str
    step: int = 0
    unknown: bool = False
    cut: bool = False

    @property
    def width(self) -> float:
        return _width(self.text)

    @property
    def space(self) -> bool:
        return self.text == " "

    @property
    def plain(self) -> bool:
        return not (self.step or self.unknown or self.cut or is_rtl(self.text))


def render_svg(
    explanations: Iterable[Explanation],
    *,
    title: str | None = None,
    method: str = "attention",
    label: str | None = None,
) -> str:
    """Return one SVG picture, 960 pixels wide; several documents stand below each other.

    Each sentence has its figure and a bar in the gutter; the words have coloured boxes, with a line
    below where they speak for the class and above where against. The text stays text, each word set
    to the width of its box, so that the boxes fit with any font. The picture runs no script and
    loads nothing, and no text can become markup; control characters are shown as symbols.

    Args:
        explanations: What to draw, in order.
        title: What the picture is called where it is embedded; the first document's id by default.
        method: The method whose figures to draw, one of `Explanation.methods`.
        label: The class that they speak for or against; by default the predicted one.

    Raises:
        ValueError: An explanation has no such method, or its model no such class.
    """
    parts: list[str] = []
    y = float(_MARGIN)
    for explanation in explanations:
        title = explanation.id if title is None else title
        if parts:
            y += _LINE
            parts.append(_rect(_MARGIN, y, _WIDTH - 2 * _MARGIN, 1, _RULE))
            y += _LINE
        y = _document(parts, y, explanation, method, label)
    height = round(y) + _MARGIN
    name = escape((title or "No documents").translate(SYMBOLS))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" font-size="{_SIZE}" fill="{_INK}" '
        f"font-family=\"Helvetica, Arial, 'Liberation Sans', 'Nimbus Sans', sans-serif\">\n"
        f"<title>{name}</title>\n"
        f'<rect width="100%" height="100%" fill="{_PAGE}"/>\n{"".join(parts)}</svg>\n'
    )


def _document(
    parts: list[str], y: float, explanation: Explanation, method: str, label: str | None
) -> float:
    """Draw a document from `y` on; return where it ends."""
    left, room = _MARGIN, _WIDTH - 2 * _MARGIN
    y += 20
    heading = _shortened(explanation.id.translate(SYMBOLS), 20, room)
    parts.append(_text(left, y, heading, 20, weight="bold"))
    said = "".join(part for part, _ in verdict(explanation)).translate(SYMBOLS)
    y += 25
    parts.append(_text(left, y, _shortened(said, 15, room), 15))
    y += 20
    shown = "  \N{MIDDLE DOT}  ".join(odds(explanation)).translate(SYMBOLS)
    parts.append(_text(left, y, _shortened(shown, _SMALL, room), _SMALL, fill=_QUIET))
    y += 14
    if explanation.empty:
        y += 24
        note = "No words: the class comes from the classifier's bias alone."
        parts.append(_text(left, y, note, 15, style="italic"))
    for block in arrange(explanation, method, label):
        y += 14 if block.paragraph else 4
        y = _sentence(parts, y, block, method)
    if explanation.empty:
        return y
    y += 18
    class_ = explanation.predicted if label is None else label
    _legend(parts, y, method, class_.translate(SYMBOLS))
    return y + 14


def _sentence(parts: list[str], y: float, block: Block, method: str) -> float:
    left = _MARGIN + _GUTTER
    base = is_rtl("".join(piece.text for piece in block.pieces))
    room = _WIDTH - _MARGIN - left
    lines = list(_lines(_runs(block), room))
    if block.sentence is not None:
        bottom = y + len(lines) * _LINE
        colour = FOR if block.height >= 0 else AGAINST
        number = figure(method, block.score).replace("-", "\N{MINUS SIGN}")
        weight, fill = ("bold", _INK) if block.key else ("normal", _QUIET)
        end = left - 24
        parts.append(_text(end, y + 19, number, _SMALL, weight=weight, fill=fill, anchor="end"))
        full = bottom - y - 6
        part = full * abs(block.height)
        parts.append(_rect(left - 17, y + 3, 7, full, _RULE, radius=3))
        if part >= 0.05:
            parts.append(_rect(left - 17, y + 3 + full - part, 7, part, colour, radius=3))
    for line in lines:
        ordered = _visual(line, base)
        indent = room - sum(run.width for run in ordered) if base else 0.0
        _line(parts, left + indent, y, ordered)
        y += _LINE
    return y


def _line(parts: list[str], x: float, y: float, line: list[_Run]) -> None:
    """Draw boxes first, then the text, neighbours without a box as one."""
    baseline = y + 20
    texts: list[str] = []
    for plain, group in groupby(line, key=lambda run: run.plain):
        runs = list(group)
        if plain:
            texts.append(_fitted(x, baseline, "".join(run.text for run in runs)))
            x += sum(run.width for run in runs)
            continue
        for run in runs:
            width = run.width
            if run.step:
                parts.append(_rect(x - 1, y + 3, width + 2, 23, PAPER[run.step], radius=3))
                _underline(parts, x - 1, y + 3, width + 2, 23, run.step)
            if run.unknown:
                parts.append(
                    f'<path d="M{_n(x)} {_n(y + 23.5)}h{_n(width)}" stroke="{_QUIET}" '
                    f'stroke-dasharray="1.5 2"/>\n'
                )
            texts.append(_fitted(x, baseline, run.text, cut=run.cut))
            x += width
    parts += texts


def _legend(parts: list[str], y: float, method: str, label: str) -> None:
    """Draw the scale of colours in one line."""
    x = float(_MARGIN + _GUTTER)
    if method == "attention":
        before, after, first = "less attention", "more", 1
    else:
        label = _shortened(label, _SMALL, _WIDTH / 5)
        before, after, first = (
            f"{method_name(method)}: against {label}",
            f"for {label}",
            -8,
        )
    parts.append(_text(x, y + 12, before, _SMALL, fill=_QUIET, fitted=True))
    x += _width(before) * _SMALL / _SIZE + 8
    for step in range(first, 9):
        parts.append(_rect(x, y, 15, 16, PAPER[step]))
        _underline(parts, x, y, 15, 16, step)
        x += 15
    parts.append(_text(x + 8, y + 12, after, _SMALL, fill=_QUIET))


def _underline(
    parts: list[str], x: float, y: float, width: float, height: float, step: int
) -> None:
    """Draw the line below or above a box that begins at `(x, y)`."""
    if thickness := LINES[abs(step)]:
        top = y + height - thickness if step > 0 else y
        parts.append(_rect(x, top, width, thickness, FOR if step > 0 else AGAINST))


def _runs(block: Block) -> Iterator[_Run]:
    for piece in block.pieces:
        if piece.cut:
            for word in f"[{len(piece.text):,} characters not read]".split(" "):
                yield _Run(word, cut=True)
                yield _Run(" ")
        elif piece.word is None:
            for text in re.split(r"(\s+)", piece.text):
                if text:
                    yield _Run(" " if text.isspace() else text.translate(SYMBOLS))
        else:
            yield _Run(piece.text.translate(SYMBOLS), piece.step, piece.word.unknown)


def _lines(runs: Iterable[_Run], room: float) -> Iterator[list[_Run]]:
    """Break runs into lines at spaces, beside wide characters, and within what is too long."""
    line: list[_Run] = []
    used = 0.0
    for unit in _units(runs):
        width = sum(run.width for run in unit)
        if used and used + width > room:
            yield _trimmed(line)
            line, used = [], 0.0
        if width > room:
            for run in unit:
                for part in _parted(run, room):
                    if used and used + part.width > room:
                        yield line
                        line, used = [], 0.0
                    line.append(part)
                    used += part.width
        elif used or not unit[0].space:
            line += unit
            used += width
    if line := _trimmed(line):
        yield line


def _units(runs: Iterable[_Run]) -> Iterator[list[_Run]]:
    """Yield what stays together on a line: runs between which there may be no break."""
    unit: list[_Run] = []
    for run in runs:
        if unit and (run.space or unit[-1].space or may_break(unit[-1].text[-1], run.text[0])):
            yield unit
            unit = []
        unit.append(run)
    if unit:
        yield unit


def _parted(run: _Run, room: float) -> Iterator[_Run]:
    """Cut a run that no line can hold, never before a combining character."""
    start, used = 0, 0.0
    for i, width in enumerate(_widths(run.text)):
        if width and used + width > room:
            yield _Run(run.text[start:i], run.step, run.unknown)
            start, used = i, 0.0
        used += width
    yield _Run(run.text[start:], run.step, run.unknown)


def _trimmed(line: list[_Run]) -> list[_Run]:
    while line and line[-1].space:
        line = line[:-1]
    return line


def _visual(line: list[_Run], base: bool) -> list[_Run]:
    """Order a line's runs as they stand from left to right (Unicode's rules N1, N2 and L2)."""
    ordered: list[_Run] = []
    resolved = zip(directions([run.text for run in line], base), line, strict=True)
    for reverse, group in groupby(resolved, key=lambda pair: pair[0]):
        runs = [_mirrored(run) if reverse else run for _, run in group]
        runs = runs[::-1] if reverse else runs
        ordered = runs + ordered if base else ordered + runs
    return ordered


def _mirrored(run: _Run) -> _Run:
    """Let a bracket that is drawn by itself open towards the left."""
    if run.space or has_direction(run.text):
        return run
    return replace(run, text=f"\u200f{run.text}\u200f")


def _shortened(text: str, size: float, room: float) -> str:
    """Cut a text to what fits."""
    if _width(text) * size / _SIZE <= room:
        return text
    used = 0.0
    for i, width in enumerate(_widths(text)):
        used += width * size / _SIZE
        if width and used > room - size:
            return f"{text[:i]}…"
    return text


def _width(text: str) -> float:
    return sum(_widths(text))


def _widths(text: str) -> Iterator[float]:
    """Yield the width of each character in pixels; 0 for what is drawn onto the one before it."""
    joined = False
    for character in text:
        yield 0.0 if joined else _SIZE * _character_width(character) / 1000
        joined = character == "\u200d"


@cache
def _character_width(character: str) -> int:
    code = ord(character)
    if 32 <= code < 127:
        return _HELVETICA[code - 32]
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf") or 0x1F3FB <= code <= 0x1F3FF:
        return 0
    base = unicodedata.normalize("NFD", character)[0]
    if base != character and " " < base < "\x7f":
        return _HELVETICA[ord(base) - 32]
    if unicodedata.east_asian_width(character) in "WF":
        return 1000
    return _OTHERS.get(category, 560)


def _fitted(x: float, y: float, text: str, *, cut: bool = False) -> str:
    style = f' font-style="italic" fill="{_QUIET}"' if cut else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}"{style} textLength="{_n(_width(text))}" '
        f'lengthAdjust="spacingAndGlyphs" xml:space="preserve">{escape(text)}</text>\n'
    )


def _text(
    x: float,
    y: float,
    text: str,
    size: float,
    *,
    weight: str = "normal",
    style: str = "normal",
    fill: str = _INK,
    anchor: str = "start",
    fitted: bool = False,
) -> str:
    length = f' textLength="{_n(_width(text) * size / _SIZE)}"' if fitted else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" font-weight="{weight}" '
        f'font-style="{style}" fill="{fill}" text-anchor="{anchor}"{length}>{escape(text)}</text>\n'
    )


def _rect(x: float, y: float, width: float, height: float, fill: str, *, radius: int = 0) -> str:
    corner = f' rx="{radius}"' if radius else ""
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{corner} '
        f'fill="{fill}"/>\n'
    )


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
