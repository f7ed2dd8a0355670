"""How training follows from the number of documents, where the user does not say."""

from __future__ import annotations

from typing import NamedTuple

MOST_EPOCHS, FEWEST_EPOCHS = 12, 3
_READINGS = 9_600  # of each class's documents in all of training, between those bounds
_BATCH_SIZE, _LEARNING_RATE = 16, 1e-2  # with `MOST_EPOCHS`


class Recipe(NamedTuple):
    """What depends on the number of training documents.

    Attributes:
        epochs: Most passes over them.
        batch_size: Documents a batch.
        learning_rate: Peak learning rate.
        consistency: Weight of the divergence between two readings of a batch, see `HANModule`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    consistency: float


def recipe_for(documents: int, classes: int = 2) -> Recipe:
    """Return how to train on so many documents of so many classes.

    Up to 800 documents a class are read often, in small batches, at a high rate, and each batch
    twice. The more there are of a class, the more seldom they are read, in larger batches at a
    lower rate: the batch grows as the epochs fall, and the rate falls with their square root.
    """
    readings = _READINGS * classes / max(documents, 1)
    epochs = round(min(MOST_EPOCHS, max(FEWEST_EPOCHS, readings)))
    share = epochs / MOST_EPOCHS
    return Recipe(
        epochs,
        round(_BATCH_SIZE / share),
        _LEARNING_RATE * share**0.5,
        1.0 if epochs == MOST_EPOCHS else 0.0,
    )
