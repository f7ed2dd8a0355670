"""The kinds of network that options make: what holds for the default one must hold for each."""

from __future__ import annotations

from typing import Any, get_args

from han.attention import Normalization, Score, Weighting
from han.transformer import Blocks

SMALL = Blocks(heads=2, feedforward_size=7)

VARIETIES: dict[str, dict[str, Any]] = {
    **{
        score: {"word_attention": Weighting(score), "sentence_attention": Weighting(score)}
        for score in get_args(Score)
    },
    **{
        name: dict.fromkeys(("word_attention", "sentence_attention"), Weighting(normalization=name))
        for name in get_args(Normalization)[1:]  # softmax is that of the scores
    },
    "several heads": {
        "word_attention": Weighting(heads=3),
        "sentence_attention": Weighting("dot", "entmax", heads=2),
    },
    "several heads of words": {"word_attention": Weighting("general", heads=2)},
    "transformer of words": {"word_encoder": "transformer", "transformer": SMALL},
    "transformer of sentences": {"sentence_encoder": "transformer", "transformer": SMALL},
    "transformer": {
        "word_encoder": "transformer",
        "sentence_encoder": "transformer",
        "transformer": Blocks(layers=2, heads=5, feedforward_size=3, positions="learned"),
        "word_attention": Weighting(heads=2),
    },
}


def flags(options: dict[str, Any]) -> list[str]:
    """Return the options as the command line has them."""
    found = []
    for name, value in options.items():
        if isinstance(value, Weighting | Blocks):
            found += [f"--model.{name}.{key}={of_key}" for key, of_key in vars(value).items()]
        else:
            found.append(f"--model.{name}={value}")
    return found
