"""The network as a scikit-learn classifier of texts."""

from __future__ import annotations

import gc
import inspect
import json
import os
import random
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Literal,
    NamedTuple,
    Self,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from han.attention import Weighting
from han.bundle import Bundle
from han.corpus.building import natural_order, validation_size
from han.documents.rows import as_name, encodable
from han.explanation import Explanation
from han.model import GROUPS, Encoder
from han.predictor import Predictor, load
from han.task import Task, check_order
from han.transformer import Blocks

Texts = Iterable[str]
Labels = npt.ArrayLike

Sampler = Literal["random", "balanced"]  # that of `han.datamodule`, which imports Lightning

_MODEL = "model"
_ONE_AT_A_TIME = threading.RLock()  # training seeds the process's random generators


class HANClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # they have no types
    """A hierarchical attention network (Yang et al. 2016) as a scikit-learn classifier of texts.

    It trains what `han fit` trains: the same texts, options and seed give the same weights. Options
    have the command line's names and defaults, but `random_state` (`--seed_everything`, there 0)
    and `validation_fraction` (`--data.validation_share`). Training uses a temporary folder, which
    it removes, and leaves the process's random generators as they were.

    Pickles hold the model directory (JSON and safetensors), no tensors.

    Args:
        task: What labels are: `"multiclass"`, one of several classes; `"multilabel"`, any number of
            labels; `"ordinal"`, classes in an order, such as ratings, which must be numbers or have
            them in their names. By default `"multilabel"` where labels are lists or a matrix of 0
            and 1, else `"multiclass"`; `"ordinal"` only where it is said.
        members: Number of networks that are trained side by side, each from its own start; the mean
            of their logits is the answer.
        hidden_size: Width H of each GRU direction, at both levels; a transformer is 2H wide.
        attention_size: Width A of the context vectors, at both levels.
        word_dropout: Probability that a word of the vocabulary is read as unknown throughout a
            training batch.
        embedding_dropout: Dropout of word vectors, the same wherever a word occurs in a batch.
        encoder_dropout: Dropout of the hidden states that attention pools, at both levels.
        classifier_dropout: Dropout of the document vector.
        word_attention: How attention weighs the words of a sentence, a `han.attention.Weighting`;
            by default one with its own defaults.
        sentence_attention: How attention weighs the sentences of a document, the same way.
        word_encoder: What reads the words of a sentence, `"gru"` or `"transformer"`.
        sentence_encoder: What reads the sentences of a document.
        transformer: The `han.transformer.Blocks` of a transformer, at either level; by default with
            their own defaults.
        sentence_dropout: Probability of leaving a sentence out of a training document.
        label_smoothing: Share of each target's probability that is spread over all classes; none
            where a text may have several labels.
        class_weights: How much texts of each class count in the loss: all the same by default,
            `"balanced"` (each class as much as the others), or weights by label, 1 for those left
            out. Of several labels, how much having one counts beside not having it.
        optimizer: `"adamw"`, or `"sgd"` with momentum.
        learning_rate: Peak learning rate; by default 0.007 for few texts, 0.004 for many. The
            weights of a transformer have a seventh of it.
        embedding_learning_rate: Peak learning rate of the word vectors, by default that of all
            else; 0 keeps them as they are.
        momentum: Momentum of `"sgd"`.
        weight_decay: Decay of weight matrices.
        schedule: `"one_cycle"`, `"cosine"`, `"plateau"` or `"constant"`.
        language: Language of the texts (ISO 639), for finding sentences.
        lowercase: Whether upper and lower case are the same word.
        hierarchical: Whether words are read into sentences and these into the document; otherwise
            the same words are read as one sentence, and there is nothing for the sentence level to
            weigh or for `sentence_dropout` to leave out: what does the hierarchy give on this data?
        max_sentences: Most sentences read of a document; by default all.
        max_words_per_sentence: Most words read of a sentence, which is the whole document without
            `hierarchical`; by default all.
        min_count: How often a word must occur in the training texts to be known; once is enough for
            a word that has a pretrained vector, other than of `"word2vec"`.
        validation_fraction: Share of the training texts, drawn from every class in proportion, that
            decides when to stop and which epoch's weights are kept, before `refit` trains on it
            too. With 0, or where no class can spare a text (with a warning), all are trained on for
            `max_epochs`, and the last epoch's weights are kept.
        vectors: Pretrained word vectors: `"builtin"` (English), a name that torchtext knows
            (`"glove.6B.100d"`), a file of vectors (text or .npz), `"word2vec"` to learn them from
            the texts first (needs the extra `word2vec`), or `"none"`. `"auto"` is `"builtin"`
            where the language is English, otherwise `"none"`.
        embedding_size: Width of the word vectors where `vectors` is `"word2vec"` or `"none"`; by
            default 200.
        batch_size: Texts a batch; by default 16 of few texts, up to 64 of many.
        sampler: Which training texts an epoch has: `"random"` is each once, `"balanced"` as many of
            each class, those of rare classes several times and not all of the frequent ones.
        eval_batch_size: Validation texts a batch.
        cache_dir: Where downloaded vectors are kept and, while it trains, encoded texts; by default
            the user's cache folder and the system's folder for temporary files.
        max_epochs: Most passes over the training texts; by default 18 over few, 3 over many.
        gradient_clip_val: Norm to which gradients are clipped; None for no limit.
        monitor: Which figure of the validation texts makes an epoch the best.
        patience: Training stops when the figure has not improved for so many epochs.
        refit: Whether to train anew on training and validation texts together, when it has trained
            on the training texts alone; by default if those are fewer than 50,000 and `fit` is
            given no `X_val`.
        accelerator: `"cpu"`, `"gpu"`, or `"auto"`, which takes one GPU where there is one.
        random_state: Decides everything that is random; an integer gives the same network each
            time (on a CPU bit for bit).
        verbose: Whether to show progress on standard error.

    Attributes:
        classes_: The labels, sorted, with the dtype of those given; of a matrix of 0 and 1 the
            numbers of its columns, or their names where it is a table.
        predictor_: The trained model, as `han.load` returns one. Its labels are strings.
        n_iter_: Passes over the training texts, without those of `refit`.
        best_validation_score_: The best value of `monitor` (`"val_loss"` in nats), from before
            `refit`; None where nothing was kept for validation.
    """

    def __init__(
        self,
        *,
        task: Task | None = None,
        members: int = 3,
        hidden_size: int = 50,
        attention_size: int = 100,
        word_dropout: float = 0.2,
        embedding_dropout: float = 0.3,
        encoder_dropout: float = 0.0,
        classifier_dropout: float = 0.4,
        word_attention: Weighting | None = None,
        sentence_attention: Weighting | None = None,
        word_encoder: Encoder = "gru",
        sentence_encoder: Encoder = "gru",
        transformer: Blocks | None = None,
        sentence_dropout: float = 0.3,
        label_smoothing: float = 0.1,
        class_weights: Literal["balanced"] | dict[str, float] | None = None,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float | None = None,
        embedding_learning_rate: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        schedule: Literal["one_cycle", "cosine", "plateau", "constant"] = "one_cycle",
        language: str = "en",
        lowercase: bool = True,
        hierarchical: bool = True,
        max_sentences: int | None = None,
        max_words_per_sentence: int | None = None,
        min_count: int = 2,
        validation_fraction: float = 0.1,
        vectors: str = "auto",
        embedding_size: int | None = None,
        batch_size: int | None = None,
        sampler: Sampler = "random",
        eval_batch_size: int = 64,
        cache_dir: str | None = None,
        max_epochs: int | None = None,
        gradient_clip_val: float | None = 1.0,
        monitor: Literal["val_loss", "val_accuracy", "val_macro_f1"] = "val_loss",
        patience: int = 5,
        refit: bool | None = None,
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.task = task
        self.members = members
        self.hidden_size = hidden_size
        self.attention_size = attention_size
        self.word_dropout = word_dropout
        self.embedding_dropout = embedding_dropout
        self.encoder_dropout = encoder_dropout
        self.classifier_dropout = classifier_dropout
        self.word_attention = word_attention
        self.sentence_attention = sentence_attention
        self.word_encoder = word_encoder
        self.sentence_encoder = sentence_encoder
        self.transformer = transformer
        self.sentence_dropout = sentence_dropout
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.embedding_learning_rate = embedding_learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.language = language
        self.lowercase = lowercase
        self.hierarchical = hierarchical
        self.max_sentences = max_sentences
        self.max_words_per_sentence = max_words_per_sentence
        self.min_count = min_count
        self.validation_fraction = validation_fraction
        self.vectors = vectors
        self.embedding_size = embedding_size
        self.batch_size = batch_size
        self.sampler = sampler
        self.eval_batch_size = eval_batch_size
        self.cache_dir = cache_dir
        self.max_epochs = max_epochs
        self.gradient_clip_val = gradient_clip_val
        self.monitor = monitor
        self.patience = patience
        self.refit = refit
        self.accelerator = accelerator
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Texts, y: Labels, *, X_val: Texts | None = None, y_val: Labels | None = None
    ) -> Self:
        """Train on labelled texts.

        Args:
            X: B texts: a list, a series, an array, or a table of one column. They may be empty.
            y: B labels: strings, integers or booleans. Where texts may have several labels, a list
                of them for each text, perhaps empty, or a matrix (B, C) of 0 and 1.
            X_val: Texts that decide when to stop, instead of a share of `X`; with `refit=True` the
                model is then trained on them too.
            y_val: Their labels.

        Raises:
            ValueError: A text is not a string, a label is missing, there is one class only, or an
                option is out of range.
        """
        options = self._options()
        if y is None:  # the words that scikit-learn looks for
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        if (X_val is None) != (y_val is None):
            raise ValueError("`X_val` and `y_val` go together; give both or none.")
        texts, labels = _labelled(X, y, "X", "y")
        several = isinstance(labels, LabelSets)
        if options["task"] is not None and (options["task"] == "multilabel") != several:
            kind = "any number of labels" if several else "one label"
            raise ValueError(f"`task` is {options['task']!r}, but in `y` each text has {kind}.")
        classes = _classes(labels)
        numbers = _indices(labels, classes, "y")
        validation = None
        if X_val is not None:
            held_out, others = _labelled(X_val, y_val, "X_val", "y_val")
            if isinstance(others, LabelSets) != several:
                raise ValueError("`y_val` must be of the kind that `y` is.")
            validation = held_out, _indices(others, classes, "y_val")
            if options["refit"] is None:  # who gives them may ask for their score afterwards
                options["refit"] = False
        elif not _can_spare(options["validation_share"], len(texts), len(classes) + several):
            options["validation_share"] = 0.0

        # The network has the classes in the order in which the command line sorts their names.
        names = [_name(label) for label in classes.tolist()]
        if options["task"] == "ordinal":
            check_order(names)
        order = sorted(range(len(names)), key=lambda index: natural_order(names[index]))
        columns = np.argsort(order)
        weights = _by_column(options["class_weights"], classes, columns)
        options["class_weights"] = weights
        with _ONE_AT_A_TIME, _working_folder(options["cache_dir"]) as folder:
            sources = {"train": _write(folder / "train.jsonl", texts, numbers, columns)}
            if validation is not None:
                held_out, indices = validation
                place = folder / "validation.jsonl"
                sources["validation"] = _write(place, held_out, indices, columns)
            names = [names[index] for index in order]
            with _collected():
                epochs, score = _train(folder, sources, names, options)
            predictor = _load(folder / _MODEL, self.accelerator)
        self.classes_, self._columns, self.predictor_ = classes, columns, predictor
        self._matrix = isinstance(labels, LabelSets) and labels.matrix
        self.n_iter_, self.best_validation_score_ = epochs, score
        return self

    def predict(self, X: Texts) -> Any:  # noqa: ANN401  # as labels were given
        """Return the likeliest label (B,) of each text, with the dtype of the labels given.

        Where texts may have several labels, return those that reach their thresholds in the form in
        which labels were given: a tuple for each text in a list, or a matrix (B, C) of 0 and 1.

        Args:
            X: B texts, as for `fit`.

        Raises:
            ValueError: A text is not a string.
            NotFittedError: Nothing was trained yet.
        """
        probabilities = self.predict_proba(X)
        if (thresholds := self.predictor_.bundle.thresholds) is not None:
            given = (probabilities >= np.array(thresholds)[self._columns]).astype(np.int64)
            return given if self._matrix else [tuple(self.classes_[row == 1]) for row in given]
        labels: npt.NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Texts) -> npt.NDArray[np.float64]:
        """Return the probability (B, C) of each class or label, in the order of `classes_`.

        They are calibrated where texts were kept for validation, see `han.calibration`.

        Args:
            X: B texts, as for `fit`.

        Raises:
            ValueError: A text is not a string.
            NotFittedError: Nothing was trained yet.
        """
        check_is_fitted(self)
        return self.predictor_.probabilities(_texts(X, "X"))[:, self._columns]

    def predict_log_proba(self, X: Texts) -> npt.NDArray[np.float64]:
        """Return the logarithm (B, C; nats) of the probability of each class.

        Args:
            X: B texts, as for `fit`.

        Raises:
            ValueError: A text is not a string.
            NotFittedError: Nothing was trained yet.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    @overload
    def explain(  # type: ignore[overload-overlap]  # str comes first
        self, X: str, methods: Sequence[str] = ...
    ) -> Explanation: ...
    @overload
    def explain(self, X: Texts, methods: Sequence[str] = ...) -> list[Explanation]: ...
    def explain(
        self, X: str | Texts, methods: Sequence[str] = ("attention",)
    ) -> Explanation | list[Explanation]:
        """Classify one text, or many, and keep what each sentence and word had to do with it.

        Args:
            X: A text, or texts as for `fit`.
            methods: The ways to explain, see `han.predictor.Predictor.explain`.

        Returns:
            An explanation, or a list of them in the order of the texts. Their labels are strings:
            `"3"` for the label 3.

        Raises:
            ValueError: A text is not a string, or there is no such method.
            NotFittedError: Nothing was trained yet.
        """
        check_is_fitted(self)
        return self.predictor_.explain(X if isinstance(X, str) else _texts(X, "X"), methods)

    def save(self, directory: str | Path) -> None:
        """Write the model directory, which `han.load` and the commands read.

        Args:
            directory: The directory to write; a model directory there is replaced.

        Raises:
            FileExistsError: Something else is there.
            OSError: The directory cannot be written.
            NotFittedError: Nothing was trained yet.
        """
        check_is_fitted(self)
        self.predictor_.bundle.save(directory)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401  # scikit-learn has no types
        """Say that texts come in and classes go out."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.classifier_tags.multi_label = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: options, labels, and the files of the model directory."""
        state = dict(super().__getstate__())
        predictor = state.pop("predictor_", None)
        if predictor is not None:
            with tempfile.TemporaryDirectory(prefix="han-") as folder:
                directory = Path(folder) / _MODEL
                predictor.bundle.save(directory)
                state["_files"] = {
                    path.name: path.read_bytes() for path in sorted(directory.iterdir())
                }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the model directory that a pickle holds."""
        state = dict(state)
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is not None:
            with tempfile.TemporaryDirectory(prefix="han-") as folder:
                for name, content in files.items():
                    (Path(folder) / name).write_bytes(content)
                self.predictor_ = _load(Path(folder), self.accelerator)

    def _options(self) -> dict[str, Any]:
        """Return the options by the command line's names, as plain Python values.

        Raises:
            ValueError: One is of the wrong type or, of those that nobody else checks, out of range.
        """
        hints = get_type_hints(HANClassifier.__init__)
        options: dict[str, Any] = {}
        for name in hints:
            if name in ("return", "random_state"):
                continue
            value = getattr(self, name)
            plain = value.item() if isinstance(value, np.generic) else value
            plain = os.fspath(plain) if isinstance(plain, os.PathLike) else plain
            if not _fits(plain, hints[name]):
                raise ValueError(f"`{name}` must be {_in_words(hints[name])}, got {value!r}.")
            options[name] = plain
        for name, least in (("max_epochs", 1), ("patience", 0), ("gradient_clip_val", 0)):
            if options[name] is not None and options[name] < least:
                raise ValueError(f"`{name}` must be at least {least}, got {options[name]}.")
        share = options["validation_share"] = options.pop("validation_fraction")
        if not 0 <= share < 1:
            raise ValueError(f"`validation_fraction` must be from 0 to below 1, got {share}.")
        for group in GROUPS:
            if options[group] is None:
                del options[group]
        options["seed"] = _seed(self.random_state)
        return options


def _train(
    folder: Path, sources: Mapping[str, Any], labels: Sequence[str], options: Mapping[str, Any]
) -> tuple[int, float | None]:
    """Train on documents whose labels are indices of `labels`, and write the model to `folder`.

    Returns:
        The number of epochs, and the best figure of the validation documents, if there are any.

    Raises:
        ValueError: An option is out of range, or training diverged.
    """
    # Here, because who uses a trained model has no use for them.
    import pytorch_lightning as pl
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.callbacks import RichProgressBar

    from han.datamodule import HANDataModule
    from han.module import HANModule
    from han.training import (
        DIVERGED,
        TRAINER,
        Epochs,
        epochs_to_refit,
        load_weights,
        quiet,
        refit,
        refits,
        selection,
    )

    def of(function: Callable[..., object]) -> dict[str, Any]:
        taken = inspect.signature(function).parameters
        return {name: value for name, value in options.items() if name in taken}

    with quiet(), _seeded(options["seed"]):
        data = HANDataModule(**sources, **of(HANDataModule))
        data.progress = bool(options["verbose"])
        data.corpora_dir = folder / "corpus"
        sizes = ("vocabulary_size", "num_classes", "embedding_size", "task")
        module = HANModule(**{**of(HANModule), **{size: getattr(data, size) for size in sizes}})
        validates = "validation" in data.corpus.splits
        checkpoint, stopping = selection(
            folder, options["monitor"], options["patience"], resumable=False
        )

        def make_trainer(*selecting: pl.Callback, epochs: int | None) -> pl.Trainer:
            verbose, callbacks = bool(options["verbose"]), list(selecting)
            if epochs is None:
                callbacks.append(Epochs())
            if verbose:
                callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
            return pl.Trainer(
                **{**TRAINER, **of(pl.Trainer), "max_epochs": epochs},
                devices=1,
                logger=False,
                callbacks=callbacks,
                enable_checkpointing=bool(selecting),
                enable_progress_bar=verbose,
                limit_val_batches=None if selecting else 0,
                default_root_dir=folder,
            )

        try:
            refitted = refits(options["refit"], data, module)
            selecting = (checkpoint, stopping) if validates else ()
            trainer = make_trainer(*selecting, epochs=options["max_epochs"])
            trainer.fit(module, data)
            if validates:
                best = checkpoint.best_model_path
                load_weights(module, best)
                if refitted:
                    again = make_trainer(epochs=epochs_to_refit(trainer, module, best))
                    module = refit(again, module, data, options["seed"])
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error
        except SystemExit as error:  # Lightning makes this of an interrupt, and of SIGTERM
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise SystemExit(128 + signal.SIGTERM) from None
    if not all(weight.isfinite().all() for weight in module.network.parameters()):
        raise ValueError(f"{DIVERGED}.")
    training = {**module.options, "refit": refitted}
    if isinstance(weights := training["class_weights"], Mapping):
        training["class_weights"] = {labels[int(index)]: one for index, one in weights.items()}
    facts = {"data": _with_names(data.corpus.summary, labels), "training": training}
    if module.calibration is not None:
        facts["calibration"] = module.calibration
    bundle = Bundle(
        module.network,
        data.vocabulary,
        tuple(labels),
        facts,
        thresholds=module.plain_thresholds,
    )
    bundle.save(folder / _MODEL)
    score = checkpoint.best_model_score
    return trainer.current_epoch, None if score is None else float(score)


def _with_names(
    summary: Mapping[str, Mapping[str, Any]], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the summary of a corpus with its classes by their names."""
    return {
        split: {**counts, "classes": dict(zip(labels, counts["classes"].values(), strict=True))}
        for split, counts in summary.items()
    }


