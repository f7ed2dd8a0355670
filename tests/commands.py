"""The command line in a folder with a model in it, for the tests of the commands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from han.cli import main
from tests.tiny import TEXTS

ROWS = [
    {"id": f"r{i}", "text": text, "label": label, "split": split, "year": 2010 + i}
    for i, (text, label, split) in enumerate(
        zip(TEXTS, ("bad", "good", "bad"), ("train", "test", "test"), strict=True)
    )
]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def assert_one_line(self, part: str, status: int = 1) -> None:
        """Check that the command failed with one clear line and gave no result."""
        assert (self.status, self.out) == (status, "")
        assert self.err.startswith("han: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1
        assert part in self.err


@dataclass(frozen=True)
class Place:
    """A folder with a model in it, and the command line in this process."""

    folder: Path
    model: str
    capsys: pytest.CaptureFixture[str]

    def run(self, command: str, source: str | Path, *options: str) -> Outcome:
        return self.run_main(command, self.model, str(source), *options)

    def run_main(self, *args: str) -> Outcome:
        self.capsys.readouterr()
        status = main(args)
        return Outcome(status, *self.capsys.readouterr())

    def write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
        return path

    def write_rows(self, name: str, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
        """Write a table in the format that the name says."""
        path = self.folder / name
        suffix = name.removesuffix(".gz").rpartition(".")[2]
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(list(rows)), path)
            return path
        text = io.StringIO(newline="")
        if suffix == "jsonl":
            text.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
        content = text.getvalue().encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))


def run_process(*args: str, source: bytes = b"", **environment: str) -> Outcome:
    """Run `python -m han` with `source` as its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "han", *args],
        input=source,
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def packages_after(code: str) -> set[str]:
    """Return the top-level packages that a new interpreter has loaded after running `code`."""
    report = "\nimport sys\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.split()}
