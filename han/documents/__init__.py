"""Read labelled documents from tables, JSON lines, folders and the Hugging Face hub, one at a time.

Every format is read as a stream of rows (or of problems with a row), each with its location; one
loop turns rows into documents, so all formats share their checks and messages.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from han.documents.folders import TEXT_SUFFIXES, folder_rows, read_text
from han.documents.hub import SCHEME, hub_rows
from han.documents.json import json_line_rows, json_rows
from han.documents.lines import COMPRESSIONS, UNDECODED, Lines, inner_suffix, open_unpacked
from han.documents.rows import (
    LocatedRow,
    RowError,
    as_cell,
    as_labels,
    as_name,
    as_split,
    as_text,
    encodable,
    require_columns,
)
from han.documents.tables import csv_rows, parquet_rows

__all__ = [
    "COMPRESSIONS",
    "TABLE_SUFFIXES",
    "TEXT_SUFFIXES",
    "Document",
    "inner_suffix",
    "read_documents",
]

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class Document:
    """One text to learn from or to classify.

    Args:
        id: The id column, else `<file name>:<record number>` counted from 1; in a folder the path
            below it. Ids are the caller's to join on: they may repeat.
        text: The text as its author wrote it, line ends included. Only lone surrogates, which no
            file can hold, are replaced by U+FFFD, so spans stay valid.
        label: The class; a tuple where a document may have several labels, or none; None where it
            is not known.
        split: `"train"`, `"validation"`, `"test"` or None where the source does not say.
        location: Where it stands: `reviews.csv:17` (the line on which the record begins; the row
            in Parquet and on the hub), or the path of a text file.
        columns: The further columns that were asked for.
    """

    id: str
    text: str
    label: str | tuple[str, ...] | None = None
    split: str | None = None
    location: str = ""
    columns: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


def read_documents(
    source: str | Path,
    *,
    text_column: str = "text",
    label_column: str | None = "label",
    label_separator: str | None = None,
    id_column: str | None = "id",
    split_column: str | None = "split",
    keep_columns: Sequence[str] = (),
    labels_required: bool = True,
    named_columns: Sequence[str] = (),
    encoding: str = "utf-8",
    on_bad_row: Literal["error", "skip"] = "error",
    skipped: Counter[str] | None = None,
) -> Iterator[Document]:
    """Read documents one after another; memory does not grow with the source.

    The source is one of

    - a `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.json` or `.parquet` file, plain or with `.gz` or
      `.zst` after it. Fields of a `.csv` file may be separated by commas, semicolons or tabs:
      whichever makes the first line hold `text_column`. A `.json` file holds either one object a
      line or one array of objects; an array is held in memory.
    - a folder with one sub-folder of text files (`.txt`, `.text`, `.md` or no suffix; plain or
      compressed) per class, at any depth below the class, or with `train`, `validation` and `test`
      sub-folders that each hold class folders. Hidden files are left out. Without
      `labels_required`, text files outside a class folder are documents too.
    - a single text file: one document without a label.
    - `-`, standard input: JSON lines if it begins with `{`, else each line that is not blank is a
      document without a label.
    - `hf://owner/name` with, as needed, `?config=`, `&split=` and `&revision=`: a data set of the
      Hugging Face hub, or `hf://` and a local folder. Splits other than training, validation and
      test are read only when asked for.

    Labels lose the white space around them; whole numbers become `"3"`, booleans `"true"` and
    `"false"`. None, NaN (also the text "nan") and blank labels are missing. A list, or with
    `label_separator` a text, holds several labels, or none.

    Args:
        source: A path, `-` or an `hf://` address.
        text_column: Column of the text.
        label_column: Column of the label; None reads no labels.
        label_separator: What stands between the labels of a document that may have several.
        id_column: Column of the id; used where present.
        split_column: Column that says train, validation (val, valid, dev) or test; used where
            present.
        keep_columns: Further columns to carry along.
        labels_required: Whether a document without a label is an error.
        named_columns: Which of `label_column`, `id_column` and `split_column` a table must have.
        encoding: The encoding of text files; a byte order mark is dropped.
        on_bad_row: `"error"` stops at a row that cannot be used; `"skip"` leaves it out.
        skipped: Counts what was left out, by reason.

    Yields:
        Documents in the order of the source.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: A row, a column or the file as a whole cannot be used; the message says where
            and what to do.
        ImportError: `hf://` without the `hub` extra.
    """
    if labels_required and label_column is None:
        raise ValueError("`label_column` is None, but labels are required; name their column.")
    if label_separator == "":
        raise ValueError("`label_separator` is empty; give what stands between labels, such as ;.")
    try:
        b" ".decode(encoding, "ignore")
    except LookupError as error:
        raise ValueError(
            f"`encoding` {encoding!r} is not a text encoding; try utf-8, utf-16 or cp1252."
        ) from error
    source = str(source)
    path = Path(source)
    skipped = Counter() if skipped is None else skipped
    required = {text_column: "text_column"}
    if labels_required and label_column is not None:
        required[label_column] = "label_column"
    required |= dict.fromkeys(keep_columns, "keep_columns")
    columns = {
        "label_column": label_column,
        "id_column": id_column,
        "split_column": split_column,
    }
    required |= {
        column: name for name, column in columns.items() if column and name in named_columns
    }
    optional = columns.values()
    wanted = {*required, *(column for column in optional if column is not None)}

    rows: Iterator[LocatedRow]
    if source.startswith(SCHEME):
        name, rows = source, hub_rows(source, required, wanted, split_column)
    elif source == "-":
        name, rows = "stdin", _standard_input_rows(encoding, text_column)
    elif not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder.")
    elif path.is_dir():
        name, rows = path.name, folder_rows(path, encoding, labels_required, skipped)
        text_column, id_column, split_column = "text", "id", "split"
        label_column = label_column and "label"
        required = dict.fromkeys(keep_columns, "keep_columns")
    else:
        name = path.name
        rows = _file_rows(path, encoding, text_column, labels_required, required, wanted)

    found = False
    for number, (location, row) in enumerate(rows, start=1):
        try:
            if isinstance(row, RowError):
                raise row
            require_columns(row, required)
            label = as_labels(row, label_column, label_separator)
            if label is None and labels_required:
                raise RowError("empty label", f"`{label_column}` is empty or NaN; fill it in")
            document = Document(
                id=as_name(row, id_column) or f"{encodable(name)}:{number}",
                text=as_text(row, text_column),
                label=label,
                split=as_split(row, split_column),
                location=location,
                columns={column: as_cell(row[column]) for column in keep_columns},
            )
        except RowError as bad:
            if on_bad_row == "error":
                raise ValueError(f"{location}: {bad}, or set `on_bad_row` to skip.") from None
            skipped[bad.reason] += 1
        else:
            found = True
            yield document
    if not found:
        left_out = ", ".join(f"{number} {reason}" for reason, number in skipped.items())
        raise ValueError(f"{source}: no documents in it{left_out and f' (left out: {left_out})'}.")


def _file_rows(
    path: Path,
    encoding: str,
    text_column: str,
    labels_required: bool,
    required: Mapping[str, str],
    wanted: set[str],
) -> Iterator[LocatedRow]:
    """Read one file by its suffix."""
    suffix = inner_suffix(path)
    if suffix not in TABLE_SUFFIXES and (not suffix or suffix not in TEXT_SUFFIXES):
        raise ValueError(
            f"{path}: the suffix {suffix!r} is not known; name the file "
            f"{', '.join(TABLE_SUFFIXES)} or .txt by what it holds (.gz or .zst may follow)."
        )
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty.")
    if suffix == ".parquet":
        yield from parquet_rows(path, required, wanted)
        return
    if suffix in TEXT_SUFFIXES:
        if labels_required:
            raise ValueError(
                f"{path}: a text file has no label; name a folder with one sub-folder of text "
                "files for each class, or a table."
            )
        text = read_text(path, encoding)
        yield str(path), text if isinstance(text, RowError) else {text_column: text}
        return
    with open_unpacked(path) as stream:
        lines = Lines(stream, encoding)
        if suffix == ".csv":
            yield from csv_rows(lines, str(path), ",;\t", text_column, required)
        elif suffix == ".tsv":
            yield from csv_rows(lines, str(path), "\t", text_column, required)
        elif suffix == ".json":
            yield from json_rows(lines, str(path))
        else:
            yield from json_line_rows(lines, str(path))


def _standard_input_rows(encoding: str, text_column: str) -> Iterator[LocatedRow]:
    """Read JSON lines if there is a `{` at the beginning, else a text a line."""
    lines = Lines(sys.stdin.buffer, encoding)
    if lines.first_character() == "{":
        yield from json_line_rows(lines, "stdin")
        return
    for number, line in enumerate(lines, start=1):
        if UNDECODED in line:
            yield f"stdin:{number}", lines.error()
        elif not line.isspace():
            yield f"stdin:{number}", {text_column: line.rstrip("\r\n")}


def in_blocks(
    documents: Iterable[Document], *, max_documents: int, max_characters: int
) -> Iterator[list[Document]]:
    """Cut a stream of documents into lists that end once they reach one of two sizes.

    Args:
        documents: The documents, read as the lists are asked for.
        max_documents: Documents in a list.
        max_characters: Code points of a list's texts; the document that reaches it is the last.
    """
    block: list[Document] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += len(document.text)
        if len(block) == max_documents or characters >= max_characters:
            yield block
            block, characters = [], 0
    if block:
        yield block
