"""What knowing nothing scores: the rows below which no arm may fall without a question."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlog1py, xlogy

from .compare import Split
from .metrics import METRICS, classification_metrics


def floors(split: Split) -> list[dict[str, Any]]:
    """Two rows, `random guess` and `majority class`: accuracy, balanced_accuracy, f1_macro on test, and the class.

    A random guess takes each of the C classes alike, whatever was seen; its values are expected ones: 1 / C for
    accuracy and balanced accuracy, and `expected_f1` for macro F1. The majority class is the commonest of the labels in
    train, the first of several; it is answered to all of test.

    >>> split = Split(np.array([0, 0, 1]), np.array([]), np.array([0, 1, 1, 1]), ("cat", "dog"))
    >>> for row in floors(split):
    ...     print(row["name"], row["class"], row["accuracy"], row["balanced_accuracy"])
    random guess None 0.5 0.5
    majority class cat 0.25 0.5
    """
    classes = len(split.classes)
    common = int(np.bincount(split.train, minlength=classes).argmax())
    always = classification_metrics(split.test, np.full_like(split.test, common), classes=classes)
    guess = {"accuracy": 1 / classes, "balanced_accuracy": 1 / classes, "f1_macro": expected_f1(split.test, classes)}
    return [
        {"name": "random guess", **{name: round(guess[name], 4) for name in METRICS}, "class": None},
        {
            "name": "majority class",
            **{name: round(always[name], 4) for name in METRICS},
            "class": split.classes[common],
        },
    ]


def expected_f1(labels: npt.NDArray[np.int64], classes: int) -> float:
    """Expected macro F1 of uniform guesses on `labels` (N,), each below `classes`.

    Of N samples, P ~ Binomial(N, 1 / C) are answered a class that has n, and given P, n P / N of them are right in the
    mean; so its F1, 2 right / (n + P), is expected to be 2 n / N times the mean of P / (n + P). That is exact. A class
    that is absent from `labels` counts in the macro average, as 0, where it is answered at all; its part in the
    denominator is replaced by its expectation, 1 - (1 - 1 / C) ** N, which is nearly 1 unless N is small.

    >>> round(expected_f1(np.array([0, 1]), 2), 4)  # the four answers score 1, 1 / 3, 1 / 3 and 0
    0.4167
    """
    count, chance = len(labels), 1 / classes
    answered = np.arange(count + 1)
    logarithm = gammaln(count + 1) - gammaln(answered + 1) - gammaln(count - answered + 1)
    weights = np.exp(logarithm + xlogy(answered, chance) + xlog1py(count - answered, -chance))
    sizes = np.bincount(labels, minlength=classes)
    # Classes of one size are alike.
    found, times = np.unique(sizes[sizes > 0], return_counts=True)
    means = [2 * n / count * float((weights * (answered / (n + answered))).sum()) for n in found]
    absent = classes - int(times.sum())
    met = times.sum() + absent * (1 - (1 - chance) ** count)
    return float((np.array(means) * times).sum() / met)
