"""Pretrain, evaluate and report in one go."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twoviews.config import Recipe
from twoviews.data.source import Spec
from twoviews.errors import UsageError
from twoviews.jobs.comparing.early import check_comparison
from twoviews.jobs.comparing.reference import check_references
from twoviews.narrate import Narrator
from twoviews.run import Run

PRETRAINING_SHARE = 0.55
"""Part of a `minutes` budget that pretraining gets; the comparison has the rest."""


def labelled_with(config: Recipe, train: Spec | None) -> tuple[Spec | None, Spec | None]:
    """What pretraining is given as labelled data, and what the comparison, of the labelled data of `run`.

    A recipe that trains on labels too takes it for both, the comparison by way of the run. Raises `UsageError` where
    there is none, and where the recipe takes labels from the pool besides.
    """
    if config.data.labelled is not None:
        if train is not None:
            raise UsageError("the recipe takes data.labelled labels from the images themselves: leave --train out")
        return None, None
    if train is None and config.data.labelled_source is not None:
        return None, None
    if train is None:
        raise UsageError("run needs labelled data: add --train DATA, or take a recipe or --set data.labelled=N")
    return (train, None) if config.train.labelled_batch else (None, train)


def check_run(
    config: Recipe,
    pool: Spec,
    *,
    train: Spec | None,
    val: Spec | None,
    test: Spec,
    labels: str | Path | None = None,
    download: bool = False,
    narrator: Narrator,
) -> None:
    """Refuse before pretraining what the comparison after it would refuse: see `check_comparison`.

    `train`: the labelled data of `run`; the recipe may name others, or take labels from the pool.
    """
    trained_on, compared = labelled_with(config, train)
    drawn = config.data.labelled
    if drawn is not None:
        source = pool
    else:
        source = next(spec for spec in (compared, trained_on, config.data.labelled_source) if spec is not None)
    check_comparison(
        config.evaluate,
        train=source,
        val=val,
        test=test,
        labels=labels,
        exclude=config.data.exclude if drawn is not None else None,
        learnt=compared is None,
        drawn=drawn,
        download=download,
    )
    check_references(config.evaluate.references, download=download, narrator=narrator)


def run_all(
    pretrain: Callable[[float | None, Narrator], Run],
    evaluate: Callable[[Run, float | None, Narrator], dict[str, Any]],
    *,
    minutes: float | None,
    narrator: Narrator,
) -> tuple[Run, dict[str, Any]]:
    """`pretrain(minutes, narrator)`, then `evaluate(run, minutes, narrator)`; `minutes` covers both."""
    began = time.monotonic()
    run = pretrain(None if minutes is None else PRETRAINING_SHARE * minutes, narrator)
    left = None
    if minutes is not None:
        left = max(0.1, minutes - (time.monotonic() - began) / 60)
    return run, evaluate(run, left, narrator)
