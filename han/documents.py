"""Read labelled documents from tables, JSON lines, folders and the Hugging Face hub, one at a time.

Every format is read as a stream of rows (or of problems with a row), each with its location; one
loop turns rows into documents, so all formats share their checks and messages.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import parse_qs

if TYPE_CHECKING:
    import pyarrow as pa

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
TEXT_SUFFIXES = (".txt", ".text", ".md", "")

_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_BLOCK = 1 << 20
_ROWS_AT_ONCE = 256
# The largest C long on every platform; csv's own limit of 131,072 is below many real documents.
_LONGEST_FIELD = 2**31 - 1
# Bytes that cannot be decoded become this code point, which no decoder yields for valid bytes.
_UNDECODED = "\udcff"
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNDECODED_HANDLER = "han.undecoded"
codecs.register_error(_UNDECODED_HANDLER, lambda error: (_UNDECODED, _end(error)))


@dataclass(frozen=True, slots=True)
class Document:
    """One text to learn from or to classify.

    Args:
        id: The id column, else `<file name>:<record number>` counted from 1; in a folder the path
            below it. Ids are the caller's to join on: they may repeat.
        text: The text as its author wrote it, line ends included. Only lone surrogates, which no
            file can hold, are replaced by U+FFFD, so spans stay valid.
        label: The class, or None where it is not known.
        split: `"train"`, `"validation"`, `"test"` or None where the source does not say.
        location: Where it stands: `reviews.csv:17` (the line on which the record begins; the row
            in Parquet and on the hub), or the path of a text file.
        columns: The further columns that were asked for.
    """

    id: str
    text: str
    label: str | None = None
    split: str | None = None
    location: str = ""
    columns: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


class _RowError(ValueError):
    """A row that cannot become a document; `reason` is what it is counted under when skipped."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_Row = tuple[str, Mapping[str, object] | _RowError]


