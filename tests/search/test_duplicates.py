"""Groups against a plain reference, what they promise, the threshold, whitening."""

import numpy as np
import pytest

from twoviews.errors import DataError, UsageError
from twoviews.search import duplicates as module
from twoviews.search.duplicates import (
    Groups,
    find_groups,
    nearest_of_each,
    rank_to_keep,
    suggest_threshold,
)
from twoviews.search.neighbours import neighbours_of_each
from twoviews.search.whitening import Whitening


def crowd(seed: int, *, count: int = 120, around: int = 30, spread: float = 0.25) -> np.ndarray:
    """Vectors around some centres, so that many are near each other."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(around, 12))
    return (centres[rng.integers(0, around, count)] + spread * rng.normal(size=(count, 12))).astype(np.float32)


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-300)
    return unit @ unit.T


def plain_groups(vectors: np.ndarray, threshold: float, priority: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row at a time, with the whole matrix."""
    near = cosines(vectors)
    kept: list[int] = []
    for row in priority.tolist():
        if all(near[row, other] < threshold for other in kept):
            kept.append(row)
    leaders = np.array([row if row in kept else max(kept, key=lambda k: near[row, k]) for row in range(len(vectors))])
    return leaders, near[np.arange(len(vectors)), leaders]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.7, 0.9, 0.97])
@pytest.mark.parametrize("products", [1, 1000, 1 << 25])
def test_equals_the_plain_reference(
    seed: int, threshold: float, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PRODUCTS", products)
    vectors = crowd(seed)
    priority = np.random.default_rng(seed + 9).permutation(len(vectors))
    found = find_groups(vectors, threshold=threshold, priority=priority)
    leaders, similarity = plain_groups(vectors, threshold, priority)
    np.testing.assert_array_equal(found.leaders, leaders)
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-6)
    assert found.dropped().any()


def test_what_is_dropped_is_near_and_what_is_kept_is_not() -> None:
    vectors = crowd(7, count=400, spread=0.3)
    near = cosines(vectors)
    found = find_groups(vectors, threshold=0.9)
    rows = np.arange(len(vectors))
    gone = found.dropped()
    assert (near[rows[gone], found.leaders[gone]] >= 0.9 - 1e-6).all()
    kept = near[np.ix_(rows[~gone], rows[~gone])]
    assert kept[~np.eye(len(kept), dtype=bool)].max() < 0.9
    assert not gone[found.leaders].any()


def test_a_chain_is_not_one_group() -> None:
    # Each is within 10 degrees of the next, the ends are 90 apart.
    angles = np.radians(np.arange(0, 91, 9))
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = find_groups(chain, threshold=float(np.cos(np.radians(10))))
    assert len(np.unique(found.leaders)) >= 5
    assert all(len(group) <= 3 for group in found.members())


def test_equal_vectors_are_one_group_at_a_threshold_of_1() -> None:
    vectors = np.repeat(np.random.default_rng(0).normal(size=(2, 37)), 5, axis=0).astype(np.float32)
    assert find_groups(vectors, threshold=1.0).members() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_members_have_the_leader_first_and_the_largest_group_too() -> None:
    groups = Groups(np.array([0, 4, 2, 4, 4, 0]), np.array([1, 0.95, 1, 0.99, 1, 0.9], np.float32))
    assert groups.members() == [[4, 3, 1], [0, 5]]
    assert groups.dropped().tolist() == [False, True, False, True, False, True]


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(count: int) -> None:
    vectors = np.ones((count, 3), np.float32)
    assert find_groups(vectors, threshold=0.5).leaders.tolist() == list(range(count))
    assert nearest_of_each(vectors)[0].tolist() == [-1] * count


def test_zero_vectors_are_near_to_nothing() -> None:
    vectors = np.array([[0, 0], [0, 0], [1, 0], [2, 0]], np.float32)
    assert find_groups(vectors, threshold=0.01).leaders.tolist() == [0, 1, 2, 2]


def test_what_is_refused() -> None:
    vectors = crowd(0)
    for bad in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="above 0 and up to 1"):
            find_groups(vectors, threshold=bad)
    with pytest.raises(UsageError, match="each of the 120 rows once"):
        find_groups(vectors, threshold=0.9, priority=np.zeros(120, np.int64))
    vectors[3, 0] = np.nan
    with pytest.raises(DataError, match=r"1 of 120 vectors are not finite .*row 3"):
        find_groups(vectors, threshold=0.9)


def test_rules() -> None:
    labels, pixels = np.array([-1, 0, -1, 1]), np.array([5, 1, 9, 9])
    assert rank_to_keep("first", labels=labels, pixels=pixels).tolist() == [0, 1, 2, 3]
    assert rank_to_keep("largest", labels=labels, pixels=pixels).tolist() == [2, 3, 0, 1]
    assert rank_to_keep("labelled", labels=labels, pixels=pixels).tolist() == [3, 1, 2, 0]
    with pytest.raises(UsageError, match="unknown rule 'best': choose one of first, largest, labelled"):
        rank_to_keep("best", labels=labels, pixels=pixels)


def test_the_threshold_is_what_copies_reach() -> None:
    twins = np.linspace(0.8, 1.0, 201, dtype=np.float32)
    chosen = suggest_threshold(np.full(100, 0.1, np.float32), twins)
    assert chosen.value == pytest.approx(0.81, abs=1e-4)
    assert chosen.reason == "95 % of cropped, brighter, re-encoded copies reach it"


