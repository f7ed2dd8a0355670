"""What a word costs as documents get more and sentences longer; memory and start-up of `han`.

    python -m tests.benchmarks.scaling [--parts PART ...] [--json FILE]

All parts are measured in one run, of one member, without dropout, at the paper's sizes: word
vectors of 200, 50 per GRU direction, contexts of 100, batches of 64 documents.

- documents: corpora of a few to a million short documents, made of the sentences of the bundled
  abstracts. All have the same sentences, so that nothing but the number of documents grows.
  Measured are preparing the corpus; the loader alone, over a whole epoch; and training steps with
  loader and optimiser in the middle of an epoch, to which the time that the epoch takes to begin is
  added by the step.
- words: the same words cut into sentences of different lengths: training steps, and inference.
- memory: the peak of a whole `han fit` on a corpus, on one of ten times as many documents made of
  the same sentences, and on a file of the user's.
- startup: whole processes, `han --help` and `han classify MODEL "one text"`, beside
  `python -c "import torch"`.

The cost of a word is processor time over words, in one thread where the network computes. Passes
alternate between the sizes, each round in the reverse order of the one before, after a round that
does not count; the median counts. Made corpora go to a temporary folder and are deleted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from han.batching import Batch, LengthGroupedBatchSampler
from han.bundle import Bundle
from han.corpus import prepare_corpus
from han.datamodule import HANDataModule, bundled_corpus
from han.documents import read_documents
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary
from tests.benchmarks.contenders import Contender, ours
from tests.benchmarks.throughput import (
    BATCH_SIZE,
    BUSY,
    MIN_COUNT,
    circumstances,
    positive,
)

PARTS = ("documents", "words", "memory", "startup")
WORDS_PER_DOCUMENT = 40
WORDS_PER_BATCH, DOCUMENTS_PER_BATCH, BATCHES = 16_000, 8, 4
STEPS = 8  # of training in a pass; the smallest corpus has no more in half an epoch
PREPARED_DOCUMENTS = 20_000  # a smaller corpus is prepared several times, the first not counted
GROWTH = 10
ONE_TEXT = "We study the spectra of random graphs."

# A process of its own, as the peak of a child counts from that of the process that starts it.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6)
"""


class Sentence(NamedTuple):
    """A sentence of a bundled abstract.

    Attributes:
        text: The sentence.
        words: The number of its words.
        label: The abstract's class.
    """

    text: str
    words: int
    label: str


