"""Strategies that choose images to label next, each on a `Pool` from which it takes.

N images, D dimensions. All distances are between vectors of length 1: 0 for a copy, 1.41 for nothing in common.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twoviews.errors import DataError
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.probe import fit_probe
from twoviews.search.partition import CHUNK, Rows, Unit, partition

MOST_CLUSTERS = 500
"""As the paper has it: more would split what belongs together."""
NEIGHBOURS = 20
LEAST_OF_CLUSTER = 5
MOST_OF_CLUSTER = 4096
"""Typicality is measured among so many members of a cluster, drawn at random where it has more."""
PENALTY = 0.3
"""Of the probe: strength = penalty / labels, which `evaluate` has too where nothing can be selected."""
NEAR = 0.5
"""A near copy is nearer than this part of the usual distance to the nearest neighbour."""
POOL_FACTOR = 10
_MEASURED = 512


@dataclass(frozen=True, slots=True)
class Choice:
    """A row, the strategy that took it, the cluster it was taken from (-1: none) and its score there."""

    row: int
    strategy: str
    cluster: int
    score: float


class Pool:
    """What may be chosen: images without a label that are no near copies of what is labelled or chosen."""

    def __init__(self, embeddings: Embeddings, *, waiting: npt.NDArray[np.bool_], seed: int) -> None:
        self.vectors, self.labels, self.classes = embeddings.vectors, embeddings.labels, embeddings.classes
        self.unit = Unit(embeddings.vectors)
        self.rng = np.random.default_rng(seed)
        self.held = (self.labels >= 0) | waiting
        """Labelled, waiting for a label, or chosen by now."""
        self.free = ~self.held
        self.near = NEAR * self._usual_distance()
        self.copies = 0
        self._taken = self.unit.take(np.flatnonzero(self.held))

    def offer(self, choice: Choice) -> bool:
        """Take it, unless it is a near copy of what was taken before: that leaves the pool."""
        row = choice.row
        self.free[row] = False
        one = self.unit.take([row])
        if len(self._taken) and float(_distances(self._taken, one).min()) <= self.near:
            self.copies += 1
            return False
        self.held[row] = True
        self._taken = np.concatenate([self._taken, one])
        return True

    def _usual_distance(self) -> float:
        """The median distance of 512 images, drawn at random, from their nearest neighbours but exact copies."""
        count = len(self.unit)
        rows = np.random.default_rng(0).permutation(count)[:_MEASURED]
        some = self.unit.take(rows)
        nearest = np.full(len(rows), np.inf, np.float32)
        for _, part in self.unit.chunks():
            away = 2 - 2 * (some @ part.T)
            away[away < 1e-5] = np.inf  # itself, and copies
            nearest = np.minimum(nearest, away.min(axis=1))
        known = nearest[np.isfinite(nearest)]
        return float(np.sqrt(np.median(known))) if len(known) else 0.0


def typical(pool: Pool, count: int) -> Iterator[Choice]:
    """TypiClust: of each of the largest clusters without a label the image whose neighbours are nearest.

    As many clusters as labels there are and will be, 500 at most; clusters of fewer than 5 images come last. Score: 1 /
    mean distance from the 20 nearest of the cluster. Source: Hacohen, Dekel and Weinshall 2022, "Active learning on a
    budget: opposite strategies suit high and low budgets", section 3.
    """
    clusters = partition(pool.unit, min(MOST_CLUSTERS, int(pool.held.sum()) + count), rng=pool.rng)
    sizes = np.bincount(clusters)
    covered = np.bincount(clusters[pool.held], minlength=len(sizes))
    order = np.argsort(clusters, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ranked: dict[int, Iterator[tuple[int, float]]] = {}
    open_ = sizes > 0
    small = sizes < LEAST_OF_CLUSTER
    while open_.any():
        at = int(np.lexsort((-sizes, covered, small, ~open_))[0])
        if at not in ranked:
            ranked[at] = _by_typicality(pool, order[starts[at] : starts[at + 1]])
        row, score = next(((r, s) for r, s in ranked[at] if pool.free[r]), (-1, 0.0))
        if row < 0:
            open_[at] = False
            continue
        choice = Choice(row, "typical", at, score)
        if pool.offer(choice):
            covered[at] += 1
            yield choice


def _by_typicality(pool: Pool, rows: Rows) -> Iterator[tuple[int, float]]:
    """(row, typicality) of the members of a cluster, the most typical first."""
    drawn = rows
    if len(rows) > MOST_OF_CLUSTER:
        drawn = np.sort(pool.rng.choice(rows, MOST_OF_CLUSTER, replace=False))
    x = pool.unit.take(drawn)
    score = np.zeros(len(x))
    k = min(NEIGHBOURS, len(x) - 1)
    for start in range(0, len(x) if k else 0, 1024):
        away = 2 - 2 * (x[start : start + 1024] @ x.T)
        away[np.arange(len(away)), np.arange(len(away)) + start] = np.inf
        nearest = np.partition(away, k - 1, axis=1)[:, :k]
        score[start : start + 1024] = 1 / np.maximum(np.sqrt(np.maximum(nearest, 0)).mean(axis=1), 1e-6)
    best = np.lexsort((drawn, -score))
    yield from zip(drawn[best].tolist(), score[best].tolist(), strict=True)
    yield from ((row, 0.0) for row in np.setdiff1d(rows, drawn).tolist())  # only where all that were drawn are gone


def diverse(pool: Pool, count: int) -> Iterator[Choice]:
    """k-centre greedy: each time the image that is farthest from all that are labelled or chosen.

    Without a label, the first is the one nearest to the mean. Score: that distance. Source: Sener and Savarese 2018,
    "Active learning for convolutional neural networks: a core-set approach", algorithm 1.
    """
    away = np.full(len(pool.unit), np.inf, np.float32)
    held = np.flatnonzero(pool.held)
    for start in range(0, len(held), 1024):
        centres = pool.unit.take(held[start : start + 1024])
        for part, x in pool.unit.chunks():
            np.minimum(away[part], (2 - 2 * (x @ centres.T)).min(axis=1), out=away[part])
    if not len(held):
        mean = sum((x.sum(axis=0, dtype=np.float64) for _, x in pool.unit.chunks()), np.zeros(pool.vectors.shape[1]))
        central = np.concatenate([x @ mean.astype(np.float32) for _, x in pool.unit.chunks()])
        away = np.where(central == central.max(), np.float32(4), np.float32(0))
    while pool.free.any():
        row = int(np.where(pool.free, away, -1).argmax())
        first = not pool.held.any()
        choice = Choice(row, "diverse", -1, 0.0 if first else float(np.sqrt(max(away[row], 0.0))))
        if not pool.offer(choice):
            if away[row] <= pool.near**2:  # all that is left is as near
                pool.copies += int(pool.free.sum())
                pool.free[:] = False
            continue
        yield choice
        if first:
            away = np.full(len(pool.unit), np.inf, np.float32)
        centre = pool.unit.take([row])[0]
        for part, x in pool.unit.chunks():
            np.minimum(away[part], 2 - 2 * (x @ centre), out=away[part])


def uncertain(pool: Pool, count: int) -> Iterator[Choice]:
    """Smallest margin between the two most probable classes of a linear probe that is fitted on what is labelled.

    Not `count` of the same kind: of the 10 x count with the smallest margin k-means makes as many clusters as images
    are wanted, and each gives its smallest; then each its second. Score: the margin, 0 is undecided. Source: margin,
    Scheffer, Decomain and Wrobel 2001; clusters, Zhdanov 2019, "Diverse mini-batch active learning". Raises DataError
    for labels of fewer than two classes.
    """
    margin = margins(pool)
    rows = np.flatnonzero(pool.free)
    rows = rows[np.argsort(margin[rows], kind="stable")]
    best, rest = rows[: POOL_FACTOR * count], rows[POOL_FACTOR * count :]
    clusters = partition(Unit(pool.vectors[best]), count, rng=pool.rng) if len(best) else best
    # The place of each in its cluster: firsts of all clusters, by margin, then seconds.
    order = np.lexsort((margin[best], clusters))
    within = np.empty(len(best), np.int64)
    within[order] = np.arange(len(best)) - np.searchsorted(clusters[order], clusters[order])
    turn = np.lexsort((margin[best], within))
    for row, cluster in [*zip(best[turn], clusters[turn], strict=True), *((row, -1) for row in rest)]:
        choice = Choice(int(row), "uncertain", int(cluster), float(margin[row]))
        if pool.free[row] and pool.offer(choice):
            yield choice


def margins(pool: Pool) -> npt.NDArray[np.float64]:
    """(N,) margin of the probe between its two most probable classes; raises DataError below two labelled classes."""
    labelled = np.flatnonzero(pool.labels >= 0)
    seen = np.unique(pool.labels[labelled])
    if len(seen) < 2:
        has = "there is no label" if not len(seen) else f"all {len(labelled)} labels are {pool.classes[seen[0]]!r}"
        raise DataError(
            f"uncertain needs labels of at least two classes, but {has}: label a first batch with --strategy typical, "
            "then give the file as --labels"
        )
    probe = fit_probe(
        pool.vectors[labelled], pool.labels[labelled], classes=len(pool.classes), strength=PENALTY / len(labelled)
    )
    found = np.empty(len(pool.unit))
    for start in range(0, len(found), CHUNK):
        top = np.partition(probe.predict_proba(pool.vectors[start : start + CHUNK])[:, seen], -2, axis=1)
        found[start : start + CHUNK] = top[:, -1] - top[:, -2]
    return found


def _distances(x: npt.NDArray[np.float32], one: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    away: npt.NDArray[np.float32] = np.sqrt(np.square(x - one).sum(axis=1))
    return away
