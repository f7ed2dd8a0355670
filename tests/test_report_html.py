from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import han.report
from han.explanation import METHOD_NAMES, METHODS, Explanation, ModelReference
from han.faithfulness import (
    BINS,
    Divergence,
    Estimate,
    Faithfulness,
    MethodFigures,
    RationaleAgreement,
    UniformCheck,
)
from han.overview import summarize
from han.report import render_html
from han.report.html import DOCUMENT_ASSETS, encode_document, load_assets
from han.report.layout import CONTROLS
from tests.test_explanation import explanations, make_empty, make_explanation, make_flat
from tests.test_report import PAYLOADS, Structure, hostile

METHOD_PAYLOADS = PAYLOADS[::10]

FOLDER = Path(han.report.__file__).parent


def make_scored(**changes: object) -> Explanation:
    """The two sentences of `make_explanation` with figures for and against each class."""
    words = np.array([[0.5, -1.0], [0.0, 0.25], [0.1, 0.2], [-0.75, 2.0], [0.0, 0.0], [0.3, -0.3]])
    sentences = np.array([[0.6, -0.55], [-0.45, 1.7]])
    arguments: dict[str, Any] = {
        "word_scores": {"attention_gradient": words, "occlusion": words / 10},
        "sentence_scores": {"attention_gradient": sentences, "occlusion": sentences / 10},
    }
    return make_explanation(**arguments | changes)


def make_faithfulness(name: str = "other", **changes: object) -> Faithfulness:
    """Two rankings and chance, with every part that a result may have."""
    one = Estimate(0.25, 0.125, 0.5)
    methods = ("attention", name, "random")
    figures = [
        MethodFigures(
            method=method,
            comprehensiveness=(one,) * len(BINS),
            sufficiency=(one,) * len(BINS),
            aopc_comprehensiveness=dataclasses.replace(one, mean=0.5 - 0.1 * i),
            aopc_sufficiency=one,
            over_random=one,
            word_flip=one,
            sentence_flip=one,
            flipped=0.5,
            rank_agreement={other: one for other in methods if other != method},
            rationales=RationaleAgreement(3, one, one, one, one, one),
        )
        for i, method in enumerate(methods)
    ]
    arguments: dict[str, Any] = {
        "documents": 3,
        "words": 30,
        "bins": BINS,
        "methods": tuple(figures),
        "uniform": UniformCheck(0.75, one, 0.875, 0.5),
        "divergence": (Divergence(name, one, 0.5),),
    }
    return Faithfulness(**arguments | changes)


def read_words(structure: Structure) -> list[tuple[str, str]]:
    """Return the coloured words of the documents, without the two of the legend."""
    return structure.words[2:]


def unpack(page: str) -> dict[str, Any]:
    """Return what the page's script finds in it."""
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(Structure(page).data)))
    return data


