"""Train over corpora, variants, seeds and folds, in a folder where finished runs stay.

The folder holds `experiment.json`, which says what is run, and for each run a run directory
`<corpus>/<variant>/<seed>` (or `<seed>-<fold>`) with what `han fit` wrote and what it printed
(`output.txt`), less the checkpoints. A run is finished when its `run.json` is there, and
`baseline.json` where that is wanted; all others begin anew. The same command goes on where an
interrupted one stopped, and another adds corpora, variants or seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml
from sklearn.model_selection import StratifiedKFold

from han.atomic import atomic_file
from han.cli.runs import CHECKPOINT_FOLDER, CONFIG, METRICS, RUN
from han.cli.training import BASELINE, MODEL, TEST_METRICS
from han.datamodule import bundled_corpus
from han.documents import read_documents
from han.documents.hub import SCHEME
from han.embeddings import BUILTIN
from tests.benchmarks.throughput import positive

EXPERIMENT, OUTPUT, DOCUMENTS, CACHE = "experiment.json", "output.txt", "documents", "cache"
FOLD_SEED = 0  # of how documents are dealt to folds
READING = ("text_column", "label_column", "id_column", "split_column", "encoding", "on_bad_row")

Layout = Literal["corpora", "differences", "grid"]
Split = Literal["test", "validation"]
Named = TypeVar("Named", bound="Variant | Source")


@dataclass(frozen=True)
class Variant:
    """Options of `han fit` that are compared with others.

    Args:
        name: What they are called.
        options: The options.
        group: The column of the table, where it has one for each group.
        module: What is run, as `python -m` takes it, with the arguments of `han`.
    """

    name: str
    options: tuple[str, ...] = ()
    group: str = ""
    module: str = "han"


@dataclass(frozen=True)
class Source:
    """A corpus.

    Args:
        name: What it is called.
        path: Labelled documents, anything that `han fit --data.train` reads.
        options: Options of `han fit` for it alone.
    """

    name: str
    path: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Every variant on every corpus with every seed.

    Args:
        name: What the experiment is called.
        layout: What its table shows: a row for each corpus; or for each variant, either its
            difference to the first or a column for each group.
        split: The documents that the figures are of. Where they are those of validation, `han fit`
            is given a file without the test documents; with folds, the part that is held out is
            for test there, and a tenth of the others for validation.
        variants: The first is the one that others are compared with.
        corpora: The corpora.
        seeds: The seeds.
        options: Options of `han fit` for all runs.
        folds: Into how many parts training and validation documents are dealt, each of which is
            held out once; 0 leaves them as they are.
        baseline: Whether linear models are trained too, in the first run of each corpus.
    """

    name: str
    layout: Layout
    split: Split
    variants: tuple[Variant, ...]
    corpora: tuple[Source, ...]
    seeds: tuple[int, ...]
    options: tuple[str, ...] = ()
    folds: int = 0
    baseline: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be told apart."""
        for kind, names in {
            "variants": [f"{variant.group} {variant.name}" for variant in self.variants],
            "corpora": [corpus.name for corpus in self.corpora],
        }.items():
            slugs = [_slug(name) for name in names]
            if len(set(slugs)) < len(slugs):
                raise ValueError(f"Two {kind} have the same name ({', '.join(names)}).")
        if self.folds == 1 or (self.folds and self.split == "test"):
            raise ValueError("Folds are for validation, and at least 2.")

    @classmethod
    def load(cls, folder: Path) -> Experiment:
        """Read what is run in a folder.

        Raises:
            FileNotFoundError: It is not such a folder.
        """
        path = folder / EXPERIMENT
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no experiment: there is no {EXPERIMENT}.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from error
        for key, made in (("variants", Variant), ("corpora", Source)):
            content[key] = tuple(
                made(**{**one, "options": tuple(one["options"])}) for one in content[key]
            )
        for key in ("seeds", "options"):
            content[key] = tuple(content[key])
        return cls(**content)

    def save(self, folder: Path) -> None:
        """Write what is run in a folder, beside what was run there before.

        Raises:
            ValueError: Runs there differ from these, or the folder holds something else.
        """
        whole = self
        if (folder / EXPERIMENT).is_file():
            whole = self._joined(Experiment.load(folder), folder)
        elif folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something else; give --runs a new folder.")
        with atomic_file(folder / EXPERIMENT) as file:
            json.dump(asdict(whole), file, ensure_ascii=False, indent=2)
            file.write("\n")

    def runs(self, folder: Path) -> Iterator[Run]:
        """Yield the runs: all variants in turn, so that what is there can be compared."""
        for corpus in self.corpora:
            for seed in self.seeds:
                for fold in range(1, self.folds + 1) if self.folds else (0,):
                    for variant in self.variants:
                        yield Run(self, corpus, variant, seed, fold, folder)

    def _joined(self, before: Experiment, folder: Path) -> Experiment:
        same = ("name", "layout", "split", "options", "folds")
        if differing := [key for key in same if getattr(self, key) != getattr(before, key)]:
            raise ValueError(
                f"{folder} holds runs of another experiment ({', '.join(differing)}); give --runs "
                "a new folder."
            )
        return replace(
            self,
            variants=_union(before.variants, self.variants, folder),
            corpora=_union(before.corpora, self.corpora, folder),
            seeds=tuple(sorted({*before.seeds, *self.seeds})),
        )


@dataclass(frozen=True)
class Run:
    """One run of `han fit`.

    Args:
        experiment: What it belongs to.
        corpus: Its documents.
        variant: Its options.
        seed: Its seed.
        fold: Which part of the documents is held out, from 1; 0 without folds.
        folder: That of the experiment.
    """

    experiment: Experiment
    corpus: Source
    variant: Variant
    seed: int
    fold: int
    folder: Path

    @property
    def directory(self) -> Path:
        """The run directory."""
        variant = _slug(f"{self.variant.group} {self.variant.name}")
        last = f"{self.seed}-{self.fold}" if self.fold else str(self.seed)
        return self.folder / _slug(self.corpus.name) / variant / last

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        last = BASELINE if self.with_baseline else RUN
        return (self.directory / last).is_file()

    @property
    def with_baseline(self) -> bool:
        """Whether it trains linear models too."""
        first = (self.experiment.variants[0], self.experiment.seeds[0])
        return self.experiment.baseline and (self.variant, self.seed) == first

    def __str__(self) -> str:
        """Say which it is."""
        fold = f", fold {self.fold} of {self.experiment.folds}" if self.fold else ""
        variant = " ".join(filter(None, (self.variant.name, self.variant.group)))
        return f"{self.corpus.name}, {variant}, seed {self.seed}{fold}"

    def command(self) -> list[str]:
        """Return the command line after `han`; write the documents that it reads, if need be."""
        path, options = self.corpus.path, self.corpus.options
        if self.experiment.split == "validation":
            written = self.folder / DOCUMENTS / f"{_slug(self.corpus.name)}.jsonl"
            reading, options = _reading_options(options)
            if not written.is_file():
                _write_without_test(path, reading, self.experiment.folds, written)
            path = str(written)
            options += ("--data.cache_dir", str(self.folder / CACHE))  # of no use for others
        command = ["fit", *self.experiment.options, *options, "--data.train", path]
        if self.fold:
            command += ["--data.split_column", f"fold{self.fold}"]
        command += [*self.variant.options, "--seed_everything", str(self.seed)]
        if self.with_baseline:
            command.append("--baseline")
        return [*command, "--run_dir", str(self.directory)]


def execute(runs: Sequence[Run], jobs: int) -> list[Run]:
    """Run what is not finished, each in a process of its own, and say how it goes.

    Args:
        runs: The runs.
        jobs: How many at once; with more than one, each has one thread.

    Returns:
        Those that failed. Their directories keep what they printed.
    """
    waiting = [run for run in runs if not run.finished]
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})}
    done = len(runs) - len(waiting)
    _say(f"{len(runs)} runs" + (f", {done} of them finished before" if done else ""))
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed = []
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = _start(run, environment)
                _say(f"         {run} ...")
            ended = [run for run, process in running.items() if process.poll() is not None]
            for run in ended:
                running.pop(run)
                done += 1
                if run.finished:
                    _tidy(run)
                else:
                    failed.append(run)
                _say(f"[{done}/{len(runs)}] {run}: {_outcome(run)}")
            if not ended:
                time.sleep(0.1)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        signal.signal(signal.SIGTERM, terminated)
    return failed


def figures(run: Run) -> dict[str, float]:
    """Return `accuracy` and `macro_f1` of a finished run's documents, by its own records.

    Those of validation are of the checkpoint that the run kept.

    Raises:
        ValueError: It had no such documents.
    """
    if run.experiment.split == "test" or run.fold:
        path = run.directory / TEST_METRICS
        if not path.is_file():
            raise ValueError(f"{run.corpus.path}: there are no test documents to compare on.")
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("accuracy", "macro_f1")}
    monitor = yaml.safe_load((run.directory / CONFIG).read_text(encoding="utf-8"))["monitor"]
    with open(run.directory / METRICS, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[monitor]]
    sign = 1 if monitor == "val_loss" else -1
    best = min(rows, key=lambda row: sign * float(row[monitor]))  # the first of several
    return {key: float(best[f"val_{key}"]) for key in ("accuracy", "macro_f1")}


def record(run: Run) -> dict[str, Any]:
    """Return what a finished run wrote about itself."""
    content: dict[str, Any] = json.loads((run.directory / RUN).read_text(encoding="utf-8"))
    return content


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all experiments have in common."""
    parser.add_argument(
        "corpora",
        nargs="+",
        metavar="CORPUS",
        help="labelled documents, anything that `han fit --data.train` reads, as PATH or NAME=PATH",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where runs go; those that are finished there are not repeated",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="runs at once, with one thread each if they are several (default: 1, on all threads)",
    )
    parser.add_argument(
        "--options",
        action="append",
        default=[],
        metavar="'NAME: OPTIONS'",
        help="options of `han fit` for one corpus; may be given again",
    )


