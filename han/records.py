"""Write records, such as predictions, to JSON lines, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from han.atomic import atomic_file
from han.documents import COMPRESSIONS, inner_suffix

if TYPE_CHECKING:
    import pyarrow as pa

LINE_SUFFIXES = (".jsonl", ".ndjson")
OUTPUT_SUFFIXES = (*LINE_SUFFIXES, ".csv", ".tsv", ".parquet")

SEPARATOR = ";"
"""What stands between the labels of a document in CSV and TSV."""

_ROWS_AT_ONCE = 4096
# What a spreadsheet takes for a formula (also its full-width forms), unless it is just a number.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Valid in JSON, but not on a terminal (controls, direction marks), as line breaks or as UTF-8.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def json_line(record: Mapping[str, object]) -> str:
    """Return a record as one line of JSON, without a line end, safe to print on a terminal."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def check_output(
    path: str | Path,
    labels: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    several: bool = False,
) -> None:
    """Check that `write_records` can take these arguments, before the work that makes the records.

    Raises:
        ValueError: The suffix is not known, `path` is a folder, a column of the input has the
            name of one of the output, or a label holds what stands between several.
    """
    check_suffix(path)
    check_columns(columns, labels, several=several)
    divided = [label for label in labels if SEPARATOR in label]
    if several and divided and inner_suffix(Path(path)) in (".csv", ".tsv"):
        raise ValueError(
            f"{path}: the label {divided[0]!r} holds a {SEPARATOR}, which stands between labels "
            "here; write .jsonl or .parquet."
        )


def check_suffix(path: str | Path, suffixes: Sequence[str] = OUTPUT_SUFFIXES) -> None:
    """Check that a file's name says a format that can be written.

    Args:
        path: The file.
        suffixes: Those of the formats.

    Raises:
        ValueError: The suffix is not one of them, or `path` is a folder.
    """
    path = Path(path)
    suffix = inner_suffix(path)
    if suffix not in suffixes:
        raise ValueError(
            f"{path}: the suffix {path.suffix!r} is not known; end the name in "
            f"{', '.join(suffixes)} (but for .parquet, .gz or .zst may follow)."
        )
    if suffix == ".parquet" and path.suffix.lower() in COMPRESSIONS:
        raise ValueError(f"{path}: Parquet compresses its columns itself; leave {path.suffix} out.")
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder; name a file in it.")


def check_columns(
    columns: Sequence[str], labels: Sequence[str] = (), *, several: bool = False
) -> None:
    """Check that no column of the input would take the place of one of a prediction record.

    Raises:
        ValueError: One would.
    """
    names = [*_header(labels, columns, several=several), "probabilities"]
    repeated = [repr(name) for name in dict.fromkeys(columns) if names.count(name) > 1]
    if repeated:
        raise ValueError(
            f"{', '.join(repeated)} would be in the output twice; rename the column in the input, "
            "or do not keep it."
        )


def write_records(
    path: str | Path,
    records: Iterable[Mapping[str, object]],
    labels: Sequence[str],
    columns: Sequence[str] = (),
    *,
    several: bool = False,
) -> int:
    """Write prediction records as they come; the file appears whole or not at all.

    JSON lines hold the records as they are. CSV, TSV and Parquet have the columns `id`, `columns`,
    `label`, `probability`, one `p_<label>` for each class, `truncated` and `empty`. In CSV and TSV
    a text that a spreadsheet would run as a formula gets an apostrophe before it. A document that
    is left undecided has no label: null, in CSV and TSV an empty cell. Where documents may have
    several labels, `labels` stands for `label` and `probability`: a list in Parquet, in CSV and TSV
    a text with `;` between them.

    Args:
        path: Where to write; the suffix says the format, `.gz` or `.zst` compress.
        records: Prediction records, each with the keys in `columns` besides its own.
        labels: The classes, in the order of their columns.
        columns: Names of the input's columns that the records carry.
        several: Whether documents may have several labels.

    Returns:
        The number of records written.

    Raises:
        ValueError: See `check_output`; or Parquet cannot hold a column whose values change type.
        OSError: The file cannot be written.
    """
    check_output(path, labels, columns, several=several)
    suffix = inner_suffix(Path(path))
    types: dict[str, type | None] = dict.fromkeys(_header(labels, columns, several=several), float)
    decision: dict[str, type | None] = {"labels": list} if several else {"label": str}
    types |= {"id": str, **decision, "truncated": bool, "empty": bool}
    types |= dict.fromkeys(columns)
    flat = suffix not in LINE_SUFFIXES
    return write_table(path, map(_flat, records) if flat else records, types)


