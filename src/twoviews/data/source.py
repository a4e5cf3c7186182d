"""Which items exist: the `Source` contract, and `open_source`, which alone tells kinds of data apart."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import getattr_static
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.errors import DataError, RefusedError, TwoviewsError, UsageError, unknown_name

Raw: TypeAlias = Image.Image | NDArray[Any] | bytes | Path


@dataclass(frozen=True, slots=True)
class Item:
    """One image that exists: `id` is stable and unique in its source, `read` gives it undecoded.

    `group` names what it has in common with others that are not independent of it: a patient, a camera, a session.
    """

    id: str
    label: str | None
    read: Callable[[], Raw]
    group: str | None = None


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
class Grouped(Source, Protocol):
    """A source whose items have groups; the same as each `Item.group`."""

    @property
    def groups(self) -> Sequence[str | None]: ...


@runtime_checkable
class Stored(Source, Protocol):
    """A source that is cheaper to read in another order than that of its ids."""

    @property
    def storage_order(self) -> NDArray[np.int64]: ...
    @property
    def stamp(self) -> str:
        """Changes when the stored bytes change."""
        ...


def is_source(thing: Any) -> TypeGuard[Source]:
    """Whether it has a source's members. In Python 3.11 `isinstance` computes them, and may so read all items."""
    return _has(thing, "spec", "labels", "__len__", "__getitem__")


def is_grouped(source: Source) -> TypeGuard[Grouped]:
    """Whether it knows groups, which are not computed."""
    return _has(source, "groups")


def is_stored(source: Source) -> TypeGuard[Stored]:
    """Whether it has an order of its own and a stamp; neither is computed."""
    return _has(source, "storage_order", "stamp")


def _has(thing: Any, *members: str) -> bool:
    missing = object()
    return all(getattr_static(thing, member, missing) is not missing for member in members)


# Any: torch is not imported to name its tensors and data sets.
Spec: TypeAlias = str | Path | Source | NDArray[Any] | tuple[Any, Any] | Sequence[str | Path] | Any

