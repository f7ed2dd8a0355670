"""Arrange an explanation as blocks of marked text, the same for every output."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from han.explanation import Explanation, Sentence, Span, Word

PAPER = (
    *("#ffffff", "#fff7e6", "#ffedcc", "#ffe1ad", "#ffd48c"),
    *("#ffc66b", "#ffb74a", "#ffa62b", "#fb950f"),
    *("#5ca1ec", "#73aff0", "#8abdf3", "#a1caf6"),
    *("#b7d6f8", "#cce2fa", "#dfedfb", "#eef5fc"),
)
"""The colour behind dark text by step; from the end, at -1 to -8, the blues of what speaks against.
"""

LINES = (0, 0, 0.5, 1, 1.25, 1.5, 2, 2.5, 3)
"""How thick the line at a word is, in pixels, by the step without its sign.

The line stands below the word; above it where the word speaks against the class, so that the sign
needs no colour.
"""

FOR, AGAINST = "#c8660a", "#1f63b5"
"""The colours of lines and bars."""

IMPORTANT = 4
"""The step, without its sign, from which a word is marked where there are no colours."""

_PARAGRAPH = re.compile(r"\n\s*\n|\r\s*\r|<br\s*/?>|\u2029", re.IGNORECASE)

CONTROLS: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), 0x202D, 0x202E], 0xFFFD),
}
"""What stands for each control character and override of direction, for `str.translate`."""

SYMBOLS = CONTROLS | {
    **{ord(character): 0x2400 + ord(character) for character in "\t\n\r"},
    **dict.fromkeys((0x2028, 0x2029), 0x2424),
    **dict.fromkeys((*range(0xD800, 0xE000), 0xFFFE, 0xFFFF), 0xFFFD),
}
"""As `CONTROLS`, with ends of lines too, and what UTF-8 and XML do not allow."""

_ODDS = 6
"""How many classes are named with their probabilities below a heading."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text that is drawn in one manner.

    Args:
        text: The run, as the author wrote it.
        word: The word that it is; None for what stands between words.
        step: The colour, from 0 (none) to 8, or to -8 for what speaks against a class.
        score: The word's figure by the method that is drawn; its share for attention.
        cut: Whether the model did not read it because of a length limit.
    """

    text: str
    word: Word | None = None
    step: int = 0
    score: float = 0.0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A sentence, a later paragraph of one, or a stretch between sentences that was cut.

    Args:
        pieces: The text, in order, without gaps.
        sentence: The sentence that begins here; None for what goes on and for cut text.
        score: The sentence's figure by the method that is drawn; its weight for attention.
        height: That figure over the document's largest of any class, from -1 to 1.
        paragraph: Whether a paragraph begins here.
    """

    pieces: tuple[Piece, ...]
    sentence: Sentence | None
    score: float
    height: float
    paragraph: bool

    @property
    def key(self) -> bool:
        """Whether no sentence has a larger figure than this one."""
        return self.sentence is not None and abs(self.height) == 1


def arrange(
    explanation: Explanation, method: str = "attention", label: str | None = None
) -> list[Block]:
    """Return the document's sentences, and what was cut between them, in the text's order.

    A sentence that has paragraphs, as one that is the whole document may, is a block for each.

    Args:
        explanation: What to arrange.
        method: The method whose figures colour the words, one of `explanation.methods`.
        label: The class that they speak for or against; by default the predicted one.

    Raises:
        ValueError: The explanation has no such method, or the model no such class.
    """
    text = explanation.text
    steps = explanation.signed_steps(method, label)
    drawn = zip(steps, explanation.scores(method, label), strict=True)
    scores = iter(explanation.sentence_scores(method, label))
    top = _top(explanation, method)
    blocks = []
    at = 0
    for start, end, sentence in _stretches(explanation):
        paragraph = at > 0 and _PARAGRAPH.search(text, at, start) is not None
        at = end
        if sentence is None:
            blocks.append(Block((Piece(text[start:end], cut=True),), None, 0.0, 0.0, paragraph))
            continue
        cuts, score = _within(explanation.truncated, start, end), next(scores)
        first, *others = _paragraphs(_pieces(text, sentence, drawn, cuts))
        blocks.append(Block(first, sentence, score, score / top, paragraph))
        blocks += [Block(pieces, None, 0.0, 0.0, paragraph=True) for pieces in others]
    return blocks


