"""Agreement with what people marked (DeYoung et al. 2020, section 4.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from han.explanation import Explanation, Span
from han.faithfulness.rankings import Marks, Ranking, Table, by_method


def rationale_spans(rationale: object, text: str) -> tuple[Span, ...]:
    """Read what people marked in a text, in one of the ways in which corpora hold it.

    Args:
        rationale: A list of spans, each a pair of start and end or an object with `start` and
            `end`, in code points; or a mark, 0 or 1, for each of the text's words between white
            space, as a list or as a string such as `"00110"`. Either may be JSON.
        text: The text.

    Returns:
        Spans in code points, in the order of the text.

    Raises:
        ValueError: It is none of these, or does not fit the text; the message says why.
    """
    if isinstance(rationale, str):
        if rationale.strip().startswith("["):
            try:
                rationale = json.loads(rationale)
            except ValueError as error:
                raise ValueError(f"is no JSON ({error})") from error
        else:
            rationale = ["01".find(mark) for mark in rationale.strip()]
    if not isinstance(rationale, list | tuple):
        raise ValueError(f"must be spans, or marks of 0 and 1, got {rationale!r:.60}")
    if all(type(mark) in (int, bool) for mark in rationale):
        words = [match.span() for match in re.finditer(r"\S+", text)]
        if len(rationale) != len(words) or not all(mark in (0, 1) for mark in rationale):
            raise ValueError(
                f"must have a 0 or 1 for each of the text's {len(words)} words between white "
                f"space, got {len(rationale)} marks"
            )
        return tuple(word for word, mark in zip(words, rationale, strict=True) if mark)
    spans = []
    for span in rationale:
        pair = [span.get("start"), span.get("end")] if isinstance(span, dict) else span
        if (
            not isinstance(pair, list | tuple)
            or [type(number) for number in pair] != [int, int]
            or not 0 <= pair[0] < pair[1] <= len(text)
        ):
            raise ValueError(
                f"must hold spans [start, end] within the text's {len(text)} characters, got "
                f"{span!r:.60}"
            )
        spans.append((pair[0], pair[1]))
    return tuple(sorted(spans))


def mark_words(explanation: Explanation, spans: Sequence[Span]) -> Marks:
    """Return which words (N,) overlap what people marked.

    Raises:
        ValueError: A span leaves the text.
    """
    starts = np.array([word.start for word in explanation.words])
    ends = np.array([word.end for word in explanation.words])
    marked = np.zeros(len(starts), bool)
    for start, end in spans:
        if not 0 <= start < end <= len(explanation.text):
            raise ValueError(
                f"{explanation.id}: the rationale has the span [{start}, {end}); the text has "
                f"{len(explanation.text)} characters."
            )
        marked |= (starts < end) & (start < ends)
    return marked


def score_rationales(table: Table, documents: Sequence[tuple[Marks, Sequence[Ranking]]]) -> None:
    """Compare the words of largest figure, as many as people mark on average, with theirs."""
    from sklearn.metrics import auc, precision_recall_curve

    part = float(np.mean([marked.mean() for marked, _ in documents]))
    for marked, rankings in documents:
        count = max(1, round(part * len(marked)))
        figures: list[dict[str, float]] = []
        for ranking in rankings:
            chosen = ranking.place < count
            both = int((chosen & marked).sum())
            precision, recall = both / count, both / int(marked.sum())
            precisions, recalls, _ = precision_recall_curve(marked, ranking.words)
            figures.append(
                {
                    "precision": precision,
                    "recall": recall,
                    "f1": 2 * both / (count + int(marked.sum())),
                    "iou_f1": _iou_f1(_runs(chosen), _runs(marked)),
                    "auprc": float(auc(recalls, precisions)),
                }
            )
        for method, rows in by_method(rankings).items():
            for name in figures[0]:
                table.add(method, name, [figures[row][name] for row in rows])


def _runs(marks: Marks) -> list[Span]:
    """Return the runs of marked words, as half-open spans of positions."""
    edges = np.diff(marks.astype(np.int8), prepend=0, append=0).nonzero()[0].tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _iou_f1(chosen: Sequence[Span], marked: Sequence[Span]) -> float:
    """Return the F1 of runs, found where intersection over union is at least a half."""

    def found(run: Span, others: Sequence[Span]) -> bool:
        for start, end in others:
            both = min(end, run[1]) - max(start, run[0])
            if both > 0 and 2 * both >= max(end, run[1]) - min(start, run[0]):
                return True
        return False

    right = sum(found(run, marked) for run in chosen)
    seen = sum(found(run, chosen) for run in marked)
    if not right or not seen:
        return 0.0
    precision, recall = right / len(chosen), seen / len(marked)
    return 2 * precision * recall / (precision + recall)
