"""Parquet files cut into parts, and the folder in which what was made of each part is kept.

A part is a range of rows of one file, small enough to be done again. What was made of it is a file
of its own, named by the part's number and written whole or not at all: a command that was killed
goes on with the parts that are missing, and the folder reads as one row for each row, in order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from han.atomic import atomic_file
from han.documents.folders import files_below

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MANIFEST, LOCK = "_manifest.json", ".lock"  # names that readers of Parquet folders pass over
FORMAT = "han.parts/1"
PART_ROWS, PART_BYTES = 16_384, 4 << 20  # of a part; bytes of the column of texts, uncompressed
# A part is found by reading its row group from the beginning: no more of them, or that takes longer
# than what is done with the rows.
PARTS_OF_A_GROUP = 64

_KEY = b"han.parts"
_ROWS_AT_ONCE = 256
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a Parquet file.

    Args:
        number: Which part this is, from 0.
        count: How many parts there are.
        path: The file.
        first: Its first row, from 0.
        last: The row after its last.
        size: Bytes of the file.
        modified: When the file was last written, nanoseconds.
    """

    number: int
    count: int
    path: str
    first: int
    last: int
    size: int
    modified: int

    @property
    def name(self) -> str:
        """The name of the file in which its result is kept."""
        return f"part-{self.number:05}-of-{self.count:05}.parquet"


def cut(
    source: str | Path, text_column: str, columns: Sequence[str] | None = None
) -> tuple[pa.Schema, list[Part], list[dict[str, str | int]]]:
    """Cut Parquet files into parts; only the files' ends are read.

    Args:
        source: A file, or a folder of them, at any depth, in the order of their names.
        text_column: The column whose size decides that of a part.
        columns: The columns that matter; None for all.

    Returns:
        All columns of the first file, the parts, and what identifies the content: of each file its
        name below `source`, bytes, time, rows, and digest of its end.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: A file cannot be read, or its columns are not those of the first.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder.")
    files = [source]
    if source.is_dir():
        files = [path for path in files_below(source) if path.suffix.lower() == ".parquet"]
        if not files:
            raise ValueError(f"{source}: there is no .parquet file in this folder.")
    elif source.suffix.lower() != ".parquet":
        raise ValueError(f"{source}: only Parquet is read here; write it as a .parquet file.")
    schema: pa.Schema | None = None
    ranges: list[tuple[str, int, int, int, int]] = []
    identity: list[dict[str, str | int]] = []
    for path in files:
        with open_parquet(path) as file:
            own = file.schema_arrow.remove_metadata()
            schema = own if schema is None else schema
            _check_same(own, schema, columns or [*schema.names, *own.names], path, files[0])
            status = os.stat(path)
            name = path.relative_to(source).as_posix() if source.is_dir() else path.name
            identity.append(
                {
                    "file": name,
                    "bytes": status.st_size,
                    "modified": status.st_mtime_ns,
                    "rows": file.metadata.num_rows,
                    "sha256_of_footer": _footer_digest(path),
                }
            )
            rows = _rows_of_a_part(file.metadata, text_column)
            absolute = os.path.abspath(path)
            ranges += [
                (absolute, first, min(first + rows, file.metadata.num_rows), status.st_size,
                 status.st_mtime_ns)
                for first in range(0, file.metadata.num_rows, rows)
            ]  # fmt: skip
    assert schema is not None, "there is a file"
    parts = [Part(number, len(ranges), *where) for number, where in enumerate(ranges)]
    return schema, parts, identity


def read(part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read a part's columns, some hundred rows at a time.

    Raises:
        ValueError: The file cannot be read, or was written since it was cut.
    """
    with open_parquet(part.path) as file:
        status = os.stat(part.path)
        if (status.st_size, status.st_mtime_ns) != (part.size, part.modified):
            raise ValueError(
                f"{part.path}: the file has changed since the command began; begin anew, with "
                "another folder for `--output`."
            )
        groups: list[int] = []
        start = begin = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if start < part.last and end > part.first:
                begin = begin if groups else start
                groups.append(group)
            start = end
        for batch in file.iter_batches(
            _ROWS_AT_ONCE, row_groups=groups, columns=list(columns), use_threads=False
        ):
            first, last = max(part.first - begin, 0), part.last - begin
            begin += batch.num_rows
            if last <= 0:
                return
            if first < batch.num_rows:
                yield batch.slice(first, last - first)


