"""A model small enough to make anew in each test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from han.bundle import Bundle
from han.model import Ensemble
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary

TEXTS = (
    "The soup was cold. The waiter was slow, and the bill was wrong!",
    "Lovely place. We will come back.",
    "Nothing here was good; nothing was bad.",
)


def make_bundle(
    labels: Sequence[str] = ("bad", "good"),
    tokenizer: Tokenizer | None = None,
    members: int = 2,
    options: Mapping[str, Any] = MappingProxyType({}),
    **facts: object,
) -> Bundle:
    """Return networks with random weights, the same each time, far enough from zero to differ.

    Args:
        labels: The classes.
        tokenizer: How words are found.
        members: Number of networks.
        options: Other options of each.
        facts: What the model card tells.
    """
    vocabulary = Vocabulary.build(TEXTS, tokenizer or Tokenizer())
    torch.manual_seed(0)
    network = Ensemble(
        members,
        vocabulary_size=len(vocabulary),
        num_classes=len(labels),
        embedding_size=8,
        hidden_size=5,
        attention_size=6,
        **options,
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return Bundle(network, vocabulary, tuple(labels), facts)


def save_model(directory: Path, labels: Sequence[str] = ("bad", "good")) -> Path:
    """Write such a model and return its directory."""
    make_bundle(labels).save(directory)
    return directory
