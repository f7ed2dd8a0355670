"""A classifier for classes that have an order, such as ratings."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ContinuationRatio(nn.Module):
    """Give each of C ordered classes its probability by C - 1 questions: is it a higher one?

    sigmoid(z_k) is the probability that the class is above k if it is not below k, and z_k is
    linear in the document vector (Fienberg 1980; in networks, CORN: Shi, Cao & Raschka 2021). So

    P(class = k) = sigmoid(z_1) ... sigmoid(z_(k-1)) sigmoid(-z_k),

    without the last factor for the highest class. These sum to 1 whatever the weights are, and the
    cross-entropy is the sum of those of the questions that arise for a document.

    Args:
        input_size: Width D of the document vector.
        num_classes: Number of classes C, at least 2.

    Raises:
        ValueError: There are fewer than two classes.
    """

    def __init__(self, input_size: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2 in an order, got {num_classes}.")
        self.higher = nn.Linear(input_size, num_classes - 1)

    def forward(self, documents: Tensor) -> Tensor:
        """Return the logarithm of each class's probability (B, C).

        Args:
            documents: Floats (B, D).
        """
        higher = self.higher(documents)  # (B, C - 1)
        reached = functional.pad(functional.logsigmoid(higher).cumsum(-1), (1, 0))
        log_probabilities: Tensor = reached + functional.pad(functional.logsigmoid(-higher), (0, 1))
        return log_probabilities
