from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from han.explanation import (
    METHODS,
    SCHEMA_FILE,
    Explanation,
    ModelReference,
    Sentence,
    Word,
)

MODEL = ModelReference(sha256="3f9a1c" + "0" * 58, version="0.1.0")
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def make_explanation(**changes: object) -> Explanation:
    """Two sentences, "Good film." (3/4 of the weight) and "Loved it!" (1/4)."""
    arguments: dict[str, Any] = {
        "id": "reviews.csv:2",
        "text": "Good film. Loved it!",
        "labels": ("neg", "pos"),
        "probabilities": [0.1, 0.9],
        "word_spans": [[0, 4], [5, 9], [9, 10], [11, 16], [17, 19], [19, 20]],
        "sentence_spans": [[0, 10], [11, 20]],
        "words_per_sentence": [3, 3],
        "word_attention": [0.5, 0.25, 0.25, 1.0, 0.0, 0.0],
        "sentence_attention": [0.75, 0.25],
        "unknown": [False, False, False, True, False, False],
        "true": "pos",
        "model": MODEL,
    }
    return Explanation.from_attention(**arguments | changes)


def make_empty(text: str = " \n", **changes: object) -> Explanation:
    nothing: dict[str, Any] = {
        "text": text,
        "word_spans": np.zeros((0, 2), np.int32),
        "sentence_spans": np.zeros((0, 2), np.int32),
        "words_per_sentence": [],
        "word_attention": [],
        "sentence_attention": [],
        "unknown": [],
    }
    return make_explanation(**nothing | changes)


def make_flat() -> Explanation:
    """One sentence of three paragraphs, of which the last word was cut; not all text is words."""
    text = "One. Two\n three<br />\n<BR> \n\nFour (<b>five<br/>[x] ) six"
    words = [match.span() for match in re.finditer(r"One|\.|Two|three|Four|five|x(?=])", text)]
    return make_explanation(
        text=text,
        word_spans=words,
        sentence_spans=[[0, len(text)]],
        words_per_sentence=[7],
        word_attention=[0.3, 0, 0.1, 0.1, 0.2, 0.1, 0.2],
        sentence_attention=[1.0],
        unknown=[False] * 7,
        cut=[(len(text) - 3, len(text))],
    )


def make_scored(**changes: object) -> Explanation:
    """As `make_explanation`, with occlusion: by hand, in neg and pos."""
    scored: dict[str, Any] = {
        "word_scores": {
            "occlusion": [[-0.8, 0.4], [0.6, -0.6], [0, 0], [0.05, -0.05], [-0.1, 0.1], [0, 0.8]]
        },
        "sentence_scores": {"occlusion": [[-0.2, 0.3], [0.4, -0.1]]},
    }
    return make_explanation(**scored | changes)


@st.composite
def explanations(draw: st.DrawFn, methods: Sequence[str] = ()) -> Explanation:
    """Any text, cut anywhere into sentences and words, with any weights, by some of `methods`."""
    any_text = st.text(st.characters(codec="utf-8"), max_size=60)
    text = draw(any_text)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=24)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    sizes: list[int] = []
    while sum(sizes) < len(spans):
        sizes.append(draw(st.integers(1, len(spans) - sum(sizes))))
    ends = np.cumsum(sizes).tolist()
    sentences = [(spans[end - n][0], spans[end - 1][1]) for end, n in zip(ends, sizes, strict=True)]
    last = sentences[-1][1] if sentences else 0
    weights = st.floats(0, 1, width=32)
    labels = draw(st.lists(any_text, min_size=1, max_size=4, unique=True))
    chosen = [method for method in methods if draw(st.booleans())]
    figures = st.lists(st.floats(-1e6, 1e6), min_size=len(labels), max_size=len(labels))

    def scores(number: int) -> dict[str, Any]:
        rows = st.lists(figures, min_size=number, max_size=number)
        return {name: np.reshape(draw(rows), (number, len(labels))) for name in chosen}

    return Explanation.from_attention(
        id=draw(any_text),
        text=text,
        labels=labels,
        probabilities=draw(st.lists(weights, min_size=len(labels), max_size=len(labels))),
        word_spans=spans,
        sentence_spans=sentences,
        words_per_sentence=sizes,
        word_attention=draw(st.lists(weights, min_size=len(spans), max_size=len(spans))),
        sentence_attention=draw(st.lists(weights, min_size=len(sizes), max_size=len(sizes))),
        unknown=draw(st.lists(st.booleans(), min_size=len(spans), max_size=len(spans))),
        cut=[(last, len(text))] if last < len(text) and draw(st.booleans()) else [],
        true=draw(st.none() | any_text),
        model=MODEL,
        word_scores=scores(len(spans)),
        sentence_scores=scores(len(sizes)),
    )


