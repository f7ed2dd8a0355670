from __future__ import annotations

import gzip
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from han.datamodule import bundled_corpus
from han.explanation import Explanation
from han.overview import ClassWord, Example, Overview, OverviewBuilder, building, summarize
from han.overview.words import LEAST_PART, PRIOR_DOCUMENTS
from han.predictor import Predictor
from tests.test_explanation import MODEL, explanations, make_empty, make_explanation
from tests.tiny import make_bundle

LABELS = ("neg", "pos")
Marked = list[tuple[str, float]]


def make_document(
    sentences: Sequence[Marked],
    weights: Sequence[float] | None = None,
    scores: dict[str, list[list[float]]] | None = None,
    **changes: object,
) -> Explanation:
    """Return a document of sentences of words, each with its attention, one space between all."""
    spans: list[tuple[int, int]] = []
    of_sentences: list[tuple[int, int]] = []
    text = ""
    for sentence in sentences:
        start = len(text)
        for word, _ in sentence:
            spans.append((len(text), len(text) + len(word)))
            text += word + " "
        of_sentences.append((start, len(text) - 1))
    count = len(sentences)
    return make_explanation(
        text=text,
        word_spans=spans,
        sentence_spans=of_sentences,
        words_per_sentence=[len(sentence) for sentence in sentences],
        word_attention=[attention for sentence in sentences for _, attention in sentence],
        sentence_attention=weights or [1 / count] * count,
        unknown=[word == "Wörd" for sentence in sentences for word, _ in sentence],
        word_scores=scores,
        sentence_scores=scores and {name: [[0.0, 0.0]] * count for name in scores},
        **changes,
    )


def make_set() -> list[Explanation]:
    """Three documents read as "pos", one as "neg"."""
    return [
        make_document([[("Good", 0.75), ("film", 0.25)]], id="a"),
        make_document([[("a", 0.0), ("good", 1.0)], [("film", 0.5), (".", 0.5)]], id="b"),
        make_document([[("film", 0.5), ("Wörd", 0.5)]], id="c"),
        make_document([[("bad", 0.5), ("film", 0.5)]], id="d", probabilities=[0.8, 0.2]),
    ]


def words_of(overview: Overview, label: str = "pos") -> dict[str, ClassWord]:
    [found] = [one for one in overview.classes if one.label == label]
    return {word.word: word for word in found.words}


