"""How long the trained arms train, and on how many seeds: as asked for, or what time allows, for both arms alike."""

import math
from bisect import bisect_right
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
    pool: int = 0
    """Images from which `distill`, one of the arms, learns what its teacher says of them; 0 without that arm."""
    teachers: bool = False
    """Whether `distill` trains a teacher for each of its trainings, as fine-tuning does not run beside it."""

    def pairs(self, seeds: Sequence[int]) -> int:
        """Trainings of one arm on these seeds."""
        return len(self.labels) * len(seeds)

    def units(self, length: Length, seeds: Sequence[int]) -> int:
        """Updates of everything, where `length.count` is 1."""
        once = sum(length.cost(count) * len(seeds) for count in self.labels.values())
        trial = length.cost(self.labels[self.tried_at]) if self.tried_at is not None else 0
        return (self.trials + self._tutors) * trial + (self.arms + self.teachers) * once

    def samples(self, seeds: Sequence[int]) -> int:
        """Samples that are only looked at, however long trainings are: statistics, validation on the way, test."""
        pairs = self.pairs(seeds)
        fits = self.trials + self._tutors + (self.arms + self.teachers) * pairs
        followed = ((self.trials if self.along else 0) + (self.arms if seeds else 0)) * self.points if self.val else 0
        return (fits + followed) * (self.val + STATISTICS_SAMPLES) + self.arms * pairs * self.test

    def labelled(self, length: Length, seeds: Sequence[int]) -> int:
        """Images of the pool that teachers label: as many for each training as it can see."""

        def seen(budget: Budget) -> int:
            return min(self.pool, length.updates(self.labels[budget]) * length.batch_size)

        trials = self.trials // self.arms * seen(self.tried_at) if self.tried_at is not None else 0
        return trials + len(seeds) * sum(map(seen, self.labels))

    def seconds(self, length: Length, seeds: Sequence[int], *, per_update: float, per_sample: float) -> float:
        """Of everything; without seeds, of the trials."""
        looked = self.samples(seeds) + self.labelled(length, seeds)
        return self.units(length, seeds) * length.count * per_update + looked * per_sample

    @property
    def _tutors(self) -> int:
        """Trainings of a teacher for the trials of `distill`, which share it."""
        return 1 if self.pool and self.trials else 0


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
    shortest = once.seconds(least, [0], per_update=per_update, per_sample=per_sample)
    if shortest > seconds:
        told = f"one training each takes {shortest:.0f} s at least, and {max(0.0, seconds):.0f} s were left"
        return Planned(length, [], [f"fine-tuning and baseline were not run: {told}"], tried=False)
    trying = work.seconds(least, [], per_update=per_update, per_sample=per_sample)
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
    """The shortest training that is one, or what is asked for, where that is shorter."""
    return replace(length, count=min(length.count, math.ceil(MIN_UPDATES / length.cost(max(work.labels.values())))))


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
        affordable = _affordable(length, seeds[:kept], work, 0.92 * seconds, per_update, per_sample)
        if affordable >= asked // 2 or kept <= MIN_SEEDS:
            break
    if kept < len(seeds):
        cut.append(f"{kept} of {len(seeds)} seeds for the trained arms, to keep to the time asked for")
    fitting = replace(length, count=min(asked, max(affordable, least)))
    if fitting.count < asked:
        cut.append(f"{fitting.count} of at most {length} for fine-tuning and baseline alike, to keep to the time")
    return fitting, seeds[:kept], cut


def _affordable(
    length: Length, seeds: Sequence[int], work: Work, seconds: float, per_update: float, per_sample: float
) -> int:
    """The largest count up to the one asked for that takes no longer; -1 where none does."""

    def cost(count: int) -> float:
        return work.seconds(replace(length, count=count), seeds, per_update=per_update, per_sample=per_sample)

    return bisect_right(range(length.count + 1), seconds, key=cost) - 1
