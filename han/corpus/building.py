"""Turn sources into the files of a store: read them once, settle labels and splits, encode."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.progress import Progress

from han.corpus.identity import source_name
from han.corpus.stored import SPLITS, IntArray
from han.corpus.writing import ROWS, SplitWriter, as_rows
from han.documents import Document, in_blocks, read_documents
from han.embeddings import PretrainedVectors
from han.tokenization import Tokenizer
from han.vocabulary import Vocabulary

_BLOCK_CHARACTERS = 500_000
_BLOCK_DOCUMENTS = 2_500


class Builder:
    """Fill the directory of a store, in the order of the methods.

    The texts pass through a temporary file; memory holds each document's split, label and lengths
    only.
    """

    def __init__(self, directory: Path, bar: Progress) -> None:
        self._directory = directory
        self._bar = bar
        self._spool = directory / "spool.arrow"
        self._split = np.zeros(0, np.int8)  # index in SPLITS, of each document
        self._found = np.zeros(0, np.int64)  # index in _names, of each label of each document
        self._counts = np.zeros(0, np.int64)  # labels of each document; -1: not known
        self._label: npt.NDArray[Any] = np.zeros(0, np.int64)  # as `StoredDocuments.labels`
        self._names: list[str] = []  # the labels in the order of their appearance
        self._multilabel: bool | None = None
        self._first: dict[tuple[int, int], str] = {}  # (split, label): where it was met first
        self._skipped: dict[str, Counter[str]] = {}
        self._labels: tuple[str, ...] = ()

    def read(
        self,
        sources: Mapping[str, str | Path],
        reader: Mapping[str, Any],
        multilabel: bool | None = None,
    ) -> None:
        """Read all sources once into the temporary file."""
        splits, labels, counts = array("b"), array("q"), array("q")
        numbers: dict[str, int] = {}
        self._multilabel = multilabel
        with pa.OSFile(str(self._spool), "wb") as file, pa.ipc.new_stream(file, ROWS) as writer:
            for role, source in sources.items():
                task = self._bar.add_task(f"Reading {source_name(source)}", total=None)
                self._skipped[role] = Counter()
                for block in in_blocks(
                    self._documents(role, sources, reader),
                    max_documents=_BLOCK_DOCUMENTS,
                    max_characters=_BLOCK_CHARACTERS,
                ):
                    for document in block:
                        split = (role == "train" and document.split) or role
                        splits.append(SPLITS.index(split))
                        names = self._labels_of(document)
                        counts.append(-1 if names is None else len(names))
                        for name in names or ():
                            label = numbers.setdefault(name, len(numbers))
                            self._first.setdefault((splits[-1], label), document.location)
                            labels.append(label)
                    writer.write_batch(as_rows(block))
                    self._bar.advance(task, len(block))
                self._bar.update(task, total=self._bar.tasks[task].completed)
        self._split = np.array(splits, np.int8)
        self._found = np.array(labels, np.int64)
        self._counts = np.array(counts, np.int64)
        self._names = list(numbers)
        for role, source in sources.items():
            if role not in self.present():
                raise ValueError(
                    f"{source}: no documents for {role}; give another file, or check the column "
                    f"{reader['split_column']!r}."
                )

    def _labels_of(self, document: Document) -> tuple[str, ...] | None:
        """Return a document's labels, and see that all documents are alike in having several."""
        several = isinstance(document.label, tuple)
        if document.label is not None and several != self._multilabel:
            if self._multilabel is None:
                self._multilabel = several
            elif several:
                raise ValueError(
                    f"{document.location}: a list of labels, where a document has one label; give "
                    "each document a list, or one label."
                )
        return (document.label,) if isinstance(document.label, str) else document.label

    def _documents(
        self, role: str, sources: Mapping[str, str | Path], reader: Mapping[str, Any]
    ) -> Iterator[Document]:
        """Read one source, without the documents that belong to another one's split."""
        for document in read_documents(
            sources[role],
            **reader,
            labels_required=role != "predict",
            skipped=self._skipped[role],
        ):
            if document.split is None or document.split == role or role == "predict":
                yield document
            elif role != "train":
                self._skipped[role][f"split {document.split}"] += 1
            elif document.split in sources:
                raise ValueError(
                    f"{document.location}: this row is for {document.split}, for which "
                    f"{sources[document.split]} is given as well; leave out one of the two."
                )
            else:
                yield document

    def present(self) -> list[str]:
        """Return the splits that have documents."""
        return [SPLITS[i] for i in np.unique(self._split)]

    def check_labels(self, sources: Mapping[str, str | Path], labels: Sequence[str] | None) -> None:
        """Settle the labels, and see that every document that needs one has one of them."""
        if labels is None:
            training = self._split == SPLITS.index("train")
            of_training = training.repeat(self._counts.clip(0))
            numbers = np.unique(self._found[of_training])
            labels = sorted((self._names[i] for i in numbers), key=natural_order)
            if len(labels) < 2:
                if self._multilabel:
                    raise ValueError(
                        f"{sources['train']}: the training documents have "
                        f"{f'the label {labels[0]!r} alone' if labels else 'no labels'}; at least "
                        "two labels are needed."
                    )
                raise ValueError(
                    f"{sources['train']}: all training documents have the label {labels[0]!r}; at "
                    "least two classes are needed."
                )
        self._labels = tuple(labels)
        index = {name: i for i, name in enumerate(self._labels)}
        for (split, label), location in self._first.items():
            if self._names[label] not in index and SPLITS[split] != "predict":
                known = ", ".join(repr(name) for name in self._labels[:20])
                raise ValueError(
                    f"{location}: the label {self._names[label]!r} of this {SPLITS[split]} "
                    f"document is not one of those trained on ({known}"
                    f"{', …' if len(self._labels) > 20 else ''}); correct it or leave it out."
                )
        renumber = np.array([index.get(name, -1) for name in self._names], np.int64)
        found, counts = renumber[self._found], self._counts
        self._label = np.full(len(counts), -1, np.int64)
        if not self._multilabel:
            self._label[counts > 0] = found
            return
        document = np.arange(len(counts)).repeat(counts.clip(0))  # of each label
        self._label = np.zeros((len(counts), len(self._labels)), np.int8)
        self._label[document, found] = 1
        self._label[counts < 0] = -1
        self._label[document[found < 0]] = -1  # of the documents to classify alone

    def split_off_validation(self, share: float, seed: int) -> None:
        """Move a share of the training documents to validation, in proportion to the classes."""
        train = np.flatnonzero(self._split == SPLITS.index("train"))
        if not len(train):
            return
        random = np.random.PCG64(seed).random_raw(len(train))
        train = train[np.lexsort((random, self._classes(train)))]
        # By class, shuffled within it; the first of each class stays. Taken at even distances,
        # each class gives its share to within one document.
        may_go = train[self._label_before(train)]
        count = validation_size(share, len(train))
        if count > len(may_go):
            raise ValueError(
                f"`validation_share` {share} of {len(train)} training documents cannot be split "
                "off: each class must keep one. Give a validation file, more documents or a "
                "smaller share."
            )
        chosen = may_go[((np.arange(count) + 0.5) * len(may_go) / count).astype(np.int64)]
        self._split[chosen] = SPLITS.index("validation")

    def _classes(self, documents: IntArray) -> IntArray:
        """Return by what documents are drawn: of several labels the rarest, C where there is none.

        Args:
            documents: int64 (B,).
        """
        labels = self._label[documents]
        if labels.ndim == 2:
            by_rarity = np.argsort((labels == 1).sum(0), kind="stable")
            rarest = by_rarity[(labels[:, by_rarity] == 1).argmax(1)]
            labels = np.where((labels == 1).any(1), rarest, labels.shape[1])
        return cast(IntArray, labels)

    def _label_before(self, documents: IntArray) -> npt.NDArray[np.bool_]:
        """Return whether each label that a document has occurs in those before it, bool (B,).

        One without labels needs one before it that has none either.

        Args:
            documents: int64 (B,), of one class one after the other.
        """
        labels = self._label[documents]
        if labels.ndim == 1:
            before = np.diff(labels, prepend=-1) == 0
        else:
            has = np.column_stack([labels == 1, ~(labels == 1).any(1)])
            before = ~(has & (has.cumsum(0) == 1)).any(1)
        return cast(npt.NDArray[np.bool_], before)

    def build_vocabulary(
        self, tokenizer: Tokenizer, min_count: int, pretrained: PretrainedVectors | None
    ) -> Vocabulary:
        """Collect the words of the training documents."""
        total = int((self._split == SPLITS.index("train")).sum())
        task = self._bar.add_task("Building the vocabulary", total=total)

        def texts() -> Iterator[str]:
            for split, block in self._spooled():
                if split == "train":
                    yield from block["text"].to_pylist()
                    self._bar.advance(task, len(block))

        keep = pretrained and pretrained.words_among
        vocabulary = Vocabulary.build(texts(), tokenizer, min_count, keep)
        if len(vocabulary) == 1:
            raise ValueError(
                f"No word occurs {min_count} times in the training documents; lower `min_count` "
                "or check that the texts are what they should be."
            )
        return vocabulary

    def write(self, vocabulary: Vocabulary) -> None:
        """Encode all documents and write what makes a store, last the list of its files."""
        task = self._bar.add_task("Encoding", total=len(self._split))
        present = self.present()
        with ExitStack() as files:
            writers = {
                split: SplitWriter(self._directory / split, len(vocabulary), files)
                for split in present
            }
            for split, block in self._spooled():
                writers[split].write(block, vocabulary.encode(block["text"].to_pylist()))
                self._bar.advance(task, len(block))
            summary = {}
            for split, writer in writers.items():
                labels = self._label[self._split == SPLITS.index(split)]
                summary[split] = writer.finish(labels, self._labels)
                summary[split]["skipped"] = self._skipped.get(split, {})
        self._spool.unlink()
        (self._directory / "tokenizer.json").write_text(vocabulary.to_json(), encoding="utf-8")
        manifest = {
            "labels": self._labels,
            "tokenizer": vocabulary.tokenizer.options(),
            "splits": present,
            "summary": summary,
            "files": {
                file.relative_to(self._directory).as_posix(): file.stat().st_size
                for file in sorted(self._directory.rglob("*"))
                if file.is_file()
            },
        }
        text = json.dumps(manifest, indent=1)
        (self._directory / "corpus.json").write_text(text, encoding="utf-8")

    def _spooled(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield the documents again, some thousand of one split at a time."""
        first = 0
        with pa.OSFile(str(self._spool)) as file, pa.ipc.open_stream(file) as blocks:
            for block in blocks:
                of_block = self._split[first : first + len(block)]
                first += len(block)
                for split in np.unique(of_block):
                    yield SPLITS[split], block.filter(pa.array(of_block == split))


def validation_size(share: float, documents: int) -> int:
    """Return how many of the training documents a share above 0 takes for validation."""
    return max(1, round(share * documents))


def natural_order(label: str) -> tuple[int, float, list[Any], str]:
    """Return a key that sorts numbers by value, before other labels, and "class 2" before "10"."""
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", label):
        return 0, float(label), [], label
    parts = re.split(r"([0-9]+)", label)  # text, number, text, ..., text
    return 1, 0.0, [int(part) if i % 2 else part for i, part in enumerate(parts)], label
