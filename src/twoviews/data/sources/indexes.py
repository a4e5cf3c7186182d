"""Listings of archives, kept beside the cache, so that a large archive is walked once."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.cache import cache_home
from twoviews.data.sources.archives import Archive, look_at
from twoviews.data.sources.members import IMAGE_SUFFIXES, Listing
from twoviews.errors import DataError

_VERSION = 1  # raise it when the rules change by which members are listed


def list_once(path: Path, *, columns: int, walk: Callable[[Path], Listing]) -> tuple[Archive, Listing]:
    """The archive and its listing of `columns` numbers a member, from the index or from `walk`, which is then kept.

    Raises DataError if the archive cannot be read.
    """
    try:
        archive = look_at(path)
        listing = _find(path, columns=columns)
        if listing is None:
            listing = walk(path)
            if look_at(path) == archive:  # else it is still being written
                _keep(path, listing)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    return archive, listing


def _find(path: Path, *, columns: int) -> Listing | None:
    """The listing kept for the archive as it is now, or None."""
    try:
        with _place(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            if about["key"] != _key(path):
                return None
            names = _texts(stored["names"])
            numbers = stored["numbers"]
            labels, groups = (_chosen(stored[kind], about[kind]) for kind in ("labels", "groups"))
            reasons = {int(row): str(reason) for row, reason in about["reasons"]}
            skipped = {str(kind): int(count) for kind, count in about["skipped"].items()}
            labelled = bool(about["labelled"])
    except Exception:  # whatever is wrong with it, it is made anew
        return None
    if not len(names) == len(labels) == len(groups) or numbers.shape != (len(names), columns):
        return None
    return Listing(names, numbers, labels, groups, reasons, labelled, skipped)


def _keep(path: Path, listing: Listing) -> None:
    """Keep it for the next time, whole or not at all; where nothing can be written, nothing is kept."""
    about: dict[str, Any] = {
        "key": _key(path),
        "reasons": list(listing.reasons.items()),
        "skipped": listing.skipped,
        "labelled": listing.labelled,
    }
    arrays: dict[str, NDArray[Any]] = {"numbers": listing.numbers, "names": _bytes("\0".join(listing.names))}
    for kind, values in (("labels", listing.labels), ("groups", listing.groups)):
        known = {value: code for code, value in enumerate(sorted({value for value in values if value is not None}))}
        about[kind] = list(known)
        arrays[kind] = np.array([-1 if value is None else known[value] for value in values], dtype=np.int32)
    place = _place(path)
    temporary = ""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".making-", dir=place.parent)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, about=_bytes(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        Path(temporary).replace(place)
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _place(path: Path) -> Path:
    return cache_home() / "indexes" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:40]}.npz"


def _key(path: Path) -> list[Any]:
    """Changes with the archive, in place or under its name, and with the rules of listing."""
    status = path.stat()
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    return [_VERSION, suffixes, os.fsdecode(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)


def _texts(data: NDArray[np.uint8]) -> list[str]:
    # No name holds a NUL: such archives are refused.
    return data.tobytes().decode("utf-8", "surrogatepass").split("\0") if data.size else []


def _chosen(codes: NDArray[np.int32], values: list[str]) -> list[str | None]:
    table: list[str | None] = [*values, None]
    return [table[code] for code in codes.tolist()]
