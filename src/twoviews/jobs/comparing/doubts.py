"""What the losses of trained arms throw doubt on, in sentences that stand beside the verdict."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from twoviews.evaluation.compare import Budget, Comparison

UNTRAINED = 0.7
"""Part of the loss of guessing by the classes' shares above which a training has hardly begun."""

ASTRAY = 3.0
"""Times the loss of guessing, each class alike, above which fine-tuning starts from features that say nothing yet."""


def doubts_of(comparison: Comparison, budgets: Sequence[Budget]) -> list[str]:
    """At the largest budget: a baseline that never left chance, and fine-tuning that began far above it."""
    split = comparison.split
    chance = math.log(len(split.classes))

    def loss(arm: str, of: Callable[[list[dict[str, Any]]], float]) -> float | None:
        found = [
            of(record["curve"])
            for record in comparison.records
            if record["row"]["arm"] == arm and record["row"]["labels_per_class"] == budgets[-1] and record["curve"]
        ]
        return float(np.mean(found)) if found else None

    doubts = []
    end = loss("supervised", lambda curve: float(curve[-1]["train_loss"]))
    if end is not None and end >= UNTRAINED * (shares := _entropy(split.train[split.subset(budgets[-1], 0)])):
        doubts.append(
            f"The baseline is not trained: its loss is still {end:.2f}, where guessing by the classes' shares has "
            f"{shares:.2f}. Give it more updates (evaluate.updates, or more time) before believing a difference."
        )
    begin = loss("finetune", lambda curve: float(curve[0]["train_loss"]))
    if begin is not None and begin >= ASTRAY * chance:
        doubts.append(
            f"Fine-tuning began at a loss of {begin:.1f}, where guessing has {chance:.2f}: the encoder was hardly "
            "pretrained, so that its features are not on the scale that their probe expects. Pretrain for longer."
        )
    return doubts


def _entropy(labels: npt.NDArray[np.int64]) -> float:
    """Of the classes' shares in labels (N,): the loss of whoever knows these alone."""
    return float(entr(np.bincount(labels) / len(labels)).sum())
