import math

import numpy as np
import pytest
from scipy import stats

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.statistics import Interval, by_unit, conclusion, crossed_interval, holm, paired_interval


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


def test_one_difference_says_nothing():
    assert paired_interval([0.5]) == Interval(0.5, -math.inf, math.inf, 1)


@pytest.mark.parametrize(
    ("mean", "p", "want"),
    [
        (0.1, 0.04, "helps"),
        (-0.1, 0.04, "hurts"),
        (0.1, 0.05, "cannot tell"),
        (-0.1, 0.6, "cannot tell"),
        (0.0, 0.0, "cannot tell"),
    ],
)
def test_conclusion(mean, p, want):
    assert conclusion(mean, p) == want


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf, 0.0]])
def test_needs_finite_differences(values):
    with pytest.raises(DataError, match="at least one finite difference"):
        paired_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(UsageError, match=f"between 0 and 1, got {confidence}"):
        paired_interval([0.1, 0.2], confidence=confidence)


def answered(rng, *, seeds, items, item=0.5, luck=0.1, rest=0.5, mean=1.0):
    """Differences of hits (seeds, items) of two arms of equal skill."""
    hits = []
    difficulty, subset = rng.normal(size=(1, items)), 0.2 * rng.normal(size=(seeds, 1))
    for _ in range(2):
        own = item * rng.normal(size=(1, items)) + luck * rng.normal(size=(seeds, 1))
        hits.append(mean + difficulty + subset + own + rest * rng.normal(size=(seeds, items)) > 0)
    return hits[0].astype(float) - hits[1]


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize(("items", "luck"), [(30, 0.1), (100, 0.0), (100, 0.4), (372, 0.15)])
def test_a_difference_of_zero_is_missed_as_rarely_as_stated(seeds, items, luck):
    rng = np.random.default_rng(seeds * items)
    p = np.array([crossed_interval(answered(rng, seeds=seeds, items=items, luck=luck)).p for _ in range(400)])
    # Nominal, plus three standard deviations of a share in 400.
    assert (p < 0.05).mean() <= 0.05 + 0.033
    assert (p < 0.05 / 8).mean() <= 0.05 / 8 + 0.012


def test_it_is_not_wider_than_it_must_be():
    rng = np.random.default_rng(0)
    p = np.array([crossed_interval(answered(rng, seeds=20, items=300, luck=0.3)).p for _ in range(400)])
    assert (p < 0.05).mean() > 0.02
    # With a gain of 10 points it sees it.
    seen = [crossed_interval(answered(rng, seeds=5, items=400, luck=0.05) + 0.1).p < 0.01 for _ in range(100)]
    assert np.mean(seen) > 0.95


def test_one_dimension_without_variance_leaves_student_s_t_of_the_other():
    rng = np.random.default_rng(3)
    by_seed = rng.normal(0.02, 0.05, size=5)
    got = crossed_interval(np.repeat(by_seed[:, None], 300, axis=1) + 0.0, weight=1e-9)
    want = paired_interval(by_seed)
    assert (got.low, got.high) == pytest.approx((want.low, want.high))
    assert got.p == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    by_item = rng.normal(0.02, 0.5, size=80)
    for seeds in (1, 4):
        got = crossed_interval(np.repeat(by_item[None], seeds, axis=0), weight=1e-9)
        want = stats.ttest_1samp(by_item, 0)
        assert (got.low, got.high) == pytest.approx(tuple(want.confidence_interval()))
        assert got.p == pytest.approx(want.pvalue)
        assert (got.n, got.items, got.share) == (seeds, 80, 1.0)


def test_it_is_never_narrower_than_the_items_alone_allow():
    rng = np.random.default_rng(4)
    for seeds in (2, 3, 5):
        values = rng.normal(size=(seeds, 40))
        values -= values.mean(axis=1, keepdims=True)  # seeds that agree by chance
        got = crossed_interval(values)
        alone = stats.t.ppf(0.975, 39) * np.sqrt(values.mean(axis=0).var(ddof=1) / 40)
        assert got.high - got.mean >= alone


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_p_is_the_level_at_which_the_interval_touches_zero(confidence):
    rng = np.random.default_rng(5)
    values = answered(rng, seeds=5, items=100) + 0.05
    p = crossed_interval(values).p
    assert (p < 1 - confidence) == (crossed_interval(values, confidence=confidence).low > 0)
    touching = crossed_interval(values, confidence=1 - p)
    assert touching.low == pytest.approx(0, abs=1e-6)


