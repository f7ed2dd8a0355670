"""How fast the network trains, infers and reads raw text, and how fast others do.

    python -m tests.benchmarks.throughput [--peers FOLDER] [--documents FILE] [--json FILE]

Everything is measured in one run, of one member, on the same documents cut into the same words, at
the paper's sizes: word vectors of 200, 50 per GRU direction, contexts of 100, batches of 64
documents drawn by the seed. Nobody drops anything out, and no document is cut.

- training: forward pass, loss, backward pass, the clipping of gradients where the contender's own
  training does it, optimiser.
- inference: logits and weights, in evaluation mode without gradients.
- text: raw text to label; of the network it includes finding the words and the batches.

Where the processor can, inference and text are also measured with products of bfloat16.

The contenders are `han`; the same network on `torch.nn.GRU` with packed sequences; `han` with one
block of a transformer in place of the GRU, at the words and at both levels; the other
implementations in `--peers` (see `peers.py`); and for text TF-IDF with logistic regression, of
words alone (scikit-learn's defaults) and of words and pairs of words. Of `han`, text means labels,
probabilities and weights as arrays (`Predictor.read_documents`), and also whole explanations, an
object for each word (`Predictor.explain_documents`). The other networks have no way from text of
their own: they get our words, and a sample of the texts.

For each number of threads every library is kept to as many processors, one thread of each core
first. Passes over all batches or texts alternate between contenders and numbers of threads, each
round in the reverse order of the one before, after a round that does not count. A rate is that of
the median pass, its spread that of the slowest and the fastest. `cores` is processor time over
elapsed time, to see that no contender had help.

The share of the roofline is what the matrix products of a training step must compute (see
`operations.py`) over what the processor could compute in the time: the best of several products of
large square matrices, one in each round.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from han import kernel, native
from han.batching import Batch
from han.bundle import Bundle
from han.cli.recording import processor_name
from han.datamodule import bundled_corpus
from han.documents import Document, read_documents
from han.predictor import Predictor
from han.tokenization import Tokenizer
from han.vocabulary import EncodedText, Vocabulary
from tests.benchmarks.contenders import Contender, ours, packed, require_equal
from tests.benchmarks.operations import training_operations
from tests.benchmarks.peers import PEERS, available

BATCH_SIZE = 64
MIN_COUNT = 2  # the default of `han fit`
FEWEST_TEXTS, MOST_TEXTS = 2_000, 25_000
SAMPLED_TEXTS = 512  # for the networks that take a minute or more for all
MATRIX_SIZE = 2_048
BUSY = 1.5  # a minute's mean of running processes, this one included

OURS, BFLOAT16, EXPLANATIONS = "han", "han, bfloat16", "han, explanations"
TRANSFORMERS = {  # the same network with self-attention in place of a GRU
    "han, transformer over words": {"word_encoder": "transformer"},
    "han, transformer over both": dict.fromkeys(
        ("word_encoder", "sentence_encoder"), "transformer"
    ),
}
PACKED, TFIDF = "torch.nn.GRU", "TF-IDF + logistic regression"
PAIRS = "the same, words and pairs"  # the one of the accuracies in the README
PRODUCT = "matrix product"


class Workload(NamedTuple):
    """What every contender is measured on.

    Attributes:
        vocabulary: Of the training documents.
        labels: The classes.
        batches: Training documents.
        training: Texts and labels to fit the bag of words on.
        texts: Raw texts to classify, the test documents first, in random order.
        sample: The first of them, less those without words.
    """

    vocabulary: Vocabulary
    labels: tuple[str, ...]
    batches: list[Batch]
    training: tuple[list[str], list[str]]
    texts: list[str]
    sample: list[str]


class Job(NamedTuple):
    """One contender's work.

    Attributes:
        run: Does it once.
        tokens: Words that it reads.
        documents: Documents that it reads.
    """

    run: Callable[[], object]
    tokens: int
    documents: int


@dataclass(frozen=True)
class Measurement:
    """How long a contender's passes took.

    Attributes:
        stage: `training`, `inference` or `text`.
        threads: How many it had.
        contender: Its name.
        tokens: Words of a pass.
        documents: Documents of a pass.
        seconds: Elapsed time of each pass.
        cores: Median of processor time over elapsed time.
    """

    stage: str
    threads: int
    contender: str
    tokens: int
    documents: int
    seconds: tuple[float, ...]
    cores: float

    @property
    def tokens_per_second(self) -> float:
        """Words a second in the median pass."""
        return self.tokens / statistics.median(self.seconds)

    def to_record(self) -> dict[str, Any]:
        """Return JSON values, the rates computed."""
        return {
            "stage": self.stage,
            "threads": self.threads,
            "contender": self.contender,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_slowest": self.tokens / max(self.seconds),
            "tokens_per_second_fastest": self.tokens / min(self.seconds),
            "documents_per_second": self.documents / statistics.median(self.seconds),
            "tokens": self.tokens,
            "documents": self.documents,
            "seconds": list(self.seconds),
            "cores": self.cores,
        }


def read_workload(source: str | Path, *, seed: int, num_batches: int) -> Workload:
    """Read a corpus and draw the batches and the sample.

    Documents whose split is unknown are training documents. Where test documents are few, others
    follow them among the texts.

    Args:
        source: Anything that `han fit` reads.
        seed: Decides which documents.
        num_batches: How many batches to draw from the training documents.

    Raises:
        ValueError: The training documents do not fill the batches.
        OSError: The source cannot be read.
    """
    documents = list(read_documents(source))
    training = [document for document in documents if document.split in (None, "train")]
    testing = [document for document in documents if document.split == "test"]
    labels = tuple(sorted({str(document.label) for document in training}))
    vocabulary = Vocabulary.build((d.text for d in training), Tokenizer(), MIN_COUNT)

    draw = random.Random(seed)
    drawn = draw.sample(training, len(training))
    with_words = (one for one in _encoded(vocabulary, drawn) if len(one[1].tokens))
    chosen = list(islice(with_words, num_batches * BATCH_SIZE))
    if len(chosen) < num_batches * BATCH_SIZE:
        raise ValueError(
            f"{source}: {len(chosen)} training documents have words, {num_batches} batches of "
            f"{BATCH_SIZE} need more; give --batches less, or other --documents."
        )
    batches = [
        _batch(
            [encoded for _, encoded in chosen[first : first + BATCH_SIZE]],
            [
                labels.index(str(document.label))
                for document, _ in chosen[first : first + BATCH_SIZE]
            ],
        )
        for first in range(0, len(chosen), BATCH_SIZE)
    ]
    draw.shuffle(testing)
    if len(testing) < FEWEST_TEXTS:
        testing += [document for document in documents if document.split != "test"]
    testing = testing[:MOST_TEXTS]
    sample = [d.text for d, e in _encoded(vocabulary, testing[:SAMPLED_TEXTS]) if len(e.tokens)]
    return Workload(
        vocabulary,
        labels,
        batches,
        ([document.text for document in training], [str(document.label) for document in training]),
        [document.text for document in testing],
        sample,
    )


def measure(
    stage: str, jobs: Mapping[str, Job], *, threads: Sequence[int], repeats: int
) -> list[Measurement]:
    """Run each job `repeats` times with each number of threads, in alternating order."""
    seconds: dict[tuple[int, str], list[float]] = {}
    cores: dict[tuple[int, str], list[float]] = {}
    order = [(count, name) for count in threads for name in jobs]
    passes = [one for turn in range(repeats + 1) for one in (order, order[::-1])[turn % 2]]
    with _processors_kept() as use:
        for number, (count, name) in enumerate(_tracked(passes, stage)):
            use(count)
            processor, start = time.process_time(), time.perf_counter()
            jobs[name].run()
            elapsed = time.perf_counter() - start
            processor = time.process_time() - processor
            if number >= len(order):  # the first round warms up
                seconds.setdefault((count, name), []).append(elapsed)
                cores.setdefault((count, name), []).append(processor / elapsed)
    return [
        Measurement(
            stage,
            count,
            name,
            jobs[name].tokens,
            jobs[name].documents,
            tuple(seconds[count, name]),
            statistics.median(cores[count, name]),
        )
        for count, name in order
    ]


def network_jobs(
    contenders: Mapping[str, Contender], batches: Sequence[Batch]
) -> tuple[dict[str, Job], dict[str, Job]]:
    """Return the jobs of training and of inference; each network's inputs are built here."""
    tokens, documents = sum(len(batch.tokens) for batch in batches), BATCH_SIZE * len(batches)
    training, inference = {}, {}
    for name, contender in contenders.items():
        prepared = [contender.prepare(batch) for batch in batches]
        training[name] = Job(_call(contender.train, prepared), tokens, documents)
        inference[name] = Job(_call(contender.infer, prepared), tokens, documents)
    return training, _also_in_bfloat16(inference)


