from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import han
from han import predictor as module
from han.attribution import attention_gradient, input_gradient, occlusion
from han.batching import Batch
from han.documents import Document
from han.explanation import METHODS, Explanation
from han.predictor import Prediction, Predictor
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary
from tests.tiny import TEXTS, make_bundle, save_model
from tests.varieties import VARIETIES


def make_predictor(**limits: int) -> Predictor:
    return Predictor(make_bundle(tokenizer=Tokenizer(**limits)))  # type: ignore[arg-type]  # as given


def make_texts(count: int) -> list[str]:
    """Return texts of 0 to 40 sentences in no order of length, unknown words among them."""
    generator = random.Random(0)
    words = [*Vocabulary.build(TEXTS, Tokenizer()).words[1:], "zebra", "Köln"]
    return [
        " ".join(
            " ".join(generator.choices(words, k=generator.randint(1, 12))) + "."
            for _ in range(generator.choice([0, 1, 2, 5, 40]))
        )
        for _ in range(count)
    ]


def count_reads(documents: list[Document], reads: list[str]) -> Iterator[Document]:
    for document in documents:
        reads.append(document.id)
        yield document


class TestClassify:
    def test_text_gives_a_prediction_and_texts_a_list(self) -> None:
        predictor = make_predictor()
        one = predictor.classify(TEXTS[0])
        assert isinstance(one, Prediction)
        assert predictor.classify([TEXTS[0]]) == [one]
        assert predictor.classify(iter(TEXTS[:1])) == [one]

    def test_label_is_the_likeliest_class(self) -> None:
        for prediction in make_predictor().classify(TEXTS):
            assert list(prediction.probabilities) == ["bad", "good"]
            assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-12)
            assert prediction.probability == max(prediction.probabilities.values())
            assert prediction.probabilities[prediction.label] == prediction.probability

    def test_probabilities_are_the_softmax_of_the_network(self) -> None:
        predictor = make_predictor()
        [encoded] = predictor.bundle.vocabulary.encode([TEXTS[0]])
        batch = Batch.from_arrays(
            encoded.tokens.astype(np.int64),
            encoded.words_per_sentence.astype(np.int64),
            np.array([len(encoded.words_per_sentence)]),
        )
        with torch.no_grad():
            expected = predictor.bundle.network(batch).logits.softmax(1)[0]
        found = predictor.classify(TEXTS[0]).probabilities
        assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-6)

    def test_no_texts_give_no_predictions(self) -> None:
        assert make_predictor().classify([]) == []
        assert make_predictor().classify(iter(())) == []

    def test_order_is_that_of_the_texts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BATCH_WORDS", 60)
        monkeypatch.setattr(module, "BLOCK_DOCUMENTS", 7)
        predictions = make_predictor().classify(make_texts(30))
        assert [prediction.id for prediction in predictions] == [str(i) for i in range(30)]

    @pytest.mark.parametrize("block", [1, 7, 30, 100])
    def test_text_alone_gives_what_it_gives_among_others(
        self, monkeypatch: pytest.MonkeyPatch, block: int
    ) -> None:
        monkeypatch.setattr(module, "BLOCK_DOCUMENTS", block)
        predictor, texts = make_predictor(), make_texts(30)
        together = predictor.probabilities(texts)
        alone = np.concatenate([predictor.probabilities([text]) for text in texts])
        assert together == pytest.approx(alone, abs=1e-6)
        assert np.ptp(alone[:, 0]) > 0.01  # the texts do differ

    @pytest.mark.parametrize("text", ["", " \n\t", "<br>"])
    def test_text_without_words_is_flagged_and_gets_the_prior(self, text: str) -> None:
        predictor = make_predictor()
        biases = [member.classifier.bias for member in predictor.bundle.network.members]
        prior = torch.stack(biases).mean(0).softmax(0).tolist()
        for prediction in (predictor.classify([TEXTS[0], text])[1], predictor.classify(text)):
            assert prediction.empty
            assert list(prediction.probabilities.values()) == pytest.approx(prior, abs=1e-6)

    @pytest.mark.parametrize("text", ["\ud800", "cold \udfff soup.", "\r\n\x1b[31m", "\x00"])
    def test_strange_text_is_classified(self, text: str) -> None:
        prediction = make_predictor().classify(text)
        assert not prediction.empty
        assert 0 < prediction.probability <= 1

    def test_text_longer_than_a_batch_and_a_block_is_classified(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "BATCH_WORDS", 50)
        monkeypatch.setattr(module, "BLOCK_CHARACTERS", 100)
        predictor = make_predictor()
        [_, long, _] = predictor.classify(["Soup.", TEXTS[0] * 100, "Soup."])
        assert long.probability == pytest.approx(
            predictor.classify(TEXTS[0] * 100).probability, abs=1e-6
        )

    @pytest.mark.parametrize("texts", [[TEXTS[0], None], [float("nan")], [b"soup"], b"soup"])
    def test_what_is_no_text_is_refused_with_its_position(self, texts: list[str]) -> None:
        with pytest.raises(TypeError, match=r"Text \d is .*, not a string"):
            make_predictor().classify(texts)

    def test_limits_of_the_model_are_flagged(self) -> None:
        predictor = make_predictor(max_sentences=1)
        assert [one.truncated for one in predictor.classify(["Cold soup. Bad.", "Bad."])] == [
            True,
            False,
        ]

    def test_training_mode_of_the_network_does_not_matter(self) -> None:
        bundle = make_bundle()
        bundle.network.train()
        for member in bundle.network.members:
            member.classifier_dropout.p = 0.9
        assert Predictor(bundle).classify(TEXTS) == Predictor(bundle).classify(TEXTS)

    def test_texts_that_no_class_is_probable_enough_for_have_no_label(self) -> None:
        predictor = make_predictor()
        plain = predictor.classify(TEXTS)
        least = sorted(one.probability for one in plain)[1]  # it keeps its label itself
        found = predictor.classify(TEXTS, min_confidence=least)
        for one, expected in zip(found, plain, strict=True):
            undecided = expected.probability < least
            assert one == replace(expected, label=None if undecided else expected.label)
        assert [one.label for one in found].count(None) == 1
        assert predictor.classify(TEXTS[0], min_confidence=1).label is None

    @pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
    def test_a_confidence_out_of_range_is_refused(self, least: float) -> None:
        with pytest.raises(ValueError, match="`min_confidence` must be from 0 to 1, got"):
            make_predictor().classify(TEXTS, min_confidence=least)


