"""Decoded arrays on disk: a folder each, memory-mapped, found again by what they were made of. Nothing is ever evicted
unless asked for.

HOME/NAMES-STAMP/  values.npy  index.json      NAMES: ids and how they are decoded; STAMP: sizes and times of the files
HOME/NAMES-STAMP/  same.json                   the same bytes under other times: the entry that holds them
HOME/.making-.../                              one in the making, see `building`
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from twoviews.data.source import Raw, Source, Stored
from twoviews.errors import UsageError, unknown_name

_VERSION = 2  # raise it when decoding changes: what is cached then is not reused
VALUES, INDEX, SAME = "values.npy", "index.json", "same.json"
MAKING = ".making-"


@dataclass(frozen=True, eq=False)
class Decoded:
    """The decoded images of a source, in memory or memory-mapped.

    values    (M, H, W, C) uint8
    sizes     (M, 2) int32, original (width, height)
    kept      (M,) int64, the indices into the source
    rejected  (index, reason) of the others
    intensity  what their values were scaled by, see `data.intensity`
    """

    values: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    kept: NDArray[np.int64]
    rejected: tuple[tuple[int, str], ...]
    fingerprint: str = ""
    intensity: str = "uint8"


def cache_home() -> Path:
    """Where decoded images are kept by default: `$XDG_CACHE_HOME/twoviews`, else `~/.cache/twoviews`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "twoviews"


def available_memory() -> int:
    """Bytes that can be allocated without swapping, the limit of a control group included."""
    if sys.platform != "linux":
        return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES")) // 2
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 1 << 32)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        parts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        used -= int(parts.get("file", 0))  # pages of files, which give way
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


@dataclass(frozen=True, slots=True)
class Key:
    """What an entry is found by: `names` changes with ids and settings, `stamp` with the files' sizes and times."""

    names: str
    stamp: str

    def __str__(self) -> str:
        return f"{self.names}-{self.stamp}"

    @staticmethod
    def of(source: Source, *, how: str) -> "Key":
        """The key of a source decoded as `how` says."""
        names = hashlib.sha256(f"{_VERSION} {PIL.__version__} {how}".encode())
        stored = source.stamp if isinstance(source, Stored) else None
        stamp = hashlib.sha256((stored or "").encode("utf-8", "surrogatepass"))
        for index in range(len(source)):
            item = source[index]
            names.update(b"\0" + item.id.encode("utf-8", "surrogatepass"))
            if stored is None:
                stamp.update(_item_stamp(item.read()))
        return Key(names.hexdigest()[:24], stamp.hexdigest()[:24])


def _item_stamp(raw: Raw) -> bytes:
    if isinstance(raw, Path):
        try:
            status = raw.stat()
        except OSError:
            return b"missing"
        return f"{status.st_size} {status.st_mtime_ns} ".encode()
    return content_of(raw)


def content_of(raw: Raw) -> bytes:
    """16 bytes that tell the content of an undecoded image."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(raw, Path):
        try:
            with raw.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            return bytes(16)
    elif isinstance(raw, bytes):
        digest.update(raw)
    else:
        array = np.ascontiguousarray(raw)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.digest()


def content_of_source(source: Source, order: Sequence[int]) -> str:
    """What `index.json` holds as `content`, from the items themselves, read in `order`."""
    contents: list[bytes] = [b""] * len(source)
    for index in order:
        contents[index] = content_of(source[index].read())
    return join_contents(contents)


def join_contents(contents: Sequence[bytes]) -> str:
    """The content of all items together."""
    return hashlib.sha256(b"".join(contents)).hexdigest()


def find(home: Path, key: Key, source: Source) -> Decoded | None:
    """The entry made of this source, if there is a whole one: under its stamp, or else with the same bytes in it."""
    folder = home / str(key)
    with suppress(OSError, ValueError):
        folder = home / str(json.loads((folder / SAME).read_text(encoding="ascii")))
    entry = read(folder)
    if entry is not None:
        return entry
    others = [path for path in sorted(home.glob(f"{key.names}-*")) if (path / INDEX).is_file()]
    if not others:
        return None
    # A copy of the data, or files that were only touched: reading them again costs far less than decoding.
    content = content_of_source(source, _order(source))
    for other in others:
        if _index(other).get("content") == content and (entry := read(other)) is not None:
            (home / str(key)).mkdir(exist_ok=True)
            (home / str(key) / SAME).write_text(json.dumps(other.name), encoding="ascii")
            return entry
    return None


def _order(source: Source) -> Sequence[int]:
    return source.storage_order.tolist() if isinstance(source, Stored) else range(len(source))


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def read(folder: Path) -> Decoded | None:
    """The entry in a folder if it is whole, else None."""
    index = _index(folder)
    try:
        values = np.load(folder / VALUES, mmap_mode="r", allow_pickle=False)
        entry = Decoded(
            values,
            np.array(index["sizes"], dtype=np.int32).reshape(-1, 2),
            np.array(index["kept"], dtype=np.int64),
            tuple((int(at), str(reason)) for at, reason in index["rejected"]),
            str(index["fingerprint"]),
            str(index["intensity"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with suppress(OSError):  # a home that may only be read serves as well
        os.utime(folder / INDEX)  # when it was last used, for who clears up
    return entry


@dataclass(frozen=True, slots=True)
class Entry:
    """What `entries` lists: bytes on disk, when it was last used (seconds since 1970), and what it is."""

    name: str
    bytes: int
    used: float
    what: str


def entries(home: Path) -> list[Entry]:
    """What lies in a cache, largest first; a part that was interrupted is an entry too."""
    found = []
    for path in sorted(home.iterdir()) if home.is_dir() else []:
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        index = _index(path)
        shape = " x ".join(map(str, index.get("shape", ())))
        what = f"{shape} of {index.get('spec', '?')}" if index else "notes"
        if path.name.startswith(MAKING):
            what = "unfinished: is continued when the same data are decoded again"
        elif path.name == "indexes":
            what = "where the members of archives lie"
        sizes = [(p.stat().st_blocks * 512, p.stat().st_mtime) for p in files]
        found.append(Entry(path.name, sum(s for s, _ in sizes), max((t for _, t in sizes), default=0.0), what))
    return sorted(found, key=lambda entry: (-entry.bytes, entry.name))


def remove(home: Path, names: Sequence[str]) -> list[Entry]:
    """Delete entries by name, or all; what was deleted. Raises UsageError for an unknown name."""
    listed = {entry.name: entry for entry in entries(home)}
    chosen = list(listed) if list(names) == ["all"] else list(names)
    for name in chosen:
        if name not in listed:
            raise unknown_name("cache entry", name, listed) if listed else UsageError(f"the cache {home} is empty")
    for name in chosen:
        path = home / name
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    return [listed[name] for name in chosen]
