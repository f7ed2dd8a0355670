"""Draw how far explanations can be trusted, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from han.explanation import method_name
from han.faithfulness import RANDOM, Estimate, Faithfulness, MethodFigures


def render_faithfulness(result: Faithfulness, console: Console) -> str:
    """Return the summary and the tables of figures as lines of text.

    Args:
        result: The figures.
        console: Whose width and colours to use.

    Returns:
        The lines, each with its end.
    """
    with console.capture() as captured:
        for sentence in result.summary():
            console.print(Text(sentence), style=None)
        console.print()
        console.print(_removal_table(result))
        if len(result.methods) > 2:
            console.print()
            console.print(_agreement_table(result))
        if any(figures.rationales for figures in result.methods):
            console.print()
            console.print(_rationale_table(result))
        console.print()
        console.print(
            Text(
                f"{result.documents:,} documents, {result.words:,} words, seed {result.seed}"
                f"{_left_out(result)}. Below a figure: its 95 % interval, by bootstrap over the "
                "documents.",
                style="dim",
            )
        )
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _left_out(result: Faithfulness) -> str:
    return f"; {result.left_out:,} more were too long" if result.left_out else ""


def _name(figures: MethodFigures) -> str:
    return "random (mean)" if figures.method == RANDOM else method_name(figures.method)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _removal_table(result: Faithfulness) -> Table:
    table = _table(
        "When words are taken away, or kept alone",
        "comprehen-\nsiveness",
        "over\nrandom",
        "suffi-\nciency",
        "words\nto flip",
        "sentences\nto flip",
    )
    for figures in result.methods:
        over = figures.over_random
        table.add_row(
            _name(figures),
            _estimate(figures.aopc_comprehensiveness),
            "" if over is None else f"{over.mean:.1f} x",
            _estimate(figures.aopc_sufficiency),
            f"{figures.word_flip.mean:.0%}",
            f"{figures.sentence_flip.mean:.0%}",
        )
    return table


def _agreement_table(result: Faithfulness) -> Table:
    methods = [figures for figures in result.methods if figures.method != RANDOM]
    table = _table("Do the methods rank words alike? (Kendall's tau-b)", *map(_name, methods))
    for figures in methods:
        cells = [
            f"{figures.rank_agreement[other.method].mean:.2f}"
            if other.method in figures.rank_agreement
            else ""
            for other in methods
        ]
        table.add_row(_name(figures), *cells)
    return table


def _rationale_table(result: Faithfulness) -> Table:
    table = _table(
        "Agreement with what people marked", "precision", "recall", "F1", "IOU F1", "AUPRC"
    )
    for figures in result.methods:
        if (found := figures.rationales) is not None:
            estimates = (found.precision, found.recall, found.f1, found.iou_f1, found.auprc)
            table.add_row(_name(figures), *(f"{estimate.mean:.3f}" for estimate in estimates))
    return table


def _estimate(estimate: Estimate) -> Text:
    text = Text(f"{estimate.mean:.2f}")
    if estimate.low < estimate.high:
        text.append(f"\n{estimate.low:.2f} to {estimate.high:.2f}", "dim")
    return text
