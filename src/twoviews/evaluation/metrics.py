"""Classification metrics with scikit-learn's definitions, from one confusion matrix and without warnings.

A metric is also a mean over the N test items of what each contributes to it (`item_values`): what its uncertainty, and
that of a difference of two arms on the same items, is computed from.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError, unknown_name

METRICS = ("accuracy", "balanced_accuracy", "f1_macro")
"""Those that settings may be chosen by and that a verdict is given on."""


def confusion(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], *, classes: int
) -> npt.NDArray[np.int64]:
    """Counts (classes, classes): row = true class, column = predicted class.

    Raises UsageError for lengths that differ, DataError for no sample or an index out of range.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), classes=2)
    array([[1, 0],
           [1, 1]])
    """
    _check_answers(labels, predicted, classes)
    flat = labels.astype(np.int64) * classes + predicted
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def classification_metrics(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], *, classes: int
) -> dict[str, float]:
    """accuracy, balanced_accuracy, precision_macro, recall_macro and f1_macro, as fractions.

    Macro averages run over the classes that occur in labels or predictions, as scikit-learn's do; a ratio
    with denominator 0 counts as 0. Balanced accuracy is the mean recall over the classes in the labels.

    >>> round(classification_metrics(np.array([0, 1, 1]), np.array([0, 1, 0]), classes=2)["f1_macro"], 4)
    0.6667
    """
    counts = confusion(labels, predicted, classes=classes)
    precision, recall, f1 = _ratios(counts)
    present = counts.sum(axis=1) > 0
    met = present | (counts.sum(axis=0) > 0)
    return {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "balanced_accuracy": float(recall[present].mean()),
        "precision_macro": float(precision[met].mean()),
        "recall_macro": float(recall[met].mean()),
        "f1_macro": float(f1[met].mean()),
    }


def per_class(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], *, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """One dict a class, in order: class, precision, recall, f1, support (true), predicted (count).

    >>> per_class(np.array([0, 1]), np.array([0, 0]), classes=["cat", "dog"])[1]
    {'class': 'dog', 'precision': 0.0, 'recall': 0.0, 'f1': 0.0, 'support': 1, 'predicted': 0}
    """
    counts = confusion(labels, predicted, classes=len(classes))
    precision, recall, f1 = _ratios(counts)
    return [
        {
            "class": name,
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(counts[i].sum()),
            "predicted": int(counts[:, i].sum()),
        }
        for i, name in enumerate(classes)
    ]


def score(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], *, classes: int, metric: str = "accuracy"
) -> float:
    """One of METRICS, as a fraction. Raises UsageError for another name, else as `classification_metrics`.

    >>> score(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]), classes=2)
    0.75
    """
    _check_metric(metric)
    return classification_metrics(labels, predicted, classes=classes)[metric]


def item_values(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], *, classes: int, metric: str = "accuracy"
) -> npt.NDArray[np.float64]:
    """What each item contributes, (N,): the mean is the metric, the variance over N its sampling variance.

    For accuracy the hits, 0 or 1. The others are ratios of counts, so by the delta method: the metric + N times its
    derivative by the count of the cell (true, predicted) that the item is in. The metric does not change when all
    counts are multiplied, so the derivatives sum to 0 over the items (Euler). A class of n items tells its own
    recall's variance too small by (n - 1) / n, so within it the values are stretched by the root of the inverse; one
    item alone tells nothing. Source: the infinitesimal jackknife, Efron 1982, "The Jackknife, the Bootstrap and Other
    Resampling Plans", chapter 6; for F1, Takahashi et al. 2022, "Confidence interval for micro-averaged F1 and
    macro-averaged F1 scores".

    >>> item_values(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]), classes=2).tolist()
    [1.0, 1.0, 1.0, 0.0]
    >>> values = item_values(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]), classes=2, metric="balanced_accuracy")
    >>> round(float(values.mean()), 4)
    0.8333
    """
    _check_metric(metric)
    if metric == "accuracy":
        _check_answers(labels, predicted, classes)
        return np.asarray(labels == predicted, dtype=np.float64)
    counts = confusion(labels, predicted, classes=classes)
    values = (_slopes(counts, metric) * len(labels))[labels, predicted] + _of_counts(counts, metric)
    support = counts.sum(axis=1)
    centre = np.bincount(labels, weights=values, minlength=classes) / np.maximum(support, 1)
    stretch = np.sqrt(support / np.maximum(support - 1, 1))
    stretched: npt.NDArray[np.float64] = centre[labels] + (values - centre[labels]) * stretch[labels]
    return stretched


def item_weight(labels: npt.NDArray[np.int64], *, classes: int, metric: str = "accuracy") -> float:
    """Root mean square over the items of what one's answer, right instead of wrong, moves N times the metric by.

    1 for accuracy, and for the others where classes are equally large; more where some are small. For macro F1 that of
    balanced accuracy, which it is near.

    >>> item_weight(np.array([0, 0, 1, 1]), classes=2, metric="f1_macro")
    1.0
    """
    _check_metric(metric)
    if metric == "accuracy":
        return 1.0
    support = np.bincount(labels, minlength=classes)
    support = support[support > 0]
    return float(np.sqrt(len(labels) * (1 / support).sum()) / len(support))


def _slopes(counts: npt.NDArray[np.int64], metric: str) -> npt.NDArray[np.float64]:
    """Derivative of the metric by each cell of the confusion matrix, (classes, classes)."""
    _, recall, f1 = _ratios(counts)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    identity = np.eye(len(counts))
    if metric == "balanced_accuracy":
        per_row = np.zeros(len(counts))
        np.divide(1 / (true > 0).sum(), true, out=per_row, where=true > 0)
        return np.asarray(per_row[:, None] * (identity - recall[:, None]))
    both = true + predicted
    per_class = np.zeros(len(counts))
    np.divide(1 / (both > 0).sum(), both, out=per_class, where=both > 0)
    lost = per_class * f1
    return np.asarray(2 * identity * per_class[:, None] - lost[:, None] - lost[None, :])


def _of_counts(counts: npt.NDArray[np.int64], metric: str) -> float:
    _, recall, f1 = _ratios(counts)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    values, counted = (recall, true > 0) if metric == "balanced_accuracy" else (f1, true + predicted > 0)
    return float(values[counted].mean())


def _check_answers(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int) -> None:
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise UsageError(f"need one prediction a label, got labels {labels.shape}, predicted {predicted.shape}")
    if not len(labels):
        raise DataError("no labelled sample to score: give a test set with labels")
    for name, values in (("labels", labels), ("predicted", predicted)):
        if not 0 <= values.min() <= values.max() < classes:
            raise DataError(
                f"{name} run from {values.min()} to {values.max()}, but must lie in 0 .. {classes - 1}: "
                "score only samples with a label"
            )


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)


def _ratios(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], ...]:
    hits = np.diag(counts).astype(np.float64)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)

    def ratio(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        quotient = np.zeros(len(counts))
        np.divide(a, b, out=quotient, where=b > 0)
        return quotient

    return ratio(hits, predicted), ratio(hits, true), ratio(2 * hits, true + predicted)
