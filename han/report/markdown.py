"""Write explanations as Markdown, for notes, issues and wikis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from han.explanation import Explanation, method_name
from han.report.layout import (
    IMPORTANT,
    SYMBOLS,
    Piece,
    arrange,
    figure,
    odds,
    short,
    verdict,
)

_BAR = 6
_CONTINUED = "\N{PILCROW SIGN}"  # what stands first could make a list, a heading, ...

# What may begin markup anywhere in a line, in CommonMark, in GitHub's flavour or in the common
# additions to them. A dollar sign begins a formula on GitHub even after a backslash.
_ESCAPES = {ord(character): f"\\{character}" for character in r"\`*_[]{}<>&#|~^="} | {
    ord("$"): "&#36;"
}
# Addresses become links without any markup. A backslash stops all but those of mail, which are
# looked for when backslashes are gone: an empty comment parts them.
_ADDRESS = re.compile(r"(?i)(?<=www)(?=\.)|(?=:/)")
_MAIL = re.compile(r"(?<=[\w.+-])@")


def render_markdown(
    explanations: Iterable[Explanation],
    *,
    title: str | None = None,
    method: str = "attention",
    label: str | None = None,
) -> Iterator[str]:
    """Yield the parts of one Markdown document, a heading and a list of sentences per explanation.

    Each sentence stands beside its figure and a bar. The important words are written as
    `[**word**|.32]` with their share of the document's weight, or as `[**word**|+.32]` and, where
    they speak against the class, `[*word*|-.05]`; further paragraphs of a sentence begin with a
    pilcrow. Nothing in the text, the labels or the id becomes markup, in CommonMark or in GitHub's
    flavour, and the words stay as the author wrote them; control characters are shown as symbols.

    Args:
        explanations: What to write, in order.
        title: The heading of it all.
        method: The method whose figures to write, one of `Explanation.methods`.
        label: The class that they speak for or against; by default the predicted one.

    Raises:
        ValueError: An explanation has no such method, or its model no such class.
    """
    level = "#"
    if title is not None:
        yield f"# {_escape(title)}\n\n"
        level = "##"
    for i, explanation in enumerate(explanations):
        yield "\n" * (i > 0) + "\n".join(_lines(explanation, level, method, label)) + "\n"


def _lines(explanation: Explanation, level: str, method: str, label: str | None) -> Iterator[str]:
    yield f"{level} {_escape(explanation.id)}\n"
    yield "".join(
        _mark("**", part) if name else _escape(part) for part, name in verdict(explanation)
    )
    # Lines begin with words of ours: what stands first could make a list of them.
    yield f"\nProbabilities: {_escape(', '.join(odds(explanation)))}\n"
    if method != "attention":
        name = _escape(explanation.predicted if label is None else label)
        said = f"{_escape(method_name(method))}: + speaks for {name}, - against it.\n"
        yield f"Figures by {said}"
    if explanation.empty:
        yield "*No words: the class comes from the classifier's bias alone.*"
    for block in arrange(explanation, method, label):
        text = "".join(_runs(block.pieces, method)).strip(" ")
        if block.sentence is None:
            yield f"- {text}" if block.pieces[0].cut else f"- {_CONTINUED} {text}"
        else:
            bar = "█" * round(_BAR * abs(block.height))
            yield f"- {_escape(figure(method, block.score))} {bar}".rstrip() + f" {text}"


def _runs(pieces: Iterable[Piece], method: str) -> Iterator[str]:
    """Yield a sentence's text; what is not marked together, since an address spans many words."""
    plain = ""
    for piece in pieces:
        important = abs(piece.step) >= IMPORTANT
        if not (important or piece.cut):
            space = piece.word is None
            plain += re.sub(r"\s+", " ", piece.text) if space else piece.text.translate(SYMBOLS)
            continue
        yield _escape(plain)
        plain = ""
        if piece.cut:
            yield f"*\\[{len(piece.text):,} characters not read\\]*"
        else:
            # Between signs of punctuation asterisks are markup whatever the word is made of.
            word = _mark("**" if piece.step > 0 else "*", piece.text)
            yield f"\\[{word}\\|{short(method, piece.score)}\\]"
    yield _escape(plain)


def _mark(asterisks: str, text: str) -> str:
    escaped = _escape(text)
    return f"{asterisks}{escaped}{asterisks}" if escaped.strip() == escaped != "" else escaped


def _escape(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    escaped = text.translate(SYMBOLS).translate(_ESCAPES)
    return _MAIL.sub("<!-- -->@", _ADDRESS.sub(r"\\", escaped))