def make_headed(**changes: object) -> Explanation:
    """As `make_explanation`, of two heads of words and three of sentences, with means as there."""
    heads: dict[str, Any] = {
        "word_heads": [[1, 0], [0, 0.5], [0, 0.5], [1, 1], [0, 0], [0, 0]],
        "sentence_heads": [[1, 0.75, 0.5], [0, 0.25, 0.5]],
    }
    return make_explanation(**heads | changes)


class TestHeads:
    def test_a_record_has_them_where_there_are_several(self) -> None:
        record = make_headed().to_dict()
        VALIDATOR.validate(record)
        assert record["sentences"][1]["heads"] == [0, 0.25, 0.5]
        assert record["sentences"][0]["words"][1]["heads"] == [0, 0.5]
        assert Explanation.from_dict(record) == make_headed()
        for unit in (record := make_explanation().to_dict())["sentences"]:
            assert "heads" not in unit
            assert not any("heads" in word for word in unit["words"])
        VALIDATOR.validate(record)

    def test_one_head_alone_weighs(self) -> None:
        explanation = make_headed()
        assert explanation.of_head() == explanation
        of_words = explanation.of_head(word=1)
        assert of_words.share == (0, 0.375, 0.375, 0.25, 0, 0)
        assert [sentence.weight for sentence in of_words.sentences] == [0.75, 0.25]
        of_both = explanation.of_head(word=0, sentence=2)
        assert of_both.share == (0.5, 0, 0, 0.5, 0, 0)
        assert of_both.words[0].heads == (1, 0)
        assert of_both.predicted == explanation.predicted
        assert of_both.to_text() != explanation.to_text()

    @pytest.mark.parametrize(
        ("heads", "message"),
        [
            ({"word": 2}, "There is no word head 2: there are only 2, from 0."),
            ({"word": -1}, "There is no word head -1: there are only 2, from 0."),
            ({"sentence": 3}, "There is no sentence head 3: there are only 3, from 0."),
        ],
    )
    def test_one_that_is_not_there_is_refused(self, heads: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            make_headed().of_head(**heads)

    def test_a_single_head_has_no_number(self) -> None:
        message = "There is no word head 0: there is only one, whose weights are shown."
        with pytest.raises(ValueError, match=re.escape(message)):
            make_explanation().of_head(word=0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"word_heads": [[1, 0]] * 5}, "a row for each of 6, got shape (5, 2)"),
            ({"sentence_heads": [1, 0]}, "a row for each of 2, got shape (2,)"),
            ({"word_heads": [[1.5, 0]] * 6}, "`heads` of a word must be finite, not negative"),
        ],
    )
    def test_misfits_are_refused(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            make_explanation(**changes)

    def test_a_word_without_them_is_refused(self) -> None:
        record = make_headed().to_dict()
        del record["sentences"][0]["words"][0]["heads"]
        with pytest.raises(ValueError, match="Every word must have the weights of as many `heads`"):
            Explanation.from_dict(record)


class TestFromAttention:
    def test_words_and_sentences_have_their_spans_and_weights(self) -> None:
        first, second = make_explanation().sentences
        assert (first.start, first.end, first.weight) == (0, 10, 0.75)
        assert first.words[0] == Word(0, 4, 0.5, 0.375)
        assert second.words[0] == Word(11, 16, 1.0, 0.25, unknown=True)

    def test_each_span_gives_the_word_as_written(self) -> None:
        explanation = make_explanation()
        written = [explanation.text[word.start : word.end] for word in explanation.words]
        assert written == ["Good", "film", ".", "Loved", "it", "!"]

    def test_the_likeliest_class_is_predicted(self) -> None:
        assert make_explanation().predicted == "pos"
        assert make_explanation(probabilities=[0.6, 0.4]).predicted == "neg"

    def test_float32_arrays_give_short_numbers(self) -> None:
        attention = np.array([0.1, 0.2, 0.7, 0.3, 0.3, 0.4], np.float32)
        explanation = make_explanation(word_attention=attention)
        assert [word.weight for word in explanation.words] == [0.1, 0.2, 0.7, 0.3, 0.3, 0.4]

    def test_a_document_without_words_is_empty(self) -> None:
        empty = make_empty()
        assert empty.empty
        assert empty.steps == ()

    def test_a_document_of_one_word_has_all_the_weight_on_it(self) -> None:
        word = make_empty(
            text="word",
            word_spans=[[0, 4]],
            sentence_spans=[[0, 4]],
            words_per_sentence=[1],
            word_attention=[1.0],
            sentence_attention=[1.0],
            unknown=[False],
        )
        assert (word.share, word.display, word.lift, word.steps) == ((1.0,), (1.0,), (1.0,), (8,))

    def test_lone_surrogates_are_replaced_and_spans_stay(self) -> None:
        explanation = make_explanation(id="\udc80", text="\ud83dood film. Loved it!")
        assert explanation.id == "\ufffd"
        assert explanation.text == "\ufffdood film. Loved it!"

    def test_arrays_that_do_not_fit_each_other_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"6 word spans, 5 word weights"):
            make_explanation(word_attention=[0.5, 0.25, 0.25, 1.0, 0.0])
        with pytest.raises(ValueError, match=r"5 words in 2 sentences"):
            make_explanation(words_per_sentence=[3, 2])

    @given(explanations())
    def test_any_document_can_be_explained(self, explanation: Explanation) -> None:
        assert len(explanation.words) == len(explanation.share) == len(explanation.lift)
        assert all(0 <= step <= 8 for step in explanation.steps)
        assert max(explanation.steps, default=8) == 8 or not any(explanation.display)


