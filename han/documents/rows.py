"""A row, as every format yields it: its columns, or the problem with it; and the values in it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


class RowError(ValueError):
    """A row that cannot become a document.

    Args:
        reason: What it is counted under when it is skipped.
        message: What is wrong and what to do, without the location.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


Row = Mapping[str, object] | RowError
LocatedRow = tuple[str, Row]


def require_columns(present: Iterable[str], required: Mapping[str, str]) -> None:
    """Raise a `RowError` that names the first missing column, its option and what there is.

    Args:
        present: The columns that there are.
        required: The option that names each required column.
    """
    for column, option in required.items():
        if column not in present:
            names = [repr(name if len(name) < 40 else name[:39] + "…") for name in present]
            listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise RowError(
                f"no column {column!r}",
                f"no column {column!r}; the columns are {listed or 'none'}: "
                f"set `{option}` to one of them",
            )


def check_header(header: Sequence[str], location: str, required: Mapping[str, str]) -> None:
    """Refuse a table that lacks a required column, or names one twice."""
    repeated = [repr(name) for name, number in Counter(header).items() if name and number > 1]
    if repeated:
        raise ValueError(
            f"{location}: the header names {', '.join(repeated)} more than once; rename or remove "
            "the repeated columns."
        )
    try:
        require_columns(header, required)
    except RowError as bad:
        raise ValueError(f"{location}: {bad}.") from None


def as_text(row: Mapping[str, object], column: str) -> str:
    """Return a text as it stands."""
    value = row[column]
    if not isinstance(value, str):
        raise RowError(
            "text is not a string", f"`{column}` is {kind(value)}, not a string; put text there"
        )
    return encodable(value)


def as_name(row: Mapping[str, object], column: str | None) -> str | None:
    """Return an id or a label as a string, None where there is none."""
    value = None if column is None else row.get(column)
    if value is None:
        return None
    if isinstance(value, str):
        return encodable(value) if value.strip() else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value) if value.is_integer() else value)
    if isinstance(value, int):
        return str(value)
    raise RowError(
        f"{column} is not a string or number",
        f"`{column}` is {kind(value)}; it must be a string or a number",
    )


def as_label(row: Mapping[str, object], column: str | None) -> str | None:
    """Return a label without the white space around it, None where there is none."""
    name = (as_name(row, column) or "").strip()
    return None if name.lower() in ("", "nan") else name


def as_labels(
    row: Mapping[str, object], column: str | None, separator: str | None
) -> str | tuple[str, ...] | None:
    """Return a label as `as_label` does, or several: of a list, or of a text with a separator.

    Blank parts of a text are none. An empty list, and with a separator an empty text, is no label,
    which is known; None where it is not.
    """
    value = None if column is None else row.get(column)
    if isinstance(value, list):
        items = [as_label({"label": item}, "label") for item in value]
        if None in items:
            raise RowError("empty label", f"`{column}` has an empty label in its list; remove it")
    elif isinstance(value, str) and separator is not None and value.strip().lower() != "nan":
        items = [encodable(part).strip() for part in value.split(separator)]
    else:
        label = as_label(row, column)
        return label if separator is None or label is None else (label,)
    return tuple(dict.fromkeys(item for item in items if item))


def as_split(row: Mapping[str, object], column: str | None) -> str | None:
    """Return `"train"`, `"validation"` or `"test"`, None where nothing is said."""
    name = as_label(row, column)
    if name is None:
        return None
    split = SPLITS.get(name.lower())
    if split is None:
        raise RowError(
            "unknown split",
            f"`{column}` is {name!r}; it must be train, validation (or val, valid, dev) or test: "
            "set `split_column` to another column if this one means something else",
        )
    return split


def as_cell(value: object) -> str | int | float | bool | None:
    """Return a kept value as one that every output format can hold; NaN becomes None."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, dict)):
        return encodable(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


def encodable(text: str) -> str:
    """Replace lone surrogates, which no file can hold; the text's length stays."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def kind(value: object) -> str:
    """Return what a message calls a value of this type."""
    return _KINDS.get(type(value), type(value).__name__)
