"""What commands read: the documents that the command line names; and `han classify`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from han.cli import COLUMNS, printable
from han.documents import TABLE_SUFFIXES, TEXT_SUFFIXES, Document, inner_suffix, read_documents
from han.records import check_columns, check_output, json_line, write_records

if TYPE_CHECKING:
    from han.predictor import Prediction, Predictor
    from han.task import Task

Item = TypeVar("Item")

# What messages of `read_documents` call its arguments; here they are options.
_OPTION = re.compile(r"`((?:text|label|id|split)_column|label_separator|encoding|on_bad_row)`")


def classify(command: argparse.Namespace) -> None:
    """Classify the input and write one result for each document, in order."""
    columns = tuple(name.strip() for name in command.keep_columns.split(",") if name.strip())
    check_columns(columns)
    least = command.min_confidence
    if not 0 <= least <= 1:
        raise ValueError(f"`--min_confidence` must be from 0 to 1, got {least}.")
    if command.output:
        check_output(command.output, columns=columns)
        check_target(command.output, command.input)
    documents = Input(command, columns)
    predictor = load(command.model)
    several = predictor.task == "multilabel"
    check_columns(columns, several=several)
    score = Score(predictor.labels, predictor.task)
    predictions = score.watch(predictor.classify_documents(documents, min_confidence=least))
    if command.bfloat16:
        predictions = _in_bfloat16(predictions, predictor.bundle.network.device.type)
    if command.output:
        shown = with_progress(predictions, "Classifying")
        records = (prediction.to_record() for prediction in shown)
        path, labels = Path(command.output), predictor.labels
        count = write_records(path, records, labels, columns, several=several)
        sys.stderr.write(f"{count} predictions: {command.output}\n")
    elif sys.stdout.isatty():
        width = max(map(len, predictor.labels))
        for prediction in predictions:
            sys.stdout.write(_short_line(prediction, width) + "\n")
    else:
        for prediction in with_progress(predictions, "Classifying"):
            sys.stdout.write(json_line(prediction.to_record()) + "\n")
    documents.report_skipped()
    if least > 0:
        sys.stderr.write(f"{score.undecided} of {score.documents} documents left undecided\n")
    score.report()


class Input:
    """The documents that the command line names: a source to read, or the text itself.

    Args:
        command: The parsed command line.
        columns: Names of the columns to keep.
        option: The option that named them.

    Attributes:
        title: What to call the documents.

    Raises:
        FileNotFoundError: The input looks like a path, and nothing is there.
        ValueError: The input is a text, and options ask for what only a file has.
    """

    def __init__(
        self,
        command: argparse.Namespace,
        columns: tuple[str, ...] = (),
        option: str = "keep_columns",
    ) -> None:
        self._option = option
        self._skipped: Counter[str] = Counter()
        self._split = command.split
        self._source = source = command.input
        self._documents: Iterable[Document]
        if _is_source(source):
            self.title = "standard input" if source == "-" else os.path.basename(source) or source
            self._documents = read_documents(
                source,
                text_column=command.text_column,
                label_column=command.label_column,
                label_separator=command.label_separator,
                id_column=command.id_column,
                split_column=command.split_column,
                keep_columns=columns,
                labels_required=False,
                named_columns=tuple(
                    name for name, column in COLUMNS.items() if getattr(command, name) != column
                ),
                encoding=command.encoding,
                on_bad_row=command.on_bad_row,
                skipped=self._skipped,
            )
        elif command.split or columns:
            raise ValueError(
                f"There is no file or folder {source[:60]!r}, so that it is taken for the text "
                f"itself, which has no `--split` and no `--{option}`."
            )
        else:
            self.title = "Explanation"
            self._documents = [Document("text", source)]

    def __iter__(self) -> Iterator[Document]:
        """Read the documents of the split that is asked for, one after another."""
        splits: Counter[str | None] = Counter()
        try:
            for document in self._documents:
                splits[document.split] += 1
                if self._split in (None, document.split):
                    yield document
        except ValueError as error:
            message = str(error).replace("`keep_columns`", f"`--{self._option}`")
            raise ValueError(_OPTION.sub(r"`--\1`", message)) from error
        if self._split not in (None, *splits):
            there = ", ".join(split or "no split" for split in splits)
            raise ValueError(
                f"{self._source}: no document is of the split {self._split!r} (found: {there}); "
                "leave `--split` out, or name its column with `--split_column`."
            )

    def report_skipped(self) -> None:
        """Say on standard error how many rows were skipped, and why."""
        report_skipped(self._skipped)


@dataclass
class Score:
    """How often the labels that came with documents are those predicted.

    Args:
        labels: The classes that the model knows, in their order.
        task: What labels are.
    """

    labels: tuple[str, ...]
    task: Task = "multiclass"
    documents: int = 0
    undecided: int = 0
    right: int = 0
    known: int = 0
    apart: int = 0  # classes between the predicted and the true ones, where they have an order
    common: int = 0  # labels that documents are given and have, where they may have several
    decided: int = 0  # those that they are given, and those that they have
    unknown: int = 0
    example: str = ""

    def watch(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Count predictions as they pass."""
        index = {label: place for place, label in enumerate(self.labels)}
        for prediction in predictions:
            self.documents += 1
            true = prediction.true
            truths = (true,) if isinstance(true, str) else true
            other = [label for label in truths or () if label not in index]
            several = prediction.labels is not None
            label = prediction.label
            self.undecided += label is None
            if truths is None or label is None:
                pass
            elif other or (len(truths) != 1 and not several):
                self.unknown += 1
                self.example = ", ".join(other or truths)
            else:
                given = (label,) if prediction.labels is None else prediction.labels
                self.known += 1
                self.right += {*given} == {*truths}
                self.common += len({*given} & {*truths})
                self.decided += len(given) + len(truths)
                if not several:
                    self.apart += abs(index[label] - index[truths[0]])
            yield prediction

    def report(self) -> None:
        """Write the accuracy to standard error, if documents had labels."""
        if self.known:
            figures = f"accuracy {self.right / self.known:.4f}"
            if self.task == "ordinal":
                figures += f", mean absolute error {self.apart / self.known:.4f}"
            if self.task == "multilabel":
                figures += f", micro-F1 {2 * self.common / max(1, self.decided):.4f}"
            others = " that are decided" if self.undecided else ""
            sys.stderr.write(f"{figures} on the {self.known} labelled documents{others}\n")
        if self.unknown:
            sys.stderr.write(
                f"{self.unknown} documents not scored: the model does not know their label, such "
                f"as '{printable(self.example[:60])}'\n"
            )