def text_jobs(workload: Workload, contenders: Mapping[str, Contender]) -> dict[str, Job]:
    """Return the jobs that begin with raw text; what a network has learned changes no time."""
    vocabulary, labels, texts = workload.vocabulary, workload.labels, workload.texts
    network: Any = ours(len(vocabulary), len(labels)).network
    predictor = Predictor(Bundle(network, vocabulary, labels))
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    bags = {
        TFIDF: TfidfVectorizer(),
        PAIRS: TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
    }

    words, sampled = _count_words(vocabulary, texts), _count_words(vocabulary, workload.sample)
    jobs = {
        OURS: Job(lambda: _exhaust(predictor.read_documents(documents)), words, len(texts)),
        EXPLANATIONS: Job(
            lambda: _exhaust(predictor.explain_documents(documents)), words, len(texts)
        ),
    }
    for name, vectorizer in bags.items():
        pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=1_000))
        pipeline.fit(*workload.training)
        jobs[name] = Job(_call(pipeline.predict, texts), words, len(texts))
    for name, contender in contenders.items():
        if name not in (OURS, *TRANSFORMERS):
            read = _call(_read_with, contender, vocabulary, workload.sample)
            jobs[name] = Job(read, sampled, len(workload.sample))
    return _also_in_bfloat16(jobs)


