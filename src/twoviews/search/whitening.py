"""Directions in which a collection varies little are given as much weight as others, so that copies stand out.

A photograph and the same photograph cropped a little differ less than two photographs in the directions that hold
what is particular to one image; those have little variance in an encoder's vectors, and a plain cosine hardly sees
them. Descriptors for copy detection are whitened for this (Pizzi et al. 2022, section 4.3).

N vectors, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from twoviews.evaluation.features import check_finite

RIDGE = 0.03
"""Part of the mean variance that is added to each direction's: what is below is noise."""
_CHUNK = 1 << 14
_SMALL = 1024  # dimensions up to which threads of a decomposition mostly wait for each other


@dataclass(frozen=True, eq=False)
class Whitening:
    """(D, D) float64: what vectors are multiplied by, and then brought to length 1.

    >>> rng = np.random.default_rng(0)
    >>> vectors = (rng.normal(size=(500, 2)) * [10, 1]).astype(np.float32)
    >>> np.abs(np.corrcoef(Whitening.fit(vectors).apply(vectors).T)[0, 1]) < 0.1
    np.True_
    """

    matrix: npt.NDArray[np.float64]

    @staticmethod
    def fit(vectors: npt.NDArray[np.float32]) -> "Whitening":
        """By the second moments of vectors (N, D), not about their mean: equal vectors stay equal, zero stays zero.

        Vectors that are all alike, or none, are left as they are. Raises DataError where they are not finite.
        """
        check_finite(vectors)
        size = vectors.shape[1]
        moments, total = np.zeros((size, size)), np.zeros(size)
        largest = float(np.abs(vectors).max(initial=0.0)) or 1.0
        for start in range(0, len(vectors), _CHUNK):
            block = vectors[start : start + _CHUNK].astype(np.float64) / largest
            moments += block.T @ block
            total += block.sum(axis=0)
        count = max(1, len(vectors))
        mean = total / count
        total_variance = float(np.trace(moments) / count - mean @ mean)
        if total_variance <= 1e-12 * max(float(mean @ mean), 1e-300):
            return Whitening(np.eye(size))
        with threadpool_limits(1 if size <= _SMALL else None):
            values, axes = np.linalg.eigh(moments / count)
        # Fewer images than dimensions: each has directions of its own, in which its copy would lie far from it.
        ridge = RIDGE * max(1.0, size / count) * total_variance / min(size, max(1, count - 1))
        return Whitening(axes / np.sqrt(values.clip(min=0.0) + ridge))

    def apply(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, D) of length 1 (or 0), so that products are cosines."""
        check_finite(vectors)
        whitened = np.empty((len(vectors), self.matrix.shape[1]), np.float32)
        for start in range(0, len(vectors), _CHUNK):
            block = vectors[start : start + _CHUNK].astype(np.float64)
            block /= np.abs(block).max(axis=1, keepdims=True, initial=0.0).clip(min=np.finfo(np.float32).tiny)
            block = block @ self.matrix
            block /= np.linalg.norm(block, axis=1, keepdims=True).clip(min=1e-300)
            whitened[start : start + _CHUNK] = block
        return whitened
