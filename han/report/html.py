"""Draw explanations as one HTML page, or as a static picture in a notebook."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from han.explanation import STEPS, Explanation, method_name
from han.faithfulness import Faithfulness
from han.overview import OverviewBuilder
from han.report.layout import (
    AGAINST,
    CONTROLS,
    FOR,
    LINES,
    arrange,
    figure,
    is_rtl,
    likeliest,
    percent,
    verdict,
)

PRINTED = 50
"""How many documents can be read without scripts."""

SCORED = 3
"""How many of a document's likeliest classes a page has the scores of."""

_LISTED = 20  # classes of a document whose probabilities a page has
_SCALE = 1_000_000
_QUANTUM = 2047
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_DIGIT_BYTES = np.frombuffer(_DIGITS.encode(), dtype=np.uint8)
_FOLDER = Path(__file__).parent

DOCUMENT_ASSETS = (_FOLDER / "document.css", _FOLDER / "document.js")
"""What a page needs to draw one document; `document.js` says how it is used."""

_REPORT_ASSETS = (
    *DOCUMENT_ASSETS,
    *(_FOLDER / name for name in ("overview.css", "overview.js", "report.css", "report.js")),
)


@dataclass(frozen=True, slots=True)
class Assets:
    """The style and the script of a page, and the content policy that lets them alone run.

    The template puts them into one `style` and one `script type="module"` element, as they are.

    Args:
        style: The style sheet.
        script: The script, a module.
    """

    style: Markup
    script: Markup

    def policy(self, *more: str) -> str:
        """Return a Content-Security-Policy.

        Args:
            more: Further directives, such as `connect-src 'self'`.
        """
        return "; ".join(
            [
                "default-src 'none'",
                f"style-src 'sha256-{_digest(self.style)}'",
                f"script-src 'sha256-{_digest(self.script)}'",
                "base-uri 'none'",
                "form-action 'none'",
                "require-trusted-types-for 'script'",
                "trusted-types 'none'",
                *more,
            ]
        )


@cache
def load_assets(*paths: Path) -> Assets:
    """Return style sheets and scripts, joined in the order given.

    Args:
        paths: Files that end in `.css` or `.js`, such as `DOCUMENT_ASSETS`.
    """
    sources = [(path.suffix, path.read_text(encoding="utf-8")) for path in paths]
    style, script = (
        Markup("\n".join(source for suffix, source in sources if suffix == wanted))
        for wanted in (".css", ".js")
    )
    return Assets(style, script)


def render_html(
    explanations: Iterable[Explanation],
    *,
    title: str = "Explanations",
    faithfulness: Faithfulness | None = None,
    compare: Iterable[Explanation] | None = None,
    label: str | None = None,
) -> str:
    """Return one HTML page to browse explanations with; it works from disk and loads nothing.

    The page runs its own script alone (a content policy names its hash), and the documents reach
    it as compressed JSON, so that no text can become markup. The first 50 documents can be read
    without scripts.

    Of the methods that give scores for each class, a page holds those of the three likeliest
    classes of each document, of its true one and of `label`.

    Args:
        explanations: What to show, in order. All must be of models with the same labels.
        title: The page's title.
        faithfulness: How far the explanations can be trusted.
        compare: Another model's explanations of the same documents, in the same order.
            It need not know `label`.
        label: The class to explain when the page opens; by default each document's predicted one.

    Returns:
        The page.

    Raises:
        ValueError: The explanations' labels or methods differ, the model has no class `label`, or
            `compare` is of other documents.
    """
    report = _Report(faithfulness, label)
    if compare is None:
        for explanation in explanations:
            report.add(explanation)
    else:
        for explanation, other in zip_longest(explanations, compare):
            if explanation is None or other is None:
                raise ValueError("`compare` must have as many explanations as there are documents.")
            report.add(explanation)
            report.compare(explanation, other)
    assets = load_assets(*_REPORT_ASSETS)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title,
            assets=assets,
            data=_pack(report.data()),
            report=report,
        )
    )


