import math

import numpy as np
import pytest
from scipy import stats

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.statistics import Interval, conclusion, paired_interval


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_equals_scipy(confidence):
    values = np.random.default_rng(0).normal(0.02, 0.05, 7)
    got = paired_interval(values.tolist(), confidence=confidence)
    want = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert (got.low, got.high) == pytest.approx((want.low, want.high))
    assert got.mean == pytest.approx(values.mean())
    assert got.n == 7


@pytest.mark.parametrize("n", [2, 5])
def test_covers_the_truth_as_often_as_it_says(n):
    rng = np.random.default_rng(1)
    draws = 0.3 + rng.normal(size=(2000, n))
    intervals = [paired_interval(row) for row in draws]
    covered = np.mean([i.low <= 0.3 <= i.high for i in intervals])
    # Four standard deviations of a proportion of 0.95 in 2000.
    assert abs(covered - 0.95) < 0.02


def test_false_verdicts_are_as_rare_as_stated():
    rng = np.random.default_rng(2)
    said = [conclusion(paired_interval(row)) for row in rng.normal(size=(2000, 5))]
    assert abs(said.count("helps") / 2000 - 0.025) < 0.015
    assert abs(said.count("hurts") / 2000 - 0.025) < 0.015


def test_one_difference_says_nothing():
    interval = paired_interval([0.5])
    assert interval == Interval(0.5, -math.inf, math.inf, 1)
    assert conclusion(interval) == "cannot tell"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1, 0.11, 0.12], "helps"),
        ([-0.1, -0.11, -0.12], "hurts"),
        ([0.1, -0.1, 0.05], "cannot tell"),
        ([0.0, 0.0, 0.0], "cannot tell"),
        ([0.1, 0.1], "helps"),
    ],
)
def test_conclusion(values, verdict):
    assert conclusion(paired_interval(values)) == verdict


@pytest.mark.parametrize("low", [0.0, -0.0])
def test_an_interval_that_touches_zero_tells_nothing(low):
    assert conclusion(Interval(0.1, low, 0.2, 3)) == "cannot tell"
    assert conclusion(Interval(-0.1, -0.2, low, 3)) == "cannot tell"


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf, 0.0]])
def test_needs_finite_differences(values):
    with pytest.raises(DataError, match="at least one finite difference"):
        paired_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(UsageError, match=f"between 0 and 1, got {confidence}"):
        paired_interval([0.1, 0.2], confidence=confidence)
