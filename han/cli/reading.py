"""`han classify` and `han explain`: a trained model reads what it is given."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from han.documents import TABLE_SUFFIXES, TEXT_SUFFIXES, Document, inner_suffix, read_documents
from han.records import check_output, json_line, write_records
from han.report import check_report_path, write_report

if TYPE_CHECKING:
    from han.predictor import Prediction, Predictor

Item = TypeVar("Item")


def classify(command: argparse.Namespace) -> None:
    """Classify the input and write one prediction record for each document, in order."""
    columns = _columns(command)
    if command.output:
        check_output(command.output, columns=columns)
    documents = Input(command, columns)
    predictor = _load(command.model)
    scored: Counter[bool] = Counter()
    predictions = _with_progress(predictor.classify_documents(documents), "Classifying")
    records = (prediction.to_record() for prediction in _score(predictions, scored))
    if command.output:
        count = write_records(Path(command.output), records, predictor.labels, columns)
        sys.stderr.write(f"{count} predictions: {command.output}\n")
    else:
        for record in records:
            sys.stdout.write(json_line(record) + "\n")
    documents.report_skipped()
    if scored:
        accuracy = scored[True] / scored.total()
        sys.stderr.write(f"accuracy {accuracy:.4f} on the {scored.total()} labelled documents\n")


def explain(command: argparse.Namespace) -> None:
    """Explain the input in the terminal, or write a report."""
    if command.limit is not None and command.limit < 1:
        raise ValueError(f"`--limit` must be at least 1, got {command.limit}.")
    if command.output:
        check_report_path(command.output)
    documents = Input(command, ())
    predictor = _load(command.model)
    explanations = predictor.explain_documents(itertools.islice(documents, command.limit))
    if command.output:
        shown = _with_progress(explanations, "Explaining")
        write_report(Path(command.output), shown, title=documents.title)
        sys.stderr.write(f"report: {command.output}\n")
    else:
        from rich.console import Console

        console = Console()
        for number, explanation in enumerate(explanations):
            sys.stdout.write("\n" * (number > 0) + explanation.to_text(console))
    documents.report_skipped()


class Input:
    """The documents that the command line names: a source to read, or the text itself.

    Args:
        command: The parsed command line.
        columns: Names of the columns to keep.

    Attributes:
        title: What to call the documents.

    Raises:
        FileNotFoundError: The input looks like a path, and nothing is there.
    """

    def __init__(self, command: argparse.Namespace, columns: Iterable[str]) -> None:
        self._skipped: Counter[str] = Counter()
        self._split = command.split
        source = command.input
        self._documents: Iterable[Document]
        if _is_source(source):
            self.title = "standard input" if source == "-" else Path(source).name
            self._documents = read_documents(
                source,
                text_column=command.text_column,
                label_column=command.label_column,
                id_column=command.id_column,
                split_column=command.split_column,
                keep_columns=tuple(columns),
                labels_required=False,
                encoding=command.encoding,
                on_bad_row=command.on_bad_row,
                skipped=self._skipped,
            )
        else:
            self.title = "Explanation"
            self._documents = [Document("text", source)]

    def __iter__(self) -> Iterator[Document]:
        """Read the documents of the split that is asked for, one after another."""
        for document in self._documents:
            if self._split in (None, document.split):
                yield document

    def report_skipped(self) -> None:
        """Say on standard error how many rows were skipped, and why."""
        for reason, count in self._skipped.items():
            sys.stderr.write(f"skipped {count}: {reason}\n")


def _is_source(text: str) -> bool:
    """Tell a path, `-` or a hub name from a text to classify."""
    if text == "-" or text.startswith("hf://"):
        return True
    try:
        if Path(text).exists():
            return True
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False
    suffixes = {*TABLE_SUFFIXES, *TEXT_SUFFIXES} - {""}
    if len(text.split()) == 1 and inner_suffix(Path(text)) in suffixes:
        raise FileNotFoundError(f"{text}: no such file.")
    return False


def _columns(command: argparse.Namespace) -> tuple[str, ...]:
    return tuple(name.strip() for name in command.keep_columns.split(",") if name.strip())


def _load(model: str) -> Predictor:
    from han.predictor import load

    return load(model)


def _score(predictions: Iterable[Prediction], scored: Counter[bool]) -> Iterator[Prediction]:
    """Count right and wrong predictions of labelled documents as they pass."""
    for prediction in predictions:
        if prediction.true is not None:
            scored[prediction.label == prediction.true] += 1
        yield prediction


def _with_progress(items: Iterable[Item], description: str) -> Iterable[Item]:
    """Show how many documents have passed, where standard error is a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    def shown() -> Iterator[Item]:
        columns = (TextColumn(description), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(description, total=None)
            for item in items:
                progress.advance(task)
                yield item

    return shown()
