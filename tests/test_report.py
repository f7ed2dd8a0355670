from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from rich.console import Console

import han.report
from han.explanation import Explanation, ModelReference
from han.report import (
    check_report_path,
    render_html,
    render_notebook,
    render_terminal,
    write_report,
)
from han.report.layout import CONTROLS, arrange, percent
from tests.test_explanation import explanations, make_empty, make_explanation

FOLDER = Path(han.report.__file__).parent
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


class TestPayloads:
    def test_there_are_many(self) -> None:
        assert len(set(PAYLOADS)) == len(PAYLOADS) >= 100


class TestArrange:
    @given(explanations())
    def test_a_block_holds_its_sentence_without_gaps(self, explanation: Explanation) -> None:
        blocks = arrange(explanation)
        read = [block for block in blocks if block.sentence]
        assert [block.sentence for block in read] == list(explanation.sentences)
        for block in read:
            assert block.sentence is not None
            span = slice(block.sentence.start, block.sentence.end)
            assert "".join(piece.text for piece in block.pieces) == explanation.text[span]

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
            "\x1b[30;48;2;233;154;38mGood\x1b[0m \x1b[30;48;2;185;171;140mfilm\x1b[0m"
            "\x1b[30;48;2;185;171;140m.\x1b[0m"
        )

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

    @given(explanations())
    def test_any_document_is_harmless(self, explanation: Explanation) -> None:
        assert is_harmless(render_terminal(explanation))

    def test_symbols_stand_for_control_characters(self) -> None:
        shown = render_terminal(hostile("a\x1b[1m\x07\n\x7f\u202eb"))
        assert shown.startswith("a␛[1m␇␊␡<U+202E>b\n")