def figures_by_hand(documents: Sequence[Explanation]) -> dict[tuple[str, str], list[Any]]:
    """Return occurrences, documents, share, lift and the scores of each word of each class."""
    found: defaultdict[tuple[str, str], list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
    for number, document in enumerate(documents):
        signed = [document.scores(method) for method in document.methods[1:]]
        columns = (document.share, document.lift, *signed)
        for word, *figures in zip(document.words, *columns, strict=True):
            key = document.predicted, document.text[word.start : word.end].lower()
            found[key].append((number, tuple(figures)))
    return {
        key: [len(rows), len({n for n, _ in rows}), *np.mean([f for _, f in rows], axis=0)]
        for key, rows in found.items()
    }


def weights_by_hand(documents: Sequence[Explanation], method: str) -> dict[tuple[str, str], float]:
    """Return what the words of each class are ordered by."""
    figures = figures_by_hand(documents)
    methods = next((document.methods for document in documents if not document.empty), ())
    everywhere: defaultdict[str, float] = defaultdict(float)
    for (_, name), (count, _, share, *_) in figures.items():
        everywhere[name] += count * share
    weights = {}
    for (label, name), (count, num_documents, share, lift, *scores) in figures.items():
        trusted = num_documents / (num_documents + PRIOR_DOCUMENTS)
        if method != "attention":
            weights[label, name] = scores[methods.index(method) - 1] * trusted
            continue
        of_class = sum(document.predicted == label for document in documents)
        here = count * share / of_class
        there = max(everywhere[name] - count * share, 0) / max(len(documents) - of_class, 1)
        part = here / (here + there) if here + there else 0.0
        weights[label, name] = (lift - 1) * trusted * part
    return weights


def assert_as_by_hand(
    overview: Overview, documents: Sequence[Explanation], min_count: int = 1
) -> None:
    """Compare every word of an overview that left none out for want of room."""
    figures, weights = figures_by_hand(documents), weights_by_hand(documents, overview.method)
    for one in overview.classes:
        assert one.documents == sum(document.predicted == one.label for document in documents)
        expected = {
            name: weights[label, name]
            for (label, name), (count, *_) in figures.items()
            if label == one.label and count >= min_count
        }
        listed = [word.word for word in one.words]
        least = max(0.0, LEAST_PART * max(expected.values(), default=0.0))
        surely = {name for name, weight in expected.items() if weight > least + 1e-5}
        assert surely <= set(listed) <= {name for name, w in expected.items() if w > least - 1e-5}
        assert [word.weight for word in one.words] == sorted(
            (word.weight for word in one.words), reverse=True
        )
        for word in one.words:
            count, num_documents, *means = figures[one.label, word.word]
            assert (word.occurrences, word.documents) == (count, num_documents)
            got = [word.share, word.lift, *word.scores.values()]
            assert got == pytest.approx(means, rel=1e-6, abs=1e-12)
            assert word.weight == pytest.approx(expected[word.word], rel=1e-5, abs=2e-6)


class TestWords:
    def test_figures_are_means_over_the_occurrences_in_the_class(self) -> None:
        good = words_of(summarize(make_set(), min_count=1))["good"]
        assert (good.occurrences, good.documents) == (2, 2)
        # Shares 0.75 and 0.5 * 1; even ones are 1 / 2 and 1 / (2 * 2).
        assert good.share == 0.625
        assert good.lift == 1.75
        assert good.scores == {}

    def test_weight_by_attention(self) -> None:
        overview = summarize(make_set(), min_count=1)
        assert overview.method == "attention"
        # "good" is in no other class, and 10 documents more count as without effect.
        assert words_of(overview)["good"].weight == pytest.approx(0.75 * 2 / 12)

    def test_weight_by_attention_counts_the_part_that_lies_in_the_class(self) -> None:
        documents = [
            make_document([[("x", 0.75), ("y", 0.25)]]),
            make_document([[("x", 0.75), ("y", 0.25)]]),
            make_document([[("x", 0.25), ("y", 0.75)]], probabilities=[0.8, 0.2]),
        ]
        overview = summarize(documents, min_count=1)
        assert words_of(overview)["x"].weight == pytest.approx((1.5 - 1) * 0.75 * 2 / 12)
        assert words_of(overview, "neg")["y"].weight == pytest.approx(0.5 * 0.75 / 11)

    def test_what_has_no_more_than_its_even_share_carries_nothing(self) -> None:
        documents = [
            make_document([[(word, 1 / 3) for word in "abc"], [("d", 1.0)]], id=str(i))
            for i in range(7)
        ]
        assert all(not one.words for one in summarize(documents).classes)

    def test_weight_by_a_signed_method_is_the_mean_score_for_the_class(self) -> None:
        scores = {"attention_gradient": [[-0.5, 0.5], [0.25, -0.25]]}
        documents = [
            make_document([[("good", 0.5), ("bad", 0.5)]], scores=scores),
            make_document([[("Good", 0.5), ("bad", 0.5)]], scores=scores),
            make_document([[("good", 0.5), ("bad", 0.5)]], scores=scores, probabilities=[1, 0]),
        ]
        overview = summarize(documents, min_count=1)
        assert overview.method == "attention_gradient"
        assert list(words_of(overview)) == ["good"]
        assert words_of(overview)["good"].scores == {"attention_gradient": 0.5}
        assert words_of(overview)["good"].weight == pytest.approx(0.5 * 2 / 12)
        assert list(words_of(overview, "neg")) == ["bad"]
        assert summarize(documents, min_count=1, method="attention").method == "attention"

    def test_rare_words_are_left_out(self) -> None:
        assert set(words_of(summarize(make_set(), min_count=2))) == {"good"}
        assert not any(one.words for one in summarize(make_set()).classes)

    def test_only_the_heaviest_words_are_kept(self) -> None:
        documents = [make_document([[("x", 0.4), ("y", 0.5), ("z", 0.1)]])]
        assert list(words_of(summarize(documents, min_count=1))) == ["y", "x"]
        assert list(words_of(summarize(documents, min_count=1, words=1))) == ["y"]

    def test_a_word_that_the_vocabulary_lacks_is_marked(self) -> None:
        document = make_document([[("Wörd", 0.75), ("film", 0.25), ("it", 0.0)]])
        assert words_of(summarize([document], min_count=1))["wörd"].unknown
        assert not words_of(summarize(make_set(), min_count=1))["good"].unknown
        written_twice = make_document([[("Wörd", 0.4), ("wörd", 0.4), ("it", 0.2)]])
        assert not words_of(summarize([written_twice], min_count=1))["wörd"].unknown

    def test_classes_are_in_the_model_s_order_also_those_that_no_document_has(self) -> None:
        overview = summarize(make_set()[:3])
        assert [(one.label, one.documents) for one in overview.classes] == [("neg", 0), ("pos", 3)]

    def test_documents_without_words_are_counted(self) -> None:
        overview = summarize([make_empty(), make_empty(probabilities=[0.6, 0.4])])
        assert [(one.documents, one.words) for one in overview.classes] == [(1, ()), (1, ())]
        assert (overview.documents, overview.positions) == (2, None)

    def test_nothing_gives_an_empty_overview(self) -> None:
        assert summarize([]) == Overview(0, (), None, None)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"words": 0}, "`words` must be at least 1, got 0"),
            ({"examples": -1}, "`examples` must be at least 0"),
            ({"min_count": 0}, "`min_count` must be at least 1"),
            ({"method": "magic"}, "no method 'magic'; choose among attention, "),
        ],
    )
    def test_bad_arguments_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            summarize([], **options)

    def test_a_method_that_the_explanations_lack_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"b: there are no scores of the method 'occlusion'"):
            summarize([make_empty(), make_document([[("x", 1.0)]], id="b")], method="occlusion")

    def test_documents_must_be_explained_alike(self) -> None:
        first = make_document([[("x", 1.0)]], id="a")
        scores = {"occlusion": [[0.0, 0.0]]}
        with pytest.raises(ValueError, match=r"b is explained by .*'occlusion'.*explain all alike"):
            summarize([first, make_document([[("x", 1.0)]], id="b", scores=scores)])
        with pytest.raises(ValueError, match=r"c: the model's labels are \['no', 'yes'\]"):
            summarize([first, make_document([[("x", 1.0)]], id="c", labels=("no", "yes"))])