class TestTemperature:
    def test_all_probabilities_have_it_and_no_label_changes(self) -> None:
        plain, changed = make_predictor(), make_predictor()
        changed.bundle.network.temperature = 2.5
        kept = np.ones((1, len(plain.explain(TEXTS[0]).words)), bool)
        kept[0, 2] = False
        for find in (
            lambda model: model.probabilities(TEXTS),
            lambda model: np.array([list(p.probabilities.values()) for p in model.classify(TEXTS)]),
            lambda model: np.array([one.probabilities for one in model.explain(TEXTS)]),
            lambda model: model.masked_probabilities(TEXTS[0], kept),
            lambda model: model.uniform_probabilities(TEXTS),
        ):
            before, after = find(plain), find(changed)
            expected = before ** (1 / 2.5)
            expected /= expected.sum(axis=1, keepdims=True)
            assert after == pytest.approx(expected, abs=1e-6)
            assert np.abs(after - before).max() > 0.01
            assert (after.argmax(axis=1) == before.argmax(axis=1)).all()

    def test_occlusion_is_of_the_probabilities_that_are_shown(self) -> None:
        predictor = make_predictor()
        predictor.bundle.network.temperature = 2.5
        found = predictor.explain(TEXTS[0], METHODS)
        kept = np.ones((1, len(found.words)), bool)
        kept[0, 2] = False
        without = predictor.masked_probabilities(TEXTS[0], kept)[0, 0]
        lost = found.scores("occlusion", "bad")[2]
        assert lost == pytest.approx(found.probabilities[0] - without, abs=1e-6)

    def test_gradients_are_those_of_the_logits_as_they_were(self) -> None:
        plain, changed = make_predictor(), make_predictor()
        changed.bundle.network.temperature = 2.5
        for one, other in zip(
            plain.explain(TEXTS, METHODS), changed.explain(TEXTS, METHODS), strict=True
        ):
            for method in ("attention_gradient", "gradient"):
                assert one.scores(method, "bad") == other.scores(method, "bad")


