"""Pretrain, evaluate and report in one go."""

import time
from collections.abc import Callable
from typing import Any

from twoviews.narrate import Narrator
from twoviews.report import write_report
from twoviews.run import Run

PRETRAINING_SHARE = 0.55
"""Part of a `minutes` budget that pretraining gets; the comparison has the rest."""

REPORT_SECONDS = 20
"""Kept for pictures and page."""


def run_all(
    pretrain: Callable[[float | None, Narrator], Run],
    evaluate: Callable[[Run, float | None, Narrator], dict[str, Any]],
    *,
    minutes: float | None,
    narrator: Narrator,
) -> tuple[Run, dict[str, Any]]:
    """`pretrain(minutes, narrator)`, `evaluate(run, minutes, narrator)`, then the report; `minutes` covers all."""
    began = time.monotonic()
    run = pretrain(None if minutes is None else PRETRAINING_SHARE * minutes, narrator)
    left = None
    if minutes is not None:
        left = max(0.1, minutes - (time.monotonic() - began + REPORT_SECONDS) / 60)
    results = evaluate(run, left, narrator)
    write_report(run.path)
    return run, results
