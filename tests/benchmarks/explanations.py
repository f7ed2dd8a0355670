"""What explanations cost: each method over the forward pass, and the files that are made of them.

    python -m tests.benchmarks.explanations [--page_documents N] [--json FILE]

- methods: labels, weights and scores of the bundled abstracts in batches of 64, of one
  member at the paper's sizes, on one thread. A method's cost is its time beyond the forward pass,
  over that of the forward pass, for each class. The forward pass has its table of the vocabulary,
  as when many documents are read.
- faithfulness: documents a second, with every method and the random orders.
- files: made-up documents, `--page_words` words each, with attention and attention x gradient of
  two classes: seconds and megabytes of each format, the making of the explanations left out.

Medians of several passes in alternating order, after one that does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from han import attribution
from han.bundle import Bundle
from han.datamodule import bundled_corpus
from han.explanation import METHODS, Explanation, ModelReference
from han.faithfulness import evaluate
from han.predictor import Predictor
from han.report import write_report
from tests.benchmarks.contenders import ours
from tests.benchmarks.scaling import alternate
from tests.benchmarks.throughput import circumstances, positive, read_workload

SCORED_DOCUMENTS = 50
FORMATS = (".html", ".jsonl", ".txt", ".md", ".tex")
WORD_LENGTHS = (2, 9)
WORDS_PER_SENTENCE = 20


def measure_methods(*, batches: int, repeats: int, seed: int) -> dict[str, float]:
    """Return what each method costs over the forward pass, for each class."""
    workload = read_workload(bundled_corpus(), seed=seed, num_batches=batches)
    labels = workload.labels
    network = ours(len(workload.vocabulary), len(labels)).network.eval()
    predictor = Predictor(Bundle(network, workload.vocabulary, labels, {}))
    texts = workload.texts[:SCORED_DOCUMENTS]
    encoded = workload.vocabulary.encode(texts)

    def forward() -> None:
        with torch.inference_mode():
            for batch in workload.batches:
                network(batch)

    def attention_gradient() -> None:
        for batch in workload.batches:
            attribution.attention_gradient(network, batch)

    def gradient() -> None:
        forward()
        for batch in workload.batches:
            attribution.input_gradient(network, batch)

    def occlusion() -> None:
        for text in encoded:
            attribution.occlusion(network, text.tokens, text.words_per_sentence)

    def faithfulness() -> None:
        evaluate(predictor, predictor.explain(texts, METHODS))

    jobs = (forward, attention_gradient, gradient, occlusion, faithfulness)
    seconds = {
        name: statistics.median(times)
        for name, times in alternate(
            {job.__name__: _timed(job) for job in jobs}, repeats, "Methods"
        ).items()
    }
    once = seconds["forward"]
    words = sum(len(batch.tokens) for batch in workload.batches)
    of_occlusion = sum(len(text.tokens) for text in encoded)
    return {
        "classes": len(labels),
        "forward_words_per_second": words / once,
        "attention_gradient_over_forward_per_class": (
            (seconds["attention_gradient"] - once) / once / len(labels)
        ),
        "gradient_over_forward_per_class": (seconds["gradient"] - once) / once / len(labels),
        "occlusion_words_per_second": of_occlusion / seconds["occlusion"],
        "faithfulness_documents_per_second": len(texts) / seconds["faithfulness"],
    }


def measure_files(*, documents: int, words: int, seed: int) -> dict[str, dict[str, float]]:
    """Return seconds and megabytes of each format, and kilobytes of a page without documents."""
    start = time.perf_counter()
    deque(make_explanations(documents, words, seed), maxlen=0)
    making = time.perf_counter() - start
    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        for suffix in FORMATS:
            path = Path(folder) / f"report{suffix}"
            start = time.perf_counter()
            write_report(path, make_explanations(documents, words, seed))
            seconds = time.perf_counter() - start - making
            found[suffix] = {"seconds": seconds, "megabytes": path.stat().st_size / 1e6}
        path = Path(folder) / "empty.html"
        write_report(path, ())
        found["empty.html"] = {"megabytes": path.stat().st_size / 1e6}
    return found


def make_explanations(documents: int, words: int, seed: int) -> Iterator[Explanation]:
    """Make up explanations of documents of `words` words each, of two classes."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lexicon = ["".join(random.choice(letters, n)) for n in random.integers(*WORD_LENGTHS, 20_000)]
    lengths = [WORDS_PER_SENTENCE] * (words // WORDS_PER_SENTENCE)
    lengths += [words % WORDS_PER_SENTENCE] * (words % WORDS_PER_SENTENCE > 0)
    ends = np.cumsum(lengths)
    for number in range(documents):
        # Word frequencies as in language: Zipf's law.
        chosen = [lexicon[min(rank, len(lexicon)) - 1] for rank in random.zipf(1.2, words)]
        word_ends = np.cumsum([len(word) + 1 for word in chosen]) - 1
        spans = np.stack((word_ends - [len(word) for word in chosen], word_ends), 1)
        probability = random.random()
        sentences = random.dirichlet(np.ones(len(lengths)))
        signed = random.normal(size=words)
        of_sentences = np.add.reduceat(signed, ends - lengths)
        yield Explanation.from_attention(
            id=f"document {number}",
            text=" ".join(chosen),
            labels=("negative", "positive"),
            probabilities=(1 - probability, probability),
            word_spans=spans,
            sentence_spans=np.stack((spans[ends - lengths, 0], spans[ends - 1, 1]), 1),
            words_per_sentence=lengths,
            word_attention=np.concatenate([random.dirichlet(np.ones(n)) for n in lengths]),
            sentence_attention=sentences,
            unknown=random.random(words) < 0.03,
            model=ModelReference("0" * 64, "made up"),
            true="positive" if random.random() < probability else "negative",
            word_scores={"attention_gradient": np.stack((-signed, signed), 1)},
            sentence_scores={"attention_gradient": np.stack((-of_sentences, of_sentences), 1)},
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "methods": measure_methods(
            batches=options.batches, repeats=options.repeats, seed=options.seed
        ),
        "files": measure_files(
            documents=options.page_documents, words=options.page_words, seed=options.seed
        ),
    }
    console = Console(width=100)
    table = Table("methods", "", box=None)
    for name, value in found["methods"].items():
        table.add_row(name.replace("_", " "), f"{value:,.3g}" if value < 1000 else f"{value:,.0f}")
    console.print(table)
    table = Table("files", "seconds", "MB", box=None)
    for name, of in found["files"].items():
        seconds = f"{of['seconds']:.1f}" if "seconds" in of else ""
        table.add_row(name, seconds, f"{of['megabytes']:.3g}")
    console.print(table)
    if options.json:
        record = {"options": vars(options), "circumstances": circumstances(), **found}
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


def _timed(job: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.explanations",
        description="Measure what explanations cost.",
    )
    parser.add_argument("--batches", type=positive, default=8, help="(%(default)s)")
    parser.add_argument("--repeats", type=positive, default=5, help="(%(default)s)")
    parser.add_argument("--page_documents", type=positive, default=10_000, help="(%(default)s)")
    parser.add_argument("--page_words", type=positive, default=200, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