@contextmanager
def _working_folder(cache_dir: str | None) -> Iterator[Path]:
    """Make a folder for the texts as they are encoded, and remove it when the block ends."""
    if cache_dir is not None:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="han-",
        dir=cache_dir,
        ignore_cleanup_errors=True,  # not every system removes a file that is still open
    ) as folder:
        yield Path(folder)


def _load(directory: Path, accelerator: str) -> Predictor:
    return Predictor(Bundle.load(directory)) if accelerator == "cpu" else load(directory)


@contextmanager
def _collected() -> Iterator[None]:
    """Free what the block leaves behind: a trainer and its module refer to each other.

    Until the next collection of all objects they would hold their memory and open files. Those that
    were there before are not looked at, which would take as long as a small training.
    """
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all random generators as `han fit` does, and put them back when the block ends."""
    from han.training import seed_generators  # here: it imports Lightning

    devices = range(torch.cuda.device_count())
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            seed_generators(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _seed(random_state: object) -> int:
    """Return an integer as it is, and one drawn from a generator or NumPy's own (None)."""
    if isinstance(random_state, int | np.integer):
        if not 0 <= random_state < 2**32:
            raise ValueError(f"`random_state` must be from 0 to 2**32 - 1, got {random_state}.")
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _can_spare(share: float, texts: int, classes: int) -> bool:
    """Tell whether a share of the texts can go to validation; warn where there are too few."""
    if share == 0 or validation_size(share, texts) <= texts - classes:
        return True
    warnings.warn(
        f"{texts} texts of {classes} classes are too few to keep `validation_fraction` "
        f"{share} of them for validation; all are trained on, for `max_epochs`.",
        UserWarning,
        stacklevel=3,
    )
    return False


