"""Bag-of-words baselines on a network's own documents, by scikit-learn; does it earn its keep?"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console

from han.corpus import Corpus
from han.metrics import best_thresholds, figures_of
from han.task import Task

IntArray = npt.NDArray[np.int64]

_TRAINED_ON = {"validation": ("train",), "test": ("train", "validation")}


@dataclass(frozen=True)
class LinearModel:
    """A linear model, as it does on documents that it was not trained on.

    Args:
        name: What it is called: `linear SVM` or `logistic regression`.
        predictions: int64 (B,) of each split, the predicted classes; or (B, C) of 0 and 1, where a
            document may have several labels.
        figures: What `figures_of` says of each split.
        converged: Whether its training came to an end before its limit of iterations.
    """

    name: str
    predictions: Mapping[str, IntArray]
    figures: Mapping[str, Mapping[str, Any]]
    converged: bool


@dataclass(frozen=True)
class Baseline:
    """What linear models make of a corpus.

    Args:
        models: The linear SVM and the logistic regression.
        documents: How many there are of each split.
        min_df: In how many training documents a word or pair of words must occur.
        seed: Of what the SVM draws at random.
        seconds: How long it took.
    """

    models: tuple[LinearModel, ...]
    documents: Mapping[str, int]
    min_df: int
    seed: int
    seconds: float

    @property
    def best(self) -> LinearModel:
        """The model with the higher accuracy on validation, then macro-F1; test has no say."""
        return max(
            self.models,
            key=lambda model: [
                model.figures["validation"][key] for key in ("accuracy", "macro_f1")
            ],
        )

    def notes(self) -> Iterator[str]:
        """Yield, in sentences, what a reader of the figures must know besides."""
        if self.min_df == 1:
            yield (
                "No word occurs in two training documents, so that words of one document are "
                "counted too (min_df=1)."
            )
        for model in self.models:
            if not model.converged:
                yield (
                    f"The {model.name} had not converged after scikit-learn's default number of "
                    "iterations; its figures are those of where it stopped."
                )

    def to_dict(self) -> dict[str, Any]:
        """Return a record made of JSON's types."""
        return {
            "best": self.best.name,
            "models": {
                model.name: {**model.figures, "converged": model.converged} for model in self.models
            },
            "documents": dict(self.documents),
            "min_df": self.min_df,
            "seed": self.seed,
            "seconds": self.seconds,
            "scikit_learn": version("scikit-learn"),
            "notes": list(self.notes()),
        }


