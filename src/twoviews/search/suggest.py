"""Which images to label next, from their vectors and the labels that there are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.features import Embeddings
from twoviews.search.choosing import Choice, Pool, diverse, typical, uncertain

FEW, MANY = 2.0, 8.0
"""Labels a class seen: below `FEW`, `mixed` takes typical ones; from `MANY` on, uncertain ones."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An image to label: its row and id, the strategy that took it, its cluster there (-1: none), its score there."""

    row: int
    id: str
    strategy: str
    cluster: int
    score: float

    @property
    def why(self) -> str:
        """In a word, for the labeller."""
        cluster = f" cluster={self.cluster}" if self.cluster >= 0 else ""
        return f"{self.strategy}{cluster} score={self.score:.4f}"


@dataclass(frozen=True)
class Suggestions:
    """Images to label, the first the most urgent.

    `labelled`: how many have a label; `waiting`: how many were suggested earlier and have none yet; `copies`: how many
    were passed over as near copies of these or of chosen ones; `left`: how many may still be chosen; `rule`: what
    `mixed` decided, in words; `near`: the distance (of unit vectors) up to which two images are copies.
    """

    chosen: tuple[Suggestion, ...]
    wanted: int
    labelled: int
    waiting: int
    copies: int
    left: int
    rule: str
    near: float

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shortfall(self) -> str:
        """Why there are fewer than were asked for, in a sentence; empty where there are not."""
        if len(self.chosen) >= self.wanted:
            return ""
        copies = f", and {self.copies:,} are near copies of others" if self.copies else ""
        return f"{self.wanted:,} were asked for, but only {len(self):,} are left without a label{copies}"


def suggest(
    embeddings: Embeddings, *, count: int = 50, strategy: str = "mixed", seed: int = 0, waiting: Sequence[str] = ()
) -> Suggestions:
    """`count` images to label next: never one with a label, one of `waiting` (ids), or a near copy of another.

    Strategies: `typical`, `diverse`, `uncertain` (see `search.choosing`), and `mixed`: typical below 2 labels a class
    seen, half typical and half uncertain below 8, then uncertain. Same vectors, labels and seed: same suggestions. A
    near copy is nearer than half the usual distance to the nearest neighbour.

    Fewer than `count` come where fewer are left (`Suggestions.shortfall`). Raises UsageError for an unknown strategy or
    id, a count below 1 and a seed below 0; DataError where nothing is left, and for `uncertain` with labels of fewer
    than two classes.

    >>> vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    >>> vectors += np.random.default_rng(0).normal(0, 0.1, vectors.shape).astype(np.float32)
    >>> e = Embeddings(vectors, tuple(f"{i:02d}.png" for i in range(30)), np.full(30, -1), (), "")
    >>> sorted(s.row // 10 for s in suggest(e, count=3, strategy="typical").chosen)
    [0, 1, 2]
    """
    check_request(count=count, strategy=strategy, seed=seed)
    pool = Pool(embeddings, waiting=_rows(embeddings, waiting), seed=seed)
    labelled, waits = int((embeddings.labels >= 0).sum()), int(pool.held.sum())
    if not pool.free.any():
        others = "" if waits == labelled else f" or was suggested earlier ({waits - labelled:,})"
        raise DataError(
            f"nothing is left to suggest: each of the {len(embeddings):,} images has a label ({labelled:,}){others}"
        )
    per_class = labels_per_class(embeddings)
    rule = _rule(per_class) if strategy == "mixed" else ""
    choices = list(islice(STRATEGIES[strategy](pool, count), count))
    chosen = tuple(Suggestion(c.row, embeddings.ids[c.row], c.strategy, c.cluster, c.score) for c in choices)
    return Suggestions(
        chosen, count, labelled, waits - labelled, pool.copies, int(pool.free.sum()), rule, round(pool.near, 6)
    )


def check_request(*, count: int, strategy: str, seed: int) -> None:
    """Raise the UsageErrors of `suggest`, for whoever has to embed first."""
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    if count < 1:
        raise UsageError(f"the number of images to suggest must be at least 1, got {count}")
    if seed < 0:
        raise UsageError(f"a seed must be 0 or more, got {seed}")


def labels_per_class(embeddings: Embeddings) -> float:
    """Labels for each class that has one; 0 with fewer than two classes, as nothing can be told apart yet."""
    labelled = embeddings.labels[embeddings.labels >= 0]
    seen = len(np.unique(labelled))
    return len(labelled) / seen if seen > 1 else 0.0


def uncertain_share(per_class: float) -> float:
    """What part of a batch `mixed` takes by uncertainty, for so many labels a class seen.

    >>> [uncertain_share(n) for n in (0, 2, 8)]
    [0.0, 0.5, 1.0]
    """
    return 0.0 if per_class < FEW else 0.5 if per_class < MANY else 1.0


def _mixed(pool: Pool, count: int) -> Iterator[Choice]:
    """Typical ones first; a batch that one of the two cannot fill is filled by the other."""
    labelled = pool.labels[pool.labels >= 0]
    seen = len(np.unique(labelled))
    by_margin = round(uncertain_share(len(labelled) / seen if seen > 1 else 0.0) * count)
    if by_margin < count:
        yield from islice(typical(pool, count - by_margin), count - by_margin)
    if by_margin:
        yield from uncertain(pool, by_margin)


def _rule(per_class: float) -> str:
    if not per_class:
        return "typical ones: there are not yet labels of two classes"
    share, has = uncertain_share(per_class), f"{per_class:.1f} labels a class seen"
    if share == 0:
        return f"typical ones: {has}, fewer than {FEW:g}"
    if share < 1:
        return f"half typical, half uncertain ones: {has}, from {FEW:g} to {MANY:g}"
    return f"uncertain ones: {has}, {MANY:g} or more"


def _rows(embeddings: Embeddings, ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    place = {name: row for row, name in enumerate(embeddings.ids)} if ids else {}
    marked = np.zeros(len(embeddings), np.bool_)
    for name in ids:
        if name not in place:
            raise unknown_name("id", name, place)
        marked[place[name]] = True
    return marked


STRATEGIES: dict[str, Callable[[Pool, int], Iterator[Choice]]] = {
    "typical": typical,
    "diverse": diverse,
    "uncertain": uncertain,
    "mixed": _mixed,
}
