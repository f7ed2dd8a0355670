"""`han baseline`: linear models on the documents that a network would learn from."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from han.baseline import Baseline, train_baseline
from han.cli.reading import check_target, report_skipped
from han.corpus import prepare_corpus
from han.embeddings import BUILTIN, PretrainedVectors
from han.records import check_suffix, text_file

OPTIONS = (  # arguments of `prepare_corpus` that are options of the command
    "validation",
    "test",
    "text_column",
    "label_column",
    "label_separator",
    "id_column",
    "split_column",
    "encoding",
    "on_bad_row",
    "min_count",
    "validation_share",
    "seed",
)
SHOWN = {  # in a table
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "mean_absolute_error": "MAE",
}


def baseline(command: argparse.Namespace) -> None:
    """Train both linear models, print their figures and write them."""
    if command.output:
        check_suffix(command.output, (".json",))
        sources = (command.input, command.validation, command.test)
        check_target(command.output, *(source for source in sources if source is not None))
    train = command.input
    if train == BUILTIN:
        from han.datamodule import bundled_corpus

        train = bundled_corpus()
    options = {name: getattr(command, name) for name in OPTIONS}
    cache = Path(command.cache_dir or platformdirs.user_cache_dir("han"))
    try:
        corpus = prepare_corpus(
            train=train,
            **options,
            pretrained=PretrainedVectors(BUILTIN, cache / "vectors"),  # `han fit`'s: one store
            cache_dir=cache / "corpora",
        )
        for split, summary in corpus.summary.items():
            report_skipped(summary["skipped"], split)
        result = train_baseline(corpus, seed=command.seed)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's words
        names = "|".join((*OPTIONS, "cache_dir"))
        raise ValueError(re.sub(rf"`({names})`", r"`--\1`", str(error))) from error
    if command.output:
        with text_file(Path(command.output)) as file:
            json.dump(result.to_dict(), file, ensure_ascii=False, indent=2)
            file.write("\n")
        sys.stderr.write(f"baseline: {command.output}\n")
    sys.stdout.write(figures_table({model.name: model.figures for model in result.models}))
    counts = ", ".join(f"{count:,} {split}" for split, count in result.documents.items())
    kind = "labels" if corpus.multilabel else "classes"
    sys.stdout.write(
        f"\n{len(corpus.labels)} {kind}; {counts} documents; chosen on validation: "
        f"{result.best.name}\n"
    )
    report_notes(result)


def figures_table(figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the figures of models as lines: a row a model, some columns a split."""
    name_width = max(map(len, figures))
    splits = next(iter(figures.values()))
    shown = {key: name for key, name in SHOWN.items() if key in next(iter(splits.values()))}
    lines = [
        " " * name_width + "".join(f"{split:>{10 * len(shown)}}" for split in splits),
        " " * name_width + "".join(f"{name:>10}" for name in shown.values()) * len(splits),
    ]
    for name, of_model in figures.items():
        cells = [f"{one[key]:10.4f}" for one in of_model.values() for key in shown]
        lines.append(f"{name:<{name_width}}{''.join(cells)}")
    return "".join(f"{line}\n" for line in lines)


def report_notes(result: Baseline) -> None:
    """Say on standard error what a reader of the figures must know besides."""
    for note in result.notes():
        sys.stderr.write(f"{note}\n")