def _also_in_bfloat16(jobs: dict[str, Job]) -> dict[str, Job]:
    """Add our job with products of bfloat16, if this processor has them."""
    exact = jobs[OURS]

    def run() -> None:
        with kernel.bfloat16():
            exact.run()

    return {**jobs, **({BFLOAT16: exact._replace(run=run)} if native.has_bfloat16() else {})}


def matrix_product() -> Job:
    """Return a product of large square matrices, for the processor's rate."""
    left, right = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE)
    result = torch.empty_like(left)
    return Job(lambda: torch.mm(left, right, out=result), 0, 0)


def figures(
    measurements: Sequence[Measurement], operations: Mapping[str, int], nominal: int
) -> dict[str, Any]:
    """Compute the ratios; one whose contender is missing is left out.

    Args:
        measurements: Of all stages.
        operations: Floating-point operations of a training pass, by their part of the network.
        nominal: Their sum if every word were multiplied by the input weights.

    Returns:
        At the top those of one thread, and `by_threads` those of each number of threads.
    """
    rate = {(m.stage, m.threads, m.contender): m.tokens_per_second for m in measurements}
    passes = {(m.stage, m.threads, m.contender): m.seconds for m in measurements}
    by_threads: dict[str, dict[str, Any]] = {}
    for threads in sorted({m.threads for m in measurements}):
        found = by_threads.setdefault(str(threads), {})
        for stage, prefix in (("training", "train"), ("inference", "inference"), ("text", "text")):
            peers = {
                name: rate[stage, threads, name] for name in PEERS if (stage, threads, name) in rate
            }
            others = {"torch_gru": PACKED, "tfidf": TFIDF, "tfidf_pairs": PAIRS}
            if peers:
                found[f"{prefix}_fastest_peer"] = others["peer"] = max(peers, key=peers.__getitem__)
            for ours_name, name in ((OURS, prefix), (BFLOAT16, f"{prefix}_bfloat16")):
                for key, other in others.items():
                    if {(stage, threads, ours_name), (stage, threads, other)} <= rate.keys():
                        ratio = rate[stage, threads, ours_name] / rate[stage, threads, other]
                        found[f"{name}_over_{key}"] = ratio
        found["explanations_over_tfidf"] = (
            rate["text", threads, EXPLANATIONS] / rate["text", threads, TFIDF]
        )
        peak = 2 * MATRIX_SIZE**3 / min(passes["training", threads, PRODUCT])
        attained = 1 / statistics.median(passes["training", threads, OURS])  # passes a second
        found["matrix_product_gflops"] = peak / 1e9
        found["roofline_share_training"] = sum(operations.values()) * attained / peak
        found["roofline_share_training_nominal"] = nominal * attained / peak
    result: dict[str, Any] = dict(by_threads.get("1", {}))
    if {"1", "2"} <= by_threads.keys():
        result["threads_2_over_1"] = rate["training", 2, OURS] / rate["training", 1, OURS]
        for stage in ("inference", "text"):
            result[f"threads_2_over_1_{stage}"] = rate[stage, 2, OURS] / rate[stage, 1, OURS]
    return {**result, "by_threads": by_threads}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the file of figures.

    Args:
        arguments: The command line; by default the process's.

    Returns:
        The exit status: 0, or 1 where the documents do not do.
    """
    options = _parser().parse_args(arguments)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # it tells of devices
    command = [*sys.argv[1:]] if arguments is None else list(arguments)
    processors = len(usable_processors())
    if max(options.threads) > processors:
        sys.stderr.write(f"--threads {max(options.threads)}: there are {processors} processors.\n")
        return 1
    try:
        workload = read_workload(options.documents, seed=options.seed, num_batches=options.batches)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sizes = len(workload.vocabulary), len(workload.labels)
    torch.manual_seed(options.seed)
    contenders = {OURS: ours(*sizes)}
    contenders[PACKED] = packed(contenders[OURS], *sizes)
    require_equal(contenders[OURS], contenders[PACKED], workload.batches[0])
    contenders |= {name: ours(*sizes, **options) for name, options in TRANSFORMERS.items()}
    if options.peers is not None:
        contenders |= available(options.peers, *sizes, workload.batches[0])

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY:
        sys.stderr.write(
            f"Other processes are running (load {load:.1f}): the figures are too low, those of "
            "several threads above all.\n"
        )
    training, inference = network_jobs(contenders, workload.batches)
    training[PRODUCT] = matrix_product()
    repeated = {"threads": options.threads, "repeats": options.repeats}
    measurements = measure("training", training, **repeated)
    measurements += measure("inference", inference, **repeated)
    measurements += measure("text", text_jobs(workload, contenders), **repeated)

    network: Any = contenders[OURS].network
    operations: Counter[str] = Counter()
    nominal = 0
    for batch in workload.batches:
        operations.update(training_operations(batch, network.options))
        nominal += sum(training_operations(batch, network.options, distinct=False).values())
    found = figures(measurements, operations, nominal)
    shown = [m for m in measurements if m.contender != PRODUCT]
    Console(width=128).print(_table(shown), *_lines(found), sep="\n")
    if options.json is not None:
        record = {
            **found,
            "measurements": [measurement.to_record() for measurement in shown],
            "operations": dict(operations),
            "workload": _summary(workload),
            "seed": options.seed,
            "repeats": options.repeats,
            "command": ["python", "-m", "tests.benchmarks.throughput", *command],
            "load": load,
            **circumstances(),
        }
        text = json.dumps(record, indent=2, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.throughput",
        description="Measure training, inference and reading text, ours and others'.",
    )
    parser.add_argument(
        "--peers", type=Path, metavar="FOLDER", help="folder that holds the peers' checkouts"
    )
    parser.add_argument(
        "--documents",
        metavar="FILE",
        default=bundled_corpus(),
        help="labelled documents, anything that `han fit` reads (default: the bundled abstracts)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--seed", type=int, default=0, help="decides the documents (default: 0)")
    parser.add_argument(
        "--repeats", type=positive, default=5, help="passes of each contender (default: 5)"
    )
    parser.add_argument(
        "--batches", type=positive, default=8, help="batches in a pass (default: 8)"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        nargs="+",
        default=[1, 2],
        help="numbers of threads (default: 1 2)",
    )
    return parser


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _encoded(
    vocabulary: Vocabulary, documents: Sequence[Document]
) -> Iterator[tuple[Document, EncodedText]]:
    for first in range(0, len(documents), SAMPLED_TEXTS):
        block = documents[first : first + SAMPLED_TEXTS]
        encoded = vocabulary.encode([document.text for document in block])
        yield from zip(block, encoded, strict=True)


def _batch(texts: Sequence[EncodedText], labels: Sequence[int]) -> Batch:
    return Batch.from_arrays(
        np.concatenate([text.tokens for text in texts]).astype(np.int64),
        np.concatenate([text.words_per_sentence for text in texts]).astype(np.int64),
        np.array([len(text.words_per_sentence) for text in texts], np.int64),
        np.array(labels, np.int64),
    )


def _count_words(vocabulary: Vocabulary, texts: Sequence[str]) -> int:
    documents = [Document("", text) for text in texts]
    return sum(len(encoded.tokens) for _, encoded in _encoded(vocabulary, documents))


def _read_with(contender: Contender, vocabulary: Vocabulary, texts: Sequence[str]) -> list[int]:
    """Classify texts with a network that takes batches: the class of each."""
    encoded = vocabulary.encode(texts)
    by_length = sorted(range(len(texts)), key=lambda index: len(encoded[index].tokens))
    classes = [0] * len(texts)
    for first in range(0, len(texts), BATCH_SIZE):
        chosen = by_length[first : first + BATCH_SIZE]
        batch = _batch([encoded[index] for index in chosen], [0] * len(chosen))
        prepared = contender.prepare(batch)
        (logits,) = contender.infer([prepared])
        for place, best in zip(prepared.order.tolist(), logits.argmax(1).tolist(), strict=True):
            classes[chosen[place]] = best
    return classes


def _call(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def _exhaust(results: Iterator[object]) -> None:
    """Let every result be made, and keep none."""
    deque(results, maxlen=0)


def _tracked(passes: Sequence[tuple[int, str]], stage: str) -> Iterator[tuple[int, str]]:
    # No refreshing in the background, which would take processor time.
    yield from track(passes, stage, console=Console(stderr=True), auto_refresh=False)


@contextmanager
def _processors_kept() -> Iterator[Callable[[int], None]]:
    """Give a function that keeps everything to a number of threads and processors, then undo it."""
    variable = "TOKENIZERS_PARALLELISM"  # read at every call
    processors, threads, parallel = (
        usable_processors(),
        torch.get_num_threads(),
        os.environ[variable],
    )

    def use(count: int) -> None:
        torch.set_num_threads(count)
        os.environ[variable] = "true" if count > 1 else "false"
        _keep_to(processors[:count])

    try:
        yield use
    finally:
        torch.set_num_threads(threads)
        os.environ[variable] = parallel
        _keep_to(processors)


def _keep_to(processors: Sequence[int]) -> None:
    """Keep the process, with all threads that its libraries have started, to these processors."""
    if not hasattr(os, "sched_setaffinity"):
        return  # not Linux: the numbers of threads must do
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(task.name), processors)


def usable_processors() -> list[int]:
    """Return the processors that this process may use, one of each core first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    ranked, seen = [], Counter[tuple[str, ...]]()
    for number in sorted(os.sched_getaffinity(0)):
        topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology")
        try:
            core = tuple((topology / n).read_text() for n in ("physical_package_id", "core_id"))
        except OSError:
            core = (str(number),)
        ranked.append((seen[core], number))
        seen[core] += 1
    return [number for _, number in sorted(ranked)]


