from __future__ import annotations

import copy
import gc
import inspect
import json
import logging
import os
import pickle
import pickletools
import random
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

import han
from han import HANClassifier
from han.attention import Weighting
from han.model import GROUPS
from han.module import HANModule
from han.transformer import Blocks
from tests.reviews import han as run_han
from tests.reviews import rows, write_rows
from tests.varieties import flags

REVIEWS = rows(40)
TEXTS = [text for _, text, _, _ in REVIEWS]
LABELS = [label for _, _, label, _ in REVIEWS]
# No pretrained vectors, a network of a few hundred weights, two passes.
TINY: dict[str, Any] = {
    "vectors": "none",
    "embedding_size": 8,
    "members": 1,
    "hidden_size": 4,
    "attention_size": 4,
    "max_epochs": 2,
    "random_state": 0,
}
LEARNING: dict[str, Any] = {  # enough for these documents
    **TINY,
    "members": 2,
    "max_epochs": 6,
    "batch_size": 4,
    "learning_rate": 0.05,
    "embedding_learning_rate": 0.1,
    "word_dropout": 0.0,
    "embedding_dropout": 0.0,
    "classifier_dropout": 0.0,
    "sentence_dropout": 0.0,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, with temporary files and the user's cache; see it left empty."""
    home = tmp_path / "home"
    for name in ("work", "temporary"):
        (home / name).mkdir(parents=True)
    monkeypatch.chdir(home / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(home / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    yield tmp_path
    assert not any(path for name in ("work", "temporary") for path in (home / name).iterdir())
    assert not (home / "cache" / "han").exists()


def tiny(**options: Any) -> HANClassifier:  # noqa: ANN401
    return HANClassifier(**{**TINY, **options})


def learning(**options: Any) -> HANClassifier:  # noqa: ANN401
    return HANClassifier(**{**LEARNING, **options})


@pytest.fixture(scope="module")
def fitted() -> HANClassifier:
    return learning().fit(TEXTS, LABELS)


def weights(classifier: HANClassifier) -> dict[str, torch.Tensor]:
    return dict(classifier.predictor_.bundle.network.state_dict())


def same(one: HANClassifier, other: HANClassifier) -> bool:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class TestOptions:
    def defaults_of_the_command_line(self, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            run_han("fit", "--print_config")
        return dict(yaml.safe_load(capsys.readouterr().out))

    def test_defaults_are_those_of_the_command_line(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = self.defaults_of_the_command_line(capsys)
        theirs = {
            **{name: config["trainer"][name] for name in ("max_epochs", "gradient_clip_val")},
            "accelerator": config["trainer"]["accelerator"],
            **config["model"],
            **config["data"],
            "monitor": config["monitor"],
            "patience": config["patience"],
            "refit": config["refit"],
        }
        of_files = {"train", "validation", "test", "predict", "encoding", "on_bad_row"}
        of_files |= {"text_column", "label_column", "label_separator", "id_column", "split_column"}
        without = {"num_workers", "vocabulary_from", "seed"}
        theirs["validation_fraction"] = theirs.pop("validation_share")
        ours = HANClassifier().get_params()
        assert ours.pop("random_state") is None
        assert ours.pop("verbose") is False
        assert {group: ours.pop(group) for group in GROUPS} == dict.fromkeys(GROUPS)
        without |= GROUPS.keys()  # None stands for a group's own defaults, which are these
        assert {group: made(**theirs[group]) for group, made in GROUPS.items()} == {
            group: made() for group, made in GROUPS.items()
        }
        assert ours == {
            name: value for name, value in theirs.items() if name not in of_files | without
        }

    def test_annotations_are_those_of_the_command_line(self) -> None:
        ours = inspect.signature(HANClassifier).parameters
        of_network = dict(inspect.signature(HANModule).parameters)
        of_data = dict(inspect.signature(han.HANDataModule).parameters)
        for name, parameter in (of_network | of_data).items():
            if name in ours:
                optional = " | None" if name in GROUPS else ""
                assert ours[name].annotation == parameter.annotation + optional, name

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"optimizer": "adam"}, "`optimizer` must be 'adamw' or 'sgd', got 'adam'."),
            ({"monitor": "loss"}, "`monitor` must be 'val_loss' or"),
            ({"hidden_size": 5.5}, "`hidden_size` must be an integer, got 5.5."),
            ({"hidden_size": True}, "`hidden_size` must be an integer, got True."),
            ({"max_sentences": "all"}, "`max_sentences` must be an integer or None, got 'all'."),
            (
                {"learning_rate": float("nan")},
                "`learning_rate` must be a finite number or None, got nan.",
            ),
            ({"lowercase": "yes"}, "`lowercase` must be True or False, got 'yes'."),
            ({"max_epochs": 0}, "`max_epochs` must be at least 1, got 0."),
            ({"patience": -1}, "`patience` must be at least 0, got -1."),
            ({"gradient_clip_val": -1.0}, "`gradient_clip_val` must be at least 0, got -1.0."),
            ({"validation_fraction": 1.0}, "`validation_fraction` must be from 0 to below 1"),
            ({"random_state": -1}, "`random_state` must be from 0 to"),
            ({"random_state": "one"}, "'one' cannot be used to seed"),
            ({"hidden_size": 0}, "hidden_size"),
            ({"word_dropout": 1.5}, "word_dropout"),
            (
                {"word_attention": {"score": "dot"}},
                "`word_attention` must be a han.attention.Weighting or None, got {'score': 'dot'}.",
            ),
            ({"word_encoder": "lstm"}, "`word_encoder` must be 'gru' or 'transformer', got"),
            (
                {"word_encoder": "transformer", "transformer": Blocks(heads=5)},
                "`transformer.heads` must divide the width, which is twice `hidden_size`: 8, got 5",
            ),
            ({"min_count": 1000}, "lower `min_count`"),
            ({"vectors": "nowhere.txt"}, "nowhere.txt"),
        ],
    )
    def test_one_out_of_range_is_told(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
            tiny(**options).fit(TEXTS, LABELS)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_gpu_that_is_not_there_is_told(self) -> None:
        with pytest.raises(ValueError, match="No supported gpu backend found"):
            tiny(accelerator="gpu").fit(TEXTS, LABELS)

    def test_numbers_may_be_numpy_s(self) -> None:
        options = {
            "hidden_size": np.int64(4),
            "learning_rate": np.float32(0.5),
            "lowercase": np.bool_(True),
            "optimizer": np.str_("adamw"),
        }
        model = tiny(**options).fit(TEXTS, LABELS)
        assert same(model, tiny(learning_rate=0.5).fit(TEXTS, LABELS))

    def test_training_that_diverges_is_told(self) -> None:
        with pytest.raises(ValueError, match="Training diverged"):
            tiny(learning_rate=1e30, gradient_clip_val=None).fit(TEXTS, LABELS)

    def test_one_that_changes_the_network_does(self) -> None:
        assert weights(tiny(hidden_size=3).fit(TEXTS, LABELS)).keys()
        model = tiny(hidden_size=3, max_sentences=1).fit(TEXTS, LABELS)
        assert model.predictor_.bundle.network.options["hidden_size"] == 3
        assert model.predictor_.bundle.vocabulary.tokenizer.options()["max_sentences"] == 1

    def test_without_hierarchy_a_text_is_one_sentence(self) -> None:
        model = tiny(hierarchical=False).fit(TEXTS, LABELS)
        explanation = model.explain("One. Two!<br>Three?", ["occlusion"])
        [sentence] = explanation.sentences
        assert (sentence.start, sentence.end, sentence.weight) == (0, 19, 1.0)
        assert len(sentence.words) == 6
        with pytest.raises(ValueError, match="`max_sentences` 2 has no meaning"):
            tiny(hierarchical=False, max_sentences=2).fit(TEXTS, LABELS)


class TestSameAsTheCommandLine:
    NETWORK = (
        "--data.vectors=none",
        "--data.embedding_size=8",
        "--model.members=2",
        "--model.hidden_size=4",
        "--model.attention_size=4",
        "--trainer.max_epochs=3",
        "--trainer.accelerator=cpu",
    )

    def files(self, folder: Path, *args: str) -> dict[str, bytes]:
        """Train by the command line, and return the files of the model directory."""
        run, cache = folder / "run", folder / "cache"
        place = (f"--run_dir={run}", f"--data.cache_dir={cache}")
        assert run_han("fit", *self.NETWORK, *place, *args) == 0
        return {path.name: path.read_bytes() for path in (run / "model").iterdir()}

    def ours(self, folder: Path, classifier: HANClassifier) -> dict[str, bytes]:
        classifier.save(folder / "ours")
        return {path.name: path.read_bytes() for path in (folder / "ours").iterdir()}

    def test_the_model_directories_are_the_same(self, folder: Path) -> None:
        labels = [("class 2", "class 10", "class 1")[i % 3] for i in range(len(TEXTS))]
        table = list(zip(TEXTS, labels, strict=True))
        path = write_rows(folder / "reviews.csv", table, ["text", "label"])
        theirs = self.files(folder, f"--data.train={path}", "--seed_everything=7")
        model = tiny(members=2, max_epochs=3, accelerator="cpu", random_state=7).fit(TEXTS, labels)
        assert self.ours(folder, model) == theirs
        assert json.loads(theirs["config.json"])["labels"] == ["class 1", "class 2", "class 10"]
        assert model.classes_.tolist() == ["class 1", "class 10", "class 2"]
        assert model.predict_proba(TEXTS).argmax(1).tolist() == [
            model.classes_.tolist().index(prediction.label)
            for prediction in model.predictor_.classify(TEXTS)
        ]

    def test_they_are_with_another_attention_and_encoder(self, folder: Path) -> None:
        labels = [("bad", "good")[i % 2] for i in range(len(TEXTS))]
        path = write_rows(
            folder / "reviews.csv", list(zip(TEXTS, labels, strict=True)), ["text", "label"]
        )
        options: dict[str, Any] = {
            "word_attention": Weighting("dot", "entmax", heads=2),
            "sentence_attention": Weighting(normalization="hard_reinforce"),
            "sentence_encoder": "transformer",
            "transformer": Blocks(heads=2, positions="learned"),
        }
        theirs = self.files(folder, f"--data.train={path}", *flags(options))
        model = tiny(members=2, max_epochs=3, accelerator="cpu", **options).fit(TEXTS, labels)
        assert self.ours(folder, model) == theirs
        copied = pickle.loads(pickle.dumps(clone(model).fit(TEXTS, labels)))
        assert np.array_equal(copied.predict_proba(TEXTS), model.predict_proba(TEXTS))
        assert len(copied.explain("The soup was cold.").words[0].heads) == 4

    def test_they_are_with_own_validation_texts_and_numbers_as_labels(self, folder: Path) -> None:
        labels = [(70, 3, 5000)[i % 3] for i in range(len(TEXTS))]
        table = list(zip(TEXTS, labels, strict=True))
        path = write_rows(folder / "train.csv", table[:30], ["text", "label"])
        held_out = write_rows(folder / "held_out.csv", table[30:], ["text", "label"])
        files = (f"--data.train={path}", f"--data.validation={held_out}")
        theirs = self.files(folder, *files, "--refit=true")
        model = tiny(members=2, max_epochs=3, refit=True, accelerator="cpu").fit(
            TEXTS[:30], labels[:30], X_val=TEXTS[30:], y_val=labels[30:]
        )
        assert self.ours(folder, model) == theirs
        assert model.classes_.tolist() == [3, 70, 5000]

    @pytest.mark.slow
    def test_they_are_by_default(self, folder: Path) -> None:
        table = list(zip(TEXTS, LABELS, strict=True))
        path = write_rows(folder / "reviews.csv", table, ["text", "label"])
        options = (f"--run_dir={folder / 'run'}", f"--data.cache_dir={folder / 'cache'}")
        assert run_han("fit", f"--data.train={path}", *options) == 0
        theirs = {path.name: path.read_bytes() for path in (folder / "run" / "model").iterdir()}
        assert self.ours(folder, HANClassifier(random_state=0).fit(TEXTS, LABELS)) == theirs


class TestTexts:
    @pytest.mark.parametrize(
        "contain",
        [
            tuple,
            iter,
            np.array,
            lambda texts: np.array(texts, object),
            lambda texts: np.array(texts, object)[:, None],
            lambda texts: pd.Series(texts, index=range(100, 100 + len(texts))),
            lambda texts: pd.Series(texts, dtype="category"),
            lambda texts: pd.DataFrame({"text": texts}),
            pa.array,
            lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
        ],
    )
    def test_any_container_will_do(
        self, fitted: HANClassifier, contain: Callable[[list[str]], Any]
    ) -> None:
        model = learning().fit(contain(TEXTS), LABELS)
        assert same(model, fitted)
        np.testing.assert_array_equal(
            model.predict_proba(contain(TEXTS)), fitted.predict_proba(TEXTS)
        )

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ("one text", "one text is [text]"),
            (b"one text", "one text is [text]"),
            (None, "not NoneType"),
            (3, "not int"),
            ({"a": "b"}, "not dict"),
            ({"a", "b"}, "not set"),
            (np.array("a text"), "the shape ()"),
            (np.zeros((2, 3)), "the shape (2, 3). Choose the column"),
            (pd.DataFrame({"a": ["x"], "b": ["y"]}), "the shape (1, 2). Choose the column"),
            (np.arange(3), "X[0] is 0, not a string"),
            (csr_array((2, 3)), "sparse input is not supported"),
            (
                [["tokens", "of", "a", "text"]],
                "X[0] is ['tokens', 'of', 'a', 'text'], not a string",
            ),
            ([b"bytes"], "X[0] is b'bytes', not a string"),
            (["a text", None], "X[1] is None, not a string"),
            (["a text", float("nan")], "X[1] is nan, not a string"),
            (pd.Series(["a text", None, "another"]), "X[1] is nan, not a string"),
            (pd.Series(["a text", pd.NA], dtype=object), "X[1] is <NA>, not a string"),
            (pa.array(["a text", None]), "X[1] is None, not a string"),
        ],
    )
    def test_what_is_no_text_is_refused_with_its_place(
        self, fitted: HANClassifier, texts: object, message: str
    ) -> None:
        for act in (fitted.predict, fitted.predict_proba, lambda given: fitted.fit(given, LABELS)):
            with pytest.raises(ValueError, match=re.escape(message)):
                act(texts)

    def test_empty_texts_are_read(self, fitted: HANClassifier) -> None:
        assert np.isfinite(fitted.predict_proba(["", " \n"])).all()
        assert tiny().fit([*TEXTS, ""], [*LABELS, "bad"]).classes_.tolist() == ["bad", "good"]

    def test_lone_surrogates_and_line_ends_are_read(self) -> None:
        odd = ["\ud800 soup\r\n\x00was\u2028cold", "lovely \ud83d place"] * 4
        assert learning(min_count=1).fit(odd, ["a", "b"] * 4).score(odd, ["a", "b"] * 4) == 1

    def test_none_at_all_give_nothing(self, fitted: HANClassifier) -> None:
        assert fitted.predict([]).shape == (0,)
        assert fitted.predict_proba([]).shape == (0, 2)
        with pytest.raises(ValueError, match="`X` holds no texts"):
            fitted.fit([], [])


