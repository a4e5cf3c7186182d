"""Pictures of a representation for the report: a thumbnail sprite, a 2-D map and nearest neighbours.

N images, n shown, D dimensions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from threadpoolctl import threadpool_limits

from ..errors import UsageError
from ..views.shown import MAX_CHANNELS, visible_rgb
from .features import Embeddings, check_finite
from .knn import nearest_neighbours

_TSNE_FROM = 10


def build_gallery(
    values: npt.NDArray[np.uint8],
    embeddings: Embeddings,
    predicted: npt.NDArray[np.int64] | None = None,
    *,
    count: int = 500,
    tile: int = 48,
    columns: int = 20,
    queries: int = 8,
    neighbours: int = 8,
    seed: int,
) -> tuple[dict[str, Any], Image.Image]:
    """The content of gallery.json and its sprite, of `count` samples drawn by `seed`.

    values (N, H, W, C) uint8, C from 1 to 32, one a sample of `embeddings`; predicted (N,) into its classes.
    Other than one or three channels are shown as `visible_rgb` shows them.
    Tile i lies at column i % columns, row i // columns. The dict holds tile, columns, ids, labels (-1 =
    none), classes, predicted (None without), xy in 0..1 (t-SNE of the normalised vectors; PCA below 10),
    neighbours: [{query, nearest: [{index, similarity}]}], one query a class first, never the query itself.
    All indices count the samples shown. Raises UsageError when the parts do not fit together.

    >>> e = Embeddings(np.eye(3, dtype=np.float32), ("a", "b", "c"), np.array([0, 1, -1]), ("x", "y"), "")
    >>> content, sprite = build_gallery(np.zeros((3, 8, 8, 1), np.uint8), e, columns=2, seed=0)
    >>> sprite.size, content["ids"]
    ((96, 96), ['a', 'b', 'c'])
    """
    if values.ndim != 4 or values.dtype != np.uint8 or not 1 <= values.shape[3] <= MAX_CHANNELS:
        raise UsageError(
            f"a gallery needs uint8 values (N, H, W, C) of 1 to {MAX_CHANNELS} channels, "
            f"got {values.shape} {values.dtype}"
        )
    if len(values) != len(embeddings) or (predicted is not None and predicted.shape != (len(values),)):
        got = "none" if predicted is None else str(predicted.shape)
        raise UsageError(
            f"a gallery needs one value and one prediction a vector, got {len(embeddings)} vectors, "
            f"{len(values)} values, predictions: {got}"
        )
    if min(len(values), count, tile, columns) < 1 or min(queries, neighbours) < 0:
        raise UsageError(
            f"a gallery needs samples and sizes above 0, got {len(values)} samples, count={count}, "
            f"tile={tile}, columns={columns}, queries={queries}, neighbours={neighbours}"
        )
    check_finite(embeddings.vectors)
    rng = np.random.default_rng(seed)
    shown = np.sort(rng.permutation(len(values))[:count])
    chosen = embeddings.select(shown)
    content = {
        "tile": tile,
        "columns": columns,
        "ids": list(chosen.ids),
        "labels": chosen.labels.tolist(),
        "classes": list(chosen.classes),
        "predicted": None if predicted is None else predicted[shown].tolist(),
        "xy": _map(chosen.vectors, seed=seed).round(4).tolist(),
        "neighbours": _neighbours(chosen, rng.permutation(len(shown)), queries=queries, count=neighbours),
    }
    return content, _sprite([values[i] for i in shown], tile=tile, columns=columns)


def _neighbours(chosen: Embeddings, order: npt.NDArray[np.int64], *, queries: int, count: int) -> list[dict[str, Any]]:
    labels = chosen.labels[order]
    first = [int(order[np.flatnonzero(labels == c)[0]]) for c in np.unique(labels[labels >= 0])]
    asked = [*first, *(int(i) for i in order if i not in first)][:queries]
    # One more, as the query finds itself; among many duplicates it may not even be in the list.
    index, similarity = nearest_neighbours(chosen.vectors, chosen.vectors[asked], k=count + 1)
    found = []
    for query, row, close in zip(asked, index.tolist(), similarity.tolist(), strict=True):
        others = [(i, s) for i, s in zip(row, close, strict=True) if i != query][:count]
        nearest = [{"index": i, "similarity": round(s, 4)} for i, s in others]
        found.append({"query": query, "nearest": nearest})
    return found


def _map(vectors: npt.NDArray[np.float32], *, seed: int) -> npt.NDArray[np.float64]:
    """Positions (n, 2) in 0..1, both axes in the same scale."""
    # Directions only: the neighbours are by cosine similarity too.
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True).clip(min=np.finfo(np.float64).tiny)
    unit -= unit.mean(axis=0)
    left, size, _ = np.linalg.svd(unit, full_matrices=False)
    # 50 axes, as is usual before t-SNE; the sign of an axis is arbitrary, so it is fixed.
    axes = left[:, :50] * size[:50]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    plane = np.pad(axes, ((0, 0), (0, max(0, 2 - axes.shape[1]))))[:, :2]
    if len(vectors) >= _TSNE_FROM and size[0] > 1e-6:
        # Here, as it takes a second and only a report needs it.
        from sklearn.manifold import TSNE

        tsne = TSNE(
            perplexity=min(30.0, (len(vectors) - 1) / 3),
            # scikit-learn's own PCA initialisation, but safe for one dimension.
            init=(plane / plane[:, 0].std() * 1e-4).astype(np.float32),
            random_state=seed,
        )
        # A thousand iterations of a fraction of a millisecond: threads would spend longer waiting for each
        # other, on a busy machine a hundred times longer. And the map is the same for any number of cores.
        with threadpool_limits(1):
            plane = tsne.fit_transform(axes)
    low, high = plane.min(axis=0), plane.max(axis=0)
    extent = max(float((high - low).max()), 1e-6)
    xy: npt.NDArray[np.float64] = ((plane - (low + high) / 2) / extent + 0.5).clip(0.0, 1.0)
    return xy


def _sprite(pictures: list[npt.NDArray[np.uint8]], *, tile: int, columns: int) -> Image.Image:
    height, width, channels = pictures[0].shape
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Blocks stay blocks where a tiny image grows; anything else is antialiased.
    resample = Image.Resampling.NEAREST if scale >= 2 or scale == 1 else Image.Resampling.LANCZOS
    rows = -(-len(pictures) // columns)
    sprite = Image.new("L" if channels == 1 else "RGB", (columns * tile, rows * tile))
    for i, picture in enumerate(pictures):
        shown = picture[..., 0] if channels == 1 else np.ascontiguousarray(visible_rgb(picture))
        thumbnail = Image.fromarray(shown).resize(size, resample)
        corner = (i % columns * tile + (tile - size[0]) // 2, i // columns * tile + (tile - size[1]) // 2)
        sprite.paste(thumbnail, corner)
    return sprite
