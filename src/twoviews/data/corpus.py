"""The corpus: every image decoded once, in one uint8 array. What training and evaluation see."""

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twoviews.data import cache
from twoviews.data.arrays import ArraySource
from twoviews.data.assemble import Assembly
from twoviews.data.source import Source, Spec, open_source
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.narrate import Narrator, quiet

_HASH_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Rejected:
    """An image that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, eq=False)
class Corpus:
    """Decoded images with their labels. Never write to `values`: they may be a file or the caller's array.

    values       (N, H, W, C) uint8, C in {1, 3}
    sizes        (N, 2) int32, original (width, height)
    labels       (N,) int64 into `classes`, -1 = none
    classes      sorted; numerically when all are whole numbers
    fingerprint  sha256 over values, sizes and ids, not over the labels
    """

    values: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    fingerprint: str
    spec: str

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
        )

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
    download: bool = False,
    cache_dir: Path | None = None,
    memory_limit: int | None = None,
    narrator: Narrator | None = None,
) -> Corpus:
    """Decode everything behind `spec` (see `open_source`) into one array.

    Images of one size not above `cache_side` pixels are kept as they are; else each is resized as a whole,
    antialiased, into a square of `cache_side`, never above the largest side found. None: 128, and one size up
    to 256 is kept. `channels`: 1 or 3, by default 1 if every image is greyscale. Arrays of fitting form are
    taken without a copy. Above `memory_limit` bytes (half of the free memory by default) the array is a
    memory-mapped file in `cache_dir` (the user's cache by default), and found there the next time. What
    cannot be decoded is listed in `rejected`.

    Raises DataError for missing or empty data, no readable image, or more rejected than accepted;
    ResourceError if the disk is full.

    >>> load_corpus("digits:train")
    Corpus('digits:train': 1198 images 8x8x1, 10 classes)
    """
    if cache_side is not None and cache_side < 1:
        raise UsageError(f"cache_side is {cache_side}: give at least 1 pixel")
    if channels not in (None, 1, 3):
        raise UsageError(f"channels is {channels}: give 1 (greyscale) or 3 (RGB)")
    narrator = narrator or quiet()
    source = open_source(spec, download=download)
    if not len(source):
        raise DataError(f"{source.spec!r} holds no image")
    home = Path(cache_dir) if cache_dir is not None else cache.cache_home()
    limit = cache.available_memory() // 2 if memory_limit is None else memory_limit
    found = _take_array(source, cache_side, channels) or _decode(
        source, cache_side=cache_side, channels=channels, home=home, limit=limit, narrator=narrator
    )
    ids = tuple(source[i].id for i in found.kept.tolist())
    if len(set(ids)) < len(ids):
        raise DataError(f"{source.spec!r} gives {len(ids) - len(set(ids))} ids twice: ids must be unique")
    labels, classes = _number_labels([source.labels[i] for i in found.kept.tolist()])
    rejected = tuple(Rejected(source[i].id, reason) for i, reason in found.rejected)
    if rejected:
        narrator.warn(
            f"{len(rejected)} of {len(source)} images rejected, the first {rejected[0].id!r}: {rejected[0].reason}"
        )
    mark = found.fingerprint or fingerprint(found.values, found.sizes, ids)
    return Corpus(found.values, found.sizes, ids, labels, classes, rejected, mark, source.spec)


def fingerprint(values: NDArray[np.uint8], sizes: NDArray[np.int32], ids: Iterable[str]) -> str:
    """sha256 over shape, pixels, sizes and ids, read in pieces of 16 MB."""
    digest = hashlib.sha256(repr(tuple(map(int, values.shape))).encode())
    rows = max(1, _HASH_BYTES // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        digest.update(np.ascontiguousarray(values[start : start + rows]).data)
    digest.update(np.ascontiguousarray(sizes, dtype="<i4").tobytes())
    for name in ids:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def write_manifest(path: Path, corpus: Corpus) -> None:
    """CSV `id,label,width,height`, a row an image; `read_csv` gives every name back, whatever its bytes."""
    labels = [corpus.classes[i] if i >= 0 else "" for i in corpus.labels.tolist()]
    rows = zip(corpus.ids, labels, corpus.sizes[:, 0].tolist(), corpus.sizes[:, 1].tolist(), strict=True)
    _write_csv(path, ("id", "label", "width", "height"), rows)


def write_rejected(path: Path, corpus: Corpus) -> None:
    """CSV `id,reason`, a row for each image that was left out; for `read_csv`."""
    _write_csv(path, ("id", "reason"), ((item.id, item.reason) for item in corpus.rejected))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file written by `write_manifest` or `write_rejected`."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    # Text is always quoted: a bare carriage return would otherwise end the row. surrogateescape writes a
    # name's own bytes.
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    temporary.replace(path)


def _take_array(source: Source, cache_side: int | None, channels: int | None) -> cache.Decoded | None:
    """The array of an array source as it is, if its form is the one asked for."""
    if not isinstance(source, ArraySource):
        return None
    count, height, width, depth = source.images.shape
    if (cache_side is not None and max(height, width) > cache_side) or (channels == 1 and depth == 3):
        return None
    values = source.images
    if channels == 3 and depth == 1:
        values = np.broadcast_to(values, (count, height, width, 3))
    sizes = np.tile(np.array([width, height], dtype=np.int32), (count, 1))
    return cache.Decoded(values, sizes, np.arange(count, dtype=np.int64), ())


def _decode(
    source: Source,
    *,
    cache_side: int | None,
    channels: int | None,
    home: Path,
    limit: int,
    narrator: Narrator,
) -> cache.Decoded:
    key = ""
    if home.is_dir():  # something has been cached here before: stamps are far cheaper than headers
        key = cache.cache_key(source, cache_side=cache_side, channels=channels)
        ready = cache.find(home, key)
        if ready is not None:
            narrator.say(f"decoded images found in {home / key}")
            return ready
    assembly = Assembly(source, cache_side=cache_side, channels=channels, narrator=narrator)
    form = assembly.look(budget=limit)
    size = f"{form.width} x {form.height} x {form.channels}"
    narrator.chose("stored images", size, form.reason)
    needed = len(source) * form.height * form.width * form.channels
    if assembly.decoded or needed <= limit:
        return assembly.decode(form, lambda shape: np.empty(shape, np.uint8))
    narrator.chose("decoded images in", str(home), f"{needed / 1e9:.2f} GB are above {limit / 1e9:.2f} GB of memory")
    key = key or cache.cache_key(source, cache_side=cache_side, channels=channels)
    with cache.workshop(home) as folder:
        made = assembly.decode(form, lambda shape: cache.allocate(folder, shape))
        ids = (source[i].id for i in made.kept.tolist())
        mark = fingerprint(made.values, made.sizes, ids)
        entry = replace(made, fingerprint=mark)
        return cache.seal(folder, home=home, key=key, entry=entry)


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
