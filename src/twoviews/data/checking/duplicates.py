"""Pairs of images that are nearly the same: close hashes are candidates, their thumbnails decide.

Pictures without contrast are in no pair.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from twoviews.data.checking.prints import Prints, has_contrast
from twoviews.errors import UsageError

Rows: TypeAlias = NDArray[np.int64]

MAX_BITS = 8
MIN_SIMILARITY = 0.985
"""Measured on 3,068 photographs of clothes on few backgrounds, a hard case: no two different ones are called alike."""
_ASPECT_TOLERANCE = 0.08  # of the logarithm: a crop of 2 % on every side moves it by 0.04 at most
_ROUGH = 0.9  # correlation below which no small shift would help
_REACH = np.array([0.6, 0.6, 0.08, 0.08], dtype=np.float32)  # pixels of 16, and zoom
_BANDS = 4
_CHUNK = 1 << 20
_PAIRS_AT_ONCE = 1 << 13
_POPCOUNT = np.array([bin(i).count("1") for i in range(1 << 16)], dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two near duplicates: their rows, the bits that differ, and the correlation of their thumbnails."""

    first: int
    second: int
    bits: int
    similarity: float


def near_duplicates(
    prints: Prints,
    *,
    other: Prints | None = None,
    max_bits: int = MAX_BITS,
    min_similarity: float = MIN_SIMILARITY,
) -> list[Pair]:
    """Near duplicates, sorted: pairs that join the groups within `prints`, or for images of `other` one of `prints`.

    Within, first < second, and images that are joined already are not compared again: a camera that does not move gives
    one group, not all its pairs (see `groups_of`). To `other`, `first` counts in `prints`, `second` in `other`, at most
    one pair for each of `other`. Hashes may differ in up to `max_bits` bits, 11 at most. Images without contrast are
    in no pair.
    """
    if not 0 <= max_bits < 3 * _BANDS:
        raise UsageError(f"max_bits is {max_bits}: give 0 to {3 * _BANDS - 1}")
    mine = _Side(prints)
    search = _Search(mine, mine if other is None else _Side(other), max_bits, min_similarity)
    search.run()
    return search.pairs()