class TestExplanation:
    def test_probabilities_must_be_as_many_as_labels(self) -> None:
        with pytest.raises(ValueError, match="1 `probabilities` for 2 `labels`"):
            make_explanation(probabilities=[1.0])

    def test_labels_must_differ(self) -> None:
        with pytest.raises(ValueError, match="repeats"):
            make_explanation(labels=("a", "a"))

    def test_predicted_must_be_a_label(self) -> None:
        with pytest.raises(ValueError, match="`predicted` is 'c'"):
            Explanation("1", "", ("a", "b"), (0.5, 0.5), "c", (), MODEL)

    @pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), float("inf")])
    def test_weights_must_be_finite_and_not_negative(self, weight: float) -> None:
        with pytest.raises(ValueError, match="finite, not negative and at most 1"):
            make_explanation(word_attention=[weight, 0.5, 0.5, 1.0, 0.0, 0.0])

    @pytest.mark.parametrize(
        "words",
        [
            [(0, 4), (3, 9)],
            [(5, 9), (0, 4)],
            [(0, 0)],
            [(0, 11)],
            [(-1, 4)],
        ],
        ids=["overlap", "order", "empty", "outside", "negative"],
    )
    def test_words_must_lie_in_order_in_their_sentence(self, words: list[tuple[int, int]]) -> None:
        sentence = Sentence(0, 10, 1.0, tuple(Word(*span, 0.5, 0.5) for span in words))
        with pytest.raises(ValueError, match=r"`sentences\[0\].words`\[\d\] is the span"):
            Explanation("1", "Good film. Loved it!", ("a",), (1.0,), "a", (sentence,), MODEL)

    def test_it_can_be_pickled_and_hashed(self) -> None:
        explanation = make_explanation()
        copy = pickle.loads(pickle.dumps(explanation))
        assert copy == explanation
        assert hash(copy) == hash(explanation)

    def test_its_repr_is_short(self) -> None:
        shown = "<Explanation of 'reviews.csv:2': 'pos' with 0.900, 2 sentences, 6 words>"
        assert repr(make_explanation()) == shown


