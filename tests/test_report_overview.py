from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from han.overview import (
    Calibration,
    CalibrationBin,
    ClassWord,
    ClassWords,
    Example,
    Overview,
    Positions,
)
from han.report.overview import render_overview

WORD = ClassWord(
    word="good",
    occurrences=1234,
    documents=56,
    share=0.043,
    lift=3.456,
    scores={"occlusion": 0.0712},
    examples=(Example("a", "It was ", "Good", ", I say."), Example("b", "… not so ", "good", "!")),
    weight=0.06,
)
OVERVIEW = Overview(
    documents=2000,
    classes=(ClassWords("neg", 1, ()), ClassWords("pos", 1999, (WORD,))),
    positions=Positions((1.25,) * 10, (0.5,) * 10),
    calibration=Calibration((CalibrationBin(0.9, 1.0, 1500, 0.95, 0.9),), 0.05, 1500),
    method="occlusion",
)
PLAIN = """\
neg   1 document
No word occurs often enough and carries the class.

pos   1,999 documents
word  times  in docs  share  lift  score  in context
good  1,234       56  4.3 %   3.5  +.071          It was [Good], I say.
                                                … not so [good]!

lift, tenth by tenth      1    2    3    4    5    6    7    8    9   10
sentences of documents 1.25 1.25 1.25 1.25 1.25 1.25 1.25 1.25 1.25 1.25
words of sentences     0.50 0.50 0.50 0.50 0.50 0.50 0.50 0.50 0.50 0.50

2,000 documents. Words by occlusion; those that few documents have stand further
down. Confidence and accuracy differ by 5.0 % on average (expected calibration
error, 1,500 labelled).
"""


def colour_console(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", _environ={}
    )


def with_words(*words: ClassWord, label: str = "pos") -> Overview:
    classes = (ClassWords(label, 5, words),)
    return Overview(5, classes, None, None, method="attention")


class TestRenderOverview:
    def test_plain(self) -> None:
        assert render_overview(OVERVIEW) == PLAIN

    def test_colours_mark_the_word_instead_of_brackets(self) -> None:
        drawn = render_overview(OVERVIEW, colour_console())
        marked = re.findall(r"\x1b\[1;38;2;200;102;10m(.*?)\x1b\[0m", drawn)
        assert marked == ["Good", "good"]
        unmarked = re.sub(r"\x1b\[[0-9;]*m", "", drawn)
        lines = [line.rstrip() for line in unmarked.splitlines()]
        assert lines[0] == "neg   1 document"
        assert "It was Good, I say." in lines[5]

    def test_no_colours_where_none_are_wanted(self) -> None:
        console = Console(
            file=io.StringIO(), width=80, force_terminal=True, _environ={"NO_COLOR": "1"}
        )
        assert render_overview(OVERVIEW, console) == PLAIN

    def test_attention_has_no_score_and_words_may_have_no_example(self) -> None:
        drawn = render_overview(with_words(replace(WORD, examples=())))
        assert drawn.splitlines()[1] == "word  times  in docs  share  lift"
        assert "in context" not in drawn
        assert "lift, tenth" not in drawn
        assert "calibration" not in drawn

    def test_a_word_that_the_model_did_not_know_is_marked(self) -> None:
        assert "good (unknown)" in render_overview(with_words(replace(WORD, unknown=True)))

    @pytest.mark.parametrize("width", [70, 80, 120])
    def test_lines_fit_the_terminal_and_words_stand_below_each_other(self, width: int) -> None:
        examples = (
            Example("a", "many words that stand before the ", "word", " and many words after it"),
            Example("b", "山" * 60, "word", "田" * 60),
            Example("c", "", "word", ""),
        )
        name = "an_extremely_long_name_without_end"
        overview = with_words(replace(WORD, word=name, examples=examples))
        drawn = render_overview(overview, colour_console(width))
        lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn).splitlines()
        assert all(cell_len(line) <= width for line in lines)
        rows = [line.partition("word")[0] for line in lines[2:5]]
        assert len({cell_len(row) for row in rows}) == 1
        assert "an_extremely_long_n…" in lines[2]

    @given(st.text(max_size=30), st.text(max_size=30), st.text(min_size=1, max_size=30))
    def test_no_text_reaches_the_terminal_as_a_command(
        self, label: str, context: str, name: str
    ) -> None:
        word = replace(WORD, word=name, examples=(Example("a", context, name, context),))
        drawn = render_overview(with_words(word, label=label))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", drawn)