class TestLabels:
    @pytest.mark.parametrize(
        "choices",
        [
            ["bad", "good"],
            np.array([70, 5000], np.int16),
            np.array([-3, 12]),
            np.array([2.0, 10.0]),
            np.array([False, True]),
            np.array(["bad", "good"], object),
            np.array([" bad ", ""], object),  # which in a file would be no labels
            ["nan", "None"],
            ["class 10", "class 2"],
        ],
    )
    def test_predictions_are_what_was_given(self, choices: Any) -> None:  # noqa: ANN401
        labels = np.asarray(choices)[[int(label == "good") for label in LABELS]]
        model = learning().fit(TEXTS, labels)
        np.testing.assert_array_equal(model.classes_, np.unique(labels))
        predicted = model.predict(TEXTS)
        assert predicted.dtype == model.classes_.dtype == labels.dtype
        np.testing.assert_array_equal(predicted, labels)
        assert model.score(TEXTS, labels) == 1

    @pytest.mark.parametrize("dtype", ["category", "str", "object"])
    def test_series_of_strings_are_read(self, dtype: str) -> None:
        labels = pd.Series(LABELS, index=range(7, 47), dtype=dtype)
        assert learning().fit(TEXTS, labels).score(TEXTS, labels) == 1

    def test_series_of_numbers_are_read(self) -> None:
        labels = pd.Series([int(label == "good") for label in LABELS], dtype="Int64")
        assert learning().fit(TEXTS, labels).score(TEXTS, labels.to_numpy(int)) == 1

    def test_a_column_is_read_with_scikit_learn_s_warning(self, fitted: HANClassifier) -> None:
        with pytest.warns(DataConversionWarning):
            assert same(learning().fit(TEXTS, np.array(LABELS)[:, None]), fitted)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (None, "requires y to be passed"),
            (LABELS[:-1], "inconsistent numbers of samples"),
            (["bad"] * 40, "There is one class in `y`"),
            ([None, *LABELS[1:]], "y[0] is None; give each text a label."),
            ([float("nan"), *[1.0] * 39], "y[0] is nan; give each text a label."),
            (pd.Series([*LABELS[:-1], None]), "y[39] is nan; give each text a label."),
            (np.linspace(0, 1, 40), "Unknown label type"),
            (np.full((40, 2), 7), "1d array"),
            ([1, "a"] * 20, "label"),
        ],
    )
    def test_what_is_no_class_is_refused(self, labels: object, message: str) -> None:
        if isinstance(labels, list) and 1 in labels and "a" in labels:
            labels = np.array(labels, object)
        with pytest.raises(ValueError, match=re.escape(message)):
            tiny().fit(TEXTS, labels)