@contextmanager
def open_parquet(path: str | Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file to be read piece by piece.

    Raises:
        ValueError: It is damaged.
        OSError: It cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as stream:
        try:
            # Columns piece by piece: a row group, held whole otherwise, may be the whole file.
            with pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            problem = " ".join(str(error).split())
            raise ValueError(
                f"{path}: not a whole Parquet file ({problem}); fetch or write it again."
            ) from error


class PartFolder:
    """A folder of results, one file for each part, and the manifest that says of what.

    Args:
        path: The folder.
        manifest: What decides the results: JSON values.
    """

    def __init__(self, path: str | Path, manifest: Mapping[str, Any]) -> None:
        self.path = Path(path)
        content = json.dumps({"format": FORMAT, **manifest})
        self.manifest: dict[str, Any] = json.loads(content)
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep the folder for this process, write the manifest, remove what a killed one left.

        Raises:
            ValueError: The folder holds something else, or another process writes to it.
            OSError: It cannot be written.
        """
        manifest = self.path / MANIFEST
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is no folder; name one.")
        if not manifest.exists() and self.path.exists():
            others = [path.name for path in self.path.iterdir() if path.name[0] != "."]
            if others:
                raise ValueError(f"{self.path} holds other files ({others[0]}); name a new folder.")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(f"{self.path}: another process is writing to this folder.") from None
        try:
            if manifest.exists():
                self._compare(manifest)
            for debris in self.path.glob(".part-*"):
                debris.unlink(missing_ok=True)
            if not manifest.exists():
                with atomic_file(manifest) as file:
                    json.dump(self.manifest, file, ensure_ascii=False, indent=2)
                    file.write("\n")
            yield
        finally:
            lock.release()

    def write(
        self, part: Part, schema: pa.Schema, tables: Iterator[pa.Table], skipped: Mapping[str, int]
    ) -> int:
        """Write the result of a part, whole or not at all.

        Args:
            part: The part.
            schema: The columns.
            tables: The rows, in order.
            skipped: How many rows of the part were left out, by reason, when the tables end.

        Returns:
            The number of rows written.
        """
        import pyarrow.parquet as pq

        rows = 0
        with atomic_file(self.path / part.name, "wb") as file, pq.ParquetWriter(file, schema) as to:
            for table in tables:
                to.write_table(table)
                rows += table.num_rows
            facts = {"manifest": self.digest, "skipped": dict(skipped)}
            to.add_key_value_metadata({_KEY.decode(): json.dumps(facts)})
        return rows

    def count_attempts(self, part: Part) -> int:
        """Return how many processes were killed while they wrote a part, since the last claim."""
        return len(list(self.path.glob(f".{part.name}.*")))

    def facts(self, part: Part) -> tuple[int, dict[str, int]] | None:
        """Return how many rows a part's result has and how many were skipped, by reason.

        Returns:
            None where there is no result yet, or not a whole one of this manifest.
        """
        try:
            with open_parquet(self.path / part.name) as file:
                rows = file.metadata.num_rows
                facts = json.loads((file.metadata.metadata or {}).get(_KEY, b"{}"))
        except (FileNotFoundError, ValueError):
            return None
        skipped: dict[str, int] = facts.get("skipped", {})
        whole = rows + sum(skipped.values()) == part.last - part.first
        return (rows, skipped) if whole and facts.get("manifest") == self.digest else None

    def _compare(self, path: Path) -> None:
        """Refuse a folder that holds results of something else."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{path} is damaged; name another folder.")
        if found == self.manifest:
            return
        names = [*self.manifest, *found]
        differs = next(name for name in names if found.get(name) != self.manifest.get(name))
        raise ValueError(
            f"{self.path} holds results of another {differs} (see {MANIFEST} there); name a new "
            "folder, or give the command that began this one."
        )


def _rows_of_a_part(metadata: pq.FileMetaData, column: str) -> int:
    """Return how many rows of a file make a part."""
    size, most = 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        most = max(most, group.num_rows)
        for index in range(group.num_columns):
            if group.column(index).path_in_schema == column:
                size += group.column(index).total_uncompressed_size
    rows: int = min(PART_ROWS, PART_BYTES * metadata.num_rows // max(1, size))
    return max(1, rows, -(-most // PARTS_OF_A_GROUP))


def _check_same(
    own: pa.Schema, schema: pa.Schema, columns: Sequence[str], path: Path, first: Path
) -> None:
    """Refuse a file whose columns are not those of the first: their rows would fit no table."""
    for name in dict.fromkeys(columns):
        here, there = (
            str(one.field(name).type) if name in one.names else "missing" for one in (own, schema)
        )
        if here != there:
            raise ValueError(
                f"{path}: the column {name!r} is {here}, in {first} it is {there}; files of one "
                "folder must have the same columns, or name those to keep in `keep_columns`."
            )


def _footer_digest(path: Path) -> str:
    """Return the digest of the end of a Parquet file: sizes, places and statistics of all pages."""
    with open(path, "rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return hashlib.sha256(file.read(length)).hexdigest()