class LabelSets(NamedTuple):
    """The labels of texts that may have several.

    Attributes:
        sets: B tuples of labels.
        columns: The labels of a matrix (C,); of lists those that occur.
        matrix: Whether they were given as a matrix.
    """

    sets: list[tuple[Any, ...]]
    columns: npt.NDArray[Any]
    matrix: bool


def _labelled(
    texts: object, labels: object, texts_name: str, labels_name: str
) -> tuple[list[str], npt.NDArray[Any] | LabelSets]:
    """Return at least one text, and as many labels."""
    found = _texts(texts, texts_name)
    several = _label_sets(labels, labels_name)
    known = _labels(labels, labels_name) if several is None else several
    check_consistent_length(found, known.sets if isinstance(known, LabelSets) else known)
    if not found:
        raise ValueError(f"`{texts_name}` holds no texts.")
    return found, known


def _label_sets(given: Any, name: str) -> LabelSets | None:  # noqa: ANN401
    """Return labels where a text may have several; None where each text has one."""
    if issparse(given):
        given = given.toarray()
    if isinstance(given, list | tuple) and _are_rows(given):
        given = np.array(given)
    if _is_matrix(given):
        array = np.asarray(given)
        columns = np.asarray(getattr(given, "columns", np.arange(array.shape[1])))
        return LabelSets([tuple(columns[row != 0]) for row in array], columns, matrix=True)
    if len(getattr(given, "shape", (0,))) != 1:  # a column
        return None
    values = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(values, list | tuple) or not values:
        return None
    if not all(isinstance(value, list | tuple | Set) for value in values):
        return None
    for index, value in enumerate(values):
        for label in value:
            if not isinstance(label, str | int | np.integer):
                raise ValueError(
                    f"{name}[{index}] holds {label!r:.40}; labels are strings, integers or "
                    "booleans."
                )
    sets = [tuple(dict.fromkeys(value)) for value in values]
    return LabelSets(sets, np.unique([label for one in sets for label in one]), matrix=False)


