"""What two classifiers' answers to the same test items allow to say about their difference."""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from ..errors import DataError, UsageError
from .statistics import Interval, by_unit, crossed_interval, units_an_item


def matched_interval(
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    *,
    units: npt.NDArray[np.int64] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Difference of two accuracies, first less second, over N items that both answered, right or wrong: (N,) bool.

    Items that both have right, or both wrong, say nothing of the sign, as in McNemar's test, but of the size. Unlike
    the plain Wald interval, Agresti and Min's has a width where no item or every item tells the two apart. Source:
    Agresti & Min 2005, "Simple improved confidence intervals for comparing matched proportions", section 2. `units`:
    which items are not independent, (N,) numbers 0 .. U-1; then it is that of `crossed_interval` over the units. Raises
    DataError for no item, UsageError for lengths that differ and a confidence outside (0, 1).

    >>> i = matched_interval(np.array([True] * 8 + [False] * 2), np.array([True] * 5 + [False] * 5))
    >>> round(i.mean, 2), round(i.low, 2), round(i.high, 2), i.n
    (0.3, -0.04, 0.54, 10)
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie between 0 and 1, got {confidence}")
    if units is not None and units.shape != first.shape:
        raise UsageError(f"need a unit of each item, got {units.shape} for {first.shape}")
    if first.ndim != 1 or first.shape != second.shape:
        raise UsageError(f"need an answer of both to each item, got {first.shape} and {second.shape}")
    if not len(first):
        raise DataError("no labelled item to compare on: give a test set with labels")
    if units is not None:
        differences = by_unit((first.astype(np.float64) - second)[None], units)
        over = crossed_interval(differences, confidence=confidence, weight=units_an_item(units))
        return Interval(over.mean, max(-1.0, over.low), min(1.0, over.high), len(units), differences.shape[1])
    only_first, only_second, n = int((first & ~second).sum()), int((~first & second).sum()), len(first)
    gained, lost = (count / (n + 2) for count in (only_first + 0.5, only_second + 0.5))
    centre = gained - lost
    half = float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt((gained + lost - centre**2) / (n + 2))
    return Interval((only_first - only_second) / n, max(-1.0, centre - half), min(1.0, centre + half), n)


def method_of(interval: Interval) -> str:
    """How `matched_interval` came to an interval, in words, for whoever reads it.

    >>> method_of(matched_interval(np.ones(4, bool), np.zeros(4, bool), units=np.array([0, 0, 1, 1])))
    't interval over 2 groups of items, a group being one observation (Cochran 1977, chapter 9A)'
    """
    if interval.items is None:
        return (
            "Wald interval of matched proportions with half an item added to each of the four cells (Agresti & Min "
            "2005)"
        )
    return f"t interval over {interval.items} groups of items, a group being one observation (Cochran 1977, chapter 9A)"
