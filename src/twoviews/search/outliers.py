"""Images that are far from all others.

N vectors, D dimensions, k neighbours.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twoviews.evaluation.features import Embeddings
from twoviews.search.neighbours import Rows, neighbours_of_each

K = 20
FAR = 3.5
"""Robust standard deviations above the median from which on an image is called an outlier (Iglewicz, Hoaglin 1993)."""


@dataclass(frozen=True, eq=False)
class Outliers:
    """How far each image is from others, in the order of the collection.

    distance   (N,) float64, mean cosine distance to the k nearest others, 0 to 2
    score      (N,) distance above the median, in robust standard deviations of the upper half
    nearest    (N,) row of the nearest other
    k          neighbours that were there
    """

    distance: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    nearest: Rows
    k: int

    def ranked(self) -> Rows:
        """(N,) rows, the farthest first."""
        return np.lexsort((np.arange(len(self.score)), -self.distance))

    def far(self, limit: float = FAR) -> npt.NDArray[np.bool_]:
        """(N,) those whose score is `limit` or more."""
        found: npt.NDArray[np.bool_] = self.score >= limit
        return found


def find_outliers(embeddings: Embeddings, *, k: int = K, leaders: Rows | None = None) -> Outliers:
    """Mean cosine distance to the k nearest others (Ramaswamy et al. 2000; Sun et al. 2022), and a robust score.

    `leaders` (N,): near duplicates as `Groups.leaders`; then an image and its copies are not each other's neighbours,
    and count once for others. A cluster of more than k images that are alike but no copies is at home with itself. The
    score is (distance - median) / (1.4826 * median of the deviations above it), by the mean deviation where most are
    equally far, 0 where all are. A zero vector is similar to nothing. Raises UsageError for k below 1, DataError for
    fewer than two images that differ, and for vectors that are not finite.

    >>> vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]], dtype=np.float32)
    >>> e = Embeddings(vectors, ("a", "b", "c", "d"), np.full(4, -1), (), "")
    >>> find_outliers(e, k=2).ranked()[0]
    np.int64(3)
    """
    index, similarity = neighbours_of_each(embeddings.vectors, k=k, leaders=leaders)
    distance = 1.0 - similarity.astype(np.float64).mean(axis=1).clip(-1, 1)
    return Outliers(distance, robust_score(distance), index[:, 0], index.shape[1])


def robust_score(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) values above their median in robust standard deviations of the upper half, which is the wider one here.

    >>> robust_score(np.array([1.0, 2, 3, 4, 5, 100])).round(1).tolist()
    [-1.1, -0.7, -0.2, 0.2, 0.7, 43.4]
    """
    middle = float(np.median(values))
    above = values[values > middle] - middle
    if len(above) * 4 < len(values):  # most are equal, and the upper half says nothing of their spread
        scale = 1.2533 * float(np.abs(values - middle).mean())
    else:
        scale = 1.4826 * float(np.median(above))
    score: npt.NDArray[np.float64] = (values - middle) / scale if scale > 1e-7 else np.zeros(len(values))
    return score