def read_documents(
    source: str | Path,
    *,
    text_column: str = "text",
    label_column: str | None = "label",
    id_column: str | None = "id",
    split_column: str | None = "split",
    keep_columns: Sequence[str] = (),
    labels_required: bool = True,
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
    `"false"`. None, NaN (also the text "nan") and blank labels are missing.

    Args:
        source: A path, `-` or an `hf://` address.
        text_column: Column of the text.
        label_column: Column of the label; None reads no labels.
        id_column: Column of the id; used where present.
        split_column: Column that says train, validation (val, valid, dev) or test; used where
            present.
        keep_columns: Further columns to carry along.
        labels_required: Whether a document without a label is an error.
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
    try:
        codecs.getincrementaldecoder(encoding)
        b" ".decode(encoding, "ignore")
    except LookupError as error:
        raise ValueError(
            f"`encoding` {encoding!r} is not a text encoding; try utf-8, utf-16 or cp1252."
        ) from error
    source = str(source)
    skipped = Counter() if skipped is None else skipped
    required = {text_column: "text_column"}
    if labels_required and label_column is not None:
        required[label_column] = "label_column"
    required |= dict.fromkeys(keep_columns, "keep_columns")
    optional = (label_column, id_column, split_column)
    wanted = {*required, *(column for column in optional if column is not None)}
    path = Path(source)

    rows: Iterator[_Row]
    if source.startswith("hf://"):
        name, rows = source, _hub_rows(source, required, wanted, split_column)
    elif source == "-":
        name, rows = "stdin", _standard_input_rows(encoding, text_column)
    elif not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder.")
    elif path.is_dir():
        name, rows = path.name, _folder_rows(path, encoding, labels_required, skipped)
        text_column, id_column, split_column = "text", "id", "split"
        label_column = label_column and "label"
        required = dict.fromkeys(keep_columns, "keep_columns")
    else:
        name, rows = path.name, _file_rows(path, encoding, required, wanted, text_column)

    count = 0
    for number, (location, row) in enumerate(rows, start=1):
        try:
            if isinstance(row, _RowError):
                raise row
            _require_columns(row, required)
            label = None if label_column is None else _as_label(row, label_column)
            if label is None and labels_required:
                raise _RowError("empty label", f"`{label_column}` is empty or NaN; fill it in")
            document = Document(
                id=(id_column and _as_name(row, id_column)) or f"{_whole(name)}:{number}",
                text=_as_text(row[text_column], text_column),
                label=label,
                split=split_column and _as_split(row, split_column),
                location=location,
                columns={column: _as_cell(row[column]) for column in keep_columns},
            )
        except _RowError as bad:
            if on_bad_row == "error":
                raise ValueError(f"{location}: {bad}, or set `on_bad_row` to skip.") from None
            skipped[bad.reason] += 1
        else:
            count += 1
            yield document
    if not count:
        left_out = ", ".join(f"{number} {reason}" for reason, number in skipped.items())
        raise ValueError(f"{source}: no documents in it{left_out and f' (left out: {left_out})'}.")


# ---- values of a row ----


def _require_columns(present: Iterable[str], required: Mapping[str, str]) -> None:
    """Raise a `_RowError` that names the first missing column, its option and what there is."""
    for column, option in required.items():
        if column not in present:
            names = [repr(name if len(name) < 40 else name[:39] + "…") for name in present]
            listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise _RowError(
                f"no column {column!r}",
                f"no column {column!r}; the columns are {listed or 'none'}: "
                f"set `{option}` to one of them",
            )


def _as_text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise _RowError(
            "text is not a string", f"`{column}` is {_kind(value)}, not a string; put text there"
        )
    return _whole(value)


def _as_name(row: Mapping[str, object], column: str) -> str | None:
    """Return an id or a label as a string, None where there is none."""
    value = row.get(column)
    if isinstance(value, str):
        return _whole(value) if value.strip() else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        whole = math.isfinite(value) and value.is_integer()
        return None if math.isnan(value) else str(int(value) if whole else value)
    if isinstance(value, int):
        return str(value)
    if value is None:
        return None
    raise _RowError(
        f"{column} is not a string or number",
        f"`{column}` is {_kind(value)}; it must be a string or a number",
    )


def _as_label(row: Mapping[str, object], column: str) -> str | None:
    name = (_as_name(row, column) or "").strip()
    return None if name.lower() in ("", "nan") else name


def _as_split(row: Mapping[str, object], column: str) -> str | None:
    name = _as_label(row, column)
    if name is None:
        return None
    split = _SPLITS.get(name.lower())
    if split is None:
        raise _RowError(
            "unknown split",
            f"`{column}` is {name!r}; it must be train, validation (or val, valid, dev) or test: "
            "set `split_column` to another column if this one means something else",
        )
    return split


def _as_cell(value: object) -> str | int | float | bool | None:
    """Return a kept value as one that every output format can hold; NaN becomes None."""
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, dict)):
        return _whole(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


def _whole(text: str) -> str:
    """Replace lone surrogates, so that the text can be encoded; its length stays."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    names |= {dict: "an object", str: "a string", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)


# ---- bytes to lines ----


class _Lines:
    """The lines of a byte stream with their ends; bytes that cannot be decoded are marked.

    Lines end at LF, CR LF or CR alone. `problem` describes the first bytes that could not be
    decoded.
    """

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self.problem = ""
        self._stream = stream
        self._encoding = encoding

    def __iter__(self) -> Iterator[str]:
        held: list[str] = []
        for text in self._texts():
            held.append(text)
            if "\n" in text or "\r" in text:
                lines = io.StringIO("".join(held), newline="").readlines()
                # A CR at the end of a block may be half of CR LF.
                held = [] if lines[-1].endswith("\n") else [lines.pop()]
                yield from lines
        yield from io.StringIO("".join(held), newline="")

    def read(self) -> str:
        return "".join(self._texts())

    def error(self) -> _RowError:
        return _RowError("bad encoding", self.problem)

    def _texts(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self._encoding)()
        size = 0
        begun = False
        while True:
            data = self._stream.read(_BLOCK)
            size += len(data)
            state = decoder.getstate()
            try:
                text = decoder.decode(data, not data)
            except UnicodeDecodeError as error:
                self.problem = self.problem or self._describe(error, size)
                decoder.setstate(state)
                decoder.errors = _UNDECODED_HANDLER
                text = decoder.decode(data, not data)
                decoder.errors = "strict"
            if text:
                yield text if begun else text.removeprefix("\ufeff")
                begun = True
            if not data:
                return

    def _describe(self, error: UnicodeDecodeError, size: int) -> str:
        position = size - len(error.object) + error.start
        found = error.object[error.start : error.end][:4].hex(" ")
        remedy = "pass the file's own `encoding`, such as cp1252"
        if position == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            remedy = "it begins with the mark of UTF-16: pass `encoding` utf-16"
        return f"byte position {position} ({found}) is not {self._encoding}; {remedy}"


def _end(error: UnicodeError) -> int:
    assert isinstance(error, UnicodeDecodeError)
    return error.end


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed by its suffix."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    with open(path, "rb") as file:
        if compression is None:
            yield file
            return
        import pyarrow as pa

        try:
            with pa.CompressedInputStream(pa.PythonFile(file, "r"), compression) as stream:
                yield stream
        except OSError as error:
            raise ValueError(
                f"{path}: damaged or cut short ({error}); fetch or compress it again."
            ) from error


# ---- one function per format ----


def inner_suffix(path: PurePath) -> str:
    """Return the suffix in lower case, without that of a compression: `.csv` of `a.CSV.gz`."""
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def _file_rows(
    path: Path, encoding: str, required: Mapping[str, str], wanted: set[str], text_column: str
) -> Iterator[_Row]:
    suffix = inner_suffix(path)
    if suffix not in TABLE_SUFFIXES and (suffix not in TEXT_SUFFIXES or not suffix):
        raise ValueError(
            f"{path}: the suffix {suffix!r} is not known; name the file "
            f"{', '.join(TABLE_SUFFIXES)} or .txt by what it holds (.gz or .zst may follow)."
        )
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty.")
    if suffix == ".parquet":
        yield from _parquet_rows(path, required, wanted)
        return
    with _open(path) as stream:
        lines = _Lines(stream, encoding)
        if suffix in (".csv", ".tsv"):
            delimiters = ",;\t" if suffix == ".csv" else "\t"
            yield from _csv_rows(lines, str(path), delimiters, required, text_column)
        elif suffix == ".json":
            yield from _json_rows(lines, str(path))
        elif suffix in TEXT_SUFFIXES:
            if "label_column" in required.values():
                raise ValueError(
                    f"{path}: a text file has no label; name a folder with one sub-folder of text "
                    "files for each class, or a table."
                )
            yield str(path), _text_row(lines, text_column)
        else:
            yield from _json_line_rows(lines, lines, str(path))


def _csv_rows(
    lines: _Lines, name: str, delimiters: str, required: Mapping[str, str], text_column: str
) -> Iterator[_Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    stream = iter(lines)
    first = next(stream, "")
    delimiter = next(
        (one for one in delimiters if text_column in next(csv.reader([first], delimiter=one), ())),
        delimiters[0],
    )
    reader = csv.reader(itertools.chain([first], stream), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        location = f"{name}:{reader.line_num + 1}"
        row: Mapping[str, object] | _RowError
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
            row = _RowError("bad quoting", f"{error}; double the quotes inside a quoted field")
        else:
            if not fields:
                continue
            if any(_UNDECODED in cell for cell in fields):
                row = lines.error()
            elif not header:
                header = fields
                _check_header(header, location, required)
                continue
            elif len(fields) != len(header):
                row = _RowError(
                    "ragged row",
                    f"{len(fields)} field{'s' * (len(fields) != 1)}, the header has {len(header)}; "
                    f"quote fields that contain {delimiter!r}",
                )
            else:
                row = dict(zip(header, fields, strict=True))
        if not header:
            assert isinstance(row, _RowError)
            raise ValueError(f"{location}: the header cannot be read: {row}.")
        yield location, row


def _check_header(header: Sequence[str], location: str, required: Mapping[str, str]) -> None:
    repeated = [repr(name) for name, number in Counter(header).items() if name and number > 1]
    if repeated:
        raise ValueError(
            f"{location}: the header names {', '.join(repeated)} more than once; rename or remove "
            "the repeated columns."
        )
    try:
        _require_columns(header, required)
    except _RowError as bad:
        raise ValueError(f"{location}: {bad}.") from None


def _json_rows(lines: _Lines, name: str) -> Iterator[_Row]:
    """Read one array of objects, or one object a line, whichever the first character says."""
    first, stream = _peek(lines)
    if first == "[":
        yield from _json_array_rows("".join(stream), lines, name)
    else:
        yield from _json_line_rows(stream, lines, name)


def _json_line_rows(stream: Iterable[str], lines: _Lines, name: str) -> Iterator[_Row]:
    for number, line in enumerate(stream, start=1):
        if line.isspace():
            continue
        row: object
        if _UNDECODED in line:
            row = lines.error()
        else:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = _RowError("not JSON", f"{_json_problem(error)}; put one object on each line")
        yield f"{name}:{number}", _as_object(row)


def _json_array_rows(text: str, lines: _Lines, name: str) -> Iterator[_Row]:
    """Read the objects of one array, each with the line on which it begins."""
    decoder = json.JSONDecoder()
    blank = re.compile(r"[ \t\r\n]*")

    def skip_blank(position: int) -> int:
        found = blank.match(text, position)
        return found.end() if found else position

    if _UNDECODED in text:
        raise ValueError(f"{name}: {lines.problem}.")
    line, counted = 1, 0
    position = skip_blank(text.index("[") + 1)
    closed = text.startswith("]", position)
    while not closed:
        line += text.count("\n", counted, position)
        counted = position
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                line += text.count("\n", counted, error.pos)
            raise ValueError(f"{name}:{line}: {_json_problem(error)}; mend the file.") from error
        yield f"{name}:{line}", _as_object(row)
        position = skip_blank(position)
        closed = text.startswith("]", position)
        if not closed:
            if not text.startswith(",", position):
                line += text.count("\n", counted, position)
                raise ValueError(
                    f"{name}:{line}: not JSON: `,` or `]` should follow an object of the array; "
                    "the file may be cut short."
                )
            position = skip_blank(position + 1)
    if skip_blank(position + 1) < len(text):
        raise ValueError(f"{name}: not JSON: something follows the array; remove it.")


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} (column {error.colno})"
    return f"not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def _as_object(row: object) -> Mapping[str, object] | _RowError:
    if isinstance(row, (dict, _RowError)):
        return row
    return _RowError("not an object", f"{_kind(row)} where a JSON object with columns is needed")


def _text_row(lines: _Lines, text_column: str) -> Mapping[str, object] | _RowError:
    text = lines.read()
    return lines.error() if lines.problem else {text_column: text}


def _standard_input_rows(encoding: str, text_column: str) -> Iterator[_Row]:
    lines = _Lines(sys.stdin.buffer, encoding)
    first, stream = _peek(lines)
    if first == "{":
        yield from _json_line_rows(stream, lines, "stdin")
        return
    for number, line in enumerate(stream, start=1):
        if _UNDECODED in line:
            yield f"stdin:{number}", lines.error()
        elif not line.isspace():
            yield f"stdin:{number}", {text_column: line.rstrip("\r\n")}


def _peek(lines: Iterable[str]) -> tuple[str, Iterator[str]]:
    """Return the first character that is not blank ("" if there is none), and all the lines."""
    stream = iter(lines)
    begun = []
    for line in stream:
        begun.append(line)
        if not line.isspace():
            return line.lstrip()[0], itertools.chain(begun, stream)
    return "", iter(begun)


def _parquet_rows(path: Path, required: Mapping[str, str], wanted: set[str]) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _open(path) as stream, tempfile.TemporaryFile() as spool:
        if path.suffix.lower() in COMPRESSIONS:  # Parquet is read from its end: needs a real file.
            shutil.copyfileobj(stream, spool, _BLOCK)
            spool.seek(0)
            stream = spool
        number = 0
        try:
            # Columns piece by piece: a row group, held whole otherwise, may be the whole file.
            with pq.ParquetFile(stream, buffer_size=_BLOCK, pre_buffer=False) as file:
                names = file.schema_arrow.names
                _check_header(names, str(path), required)
                columns = [name for name in names if name in wanted]
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                    for index in range(batch.num_rows):
                        number += 1
                        yield f"{path}:{number}", _arrow_row(batch, index)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            after = f" after row {number}" if number else ""
            problem = re.sub("[^ -~]+", " ", str(error)).strip()  # it may quote bytes of the file
            raise ValueError(
                f"{path}: not a whole Parquet file{after} ({problem}); fetch or write it again."
            ) from error


def _arrow_row(batch: pa.RecordBatch, index: int) -> Mapping[str, object] | _RowError:
    try:
        return {
            name: column[index].as_py()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
    except UnicodeDecodeError as error:
        return _RowError(
            "bad encoding",
            f"byte position {error.start} of a string is not utf-8; write the file again",
        )


def _folder_rows(
    folder: Path, encoding: str, labels_required: bool, skipped: Counter[str]
) -> Iterator[_Row]:
    """Read text files; the first folder below `folder`, or below its splits, is the class."""
    top = [child for child in folder.iterdir() if child.is_dir() and child.name[0] != "."]
    has_splits = bool(top) and all(
        child.name.lower() in _SPLITS and any(below.is_dir() for below in child.iterdir())
        for child in top
    )
    found = False
    other = ""
    for path in _files(folder):
        inside = path.relative_to(folder)
        parts = inside.parts
        split, parts = (parts[0], parts[1:]) if has_splits and len(parts) > 1 else (None, parts)
        if inner_suffix(path) not in TEXT_SUFFIXES:
            skipped["not a text file"] += 1
            other = other or path.name
        elif len(parts) == 1 and labels_required:
            skipped["outside a class folder"] += 1
        else:
            found = True
            with _open(path) as stream:
                row = _text_row(_Lines(stream, encoding), "text")
            if not isinstance(row, _RowError):
                label = parts[0] if len(parts) > 1 else None
                row = {**row, "label": label, "split": split, "id": inside.as_posix()}
            yield _whole(str(path)), row
    if not found:
        where = "sub-folders, one for each class" if labels_required else "it"
        raise ValueError(
            f"{folder}: a folder must hold text files (.txt, .text, .md or no suffix) in {where}; "
            f"there are none{other and f', but {other}: name a file to read it'}."
        )


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in sorted order, hidden ones left out."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (Path(parent, name) for name in sorted(files) if name[0] != ".")


def _hub_rows(
    source: str, required: Mapping[str, str], wanted: set[str], split_column: str | None
) -> Iterator[_Row]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{source}: reading from the hub needs the `datasets` package: "
            'pip install "han-classifier[hub]".'
        ) from error
    address, _, query = source.removeprefix("hf://").partition("?")
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    config, part, revision = (options.pop(key, None) for key in ("config", "split", "revision"))
    if options:
        raise ValueError(
            f"{source}: {', '.join(options)} is not known; `config`, `split` and `revision` are."
        )
    try:
        loaded = datasets.load_dataset(address, config, split=part, revision=revision)
    except datasets.exceptions.DatasetsError as error:
        raise ValueError(f"{source}: cannot be loaded: {error}") from error
    parts = {part or "": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    for name, data in parts.items():
        split = _SPLITS.get(name)
        if split is None and len(parts) > 1:
            continue
        location = f"{source}:{name}"
        _check_header(data.column_names, location, required)
        classes = {
            column: feature
            for column, feature in data.features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        columns = [column for column in data.column_names if column in wanted]
        for number, row in enumerate(data.select_columns(columns), start=1):
            for column in classes.keys() & row.keys():
                index = row[column]
                unknown = index is None or index < 0
                row[column] = None if unknown else classes[column].int2str(index)
            if split_column is not None:
                row.setdefault(split_column, split)
            yield f"{location}:{number}", row
