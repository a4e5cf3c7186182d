"""The archives of CIFAR-10, CIFAR-100 and STL-10, read byte by byte: their layout is checked by lengths.

https://www.cs.toronto.edu/~kriz/cifar.html and https://cs.stanford.edu/~acoates/stl10/. CIFAR's python version is
made of pickles, of which `inert` takes down what they describe.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.sources.inert import Bytes, read_inert
from twoviews.errors import DataError

# CIFAR-100's train file has 155 MB, a whole archive 187 MB; more is something else.
_LARGEST_FILE, _LARGEST_ARCHIVE = 1 << 28, 1 << 29
_PIXELS = 3 * 32 * 32
_STL_FOLDER, _STL_ARCHIVE, _STL_PIXELS = "stl10_binary", "stl10_binary.tar.gz", 3 * 96 * 96

Read = Callable[[str], tuple[str, bytes]]  # name of a file -> what messages call it, its bytes


class Absent(DataError):
    """Files that are not there, which a download could bring; the message says which."""


@dataclass(frozen=True)
class Layout:
    """One version of CIFAR: the folder that its archive unpacks to, and what is in it."""

    folder: str
    archive: str
    splits: dict[str, tuple[str, ...]]
    names: str
    count: int
    pickled: bool

    def needed(self, split: str) -> tuple[str, ...]:
        return (*self.splits[split], self.names)


def _cifar10(folder: str, *, archive: str, names: str, suffix: str) -> Layout:
    train = tuple(f"data_batch_{i}{suffix}" for i in range(1, 6))
    return Layout(folder, archive, {"train": train, "test": (f"test_batch{suffix}",)}, names, 10, not suffix)


def _cifar100(folder: str, *, names: str, suffix: str) -> Layout:
    splits: dict[str, tuple[str, ...]] = {split: (split + suffix,) for split in ("train", "test")}
    return Layout(folder, f"{folder}.tar.gz", splits, names, 100, not suffix)


CIFAR = {
    "cifar10": (
        _cifar10("cifar-10-batches-py", archive="cifar-10-python.tar.gz", names="batches.meta", suffix=""),
        _cifar10("cifar-10-batches-bin", archive="cifar-10-binary.tar.gz", names="batches.meta.txt", suffix=".bin"),
    ),
    "cifar100": (
        _cifar100("cifar-100-python", names="meta", suffix=""),
        _cifar100("cifar-100-binary", names="fine_label_names.txt", suffix=".bin"),
    ),
}


def read_cifar(name: str, home: Path, *, split: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Images (N, 32, 32, 3) and their class names, of either version in `home`, unpacked or as .tar.gz.

    Raises Absent where files are missing, DataError for a wrong length or label, RefusedError for a pickle that asks
    for more than an array.
    """
    layouts = CIFAR[name]
    lacking = ""
    for layout in layouts:
        folder = home if home.name == layout.folder else home / layout.folder
        if folder.is_dir():
            missing = [file for file in layout.needed(split) if not (folder / file).is_file()]
            if not missing:
                return _read_layout(layout, split, partial(_read_in, folder))
            lacking = lacking or f"{layout.folder!r} lacks {missing[0]!r}"
    for layout in layouts:
        archive = home / layout.archive
        if archive.is_file():
            files = _read_archive(archive, layout.folder, layout.needed(split))
            missing = [file for file in layout.needed(split) if file not in files]
            if not missing:
                return _read_layout(layout, split, files.__getitem__)
            lacking = lacking or f"{layout.archive!r} lacks {missing[0]!r}"
    looked = ", ".join(text for layout in layouts for text in (f"{layout.folder}/", layout.archive))
    raise Absent(lacking or f"looked for {looked}")


@dataclass(frozen=True, eq=False)
class Mapped:
    """Images (N, 96, 96, 3), memory-mapped, their class names if they have any; `stamp` changes with the file."""

    images: NDArray[np.uint8]
    labels: list[str] | None
    stamp: str


def map_stl10(home: Path, *, split: str) -> Mapped:
    """STL-10's images of `train`, `test` or `unlabeled`; the last have no labels.

    Raises Absent where files are missing, DataError for a wrong length or label.
    """
    folder = home if home.name == _STL_FOLDER else home / _STL_FOLDER
    images, targets, names = (folder / file for file in (f"{split}_X.bin", f"{split}_y.bin", "class_names.txt"))
    wanted = (images,) if split == "unlabeled" else (images, targets, names)
    missing = [path.name for path in wanted if not path.is_file()]
    if missing and not folder.is_dir() and (home / _STL_ARCHIVE).is_file():
        raise Absent(f"{_STL_ARCHIVE!r} cannot be read by position: unpack it once, there")
    if missing:
        raise Absent(f"{_STL_FOLDER!r} lacks {missing[0]!r}" if folder.is_dir() else f"looked for {_STL_FOLDER}/")
    status = images.stat()
    size = status.st_size
    stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_dev} {status.st_ino}"
    if not size or size % _STL_PIXELS:
        raise DataError(f"{str(images)!r} is cut short: {size:,} bytes are no multiple of 3 x 96 x 96")
    # Column by column, so that each channel lies on its side.
    stack = np.memmap(images, np.uint8, mode="r").reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
    if split == "unlabeled":
        return Mapped(stack, None, stamp)
    labels = np.frombuffer(_read_file(targets), np.uint8)
    if len(labels) != len(stack):
        raise DataError(f"{str(targets)!r} has {len(labels)} labels for {len(stack)} images: is one of them cut short?")
    classes = _class_names(repr(str(names)), _lines(_read_file(names)), 10)
    return Mapped(stack, _named(repr(str(targets)), labels.astype(np.int64) - 1, classes, first=1), stamp)