def render_notebook(
    explanation: Explanation, *, method: str = "attention", label: str | None = None
) -> str:
    """Return a fragment of HTML that draws one explanation without scripts or style sheets.

    Args:
        explanation: What to draw.
        method: The method whose figures to draw, one of `explanation.methods`.
        label: The class that they speak for or against; by default the predicted one.

    Raises:
        ValueError: The explanation has no such method, or the model no such class.
    """
    return (
        _environment()
        .get_template("notebook.html.jinja")
        .render(
            explanation=explanation,
            blocks=arrange(explanation, method, label),
            verdict=verdict(explanation),
            method=method,
            method_name=method_name(method),
            label=explanation.predicted if label is None else label,
            figure=lambda score: figure(method, score).replace("-", "\N{MINUS SIGN}"),
            box=_box,
            colours=(FOR, AGAINST),
        )
    )


def _box(step: int) -> str:
    """Return the style of a word: a tint under the notebook's own ink, be it dark or light."""
    if not step:
        return ""
    line, colour = (LINES[step], FOR) if step > 0 else (-LINES[-step], AGAINST)
    tint = f"{round(0.058 * abs(step) * 255):02x}"
    return f"background:{colour}{tint};border-radius:3px;box-shadow:inset 0 {-line:g}px 0 {colour};"


def encode_document(
    explanation: Explanation,
    classes: dict[str, int] | None = None,
    label: str | None = None,
    *,
    scored: int = SCORED,
) -> dict[str, Any]:
    """Return a document as `document.js` reads it, made of JSON's types only.

    Figures are rounded to about three digits. Of the methods that give scores for each class, those
    of `label`, of the predicted, the likeliest and the true class are kept, in this order; where a
    document may have several labels, those of all that it is given and that it has.

    Args:
        explanation: The document.
        classes: The place of each class among those that the page names; classes that are missing
            are added. By default the explanation's labels, in order.
        label: A class whose scores to keep, however unlikely it is.
        scored: How many of the likeliest classes' scores to keep.

    Raises:
        ValueError: The model has no class `label`.
    """
    if label is not None and label not in explanation.labels:
        raise ValueError(
            f"{explanation.id}: the model knows no class {label!r}; it knows "
            f"{list(explanation.labels)}."
        )
    classes = {} if classes is None else classes
    for name in explanation.labels:
        classes.setdefault(name, len(classes))
    true = p_true = -1
    if explanation.true is not None:
        true = classes.setdefault(explanation.true, len(classes))
        p_true = 0
        if explanation.true in explanation.labels:
            p_true = _scaled(explanation.probabilities[explanation.labels.index(explanation.true)])
    record = {
        "id": explanation.id,
        "text": explanation.text,
        "predicted": classes[explanation.predicted],
        "p": _scaled(explanation.probability),
        "truth": true,
        "pTruth": p_true,
        "figures": "".join(map(_encode, _figures(explanation, classes))),
    }
    if explanation.predicted_labels is not None:
        of_each = dict(zip(explanation.labels, explanation.probabilities, strict=True))
        given = sorted(explanation.predicted_labels, key=lambda label: -of_each[label])
        record["given"] = [[classes[label], _scaled(of_each[label])] for label in given]
        if explanation.true_labels is not None:
            truths = explanation.true_labels
            record["truths"] = [classes.setdefault(label, len(classes)) for label in truths]
    if len(explanation.methods) > 1:
        columns = _scored(explanation, label, scored)
        record["scored"] = [classes[explanation.labels[column]] for column in columns]
        record["scores"] = list(_scores(explanation, columns))
    return record