def test_the_threshold_is_raised_where_others_come_as_near_and_not_beyond_half_of_the_copies() -> None:
    rng = np.random.default_rng(0)
    twins = np.linspace(0.8, 1.0, 201, dtype=np.float32)
    bent = rng.normal(0.8, 0.15, 2000)
    chosen = suggest_threshold(np.tanh(bent).astype(np.float32), twins)
    assert chosen.value == pytest.approx(np.tanh(0.8 + 4 * 0.15), abs=0.02)
    assert "0.810" in chosen.reason
    assert "but so may others: raised, " in chosen.reason
    crowded = suggest_threshold(np.full(100, 0.97, np.float32) + rng.normal(0, 0.01, 100).astype(np.float32), twins)
    assert crowded.value == pytest.approx(0.9, abs=1e-3)


def test_many_duplicates_do_not_raise_the_threshold() -> None:
    # The lower half of the nearest neighbours tells how far apart images are, however many copies there are.
    rng = np.random.default_rng(1)
    twins = np.linspace(0.9, 1.0, 101, dtype=np.float32)
    apart, copies = rng.normal(0.3, 0.05, 600), rng.normal(2.5, 0.2, 400)
    chosen = suggest_threshold(np.tanh(np.concatenate([apart, copies])).astype(np.float32), twins)
    assert chosen.value == pytest.approx(0.905, abs=1e-3)


def test_a_threshold_needs_twins() -> None:
    with pytest.raises(UsageError, match="give one"):
        suggest_threshold(np.ones(5, np.float32), np.empty(0, np.float32))


def test_whitening_gives_every_direction_its_weight() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6)) * [30, 10, 3, 1, 1, 1]
    vectors = (rng.normal(size=(4000, 6)) @ mixing.T).astype(np.float32)
    white = Whitening.fit(vectors).apply(vectors)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, atol=1e-6)
    before, after = (np.linalg.eigvalsh(np.cov(x.T)) for x in (vectors, white))
    assert after[-1] / after[0] < 0.2 * before[-1] / before[0]


def test_whitening_tells_copies_from_look_alikes() -> None:
    """Images of a class differ from each other in directions of little variance, copies hardly do."""
    rng = np.random.default_rng(2)
    classes = rng.normal(size=(5, 40)) * 10
    base = classes[rng.integers(0, 5, 400)] + rng.normal(size=(400, 40))
    copies = base[:40] + 0.3 * rng.normal(size=(40, 40)) + classes[rng.integers(0, 5, 40)] * 0.02
    vectors = np.concatenate([base, copies]).astype(np.float32)

    def found(given: np.ndarray) -> float:
        index, _ = nearest_of_each(given)
        return float((index[400:] == np.arange(40)).mean())

    assert found(Whitening.fit(vectors).apply(vectors)) == 1.0
    assert found(Whitening.fit(vectors).apply(vectors)) >= found(vectors)


def test_whitening_of_what_does_not_vary() -> None:
    same = np.ones((5, 3), np.float32)
    np.testing.assert_allclose(Whitening.fit(same).apply(same), np.full((5, 3), 3**-0.5), rtol=1e-6)
    one = Whitening.fit(same[:1]).apply(same[:1])
    assert np.linalg.norm(one) == pytest.approx(1)
    assert Whitening.fit(np.zeros((4, 3), np.float32)).apply(np.zeros((4, 3), np.float32)).tolist() == [[0, 0, 0]] * 4
    with pytest.raises(DataError, match="not finite"):
        Whitening.fit(np.full((2, 2), np.inf, np.float32))


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_whitening_does_not_depend_on_the_unit(factor: float) -> None:
    vectors = crowd(3)
    scaled = (vectors * np.float32(factor)).astype(np.float32)
    np.testing.assert_allclose(Whitening.fit(scaled).apply(scaled), Whitening.fit(vectors).apply(vectors), atol=1e-4)


def test_neighbours_leave_out_the_group_and_see_each_group_once() -> None:
    vectors = crowd(4, count=80)
    leaders = find_groups(vectors, threshold=0.9).leaders
    index, similarity = neighbours_of_each(vectors, k=5, leaders=leaders)
    near = cosines(vectors)
    heads = np.unique(leaders)
    for row in range(len(vectors)):
        others = heads[heads != leaders[row]]
        want = others[np.argsort(-near[row, others], kind="stable")][:5]
        np.testing.assert_array_equal(index[row], want)
        np.testing.assert_allclose(similarity[row], near[row, want], atol=1e-6)


def test_neighbours_among_more_copies_than_are_asked_for() -> None:
    vectors = np.ones((9, 2), np.float32)
    index, similarity = neighbours_of_each(vectors, k=2)
    assert all(row not in found for row, found in enumerate(index.tolist()))
    np.testing.assert_allclose(similarity, 1, atol=1e-6)
    assert neighbours_of_each(vectors, k=50)[0].shape == (9, 8)


@pytest.mark.parametrize(
    ("vectors", "leaders", "text"),
    [
        (np.ones((0, 2)), None, "the collection has 0 images: neighbours need two"),
        (np.ones((1, 2)), None, "the collection has 1 image: neighbours need two"),
        (np.ones((3, 2)), np.zeros(3, np.int64), "has 3 images, all copies of one: neighbours need two"),
    ],
)
def test_too_few_for_neighbours(vectors: np.ndarray, leaders: np.ndarray | None, text: str) -> None:
    with pytest.raises(DataError, match=text):
        neighbours_of_each(vectors.astype(np.float32), k=3, leaders=leaders)
    with pytest.raises(UsageError, match="k is 0"):
        neighbours_of_each(vectors.astype(np.float32), k=0, leaders=leaders)