def _read_layout(layout: Layout, split: str, read: Read) -> tuple[NDArray[np.uint8], list[str]]:
    what, data = read(layout.names)
    key = "label_names" if layout.count == 10 else "fine_label_names"
    listed = read_inert(data, what).get(key) if layout.pickled else _lines(data)
    classes = _class_names(what, listed, layout.count)
    batches: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    for file in layout.splits[split]:
        what, data = read(file)
        pixels, numbers = _read_pickled(what, data) if layout.pickled else _read_binary(what, data, layout.count)
        labels += _named(what, numbers, classes, first=0)
        if batches and len(pixels) != len(batches[0]):
            raise DataError(f"{what} has {len(pixels):,} images, the batch before {len(batches[0]):,}: is it whole?")
        batches.append(pixels)
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    for index, pixels in enumerate(batches):
        part = images[index * len(pixels) : (index + 1) * len(pixels)]
        part[:] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, labels


def _read_binary(what: str, data: bytes, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Records of one label byte (CIFAR-100: coarse, then fine), then the pixels."""
    head = 1 if count == 10 else 2
    if not data or len(data) % (head + _PIXELS):
        raise DataError(f"{what} is cut short: {len(data):,} bytes are no multiple of {head} + 3 x 32 x 32")
    records = np.frombuffer(data, np.uint8).reshape(-1, head + _PIXELS)
    return records[:, head:], records[:, head - 1].astype(np.int64)


def _read_pickled(what: str, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    entries = read_inert(data, what)
    pixels, labels = entries.get("data"), entries.get("labels", entries.get("fine_labels"))
    if not isinstance(pixels, Bytes) or not isinstance(labels, list):
        raise DataError(f"{what} is no batch of CIFAR: it has no array 'data' with a list 'labels' or 'fine_labels'")
    if len(pixels.shape) != 2 or pixels.shape[1] != _PIXELS or len(pixels.raw) != pixels.shape[0] * _PIXELS:
        raise DataError(
            f"{what} has {len(pixels.raw):,} bytes of pixels for shape {pixels.shape[:4]}: 3 x 32 x 32 an image"
        )
    if len(labels) != pixels.shape[0] or not labels or not all(type(label) is int for label in labels):
        raise DataError(f"{what} has {len(labels):,} labels for {pixels.shape[0]:,} images, or some are no numbers")
    numbers = np.array([label if 0 <= label < 256 else -1 for label in labels], dtype=np.int64)
    try:
        values = np.frombuffer(pixels.raw.encode("latin-1"), np.uint8)
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has pixels that are no bytes: the file is damaged, get it anew") from error
    return values.reshape(pixels.shape), numbers


def _named(what: str, numbers: NDArray[np.int64], classes: Sequence[str], *, first: int) -> list[str]:
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(classes)))
    if len(wrong):
        raise DataError(
            f"{what}: the label of image {wrong[0]} is not from {first} to {len(classes) - 1 + first}: "
            "the file is damaged, get it anew"
        )
    return [classes[number] for number in numbers.tolist()]


def _class_names(what: str, listed: Any, count: int) -> list[str]:
    names = [name for name in listed if name and isinstance(name, str)] if isinstance(listed, list) else []
    if len(names) != count or len(set(names)) < count:
        raise DataError(f"{what} has {len(names)} class names: there must be {count}, each once")
    return names


def _lines(data: bytes) -> list[str]:
    return [line.strip() for line in data.decode("latin-1").splitlines() if line.strip()]


def _read_in(folder: Path, file: str) -> tuple[str, bytes]:
    return repr(str(folder / file)), _read_file(folder / file)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise DataError(
            f"{str(path)!r} has more than {_LARGEST_FILE:,} bytes: no such file of the data set is so large"
        )
    return data


def _read_archive(path: Path, folder: str, wanted: Sequence[str]) -> dict[str, tuple[str, bytes]]:
    """The wanted files of `folder` in a .tar.gz, in memory."""
    files = {}
    try:
        with gzip.open(path) as stream:
            data = stream.read(_LARGEST_ARCHIVE + 1)
        if len(data) > _LARGEST_ARCHIVE:
            raise DataError(f"{str(path)!r} unpacks to more than {_LARGEST_ARCHIVE:,} bytes: it is no archive of CIFAR")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                if plain and name.parent.name == folder and name.name in wanted:
                    part = data[member.offset_data : member.offset_data + member.size]
                    files[name.name] = f"{str(path)!r}[{name.name}]", part
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{str(path)!r} is not a readable .tar.gz: {error}") from error
    return files
