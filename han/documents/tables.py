"""Rows of tables that have a header: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from han.documents.lines import BLOCK, COMPRESSIONS, UNDECODED, Lines, open_unpacked
from han.documents.rows import LocatedRow, Row, RowError, check_header

if TYPE_CHECKING:
    import _csv

    import pyarrow as pa

_ROWS_AT_ONCE = 256
# The largest C long on every platform; csv's own limit of 131,072 is below many real documents.
_LONGEST_FIELD = 2**31 - 1


def csv_rows(
    lines: Lines, name: str, delimiters: str, text_column: str, required: Mapping[str, str]
) -> Iterator[LocatedRow]:
    """Read a table whose fields are separated by one of `delimiters`.

    Args:
        lines: The table.
        name: What its locations begin with.
        delimiters: Candidates; the first of them that makes the first line hold the text column.
        text_column: The text column.
        required: See `require_columns`.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    stream = iter(lines)
    first = next(stream, "")
    delimiter = next(
        (one for one in delimiters if text_column in next(csv.reader([first], delimiter=one), ())),
        delimiters[0],
    )
    reader = csv.reader(itertools.chain([first], stream), delimiter=delimiter, strict=True)
    header: list[str] = []
    for location, fields in _csv_records(reader, lines, name):
        if isinstance(fields, RowError):
            if not header:
                raise ValueError(f"{location}: the header cannot be read: {fields}.")
            yield location, fields
        elif not header:
            header = fields
            check_header(header, location, required)
        elif len(fields) == len(header):
            yield location, dict(zip(header, fields, strict=True))
        else:
            yield (
                location,
                RowError(
                    "ragged row",
                    f"{len(fields)} field{'s' * (len(fields) != 1)}, the header has {len(header)}; "
                    f"quote fields that contain {delimiter!r}",
                ),
            )


def _csv_records(
    reader: _csv.Reader, lines: Lines, name: str
) -> Iterator[tuple[str, list[str] | RowError]]:
    """Yield each record that is not blank with the line on which it begins."""
    while True:
        location = f"{name}:{reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                # Not for skipping: everything from here to the end of the file is this one field.
                raise ValueError(
                    f"{location}: a quoted field begins here and never ends; close it, and double "
                    "the quotes inside it."
                ) from error
            problem = f"{error}; double the quotes inside a quoted field"
            yield location, RowError("bad quoting", problem)
            continue
        if any(UNDECODED in field for field in fields):
            yield location, lines.error()
        elif fields:
            yield location, fields


def parquet_rows(path: Path, required: Mapping[str, str], wanted: set[str]) -> Iterator[LocatedRow]:
    """Read the `wanted` columns of a Parquet file; `required` as in `require_columns`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_unpacked(path) as stream, tempfile.TemporaryFile() as spool:
        if path.suffix.lower() in COMPRESSIONS:  # Parquet is read from its end: needs a real file.
            shutil.copyfileobj(stream, spool, BLOCK)
            spool.seek(0)
            stream = spool
        number = 0
        try:
            # Columns piece by piece: a row group, held whole otherwise, may be the whole file.
            with pq.ParquetFile(stream, buffer_size=BLOCK, pre_buffer=False) as file:
                names = file.schema_arrow.names
                check_header(names, str(path), required)
                columns = [name for name in names if name in wanted]
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                    for index in range(batch.num_rows):
                        number += 1
                        yield f"{path}:{number}", arrow_row(batch, index)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            after = f" after row {number}" if number else ""
            problem = re.sub("[^ -~]+", " ", str(error)).strip()  # it may quote bytes of the file
            raise ValueError(
                f"{path}: not a whole Parquet file{after} ({problem}); fetch or write it again."
            ) from error


def arrow_row(batch: pa.RecordBatch, index: int) -> Row:
    """Return a row of a batch as Python's values, or what is wrong with it."""
    try:
        return {
            name: column[index].as_py()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
    except UnicodeDecodeError as error:
        return RowError(
            "bad encoding",
            f"byte position {error.start} of a string is not utf-8; write the file again",
        )
