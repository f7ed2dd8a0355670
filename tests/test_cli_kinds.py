"""Several labels a document, and classes in an order, from a file to a prediction."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import han
from tests.reviews import OPINIONS, QUICK, read_csv, rows, write_rows
from tests.reviews import han as run_han

LEARNING = (
    *QUICK,
    "--trainer.max_epochs=4",
    "--data.batch_size=4",
    "--model.learning_rate=0.05",
    "--model.embedding_learning_rate=0.1",
    *(f"--model.{place}_dropout=0" for place in ("word", "embedding", "classifier", "sentence")),
)


TRACKING = ("ClassFigures", "WorstMistakes")


def several(count: int = 60) -> list[tuple[str, str, str, str]]:
    """Return documents that are bad, good, both or neither."""
    made = []
    for i, (name, text, _, split) in enumerate(rows(count)):
        has = [label for k, label in enumerate(("bad", "good")) if i >> k & 1]
        words = [OPINIONS[label][(i + k) % 5] for label in has for k in range(3)]
        neutral = " ".join(text.split()[:3])
        made.append((name, f"{neutral}. {' '.join(words)}.", ";".join(has), split))
    return made


def stars(count: int = 60) -> list[tuple[str, str, str, str]]:
    """Return documents with one to three stars."""
    made = []
    for i, (name, _, _, split) in enumerate(rows(count)):
        words = (OPINIONS["bad"], ["soup", "table", "place"], OPINIONS["good"])[i % 3]
        made.append((name, " ".join(words[(i + k) % 3] for k in range(4)), str(i % 3 + 1), split))
    return made


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of a network that gives several labels; nobody may change it."""
    folder = tmp_path_factory.mktemp("several")
    write_rows(folder / "labels.csv", several())
    with contextlib.chdir(folder):
        data = ("--data.train=labels.csv", "--data.label_separator=;")
        callbacks = [f"--trainer.callbacks+=han.tracking.{name}" for name in TRACKING]
        assert run_han("fit", *data, *LEARNING, *callbacks, "--refit=true", "--baseline") == 0
    return folder / "runs/labels/1"


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of a network for classes in an order."""
    folder = tmp_path_factory.mktemp("stars")
    write_rows(folder / "stars.csv", stars())
    with contextlib.chdir(folder):
        assert run_han("fit", "--data.train=stars.csv", "--data.task=ordinal", *LEARNING) == 0
    return folder / "runs/stars/1"


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


class TestSeveralLabels:
    def test_figures_are_of_all_labels(self, labelled: Path) -> None:
        found = read_json(labelled / "test_metrics.json")
        assert found["micro_f1"] > 0.8
        assert found.keys() >= {"accuracy", "macro_f1", "average_precision", "loss", "documents"}
        logged = [row for row in read_csv(labelled / "metrics.csv") if row["test_accuracy"]]
        for key in ("accuracy", "macro_f1", "micro_f1"):  # by torchmetrics
            assert float(logged[-1][f"test_{key}"]) == pytest.approx(found[key], abs=1e-6)

    def test_each_label_has_figures_while_training(self, labelled: Path) -> None:
        rows = [row for row in read_csv(labelled / "metrics.csv") if row["val_loss"]]
        found = [float(rows[-1][f"val_f1/{label}"]) for label in ("bad", "good")]
        assert np.mean(found) == pytest.approx(float(rows[-1]["val_macro_f1"]), abs=1e-6)

    def test_thresholds_are_tuned_on_the_validation_documents(self, labelled: Path) -> None:
        thresholds = read_json(labelled / "model/config.json")["thresholds"]
        best = torch.load(labelled / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        assert thresholds == best["thresholds"].tolist() != [0.5, 0.5]  # refit keeps them
        assert han.load(labelled).bundle.thresholds == tuple(thresholds)

    def test_linear_models_are_compared_by_the_same_figures(self, labelled: Path) -> None:
        record = read_json(labelled / "baseline.json")
        assert record["comparison"]["network"]["micro_f1"] > 0.8
        assert record["models"]["linear SVM"]["test"]["micro_f1"] > 0.8

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_predictions_are_what_the_figures_are_of(
        self, labelled: Path, suffix: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source, output = labelled.parents[2] / "labels.csv", f"out.{suffix}"
        options = ("--label_separator", ";", "--split", "test", "--output", output)
        assert run_han("classify", labelled, source, *options) == 0
        figures = read_json(labelled / "test_metrics.json")
        shown = f"accuracy {figures['accuracy']:.4f}, micro-F1 {figures['micro_f1']:.4f} on the 8"
        assert shown in capsys.readouterr().err
        if suffix == "csv":
            found = [row["labels"] for row in read_csv(Path(output))]
            assert {*found} <= {"", "bad", "good", "bad;good"}
        else:
            lines = Path(output).read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines]
            assert records[0].keys() == {"id", "labels", "probabilities", "truncated", "empty"}
            found = [";".join(record["labels"]) for record in records]
        true = [label for _, _, label, split in several() if split == "test"]
        right = np.mean([a == b for a, b in zip(found, true, strict=True)])
        assert right == figures["accuracy"]

    def test_a_terminal_shows_all_labels_of_a_document(
        self, labelled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        source = labelled.parents[2] / "labels.csv"
        assert run_han("classify", labelled, source, "--label_separator", ";") == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(re.match(r"(bad|good) [\d.]+%, (bad|good) [\d.]+%   d", line) for line in lines)
        assert any(re.match(r"no label, likeliest (bad|good) [\d.]+%   d", line) for line in lines)

    def test_the_trainer_tests_and_predicts_as_the_model_does(self, labelled: Path) -> None:
        source = labelled.parents[2] / "labels.csv"
        options = ("--ckpt_path", labelled, "--data.cache_dir=cache", "--data.label_separator=;")
        assert run_han("test", *options, "--data.test", source, "--run_dir=t") == 0
        own = read_json(labelled / "test_metrics.json")
        assert read_json(Path("t/test_metrics.json"))["per_class"] == own["per_class"]
        assert run_han("predict", *options, "--data.predict", source, "--run_dir=p") == 0
        lines = Path("p/predictions.jsonl").read_text(encoding="utf-8").splitlines()
        model = han.load(labelled)
        expected = [one.labels for one in model.classify([text for _, text, _, _ in several()])]
        assert [tuple(json.loads(line)["labels"]) for line in lines] == expected

    def test_an_explanation_is_of_each_label(self, labelled: Path) -> None:
        model = han.load(labelled)
        explanation = model.explain("The soup was awful, cold. Lovely and great.", ["occlusion"])
        assert explanation.predicted_labels == ("bad", "good")
        words = [explanation.text[word.start : word.end] for word in explanation.words]
        of_bad, of_good = (
            dict(zip(words, explanation.scores("occlusion", label), strict=True))
            for label in ("bad", "good")
        )
        assert of_bad["awful"] + of_bad["cold"] > of_good["awful"] + of_good["cold"]
        assert of_good["Lovely"] + of_good["great"] > of_bad["Lovely"] + of_bad["great"]
        assert "Read as " in explanation.to_text()
        assert " with " in explanation.to_text()

    def test_a_page_has_the_labels_of_each_document(self, labelled: Path) -> None:
        source = labelled.parents[2] / "labels.csv"
        options = ("--label_separator", ";", "--limit", "8", "--faithfulness", "0")
        assert run_han("explain", labelled, source, *options, "--output", "r.html") == 0
        page = Path("r.html").read_text(encoding="utf-8")
        assert "none of the labels" in page
        assert "accuracy" in page

    def test_lists_need_no_separator(self, folder: Path) -> None:
        lines = [
            json.dumps({"text": text, "label": label.split(";") if label else [], "split": split})
            for _, text, label, split in several()
        ]
        (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
        assert run_han("fit", "--data.train=a.jsonl", *QUICK, "--model.class_weights=balanced") == 0
        assert read_json(Path("runs/a/1/model/config.json"))["network"]["task"] == "multilabel"

    def test_a_balanced_sampler_is_refused_in_one_line(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_rows(folder / "labels.csv", several())
        data = ("--data.train=labels.csv", "--data.label_separator=;", "--data.sampler=balanced")
        assert run_han("fit", *data, *QUICK) == 1
        assert "`--data.sampler` balanced is for documents of one class" in capsys.readouterr().err


class TestOrder:
    def test_figures_tell_how_far_off_it_is(self, rated: Path) -> None:
        found = read_json(rated / "test_metrics.json")
        assert found["mean_absolute_error"] < 0.5
        assert found["quadratic_weighted_kappa"] > 0.5
        assert "mean absolute error" in (rated / "model/README.md").read_text(encoding="utf-8")

    def test_probabilities_are_those_of_classes(
        self, rated: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = rated.parents[2] / "stars.csv"
        assert run_han("classify", rated, source, "--split", "test") == 0
        result = capsys.readouterr()
        figures = read_json(rated / "test_metrics.json")
        assert f"mean absolute error {figures['mean_absolute_error']:.4f}" in result.err
        for line in result.out.splitlines():
            record = json.loads(line)
            assert sum(record["probabilities"].values()) == pytest.approx(1)
            assert record["label"] == max("123", key=record["probabilities"].__getitem__)

    def test_the_trainer_tests_it_without_being_told(self, rated: Path) -> None:
        options = ("--ckpt_path", rated, "--data.cache_dir=cache", "--run_dir=t")
        assert run_han("test", *options, "--data.test", rated.parents[2] / "stars.csv") == 0
        own = read_json(rated / "test_metrics.json")
        assert read_json(Path("t/test_metrics.json"))["mean_absolute_error"] == pytest.approx(
            own["mean_absolute_error"]
        )

    def test_words_without_numbers_are_refused_in_one_line(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_rows(folder / "reviews.csv", rows())
        assert run_han("fit", "--data.train=reviews.csv", "--data.task=ordinal", *QUICK) == 1
        assert "'bad' has none; rename them" in capsys.readouterr().err

    def test_numbers_alone_are_no_order(self, folder: Path) -> None:
        write_rows(folder / "stars.csv", stars())
        assert run_han("fit", "--data.train=stars.csv", *QUICK) == 0
        assert read_json(Path("runs/stars/1/model/config.json"))["network"]["task"] == "multiclass"
