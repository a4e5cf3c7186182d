"""Decoded arrays, and those on disk for corpora larger than memory: a folder each, memory-mapped."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from twoviews.data.source import Source, Stored
from twoviews.errors import ResourceError

_VERSION = 1  # raise it when decoding changes: what is cached then is not reused
_VALUES, _INDEX = "values.npy", "index.json"


@dataclass(frozen=True, eq=False)
class Decoded:
    """The decoded images of a source, in memory or memory-mapped.

    values    (M, H, W, C) uint8
    sizes     (M, 2) int32, original (width, height)
    kept      (M,) int64, the indices into the source
    rejected  (index, reason) of the others
    """

    values: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    kept: NDArray[np.int64]
    rejected: tuple[tuple[int, str], ...]
    fingerprint: str = ""


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


def cache_key(source: Source, *, cache_side: int | None, channels: int | None) -> str:
    """Changes with the items, their bytes (for files: size and time of change), and how they are decoded."""
    digest = hashlib.sha256(f"{_VERSION} {PIL.__version__} {cache_side} {channels}".encode())
    stored = source.stamp if isinstance(source, Stored) else None
    digest.update((stored or "").encode("utf-8", "surrogatepass"))
    for index in range(len(source)):
        item = source[index]
        digest.update(b"\0" + item.id.encode("utf-8", "surrogatepass") + b"\0")
        if stored is None:
            digest.update(_item_stamp(item.read()))
    return digest.hexdigest()[:40]


def _item_stamp(raw: Any) -> bytes:
    if isinstance(raw, Path):
        try:
            status = raw.stat()
        except OSError:
            return b"missing"
        return f"{status.st_size} {status.st_mtime_ns}".encode()
    if isinstance(raw, bytes):
        return hashlib.sha256(raw).digest()
    array = np.ascontiguousarray(raw)
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()


def find(home: Path, key: str) -> Decoded | None:
    """The corpus of that key if its folder is whole, else None."""
    folder = home / key
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="ascii"))
        values = np.load(folder / _VALUES, mmap_mode="r", allow_pickle=False)
        return Decoded(
            values,
            np.array(index["sizes"], dtype=np.int32).reshape(-1, 2),
            np.array(index["kept"], dtype=np.int64),
            tuple((int(at), str(reason)) for at, reason in index["rejected"]),
            str(index["fingerprint"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def workshop(home: Path) -> Iterator[Path]:
    """A temporary folder inside `home`, gone at the end unless `seal` has moved it."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
    except OSError as error:
        raise ResourceError(
            f"cannot write the decoded images to {str(home)!r} ({error.strerror}): set cache_dir, or "
            "XDG_CACHE_HOME in the environment"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def allocate(folder: Path, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A new memory-mapped array in `folder`. Raises ResourceError if the disk cannot hold it."""
    path = folder / _VALUES
    needed, free = int(np.prod(shape, dtype=object)), shutil.disk_usage(folder).free
    message = (
        f"the decoded images need {needed / 1e9:.2f} GB in {str(folder.parent)!r}, "
        f"which has {free / 1e9:.2f} GB free: free some, set cache_dir, or choose a smaller cache_side"
    )
    if needed > free:
        raise ResourceError(message)
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if sys.platform == "linux":
        # Without real blocks behind it, a full disk would kill the process (SIGBUS) instead of raising.
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise ResourceError(message) from error
    return values


def seal(folder: Path, *, home: Path, key: str, entry: Decoded) -> Decoded:
    """Give a finished folder its name, and open it for reading."""
    path = folder / _VALUES
    header = {"descr": "|u1", "fortran_order": False, "shape": entry.values.shape}
    with path.open("r+b") as file:
        # Rows of images rejected while decoding leave a rest at the end; the header keeps its length, being
        # padded.
        before = _header_length(path)
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == before
        file.truncate(before + entry.values.size)
        os.fsync(file.fileno())
    index = {
        "sizes": entry.sizes.tolist(),
        "kept": entry.kept.tolist(),
        "rejected": entry.rejected,
        "fingerprint": entry.fingerprint,
    }
    with (folder / _INDEX).open("w", encoding="ascii") as text:
        json.dump(index, text)
        text.flush()
        os.fsync(text.fileno())
    target = home / key
    if target.exists() and find(home, key) is None:
        shutil.rmtree(target, ignore_errors=True)
    try:
        folder.rename(target)
    except OSError as error:
        # Another process may have made the same corpus meanwhile: theirs is as good.
        if not target.exists():
            raise ResourceError(f"cannot name the cache {str(target)!r}: {error.strerror}") from error
    found = find(home, key)
    if found is None:
        raise ResourceError(f"the cache {str(target)!r} cannot be read back: remove it and try again")
    return found


def _header_length(path: Path) -> int:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()