class TestTruncated:
    def test_what_was_not_read_holds_no_word(self) -> None:
        with pytest.raises(ValueError, match=r"`truncated` and words"):
            make_explanation(cut=[(17, 20)])


class TestDisplayWeights:
    """By hand: b = (3/4, 1/4), a = (1/2, 1/4, 1/4) and (1, 0, 0)."""

    def test_share_is_the_product_and_sums_to_one(self) -> None:
        share = make_explanation().share
        assert share == (0.375, 0.1875, 0.1875, 0.25, 0.0, 0.0)
        assert sum(share) == 1

    def test_display_takes_the_root_of_the_sentence_weight(self) -> None:
        root = 0.75**0.5
        assert make_explanation().display == (root / 2, root / 4, root / 4, 0.5, 0.0, 0.0)

    def test_lift_is_one_where_weights_are_uniform(self) -> None:
        uniform = make_explanation(word_attention=[1 / 3] * 6, sentence_attention=[0.5, 0.5])
        assert uniform.lift == pytest.approx([1] * 6, abs=1e-6)

    def test_lift_is_the_share_over_the_uniform_share(self) -> None:
        assert make_explanation().lift == (2.25, 1.125, 1.125, 1.5, 0.0, 0.0)

    def test_steps_are_relative_to_the_documents_largest(self) -> None:
        assert make_explanation().steps == (7, 3, 3, 8, 0, 0)

    def test_constant_weights_have_one_colour(self) -> None:
        weights = {"word_attention": [1 / 3] * 6, "sentence_attention": [0.5, 0.5]}
        assert make_explanation(**weights).steps == (8,) * 6

    def test_weights_of_zero_have_no_colour(self) -> None:
        assert make_explanation(word_attention=[0.0] * 6).steps == (0,) * 6


