from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import kendalltau

from han.explanation import METHODS, Explanation, ModelReference
from han.faithfulness import BINS, Faithfulness, evaluate, rationale_spans, removal
from han.predictor import Predictor
from han.report.faithfulness import render_faithfulness
from tests.tiny import TEXTS, make_bundle

WEIGHTS = {"bad": -2.0, "poor": -1.0, "dull": -0.5, "good": 2.0, "fine": 1.0, "nice": 0.5}


def logistic(texts: list[str]) -> np.ndarray:
    """Classify texts by the sum of their words' weights; nothing is 0.5 for each class."""
    sums = np.array([sum(WEIGHTS.get(word, 0) for word in text.split()) for text in texts])
    positive = 1 / (1 + np.exp(-sums))
    return np.stack((1 - positive, positive), 1)


def p(*words: str) -> float:
    return float(logistic([" ".join(words)])[0, 1])


def explain(
    text: str, shares: Sequence[float] | None = None, id: str = "d", **scores: Sequence[float]
) -> Explanation:
    """Make an explanation of a text of sentences that end with `.`; scores are of the class 1."""
    sentences = [part.split() for part in text.split(" . ")]
    words = [word for sentence in sentences for word in sentence]
    spans, at = [], 0
    for word in words:
        at = text.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    lengths = [len(sentence) for sentence in sentences]
    ends = np.cumsum(lengths)
    sentence_spans = [
        (spans[e - n][0], spans[e - 1][1]) for e, n in zip(ends, lengths, strict=True)
    ]
    weights = np.ones(len(words)) if shares is None else np.array(shares, float)
    of_sentences = np.array([part.sum() for part in np.split(weights, ends[:-1])])
    probabilities = logistic([text])[0]
    return Explanation.from_attention(
        id=id,
        text=text,
        labels=("0", "1"),
        probabilities=probabilities,
        word_spans=spans,
        sentence_spans=sentence_spans,
        words_per_sentence=lengths,
        word_attention=weights / np.repeat(of_sentences, lengths),
        sentence_attention=of_sentences / of_sentences.sum(),
        unknown=[False] * len(words),
        model=ModelReference("", ""),
        true="1",
        word_scores={
            method: np.stack((-np.array(values), np.array(values)), 1)
            for method, values in scores.items()
        },
        sentence_scores={
            method: [[-part.sum(), part.sum()] for part in np.split(np.array(values), ends[:-1])]
            for method, values in scores.items()
        },
    )


