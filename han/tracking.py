"""What is logged beside losses, and where to: Weights & Biases and TensorBoard.

`metrics.csv` has the figures in any case. Whatever is here draws no random number that training
would draw, and leaves the network as it was: the weights are the same with it and without.
"""

from __future__ import annotations

import heapq
import importlib.util
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning import loggers
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from han.batching import Batch
from han.bundle import Bundle
from han.datamodule import HANDataModule
from han.documents import Document
from han.explanation import Explanation
from han.module import HANModule
from han.predictor import Predictor
from han.report import render_notebook
from han.report.layout import SYMBOLS
from han.task import THRESHOLD, decisions, loss, probabilities

if TYPE_CHECKING:
    from wandb import Run

RUN_DIR = "HAN_RUN_DIR"
"""The environment variable that tells loggers, and processes that are launched, the run directory.
"""

CHARTED = 100
"""Most classes of a confusion matrix that W&B draws: it takes 10,000 cells."""

WAIT = 60
"""Seconds that a table or an artifact may take to be handed over."""

_ENVIRONMENT = {  # of wandb, where the user says nothing
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",  # the progress bar would be sent line by line
    "WANDB_ERROR_REPORTING": "false",  # or it asks for a server even offline
    "WANDB_INIT_TIMEOUT": "30",  # seconds
    "WANDB_FINISH_TIMEOUT": "300",  # for what is not yet sent; it stays on disk
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
}
_PAGE = (
    '<!doctype html><html><head><meta charset="utf-8"></head>'
    '<body style="margin:8px;background:#fff;color:#222">{content}</body></html>'
)

# Loss, -index, probability of the label or of all labels together, predicted classes.
Mistake = tuple[float, int, float, tuple[int, ...]]


class Measurements(pl.Callback):
    """Log how fast training goes and how large its gradients are.

    `words_per_second` is of an epoch, or what is left of it where training goes on, without its
    validation, and of all processes together.
    `gradient_norm/1` is the Euclidean norm of all gradients of the first network together, before
    they are clipped; those of the others follow.
    """

    def __init__(self) -> None:
        self._words = 0
        self._seconds = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count, also amid an epoch."""
        self._words, self._seconds, self._started = 0, 0.0, time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start anew."""
        self.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: HANModule,  # type: ignore[override]
        outputs: Any,  # noqa: ANN401  # Lightning's own
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the words, and log the gradients' norms at the steps that are logged."""
        self._words += len(batch.tokens)
        every = cast(Any, trainer).log_every_n_steps
        if every == 0 or trainer.global_step % every:
            return  # Lightning would not write it, and takes a millisecond to find out
        for member, norm in enumerate(pl_module.gradient_norms, start=1):
            pl_module.log(f"gradient_norm/{member}", norm, batch_size=len(batch))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._seconds += time.perf_counter() - self._started

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start it again."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the speed, unless the epoch was at its end when training went on."""
        if self._words == 0:
            return
        seconds = self._seconds + time.perf_counter() - self._started
        speed = self._words / seconds
        pl_module.log("words_per_second", speed, sync_dist=True, reduce_fx="sum")