MANIFESTS = frozenset((".csv", ".tsv", ".jsonl"))
TABLES = frozenset((".parquet", ".arrow", ".feather"))
SHARDS = frozenset((".tar",))
# What only pickle can read.
PICKLES = frozenset((".pt", ".pth", ".pt2", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib"))
COMPRESSED = frozenset((".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"))
KINDS = "a folder, an image, .csv, .tsv, .jsonl, .parquet, .arrow, .tar, .zip, .npy or .npz"


def open_source(spec: Spec, *, labels: str | Path | None = None, download: bool = False) -> Source:
    """The items behind `spec`: paths, a data set's name, arrays, or a source, which is returned as it is.

    - a folder, with or without class folders (`FOLDER:train` is its sub-folder); one image; a list of paths, or a
      pattern as `photos/**/*.jpg` and `shards/{0000..0099}.tar`;
    - `.csv`, `.tsv` or `.jsonl` with `file_name[,label][,split][,group]` (`FILE:train` keeps one split), and folders
      with a `metadata.csv` or `metadata.jsonl`;
    - `.parquet` and `.arrow` with `img|image` or `file_name|path`, and `label`; folders of them, as Hugging Face
      writes; `hf:NAME[:split]` by the package `datasets`;
    - `.tar` (WebDataset) and `.zip`, read where they lie; `.npy`, `.npz`;
    - `digits[:train|:test|:fit|:val]`, `cifar10[@FOLDER][:train|:test]`, `cifar100`,
      `stl10[:unlabeled|:train+unlabeled]`, `torchvision:NAME[@FOLDER][:split]`;
    - arrays (N, H, W) or (N, H, W, C), torch tensors (N, C, H, W), each alone or as (images, labels), and any
      map-style `torch.utils.data.Dataset`.

    `labels`: a manifest whose labels, splits and groups are joined to the items by id. A folder that has the name of a
    data set is written `./digits`. Raises DataError for what is missing, empty or malformed, UsageError for an unknown
    name, RefusedError for what needs pickle.

    >>> source = open_source("digits:test")
    >>> len(source), source[0].label
    (599, '4')
    """
    if labels is not None:
        from twoviews.data.sources.joined import join_labels

        return join_labels(spec, Path(labels), download=download)
    if isinstance(spec, str):
        return _open_text(spec, download=download)
    if isinstance(spec, Path):
        return _open_path(str(spec))
    if isinstance(spec, np.ndarray):
        from twoviews.data.sources.arrays import from_arrays

        return from_arrays(spec)
    if is_source(spec):
        return spec
    if isinstance(spec, list | tuple) and spec and all(isinstance(part, str | Path) for part in spec):
        from twoviews.data.sources.joined import open_all

        return open_all([part if isinstance(part, str) else path_text(part) for part in spec], download=download)
    from twoviews.data.sources.handed import open_handed

    return open_handed(spec)


def path_text(path: Path) -> str:
    """A path as a text that names no data set, whatever the path is called."""
    return str(path) if path.is_absolute() else f"./{path}"


def _open_text(spec: str, *, download: bool) -> Source:
    head, colon, rest = spec.partition(":")
    if colon and head == "hf":
        from twoviews.data.sources.hub import open_hub

        return open_hub(rest, spec=spec)
    from twoviews.data.sources.named import open_named

    named = open_named(spec, download=download)
    return _open_path(spec, download=download) if named is None else named


def _open_path(spec: str, *, download: bool = False) -> Source:
    if not spec or "\0" in spec:
        raise UsageError(f"{spec!r} is no path: name a folder, a file or a data set")
    path, split = Path(spec).expanduser(), None
    if not os.path.lexists(path) and ":" in spec:
        head, _, tail = spec.rpartition(":")
        # Not Path's own: it raises for a name that is too long, which a list of paths is.
        if head and tail and os.path.exists(Path(head).expanduser()):  # noqa: PTH110
            path, split = Path(head).expanduser(), tail
    try:
        if not os.path.lexists(path):  # first: a list of paths is too long for the system to look for
            from twoviews.data.sources.joined import open_pattern

            found = open_pattern(spec, download=download)
            if found is not None:
                return found
        if path.is_dir():
            return _open_folder(path, split)
        if path.is_file():
            return _open_file(path, split)
        if path.exists():
            raise DataError(f"{str(path)!r} is no regular file: give {KINDS}")
    except OSError as error:
        raise DataError(f"{str(path)!r} may not be read: {error.strerror}") from error
    raise _missing(spec, path)


def _open_folder(path: Path, split: str | None) -> Source:
    """A folder of images, unless it holds what says more: a data set of Hugging Face's, its metadata, only shards."""
    from twoviews.data.sources.folder import find_special, open_folder

    special = find_special(path, split=split)
    if special is None:
        return open_folder(path, split=split)
    kind, files = special
    if kind == "manifest":
        return _open_file(files[0], split if files[0].parent == path else None)
    if kind == "shards":
        from twoviews.data.sources.shards import open_shards

        return open_shards(files, spec=str(path))
    from twoviews.data.sources.table import open_tables

    return open_tables(files, split=split, spec=str(path) if split is None else f"{path}:{split}")


def _open_file(path: Path, split: str | None) -> Source:
    suffix = path.suffix.lower()
    if suffix in MANIFESTS:
        from twoviews.data.sources.manifest import open_manifest

        return open_manifest(path, split=split)
    if suffix in TABLES:
        from twoviews.data.sources.table import open_tables

        return open_tables([path], split=split, spec=str(path) if split is None else f"{path}:{split}")
    if split is not None:
        raise UsageError(f"{path.name!r} has no splits, but {split!r} was asked for: drop ':{split}'")
    if suffix in SHARDS:
        from twoviews.data.sources.shards import open_shards

        return open_shards([path], spec=str(path))
    if suffix == ".zip":
        from twoviews.data.sources.zipped import open_zip

        return open_zip(path)
    if suffix in (".npy", ".npz"):
        from twoviews.data.sources.arrays import open_arrays

        return open_arrays(path)
    from twoviews.data.sources.folder import SUFFIXES, FileSource, is_image_by_content

    if suffix in SUFFIXES or is_image_by_content(path):
        return FileSource(str(path), path.parent, (path.name,), (None,))
    if suffix in PICKLES:
        raise RefusedError(f"{str(path)!r} can only be read by pickle, which could run code: save the images as .npy")
    if suffix in COMPRESSED:
        raise DataError(f"{str(path)!r} is compressed as a whole, so no item can be read by itself: decompress it once")
    raise DataError(f"{str(path)!r} is no data set (suffix {suffix!r}): give {KINDS}")


def _missing(spec: str, path: Path) -> TwoviewsError:
    from twoviews.data.sources.named import NAMES

    bare = spec.partition(":")[0].partition("@")[0]
    if (
        Path(spec).name == spec
        and ("@" in spec or get_close_matches(bare, NAMES, n=1, cutoff=0.7))
        and not Path(spec).suffix
    ):
        return unknown_name("data set", bare, NAMES)
    parent = path.parent
    while not os.path.isdir(parent) and parent != parent.parent:  # noqa: PTH112
        path, parent = parent, parent.parent
    try:
        near = get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=1, cutoff=0.6)
    except OSError:
        near = []
    hint = f"did you mean {str(parent / near[0])!r}?" if near else f"{str(parent)!r} has no such name"
    return DataError(f"{spec!r} does not exist: {hint}")
