"""Training: the network with its loss, metrics, optimiser and schedule, for Lightning."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torchmetrics import (
    CatMetric,
    MeanAbsoluteError,
    MeanMetric,
    Metric,
    MetricCollection,
    SumMetric,
)
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from han.attention import Weighting
from han.batching import Batch
from han.calibration import calibration_figures, fit_temperature
from han.metrics import best_thresholds, figures_of
from han.model import ATTENTIONS, GROUPS, Draws, Encoder, Ensemble, HANOutput
from han.optimization import RowwiseAdamW, distinct_rows
from han.recipe import Recipe, recipe_for
from han.task import (
    THRESHOLD,
    Task,
    check_weights,
    decisions,
    initial_loss,
    label_weights,
    loss,
    probabilities,
)
from han.transformer import Blocks, RaggedTransformer

TRANSFORMER_SHARE = 1 / 7  # of the learning rate, for a transformer's weights
# Of hard attention (Xu et al. 2015, section 4.1). Of 1, 0.1 and 0.03, 0.1 was best for the rewards
# on the validation abstracts: the draws of a document's sentences add up.
BASELINE_DECAY, REWARD_SHARE, ENTROPY_SHARE = 0.9, 0.1, 0.01
WARM_UP, FIRST_SHARE, LAST_SHARE = 0.2, 1 / 25, 1 / 250_000  # of the steps, of the peak rate twice
LINEAR_WARM_UP = 0.1  # of the steps


class HANModule(pl.LightningModule):
    """A hierarchical attention network (Yang et al. 2016) in training.

    The sizes are the paper's; the rest is a recipe for a few hundred to a few hundred thousand
    documents. The paper's own training (section 3.3) is SGD without dropout and at a constant rate.
    What is None follows from the data module's number of training documents, see `recipe_for`;
    without a data module of ours, as for few documents.

    After each validation in training the network has the temperature that suits the validation
    documents best, see `han.calibration`. It changes probabilities, neither labels nor training.

    Args:
        vocabulary_size: Number of word ids V; the data module knows it.
        num_classes: Number of classes C; the data module knows it.
        embedding_size: Width E of the word vectors; the data module knows it.
        task: What labels are; the data module knows it.
        members: Number of networks that are trained side by side, each from its own start; the mean
            of their logits is the answer (deep ensembles: Lakshminarayanan et al. 2017). Time grows
            with it, in training and afterwards.
        hidden_size: Width H of each GRU direction, at both levels; a transformer is 2H wide.
        attention_size: Width A of the context vectors, at both levels.
        word_dropout: Probability that a word of the vocabulary is read as unknown throughout a
            training batch, which teaches the network to do without it.
        embedding_dropout: Dropout of word vectors, the same wherever a word occurs in a batch.
        encoder_dropout: Dropout of the hidden states that attention pools, at both levels; the same
            elements in all words of a sentence, and in all sentences of a document. It makes
            attention more even.
        classifier_dropout: Dropout of the document vector.
        word_attention: How attention weighs the words of a sentence.
        sentence_attention: How attention weighs the sentences of a document.
        word_encoder: What reads the words of a sentence: a bidirectional GRU, as in the paper, or a
            transformer.
        sentence_encoder: What reads the sentences of a document.
        transformer: The blocks of a transformer, at either level.
        sentence_dropout: Probability of leaving a sentence out of a training document.
        label_smoothing: Share of each target's probability that is spread over all classes; none
            where a document may have several labels.
        class_weights: How much documents of each class count in the loss, of the validation
            documents too: all the same by default, `balanced` (each class as much as the others),
            or weights by the label's name, such as `{spam: 5}`, 1 for those left out. Of several
            labels, how much having one counts beside not having it.
        optimizer: `adamw`, or `sgd` with momentum as in the paper.
        learning_rate: Peak learning rate; by default 0.007 for few documents, 0.004 for many. The
            weights of a transformer have a seventh of it.
        embedding_learning_rate: Peak learning rate of the word vectors, by default that of all
            else; 0 keeps them as they are.
        momentum: Momentum of `sgd`.
        weight_decay: Decay of weight matrices; word vectors, biases and context vectors have none.
        schedule: `one_cycle` (Smith & Topin 2018: warm up, then anneal to nothing by the last
            epoch), `cosine` (the same with a shorter, linear warm-up: Loshchilov & Hutter 2017),
            `plateau` (halve the rates where the validation loss has not improved for two epochs;
            without `refit`) or `constant`.

    Attributes:
        calibration: The temperature, and the figures of the documents that it was fitted on, see
            `calibration_figures`; None where there were none.

    Raises:
        ValueError: A size, a probability or a rate is out of range.
    """

    usual_worth: Tensor  # of each member's draws
    label_weights: Tensor | None  # (C,), how much each class counts in the loss
    thresholds: Tensor | None  # (C,), from which probability on a document has each of several

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int,
        embedding_size: int = 200,
        task: Task = "multiclass",
        members: int = 3,
        hidden_size: int = 50,
        attention_size: int = 100,
        word_dropout: float = 0.2,
        embedding_dropout: float = 0.3,
        encoder_dropout: float = 0.0,
        classifier_dropout: float = 0.4,
        word_attention: Weighting = Weighting(),
        sentence_attention: Weighting = Weighting(),
        word_encoder: Encoder = "gru",
        sentence_encoder: Encoder = "gru",
        transformer: Blocks = Blocks(),
        sentence_dropout: float = 0.3,
        label_smoothing: float = 0.1,
        class_weights: Literal["balanced"] | dict[str, float] | None = None,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float | None = None,
        embedding_learning_rate: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        schedule: Literal["one_cycle", "cosine", "plateau", "constant"] = "one_cycle",
    ) -> None:
        super().__init__()
        shares = {"sentence_dropout": sentence_dropout, "label_smoothing": label_smoothing}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"`{name}` must be at least 0 and below 1, got {share}.")
        check_weights(class_weights)
        if learning_rate is not None and learning_rate <= 0:
            raise ValueError(f"`learning_rate` must be above 0, got {learning_rate}.")
        if embedding_learning_rate is not None and embedding_learning_rate < 0:
            raise ValueError(
                f"`embedding_learning_rate` must be at least 0, got {embedding_learning_rate}."
            )
        self.save_hyperparameters(logger=False)  # config.yaml has them
        self.network = Ensemble(
            members,
            vocabulary_size=vocabulary_size,
            num_classes=num_classes,
            embedding_size=embedding_size,
            task=task,
            hidden_size=hidden_size,
            attention_size=attention_size,
            word_dropout=word_dropout,
            embedding_dropout=embedding_dropout,
            encoder_dropout=encoder_dropout,
            classifier_dropout=classifier_dropout,
            word_attention=word_attention,
            sentence_attention=sentence_attention,
            word_encoder=word_encoder,
            sentence_encoder=sentence_encoder,
            transformer=transformer,
        )
        for group in GROUPS:
            self.hparams[group] = self.network.options[group]  # plain values, as a checkpoint holds
        for embedding in self.network.embeddings:
            embedding.weight.requires_grad_(embedding_learning_rate != 0)
        if any(self.hparams[name]["normalization"] == "hard_reinforce" for name in ATTENTIONS):
            worth_of_guesses = torch.full((members,), -initial_loss(num_classes, task))
            self.register_buffer("usual_worth", worth_of_guesses)  # see `_worth_of_draws`
        weights = None if class_weights is None else torch.ones(num_classes)
        self.register_buffer("label_weights", weights)  # of what, is known when training starts
        several = task == "multilabel"
        thresholds = torch.full((num_classes,), THRESHOLD) if several else None
        self.register_buffer("thresholds", thresholds)  # tuned on the validation documents
        metrics = MetricCollection(_metrics(task, num_classes))
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")
        # Lightning's own mean over processes divides by whole numbers of documents.
        self.val_loss, self.test_loss = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.val_targets, self.test_targets = CatMetric(), CatMetric()
        self.val_logits = CatMetric(nan_strategy="disable")  # it would flatten them
        self.test_logits = CatMetric(nan_strategy="disable")
        self.test_words = SumMetric()
        self.test_figures: dict[str, Any] = {}
        self.test_classes = np.zeros(0, np.int64)
        self.test_scores: npt.NDArray[np.float32] | None = None
        self.calibration: dict[str, Any] | None = None
        self._test_started = 0.0
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self.gradient_norms: list[float] = []  # of each member, at the last step

    @property
    def options(self) -> dict[str, Any]:
        """The arguments, with what the number of training documents makes of those that are None.

        Known as long as the trainer is there that trains it.
        """
        given, of_words = self.hparams["learning_rate"], self.hparams["embedding_learning_rate"]
        datamodule = None if self._trainer is None else self._datamodule
        recipe: Recipe = getattr(datamodule, "recipe", recipe_for(0))
        rate = recipe.learning_rate if given is None else float(given)
        return {
            **self.hparams,
            "learning_rate": rate,
            "embedding_learning_rate": rate if of_words is None else float(of_words),
        }

    def forward(self, batch: Batch) -> HANOutput:
        """Compute logits and attention of a batch, see `Ensemble`."""
        return self.network(batch)  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Start training from the data module's pretrained vectors, where it has some.

        Raises:
            ValueError: They are not of the network's shape, or class weights are not of its labels.
        """
        if self.label_weights is not None and stage == "fit":
            given, labels = self.hparams["class_weights"], self._datamodule.training_labels
            weights = label_weights(given, self._labels, labels)
            self.label_weights.copy_(torch.from_numpy(weights))
        matrix = getattr(self._datamodule, "embedding_matrix", None) if stage == "fit" else None
        if matrix is None:
            return
        shape = (self.hparams["vocabulary_size"], self.hparams["embedding_size"])
        if matrix.shape != shape:
            raise ValueError(
                f"The data module's word vectors are {matrix.shape[0]} x {matrix.shape[1]}, the "
                f"network's {shape[0]} x {shape[1]}; give it the data module's "
                "`vocabulary_size` and `embedding_size`."
            )
        with torch.no_grad():
            for embedding in self.network.embeddings:
                embedding.weight.copy_(torch.from_numpy(matrix))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the sum of the members' cross-entropies (nats, eq. 12) against smoothed targets.

        A sum, so that each member trains as if it were alone. Where hard attention drew, another
        term teaches it to draw better, see `_worth_of_draws`.
        """
        task, targets = self._task, _targets(batch)
        options = {"weights": self.label_weights, "smoothing": self.hparams["label_smoothing"]}
        outputs = [member(self._without_some_sentences(batch)) for member in self.network.members]
        losses = torch.stack([loss(output.logits, targets, task, **options) for output in outputs])
        self._refuse_divergence(losses, f"batch {batch_index + 1}", batch_index)
        self.log(
            "train_loss",
            losses.mean(),
            prog_bar=True,
            on_epoch=True,
            batch_size=len(batch),
            sync_dist=True,
        )
        total = losses.sum()
        for member, output in enumerate(outputs):
            if output.draws is not None:
                total = total + self._worth_of_draws(member, output.logits, output.draws, targets)
        return total

    def _refuse_divergence(self, loss: Tensor, of_what: str, batch_index: int | None) -> None:
        """Raise a `ValueError`, in all processes at once, if a loss is no finite number in one.

        Checkpoints stay as they are: what they hold was sound.
        """
        finite = bool(loss.isfinite().all())
        trainer = self._trainer
        if trainer is None or trainer.strategy.reduce_boolean_decision(finite):
            return
        name = None if finite else getattr(self._datamodule, "name_documents", None)
        documents = f" (documents {name(batch_index)})" if name and batch_index is not None else ""
        raise ValueError(
            f"Training diverged, the loss of {of_what} in epoch {self.current_epoch + 1} is not a "
            f"finite number{documents}; lower `learning_rate`."
        )

    def _worth_of_draws(self, member: int, logits: Tensor, draws: Draws, targets: Tensor) -> Tensor:
        """Return what has the gradient of REINFORCE (Williams 1992; Xu et al. 2015, eqs. 10-12).

        A draw is worth the log-probability of the right class, above what a member had on average
        of late; draws that are worth more become likelier. Some entropy keeps them from settling
        too soon.
        """
        worth = -loss(logits.detach(), targets, self._task, reduction="none")  # (B,)
        above = worth - self.usual_worth[member]
        self.usual_worth[member] += (1 - BASELINE_DECAY) * above.mean()
        rewards = REWARD_SHARE * above * draws.log_probability  # (B,)
        return -(rewards + ENTROPY_SHARE * draws.entropy).mean()

    def _without_some_sentences(self, batch: Batch) -> Batch:
        if (probability := self.hparams["sentence_dropout"]) == 0:
            return batch
        draws = torch.rand(len(batch.words_per_sentence), device=self.device)
        return batch.drop_sentences(draws < probability)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        for metric in (self.val_targets, self.val_logits):
            metric.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Log the cross-entropy (nats), accuracy, macro-F1 and what else the task has.

        Where documents may have several labels, these are for thresholds of a half.

        Returns:
            The logits (B, C), for callbacks.
        """
        logits, targets = self(batch).logits, _targets(batch)
        self.val_metrics.update(self._scores(logits), targets)
        self.val_targets.update(targets)
        self.val_logits.update(logits)
        of_each = loss(logits, targets, self._task, weights=self.label_weights, reduction="none")
        self.val_loss.update(of_each)
        self.log("val_loss", self.val_loss, batch_size=len(batch))
        self.log_dict(self.val_metrics, prog_bar=True, batch_size=len(batch))
        return logits  # type: ignore[no-any-return]

    def on_validation_epoch_end(self) -> None:
        """Choose what decisions and probabilities go by, in training: thresholds, a temperature.

        A network that diverged is refused, and not kept.
        """
        fitting = self.trainer.state.fn == TrainerFn.FITTING  # otherwise it is as it was saved
        if fitting:
            value = self.val_loss.compute()
            self._refuse_divergence(value, "the validation documents", None)
            if self._plateau is not None:  # not by Lightning, which forgets the step as it resumes
                self._plateau.step(float(value))
        logits, targets = self.val_logits.compute().cpu(), _integers(self.val_targets)
        if self.thresholds is not None:
            scores = self._scores(logits).numpy()
            if fitting:
                tuned = best_thresholds(targets, scores, THRESHOLD)
                self.thresholds.copy_(torch.from_numpy(tuned))
            decided = scores >= self.thresholds.cpu().numpy()
            figures = figures_of(self._task, targets, decided, self._labels, scores)
            self.log("val_average_precision", figures["average_precision"], sync_dist=True)
        elif fitting:
            logits = logits.double()
            temperature = fit_temperature(logits.numpy(), targets)
            figures = self._calibration_figures(logits, targets, temperature)
            self.calibrate({"temperature": temperature, **figures})

    def validation_figures(self) -> dict[str, Any]:
        """Return figures of the last validation, see `figures_of`; of several labels at a half."""
        logits, targets = self.val_logits.compute().cpu(), _integers(self.val_targets)
        scores = self._scores(logits)
        several = self.thresholds is not None
        halves = torch.full((logits.shape[1],), THRESHOLD)
        decided = decisions(scores, self._task, halves).numpy()
        probabilities = scores.numpy() if several else None
        return figures_of(self._task, targets, decided, self._labels, probabilities)

    def calibrate(self, calibration: dict[str, Any] | None) -> None:
        """Set `calibration`, and have the network use its temperature."""
        self.calibration = calibration
        self.network.temperature = 1.0 if calibration is None else calibration["temperature"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the temperature beside the weights, and where `plateau` stands."""
        checkpoint["calibration"] = self.calibration
        if self._plateau is not None:
            checkpoint["plateau"] = self._plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take both; earlier checkpoints have no temperature."""
        self.calibrate(checkpoint.get("calibration"))
        self._plateau_state = checkpoint.get("plateau")

    def on_test_epoch_start(self) -> None:
        """Start the clock and forget the last test."""
        for metric in (self.test_targets, self.test_logits, self.test_words):
            metric.reset()
        self._test_started = time.perf_counter()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Log the cross-entropy (nats), accuracy, macro-F1 and what else the task has.

        Unlike in training and validation, the cross-entropy is that of `Ensemble.probabilities`.
        """
        logits, targets = self(batch).logits, _targets(batch)
        scores = self._scores(logits)
        decided = decisions(scores, self._task, self.thresholds)
        self.test_metrics.update(decided, targets)
        self.test_targets.update(targets)
        self.test_logits.update(logits)
        self.test_words.update(len(batch.tokens))
        scaled = logits / self.network.temperature
        self.test_loss.update(loss(scaled, targets, self._task, reduction="none"))
        self.log("test_loss", self.test_loss, batch_size=len(batch))
        self.log_dict(self.test_metrics, batch_size=len(batch))

    def on_test_epoch_end(self) -> None:
        """Compute `test_figures`, with the keys of `test_metrics.json`, and `test_classes` (B,).

        Where documents may have several labels, `test_classes` are (B, C), 1 for the labels that
        they are given, and `test_scores` (B, C) their probabilities.
        """
        seconds = time.perf_counter() - self._test_started
        logits, targets = self.test_logits.compute().cpu(), _integers(self.test_targets)
        scores, thresholds = self._scores(logits), self.thresholds
        decided = decisions(scores, self._task, None if thresholds is None else thresholds.cpu())
        self.test_classes = decided.numpy()
        self.test_scores = None if thresholds is None else scores.numpy()
        figures = figures_of(self._task, targets, self.test_classes, self._labels, self.test_scores)
        if self.calibration is not None:
            temperature = self.calibration["temperature"]
            figures["calibration"] = {
                "temperature": temperature,
                **self._calibration_figures(logits.double(), targets, temperature),
            }
        self.test_figures = {
            **figures,
            "seconds": seconds,
            "words_per_second": float(self.test_words.compute()) / seconds,
        }

    def on_test_end(self) -> None:
        """Add the loss, which Lightning has averaged by now."""
        self.test_figures["loss"] = float(self.trainer.callback_metrics["test_loss"])

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the probability (B, C) of each class, see `Ensemble.probabilities`."""
        return self.network.probabilities(self(batch).logits.cpu())  # not all devices have float64

    def _calibration_figures(
        self, logits: Tensor, targets: npt.NDArray[np.int64], temperature: float
    ) -> dict[str, Any]:
        before, after = (self.network.probabilities(logits, t).numpy() for t in (1.0, temperature))
        return calibration_figures(before, after, targets)

    def configure_optimizers(self) -> Any:  # noqa: ANN401  # a dictionary that Lightning reads
        """Build the optimiser, and the schedule that changes its rates after every batch."""
        optimizer, schedule = self._optimizer(), self.hparams["schedule"]
        if schedule == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
            if self._plateau_state is not None:
                self._plateau.load_state_dict(self._plateau_state)
        if schedule in ("constant", "plateau"):
            return {"optimizer": optimizer}
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                f"`schedule: {schedule}` must know how long training takes; set "
                "`--trainer.max_epochs`, or `--model.schedule constant`."
            )
        shape = _one_cycle if schedule == "one_cycle" else _cosine
        scheduler = LambdaLR(optimizer, lambda step: shape(step, max(1, int(steps))))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _optimizer(self) -> Optimizer:
        embeddings = self.network.embeddings
        # Not between processes: DistributedDataParallel would have to know before, and NCCL cannot
        # sum sparse gradients at all. The rows that are updated are the same.
        alone = self._trainer is None or self._trainer.world_size == 1
        for embedding in embeddings:
            embedding.sparse = alone and self.hparams["optimizer"] == "adamw"
        vectors = [embedding.weight for embedding in embeddings]
        of_words = set(map(id, vectors))
        transformers = [m for m in self.network.modules() if isinstance(m, RaggedTransformer)]
        of_transformers = {id(p) for module in transformers for p in module.parameters()}
        options = self.options
        rate, decay = options["learning_rate"], options["weight_decay"]
        groups: list[dict[str, Any]] = []
        for share, own in ((1.0, False), (TRANSFORMER_SHARE, True)):
            chosen = [
                parameter
                for parameter in self.network.parameters()
                if id(parameter) not in of_words and (id(parameter) in of_transformers) == own
            ]
            of_share = {"lr": share * rate}
            groups += [
                {"params": [p for p in chosen if p.ndim > 1], **of_share},
                {"params": [p for p in chosen if p.ndim <= 1], **of_share, "weight_decay": 0.0},
            ]
        groups = [group for group in groups if group["params"]]
        if (rate_of_words := options["embedding_learning_rate"]) > 0:
            groups.append(
                {"params": vectors, "weight_decay": 0.0, "lr": rate_of_words, "rowwise": True}
            )
        if self.hparams["optimizer"] == "sgd":
            momentum = self.hparams["momentum"]
            return SGD(groups, lr=rate, momentum=momentum, weight_decay=decay)
        return RowwiseAdamW(groups, lr=rate, weight_decay=decay, fused=True)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of each member as Lightning does those of a network, sparse or not.

        `gradient_norms` are their Euclidean norms before.
        """
        self.gradient_norms = []
        for member in self.network.members:
            weight = member.embedding.weight
            if weight.grad is not None and weight.grad.is_sparse:
                weight.grad = distinct_rows(weight.grad)
            grads = [p.grad for p in member.parameters() if p.grad is not None]
            grads = [grad._values() if grad.is_sparse else grad for grad in grads]
            norm = float(nn.utils.get_total_norm(grads))
            self.gradient_norms.append(norm)
            if not gradient_clip_val:
                continue
            if gradient_clip_algorithm == "value":
                for grad in grads:
                    grad.clamp_(-gradient_clip_val, gradient_clip_val)
            elif not norm <= gradient_clip_val:  # nor where it is no number, as in torch's own
                for grad in grads:
                    grad.mul_(gradient_clip_val / (norm + 1e-6))

    @property
    def plain_thresholds(self) -> tuple[float, ...] | None:
        """The thresholds as the model directory has them."""
        return None if self.thresholds is None else tuple(self.thresholds.tolist())

    def _scores(self, logits: Tensor) -> Tensor:
        """Return what tells classes (B, C) apart, of several labels their probabilities."""
        return logits if self.thresholds is None else probabilities(logits.float(), self._task)

    @property
    def _task(self) -> Task:
        task: Task = self.hparams["task"]
        return task

    @property
    def _datamodule(self) -> Any:  # noqa: ANN401  # Lightning sets it and leaves it untyped
        return getattr(self.trainer, "datamodule", None)

    @property
    def _labels(self) -> tuple[str, ...]:
        """The classes' names, or their numbers where no data module tells them."""
        numbers = map(str, range(self.hparams["num_classes"]))
        return tuple(getattr(self._datamodule, "labels", numbers))