class ClassFigures(pl.Callback):
    """Log figures of each class after each validation, and W&B a confusion matrix.

    The figures are `val_precision/<label>`, `val_recall/<label>` and `val_f1/<label>`, 0 where one
    is not defined. The matrix is drawn of at most 100 classes, of which a document has one.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: HANModule) -> None:  # type: ignore[override]
        """Log the figures over all processes."""
        figures = pl_module.validation_figures()
        labels = _shown(_data(trainer).labels)
        for figure in ("precision", "recall", "f1"):
            of_each = zip(labels, figures["per_class"].values(), strict=True)
            named = {f"val_{figure}/{label}": values[figure] for label, values in of_each}
            pl_module.log_dict(named, sync_dist=True)
        counts = figures.get("confusion_matrix")  # none where documents may have several labels
        if counts is None or trainer.sanity_checking or len(labels) > CHARTED:
            return
        for logger in _wandb_loggers(trainer):
            logger.log_confusion_matrix("val_confusion_matrix", counts, labels, _step(trainer))


class WorstMistakes(pl.Callback):
    """Log W&B a table after each validation: the documents of the largest loss, highlighted.

    The table `val_mistakes` has their texts, with the attention on each word and sentence, their
    label, the predicted class, the probability of the label and the loss (nats), the largest first.

    Args:
        documents: How many.
    """

    def __init__(self, documents: int = 16) -> None:
        self._most = documents
        self._worst: list[Mistake] = []
        self._indices: Iterator[Sequence[int]] = iter(())

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a number that makes no table; the constructor's errors would drown in others.

        Raises:
            ValueError: It is below 1.
        """
        if self._most < 1:
            raise ValueError(
                f"`documents` of `WorstMistakes` must be at least 1, got {self._most}."
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last validation."""
        self._worst = []
        self._indices = iter(cast(Any, trainer.val_dataloaders).sampler)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor,  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the documents of the largest losses so far."""
        assert batch.labels is not None
        logits, task = outputs.float(), pl_module.hparams["task"]  # (B, C)
        losses = loss(logits, batch.labels, task, reduction="none")
        scores = probabilities(logits, task)
        decided = decisions(scores, task, torch.full_like(scores[0], THRESHOLD))
        rows = zip(
            next(self._indices), losses.tolist(), (-losses).exp().tolist(), decided, strict=True
        )
        found = [
            (value, -index, probability, _chosen(predicted))
            for index, value, probability, predicted in rows
        ]
        self._worst = heapq.nlargest(self._most, [*self._worst, *found])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: HANModule) -> None:  # type: ignore[override]
        """Log the table."""
        if trainer.world_size > 1:
            shares: list[list[Mistake]] = [[]] * trainer.world_size
            torch.distributed.all_gather_object(shares, self._worst)
            self._worst = heapq.nlargest(self._most, [one for share in shares for one in share])
        trackers = _wandb_loggers(trainer)
        if trainer.sanity_checking or not trackers:
            return
        if not all(math.isfinite(value) for value, *_ in self._worst):
            return  # training diverged, which is said elsewhere, and there are no weights to show
        task, labels = pl_module.hparams["task"], _data(trainer).labels
        documents = self._documents(trainer)
        explanations = self._explain(trainer, pl_module, documents)
        rows = [
            [
                explanation.id,
                _page(explanation),
                ", ".join(document.label or ()) if task == "multilabel" else document.label,
                ", ".join(labels[one] for one in predicted),
                probability,
                value,
            ]
            for document, explanation, (value, _, probability, predicted) in zip(
                documents, explanations, self._worst, strict=True
            )
        ]
        columns = ["id", "document", "label", "predicted", "probability of the label", "loss"]
        for logger in trackers:
            logger.log_documents("val_mistakes", columns, rows, _step(trainer))

    def _documents(self, trainer: pl.Trainer) -> list[Document]:
        data = _data(trainer)
        stored = data.corpus.splits["validation"]
        documents = []
        for index in (-negative for _, negative, *_ in self._worst):
            own = np.asarray(stored.labels[index])
            several = own.ndim > 0
            names = tuple(data.labels[one] for one in (np.flatnonzero(own) if several else [own]))
            documents.append(
                Document(stored.ids[index], stored.texts[index], names if several else names[0])
            )
        return documents

    def _explain(
        self, trainer: pl.Trainer, module: HANModule, documents: Sequence[Document]
    ) -> list[Explanation]:
        data = _data(trainer)
        modes = [(part, part.training) for part in module.network.modules()]
        try:
            with isolate_rng(), trainer.precision_plugin.forward_context():
                bundle = Bundle(module.network, data.vocabulary, data.labels)
                predictor = Predictor(bundle)
                return list(predictor.explain_documents(documents))
        finally:
            for part, training in modes:
                part.training = training


