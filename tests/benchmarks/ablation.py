"""Variants of the recipe against each other: what does each part give, and what does it cost?

    python -m tests.benchmarks.ablation VARIANTS.yaml NAME=FILE ... --runs FOLDER [--folds 5]
    python -m tests.benchmarks.results --runs FOLDER --readme README.md

`VARIANTS.yaml` lists the variants, each a name and options of `han fit`; the first is what the
others are compared with. Where they have a `group`, the table has a column for each group instead.
A variant that `han` does not have names a `module`, which is run in its place.

    split: validation         # or test: the documents that the figures are of (validation)
    options: --model.x 1      # of all runs (none)
    variants:
      - name: the recipe
      - name: without y
        options: --model.y 0

Figures of validation are computed without ever reading the test documents. One split of a small
corpus says little: `--folds K` deals the training and validation documents to K parts, each held
out once as if for test, and all variants are compared on the same parts with the same seeds.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.experiment import (
    Experiment,
    Variant,
    add_arguments,
    read_corpora,
    reporting,
    run_experiment,
)
from tests.benchmarks.results import print_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not finished, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ablation",
        description="Train variants on corpora, with different seeds and folds.",
    )
    parser.add_argument("variants", type=Path, metavar="VARIANTS", help="a YAML file of variants")
    add_arguments(parser)
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="parts of the documents, each held out once (default: the corpus's own split)",
    )
    return reporting(partial(_run, parser.parse_args(arguments)))


def read_variants(path: Path) -> dict[str, Any]:
    """Return the arguments of `Experiment` that a file of variants says.

    Raises:
        ValueError: It is not such a file.
        OSError: It cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    _check(path, content, "the file", {"split", "options"}, {"variants"})
    if not isinstance(content["variants"], list) or not content["variants"]:
        raise ValueError(f"{path}: `variants` must be a list.")
    for one in content["variants"]:
        _check(path, one, "a variant", {"options", "group", "module"}, {"name"})
    split = content.get("split", "validation")
    if split not in ("validation", "test"):
        raise ValueError(f"{path}: `split` must be validation or test, got {split!r}.")
    variants = tuple(
        Variant(
            name=str(one["name"]),
            options=_options(path, one),
            group=str(one.get("group", "")),
            module=str(one.get("module", "han")),
        )
        for one in content["variants"]
    )
    return {
        "name": path.stem,
        "layout": "grid" if any(variant.group for variant in variants) else "differences",
        "split": split,
        "variants": variants,
        "options": _options(path, content),
    }


def _run(options: argparse.Namespace) -> int:
    experiment = Experiment(
        **read_variants(options.variants),
        corpora=read_corpora(options.corpora, options.options),
        seeds=tuple(dict.fromkeys(options.seeds)),
        folds=options.folds,
    )
    status = run_experiment(experiment, options.runs, options.jobs)
    print_table(options.runs)
    return status


def _check(path: Path, content: object, what: str, known: set[str], needed: set[str]) -> None:
    if not isinstance(content, dict) or not needed <= content.keys() <= known | needed:
        raise ValueError(
            f"{path}: {what} must have {', '.join(sorted(needed))} and may have "
            f"{', '.join(sorted(known))}."
        )


def _options(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    options = content.get("options") or ""
    if not isinstance(options, str):
        raise ValueError(f"{path}: `options` must be one text, as on the command line.")
    return tuple(shlex.split(options))


if __name__ == "__main__":
    sys.exit(main())
