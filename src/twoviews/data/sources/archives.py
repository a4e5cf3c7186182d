"""Archives as one source: ids, labels, and reading by position from several threads."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from twoviews.data.decoding.decode import Unreadable
from twoviews.data.source import Item
from twoviews.data.sources.folder import folder_labels
from twoviews.data.sources.members import Listing, repeated
from twoviews.errors import DataError, unknown_name

MEMBER_BYTES = 1 << 28  # of one member, decompressed: it is held in memory


def read_exactly(file: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`. Raises Unreadable if the file has fewer, or they are more than MEMBER_BYTES."""
    there = os.fstat(file.fileno()).st_size - offset
    if there < size:
        raise Unreadable(f"cut short: {max(0, there):,} of {size:,} bytes are there")
    if size > MEMBER_BYTES:
        raise too_large(size)
    file.seek(offset)
    data = file.read(size)
    while len(data) < size:  # one read may give less, on a network's disk
        more = file.read(size - len(data))
        if not more:
            raise Unreadable(f"cut short: {len(data):,} of {size:,} bytes could be read")
        data += more
    return data


def too_large(size: int, limit: int = MEMBER_BYTES) -> Unreadable:
    """The reason for leaving out a member that would fill the memory."""
    return Unreadable(f"{size:,} bytes, above the limit of {limit:,} for such a member; unpack it")


@dataclass(frozen=True)
class Archive:
    """An archive and its state when it was listed: size in bytes, time of change in nanoseconds."""

    path: Path
    size: int
    changed: int


def look_at(path: Path) -> Archive:
    """The archive as it is now. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
    return Archive(path, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class MemberSource:
    """Images that are members of archives, sorted by id; `skipped` counts the members that were left out."""

    spec: str
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    skipped: dict[str, int]
    archives: tuple[Archive, ...] = field(repr=False)
    where: NDArray[np.int32] = field(repr=False)
    numbers: NDArray[np.int64] = field(repr=False)
    reasons: dict[int, str] = field(repr=False)
    extract: Callable[[BinaryIO, Sequence[int]], bytes] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self.ids))[index]
        return Item(self.ids[index], self.labels[index], partial(self._read, index), self.groups[index])

    @property
    def storage_order(self) -> NDArray[np.int64]:
        return np.lexsort((self.numbers[:, 0], self.where)).astype(np.int64)

    @property
    def stamp(self) -> str:
        return "\n".join(f"{each.path.resolve()}:{each.size}:{each.changed}" for each in self.archives)

    def _read(self, index: int) -> bytes:
        if index in self.reasons:
            raise Unreadable(self.reasons[index])
        archive = self.archives[self.where[index]]
        try:
            # A handle for each read: threads share no position, a thousand shards do not use up the handles, and an
            # archive that was written anew is noticed before its bytes are taken for those of another image.
            with archive.path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (archive.size, archive.changed):
                    raise Unreadable(f"{archive.path.name!r} has changed since it was opened; start again")
                return self.extract(file, self.numbers[index].tolist())
        except OSError as error:
            raise Unreadable(f"{archive.path.name!r}: {error.strerror or error}") from error


def make_source(
    spec: str,
    listed: Sequence[tuple[Archive, Listing]],
    *,
    extract: Callable[[BinaryIO, Sequence[int]], bytes],
    folder: str | None = None,
) -> MemberSource:
    """One source of all archives, or of what lies in their folder `folder`.

    A name that is in two archives has every id prefixed with its archive's name. Labels come from the label files;
    only where there are none at all, from the folders. Raises DataError for no image, or a name twice in one archive.
    """
    listings = [listing for _, listing in listed]
    names = [name for listing in listings for name in listing.names]
    where = np.repeat(np.arange(len(listings), dtype=np.int32), [len(listing.names) for listing in listings])
    numbers = np.concatenate([listing.numbers for listing in listings])
    skipped: Counter[str] = Counter()
    for listing in listings:
        skipped.update(listing.skipped)
    chosen: Sequence[int] = range(len(names))
    if folder is not None:
        inside = f"{folder}/"
        # What is lost may have been inside.
        chosen = [i for i in chosen if names[i].startswith(inside) or numbers[i, 0] < 0]
        if not any(names[i].startswith(inside) for i in chosen):
            known = {name.partition("/")[0] for name in names if "/" in name}
            raise unknown_name(f"folder in {spec.removesuffix(':' + folder)!r}", folder, known)
        names = [name.removeprefix(inside) for name in names]
    if not chosen:
        raise _no_image(spec, skipped)
    chosen = sorted(chosen, key=names.__getitem__)
    ids = names
    twins = [(a, b) for a, b in pairwise(chosen) if names[a] == names[b]]
    for a, b in twins:
        if where[a] == where[b]:
            raise repeated(listed[where[a]][0].path, names[a])
    if twins:
        prefixes = _prefixes([archive.path for archive, _ in listed])
        ids = [f"{prefixes[number]}/{name}" for number, name in zip(where.tolist(), names, strict=True)]
        chosen = sorted(chosen, key=ids.__getitem__)
    labels = [label for listing in listings for label in listing.labels]
    if not any(listing.labelled for listing in listings):
        real = [i for i in chosen if numbers[i, 0] >= 0]
        for i, label in zip(real, folder_labels(tuple(names[i] for i in real)), strict=True):
            labels[i] = label
    groups = [group for listing in listings for group in listing.groups]
    starts = np.cumsum([0, *(len(listing.names) for listing in listings)]).tolist()
    reasons = {
        start + row: reason
        for start, listing in zip(starts, listings, strict=False)
        for row, reason in listing.reasons.items()
    }
    return MemberSource(
        spec=spec,
        ids=tuple(ids[i] for i in chosen),
        labels=tuple(labels[i] for i in chosen),
        groups=tuple(groups[i] for i in chosen),
        skipped=dict(skipped),
        archives=tuple(archive for archive, _ in listed),
        where=where[chosen],
        numbers=numbers[chosen],
        reasons={row: reasons[i] for row, i in enumerate(chosen) if i in reasons},
        extract=extract,
    )


def _no_image(spec: str, skipped: Counter[str]) -> DataError:
    found = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common(3))
    return DataError(
        f"no image in archive {spec!r}: {f'found only {found}' if found else 'it is empty'}"
        "; images end in .jpg, .png, .webp, .tif, .bmp, .gif, .ppm, .avif or .dcm"
    )


def _prefixes(paths: Sequence[Path]) -> list[str]:
    """The archives' file names, or their paths below the folder that is common to all where two are alike."""
    if len({path.name for path in paths}) == len(paths):
        return [path.name for path in paths]
    parents = [path.resolve().parent for path in paths]
    top = Path(os.path.commonpath(parents))
    return [(parent / path.name).relative_to(top).as_posix() for parent, path in zip(parents, paths, strict=True)]