class TestScores:
    def test_attention_is_the_first_method(self) -> None:
        assert make_explanation().methods == ("attention",)
        assert make_scored().methods == ("attention", "occlusion")

    def test_those_of_attention_are_shares_and_weights_for_any_class(self) -> None:
        explanation = make_scored()
        assert explanation.scores("attention") == explanation.share
        assert explanation.scores("attention", "neg") == explanation.share
        assert explanation.sentence_scores("attention") == (0.75, 0.25)

    def test_those_of_a_method_are_for_the_predicted_class_unless_another_is_named(self) -> None:
        explanation = make_scored()
        assert explanation.scores("occlusion") == (0.4, -0.6, 0, -0.05, 0.1, 0.8)
        assert explanation.scores("occlusion", "neg") == (-0.8, 0.6, 0, 0.05, -0.1, 0)
        assert explanation.sentence_scores("occlusion") == (0.3, -0.1)
        assert explanation.sentence_scores("occlusion", "neg") == (-0.2, 0.4)

    def test_other_methods_and_classes_are_refused(self) -> None:
        functions = (Explanation.scores, Explanation.sentence_scores, Explanation.signed_steps)
        for function in functions:
            with pytest.raises(
                ValueError, match=r"no scores of the method 'gradient', only \['att"
            ):
                function(make_scored(), "gradient")
            with pytest.raises(ValueError, match=r"no class 'maybe'; it knows \['neg', 'pos'\]"):
                function(make_scored(), "occlusion", "maybe")

    def test_an_empty_document_has_none_of_any_method(self) -> None:
        for method in METHODS:
            assert make_empty().scores(method) == make_empty().sentence_scores(method) == ()
            assert make_empty().signed_steps(method) == ()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"occlusion": [[0, 0]] * 5}, r"shape \(6, 2\), one a class; got shape \(5, 2\)"),
            ({"occlusion": [0] * 6}, r"got shape \(6,\)"),
            ({"occlusion": [[0, float("nan")]] * 6}, "must be finite"),
            ({"occlusion": [[0, float("inf")]] * 6}, "must be finite"),
            ({"gradient": [[0, 0]] * 6}, r"of the same methods, got \['gradient'\] beside \['occ"),
            ({}, "of the same methods"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_scored(word_scores=change)

    def test_they_are_one_number_a_class(self) -> None:
        word = Word(0, 2, 1.0, 1.0, scores={"occlusion": (0.5,)})
        sentence = Sentence(0, 2, 1.0, (word,), scores={"occlusion": (0.5, 0.5)})
        with pytest.raises(ValueError, match="must be 2 finite numbers, one a class"):
            Explanation("1", "ok", ("a", "b"), (0.5, 0.5), "a", (sentence,), MODEL)

    def test_they_keep_seven_digits(self) -> None:
        values = np.full((6, 2), np.float32(0.1))
        scored = make_scored(word_scores={"occlusion": values})
        assert scored.words[0].scores == {"occlusion": (0.1, 0.1)}


class TestSignedSteps:
    def test_eight_is_the_largest_figure_of_any_word_and_class(self) -> None:
        assert make_scored().signed_steps("occlusion") == (4, -6, 0, -1, 1, 8)
        assert make_scored().signed_steps("occlusion", "neg") == (-8, 6, 0, 1, -1, 0)

    def test_those_of_attention_are_the_steps(self) -> None:
        assert make_scored().signed_steps("attention", "neg") == make_explanation().steps

    def test_figures_of_zero_have_no_colour(self) -> None:
        scored = make_scored(word_scores={"occlusion": np.zeros((6, 2))})
        assert scored.signed_steps("occlusion") == (0,) * 6

    def test_constant_figures_have_one_colour(self) -> None:
        scored = make_scored(word_scores={"occlusion": np.full((6, 2), -1e-300)})
        assert scored.signed_steps("occlusion") == (-8,) * 6

    @given(explanations(METHODS[1:]))
    def test_they_have_the_sign_of_the_figure(self, explanation: Explanation) -> None:
        for method in explanation.methods[1:]:
            for label in explanation.labels:
                steps = explanation.signed_steps(method, label)
                for step, score in zip(steps, explanation.scores(method, label), strict=True):
                    assert -8 <= step <= 8
                    assert step * score >= 0


class TestToDict:
    def test_the_record_is_as_specified(self) -> None:
        record = make_explanation(text="Good film. Loved it! So", cut=[(21, 23)]).to_dict()
        assert list(record) == SCHEMA["required"]
        assert record["schema"] == "han.explanation/1"
        assert record["offset_unit"] == "codepoint"
        assert record["model"] == {"sha256": MODEL.sha256, "version": "0.1.0"}
        assert (record["labels"], record["probabilities"]) == (["neg", "pos"], [0.1, 0.9])
        assert (record["predicted"], record["true"], record["empty"]) == ("pos", "pos", False)
        assert record["truncated"] == {"spans": [[21, 23]]}
        assert record["faithfulness"] is None
        assert record["sentences"][1]["words"][0] == {
            "start": 11,
            "end": 16,
            "weight": 1.0,
            "share": 0.25,
            "unknown": True,
            "scores": {},
        }

    def test_what_was_read_whole_is_not_truncated(self) -> None:
        assert make_explanation().to_dict()["truncated"] is None

    @given(explanations(METHODS[1:]))
    def test_every_record_fits_the_schema(self, explanation: Explanation) -> None:
        VALIDATOR.validate(json.loads(explanation.to_json()))

    def test_the_schema_is_valid_and_refuses_what_lacks_a_field(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        record = make_explanation().to_dict()
        for key in record:
            with pytest.raises(jsonschema.ValidationError):
                VALIDATOR.validate({k: v for k, v in record.items() if k != key})

    def test_the_schema_knows_scores(self) -> None:
        record = make_scored().to_dict()
        VALIDATOR.validate(record)
        assert record["sentences"][0]["scores"] == {"occlusion": [-0.2, 0.3]}
        assert record["sentences"][0]["words"][1]["scores"] == {"occlusion": [0.6, -0.6]}

    @pytest.mark.parametrize("where", ["", "model", "sentence", "word"])
    def test_the_schema_refuses_unknown_keys(self, where: str) -> None:
        record = make_scored().to_dict()
        sentence = record["sentences"][0]
        place: dict[str, dict[str, Any]] = {
            "": record,
            "model": record["model"],
            "sentence": sentence,
            "word": sentence["words"][0],
        }
        place[where]["more"] = 1
        with pytest.raises(jsonschema.ValidationError, match="'more' was unexpected"):
            VALIDATOR.validate(record)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("weight", -0.1),
            ("weight", 1.1),
            ("weight", None),
            ("share", -0.1),
            ("start", -1),
            ("start", 0.5),
            ("unknown", 1),
            ("scores", []),
            ("scores", {"occlusion": 0.5}),
            ("scores", {"occlusion": []}),
            ("scores", {"occlusion": [None, 0.5]}),
            ("scores", {"occlusion": ["0.5", 0.5]}),
            ("scores", {"": [0.5, 0.5]}),
            ("scores", {"attention": [0.5, 0.5]}),
        ],
    )
    def test_the_schema_refuses_figures_that_no_word_can_have(
        self, key: str, value: object
    ) -> None:
        record = make_scored().to_dict()
        record["sentences"][0]["words"][0][key] = value
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(record)

    @pytest.mark.parametrize(
        "change",
        [
            {"labels": []},
            {"labels": ["a", "a"]},
            {"probabilities": []},
            {"probabilities": [-0.1, 1.0]},
            {"truncated": {"spans": []}},
            {"truncated": {"spans": [[0, 1, 2]]}},
            {"faithfulness": 0.5},
            {"empty": True},
            {"sentences": []},
        ],
    )
    def test_the_schema_refuses_other_contradictions(self, change: dict[str, Any]) -> None:
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(make_scored().to_dict() | change)


