from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from han.batching import SequentialBatchSampler
from han.cli.predicting import RecordWriter

COUNT, PROCESSES, BATCH = 11, 3, 2
DOCUMENTS: Any = SimpleNamespace(
    ids=[f"d{i}" for i in range(COUNT)],
    truncated=[i == 4 for i in range(COUNT)],
    words_per_document=[0 if i == 7 else 9 for i in range(COUNT)],
    columns=lambda index: {"year": 2000 + index},
)


def make_trainer(rank: int) -> Any:  # noqa: ANN401  # of Lightning's trainer, what is asked of it
    sampler = SequentialBatchSampler(COUNT, BATCH, rank=rank, num_replicas=PROCESSES)
    return SimpleNamespace(
        global_rank=rank,
        world_size=PROCESSES,
        is_global_zero=rank == 0,
        predict_dataloaders=SimpleNamespace(sampler=sampler),
        strategy=SimpleNamespace(barrier=lambda: None),
    )


def begin(path: Path, rank: int) -> tuple[RecordWriter, Any]:
    """Let a process classify its share: the probability of `b` is a hundredth of the number."""
    writer, trainer, module = RecordWriter(path, DOCUMENTS, ("a", "b")), make_trainer(rank), Any
    writer.on_predict_start(trainer, module)  # type: ignore[arg-type]
    for number, batch in enumerate(trainer.predict_dataloaders.sampler):
        rows = torch.tensor([[1 - i / 100, i / 100] for i in batch])
        writer.on_predict_batch_end(trainer, module, rows, None, number)  # type: ignore[arg-type]
    return writer, trainer


class TestRecordWriter:
    def test_shares_make_one_file_in_the_order_of_the_documents(self, tmp_path: Path) -> None:
        path = tmp_path / "predictions.jsonl"
        for rank in (2, 1, 0):  # the first one waits for the others
            assert not path.exists()
            writer, trainer = begin(path, rank)
            writer.on_predict_end(trainer, Any)  # type: ignore[arg-type]
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert [one["id"] for one in records] == list(DOCUMENTS.ids)
        assert [one["year"] for one in records] == list(range(2000, 2000 + COUNT))
        likely = [one["probabilities"]["b"] for one in records]
        assert likely == pytest.approx([i / 100 for i in range(COUNT)])
        assert [one["truncated"] for one in records].index(True) == 4
        assert [one["empty"] for one in records].index(True) == 7
        assert list(tmp_path.iterdir()) == [path]

    def test_an_error_leaves_nothing(self, tmp_path: Path) -> None:
        writer, trainer = begin(tmp_path / "predictions.jsonl", 1)
        writer.on_exception(trainer, Any, ValueError())  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []
