"""What paired differences over seeds allow to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ..errors import DataError, UsageError


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval over n paired differences, in the unit of the differences."""

    mean: float
    low: float
    high: float
    n: int


def paired_interval(differences: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of `differences` (one a seed); infinite for one difference.

    Raises DataError for none or one that is not finite, UsageError for a confidence outside (0, 1).

    >>> i = paired_interval([0.01, 0.02, 0.03])
    >>> round(i.mean, 4), round(i.low, 4), round(i.high, 4), i.n
    (0.02, -0.0048, 0.0448, 3)
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie between 0 and 1, got {confidence}")
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise DataError(f"an interval needs at least one finite difference, got {list(differences)}")
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def conclusion(interval: Interval) -> Literal["helps", "hurts", "cannot tell"]:
    """ "helps" when the whole interval lies above 0, "hurts" when below, else "cannot tell".

    >>> conclusion(Interval(mean=0.02, low=-0.005, high=0.045, n=3))
    'cannot tell'
    """
    if interval.low > 0:
        return "helps"
    if interval.high < 0:
        return "hurts"
    return "cannot tell"
