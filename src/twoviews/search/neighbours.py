"""The nearest other vectors of each vector, where copies of one image are one neighbour.

N vectors, D dimensions, k neighbours.
"""

import numpy as np
import numpy.typing as npt

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import check_finite
from twoviews.evaluation.knn import nearest_neighbours

Rows = npt.NDArray[np.int64]


def neighbours_of_each(
    vectors: npt.NDArray[np.float32], *, k: int, leaders: Rows | None = None, what: str = "the collection"
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Rows and cosine similarities of the k nearest others, both (N, k'), most similar first; exact, in chunks.

    `leaders` (N,): the row that stands for each row's group (see `duplicates.Groups`). Only these are neighbours, and
    nothing is a neighbour of its own group: so copies neither vote for each other nor outvote others. k' is k, or one
    less than the number of groups where that is smaller. Raises UsageError for k below 1, DataError for fewer than two
    vectors or groups, and for vectors that are not finite.

    >>> neighbours_of_each(np.array([[1, 0], [1, 0], [1, 1]], dtype=np.float32), k=1)[0].tolist()
    [[1], [0], [0]]
    >>> neighbours_of_each(np.array([[1, 0], [1, 0], [1, 1]], dtype=np.float32), k=1, leaders=np.array([0, 0, 2]))[0]
    array([[2],
           [2],
           [0]])
    """
    if k < 1:
        raise UsageError(f"k is {k}: give the number of neighbours, 1 or more")
    check_finite(vectors)
    own = np.arange(len(vectors)) if leaders is None else leaders
    heads = np.unique(own)
    if len(heads) < 2:
        raise DataError(
            f"{what} has {len(vectors)} image{'' if len(vectors) == 1 else 's'}"
            + (", all copies of one" if len(vectors) > 1 else "")
            + ": neighbours need two that differ"
        )
    k = min(k, len(heads) - 1)
    # One more, as each finds its own group; among exact copies it may not even be in the list.
    index, similarity = nearest_neighbours(vectors[heads] if len(heads) < len(vectors) else vectors, vectors, k=k + 1)
    index = heads[index]
    foreign = index != own[:, None]
    foreign[foreign.all(axis=1), -1] = False
    shape = (len(vectors), k)
    return index[foreign].reshape(shape), similarity[foreign].reshape(shape)
