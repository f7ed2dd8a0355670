"""Draw explanations as one HTML page, or as a static picture in a notebook."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from han.explanation import Explanation
from han.report.layout import CONTROLS, arrange, percent

PRINTED = 50
"""How many documents can be read without scripts."""

_CLASSES = 20
_SCALE = 1_000_000
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_FOLDER = Path(__file__).parent

# What could end the script element early, or end a string in older JavaScript.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def render_html(explanations: Iterable[Explanation], *, title: str = "Explanations") -> str:
    """Return one HTML page to browse explanations with; it works from disk and loads nothing.

    The page runs its own script alone (a content policy names its hash), and the documents reach
    it as JSON, so that no text can become markup. The first 50 documents can be read without
    scripts.

    Args:
        explanations: What to show, in order. All must be of models with the same labels.
        title: The page's title.

    Returns:
        The page.

    Raises:
        ValueError: The explanations' labels differ.
    """
    labels: tuple[str, ...] = ()
    classes: dict[str, int] = {}
    models: dict[str, None] = {}
    printed: list[Explanation] = []
    documents: list[list[str | int]] = []
    known = right = 0
    for explanation in explanations:
        if not documents:
            labels = explanation.labels
            classes = {label: i for i, label in enumerate(labels)}
        elif explanation.labels != labels:
            raise ValueError(
                f"{explanation.id}: the model's labels are {list(explanation.labels)}, those of "
                f"the documents before it {list(labels)}; write a report for each model."
            )
        if len(printed) < PRINTED:
            printed.append(explanation)
        models[explanation.model.sha256[:12]] = None
        known += explanation.true is not None
        right += explanation.true == explanation.predicted
        documents.append(_document(explanation, classes))
    data = {"classes": list(classes), "labels": len(labels), "documents": documents}
    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title,
            style=style,
            style_hash=_digest(style),
            script=script,
            script_hash=_digest(script),
            data=_json(data),
            num_documents=len(documents),
            num_known=known,
            accuracy=right / known if known else None,
            models=list(models),
            explanations=printed,
        )
    )


def render_notebook(explanation: Explanation) -> str:
    """Return a fragment of HTML that draws one explanation without scripts or style sheets."""
    return _environment().get_template("notebook.html.jinja").render(explanation=explanation)


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, loader=FileSystemLoader(_FOLDER), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    environment.filters["visible"] = lambda text: text.translate(CONTROLS)
    environment.globals.update(arrange=arrange, odds=_odds)
    return environment


@cache
def _asset(name: str) -> Markup:
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _json(data: object) -> Markup:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))


def _odds(explanation: Explanation) -> list[tuple[int, float]]:
    """Return the likeliest classes, as indices of `labels`, with their probabilities."""
    return sorted(enumerate(explanation.probabilities), key=lambda pair: -pair[1])[:_CLASSES]


def _document(explanation: Explanation, classes: dict[str, int]) -> list[str | int]:
    """Return a document as `report.js` reads it; a true class that no label names is added."""
    true = p_true = -1
    if explanation.true is not None:
        true = classes.setdefault(explanation.true, len(classes))
        p_true = _scaled(explanation.probabilities[true]) if true < len(explanation.labels) else 0
    return [
        explanation.id,
        explanation.text,
        classes[explanation.predicted],
        _scaled(explanation.probability),
        true,
        p_true,
        "".join(map(_encode, _figures(explanation))),
    ]


def _figures(explanation: Explanation) -> Iterator[int]:
    """Yield the numbers of a document: classes, cuts, sentences and their words.

    Positions are relative to the end of what came before, which keeps the numbers small.
    """
    odds = _odds(explanation)
    yield len(odds)
    for label, probability in odds:
        yield label
        yield _scaled(probability)
    yield len(explanation.truncated)
    at = 0
    for start, end in explanation.truncated:
        yield start - at
        yield end - start
        at = end
    at = 0
    for sentence in explanation.sentences:
        yield sentence.start - at
        yield sentence.end - sentence.start
        yield _scaled(sentence.weight)
        yield len(sentence.words)
        at = sentence.start
        for word in sentence.words:
            yield 2 * (word.start - at) + word.unknown
            yield word.end - word.start
            yield _scaled(word.weight)
            at = word.end
        at = sentence.end


def _scaled(share: float) -> int:
    return round(_SCALE * share)


@cache
def _encode(number: int) -> str:
    """Write a number with five bits a character, the lowest first; the last is below 32."""
    if number < 32:
        return _DIGITS[number]
    return _DIGITS[32 + number % 32] + _encode(number // 32)
