from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given

from han.explanation import Explanation, ModelReference
from han.report.layout import LINES, PAPER, arrange, directions, is_rtl, may_break, percent, short
from tests.test_explanation import explanations, make_empty, make_explanation, make_flat

VOID = {"meta", "input", "br", "link", "img", "hr"}

SCRIPT = "document.documentElement.dataset.executed=1"
BREAKOUTS = (
    "",
    '">',
    "'>",
    "</script>",
    "</title></style></textarea></noscript>",
    "--><!--",
    "]]>",
    "\\u003c/script\\u003e",
    "{{ 7 * 7 }}{% raw %}",
    "</bdi></p></article></main>",
)
BODIES = (
    f"<script>{SCRIPT}</script>",
    f"<ScRiPt\n>{SCRIPT}</sCrIpT\t>",
    f'<img src=x onerror="{SCRIPT}">',
    f"<svg/onload={SCRIPT}>",
    f"<iframe srcdoc='<script>parent.{SCRIPT}</script>'></iframe>",
    f"<details open ontoggle={SCRIPT}>",
    f"<a href=javascript:{SCRIPT}>",
    "<style>@import 'https://example.invalid/a.css';*{display:none}</style>",
    "<link rel=stylesheet href=https://example.invalid/b.css>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
    "<base href=https://example.invalid/>",
    f'" autofocus onfocus="{SCRIPT}" x="',
)
CONTROL_TEXTS = (
    *(f"a{chr(code)}b" for code in (*range(9), 0x0B, *range(0x0E, 0x20), *range(0x7F, 0xA0))),
    "a\rb",
    "a\nb",
    "a\tb",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;https://example.invalid\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "\x1bPq#0\x1b\\",
    "\u202eevil\u202c",
    "\u2066\u2067\u2068\u2069",
    "\u200e\u200f\u061c",
    "\u2028\u2029",
    "\ud800\udc00 \udfff",
    "[red]markup[/red] [link=https://example.invalid]x[/link] :bomb:",
    "=HYPERLINK(1)",
)
PAYLOADS = tuple(before + body for before, body in product(BREAKOUTS, BODIES)) + CONTROL_TEXTS


def hostile(payload: str, other: str | None = None) -> Explanation:
    """Put a payload into every field that takes text; `other` for where two must differ."""
    return make_empty(
        id=payload,
        text=payload,
        labels=(payload, f"{payload}2" if other is None else other),
        word_spans=[[0, len(payload)]],
        sentence_spans=[[0, len(payload)]],
        words_per_sentence=[1],
        word_attention=[1.0],
        sentence_attention=[1.0],
        unknown=[True],
        true=f"{payload}3",
        model=ModelReference(sha256=payload, version=payload),
    )