class TestRenderHtml:
    def test_the_policy_names_the_one_style_and_the_one_script(self) -> None:
        page = render_html([make_explanation()])
        policy = re.findall(r"([\w-]+-src) ([^;]*)", page.split("Policy")[1].split(">")[0])
        [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        [script] = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
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
            "Reviews 3 documents accuracy 0.500 of 2 with a true class that the model knows model "
            "3f9a1c000000" in text
        )

    def test_without_true_classes_no_accuracy_is_claimed(self) -> None:
        assert "accuracy" not in render_html([make_explanation(true=None)]).split("</header>")[0]

    def test_words_can_be_read_without_scripts(self) -> None:
        structure = Structure(render_html([make_explanation()]))
        page = "".join(structure.texts)
        assert "Read as pos with 90 %, which is right." in page
        assert "Good film." in page
        assert read_words(structure) == [
            ("w w7", "Good"),
            ("w w3", "film"),
            ("w w3", "."),
            ("w w8 unknown", "Loved"),
        ]

    def test_the_first_fifty_can_be_read_without_scripts(self) -> None:
        page = render_html([make_explanation(id=f"doc {i}") for i in range(60)])
        static = page.split('id="static"')[1].split('type="text/plain"')[0]
        assert re.findall(r'<article id="document-(\d+)">', static) == [
            str(i) for i in range(1, 51)
        ]
        assert "10 more documents need scripts" in static

    def test_no_documents_make_a_small_page_without_scripts(self) -> None:
        page = render_html([])
        assert len(page.encode()) <= 80_000
        assert "No documents." in page
        assert "script" not in {tag for tag, _ in Structure(page).elements}

    def test_a_sentence_has_the_direction_of_its_first_strong_character(self) -> None:
        cut = {"cut": [(21, 27)]}
        page = render_html(
            [
                make_explanation(text="Good film. 1 \u05d0abc b! Truly.", **cut),
                make_explanation(text="Good film. Loved it! \u0628abcd.", **cut),
            ]
        )
        directions = re.findall(r'<p dir="(\w+)">', page)
        assert directions == ["ltr", "rtl", "ltr", "ltr", "ltr", "rtl"]

    def test_labels_must_agree(self) -> None:
        other = make_explanation(id="b.csv:7", labels=("no", "yes"))
        with pytest.raises(ValueError, match=r"b\.csv:7: the model's labels are \['no', 'yes'\]"):
            render_html([make_explanation(), other])

    def test_methods_must_agree(self) -> None:
        with pytest.raises(ValueError, match=r"explain all alike"):
            render_html([make_explanation(), make_scored()])

    @pytest.mark.parametrize("others", [[], [make_explanation()] * 3])
    def test_the_other_model_must_explain_as_many_documents(
        self, others: list[Explanation]
    ) -> None:
        with pytest.raises(ValueError, match="as many explanations as there are documents"):
            render_html([make_explanation()] * 2, compare=others)

    @pytest.mark.parametrize("change", [{"id": "b.csv:7"}, {"text": "Good film. Hated it!"}])
    def test_the_other_model_must_explain_the_same_documents(self, change: dict[str, str]) -> None:
        other = make_explanation(**change)
        with pytest.raises(ValueError, match=r"reviews\.csv:2: `compare` has .* in its place"):
            render_html([make_explanation()], compare=[other])

    def test_the_other_model_is_named_and_its_texts_are_not_repeated(self) -> None:
        other = make_scored(
            labels=("pos", "mixed"), true="pos", model=ModelReference("77be" + "0" * 60, "0.1.0")
        )
        page = render_html([make_explanation()], compare=[other])
        data = unpack(page)
        assert "compared with 77be00000000" in " ".join("".join(Structure(page).texts).split())
        assert data["models"] == ["A · 3f9a1c000000", "B · 77be00000000"]
        assert data["classes"] == ["neg", "pos", "mixed"]
        assert data["methods"] == ["attention", "attention_gradient", "occlusion"]
        [record] = data["others"]
        assert record.keys() == encode_document(other).keys() - {"id", "text"}
        assert data["classes"][record["predicted"]] == "mixed"

    def test_the_class_to_explain_is_kept_of_each_document(self) -> None:
        labels = tuple("abcdefgh")
        figures = np.ones((6, 8))
        arguments: dict[str, Any] = {
            "labels": labels,
            "probabilities": [0.3, 0.2, 0.2, 0.1, 0.05, 0.05, 0.05, 0.05],
            "word_scores": {"gradient": figures},
            "sentence_scores": {"gradient": figures[:2]},
            "true": "a",
        }
        documents = [make_explanation(**arguments, id=id) for id in ("1", "2")]
        arguments["labels"] = tuple("stuvwxyz")
        others = [make_explanation(**arguments, id=id) for id in ("1", "2")]
        data = unpack(render_html(documents, compare=others, label="h"))
        assert data["label"] == 7
        assert [record["scored"] for record in data["documents"]] == [[7, 0, 1, 2]] * 2
        assert [record["scored"] for record in data["others"]] == [[8, 9, 10]] * 2
        assert unpack(render_html(documents))["label"] is None
        with pytest.raises(ValueError, match="knows no class 'i'"):
            render_html(documents, label="i")

    def test_the_whole_set_is_that_of_the_overview(self) -> None:
        documents = [make_scored(id=f"doc {i}") for i in range(6)]
        data = unpack(render_html(iter(documents)))
        assert data["overview"] == json.loads(json.dumps(summarize(documents).to_dict()))
        assert data["overview"]["classes"][1]["words"]

    def test_faithfulness_stands_in_words_before_the_documents(self) -> None:
        result = make_faithfulness()
        page = render_html([make_explanation()], faithfulness=result)
        assert unpack(page)["faithfulness"] == json.loads(json.dumps(result.to_dict()))
        text = "".join(Structure(page).texts)
        for sentence in result.summary():
            assert text.index(sentence) < text.index("Good film.")

    def test_without_faithfulness_nothing_is_said_of_it(self) -> None:
        page = render_html([make_explanation()])
        assert unpack(page)["faithfulness"] is None
        assert "can be trusted" not in "".join(Structure(page).texts)

    def test_cut_and_empty_documents_are_said_to_be_so(self) -> None:
        cut = make_explanation(text="Good film. Loved it! Truly.", cut=[(21, 27)])
        assert '<span class="cut">Truly.</span>' in render_html([cut])
        assert "This document has no words" in render_html([make_empty()])

    @given(explanations())
    def test_the_scripts_figures_are_those_of_the_explanation(
        self, explanation: Explanation
    ) -> None:
        data = unpack(render_html([explanation]))
        [record] = data["documents"]
        classes = data["classes"]
        assert (record["id"], record["text"]) == (explanation.id, explanation.text)
        assert classes[: len(explanation.labels)] == list(explanation.labels)
        assert classes[record["predicted"]] == explanation.predicted
        assert (classes[record["truth"]] if record["truth"] >= 0 else None) == explanation.true
        assert list(decode(record["figures"])) == list(expected_figures(explanation))

    def test_long_documents_by_two_methods_stay_small(self) -> None:
        random = np.random.default_rng(0)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))

        def document(i: int) -> Explanation:
            text = " ".join("".join(random.choice(letters, 5)) for _ in range(200))
            figures = random.normal(size=(200, 2))
            return make_explanation(
                id=str(i),
                text=text,
                word_spans=[[at, at + 5] for at in range(0, len(text), 6)],
                sentence_spans=[[at, at + 119] for at in range(0, len(text), 120)],
                words_per_sentence=[20] * 10,
                word_attention=random.dirichlet(np.ones(20), size=10).reshape(-1),
                sentence_attention=random.dirichlet(np.ones(10)),
                unknown=[False] * 200,
                word_scores={"attention_gradient": figures},
                sentence_scores={"attention_gradient": figures[:10]},
            )

        # 10,000 such documents shall make at most 30 MB; the letters here are chance, and so are
        # harder to compress than any language.
        assert len(Structure(render_html(map(document, range(100)))).data) <= 100 * 3000

    @pytest.mark.parametrize("payload", PAYLOADS)
    def test_data_never_becomes_markup(self, payload: str) -> None:
        def page(text: str) -> str:
            scores = {text: np.ones((1, 2)), "gradient": -np.ones((1, 2))}
            explanation = make_explanation_of(hostile(text), scores)
            other = make_explanation_of(hostile(text, f"{text}4"), scores)
            return render_html(
                [explanation],
                title=text,
                faithfulness=make_faithfulness(text),
                compare=[other],
            )

        benign, structure = Structure(page("x" * 20)), Structure(page(payload))
        page(payload).encode()
        assert structure.elements == benign.elements
        shown = hostile(payload).text.translate(CONTROLS).replace("\r\n", "\n").replace("\r", "\n")
        # The parser hands a text over in parts; what it calls a word must be the whole payload.
        assert "".join(text for _, text in read_words(structure)).replace("\r", "\n") == shown
        assert re.fullmatch(r"[A-Za-z0-9+/]+=*", structure.data.strip())
        assert unpack(page(payload))["documents"][0]["text"] == hostile(payload).text


