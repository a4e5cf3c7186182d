"""Weighted k-nearest-neighbour classification by cosine similarity (Wu et al. 2018, section 3.4).

N training vectors, Q queries, D dimensions, C classes.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import UsageError
from .features import check_finite, check_labelled

# Similarities held at once, whatever the chunk: 256 MB of float32.
_BLOCK = 2**26


def knn_predict(
    train: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
    device: str | torch.device = "cpu",
) -> npt.NDArray[np.float64]:
    """Vote shares (Q, C), rows sum to 1: neighbours weigh exp(similarity / temperature).

    train (N, D), labels (N,) in 0 .. C-1, queries (Q, D); `k` is reduced to N where N is smaller; equal
    similarities go to the lower index; a zero vector is similar to nothing (0). Raises UsageError for k or
    temperature not above 0, DataError for values that are not finite and labels out of range.

    >>> a = np.array([[1, 0], [0, 1]], dtype=np.float32)
    >>> knn_predict(a, np.array([0, 1]), a, classes=2, k=1)
    array([[1., 0.],
           [0., 1.]])
    """
    if not temperature > 0:
        raise UsageError(f"temperature must be above 0, got {temperature}")
    check_labelled(train, labels, classes=classes, what="training vectors")
    index, similarity = nearest_neighbours(train, queries, k=k, chunk=chunk, device=device)
    # Relative to the nearest: the shares are the same, and a small temperature cannot overflow.
    weights = np.exp((similarity.astype(np.float64) - similarity[:, :1]) / temperature)
    rows = np.arange(len(queries))[:, None]
    flat = rows * classes + labels[index]
    weights /= weights.sum(axis=1, keepdims=True)
    scores = np.bincount(flat.ravel(), weights=weights.ravel(), minlength=len(queries) * classes)
    return scores.astype(np.float64, copy=False).reshape(len(queries), classes)


def nearest_neighbours(
    train: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    *,
    k: int,
    chunk: int = 1024,
    device: str | torch.device = "cpu",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Indices and cosine similarities, both (Q, min(k, N)), most similar first, lower index at equality.

    >>> a = np.array([[1, 0], [0, 1], [2, 0]], dtype=np.float32)
    >>> nearest_neighbours(a, a[:1], k=2)[0]
    array([[0, 2]])
    """
    if k < 1 or chunk < 1:
        raise UsageError(f"k and chunk must be at least 1, got k={k}, chunk={chunk}")
    check_finite(train, what="training vectors")
    check_finite(queries, what="query vectors")
    if train.shape[1] != queries.shape[1]:
        raise UsageError(
            f"training vectors have {train.shape[1]} dimensions and queries {queries.shape[1]}: embed both "
            "with the same encoder"
        )
    k = min(k, len(train))
    keys = _normalised(train, device).T
    rows = max(1, min(chunk, _BLOCK // max(1, len(train))))
    found = [(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))]
    for start in range(0, len(queries), rows):
        similarity = _normalised(queries[start : start + rows], device) @ keys
        index = _top(similarity, k)
        found.append((index.cpu(), similarity.gather(1, index).cpu()))
    return torch.cat([i for i, _ in found]).numpy(), torch.cat([s for _, s in found]).numpy()


def _normalised(vectors: npt.NDArray[np.float32], device: str | torch.device) -> Tensor:
    rows = torch.tensor(vectors, dtype=torch.float32, device=device)
    # Twice: the squares of very large or very small values would leave the range of float32.
    rows /= rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    rows /= rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return rows


def _top(similarity: Tensor, k: int) -> Tensor:
    """Columns (Q, k) of the largest values. topk breaks ties as it likes, so they are settled here."""
    values, index = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    threshold = values[:, k - 1 : k]
    index = index[:, :k]
    if values.shape[1] > k:
        tied = (values[:, k] == threshold[:, 0]).nonzero()[:, 0]
        if len(tied):
            rows, limit = similarity[tied], threshold[tied]
            above, equal = rows > limit, rows == limit
            room = k - above.sum(dim=1, keepdim=True)
            kept = above | (equal & (equal.cumsum(dim=1) <= room))
            index[tied] = kept.nonzero()[:, 1].view(-1, k)
    index = index.sort(dim=1).values
    order = similarity.gather(1, index).sort(dim=1, descending=True, stable=True).indices
    return index.gather(1, order)
