"""How long the trained arms train, and on how many seeds: as asked for, or what time allows, for both arms alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from twoviews.evaluation.compare import Budget
from twoviews.evaluation.finetune import STATISTICS_SAMPLES

MIN_UPDATES = 60
"""Fewer updates than this are no training: seeds are cut instead."""

MIN_SEEDS = 3


@dataclass(frozen=True)
class Length:
    """`count` updates of `batch_size` samples, or passes over the labelled samples in batches of as many."""

    count: int
    batch_size: int
    passes: bool = False

    def batch_of(self, samples: int) -> int:
        """Samples an update. A pass over few is one batch of them; a number of updates repeats them."""
        return min(self.batch_size, samples) if self.passes else self.batch_size

    def updates(self, samples: int) -> int:
        """Of one training on so many labelled samples."""
        return self.count * self.cost(samples)

    def cost(self, samples: int) -> int:
        """Updates that one of `count` means."""
        return (samples // self.batch_size or 1) if self.passes else 1

    def __str__(self) -> str:
        if not self.passes:
            return f"{self.count} update{'' if self.count == 1 else 's'}"
        return f"{self.count} pass{'' if self.count == 1 else 'es'} over the labels"


@dataclass(frozen=True)
class Work:
    """What is to be trained: `arms` on every (budget, seed), after `trials` of settings at the budget `tried_at`."""

    arms: int
    labels: Mapping[Budget, int]
    """Labelled samples of each budget."""
    trials: int
    tried_at: Budget | None
    val: int
    test: int
    points: int
    """Of a curve that is followed on validation."""
    along: bool = False
    """Whether the trials are followed too."""

    def pairs(self, seeds: Sequence[int]) -> int:
        """Trainings of one arm on these seeds."""
        return len(self.labels) * len(seeds)

    def units(self, length: Length, seeds: Sequence[int]) -> int:
        """Updates of everything, where `length.count` is 1."""
        once = sum(length.cost(count) * len(seeds) for count in self.labels.values())
        trial = length.cost(self.labels[self.tried_at]) if self.tried_at is not None else 0
        return self.trials * trial + self.arms * once

    def samples(self, seeds: Sequence[int]) -> int:
        """Samples that are only looked at: statistics, validation on the way and at the end, test."""
        pairs = self.arms * self.pairs(seeds)
        followed = ((self.trials if self.along else 0) + self.arms) * self.points if self.val else 0
        return (self.trials + pairs + followed) * (self.val + STATISTICS_SAMPLES) + pairs * self.test


@dataclass(frozen=True)
class Planned:
    """What is trained: without trials where `tried` is False, nothing where there are no seeds; what that `cut`."""

    length: Length
    seeds: list[int]
    cut: list[str]
    tried: bool = True


def plan_in_time(
    length: Length, seeds: list[int], work: Work, *, seconds: float, per_update: float, per_sample: float
) -> Planned:
    """`fit_to_time`, without the trials where these would leave no time for one training an arm, or nothing at all.

    >>> work = Work(arms=2, labels={5: 50}, trials=6, tried_at=5, val=0, test=0, points=10)
    >>> [plan_in_time(Length(300, 64), [0], work, seconds=s, per_update=0.1, per_sample=0).tried for s in (60.0, 40.0)]
    [True, False]
    >>> plan_in_time(Length(300, 64), [0], work, seconds=10.0, per_update=0.1, per_sample=0.0).seeds
    []
    """
    smallest = min(work.labels, key=lambda budget: work.labels[budget])
    least = _least(length, work)
    once = replace(work, labels={smallest: work.labels[smallest]}, trials=0, tried_at=None, along=False)
    shortest = once.units(least, [0]) * least.count * per_update + once.samples([0]) * per_sample
    if shortest > seconds:
        told = f"one training each takes {shortest:.0f} s at least, and {max(0.0, seconds):.0f} s were left"
        return Planned(length, [], [f"fine-tuning and baseline were not run: {told}"], tried=False)
    trials = replace(work, arms=0)
    trying = trials.units(least, [0]) * least.count * per_update + trials.samples([]) * per_sample
    tried = work.trials == 0 or shortest + trying <= seconds
    cut = (
        [] if tried else ["settings of fine-tuning and baseline were fixed beforehand, not tried, to keep to the time"]
    )
    fitting, kept, further = fit_to_time(
        length,
        seeds,
        work if tried else replace(work, trials=0),
        seconds=seconds,
        per_update=per_update,
        per_sample=per_sample,
    )
    return Planned(fitting, kept, cut + further, tried)


def _least(length: Length, work: Work) -> Length:
    """The shortest training that is one."""
    return replace(length, count=math.ceil(MIN_UPDATES / length.cost(max(work.labels.values()))))


def fit_to_time(
    length: Length, seeds: list[int], work: Work, *, seconds: float, per_update: float, per_sample: float
) -> tuple[Length, list[int], list[str]]:
    """Length and seeds that fit into the seconds left, and what that cut, in words.

    >>> work = Work(arms=2, labels={5: 50}, trials=0, tried_at=None, val=0, test=0, points=10)
    >>> fit_to_time(Length(300, 64), [0], work, seconds=100.0, per_update=0.25, per_sample=0.0)[0]
    Length(count=184, batch_size=64, passes=False)
    """
    asked, least = length.count, _least(length, work).count
    cut = []
    for kept in range(len(seeds), 0, -1):
        left = 0.92 * seconds - work.samples(seeds[:kept]) * per_sample
        affordable = int(left / (work.units(length, seeds[:kept]) * per_update))
        if affordable >= asked // 2 or kept <= MIN_SEEDS:
            break
    if kept < len(seeds):
        cut.append(f"{kept} of {len(seeds)} seeds for the trained arms, to keep to the time asked for")
    fitting = replace(length, count=min(asked, max(affordable, least)))
    if fitting.count < asked:
        cut.append(f"{fitting.count} of at most {length} for fine-tuning and baseline alike, to keep to the time")
    return fitting, seeds[:kept], cut