class WandbLogger(loggers.WandbLogger):
    """Log to Weights & Biases, with its files in the run directory.

    Where no API key is known (`wandb login`, `WANDB_API_KEY`), or the server does not answer within
    30 seconds (`WANDB_INIT_TIMEOUT`), it logs offline and says so; `WANDB_MODE` decides otherwise.
    When training goes on it is another run of W&B in the same group. `WANDB_PROJECT`,
    `WANDB_NAME` and W&B's other variables hold where an argument is not given.

    Args:
        project: Name of the project, by default `han`.
        entity: The user or the team that it belongs to, by default your own.
        name: Name of the run, by default that of the run directory.
        tags: Words to find the run by.
        directory: Where files go, to its folder `wandb`; by default the run directory.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        directory: str | None = None,
    ) -> None:
        # Absolute: W&B writes from a process of its own, which may have been started elsewhere.
        folder = Path(directory or os.environ.get(RUN_DIR, ".")).absolute()
        own = f"{folder.parent.name}/{folder.name}" if folder.name.isdecimal() else folder.name
        super().__init__(
            name=name or os.environ.get("WANDB_NAME") or own,
            save_dir=folder,
            project=project or os.environ.get("WANDB_PROJECT") or "han",
            entity=entity,
            tags=tags,
        )
        self._wandb_init.pop("anonymous")  # it only makes W&B warn
        self._folder = folder / "wandb"
        self._failed: set[str] = set()  # what W&B would not log
        self._before: dict[str, str | None] | None = None  # the environment, while a run goes on

    @property
    @rank_zero_experiment
    def experiment(self) -> Run:
        """W&B's own run; made when first asked for."""
        if self._experiment is None:
            self._begin()
        return self._experiment  # type: ignore[return-value]

    def log_hyperparams(self, params: Any) -> None:  # noqa: ANN401  # Lightning's own
        """Log what the run is."""
        self._attempt("the configuration", lambda: super(WandbLogger, self).log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log figures."""
        self._attempt("figures", lambda: super(WandbLogger, self).log_metrics(metrics, step))

    def log_confusion_matrix(
        self, key: str, counts: Sequence[Sequence[int]], labels: Sequence[str], step: int
    ) -> None:
        """Log a chart of counts (C, C), rows true and columns predicted."""
        import wandb

        cells = [
            [true, predicted, count]
            for true, row in zip(labels, counts, strict=True)
            for predicted, count in zip(labels, row, strict=True)
        ]
        names: list[str | int] = ["Actual", "Predicted", "nPredictions"]  # as the chart calls them
        with isolate_rng():
            chart = wandb.plot_table(
                "wandb/confusion_matrix/v1",
                wandb.Table(columns=names, data=cells),
                {str(name): name for name in names},
                {"title": "Validation documents"},
            )
            self._log_table({key: chart}, step)

    def log_documents(
        self, key: str, columns: list[str], rows: Sequence[Sequence[Any]], step: int
    ) -> None:
        """Log a table whose second column is pages of HTML."""
        import wandb

        with isolate_rng():
            data = [[id, wandb.Html(page, inject=False), *more] for id, page, *more in rows]
            table = wandb.Table(columns=cast(Any, columns), data=data)
            self._log_table({key: table}, step)

    def log_model(self, directory: Path) -> None:
        """Keep a model directory as an artifact, `model-<id of the run>`."""
        import wandb

        def log() -> None:
            run = self.experiment
            artifact = wandb.Artifact(f"model-{run.id}", type="model")
            artifact.add_dir(str(directory), skip_cache=True)
            run.log_artifact(artifact)

        self._attempt("the model", log)

    def close(self, *, failed: bool) -> None:
        """End the run, if it is one of ours; wait for what is not sent yet."""
        if self._before is None:
            return
        if self._experiment is not None:
            try:
                self._experiment.finish(exit_code=int(failed))
            except Exception as error:  # all else of the run is there
                _say(f"{_first_line(error)}; `wandb sync {self._experiment.sync_dir}`")
            self._experiment = None
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before = None

    def _log_table(self, table: dict[str, Any], step: int) -> None:
        """Log what W&B keeps as an artifact: online it asks the server first."""
        self._attempt("tables", lambda: super(WandbLogger, self).log_metrics(table, step))

    def _attempt(self, what: str, log: Callable[[], None]) -> None:
        """Log; where W&B fails, training goes on, and does not wait for the same again."""
        if what in self._failed:
            return
        try:
            log() if what == "figures" else _within(WAIT, log)
        except Exception as error:  # whatever it is: the record of truth is `metrics.csv`
            self._failed.add(what)
            _say(f"{_first_line(error)}; {what} cannot be logged any more")

    def _begin(self) -> None:
        import wandb

        if wandb.run is not None:
            self._experiment = wandb.run  # the caller's own, which goes on after us
            return
        wanted = {**_ENVIRONMENT, "WANDB_DATA_DIR": str(self._folder)}
        self._before = {name: os.environ.get(name) for name in wanted}
        for name, value in wanted.items():
            os.environ.setdefault(name, value)
        with isolate_rng():
            mode, reason = _mode()
            if mode != "disabled":
                self._folder.mkdir(parents=True, exist_ok=True)
            self._wandb_init |= {"mode": mode, **self._identity()}
            try:
                run = super().experiment
            except Exception as error:  # whatever W&B's trouble is, training goes on
                reason = _first_line(error)
                self._wandb_init |= {"mode": "offline", "id": secrets.token_hex(4)}
                run = super().experiment
        if run.offline:
            _say(f"offline{reason and f' ({reason})'}; `wandb sync {run.sync_dir}` sends this run")
        elif not run.disabled:
            _say(str(run.url))

    def _identity(self) -> dict[str, str]:
        """Return an id of our own, as offline runs of the same id would replace each other."""
        if os.environ.get("WANDB_RUN_ID"):
            return {}  # a sweep's, or the user's choice
        own = secrets.token_hex(4)
        if os.environ.get("WANDB_RUN_GROUP"):
            return {"id": own}
        earlier = [path.name.partition("run-")[2] for path in self._folder.glob("*run-*-*")]
        return {"id": own, "group": min(earlier, default=own).rpartition("-")[2]}


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Log to TensorBoard, to the folder `tensorboard` of the run directory.

    Args:
        directory: Where that folder goes; by default the run directory.
    """

    def __init__(self, directory: str | None = None) -> None:
        folder = directory or os.environ.get(RUN_DIR, ".")
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False)


