"""The corpus: every image decoded once, in one uint8 array. What training and evaluation see."""

import csv
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twoviews.data import cache
from twoviews.data.assemble import Storage
from twoviews.data.obtain import fingerprint, obtain
from twoviews.data.source import Spec, is_grouped, open_source
from twoviews.data.sources.parts import without
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.narrate import Narrator, quiet


@dataclass(frozen=True, slots=True)
class Rejected:
    """An image that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Corpus:
    """Decoded images with their labels. Never write to `values`: they may be a file or the caller's array.

    values       (N, H, W, C) uint8, C from 1 to 32
    sizes        (N, 2) int32, original (width, height)
    labels       (N,) int64 into `classes`, -1 = none
    classes      sorted; numerically when all are whole numbers
    fingerprint  sha256 over values, sizes and ids, not over the labels
    intensity    what the files' values were scaled by; `uint8` means not at all
    groups       N names of what items have in common (a patient, a session), or None where none is known
    excluded     how many items were left out because they were asked to
    """

    values: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    fingerprint: str
    spec: str
    intensity: str = "uint8"
    groups: tuple[str | None, ...] | None = None
    excluded: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.values.shape[1:]))
        return f"Corpus({self.spec!r}: {len(self)} images {shape}, {len(self.classes)} classes)"

    def select(self, indices: ArrayLike) -> "Corpus":
        """The images at `indices` (M,), in that order; the classes stay. A contiguous part shares memory."""
        at = np.asarray(indices)
        if at.size == 0:
            at = at.astype(np.int64)
        if at.ndim != 1 or at.dtype.kind not in "iu":
            raise UsageError(f"select takes a list of indices, got {at.dtype} of shape {at.shape}")
        if at.size and (at.min() < 0 or at.max() >= len(self)):
            raise UsageError(f"select takes indices from 0 to {len(self) - 1}, got {at.min()} to {at.max()}")
        contiguous = at.size > 0 and np.array_equal(at, np.arange(at[0], at[0] + at.size))
        values = self.values[at[0] : at[0] + at.size] if contiguous else self.values[at]
        sizes, ids = self.sizes[at], tuple(self.ids[i] for i in at.tolist())
        return replace(
            self,
            values=values,
            sizes=sizes,
            ids=ids,
            labels=self.labels[at],
            rejected=(),
            fingerprint=fingerprint(values, sizes, ids),
            groups=None if self.groups is None else tuple(self.groups[i] for i in at.tolist()),
        )

    @property
    def labels_fingerprint(self) -> str:
        """sha256 over ids and labels by name, whatever the pixels."""
        digest = hashlib.sha256()
        for name, label in zip(self.ids, self.labels.tolist(), strict=True):
            digest.update(f"{name}\0{self.classes[label] if label >= 0 else ''}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def relabel(self, classes: Sequence[str]) -> "Corpus":
        """The same images with labels that count in `classes`, say those of the training part.

        Raises DataError for a label that is not among them.
        """
        position = {name: i for i, name in enumerate(classes)}
        used = {self.classes[i] for i in np.unique(self.labels[self.labels >= 0])}
        for name in sorted(used - position.keys()):
            hint = unknown_name("class", name, classes)
            raise DataError(f"{self.spec!r} has a class that is not among the {len(position)} known: {hint}")
        table = np.array([position.get(name, -1) for name in self.classes] + [-1], dtype=np.int64)
        return replace(self, labels=table[self.labels], classes=tuple(classes))

    def content_keys(self) -> list[bytes]:
        """16 bytes an image that are equal exactly if size and stored pixels are; N entries.

        Comparable between corpora with the same `cache_side` and `channels`.
        """
        head = repr(self.values.shape[1:]).encode()
        return [
            hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=head + size.tobytes()).digest()
            for pixels, size in zip(self.values, self.sizes, strict=True)
        ]


def load_corpus(
    spec: Spec,
    *,
    cache_side: int | None = None,
    channels: int | None = None,
    intensity: str = "auto",
    background: str = "white",
    pages: str = "auto",
    labels: str | Path | None = None,
    exclude: Collection[str] = (),
    download: bool = False,
    cache_dir: Path | None = None,
    memory_limit: int | None = None,
    narrator: Narrator | None = None,
) -> Corpus:
    """Decode everything behind `spec` (see `open_source`, also for `labels`) into one array.

    Images of one size not above `cache_side` pixels are kept as they are; else each is resized as a whole,
    antialiased, into a square of `cache_side`, never above the largest side found. None: 128, and one size up
    to 256 is kept. `channels`: 1, 3, or the number of bands, by default the images' own: 1 if every image is greyscale.
    `intensity`: how values become 8 bits (`auto`, `uint8`, `uint16`, `file`, `percentile:1,99`, `window:LEVEL,WIDTH`,
    `range:LOW,HIGH`); what it comes to is told and is in the result. `background`: colour under transparent pixels.
    `pages` of TIFF and DICOM files: `first`, `channels`, or `auto`, as the file itself says. `exclude`: ids left out.

    Arrays of fitting form are taken without a copy. Above `memory_limit` bytes (256 MiB by default) the array is a
    memory-mapped file in `cache_dir` (the user's cache by default), and found there the next time. What cannot be
    decoded is listed in `rejected`.

    Raises DataError for missing or empty data, no readable image, or more rejected than accepted;
    ResourceError if the disk is full.

    >>> load_corpus("digits:train")
    Corpus('digits:train': 1198 images 8x8x1, 10 classes)
    """
    storage = Storage(cache_side, channels, intensity, background, pages)
    narrator = narrator or quiet()
    source = open_source(spec, labels=labels, download=download)
    listed = len(source)
    if exclude:
        source = without(source, exclude)
    excluded = listed - len(source)
    if excluded < len(set(exclude)):
        narrator.warn(
            f"{len(set(exclude)) - excluded} of {len(set(exclude))} ids to exclude are not in {source.spec!r}"
        )
    if not len(source):
        raise DataError(f"{source.spec!r} holds no image" + (" that is not excluded" if exclude else ""))
    home = Path(cache_dir) if cache_dir is not None else cache.cache_home()
    found = obtain(source, storage, home=home, limit=memory_limit, narrator=narrator)
    kept = found.kept.tolist()
    ids = tuple(source[i].id for i in kept)
    if len(set(ids)) < len(ids):
        raise DataError(f"{source.spec!r} gives {len(ids) - len(set(ids))} ids twice: ids must be unique")
    numbers, classes = _number_labels([source.labels[i] for i in kept])
    rejected = tuple(Rejected(source[i].id, reason) for i, reason in found.rejected)
    if rejected:
        narrator.warn(
            f"{len(rejected)} of {len(source)} images rejected, the first {rejected[0].id!r}: {rejected[0].reason}"
        )
    mark = found.fingerprint or fingerprint(found.values, found.sizes, ids)
    groups = None
    if is_grouped(source) and any(group is not None for group in source.groups):
        groups = tuple(source.groups[i] for i in kept)
    return Corpus(
        found.values,
        found.sizes,
        ids,
        numbers,
        classes,
        rejected,
        mark,
        source.spec,
        intensity=found.intensity,
        groups=groups,
        excluded=excluded,
    )


def write_manifest(path: Path, corpus: Corpus) -> None:
    """CSV `id,label,width,height,content`, a row an image, `content` its key as of `Corpus.content_keys`.

    `read_csv` gives every name back, whatever its bytes.
    """
    labels = [corpus.classes[i] if i >= 0 else "" for i in corpus.labels.tolist()]
    keys = [key.hex() for key in corpus.content_keys()]
    rows = zip(corpus.ids, labels, corpus.sizes[:, 0].tolist(), corpus.sizes[:, 1].tolist(), keys, strict=True)
    _write_csv(path, ("id", "label", "width", "height", "content"), rows)


def write_rejected(path: Path, corpus: Corpus) -> None:
    """CSV `id,reason`, a row for each image that was left out; for `read_csv`."""
    _write_csv(path, ("id", "reason"), ((item.id, item.reason) for item in corpus.rejected))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file written by `write_manifest` or `write_rejected`."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def read_excluded(path: Path) -> tuple[str, ...]:
    """The ids in a CSV file with a column `id`, as `twoviews check --out` writes it. Raises DataError."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r}, the list of items to exclude, cannot be read: {error}") from error
    if rows and rows[0].get("id") is None:
        raise DataError(f"{str(path)!r} has no column id, only {', '.join(map(str, rows[0]))}")
    return tuple(row["id"] for row in rows)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    # Text is always quoted: a bare carriage return would otherwise end the row. surrogateescape writes a
    # name's own bytes.
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    temporary.replace(path)


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Without repeats; numerically when all are whole numbers, else by code point."""
    unique = set(names)
    if all(re.fullmatch(r"-?[0-9]+", name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def _number_labels(names: Sequence[str | None]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    classes = sort_classes(name for name in names if name is not None)
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(name, -1) for name in names], dtype=np.int64), classes
