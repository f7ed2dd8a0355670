"""How training follows from the number of documents, where the user does not say."""

from __future__ import annotations

from typing import NamedTuple

MOST_EPOCHS, FEWEST_EPOCHS = 18, 3
_READINGS, _READINGS_OF_CLASS = 100_000, 7_000  # of documents in training, between those bounds
_BATCH_SIZE, _LEARNING_RATE = 16, 7e-3  # up to `_FEW` documents
_FEW, _MANY = 4_000, 16_000
_VERY_MANY = 50_000


class Recipe(NamedTuple):
    """What depends on the training documents.

    Attributes:
        epochs: Most passes over them.
        batch_size: Documents a batch.
        learning_rate: Peak learning rate.
        refit: Whether to train anew on the validation documents too.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    refit: bool


def recipe_for(documents: int, classes: int = 2) -> Recipe:
    """Return how to train on so many documents of so many classes.

    Up to some 400 documents a class, and 5,000 in all, are read often; the more there are, the more
    seldom. Up to 4,000 documents in all come in small batches at a high rate; from there to 16,000
    the batch grows in proportion, and the rate falls from 0.007 to 0.004. Where there are fewer
    than 50,000, those that are for validation are worth another training.
    """
    readings = min(_READINGS, _READINGS_OF_CLASS * classes) / max(documents, 1)
    epochs = round(min(MOST_EPOCHS, max(FEWEST_EPOCHS, readings)))
    growth = min(max(documents, _FEW), _MANY) / _FEW
    return Recipe(
        epochs, round(_BATCH_SIZE * growth), _LEARNING_RATE / growth**0.4, documents < _VERY_MANY
    )