def require_logger(class_path: str) -> None:
    """Raise an `ImportError` that says what to install where a logger's package is missing."""
    if class_path.endswith("TensorBoardLogger") and importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "Logging to TensorBoard needs the `tensorboard` package: "
            'pip install "han-classifier[tensorboard]".'
        )


def log_configuration(trainer: pl.Trainer, configuration: Mapping[str, Any]) -> None:
    """Give loggers what a run is, but for `metrics.csv`, beside which there is `config.yaml`."""
    for logger in trainer.loggers:
        if not isinstance(logger, loggers.CSVLogger):
            logger.log_hyperparams(dict(configuration))


def log_best(trainer: pl.Trainer, monitor: str, score: float) -> None:
    """Log the figure of the best checkpoint as `best_<monitor>`, by which a sweep goes."""
    for logger in _wandb_loggers(trainer):
        logger.log_metrics({f"best_{monitor}": score}, _step(trainer))


def log_model(trainer: pl.Trainer, directory: Path) -> None:
    """Keep a model directory where loggers keep such."""
    for logger in _wandb_loggers(trainer):
        logger.log_model(directory)


def close(trainer: pl.Trainer, *, failed: bool) -> None:
    """End what loggers keep open after a trainer is done."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.close(failed=failed)


def _data(trainer: pl.Trainer) -> HANDataModule:
    return trainer.datamodule  # type: ignore[attr-defined,no-any-return]


def _step(trainer: pl.Trainer) -> int:
    """Return where Lightning logs figures of a validation: its steps start at 0."""
    return max(0, trainer.global_step - 1)


def _wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """Return the loggers that keep what is logged: of the first process, and not switched off."""
    if not trainer.is_global_zero:
        return []
    found = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return [logger for logger in found if not logger.experiment.disabled]


def _mode() -> tuple[str, str]:
    """Return whether W&B is online, and if it is not, where the user did not say so, why."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode in ("offline", "dryrun", "disabled"):
        return mode, ""
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        return "offline", _first_line(error)
    return (mode, "") if known else ("offline", "no API key is known: `wandb login`")


def _within(seconds: float, log: Callable[[], None]) -> None:
    """Log, but wait no longer: W&B asks a server that is gone for minutes.

    Raises:
        TimeoutError: It took longer, and goes on beside.
    """
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            log()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError("the server does not answer")
    if errors:
        raise errors[0]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(". ")


def _say(message: str) -> None:
    sys.stderr.write(f"W&B: {message}\n")


def _shown(labels: Sequence[str]) -> list[str]:
    """Return labels as every file and chart can hold them, without control characters."""
    return [label.translate(SYMBOLS) for label in labels]


def _chosen(decided: Tensor) -> tuple[int, ...]:
    """Return the class, or the labels, of a decision: an integer, or C of them, 1 for a label."""
    return (int(decided),) if decided.ndim == 0 else tuple(decided.nonzero().flatten().tolist())


def _page(explanation: Explanation) -> str:
    """Return a document with its highlights as a page that loads nothing."""
    return _PAGE.format(content=render_notebook(explanation))