def write_table(
    path: str | Path, rows: Iterable[Mapping[str, object]], types: Mapping[str, type | None]
) -> int:
    """Write rows as they come; the file appears whole or not at all.

    JSON lines hold the rows as they are. CSV, TSV and Parquet have the columns of `types`. In CSV
    and TSV a text that a spreadsheet would run as a formula gets an apostrophe before it.

    Args:
        path: Where to write; the suffix says the format, `.gz` or `.zst` compress.
        rows: Values by the column's name.
        types: The type of each column's values, `str`, `int`, `float`, `bool` or `list` (of
            strings); None where the first values tell.

    Returns:
        The number of rows written.

    Raises:
        ValueError: See `check_suffix`; or Parquet cannot hold a column whose values change type.
        OSError: The file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    suffix = inner_suffix(path)
    if suffix == ".parquet":
        return _write_parquet(path, iter(rows), types)
    count = 0
    with text_file(path) as file:
        if suffix in (".csv", ".tsv"):
            # CR LF, as RFC 4180 has it: with LF alone Python leaves a CR in a cell unquoted.
            writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writerow([_cell(name) for name in types])
            for row in rows:
                writer.writerow([_cell(row[name]) for name in types])
                count += 1
        else:
            for row in rows:
                file.write(json_line(row) + "\n")
                count += 1
    return count


def _header(labels: Sequence[str], columns: Sequence[str], *, several: bool = False) -> list[str]:
    decision = ["labels"] if several else ["label", "probability"]
    probabilities = [f"p_{label}" for label in labels]
    return ["id", *columns, *decision, *probabilities, "truncated", "empty"]


def _flat(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record with one entry for the probability of each class."""
    row = dict(record)
    probabilities = row.pop("probabilities")
    assert isinstance(probabilities, Mapping)
    row.update({f"p_{label}": probability for label, probability in probabilities.items()})
    return row


def _cell(value: object) -> object:
    """Return what a table shows for a value: true and false, and text that no sheet runs."""
    if isinstance(value, list):
        value = SEPARATOR.join(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


@contextmanager
def text_file(path: Path) -> Iterator[IO[str]]:
    """Open `path` to be written whole or not at all, compressed by its suffix."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        with atomic_file(path) as file:
            yield file
        return
    import pyarrow as pa

    with (
        atomic_file(path, "wb") as file,
        # The compressor closes what it writes to; `atomic_file` still has to flush its own.
        open(os.dup(file.fileno()), "wb") as copy,
        pa.CompressedOutputStream(pa.PythonFile(copy, "w"), compression) as stream,
        io.TextIOWrapper(stream, encoding="utf-8", newline="") as text,
    ):
        yield text


def _write_parquet(
    path: Path, rows: Iterator[Mapping[str, object]], types: Mapping[str, type | None]
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    known[list] = pa.list_(pa.string())
    batch = list(itertools.islice(rows, _ROWS_AT_ONCE))
    schema = pa.schema(
        [
            (name, _arrow_type([row[name] for row in batch]) if kind is None else known[kind])
            for name, kind in types.items()
        ]
    )
    count = 0
    with atomic_file(path, "wb") as file, pq.ParquetWriter(file, schema) as writer:
        while batch:
            arrays = [_arrow_array([row[one.name] for row in batch], one, path) for one in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(batch)
            batch = list(itertools.islice(rows, _ROWS_AT_ONCE))
    return count


def _arrow_type(values: list[object]) -> pa.DataType:
    """Return the type of a column by its first values: string where they are mixed or missing."""
    import pyarrow as pa

    try:
        found = pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return pa.string()
    return pa.string() if pa.types.is_null(found) else found


def _arrow_array(values: list[object], field: pa.Field, path: Path) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_string(field.type):
        values = [None if value is None else str(value) for value in values]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"{path}: the column {field.name!r} begins with {field.type} and goes on with "
            f"something else ({error}); write .jsonl or .csv."
        ) from error