def _are_rows(given: Sequence[Any]) -> bool:
    """Tell the rows of a matrix of 0 and 1 from lists of labels, which name none twice."""
    if not all(isinstance(row, list | tuple | np.ndarray) and len(row) > 1 for row in given):
        return False
    alike = len({len(row) for row in given}) == 1 and all({*row} <= {0, 1} for row in given)
    return alike and any(len({*row}) < len(row) for row in given)


def _is_matrix(given: object) -> bool:
    """Tell whether labels are a matrix of 0 and 1 with a column for each."""
    shape: tuple[int, ...] = getattr(given, "shape", ())
    return len(shape) == 2 and shape[1] > 1 and bool(np.isin(np.asarray(given), [0, 1]).all())


def _texts(given: object, name: str) -> list[str]:
    """Return texts of any container as a list of strings."""
    advice = f"`{name}` must be texts: strings in a list, a series or an array of one dimension"
    if isinstance(given, str | bytes):
        raise ValueError(f"{advice}; one text is [text].")
    if issparse(given):
        raise ValueError(f"{advice}; sparse input is not supported, leave vectorizers out.")
    if isinstance(given, Mapping | Set) or not isinstance(given, Iterable):
        raise ValueError(f"{advice}, not {type(given).__name__}.")
    shape: tuple[int, ...] = getattr(given, "shape", (0,))
    if len(shape) == 2 and shape[1] == 1:
        given = np.asarray(given)[:, 0]
    elif len(shape) != 1:
        raise ValueError(f"{advice}; this has the shape {shape}. Choose the column of the texts.")
    values = next(
        (getattr(given, method)() for method in ("to_pylist", "tolist") if hasattr(given, method)),
        given,
    )
    texts = []
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"{name}[{index}] is {value!r:.40}, not a string; give texts as they are written, "
                "and '' where one is missing (None, NaN)."
            )
        texts.append(str(value))
    return texts