def test_the_share_of_the_items_tells_what_to_get_more_of():
    rng = np.random.default_rng(6)
    shares = [crossed_interval(answered(rng, seeds=5, items=n, luck=0.5)).share for n in (20, 5000)]
    assert shares[0] > 0.5 > 0.2 > shares[1]


@pytest.mark.parametrize("seeds", [1, 5])
def test_arms_that_no_item_tells_apart_are_not_surely_equal(seeds):
    got = crossed_interval(np.zeros((seeds, 50)))
    assert (got.mean, got.p) == (0.0, 1.0)
    assert got.low == -got.high
    assert 0.03 < got.high < 0.05  # two standard errors of one item in 50
    weighed = crossed_interval(np.zeros((seeds, 50)), weight=3.0)
    assert weighed.high == pytest.approx(3 * got.high)


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_few_items_that_all_say_the_same_prove_little(seeds):
    """Exact for one seed: the sign test over N items, 2 / 2^N."""
    assert crossed_interval(np.ones((seeds, 3))).p > 0.1
    assert crossed_interval(np.ones((seeds, 12))).p < 0.001
    one_of_many = np.zeros((seeds, 100))
    one_of_many[:, :4] = 1
    assert crossed_interval(one_of_many).p > 0.05
    one_of_many[:, :12] = 1
    assert crossed_interval(one_of_many).p < 0.01


def test_one_item_says_nothing():
    assert crossed_interval(np.ones((5, 1))) == Interval(1.0, -math.inf, math.inf, 5, 1, 1.0, 1.0)


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros((2, 0)), np.zeros(3), np.array([[0.0, math.nan]])])
def test_crossed_needs_finite_differences(values):
    with pytest.raises(DataError, match=r"finite differences \(seeds, items\), got values of shape"):
        crossed_interval(values)
    with pytest.raises(UsageError, match="between 0 and 1, got 95"):
        crossed_interval(np.zeros((2, 2)), confidence=95)


def test_holm_is_his_procedure():
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4]) == [0.4]
    assert holm([]) == []
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = (rng.random(6) ** 3).tolist()
        order, rejected = np.argsort(p), set()
        for rank, index in enumerate(order):  # step down: the first that fails ends it
            if p[index] >= 0.05 / (6 - rank):
                break
            rejected.add(int(index))
        assert {i for i, adjusted in enumerate(holm(p)) if adjusted < 0.05} == rejected


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_p_values_are_checked(p):
    with pytest.raises(DataError, match="between 0 and 1, got"):
        holm([0.5, p])


def test_units_keep_the_mean_and_stand_for_their_items():
    values = np.random.default_rng(0).normal(size=(3, 7))
    assert by_unit(values, None) is values
    assert by_unit(values, np.arange(7)) == pytest.approx(values)
    units = np.array([0, 1, 1, 2, 2, 2, 2])
    got = by_unit(values, units)
    assert got.shape == (3, 3)
    assert got.mean(axis=1) == pytest.approx(values.mean(axis=1))
    # A constant difference has no spread, whatever the units' sizes.
    assert by_unit(np.full((2, 7), 0.3), units) == pytest.approx(np.full((2, 3), 0.3))


def test_units_cover_where_items_do_not():
    """No true difference; 60 patients of 1 to 9 images whose answers go together: 95 % intervals, 400 of them."""
    rng = np.random.default_rng(1)
    missed = {"items": 0, "units": 0}
    for _ in range(400):
        units = np.repeat(np.arange(60), rng.integers(1, 10, 60))
        patient, image = rng.normal(size=60)[units], rng.normal(size=len(units))
        values = (patient + image)[None] + 0.2 * rng.normal(size=(5, len(units)))
        for name, each in (("items", values), ("units", by_unit(values, units))):
            interval = crossed_interval(each)
            missed[name] += not interval.low <= 0 <= interval.high
    assert missed["items"] > 60  # three times what is promised
    assert missed["units"] < 35
