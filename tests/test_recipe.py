from __future__ import annotations

from itertools import pairwise

import pytest

from han.recipe import Recipe, recipe_for


@pytest.mark.parametrize(
    ("documents", "classes", "expected"),
    [
        (0, 2, Recipe(12, 16, 0.007, 1.0)),
        (1_600, 2, Recipe(12, 16, 0.007, 1.0)),
        (4_000, 2, Recipe(5, 16, 0.007, 0.0)),
        (9_000, 20, Recipe(12, 36, 0.007 / 1.5**0.5, 1.0)),
        (16_000, 20, Recipe(12, 64, 0.007 / 2**0.5, 1.0)),
        (10_000_000, 2, Recipe(3, 64, 0.007 / 2**0.5, 0.0)),
    ],
)
def test_few_documents_of_a_class_are_read_often_and_many_seldom(
    documents: int, classes: int, expected: Recipe
) -> None:
    assert recipe_for(documents, classes) == expected


def test_more_documents_never_mean_more_epochs_or_a_higher_rate() -> None:
    recipes = [recipe_for(documents) for documents in range(0, 30_000, 50)]
    for fewer, more in pairwise(recipes):
        assert fewer.epochs >= more.epochs
        assert fewer.batch_size <= more.batch_size
        assert fewer.learning_rate >= more.learning_rate
        assert fewer.consistency >= more.consistency
