"""scikit-learn's own checks of estimators, on texts that are written from its numbers.

scikit-learn checks only estimators that read tables of numbers. Here a subclass writes each row as
a text of words that stand for its numbers, and hands on all that is no table of finite numbers as
it comes, so that what refuses it is `HANClassifier`. A text has no columns: counting them is the
one thing that the subclass checks by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data

from han import HANClassifier

EXCEPTIONS = {
    "check_complex_data": "complex numbers are refused as what is no string, in other words",
    "check_estimators_empty_data_messages": "a row of no numbers is an empty text, which is read",
    "check_fit2d_predict1d": "one text is [text]; there is nothing to reshape",
}


class OnNumbers(HANClassifier):
    """The classifier, reading rows of numbers as texts."""

    def fit(self, X: object, y: object) -> OnNumbers:
        validate_data(self, X, skip_check_array=True)
        return super().fit(in_words(X), y)

    def predict_proba(self, X: object) -> npt.NDArray[np.float64]:
        check_is_fitted(self)
        validate_data(self, X, reset=False, skip_check_array=True)
        return super().predict_proba(in_words(X))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


def in_words(given: object) -> object:
    """Write each row as a text: for each number words for its place and those beside it."""
    if hasattr(given, "toarray"):
        return given
    table = np.asarray(given)
    if table.ndim != 2 or table.dtype.kind not in "fiuO":
        return given
    return [in_one_text(row) for row in table.astype(float)]


def in_one_text(row: npt.NDArray[np.float64]) -> str | float:
    if not np.isfinite(row).all():
        return np.nan  # a missing text
    steps = np.clip(np.round(row * 2), -999, 999).astype(int) + 1000
    return " ".join(
        f"c{column}v{near}"
        for column, step in enumerate(steps)
        for near in range(step - 1, step + 2)
    )


CLASSIFIER = OnNumbers(
    hidden_size=8,
    attention_size=8,
    vectors="none",
    embedding_size=16,
    min_count=1,
    validation_fraction=0,
    word_dropout=0,
    embedding_dropout=0,
    classifier_dropout=0,
    max_epochs=3,
    random_state=0,
)


def name_of(value: object) -> str:
    return getattr(getattr(value, "func", value), "__name__", type(value).__name__)


@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(CLASSIFIER, expected_failed_checks=EXCEPTIONS, mark="xfail")),
    ids=name_of,
)
def test_scikit_learn_finds_nothing_wrong(
    estimator: OnNumbers, check: Callable[[OnNumbers], None]
) -> None:
    check(estimator)


def test_scikit_learn_itself_has_no_checks_for_texts() -> None:
    with pytest.warns(SkipTestWarning, match="string=True"):
        check_estimator(HANClassifier())
