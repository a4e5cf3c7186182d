"""Data sets by name: scikit-learn's digits, and CIFAR-10, CIFAR-100 and STL-10 through torchvision."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from twoviews.data.arrays import ArraySource, from_arrays
from twoviews.data.source import Source
from twoviews.errors import DataError, UsageError, unknown_name

# "digits" come in the order of their writers, so contiguous parts have different writers; fit and val are
# parts of train.
DIGITS = {"": (0, 1797), "train": (0, 1198), "test": (1198, 1797), "fit": (0, 798), "val": (798, 1198)}
SPLITS = {
    "digits": tuple(DIGITS),
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "stl10": ("train", "test", "unlabeled"),
}
NAMES = tuple(SPLITS)
HOME_VARIABLE = "TWOVIEWS_DATA"


def open_named(spec: str, *, download: bool = False) -> Source | None:
    """The data set that `spec` = NAME[@FOLDER][:split] names, or None where it names none.

    `digits` without a split is all of it, the others are their train part. Raises DataError where the files
    are not in FOLDER, $TWOVIEWS_DATA or ./data and `download` is false.
    """
    head, _, tail = spec.rpartition(":")
    for body, split in ((spec, ""), (head, tail)):
        name, at, folder = body.partition("@")
        if name not in SPLITS or (at and not folder) or (split and Path(spec).exists()):
            continue
        if at and split == "" and head and tail in SPLITS[name]:
            continue  # the colon belongs to the split, not to the folder
        if not at and split not in SPLITS[name] and split != "":
            raise unknown_name(f"split of {name}", split, [s for s in SPLITS[name] if s])
        if name == "digits":
            if at:
                raise UsageError(f"digits come with scikit-learn and have no folder: drop '@{folder}'")
            return _digits(spec, split)
        home = Path(folder or os.environ.get(HOME_VARIABLE) or "data").expanduser()
        return _from_torchvision(spec, name, split or "train", home, download)
    return None


def _digits(spec: str, split: str) -> ArraySource:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    start, stop = DIGITS[split]
    ids = [f"{i:04d}" for i in range(start, stop)]
    return from_arrays(images[start:stop], bunch.target[start:stop], ids=ids, spec=spec)


def _from_torchvision(spec: str, name: str, split: str, home: Path, download: bool) -> ArraySource:
    from torchvision import datasets

    try:
        data: Any
        if name == "stl10":
            data = datasets.STL10(str(home), split=split, download=download)
            images, targets = data.data.transpose(0, 2, 3, 1), data.labels
        else:
            kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            data = kind(str(home), train=split == "train", download=download)
            images, targets = data.data, data.targets
    except (RuntimeError, OSError) as error:
        if download:
            raise DataError(f"{name} could not be downloaded to {str(home)!r}: {error}") from error
        raise DataError(
            f"{name} is not (or not whole) in {str(home)!r}: name its folder as {name}@FOLDER or in "
            f"${HOME_VARIABLE}, or allow the download (--download, download=True)"
        ) from error
    labels = None if targets is None else [None if t < 0 else data.classes[t] for t in targets]
    return from_arrays(images, np.asarray(labels, dtype=object) if labels else None, spec=spec)
