"""What fits into the time, for both trained arms alike."""

import doctest
from dataclasses import replace

import pytest

from twoviews.jobs.comparing import length as room
from twoviews.jobs.comparing.length import Length, Work, fit_to_time, plan_in_time


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


@pytest.mark.parametrize(("length", "needed"), [(Length(6, 64), 1.2), (Length(10, 64, passes=True), 2.0)])
def test_what_was_asked_for_is_run_where_it_fits_however_short(length, needed):
    work = Work(arms=2, labels={1: 10}, trials=0, tried_at=None, val=0, test=0, points=10)
    for seconds, seeds in ((needed / 0.9, [0]), (0.9 * needed, [])):
        found = plan_in_time(length, [0], work, seconds=seconds, per_update=0.1, per_sample=0.0)
        assert (found.length, found.seeds) == (length, seeds)


class TestDistillation:
    """Beside fine-tuning and the baseline; three rates each."""

    def work(self, **change):
        return work_of(**{"arms": 3, "trials": 9, "pool": 1000, **change})

    def test_its_teachers_label_as_much_of_the_pool_as_it_can_see(self):
        assert work_of().labelled(Length(300, 64), [0, 1]) == 0
        assert self.work().labelled(Length(300, 64), [0, 1]) == (3 + 2 * 3) * 1000
        assert self.work().labelled(Length(10, 64), [0, 1]) == (3 + 2 * 3) * 640
        assert self.work().labelled(Length(10, 64), []) == 3 * 640
        # A pass is an update for 10 and for 50 labels, fifteen for 960.
        passes = Length(2, 64, passes=True)
        assert self.work().labelled(passes, [0]) == 3 * 128 + 128 + 128 + 1000

    def test_its_trials_need_a_teacher_and_alone_each_training_does(self):
        length, pairs = Length(300, 64), 2 * 3
        for own in (False, True):
            work = self.work(teachers=own, val=0)
            assert work.units(length, [0, 1]) == 9 + 1 + (3 + own) * pairs
            assert work.samples([0, 1]) == (9 + 1 + (3 + own) * pairs) * 512 + 3 * pairs * 600
        assert self.work(trials=0, tried_at=None).units(length, [0, 1]) == 3 * pairs

    def test_that_leaves_less_time_for_updates(self):
        once = {"per_update": 0.1, "per_sample": 0.001}
        arms, alone = self.work(), replace(self.work(), pool=0)
        for work in (arms, alone):
            found, seeds, _ = fit_to_time(Length(300, 64), [0, 1, 2], work, seconds=600.0, **once)
            longer = replace(found, count=found.count + 1)
            assert work.seconds(found, seeds, **once) <= 0.92 * 600 < work.seconds(longer, seeds, **once)
        assert fit_to_time(Length(300, 64), [0, 1, 2], arms, seconds=600.0, **once)[0].count < found.count
