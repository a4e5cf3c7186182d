import numpy as np
import pytest
from scipy.special import softmax

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.calibration import calibration_error, fit_temperature, nll, reliability


def drawn(n, *, factor, seed=0, classes=4):
    """Logits whose true temperature is `factor`: labels are drawn from the softmax of logits / factor."""
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=(n, classes))
    cumulated = softmax(scores, axis=1).cumsum(axis=1)
    return factor * scores, (rng.random((n, 1)) > cumulated).sum(axis=1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 5.0])
def test_the_temperature_that_labels_were_drawn_by_is_found(factor):
    scores, labels = drawn(20_000, factor=factor)
    assert fit_temperature(scores, labels) == pytest.approx(factor, rel=0.05)


def test_no_other_temperature_is_likelier():
    scores, labels = drawn(300, factor=3.0)
    best = fit_temperature(scores, labels)
    for other in (0.9 * best, 1.1 * best, 1.0):
        assert nll(scores, labels, best) < nll(scores, labels, other)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=int)),
        (np.eye(3) * 5, np.arange(3)),  # all right: the lower the better
        (np.eye(3) * 5, (np.arange(3) + 1) % 3),  # all wrong: the higher the better
        (np.zeros((4, 2)), np.array([0, 1, 1, 1])),  # no temperature matters
    ],
)
def test_where_nothing_decides_it_is_one(scores, labels):
    assert fit_temperature(scores, labels) == 1.0


def test_nll_is_that_of_the_labels():
    scores, labels = drawn(50, factor=2.0)
    probabilities = softmax(scores / 1.5, axis=1)
    assert nll(scores, labels, 1.5) == pytest.approx(-np.log(probabilities[np.arange(50), labels]).mean())
    assert nll(np.array([[1000.0, 0.0]]), np.array([1])) == 1000  # no overflow


def test_the_right_temperature_calibrates():
    scores, labels = drawn(20_000, factor=4.0)
    assert calibration_error(reliability(scores, labels)) > 0.1
    assert calibration_error(reliability(scores, labels, temperature=4.0)) < 0.02


def test_bins_hold_every_item_once_and_their_means():
    scores, labels = drawn(500, factor=2.0)
    bins = reliability(scores, labels, bins=10)
    confidence, right = softmax(scores, axis=1).max(axis=1), scores.argmax(axis=1) == labels
    assert sum(b["count"] for b in bins) == 500
    for b in bins:
        inside = (confidence > b["low"]) & (confidence <= b["high"])
        assert b["count"] == inside.sum() > 0
        assert b["high"] - b["low"] == pytest.approx(0.1)
        assert b["confidence"] == pytest.approx(confidence[inside].mean(), abs=1e-6)
        assert b["accuracy"] == pytest.approx(right[inside].mean(), abs=1e-6)
    error = sum(b["count"] / 500 * abs(b["confidence"] - b["accuracy"]) for b in bins)
    assert calibration_error(bins) == pytest.approx(error, abs=1e-6)


def test_a_bin_has_its_upper_end():
    (only,) = reliability(np.zeros((3, 2)), np.array([0, 0, 1]), bins=2)
    assert (only["low"], only["high"], only["count"], only["confidence"]) == (0.0, 0.5, 3, 0.5)


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        (np.zeros((2, 3)), np.array([0]), UsageError, r"scores \(2, 3\), labels \(1,\)"),
        (np.zeros(3), np.arange(3), UsageError, r"scores \(3,\)"),
        (np.zeros((0, 3)), np.zeros(0, dtype=int), DataError, "no labelled sample"),
        (np.array([[0.0, -np.inf]]), np.array([0]), DataError, "finite logits"),
        (np.zeros((2, 3)), np.array([0, 3]), DataError, "run from 0 to 3, but scores are of 3 classes"),
    ],
)
def test_bad_input_is_named(scores, labels, error, message):
    for measure in (nll, reliability):
        with pytest.raises(error, match=message):
            measure(scores, labels)


def test_options_are_checked():
    scores, labels = np.zeros((2, 2)), np.array([0, 1])
    with pytest.raises(UsageError, match="above 0 and finite, got 0"):
        nll(scores, labels, 0)
    with pytest.raises(UsageError, match="at least one bin, got 0"):
        reliability(scores, labels, bins=0)
    with pytest.raises(DataError, match="no labelled sample"):
        calibration_error([])
