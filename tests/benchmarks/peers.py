"""Other implementations as contenders, from a checkout of each: none of their code is here.

A peer is a file that defines its network, wherever it lies in the folder that is given or at most
two levels below, whatever the checkout is called:

- sgrvinod/a-PyTorch-Tutorial-to-Text-Classification: `model.py`
- cedias/Hierarchical-Sentiment: `Nets.py`
- ryotaro612/han: `han/model/document.py`

Every one gets the whole documents, padded to the longest of the batch where it needs that, built
before the clock starts as its own data loader builds them. They train as their own scripts do:
cross-entropy, no clipping, `torch.optim.Adam`. ryotaro612's network takes its embedding's gradients
sparse by default (then with `torch.optim.SparseAdam`) and dense in the command of its README, so it
is measured both ways. Their ids are ours plus 1, since their row 0 is padding.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Adam, SparseAdam

from han.batching import Batch
from tests.benchmarks.contenders import (
    ATTENTION_SIZE,
    EMBEDDING_SIZE,
    HIDDEN_SIZE,
    Contender,
    Prepared,
)


class Peer(NamedTuple):
    """How to find and build one.

    Attributes:
        file: The path of the file that defines its network, inside its checkout.
        content: What that file contains and another of this name hardly would.
        build: Makes a contender of the file and the numbers of word ids and classes.
    """

    file: str
    content: str
    build: Callable[[Path, int, int], Contender]


def available(
    folder: Path, vocabulary_size: int, num_classes: int, batch: Batch
) -> Iterator[tuple[str, Contender]]:
    """Yield each peer that is in `folder` and runs; say on standard error which do not.

    Args:
        folder: Holds the checkouts.
        vocabulary_size: Number of word ids V.
        num_classes: Number of classes C.
        batch: Documents to try each on.
    """
    for name, peer in PEERS.items():
        path = _find(folder, peer)
        if path is None:
            sys.stderr.write(f"{name} is left out: there is no {peer.file} of it in {folder}.\n")
            continue
        try:
            contender = peer.build(path, vocabulary_size + 1, num_classes)
            prepared = contender.prepare(batch)
            (logits,) = contender.infer([prepared])
            if logits.shape != (len(batch), num_classes) or not logits.isfinite().all():
                raise ValueError("it returned no finite logit for each document and class")
            contender.train([prepared])
        except Exception as error:  # what foreign code raises under this version of torch
            sys.stderr.write(f"{name} is left out: {type(error).__name__}: {error}\n")
            continue
        yield name, contender


def _find(folder: Path, peer: Peer) -> Path | None:
    for prefix in ("", "*/", "*/*/"):
        for path in sorted(folder.glob(prefix + peer.file)):
            if peer.content in path.read_text(encoding="utf-8", errors="replace"):
                return path
    return None


def _load(name: str, path: Path) -> ModuleType:
    """Import a file, or a package by its folder, under a name that is not taken."""
    package = path.is_dir()
    spec = importlib.util.spec_from_file_location(
        name,
        path / "__init__.py" if package else path,
        submodule_search_locations=[str(path)] if package else None,
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _sentences(batch: Batch) -> list[list[Tensor]]:
    """Return the documents as lists of sentences, each the ids of its words plus 1."""
    sentences = torch.split(batch.tokens + 1, batch.words_per_sentence.tolist())
    ends = batch.sentences_per_document.cumsum(0).tolist()
    return [list(sentences[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _sgrvinod(path: Path, vocabulary_size: int, num_classes: int) -> Contender:
    network = _load("peer_sgrvinod", path).HierarchialAttentionNetwork(
        n_classes=num_classes,
        vocab_size=vocabulary_size,
        emb_size=EMBEDDING_SIZE,
        word_rnn_size=HIDDEN_SIZE,
        sentence_rnn_size=HIDDEN_SIZE,
        word_rnn_layers=1,
        sentence_rnn_layers=1,
        word_att_size=ATTENTION_SIZE,
        sentence_att_size=ATTENTION_SIZE,
        dropout=0,
    )
    return Contender(network, [Adam(network.parameters())], _sgrvinod_batch)


def _sgrvinod_batch(batch: Batch) -> Prepared:
    """Pad to (B, sentences of the longest document, words of the longest sentence)."""
    assert batch.labels is not None
    documents = _sentences(batch)
    sentences = batch.sentences_per_document
    shape = (len(batch), int(sentences.max()), int(batch.words_per_sentence.max()))
    padded, lengths = (
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape[:2], dtype=torch.int64),
    )
    for row, document in enumerate(documents):
        for column, sentence in enumerate(document):
            padded[row, column, : len(sentence)] = sentence
            lengths[row, column] = len(sentence)
    return Prepared((padded, sentences, lengths), batch.labels, torch.arange(len(batch)))


class _Cedias(nn.Module):
    """The network of cedias, which keeps its weights to itself and drops words out regardless."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._weights: dict[str, Tensor] = {}
        for level in ("word", "sent"):
            attention = network.get_submodule(level).get_submodule("emb_att")
            attention.register_forward_hook(self._keep(level))

    def _keep(self, level: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(module: nn.Module, inputs: Any, weights: Tensor) -> None:  # noqa: ANN401
            self._weights[level] = weights

        return keep

    def train(self, mode: bool = True) -> _Cedias:
        super().train(mode)
        # Its dropout of 0.5 is written into `forward` and reads this; nothing else there does.
        self.network.training = False
        return self

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        logits = self.network(*inputs)
        return logits, self._weights["word"], self._weights["sent"]


def _cedias(path: Path, vocabulary_size: int, num_classes: int) -> Contender:
    han = _load("peer_cedias", path).HAN  # its context is as wide as its states: 100
    network = _Cedias(han(vocabulary_size, num_classes, EMBEDDING_SIZE, HIDDEN_SIZE))
    return Contender(network, [Adam(network.parameters())], _cedias_batch)


def _cedias_batch(batch: Batch) -> Prepared:
    """Sort documents and sentences, the longest first, and number the sentences from 1."""
    assert batch.labels is not None
    documents = _sentences(batch)
    order = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
    places = [
        (row, place) for row, index in enumerate(order) for place in range(len(documents[index]))
    ]
    places.sort(key=lambda place: -len(documents[order[place[0]]][place[1]]))
    sentences = [documents[order[row]][place] for row, place in places]
    lengths = [len(documents[index]) for index in order]
    numbers = torch.zeros(len(order), lengths[0], dtype=torch.int64)
    for number, place in enumerate(places, start=1):
        numbers[place] = number
    words = pad_sequence(sentences, batch_first=True)
    inputs = (words, numbers, [len(sentence) for sentence in sentences], lengths)
    return Prepared(inputs, batch.labels[order], torch.tensor(order))


def _ryotaro612(
    path: Path, vocabulary_size: int, num_classes: int, *, sparse: bool = False
) -> Contender:
    package = "peer_ryotaro612"
    _load(package, path.parents[1])  # under its own name, `han`, it would be taken for ours
    factory = importlib.import_module(f"{package}.model.document").DocumentClassifierFactory()
    network = factory.create(
        vocabulary_size,
        num_classes,
        padding_idx=0,
        embedding_dim=EMBEDDING_SIZE,
        embedding_sparse=sparse,
        sentence_gru_hidden_size=HIDDEN_SIZE,
        sentence_dim=ATTENTION_SIZE,
        doc_gru_hidden_size=HIDDEN_SIZE,
        doc_dim=ATTENTION_SIZE,
    )
    embeddings, others = network.sparse_dense_parameters()
    optimizers = [SparseAdam(embeddings)] if sparse else []
    return Contender(network, [*optimizers, Adam(others)], _ryotaro612_batch)


def _ryotaro612_sparse(path: Path, vocabulary_size: int, num_classes: int) -> Contender:
    return _ryotaro612(path, vocabulary_size, num_classes, sparse=True)


def _ryotaro612_batch(batch: Batch) -> Prepared:
    assert batch.labels is not None
    documents = [[sentence.int() for sentence in document] for document in _sentences(batch)]
    return Prepared((documents,), batch.labels, torch.arange(len(batch)))


_RYOTARO612 = ("han/model/document.py", "class DocumentClassifierFactory")
PEERS = {
    "sgrvinod": Peer("model.py", "class HierarchialAttentionNetwork", _sgrvinod),
    "cedias": Peer("Nets.py", "class HAN(", _cedias),
    "ryotaro612": Peer(*_RYOTARO612, _ryotaro612),
    "ryotaro612, sparse": Peer(*_RYOTARO612, _ryotaro612_sparse),
}