def _is_source(text: str) -> bool:
    """Tell a path, `-` or a hub name from a text to classify."""
    if text == "-" or text.startswith("hf://"):
        return True
    try:
        if os.path.lexists(text):
            return True
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False
    suffixes = {*TABLE_SUFFIXES, *TEXT_SUFFIXES} - {""}
    is_line = len(text.splitlines()) == 1
    is_word = len(text.split()) == 1
    if (is_line and inner_suffix(Path(text)) in suffixes) or (is_word and os.path.dirname(text)):
        raise FileNotFoundError(
            f"{text}: no such file or folder. (To classify these words themselves, pipe them to "
            "`han` and give `-` in their place.)"
        )
    return False


def report_skipped(skipped: Mapping[str, int], split: str | None = None) -> None:
    """Say on standard error how many rows were skipped, of a split where one is named, and why."""
    of = f" of {split}" if split else ""
    for reason, count in skipped.items():
        sys.stderr.write(f"skipped {count:,}{of}: {printable(reason)}\n")


def check_target(output: str, *inputs: str) -> None:
    """Refuse an output that would destroy something, before any work is done for it.

    Args:
        output: The file to write.
        inputs: What is read.
    """
    path = Path(output)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file; name one, or leave `--output` out.")
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is no folder, so {path.name} cannot be written in it.")
    for source in inputs:
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise ValueError(f"{path} is the input; name another file for `--output`.")


def check_label(label: str | None, predictor: Predictor) -> None:
    """Refuse a class that the model does not know."""
    if label not in (None, *predictor.labels):
        raise ValueError(
            f"`--label`: the model knows no class {label!r}, only {', '.join(predictor.labels)}."
        )


def load(model: str) -> Predictor:
    """Load a model; torch is imported only now, after the command line was found right."""
    from han.predictor import load

    return load(model)


def _in_bfloat16(predictions: Iterator[Prediction], device: str) -> Iterator[Prediction]:
    """Make the predictions with products of bfloat16, or say why not."""
    from han import kernel, native

    if device != "cpu" or not native.has_bfloat16():
        why = native.description() if device == "cpu" else f"the model is on {device}"
        sys.stderr.write(f"--bfloat16: there are no products of bfloat16 here ({why})\n")
        return predictions

    def made() -> Iterator[Prediction]:
        with kernel.bfloat16():
            yield from predictions

    return made()


def _short_line(prediction: Prediction, width: int) -> str:
    """Return what a person wants of a prediction: two classes, or all labels; and the document."""
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    if prediction.labels is None:
        classes = "   then ".join(
            f"{printable(label):<{width}} {probability:6.1%}" for label, probability in ranked[:2]
        )
    else:
        given = [one for one in ranked if one[0] in prediction.labels]
        classes = ", ".join(f"{printable(label)} {probability:.1%}" for label, probability in given)
        classes = classes or f"no label, likeliest {printable(ranked[0][0])} {ranked[0][1]:.1%}"
    notes = "  (cut short)" * prediction.truncated + "  (no words)" * prediction.empty
    notes += "  (undecided)" * (prediction.label is None)
    return f"{classes}   {printable(prediction.id)}{notes}"


def with_progress(
    items: Iterable[Item], description: str, total: int | None = None
) -> Iterable[Item]:
    """Show how many documents have passed, where standard error is a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    def shown() -> Iterator[Item]:
        columns = (TextColumn(description), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        # Left alone, rich would send standard output, too, to this console.
        with Progress(*columns, console=console, redirect_stdout=False) as progress:
            task = progress.add_task(description, total=total)
            for item in items:
                progress.advance(task)
                yield item

    return shown()
