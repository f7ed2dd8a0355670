from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from han.explanation import METHODS, Explanation
from han.report import (
    SUFFIXES,
    check_report_path,
    render_html,
    render_latex,
    render_markdown,
    render_notebook,
    render_svg,
    render_terminal,
    write_report,
)
from han.report.layout import (
    CONTROLS,
    LINES,
    PAPER,
    SYMBOLS,
    arrange,
    figure,
    short,
)
from tests.test_explanation import (
    explanations,
    make_empty,
    make_explanation,
    make_flat,
    make_scored,
)
from tests.test_report import PAYLOADS, Structure, hostile


def colour_console(width: int = 60) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        _environ={},
    )


def is_harmless(text: str) -> bool:
    """Whether a terminal would take every character but the line end for text."""
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return not any(
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in bidirectional
        or character in "\u200e\u200f\u061c"
        for character in text.replace("\n", "")
    )


def blend(colour: str, alpha: float, paper: str) -> str:
    """Return a colour as it is seen on paper."""
    pairs = [(int(colour[i : i + 2], 16), int(paper[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(alpha * a + (1 - alpha) * b):02x}" for a, b in pairs)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(map(float.__mul__, (0.2126, 0.7152, 0.0722), linear))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


class TestRenderTerminal:
    def test_without_colours_important_words_carry_their_share(self) -> None:
        assert render_terminal(make_explanation()) == (
            "reviews.csv:2\n"
            "Read as pos with 90 %, which is right.\n"
            "pos 90 %   neg 10 %\n"
            "\n"
            "75 % ██████ [Good|.38] film.\n"
            "25 % ██     [Loved|.25] it!\n"
        )

    def test_colours_are_the_steps(self) -> None:
        lines = render_terminal(make_explanation(), colour_console()).splitlines()
        assert lines[4] == (
            "\x1b[1m75 %\x1b[0m \x1b[38;2;200;102;10m██████\x1b[0m "
            "\x1b[30;48;2;233;154;38mGood\x1b[0m \x1b[30;48;2;185;171;140mfilm.\x1b[0m"
        )

    def test_signed_figures_carry_their_sign(self) -> None:
        assert render_terminal(make_scored(), method="occlusion").splitlines()[3:] == [
            "occlusion: + speaks for pos, - against it",
            "",
            "+.30 ████▌  [Good|+.40] [film|-.60].",
            "-.10 █▌     Loved it[!|+.80]",
        ]
        other = render_terminal(make_scored(), method="occlusion", label="neg")
        assert "-.20 ███    [Good|-.80] [film|+.60].\n" in other

    def test_what_speaks_against_the_class_is_blue(self) -> None:
        drawn = render_terminal(make_scored(), colour_console(), method="occlusion")
        assert "\x1b[30;48;2;197;168;117mGood\x1b[0m" in drawn
        assert "\x1b[30;48;2;110;174;235mfilm\x1b[0m" in drawn
        assert "\x1b[38;2;31;99;181m█▌" in drawn

    @pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
    def test_a_console_without_colours_gets_no_escape_sequences(self, variable: str) -> None:
        environment = {"NO_COLOR": {"NO_COLOR": "1"}, "TERM": {"TERM": "dumb"}}[variable]
        console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ=environment)
        assert render_terminal(make_explanation(), console) == render_terminal(make_explanation())

    def test_a_wrong_class_is_named(self) -> None:
        assert "with 90 %, in truth neg.\n" in render_terminal(make_explanation(true="neg"))
        assert "with 90 %.\n" in render_terminal(make_explanation(true=None))

    def test_an_empty_document_is_said_to_be_so(self) -> None:
        assert "No words: the class comes from" in render_terminal(make_empty())

    def test_cut_text_is_counted_not_shown(self) -> None:
        explanation = make_explanation(text="Good film. Loved it! Truly.", cut=[(21, 27)])
        assert "[6 characters not read]\n" in render_terminal(explanation)

    def test_many_classes_are_shortened(self) -> None:
        labels = tuple("abcdefghij")
        shown = render_terminal(make_explanation(labels=labels, probabilities=[0.1] * 10))
        assert "f 10 %   4 more\n" in shown

    @pytest.mark.parametrize("width", [1, 8, 20, 200])
    @pytest.mark.parametrize(
        "text", ["这部电影非常好看 " * 9, "هذا فيلم رائع " * 9, "👩‍👩‍👧 " * 40]
    )
    def test_lines_keep_to_the_width_in_any_script(self, text: str, width: int) -> None:
        spans = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
        explanation = make_empty(
            text=text,
            word_spans=spans,
            sentence_spans=[[0, len(text)]],
            words_per_sentence=[len(spans)],
            word_attention=[1 / len(spans)] * len(spans),
            sentence_attention=[1.0],
            unknown=[False] * len(spans),
        )
        console = colour_console(width)
        for line in render_terminal(explanation, console).splitlines():
            assert console.measure(line).maximum >= 0
            plain = re.sub(r"\x1b\[[\d;]*m", "", line)
            assert width < 20 or len(plain) <= 2 * width

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_control_characters_are_shown_not_sent(self, payload: str) -> None:
        for explanation in (hostile(payload), hostile(payload, "x")):
            assert is_harmless(render_terminal(explanation))
            coloured = render_terminal(explanation, colour_console())
            assert is_harmless(re.sub(r"\x1b\[[\d;]*m", "", coloured))

    @given(explanations(METHODS[1:]))
    def test_any_document_is_harmless(self, explanation: Explanation) -> None:
        for method in explanation.methods:
            assert is_harmless(render_terminal(explanation, method=method))

    def test_symbols_stand_for_control_characters(self) -> None:
        shown = render_terminal(hostile("a\x1b[1m\x07\n\x7f\u202eb"))
        assert shown.startswith("a␛[1m␇␊␡<U+202E>b\n")


class TestRenderNotebook:
    def test_it_draws_words_with_their_weight(self) -> None:
        drawn = render_notebook(make_explanation())
        assert "Read as <b><bdi>pos</bdi></b> with 90 %, which is right.</p>" in drawn
        assert (
            '<span title="38 % of the weight; 50 % of its sentence" style="background:#c8660a68;'
            'border-radius:3px;box-shadow:inset 0 -2.5px 0 #c8660a;">Good</span>'
        ) in drawn

    def test_what_speaks_against_the_class_is_blue_with_a_line_above(self) -> None:
        drawn = render_notebook(make_scored(), method="occlusion")
        assert (
            '<span title="\N{MINUS SIGN}.60" style="background:#1f63b559;border-radius:3px;'
            'box-shadow:inset 0 2px 0 #1f63b5;">film</span>'
        ) in drawn
        assert '<bdi>pos</bdi>, <span style="background:#1f63b559' in drawn
        assert 'height="75.0%" fill="#c8660a"' in drawn
        assert 'height="25.0%" fill="#1f63b5"' in drawn

    @pytest.mark.parametrize(
        ("ink", "paper"),
        [("#000000", "#ffffff"), ("#d4d4d4", "#1e1e1e"), ("#d5d5d5", "#383838")],
        ids=["Jupyter", "VS Code", "Colab"],
    )
    def test_text_can_be_read_in_light_and_dark_notebooks(self, ink: str, paper: str) -> None:
        """WCAG 2.2, contrast ratio of text: at least 4.5 to 1."""
        drawn = render_notebook(make_scored(), method="occlusion")
        tints = re.findall(r"background:(#\w{6})(\w\w);", drawn)
        assert {colour for colour, _ in tints} == {"#c8660a", "#1f63b5"}
        for colour, alpha in tints:
            assert contrast(ink, blend(colour, int(alpha, 16) / 255, paper)) >= 4.5

    def test_an_empty_document_is_said_to_be_so(self) -> None:
        assert "This document has no words" in render_notebook(make_empty())

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_data_never_becomes_markup(self, payload: str) -> None:
        benign = Structure(render_notebook(hostile("x" * 20)))
        drawn = Structure(render_notebook(hostile(payload)))
        assert drawn.elements == benign.elements
        assert not {"script", "style"} & {tag for tag, _ in drawn.elements}
        assert hostile(payload).text.translate(CONTROLS) in "".join(drawn.texts)

    def test_an_explanation_draws_itself(self) -> None:
        explanation = make_explanation()
        assert explanation._repr_html_() == render_notebook(explanation)
        assert explanation.to_text() == render_terminal(explanation)
        assert explanation.to_html() == render_html([explanation], title=explanation.id)

    def test_an_explanation_can_be_written_in_every_format(self) -> None:
        explanation = make_scored()
        by: dict[str, Any] = {"method": "occlusion", "label": "neg"}
        assert explanation.to_text(**by) == render_terminal(explanation, **by)
        assert explanation.to_markdown(**by) == "".join(render_markdown([explanation], **by))
        assert explanation.to_latex(**by) == render_latex([explanation], **by)
        assert explanation.to_svg(**by) == render_svg([explanation], **by)


class TestCheckReportPath:
    @pytest.mark.parametrize("name", [*(f"a{suffix}" for suffix in SUFFIXES), "A.HTML"])
    def test_known_endings_pass(self, name: str) -> None:
        check_report_path(name)

    @pytest.mark.parametrize("name", ["a.pdf", "a"])
    def test_unknown_endings_are_refused_with_the_known_ones(self, name: str) -> None:
        with pytest.raises(
            ValueError, match=r"one of .html, .json, .jsonl, .txt, .md, .tex, .svg\."
        ):
            check_report_path(name)

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.html").mkdir()
        with pytest.raises(ValueError, match="is a folder"):
            check_report_path(tmp_path / "a.html")


class TestWriteReport:
    def test_html_is_the_page(self, tmp_path: Path) -> None:
        write_report(tmp_path / "a.html", iter([make_explanation()]), title="Reviews")
        written = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert written == render_html([make_explanation()], title="Reviews")

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_json_is_an_array(self, tmp_path: Path, number: int) -> None:
        written = [make_explanation(id=str(i)) for i in range(number)]
        write_report(tmp_path / "a.json", written)
        records = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert [Explanation.from_dict(record) for record in records] == written

    def test_json_lines_are_a_record_each(self, tmp_path: Path) -> None:
        written = [make_explanation(id="a"), hostile("a\u2028b\nc")]
        write_report(tmp_path / "a.jsonl", written)
        lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
        assert [Explanation.from_dict(json.loads(line)) for line in lines[:-1]] == written
        assert lines[-1] == ""

    def test_text_is_as_in_a_terminal(self, tmp_path: Path) -> None:
        write_report(tmp_path / "a.txt", [make_explanation(), make_empty()])
        written = (tmp_path / "a.txt").read_text(encoding="utf-8")
        assert written == f"{render_terminal(make_explanation())}\n{render_terminal(make_empty())}"

    @pytest.mark.parametrize("suffix", [".md", ".tex", ".svg"])
    def test_other_formats_are_as_rendered(self, tmp_path: Path, suffix: str) -> None:
        by: dict[str, Any] = {"title": "Reviews", "method": "occlusion", "label": "neg"}
        written = [make_scored(), make_empty()]
        write_report(tmp_path / f"a{suffix}", iter(written), **by)
        rendered = {
            ".md": lambda: "".join(render_markdown(written, **by)),
            ".tex": lambda: render_latex(written, **by),
            ".svg": lambda: render_svg(written, **by),
        }[suffix]()
        assert (tmp_path / f"a{suffix}").read_text(encoding="utf-8") == rendered

    @pytest.mark.parametrize("suffix", [".txt", ".md", ".tex", ".svg"])
    def test_a_method_without_scores_is_refused(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(ValueError, match="no scores of the method 'occlusion', only"):
            write_report(tmp_path / f"a{suffix}", [make_explanation()], method="occlusion")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", sorted(set(SUFFIXES) - {".html"}))
    def test_only_a_page_compares(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(ValueError, match=r"only a \.html report can hold"):
            write_report(tmp_path / f"a{suffix}", [], compare=[])

    def test_a_failure_leaves_the_old_file(self, tmp_path: Path) -> None:
        def failing() -> Iterator[Explanation]:
            yield make_explanation()
            raise RuntimeError("no more")

        path = tmp_path / "a.jsonl"
        path.write_text("old", encoding="utf-8")
        with pytest.raises(RuntimeError):
            write_report(path, failing())
        assert path.read_text(encoding="utf-8") == "old"
        assert list(tmp_path.iterdir()) == [path]


def markdown_lines(markdown: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the kind, the text and the inline elements of each line, by a CommonMark parser."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    kinds: list[str] = []
    for token in tokens:
        if token.nesting == 1:
            kinds.append(token.type.removesuffix("_open"))
        elif token.nesting == -1:
            kinds.pop()
        else:
            assert token.type == "inline"
            children = token.children or []
            comments = [child.content for child in children if child.type == "html_inline"]
            assert set(comments) <= {"<!-- -->"}
            text = "".join(child.content for child in children if child.type == "text")
            yield (
                " ".join(kinds),
                text,
                [c.type for c in children if c.type not in ("text", "html_inline")],
            )


MARKUP = (
    *(
        "a@b.org",
        "www.b.org",
        "HTTPS://b.org",
        "$x$",
        "-",
        "+",
        "+ a",
        "1. a",
        "2) a",
        "# a",
        "> a",
    ),
    *("a #", "***", "---", "===", "```", "~~~", "[a]: b", "| a |", "&amp;", "\\", "a\\"),
)


class TestRenderMarkdown:
    def test_important_words_are_bold_with_their_share(self) -> None:
        assert make_explanation().to_markdown() == (
            "# reviews.csv:2\n\n"
            "Read as **pos** with 90 %, which is right.\n\n"
            "Probabilities: pos 90 %, neg 10 %\n\n"
            "- 75 % ██████ \\[**Good**\\|.38\\] film.\n"
            "- 25 % ██ \\[**Loved**\\|.25\\] it!\n"
        )

    def test_signed_figures_carry_their_sign(self) -> None:
        written = make_scored().to_markdown(method="occlusion", label="neg")
        assert written.endswith(
            "\nFigures by occlusion: + speaks for neg, - against it.\n\n"
            "- -.20 ███ \\[*Good*\\|-.80\\] \\[**film**\\|+.60\\].\n"
            "- +.40 ██████ Loved it!\n"
        )

    def test_each_paragraph_of_a_sentence_is_an_item(self) -> None:
        *_, first, second, third = make_flat().to_markdown().splitlines()
        assert first == "- 100 % ██████ \\[**One**\\|.30\\]. Two three"
        assert second == "- ¶ \\[**Four**\\|.20\\] (\\<b\\>five"
        assert third == "- ¶ \\[\\[**x**\\|.20\\]\\] ) *\\[3 characters not read\\]*"

    def test_a_title_stands_above_all_documents(self) -> None:
        parts = render_markdown([make_explanation(id="a"), make_explanation(id="b")], title="*T*")
        headings = [text for kind, text, _ in markdown_lines("".join(parts)) if kind == "heading"]
        assert headings == ["*T*", "a", "b"]

    def test_cut_and_empty_documents_are_said_to_be_so(self) -> None:
        cut = make_explanation(text="Good film. Loved it! Truly.", cut=[(21, 27)])
        assert cut.to_markdown().endswith("\n- *\\[6 characters not read\\]*\n")
        assert (
            make_empty()
            .to_markdown()
            .endswith("\n*No words: the class comes from the classifier's bias alone.*\n")
        )

    @pytest.mark.parametrize("payload", [*PAYLOADS, *MARKUP])
    def test_data_never_becomes_markup(self, payload: str) -> None:
        written = "".join(render_markdown([hostile(payload)], title=payload))
        lines = list(markdown_lines(written))
        shown = hostile(payload).text.translate(SYMBOLS)
        word = ["strong_open", "strong_close"] if shown.strip() == shown else []
        assert [(kind, inside) for kind, _, inside in lines] == [
            ("heading", []),
            ("heading", []),
            ("paragraph", word * 2),
            ("paragraph", []),
            ("bullet_list list_item paragraph", word),
        ]
        assert lines[0][1] == lines[1][1] == shown
        assert lines[-1][1] == f"100 % ██████ [{shown}|1.0]"

    @pytest.mark.parametrize(
        "text",
        [
            "mail a_b@c.org or http://c.org",
            "www.c.org WWW.c.org ftp://c.org",
            "mailto:a@c.org xmpp:a@c.org/x",
            "~a~ ~~a~~ a | b [^1] $x$ <b>",
        ],
    )
    def test_nothing_becomes_a_link_on_github(self, text: str) -> None:
        cmarkgfm = pytest.importorskip("cmarkgfm", reason="needs GitHub's parser, cmarkgfm")
        spans = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
        explanation = make_empty(
            id=text,
            text=text,
            word_spans=spans,
            sentence_spans=[[0, len(text)]],
            words_per_sentence=[len(spans)],
            word_attention=[0.9, *[0.0] * (len(spans) - 1)],
            sentence_attention=[1.0],
            unknown=[False] * len(spans),
        )
        options = cmarkgfm.cmark.Options.CMARK_OPT_UNSAFE
        page = cmarkgfm.github_flavored_markdown_to_html(explanation.to_markdown(), options)
        elements = {tag for tag, _ in Structure(page).elements}
        assert elements == {"h1", "p", "ul", "li", "strong"}

    @given(st.lists(st.text("ab*_`[]()<>&!#~|\\$@.:/w -+=^{}1'", min_size=1), min_size=1))
    def test_any_marks_are_shown_as_they_are(self, words: list[str]) -> None:
        text = "".join(words)
        ends = list(accumulate(map(len, words)))
        explanation = make_empty(
            id=text,
            text=text,
            labels=(text, text * 2),
            word_spans=list(pairwise([0, *ends])),
            sentence_spans=[[0, len(text)]],
            words_per_sentence=[len(words)],
            word_attention=[i % 3 / 2 for i in range(len(words))],
            sentence_attention=[1.0],
            unknown=[False] * len(words),
        )
        lines = list(markdown_lines(explanation.to_markdown()))
        assert {kind for *_, inside in lines for kind in inside} <= {"strong_open", "strong_close"}
        kinds = [kind.split()[0] for kind, _, _ in lines]
        assert kinds == ["heading", "paragraph", "paragraph", "bullet_list"]
        tidy = re.compile(r"\[|\|[\d.]+\]| +")
        assert tidy.sub("", lines[0][1]) == tidy.sub("", text)

    @given(explanations(METHODS[1:]))
    def test_any_text_is_shown_as_it_is(self, explanation: Explanation) -> None:
        for method in explanation.methods:
            lines = list(markdown_lines(explanation.to_markdown(method=method)))
            shown = [text for kind, text, _ in lines if kind.startswith("bullet")]
            expected = [
                " ".join(
                    [
                        *([figure(method, block.score)] if block.sentence else []),
                        *(["¶"] if not (block.sentence or block.pieces[0].cut) else []),
                        *(["█" * bar] if (bar := round(6 * abs(block.height))) else []),
                        "".join(
                            f"[{len(piece.text):,} characters not read]"
                            if piece.cut
                            else re.sub(r"\s+", " ", piece.text)
                            if piece.word is None
                            else piece.text.translate(SYMBOLS)
                            if abs(piece.step) < 4
                            else f"[{piece.text.translate(SYMBOLS)}|{short(method, piece.score)}]"
                            for piece in block.pieces
                        ),
                    ]
                )
                for block in arrange(explanation, method)
            ]
            tidy = re.compile(" +")
            assert [tidy.sub(" ", text).strip() for text in shown] == [
                tidy.sub(" ", text.translate(SYMBOLS)).strip() for text in expected
            ]


COMMANDS = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
OWN = {
    *("han" + name for name in ("for", "against", "sentence", "cut", "break", "script", "end")),
    *("hanrtl", "hanltr", "hantowardsleft"),
    *("par", "bigskip", "medskip", "smallskip", "begingroup", "endgroup", "linespread"),
    *("selectfont", "raggedright", "parskip", "parindent", "large", "bfseries", "textbf"),
    *("textit", "footnotesize", "quad", "char", "kern", "-"),
    *("textbackslash", "textasciicircum", "textasciitilde", "textasciigrave"),
    *("textless", "textgreater", "textbar", "{", "}", "$", "&", "#", "%", "_"),
}


def body(latex: str) -> str:
    """Return what follows the macros."""
    return latex[latex.index("\n\\par\\bigskip") :]


def is_safe(latex: str) -> bool:
    """Whether a text has but known commands, and no other character with a meaning to TeX."""
    commands = set(COMMANDS.findall(latex))
    rest = COMMANDS.sub("", latex).replace("$-$", "")
    depth = 0
    for character in rest:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    return commands <= OWN and depth == 0 and not set('$&#%_^"\\`<>|') & set(rest)


def compiled(latex: str, engine: str, folder: Path, name: str = "report") -> str:
    """Return the log of a compilation that must succeed and give a PDF."""
    if not shutil.which(engine):
        pytest.skip(f"needs {engine}")
    (folder / f"{name}.tex").write_text(latex, encoding="utf-8")
    result = subprocess.run(
        [engine, "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", f"{name}.tex"],
        cwd=folder,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout.decode(errors="replace")[-2000:]
    assert (folder / f"{name}.pdf").exists()
    return (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")


SCRIPTS = (
    "Ελληνικά Русский 影片非常好看。「太棒了」 한국어 日本語 हिन्दी ไทย Łódź x\u0302",
    "هذا فيلم رائع (2021) من IMDB. עברית שלום 12.5 a",
    "😀 👩\u200d👩\u200d👧 👍🏽 🇩🇪 ½ → ∑ \ufffd \ufeff \u200b \u00ad \U0001d4b3 \u2400",
    "".join(map(chr, range(0xA0, 0x100))) + "\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u20ac",
    "-- --- '' ,, `` ?` !` << >>",
)


class TestRenderLatex:
    def test_words_and_sentences_have_their_commands(self) -> None:
        assert body(make_explanation().to_latex()).split("\n", 2)[2] == (
            "{\\large\\bfseries reviews.csv:2\\par}\n"
            "Read as \\textbf{pos} with 90 \\%, which is right.\\par\n"
            "{\\footnotesize pos 90 \\%\\quad neg 10 \\%\\par}\\smallskip\n"
            "\\hansentence{75 \\%}{hanfor}{1.50} "
            "\\hanfor{7}{Good} \\hanfor{3}{film}\\hanfor{3}{.}\\par\n"
            "\\hansentence{25 \\%}{hanfor}{0.50} \\hanfor{8}{\\textit{Loved}} it!\\par\n"
            "\\endgroup\n"
            "\\hanend\n"
        )

    def test_signed_figures_have_two_colours(self) -> None:
        written = body(make_scored().to_latex(method="occlusion")).replace("\n", " ")
        assert "\\hanfor{6}{orange} speaks for pos, \\hanagainst{6}{blue} against it" in written
        assert (
            "\\hansentence{$-$.10}{hanagainst}{0.38} "
            "\\hanagainst{1}{\\textit{Loved}} \\hanfor{1}{it}\\hanfor{8}{!}\\par"
        ) in written

    def test_every_special_character_is_written_as_a_command(self) -> None:
        written = body(make_explanation(id='\\ { } $ & # % _ ^ ~ ` < > | "').to_latex())
        assert (
            "{\\large\\bfseries \\textbackslash{} \\{ \\} \\$ \\& \\# \\% \\_ \\textasciicircum{} "
            "\\textasciitilde{}"
        ) in written.replace("\n", " ")
        assert (
            "\\textasciigrave{} \\textless{} \\textgreater{} \\textbar{} \\char34{}\\par}"
        ) in written.replace("\n", " ")

    def test_ligatures_are_kept_apart(self) -> None:
        kept = body(make_explanation(id="a--b ''c'' ,,").to_latex())
        assert "a-{\\kern0pt}-b '{\\kern0pt}'c'{\\kern0pt}' ,{\\kern0pt},\\par" in kept

    def test_control_characters_are_shown_by_their_codes(self) -> None:
        written = body(make_explanation(id="a\x1b\u202e\nb").to_latex())
        code = "\\textless{{}}U+{}\\textgreater{{}}"
        assert f"a{code.format('001B')}{code.format('202E')}{code.format('000A')}b" in written

    def test_other_scripts_have_their_fonts(self) -> None:
        written = make_explanation(id="Good 影片, Лев!").to_latex()
        assert "\\hanscript{CJK}{2}{影\\hanbreak 片}, \\hanscript{European}{3}{Лев}!" in written
        assert "\\hanfont{CJK}{\\hanshaper}{Noto Serif CJK SC}" in written
        assert "\\hanfont{" not in body(make_explanation().to_latex())

    def test_lines_of_the_source_are_short(self) -> None:
        text = "word. " * 10_000
        spans = [[6 * i, 6 * i + 4] for i in range(10_000)]
        explanation = make_empty(
            text=text,
            word_spans=spans,
            sentence_spans=[[0, len(text)]],
            words_per_sentence=[10_000],
            word_attention=[1e-4] * 10_000,
            sentence_attention=[1.0],
            unknown=[False] * 10_000,
        )
        assert max(map(len, explanation.to_latex().split("\n"))) < 200

    @pytest.mark.parametrize("payload", [*PAYLOADS, *SCRIPTS, "\\end{document}", "^^41^^M%"])
    def test_data_never_becomes_a_command(self, payload: str) -> None:
        assert is_safe(body(hostile(payload).to_latex()))

    @given(explanations(METHODS[1:]))
    def test_no_text_becomes_a_command(self, explanation: Explanation) -> None:
        for method in explanation.methods:
            assert is_safe(body(explanation.to_latex(method=method)))

    @pytest.mark.parametrize("engine", ["pdflatex", "lualatex"])
    def test_latin_documents_compile(self, tmp_path: Path, engine: str) -> None:
        documents = [make_scored(), make_scored(text="Café «½ü». Loved it."), make_empty()]
        for method in ("attention", "occlusion"):
            written = render_latex(documents, title="50 % & more", method=method)
            log = compiled(written, engine, tmp_path)
            assert "Missing character" not in log
            assert "LaTeX Warning" not in log

    @pytest.mark.parametrize(
        "engine", ["pdflatex", pytest.param("lualatex", marks=pytest.mark.slow)]
    )
    def test_hostile_documents_compile(self, tmp_path: Path, engine: str) -> None:
        texts = [*PAYLOADS, *SCRIPTS, "\\input{/etc/hostname} \\end{document} ^^41^^M%"]
        log = compiled(render_latex(map(hostile, texts)), engine, tmp_path)
        assert "/etc/hostname" not in log
        warning = "an explanation has text that only lualatex can set"
        assert (warning in log) == (engine == "pdflatex")

    def test_a_paper_can_take_it_by_input(self, tmp_path: Path) -> None:
        written = render_latex([make_scored()], title="Left out", method="occlusion")
        (tmp_path / "one.tex").write_text(written, encoding="utf-8")
        (tmp_path / "two.tex").write_text(make_explanation().to_latex(), encoding="utf-8")
        paper = (
            "\\documentclass[twocolumn]{article}\\usepackage{xcolor}\\begin{document}"
            "Before \\input{one} between \\input{two} after.\\end{document}"
        )
        log = compiled(paper, "pdflatex", tmp_path, "paper")
        assert "(./one.tex" in log
        assert "(./two.tex" in log
        assert "Output written on paper.pdf (1 page" in log


SVG = "{http://www.w3.org/2000/svg}"


def drawn(explanation: Explanation, **by: str) -> ElementTree.Element:
    return ElementTree.fromstring(explanation.to_svg(**by))


def fitted(picture: ElementTree.Element) -> list[tuple[str, float, float, float]]:
    """Return each word or run of words of the text, with its x, baseline and width."""
    found = []
    for e in picture.iter(f"{SVG}text"):
        if e.get("lengthAdjust"):
            x, y, width = (float(e.attrib[name]) for name in ("x", "y", "textLength"))
            found.append(("".join(e.itertext()), x, y, width))
    return found


def boxes(picture: ElementTree.Element) -> list[tuple[str, float, float, float, float]]:
    """Return each rectangle but the paper: its colour, x, y, width and height."""
    found = []
    for e in picture.iter(f"{SVG}rect"):
        if e.get("width") != "100%":
            x, y, width, height = (float(e.attrib[n]) for n in ("x", "y", "width", "height"))
            found.append((e.attrib["fill"], x, y, width, height))
    return found


def sentence_of(text: str, pattern: str = r"\w+|[^\w\s]") -> Explanation:
    """Return one sentence of which every second word has all the weight."""
    spans = [match.span() for match in re.finditer(pattern, text)]
    return make_empty(
        text=text,
        word_spans=spans,
        sentence_spans=[[0, len(text)]],
        words_per_sentence=[len(spans)],
        word_attention=[float(i % 2) for i in range(len(spans))],
        sentence_attention=[1.0],
        unknown=[False] * len(spans),
    )


class TestRenderSvg:
    def test_boxes_fit_their_words(self) -> None:
        picture = drawn(make_explanation())
        words = {text: place for text, *place in fitted(picture)}
        assert set(words) == {"Good", " ", "film", ".", "Loved", " it!"}
        for text, step in (("Good", 7), ("film", 3), (".", 3), ("Loved", 8)):
            x, y, width = words[text]
            assert (PAPER[step], x - 1, y - 17, width + 2, 23) in boxes(picture)

    def test_widths_are_those_of_helvetica(self) -> None:
        [(_, _, _, good), *_] = fitted(drawn(make_explanation()))
        assert good == pytest.approx(18 * (0.778 + 0.556 + 0.556 + 0.556), abs=0.01)

    def test_lines_stand_below_what_speaks_for_and_above_what_speaks_against(self) -> None:
        picture = drawn(make_scored(), method="occlusion")
        places = {text: place for text, *place in fitted(picture)}
        for colour, text, step in (("#c8660a", "Good", 4), ("#1f63b5", "film", -6)):
            x, y, width = places[text]
            top = y + 6 - LINES[4] if step > 0 else y - 17
            assert (colour, x - 1, top, width + 2, LINES[abs(step)]) in boxes(picture)

    def test_sentences_have_their_figure_and_bar(self) -> None:
        picture = drawn(make_scored(), method="occlusion")
        numbers = [e.text for e in picture.iter(f"{SVG}text") if e.get("text-anchor") == "end"]
        assert numbers == ["+.30", "\N{MINUS SIGN}.10"]
        bars = [(fill, height) for fill, _, _, width, height in boxes(picture) if width == 7][:4]
        assert bars == [
            ("#e4e0d8", 23),
            ("#c8660a", pytest.approx(0.75 * 23)),
            ("#e4e0d8", 23),
            ("#1f63b5", pytest.approx(0.25 * 23)),
        ]

    def test_text_wraps_at_the_width(self) -> None:
        long = "word " * 500 + "x" * 1000 + " 影片" * 300 + "影片" * 300
        picture = drawn(sentence_of(long, r"\S+"))
        assert all(x >= 114 and x + width <= 930.1 for _, x, _, width in fitted(picture))
        assert float(picture.get("height", "")) > max(y for _, _, y, _ in fitted(picture))
        shown = "".join(text for text, *_ in fitted(picture))
        assert shown.replace(" ", "") == long.replace(" ", "")

    def test_words_towards_the_left_begin_at_the_right(self) -> None:
        places = fitted(drawn(sentence_of("אב (12) גד latin two הו")))
        order = [text.strip("\u200f") for text, *_ in sorted(places, key=lambda word: word[1])]
        assert "".join(order) == "הו latin two גד )12( אב"
        assert max(x + width for _, x, _, width in places) == pytest.approx(930, abs=0.05)

    def test_documents_stand_below_each_other(self) -> None:
        one, two = make_explanation(id="one"), make_explanation(id="two")
        picture = ElementTree.fromstring(render_svg([one, two], title="Both"))
        tops = {e.text: float(e.get("y", "")) for e in picture.iter(f"{SVG}text")}
        assert tops["one"] < min(y for _, _, y, _ in fitted(picture)) < tops["two"]
        assert picture.findtext(f"{SVG}title") == "Both"

    def test_cut_and_empty_documents_are_said_to_be_so(self) -> None:
        cut = make_explanation(text="Good film. Loved it! Truly.", cut=[(21, 27)])
        assert "".join(text for text, *_ in fitted(drawn(cut))).endswith("[6 characters not read]")
        assert "No words: the class comes from" in make_empty().to_svg()
        assert ElementTree.fromstring(render_svg([])).findtext(f"{SVG}title") == "No documents"

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_data_never_becomes_markup(self, payload: str) -> None:
        picture = ElementTree.fromstring(render_svg([hostile(payload)], title=payload))
        elements = {element.tag.removeprefix(SVG) for element in picture.iter()}
        assert elements <= {"svg", "title", "rect", "text", "path"}
        attributes = {name for element in picture.iter() for name in element.attrib}
        assert not [name for name in attributes if name.startswith("on") or "href" in name]
        shown = hostile(payload).text.translate(SYMBOLS)
        words = "".join(text for text, *_ in fitted(picture)).replace("\u200f", "")
        assert words.replace(" ", "") == shown.replace("\u200f", "").replace(" ", "")

    @given(explanations(METHODS[1:]))
    def test_any_document_is_well_formed_and_whole(self, explanation: Explanation) -> None:
        for method in explanation.methods:
            picture = drawn(explanation, method=method)
            shown = sorted("".join(text for text, *_ in fitted(picture)))
            expected = sorted(
                f"[{len(piece.text):,} characters not read]"
                if piece.cut
                else re.sub(r"\s+", "", piece.text).translate(SYMBOLS)
                if piece.word is None
                else piece.text.translate(SYMBOLS)
                for block in arrange(explanation, method)
                for piece in block.pieces
            )
            blank = re.compile(r"[\s\u200f]")
            assert sorted(blank.sub("", "".join(shown))) == sorted(blank.sub("", "".join(expected)))
            assert all(x + width <= 930.1 for _, x, _, width in fitted(picture))
