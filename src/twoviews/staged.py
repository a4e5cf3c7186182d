"""Folders that are written whole or not at all, whatever process is killed meanwhile."""

import errno
import glob
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_LONG = 100
"""Bytes of a name above which what lies beside it is named by its hash: file systems take 255, some 143."""


@contextmanager
def staged_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, for the block to fill and rename; nothing else stays of it.

    A link is followed: beside where it points. What killed processes left of the same target is deleted, what others
    are writing is let be. Raises OSError.
    """
    target = _real(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in _left_beside(target, "writing"):
        with suppress(OSError), _claimed(left) as free:
            if free:
                shutil.rmtree(left)
    with ExitStack() as claims:
        staged = _made_beside(target, claims)
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def replace_folder(folder: Path, staged: Path) -> None:
    """`staged` in the place of `folder`, no link, by renaming; `restore` puts right what a kill in between leaves.

    Of two processes that do so at once, either stays. Raises OSError.
    """
    aside = staged.with_suffix(".old")
    with ExitStack() as claims:
        with suppress(FileNotFoundError):  # the other has moved it aside
            claims.enter_context(_claimed(folder))
            folder.rename(aside)
        try:
            staged.rename(folder)
        except BaseException as error:
            if getattr(error, "errno", None) not in (errno.ENOTEMPTY, errno.EEXIST):  # the other's is there
                with suppress(OSError):
                    aside.rename(folder)
                raise
        shutil.rmtree(aside, ignore_errors=True)


def restore(folder: Path) -> None:
    """Put back what a process that was killed in `replace_folder` had moved aside; delete it where another is there."""
    folder = _real(folder)
    for aside in _left_beside(folder, "old"):
        with suppress(OSError), _claimed(aside) as free:
            if free and folder.exists():
                shutil.rmtree(aside)
            elif free:
                aside.rename(folder)


def _real(path: Path) -> Path:
    # Not Path.resolve, which raises RuntimeError for a link to itself.
    return Path(os.path.realpath(path))


def _made_beside(target: Path, claims: ExitStack) -> Path:
    """A new folder, claimed; another process may take it for litter as long as it is not."""
    while True:
        staged = target.with_name(f".{_short(target.name)}.{secrets.token_hex(8)}.writing")
        staged.mkdir()
        with suppress(FileNotFoundError):
            if claims.enter_context(_claimed(staged)) and staged.exists():
                return staged


def _left_beside(target: Path, kind: str) -> list[Path]:
    # All digits: of a target `a`, what belongs to a target `a.b` is not meant.
    pattern = f".{glob.escape(_short(target.name))}.{'[0-9a-f]' * 16}.{kind}"
    return list(target.parent.glob(pattern))


def _short(name: str) -> str:
    text = os.fsencode(name)
    return name if len(text) <= _LONG else hashlib.blake2b(text, digest_size=16).hexdigest()


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