class TestExamples:
    def test_the_largest_shares_come_first_one_of_each_document(self) -> None:
        documents = [
            make_document([[("x", 0.3), ("X", 0.6), ("y", 0.1)]], id="twice"),
            make_document([[("x", 0.9), ("y", 0.1)]], id="most"),
            make_document([[("x", 0.5), ("y", 0.5)]], id="least"),
        ]
        examples = words_of(summarize(documents, min_count=1, examples=2))["x"].examples
        assert examples == (
            Example("most", "", "x", " y", position=1),
            Example("twice", "x ", "X", " y", position=0),
        )
        assert words_of(summarize(documents, min_count=1, examples=0))["x"].examples == ()

    @pytest.mark.parametrize("block_words", [1, 1000])
    def test_the_position_tells_documents_of_one_id_apart(
        self, monkeypatch: pytest.MonkeyPatch, block_words: int
    ) -> None:
        monkeypatch.setattr(building, "BLOCK_WORDS", block_words)
        one = [make_document([[("y", 1.0)]]), make_document([[("x", 0.9), ("y", 0.1)]])]
        overview = summarize([make_empty(), *one, *one], min_count=1)
        examples = words_of(overview)["x"].examples
        assert [example.position for example in examples] == [2, 4]
        assert len({example.id for example in examples}) == 1

    @pytest.mark.parametrize("block_words", [1, 1000])
    def test_of_equal_ones_the_first_ids_are_kept_in_any_order(
        self, monkeypatch: pytest.MonkeyPatch, block_words: int
    ) -> None:
        monkeypatch.setattr(building, "BLOCK_WORDS", block_words)
        documents = [
            make_document([[("x", 0.5), ("X", 0.5)], [(".", 1.0)]], [0.9, 0.1], id=id)
            for id in "dbac"
        ]
        examples = words_of(summarize(documents, min_count=1, examples=2))["x"].examples
        assert [(example.id, example.word) for example in examples] == [("a", "x"), ("b", "x")]

    def test_by_a_signed_method_the_largest_scores_come_first(self) -> None:
        def document(id: str, share: float, score: float) -> Explanation:
            scores = {"occlusion": [[0.0, score], [0.0, 0.0]]}
            return make_document([[("x", share), ("y", 1 - share)]], id=id, scores=scores)

        documents = [document("a", 0.9, 0.1), document("b", 0.1, 0.9), document("c", 0.5, -0.5)]
        examples = words_of(summarize(documents, min_count=1, examples=2))["x"].examples
        assert [example.id for example in examples] == ["b", "a"]

    @pytest.mark.parametrize("method", ["attention", "attention_gradient"])
    @pytest.mark.parametrize("block_words", [1, 700, 10**6])
    def test_of_many_documents_as_by_hand(
        self, monkeypatch: pytest.MonkeyPatch, block_words: int, method: str
    ) -> None:
        monkeypatch.setattr(building, "BLOCK_WORDS", block_words)
        documents = real_explanations(60)
        found: defaultdict[tuple[str, str], list[tuple[float, str, int]]] = defaultdict(list)
        for document in documents:
            best: dict[str, tuple[float, str, int]] = {}
            for word, figure in zip(document.words, document.scores(method), strict=True):
                name = document.text[word.start : word.end].lower()
                this = (-figure, document.id, word.start)
                best[name] = min(this, best.get(name, this))
            for name, this in best.items():
                found[document.predicted, name].append(this)
        overview = summarize(documents, words=300, min_count=1, method=method)
        texts = {document.id: document.text for document in documents}
        compared = 0
        for one in overview.classes:
            for word in one.words:
                expected = sorted(found[one.label, word.word])[:3]
                assert [example.id for example in word.examples] == [id for _, id, _ in expected]
                for example, (_, id, start) in zip(word.examples, expected, strict=True):
                    assert texts[id].startswith(example.word, start)
                    compared += 1
        assert compared > 150

    def example(self, text: str, word: str) -> Example:
        """Return the example of `word` in a document of one sentence, the whole text."""
        spans = [[found, found + len(word)] for found in [text.index(word)]]
        document = make_empty(
            text=text,
            word_spans=[*spans, [len(text) - 1, len(text)]],
            sentence_spans=[[0, len(text)]],
            words_per_sentence=[2],
            word_attention=[1.0, 0.0],
            sentence_attention=[1.0],
            unknown=[False, False],
        )
        [example] = words_of(summarize([document], min_count=1))[word.lower()].examples
        return example

    def test_context_is_on_one_line_and_keeps_the_spaces_beside_the_word(self) -> None:
        example = self.example("It\n was  n't\tGREAT\u2028 at all.", "GREAT")
        assert example == Example("reviews.csv:2", "It was n't ", "GREAT", " at all.")
        assert self.example("was(n't)x", "n't") == Example("reviews.csv:2", "was(", "n't", ")x")

    def test_context_leaves_line_breaks_of_html_out(self) -> None:
        example = self.example("It was. <br /><BR>\n GREAT<br>at all.", "GREAT")
        assert example == Example("reviews.csv:2", "It was. ", "GREAT", " at all.")

    def test_control_characters_are_left_to_the_renderers(self) -> None:
        assert self.example("a\x00b \x1b[31m <b> end", "<b>").before == "a\x00b \x1b[31m "

    def test_context_is_cut_to_some_words_with_an_ellipsis(self) -> None:
        text = " ".join(f"w{i}" for i in range(30))
        example = self.example(text, "w15")
        assert example.before == "… w8 w9 w10 w11 w12 w13 w14 "
        assert example.after == " w16 w17 w18 w19 w20 w21 w22 …"
        assert self.example(" ".join("abc"), "b").after == " c"

    def test_context_without_spaces_is_cut_too(self) -> None:
        example = self.example("山" * 200 + "川" + "田" * 5000, "川")
        assert example.before == "… " + "山" * 60
        assert example.after == "田" * 60 + " …"

    def test_context_that_white_space_fills_says_that_there_is_more(self) -> None:
        example = self.example("far" + " " * 500 + "near" + "\n" * 500 + "away", "near")
        assert (example.before, example.after) == ("…  ", "  …")

    def test_context_ends_with_the_sentence(self) -> None:
        document = make_document([[("a", 1.0)], [("x", 0.9), ("b", 0.1)], [("c", 1.0)]])
        examples = words_of(summarize([document], min_count=1))["x"].examples
        assert examples == (Example("reviews.csv:2", "", "x", " b"),)


