"""Which items exist: the `Source` contract, and `open_source`, which alone tells kinds of data apart."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.errors import DataError, UsageError, unknown_name

Raw: TypeAlias = Image.Image | NDArray[Any] | bytes | Path


@dataclass(frozen=True, slots=True)
class Item:
    """One image that exists: `id` is stable and unique in its source, `read` gives it undecoded."""

    id: str
    label: str | None
    read: Callable[[], Raw]


@runtime_checkable
class Source(Protocol):
    """Items sorted by id; anything with these members can be handed to `load_corpus`."""

    @property
    def spec(self) -> str: ...
    @property
    def labels(self) -> Sequence[str | None]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...


@runtime_checkable
class Stored(Protocol):
    """A source that is cheaper to read in another order than that of its ids."""

    @property
    def storage_order(self) -> NDArray[np.int64]: ...
    @property
    def stamp(self) -> str:
        """Changes when the stored bytes change."""
        ...


Spec: TypeAlias = str | Path | Source | NDArray[Any] | tuple[NDArray[Any], Any]


def open_source(spec: Spec, *, download: bool = False) -> Source:
    """The items behind `spec`: a path, a data set's name, arrays, or a source, which is returned as it is.

    - a folder, with or without class folders (`FOLDER:train` is its sub-folder);
    - `.csv` or `.jsonl` with `file_name,label[,split]` (`FILE:train` keeps one split);
    - `.parquet` with `img|image` or `file_name|path`, and `label`; `.npy`, `.npz`;
    - `digits[:train|:test|:fit|:val]`, `cifar10[@FOLDER][:train|:test]`, `cifar100`, `stl10[:unlabeled]`;
    - `(N, H, W)` or `(N, H, W, C)` uint8, or a tuple (images, labels).

    A folder that has the name of a data set is written `./digits`. Raises DataError for what is missing,
    empty or malformed, UsageError for an unknown name, RefusedError for arrays that need pickle.

    >>> source = open_source("digits:test")
    >>> len(source), source[0].label
    (599, '4')
    """
    if isinstance(spec, np.ndarray):
        from twoviews.data.arrays import from_arrays

        return from_arrays(spec)
    if isinstance(spec, tuple):
        from twoviews.data.arrays import from_arrays

        if len(spec) != 2:
            raise UsageError(f"a tuple of data is (images, labels), got {len(spec)} parts")
        return from_arrays(spec[0], spec[1])
    if isinstance(spec, str):
        from twoviews.data.named import open_named

        named = open_named(spec, download=download)
        return _open_path(spec) if named is None else named
    if isinstance(spec, Path):
        return _open_path(str(spec))
    if isinstance(spec, Source):
        return spec
    raise UsageError(f"cannot read data from {type(spec).__name__}: give a path, a name, an array or a Source")


def _open_path(spec: str) -> Source:
    if not spec or "\0" in spec:
        raise UsageError(f"{spec!r} is no path: name a folder, a file or a data set")
    path, split = Path(spec).expanduser(), None
    if not os.path.lexists(path) and ":" in spec:
        head, _, tail = spec.rpartition(":")
        if head and tail and Path(head).expanduser().exists():
            path, split = Path(head).expanduser(), tail
    try:
        if path.is_dir():
            from twoviews.data.folder import open_folder

            return open_folder(path, split=split)
        if path.is_file():
            return _open_file(path, split)
    except PermissionError as error:
        raise DataError(f"{str(path)!r} may not be read: {error.strerror}") from error
    raise _missing(spec, path)


def _open_file(path: Path, split: str | None) -> Source:
    match path.suffix.lower():
        case ".csv" | ".jsonl":
            from twoviews.data.manifest import open_manifest

            return open_manifest(path, split=split)
        case ".parquet":
            from twoviews.data.table import open_parquet

            return open_parquet(path, split=split)
        case ".npy" | ".npz":
            from twoviews.data.arrays import open_arrays

            if split is not None:
                raise UsageError(f"{path.name!r} has no splits, but {split!r} was asked for: drop ':{split}'")
            return open_arrays(path)
        case suffix:
            raise DataError(
                f"{str(path)!r} is no data set (suffix {suffix!r}): give a folder, .csv, .jsonl, .parquet, .npy or .npz"
            )


def _missing(spec: str, path: Path) -> Exception:
    from twoviews.data.named import NAMES

    bare = spec.partition(":")[0].partition("@")[0]
    if (
        Path(spec).name == spec
        and ("@" in spec or get_close_matches(bare, NAMES, n=1, cutoff=0.7))
        and not Path(spec).suffix
    ):
        return unknown_name("data set", bare, NAMES)
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        near = get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=1, cutoff=0.6)
    except OSError:
        near = []
    hint = f"did you mean {str(parent / near[0])!r}?" if near else f"{str(parent)!r} has no such name"
    return DataError(f"{spec!r} does not exist: {hint}")
