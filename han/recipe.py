"""How training follows from the number of documents, where the user does not say."""

from __future__ import annotations

from typing import NamedTuple

MOST_EPOCHS, FEWEST_EPOCHS = 12, 3
_READINGS = 9_600  # of each class's documents in all of training, between those bounds
_BATCH_SIZE, _LEARNING_RATE = 16, 7e-3  # up to `_FEW` documents
_FEW, _MANY = 4_000, 16_000


class Recipe(NamedTuple):
    """What depends on the training documents.

    Attributes:
        epochs: Most passes over them.
        batch_size: Documents a batch.
        learning_rate: Peak learning rate.
        refit: Whether to train anew on the validation documents too, when they have said for how
            long.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    refit: bool


def recipe_for(documents: int, classes: int = 2) -> Recipe:
    """Return how to train on so many documents of so many classes.

    Up to some 800 documents a class are read often; the more a class has, the more seldom. Up to
    4,000 documents in all come in small batches at a high rate; from there to 16,000 the batch
    grows in proportion, and the rate falls from 0.007 to 0.005. Fewer than 16,000 are worth every
    document that there is.
    """
    readings = _READINGS * classes / max(documents, 1)
    epochs = round(min(MOST_EPOCHS, max(FEWEST_EPOCHS, readings)))
    growth = min(max(documents, _FEW), _MANY) / _FEW
    return Recipe(
        epochs, round(_BATCH_SIZE * growth), _LEARNING_RATE / growth**0.25, documents < _MANY
    )
