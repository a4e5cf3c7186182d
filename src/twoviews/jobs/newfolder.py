"""A new folder that is written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twoviews.errors import RefusedError, ResourceError
from twoviews.staged import staged_beside


def check_new(out: Path) -> None:
    """Look at `out` before any work. Raises RefusedError unless it is empty or not there, ResourceError where nothing
    can be written."""
    try:
        used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise ResourceError(f"cannot write to {out} ({error.strerror}): choose another --out") from error
    if used:
        raise RefusedError(f"{out} is not empty: choose another --out")
    check_place(out)


def check_place(out: Path, *, option: str = "--out") -> None:
    """Raise ResourceError where `out`, a folder or a file, cannot come to lie, by a rename."""
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ResourceError(f"cannot write to {out}: {there} is no folder that may be written; choose another {option}")


@contextmanager
def filled(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that becomes `out` at the end; nothing stays of it where an error comes before.

    Raises ResourceError where it cannot be written.
    """
    try:
        place = Path(os.path.realpath(out))  # a link stays one
        with staged_beside(place) as staged:
            yield staged
            if place.is_dir():
                place.rmdir()  # it is empty
            staged.rename(place)
    except OSError as error:
        raise ResourceError(f"cannot write to {out} ({error.strerror}): choose another --out, or make room") from error
