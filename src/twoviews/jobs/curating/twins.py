"""What a changed copy of an image of this collection reaches with this encoder."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.assemble import Storage
from twoviews.data.decoding.decode import quiet_pillow
from twoviews.data.decoding.intensity import Intensity
from twoviews.data.source import Item, Raw, Source
from twoviews.errors import DataError
from twoviews.jobs.curating.alike import COPIES
from twoviews.jobs.vectors.embed import embed_with
from twoviews.jobs.vectors.opened import Opened
from twoviews.narrate import quiet
from twoviews.search.whitening import Whitening

CROP, BRIGHTER, QUALITY = 0.03, 1.1, 75
"""Up to so much is cut from each side, so much brighter, so re-encoded as JPEG."""
_ORIGINAL, _COPY = "original", "copy"


@dataclass(frozen=True)
class _Twins:
    """Images as `storage` opens them, and changed copies of them: `0007/original` and `0007/copy`, of 8 bits."""

    source: Source
    rows: Sequence[int]
    storage: Storage

    @property
    def spec(self) -> str:
        return f"copies of {self.source.spec}"

    @property
    def labels(self) -> Sequence[str | None]:
        return (None,) * len(self)

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def __getitem__(self, index: int) -> Item:
        number, original = divmod(index, 2)  # sorted by id: the copy comes first
        read = self.source[self.rows[number]].read
        name = f"{number:04d}/{_ORIGINAL if original else _COPY}"
        return Item(name, None, partial(_seen, read, self.storage, None if original else number))


def twin_similarities(
    opened: Opened, source: Source, rows: Sequence[int], *, whitening: Whitening
) -> NDArray[np.float32]:
    """(M,) whitened cosine of images to changed copies of themselves, of up to `COPIES` of `rows`, evenly spaced.

    A copy is cut by up to 3 % on each side, a tenth brighter and saved as JPEG; what is deeper than 8 bits is scaled to
    them as `opened` sees it, and not saved as JPEG. Raises DataError where no copy can be made.
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(COPIES, len(rows))).astype(np.int64))
    view = opened.preprocessing
    # The originals too: some images may be stored in another form than all of them.
    twins = _Twins(source, [rows[at] for at in chosen.tolist()], view.storage)
    eight = replace(opened, preprocessing=replace(view, storage=replace(view.storage, intensity="uint8")))
    found, _ = embed_with(eight, twins, narrator=quiet())
    unit = whitening.apply(found.vectors)
    place = {name: at for at, name in enumerate(found.ids)}
    pairs = [
        (at, place[other])
        for name, at in place.items()
        if name.endswith(_COPY) and (other := name.removesuffix(_COPY) + _ORIGINAL) in place
    ]
    if not pairs:
        raise DataError(
            f"no changed copy could be made of {len(chosen)} images in {source.spec!r}, by which near duplicates are "
            "told: give --threshold"
        )
    copies, originals = (unit[[pair[end] for pair in pairs]] for end in (0, 1))
    similarities: NDArray[np.float32] = (copies * originals).sum(axis=1)
    return similarities


def _seen(read: Callable[[], Raw], storage: Storage, copy: int | None) -> NDArray[np.uint8]:
    """An image in 8 bits, as arrays state no window and have no background; or its changed copy of this number."""
    with quiet_pillow(), storage.open(read()) as image:
        values, deep = image.pixels(intensity=Intensity.parse(storage.intensity)), image.header.depth != "uint8"
    return values if copy is None else changed(values, np.random.default_rng(copy), encoded=not deep)


def changed(values: NDArray[np.uint8], rng: np.random.Generator, *, encoded: bool = True) -> NDArray[np.uint8]:
    """A copy of an image (H, W, C), cut, brighter and, of 1 or 3 channels, `encoded` as JPEG; of the same shape.

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
    copy: NDArray[np.uint8] = np.rint(planes * BRIGHTER).clip(0, 255).astype(np.uint8)
    if not encoded or channels not in (1, 3):
        return copy
    stream = io.BytesIO()
    Image.fromarray(copy[..., 0] if channels == 1 else copy).save(stream, "JPEG", quality=QUALITY)
    with Image.open(stream, formats=("JPEG",)) as saved:
        decoded = np.asarray(saved)
    return decoded.reshape(values.shape)