SETS = [("bad",), ("bad", "good"), ("good",), ()] * 10
SOME = [
    f"{'Awful and cold. ' * ('bad' in one)}{'Lovely, great. ' * ('good' in one)}The soup {i}."
    for i, one in enumerate(SETS)
]


class TestKinds:
    def test_lists_of_labels_come_back_as_such(self) -> None:
        classifier = learning().fit(SOME, SETS)
        assert classifier.classes_.tolist() == ["bad", "good"]
        found = classifier.predict(SOME)
        assert np.mean([{*a} == {*b} for a, b in zip(found, SETS, strict=True)]) > 0.8
        given = classifier.predictor_.classify(SOME)
        assert [one.labels for one in given] == found

    @pytest.mark.parametrize("kind", ["array", "table", "sparse"])
    def test_a_matrix_comes_back_as_one(self, kind: str) -> None:
        matrix = np.array([[label in one for label in ("good", "bad")] for one in SETS], int)
        table = pd.DataFrame(matrix, columns=["good", "bad"])
        given = {"array": matrix, "table": table, "sparse": csr_array(matrix)}[kind]
        classifier = learning().fit(SOME, given)
        assert classifier.classes_.tolist() == (["good", "bad"] if kind == "table" else [0, 1])
        found = classifier.predict(SOME)
        assert found.shape == matrix.shape
        assert classifier.score(SOME, matrix) == (found == matrix).all(1).mean() > 0.8
        assert classifier.predict_proba(SOME)[:, 1].argmax() in np.flatnonzero(matrix[:, 1])

    def test_its_rows_may_be_lists(self) -> None:
        rows = [[int(label in one) for label in ("bad", "good")] for one in SETS]
        found = tiny().fit(SOME, rows).predict(SOME)
        assert np.array_equal(found, tiny().fit(SOME, np.array(rows)).predict(SOME))

    def test_weights_are_by_the_label_s_own_name(self) -> None:
        numbers = [int(label == "good") + 3 for label in LABELS]
        classifier = tiny(class_weights={4: 2.5}, sampler="balanced").fit(TEXTS, numbers)
        assert classifier.predictor_.bundle.facts["training"]["class_weights"] == {"4": 2.5}
        with pytest.raises(ValueError, match="`class_weights` names 5, which does not occur"):
            tiny(class_weights={5: 1.0}).fit(TEXTS, numbers)

    def test_numbers_may_have_an_order(self) -> None:
        numbers = [{"bad": -1, "good": 10}[label] for label in LABELS]
        classifier = tiny(task="ordinal").fit(TEXTS, numbers)
        assert classifier.predictor_.labels == ("-1", "10")
        assert classifier.predictor_.task == "ordinal"
        assert classifier.predict_proba(TEXTS).sum(1) == pytest.approx(np.ones(len(TEXTS)))

    @pytest.mark.parametrize(
        ("options", "labels", "message"),
        [
            ({"task": "ordinal"}, LABELS, "'bad' has none; rename them"),
            ({"task": "multilabel"}, LABELS, "in `y` each text has one label"),
            ({"task": "ordinal"}, [["a"]] * 40, "in `y` each text has any number of labels"),
            ({}, [["a"]] * 40, "There is one class in `y`, 'a'"),
            ({}, [["a", 1.5]] * 40, r"y\[0\] holds 1.5; labels are strings"),
            ({}, np.eye(40, 3, dtype=int) * [1, 1, 0], "No text in `y` has the label 2"),
        ],
    )
    def test_what_does_not_fit_is_told(
        self, options: dict[str, Any], labels: object, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            tiny(**options).fit(TEXTS, labels)


class TestValidation:
    def test_own_texts_need_labels_that_were_trained_on(self) -> None:
        with pytest.raises(ValueError, match="`X_val` and `y_val` go together"):
            tiny().fit(TEXTS, LABELS, X_val=TEXTS)
        with pytest.raises(ValueError, match=re.escape("y_val[1] is 'fair', which does not occur")):
            tiny().fit(TEXTS, LABELS, X_val=TEXTS[:2], y_val=["bad", "fair"])
        with pytest.raises(ValueError, match=re.escape("X_val[0] is None, not a string")):
            tiny().fit(TEXTS, LABELS, X_val=[None], y_val=["bad"])

    def test_it_stops_training_and_keeps_the_best_epoch(self) -> None:
        options = {"max_epochs": 12, "patience": 1, "monitor": "val_accuracy", "refit": False}
        model = learning(**options).fit(TEXTS, LABELS)
        assert model.n_iter_ < 12
        assert model.best_validation_score_ == 1
        assert same(model, learning(**{**options, "patience": 2}).fit(TEXTS, LABELS))

    def test_without_it_all_texts_are_trained_on_to_the_end(self) -> None:
        model = learning(validation_fraction=0, max_epochs=8, patience=1).fit(TEXTS, LABELS)
        assert (model.n_iter_, model.best_validation_score_) == (8, None)
        assert model.predictor_.bundle.facts["data"]["train"]["documents"] == 40

    def test_two_texts_a_class_are_enough(self) -> None:
        texts = ["bad bad soup", "bad bad place", "good good soup", "good good place"]
        model = tiny().fit(texts, [0, 0, 1, 1])
        assert model.predictor_.bundle.facts["data"]["validation"]["documents"] == 1

    def test_one_text_a_class_is_enough_but_leaves_none_for_it(self) -> None:
        with pytest.warns(UserWarning, match="2 texts of 2 classes are too few") as caught:
            model = learning(min_count=1).fit(["bad soup", "good soup"], ["bad", "good"])
        assert caught[0].filename == __file__
        assert model.predict(["bad", "good"]).tolist() == ["bad", "good"]
        assert model.best_validation_score_ is None


class TestRandomState:
    def test_an_integer_decides_everything(self) -> None:
        one, two = (tiny(random_state=3).fit(TEXTS, LABELS) for _ in range(2))
        assert same(one, two)
        assert not same(one, tiny(random_state=4).fit(TEXTS, LABELS))

    def test_a_generator_goes_on(self) -> None:
        def fit_twice() -> list[HANClassifier]:
            generator = np.random.RandomState(3)
            return [tiny(random_state=generator).fit(TEXTS, LABELS) for _ in range(2)]

        first, second = fit_twice()
        again, _ = fit_twice()
        assert same(first, again)
        assert not same(first, second)

    def test_none_asks_numpy(self) -> None:
        models = []
        for seed in (1, 1, 2):
            np.random.seed(seed)
            models.append(tiny(random_state=None).fit(TEXTS, LABELS))
        assert same(models[0], models[1])
        assert not same(models[0], models[2])

    def test_threads_do_not_disturb_each_other(self) -> None:
        expected = [tiny(random_state=seed).fit(TEXTS, LABELS) for seed in range(3)]
        models = [tiny(random_state=seed) for seed in range(3)]
        threads = [threading.Thread(target=model.fit, args=(TEXTS, LABELS)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(map(same, models, expected))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def fail(*_: object) -> None:
    raise RuntimeError("broken")


def terminate(*_: object) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGTERM)
    return torch.zeros((), requires_grad=True)


class TestSurroundings:
    """That nothing is left over in folders, every test here asserts as it ends."""

    @pytest.mark.parametrize(
        ("step", "raised"),
        [
            (HANModule.training_step, None),
            (interrupt, KeyboardInterrupt),
            (fail, RuntimeError),
            (terminate, SystemExit),
        ],
    )
    def test_the_process_is_left_as_it_was(
        self,
        step: Callable[..., torch.Tensor | None],
        raised: type[BaseException] | None,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]

        def state() -> list[object]:
            return [
                random.getstate(),
                pickle.dumps(np.random.get_state()),
                torch.get_rng_state().tolist(),
                torch.get_num_threads(),
                signal.getsignal(signal.SIGINT),
                signal.getsignal(signal.SIGTERM),
                dict(os.environ),
                [logger.level for logger in loggers],
                torch.is_grad_enabled(),
                np.geterr(),
            ]

        before = state()
        model = tiny()
        monkeypatch.setattr(HANModule, "training_step", step)
        if raised is None:
            pickle.loads(pickle.dumps(model.fit(TEXTS, LABELS))).predict(TEXTS)
        else:
            with pytest.raises(raised):
                model.fit(TEXTS, LABELS)
            assert not hasattr(model, "classes_")
        assert state() == before
        assert tuple(capfd.readouterr()) == ("", "")
        assert not caplog.records

    def test_what_trained_it_is_gone(self) -> None:
        gc.collect()
        tiny().fit(TEXTS, LABELS)
        assert not any(type(obj) is HANModule for obj in gc.get_objects())

    def test_what_is_written_while_it_trains_goes_to_the_cache_folder_that_is_given(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(HANModule, "training_step", fail)
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
        with pytest.raises(RuntimeError, match="broken"):
            tiny(cache_dir=folder / "new" / "cache").fit(TEXTS, LABELS)
        assert not any((folder / "new" / "cache").iterdir())

    def test_progress_is_shown_when_asked_for(self, capfd: pytest.CaptureFixture[str]) -> None:
        tiny(verbose=True).fit(TEXTS, LABELS)
        out, err = capfd.readouterr()
        assert out == ""
        assert "Epoch" in err
        assert "Encoding" in err

    def test_a_failed_fit_leaves_the_earlier_model(self) -> None:
        model = learning().fit(TEXTS, LABELS)
        before = model.predict_proba(TEXTS)
        with pytest.raises(ValueError, match="one class"):
            model.fit(TEXTS, ["bad"] * 40)
        np.testing.assert_array_equal(model.predict_proba(TEXTS), before)


class TestPredictions:
    def test_probabilities_sum_to_one_and_have_their_logarithms(
        self, fitted: HANClassifier
    ) -> None:
        probabilities = fitted.predict_proba(TEXTS)
        np.testing.assert_allclose(probabilities.sum(1), 1)
        np.testing.assert_array_equal(fitted.predict_log_proba(TEXTS), np.log(probabilities))
        np.testing.assert_array_equal(
            fitted.predict(TEXTS), fitted.classes_[probabilities.argmax(1)]
        )

    def test_explanations_are_the_predictor_s(self, fitted: HANClassifier) -> None:
        methods = ["attention", "occlusion"]
        found = fitted.explain(TEXTS, methods)
        assert found == fitted.predictor_.explain(TEXTS, methods)
        assert fitted.explain(TEXTS[0]) == fitted.predictor_.explain(TEXTS[0])
        assert [explanation.predicted for explanation in found] == fitted.predict(TEXTS).tolist()
        with pytest.raises(ValueError, match="There is no method"):
            fitted.explain(TEXTS, ["gradients"])

    def test_before_fit_there_are_none(self, folder: Path) -> None:
        model = HANClassifier()
        calls: list[Callable[[], object]] = [
            lambda: model.predict(TEXTS),
            lambda: model.predict_proba(TEXTS),
            lambda: model.predict_log_proba(TEXTS),
            lambda: model.score(TEXTS, LABELS),
            lambda: model.explain(TEXTS),
            lambda: model.save(folder / "model"),
        ]
        for call in calls:
            with pytest.raises(NotFittedError):
                call()


class TestPickle:
    @pytest.mark.parametrize(
        "copied",
        [
            lambda model: pickle.loads(pickle.dumps(model)),
            lambda model: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))),
            copy.deepcopy,
            copy.copy,
        ],
    )
    def test_a_copy_predicts_the_same_bit_for_bit(
        self, fitted: HANClassifier, copied: Callable[[HANClassifier], HANClassifier]
    ) -> None:
        other = copied(fitted)
        np.testing.assert_array_equal(other.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
        assert other.explain(TEXTS) == fitted.explain(TEXTS)
        assert other.get_params() == fitted.get_params()

    def test_joblib_writes_it_too(self, fitted: HANClassifier, folder: Path) -> None:
        joblib.dump(fitted, folder / "model.joblib", compress=3)
        other = joblib.load(folder / "model.joblib")
        np.testing.assert_array_equal(other.predict_proba(TEXTS), fitted.predict_proba(TEXTS))

    def test_it_holds_the_files_of_the_model_directory(
        self, fitted: HANClassifier, folder: Path
    ) -> None:
        fitted.save(folder / "model")
        content = pickle.dumps(fitted)
        for path in (folder / "model").iterdir():
            assert path.read_bytes() in content
        names = {arg for _, arg, _ in pickletools.genops(content) if isinstance(arg, str)}
        assert not any("torch" in name for name in names if len(name) < 100)

    def test_one_that_was_not_fitted_pickles(self) -> None:
        model = pickle.loads(pickle.dumps(tiny(hidden_size=7)))
        assert model.get_params() == tiny(hidden_size=7).get_params()
        assert not hasattr(model, "classes_")

    def test_a_damaged_one_is_refused(self, fitted: HANClassifier) -> None:
        state = fitted.__getstate__()
        state["_files"]["model.safetensors"] = state["_files"]["model.safetensors"][:-8]
        with pytest.raises(ValueError, match="is damaged"):
            HANClassifier().__setstate__(state)

    @pytest.mark.gpu
    def test_a_copy_on_a_gpu_predicts_the_same(self) -> None:
        model = learning(accelerator="gpu").fit(TEXTS, LABELS)
        assert weights(model)["embedding.weight"].is_cuda
        other = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(other.predict_proba(TEXTS), model.predict_proba(TEXTS))
        on_cpu = pickle.loads(pickle.dumps(model.set_params(accelerator="cpu")))
        assert not weights(on_cpu)["embedding.weight"].is_cuda
        np.testing.assert_allclose(
            on_cpu.predict_proba(TEXTS), model.predict_proba(TEXTS), atol=1e-4
        )


class TestSave:
    def test_han_loads_what_it_writes(self, fitted: HANClassifier, folder: Path) -> None:
        fitted.save(folder / "model")
        model = han.load(folder / "model")
        assert model.labels == ("bad", "good")
        np.testing.assert_array_equal(model.probabilities(TEXTS), fitted.predict_proba(TEXTS))
        assert model.explain(TEXTS) == fitted.explain(TEXTS)


class TestInScikitLearn:
    def test_tags_say_that_it_reads_texts(self) -> None:
        tags = get_tags(HANClassifier())
        assert tags.input_tags.string
        assert not tags.input_tags.two_d_array
        assert tags.classifier_tags.multi_class
        assert tags.target_tags.required

    def test_a_clone_is_unfitted_and_the_same(self, fitted: HANClassifier) -> None:
        copied = clone(fitted)
        assert not hasattr(copied, "classes_")
        assert same(copied.fit(TEXTS, LABELS), fitted)

    def test_its_representation_shows_what_was_changed(self) -> None:
        assert repr(HANClassifier(hidden_size=7)) == "HANClassifier(hidden_size=7)"

    def test_pipelines(self) -> None:
        lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
        model = make_pipeline(lower, learning()).fit(TEXTS, LABELS)
        assert model.score(TEXTS, LABELS) == 1
        assert model.set_params(hanclassifier__hidden_size=3)[-1].hidden_size == 3

    def test_a_column_of_a_table(self) -> None:
        table = pd.DataFrame({"stars": range(40), "review": TEXTS})
        for column in ("review", ["review"]):
            chosen = ColumnTransformer([("texts", "passthrough", ["review"])])
            chosen.set_output(transform="pandas")
            assert make_pipeline(chosen, learning()).fit(table, LABELS).score(table, LABELS) == 1
            assert learning().fit(table[column], LABELS).score(table[column], LABELS) == 1

    def test_grid_search(self) -> None:
        search = GridSearchCV(learning(), {"hidden_size": [2, 4]}, cv=2, error_score="raise")
        search.fit(np.array(TEXTS), LABELS)
        assert search.best_params_["hidden_size"] in (2, 4)
        assert search.predict(TEXTS).shape == (40,)

    def test_cross_validation(self) -> None:
        texts, labels = pd.Series(TEXTS), pd.Series(LABELS)
        assert cross_val_score(learning(), texts, labels, cv=3, error_score="raise").min() > 0.6
        for scoring in ("roc_auc", "neg_log_loss", "f1_macro"):
            found = cross_val_score(
                learning(), texts, labels == "good", cv=2, scoring=scoring, error_score="raise"
            )
            assert np.isfinite(found).all()
        probabilities = cross_val_predict(learning(), texts, labels, cv=2, method="predict_proba")
        assert probabilities.shape == (40, 2)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: CalibratedClassifierCV(learning(), cv=2),
            lambda: VotingClassifier(
                [
                    ("han", learning()),
                    ("bag", make_pipeline(TfidfVectorizer(), LogisticRegression())),
                ],
                voting="soft",
            ),
            lambda: StackingClassifier(
                [
                    ("han", learning()),
                    ("bag", make_pipeline(TfidfVectorizer(), LogisticRegression())),
                ],
                cv=2,
            ),
        ],
    )
    def test_ensembles(self, make: Callable[[], Any]) -> None:
        model = make().fit(TEXTS, LABELS)
        assert model.score(TEXTS, LABELS) > 0.9
        np.testing.assert_allclose(model.predict_proba(TEXTS).sum(1), 1)

    def test_calibration_of_a_frozen_one(self, fitted: HANClassifier) -> None:
        model = CalibratedClassifierCV(FrozenEstimator(fitted)).fit(TEXTS, LABELS)
        assert model.score(TEXTS, LABELS) == 1

    @pytest.mark.slow
    def test_parallel_processes_give_what_one_does(self) -> None:
        def scores(processes: int) -> list[float]:
            search = GridSearchCV(
                learning(), {"hidden_size": [2, 4]}, cv=2, n_jobs=processes, error_score="raise"
            )
            return list(search.fit(TEXTS, LABELS).cv_results_["mean_test_score"])

        assert scores(2) == scores(1)


def test_the_readme_s_example_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    readme = Path(__file__).parents[1] / "README.md"
    section = readme.read_text(encoding="utf-8").partition("## In scikit-learn\n")[2]
    (example,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "hidden_size" in capsys.readouterr().out
    assert han.load("model").labels == ("bad", "good")
