"""Training: the network with its loss, metrics, optimiser and schedule, for Lightning."""

from __future__ import annotations

import time
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics import CatMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from han.batching import Batch
from han.metrics import classification_figures
from han.model import HANOutput, HierarchicalAttentionNetwork


class HANModule(pl.LightningModule):
    """A hierarchical attention network (Yang et al. 2016) in training.

    The sizes are the paper's; the rest is a recipe for a few hundred to a few hundred thousand
    documents. The paper's own training (section 3.3) is SGD without dropout and at a constant rate.

    Args:
        vocabulary_size: Number of word ids V; the data module knows it.
        num_classes: Number of classes C; the data module knows it.
        embedding_size: Width E of the word vectors; the data module knows it.
        hidden_size: Width H of each GRU direction, at both levels.
        attention_size: Width A of the context vectors, at both levels.
        word_dropout: Probability that a word of the vocabulary is read as unknown throughout a
            training batch, which teaches the network to do without it.
        embedding_dropout: Dropout of word vectors, the same wherever a word occurs in a batch.
        encoder_dropout: Dropout of the hidden states of both GRUs.
        classifier_dropout: Dropout of the document vector.
        label_smoothing: Share of each target's probability that is spread over all classes.
        optimizer: `adamw`, or `sgd` with momentum as in the paper.
        learning_rate: Peak learning rate of all but the word vectors.
        embedding_learning_rate: Peak learning rate of the word vectors; 0 keeps them as they are.
        momentum: Momentum of `sgd`.
        weight_decay: Decay of weight matrices; word vectors, biases and context vectors have none.
        schedule: `one_cycle` (Smith & Topin 2018: warm up, then anneal to nothing by the last
            epoch) or `constant`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int,
        embedding_size: int = 200,
        hidden_size: int = 50,
        attention_size: int = 100,
        word_dropout: float = 0.2,
        embedding_dropout: float = 0.3,
        encoder_dropout: float = 0.4,
        classifier_dropout: float = 0.4,
        label_smoothing: float = 0.1,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 3e-3,
        embedding_learning_rate: float = 1.5e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        schedule: Literal["one_cycle", "constant"] = "one_cycle",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = HierarchicalAttentionNetwork(
            vocabulary_size,
            num_classes,
            embedding_size,
            hidden_size,
            attention_size,
            word_dropout,
            embedding_dropout,
            encoder_dropout,
            classifier_dropout,
        )
        self.network.embedding.weight.requires_grad_(embedding_learning_rate > 0)
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "macro_f1": MulticlassF1Score(num_classes, average="macro"),
            }
        )
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")
        self.test_targets, self.test_predictions = CatMetric(), CatMetric()
        self.test_figures: dict[str, Any] = {}
        self._test_started, self._test_words = 0.0, 0

    def forward(self, batch: Batch) -> HANOutput:
        """Compute logits and attention of a batch, see `HierarchicalAttentionNetwork`."""
        return self.network(batch)  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Start training from the data module's pretrained vectors, where it has some."""
        matrix = getattr(self._datamodule, "embedding_matrix", None) if stage == "fit" else None
        if matrix is not None:
            with torch.no_grad():
                self.network.embedding.weight.copy_(torch.from_numpy(matrix))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the mean cross-entropy (nats) against smoothed targets (eq. 12)."""
        loss = functional.cross_entropy(
            self(batch).logits, _targets(batch), label_smoothing=self.hparams["label_smoothing"]
        )
        self.log("train_loss", loss, prog_bar=True, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the cross-entropy (nats), accuracy and macro-F1 over the validation split."""
        logits, targets = self(batch).logits, _targets(batch)
        self.val_metrics.update(logits, targets)
        self.log("val_loss", functional.cross_entropy(logits, targets), batch_size=len(batch))
        self.log_dict(self.val_metrics, prog_bar=True, batch_size=len(batch))

    def on_test_epoch_start(self) -> None:
        """Start the clock and forget the last test."""
        self.test_targets.reset()
        self.test_predictions.reset()
        self._test_started, self._test_words = time.perf_counter(), 0

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Log the cross-entropy (nats), accuracy and macro-F1 over the test split."""
        logits, targets = self(batch).logits, _targets(batch)
        self.test_metrics.update(logits, targets)
        self.test_targets.update(targets)
        self.test_predictions.update(logits.argmax(1))
        self._test_words += len(batch.tokens)
        self.log("test_loss", functional.cross_entropy(logits, targets), batch_size=len(batch))
        self.log_dict(self.test_metrics, batch_size=len(batch))

    def on_test_epoch_end(self) -> None:
        """Compute `test_figures`, which has the keys of `test_metrics.json`."""
        seconds = time.perf_counter() - self._test_started
        figures = classification_figures(
            _integers(self.test_targets), _integers(self.test_predictions), self._labels
        )
        self.test_figures = {
            **figures,
            "seconds": seconds,
            "words_per_second": self._test_words / seconds,
        }

    def on_test_end(self) -> None:
        """Add the loss, which Lightning has averaged by now."""
        self.test_figures["loss"] = float(self.trainer.callback_metrics["test_loss"])

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the probability (B, C) of each class."""
        return self(batch).logits.softmax(1)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:  # noqa: ANN401  # a dictionary that Lightning reads
        """Build the optimiser, and the schedule that changes its rates after every batch."""
        optimizer = self._optimizer()
        if self.hparams["schedule"] == "constant":
            return {"optimizer": optimizer}
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                "`schedule: one_cycle` must know how long training takes; set "
                "`--trainer.max_epochs`, or `--model.schedule constant`."
            )
        peaks = [group["lr"] for group in optimizer.param_groups]
        scheduler = OneCycleLR(
            optimizer, peaks, total_steps=int(steps), pct_start=0.2, cycle_momentum=False
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _optimizer(self) -> Optimizer:
        embedding = self.network.embedding.weight
        others = [p for p in self.network.parameters() if p is not embedding]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim > 1]},
            {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
        ]
        if (embedding_rate := self.hparams["embedding_learning_rate"]) > 0:
            groups.append({"params": [embedding], "weight_decay": 0.0, "lr": embedding_rate})
        rate, decay = self.hparams["learning_rate"], self.hparams["weight_decay"]
        if self.hparams["optimizer"] == "sgd":
            momentum = self.hparams["momentum"]
            return SGD(groups, lr=rate, momentum=momentum, weight_decay=decay)
        return AdamW(groups, lr=rate, weight_decay=decay, fused=True)

    @property
    def _datamodule(self) -> Any:  # noqa: ANN401  # Lightning sets it and leaves it untyped
        return getattr(self.trainer, "datamodule", None)

    @property
    def _labels(self) -> tuple[str, ...]:
        """The classes' names, or their numbers where no data module tells them."""
        numbers = map(str, range(self.hparams["num_classes"]))
        return tuple(getattr(self._datamodule, "labels", numbers))


def _targets(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ValueError("These documents have no labels, so there is no loss.")
    return batch.labels


def _integers(metric: nn.Module) -> Any:  # noqa: ANN401  # NumPy's type, for scikit-learn
    return metric.compute().long().cpu().numpy()  # type: ignore[operator]