class TestFromDict:
    @given(explanations(METHODS[1:]))
    def test_it_undoes_to_dict(self, explanation: Explanation) -> None:
        assert Explanation.from_dict(explanation.to_dict()) == explanation
        assert Explanation.from_dict(json.loads(explanation.to_json())) == explanation

    def test_scores_and_faithfulness_are_kept(self) -> None:
        word = Word(0, 2, 1.0, 1.0, scores={"occlusion": (-0.5, 0.5)})
        sentence = Sentence(0, 2, 1.0, (word,), scores={"occlusion": (0.0, 1.0)})
        explanation = Explanation(
            "1", "ok", ("a", "b"), (0.5, 0.5), "a", (sentence,), MODEL, faithfulness={"flip": 0.2}
        )
        assert Explanation.from_dict(json.loads(explanation.to_json())) == explanation

    def test_whole_numbers_may_be_written_as_integers(self) -> None:
        explanation = make_explanation(probabilities=[0.0, 1.0])
        record = explanation.to_dict() | {"probabilities": [0, 1]}
        assert Explanation.from_dict(record) == explanation

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"schema": "han.explanation/2"}, "`schema` must be 'han.explanation/1'"),
            ({"offset_unit": "byte"}, "`offset_unit` must be 'codepoint', got 'byte'"),
            ({"id": 7}, "`id` must be a string, got 7"),
            ({"labels": "ab"}, "`labels` must be an array"),
            ({"probabilities": [0.5, True]}, "`probabilities` must be a number, got True"),
            ({"model": {"sha256": "0"}}, "`model.version` is missing"),
            ({"sentences": [7]}, r"`sentences\[0\]` must be an object, got 7"),
            ({"sentences": [{"start": 0.5}]}, r"`sentences\[0\].start` must be an integer"),
            ({"truncated": {"spans": [[1, 2, 3]]}}, "pairs of start and end"),
            ({"truncated": {"spans": [[0, 21]]}}, r"`truncated`\[0\] is the span \[0, 21\)"),
            ({"empty": True}, "`empty` is True, but the record has 6 words"),
            ({"predicted": "maybe"}, "not one of `labels`"),
        ],
    )
    def test_a_bad_record_is_refused_with_its_place(
        self, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            Explanation.from_dict(make_explanation().to_dict() | change)

    @pytest.mark.parametrize("record", [None, [], "text"])
    def test_what_is_no_object_is_refused(self, record: object) -> None:
        with pytest.raises(ValueError, match="Not an explanation"):
            Explanation.from_dict(record)  # type: ignore[arg-type]


class TestToJson:
    def test_it_is_one_line(self) -> None:
        assert "\n" not in make_explanation(id="a\nb").to_json()

    def test_it_refuses_figures_that_json_cannot_hold(self) -> None:
        explanation = dataclasses.replace(make_explanation(), faithfulness={"flip": float("nan")})
        with pytest.raises(ValueError, match="JSON"):
            explanation.to_json()

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
    def test_figures_of_words_are_refused_before(self, number: float) -> None:
        word = Word(0, 2, 1.0, 1.0, scores={"occlusion": (number,)})
        sentence = Sentence(0, 2, 1.0, (word,), scores={"occlusion": (0.5,)})
        with pytest.raises(ValueError, match="must be 1 finite numbers, one a class"):
            Explanation("1", "ok", ("a",), (1.0,), "a", (sentence,), MODEL)


class TestSeveralLabels:
    def make(self, given: Sequence[str], true: Sequence[str] | None = None) -> Explanation:
        odds = {"labels": ("a", "b", "c"), "probabilities": [0.3, 0.9, 0.6], "true": None}
        return make_explanation(**odds, predicted_labels=given, true_labels=true)

    def test_the_likeliest_of_those_that_it_is_given_is_explained(self) -> None:
        assert self.make(("a", "c")).predicted == "c"
        assert self.make(()).predicted == "b"

    def test_it_is_right_if_all_are(self) -> None:
        assert self.make(("a", "c"), ("c", "a")).right
        assert self.make((), ()).right
        assert self.make(("a",), ("a", "c")).right is False
        assert self.make(("a",)).right is None
        assert make_explanation().right

    @pytest.mark.parametrize(("given", "true"), [(("a", "c"), ("b",)), ((), None)])
    def test_the_record_has_them_and_fits_the_schema(
        self, given: tuple[str, ...], true: tuple[str, ...] | None
    ) -> None:
        explanation = self.make(given, true)
        record = json.loads(explanation.to_json())
        VALIDATOR.validate(record)
        assert Explanation.from_dict(record) == explanation
        assert "predicted_labels" not in make_explanation().to_dict()

    def test_one_that_the_model_does_not_know_is_refused(self) -> None:
        with pytest.raises(ValueError, match="`predicted_labels` has 'd', which is not one of"):
            replace(self.make(("a",)), predicted_labels=("d",))

    @pytest.mark.parametrize(
        ("given", "true", "said"),
        [
            (("a", "b"), None, "Read as b with 90 %, a with 30 %."),
            (("b",), ("b",), "Read as b with 90 %, which is right."),
            (("b",), ("a", "b"), "Read as b with 90 %; in truth a, b."),
            ((), (), "Read as none of the labels, which is right."),
            (("b",), (), "Read as b with 90 %; in truth none of them."),
        ],
    )
    def test_a_report_says_all_of_them(
        self, given: tuple[str, ...], true: tuple[str, ...] | None, said: str
    ) -> None:
        explanation = self.make(given, true)
        assert said in explanation.to_text()
        assert said in explanation.to_svg()
