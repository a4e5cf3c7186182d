"""torchvision's image data sets by the names of their classes: `torchvision:NAME[@FOLDER][:split]`."""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twoviews.data.source import Source
from twoviews.data.sources.mapped import open_dataset
from twoviews.data.sources.named import OWN, SPLITS, absent, data_home, open_archive, reason
from twoviews.errors import DataError, UsageError, unknown_name

# Plain folders, and what torchvision reads by pickle without a checksum.
_LEFT_OUT = frozenset(("VisionDataset", "ImageFolder", "DatasetFolder", "LSUN", "LSUNClass"))


def open_torchvision(spec: str, *, download: bool = False) -> Source:
    """The data set of `spec` = torchvision:NAME[@FOLDER][:split], by default the part that torchvision takes.

    Raises UsageError for an unknown name or split, DataError for what is not there (and `download` is false) or
    broken. CIFAR and STL-10 are read as `cifar10` and `stl10` are.

    >>> open_torchvision("torchvision:FashionMNIST@data:test")  # doctest: +SKIP
    """
    name, folder, split = _parts(spec)
    home = data_home(folder)
    kinds = image_kinds()
    known = {key.casefold(): key for key in kinds}
    if name.casefold() not in known:
        raise unknown_name("torchvision data set", name, kinds)
    name = known[name.casefold()]
    own = next((own for own, kind in OWN.items() if kind == name), None)
    if own is not None:
        if split and split not in SPLITS[own]:
            raise unknown_name(f"split of {name}", split, SPLITS[own])
        return open_archive(spec, own, split=split or "train", home=home, download=download)
    make, fetched = _with_split(kinds[name], name, split), _can_download(kinds[name])
    if download and fetched:
        make = partial(make, download=True)
    try:
        data = make(str(home))
    except Exception as error:  # foreign code on foreign files
        if split and isinstance(error, ValueError) and "split" in str(error):
            raise UsageError(f"{name} has no split {split!r}: {reason(error)}") from error
        if download and fetched:
            raise DataError(f"{name} could not be downloaded to {str(home)!r}: {reason(error)}") from error
        if isinstance(error, RuntimeError | OSError):
            raise absent(f"torchvision:{name}", home, error, fetched=fetched) from error
        raise DataError(f"{name} in {str(home)!r} cannot be read: {type(error).__name__}: {reason(error)}") from error
    return open_dataset(data, spec=spec)


def image_kinds() -> dict[str, type]:
    """torchvision's data sets that need no more than a folder and a part."""
    from torchvision import datasets

    kinds = {}
    for key in datasets.__all__:
        kind = getattr(datasets, key)
        if not isinstance(kind, type) or key in _LEFT_OUT:
            continue
        taken = _parameters(kind)
        needed = {
            name for name, value in taken.items() if value.default is value.empty and value.kind < value.VAR_KEYWORD
        }
        if "root" in taken and needed <= {"root", "split"}:
            kinds[key] = kind
    return kinds


def _parts(spec: str) -> tuple[str, str, str]:
    """Name, folder and split; a colon in the folder belongs to it where there is such a folder."""
    text = spec.partition(":")[2]
    name, at, folder = text.partition("@")
    if not at:
        name, _, split = text.partition(":")
        return name, "", split
    head, colon, tail = folder.rpartition(":")
    split = ""
    if colon and "/" not in tail and os.sep not in tail and not Path(folder).expanduser().exists():
        folder, split = head, tail
    if not folder:
        raise UsageError(f"{spec!r} names no folder after '@': write torchvision:{name}@FOLDER")
    return name, folder, split


def _with_split(kind: type, name: str, split: str) -> Callable[..., Any]:
    taken = _parameters(kind)
    if "train" in taken:
        if split not in ("", "train", "test"):
            raise unknown_name(f"split of {name}", split, ("train", "test"))
        return partial(kind, train=split != "test")
    if "split" in taken:
        if not split and taken["split"].default is inspect.Parameter.empty:
            raise UsageError(f"{name} has several parts and none of its own: write torchvision:{name}:SPLIT")
        return partial(kind, split=split) if split else kind
    if split:
        raise UsageError(f"{name} has no splits, but {split!r} was asked for: drop ':{split}'")
    return kind


def _can_download(kind: type) -> bool:
    return any("download" in _parameters(base) for base in kind.__mro__[:-1])


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters
