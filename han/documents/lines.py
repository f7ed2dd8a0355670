"""From bytes to lines: unpack, decode, and remember where a byte could not be decoded."""

from __future__ import annotations

import codecs
import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO

from han.documents.rows import RowError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BLOCK = 1 << 20
# Bytes that cannot be decoded become this code point, which no decoder yields for valid bytes.
UNDECODED = "\udcff"


def _mark_undecoded(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return UNDECODED, error.end


_MARKING = "han.undecoded"
codecs.register_error(_MARKING, _mark_undecoded)


def inner_suffix(path: PurePath) -> str:
    """Return the suffix in lower case, without that of a compression: `.csv` of `a.CSV.gz`."""
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


@contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
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


class Lines:
    """The lines of a byte stream, once over and with their ends: LF, CR LF or CR alone.

    Args:
        stream: The bytes.
        encoding: How to decode them; a byte order mark is dropped.

    Attributes:
        problem: Describes the first bytes that could not be decoded; the lines that hold such
            bytes contain `UNDECODED`.
    """

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self.problem = ""
        self._stream = stream
        self._encoding = encoding
        self._lines = self._split()

    def __iter__(self) -> Iterator[str]:
        """Return the lines that are left."""
        return self._lines

    def first_character(self) -> str:
        """Look ahead to the first character that is not blank; "" if there is none."""
        begun = []
        for line in self._lines:
            begun.append(line)
            if not line.isspace():
                break
        self._lines = itertools.chain(begun, self._lines)
        return begun[-1].lstrip()[:1] if begun else ""

    def error(self) -> RowError:
        """Return the error of a row that holds `UNDECODED`."""
        return RowError("bad encoding", self.problem)

    def _split(self) -> Iterator[str]:
        held: list[str] = []
        for text in self._decode():
            held.append(text)
            if "\n" in text or "\r" in text:
                lines = io.StringIO("".join(held), newline="").readlines()
                # A CR at the end of a block may be half of CR LF.
                held = [] if lines[-1].endswith("\n") else [lines.pop()]
                yield from lines
        yield from io.StringIO("".join(held), newline="")

    def _decode(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self._encoding)()
        size = 0
        begun = False
        while True:
            data = self._stream.read(BLOCK)
            size += len(data)
            state = decoder.getstate()
            try:
                text = decoder.decode(data, not data)
            except UnicodeDecodeError as error:
                # Only the first problem is described: from here on, bad bytes are just marked.
                self.problem = self._describe(error, size)
                decoder.setstate(state)
                decoder.errors = _MARKING
                text = decoder.decode(data, not data)
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