def _metrics(task: Task, num_classes: int) -> dict[str, Metric | MetricCollection]:
    """Return what is computed in the loop."""
    if task == "multilabel":
        return {
            "accuracy": MultilabelExactMatch(num_classes),
            "macro_f1": MultilabelF1Score(num_classes),
            "micro_f1": MultilabelF1Score(num_classes, average="micro"),
        }
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "macro_f1": _MacroF1(num_classes, average="none"),
    }
    if task == "ordinal":
        metrics["mean_absolute_error"] = _MeanAbsoluteError()
    return metrics


class _MeanAbsoluteError(MeanAbsoluteError):
    """The mean number of classes between the likeliest and the true one."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        classes = preds.argmax(1) if preds.ndim == 2 else preds
        super().update(classes.float(), target.float())


class _MacroF1(MulticlassF1Score):
    """The mean of every class's F1, also of one that does not occur, as in the final figures."""

    def compute(self) -> Tensor:
        return super().compute().mean()


def _one_cycle(step: int, steps: int) -> float:
    """Return the learning rate after `step` of `steps` updates, as a share of its peak.

    The values are those of `torch.optim.lr_scheduler.OneCycleLR`, which cannot go on when a run is
    resumed to train for longer, and fails where the warm-up is one step long.
    """
    peak, last = WARM_UP * steps - 1, steps - 1
    if step < peak:
        start, end, done = FIRST_SHARE, 1.0, step / peak
    else:
        start, end, done = 1.0, LAST_SHARE, min(1.0, (step - peak) / (last - peak))
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def _cosine(step: int, steps: int) -> float:
    """Return the same of a linear warm-up to the peak and half a cosine from there to 0."""
    peak, last = LINEAR_WARM_UP * steps, steps - 1
    if step < peak:
        return min(1.0, (step + 1) / peak)
    return (1 + math.cos(math.pi * min(1.0, (step - peak) / max(1.0, last - peak)))) / 2


def _targets(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ValueError("These documents have no labels, so there is no loss.")
    return batch.labels


def _integers(metric: nn.Module) -> Any:  # noqa: ANN401  # NumPy's type, for scikit-learn
    found = metric.compute().long().cpu().numpy()  # type: ignore[operator]
    return np.atleast_1d(found)  # torchmetrics makes a scalar of one
