"""The probe of the evaluation, on any vectors, as a classifier of scikit-learn's."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from twoviews.config import Evaluate
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.calibration import fit_temperature
from twoviews.evaluation.folds import choose_penalty, deal, held_out_scores, most_folds
from twoviews.evaluation.knn import nearest_neighbours
from twoviews.evaluation.probe import fit_probe

KINDS = ("linear", "knn")
PENALTIES: tuple[float, ...] = Evaluate().penalties
FIXED_PENALTY: float = Evaluate().fixed_penalty
NO_VOTE = 1e-6
"""What a class without a neighbour counts as, so that votes have a logarithm."""
CHUNK = 128
"""Queries whose neighbours are held at a time."""

_Matrix = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]


class ParameterError(UsageError, ValueError):
    """A parameter of an estimator; scikit-learn expects ValueError."""


class OneClassError(DataError, ValueError):
    """Labels of one class; scikit-learn expects ValueError."""


class EmbeddingClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear layer, or nearest neighbours, on vectors (N, D): what `twoviews evaluate` measures encoders by.

    kind         `linear`: logistic regression on standardised vectors, to its optimum; `knn`: weighted neighbours by
                 cosine similarity, on the vectors as they are
    penalty      of the linear layer: L2, strength = penalty / N; None: one of `penalties` by cross-validation
    penalties    those tried: the likelihood of samples held out decides, at the temperature that suits each; where a
                 class has fewer than 5 samples nothing is tried, and the penalty is 0.3
    C            in place of a penalty: that of LogisticRegression on standardised vectors
    k, similarity_temperature     of the neighbours
    calibrate    divide the scores by a temperature that is fitted to samples held out (Guo et al. 2017)
    folds        of both, fewer where the smallest class has fewer samples
    random_state who comes into which fold

    Attributes: `classes_`, `n_features_in_`, `feature_names_in_` (where X has column names), `penalty_` (None for knn),
    `trials_` (of each penalty that was tried: penalty, accuracy and nll, held out), `temperature_` (1 where nothing was
    held out), `probe_` (a LinearProbe; None for knn).

    Raises ValueError for data that scikit-learn refuses and for one class; UsageError, which is one here, for a
    parameter.

    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> EmbeddingClassifier(C=1.0).fit(x, ["low", "low", "high", "high"]).predict([[0.5], [2.5]])
    array(['low', 'high'], dtype='<U4')
    """

    def __init__(
        self,
        kind: str = "linear",
        *,
        penalty: float | None = None,
        penalties: Sequence[float] = PENALTIES,
        C: float | None = None,
        k: int = 20,
        similarity_temperature: float = 0.07,
        calibrate: bool = True,
        folds: int = 5,
        random_state: Any = 0,
    ) -> None:
        self.kind = kind
        self.penalty = penalty
        self.penalties = penalties
        self.C = C
        self.k = k
        self.similarity_temperature = similarity_temperature
        self.calibrate = calibrate
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on vectors X (N, D) with labels y (N,), numbers or text."""
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        check_classification_targets(y)
        self._check_parameters()
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise OneClassError(
                f"y has one class, {str(classes[0])!r}, {len(y)} times: a classifier needs at least two"
            )
        self.classes_ = classes
        linear, fixed = self.kind == "linear", self._fixed_penalty(len(classes))
        penalty = FIXED_PENALTY if fixed is None else fixed
        self.trials_: list[dict[str, float]] = []
        self.temperature_ = 1.0
        folds = most_folds(labels, folds=self.folds) if self.calibrate or (linear and fixed is None) else 0
        if folds:
            dealt = deal(labels, folds=folds, seed=int(check_random_state(self.random_state).randint(2**31 - 1)))
            if linear:
                tried = tuple(self.penalties) if fixed is None else (fixed,)
                best, trials, held_out = choose_penalty(X, labels, classes=len(classes), penalties=tried, dealt=dealt)
                penalty = tried[best]
                self.trials_ = trials if fixed is None else []
            else:
                (held_out,) = held_out_scores(lambda *given: [self._votes(*given)], X, labels, dealt=dealt)
            if self.calibrate:
                self.temperature_ = fit_temperature(held_out, labels)
        self.penalty_ = penalty if linear else None
        self.probe_ = fit_probe(X, labels, classes=len(classes), strength=penalty / len(X)) if linear else None
        self._train: Any = None if linear else (X, labels)
        return self

    def decision_function(self, X: Any) -> _Matrix:
        """Calibrated logits (N, classes), or (N,) for two classes: those of the second minus those of the first."""
        scores = self._scores(X)
        difference: _Matrix = scores[:, 1] - scores[:, 0]
        return difference if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> _Matrix:
        """Probabilities (N, classes), in the order of `classes_`; rows sum to 1."""
        shares: _Matrix = softmax(self._scores(X), axis=1)
        return shares

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The most probable class (N,), the first of `classes_` at equality."""
        scores = self._scores(X)
        named: npt.NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return named

    def _scores(self, X: Any) -> _Matrix:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        if self.probe_ is not None:
            scores = self.probe_.scores(X)
        else:
            vectors, labels = self._train
            scores = self._votes(vectors, labels, X)
        scores /= self.temperature_
        return scores

    def _votes(self, vectors: npt.NDArray[Any], labels: _Indices, others: npt.NDArray[Any]) -> _Matrix:
        """Logarithms of vote shares (Wu et al. 2018), as `twoviews.evaluation.knn` has them.

        Neighbours are found in float32, whose products depend on how many rows are asked for at a time, and weighed in
        float64: predictions of some rows are those of all.
        """
        keys, queries = _unit(vectors), _unit(others)
        found, _ = nearest_neighbours(keys.astype(np.float32), queries.astype(np.float32), k=self.k)
        votes = np.empty((len(queries), len(self.classes_)))
        for start in range(0, len(queries), CHUNK):
            rows = slice(start, start + CHUNK)
            near, part = found[rows], votes[rows]
            weights = softmax(np.einsum("qkd,qd->qk", keys[near], queries[rows]) / self.similarity_temperature, axis=1)
            flat = np.arange(len(part))[:, None] * part.shape[1] + labels[near]
            part[:] = np.bincount(flat.ravel(), weights=weights.ravel(), minlength=part.size).reshape(part.shape)
        return np.log(votes + NO_VOTE)

    def _fixed_penalty(self, classes: int) -> float | None:
        if self.C is None:
            return self.penalty
        # LogisticRegression has one weight vector for the difference of two classes, which halves their penalty.
        return 1 / self.C if classes == 2 else 1 / (2 * self.C)

    def _check_parameters(self) -> None:
        if self.kind not in KINDS:
            raise ParameterError(str(unknown_name("kind", str(self.kind), KINDS)))
        if self.penalty is not None and self.C is not None:
            raise ParameterError(f"give a penalty or C, not both: got penalty={self.penalty}, C={self.C}")
        if not len(self.penalties):
            raise ParameterError("penalties is empty: give those to choose from, or one as penalty")
        given = {"penalty": self.penalty, "C": self.C, "similarity_temperature": self.similarity_temperature}
        for name, value in [*given.items(), *(("each of penalties", value) for value in self.penalties)]:
            if value is not None and not 0 < value < np.inf:
                raise ParameterError(f"{name} must be above 0 and finite, got {value}")
        if self.k < 1:
            raise ParameterError(f"k must be at least 1, got {self.k}")
        if self.folds < 2:
            raise ParameterError(f"folds must be at least 2, got {self.folds}: for no cross-validation fix a penalty")


def _unit(vectors: npt.NDArray[Any]) -> _Matrix:
    """Rows of length 1, and 0 for those of 0."""
    rows = vectors.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True)  # first: squares of large values would overflow
    rows /= np.where(largest > 0, largest, 1.0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.0)  # at least 1, but for rows of 0
    return rows
