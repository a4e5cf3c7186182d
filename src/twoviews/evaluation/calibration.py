"""Whether a classifier's confidence is the share of its answers that are right, and one number that mends it.

scores (N, C): logits, whose softmax is the probabilities. labels (N,) int64 in 0 .. C-1. Source of all of it:
Guo et al. 2017, "On Calibration of Modern Neural Networks", sections 2 and 4.2.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..errors import DataError, UsageError

TEMPERATURES = (0.01, 100.0)
"""Between which a temperature is looked for."""


def fit_temperature(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """The T for which scores / T have the least negative log-likelihood, on validation.

    1 where the data decides none: without items, and where the likelihood still rises at an end of TEMPERATURES, as
    when every answer is right (each lower T is then better) or scores say nothing of the labels. Raises DataError for
    scores that are not finite and labels out of range, UsageError for shapes that do not fit.

    >>> scores = np.array([[4.0, 0.0]] * 4)                 # sure of class 0, which is right in 3 of 4
    >>> round(fit_temperature(scores, np.array([0, 0, 0, 1])), 2)    # 4 / T = log 3
    3.64
    """
    if not len(labels):
        return 1.0
    values = _checked(scores, labels)
    low, high = np.log(TEMPERATURES)

    # The likelihood is concave in 1 / T, so it has one peak in log T too.
    found = minimize_scalar(lambda t: _nll(values, labels, float(np.exp(t))), bounds=(low, high), method="bounded")
    ends = [_nll(values, labels, temperature) for temperature in TEMPERATURES]
    return 1.0 if min(ends) - float(found.fun) < 1e-6 else float(np.exp(found.x))


def nll(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels, in nats. Errors as `fit_temperature`; DataError without items.

    >>> round(nll(np.zeros((3, 2)), np.array([0, 1, 1])), 4)     # log 2
    0.6931
    """
    return _nll(_checked(scores, labels), labels, _above_zero(temperature))


def reliability(
    scores: npt.NDArray[Any], labels: npt.NDArray[np.int64], *, temperature: float = 1.0, bins: int = 15
) -> list[dict[str, Any]]:
    """Items by the confidence in their answer, in `bins` ranges of equal width from 0 to 1; empty ones are left out.

    Each: low, high (above low, up to high), count, confidence (mean) and accuracy, as fractions. Errors as `nll`;
    UsageError for fewer than one bin.

    >>> reliability(np.array([[9.0, 0.0], [9.0, 0.0]]), np.array([0, 1]), bins=2)
    [{'low': 0.5, 'high': 1.0, 'count': 2, 'confidence': 0.999877, 'accuracy': 0.5}]
    """
    if bins < 1:
        raise UsageError(f"a reliability diagram needs at least one bin, got {bins}")
    values = _checked(scores, labels)
    probabilities = np.exp(log_softmax(values / _above_zero(temperature), axis=1))
    confidence, right = probabilities.max(axis=1), values.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        {
            "low": round(b / bins, 6),
            "high": round((b + 1) / bins, 6),
            "count": int((which == b).sum()),
            "confidence": round(float(confidence[which == b].mean()), 6),
            "accuracy": round(float(right[which == b].mean()), 6),
        }
        for b in range(bins)
        if (which == b).any()
    ]


def calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error (ECE): mean distance of confidence and accuracy over the items of `reliability`.

    It is 0 or more, so few items alone make it larger. Raises DataError without items.

    >>> calibration_error([{"count": 4, "confidence": 0.9, "accuracy": 0.5}])
    0.4
    """
    count = sum(b["count"] for b in bins)
    if not count:
        raise DataError("no labelled sample to measure calibration on: give a test set with labels")
    error: float = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / count
    return round(error, 6)


def _nll(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], temperature: float) -> float:
    return float(-log_softmax(scores / temperature, axis=1)[np.arange(len(labels)), labels].mean())


def _above_zero(temperature: float) -> float:
    if not 0 < temperature < np.inf:
        raise UsageError(f"a temperature must be above 0 and finite, got {temperature}")
    return temperature


def _checked(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise UsageError(f"need scores (N, classes) and a label each, got scores {scores.shape}, labels {labels.shape}")
    if not len(labels):
        raise DataError("no labelled sample to measure calibration on: give a test set with labels")
    if not np.isfinite(scores).all():
        raise DataError("scores must be finite logits, got some that are not: was the classifier trained to the end?")
    if not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, but scores are of {scores.shape[1]} classes"
        )
    return scores.astype(np.float64)
