"""`han words`: which words carry each class over a whole set of documents."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from han.cli.reading import Input, check_label, check_target, load, with_progress
from han.documents import inner_suffix
from han.explanation import METHODS
from han.overview import Overview, summarize
from han.records import (
    LINE_SUFFIXES,
    OUTPUT_SUFFIXES,
    check_suffix,
    json_line,
    text_file,
    write_table,
)


def words(command: argparse.Namespace) -> None:
    """Show or write the words of each class."""
    for option in ("top", "min_count", "limit"):
        if (number := getattr(command, option)) is not None and number < 1:
            raise ValueError(f"`--{option}` must be at least 1, got {number}.")
    if command.examples < 0:
        raise ValueError(f"`--examples` must be at least 0, got {command.examples}.")
    if command.method not in METHODS:
        raise ValueError(
            f"`--method`: there is no method {command.method!r}; choose among {', '.join(METHODS)}."
        )
    if command.output:
        check_suffix(command.output, (*OUTPUT_SUFFIXES, ".json"))
        check_target(command.output, command.input)
    documents = Input(command)
    predictor = load(command.model)
    check_label(command.label, predictor)
    explanations = predictor.explain_documents(
        itertools.islice(documents, command.limit), (command.method,)
    )
    overview = summarize(
        with_progress(explanations, "Reading"),
        words=command.top,
        examples=command.examples,
        min_count=command.min_count,
        method=command.method,
    )
    if command.label is not None:
        chosen = tuple(one for one in overview.classes if one.label == command.label)
        overview = replace(overview, classes=chosen)
    if command.output:
        _write(Path(command.output), overview, command.examples)
        sys.stderr.write(f"words: {command.output}\n")
    elif sys.stdout.isatty():
        from rich.console import Console

        from han.report.overview import render_overview

        sys.stdout.write(render_overview(overview, Console()))
    else:
        for record in _records(overview):
            sys.stdout.write(json_line(record) + "\n")
    documents.report_skipped()


def _write(path: Path, overview: Overview, num_examples: int) -> None:
    """Write the overview as one JSON object, or its words as lines or rows."""
    if inner_suffix(path) == ".json":
        with text_file(path) as file:
            json.dump(overview.to_dict(), file, ensure_ascii=False, allow_nan=False, indent=1)
            file.write("\n")
        return
    signed = [overview.method] if overview.method != METHODS[0] else []
    types: dict[str, type] = {"class": str, "rank": int, "word": str, "unknown": bool}
    types |= {"occurrences": int, "documents": int, "weight": float, "share": float, "lift": float}
    types |= dict.fromkeys(signed, float)
    types |= {f"example_{number}": str for number in range(1, num_examples + 1)}
    records = _records(overview)
    flat = inner_suffix(path) not in LINE_SUFFIXES
    write_table(path, map(_flat, records) if flat else records, types)


def _records(overview: Overview) -> Iterator[dict[str, object]]:
    """Yield one record a word, class after class, the heaviest word first."""
    for one in overview.classes:
        for rank, word in enumerate(one.words, 1):
            record = asdict(word)
            place = {"class": one.label, "rank": rank}
            yield place | {name: record.pop(name) for name in ("word", "unknown")} | record


def _flat(record: dict[str, object]) -> dict[str, object]:
    """Return a record with a column for each score and example; cells without one are empty."""
    scores, examples = record["scores"], record["examples"]
    assert isinstance(scores, dict)
    assert isinstance(examples, tuple)
    contexts = {
        f"example_{number}": example["before"] + example["word"] + example["after"]
        for number, example in enumerate(examples, 1)
    }
    return defaultdict(str, record | scores | contexts)
