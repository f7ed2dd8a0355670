"""Made-up reviews that a tiny network tells apart, and how to train one on them quickly."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from han.cli import main

OPINIONS = {
    "bad": ["awful", "cold", "slow", "rude", "wrong"],
    "good": ["lovely", "great", "nice", "tasty", "friendly"],
}
OTHERS = ["the", "soup", "waiter", "was", "here", "and", "place", "very", "table", "we"]
COLUMNS = ("id", "text", "label", "split")
Row = tuple[str, str, str, str]

# No pretrained vectors, two networks of a few hundred weights each, two passes.
NETWORK = (
    "--data.vectors=none",
    "--data.embedding_size=8",
    "--model.members=2",
    "--model.hidden_size=4",
)
QUICK = (
    *NETWORK,
    "--model.attention_size=4",
    "--trainer.max_epochs=2",
    "--refit=false",
    "--data.cache_dir=cache",
)
FILES = {
    "config.yaml",
    "metrics.csv",
    "run.json",
    "test_metrics.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/README.md",
}
CACHE = "--data.cache_dir=cache"
PLAIN = tuple(  # without anything random but the start and the order of the documents
    f"--model.{place}_dropout=0"
    for place in ("word", "embedding", "encoder", "classifier", "sentence")
)


def rows(count: int = 40) -> list[Row]:
    """Return documents of two sentences: the last 8 for test, the 6 before for validation."""
    made = []
    for i in range(count):
        label = ("bad", "good")[i % 2]
        words = [OTHERS[(i * 7 + k * 3) % 10] for k in range(4 + i % 5)]
        words += [OPINIONS[label][(i + k) % 5] for k in range(3)]
        text = f"{' '.join(words[2:]).capitalize()}. {' '.join(words[:2])}!"
        split = "test" if i >= count - 8 else "validation" if i >= count - 14 else "train"
        made.append((f"d{i}", text, label, split))
    return made


def write_rows(
    path: Path, content: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS
) -> Path:
    """Write a CSV file."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *content])
    return path


def write_reviews(path: Path, count: int = 40) -> Path:
    """Write the documents with their splits."""
    return write_rows(path, rows(count))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def han(*args: str | Path) -> int:
    """Run a command as `han` does, and return its exit status."""
    return main([str(arg) for arg in args])


def fit(*args: str | Path) -> int:
    """Train quickly on `reviews.csv`."""
    return han("fit", "--data.train=reviews.csv", *QUICK, *args)


def files(directory: Path) -> set[str]:
    """Return the files in a directory, at any depth."""
    return {str(f.relative_to(directory)) for f in directory.rglob("*") if f.is_file()}


def left(folder: Path) -> set[str]:
    """Return what is in the folder that was not there before, but for the cache."""
    return {path.name for path in folder.iterdir()} - {"reviews.csv", "cache"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a run's model directory."""
    return safetensors.torch.load_file(run / "model" / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def figures(run: Path) -> dict[str, Any]:
    """Return a run's test figures."""
    return dict(json.loads((run / "test_metrics.json").read_text(encoding="utf-8")))


def record(run: Path) -> dict[str, Any]:
    """Return what a run says about itself."""
    return dict(json.loads((run / "run.json").read_text(encoding="utf-8")))


def validation_losses(run: Path) -> list[float]:
    """Return the logged validation loss of each epoch."""
    return [float(row["val_loss"]) for row in read_csv(run / "metrics.csv") if row["val_loss"]]
