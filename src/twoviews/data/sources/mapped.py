"""Map-style data sets, torch's and anybody's: their items by position, their labels as cheaply as they allow."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from threading import Lock
from typing import Any

import numpy as np

from twoviews.data.decoding.decode import Unreadable, check_depth
from twoviews.data.source import Item, Raw
from twoviews.data.sources.arrays import numbered
from twoviews.data.sources.handed import is_torch, plain_image, tensor_array
from twoviews.errors import DataError, UsageError

TORCHVISION = "torchvision.datasets"
IMAGE_KEYS = ("image", "img")
ITEMS = (
    "an item is an image, (image, label) or a dict with image and label; an image is of Pillow, an array or a tensor"
)


class MappedSource:
    """Items that `fetch` gives by row, sorted by `ids`; `labels` are known, or found as the items are read."""

    def __init__(
        self,
        spec: str,
        fetch: Callable[[int], Any],
        *,
        rows: Sequence[int],
        ids: Sequence[str],
        labels: Sequence[str | None] | None,
        classes: Sequence[str] | None = None,
    ) -> None:
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self.spec = spec
        self._fetch = fetch
        self._classes = classes
        self._rows = [rows[i] for i in order]
        self._ids = [ids[i] for i in order]
        self._labels = {} if labels is None else {i: labels[at] for i, at in enumerate(order)}
        self._all: tuple[str | None, ...] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        if index in self._labels:
            return Item(self._ids[index], self._labels[index], partial(self._read, index))
        # The label costs the whole item, so the item is kept for whoever reads it now.
        try:
            image, label = split_item(self._fetch(self._rows[index]))
        except Exception:
            self._labels[index] = None  # the error comes again when the image is read
            return Item(self._ids[index], None, partial(self._read, index))
        self._labels[index] = class_name(label, self._classes, what=f"{self.spec}: item {self._ids[index]!r}")
        return Item(self._ids[index], self._labels[index], partial(_checked, image))

    @property
    def labels(self) -> Sequence[str | None]:
        if self._all is None:
            self._all = tuple(self[index].label for index in range(len(self)))
        return self._all

    def _read(self, index: int) -> Raw:
        return _checked(split_item(self._fetch(self._rows[index]))[0])


def open_dataset(dataset: Any, *, spec: str = "") -> MappedSource:
    """A map-style data set as a source, see `open_handed`; a `Subset` keeps the ids of the whole."""
    kind = type(dataset).__name__
    if is_torch(dataset, "utils.data.IterableDataset"):
        raise UsageError(f"cannot read data from {kind}, which has no positions: hand over a map-style data set")
    if is_torch(dataset, "utils.data.DataLoader"):
        raise UsageError(f"cannot read data from {kind}: hand over its .dataset; batches are made here")
    sized = hasattr(type(dataset), "__len__") and hasattr(type(dataset), "__getitem__")
    if not sized or isinstance(dataset, Mapping | str | bytes | bytearray):
        raise UsageError(
            f"cannot read data from {kind}: give a path, a name, an array, a tensor, (images, labels), a data set with "
            "__len__ and __getitem__, or a Source"
        )
    spec = spec or f"{kind} of {len(dataset)} items"
    if not len(dataset):
        raise DataError(f"{spec} holds no image")
    base, positions = _resolve(dataset)
    if len(set(positions)) < len(positions):
        raise DataError(f"{spec} takes {len(positions) - len(set(positions))} items twice: name each once")
    paths = _paths(base)
    ids = numbered(positions, len(base)) if paths is None else tuple(paths[at] for at in positions)
    classes = _classes(base)
    first = _look(dataset, kind)
    known = _known_labels(base)
    labels = None
    if known is not None:
        chosen = [known[at] for at in positions]
        seen = None if first is None else _plain_label(first[1])
        if seen is None or (type(seen) in (int, str) and seen == chosen[0]):
            labels = _named(chosen, classes)
    fetch = dataset.__getitem__ if _shareable(dataset, base) else partial(_fetch_alone, dataset, Lock())
    if labels is None and first is not None:
        class_name(first[1], classes, what=f"{spec}: its first item")
    return MappedSource(spec, fetch, rows=range(len(positions)), ids=ids, labels=labels, classes=classes)


def split_item(item: Any) -> tuple[Any, Any]:
    """Image and label (None where there is none) of what a data set gives for a position."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        if key is None:
            raise Unreadable(f"a dict without {' or '.join(IMAGE_KEYS)}, only {', '.join(map(str, item)) or 'nothing'}")
        return item[key], item.get("label")
    if isinstance(item, tuple | list) and item:
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def class_name(label: Any, classes: Sequence[str] | None, *, what: str) -> str | None:
    """The name of a label: text, or a number that counts in `classes`; None and -1 are no label."""
    plain = _plain_label(label)
    if plain is not None and type(plain) not in (int, str):
        raise DataError(f"{what} has a label of type {type(label).__name__}: give whole numbers (-1 = none) or text")
    if plain in (None, -1, ""):
        return None
    if classes is None or not isinstance(plain, int):
        return str(plain)
    if not 0 <= plain < len(classes):
        raise DataError(f"{what} has label {plain}, which is not among its {len(classes)} classes")
    return classes[plain]