def named(argument: str) -> tuple[str, str]:
    """Split NAME=PATH; a path alone is named by its stem."""
    name, equals, path = argument.partition("=")
    if not equals or argument.startswith(SCHEME) or Path(argument).exists():
        return Path(argument).name.split(".")[0] or argument, argument
    return name, path


def read_corpora(arguments: Sequence[str], options: Sequence[str]) -> tuple[Source, ...]:
    """Return the corpora that the command line names, each with its options.

    Raises:
        ValueError: Options are for a corpus that is not named.
        FileNotFoundError: There is no such corpus.
    """
    paths = dict(map(named, arguments))
    if len(paths) < len(arguments):
        raise ValueError("Two corpora have the same name; give them as NAME=PATH.")
    for path in paths.values():
        if not (path == BUILTIN or path.startswith(SCHEME) or Path(path).exists()):
            raise FileNotFoundError(f"{path}: no such file or folder.")
    given: dict[str, tuple[str, ...]] = dict.fromkeys(paths, ())
    for text in options:
        name, _, words = text.partition(":")
        if name not in given:
            raise ValueError(f"--options {text!r}: begin with one of {', '.join(given)} and a `:`.")
        given[name] += tuple(shlex.split(words))
    return tuple(Source(name, path, given[name]) for name, path in paths.items())


