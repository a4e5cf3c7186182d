"""Folders that are written whole or not at all, whatever process is killed meanwhile."""

import glob
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def staged_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, for the block to fill and rename; nothing else stays of it.

    What killed processes left of the same target is deleted, what others are writing is let be. Raises OSError.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in _left_beside(target, "writing"):
        with suppress(OSError), _claimed(left) as free:
            if free:
                shutil.rmtree(left)
    staged = target.with_name(f".{target.name}.{secrets.token_hex(8)}.writing")
    staged.mkdir()
    try:
        with _claimed(staged):
            yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def replace_folder(folder: Path, staged: Path) -> None:
    """`staged` in the place of `folder`, by renaming; `restore` puts right what a kill in between leaves."""
    aside = staged.with_suffix(".old")
    with _claimed(folder):
        folder.rename(aside)
        try:
            staged.rename(folder)
        finally:
            if not folder.exists():
                aside.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)


def restore(folder: Path) -> None:
    """Put back what a process that was killed in `replace_folder` had moved aside; delete it where another is there."""
    folder = folder.absolute()
    for aside in _left_beside(folder, "old"):
        with suppress(OSError), _claimed(aside) as free:
            if free and folder.exists():
                shutil.rmtree(aside)
            elif free:
                aside.rename(folder)


def _left_beside(target: Path, kind: str) -> list[Path]:
    # All digits: of a target `a`, what belongs to a target `a.b` is not meant.
    pattern = f".{glob.escape(target.name)}.{'[0-9a-f]' * 16}.{kind}"
    return list(target.parent.glob(pattern))


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether no other process works on `folder`; a kill ends the claim. True where the file system has no locks."""
    if sys.platform == "win32":  # nor has this one
        yield True
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:
            pass
        yield free
    finally:
        os.close(descriptor)
