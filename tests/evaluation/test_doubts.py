"""What the losses of trained arms throw doubt on."""

from typing import Any

import numpy as np
import pytest

from twoviews.evaluation.compare import Budget, Comparison, Split
from twoviews.jobs.comparing.doubts import doubts_of

EVEN = np.arange(80) % 4  # chance is ln 4 = 1.39
NONE = np.empty(0, np.int64)


def record(arm: str, budget: Budget, *losses: float) -> dict[str, Any]:
    return {"row": {"arm": arm, "labels_per_class": budget}, "curve": [{"train_loss": loss} for loss in losses]}


def doubts(*records: dict[str, Any], train: np.ndarray = EVEN, budgets: tuple[Budget, ...] = (1, 10)) -> list[str]:
    classes = tuple("abcd"[: train.max() + 1])
    return doubts_of(Comparison(Split(train, NONE, NONE, classes), records=list(records)), budgets)


def test_nothing_is_said_of_ordinary_trainings() -> None:
    assert doubts(record("supervised", 10, 1.4, 0.3), record("finetune", 10, 0.9, 0.1)) == []
    assert doubts(record("knn", 10)) == []


@pytest.mark.parametrize(("end", "told"), [(1.3, True), (0.9, False)])
def test_a_baseline_that_never_left_chance(end: float, told: bool) -> None:
    found = doubts(record("supervised", 1, 1.4, 1.39), record("supervised", 10, 1.4, end))
    assert [text.startswith("The baseline is not trained") for text in found] == [True] * told


@pytest.mark.parametrize(
    ("budget", "end", "told"), [("all", 0.32, True), ("all", 0.15, False), (10, 0.6, True), (10, 0.32, False)]
)
def test_a_baseline_that_learnt_no_more_than_the_classes_shares(budget: Budget, end: float, told: bool) -> None:
    """Nine to one: 0.33 with all labels; labels a class are as many of each, so 0.69."""
    train = np.repeat([0, 1], [90, 10])
    found = doubts(record("supervised", budget, 0.69, end), train=train, budgets=(1, budget))
    assert [text.startswith(f"The baseline is not trained: its loss is still {end:.2f}") for text in found] == [
        True
    ] * told


def test_a_last_layer_that_begins_at_zero_is_no_doubt() -> None:
    rare = np.repeat([0, 1], [99, 1])
    assert doubts(record("finetune", "all", 0.69, 0.01), train=rare, budgets=("all",)) == []


@pytest.mark.parametrize(("begin", "told"), [(300.0, True), (4.0, False)])
def test_fine_tuning_that_began_far_above_chance(begin: float, told: bool) -> None:
    """A mean over seeds, at the largest budget alone."""
    found = doubts(record("finetune", 1, 900.0, 0.1), record("finetune", 10, begin, 0.1))
    assert [text.startswith(f"Fine-tuning began at a loss of {begin:.1f}") for text in found] == [True] * told