def groups_of(pairs: Sequence[Pair]) -> list[list[int]]:
    """Rows joined by pairs of one set, each group sorted, the largest group first."""
    if not pairs:
        return []
    ends = np.array([(pair.first, pair.second) for pair in pairs])
    rows, at = np.unique(ends, return_inverse=True)
    left, right = at.reshape(-1, 2).T
    labels = _join(np.arange(len(rows)), left, right)
    order = np.argsort(labels, kind="stable")
    parts = np.split(rows[order], np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((part.tolist() for part in parts), key=lambda group: (-len(group), group))


class _Side:
    """The rows with contrast."""

    def __init__(self, prints: Prints) -> None:
        flat = prints.thumbs.reshape(len(prints.hashes), 256)
        self.rows = np.flatnonzero(has_contrast(prints.thumbs))
        self.hashes = prints.hashes[self.rows]
        self.thumbs = flat[self.rows]
        self.shapes = np.log(np.maximum(prints.aspects[self.rows], 1e-6))


class _Search:
    """Looks for pairs between two sides, or within one; what is settled on the way is not looked at again."""

    def __init__(self, mine: _Side, other: _Side, max_bits: int, min_similarity: float) -> None:
        self._mine, self._other = mine, other
        self._within = mine is other
        self._max_bits, self._min_similarity = max_bits, min_similarity
        # Within: the group of each row. Between: 1 where a row of `other` has its pair.
        self._labels = np.arange(len(other.rows)) if self._within else np.zeros(len(other.rows), np.int64)
        self._found: list[tuple[Rows, Rows, Rows, NDArray[np.float32]]] = []

    def pairs(self) -> list[Pair]:
        mine, other = self._mine.rows.tolist(), self._other.rows.tolist()
        found = (
            Pair(mine[i], other[j], bits, round(similarity, 4))
            for columns in self._found
            for i, j, bits, similarity in zip(*(column.tolist() for column in columns), strict=True)
        )
        return sorted(found, key=lambda pair: (pair.first, pair.second))

    def run(self) -> None:
        """Of 4 bands of 16 bits, one differs in a quarter of the bits at most: it is looked up with so many flipped."""
        flips = self._max_bits // _BANDS
        masks = [0] + [1 << i for i in range(16)] * (flips > 0)
        masks += [1 << i | 1 << j for i in range(16) for j in range(i)] * (flips > 1)
        for band in range(_BANDS):
            keys, sought = (
                (side.hashes >> np.uint64(16 * band)).astype(np.uint16) for side in (self._mine, self._other)
            )
            order = np.argsort(keys, kind="stable")
            starts = np.zeros((1 << 16) + 1, np.int64)
            np.cumsum(np.bincount(keys, minlength=1 << 16), out=starts[1:])
            for mask in masks:
                self._look(order, starts, sought, mask)

    def _look(self, order: Rows, starts: Rows, sought: NDArray[np.uint16], mask: int) -> None:
        wanted = (sought ^ np.uint16(mask)).astype(np.int64)
        rows = np.arange(len(sought))
        first, counts = starts[wanted], starts[wanted + 1] - starts[wanted]
        if self._within and mask:  # a pair is seen from both ends: once is enough
            counts[(sought & np.uint16(1 << (mask.bit_length() - 1))) != 0] = 0
        elif self._within:
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            counts = rank - first
        taken, step = 0, 1
        # Few of a bucket at first, then more: a bucket that turns out to be one group ends early.
        while True:
            live = counts > taken
            live[live] &= ~self._settled(rows[live], wanted[live], order, starts)
            rows, wanted, first, counts = rows[live], wanted[live], first[live], counts[live]
            if not len(rows):
                return
            for left, at in _expand(order, first + taken, np.minimum(counts - taken, step)):
                self._compare(left, rows[at])
            taken, step = taken + step, 2 * step

    def _settled(self, rows: Rows, wanted: Rows, order: Rows, starts: Rows) -> NDArray[np.bool_]:
        if not self._within:
            return self._labels[rows] > 0
        lows, highs = (np.full(len(starts) - 1, -1) for _ in range(2))
        filled = np.flatnonzero(np.diff(starts))
        if len(filled):
            labels = self._labels[order]
            lows[filled] = np.minimum.reduceat(labels, starts[filled])
            highs[filled] = np.maximum.reduceat(labels, starts[filled])
        own = self._labels[rows]
        settled: NDArray[np.bool_] = (lows[wanted] == own) & (highs[wanted] == own)
        return settled

    def _compare(self, left: Rows, right: Rows) -> None:
        mine, other = self._mine, self._other
        keep = self._labels[left] != self._labels[right] if self._within else self._labels[right] == 0
        left, right = left[keep], right[keep]
        different = mine.hashes[left] ^ other.hashes[right]
        bits = _POPCOUNT[different.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64)
        keep = (bits <= self._max_bits) & (np.abs(mine.shapes[left] - other.shapes[right]) <= _ASPECT_TOLERANCE)
        left, right, bits = left[keep], right[keep], bits[keep]
        for start in range(0, len(left), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            self._verify(left[part], right[part], bits[part])

    def _verify(self, left: Rows, right: Rows, bits: Rows) -> None:
        keep = self._labels[left] != self._labels[right] if self._within else self._labels[right] == 0
        left, right, bits = left[keep], right[keep], bits[keep]
        similarity = _similarity(self._mine.thumbs[left], self._other.thumbs[right])
        alike = np.flatnonzero(similarity >= self._min_similarity)
        if not len(alike):
            return
        if not self._within:  # the best for each
            best = alike[np.lexsort((left[alike], bits[alike], -similarity[alike], right[alike]))]
            alike = best[np.unique(right[best], return_index=True)[1]]
            self._labels[right[alike]] = 1
        left, right, bits, similarity = left[alike], right[alike], bits[alike], similarity[alike]
        if self._within:
            self._labels = _join(self._labels, left, right)
            left, right = np.minimum(left, right), np.maximum(left, right)
        self._found.append((left, right, bits, similarity))


def _expand(order: Rows, first: Rows, counts: Rows) -> Iterator[tuple[Rows, Rows]]:
    """(order[first[j] + k], j) for k below counts[j], a million at a time."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _CHUNK):
        place = np.arange(start, min(start + _CHUNK, total))
        at = np.searchsorted(ends, place, side="right")
        yield order[first[at] + place - (ends[at] - counts[at])], at


def _similarity(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(P, 256) twice: correlation after the small shift and zoom that fits best, the lesser of both directions."""
    x, y = (values - values.mean(axis=1, keepdims=True, dtype=np.float32) for values in (a, b))
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    found: NDArray[np.float32] = (x * y).sum(axis=1) / np.maximum(norms, 1e-9)
    close = np.flatnonzero(found >= _ROUGH)
    fitted = np.minimum(_fitted(x[close], y[close]), _fitted(y[close], x[close]))
    found[close] = np.maximum(found[close], fitted)
    return found


def _fitted(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlation of y with x moved by the shift and zoom of least squares, to first order; 0 beyond `_REACH`.

    A crop of 2 % moves a thumbnail by a third of its pixels at the edges, where x + shift * dx/du is close enough
    (Lucas and Kanade 1981).
    """
    pictures = x.reshape(-1, 16, 16)
    down, across = (np.asarray(np.gradient(pictures, axis=axis)) for axis in (1, 2))
    centred = np.arange(16, dtype=np.float32) - 7.5
    terms = np.stack([pictures, across, down, across * centred, down * centred[:, None]], axis=1)
    terms = terms.reshape(len(x), 5, 256)
    terms -= terms.mean(axis=2, keepdims=True)
    squares = terms @ terms.transpose(0, 2, 1)
    # A picture that is constant along an axis leaves the shift along it open: none, then.
    squares += np.eye(5, dtype=np.float32) * (1e-4 * squares[:, :1, :1] + 1e-6)
    weights = np.linalg.solve(squares, terms @ y[:, :, None])
    fit = (terms * weights).sum(axis=1)
    norms = np.sqrt((fit * fit).sum(axis=1) * (y * y).sum(axis=1))
    found: NDArray[np.float32] = (fit * y).sum(axis=1) / np.maximum(norms, 1e-9)
    reached = np.abs(weights[:, 1:, 0]) <= _REACH * np.abs(weights[:, :1, 0])
    return np.where(reached.all(axis=1), found, np.float32(0))


def _join(labels: Rows, left: Rows, right: Rows) -> Rows:
    """Component labels after the pairs (left, right) were joined."""
    if not len(left):
        return labels
    # Workers, which join nothing, start without SciPy.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(labels)
    graph = coo_array((np.ones(len(left), np.int8), (labels[left], labels[right])), shape=(count, count))
    joined: Rows = connected_components(graph, directed=False)[1].astype(np.int64)[labels]
    return joined