def verdict(explanation: Explanation) -> Iterator[tuple[str, bool]]:
    """Yield the parts of the sentence that says what was predicted, and whether each is a name."""
    if explanation.predicted_labels is not None:
        yield from _verdict_on_labels(explanation, explanation.predicted_labels)
        return
    yield "Read as ", False
    yield explanation.predicted, True
    yield f" with {percent(explanation.probability)}", False
    if explanation.true == explanation.predicted:
        yield ", which is right", False
    elif explanation.true is not None:
        yield ", in truth ", False
        yield explanation.true, True
    yield ".", False


def _verdict_on_labels(
    explanation: Explanation, labels: Sequence[str]
) -> Iterator[tuple[str, bool]]:
    """Yield the parts of the sentence where a document may have several labels."""
    of_each = dict(zip(explanation.labels, explanation.probabilities, strict=True))
    yield "Read as ", False
    for i, label in enumerate(sorted(labels, key=lambda label: -of_each[label])):
        yield ", " if i else "", False
        yield label, True
        yield f" with {percent(of_each[label])}", False
    if not labels:
        yield "none of the labels", False
    if explanation.right:
        yield ", which is right", False
    elif explanation.true_labels is not None:
        yield "; in truth ", False
        for i, label in enumerate(explanation.true_labels):
            yield ", " if i else "", False
            yield label, True
        if not explanation.true_labels:
            yield "none of them", False
    yield ".", False


def likeliest(explanation: Explanation, most: int) -> list[tuple[str, float]]:
    """Return at most so many classes with their probabilities, the likeliest first."""
    pairs = zip(explanation.labels, explanation.probabilities, strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])[:most]


def odds(explanation: Explanation) -> list[str]:
    """Return the likeliest classes with their probabilities, and how many more there are."""
    pairs = likeliest(explanation, _ODDS)
    shown = [f"{label} {percent(probability)}" for label, probability in pairs]
    more = len(explanation.labels) - len(pairs)
    return [*shown, f"{more} more"] if more else shown


def figure(method: str, score: float) -> str:
    """Write a sentence's figure: attention in per cent, others with two digits and their sign."""
    return percent(score) if method == "attention" else short(method, score)


def short(method: str, score: float) -> str:
    """Write a figure with two significant digits, signed but for attention: `.32`, `-.0047`."""
    size = abs(score)
    if size >= 0.995:
        digits = f"{size:.1f}"
    elif size >= 0.1:
        digits = f"{size:.2f}"
    else:
        digits = f"{size:.2g}" if size >= 0.0005 else f"{size:.0e}" if size else "0.00"
    if digits.startswith("0."):
        digits = digits[1:]
    return digits if method == "attention" or not score else ("+" if score > 0 else "-") + digits


def is_rtl(text: str) -> bool:
    """Whether the first character with a direction goes from right to left."""
    for character in text:
        if (direction := unicodedata.bidirectional(character)) in ("L", "R", "AL"):
            return direction != "L"
    return False


def has_direction(text: str) -> bool:
    """Whether some character has a direction; numbers, spaces and punctuation have none."""
    return any(unicodedata.bidirectional(character) in ("L", "R", "AL") for character in text)


