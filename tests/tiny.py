"""A model small enough to make anew in each test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from han.bundle import Bundle
from han.model import HierarchicalAttentionNetwork
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary

TEXTS = (
    "The soup was cold. The waiter was slow, and the bill was wrong!",
    "Lovely place. We will come back.",
    "Nothing here was good; nothing was bad.",
)


def make_bundle(
    labels: Sequence[str] = ("bad", "good"), tokenizer: Tokenizer | None = None, **facts: object
) -> Bundle:
    """Return a model with random weights, the same each time, far enough from zero to differ."""
    vocabulary = Vocabulary.build(TEXTS, tokenizer or Tokenizer())
    torch.manual_seed(0)
    network = HierarchicalAttentionNetwork(len(vocabulary), len(labels), 8, 5, 6)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return Bundle(network, vocabulary, tuple(labels), facts)


def save_model(directory: Path, labels: Sequence[str] = ("bad", "good")) -> Path:
    """Write such a model and return its directory."""
    make_bundle(labels).save(directory)
    return directory
