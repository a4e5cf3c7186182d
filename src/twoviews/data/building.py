"""A cache entry in the making: locked against a second builder, and continued after an interruption.

HOME/.making-KEY/  lock  form.json  values.npy  state.npy  contents.npy
"""

import errno
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.cache import INDEX, MAKING, VALUES, Decoded, note, read
from twoviews.data.keys import UNREADABLE, Key, content_at, content_of, join_contents
from twoviews.data.locks import LOCK, discard, locked
from twoviews.data.source import Raw, Source
from twoviews.errors import ResourceError
from twoviews.narrate import Narrator

SAFE_EVERY = 5.0
"""Seconds between two moments at which what was decoded is made safe on disk."""
_FORM, _STATE, _CONTENTS = "form.json", "state.npy", "contents.npy"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Shape = tuple[int, int, int, int]


class Building:
    """Decoded images go into `values` of `allocate`; each is reported by `finished`, and needs not be made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.sealed = False
        self._pending: list[tuple[int, bytes]] = []
        self._safe = time.monotonic()
        self._failure: OSError | None = None
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
            _reserve(self.folder / _STATE, shape[:1])
            _reserve(self.folder / _CONTENTS, (shape[0], 16))
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
        if content == UNREADABLE:  # it was read a moment ago: nothing is to be taken for it
            content = os.urandom(len(content))
        with self.lock:
            self._pending.append((index, content))
            if self._failure is None and time.monotonic() - self._safe > SAFE_EVERY:
                try:
                    self.make_safe()
                except OSError as error:  # raised later: here it would count against the image
                    self._failure = error

    def make_safe(self) -> None:
        """Pixels first, then that they are there: an end at any moment leaves no image that is only half there."""
        if self._failure is not None:  # what could not be written is lost: a second try would seem to succeed
            raise self._failure
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

    def leave(self) -> None:
        """Keep what was decoded for the next time; nothing, if it was nothing."""
        with suppress(OSError), self.lock:
            self.make_safe()
            if not (self._state.any() if self._values is not None else (self.folder / _FORM).is_file()):
                discard(self.folder)

    def seal(self, *, home: Path, key: Key, also: Sequence[Key], entry: Decoded, source: Source) -> Decoded:
        """Give the finished folder its name, and open it for reading; it is found by the keys `also`, too."""
        with self.lock:
            self.make_safe()
        contents = [bytes(row) for row in self._contents]
        for at, _ in entry.rejected:
            contents[at] = content_at(source, at)
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
            "names": [each.names for each in (key, *also)],
            # Of files that have changed meanwhile, it is not known what was decoded.
            "content": join_contents(contents) if key.holds(source) else "",
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
        found = read(self.folder)
        if found is None:
            raise ResourceError(f"the cache {str(self.folder)!r} cannot be read back: remove it and try again")
        target = home / str(key)
        _rename(self.folder, target)
        self.sealed = True
        # Not before: without its lock, the folder could be taken, and begun anew, before it has its name.
        for name in (_FORM, _STATE, _CONTENTS, LOCK):
            with suppress(OSError):
                (target / name).unlink()
        for each in also:
            note(home, str(each), holder=target)
        return found


@contextmanager
def building(home: Path, key: Key, *, narrator: Narrator) -> Iterator[Building]:
    """The entry of that key in the making, for this process alone: another that makes it is waited for.

    Who has waited looks with `cache.read` whether it is there by now. What was not sealed is kept for the next time,
    unless nothing was decoded. Raises ResourceError where nothing can be written.
    """
    folder = home / f"{MAKING}{key}"
    with locked(folder, narrator=narrator):
        work = Building(folder)
        try:
            yield work
        except OSError as error:
            raise ResourceError(
                f"the decoded images could not be kept in {str(home)!r} ({error}): set cache_dir, or XDG_CACHE_HOME in "
                "the environment"
            ) from error
        finally:
            if not work.sealed:
                work.leave()


def _rename(folder: Path, target: Path) -> None:
    for attempt in range(3):
        shutil.rmtree(target, ignore_errors=True)  # a spoilt one, or a note that another has the same
        try:
            folder.rename(target)
            return
        except OSError as error:  # a note may have been written since
            if attempt == 2 or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def has_room(home: Path, needed: int) -> bool:
    """Whether `needed` bytes can be written below `home`."""
    there = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK) and shutil.disk_usage(there).free > needed


def _reserve(path: Path, shape: tuple[int, ...]) -> Any:
    """An array on disk, of zeros. Raises ResourceError if it cannot be held there."""
    path.unlink(missing_ok=True)
    needed, free = int(np.prod(shape, dtype=object)), shutil.disk_usage(path.parent).free
    message = (
        f"the decoded images need {needed / 1e9:.2f} GB in {str(path.parent.parent)!r}, "
        f"which has {free / 1e9:.2f} GB free: free some, set cache_dir, or choose a smaller cache_side"
    )
    if needed > free:
        raise ResourceError(message)
    try:
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        if sys.platform == "linux":
            # Without real blocks behind it, a full disk would kill the process (SIGBUS) instead of raising.
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(message) from error
        raise
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
