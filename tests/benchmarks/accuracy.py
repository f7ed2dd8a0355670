"""Accuracy of `han fit` as it comes, beside linear models: corpora x word vectors x seeds.

    python -m tests.benchmarks.accuracy NAME=FILE ... --vectors NAME=FILE --runs FOLDER [--jobs N]
    python -m tests.benchmarks.results --runs FOLDER --readme README.md

Nothing is set but the word vectors: `--vectors` may be given again, and another time with more of
them; by default they are the built-in ones and none. The first run
of a corpus also trains the linear models (`han fit --baseline`). Figures are of test documents; to
choose options, use `tests.benchmarks.ablation`, which leaves them out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from tests.benchmarks.experiment import (
    Experiment,
    Variant,
    add_arguments,
    named,
    read_corpora,
    reporting,
    run_experiment,
)
from tests.benchmarks.results import print_table

VECTORS = ("built-in vectors=builtin", "no vectors=none")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not finished, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.accuracy",
        description="Train with the defaults on corpora, with different word vectors and seeds.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--vectors",
        metavar="VECTORS",
        action="append",
        help="word vectors for --data.vectors, as VECTORS or NAME=VECTORS; may be given again "
        "(default: built-in ones, and none)",
    )
    return reporting(partial(_run, parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    vectors = dict(map(named, options.vectors or VECTORS))
    experiment = Experiment(
        name="accuracy",
        layout="corpora",
        split="test",
        variants=tuple(Variant(name, ("--data.vectors", path)) for name, path in vectors.items()),
        corpora=read_corpora(options.corpora, options.options),
        seeds=tuple(dict.fromkeys(options.seeds)),
        baseline=True,
    )
    status = run_experiment(experiment, options.runs, options.jobs)
    print_table(options.runs)
    return status


if __name__ == "__main__":
    sys.exit(main())