class TestSums:
    @settings(max_examples=60)
    @given(st.lists(explanations(), max_size=5), st.randoms(use_true_random=False))
    def test_any_documents_in_any_order_and_cut_anywhere(
        self, documents: list[Explanation], random: Random
    ) -> None:
        labels = ("x", "y\x00\u202e")
        documents = [
            Explanation(
                id=one.id,
                text=one.text,
                labels=labels,
                probabilities=(1.0, 0.0),
                predicted=random.choice(labels),
                sentences=one.sentences,
                model=MODEL,
                true=one.true,
                truncated=one.truncated,
            )
            for one in documents
        ]
        overview = summarize(documents, words=1000, min_count=1)
        assert_as_by_hand(overview, documents)
        shuffled = random.sample(documents, len(documents))
        again = summarize(shuffled, words=1000, min_count=1)
        if documents:
            positions = re.compile(r'"position": \d+')
            first, second = (
                json.loads(positions.sub('"position": 0', json.dumps(one.to_dict())))
                for one in (overview, again)
            )
            assert close(second, first)
        json.dumps(overview.to_dict(), allow_nan=False).encode()
        for one in overview.classes:
            for word in one.words:
                for example in word.examples:
                    written = [d.text for d in documents if d.id == example.id]
                    assert any(example.word in text for text in written)
                    assert example.word.lower() == word.word

    def test_documents_added_up_one_by_one_give_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        documents = real_explanations(80)
        together = summarize(documents, min_count=2)
        monkeypatch.setattr(building, "BLOCK_WORDS", 1)
        assert close(summarize(documents, min_count=2).to_dict(), together.to_dict())

    def test_an_overview_can_be_made_between_documents(self) -> None:
        documents = real_explanations(40)
        builder = OverviewBuilder(min_count=2)
        for number, document in enumerate(documents):
            builder.add(document)
            if number == 9:
                assert close(
                    builder.build().to_dict(), summarize(documents[:10], min_count=2).to_dict()
                )
        assert close(builder.build().to_dict(), summarize(documents, min_count=2).to_dict())

    @pytest.mark.parametrize("methods", [("attention",), ("attention", "attention_gradient")])
    def test_real_documents_as_by_hand(self, methods: tuple[str, ...]) -> None:
        documents = real_explanations(60, methods)
        overview = summarize(documents, words=10_000, min_count=3)
        assert overview.method == methods[-1]
        assert sum(len(one.words) for one in overview.classes) > 10
        assert_as_by_hand(overview, documents, min_count=3)

    def test_record_holds_the_types_of_json_only(self) -> None:
        record = summarize(make_set(), min_count=1).to_dict()
        assert json.loads(json.dumps(record)) == record
        assert record["schema"] == "han.overview/1"
        assert record["classes"][1]["words"][0]["examples"][0]["id"] == "a"


