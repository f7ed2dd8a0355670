"""`han explain` and `han faithfulness`: what a model looked at, and how far to trust that."""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from han.atomic import atomic_file
from han.cli import ALL_METHODS
from han.cli.reading import Input, check_label, check_target, load, with_progress
from han.documents import Document
from han.explanation import METHODS
from han.faithfulness import Faithfulness, NoWordsError, evaluate, rationale_spans
from han.faithfulness.removal import FLIP_STEPS
from han.faithfulness.summary import FEWEST

if TYPE_CHECKING:
    from han.explanation import Explanation, Span
    from han.predictor import Predictor

Item = TypeVar("Item")

PAGE_METHODS = ("attention", "attention_gradient")  # what a page shows unless asked
PAGE_SAMPLE = 200  # documents on which a page's highlights are scored unless asked
AFFORDED_WORDS = 60_000_000  # read to score those, or one, in about half a minute on one thread
AFFORDED_CHARACTERS = 200_000  # of one document
RANKINGS = 8  # of a document: by the methods of a page, occlusion, and random


def explain(command: argparse.Namespace) -> None:
    """Explain the input in the terminal, or write a report."""
    from han.report import check_report_path, write_report

    if command.output:
        check_report_path(command.output)
        check_target(command.output, command.input)
    suffix = Path(command.output or "").suffix.lower()
    methods = named_methods(command.method) or (PAGE_METHODS if suffix == ".html" else METHODS[:1])
    _check_sample(command.faithfulness, suffix)
    if command.limit is not None and command.limit < 1:
        raise ValueError(f"`--limit` must be at least 1, got {command.limit}.")
    if command.compare is not None and suffix != ".html":
        raise ValueError("`--compare` is for a page: give `--output` a name that ends in .html.")
    source = Input(command)
    predictor = load(command.model)
    check_label(command.label, predictor)
    heads = command.word_head, command.sentence_head
    _check_heads(heads, predictor)
    documents: Iterable[Document] = itertools.islice(source, command.limit)
    scored: list[int] = []
    left_out = 0
    if command.faithfulness or suffix == ".html":
        documents = list(documents)  # read more than once
        size = PAGE_SAMPLE if command.faithfulness is None else command.faithfulness
        scored = drawn = sample(range(len(documents)), size)
        if command.faithfulness is None:
            chosen = affordable(predictor, [documents[position] for position in drawn])
            scored = [drawn[i] for i in chosen]
            left_out = len(drawn) - len(scored)
    explanations, figures = explain_and_score(predictor, documents, methods, scored)
    if figures is not None:
        figures = replace(figures, left_out=left_out)
    if heads != (None, None):
        explanations = (explanation.of_head(*heads) for explanation in explanations)
    if command.output:
        other = None
        if command.compare is not None:
            other = load(command.compare).explain_documents(documents, methods)
        write_report(
            Path(command.output),
            with_progress(explanations, "Explaining"),
            title=source.title,
            method=methods[0],
            label=command.label,
            faithfulness=figures if suffix == ".html" else None,  # records have their own
            compare=other,
        )
        sys.stderr.write(f"report: {command.output}\n")
    else:
        from rich.console import Console

        console = Console()
        for number, explanation in enumerate(explanations):
            text = explanation.to_text(console, method=methods[0], label=command.label)
            sys.stdout.write("\n" * (number > 0) + text)
    source.report_skipped()


def _check_heads(heads: tuple[int | None, ...], predictor: Predictor) -> None:
    """Refuse heads that the model does not have."""
    from han.model import ATTENTIONS

    options = predictor.bundle.network.options
    for level, head in zip(ATTENTIONS, heads, strict=True):
        of_each = options[level]["heads"]
        most = options["members"] * of_each - 1
        if head is None or (of_each > 1 and 0 <= head <= most):
            continue
        there = f"its heads are 0 to {most}" if of_each > 1 else "it has one head there"
        option = level.replace("attention", "head")
        raise ValueError(f"`--{option}` is {head}, which the model does not have: {there}.")


def faithfulness(command: argparse.Namespace) -> None:
    """Score the highlights by what happens to the model's decisions without the words."""
    if command.documents < 1:
        raise ValueError(f"`--documents` must be at least 1, got {command.documents}.")
    if command.seed < 0:
        raise ValueError(f"`--seed` must be at least 0, got {command.seed}.")
    if command.output:
        if Path(command.output).suffix.lower() != ".json":
            raise ValueError(f"{command.output}: the figures are written as .json; name it so.")
        check_target(command.output, command.input)
    methods = named_methods(command.method) or METHODS
    column = command.rationale_column
    source = Input(command, (column,) if column else (), "rationale_column")
    predictor = load(command.model)
    drawn = sample(source, command.documents, command.seed)
    documents = [one for one in drawn if cost_of(predictor, one) <= AFFORDED_WORDS]
    if drawn and not documents:
        raise ValueError(
            f"{command.input}: each of the {len(drawn)} documents drawn would take minutes to "
            "score; cut them into shorter ones."
        )
    rationales: dict[int, tuple[Span, ...]] = {}
    for position, document in enumerate(documents):
        if column and document.columns[column] not in (None, ""):
            try:
                rationales[position] = rationale_spans(document.columns[column], document.text)
            except ValueError as error:
                raise ValueError(f"{document.location}: `{column}` {error}.") from error
    explanations = predictor.explain_documents(documents, methods)
    result = evaluate(
        predictor,
        with_progress(explanations, "Scoring", len(documents)),
        rationales=rationales,
        others={name: load(name).explain_documents(documents) for name in command.compare},
        seed=command.seed,
    )
    result = replace(result, left_out=len(drawn) - len(documents))
    if command.output:
        with atomic_file(Path(command.output)) as file:
            file.write(result.to_json() + "\n")
        sys.stderr.write(f"figures: {command.output}\n")
    else:
        from rich.console import Console

        from han.report.faithfulness import render_faithfulness

        sys.stdout.write(render_faithfulness(result, Console()))
    source.report_skipped()


