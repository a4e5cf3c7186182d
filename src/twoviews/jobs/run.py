"""Pretrain, evaluate and report in one go."""

import time
from collections.abc import Callable
from typing import Any

from twoviews.narrate import Narrator
from twoviews.run import Run

PRETRAINING_SHARE = 0.55
"""Part of a `minutes` budget that pretraining gets; the comparison has the rest."""


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