def _summary(workload: Workload) -> dict[str, int]:
    """Count what is in the workload."""
    batches = workload.batches
    return {
        "batches": len(batches),
        "documents": sum(len(batch) for batch in batches),
        "sentences": sum(len(batch.words_per_sentence) for batch in batches),
        "words": sum(len(batch.tokens) for batch in batches),
        "distinct_words": sum(len(torch.unique(batch.tokens)) for batch in batches),
        "words_of_the_longest_sentence": max(int(b.words_per_sentence.max()) for b in batches),
        "vocabulary": len(workload.vocabulary),
        "classes": len(workload.labels),
        "texts": len(workload.texts),
    }


def circumstances() -> dict[str, Any]:
    """Return what figures depend on besides the command: machine, versions, variables."""
    version_in_use = [sys.executable, "-m", "han", "--version"]  # names the loops that compute
    done = subprocess.run(version_in_use, capture_output=True, text=True, check=True)
    return {
        "processor": processor_name(),
        "processors": len(usable_processors()),
        "han": done.stdout.strip(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pyarrow", "scikit-learn")},
        },
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("HAN_", "KMP_", "MKL_", "OMP_"))
        },
    }


def _table(measurements: Sequence[Measurement]) -> Table:
    table = Table("", "threads", Column("contender", no_wrap=True), title="Throughput")
    for column in ("words/s", "slowest..fastest", "documents/s", "han over it", "cores"):
        table.add_column(column, justify="right", no_wrap=True)
    ours_rate = {
        (m.stage, m.threads): m.tokens_per_second for m in measurements if m.contender == OURS
    }
    last = None
    for m in measurements:
        if last not in (None, (m.stage, m.threads)):
            table.add_section()
        ratio = ours_rate[m.stage, m.threads] / m.tokens_per_second
        table.add_row(
            *(("", "") if last == (m.stage, m.threads) else (m.stage, str(m.threads))),
            m.contender,
            f"{m.tokens_per_second:,.0f}",
            f"{m.tokens / max(m.seconds):,.0f}..{m.tokens / min(m.seconds):,.0f}",
            f"{m.documents / statistics.median(m.seconds):,.0f}",
            "" if m.contender == OURS else f"{ratio:.2f}",
            f"{m.cores:.2f}",
        )
        last = m.stage, m.threads
    return table


def _lines(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in found.items()
        if name != "by_threads"
    ]


if __name__ == "__main__":
    sys.exit(main())