class TestEncodeDocument:
    def test_classes_are_the_labels_in_order(self) -> None:
        record = encode_document(make_scored(true="neither"))
        assert (record["predicted"], record["truth"]) == (1, 2)
        assert (record["p"], record["pTruth"]) == (900_000, 0)
        assert record["scored"] == [1, 0]

    def test_classes_that_are_missing_are_added(self) -> None:
        classes = {"pos": 0}
        record = encode_document(make_scored(true="neg"), classes)
        assert classes == {"pos": 0, "neg": 1}
        assert (record["predicted"], record["truth"], record["pTruth"]) == (0, 1, 100_000)
        assert record["scored"] == [0, 1]

    def test_it_is_made_of_json_types(self) -> None:
        record = encode_document(make_scored())
        assert json.loads(json.dumps(record, allow_nan=False)) == record

    def test_attention_alone_has_no_scores(self) -> None:
        assert not {"scores", "scored"} & encode_document(make_explanation()).keys()

    def test_of_many_classes_the_likeliest_and_the_true_one_are_kept(self) -> None:
        labels = tuple("abcdefgh")
        figures = np.arange(6 * 8).reshape(6, 8) - 20.0
        explanation = make_explanation(
            labels=labels,
            probabilities=[0.05, 0.3, 0.01, 0.2, 0.04, 0.35, 0.03, 0.02],
            true="c",
            word_scores={"gradient": figures},
            sentence_scores={"gradient": figures[:2]},
        )
        record = encode_document(explanation)
        assert [labels[i] for i in record["scored"]] == ["f", "b", "d", "c"]
        assert len(record["scores"][0][3]) == 4
        record = encode_document(explanation, label="g")
        assert [labels[i] for i in record["scored"]] == ["g", "f", "b", "d", "c"]
        shown = decode_scores(record["scores"][0][3][0][0])
        assert shown == pytest.approx(figures[:, 6], abs=0.03)
        assert encode_document(explanation, label="d")["scored"] == [3, 5, 1, 2]
        assert encode_document(explanation, scored=8)["scored"] == [5, 1, 3, 0, 4, 6, 7, 2]

    def test_the_class_must_be_of_the_model(self) -> None:
        with pytest.raises(ValueError, match=r"knows no class 'none'; it knows \['neg', 'pos'\]"):
            encode_document(make_scored(), label="none")

    @given(st.data())
    def test_scores_keep_their_steps_and_three_digits_of_the_largest(
        self, data: st.DataObject
    ) -> None:
        numbers = st.lists(
            st.lists(st.floats(-1000, 1000, width=32), min_size=2, max_size=2),
            min_size=6,
            max_size=6,
        )
        words, sentences = data.draw(numbers), data.draw(numbers)[:2]
        explanation = make_explanation(
            word_scores={"gradient": words}, sentence_scores={"gradient": sentences}
        )
        record = encode_document(explanation)
        [[name, word_top, sentence_top, columns]] = record["scores"]
        assert name == "gradient"
        assert sentence_top == pytest.approx(np.abs(sentences).max(), rel=1e-6)
        for place, (of_words, of_sentences) in zip(record["scored"], columns, strict=True):
            label = explanation.labels[place]
            figures, shown = explanation.scores("gradient", label), decode_scores(of_words)
            error = max(map(abs, figures)) / 1000
            assert shown == pytest.approx(figures, abs=error)
            assert steps(shown, word_top) == list(explanation.signed_steps("gradient", label))
            figures = explanation.sentence_scores("gradient", label)
            assert decode_scores(of_sentences) == pytest.approx(
                figures, abs=max(map(abs, figures)) / 1000
            )

    def test_no_words_have_no_scores(self) -> None:
        nothing = {"gradient": np.zeros((0, 2))}
        empty = make_empty(word_scores=nothing, sentence_scores=nothing)
        assert "scores" not in encode_document(empty)