class TestRenderHtml:
    def test_the_policy_names_the_one_style_and_the_one_script(self) -> None:
        page = render_html([make_explanation()])
        policy = re.findall(r"([\w-]+-src) ([^;]*)", page.split("Policy")[1].split(">")[0])
        [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
        style_hash, script_hash = (
            base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            for source in (style, script)
        )
        assert policy == [
            ("default-src", "'none'"),
            ("style-src", f"'sha256-{style_hash}'"),
            ("script-src", f"'sha256-{script_hash}'"),
        ]

    def test_no_style_or_handler_stands_in_an_attribute(self) -> None:
        for _, attributes in Structure(render_html([make_explanation()])).elements:
            assert not [name for name, _ in attributes if name == "style" or name.startswith("on")]
            assert not [name for name, _ in attributes if name in ("src", "href", "srcdoc")]

    def test_the_head_says_what_the_page_holds(self) -> None:
        wrong = make_explanation(true="neg")
        unlabelled = make_explanation(true=None)
        page = render_html([make_explanation(), wrong, unlabelled], title="Reviews")
        text = " ".join("".join(Structure(page).texts).split())
        assert (
            "Reviews 3 documents accuracy 0.500 of 2 with a true class model 3f9a1c000000" in text
        )

    def test_without_true_classes_no_accuracy_is_claimed(self) -> None:
        assert "accuracy" not in render_html([make_explanation(true=None)]).split("</header>")[0]

    def test_words_can_be_read_without_scripts(self) -> None:
        structure = Structure(render_html([make_explanation()]))
        page = "".join(structure.texts)
        assert "Read as pos with 90 %, which is right." in page
        assert "Good film." in page
        assert structure.words == [
            ("w w7", "Good"),
            ("w w3", "film"),
            ("w w3", "."),
            ("w w8 unknown", "Loved"),
        ]

    def test_the_first_fifty_can_be_read_without_scripts(self) -> None:
        page = render_html([make_explanation(id=f"doc {i}") for i in range(60)])
        static = page.split('id="static"')[1].split('type="application/json"')[0]
        assert static.count("<article>") == 50
        assert "10 more documents need scripts" in static

    def test_no_documents_make_a_small_page(self) -> None:
        page = render_html([])
        assert len(page.encode()) <= 80_000
        assert "No documents." in page

    def test_labels_must_agree(self) -> None:
        other = make_explanation(id="b.csv:7", labels=("no", "yes"))
        with pytest.raises(ValueError, match=r"b\.csv:7: the model's labels are \['no', 'yes'\]"):
            render_html([make_explanation(), other])

    def test_cut_and_empty_documents_are_said_to_be_so(self) -> None:
        cut = make_explanation(text="Good film. Loved it! Truly.", cut=[(21, 27)])
        assert '<span class="cut">Truly.</span>' in render_html([cut])
        assert "This document has no words" in render_html([make_empty()])

    @given(explanations())
    def test_the_scripts_figures_are_those_of_the_explanation(
        self, explanation: Explanation
    ) -> None:
        data = json.loads(Structure(render_html([explanation])).data)
        [[id_, text, predicted, _, true, _, figures]] = data["documents"]
        assert (id_, text) == (explanation.id, explanation.text)
        assert data["classes"][: data["labels"]] == list(explanation.labels)
        assert data["classes"][predicted] == explanation.predicted
        assert (data["classes"][true] if true >= 0 else None) == explanation.true
        assert list(decode(figures)) == list(expected_figures(explanation))

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_data_never_becomes_markup(self, payload: str) -> None:
        benign = Structure(render_html([hostile("x" * 20)], title="x"))
        page = render_html([hostile(payload)], title=payload)
        structure = Structure(page)
        assert structure.elements == benign.elements
        shown = hostile(payload).text.translate(CONTROLS).replace("\r\n", "\n").replace("\r", "\n")
        # The parser hands a text over in parts; what it calls a word must be the whole payload.
        assert "".join(text for _, text in structure.words).replace("\r", "\n") == shown
        assert not set("<>&\u2028\u2029") & set(structure.data)
        assert json.loads(structure.data)["documents"][0][1] == hostile(payload).text


class TestRenderNotebook:
    def test_it_draws_words_with_their_weight(self) -> None:
        drawn = render_notebook(make_explanation())
        assert "Read as <b><bdi>pos</bdi></b> with 90 %, which is right.</p>" in drawn
        assert (
            '<span title="38 % of the weight; 50 % of its sentence" style="color:#1d1b18;'
            'background:#ffa62b;border-radius:3px;box-shadow:inset 0 -2.5px 0 #c8660a;">Good</span>'
        ) in drawn

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


class TestColours:
    """WCAG 2.2, contrast ratio of text: at least 4.5 to 1."""

    @staticmethod
    def schemes() -> Iterator[dict[str, str]]:
        style = (FOLDER / "report.css").read_text(encoding="utf-8")
        light, dark = (
            {name: colour for name, colour in re.findall(r"--(\w+): (#[0-9a-f]{6});", block)}
            for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
        )
        yield light
        yield light | dark

    @staticmethod
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(self, one: str, other: str) -> float:
        light, dark = sorted((self.luminance(one), self.luminance(other)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    def test_text_can_be_read_in_every_step_light_and_dark(self) -> None:
        for colours in self.schemes():
            for paper in ("page", "panel", *(f"w{step}" for step in range(1, 9))):
                assert self.contrast(colours["ink"], colours[paper]) >= 4.5, paper
            for ink, paper in product(("quiet", "wrong"), ("page", "panel")):
                assert self.contrast(colours[ink], colours[paper]) >= 4.5, ink
            assert self.contrast(colours["wrong"], colours["w2"]) >= 4.5

    def test_each_step_stands_out_more_than_the_one_before(self) -> None:
        for colours in self.schemes():
            ramp = [self.contrast(colours["page"], colours[f"w{step}"]) for step in range(1, 9)]
            assert ramp == sorted(ramp)


class TestCheckReportPath:
    @pytest.mark.parametrize("name", ["a.html", "a.json", "a.jsonl", "a.txt", "A.HTML"])
    def test_known_endings_pass(self, name: str) -> None:
        check_report_path(name)

    @pytest.mark.parametrize("name", ["a.pdf", "a"])
    def test_unknown_endings_are_refused_with_the_known_ones(self, name: str) -> None:
        with pytest.raises(
            ValueError, match=r"use a name that ends in one of .html, .json, .jsonl"
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


class TestInBrowser:
    """The page's script, in headless Chromium."""

    @staticmethod
    def document(page: str, tmp_path: Path) -> str:
        """Return the page as it is once its script has run."""
        browser = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), ""
        )
        if not browser:
            pytest.skip("needs Chromium")
        path = tmp_path / "report.html"
        path.write_text(page, encoding="utf-8")
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
        ]
        shown = subprocess.run(
            [*command, path.as_uri()], capture_output=True, check=True, timeout=120
        )
        return shown.stdout.decode()

    def test_it_draws_what_can_be_read_without_it(self, tmp_path: Path) -> None:
        text = "\u202dA 👩‍👩‍👧 \U0001d4b3.\n\nB\x1b 😀! Never"
        explanation = make_empty(
            text=text,
            word_spans=[[1, 2], [3, 8], [9, 10], [10, 11], [13, 15], [16, 17], [17, 18]],
            sentence_spans=[[0, 11], [13, 18]],
            words_per_sentence=[4, 3],
            word_attention=[0.5, 0.25, 0.2, 0.05, 0.9, 0.1, 0.0],
            sentence_attention=[0.75, 0.25],
            unknown=[False, True, False, False, False, False, True],
            cut=[(19, 24)],
        )
        page = render_html([explanation])
        static = re.search(r"<article>(.*?)</article>", page, re.DOTALL)
        drawn = self.document(page, tmp_path)
        live = re.search(r'<article id="document">(.*?)</article>', drawn, re.DOTALL)
        assert static is not None
        assert live is not None
        before, after = Structure(static[1]), Structure(live[1])
        coloured = [(names, text) for names, text in after.words if names != "w w0"]
        assert coloured == before.words
        assert "".join("".join(after.texts).split()) == "".join("".join(before.texts).split())
        assert 'class="block paragraph"' in static[1]
        assert live[1].count("paragraph") == static[1].count("paragraph") == 1

    def test_only_the_rows_in_view_are_in_the_page(self, tmp_path: Path) -> None:
        page = render_html([make_explanation(id=f"doc {i}") for i in range(2000)])
        drawn = self.document(page, tmp_path)
        assert 'class="live"' in drawn
        assert 5 <= drawn.count('role="option"') <= 40
        assert "2,000 documents" in drawn

    def test_no_payload_is_executed(self, tmp_path: Path) -> None:
        names = [f"{payload}{i}" for i, payload in enumerate(PAYLOADS)]
        for first in range(0, len(names), 60):
            labels = tuple(dict.fromkeys(hostile(name).text for name in names[first : first + 60]))
            documents = [
                make_explanation(
                    id=label,
                    text=label,
                    labels=labels,
                    probabilities=[float(other == label) for other in labels],
                    word_spans=[[0, len(label)]],
                    sentence_spans=[[0, len(label)]],
                    words_per_sentence=[1],
                    word_attention=[1.0],
                    sentence_attention=[1.0],
                    unknown=[True],
                    true=label,
                    model=ModelReference(sha256=label, version=label),
                )
                for label in labels
            ]
            drawn = self.document(render_html(documents, title=labels[0]), tmp_path)
            assert 'class="live"' in drawn
            assert "data-executed" not in drawn.split("<body", 1)[0]


def decode(figures: str) -> Iterator[int]:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    number = shift = 0
    for digit in map(digits.index, figures):
        number += (digit % 32) << shift
        shift += 5
        if digit < 32:
            yield number
            number = shift = 0


def expected_figures(explanation: Explanation) -> Iterator[int]:
    """Write down the format anew: classes, cuts, sentences, each word."""
    order: list[Any] = sorted(enumerate(explanation.probabilities), key=lambda pair: -pair[1])
    yield len(order)
    for pair in order:
        yield from (pair[0], round(pair[1] * 1e6))
    yield len(explanation.truncated)
    at = 0
    for start, end in explanation.truncated:
        yield from (start - at, end - start)
        at = end
    at = 0
    for sentence in explanation.sentences:
        yield from (sentence.start - at, sentence.end - sentence.start)
        yield from (round(sentence.weight * 1e6), len(sentence.words))
        at = sentence.start
        for word in sentence.words:
            yield (word.start - at) * 2 + (1 if word.unknown else 0)
            yield from (word.end - word.start, round(word.weight * 1e6))
            at = word.end
        at = sentence.end
