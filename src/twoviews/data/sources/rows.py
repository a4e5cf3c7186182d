"""Images that stand for the rows of a matrix, as scikit-learn has them: one a row, in their order, repeated or not."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from twoviews.data.source import Source, open_source
from twoviews.data.sources.arrays import from_arrays, numbered
from twoviews.data.sources.mapped import MappedSource
from twoviews.errors import UsageError


def open_rows(images: Any, labels: Any = None) -> Source:
    """The items of an array (N, H, W[, C]), a tensor (N, C, H, W), or a list, array or column of paths or images.

    Item i is row i: paths are single images, may repeat, and keep their order (`open_source` sorts them); their ids
    are the row and the file's name. `labels` (N,): numbers or text. What else `open_source` takes is opened by it, and
    has labels of its own. Raises UsageError for labels beside such data, DataError for another number of labels.

    >>> source = open_rows(["b.png", "a.png", "b.png"], ["x", "y", "x"])
    >>> source[2].id, list(source.labels)
    ('2/b.png', ['x', 'y', 'x'])
    """
    if hasattr(images, "to_numpy"):  # pandas, polars
        images = images.to_numpy()
    parts = _listed(images)
    if parts and all(isinstance(part, str | PurePath) for part in parts):
        return _open_paths([Path(part).expanduser() for part in parts], labels)
    data = images if parts is None else parts
    if labels is None:
        return open_source(data)
    if parts is None and not hasattr(data, "shape"):
        raise UsageError(
            f"labels cannot be laid beside {type(images).__name__} {str(images)[:60]!r}, whose items are sorted by id: "
            "hand over a list of paths or an array"
        )
    return open_source((data, labels))


def _listed(images: Any) -> list[Any] | None:
    """The parts of a list, a tuple that is none of (images, labels), or an array (N,) or (N, 1) of objects or text."""
    if isinstance(images, np.ndarray):
        column = images[:, 0] if images.ndim == 2 and images.shape[1] == 1 else images
        return column.tolist() if column.ndim == 1 and column.dtype.kind in "OUT" else None
    if isinstance(images, tuple) and all(isinstance(part, str | PurePath | Image.Image) for part in images):
        return list(images)
    return images if isinstance(images, list) else None


def _open_paths(paths: Sequence[Path], labels: Any) -> Source:
    count = len(paths)
    spec = f"list of {count} paths"
    names = from_arrays(np.zeros((count, 1, 1), np.uint8), labels, spec=spec).labels
    ids = [f"{number}/{path.name}" for number, path in zip(numbered(range(count), count), paths, strict=True)]
    return MappedSource(spec, paths.__getitem__, rows=range(count), ids=ids, labels=names)
