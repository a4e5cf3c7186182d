"""Decoded arrays on disk: a folder each, memory-mapped, found again by what they were made of. Nothing is ever evicted
unless asked for.

HOME/NAMES-STAMP/  values.npy  index.json      NAMES: ids and how they are decoded; STAMP: the files' times, see `keys`
HOME/NAMES-STAMP/  same.json                   the same, asked for in other words or under other times: who holds it
HOME/.making-.../                              one in the making, see `building`
"""

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
from numpy.typing import NDArray

from twoviews.data.keys import Key, content_of_source
from twoviews.data.locks import acquire, discard
from twoviews.data.source import Source
from twoviews.errors import UsageError, unknown_name
from twoviews.narrate import Narrator

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


def find(home: Path, key: Key, source: Source, *, narrator: Narrator) -> Decoded | None:
    """The entry made of this source, if there is a whole one: under its stamp, or else with the same bytes in it."""
    holder = _holder(home / str(key))
    entry = read(holder)
    others = {_holder(path) for path in home.glob(f"{key.names}-*")} - {holder} if entry is None else ()
    contents = {other: text for other in sorted(others) if (text := _index(other).get("content"))}
    if contents:
        if key.content is None:
            # A copy of the data, or files that were only touched: reading them costs far less than decoding.
            narrator.say("the files have other times: comparing their content with what was decoded before")
        content = key.content or content_of_source(source, narrator=narrator)
        for holder in (other for other in contents if contents[other] == content):
            entry = read(holder)
            if entry is not None:
                for names in {key.names, *map(str, _index(holder).get("names", ()))}:
                    note(home, f"{names}-{key.stamp}", holder=holder)
                break
    if entry is not None:
        narrator.say(f"decoded images found in {holder}")
    return entry


def note(home: Path, name: str, *, holder: Path) -> None:
    """Note that what would be the entry `name` is in `holder`; nothing where nothing can be written."""
    folder = home / name
    if folder != holder and not (folder / INDEX).is_file():
        with suppress(OSError):  # a home that may only be read serves as well
            folder.mkdir(exist_ok=True)
            (folder / SAME).write_text(json.dumps(holder.name), encoding="ascii")


def _holder(folder: Path) -> Path:
    """The entry itself, or the one that its note names."""
    if not (folder / INDEX).is_file():
        with suppress(OSError, ValueError):
            return folder.with_name(str(json.loads((folder / SAME).read_text(encoding="ascii"))))
    return folder


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
        sizes = _sizes(path)
        used = max((t for _, t in sizes), default=0.0)
        found.append(Entry(path.name, sum(s for s, _ in sizes), used, _in_words(path)))
    return sorted(found, key=lambda entry: (-entry.bytes, entry.name))


def _in_words(path: Path) -> str:
    if path.name.startswith(MAKING):
        return "unfinished: is continued when the same data are decoded again"
    if path.name == "indexes":
        return "where the members of archives lie"
    if index := _index(path):
        return f"{' x '.join(map(str, index.get('shape', ())))} of {index.get('spec', '?')}"
    holder = _holder(path)
    return f"the same as {holder.name}" if holder != path else "nothing that is whole"


def _sizes(path: Path) -> list[tuple[int, float]]:
    """Bytes on disk and time of change of every file; a builder may rename or delete them meanwhile."""
    found = []
    files = [path] if path.is_file() else [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    for file in files:
        with suppress(FileNotFoundError):
            status = file.stat()
            found.append((status.st_blocks * 512, status.st_mtime))
    return found


def remove(home: Path, names: Sequence[str], *, narrator: Narrator) -> list[Entry]:
    """Delete entries by name, with the notes that name them, or all; what was deleted.

    What another process is making stays, and the narrator says so. Raises UsageError for an unknown name.
    """
    listed = {entry.name: entry for entry in entries(home)}
    chosen = list(listed) if list(names) == ["all"] else list(dict.fromkeys(names))
    for name in chosen:
        if name not in listed:
            raise unknown_name("cache entry", name, listed) if listed else UsageError(f"the cache {home} is empty")
    removed = []
    for name in chosen + [name for name in listed if name not in chosen and _holder(home / name).name in chosen]:
        reason = _remove(home / name)
        if reason:
            narrator.warn(f"{name} stays: {reason}")
        else:
            removed.append(listed[name])
    return removed


def _remove(path: Path) -> str:
    """Delete a file or folder; why it could not be done, or ""."""
    try:
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif path.name.startswith(MAKING):
            lock = acquire(path)
            if lock is None:
                return "another process is decoding into it; stop that first, or wait for it"
            with lock:
                discard(path)
        else:
            shutil.rmtree(path)
    except FileNotFoundError:  # finished, or deleted by another process, meanwhile
        pass
    except OSError as error:
        return f"it cannot be deleted ({error.strerror})"
    return "another process writes to it" if os.path.lexists(path) else ""
