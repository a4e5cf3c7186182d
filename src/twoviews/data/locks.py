"""Folders that one process at a time may fill, rename or delete: who holds the lock on the file `lock` in them.

A lock belongs to a file, not to its name. Who has got it therefore looks whether the name still means that file; and
who gives a folder up takes the name away last, when nothing is left that a successor could take for his own.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from twoviews.errors import ResourceError
from twoviews.narrate import Narrator

LOCK = "lock"
_POLL = 0.2


def acquire(folder: Path) -> IO[bytes] | None:
    """The open file that holds the lock on `folder` until it is closed; None if another process has it.

    Raises OSError: FileNotFoundError where there is no such folder, others where it can be neither written nor locked.
    """
    file = (folder / LOCK).open("ab")
    try:
        if _take(file) and _is_there(folder / LOCK, file):
            return file
    except OSError:
        file.close()
        raise
    file.close()
    return None


@contextmanager
def locked(folder: Path, *, narrator: Narrator) -> Iterator[None]:
    """`folder`, made if need be, for this process alone; freed by the system when it dies. Raises ResourceError."""
    told = False
    while True:
        file = _try(folder)
        if file is not None:
            with file:
                yield
            return
        if not told:
            narrator.say("another process decodes the same images: waiting for it")
            told = True
        time.sleep(_POLL)


def discard(folder: Path) -> None:
    """Delete a folder whose lock this process holds. Raises OSError."""
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / LOCK).unlink()
    with suppress(OSError):  # another has come in since the line above: it is his now
        folder.rmdir()


def _try(folder: Path) -> IO[bytes] | None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # not exist_ok, which fails if the folder is renamed between its two looks
            folder.mkdir()
        with suppress(FileNotFoundError):  # renamed or deleted by its holder since
            return acquire(folder)
    except OSError as error:
        raise ResourceError(
            f"cannot write the decoded images to {str(folder.parent)!r} ({error.strerror}): set cache_dir, or "
            "XDG_CACHE_HOME in the environment"
        ) from error
    return None


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
    """Whether the locked file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False
