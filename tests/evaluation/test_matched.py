"""The interval of a difference of two accuracies on the same items."""

import math

import numpy as np
import pytest

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.matched import matched_interval, method_of


def answers(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """So many items that both, only the first, only the second and none has right."""
    pairs = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    one, other = np.array(pairs, dtype=bool).T
    return one, other


@pytest.mark.parametrize("cells", [(50, 12, 5, 33), (3, 1, 0, 2), (0, 0, 0, 9), (0, 9, 0, 0), (900, 0, 0, 100)])
def test_the_interval_by_hand(cells: tuple[int, int, int, int]) -> None:
    found = matched_interval(*answers(*cells))
    n, b, c = sum(cells) + 2, cells[1] + 0.5, cells[2] + 0.5  # half an item in each of four cells
    centre = (b - c) / n
    half = 1.959963984540054 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    assert found.low == pytest.approx(max(-1, centre - half), rel=1e-12)
    assert found.high == pytest.approx(min(1, centre + half), rel=1e-12)
    assert found.mean == pytest.approx((cells[1] - cells[2]) / sum(cells))
    assert found.n == sum(cells)
    assert found.low < found.high


def test_the_other_way_round_is_its_mirror() -> None:
    first, second = answers(50, 12, 5, 33)
    one, other = matched_interval(first, second), matched_interval(second, first)
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))


def test_where_the_two_agree_matters_only_by_its_size() -> None:
    assert matched_interval(*answers(60, 12, 5, 23)) == matched_interval(*answers(20, 12, 5, 63))


@pytest.mark.parametrize("cells", [(0.6, 0.15, 0.05, 0.2), (0.1, 0.3, 0.3, 0.3)])
def test_it_covers_what_it_says(cells: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for counts in rng.multinomial(60, cells, size=2000):
        found = matched_interval(*answers(*counts))
        hits += found.low <= cells[1] - cells[2] <= found.high
    assert 0.93 < hits / 2000 < 0.98


def test_groups_that_go_together_are_one_observation() -> None:
    """20 groups of 10 items, no true difference: items taken for independent would miss it in most draws."""
    rng, units, hits = np.random.default_rng(0), np.repeat(np.arange(20), 10), 0
    for _ in range(400):
        first, second = (np.repeat(rng.random(20) < 0.7, 10) for _ in range(2))
        found = matched_interval(first, second, units=units)
        assert found.mean == pytest.approx(first.mean() - second.mean())
        hits += found.low <= 0 <= found.high
    assert 0.91 < hits / 400 < 0.99
    assert (found.n, found.items) == (200, 20)
    assert method_of(found).startswith("t interval over 20 groups of items")
    assert method_of(matched_interval(first, second)).startswith("Wald interval of matched proportions")


def test_one_group_says_nothing() -> None:
    found = matched_interval(*answers(2, 1, 0, 1), units=np.zeros(4, np.int64))
    assert (found.mean, found.low, found.high) == (0.25, -1, 1)


def test_another_confidence_is_narrower() -> None:
    first, second = answers(50, 12, 5, 33)
    wide, narrow = matched_interval(first, second), matched_interval(first, second, confidence=0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_bad_input() -> None:
    first, second = answers(2, 1, 0, 1)
    with pytest.raises(UsageError, match=r"need an answer of both to each item, got \(4,\) and \(3,\)"):
        matched_interval(first, second[:3])
    with pytest.raises(UsageError, match=r"need a unit of each item, got \(3,\) for \(4,\)"):
        matched_interval(first, second, units=np.zeros(3, np.int64))
    with pytest.raises(DataError, match="no labelled item to compare on"):
        matched_interval(first[:0], second[:0])
    with pytest.raises(UsageError, match=r"confidence must lie between 0 and 1, got 1"):
        matched_interval(first, second, confidence=1.0)
