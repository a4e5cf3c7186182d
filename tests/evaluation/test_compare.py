from dataclasses import replace

import numpy as np
import pytest

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.compare import (
    ARMS,
    DEFAULT_ARMS,
    Arm,
    Comparison,
    Fitted,
    Split,
    check_arms,
    selection_budget,
)

LABELS = np.arange(60) % 3


def split_of(*, val=30):
    return Split(LABELS, LABELS[:val], LABELS[:30], ("a", "b", "c"))


def scores(truth, *, wrong):
    predicted = truth.copy()
    predicted[:wrong] = (truth[:wrong] + 1) % 3
    return np.eye(3)[predicted]


def arm_of(name, *, wrong, settings=(None,), calls=None):
    """An arm that errs `wrong` times, or as often as its setting says."""

    def fit(indices, setting, *, seed, budget, trial):
        if calls is not None:
            calls.append((setting, seed, budget, trial, len(indices)))
        errors = wrong if setting is None else setting
        return Fitted(scores(split.val, wrong=errors), lambda: scores(split.test, wrong=errors), model=name)

    split = split_of()
    return Arm(name, fit, settings=settings, fixed=settings[0])


def compared(arms, *, budgets=(5,), seeds=(0, 1), val=30):
    comparison = Comparison(split_of(val=val))
    for arm in arms:
        comparison.choose(arm, budgets, seeds)
        for budget in budgets:
            for seed in seeds:
                comparison.add(comparison.run_arm(arm, budget, seed, keep_model=seed == 0))
    return comparison


def test_a_fit_is_told_whether_it_is_a_trial():
    calls = []
    comparison = compared([arm_of("linear", wrong=0, settings=(9, 3, 6), calls=calls)], budgets=(1, 5), seeds=(0, 1))
    trials = [(setting, seed, 5, True, 15) for setting in (9, 3, 6) for seed in (0, 1)]
    assert calls == [*trials, *[(9, s, 1, False, 3) for s in (0, 1)], *[(3, s, 5, False, 15) for s in (0, 1)]]
    assert comparison.chosen["linear"]["setting"] == 3
    assert [row["n_val"] for row in comparison.rows] == [0, 0, 30, 30]


def test_without_validation_nothing_is_tried():
    calls = []
    arm = arm_of("linear", wrong=0, settings=(9, 3, 6), calls=calls)
    comparison = Comparison(split_of(val=0))
    assert comparison.choose(arm, (1, 5, "all"), (0,)) == 9
    assert (calls, comparison.chosen["linear"]["reference_budget"]) == ([], None)
    assert selection_budget(comparison.split, (1, 2), (5, "all")) is None
    assert selection_budget(split_of(), (1, 2), (5, "all")) == 5
    assert selection_budget(split_of(), (1,), (5, "all")) is None


def test_a_training_that_diverged_is_not_chosen_and_is_named():
    """A setting of 60 errs 60 times; of None, gives what is not finite."""

    def fit(indices, setting, *, seed, budget, trial):
        if setting is None:
            return Fitted(np.full((30, 3), np.nan), lambda: np.full((30, 3), np.nan))
        return Fitted(scores(LABELS[:30], wrong=setting), lambda: scores(LABELS[:30], wrong=setting))

    arm = Arm("finetune", fit, settings=(None, 29), fixed=None)
    comparison = Comparison(split_of())
    assert comparison.choose(arm, (5,), (0,)) == 29
    assert [trial["val_score"] for trial in comparison.chosen["finetune"]["trials"]] == [0.0, round(1 / 30, 4)]
    with pytest.raises(
        DataError, match=r"finetune gave scores .* with 1 labels a class \(seed 0, None\).*evaluate\.fixed_lr"
    ):
        comparison.run_arm(arm, 1, 0)


@pytest.mark.parametrize(
    ("settings", "budget", "option"),
    [
        ((8, 9), 5, "lrs"),
        ((8, 9), 1, "fixed_lr"),  # below five labels a class
        ((8,), 5, "lrs"),
        ((8,), 1, "fixed_lr"),
        ((None,), 5, "fixed_lr"),  # nothing was tried
    ],
)
def test_the_rate_that_diverged_is_named(settings, budget, option):
    """A setting of None is the fixed one."""

    def fit(indices, setting, *, seed, budget, trial):
        wrong = scores(LABELS[:30], wrong=9) if trial else np.full((30, 3), np.nan)
        return Fitted(wrong, lambda: wrong)

    comparison, arm = Comparison(split_of()), Arm("finetune", fit, settings=settings, fixed=None)
    comparison.choose(arm, (1, 5), (0,))
    with pytest.raises(DataError, match=rf"evaluate\.{option}\b"):
        comparison.run_arm(arm, budget, 0)


def test_every_row_has_accuracy_and_the_macro_scores():
    (row, _) = compared([arm_of("linear", wrong=3)]).rows
    assert {"accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"} < row.keys()
    assert row["accuracy"] == row["recall_macro"] == 0.9


def test_arms_have_their_order_and_names():
    assert set(ARMS) - set(DEFAULT_ARMS) == {"linear-adam", "distill", "shuffled-linear"}
    assert check_arms(["supervised", "linear-adam", " knn"]) == ("knn", "linear-adam", "supervised")
    with pytest.raises(UsageError, match="linear-adam"):
        check_arms(["linear-adm"])


def test_trials_of_one_subset_together_choose_what_they_choose_one_by_one():
    alone = arm_of("linear", wrong=0, settings=(9, 3, 6))
    asked = []

    def together(indices, seed):
        asked.append((len(indices), seed))
        return [alone.fit(indices, setting, seed=seed, budget=5, trial=True) for setting in alone.settings]

    one, other = (compared([arm], budgets=(1, 5)) for arm in (alone, replace(alone, together=together)))
    assert asked == [(15, 0), (15, 1)]
    assert other.chosen == one.chosen
    assert other.rows == one.rows