def directions(texts: Sequence[str], base: bool) -> Iterator[bool]:
    """Yield whether each part of a sentence goes from right to left (Unicode's rules N1 and N2).

    Args:
        texts: The parts.
        base: Whether the sentence does; what has no direction of its own, and other ones on its
            two sides, does as the sentence.
    """
    own = [is_rtl(text) if has_direction(text) else None for text in texts]
    if not base and True not in own:
        own = [False] * len(own)

    def nearest(directions: Iterable[bool | None]) -> Iterator[bool]:
        """Yield each direction, or the one before it where it has none."""
        before = base
        for direction in directions:
            before = before if direction is None else direction
            yield before

    backwards = [*nearest(reversed(own))][::-1]
    for before, after in zip(nearest(own), backwards, strict=True):
        yield before if before == after else base


def may_break(before: str, after: str) -> bool:
    """Whether East Asian text may break between two characters."""
    wide = "WF"
    return (
        unicodedata.east_asian_width(before) in wide
        and unicodedata.category(before) not in ("Ps", "Pi")
        and unicodedata.east_asian_width(after) in wide
        and unicodedata.category(after) not in ("Pe", "Pf", "Po")
    )


def percent(share: float) -> str:
    """Write a share of 1 for people: whole per cents in the middle, tenths near the ends."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    if share in (0, 1) or 0.0995 <= share < 0.985:
        return f"{math.floor(100 * share + 0.5)} %"
    return f"{math.floor(1000 * share + 0.5) / 10:.1f} %"


def _stretches(explanation: Explanation) -> Iterator[tuple[int, int, Sentence | None]]:
    """Yield the spans of the sentences and of what was cut between them."""
    at = 0
    for sentence in explanation.sentences:
        for start, end in _within(explanation.truncated, at, sentence.start):
            yield start, end, None
        yield sentence.start, sentence.end, sentence
        at = sentence.end
    for start, end in _within(explanation.truncated, at, len(explanation.text)):
        yield start, end, None


def _within(spans: Sequence[Span], start: int, end: int) -> list[Span]:
    """Return the parts of `spans` that lie in `[start, end)`."""
    parts = [(max(first, start), min(last, end)) for first, last in spans]
    return [(first, last) for first, last in parts if first < last]


def _top(explanation: Explanation, method: str) -> float:
    """Return the largest figure of any sentence and class, without its sign; 1 where all are 0."""
    if method == "attention":
        return max((sentence.weight for sentence in explanation.sentences), default=0.0) or 1.0
    sentences = explanation.sentences
    figures = (abs(score) for sentence in sentences for score in sentence.scores[method])
    return max(figures, default=0.0) or 1.0


def _pieces(
    text: str,
    sentence: Sentence,
    drawn: Iterator[tuple[int, float]],
    cuts: Sequence[Span],
) -> Iterator[Piece]:
    marks: list[tuple[int, int, Word | None]] = [(start, end, None) for start, end in cuts]
    marks += [(word.start, word.end, word) for word in sentence.words]
    at = sentence.start
    for start, end, word in sorted(marks, key=lambda mark: mark[0]):
        if at < start:
            yield Piece(text[at:start])
        step, score = next(drawn) if word else (0, 0.0)
        yield Piece(text[start:end], word, step, score, cut=word is None)
        at = end
    if at < sentence.end:
        yield Piece(text[at : sentence.end])


def _paragraphs(pieces: Iterable[Piece]) -> list[tuple[Piece, ...]]:
    """Part the pieces of a sentence where a paragraph begins between words; at least one part."""
    paragraphs: list[list[Piece]] = [[]]
    for piece in pieces:
        between = piece.word is None and not piece.cut
        texts = _PARAGRAPH.split(piece.text) if between else [piece.text]
        if len(texts) == 1:
            paragraphs[-1].append(piece)
            continue
        for i, text in enumerate(texts):
            if i and paragraphs[-1]:
                paragraphs.append([])
            if text.strip():
                paragraphs[-1].append(replace(piece, text=text))
    return [tuple(paragraph) for paragraph in paragraphs if paragraph] or [()]