class Structure(HTMLParser):
    """What a page is made of: its elements with attributes, its texts by element, its data."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.words: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.data = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        names = (attributes.get("class") or "").split()
        if attributes.get("id") == "data":
            self.data += data
        elif tag not in ("script", "style"):
            self.texts.append(data)
            if "w" in names:
                self.words.append((" ".join(names), data))


class TestPayloads:
    def test_there_are_many(self) -> None:
        assert len(set(PAYLOADS)) == len(PAYLOADS) >= 100


class TestArrange:
    @given(explanations())
    def test_a_block_holds_its_sentence_without_gaps(self, explanation: Explanation) -> None:
        read = [
            block for block in arrange(explanation) if not block.pieces or not block.pieces[0].cut
        ]
        assert [block.sentence for block in read if block.sentence] == list(explanation.sentences)
        texts: list[str] = []
        for block in read:
            text = "".join(piece.text for piece in block.pieces)
            if block.sentence is None:
                texts[-1] += text
            else:
                texts.append(text)
        spans = [slice(sentence.start, sentence.end) for sentence in explanation.sentences]
        blank = re.compile(r"\s|<br\s*/?>", re.IGNORECASE)
        assert [blank.sub("", text) for text in texts] == [
            blank.sub("", explanation.text[span]) for span in spans
        ]

    @given(explanations())
    def test_words_come_in_order_with_their_steps(self, explanation: Explanation) -> None:
        pieces = [piece for block in arrange(explanation) for piece in block.pieces if piece.word]
        assert [piece.word for piece in pieces] == list(explanation.words)
        assert [piece.step for piece in pieces] == list(explanation.steps)

    def test_text_cut_within_and_after_sentences_is_marked(self) -> None:
        explanation = make_explanation(
            text="Good film. Loved it! Truly.",
            word_spans=[[0, 4], [5, 9], [9, 10], [11, 16]],
            words_per_sentence=[3, 1],
            word_attention=[0.5, 0.25, 0.25, 1.0],
            unknown=[False] * 4,
            cut=[(17, 20), (21, 27)],
        )
        marked = [[p.text for p in block.pieces if p.cut] for block in arrange(explanation)]
        assert marked == [[], ["it!"], ["Truly."]]

    def test_text_cut_between_sentences_keeps_its_place(self) -> None:
        explanation = make_explanation(
            text="Good film. Loved it!",
            word_spans=[[0, 4], [17, 19], [19, 20]],
            sentence_spans=[[0, 4], [17, 20]],
            words_per_sentence=[1, 2],
            word_attention=[1.0, 0.5, 0.5],
            unknown=[False] * 3,
            cut=[(5, 10), (11, 16)],
        )
        texts = ["".join(piece.text for piece in block.pieces) for block in arrange(explanation)]
        assert texts == ["Good", "film.", "Loved", "it!"]

    @pytest.mark.parametrize("gap", ["\n\n", "\n \n", "\r\n\r\n", "<br />", "\u2029"])
    def test_a_blank_line_or_break_begins_a_paragraph(self, gap: str) -> None:
        text = f"a{gap}b"
        spans = [[0, 1], [len(text) - 1, len(text)]]
        explanation = make_empty(
            text=text,
            word_spans=spans,
            sentence_spans=spans,
            words_per_sentence=[1, 1],
            word_attention=[1.0, 1.0],
            sentence_attention=[0.5, 0.5],
            unknown=[False, False],
        )
        assert [block.paragraph for block in arrange(explanation)] == [False, True]

    def test_a_sentence_of_several_paragraphs_has_a_block_for_each(self) -> None:
        blocks = arrange(make_flat())
        assert ["".join(piece.text for piece in block.pieces) for block in blocks] == [
            "One. Two\n three",
            "Four (<b>five",
            "[x] ) six",
        ]
        assert [block.paragraph for block in blocks] == [False, True, True]
        assert [block.sentence for block in blocks] == [*make_flat().sentences, None, None]
        assert [block.key for block in blocks] == [True, False, False]
        assert [piece.text for piece in blocks[2].pieces if piece.cut] == ["six"]


class TestPercent:
    @pytest.mark.parametrize(
        ("share", "shown"),
        [
            (0, "0 %"),
            (1e-9, "< 0.1 %"),
            (0.0005, "0.1 %"),
            (0.0333, "3.3 %"),
            (0.0994, "9.9 %"),
            (0.0999, "10 %"),
            (0.125, "13 %"),
            (0.734, "73 %"),
            (0.991, "99.1 %"),
            (0.9996, "> 99.9 %"),
            (1, "100 %"),
        ],
    )
    def test_it_is_whole_in_the_middle_and_finer_near_the_ends(
        self, share: float, shown: str
    ) -> None:
        assert percent(share) == shown


class TestLayout:
    @pytest.mark.parametrize(
        ("score", "attention", "signed"),
        [
            (0.0, ".00", ".00"),
            (0.375, ".38", "+.38"),
            (0.0047, ".0047", "+.0047"),
            (1e-12, "1e-12", "+1e-12"),
            (0.999, "1.0", "+1.0"),
            (12.34, "12.3", "+12.3"),
            (-0.05, ".05", "-.05"),
        ],
    )
    def test_short_figures(self, score: float, attention: str, signed: str) -> None:
        assert short("attention", score) == attention
        assert short("occlusion", score) == signed

    @pytest.mark.parametrize(
        ("texts", "base", "expected"),
        [
            (["a", " ", "b"], False, [False] * 3),
            (["a", " ", "א", " ", "ב", "!"], False, [False, False, True, True, True, False]),
            (["א", " ", "a", " ", "b", " ", "ב"], True, [True, True, *[False] * 3, True, True]),
            (["א", " ", "12"], True, [True] * 3),
            ([], True, []),
        ],
    )
    def test_directions(self, texts: list[str], base: bool, expected: list[bool]) -> None:
        assert list(directions(texts, base)) == expected

    def test_the_first_letter_gives_the_direction(self) -> None:
        assert is_rtl("12 (א) a")
        assert not is_rtl("12 (a) א")
        assert not is_rtl("12")

    @pytest.mark.parametrize(
        ("pair", "may"),
        [
            ("影片", True),
            ("片。", False),
            ("「太", False),
            ("。太", True),
            ("影a", False),
            ("ab", False),
        ],
    )
    def test_east_asian_text_breaks_but_not_before_a_full_stop(self, pair: str, may: bool) -> None:
        assert may_break(*pair) == may

    def test_colours_are_those_of_the_page(self) -> None:
        style = (Path(__file__).parents[1] / "han/report/document.css").read_text(encoding="utf-8")
        light = style.split("}")[0]
        for step in range(1, 9):
            assert f"--w{step}: {PAPER[step]};" in light
            assert f"--a{step}: {PAPER[-step]};" in light
        for name in ("under", "over"):
            found = re.findall(rf"--{name}: ([\d.]+)px;", style)
            assert [float(line) for line in found] == list(LINES[2:])