def _labels(given: object, name: str) -> npt.NDArray[Any]:
    """Return labels as an array (B,) of classes."""
    labels: npt.NDArray[Any] = column_or_1d(given, warn=True)
    for index, label in enumerate(labels.tolist()):
        if not isinstance(label, str) and str(label) in _MISSING:
            raise ValueError(f"{name}[{index}] is {label}; give each text a label.")
    check_classification_targets(labels)
    return labels


def _classes(labels: npt.NDArray[Any] | LabelSets) -> npt.NDArray[Any]:
    """Return the classes, or the labels, (C,), sorted; those of a matrix as its columns are."""
    if isinstance(labels, LabelSets):
        classes, known = labels.columns, {label for one in labels.sets for label in one}
        for label in classes.tolist():
            if label not in known:
                raise ValueError(f"No text in `y` has the label {label!r}; leave its column out.")
    else:
        classes = np.unique(labels)
    if len(classes) < 2:
        one = repr(classes.tolist()[0]) if len(classes) else "none"
        raise ValueError(f"There is one class in `y`, {one}; at least two classes are needed.")
    return classes


def _indices(
    labels: npt.NDArray[Any] | LabelSets, classes: npt.NDArray[Any], name: str
) -> list[list[int]] | list[int]:
    """Return the index in `classes` of the label of each text, or of each of its labels."""
    index = {label: number for number, label in enumerate(classes.tolist())}

    def find(place: int, label: Any) -> int:  # noqa: ANN401
        if label not in index:
            raise ValueError(f"{name}[{place}] is {label!r}, which does not occur in `y`.")
        return index[label]

    if isinstance(labels, LabelSets):
        return [[find(place, label) for label in one] for place, one in enumerate(labels.sets)]
    return [find(place, label) for place, label in enumerate(labels.tolist())]


