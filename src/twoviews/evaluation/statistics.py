"""What paired differences over seeds, and over seeds and test items, allow to say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import stdtrit

from ..errors import DataError, UsageError

_LEAST_P = 1e-12
"""Smaller p-values are given as this: no t-quantile is worth more digits."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval over n paired differences, in the unit of the differences.

    Over test items too: how many `items`, the two-sided `p` of a mean of 0, and what `share` of the half-width,
    squared, more items would make smaller (the rest is the luck of the seeds, whatever they are tested on).
    """

    mean: float
    low: float
    high: float
    n: int
    items: int | None = None
    p: float | None = None
    share: float | None = None


def paired_interval(differences: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of `differences` (one a seed); infinite for one difference.

    Raises DataError for none or one that is not finite, UsageError for a confidence outside (0, 1).

    >>> i = paired_interval([0.01, 0.02, 0.03])
    >>> round(i.mean, 4), round(i.low, 4), round(i.high, 4), i.n
    (0.02, -0.0048, 0.0448, 3)
    """
    _check_confidence(confidence)
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise DataError(f"an interval needs at least one finite difference, got {list(differences)}")
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def by_unit(values: npt.NDArray[np.float64], units: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float64]:
    """(S, N) values of items to (S, U) values of the units 0 .. U-1 that they belong to, with the same mean.

    Units, patients with several samples say, are then what an interval takes for independent. With m the mean over the
    N items, a unit has m + U / N times the sum of (value - m) over its items: the linearised estimator of a ratio, so
    that units of unequal sizes are no spread by themselves. Source: Cochran 1977, "Sampling techniques", chapter 9A,
    clusters of unequal sizes. `units` None: every item is its own.

    >>> by_unit(np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([0, 0, 0, 1]))
    array([[0.75, 0.25]])
    """
    if units is None:
        return values
    mean = values.mean(axis=1, keepdims=True)
    sums = np.stack([np.bincount(units, weights=row) for row in values - mean])
    by: npt.NDArray[np.float64] = mean + sums * units_an_item(units)
    return by


def units_an_item(units: npt.NDArray[np.int64] | None) -> float:
    """Units 0 .. U-1 an item (N,): U / N, and 1 where every item is its own."""
    return 1.0 if units is None else (int(units.max(initial=-1)) + 1) / len(units)