@cache
def real_explanations(
    count: int, methods: tuple[str, ...] = ("attention", "attention_gradient")
) -> list[Explanation]:
    """Return what a small random network makes of some of the bundled abstracts."""
    with gzip.open(bundled_corpus(), "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(count), strict=False)]
    bundle = make_bundle(members=1)  # the mean of two finds nearly all of them good
    return Predictor(bundle).explain([*texts, ""], methods)


def close(left: Any, right: Any) -> bool:  # noqa: ANN401  # any JSON
    """Compare records, numbers up to the order of additions."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(close(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(close, left, right))
    if isinstance(left, float):
        return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-12)
    return bool(left == right)


class TestPositions:
    def test_a_document_of_one_sentence_is_even(self) -> None:
        positions = summarize([make_document([[("x", 1.0)]])]).positions
        assert positions is not None
        assert positions.sentences == positions.words == (1.0,) * 10

    def test_two_sentences_take_up_a_half_each(self) -> None:
        document = make_document([[("x", 1.0)], [("y", 1.0)]], [0.75, 0.25])
        positions = summarize([document]).positions
        assert positions is not None
        assert positions.sentences == (1.5,) * 5 + (0.5,) * 5

    def test_sentences_without_words_have_a_place_and_no_words(self) -> None:
        document = make_document([[("x", 1.0)], [("y", 1.0)]], [0.75, 0.25])
        first, second = document.sentences
        positions = summarize(
            [replace(document, sentences=(replace(first, words=()), second))]
        ).positions
        assert positions is not None
        assert positions.sentences == (1.5,) * 5 + (0.5,) * 5
        assert positions.words == (1.0,) * 10

    def test_three_words_share_the_tenths_between_them(self) -> None:
        document = make_document([[("x", 0.5), ("y", 0.3), ("z", 0.2)]])
        positions = summarize([document]).positions
        assert positions is not None
        # The first third ends a third into the fourth tenth: (1.5 + 2 * 0.9) / 3 = 1.1.
        expected = [1.5, 1.5, 1.5, 1.1, 0.9, 0.9, 0.8, 0.6, 0.6, 0.6]
        assert positions.words == pytest.approx(expected)

    def test_twenty_sentences_give_two_to_a_tenth(self) -> None:
        weights = np.random.default_rng(0).dirichlet(np.ones(20))
        document = make_document([[("x", 1.0)]] * 20, weights.tolist())
        positions = summarize([document]).positions
        assert positions is not None
        expected = 20 * weights.reshape(10, 2).mean(1)
        assert positions.sentences == pytest.approx(expected, rel=1e-6)

    def test_documents_count_alike_and_the_mean_is_one(self) -> None:
        documents = real_explanations(30)
        positions = summarize(documents).positions
        assert positions is not None
        each = [summarize([one]).positions for one in documents if not one.empty]
        mean = np.mean([one.sentences for one in each if one is not None], axis=0)
        assert positions.sentences == pytest.approx(mean, rel=1e-6)
        assert sum(positions.sentences) == pytest.approx(10, rel=1e-5)
        assert sum(positions.words) == pytest.approx(10, rel=1e-5)


class TestCalibration:
    def predictions(self, count: int, classes: int) -> list[Explanation]:
        generator = np.random.default_rng(classes)
        labels = tuple(map(str, range(classes)))
        made = []
        for row in generator.dirichlet(np.full(classes, 0.5), count):
            true = str(generator.choice(classes, p=0.6 * row + 0.4 / classes))
            made.append(make_empty(labels=labels, probabilities=row, true=true))
        return made

    @pytest.mark.parametrize("classes", [2, 5])
    def test_expected_error_is_that_of_torchmetrics(self, classes: int) -> None:
        documents = self.predictions(400, classes)
        calibration = summarize(documents).calibration
        assert calibration is not None
        expected = multiclass_calibration_error(
            torch.tensor([document.probabilities for document in documents]),
            torch.tensor([int(document.true or 0) for document in documents]),
            num_classes=classes,
            n_bins=10,
            norm="l1",
        )
        assert calibration.expected_error == pytest.approx(float(expected), rel=1e-4)
        assert calibration.documents == 400

    def test_bins_are_those_of_scikit_learn(self) -> None:
        documents = self.predictions(400, 5)
        calibration = summarize(documents).calibration
        assert calibration is not None
        accuracy, confidence = calibration_curve(
            [document.true == document.predicted for document in documents],
            [document.probability for document in documents],
            n_bins=10,
        )
        assert [one.accuracy for one in calibration.bins] == pytest.approx(accuracy)
        assert [one.confidence for one in calibration.bins] == pytest.approx(confidence, rel=1e-6)
        assert sum(one.documents for one in calibration.bins) == 400
        for one in calibration.bins:
            assert one.low < one.confidence <= one.high

    @pytest.mark.parametrize(
        ("probability", "low", "high"),
        [(0.55, 0.5, 0.6), (0.7, 0.6, 0.7), (0.7000001, 0.7, 0.8), (1.0, 0.9, 1.0)],
    )
    def test_a_bin_holds_its_upper_end(self, probability: float, low: float, high: float) -> None:
        document = make_empty(probabilities=[1 - probability, probability])
        calibration = summarize([document]).calibration
        assert calibration is not None
        [only] = calibration.bins
        assert (only.low, only.high, only.documents) == (low, high, 1)

    def test_a_true_class_that_the_model_does_not_know_is_left_out(self) -> None:
        documents = [make_empty(true="pos"), make_empty(true="mixed")]
        calibration = summarize(documents).calibration
        assert calibration is not None
        assert calibration.documents == 1
        assert calibration.bins[0].accuracy == 1

    def test_documents_without_a_true_class_are_left_out(self) -> None:
        assert summarize([make_empty(true=None)]).calibration is None
        calibration = summarize([make_empty(true=None), make_empty()]).calibration
        assert calibration is not None
        assert calibration.documents == 1


def test_a_document_of_several_labels_counts_for_each() -> None:
    several = {"labels": LABELS, "probabilities": [0.9, 0.8], "true": None}
    scores = {"occlusion": [[0.5, -0.5], *[[0.0, 0.5]] * 5]}
    both = make_explanation(
        **several,
        predicted_labels=LABELS,
        word_scores=scores,
        sentence_scores={"occlusion": [[0.1, 0.1]] * 2},
    )
    none = replace(both, predicted_labels=())
    overview = summarize([both, none], min_count=1)
    assert overview.documents == 2
    assert [one.documents for one in overview.classes] == [1, 1]
    words = [[word.word for word in one.words] for one in overview.classes]
    assert words[0] == ["good"]
    assert "good" not in words[1]
    assert overview.calibration is None
