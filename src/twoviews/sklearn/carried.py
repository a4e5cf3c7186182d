"""Where a run lies that nobody asked to keep, and what of a run goes into somebody's pickle: bytes of its files."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from twoviews.run import Run

CARRIED = ("run.json", "config.toml", "encoder/config.json", "encoder/README.md", "encoder/model.safetensors")
"""Enough of a run to embed with it."""


def temporary_run() -> Run:
    """A run whose directory is removed with this object, at the latest when the process that made it ends."""
    folder = Path(tempfile.mkdtemp(prefix="twoviews-"))
    run = Run(folder / "run")
    weakref.finalize(run, _remove, folder, os.getpid())
    return run


def _remove(folder: Path, maker: int) -> None:
    if os.getpid() == maker:  # not a forked worker, which holds a copy of the object
        shutil.rmtree(folder, ignore_errors=True)


def pack(run: Run) -> dict[str, bytes]:
    """The files of a run that an encoder needs."""
    return {name: file.read_bytes() for name in CARRIED if (file := run.path / name).is_file()}


def lies_there(run: Run, files: Mapping[str, bytes]) -> bool:
    """Whether a run is still what was packed."""
    with suppress(OSError):
        return pack(run) == files
    return False


def unpack(files: Mapping[str, bytes]) -> Run:
    """A temporary run of what was packed."""
    run = temporary_run()
    for name in CARRIED:  # these alone: a pickle does not say where it is written
        if name in files:
            file = run.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(files[name])
    return run
