import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.subsets import split_validation, subset

LABELS = np.random.default_rng(0).permutation(np.repeat([-1, 0, 1, 2, 3], [30, 50, 40, 60, 12]))


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_subsets_are_stratified_nested_sorted_and_repeatable(seed):
    inner = np.zeros(0, dtype=int)
    for k in (1, 2, 5, 10, 12):
        chosen = subset(LABELS, per_class=k, seed=seed)
        assert np.bincount(LABELS[chosen]).tolist() == [k] * 4
        assert (np.diff(chosen) > 0).all()
        assert set(inner) <= set(chosen)
        np.testing.assert_array_equal(chosen, subset(LABELS, per_class=k, seed=seed))
        inner = chosen
    assert set(inner) <= set(subset(LABELS, per_class="all", seed=seed))


def test_all_is_every_label():
    np.testing.assert_array_equal(subset(LABELS, per_class="all", seed=3), np.flatnonzero(LABELS >= 0))


def test_seeds_differ_and_every_sample_has_its_chance():
    labels = np.repeat([0, 1], 10)
    times = np.zeros(20)
    for seed in range(400):
        times[subset(labels, per_class=3, seed=seed)] += 1
    # Mean 120, standard deviation 9.2.
    assert times.min() > 80
    assert times.max() < 160
    assert times.sum() == 400 * 6


def test_a_class_is_drawn_alike_whatever_the_others_hold():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    other = np.array([0, 0, 0, 0, 2, 2, 3, 3])
    for seed in range(5):
        a, b = (subset(x, per_class=2, seed=seed) for x in (labels, other))
        np.testing.assert_array_equal(a[a < 4], b[b < 4])


def test_too_few_labels_name_the_class_and_the_largest_budget():
    with pytest.raises(DataError, match=r"13 labels a class were asked for, but class '3' has 12: ask for 12"):
        subset(LABELS, per_class=13, seed=0)
    with pytest.raises(DataError, match="class 'mole' has 12"):
        subset(LABELS, per_class=13, seed=0, classes=["a", "b", "c", "mole"])
    with pytest.raises(DataError, match="class 'e' has 0: label at least one of them or leave the class out"):
        subset(LABELS, per_class=1, seed=0, classes=["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("budget", [1, "all"])
def test_no_labels_at_all(budget):
    with pytest.raises(DataError, match="no sample has a label"):
        subset(np.full(5, -1), per_class=budget, seed=0)
    with pytest.raises(DataError, match="no sample has a label"):
        split_validation(np.full(5, -1), seed=0)


@pytest.mark.parametrize(("budget", "seed"), [(0, 0), (-1, 0), (1, -1)])
def test_budget_and_seed_are_checked(budget, seed):
    with pytest.raises(UsageError, match=f"got {min(budget, seed)}"):
        subset(LABELS, per_class=budget, seed=seed)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_the_split_is_a_stratified_partition(fraction):
    train, validation = split_validation(LABELS, fraction=fraction, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.flatnonzero(LABELS >= 0))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    counts = np.bincount(LABELS[validation], minlength=4)
    assert np.abs(counts - fraction * np.array([50, 40, 60, 12])).max() <= 1
    assert abs(len(validation) - fraction * 162) <= 1


def test_the_split_respects_its_maximum():
    train, validation = split_validation(LABELS, fraction=0.5, maximum=27, seed=1)
    assert len(validation) == 27
    assert len(train) == 162 - 27
    assert np.bincount(LABELS[validation]).tolist() == [8, 7, 10, 2]


@pytest.mark.parametrize("fraction", [0.2, 0.6, 0.99])
def test_each_class_keeps_one_in_train(fraction):
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 2])
    train, _ = split_validation(labels, fraction=fraction, seed=0)
    assert set(labels[train]) == {0, 1, 2}
    train, validation = split_validation(np.arange(5), fraction=fraction, seed=0)
    assert (len(train), len(validation)) == (5, 0)


