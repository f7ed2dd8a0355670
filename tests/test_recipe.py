from __future__ import annotations

from itertools import pairwise

import pytest

from han.recipe import Recipe, recipe_for


@pytest.mark.parametrize(
    ("documents", "classes", "expected"),
    [
        (0, 2, Recipe(18, 16, 0.007, True)),
        (1_200, 2, Recipe(12, 16, 0.007, True)),
        (4_000, 2, Recipe(4, 16, 0.007, True)),
        (9_000, 20, Recipe(11, 36, 0.007 / 2.25**0.4, True)),
        (16_000, 20, Recipe(6, 64, 0.007 / 4**0.4, True)),
        (10_000_000, 2, Recipe(3, 64, 0.007 / 4**0.4, False)),
    ],
)
def test_few_documents_of_a_class_are_read_often_and_many_seldom(
    documents: int, classes: int, expected: Recipe
) -> None:
    assert recipe_for(documents, classes) == expected


def test_more_documents_never_mean_more_epochs_or_a_higher_rate() -> None:
    recipes = [recipe_for(documents) for documents in range(0, 60_000, 50)]
    for fewer, more in pairwise(recipes):
        assert fewer.epochs >= more.epochs
        assert fewer.batch_size <= more.batch_size
        assert fewer.learning_rate >= more.learning_rate
        assert fewer.refit >= more.refit