@dataclass(frozen=True)
class Comparison:
    """A network beside the better linear model, on the same documents.

    The interval is for other documents of the same kind; another seed's network differs besides.

    Args:
        split: The split they come from.
        opponent: The linear model's name.
        figures: The network's, of `figures_of`.
        difference: The network's accuracy less the linear model's.
        low: The lower end of the difference's interval of 95 %, by `paired_interval`.
        high: The upper end.
        only_network: Documents that the network alone has right.
        only_opponent: Documents that the linear model alone has right.
    """

    split: str
    opponent: str
    figures: Mapping[str, Any]
    difference: float
    low: float
    high: float
    only_network: int
    only_opponent: int

    def verdict(self) -> str:
        """Say in one sentence whether the network earns its keep."""
        documents = f"{self.figures['documents']:,} {self.split} documents"
        points = f"{abs(100 * self.difference):.1f} points"
        place = f"{points} above that of" if self.difference > 0 else f"{points} below that of"
        if not self.difference:
            place = "the same as that of"
        interval = f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        if self.low > 0:
            answer, chance = "The network earns its keep", ""
        elif self.high < 0:
            answer, chance = "The network does not earn its keep", ""
        else:
            answer = "Whether the network earns its keep is open"
            chance = ", which can be chance" if self.difference else ""
        flattered = ""
        if self.split == "validation":
            flattered = "; by these documents the network's epoch was chosen, which flatters it"
        return (
            f"{answer}: on {documents} its accuracy is {place} the {self.opponent}{chance} "
            f"({interval}){flattered}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a record made of JSON's types."""
        return {
            "split": self.split,
            "network": dict(self.figures),
            "opponent": self.opponent,
            "difference": self.difference,
            "interval": [self.low, self.high],
            "only_network_right": self.only_network,
            "only_opponent_right": self.only_opponent,
            "verdict": self.verdict(),
        }


def train_baseline(
    corpus: Corpus, *, task: Task | None = None, seed: int = 0, progress: bool = True
) -> Baseline:
    """Train TF-IDF with a linear SVM and with logistic regression on the documents of a corpus.

    They are scikit-learn's `TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)` with
    `LinearSVC()` and with `LogisticRegression(C=10)`. Their figures on validation are after
    training on the training documents; those on test after training anew on both, as networks do
    (of many documents these use the ones for validation to choose their epoch alone).

    They read the raw texts: what a word is, scikit-learn decides (two letters or digits at least,
    in lower case), and a network's limits of words and sentences do not hold for them. Where no
    word occurs in two training documents, `min_df` is 1.

    Where documents may have several labels, there is a model for each label, which gives it from
    the score on that is best for F1 on validation, as networks do. They know no order of classes.

    Memory holds the counts of the words and pairs of words, not the texts. Logistic regression
    takes most, about 300 bytes for each class (for two, one alone) of each word or pair.

    Args:
        corpus: The documents; test documents are optional.
        task: What labels are, for the figures; by default one class or several labels, as the
            documents have them.
        seed: Of what the SVM draws at random.
        progress: Whether to show progress on standard error, where that is a terminal.

    Raises:
        ValueError: There are no training or no validation documents, all training documents are
            of one class, or there are no words in them.
    """
    for split in ("train", "validation"):
        if split not in corpus.splits:
            raise ValueError(f"There are no documents for {split}; give `{split}`.")
    task = task or ("multilabel" if corpus.multilabel else "multiclass")
    if len(np.unique(corpus.splits["train"].labels)) < 2:
        raise ValueError("All training documents are of one class; at least two are needed.")
    started = time.perf_counter()
    min_df = 2
    rounds: dict[str, dict[str, _Outcome]] = {}
    with Console(stderr=True, quiet=not progress).status("") as status:
        for split, sources in _TRAINED_ON.items():
            if split in corpus.splits:
                known = [corpus.splits[source] for source in sources]
                status.update(f"Linear models on {' + '.join(sources)}: counting words")
                min_df, vectorizer, features = _count([one.texts for one in known], min_df)
                unknown = vectorizer.transform(corpus.splits[split].texts)
                del vectorizer  # it holds every word and pair of words
                targets = np.concatenate([one.labels for one in known])
                rounds[split] = {}
                for name, model in _models(seed).items():
                    status.update(f"Linear models on {' + '.join(sources)}: {name}")
                    rounds[split][name] = _train(model, features, targets, unknown)
    models = []
    for name in rounds["validation"]:
        outcomes = {split: outcome[name] for split, outcome in rounds.items()}
        predictions = {split: outcome.predictions for split, outcome in outcomes.items()}
        scores: dict[str, npt.NDArray[np.float64]] = {}
        if corpus.multilabel:
            scores = {split: outcome.predictions for split, outcome in outcomes.items()}
            validation = corpus.splits["validation"].labels
            thresholds = best_thresholds(validation, scores["validation"], default=0.0)
            predictions = {
                split: (found >= thresholds).astype(np.int64) for split, found in scores.items()
            }
        models.append(
            LinearModel(
                name=name,
                predictions=predictions,
                figures={
                    split: figures_of(
                        task,
                        corpus.splits[split].labels,
                        found,
                        corpus.labels,
                        scores.get(split),
                    )
                    for split, found in predictions.items()
                },
                converged=all(outcome.converged for outcome in outcomes.values()),
            )
        )
    return Baseline(
        models=tuple(models),
        documents={split: len(corpus.splits[split]) for split in ("train", *rounds)},
        min_df=min_df,
        seed=seed,
        seconds=time.perf_counter() - started,
    )


def compare(
    baseline: Baseline,
    corpus: Corpus,
    predictions: npt.ArrayLike,
    split: str,
    *,
    task: Task | None = None,
    scores: npt.ArrayLike | None = None,
) -> Comparison:
    """Hold a network's predictions against those of the better linear model.

    Args:
        baseline: The linear models on this corpus.
        corpus: The documents.
        predictions: int (B,), the classes that the network predicts for the documents of `split`;
            or (B, C), whether it gives them each label. All of them must be right to count.
        split: `test` or `validation`.
        task: As for `train_baseline`.
        scores: Floats (B, C), the network's probabilities, where documents may have several labels.
    """
    targets, predictions = corpus.splits[split].labels, np.asarray(predictions)
    task = task or ("multilabel" if corpus.multilabel else "multiclass")
    network = (predictions == targets).reshape(len(targets), -1).all(1)
    opponent = (baseline.best.predictions[split] == targets).reshape(len(targets), -1).all(1)
    only_network = int((network & ~opponent).sum())
    only_opponent = int((opponent & ~network).sum())
    low, high = paired_interval(only_network, only_opponent, len(targets))
    return Comparison(
        split=split,
        opponent=baseline.best.name,
        figures=figures_of(task, targets, predictions, corpus.labels, scores),
        difference=(only_network - only_opponent) / len(targets),
        low=low,
        high=high,
        only_network=only_network,
        only_opponent=only_opponent,
    )


def paired_interval(
    only_first: int, only_second: int, total: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a difference between two accuracies on the same documents.

    It is Wald's with one document more on either side (Bonett & Price 2012, *Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data*, Journal of
    Educational and Behavioral Statistics 37), which Fagerland, Lydersen & Laake (2014, Statistics
    in Medicine 33) recommend to go with McNemar's test.

    Args:
        only_first: Documents that the first alone has right.
        only_second: Documents that the second alone has right.
        total: All documents; at least 1.
        level: How often such intervals hold the true difference.

    Returns:
        Its ends, from -1 to 1.
    """
    first, second = (only_first + 1) / (total + 2), (only_second + 1) / (total + 2)
    error = math.sqrt((first + second - (first - second) ** 2) / (total + 2))
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return max(-1.0, first - second - reach), min(1.0, first - second + reach)


class _Outcome(NamedTuple):
    predictions: npt.NDArray[Any]  # classes (B,), or scores (B, C) of several labels
    converged: bool


def _models(seed: int) -> dict[str, Any]:
    """Return the classifiers, not trained."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    return {
        "linear SVM": LinearSVC(random_state=seed),
        "logistic regression": LogisticRegression(C=10, random_state=seed),
    }


def _count(
    texts: Sequence[Iterable[str]], min_df: int
) -> tuple[int, Any, Any]:  # scikit-learn comes without types
    """Return the `min_df` that leaves words, the vectoriser and the features (B, F) of `texts`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    for least in range(min_df, 0, -1):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=least, sublinear_tf=True)
        try:
            return least, vectorizer, vectorizer.fit_transform(chain.from_iterable(texts))
        except ValueError as error:  # no words are left
            reason = error
    raise ValueError(
        "The linear models find no word in the training documents (two letters or digits at least "
        "make one); check that the texts are what they should be."
    ) from reason


def _train(model: Any, features: Any, targets: IntArray, unknown: Any) -> _Outcome:  # noqa: ANN401
    """Train on features (B, F) and labels, and predict the classes, or the labels' scores."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.multiclass import OneVsRestClassifier

    if targets.ndim == 2:
        model = OneVsRestClassifier(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, targets)
    converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged = False  # which `Baseline.notes` says
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    predict = model.predict if targets.ndim == 1 else model.decision_function
    return _Outcome(predict(unknown), converged)
