"""The main job on the embedded digits, offline."""

from pathlib import Path
from typing import Any

from twoviews.jobs.comparing.evaluate import evaluate
from twoviews.jobs.pretraining.pretrain import pretrain
from twoviews.jobs.run import run_all
from twoviews.narrate import Narrator
from twoviews.run import Run


def demo(*, out: str | Path, overwrite: bool, narrator: Narrator) -> tuple[Run, dict[str, Any]]:
    """Pretrain on the training digits without labels, compare at 1, 5, 10 and all labels a class, write the report.

    1,797 real handwritten digits (8x8, UCI, with scikit-learn), split as they come: the last third, by other writers,
    is test. The recipe was chosen on a validation part of train; the test part is read once.
    """

    def pretrained(_minutes: float | None, narrator: Narrator) -> Run:
        return pretrain("digits:train", out=out, recipe="digits", overwrite=overwrite, narrator=narrator)

    def evaluated(run: Run, _minutes: float | None, narrator: Narrator) -> dict[str, Any]:
        return evaluate(run, train="digits:train", test="digits:test", narrator=narrator)

    return run_all(pretrained, evaluated, minutes=None, narrator=narrator)
