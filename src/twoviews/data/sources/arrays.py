"""Images that are arrays already: `.npy`, `.npz` and numpy arrays handed over in Python."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twoviews.data.source import Item
from twoviews.errors import DataError, RefusedError

IMAGE_KEYS = ("images", "x")
LABEL_KEYS = ("labels", "y")
MOST_CHANNELS = 32


@dataclass(frozen=True, eq=False)
class ArraySource:
    """`images` (N, H, W, C) in the order of `ids`: C from 1 to 32, uint8 or any other real type, as handed over."""

    spec: str
    images: NDArray[Any]
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    groups: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        read = partial(self.images.__getitem__, index)
        return Item(self.ids[index], self.labels[index], read, self.groups[index])


def from_arrays(
    images: NDArray[Any],
    labels: ArrayLike | None = None,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    spec: str = "",
    sure: bool = False,
) -> ArraySource:
    """A source over `images` (N, H, W) or (N, H, W, C), C up to 32, without copying them unless `ids` are unsorted.

    Values keep their type, whole numbers or floats; four channels are four bands, never transparency. `labels` and
    `groups` (N,): whole numbers (-1 = none) or text; `ids` (N,): unique text, row numbers by default. Raises
    DataError for another type or shape, and, unless the caller is `sure`, where channels seem to come first.

    >>> import numpy as np
    >>> from_arrays(np.zeros((2, 8, 8), np.uint8), [7, -1]).labels
    ('7', None)
    """
    spec = spec or f"array {tuple(np.shape(images))}"
    stack = _image_stack(np.asanyarray(images), spec, sure=sure)
    count = len(stack)
    names = _texts(labels, count, f"{spec}: {count} images, but labels")
    parts = _texts(groups, count, f"{spec}: {count} images, but groups")
    if ids is None:
        return ArraySource(spec, stack, numbered(range(count), count), tuple(names), tuple(parts))
    keys = np.asarray(ids)
    if keys.shape != (count,) or keys.dtype.kind not in "UiuT":
        raise DataError(f"{spec}: ids must be {count} texts or whole numbers, got {keys.dtype} {keys.shape}")
    texts = [str(key) for key in keys]
    if len(set(texts)) < count:
        raise DataError(f"{spec}: ids are not unique: {count - len(set(texts))} of {count} repeat another")
    order = sorted(range(count), key=texts.__getitem__)
    if order != list(range(count)):
        stack = stack[order]
        texts = [texts[i] for i in order]
        names, parts = ([of[i] for i in order] for of in (names, parts))
    return ArraySource(spec, stack, tuple(texts), tuple(names), tuple(parts))


def numbered(positions: Iterable[int], count: int) -> tuple[str, ...]:
    """Ids of items that have only their position among `count`: in the order of the positions."""
    width = len(str(count - 1))
    return tuple(f"{position:0{width}d}" for position in positions)


def open_arrays(path: Path) -> ArraySource:
    """The images of `.npy` (memory-mapped) or `.npz` (`images|x`, `labels|y`, `ids`, `groups`), never through pickle.

    Raises RefusedError for arrays of objects, DataError for files that are broken or have another shape.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                _check_header(file, str(path))
            return from_arrays(np.load(path, mmap_mode="r", allow_pickle=False), spec=str(path))
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy"): name for name in archive.namelist()}
            kinds = (IMAGE_KEYS, LABEL_KEYS, ("ids",), ("groups",))
            wanted = [next((key for key in kind if key in keys), None) for kind in kinds]
            images, labels, ids, groups = (None if key is None else _member(archive, keys[key], path) for key in wanted)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError, SyntaxError) as error:
        raise DataError(f"{str(path)!r} is not a readable {path.suffix} file: {error}") from error
    if images is None:
        found = ", ".join(sorted(keys)) or "nothing"
        raise DataError(f"{str(path)!r} has no array {' or '.join(IMAGE_KEYS)}, only {found}")
    return from_arrays(images, labels, ids=ids, groups=groups, spec=str(path))


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    with archive.open(name) as file:
        declared = _check_header(file, f"{path}[{name}]")
    # A header may promise more than the archive holds, and numpy would allocate it first.
    if declared > archive.getinfo(name).file_size:
        raise DataError(f"{path}[{name}] is cut short: its header promises {declared:,} bytes")
    with archive.open(name) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _check_header(file: IO[bytes], what: str) -> int:
    """Bytes that the array will take, from its header; refuses anything that only pickle can read."""
    start = file.read(8)
    if start[:1] == b"\x80":
        raise RefusedError(f"{what} is a pickle, which could run code: save the images with numpy.save as uint8")
    if start[:6] != b"\x93NUMPY":
        raise DataError(f"{what} is not a numpy file: it starts with {start!r}")
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers.get(start[6], np.lib.format.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise RefusedError(f"{what} holds Python objects, which only pickle can read: save the images as uint8")
    return int(np.prod(shape, dtype=object)) * dtype.itemsize


def channels_elsewhere(taken: int, *, middle: int, other: int) -> bool:
    """Whether of an image's three axes not the one `taken` for the channels has them, but the `other` outer one.

    Such a reading passes every other test: 3 x 32 x 32 could be 3 by 32 pixels of 32 channels.
    """
    return (taken == middle and other <= MOST_CHANNELS and other < middle) or (
        other in (1, 3) and min(taken, middle) > 4
    )


def _image_stack(images: NDArray[Any], spec: str, *, sure: bool) -> NDArray[Any]:
    kind, shape = images.dtype.kind, images.shape
    if kind == "O":
        raise RefusedError(f"{spec} is an array of objects: stack the images into one uint8 array (N, H, W, C)")
    if kind == "b":
        raise DataError(f"{spec} holds bool: images are numbers; convert it as images.astype(numpy.uint8) * 255")
    if kind not in "uif" or images.dtype.itemsize > 8:
        raise DataError(
            f"{spec} holds {images.dtype}: images are whole numbers or floats of at most 64 bits; convert it"
        )
    stack = images[..., None] if images.ndim == 3 else images
    if stack.ndim != 4 or 0 in stack.shape:
        raise DataError(f"{spec} has shape {shape}: images are (N, H, W) or (N, H, W, C), none of them 0")
    _, height, width, channels = stack.shape
    if not sure and images.ndim == 4 and channels_elsewhere(channels, middle=width, other=height):
        hint = "they seem to come first, so move them last: images.transpose(0, 2, 3, 1)"
    elif channels > MOST_CHANNELS:
        hint = f"1 to {MOST_CHANNELS} are understood, on the last axis"
    else:
        return stack
    raise DataError(f"{spec} has shape {shape}, {channels} channels: {hint}")


def _texts(given: ArrayLike | None, count: int, what: str) -> list[str | None]:
    """Class or group names; `what` begins the sentence of an error."""
    if given is None:
        return [None] * count
    values = np.asarray(given)
    if values.ndim == 2 and values.shape[1] == 1:  # as in Keras' CIFAR
        values = values[:, 0]
    if values.shape != (count,):
        raise DataError(f"{what} have shape {values.shape}")
    items = values.tolist()
    if values.dtype.kind not in "iuUTO" or not all(item is None or type(item) in (int, str) for item in items):
        raise DataError(f"{what} hold {values.dtype}: give whole numbers (-1 = none) or text")
    return [None if item is None or item in (-1, "") else str(item) for item in items]