def run_experiment(experiment: Experiment, folder: Path, jobs: int) -> int:
    """Run what is not finished; return the exit status."""
    experiment.save(folder)
    failed = execute(list(experiment.runs(folder)), jobs)
    if failed:
        _say(f"{len(failed)} failed; see {OUTPUT} in {failed[0].directory}. To try again, repeat.")
    return 1 if failed else 0


def reporting(main: Callable[[], int]) -> int:
    """Return the exit status of `main`; what is wrong with its input is one line."""
    try:
        return main()
    except (ValueError, OSError) as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on")
        return 130


def _start(run: Run, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = run.command()
    shutil.rmtree(run.directory, ignore_errors=True)
    run.directory.mkdir(parents=True)
    with open(run.directory / OUTPUT, "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", run.variant.module, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _tidy(run: Run) -> None:
    """Remove what no figure is read from and takes the most space."""
    shutil.rmtree(run.directory / CHECKPOINT_FOLDER, ignore_errors=True)
    if run.experiment.split == "validation":
        shutil.rmtree(run.directory / MODEL, ignore_errors=True)


def _outcome(run: Run) -> str:
    if run.finished:
        seconds = record(run)["seconds"]["command"]
        found = figures(run)
        return (
            f"accuracy {found['accuracy']:.4f}, macro-F1 {found['macro_f1']:.4f}, {seconds:.0f} s"
        )
    printed = (run.directory / OUTPUT).read_text(encoding="utf-8", errors="replace")
    return f"failed: {(printed.split(chr(10))[:-1] or ['(no output)'])[-1]}"


def _reading_options(options: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Part options into arguments of `read_documents` and all others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in READING:
        parser.add_argument(f"--data.{name}", dest=name, default=argparse.SUPPRESS)
    reading, others = parser.parse_known_args(options)
    for word in others:
        if re.match(r"--data\.(validation|test)\b(?!_)", word):
            raise ValueError(f"{word}: all documents must be in one file here; leave it out.")
    return vars(reading), tuple(others)


def _write_without_test(path: str, reading: dict[str, Any], folds: int, target: Path) -> None:
    """Write the documents that are not for test, with one column of splits for each fold."""
    source = bundled_corpus() if path == BUILTIN else path
    documents = [one for one in read_documents(source, **reading) if one.split != "test"]
    labels = [one.label for one in documents]
    columns: dict[str, list[str | None]] = {"split": [one.split for one in documents]}
    if folds:
        dealing = StratifiedKFold(folds, shuffle=True, random_state=FOLD_SEED)
        columns = {}
        for number, (_, held_out) in enumerate(dealing.split(labels, labels), start=1):
            splits = np.full(len(documents), "train", dtype=object)
            splits[held_out] = "test"
            columns[f"fold{number}"] = splits.tolist()
    with atomic_file(target) as file:
        for index, one in enumerate(documents):
            row = {"id": one.id, "text": one.text, "label": one.label}
            row |= {name: column[index] for name, column in columns.items()}
            file.write(json.dumps(row) + "\n")


def _union(before: Iterable[Named], now: Iterable[Named], folder: Path) -> tuple[Named, ...]:
    found: dict[str, Named] = {}
    for one in (*before, *now):
        key = f"{getattr(one, 'group', '')} {one.name}"
        if key not in found:
            found[key] = one
        elif found[key] != one:
            raise ValueError(
                f"{folder} holds runs of {one.name!r} with other options; give --runs a new folder."
            )
    return tuple(found.values())


def _slug(name: str) -> str:
    """Return a name of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "-"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
