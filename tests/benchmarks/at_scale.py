"""Classify a million short documents on two workers of Ray, kill all of it half-way, and go on.

    python -m tests.benchmarks.at_scale MODEL FOLDER [--documents N]

The documents are sentences of the bundled abstracts; each worker has one thread. It prints
documents a second, by the clock and by the workers' processor time, the workers' resident memory
over time, and whether each document came out once, in its order; and what `han classify` takes, in
one process, for a file of them. Linux only: it reads /proc. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from han.datamodule import bundled_corpus
from han.tokenization import Tokenizer

FILES, WORKERS = 20, 2
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """What a worker was seen to use.

    Args:
        done: Parts of the whole that were there.
        memory: Its resident memory, MiB.
        seconds: Its processor time.
    """

    done: int
    memory: float
    seconds: float


def write_documents(folder: Path, count: int) -> list[Path]:
    """Write sentences of the bundled abstracts, over and over, as Parquet files."""
    with gzip.open(bundled_corpus(), "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    sentences = [
        text[start:end]
        for text in texts
        for start, end in Tokenizer().tokenize(text).sentence_spans
    ]
    folder.mkdir(parents=True)
    paths = []
    for number in range(FILES):
        rows = range(number * count // FILES, (number + 1) * count // FILES)
        paths.append(folder / f"{number:02}.parquet")
        columns = {
            "id": [f"d{row:07}" for row in rows],
            "text": [sentences[row % len(sentences)] for row in rows],
            "number": list(rows),
        }
        pq.write_table(pa.table(columns), paths[-1])
    return paths


def started_by(root: int) -> dict[int, str]:
    """Return a process and all that it and those have started, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended
            continue
        parents[int(entry.name)] = int(fields[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: names[pid] for pid in found if pid in names}


def run(command: list[str], output: Path, stop_at: int | None = None) -> dict[int, list[Sample]]:
    """Run `han ray` and watch its workers; kill all processes when so many parts are there."""
    seen: dict[int, list[Sample]] = {}
    running = subprocess.Popen(command)
    while running.poll() is None:
        time.sleep(1)
        there = started_by(running.pid)
        done = len(list(output.glob("part-*")))
        for pid, name in there.items():
            if name.startswith("ray::") and "PartClassifier" in name:
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                seconds = (int(fields[11]) + int(fields[12])) / TICKS
                seen.setdefault(pid, []).append(Sample(done, pages * PAGE / 2**20, seconds))
        if stop_at is not None and done >= stop_at:
            for pid in there:
                os.kill(pid, signal.SIGKILL)
            running.wait()
            return seen
    if running.returncode:
        sys.exit(f"failed with status {running.returncode}: {' '.join(command)}")
    return seen


def say(line: str) -> None:
    """Print a line at once: commands write between them."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def report(name: str, seen: dict[int, list[Sample]]) -> None:
    """Print the workers' memory over time, from when each has done some parts."""
    for pid, samples in seen.items():
        steady = [one.memory for one in samples if one.done >= samples[0].done + 2 * WORKERS]
        third = -(-len(steady) // 3)
        peaks = [max(steady[start : start + third]) for start in range(0, len(steady), third or 1)]
        say(
            f"{name}, worker {pid}: most MiB in each third "
            f"{', '.join(f'{one:.0f}' for one in peaks)}; {samples[-1].seconds:.0f} s of processor "
            "time"
        )


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("--documents", type=int, default=1_000_000)
    given = parser.parse_args()
    paths = write_documents(given.folder / "in", given.documents)
    han = [sys.executable, "-m", "han"]

    began = time.perf_counter()
    plain = [*han, "classify", given.model, str(paths[0])]
    subprocess.run([*plain, "--output", str(given.folder / "plain.parquet")], check=True)
    elapsed = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    count = pq.read_metadata(paths[0]).num_rows
    say(
        f"han classify, {count} documents: {elapsed:.0f} s, {used.ru_utime + used.ru_stime:.0f} s "
        f"of processor time, {used.ru_maxrss / 2**10:.0f} MiB"
    )

    output = given.folder / "out"
    command = [*han, "ray", given.model, str(given.folder / "in"), "--output", str(output)]
    command += ["--workers", str(WORKERS), "--num_cpus", "1"]
    began = time.perf_counter()
    seen = run(command, output, FILES * (given.documents // FILES // 16_384 + 1) // 2)
    half = len(list(output.glob("part-*.parquet")))
    report(f"killed with {half} parts", seen)
    seen |= (again := run(command, output))
    elapsed = time.perf_counter() - began
    report("the same command again", again)
    processor = sum(samples[-1].seconds for samples in seen.values())
    say(
        f"{given.documents} documents in {elapsed:.0f} s, both runs together: "
        f"{given.documents / elapsed:.0f} documents/s; {given.documents / processor:.0f} for each "
        "second of a processor"
    )

    found = ds.dataset(output).to_table(columns=["id", "number", "label", "probability"])
    whole = found["number"].to_pylist() == list(range(given.documents))
    names = [f"d{number:07}" for number in range(given.documents)]
    once = found["id"].to_pylist() == names
    same = pq.read_table(given.folder / "plain.parquet", columns=["label"])["label"]
    labels = found["label"].slice(0, len(same)).equals(same)
    say(f"{len(found)} rows; each once, in order: {whole and once}; labels as plain: {labels}")
    sys.exit(not (whole and once and labels))


if __name__ == "__main__":
    main()
