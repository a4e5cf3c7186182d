"""What fits into the time, for both trained arms alike."""

import doctest

import pytest

from twoviews.jobs import length as room
from twoviews.jobs.length import Length, Work, fit_to_time, plan_in_time


def work_of(**change):
    usual = {"arms": 2, "labels": {1: 10, 5: 50, "all": 960}, "trials": 6, "tried_at": 5, "val": 240, "test": 600}
    return Work(**{**usual, "points": 10, **change})


def test_docstring_example():
    assert doctest.testmod(room).failed == 0


def test_a_length_in_updates_or_in_passes():
    updates, passes = Length(300, 64), Length(8, 64, passes=True)
    assert [updates.updates(n) for n in (10, 960)] == [300, 300]
    assert [passes.updates(n) for n in (10, 64, 127, 128, 960)] == [8, 8, 8, 16, 120]
    assert [updates.batch_of(n) for n in (10, 960)] == [64, 64]
    assert [passes.batch_of(n) for n in (10, 960)] == [10, 64]
    assert (str(updates), str(passes)) == ("300 updates", "8 passes over the labels")
    assert str(Length(1, 64, passes=True)) == "1 pass over the labels"


def test_enough_time_cuts_nothing():
    for length in (Length(300, 64), Length(8, 64, passes=True)):
        assert fit_to_time(length, [0, 1], work_of(), seconds=1e6, per_update=0.1, per_sample=1e-4) == (
            length,
            [0, 1],
            [],
        )


def test_what_is_left_after_looking_is_shared_by_all_updates():
    seeds = [0, 1, 2]
    pairs = 3 * 3  # of one arm
    looked = (6 + 2 * pairs + 2 * 10) * (240 + 512) + 2 * pairs * 600
    seconds = (200.5 * (6 + 2 * pairs) * 0.05 + looked * 0.001) / 0.92
    found, kept, cut = fit_to_time(
        Length(300, 64), seeds, work_of(), seconds=seconds, per_update=0.05, per_sample=0.001
    )
    assert (found, kept) == (Length(200, 64), seeds)
    assert cut == ["200 of at most 300 updates for fine-tuning and baseline alike, to keep to the time"]


def test_passes_cost_by_their_labels():
    seeds = [0, 1]
    once = 2 * 2 * (1 + 1 + 15) + 6 * 1  # 10 and 50 labels are a batch, 960 are fifteen
    found, _, cut = fit_to_time(
        Length(20, 64, passes=True), seeds, work_of(), seconds=12.5 * once * 0.1 / 0.92, per_update=0.1, per_sample=0.0
    )
    assert found == Length(12, 64, passes=True)
    assert cut == ["12 of at most 20 passes over the labels for fine-tuning and baseline alike, to keep to the time"]


def test_seeds_go_before_a_training_is_none():
    found, kept, cut = fit_to_time(
        Length(300, 64), list(range(8)), work_of(), seconds=1.0, per_update=0.1, per_sample=0.0
    )
    assert (found.count, kept) == (60, [0, 1, 2])
    assert cut[0] == "3 of 8 seeds for the trained arms, to keep to the time asked for"
    # The largest subset has 15 updates a pass.
    found, _, _ = fit_to_time(Length(20, 64, passes=True), [0], work_of(), seconds=1.0, per_update=0.1, per_sample=0.0)
    assert found.count == 4


@pytest.mark.parametrize(("val", "points"), [(0, 0), (240, 10)])
def test_curves_are_followed_only_where_there_is_validation(val, points):
    work = work_of(val=val, trials=0, tried_at=None)
    assert work.samples([0]) == (2 * 3 + 2 * points) * (val + 512) + 2 * 3 * 600
    tried = work_of(val=val, along=True)
    assert tried.samples([0]) == (6 + 2 * 3 + (6 + 2) * points) * (val + 512) + 2 * 3 * 600


@pytest.mark.parametrize(
    ("seconds", "tried", "seeds"), [(1e4, True, [0, 1]), (60.0, True, [0, 1]), (40.0, False, [0, 1]), (12.0, False, [])]
)
def test_trials_go_before_trainings_and_these_where_one_each_does_not_fit(seconds, tried, seeds):
    """A training is 60 updates at least, 6.5 s with what it looks at: one an arm takes 13 s, six trials 39 s more."""
    work = Work(arms=2, labels={5: 50, 10: 100}, trials=6, tried_at=10, val=0, test=0, points=10)
    found = plan_in_time(Length(300, 64), [0, 1], work, seconds=seconds, per_update=0.1, per_sample=0.001)
    assert (found.tried, found.seeds) == (tried, seeds)