class TestClassifyDocuments:
    def test_ids_columns_and_labels_come_through(self) -> None:
        document = Document("x7", TEXTS[0], label="good", columns={"year": 2016, "note": None})
        [prediction] = make_predictor().classify_documents([document])
        assert prediction.id == "x7"
        assert prediction.true == "good"
        assert prediction.columns == {"year": 2016, "note": None}

    def test_one_block_is_read_ahead_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BLOCK_DOCUMENTS", 4)
        documents = [Document(str(i), TEXTS[i % 3]) for i in range(10)]
        reads: list[str] = []
        ahead = [
            len(reads) - done
            for done, _ in enumerate(
                make_predictor().classify_documents(count_reads(documents, reads)), start=1
            )
        ]
        assert ahead == [3, 2, 1, 0, 3, 2, 1, 0, 1, 0]

    def test_long_documents_make_a_block_early(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BLOCK_CHARACTERS", 10)
        reads: list[str] = []
        documents = [Document(str(i), "Cold soup today.") for i in range(3)]
        next(make_predictor().classify_documents(count_reads(documents, reads)))
        assert reads == ["0"]


class TestPrediction:
    def test_record_has_the_columns_after_the_id(self) -> None:
        document = Document("x7", TEXTS[0], columns={"year": 2016})
        [prediction] = make_predictor().classify_documents([document])
        record = prediction.to_record()
        assert list(record) == [
            "id",
            "year",
            "label",
            "probability",
            "probabilities",
            "truncated",
            "empty",
        ]

    def test_record_is_made_of_json_types(self) -> None:
        for prediction in make_predictor(max_sentences=1).classify([*TEXTS, ""]):
            record = prediction.to_record()
            assert json.loads(json.dumps(record)) == record
            assert type(record["probability"]) is float
            assert type(record["truncated"]) is type(record["empty"]) is bool


class TestExplain:
    def test_text_gives_an_explanation_and_texts_a_list(self) -> None:
        predictor = make_predictor()
        one = predictor.explain(TEXTS[0])
        assert isinstance(one, Explanation)
        assert predictor.explain(iter(TEXTS[:1])) == [one]
        assert predictor.explain([]) == []

    def test_explanation_agrees_with_the_prediction(self) -> None:
        predictor, texts = make_predictor(), make_texts(20)
        for explanation, prediction in zip(
            predictor.explain(texts), predictor.classify(texts), strict=True
        ):
            assert explanation.id == prediction.id
            assert explanation.predicted == prediction.label
            assert explanation.empty == prediction.empty
            assert dict(
                zip(explanation.labels, explanation.probabilities, strict=True)
            ) == pytest.approx(dict(prediction.probabilities), abs=1e-6)

    def test_weights_sum_to_one_at_both_levels(self) -> None:
        for explanation in make_predictor().explain(make_texts(20)):
            if not explanation.empty:
                assert sum(s.weight for s in explanation.sentences) == pytest.approx(1, abs=1e-5)
                assert sum(explanation.share) == pytest.approx(1, abs=1e-5)
            for sentence in explanation.sentences:
                assert sum(word.weight for word in sentence.words) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("options", VARIETIES.values(), ids=VARIETIES)
    def test_every_variety_explains(self, options: dict[str, Any]) -> None:
        bundle = make_bundle(options=options)
        levels = ("word_attention", "sentence_attention")
        heads = [bundle.network.options[level]["heads"] for level in levels]
        for explanation in Predictor(bundle).explain(TEXTS, METHODS):
            assert explanation.methods == METHODS
            assert sum(explanation.share) == pytest.approx(1)
            for number, units in zip(
                heads, (explanation.words, explanation.sentences), strict=True
            ):
                of_each = 2 * number if number > 1 else 0  # of two networks
                assert {len(unit.heads) for unit in units} == {of_each}
            if heads[0] > 1:
                for sentence in explanation.sentences:
                    sums = np.sum([word.heads for word in sentence.words], 0)
                    assert sums == pytest.approx(np.ones(2 * heads[0]))

    def test_spans_are_the_words_as_written(self) -> None:
        text = "Köln\r\n was 🎉 cold!  The\xa0SOUP…"
        explanation = make_predictor().explain(text)
        words = [text[word.start : word.end] for word in explanation.words]
        assert words == ["Köln", "was", "🎉", "cold", "!", "The", "SOUP", "…"]
        assert "".join(words) == "".join(text.split())

    def test_weights_stay_with_their_document(self, monkeypatch: pytest.MonkeyPatch) -> None:
        predictor, texts = make_predictor(), make_texts(20)
        alone = [predictor.explain(text) for text in texts]
        monkeypatch.setattr(module, "BATCH_WORDS", 60)
        monkeypatch.setattr(module, "BLOCK_DOCUMENTS", 6)
        for one, other in zip(alone, predictor.explain(texts), strict=True):
            assert one.share == pytest.approx(other.share, abs=1e-6)
            assert [(w.start, w.end) for w in one.words] == [(w.start, w.end) for w in other.words]

    def test_words_that_the_vocabulary_lacks_are_flagged(self) -> None:
        explanation = make_predictor().explain("The zebra was COLD <unk>.")
        unknown = [explanation.text[w.start : w.end] for w in explanation.words if w.unknown]
        assert unknown == ["zebra", "<", "unk", ">"]

    def test_cut_text_is_named(self) -> None:
        text = "The soup was cold. Bad. Bad waiter. Wrong."
        explanation = make_predictor(max_sentences=2, max_words_per_sentence=3).explain(text)
        read = [text[word.start : word.end] for word in explanation.words]
        assert read == ["The", "soup", "was", "Bad", "."]
        assert [text[start:end] for start, end in explanation.truncated] == [
            "cold.",
            "Bad waiter. Wrong.",
        ]

    def test_empty_and_broken_texts_have_records(self) -> None:
        for explanation in make_predictor().explain(["", "cold \ud800 soup", "\x00"]):
            record = json.loads(explanation.to_json())
            assert Explanation.from_dict(record) == explanation

    def test_model_that_was_never_saved_explains(self) -> None:
        assert make_predictor().explain("Soup.").model.sha256 == ""


class TestMethods:
    def test_scores_are_those_of_each_document_alone(self) -> None:
        predictor, texts = make_predictor(), make_texts(30)
        network, vocabulary = predictor.bundle.network, predictor.bundle.vocabulary
        for text, found in zip(texts, predictor.explain(texts, METHODS), strict=True):
            (words,) = vocabulary.encode([text])
            alone = Batch.from_arrays(
                words.tokens.astype(np.int64),
                words.words_per_sentence.astype(np.int64),
                np.array([len(words.words_per_sentence)]),
            )
            expected = {
                "attention_gradient": attention_gradient(network, alone)[1],
                "gradient": input_gradient(network, alone),
                "occlusion": occlusion(network, words.tokens, words.words_per_sentence),
            }
            for method, numbers in expected.items() if found.words else ():
                for column, label in enumerate(predictor.labels):
                    close = pytest.approx(numbers.words[:, column].tolist(), abs=1e-5)
                    assert found.scores(method, label) == close
                    close = pytest.approx(numbers.sentences[:, column].tolist(), abs=1e-5)
                    assert found.sentence_scores(method, label) == close

    def test_attention_is_the_same_whatever_else_is_asked_for(self) -> None:
        predictor = make_predictor()
        for one, other in zip(
            predictor.explain(TEXTS), predictor.explain(TEXTS, METHODS), strict=True
        ):
            assert one.probabilities == pytest.approx(other.probabilities)
            assert one.share == pytest.approx(other.share)

    def test_the_callers_mode_does_not_matter(self) -> None:
        predictor = make_predictor()
        expected = predictor.explain(TEXTS, METHODS)
        for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
            with mode:
                assert predictor.explain(TEXTS, METHODS) == expected

    def test_threads_leave_torchs_switches_alone(self) -> None:
        predictor = make_predictor()
        before = (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic)
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: predictor.explain(TEXTS, METHODS), range(40)))
        assert all(one == found[0] for one in found)
        assert (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic) == before

    @pytest.mark.parametrize("methods", [("lime",), ("attention", "shap"), "occlusion"])
    def test_what_is_no_method_is_refused(self, methods: Sequence[str]) -> None:
        with pytest.raises(ValueError, match=r"choose among attention|must be names in a list"):
            make_predictor().explain(TEXTS, methods)

    def test_variants_of_a_text_keep_its_sentences(self) -> None:
        predictor = make_predictor()
        words = predictor.explain(TEXTS[1]).words  # Lovely place . We will come back .
        kept = np.ones((2, len(words)), bool)
        kept[1, 3:] = False  # the second sentence
        found = predictor.masked_probabilities(TEXTS[1], kept)
        expected = predictor.probabilities([TEXTS[1], "Lovely place."])
        assert found == pytest.approx(expected, abs=1e-6)

    def test_uniform_probabilities_come_in_the_order_of_the_texts(self) -> None:
        predictor, texts = make_predictor(), make_texts(20)
        together = predictor.uniform_probabilities(texts)
        alone = np.concatenate([predictor.uniform_probabilities([text]) for text in texts])
        assert together == pytest.approx(alone, abs=1e-6)
        assert together != pytest.approx(predictor.probabilities(texts), abs=1e-3)


