"""Classification metrics with scikit-learn's definitions, from one confusion matrix and without warnings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError


def confusion(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], *, classes: int
) -> npt.NDArray[np.int64]:
    """Counts (classes, classes): row = true class, column = predicted class.

    Raises UsageError for lengths that differ, DataError for no sample or an index out of range.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), classes=2)
    array([[1, 0],
           [1, 1]])
    """
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


def _ratios(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], ...]:
    hits = np.diag(counts).astype(np.float64)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)

    def ratio(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        quotient = np.zeros(len(counts))
        np.divide(a, b, out=quotient, where=b > 0)
        return quotient

    return ratio(hits, predicted), ratio(hits, true), ratio(2 * hits, true + predicted)
