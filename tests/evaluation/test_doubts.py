"""What the losses of trained arms throw doubt on."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from twoviews.jobs.doubts import doubts_of


def record(arm: str, budget: int, *losses: float) -> dict[str, Any]:
    return {"row": {"arm": arm, "labels_per_class": budget}, "curve": [{"train_loss": loss} for loss in losses]}


def doubts(*records: dict[str, Any]) -> list[str]:
    comparison = SimpleNamespace(split=SimpleNamespace(classes=list("abcd")), records=records)  # chance is ln 4 = 1.39
    return doubts_of(cast(Any, comparison), [1, 10])


def test_nothing_is_said_of_ordinary_trainings() -> None:
    assert doubts(record("supervised", 10, 1.4, 0.3), record("finetune", 10, 0.9, 0.1)) == []
    assert doubts(record("knn", 10)) == []


@pytest.mark.parametrize(("end", "told"), [(1.3, True), (0.9, False)])
def test_a_baseline_that_never_left_chance(end: float, told: bool) -> None:
    found = doubts(record("supervised", 1, 1.4, 1.39), record("supervised", 10, 1.4, end))
    assert [text.startswith("The baseline is not trained") for text in found] == [True] * told


@pytest.mark.parametrize(("begin", "told"), [(300.0, True), (4.0, False)])
def test_fine_tuning_that_began_far_above_chance(begin: float, told: bool) -> None:
    """A mean over seeds, at the largest budget alone."""
    found = doubts(record("finetune", 1, 900.0, 0.1), record("finetune", 10, begin, 0.1))
    assert [text.startswith(f"Fine-tuning began at a loss of {begin:.1f}") for text in found] == [True] * told