class TestRemoval:
    text = "good x fine . bad x nice x x x x"  # 10 words
    shares = (0.3, 0.1, 0.2, 0.15, 0.05, 0.1, 0.04, 0.03, 0.02, 0.01)

    def test_by_hand(self) -> None:
        # The bins take 1, 1, 1, 2, 5 words: good; good fine; good fine bad and two of no weight.
        whole = p("good", "fine", "bad", "nice")
        result = evaluate(logistic, [explain(self.text, self.shares)])
        attention = result.of("attention")
        without_good, without_two = p("fine", "bad", "nice"), p("bad", "nice")
        expected = [whole - without_good] * 3 + [whole - without_two, whole - p()]
        assert [e.mean for e in attention.comprehensiveness] == pytest.approx(expected)
        assert attention.aopc_comprehensiveness.mean == pytest.approx(np.mean(expected))
        kept = [whole - p("good")] * 3 + [
            whole - p("good", "fine"),
            whole - p("good", "fine", "bad", "nice"),
        ]
        assert [e.mean for e in attention.sufficiency] == pytest.approx(kept)
        assert attention.aopc_sufficiency.mean == pytest.approx(np.mean(kept))

    def test_label_flips_with_the_first_words_that_change_it(self) -> None:
        # 1.5 without good is -0.5 + ...: fine bad nice = -0.5, so one word of ten is enough.
        result = evaluate(logistic, [explain(self.text, self.shares)])
        assert result.of("attention").word_flip.mean == pytest.approx(0.1)
        # Sentence 1 (good fine) has more weight; without it bad and nice are left.
        assert result.of("attention").sentence_flip.mean == pytest.approx(0.5)
        assert result.of("attention").flipped == 1

    def test_a_label_that_never_changes_counts_as_all_words(self) -> None:
        def certain(texts: list[str]) -> list[list[float]]:
            return [[0.9, 0.1]] * len(texts)

        figures = evaluate(certain, [explain(self.text, self.shares)]).of("attention")
        assert (figures.word_flip.mean, figures.sentence_flip.mean, figures.flipped) == (1, 1, 0)
        assert figures.aopc_comprehensiveness.mean == 0

    def test_signed_methods_take_the_words_for_the_predicted_class_first(self) -> None:
        words = self.text.replace(". ", "").split()
        signed = [WEIGHTS.get(word, 0) for word in words]
        result = evaluate(logistic, [explain(self.text, self.shares, gradient=signed)])
        whole = p("good", "fine", "bad", "nice")
        found = [e.mean for e in result.of("gradient").comprehensiveness]
        without = [p("fine", "bad", "nice")] * 3 + [p("bad", "nice"), p("bad")]
        assert found == pytest.approx([whole - left for left in without])

    def test_words_that_do_not_read_as_the_predicted_class_are_ranked_for_it(self) -> None:
        # Predicted 0: scores of class 0 are the negative ones.
        explanation = explain("bad good . dull x", gradient=[-2, 2, -0.5, 0])
        result = evaluate(logistic, [explanation], bins=(0.25,))
        lost = result.of("gradient").comprehensiveness[0].mean
        assert explanation.predicted == "0"
        assert lost == pytest.approx((1 - p("bad", "good", "dull")) - (1 - p("good", "dull")))

    def test_ten_per_cent_of_thirty_words_are_three(self) -> None:
        lengths: list[int] = []

        def count(texts: list[str]) -> list[list[float]]:
            lengths.extend(len(text.split()) for text in texts)
            return [[0.4, 0.6]] * len(texts)

        evaluate(count, [explain(" ".join(["x"] * 30))], bins=(0.1,), random_rankings=1)
        assert lengths[1:5] == [27, 27, 3, 3]  # the whole text comes first

    @given(st.integers(1, 40), st.integers(0, 1000))
    @settings(max_examples=30, deadline=None)
    def test_every_first_flip_is_the_first(self, num_words: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        words = generator.choice([*WEIGHTS, "x"], num_words).tolist()
        shares = generator.random(num_words)
        explanation = explain(" ".join(words), shares)
        order = np.argsort(-np.array(explanation.share), kind="stable")
        label = logistic([" ".join(words)])[0].argmax()
        expected = 1.0
        for count in range(1, num_words + 1):
            left = " ".join(words[i] for i in sorted(order[count:]))
            if logistic([left])[0].argmax() != label:
                expected = count / num_words
                break
        found = evaluate(logistic, [explanation], random_rankings=1).of("attention")
        assert found.word_flip.mean == pytest.approx(expected)

    def test_many_words_are_taken_away_by_thousandths(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(removal, "FLIP_STEPS", 4)  # so that ten words go by three
        explanation = explain(self.text, self.shares)
        flip = evaluate(logistic, [explanation], random_rankings=1).of("attention").word_flip
        assert flip.mean == pytest.approx(0.6)  # without three, nice is left; without six, nothing


class TestBaselineAndIntervals:
    def documents(self) -> list[Explanation]:
        generator = np.random.default_rng(0)
        texts = [" ".join(generator.choice([*WEIGHTS, "x", "y"], 12)) for _ in range(20)]
        found = []
        for i, text in enumerate(texts):
            signed = [WEIGHTS.get(word, 0) for word in text.split()]
            found.append(explain(text, np.abs(signed) + 0.01, str(i), occlusion=signed))
        return found

    def test_random_is_the_mean_of_its_rankings(self) -> None:
        documents = self.documents()[:1]
        many = evaluate(logistic, documents, random_rankings=400).of("random")
        words = documents[0].text.split()
        whole = float(logistic([documents[0].text]).max())
        label = logistic([documents[0].text])[0].argmax()
        left = [logistic([" ".join(words[:i] + words[i + 1 :])])[0, label] for i in range(12)]
        assert many.comprehensiveness[0].mean == pytest.approx(whole - np.mean(left), abs=0.02)

    def test_informed_methods_beat_random_ones(self) -> None:
        result = evaluate(logistic, self.documents())
        occlusion = result.of("occlusion")
        assert (
            occlusion.aopc_comprehensiveness.low > result.of("random").aopc_comprehensiveness.high
        )
        assert result.of("random").over_random is None
        ratio = occlusion.over_random
        assert ratio is not None
        mean = result.of("random").aopc_comprehensiveness.mean
        assert ratio.mean == pytest.approx(occlusion.aopc_comprehensiveness.mean / mean)
        assert ratio.low < ratio.mean < ratio.high

    def test_a_random_baseline_that_may_be_zero_gives_no_ratio(self) -> None:
        def constant(texts: list[str]) -> list[list[float]]:
            return [[0.3, 0.7]] * len(texts)

        assert evaluate(constant, self.documents()).of("occlusion").over_random is None

    def test_the_mean_is_that_of_each_documents_own_figures(self) -> None:
        found: dict[int, dict[str, dict[str, float]]] = {}
        empty = Predictor(make_bundle(labels=("0", "1"))).explain("")
        result = evaluate(
            logistic,
            [empty, *self.documents()],
            each=lambda position, figures: found.update({position: figures}),
        )
        assert list(found) == list(range(1, 21))
        for figures in result.methods:
            own = [document[figures.method] for document in found.values()]
            for name, mean in (
                ("comprehensiveness", figures.aopc_comprehensiveness.mean),
                ("sufficiency", figures.aopc_sufficiency.mean),
                ("word_flip", figures.word_flip.mean),
                ("sentence_flip", figures.sentence_flip.mean),
            ):
                assert np.mean([one[name] for one in own]) == pytest.approx(mean, abs=1e-6)

    def test_interval_holds_the_mean_and_narrows_with_documents(self) -> None:
        documents = self.documents()
        few = evaluate(logistic, documents[:5]).of("occlusion").aopc_comprehensiveness
        many = evaluate(logistic, documents).of("occlusion").aopc_comprehensiveness
        assert few.low < few.mean < few.high
        assert many.high - many.low < few.high - few.low

    def test_seed_decides(self) -> None:
        documents = self.documents()
        first = evaluate(logistic, documents, seed=1)
        assert evaluate(logistic, documents, seed=1) == first
        assert evaluate(logistic, documents, seed=2).of("random") != first.of("random")

    def test_rank_agreement_is_kendalls_of_the_sizes(self) -> None:
        documents = self.documents()
        expected = [
            kendalltau(one.share, np.abs(one.scores("occlusion"))).statistic for one in documents
        ]
        result = evaluate(logistic, documents)
        found = result.of("attention").rank_agreement["occlusion"]
        assert found.mean == pytest.approx(np.nanmean(expected))
        assert result.of("occlusion").rank_agreement["attention"] == found

    def test_figures_without_an_order_are_left_out_of_the_agreement(self) -> None:
        flat = explain("good bad fine", [3, 2, 1], occlusion=[0, 0, 0])
        assert evaluate(logistic, [flat]).of("attention").rank_agreement == {}
        ordered = explain("good bad fine", [3, 2, 1], occlusion=[3, 2, 1])
        found = evaluate(logistic, [flat, ordered]).of("attention").rank_agreement["occlusion"]
        assert found.mean == 1


class TestRationales:
    def test_by_hand(self) -> None:
        # People mark words 2-4 of ten and word 9; as many are chosen: words 1-3 and 8.
        shares = [0.01, 0.3, 0.2, 0.15, 0.01, 0.02, 0.02, 0.02, 0.1, 0.01]
        text = "a b c d e f g h i j"
        spans = ((4, 9), (18, 19))  # c d e, j
        result = evaluate(logistic, [explain(text, shares)], rationales={0: spans})
        found = result.of("attention").rationales
        assert found is not None
        assert found.documents == 1
        assert found.precision.mean == found.recall.mean == found.f1.mean == 0.5  # c d of b c d i
        # b c d overlaps c d e by 2 of 4, which is enough; i and j are apart.
        assert found.iou_f1.mean == pytest.approx(0.5)
        # Precision 0, 1/2, 2/3, 1/2, 2/7, 2/5 at recall 0, 1/4, 1/2, 1/2, 1/2, 1, by trapezoids.
        assert found.auprc.mean == pytest.approx(1 / 16 + 7 / 48 + 6 / 35)

    def test_as_many_words_are_chosen_as_people_mark_on_average(self) -> None:
        text = "a b c d e f g h i j"
        documents = [explain(text, range(10, 0, -1)), explain(text, range(10, 0, -1))]
        result = evaluate(logistic, documents, rationales={0: ((0, 1),), 1: ((0, 5),)})
        found = result.of("attention").rationales
        assert found is not None  # 10 % and 30 % make 20 %: a b
        assert found.precision.mean == pytest.approx((1 / 2 + 2 / 2) / 2)
        assert found.recall.mean == pytest.approx((1 / 1 + 2 / 3) / 2)

    def test_perfect_scores_find_all(self) -> None:
        text = "a b c d e f g h i j"
        explanation = explain(text, [1, 1, 9, 9, 1, 1, 1, 1, 9, 1])
        result = evaluate(logistic, [explanation], rationales={0: ((4, 7), (16, 17))})
        found = result.of("attention").rationales
        assert found is not None
        assert found.f1.mean == found.iou_f1.mean == found.auprc.mean == 1

    def test_documents_without_words_do_not_shift_the_rationales(self) -> None:
        explanation = explain("a b c d", [1, 9, 1, 1])
        empty = Predictor(make_bundle(labels=("0", "1"))).explain("")
        result = evaluate(logistic, [empty, explanation], rationales={1: ((2, 3),)})
        found = result.of("attention").rationales
        assert result.documents == 1
        assert found is not None
        assert found.f1.mean == 1


class TestRationaleSpans:
    text = "The soup  was cold."

    @pytest.mark.parametrize(
        "rationale",
        [
            "0101",
            " 0101\n",
            "[0, 1, 0, 1]",
            [0, 1, 0, 1],
            [False, True, False, True],
            [[4, 8], [14, 19]],
            [(14, 19), (4, 8)],
            "[[4, 8], [14, 19]]",
            [{"start": 4, "end": 8}, {"start": 14, "end": 19}],
        ],
    )
    def test_every_form_gives_the_same_spans(self, rationale: object) -> None:
        assert rationale_spans(rationale, self.text) == ((4, 8), (14, 19))

    def test_nothing_marked_is_no_span(self) -> None:
        assert rationale_spans("0000", self.text) == ()
        assert rationale_spans([], "") == ()

    @pytest.mark.parametrize(
        ("rationale", "message"),
        [
            ("010", "for each of the text's 4 words between white space, got 3 marks"),
            ("01x1", "must have a 0 or 1"),
            ("soup", "must have a 0 or 1"),
            ([0, 2, 0, 0], "must have a 0 or 1"),
            ("[[4, 8]", "is no JSON"),
            ([[4, 20]], r"within the text's 19 characters, got \[4, 20\]"),
            ([[8, 4]], "within the text"),
            ([[4.0, 8]], "within the text"),
            ([[4]], "within the text"),
            ([{"from": 1}], "within the text"),
            (7, "must be spans, or marks of 0 and 1, got 7"),
        ],
    )
    def test_everything_else_is_refused(self, rationale: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            rationale_spans(rationale, self.text)


class TestWithOurModel:
    def predictor(self) -> Predictor:
        return Predictor(make_bundle())

    def test_every_method_is_scored_and_the_record_is_json(self) -> None:
        predictor = self.predictor()
        result = evaluate(predictor, predictor.explain(TEXTS, METHODS))
        assert [figures.method for figures in result.methods] == [*METHODS, "random"]
        assert result.uniform is not None
        assert (result.documents, result.words, result.bins) == (3, 33, BINS)
        record = json.loads(result.to_json())
        assert record["schema"] == "han.faithfulness/1"
        assert record["summary"] == list(result.summary())
        assert record["methods"][3]["comprehensiveness"][0]["mean"] == pytest.approx(
            result.of("occlusion").comprehensiveness[0].mean
        )

    def test_one_word_by_occlusion_loses_what_occlusion_says(self) -> None:
        predictor = self.predictor()
        (explanation,) = predictor.explain([TEXTS[0]], ("occlusion",))
        result = evaluate(predictor, [explanation], bins=(0.01,))
        best = max(explanation.scores("occlusion"))
        assert result.of("occlusion").comprehensiveness[0].mean == pytest.approx(best, abs=1e-6)

    def test_our_model_as_a_plain_function_of_texts_agrees(self) -> None:
        # In these texts the rest of a sentence stays one sentence, so both ways read the same.
        predictor = self.predictor()
        explanations = predictor.explain(["Lovely place", "The soup was cold"], ("occlusion",))
        by_masks = evaluate(predictor, explanations)
        by_texts = evaluate(lambda texts: predictor.probabilities(texts), explanations)
        for one, other in zip(by_masks.methods, by_texts.methods, strict=True):
            assert one.aopc_comprehensiveness.mean == pytest.approx(
                other.aopc_comprehensiveness.mean, abs=1e-6
            )
            assert one.word_flip == other.word_flip
        assert by_texts.uniform is None

    def test_uniform_attention_is_compared_with_the_trained(self) -> None:
        predictor = self.predictor()
        explanations = predictor.explain(TEXTS)
        result = evaluate(predictor, explanations)
        assert result.uniform is not None
        uniform = predictor.uniform_probabilities(TEXTS)
        change = [
            abs(one.probability - row[one.labels.index(one.predicted)])
            for one, row in zip(explanations, uniform, strict=True)
        ]
        assert result.uniform.probability_change.mean == pytest.approx(np.mean(change), abs=1e-6)
        assert result.uniform.accuracy is None

    def test_divergence_from_itself_is_none_and_from_others_between_0_and_1(self) -> None:
        predictor = self.predictor()
        explanations = predictor.explain(TEXTS)
        other = Predictor(make_bundle())
        for member in other.bundle.network.members:
            member.word_encoder.attention.context.data.mul_(-2)
        result = evaluate(
            predictor,
            explanations,
            others={"itself": explanations, "other": other.explain(TEXTS)},
        )
        itself, another = result.divergence
        assert itself.words.mean == pytest.approx(0, abs=1e-9)
        assert itself.same_label == 1
        assert 0.01 < another.words.mean < 1

    def test_other_documents_cannot_be_compared(self) -> None:
        predictor = self.predictor()
        with pytest.raises(ValueError, match="elsewhere: its explanation of '0' is of other words"):
            evaluate(
                predictor,
                predictor.explain(TEXTS),
                others={"elsewhere": predictor.explain(TEXTS[::-1])},
            )


class TestRefusals:
    def test_documents_without_words(self) -> None:
        predictor = Predictor(make_bundle())
        with pytest.raises(ValueError, match="no document with a word"):
            evaluate(predictor, predictor.explain(["", " "]))

    def test_different_methods(self) -> None:
        with pytest.raises(ValueError, match="b: explained by"):
            evaluate(logistic, [explain("good x"), explain("good x", id="b", gradient=[1, 0])])

    @pytest.mark.parametrize("bins", [(), (0.0,), (1.2,), (math.nan,)])
    def test_bins(self, bins: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="`bins` must be"):
            evaluate(logistic, [explain("good x")], bins=bins)

    @pytest.mark.parametrize(
        "found",
        [
            *([0.5], [[0.5]], [[0.2, 0.3, 0.5]], [[0.5, 0.5]] * 7),
            *([[0.5, math.nan]], [[-3.0, 4.0]], ["good"], torch.ones(1, 2, requires_grad=True)),
        ],
        ids=repr,
    )
    def test_what_is_no_probability_of_each_class(self, found: object) -> None:
        with pytest.raises(ValueError, match=r"d: the classifier must return"):
            evaluate(lambda texts: found, [explain("good x")])  # type: ignore[arg-type, return-value]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rationales": {1: ((0, 1),)}}, "has one of document 1; there are 1"),
            ({"rationales": {0: ((3, 99),)}}, r"d: the rationale has the span \[3, 99\)"),
            ({"others": {"x": []}}, "x: 0 explanations of 1 documents"),
            ({"others": {"x": [explain("good x")] * 2}}, "x: 2 explanations of 1 documents"),
            ({"seed": -1}, "`seed` must be at least 0"),
        ],
    )
    def test_what_does_not_fit_the_documents(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            evaluate(logistic, [explain("good x")], **options)

    def test_models_of_other_classes(self) -> None:
        other = Predictor(make_bundle(labels=("a", "b"))).explain(TEXTS)
        predictor = Predictor(make_bundle())
        with pytest.raises(ValueError, match=r"x: it knows the classes \['a', 'b'\]"):
            evaluate(predictor, predictor.explain(TEXTS), others={"x": other})


class TestSummary:
    def result(self) -> Faithfulness:
        predictor = Predictor(make_bundle())
        return evaluate(
            predictor,
            predictor.explain(TEXTS, METHODS),
            rationales={0: ((4, 8),)},
            others={"run 2": predictor.explain(TEXTS)},
        )

    def test_it_names_the_figures(self) -> None:
        result = self.result()
        text = " ".join(result.summary())
        lost = result.of("attention").comprehensiveness[2]
        assert lost.mean > 0
        assert f"lower by {lost.mean:.2f} (95 % interval {lost.low:.2f} to {lost.high:.2f})" in text
        assert "run 2 gives 100 % of the documents the same label" in text
        assert "people marked" in text

    def test_a_probability_that_rises_is_said_to_be_higher(self) -> None:
        # The word with most attention speaks against the class.
        documents = [explain(f"good good bad {word}", [1, 1, 9, 1]) for word in ("fine", "nice")]
        text = " ".join(evaluate(logistic, documents).summary())
        gained = evaluate(logistic, documents).of("attention").comprehensiveness[2]
        assert gained.mean < 0
        low, high = -gained.high, -gained.low
        assert f"higher by {-gained.mean:.2f} (95 % interval {low:.2f} to {high:.2f})" in text

    @pytest.mark.parametrize(
        ("shares", "verdict"),
        [
            ([9, 1, 1, 1], "Attention points to words that matter to the decision."),
            ([1, 1, 9, 1], "less than random ones"),
        ],
    )
    def test_verdict_compares_with_random_words_of_the_same_documents(
        self, shares: list[float], verdict: str
    ) -> None:
        documents = [explain(f"good fine bad y{i}", shares) for i in range(12)]
        assert verdict in evaluate(logistic, documents).summary()[0]

    def test_highlights_no_better_than_chance_are_called_so(self) -> None:
        def constant(texts: list[str]) -> list[list[float]]:
            return [[0.3, 0.7]] * len(texts)

        summary = evaluate(constant, [explain("good x")] * 12).summary()
        assert "cannot be told from chance" in summary[0]
        assert "the same" in summary[1]

    def test_few_documents_are_too_few(self) -> None:
        summary = evaluate(logistic, [explain("good bad x", [9, 1, 1])]).summary()
        assert summary[0].startswith("1 document is too few to tell")
        assert "interval" not in " ".join(summary)

    def test_methods_of_others_keep_their_names(self) -> None:
        documents = [
            explain(f"good bad x y{i}", [1, 9, 1, 1], lime=[2, -2, 0, 0]) for i in range(9)
        ]
        result = evaluate(logistic, documents)
        assert "Of the methods, lime finds" in " ".join(result.summary())
        assert "lime" in render_faithfulness(result, Console(width=80, color_system=None))

    def test_every_figure_stands_in_the_tables_at_80_columns(self) -> None:
        result = self.result()
        text = render_faithfulness(result, Console(width=80, color_system=None))
        for figures in result.methods:
            assert f"{figures.aopc_comprehensiveness.mean:.2f}" in text
        assert "attention × gradient" in text
        assert max(map(len, text.splitlines())) <= 80
