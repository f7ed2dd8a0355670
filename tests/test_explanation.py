from __future__ import annotations

import json
import pickle
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from han.explanation import SCHEMA_FILE, Explanation, ModelReference, Sentence, Word

MODEL = ModelReference(sha256="3f9a1c" + "0" * 58, version="0.1.0")
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


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


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    """Any text, cut anywhere into sentences and words, with any weights."""
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
    )


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

    @pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
    def test_weights_must_be_finite_and_not_negative(self, weight: float) -> None:
        with pytest.raises(ValueError, match="finite and not negative"):
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

    @given(explanations())
    def test_every_record_fits_the_schema(self, explanation: Explanation) -> None:
        jsonschema.validate(json.loads(explanation.to_json()), SCHEMA)

    def test_the_schema_is_valid_and_refuses_other_records(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        record = make_explanation().to_dict()
        for key in record:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({k: v for k, v in record.items() if k != key}, SCHEMA)


class TestFromDict:
    @given(explanations())
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
        word = Word(0, 2, 1.0, 1.0, scores={"occlusion": (float("nan"),)})
        sentence = Sentence(0, 2, 1.0, (word,))
        explanation = Explanation("1", "ok", ("a",), (1.0,), "a", (sentence,), MODEL)
        with pytest.raises(ValueError, match="JSON"):
            explanation.to_json()
