"""Images that are arrays already: `.npy`, `.npz` and numpy arrays handed over in Python."""

import zipfile
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


@dataclass(frozen=True, eq=False)
class ArraySource:
    """`images` (N, H, W, C) uint8, C in {1, 3}, in the order of `ids`."""

    spec: str
    images: NDArray[np.uint8]
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        return Item(self.ids[index], self.labels[index], partial(self.images.__getitem__, index))


def from_arrays(
    images: NDArray[Any], labels: ArrayLike | None = None, *, ids: ArrayLike | None = None, spec: str = ""
) -> ArraySource:
    """A source over `images` (N, H, W) or (N, H, W, C) uint8, without copying them unless `ids` are unsorted.

    `labels` (N,): whole numbers (-1 = none) or text; `ids` (N,): unique text, row numbers by default.
    Raises DataError for another type or shape.

    >>> import numpy as np
    >>> from_arrays(np.zeros((2, 8, 8), np.uint8), [7, -1]).labels
    ('7', None)
    """
    spec = spec or f"array {tuple(np.shape(images))}"
    stack = _image_stack(np.asanyarray(images), spec)
    count = len(stack)
    names = _label_names(labels, count, spec)
    if ids is None:
        return ArraySource(spec, stack, tuple(f"{i:0{len(str(count - 1))}d}" for i in range(count)), names)
    keys = np.asarray(ids)
    if keys.shape != (count,) or keys.dtype.kind not in "UiuT":
        raise DataError(f"{spec}: ids must be {count} texts or whole numbers, got {keys.dtype} {keys.shape}")
    texts = [str(key) for key in keys]
    if len(set(texts)) < count:
        raise DataError(f"{spec}: ids are not unique: {count - len(set(texts))} of {count} repeat another")
    order = sorted(range(count), key=texts.__getitem__)
    if order != list(range(count)):
        stack = stack[order]
    return ArraySource(spec, stack, tuple(texts[i] for i in order), tuple(names[i] for i in order))


def open_arrays(path: Path) -> ArraySource:
    """The images of `.npy` (memory-mapped) or `.npz` (`images|x`, `labels|y`, `ids`), never through pickle.

    Raises RefusedError for arrays of objects, DataError for files that are broken or have another shape.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                _check_header(file, str(path))
            return from_arrays(np.load(path, mmap_mode="r", allow_pickle=False), spec=str(path))
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy"): name for name in archive.namelist()}
            wanted = [next((k for k in group if k in keys), None) for group in (IMAGE_KEYS, LABEL_KEYS, ("ids",))]
            images, labels, ids = (None if key is None else _member(archive, keys[key], path) for key in wanted)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError, SyntaxError) as error:
        raise DataError(f"{str(path)!r} is not a readable {path.suffix} file: {error}") from error
    if images is None:
        found = ", ".join(sorted(keys)) or "nothing"
        raise DataError(f"{str(path)!r} has no array {' or '.join(IMAGE_KEYS)}, only {found}")
    return from_arrays(images, labels, ids=ids, spec=str(path))


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


def _image_stack(images: NDArray[Any], spec: str) -> NDArray[np.uint8]:
    if images.dtype == object:
        raise RefusedError(f"{spec} is an array of objects: stack the images into one uint8 array (N, H, W, C)")
    if images.dtype != np.uint8:
        raise DataError(f"{spec} holds {images.dtype}: images are uint8 from 0 to 255; scale them and convert")
    stack = images[..., None] if images.ndim == 3 else images
    if stack.ndim != 4 or 0 in stack.shape:
        raise DataError(f"{spec} has shape {images.shape}: images are (N, H, W) or (N, H, W, C), none of them 0")
    if stack.shape[3] not in (1, 3):
        first = stack.shape[1] in (1, 3)
        hint = "move the channels last: images.transpose(0, 2, 3, 1)" if first else "1 or 3 channels are understood"
        raise DataError(f"{spec} has shape {images.shape}, {stack.shape[3]} channels: {hint}")
    return stack


def _label_names(labels: ArrayLike | None, count: int, spec: str) -> tuple[str | None, ...]:
    if labels is None:
        return (None,) * count
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:  # as in Keras' CIFAR
        values = values[:, 0]
    if values.shape != (count,):
        raise DataError(f"{spec}: {count} images, but labels have shape {values.shape}")
    if values.dtype.kind in "iu":
        return tuple(None if value == -1 else str(value) for value in values.tolist())
    texts = values.tolist()
    if values.dtype.kind not in "UTO" or not all(text is None or isinstance(text, str) for text in texts):
        raise DataError(f"{spec}: labels hold {values.dtype}: give whole numbers (-1 = none) or text")
    return tuple(text or None for text in texts)