def sample(items: Iterable[Item], size: int, seed: int = 0) -> list[Item]:
    """Draw items at random, each as likely, in their order; all where there are not more."""
    generator = random.Random(seed)
    drawn: list[tuple[int, Item]] = []
    for index, item in enumerate(items):
        if index < size:
            drawn.append((index, item))
        elif (place := generator.randint(0, index)) < size:
            drawn[place] = (index, item)
    return [item for _, item in sorted(drawn, key=lambda pair: pair[0])]


def explain_and_score(
    predictor: Predictor,
    documents: Iterable[Document],
    methods: Sequence[str],
    scored: Sequence[int],
) -> tuple[Iterator[Explanation], Faithfulness | None]:
    """Explain documents, and score the explanations of some of them.

    Args:
        predictor: The model.
        documents: The documents; a list where some are scored.
        methods: The ways to explain.
        scored: The positions of the documents to score.

    Returns:
        The explanations as they are asked for, those that were scored with their own figures, and
        the figures over all of those; None where there is no word to score.
    """
    figures: Faithfulness | None = None
    own: dict[int, dict[str, dict[str, float]]] = {}
    if scored:
        documents = list(documents)
        explained = predictor.explain_documents(
            [documents[position] for position in scored], (*methods, "occlusion")
        )
        with suppress(NoWordsError):
            figures = evaluate(
                predictor,
                with_progress(explained, "Scoring", len(scored)),
                each=lambda i, of_document: own.update({scored[i]: of_document}),
            )
    explanations = predictor.explain_documents(documents, methods)
    with_own = (
        replace(explanation, faithfulness=own[position]) if position in own else explanation
        for position, explanation in enumerate(explanations)
    )
    return with_own, figures


def affordable(predictor: Predictor, documents: Sequence[Document]) -> list[int]:
    """Return the positions of the documents of a sample that can be scored in some seconds.

    They are none where they would be too few to judge by.

    Args:
        predictor: The model.
        documents: The sample.
    """
    costs = [cost_of(predictor, document) for document in documents]
    order = list(range(len(documents)))
    random.Random(0).shuffle(order)
    chosen: list[int] = []
    left: float = AFFORDED_WORDS
    for position in order:
        if 0 < costs[position] <= min(left, AFFORDED_WORDS // FEWEST):
            chosen.append(position)
            left -= costs[position]
    return sorted(chosen) if len(chosen) >= FEWEST else []


def cost_of(predictor: Predictor, document: Document) -> float:
    """Return `scoring_cost` for all networks; infinity where a document's length says enough."""
    if len(document.text) > AFFORDED_CHARACTERS:
        return math.inf
    (words,) = predictor.bundle.vocabulary.encode([document.text])
    return len(predictor.bundle.network.members) * scoring_cost(words.words_per_sentence)


def scoring_cost(words_per_sentence: npt.NDArray[np.int32]) -> int:
    """Estimate how many words and sentences the network reads to score one document.

    Occlusion reads a sentence once for each of its words, and the sentences' vectors once for each
    word. Until the label changes, each ranking reads one sentence and the vectors for each word
    that it takes away.
    """
    lengths = words_per_sentence.astype(np.int64)
    if not len(lengths):
        return 0
    num_words, num_sentences = int(lengths.sum()), len(lengths)
    flips = RANKINGS * min(num_words, FLIP_STEPS) * (int(lengths.max()) + num_sentences)
    return int((lengths**2).sum()) + num_words * num_sentences + flips


def _check_sample(asked: int | None, suffix: str) -> None:
    if asked is not None and asked < 0:
        raise ValueError(f"`--faithfulness` must be at least 0, got {asked}.")
    if asked and suffix not in (".html", ".json", ".jsonl"):
        raise ValueError(
            "`--faithfulness` is for pages and records: give `--output` a name that ends in .html, "
            ".json or .jsonl; or see `han faithfulness`."
        )


def named_methods(names: str | None) -> tuple[str, ...]:
    """Return the methods that the command line names, in its order."""
    from han.predictor import check_methods

    methods = tuple(name.strip() for name in (names or "").split(",") if name.strip())
    if ALL_METHODS in methods:
        return METHODS
    check_methods(methods)
    return methods
