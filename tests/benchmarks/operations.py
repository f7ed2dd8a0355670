"""How many floating-point operations the network's matrix products take."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from han.batching import Batch


def training_operations(
    batch: Batch, options: Mapping[str, int | float], *, distinct: bool = True
) -> dict[str, int]:
    """Count the operations of one member's matrix products in a training step, both passes.

    A product of an (m, k) matrix and a (k, n) one takes 2 m n k operations. Its backward pass takes
    as many for the gradient of each factor, so a step takes three times the forward pass. With B
    documents, S sentences, N words, U distinct words, and the widths E, H, A, C of embedding, GRU
    direction, context and classes, the forward pass takes

    - word inputs: 2 U E 6H, as the network multiplies each distinct word of the batch once by the
      input weights of both directions and their three gates (N instead of U if not `distinct`);
    - word states: 2 N H 6H, every step's state by the recurrent weights, also the zero state before
      the first step, as `torch.nn.GRU` does;
    - word attention: 2 N 2H A for the projection and 2 N A for the product with the context;
    - sentence inputs: 2 S 2H 6H; sentence states: 2 S H 6H; sentence attention: 2 S 2H A + 2 S A;
    - classifier: 2 B 2H C.

    Nothing else counts: neither what is computed element by element (gates, tanh, softmax, the
    weighted sums of the states, the loss), nor biases, nor the optimiser and the clipping of
    gradients. All these take time all the same, so the share of the roofline has no excuse in them.

    Args:
        batch: The documents.
        options: The network's sizes, as `HierarchicalAttentionNetwork.options` has them.
        distinct: Whether words that occur more than once meet the input weights once.

    Returns:
        The operations by the names above.
    """
    embedding, hidden = int(options["embedding_size"]), int(options["hidden_size"])
    attention, classes = int(options["attention_size"]), int(options["num_classes"])
    words, sentences = len(batch.tokens), len(batch.words_per_sentence)
    multiplied = len(torch.unique(batch.tokens)) if distinct else words
    forward = {
        "word_inputs": 2 * multiplied * embedding * 6 * hidden,
        "word_states": 2 * words * hidden * 6 * hidden,
        "word_attention": 2 * words * 2 * hidden * attention + 2 * words * attention,
        "sentence_inputs": 2 * sentences * 2 * hidden * 6 * hidden,
        "sentence_states": 2 * sentences * hidden * 6 * hidden,
        "sentence_attention": 2 * sentences * 2 * hidden * attention + 2 * sentences * attention,
        "classifier": 2 * len(batch) * 2 * hidden * classes,
    }
    return {name: 3 * operations for name, operations in forward.items()}