def crossed_interval(
    differences: npt.NDArray[np.float64], *, confidence: float = 0.95, weight: float = 1.0
) -> Interval:
    """Interval of the mean of paired differences (S, N): S seeds, each with the same N test items; both are a sample.

    Seeds share their items, so neither an interval over seeds alone (blind to the test set) nor one over items alone
    (blind to the luck of training) has the coverage it states. The variance is that of a two-way layout of random
    effects without replication, as for readers and cases of a diagnostic test: (M_seed + M_item - M_rest) / (S N), M
    the mean squares, M_item - M_rest not below 0. Source: Dorfman, Berbaum & Metz 1992, "Receiver operating
    characteristic rating analysis: generalization to the population of readers and patients with the jackknife
    method".

    A t-quantile with Satterthwaite's degrees of freedom is too small here: with 5 seeds it rejects a true mean of 0
    twice as often as stated at the level 0.05 / 8 that Holm asks of 8 budgets, and with 3 four times, because seeds
    that agree by chance lend it the items' degrees of freedom. Instead each part has the quantile of its own:
    half-width squared = (t(S-1)^2 M_seed + t(N-1)^2 (M_item - M_rest)) / (S N), which for independent parts covers at
    least as often as stated; and it is never below that of the items alone, t(N-1)^2 M_item / (S N). Source: Banerjee
    1960, "Approximate confidence interval for linear functions of means of k populations", Sankhya 22, 357-358;
    simulated for this layout in benchmarks/verdicts.py. `p` is the level at which the interval touches 0.

    So that arms which no item, or almost none, tells apart are not called equal with certainty, each seed's sum of
    squares counts as if it had `weight`^2 more: half an item that only one has right and half that only the other has
    right, of that weight (`metrics.item_weight`); Agresti & Min 2005, "Simple improved confidence intervals for
    comparing matched proportions".

    One seed: items only, so of these two classifiers, not of how they were made. One item: infinite. Raises DataError
    for none and for values that are not finite, UsageError for a confidence outside (0, 1).

    >>> rng = np.random.default_rng(0)
    >>> i = crossed_interval(0.1 + 0.05 * rng.normal(size=(5, 1)) + 0.5 * rng.normal(size=(1, 200)))
    >>> round(i.mean, 2), round(i.low, 2), round(i.high, 2), i.n, i.items
    (0.11, 0.03, 0.18, 5, 200)
    """
    _check_confidence(confidence)
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise DataError(f"an interval needs finite differences (seeds, items), got values of shape {values.shape}")
    seeds, items = values.shape
    mean = float(values.mean())
    if items == 1:
        return Interval(mean, -math.inf, math.inf, seeds, 1, 1.0, 1.0)
    by_seed, by_item = values.mean(axis=1), values.mean(axis=0)
    within = float(((values - by_seed[:, None]) ** 2).sum()) / seeds
    of_items = seeds * float(((by_item - mean) ** 2).sum())
    of_seeds = items * float(((by_seed - mean) ** 2).sum())
    # The rest as a sum over cells, not as total less parts: it must not come out as a small negative number.
    rest = float(((values - by_seed[:, None] - by_item[None, :] + mean) ** 2).sum())
    floor = 1e-12 * max(1.0, float(np.abs(values).max())) ** 2 * items
    if within > floor:
        of_items, of_seeds, rest = (part * (1 + weight**2 / within) for part in (of_items, of_seeds, rest))
    else:  # no item differs from another: all there is to go by is the added one
        of_items, rest = seeds * weight**2, 0.0
    m_item, m_seed, m_rest = of_items / (items - 1), 0.0, 0.0
    if seeds > 1:
        m_seed, m_rest = of_seeds / (seeds - 1), rest / ((seeds - 1) * (items - 1))
    added = max(m_item - m_rest, 0.0)

    def half(level: float) -> tuple[float, float]:
        """Half-width at a two-sided level, and the share of its square that goes with 1 / items."""
        t_item = -float(stdtrit(items - 1, level / 2))
        t_seed = -float(stdtrit(seeds - 1, level / 2)) if seeds > 1 else 0.0
        seed_part, item_part = t_seed**2 * m_seed, t_item**2 * added
        least = t_item**2 * m_item
        if seed_part + item_part <= least:
            return math.sqrt(least / (seeds * items)), 1.0
        few_items = item_part + t_seed**2 * min(m_seed, m_rest)
        return math.sqrt((seed_part + item_part) / (seeds * items)), few_items / (seed_part + item_part)

    width, share = half(1 - confidence)
    # Wider the smaller the level: where it comes to |mean|, by bisection of the level's logarithm.
    low, high = math.log(_LEAST_P), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if half(math.exp(middle))[0] > abs(mean) else (low, middle)
    return Interval(mean, mean - width, mean + width, seeds, items, min(1.0, math.exp(high)), share)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order: below a level, the chance of any false claim is at most that level.

    The smallest times their number, the next times one fewer, and so on, never falling and at most 1; valid however the
    tests depend on each other. Source: Holm 1979, "A simple sequentially rejective multiple test procedure". Raises
    DataError for one outside [0, 1].

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise DataError(f"p-values lie between 0 and 1, got {list(p_values)}")
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = so_far
    return adjusted


def conclusion(mean: float, p: float, *, level: float = 0.05) -> Literal["helps", "hurts", "cannot tell"]:
    """ "helps" for a mean above 0 with p below the level, "hurts" for one below 0, else "cannot tell".

    >>> conclusion(0.02, 0.3), conclusion(0.02, 0.01)
    ('cannot tell', 'helps')
    """
    if not p < level or mean == 0:
        return "cannot tell"
    return "helps" if mean > 0 else "hurts"


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie between 0 and 1, got {confidence}")