def _checked(image: Any) -> Raw:
    """As `plain_image`. Who is given an image may load it, and its depth could be told no longer."""
    raw = plain_image(image)
    check_depth(raw)
    return raw


def _resolve(dataset: Any) -> tuple[Any, list[int]]:
    """The data set behind subsets of subsets, and the positions in it."""
    positions = list(range(len(dataset)))
    while is_torch(dataset, "utils.data.Subset"):
        indices = [int(index) for index in dataset.indices]
        dataset = dataset.dataset
        positions = [indices[at] + (len(dataset) if indices[at] < 0 else 0) for at in positions]
    return dataset, positions


def _look(dataset: Any, kind: str) -> tuple[Any, Any] | None:
    """The first item, None where it cannot be read; says so where it is nothing that can be used."""
    try:
        item = dataset[0]
    except Exception:  # foreign code; the item will be listed among the rejected
        return None
    try:
        image, label = split_item(item)
        plain_image(image)
    except Unreadable as error:
        raise UsageError(f"cannot read data from {kind}: its first item is {error}; {ITEMS}") from error
    return image, label


def _is_torchvision(base: Any) -> bool:
    return type(base).__module__.startswith(TORCHVISION)


def _known_labels(base: Any) -> list[int | str | None] | None:
    """The label of every item, where the data set has them in a list."""
    for name in ("targets", "labels", *(("_labels", "y", "_samples") if _is_torchvision(base) else ())):
        values = getattr(base, name, None)
        if is_torch(values, "Tensor") or isinstance(values, np.ndarray):
            values = (values if isinstance(values, np.ndarray) else tensor_array(values)).tolist()
        if not isinstance(values, list | tuple) or len(values) != len(base):
            continue
        if name == "_samples":
            values = [value[1] if isinstance(value, tuple) and len(value) == 2 else () for value in values]
        change = getattr(base, "target_transform", None)
        plain = [_plain_label(change(value) if callable(change) else value) for value in values]
        if all(value is None or type(value) in (int, str) for value in plain):
            return plain
    return None


def _plain_label(label: Any) -> Any:
    """A number inside an array or a tensor as a number of Python's; anything else as it is."""
    if is_torch(label, "Tensor") or isinstance(label, np.ndarray | np.generic):
        whole = not label.is_floating_point() if is_torch(label, "Tensor") else label.dtype.kind in "iuU"
        size = label.numel() if is_torch(label, "Tensor") else label.size
        return label.item() if whole and size == 1 else label
    return label


def _named(labels: list[int | str | None], classes: Sequence[str] | None) -> list[str | None]:
    numbers = [label for label in labels if isinstance(label, int)]
    fits = classes is not None and all(-1 <= number < len(classes) for number in numbers)
    return [class_name(label, classes if fits else None, what="") for label in labels]


def _classes(base: Any) -> Sequence[str] | None:
    """Names that labels count in; where labels are transformed they no longer do."""
    names = getattr(base, "classes", None)
    if not isinstance(names, list | tuple) or getattr(base, "target_transform", None) is not None:
        return None
    unique = all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)
    return list(names) if unique and names else None


def _paths(base: Any) -> list[str] | None:
    """Paths relative to `root`, where the data set lists its files."""
    root = getattr(base, "root", None)
    if not isinstance(root, str | Path):
        return None
    for name in ("samples", "imgs", *(("_samples", "_image_files") if _is_torchvision(base) else ())):
        listed = getattr(base, name, None)
        if not isinstance(listed, list | tuple) or len(listed) != len(base):
            continue
        heads = [entry[0] if isinstance(entry, tuple | list) and entry else entry for entry in listed]
        if not all(isinstance(head, str | PurePath) and PurePath(head).is_relative_to(root) for head in heads):
            continue
        paths = [PurePath(head).relative_to(root).as_posix() for head in heads]
        if len(set(paths)) == len(paths):
            return paths
    return None


def _shareable(dataset: Any, base: Any) -> bool:
    """Whether items may be read by several threads: torchvision's own code may, other people's is not asked to."""
    changes = [getattr(base, name, None) for name in ("transforms", "transform", "target_transform")]
    plain = dataset is base or type(dataset).__module__.startswith("torch.utils.data")
    return plain and _is_torchvision(base) and not any(change is not None for change in changes)


def _fetch_alone(dataset: Any, lock: Lock, row: int) -> Any:
    with lock:
        return dataset[row]
