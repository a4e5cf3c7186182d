"""How far a classifier's answers can be trusted: calibrated probabilities, and which answers are better left unsure.

scores (N, C): logits. labels (N,) int64 in 0 .. C-1. Answering only where the probability is high enough is selective
classification: Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks".
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from ..errors import UsageError

POINTS = 1000
"""Of a curve, at most: what is kept of validation stays small."""


@dataclass(frozen=True)
class Threshold:
    """From which probability answers count as sure, and how many of the validation items that are so were right.

    `probability` is infinite where no part of validation is right often enough: no answer is sure.
    """

    probability: float
    answered: int
    right: int


@dataclass(frozen=True)
class Certainty:
    """What held-out items say of a classifier's confidence.

    `temperature` divides its scores. `curve`: (probability, items with this one or more, right ones among them), from
    the highest probability to the lowest; empty where nothing was held out.
    """

    temperature: float
    curve: tuple[tuple[float, int, int], ...]

    @property
    def items(self) -> int:
        """How many items were held out."""
        return self.curve[-1][1] if self.curve else 0

    @staticmethod
    def measured(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64], *, temperature: float) -> "Certainty":
        """From the scores of held-out items, after the temperature.

        >>> Certainty.measured(np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), temperature=1.0).curve
        ((0.880797, 1, 1), (0.731058, 2, 1))
        """
        if not len(labels):
            return Certainty(temperature, ())
        probabilities = softmax(scores.astype(np.float64) / temperature, axis=1)
        # Downwards, so that an item still reaches the threshold that is its own.
        best = np.floor(probabilities.max(axis=1) * 1e6) / 1e6
        hits = probabilities.argmax(axis=1) == labels
        order = np.argsort(-best, kind="stable")
        right = np.cumsum(hits[order])
        ends = np.flatnonzero(np.append(np.diff(best[order]) != 0, True))  # items of one probability stay together
        if len(ends) > POINTS:
            ends = np.unique(ends[np.linspace(0, len(ends) - 1, POINTS).round().astype(np.int64)])
        return Certainty(temperature, tuple((float(best[order][e]), int(e) + 1, int(right[e])) for e in ends))

    def probabilities(self, scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(N, C), calibrated; rows sum to 1."""
        found: npt.NDArray[np.float64] = softmax(scores.astype(np.float64) / self.temperature, axis=1)
        return found

    def threshold(self, target: float) -> Threshold | None:
        """The lowest probability from which on answers are right with probability `target`; None for too few items.

        Of n answers with k right the next one is taken to be right with (k + 1) / (n + 2), Laplace's rule of
        succession: a short run of right answers proves little. Raises UsageError for a target outside (0, 1).

        >>> curve = tuple((round(1 - n / 100, 2), n, min(n, 30)) for n in range(1, 41))  # 30 of 40 right
        >>> Certainty(1.0, curve).threshold(0.9)
        Threshold(probability=0.68, answered=32, right=30)
        """
        if self.items < items_needed(target):
            return None
        enough = [point for point in self.curve if (point[2] + 1) / (point[1] + 2) >= target]
        return Threshold(*enough[-1]) if enough else Threshold(math.inf, 0, 0)


def items_needed(target: float) -> int:
    """How many held-out items, all right, it takes for a target: n with (n + 1) / (n + 2) >= target.

    >>> [items_needed(target) for target in (0.5, 0.9, 0.95, 0.99)]
    [1, 8, 18, 98]
    """
    if not 0 < target < 1:
        raise UsageError(f"certainty is the share of sure answers that are right, between 0 and 1, got {target}")
    return max(1, math.ceil((2 * target - 1) / (1 - target) - 1e-9))


def top_two(probabilities: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The most probable class and the next one, (N,) each, the lower index at equality; with one class both are it.

    >>> top_two(np.array([[0.2, 0.5, 0.3]]))
    (array([1]), array([2]))
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return order[:, 0], order[:, min(1, order.shape[1] - 1)]


def curve_from(rows: Iterable[Any]) -> tuple[tuple[float, int, int], ...]:
    """A curve from what was written of it. Raises ValueError for rows that are none: counts must rise, right among all.

    >>> curve_from([["0.9", "2", "2"], ["0.5", "3", "2"]])
    ((0.9, 2, 2), (0.5, 3, 2))
    """
    curve = tuple((float(p), int(n), int(k)) for p, n, k in rows)
    for before, after in zip(((math.inf, 0, 0), *curve), curve, strict=False):
        if not (after[0] < before[0] and after[1] > before[1] and before[2] <= after[2] <= after[1]):
            raise ValueError(f"{after} cannot follow {before}")
    return curve
