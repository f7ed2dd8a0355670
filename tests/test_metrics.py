from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from han.metrics import (
    best_thresholds,
    classification_figures,
    multilabel_figures,
    ordinal_figures,
)

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


class TestOrdinalFigures:
    def test_figures_of_a_case_worked_by_hand(self) -> None:
        figures = ordinal_figures([0, 1, 2, 2], [0, 1, 0, 1], LABELS)
        assert figures["accuracy"] == 0.5
        assert figures["mean_absolute_error"] == 0.75
        # Squares of the distances, 4 + 1, over the mean of all true with all predicted, 24 / 4.
        assert figures["quadratic_weighted_kappa"] == pytest.approx(1 - 5 / (24 / 4))
        assert figures["confusion_matrix"] == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]

    def test_where_all_is_one_class_kappa_is_0(self) -> None:
        assert ordinal_figures([1, 1], [1, 1], LABELS)["quadratic_weighted_kappa"] == 0


class TestMultilabelFigures:
    def test_figures_agree_with_scikit_learn(self) -> None:
        generator = np.random.default_rng(0)
        targets, scores = generator.integers(0, 2, (50, 3)), generator.random((50, 3))
        given = scores > 0.4
        figures = multilabel_figures(targets, given, scores, LABELS)
        assert figures["accuracy"] == accuracy_score(targets, given)
        for average in ("micro", "macro"):
            expected = f1_score(targets, given, average=average)
            assert figures[f"{average}_f1"] == pytest.approx(expected)
        assert figures["average_precision"] == pytest.approx(
            average_precision_score(targets, scores)
        )
        assert json.loads(json.dumps(figures)) == figures

    def test_a_label_without_a_document_leaves_average_precision_to_the_others(self) -> None:
        targets, scores = [[1, 0], [0, 0]], [[0.9, 0.1], [0.2, 0.3]]
        figures = multilabel_figures(targets, [[1, 0], [0, 0]], scores, ["a", "b"])
        assert figures["average_precision"] == 1
        assert figures["macro_f1"] == 0.5
        assert figures["per_class"]["b"]["average_precision"] == 0


class TestBestThresholds:
    def test_no_other_threshold_has_a_higher_f1(self) -> None:
        generator = np.random.default_rng(0)
        targets, scores = generator.integers(0, 2, (30, 4)), generator.random((30, 4)).round(1)
        found = best_thresholds(targets, scores, default=0.5)
        for label, threshold in enumerate(found):
            of = [
                f1_score(targets[:, label], scores[:, label] >= one)
                for one in [*np.linspace(0, 1, 101), threshold]
            ]
            assert of[-1] == max(of)

    def test_it_lies_between_two_scores(self) -> None:
        assert best_thresholds([[1], [1], [0]], [[0.8], [0.6], [0.2]], 0.5) == pytest.approx([0.4])

    def test_a_label_that_no_document_has_keeps_the_default(self) -> None:
        assert best_thresholds([[0], [0]], [[0.8], [0.6]], 0.5).tolist() == [0.5]

    def test_where_all_have_it_it_is_no_higher_than_the_default(self) -> None:
        assert best_thresholds([[1], [1]], [[0.8], [0.6]], 0.5)[0] < 0.6