def test_splits_repeat_differ_by_seed_and_are_not_the_subsets():
    labels = np.repeat([0, 1], 50)
    a, b = (split_validation(labels, seed=4)[1] for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert set(a) != set(split_validation(labels, seed=5)[1])
    assert set(a) != set(subset(labels, per_class=10, seed=4))


@pytest.mark.parametrize("change", [{"fraction": 0.0}, {"fraction": 1.0}, {"maximum": 0}])
def test_the_split_is_checked(change):
    with pytest.raises(UsageError, match="0 < fraction < 1 and maximum >= 1"):
        split_validation(LABELS, seed=0, **change)


def test_a_part_is_held_out_however_large():
    labels = np.repeat([0, 1], 8000)
    assert len(split_validation(labels, seed=0)[1]) == 3200
    train, validation = split_validation(labels, seed=3, part=0.5)
    assert (len(train), len(validation)) == (8000, 8000)
    np.testing.assert_array_equal(validation, split_validation(labels, fraction=0.5, maximum=16000, seed=3)[1])
    assert set(split_validation(labels, seed=4, part=0.5)[1]) != set(validation)


def test_no_part_is_held_out_on_request():
    train, validation = split_validation(LABELS, seed=0, part=0)
    np.testing.assert_array_equal(train, np.flatnonzero(LABELS >= 0))
    assert (len(validation), validation.dtype) == (0, train.dtype)


@pytest.mark.parametrize("part", [-0.1, 1.0, float("nan")])
def test_a_part_is_checked(part):
    with pytest.raises(UsageError, match=f"must be 0 or more and below 1, got {part}: 0.2 is a fifth, 0 is none"):
        split_validation(LABELS, seed=0, part=part)


SAMPLES = st.lists(st.tuples(st.integers(-1, 3), st.one_of(st.none(), st.sampled_from("abcdefgh"))), min_size=2)


@settings(deadline=None, max_examples=300)
@given(samples=SAMPLES, fraction=st.floats(0.02, 0.9), seed=st.integers(0, 50))
def test_no_group_is_on_two_sides(samples, fraction, seed):
    labels, groups = np.array([label for label, _ in samples]), [group for _, group in samples]
    if (labels < 0).all():
        return
    try:
        train, validation = split_validation(labels, fraction=fraction, seed=seed, groups=groups)
    except DataError as error:
        found = re.search("no group can be held out .* group '(.)' holds all of class '(.)'", str(error))
        assert found is not None
        assert {groups[i] for i in np.flatnonzero(labels == int(found[2]))} == {found[1]}
        return
    sides = [{groups[i] for i in side if groups[i] is not None} for side in (train, validation)]
    assert not sides[0] & sides[1]
    assert set(labels[train]) == set(labels[labels >= 0])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.flatnonzero(labels >= 0))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    again = split_validation(labels, fraction=fraction, seed=seed, groups=groups)
    np.testing.assert_array_equal(validation, again[1])


def test_many_small_groups_are_as_good_as_none():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [300, 200, 100]))
    groups = [str(number) for number in rng.integers(0, 150, 600)]
    for seed in range(5):
        _, validation = split_validation(labels, seed=seed, groups=groups)
        assert np.abs(np.bincount(labels[validation]) - [60, 40, 20]).max() <= 3
    drawn = [frozenset(split_validation(labels, seed=seed, groups=groups)[1].tolist()) for seed in range(20)]
    assert len(set(drawn)) == 20
    times = Counter(groups[i] for validation in drawn for i in {groups[j]: j for j in validation}.values())
    assert len(times) > 0.9 * len(set(groups))  # which groups are held out is a draw


def test_groups_of_one_and_no_groups_change_nothing():
    expected = split_validation(LABELS, seed=2)
    for groups in (None, [None] * len(LABELS), [str(i) for i in range(len(LABELS))]):
        for part, other in zip(expected, split_validation(LABELS, seed=2, groups=groups), strict=True):
            np.testing.assert_array_equal(part, other)


def test_groups_and_samples_without_one_share_the_burden():
    labels = np.repeat([0, 1], 100)
    groups = [f"{i // 5}" if i % 100 < 50 else None for i in range(200)]
    for seed in range(5):
        _, validation = split_validation(labels, seed=seed, groups=groups)
        assert np.bincount(labels[validation]).tolist() == [20, 20]
        assert sum(groups[i] is not None for i in validation) == 20


def test_groups_larger_than_the_share_are_taken_whole():
    labels = np.tile([0, 1], 20)
    train, validation = split_validation(labels, seed=0, groups=["left"] * 20 + ["right"] * 20)
    assert (len(train), len(validation)) == (20, 20)
    # A class of two large groups gives one of them; the other classes keep to their shares.
    labels = np.repeat([0, 1], [40, 100])
    groups = [f"big{i // 20}" for i in range(40)] + [f"small{i // 2}" for i in range(100)]
    _, validation = split_validation(labels, seed=0, groups=groups)
    assert np.bincount(labels[validation]).tolist() == [20, 20]


def test_a_class_of_one_group_stays_in_train():
    labels = np.repeat([0, 1, 2], 20)
    groups = [f"{i // 4}" for i in range(40)] + ["only"] * 20
    train, validation = split_validation(labels, seed=0, groups=groups)
    assert set(labels[validation]) == {0, 1}
    assert (labels[train] == 2).sum() == 20


def test_where_no_group_can_be_held_out_it_is_said():
    words = (
        r"no group can be held out for validation, as train needs every class: group 'p' holds all of class 'cat'; "
        r"give validation data, or hold nothing out \(evaluate.validation = 0\)"
    )
    labels, groups = np.repeat([0, 1], 10), ["p"] * 10 + ["q"] * 10
    with pytest.raises(DataError, match=words):
        split_validation(labels, seed=0, groups=groups, classes=["cat", "dog"])
    train, validation = split_validation(labels, seed=0, groups=groups, part=0)
    assert (len(train), len(validation)) == (20, 0)
    with pytest.raises(UsageError, match="need one group a sample, got 3 for 20 samples"):
        split_validation(labels, seed=0, groups=["a"] * 3)
