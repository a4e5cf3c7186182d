"""Unit vectors in chunks, and k-means on a sample of them: what the choice of images to label stands on.

N vectors, D dimensions, C clusters.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from twoviews.errors import DataError, UsageError

SAMPLE = 20_000
"""Vectors that centres are fitted on; all are assigned to them."""
CHUNK = 1 << 14
_ITERATIONS = 30

Rows = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]


class Unit:
    """Vectors (N, D) float32, seen at length 1; the vectors stay where they are, also in a file that is mapped."""

    def __init__(self, vectors: Matrix) -> None:
        if vectors.ndim != 2 or not len(vectors):
            raise UsageError(f"vectors must be (N, D) with N above 0, got {vectors.shape}: embed some images")
        self._vectors = vectors
        lengths = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), CHUNK):
            lengths[start : start + CHUNK] = np.linalg.norm(vectors[start : start + CHUNK], axis=1)
        finite = np.isfinite(lengths)
        if not finite.all():
            raise DataError(
                f"{int((~finite).sum())} of {len(finite)} vectors are not finite (first: row {int(finite.argmin())}): "
                "the encoder has diverged or its input is broken"
            )
        self._scale = np.reciprocal(np.maximum(lengths, np.float32(1e-12)))

    def __len__(self) -> int:
        return len(self._vectors)

    def take(self, rows: npt.ArrayLike) -> Matrix:
        """The rows, a copy."""
        at = np.asarray(rows, np.int64)
        taken: Matrix = self._vectors[at] * self._scale[at, None]
        return taken

    def chunks(self) -> Iterator[tuple[slice, Matrix]]:
        """All rows in order, so many at a time."""
        for start in range(0, len(self), CHUNK):
            part = slice(start, min(start + CHUNK, len(self)))
            yield part, self._vectors[part] * self._scale[part, None]


def partition(unit: Unit, clusters: int, *, rng: np.random.Generator) -> Rows:
    """The cluster (N,) of each row by k-means: k-means++, then Lloyd's iterations to rest, 30 at most.

    Above 20,000 rows the centres are those of a random sample of so many. Some clusters may be empty. Written here
    since scikit-learn adds up its threads' sums in the order in which they end: suggestions should be the same always.
    Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    count = len(unit)
    rows = np.arange(count) if count <= SAMPLE else np.sort(rng.choice(count, SAMPLE, replace=False))
    sample = unit.take(rows)
    centres = _fit(sample, min(clusters, len(sample)), rng)
    found = np.empty(count, np.int64)
    for part, some in unit.chunks():
        found[part] = _assign(some, centres)
    return found


def _fit(x: Matrix, clusters: int, rng: np.random.Generator) -> Matrix:
    centres = x[seeds(x, clusters, weights=np.ones(len(x)), rng=rng)]
    last = np.full(len(x), -1, np.int64)
    for _ in range(_ITERATIONS):
        at = _assign(x, centres)
        if (at == last).all():
            break
        last = at
        order = np.argsort(at, kind="stable")
        held, starts, sizes = np.unique(at[order], return_index=True, return_counts=True)
        centres[held] = np.add.reduceat(x[order], starts, axis=0) / sizes[:, None]
    return centres


def seeds(x: Matrix, count: int, *, weights: npt.NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """`count` rows, each drawn with a chance of weight x squared distance from those before (k-means++); fewer where
    only copies of them are left."""
    chosen: list[int] = []
    distance = np.ones(len(x))
    while len(chosen) < count:
        chances = weights * distance
        total = chances.sum()
        if not total > 0:
            break
        row = int(np.searchsorted(np.cumsum(chances), rng.random() * total, side="right"))
        row = min(row, len(x) - 1)
        chosen.append(row)
        away = squared(x, x[row])
        distance = away if len(chosen) == 1 else np.minimum(distance, away)
        distance[row] = 0.0
    return np.array(chosen, np.int64)


def squared(x: Matrix, point: Matrix) -> npt.NDArray[np.float64]:
    """Squared distances (N,) of the rows of x from a point, both of any length, not below 0."""
    away = np.einsum("nd,nd->n", x, x) - 2 * (x @ point) + point @ point
    # What is left of a copy after the subtraction is rounding, which would be drawn again and again.
    away[away < 1e-6] = 0.0
    found: npt.NDArray[np.float64] = away.astype(np.float64)
    return found


def _assign(x: Matrix, centres: Matrix) -> Rows:
    closeness = x @ centres.T
    closeness -= np.einsum("cd,cd->c", centres, centres) / 2
    nearest: Rows = closeness.argmax(axis=1)
    return nearest
