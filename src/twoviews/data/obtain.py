"""From a source to decoded images: taken as they are, found in the cache, or decoded."""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twoviews.data import building, cache
from twoviews.data.assemble import Assembly, Memory, Storage
from twoviews.data.keys import cheap_key, key_of
from twoviews.data.source import Source
from twoviews.data.sources.arrays import ArraySource
from twoviews.narrate import Narrator

KEPT_IN_MEMORY = 256 << 20
"""Bytes of decoded images up to which decoding anew takes seconds: not worth a file in the user's cache."""
_HASH_BYTES = 1 << 24


def obtain(source: Source, storage: Storage, *, home: Path, limit: int | None, narrator: Narrator) -> cache.Decoded:
    """The images of a source, stored as asked. `limit`: bytes held in memory, `KEPT_IN_MEMORY` by default."""
    found = _take_array(source, storage) or _decode(source, storage, home=home, limit=limit, narrator=narrator)
    if found.intensity != "uint8":
        _warn_if_blank(found, narrator)
    return found


def fingerprint(values: NDArray[np.uint8], sizes: NDArray[np.int32], ids: Iterable[str]) -> str:
    """sha256 over shape, pixels, sizes and ids, read in pieces of 16 MB."""
    digest = hashlib.sha256(repr(tuple(map(int, values.shape))).encode())
    rows = max(1, _HASH_BYTES // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        digest.update(np.ascontiguousarray(values[start : start + rows]).data)
    digest.update(np.ascontiguousarray(sizes, dtype="<i4").tobytes())
    for name in ids:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _take_array(source: Source, storage: Storage) -> cache.Decoded | None:
    """The array of an array source as it is, if its form is the one asked for."""
    if not isinstance(source, ArraySource) or source.images.dtype != np.uint8:
        return None
    if storage.intensity not in ("auto", "uint8", "uint16"):
        return None
    side, channels = storage.cache_side, storage.channels
    count, height, width, depth = source.images.shape
    if (side is not None and max(height, width) > side) or not (
        channels in (None, depth) or (channels, depth) == (3, 1)
    ):
        return None
    values = source.images
    if channels == 3 and depth == 1:
        values = np.broadcast_to(values, (count, height, width, 3))
    sizes = np.tile(np.array([width, height], dtype=np.int32), (count, 1))
    intensity = "uint8" if storage.intensity == "auto" else storage.intensity
    return cache.Decoded(values, sizes, np.arange(count, dtype=np.int64), (), intensity=intensity)


def _decode(source: Source, storage: Storage, *, home: Path, limit: int | None, narrator: Narrator) -> cache.Decoded:
    """Found in the cache, or made: in memory, or there."""
    # Something has been cached here before: times of files are far cheaper than headers.
    key = cheap_key(source, how=repr(storage)) if home.is_dir() else None
    if key is not None and (ready := cache.find(home, key, source, narrator=narrator)):
        return ready
    assembly = Assembly(source, storage=storage, narrator=narrator)
    free = cache.available_memory() // 2
    form = assembly.look(budget=min(limit if limit is not None else KEPT_IN_MEMORY, free))
    size = f"{form.width} x {form.height} x {form.channels}"
    narrator.chose("stored images", size, form.reason)
    needed = len(source) * form.height * form.width * form.channels
    if assembly.decoded or needed <= (limit if limit is not None else KEPT_IN_MEMORY):
        return assembly.decode(form, Memory())
    if limit is None and needed <= free and not building.has_room(home, needed):
        narrator.warn(f"no room for {needed / 1e9:.2f} GB in {home}: the decoded images stay in memory, for this time")
        return assembly.decode(form, Memory())
    if key is None:
        key = key_of(source, how=repr(storage), narrator=narrator)
        if ready := cache.find(home, key, source, narrator=narrator):
            return ready
    narrator.chose("decoded images in", str(home), f"{needed / 1e9:.2f} GB, found there the next time")
    with building.building(home, key, narrator=narrator) as work:
        made_meanwhile = cache.read(home / str(key))
        if made_meanwhile is not None:
            return made_meanwhile
        made = assembly.decode(form, work)
        ids = (source[i].id for i in made.kept.tolist())
        made = replace(made, fingerprint=fingerprint(made.values, made.sizes, ids))
        also = []
        if not _mixed(source, storage, rejected=made.rejected, depth=form.depth):
            # What a run records, and what is asked for when it is resumed or evaluated.
            decided = replace(storage, channels=made.values.shape[3], intensity=made.intensity)
            also = [replace(key, how=repr(decided))] if decided != storage else []
        return work.seal(home=home, key=key, also=also, entry=made, source=source)


def _mixed(source: Source, storage: Storage, *, rejected: Sequence[tuple[int, str]], depth: str) -> bool:
    """Whether `auto` may have left out images of another depth, which a stated intensity would take."""
    for index, _ in rejected if storage.intensity.strip() == "auto" else ():
        with suppress(Exception), storage.open(source[index].read()) as image:
            if image.header.depth != depth:
                return True
    return False


def _warn_if_blank(found: cache.Decoded, narrator: Narrator) -> None:
    """Tell when a stated range is not that of the images: hardly a shade is left."""
    some = found.values[:: max(1, len(found.values) // 64)]
    ends = float(np.mean((some == 0) | (some == 255)))
    spread = int(some.max()) - int(some.min())
    if ends > 0.98 or spread < 16:
        what = f"{100 * ends:.0f} % of the values are black or white" if ends > 0.98 else f"only {spread} of 255 shades"
        narrator.warn(f"{what} by data.intensity = {found.intensity[:80]}: is it the range of these images?")
