"""Arrange an explanation as blocks of marked text, the same for every output."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from han.explanation import Explanation, Sentence, Span, Word

_PARAGRAPH = re.compile(r"\n\s*\n|\r\s*\r|<br|\u2029", re.IGNORECASE)

CONTROLS: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), 0x202D, 0x202E], 0xFFFD),
}
"""What stands for each control character and override of direction, for `str.translate`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text that is drawn in one manner.

    Args:
        text: The run, as the author wrote it.
        word: The word that it is; None for what stands between words.
        step: The colour, from 0 (none) to 8.
        cut: Whether the model did not read it because of a length limit.
    """

    text: str
    word: Word | None = None
    step: int = 0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A sentence, or a stretch between sentences that was cut.

    Args:
        pieces: The text, in order, without gaps.
        sentence: The sentence; None for cut text.
        height: The sentence's weight over the document's largest.
        paragraph: Whether a paragraph begins here.
    """

    pieces: tuple[Piece, ...]
    sentence: Sentence | None
    height: float
    paragraph: bool

    @property
    def key(self) -> bool:
        """Whether no sentence has more weight than this one."""
        return self.sentence is not None and self.height == 1


def arrange(explanation: Explanation) -> list[Block]:
    """Return the document's sentences, and what was cut between them, in the text's order."""
    text = explanation.text
    top = max((sentence.weight for sentence in explanation.sentences), default=0.0) or 1.0
    steps = iter(explanation.steps)
    blocks = []
    at = 0
    for start, end, sentence in _stretches(explanation):
        if sentence is None:
            pieces, height = [Piece(text[start:end], cut=True)], 0.0
        else:
            cuts = _within(explanation.truncated, start, end)
            pieces, height = list(_pieces(text, sentence, steps, cuts)), sentence.weight / top
        paragraph = at > 0 and _PARAGRAPH.search(text, at, start) is not None
        blocks.append(Block(tuple(pieces), sentence, height, paragraph))
        at = end
    return blocks


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


def _pieces(
    text: str, sentence: Sentence, steps: Iterator[int], cuts: Sequence[Span]
) -> Iterator[Piece]:
    marks: list[tuple[int, int, Word | None]] = [(start, end, None) for start, end in cuts]
    marks += [(word.start, word.end, word) for word in sentence.words]
    at = sentence.start
    for start, end, word in sorted(marks, key=lambda mark: mark[0]):
        if at < start:
            yield Piece(text[at:start])
        step = next(steps) if word else 0
        yield Piece(text[start:end], word, step, cut=word is None)
        at = end
    if at < sentence.end:
        yield Piece(text[at : sentence.end])