class TestAssets:
    def test_the_policy_names_what_is_joined(self) -> None:
        assets = load_assets(*DOCUMENT_ASSETS)
        for source, kind in ((assets.style, "style"), (assets.script, "script")):
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in assets.policy()
        assert assets.policy().startswith("default-src 'none'; ")
        assert assets.policy("connect-src 'self'").endswith("; connect-src 'self'")

    def test_nothing_ends_its_element_early(self) -> None:
        for path in FOLDER.iterdir():
            if path.suffix in (".css", ".js"):
                assert "</" not in path.read_text(encoding="utf-8"), path.name

    def test_the_script_knows_what_people_call_each_method(self) -> None:
        script = (FOLDER / "document.js").read_text(encoding="utf-8")
        for method in METHODS:
            assert f'["{method}", {{ name: "{METHOD_NAMES[method]}"' in script


class TestColours:
    """WCAG 2.2, contrast ratio of text: at least 4.5 to 1."""

    @staticmethod
    def schemes() -> Iterator[dict[str, str]]:
        light: dict[str, str] = {}
        dark: dict[str, str] = {}
        for name in ("document.css", "overview.css"):
            style = (FOLDER / name).read_text(encoding="utf-8")
            blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
            for colours, block in zip((light, dark), blocks, strict=True):
                colours |= dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
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
            for paper in (
                "page",
                "panel",
                *(f"{ramp}{step}" for ramp in "wa" for step in range(1, 9)),
            ):
                assert self.contrast(colours["ink"], colours[paper]) >= 4.5, paper
            for ink, paper in product(("quiet", "wrong", "against"), ("page", "panel")):
                assert self.contrast(colours[ink], colours[paper]) >= 4.5, ink
            assert self.contrast(colours["wrong"], colours["w2"]) >= 4.5

    def test_each_step_stands_out_more_than_the_one_before(self) -> None:
        for colours in self.schemes():
            for hue in "wa":
                ramp = [
                    self.contrast(colours["page"], colours[f"{hue}{step}"]) for step in range(1, 9)
                ]
                assert ramp == sorted(ramp)

    def test_lines_and_bars_stand_out(self) -> None:
        for colours in self.schemes():
            for line in ("bar", "against", *(f"m{i}" for i in range(5))):
                assert self.contrast(colours[line], colours["page"]) >= 3, line


