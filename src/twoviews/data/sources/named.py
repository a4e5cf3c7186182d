"""Data sets by name: scikit-learn's digits; CIFAR-10, CIFAR-100 and STL-10 from their archives; torchvision's names."""

import os
import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twoviews.data.source import Item, Source
from twoviews.data.sources.arrays import ArraySource, from_arrays, numbered
from twoviews.data.sources.binary import Absent, map_stl10, read_cifar
from twoviews.errors import DataError, UsageError, unknown_name

# "digits" come in the order of their writers, so contiguous parts have different writers; fit and val are
# parts of train.
DIGITS = {"": (0, 1797), "train": (0, 1198), "test": (1198, 1797), "fit": (0, 798), "val": (798, 1198)}
SPLITS = {
    "digits": tuple(DIGITS),
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "stl10": ("train", "test", "unlabeled", "train+unlabeled"),
}
NAMES = tuple(SPLITS)
HOME_VARIABLE = "TWOVIEWS_DATA"
# torchvision's classes for the archives that are read here.
OWN = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}


@dataclass(frozen=True, eq=False)
class StackedArrays:
    """Images of several arrays (N, H, W, C), one after the other, without a copy."""

    spec: str
    parts: tuple[NDArray[np.uint8], ...]
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    stamp: str

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        return Item(self.ids[index], self.labels[index], partial(self._read, index))

    @property
    def storage_order(self) -> NDArray[np.int64]:
        return np.arange(len(self), dtype=np.int64)

    def _read(self, index: int) -> NDArray[np.uint8]:
        starts = np.cumsum([0, *map(len, self.parts)])
        at = int(np.searchsorted(starts, index, side="right")) - 1
        image: NDArray[np.uint8] = self.parts[at][index - starts[at]]
        return image


def open_named(spec: str, *, download: bool = False) -> Source | None:
    """The data set that `spec` = NAME[@FOLDER][:split] names, or None where it names none.

    `digits` without a split is all of it, the others are their train part. `torchvision:NAME[@FOLDER][:split]` is any
    of torchvision's image data sets. Raises DataError where the files are not in FOLDER, $TWOVIEWS_DATA or ./data and
    `download` is false, UsageError for an unknown name or split.
    """
    head, _, tail = spec.rpartition(":")
    if spec.startswith("torchvision:"):
        from twoviews.data.sources.vision import open_torchvision

        return open_torchvision(spec, download=download)
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
        return open_archive(spec, name, split=split or "train", home=data_home(folder), download=download)
    return None


def data_home(folder: str) -> Path:
    """Where named data sets lie: `folder`, else $TWOVIEWS_DATA, else ./data."""
    return Path(folder or os.environ.get(HOME_VARIABLE) or "data").expanduser()


def _digits(spec: str, split: str) -> ArraySource:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    start, stop = DIGITS[split]
    ids = [f"{i:04d}" for i in range(start, stop)]
    return from_arrays(images[start:stop], bunch.target[start:stop], ids=ids, spec=spec)


def open_archive(spec: str, name: str, *, split: str, home: Path, download: bool) -> Source:
    """CIFAR or STL-10 in `home`, fetched into it where it is not there and `download` is true."""
    read = partial(_read_stl10 if name == "stl10" else _read_cifar, spec, name, split=split, home=home)
    try:
        try:
            return read()
        except Absent as error:
            if not download:
                raise absent(name, home, error) from error
        _fetch(name, home)
        return read()
    except OSError as error:
        raise DataError(f"{error.filename or str(home)!r} cannot be read: {error.strerror or error}") from error


def _read_cifar(spec: str, name: str, *, split: str, home: Path) -> Source:
    images, labels = read_cifar(name, home, split=split)
    return from_arrays(images, labels, spec=spec, sure=True)


def _read_stl10(spec: str, name: str, *, split: str, home: Path) -> Source:
    parts = [map_stl10(home, split=part) for part in split.split("+")]
    if len(parts) == 1:
        return from_arrays(parts[0].images, parts[0].labels, spec=spec, sure=True)
    labels: list[str | None] = []
    for part in parts:
        labels += part.labels or [None] * len(part.images)
    return StackedArrays(
        spec,
        tuple(part.images for part in parts),
        numbered(range(len(labels)), len(labels)),
        tuple(labels),
        " ".join((name, *(part.stamp for part in parts))),
    )


def _fetch(name: str, home: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    kind = getattr(datasets, OWN[name])
    root = home.parent if home.name == kind.base_folder else home
    try:
        # Not by the class, which would unpickle what it has fetched.
        download_url(kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5)
        with tarfile.open(root / kind.filename) as archive:
            archive.extractall(root, filter="data")
    except Exception as error:  # of networks, archives and disks there are many
        raise DataError(f"{name} could not be downloaded to {str(root)!r}: {reason(error)}") from error


def absent(name: str, home: Path, error: Exception, *, fetched: bool = True) -> DataError:
    """The error for a data set that is not there; `fetched`: whether a download could bring it."""
    way = "or allow the download (--download, download=True)" if fetched else "as torchvision cannot download it"
    return DataError(
        f"{name} is not (or not whole) in {str(home)!r}: name its folder as {name}@FOLDER or in ${HOME_VARIABLE}, "
        f"{way}; {reason(error)}"
    )


def reason(error: Exception) -> str:
    """What an error of others' says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
