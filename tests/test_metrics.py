from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from han.metrics import classification_figures

LABELS = ["a", "b", "c"]


class TestClassificationFigures:
    def test_figures_of_a_case_worked_by_hand(self) -> None:
        figures = classification_figures([0, 0, 1, 1], [0, 1, 1, 1], ["no", "yes"])
        assert figures["accuracy"] == 0.75
        assert figures["documents"] == 4
        assert figures["confusion_matrix"] == [[1, 1], [0, 2]]
        no, yes = figures["per_class"]["no"], figures["per_class"]["yes"]
        assert no == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "documents": 2}
        assert yes["precision"] == pytest.approx(2 / 3)
        assert yes["f1"] == pytest.approx(0.8)
        assert figures["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)

    def test_figures_agree_with_scikit_learn(self) -> None:
        generator = np.random.default_rng(0)
        targets, predictions = generator.integers(0, 3, (2, 100))
        figures = classification_figures(targets, predictions, LABELS)
        assert figures["accuracy"] == accuracy_score(targets, predictions)
        assert figures["macro_f1"] == f1_score(targets, predictions, average="macro")

    def test_class_without_a_document_counts_as_zero(self) -> None:
        figures = classification_figures([0, 1], [0, 1], LABELS)
        assert figures["per_class"]["c"] == {
            "precision": 0.0,
            "recall": 0.0,
            "f1": 0.0,
            "documents": 0,
        }
        assert figures["macro_f1"] == pytest.approx(2 / 3)

    def test_single_document_has_figures(self) -> None:
        assert classification_figures([1], [1], LABELS)["accuracy"] == 1.0

    def test_figures_are_json(self) -> None:
        figures = classification_figures(np.array([0, 1, 2]), np.array([0, 2, 2]), LABELS)
        assert json.loads(json.dumps(figures)) == figures

    def test_no_documents_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no documents"):
            classification_figures([], [], LABELS)

    @pytest.mark.parametrize(("targets", "predictions"), [([-1, 0], [0, 0]), ([0, 1], [0, 3])])
    def test_class_without_a_label_is_refused(
        self, targets: list[int], predictions: list[int]
    ) -> None:
        with pytest.raises(ValueError, match="not one of the 3 labels"):
            classification_figures(targets, predictions, LABELS)
