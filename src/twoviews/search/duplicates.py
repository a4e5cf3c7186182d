"""Near duplicates by cosine similarity: groups around the image that is kept, and the threshold they stand on.

N vectors, D dimensions, C of them with another one from the threshold on.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twoviews.errors import UsageError
from twoviews.evaluation.features import check_finite
from twoviews.search.neighbours import Rows, neighbours_of_each

KEEP = ("first", "largest", "labelled")
SHARE_FOUND = 95
"""Percent of changed copies that the threshold finds."""
_SIGMAS, _LEAST_NEIGHBOURS = 4.0, 30
_PRODUCTS = 1 << 25  # similarities held at once: 128 MB
_ROUNDING = 1e-6  # of products of float32: equal vectors are not below a threshold of 1

Similarities = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Groups:
    """Which images are near duplicates of which.

    leaders     (N,) the row that is kept for each row: its own where it is kept itself
    similarity  (N,) float32, cosine to that row; 1 for a leader
    """

    leaders: Rows
    similarity: Similarities

    def members(self) -> list[list[int]]:
        """The groups of two and more, the leader first, then by similarity; the largest group first.

        >>> Groups(np.array([0, 1, 0]), np.array([1, 1, 0.9], np.float32)).members()
        [[0, 2]]
        """
        order = np.lexsort((np.arange(len(self.leaders)), -self.similarity, self.dropped(), self.leaders))
        ends = np.flatnonzero(np.diff(self.leaders[order])) + 1
        groups = (part.tolist() for part in np.split(order, ends) if len(part) > 1)
        return sorted(groups, key=lambda group: (-len(group), group[0]))

    def dropped(self) -> npt.NDArray[np.bool_]:
        """(N,) those that are not kept."""
        gone: npt.NDArray[np.bool_] = self.leaders != np.arange(len(self.leaders))
        return gone


@dataclass(frozen=True)
class Threshold:
    """The cosine from which on images are near duplicates, and why it is that one."""

    value: float
    reason: str


def nearest_of_each(vectors: npt.NDArray[np.float32]) -> tuple[Rows, Similarities]:
    """Row and cosine similarity of the nearest other vector, both (N,); -1 and 0 where there is no other."""
    if len(vectors) < 2:
        check_finite(vectors)
        return np.full(len(vectors), -1), np.zeros(len(vectors), np.float32)
    index, similarity = neighbours_of_each(vectors, k=1)
    return index[:, 0], similarity[:, 0]


def find_groups(
    vectors: npt.NDArray[np.float32],
    *,
    threshold: float,
    priority: Rows | None = None,
    nearest: Similarities | None = None,
) -> Groups:
    """Groups of vectors (N, D) whose cosine to the one that is kept is `threshold` or more; exact, over all pairs.

    Rows are taken by `priority` (rows, the one most worth keeping first; by default in order): each that no kept one
    covers is kept, and covers what is near to it. So every dropped image has a kept one from the threshold on, no two
    kept ones are that near, and nothing is joined by a chain of others: of a - b - c, where a and c are not near,
    a and c are kept. Each joins the nearest kept image. `nearest` (N,): similarity to the nearest other where it is
    known. Memory: O(N + C D), never N x N. Raises UsageError for a threshold that is not above 0 and at most 1,
    DataError for vectors that are not finite.

    >>> angles = np.radians([0, 5, 10, 90])
    >>> vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    >>> find_groups(vectors, threshold=0.99).leaders
    array([0, 0, 2, 3])
    >>> find_groups(vectors, threshold=0.99, priority=np.array([1, 0, 2, 3])).leaders
    array([1, 1, 1, 3])
    """
    check_threshold(threshold)
    check_finite(vectors)
    rank = np.arange(len(vectors)) if priority is None else priority
    if sorted(rank.tolist()) != list(range(len(vectors))):
        raise UsageError(f"priority must hold each of the {len(vectors)} rows once, got {len(rank)} rows")
    near = nearest_of_each(vectors)[1] if nearest is None else nearest
    lowest = np.float32(threshold - _ROUNDING)
    rows = rank[near[rank] >= lowest]
    leaders, similarity = np.arange(len(vectors)), np.ones(len(vectors), np.float32)
    if not len(rows):
        return Groups(leaders, similarity)
    lengths = np.linalg.norm(vectors[rows].astype(np.float64), axis=1, keepdims=True).clip(min=1e-300)
    unit = (vectors[rows] / lengths).astype(np.float32)
    kept, owner, best = np.zeros(len(rows), bool), np.full(len(rows), -1), np.full(len(rows), -2, np.float32)
    step = max(1, _PRODUCTS // len(rows))
    start = 0
    while start < len(rows):
        ahead = np.flatnonzero(owner[start:] < 0)[:step] + start  # may still be covered by one before them
        if not len(ahead):
            break
        cosines = unit[ahead] @ unit.T
        for at, row in enumerate(ahead.tolist()):
            if owner[row] >= 0:
                continue
            kept[row] = True
            # A later leader may be nearer to what an earlier one has covered.
            taken = (cosines[at] >= lowest) & (cosines[at] > best) & ~kept
            owner[taken], best[taken] = row, cosines[at][taken]
            owner[row], best[row] = row, 1.0
        start = int(ahead[-1]) + 1
    leaders[rows], similarity[rows] = rows[owner], best.clip(max=1.0)
    return Groups(leaders, similarity)


def check_threshold(threshold: float) -> None:
    """Raise UsageError unless it is above 0 and at most 1."""
    if not 0 < threshold <= 1:
        raise UsageError(f"the threshold is {threshold}: give a cosine similarity above 0 and up to 1, such as 0.9")


def suggest_threshold(nearest: Similarities, twins: Similarities) -> Threshold:
    """Where near duplicates begin, by what copies reach and what images of the collection reach by themselves.

    `nearest` (N,): cosine of each image to its nearest other; `twins` (M,): of images to changed copies of themselves.
    The threshold is what 95 % of the twins reach. Where images that are no copies come as near, it is raised to 4
    robust standard deviations above the usual nearest neighbour (of atanh of the cosines, by their lower half, where
    there are no copies), but not above what half of the twins reach. Raises UsageError without twins.

    >>> twins = np.linspace(0.9, 1.0, 101, dtype=np.float32)
    >>> round(suggest_threshold(np.linspace(0.2, 0.4, 100, dtype=np.float32), twins).value, 3)
    0.905
    """
    if not len(twins):
        raise UsageError("a threshold needs similarities of images to copies of them: give one")
    low, middle = (float(np.percentile(twins, p)) for p in (100 - SHARE_FOUND, 50))
    copies = f"{SHARE_FOUND} % of cropped, brighter, re-encoded copies reach it"
    value, reason = low, copies
    if len(nearest) >= _LEAST_NEIGHBOURS:
        bent = np.arctanh(nearest.astype(np.float64).clip(-1 + 1e-9, 1 - 1e-9))
        usual, lower = np.median(bent), np.percentile(bent, 25)
        strict = float(np.tanh(usual + _SIGMAS * (usual - lower) / 0.6745))
        if strict > low:
            value = min(strict, middle)
            share = 100 * float((twins >= value).mean())
            reason = (
                f"{copies.replace('it', f'{low:.3f}')}, but so may others: raised, {share:.0f} % of copies reach it"
            )
    value = float(np.floor(min(max(value, 1e-3), 1.0) * 1e4 + 1e-6) / 1e4)
    return Threshold(value, reason)


def rank_to_keep(keep: str, *, labels: Rows, pixels: Rows) -> Rows:
    """Rows in the order in which images are worth keeping, equal ones in their own: the `priority` of `find_groups`.

    `first`: as they come; `largest`: by `pixels` (N,) of the original image; `labelled`: `labels` (N,) of 0 and above
    before -1, then by pixels. Raises UsageError for another rule.

    >>> rank_to_keep("labelled", labels=np.array([-1, -1, 0]), pixels=np.array([10, 20, 5])).tolist()
    [2, 1, 0]
    """
    rows = np.arange(len(labels))
    if keep == "first":
        return rows
    if keep == "largest":
        return np.lexsort((rows, -pixels))
    if keep == "labelled":
        return np.lexsort((rows, -pixels, labels < 0))
    raise UsageError(f"unknown rule {keep!r}: choose one of {', '.join(KEEP)}")