def _by_column(
    weights: Any,  # noqa: ANN401  # an option, as it is given
    classes: npt.NDArray[Any],
    columns: npt.NDArray[np.int64],
) -> Any:  # noqa: ANN401
    """Return weights by the numbers that stand for labels while the network trains."""
    if not isinstance(weights, Mapping):
        return weights
    numbers = dict(zip(classes.tolist(), columns.tolist(), strict=True))
    for label in weights:
        if label not in numbers:
            raise ValueError(f"`class_weights` names {label!r}, which does not occur in `y`.")
    return {str(numbers[label]): weight for label, weight in weights.items()}


def _name(label: object) -> str:
    """Return what the model directory calls a class, which is what the command line calls it."""
    return encodable(label) if isinstance(label, str) else str(as_name({"y": label}, "y"))


def _write(
    path: Path,
    texts: Iterable[str],
    indices: Sequence[int | list[int]],
    columns: npt.NDArray[np.int64],
) -> str:
    """Write JSON lines of texts and the numbers of their labels, and return their place.

    Args:
        path: Where to.
        texts: B texts.
        indices: Each one's class, or its labels.
        columns: The number of each class.
    """
    with path.open("w", encoding="utf-8") as file:
        for text, index in zip(texts, indices, strict=True):
            row = {"text": text, "label": columns[np.array(index, np.int64)].tolist()}
            file.write(json.dumps(row) + "\n")
    return str(path)


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    """Tell whether a plain value is of a type."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is dict:
        return isinstance(value, Mapping) and all(_fits(one, float) for one in value.values())
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if hint is float:
        return type(value) in (int, float) and isfinite(cast(float, value))
    return type(value) is hint


def _in_words(hint: Any) -> str:  # noqa: ANN401
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_in_words, get_args(hint)))
    return _WORDS[hint]


_WORDS = {
    int: "an integer",
    float: "a finite number",
    str: "a string",
    bool: "True or False",
    type(None): "None",
    dict[str, float]: "numbers by label",
    Weighting: "a han.attention.Weighting",
    Blocks: "a han.transformer.Blocks",
}
_MISSING = ("None", "nan", "<NA>", "NaT", "inf", "-inf")
