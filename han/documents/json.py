"""Rows of JSON: an object on each line, or one array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from han.documents.lines import UNDECODED, Lines
from han.documents.rows import LocatedRow, Row, RowError, kind

_BLANK = re.compile(r"[ \t\r\n]*")


def json_line_rows(lines: Lines, name: str) -> Iterator[LocatedRow]:
    """Read one object a line; `name` is what the locations begin with."""
    for number, line in enumerate(lines, start=1):
        if not line.isspace():
            yield f"{name}:{number}", lines.error() if UNDECODED in line else _parse_line(line)


def json_rows(lines: Lines, name: str) -> Iterator[LocatedRow]:
    """Read one array of objects, or one object a line, whichever the first character says."""
    if lines.first_character() == "[":
        text = "".join(lines)
        if UNDECODED in text:
            raise ValueError(f"{name}: {lines.problem}.")
        yield from _array_rows(text, name)
    else:
        yield from json_line_rows(lines, name)


def _parse_line(line: str) -> Row:
    try:
        return _as_row(json.loads(line))
    except (ValueError, RecursionError) as error:
        return RowError("not JSON", f"{_problem(error)}; put one object on each line")


def _array_rows(text: str, name: str) -> Iterator[LocatedRow]:
    """Read the objects of one array, each with the line on which it begins."""
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _after_blank(text, text.index("[") + 1)
    closed = text.startswith("]", position)
    while not closed:
        line += text.count("\n", counted, position)
        counted = position
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            at = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise ValueError(f"{name}:{at}: {_problem(error)}; mend the file.") from error
        yield f"{name}:{line}", _as_row(row)
        position = _after_blank(text, position)
        closed = text.startswith("]", position)
        if not closed:
            if not text.startswith(",", position):
                at = 1 + text.count("\n", 0, position)
                raise ValueError(
                    f"{name}:{at}: not JSON: `,` or `]` should follow an object of the array; "
                    "the file may be cut short."
                )
            position = _after_blank(text, position + 1)
    if _after_blank(text, position + 1) < len(text):
        raise ValueError(f"{name}: not JSON: something follows the array; remove it.")


def _after_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    assert found is not None, "it matches the empty string"
    return found.end()


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    return f"not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def _as_row(value: object) -> Row:
    if isinstance(value, dict):
        return value
    return RowError("not an object", f"{kind(value)} where a JSON object with columns is needed")