class Measurement(NamedTuple):
    """What was found of one size.

    Attributes:
        part: One of `PARTS`.
        measured: What is measured.
        size: Of how many documents, or of which words in a sentence, or the command.
        unit: Of the values.
        values: One for each pass.
    """

    part: str
    measured: str
    size: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure of the median pass."""
        return statistics.median(self.values)


def sentences(words: int | None, seed: int) -> list[Sentence]:
    """Return the sentences of the bundled abstracts, in an order drawn by the seed.

    Args:
        words: How many words they have together, to within a sentence; all by default.
        seed: Decides which, and their order.
    """
    tokenizer = Tokenizer()
    found = []
    for document in read_documents(bundled_corpus()):
        read = tokenizer.tokenize(document.text)
        for (start, end), number in zip(read.sentence_spans, read.words_per_sentence, strict=True):
            text = document.text[start:end]
            found.append(Sentence(text, int(number), str(document.label)))
    random.Random(seed).shuffle(found)
    if words is None:
        return found
    reached = np.cumsum([sentence.words for sentence in found])
    return found[: 1 + int(np.searchsorted(reached, words))]


def write_documents(path: Path, number: int, source: Sequence[Sentence], seed: int) -> None:
    """Write documents of at least `WORDS_PER_DOCUMENT` words as JSON lines.

    Each sentence occurs before one occurs again. A document has the class of its first sentence.
    """
    draw, left = random.Random(seed), list[Sentence]()
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(number):
            chosen, words = list[Sentence](), 0
            while words < WORDS_PER_DOCUMENT:
                if not left:
                    left = draw.sample(source, len(source))
                chosen.append(left.pop())
                words += chosen[-1].words
            text = " ".join(sentence.text for sentence in chosen)
            file.write(json.dumps({"text": text, "label": chosen[0].label}) + "\n")


def alternate(
    jobs: Mapping[str, Callable[[], float]], repeats: int, name: str
) -> dict[str, tuple[float, ...]]:
    """Run the jobs in turn; return what each returned in each round but the first."""
    order = list(jobs)
    passes = [one for turn in range(repeats + 1) for one in (order, order[::-1])[turn % 2]]
    found: dict[str, list[float]] = {one: [] for one in order}
    # No refreshing in the background, which would take processor time.
    for one in track(passes, name, console=Console(stderr=True), auto_refresh=False):
        found[one].append(jobs[one]())
    return {one: tuple(values[1:]) for one, values in found.items()}


def measure_documents(
    numbers: Sequence[int], folder: Path, *, repeats: int, seed: int
) -> list[Measurement]:
    """Measure preparing, loading and training on corpora of so many documents each."""
    # The smallest corpus has each sentence twice: all have the same vocabulary.
    source = sentences(min(numbers) * WORDS_PER_DOCUMENT // 2, seed)
    corpora: dict[str, HANDataModule] = {}
    found: dict[str, dict[str, tuple[float, ...]]] = {"preparing": {}}
    for number in track(sorted(numbers), "documents", console=Console(stderr=True)):
        file = folder / f"{number}.jsonl"
        write_documents(file, number, source, seed)
        caches = [
            folder / f"cache-{number}-{turn}" for turn in range(1 + PREPARED_DOCUMENTS // number)
        ]
        costs = [_prepare(file, cache, seed) for cache in caches]
        found["preparing"][f"{number:,}"] = tuple(costs[1:] or costs)
        corpora[f"{number:,}"] = HANDataModule(
            train=str(file),
            vectors="none",
            batch_size=BATCH_SIZE,
            seed=seed,
            cache_dir=str(caches[0]),
        )

    loading = {size: _loading(data) for size, data in corpora.items()}
    found["loading"] = alternate(loading, repeats, "loading")
    largest = max(data.vocabulary_size for data in corpora.values())
    contender = ours(largest, max(data.num_classes for data in corpora.values()))
    training = {size: _training(data, contender) for size, data in corpora.items()}
    found["training"] = alternate(training, repeats, "training")
    return _measurements("documents", "s/word", found)


def measure_words(numbers: Sequence[int], *, repeats: int, seed: int) -> list[Measurement]:
    """Measure training and inference on the same words, so many in each sentence."""
    texts = [document.text for document in read_documents(bundled_corpus())]
    random.Random(seed).shuffle(texts)
    vocabulary = Vocabulary.build(texts, Tokenizer(), MIN_COUNT)
    tokens = np.concatenate([text.tokens for text in vocabulary.encode(texts)])
    contender = ours(len(vocabulary), 2)
    found = {}
    for measured, work in (("training", contender.train), ("inference", contender.infer)):
        jobs = {}
        for number in sorted(numbers):
            batches = [contender.prepare(batch) for batch in islice(cut(tokens, number), BATCHES)]
            words = sum(len(inputs[0].tokens) for inputs, _, _ in batches)
            jobs[f"{number:,}"] = _timed(work, batches, words)
        found[measured] = alternate(jobs, repeats, measured)
    return _measurements("words", "s/word", found)


def cut(tokens: np.ndarray[Any, Any], words_per_sentence: int) -> Iterator[Batch]:
    """Yield batches of `WORDS_PER_BATCH` words in sentences of one length, as far as words go."""
    number = max(1, WORDS_PER_BATCH // words_per_sentence)
    documents = min(number, DOCUMENTS_PER_BATCH)
    size = number * words_per_sentence
    for first in range(0, len(tokens) - size + 1, size):
        yield Batch.from_arrays(
            tokens[first : first + size],
            np.full(number, words_per_sentence),
            np.array([len(part) for part in np.array_split(np.arange(number), documents)]),
            np.arange(documents) % 2,
        )


def measure_memory(
    number: int, corpus: Path | None, folder: Path, *, seed: int
) -> list[Measurement]:
    """Measure the peak memory of `han fit` on so many documents, ten times as many, and a file."""
    source = sentences(None, seed)
    files: dict[str, Path] = {}
    for documents in (number, GROWTH * number):
        file = files[f"{documents:,} documents"] = folder / f"{documents}.jsonl"
        write_documents(file, documents, source, seed)
    if corpus is not None:
        files[corpus.name] = corpus
    peaks: dict[str, tuple[float, ...]] = {}
    for size, file in track(files.items(), "memory", console=Console(stderr=True)):
        options = {
            "data.train": file.absolute(),
            "data.cache_dir": folder / "cache",
            "run_dir": folder / f"run{len(peaks)}",
            "trainer.max_epochs": 1,
            "data.batch_size": BATCH_SIZE,  # otherwise these follow from the number of documents
            "model.members": 1,
            "trainer.enable_progress_bar": "false",
        }
        command = [f"--{name}={value}" for name, value in options.items()]
        peaks[size] = (peak_memory(sys.executable, "-m", "han", "fit", *command),)
    return _measurements("memory", "MB", {"peak of han fit": peaks})


def peak_memory(*command: str) -> float:
    """Return the most memory, in MB (1e6 bytes), that a command's process takes.

    Raises:
        RuntimeError: The command fails; the message holds what it wrote to standard error.
    """
    return float(_run(sys.executable, "-c", LAUNCHER, *command))


def measure_startup(folder: Path, *, repeats: int) -> list[Measurement]:
    """Measure how long whole processes take."""
    texts = [document.text for document in read_documents(bundled_corpus())]
    vocabulary = Vocabulary.build(texts, Tokenizer(), MIN_COUNT)
    network: Any = ours(len(vocabulary), 2).network
    Bundle(network, vocabulary, ("no", "yes")).save(folder / "model")
    commands = {
        "import torch": ("-c", "import torch"),
        "han --help": ("-m", "han", "--help"),
        "han classify": ("-m", "han", "classify", str(folder / "model"), ONE_TEXT),
    }

    def process(arguments: Sequence[str]) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            _run(sys.executable, *arguments)
            return time.perf_counter() - began

        return run

    jobs = {name: process(arguments) for name, arguments in commands.items()}
    return _measurements("startup", "s", {"process": alternate(jobs, repeats, "startup")})


def figures(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Compute the ratios of the parts that were measured.

    Returns:
        `cost_per_token_documents` and `cost_per_token_words`, for each thing measured the largest
        cost over the smallest; `memory_mb`, the highest peak; `memory_growth`, the peak on ten
        times as many documents over that on the documents; `help_seconds` and
        `classify_over_import_torch`.
    """
    found: dict[str, Any] = {}
    medians: dict[tuple[str, str], list[float]] = {}
    for one in measurements:
        medians.setdefault((one.part, one.measured), []).append(one.median)
    for (part, measured), values in medians.items():
        if part in ("documents", "words"):
            ratios = found.setdefault(f"cost_per_token_{part}", {})
            ratios[measured] = max(values) / min(values)
        elif part == "memory":
            found["memory_mb"] = max(values)
            found["memory_growth"] = values[1] / values[0]
        else:
            torch_alone, found["help_seconds"], classify = values
            found["classify_over_import_torch"] = classify / torch_alone
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the file of figures.

    Args:
        arguments: The command line; by default the process's.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    command = [*sys.argv[1:]] if arguments is None else list(arguments)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY:
        sys.stderr.write(f"Other processes are running (load {load:.1f}): figures vary more.\n")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # it tells of devices
    torch.manual_seed(options.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measurements: list[Measurement] = []
    try:
        for part in options.parts:
            with TemporaryDirectory(dir=options.folder) as name:
                measurements += _measure(part, options, Path(name))
    finally:
        torch.set_num_threads(threads)
    found = figures(measurements)
    Console(width=128).print(_table(measurements), *_lines(found), sep="\n")
    if options.json is not None:
        record = {
            **found,
            "measurements": [one._asdict() | {"median": one.median} for one in measurements],
            "seed": options.seed,
            "repeats": options.repeats,
            "command": ["python", "-m", "tests.benchmarks.scaling", *command],
            "load": load,
            **circumstances(),
        }
        text = json.dumps(record, indent=2, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _measure(part: str, options: argparse.Namespace, folder: Path) -> list[Measurement]:
    seed, repeats = options.seed, options.repeats
    if part == "documents":
        return measure_documents(options.documents, folder, repeats=repeats, seed=seed)
    if part == "words":
        return measure_words(options.words, repeats=repeats, seed=seed)
    if part == "memory":
        return measure_memory(options.memory_documents, options.corpus, folder, seed=seed)
    return measure_startup(folder, repeats=repeats)


def _measurements(
    part: str, unit: str, found: Mapping[str, Mapping[str, tuple[float, ...]]]
) -> list[Measurement]:
    return [
        Measurement(part, measured, size, unit, values)
        for measured, sizes in found.items()
        for size, values in sizes.items()
    ]


def _prepare(file: Path, cache: Path, seed: int) -> float:
    """Prepare a corpus where `HANDataModule` looks for it; return the cost of a word."""
    began = time.process_time()
    corpus = prepare_corpus(train=file, seed=seed, cache_dir=cache / "corpora", progress=False)
    seconds = time.process_time() - began
    return seconds / sum(int(counts["words"]) for counts in corpus.summary.values())


def _loading(data: HANDataModule) -> Callable[[], float]:
    """Return a job: load all batches of an epoch; the cost of a word."""
    loader = data.train_dataloader()

    def load() -> float:
        began = time.process_time()
        words = sum(len(batch.tokens) for batch in loader)
        return (time.process_time() - began) / words

    return load


def _training(data: HANDataModule, contender: Contender) -> Callable[[], float]:
    """Return a job: train in the middle of an epoch; the cost of a word."""
    loader = data.train_dataloader()
    sampler = loader.sampler
    assert isinstance(sampler, LengthGroupedBatchSampler)
    middle = sampler.state_dict(len(sampler) // 2)

    def train() -> float:
        sampler.load_state_dict(middle)
        began = time.process_time()
        batches = iter(loader)
        next(batches)
        start = time.process_time() - began
        words = steps = 0
        began = time.process_time()
        for batch in islice(batches, STEPS):
            contender.train([contender.prepare(batch)])
            words += len(batch.tokens)
            steps += 1
        return (time.process_time() - began + start * steps / len(sampler)) / words

    return train


def _timed(
    work: Callable[[Sequence[Any]], object], batches: Sequence[Any], words: int
) -> Callable[[], float]:
    def run() -> float:
        began = time.process_time()
        work(batches)
        return (time.process_time() - began) / words

    return run


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scaling",
        description="Measure what grows with the documents and the sentences, and start-up.",
    )
    parser.add_argument(
        "--parts", choices=PARTS, nargs="+", default=PARTS, help="what to measure (default: all)"
    )
    parser.add_argument(
        "--documents",
        type=positive,
        nargs="+",
        metavar="N",
        default=[1_000, 10_000, 100_000, 1_000_000],
        help="numbers of documents (default: 1000 10000 100000 1000000)",
    )
    parser.add_argument(
        "--words",
        type=positive,
        nargs="+",
        metavar="N",
        default=[20, 200, 2_000],
        help="words of a sentence (default: 20 200 2000)",
    )
    parser.add_argument(
        "--memory_documents",
        type=positive,
        metavar="N",
        default=25_000,
        help="documents of the smaller corpus whose training's memory is measured (default: 25000)",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="FILE",
        help="measure the memory of training on these documents, too",
    )
    parser.add_argument(
        "--folder", type=Path, help="where made corpora go while they are needed (default: system)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--seed", type=int, default=0, help="decides the documents (default: 0)")
    parser.add_argument(
        "--repeats", type=positive, default=7, help="passes of each size (default: 7)"
    )
    return parser


def _table(measurements: Sequence[Measurement]) -> Table:
    table = Table("", "", "", title="Scaling")
    for column in ("median", "lowest..highest", "over the first"):
        table.add_column(column, justify="right", no_wrap=True)
    first: Measurement | None = None
    for one in measurements:
        begins = first is None or (one.part, one.measured) != (first.part, first.measured)
        if begins:
            first = one
            table.add_section()
        assert first is not None
        factor, unit = (1e6, "µs/word") if one.unit == "s/word" else (1, one.unit)
        table.add_row(
            *((one.part, one.measured) if begins else ("", "")),
            one.size,
            f"{factor * one.median:,.3f} {unit}",
            f"{factor * min(one.values):,.3f}..{factor * max(one.values):,.3f}",
            f"{one.median / first.median:.3f}",
        )
    return table


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        for measured, ratio in value.items() if isinstance(value, dict) else [("", value)]:
            yield f"{name}{measured and f' {measured}'}: {ratio:.3f}"


if __name__ == "__main__":
    sys.exit(main())
