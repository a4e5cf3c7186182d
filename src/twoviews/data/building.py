"""A cache entry in the making: locked against a second builder, and continued after an interruption.

HOME/.making-KEY/  lock  form.json  values.npy  state.npy  contents.npy
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.cache import INDEX, MAKING, VALUES, Decoded, Key, content_of, join_contents, read
from twoviews.data.source import Raw, Source
from twoviews.errors import ResourceError
from twoviews.narrate import Narrator

SAFE_EVERY = 5.0
"""Seconds between two moments at which what was decoded is made safe on disk."""
_POLL = 0.2
_FORM, _STATE, _CONTENTS, _LOCK = "form.json", "state.npy", "contents.npy", "lock"

Shape = tuple[int, int, int, int]


class Building:
    """Decoded images go into `values` of `allocate`; each is reported by `finished`, and needs not be made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self._pending: list[tuple[int, bytes]] = []
        self._safe = time.monotonic()
        self._values: Any = None
        self._state: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._contents: NDArray[np.uint8] = np.zeros((0, 16), np.uint8)

    def allocate(self, shape: Shape, *, intensity: str) -> NDArray[np.uint8]:
        """The array of that shape: the one begun before, if it was of the same form, else a new one.

        Raises ResourceError if the disk cannot hold it.
        """
        form = json.dumps([list(shape), intensity])
        values = self._begun(shape) if _text(self.folder / _FORM) == form else None
        if values is None:
            (self.folder / _FORM).unlink(missing_ok=True)
            values = _reserve(self.folder / VALUES, shape)
            for name, kind in ((_STATE, (shape[0],)), (_CONTENTS, (shape[0], 16))):
                np.lib.format.open_memmap(self.folder / name, mode="w+", dtype=np.uint8, shape=kind)
            (self.folder / _FORM).write_text(form, encoding="ascii")  # last: it vouches for the others
        self._values = values
        self._state = np.load(self.folder / _STATE, mmap_mode="r+")
        self._contents = np.load(self.folder / _CONTENTS, mmap_mode="r+")
        self._pending.clear()
        return self._values  # type: ignore[no-any-return]

    def _begun(self, shape: Shape) -> Any:
        try:
            arrays = [np.load(self.folder / name, mmap_mode="r+") for name in (VALUES, _STATE, _CONTENTS)]
        except (OSError, ValueError):
            return None
        return arrays[0] if [a.shape for a in arrays] == [shape, shape[:1], (shape[0], 16)] else None

    def done(self, index: int) -> bool:
        """Whether an image is in `values` already."""
        return bool(self._state[index])

    def finished(self, index: int, raw: Raw) -> None:
        """An image was put into `values`; called from several threads."""
        content = content_of(raw)
        with self.lock:
            self._pending.append((index, content))
            if time.monotonic() - self._safe > SAFE_EVERY:
                self.make_safe()

    def make_safe(self) -> None:
        """Pixels first, then that they are there: an end at any moment leaves no image that is only half there."""
        if self._pending and self._values is not None:
            self._values.flush()
            rows = [index for index, _ in self._pending]
            self._contents[rows] = [np.frombuffer(content, np.uint8) for _, content in self._pending]
            self._state[rows] = 1
            self._contents.flush()  # type: ignore[attr-defined]
            self._state.flush()  # type: ignore[attr-defined]
            self._pending.clear()
        self._safe = time.monotonic()

    def closing(self) -> None:
        """Rows are about to move: what is there can no longer be continued."""
        with self.lock:
            self.make_safe()
        (self.folder / _FORM).unlink(missing_ok=True)

    def seal(self, *, home: Path, key: Key, entry: Decoded, source: Source) -> Decoded:
        """Give the finished folder its name, and open it for reading."""
        with self.lock:
            self.make_safe()
        contents = [bytes(row) for row in self._contents]
        for at, _ in entry.rejected:
            contents[at] = content_of(source[at].read())
        path = self.folder / VALUES
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
            "spec": source.spec,
            "shape": entry.values.shape,
            "content": join_contents(contents),
            "fingerprint": entry.fingerprint,
            "intensity": entry.intensity,
            "rejected": entry.rejected,
            "kept": entry.kept.tolist(),
            "sizes": entry.sizes.tolist(),
        }
        with (self.folder / INDEX).open("w", encoding="utf-8", errors="backslashreplace") as text:
            json.dump(index, text)
            text.flush()
            os.fsync(text.fileno())
        for name in (_FORM, _STATE, _CONTENTS, _LOCK):
            (self.folder / name).unlink(missing_ok=True)
        target = home / str(key)
        shutil.rmtree(target, ignore_errors=True)  # a spoilt one, or a note that another has the same bytes
        try:
            self.folder.rename(target)
        except OSError as error:
            raise ResourceError(f"cannot name the cache {str(target)!r}: {error.strerror}") from error
        found = read(target)
        if found is None:
            raise ResourceError(f"the cache {str(target)!r} cannot be read back: remove it and try again")
        return found


@contextmanager
def building(home: Path, key: Key, *, narrator: Narrator) -> Iterator[Building]:
    """The entry of that key in the making, for this process alone: another that makes it is waited for.

    Who has waited looks with `cache.read` whether it is there by now. What was not sealed is kept for the next time,
    unless nothing was decoded. Raises ResourceError where nothing can be written.
    """
    folder = home / f"{MAKING}{key}"
    with _locked(folder, narrator=narrator):
        work = Building(folder)
        try:
            yield work
        finally:
            with work.lock:
                work.make_safe()
            if folder.is_dir() and not work._state.any():
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, *, narrator: Narrator) -> Iterator[None]:
    """An exclusive lock on `folder`, freed by the system when its holder dies."""
    told = False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / _LOCK).open("ab")
        except FileNotFoundError:  # removed by its holder between the two calls
            continue
        except OSError as error:
            raise ResourceError(
                f"cannot write the decoded images to {str(folder.parent)!r} ({error.strerror}): set cache_dir, or "
                "XDG_CACHE_HOME in the environment"
            ) from error
        with file:
            if _take(file) and _is_there(folder / _LOCK, file):
                yield
                return
        if not told:
            narrator.say("another process decodes the same images: waiting for it")
            told = True
        time.sleep(_POLL)


def _take(file: IO[bytes]) -> bool:
    if sys.platform == "win32":  # no such locks: two builders would do the work twice
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(path: Path, file: IO[bytes]) -> bool:
    """Whether the locked file is still the one of that name: its holder may have renamed the folder meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def has_room(home: Path, needed: int) -> bool:
    """Whether `needed` bytes can be written below `home`."""
    there = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK) and shutil.disk_usage(there).free > needed


def _reserve(path: Path, shape: Shape) -> Any:
    needed, free = int(np.prod(shape, dtype=object)), shutil.disk_usage(path.parent).free
    message = (
        f"the decoded images need {needed / 1e9:.2f} GB in {str(path.parent.parent)!r}, "
        f"which has {free / 1e9:.2f} GB free: free some, set cache_dir, or choose a smaller cache_side"
    )
    if needed > free:
        raise ResourceError(message)
    path.unlink(missing_ok=True)
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if sys.platform == "linux":
        # Without real blocks behind it, a full disk would kill the process (SIGBUS) instead of raising.
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise ResourceError(message) from error
    return values


def _header_length(path: Path) -> int:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
