"""What `han predict` writes, as it goes: each process the records of its own documents."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pytorch_lightning as pl
from torch import Tensor

from han.atomic import atomic_file
from han.corpus import StoredDocuments
from han.predictor import Prediction
from han.records import json_line


class RecordWriter(pl.Callback):
    """Write prediction records batch by batch, however many documents and processes there are.

    Each process writes those of its share beside `path`; the first one puts the shares together.
    `path` appears when all are there.

    Args:
        path: The file of JSON lines, in a folder that all processes see.
        documents: The documents to classify, of which each process takes a contiguous share.
        labels: The classes.
        thresholds: From which probability on a document has each, where it may have several.
    """

    def __init__(
        self,
        path: Path,
        documents: StoredDocuments,
        labels: Sequence[str],
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self._path = path
        self._documents = documents
        self._labels = labels
        self._thresholds = thresholds
        self._share: IO[str] | None = None
        self._next = 0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin this process's share."""
        loader: Any = trainer.predict_dataloaders
        self._next = loader.sampler.first
        self._share = open(  # noqa: SIM115  # closed when prediction ends, or fails
            self._share_of(trainer.global_rank), "w", encoding="utf-8", newline=""
        )

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401  # Lightning's: what `predict_step` returned, (B, C)
        batch: Any,  # noqa: ANN401  # Lightning's
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch's records."""
        probabilities: Tensor = outputs
        assert self._share is not None, "prediction has begun"
        for row in probabilities.tolist():
            self._share.write(json_line(self._record(self._next, row)) + "\n")
            self._next += 1

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the shares together, in the order of the documents."""
        assert self._share is not None, "prediction has begun"
        self._share.flush()
        os.fsync(self._share.fileno())  # where the first process may be on another machine
        self._share.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        shares = [self._share_of(rank) for rank in range(trainer.world_size)]
        with atomic_file(self._path, "wb") as whole:
            for share in shares:
                with open(share, "rb") as file:
                    shutil.copyfileobj(file, whole)
        for share in shares:
            share.unlink()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Remove this process's share."""
        if self._share is not None:
            self._share.close()
            self._share_of(trainer.global_rank).unlink(missing_ok=True)

    def _share_of(self, rank: int) -> Path:
        return self._path.with_name(f".{self._path.name}.{rank}")

    def _record(self, index: int, probabilities: Sequence[float]) -> dict[str, object]:
        """Return the prediction record of one document."""
        documents = self._documents
        return Prediction.from_probabilities(
            documents.ids[index],
            self._labels,
            probabilities,
            truncated=bool(documents.truncated[index]),
            empty=bool(documents.words_per_document[index] == 0),
            columns=documents.columns(index),
            thresholds=self._thresholds,
        ).to_record()