class TestInBrowser:
    """The page's script, in headless Chromium."""

    @staticmethod
    def document(page: str, tmp_path: Path, place: str = "") -> str:
        """Return the page as it is once its script has run, opened at a place.

        The addresses that were asked for stand in `requests.json`.
        """
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
            f"--log-net-log={tmp_path / 'requests.json'}",
            "--virtual-time-budget=20000",  # the data is unpacked after the page has loaded
        ]
        shown = subprocess.run(
            [*command, path.as_uri() + place], capture_output=True, check=True, timeout=120
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
        static = re.search(r'<article id="document-1">(.*?)</article>', page, re.DOTALL)
        drawn = self.document(page, tmp_path)
        live = re.search(r"<article>(.*?)</article>", drawn, re.DOTALL)
        assert static is not None
        assert live is not None
        before, after = Structure(static[1]), Structure(live[1])
        coloured = [(names, text) for names, text in after.words if names != "w w0"]
        assert coloured == before.words
        assert "".join("".join(after.texts).split()) == "".join("".join(before.texts).split())
        assert 'class="block paragraph"' in static[1]
        assert live[1].count("paragraph") == static[1].count("paragraph") == 1

    def test_a_sentence_of_several_paragraphs_keeps_its_words_together(
        self, tmp_path: Path
    ) -> None:
        drawn = self.document(render_html([make_flat()]), tmp_path)
        live = re.search(r'<div class="text">(.*?)</article>', drawn, re.DOTALL)
        assert live is not None
        assert live[1].count('class="block') == 1
        assert live[1].count("<rect") == 1
        paragraphs = re.findall(r'<p dir="auto">(.*?)</p>', live[1], re.DOTALL)
        assert ["".join(Structure(one).texts) for one in paragraphs] == [
            "One. Two\n three",
            "Four (<b>five",
            "[x] ) six",
        ]

    def test_only_the_rows_in_view_are_in_the_page(self, tmp_path: Path) -> None:
        page = render_html([make_explanation(id=f"doc {i}") for i in range(2000)])
        drawn = self.document(page, tmp_path)
        assert 'class="live"' in drawn
        assert 5 <= drawn.count('role="option"') <= 40
        assert "2,000 documents" in drawn

    def test_a_page_opens_at_the_place_in_its_address(self, tmp_path: Path) -> None:
        page = render_html(
            [make_scored(id=f"doc {i}") for i in range(20)], faithfulness=make_faithfulness()
        )
        drawn = self.document(page, tmp_path, "#document-7")
        assert "<h2><bdi>doc 6</bdi></h2>" in drawn
        assert '<span id="position" role="status">7 of 20</span>' in drawn
        drawn = self.document(page, tmp_path, "#whole-set")
        for heading in (
            "In short",
            "Words that carry each class",
            "Where it looks",
            "Is it right as often as it is sure?",
            "How far the highlights can be trusted",
        ):
            assert f"<h2>{heading}</h2>" in drawn
        assert drawn.count('role="img"') == 6

    @pytest.mark.parametrize(
        ("num_wrong", "expected"),
        [(0, "too modest"), (1, "as sure as it is right"), (2, "too sure of itself")],
    )
    def test_calibration_is_said_in_words(
        self, tmp_path: Path, num_wrong: int, expected: str
    ) -> None:
        documents = [make_explanation(true="neg" if i < num_wrong else "pos") for i in range(10)]
        drawn = self.document(render_html(documents), tmp_path, "#whole-set")
        assert f"here it is on average {expected}. Expected calibration error: <b>" in drawn

    def test_a_page_opens_with_the_class_to_explain(self, tmp_path: Path) -> None:
        page = render_html([make_scored()], label="neg")
        assert unpack(page)["documents"][0]["predicted"] == 1
        # Attention, which comes first, knows no classes.
        drawn = self.document(add_script(page, "press('m');"), tmp_path)
        assert "<span>for <bdi>neg</bdi></span>" in drawn

    def test_a_sentence_of_many_words_is_drawn(self, tmp_path: Path) -> None:
        number = 60_000
        figures = np.linspace(-1, 1, 2 * number).reshape(number, 2)
        explanation = make_empty(
            text="ab " * number,
            word_spans=[[at, at + 2] for at in range(0, 3 * number, 3)],
            sentence_spans=[[0, 3 * number]],
            words_per_sentence=[number],
            word_attention=[1 / number] * number,
            sentence_attention=[1.0],
            unknown=[False] * number,
            word_scores={"gradient": figures},
            sentence_scores={"gradient": figures.sum(axis=0, keepdims=True)},
        )
        drawn = self.document(render_html([explanation]), tmp_path)
        assert 'class="live"' in drawn
        assert drawn.count('<span class="w w8">ab</span>') == number
        assert 'id="static"' not in drawn

    def test_a_document_that_cannot_be_drawn_leaves_the_others(self, tmp_path: Path) -> None:
        page = render_html([make_explanation(id=f"doc {i}") for i in range(3)])
        data = unpack(page)
        figures = data["documents"][0]["figures"]
        data["documents"][0]["figures"] = figures[: len(figures) // 2]
        packed = base64.b64encode(zlib.compress(json.dumps(data).encode())).decode()
        page = page.replace(Structure(page).data.strip(), packed)
        drawn = self.document(page, tmp_path)
        assert 'class="live"' in drawn
        assert '<article><p class="note">This document cannot be drawn' in drawn
        drawn = self.document(page, tmp_path, "#document-2")
        assert "<h2><bdi>doc 1</bdi></h2>" in drawn
        assert "cannot be drawn" not in drawn.split("<script", 1)[0]

    def test_requests_are_seen(self, tmp_path: Path) -> None:
        self.document("<img src=https://example.invalid/a.png>", tmp_path)
        assert "example.invalid" in (tmp_path / "requests.json").read_text(encoding="utf-8")

    def test_no_payload_is_executed_or_loaded(self, tmp_path: Path) -> None:
        names = [f"{payload}{i}" for i, payload in enumerate(PAYLOADS)]
        for first in range(0, len(names), 60):
            labels = tuple(dict.fromkeys(hostile(name).text for name in names[first : first + 60]))
            documents = [make_hostile(label, labels) for label in labels]
            others = [make_hostile(label, (*labels[1:], f"{label}4")) for label in labels]
            page = render_html(
                documents,
                title=labels[0],
                faithfulness=make_faithfulness(labels[0]),
                compare=others,
                label=labels[-1],
            )
            page = add_script(page, "for (const key of 'mc') press(key);")
            drawn = self.document(page, tmp_path, "#whole-set")
            assert 'class="live"' in drawn
            assert drawn.count("<article><div") == 2
            assert '<span class="w a8 unknown">' in drawn
            assert "<h2>Words that carry each class</h2>" in drawn
            assert "<h2>How far the highlights can be trusted</h2>" in drawn
            assert "data-executed" not in drawn.split("<body", 1)[0]
            requests = (tmp_path / "requests.json").read_text(encoding="utf-8")
            assert "report.html" in requests
            assert "example.invalid" not in requests


def add_script(page: str, script: str) -> str:
    """Let the page's script do more at the documents in the end; `press(key)` presses a key."""
    begin = '<script type="module">'
    before, _, rest = page.partition(begin)
    own, _, after = rest.partition("</script>")
    script = f"""{own}
      const press = key => document.body.dispatchEvent(
        new KeyboardEvent("keydown", {{ key, bubbles: true }}));
      $("tab-documents").click();
      {script}"""
    old, new = (
        base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        for source in (own, script)
    )
    assert before.count(old) == 1
    return f"{before.replace(old, new)}{begin}{script}</script>{after}"


def make_hostile(text: str, labels: tuple[str, ...]) -> Explanation:
    """A document of one word, five times, whose classes and methods have hostile names."""
    predicted = text if text in labels else labels[-1]
    probabilities = [float(label == predicted) for label in labels]
    scores = [[1.0 if label == predicted else -1.0 for label in labels]]
    size = len(text)
    return make_explanation(
        id=text,
        text=text * 5,
        labels=labels,
        probabilities=probabilities,
        word_spans=[[at * size, (at + 1) * size] for at in range(5)],
        sentence_spans=[[0, 5 * size]],
        words_per_sentence=[5],
        word_attention=[0.2] * 5,
        sentence_attention=[1.0],
        unknown=[True] * 5,
        true=text,
        model=ModelReference(sha256=text, version=text),
        word_scores=dict.fromkeys(METHOD_PAYLOADS, scores * 5),
        sentence_scores=dict.fromkeys(METHOD_PAYLOADS, scores),
    )


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
    yield len(explanation.labels)
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


def decode_scores(encoded: tuple[float, str]) -> list[float]:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    largest, text = encoded
    pairs = [map(digits.index, text[i : i + 2]) for i in range(0, len(text), 2)]
    return [(64 * high + low - 2047) / 2047 * largest for high, low in pairs]


def steps(figures: list[float], top: float) -> list[int]:
    """The steps as the script counts them."""
    return [
        int(np.sign(figure) * np.floor(8 * abs(figure) / (top or 1) + 0.5)) for figure in figures
    ]


def make_explanation_of(explanation: Explanation, scores: dict[str, Any]) -> Explanation:
    """Give the one word and the one sentence of a document scores."""
    [sentence] = explanation.sentences
    [word] = sentence.words
    rows = {method: tuple(figures[0].tolist()) for method, figures in scores.items()}
    word = dataclasses.replace(word, scores=rows)
    sentence = dataclasses.replace(sentence, words=(word,), scores=rows)
    return dataclasses.replace(explanation, sentences=(sentence,))


def test_a_page_has_the_scores_of_all_labels_of_a_document() -> None:
    labels = tuple("abcdef")
    of_each = [[float(k) for k in range(6)]]
    explanation = make_explanation(
        labels=labels,
        probabilities=[0.1, 0.2, 0.3, 0.9, 0.8, 0.7],
        true=None,
        predicted_labels=("a", "d"),
        true_labels=("b", "d"),
        word_scores={"occlusion": of_each * 6},
        sentence_scores={"occlusion": of_each * 2},
    )
    record = encode_document(explanation)
    assert record["given"] == [[3, 900_000], [0, 100_000]]
    assert record["truths"] == [1, 3]
    assert record["scored"] == [3, 0, 1, 4, 5]
    page = render_html([explanation])
    assert "accuracy <b>0.000</b>" in page
    assert "Read as <b" in re.sub(r"<bdi>|</bdi>", "", page)
    encoded = encode_document(
        dataclasses.replace(explanation, predicted_labels=(), true_labels=None)
    )
    assert encoded["given"] == []
    assert "truths" not in encoded
