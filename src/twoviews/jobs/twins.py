"""What a changed copy of an image of this collection reaches with this encoder."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.decoding.decode import OpenImage, quiet_pillow
from twoviews.data.source import Item, Raw, Source
from twoviews.jobs.alike import COPIES
from twoviews.jobs.embed import embed
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.search.whitening import Whitening

CROP, BRIGHTER, QUALITY = 0.03, 1.1, 75
"""Up to so much is cut from each side, so much brighter, so re-encoded as JPEG."""
_ORIGINAL, _COPY = "original", "copy"


@dataclass(frozen=True)
class _Twins:
    """Images and changed copies of them: `0007/original` and `0007/copy`."""

    source: Source
    rows: Sequence[int]
    spec: str

    @property
    def labels(self) -> Sequence[str | None]:
        return (None,) * len(self)

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def __getitem__(self, index: int) -> Item:
        number, original = divmod(index, 2)  # sorted by id: the copy comes first
        read = self.source[self.rows[number]].read
        if original:
            return Item(f"{number:04d}/{_ORIGINAL}", None, read)
        return Item(f"{number:04d}/{_COPY}", None, partial(_changed_copy, read, number))


def twin_similarities(
    run: Run | str | Path,
    source: Source,
    rows: Sequence[int],
    *,
    whitening: Whitening,
    download: bool,
) -> NDArray[np.float32]:
    """(M,) whitened cosine of images to changed copies of themselves, of up to `COPIES` of `rows`, evenly spaced.

    A copy is cut by up to 3 % on each side, a tenth brighter and saved as JPEG; what is deeper than 8 bits is only cut
    and scaled.
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(COPIES, len(rows))).astype(np.int64))
    # The originals too: an encoder that was not trained here may see another set of images at another size.
    twins = _Twins(source, [rows[at] for at in chosen.tolist()], f"copies of {source.spec}")
    found = embed(run, twins, download=download, narrator=Narrator())
    unit = whitening.apply(found.vectors)
    place = {name: at for at, name in enumerate(found.ids)}
    pairs = [
        (at, place[other])
        for name, at in place.items()
        if name.endswith(_COPY) and (other := name.removesuffix(_COPY) + _ORIGINAL) in place
    ]
    copies, originals = (unit[[pair[end] for pair in pairs]] for end in (0, 1))
    similarities: NDArray[np.float32] = (copies * originals).sum(axis=1)
    return similarities


def _changed_copy(read: Any, number: int) -> Raw:
    raw: Raw = read()
    with quiet_pillow(), OpenImage(raw) as image:
        values = image.samples()
    return changed(values, np.random.default_rng(number))


def changed(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A copy of an image (H, W, C) of any type, cut, brighter and, of 8 bits, re-encoded; of the same shape.

    >>> changed(np.full((8, 8, 1), 100, np.uint8), np.random.default_rng(0)).ravel()[:3]
    array([110, 110, 110], dtype=uint8)
    """
    height, width, channels = values.shape
    left, top, right, bottom = rng.random(4) * CROP
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    planes = np.empty(values.shape, np.float32)
    for channel in range(channels):
        plane = Image.fromarray(np.ascontiguousarray(values[..., channel].astype(np.float32)))
        planes[..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR, box=box))
    planes *= BRIGHTER
    if values.dtype.kind in "ui":
        # What float32 cannot hold exactly could round to beyond its type.
        highest = np.iinfo(values.dtype).max if values.dtype.itemsize <= 2 else int(values.max()) * 0.999
        planes = np.rint(planes).clip(np.iinfo(values.dtype).min, highest)
    copy: NDArray[Any] = planes.astype(values.dtype)
    if values.dtype != np.uint8 or channels not in (1, 3):
        return copy
    stream = io.BytesIO()
    Image.fromarray(copy[..., 0] if channels == 1 else copy).save(stream, "JPEG", quality=QUALITY)
    with Image.open(stream, formats=("JPEG",)) as encoded:
        decoded = np.asarray(encoded)
    return decoded.reshape(values.shape)
