"""What is handed over in Python: tensors, tuples (images, labels), lists of images, data sets of torch.

torch is never imported here: a thing of torch's can only come from a program that has imported it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.decoding.opened import Unreadable
from twoviews.data.source import Raw, Source
from twoviews.data.sources.arrays import channels_elsewhere, from_arrays, numbered
from twoviews.errors import DataError, UsageError


def open_handed(spec: Any) -> Source:
    """The items of a tensor (N, C, H, W) or (N, H, W), of (images, labels), a list of images, or a map-style data set.

    A data set has `__len__` and `__getitem__`, and gives an image, (image, label, ...) or a dict with `image` or
    `img`, and `label`: of Pillow, arrays (H, W[, C]) or tensors (C, H, W). Its labels come from `targets` or `labels`
    where it has them, as names of its `classes`; else every item is read once for its label. Leave random transforms
    out: views are drawn later. Raises UsageError for anything else, DataError for arrays that are no images.

    >>> from PIL import Image
    >>> open_handed(([Image.new("L", (8, 8)), Image.new("L", (9, 9))], ["a", "b"])).labels
    ('a', 'b')
    """
    if isinstance(spec, tuple):
        if len(spec) != 2:
            raise UsageError(f"a tuple of data is (images, labels), got {len(spec)} parts")
        return _open_images(spec[0], spec[1])
    if is_torch(spec, "Tensor") or isinstance(spec, list | np.ndarray):
        return _open_images(spec, None)
    from twoviews.data.sources.mapped import open_dataset

    return open_dataset(spec)


def plain_image(image: Any) -> Raw:
    """An image that `decode` takes: tensors (C, H, W) become arrays (H, W, C). Raises Unreadable for what is none."""
    if isinstance(image, Image.Image | bytes | Path):
        return image
    if is_torch(image, "Tensor"):
        shape = tuple(image.shape)
        if len(shape) == 3 and channels_elsewhere(shape[0], middle=shape[1], other=shape[2]):
            raise Unreadable(f"tensor of shape {shape}: channels come first in tensors: permute(2, 0, 1)")
        array = tensor_array(image)
        image = array.transpose(1, 2, 0) if array.ndim == 3 else array
    elif isinstance(image, np.ndarray):
        shape = image.shape
        if len(shape) == 3 and channels_elsewhere(shape[2], middle=shape[1], other=shape[0]):
            raise Unreadable(f"array of shape {shape}: channels come last in arrays: transpose(1, 2, 0)")
    else:
        raise Unreadable(f"a {type(image).__name__} where an image belongs")
    if image.ndim not in (2, 3):
        raise Unreadable(f"shape {shape}: an image has two or three axes")
    return image  # type: ignore[no-any-return]


def tensor_array(tensor: Any) -> NDArray[Any]:
    """A tensor's values in memory, without a copy where they are there; floats that numpy lacks become float32."""
    torch = sys.modules["torch"]
    try:
        values = tensor.detach().cpu()
        if values.layout != torch.strided:
            values = values.to_dense()
        if values.is_floating_point() and values.dtype not in (torch.float16, torch.float32, torch.float64):
            values = values.float()
        array: NDArray[Any] = values.numpy(force=True)
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise Unreadable(f"tensor of {tensor.dtype} cannot be turned into an array: {reason}") from error
    return array


def _open_images(images: Any, labels: Any) -> Source:
    if is_torch(labels, "Tensor"):
        labels = tensor_array(labels)
    if is_torch(images, "Tensor"):
        shape = tuple(images.shape)
        spec = f"tensor {shape}"
        if len(shape) == 4 and channels_elsewhere(shape[1], middle=shape[2], other=shape[3]):
            raise DataError(
                f"{spec} has {shape[1]} channels, on its second axis: if they come last, use images.permute(0, 3, 1, 2)"
            )
        array = tensor_array(images)
        last = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        return from_arrays(last, labels, spec=spec, sure=True)
    if isinstance(images, np.ndarray):
        return from_arrays(images, labels)
    if not isinstance(images, list | tuple):
        raise UsageError(
            f"cannot read data from {type(images).__name__} in a tuple (images, labels): images are an array, "
            "a tensor or a list"
        )
    if not images:
        raise UsageError("cannot read data from an empty list: give paths or images")
    if all(isinstance(image, Image.Image | np.ndarray) or is_torch(image, "Tensor") for image in images):
        return _open_list(images, labels)
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise DataError(f"a list of {len(images)} is no stack of images, its parts differ in shape") from error
    if array.dtype.kind == "i" and array.size and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)  # whole numbers of Python's have no type of their own
    return from_arrays(array, labels, spec=f"list of {len(images)}")


def _open_list(images: Sequence[Any], labels: Any) -> Source:
    """Images one by one, which may differ in size."""
    from twoviews.data.sources.mapped import MappedSource

    count = len(images)
    spec = f"list of {count}"
    try:
        plain_image(images[0])
    except Unreadable as error:
        raise DataError(f"{spec} is no list of images, the first is {error}; labels go into a tuple") from error
    names = from_arrays(np.zeros((count, 1, 1), np.uint8), labels, spec=spec).labels
    ids = numbered(range(count), count)
    return MappedSource(spec, images.__getitem__, rows=range(count), ids=ids, labels=names)


def is_torch(thing: Any, path: str) -> bool:
    """Whether `thing` is of the class at `path` in torch, where torch is imported at all."""
    kind: Any = sys.modules.get("torch")
    for part in path.split("."):
        kind = getattr(kind, part, None)
    return isinstance(kind, type) and isinstance(thing, kind)