class _Report:
    """What the page says of all documents, gathered in one pass."""

    def __init__(self, faithfulness: Faithfulness | None, label: str | None) -> None:
        self.faithfulness = faithfulness
        self.label = label
        self.labels: tuple[str, ...] = ()
        self.classes: dict[str, int] = {}
        self.methods: dict[str, None] = {}
        self.models: dict[str, None] = {}
        self.other_models: dict[str, None] = {}
        self.printed: list[Explanation] = []
        self.documents: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.overview = OverviewBuilder()
        self.known = 0
        self.right = 0

    @property
    def accuracy(self) -> float | None:
        return self.right / self.known if self.known else None

    def add(self, explanation: Explanation) -> None:
        if not self.documents:
            self.labels = explanation.labels
        elif explanation.labels != self.labels:
            raise ValueError(
                f"{explanation.id}: the model's labels are {list(explanation.labels)}, those of "
                f"the documents before it {list(self.labels)}; write a report for each model."
            )
        if len(self.printed) < PRINTED:
            self.printed.append(explanation)
        self.models[explanation.model.sha256[:12]] = None
        self.methods.update(dict.fromkeys(explanation.methods))
        true = explanation.true_labels
        known = explanation.true in explanation.labels
        self.known += known if true is None else {*true} <= {*explanation.labels}
        self.right += bool(explanation.right)
        self.documents.append(encode_document(explanation, self.classes, self.label))
        self.overview.add(explanation)

    def compare(self, explanation: Explanation, other: Explanation) -> None:
        """Take in what another model says of the document that was added last."""
        if (other.id, other.text) != (explanation.id, explanation.text):
            raise ValueError(
                f"{explanation.id}: `compare` has {other.id!r} in its place; it must explain the "
                f"same documents in the same order."
            )
        self.other_models[other.model.sha256[:12]] = None
        self.methods.update(dict.fromkeys(other.methods))
        label = self.label if self.label in other.labels else None
        record = encode_document(other, self.classes, label)
        del record["id"], record["text"]  # the page has them once
        self.others.append(record)

    def data(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "methods": list(self.methods),
            "models": [
                f"{letter} · {', '.join(models)}"
                for letter, models in zip("AB", (self.models, self.other_models), strict=True)
                if models
            ],
            "label": self.classes.get(self.label) if self.label is not None else None,
            "documents": self.documents,
            "others": self.others,
            "overview": self.overview.build().to_dict(),
            "faithfulness": self.faithfulness and self.faithfulness.to_dict(),
        }


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, loader=FileSystemLoader(_FOLDER), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    shown = CONTROLS | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)  # lone surrogates
    environment.filters["visible"] = lambda text: text.translate(shown)
    environment.globals.update(
        arrange=arrange,
        is_rtl=is_rtl,
        likeliest=lambda explanation: likeliest(explanation, _LISTED),
        verdict=verdict,
    )
    return environment


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _pack(data: object) -> str:
    """Return data as compressed JSON in base64, which no text can leave and the page unpacks."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Names of methods and files may hold lone surrogates, which no UTF-8 file can.
    return base64.b64encode(zlib.compress(text.encode(errors="replace"), 6)).decode()


def _figures(explanation: Explanation, classes: dict[str, int]) -> Iterator[int]:
    """Yield the numbers of a document: classes, cuts, sentences and their words.

    Positions are relative to the end of what came before, which keeps the numbers small.
    """
    odds = likeliest(explanation, _LISTED)
    yield len(explanation.labels)
    yield len(odds)
    for label, probability in odds:
        yield classes[label]
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


def _scored(explanation: Explanation, label: str | None, most: int) -> list[int]:
    """Return the columns of the classes whose scores the page has, each once."""
    likely = (name for name, _ in likeliest(explanation, most))
    own = (*(explanation.predicted_labels or ()), *(explanation.true_labels or ()))
    names = dict.fromkeys([label, explanation.predicted, *own, *likely, explanation.true])
    return [explanation.labels.index(name) for name in names if name in explanation.labels]


def _scores(explanation: Explanation, columns: list[int]) -> Iterator[list[Any]]:
    """Yield for each method its name, its largest figures and the figures of each class."""
    words = explanation.words
    for method in explanation.methods[1:]:
        both = [
            np.array([unit.scores[method] for unit in units]).reshape(-1, len(explanation.labels))
            for units in (words, explanation.sentences)
        ]
        tops = [float(np.abs(figures).max(initial=0)) for figures in both]
        yield [
            method,
            *tops,
            [
                [
                    _quantize(figures[:, column], top)
                    for figures, top in zip(both, tops, strict=True)
                ]
                for column in columns
            ],
        ]


def _quantize(figures: npt.NDArray[np.float64], top: float) -> list[float | str]:
    """Return the largest figure of a class, and each over it with twelve bits in two characters.

    Where rounding would move a figure into another step of `Explanation.signed_steps`, it is
    rounded the other way.
    """

    def steps(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.sign(values) * np.floor((STEPS - 1) * np.abs(values) / (top or 1) + 0.5)

    largest = float(np.abs(figures).max(initial=0))
    numbers = np.rint(figures / (largest or 1) * _QUANTUM)
    numbers += np.sign(steps(figures) - steps(numbers / _QUANTUM * largest))
    codes = (numbers + _QUANTUM).astype(np.int64)
    digits = np.stack([codes >> 6, codes & 63], axis=1).reshape(-1)
    return [largest, _DIGIT_BYTES[digits].tobytes().decode()]