class TestExplainDocuments:
    def test_true_label_comes_through(self) -> None:
        documents = [Document("x7", TEXTS[0], label="good"), Document("x8", TEXTS[1], label="odd")]
        explanations = list(make_predictor().explain_documents(documents))
        assert [(one.id, one.true) for one in explanations] == [("x7", "good"), ("x8", "odd")]


class TestProbabilities:
    def test_rows_are_texts_and_columns_labels(self) -> None:
        predictor = make_predictor()
        rows = predictor.probabilities(TEXTS)
        assert rows.shape == (3, 2)
        assert rows.tolist() == [list(p.probabilities.values()) for p in predictor.classify(TEXTS)]

    def test_no_texts_give_no_rows(self) -> None:
        assert make_predictor().probabilities([]).shape == (0, 2)


class TestLoad:
    def test_loaded_model_classifies(self, tmp_path: Path) -> None:
        model = han.load(save_model(tmp_path / "m", ["bad", "fair", "good"]))
        assert model.labels == ("bad", "fair", "good")
        assert model.classify(TEXTS[0]).label in model.labels
        assert repr(model) == f"<han.Predictor: {len(model.bundle.vocabulary)} words, 3 classes>"

    @pytest.mark.gpu
    def test_model_on_a_gpu_predicts_as_on_a_cpu(self, tmp_path: Path) -> None:
        model = han.load(save_model(tmp_path / "m"))
        assert model.bundle.network.device.type == "cuda"
        texts = make_texts(30)
        on_cpu = Predictor(make_bundle()).probabilities(texts)
        assert model.probabilities(texts) == pytest.approx(on_cpu, abs=1e-5)
        assert len(model.explain(texts)) == 30
