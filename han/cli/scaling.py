"""`han ray`: classify and explain Parquet files on many workers, restartable."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from importlib.metadata import version

from han.bundle import DISTRIBUTION, Bundle, find_model
from han.cli import COLUMNS
from han.cli.explaining import named_methods
from han.cli.reading import report_skipped, with_progress
from han.documents.rows import check_header
from han.parts import PartFolder, cut
from han.scale import Reading, classify_parts, identify_model, require_ray

# What messages call arguments; here they are options.
_OPTION = re.compile(r"`((?:text|id|label)_column|keep_columns|on_bad_row|workers)`")


def ray(command: argparse.Namespace) -> None:
    """Classify Parquet files on workers of Ray, part by part, and go on with what is there."""
    require_ray()
    for name in ("workers", "num_cpus"):
        number = getattr(command, name)
        if number is not None and number < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {number}.")
    if command.num_gpus < 0:
        raise ValueError(f"`--num_gpus` must not be negative, got {command.num_gpus}.")
    try:
        _classify(command)
    except ValueError as error:
        raise ValueError(_OPTION.sub(r"`--\1`", str(error))) from error


def _classify(command: argparse.Namespace) -> None:
    reading = Reading(
        command.text_column,
        command.id_column,
        command.label_column,
        _columns(command.keep_columns),
        named_methods(command.explain),
    )
    used = (reading.text_column, reading.id_column, reading.label_column)
    kept = None if reading.keep_columns is None else [*used, *reading.keep_columns]
    found, parts, identity = cut(command.input, reading.text_column, kept)
    named = {
        column: name
        for name, default in COLUMNS.items()
        if (column := getattr(command, name, default)) != default
    }
    check_header(found.names, command.input, named)
    model = find_model(command.model)
    bundle = Bundle.load(model)
    labels, several = bundle.labels, bundle.thresholds is not None
    schema = reading.schema(found, labels, where=command.input, named=True, several=several)
    if not parts:
        raise ValueError(f"{command.input}: no documents in it.")
    manifest = {
        "version": version(DISTRIBUTION),
        "model": identify_model(model),
        "options": reading.to_dict(),
        "input": identity,
    }
    folder = PartFolder(command.output, manifest)
    with folder.claim():
        todo = [part for part in parts if folder.facts(part) is None]
        if len(todo) < len(parts):
            sys.stderr.write(f"{len(parts) - len(todo)} of {len(parts)} parts are there already\n")
        if todo:
            done = classify_parts(
                folder,
                todo,
                schema,
                [name for name in found.names if name in {*used, *reading.kept(found.names)}],
                os.path.abspath(model),
                {
                    **reading.to_dict(),
                    "on_bad_row": command.on_bad_row,
                    "threads": command.num_cpus,
                },
                workers=command.workers,
                num_cpus=command.num_cpus,
                num_gpus=command.num_gpus,
            )
            for _ in with_progress(done, "Classifying, parts", len(todo)):
                pass
        facts = [folder.facts(part) for part in parts]
    rows, skipped = 0, Counter[str]()
    for part, fact in zip(parts, facts, strict=True):
        if fact is None:
            raise ValueError(f"{folder.path / part.name} is missing; give the same command again.")
        rows += fact[0]
        skipped.update(fact[1])
    sys.stderr.write(f"{rows} predictions: {command.output}\n")
    report_skipped(skipped)


def _columns(names: str | None) -> tuple[str, ...] | None:
    """Return the columns that an option names; None where it was not given."""
    if names is None:
        return None
    return tuple(name.strip() for name in names.split(",") if name.strip())
