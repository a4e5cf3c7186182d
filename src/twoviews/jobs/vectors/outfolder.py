"""Where `twoviews embed` writes: the folder of embeddings, and beside it what is being made.

OUT/  vectors.npy  index.csv  rejected.csv  meta.json            or vectors.parquet in place of the first two
.OUT.embedding/  lock  meta.json  part-*.npz  staged/  old/      a part is a batch; gone when OUT is finished
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoviews import distributed
from twoviews.data.assemble import Form
from twoviews.data.corpus import Rejected, sort_classes
from twoviews.data.locks import acquire, discard
from twoviews.errors import DataError, RefusedError, ResourceError, UsageError
from twoviews.evaluation.features import OWN_FILES, Embeddings
from twoviews.evaluation.tables import Table, write_index, write_parquet
from twoviews.jobs.newfolder import check_place
from twoviews.jobs.vectors.embedded import PART, Known, read_known, table_in
from twoviews.jobs.vectors.opened import Opened, Preprocessing
from twoviews.run import Run, write_json, write_rows

FORMATS = ("npy", "parquet")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OutFolder:
    """The folder `out`, checked before anything costly, and the parts of it that are there.

    Raises RefusedError for a file, and for a folder that holds anything but embeddings; UsageError for an unknown
    format; ResourceError where nothing can be written.
    """

    def __init__(self, out: str | Path, *, file_format: str, overwrite: bool) -> None:
        if file_format not in FORMATS:
            raise UsageError(f"the format is {file_format!r}: give one of {', '.join(FORMATS)}")
        self.out = Path(out).resolve()
        self.parts = self.out.with_name(f".{self.out.name}.embedding")
        self._shown = str(out)
        self._format, self._overwrite = file_format, overwrite
        if self.out.exists() and not self.out.is_dir():
            raise RefusedError(f"{out} is a file: choose another --out")
        check_place(self.out)
        self._meta: dict[str, Any] = {}
        self._table: Table | None = None
        self._before: frozenset[str] = frozenset()
        self._look()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Inside, no other call writes here. What was made stays for the next call; nothing, if it was nothing."""
        lock = None
        if distributed.is_main():
            try:
                self.parts.mkdir(parents=True, exist_ok=True)
                lock = acquire(self.parts)
                if lock is not None:
                    self._put_back()
            except OSError as error:
                raise ResourceError(f"cannot write to {self.parts} ({error.strerror}): choose another --out") from None
        if not distributed.agreed(lock is not None):
            raise RefusedError(f"another process is embedding into {self._shown}: wait for it, or choose another --out")
        try:
            self._look()
            yield
        finally:
            if lock is not None:
                with lock, suppress(OSError):
                    self._put_back()
                    if not any(self.parts.glob(f"{PART}*.npz")):
                        discard(self.parts)

    def _put_back(self) -> None:
        """What `write` had moved aside when it was ended, here or by a kill, before the new folder was in its place."""
        if not self.out.exists() and (self.parts / "old").is_dir():
            (self.parts / "old").rename(self.out)

    def _look(self) -> None:
        present = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
        foreign = sorted(present - OWN_FILES) or sorted(present if "meta.json" not in present else ())
        if foreign:
            raise RefusedError(
                f"{self._shown} is not empty and holds no embeddings but {foreign[0]!r}: twoviews will not delete it; "
                "choose another --out"
            )
        self._meta = _read_meta(self.out) if present and not self._overwrite else {}
        if present and not self._overwrite and not isinstance(self._meta.get("fingerprint"), str):
            raise DataError(
                f"the embeddings in {self._shown!r} are damaged (meta.json says nothing): give --overwrite to make "
                "them anew"
            )

    def view_of(self, run: Run | str | Path) -> Preprocessing | None:
        """The input view that this encoder has here already, also by an interrupted call."""
        for meta in (self._meta, _read_meta(self.parts)):
            if meta.get("encoder") == name_of(run) and "view" in meta:
                with suppress(KeyError, TypeError):
                    return Preprocessing.from_facts(meta["view"])
        return None

    def form_of(self, opened: Opened) -> Form | None:
        """How images are stored for this encoder here already."""
        for meta in (self._meta, _read_meta(self.parts)):
            with suppress(KeyError, TypeError, ValueError):
                height, width = meta["stored"]
                if meta["fingerprint"] == opened.fingerprint:
                    channels = opened.preprocessing.storage.channels or 3
                    return Form(int(height), int(width), channels, "uint8", "as before")
        return None

    def check(self, fingerprint: str, ids: Sequence[str]) -> None:
        """Refuse embeddings of another encoder, or of other items only. Raises RefusedError, DataError for damage."""
        if not self._meta:
            return
        if self._meta.get("fingerprint") != fingerprint:
            other = f" ({self._meta['encoder']})" if "encoder" in self._meta else ""
            raise RefusedError(
                f"{self._shown} holds embeddings of another encoder or input view{other}: give --overwrite to make "
                "them anew, or choose another --out"
            )
        self._table = table_in(self.out)
        self._before = frozenset(self._table.ids if self._table is not None else self._ids())
        if self._before and self._before.isdisjoint(ids):
            raise RefusedError(
                f"{self._shown} holds embeddings of {len(self._before)} other items (as {min(self._before)!r}), and of "
                "none of these: give --overwrite to replace them, or choose another --out"
            )

    def _ids(self) -> tuple[str, ...]:
        try:
            return Embeddings.load(self.out, mapped=True).ids
        except DataError as error:
            raise DataError(f"{error}; give --overwrite to make them anew") from None

    @property
    def before(self) -> frozenset[str]:
        """The ids that were there."""
        return self._before

    def begin(self, opened: Opened, form: Form) -> None:
        """Make ready for parts of this encoder; those of another are deleted."""
        if distributed.is_main():
            meta = _view_facts(opened, form)
            if _read_meta(self.parts) != meta:
                for path in self.parts.glob(f"{PART}*"):
                    path.unlink()
                write_json(self.parts / "meta.json", meta)
            for name in ("staged", "old"):  # of a process that was killed: they would take room
                shutil.rmtree(self.parts / name, ignore_errors=True)
        distributed.barrier()

    def known(self, form: Form) -> Known:
        """What is embedded already, with images stored in this form."""
        usable = self._meta.get("stored") == [form.height, form.width]
        return read_known(self.out, self._table if usable else None, self.parts)

    def need(self, count: int, *, more: int, dimensions: int) -> None:
        """Raise ResourceError where the disk cannot hold parts with `more` vectors and a folder with `count`."""
        folder = 2 * count if self._format == "parquet" else count  # which is made from an array on disk
        needed, free = (folder + more) * dimensions * 4, shutil.disk_usage(self.parts).free
        if needed > free:
            raise ResourceError(
                f"no space for the embeddings in {self._shown}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB "
                "are free; make room or choose another --out"
            )

    @contextmanager
    def told_when_full(self) -> Iterator[None]:
        """A full disk as an error that says what to do."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise ResourceError(
                f"no space left for the embeddings in {self._shown}: what is embedded stays in {self.parts}; make room "
                "and give the same command again"
            ) from error

    def write(
        self,
        known: Known,
        chosen: NDArray[np.int64],
        *,
        ids: tuple[str, ...],
        labels: Sequence[str | None],
        stamps: NDArray[np.bytes_],
        rejected: Sequence[Rejected],
        opened: Opened,
        form: Form,
        spec: str,
    ) -> None:
        """Put the vectors at `chosen` (N,) of what is known into OUT, all or nothing; nothing where nothing changed."""
        table = Table(
            ids,
            tuple(label or "" for label in labels),
            known.table.sizes[chosen],
            known.table.contents[chosen],
            stamps,
        )
        dimensions = int(opened.encoder.num_features)  # type: ignore[arg-type]
        meta = {
            "format": 1,
            "count": len(ids),
            "dimensions": dimensions,
            "classes": sort_classes(name for name in table.labels if name),
            "data": spec,
            **_view_facts(opened, form),
        }
        staged = self.parts / "staged"
        staged.mkdir()
        write_json(staged / "meta.json", meta)
        if rejected:
            rows = [{"id": item.id, "reason": item.reason} for item in rejected]
            write_rows(staged / "rejected.csv", rows, columns=["id", "reason"])
        if self._same(known, chosen, table, staged):
            shutil.rmtree(staged)
            return
        vectors = _reserve(staged / "vectors.npy", (len(ids), dimensions))
        known.vectors_into(vectors, chosen)
        vectors.flush()
        if self._format == "parquet":
            write_parquet(staged / "vectors.parquet", vectors, table)
            del vectors
            (staged / "vectors.npy").unlink()
        else:
            write_index(staged / "index.csv", table)
        for path in staged.iterdir():
            _sync(path)
        _sync(staged)
        if self.out.exists():
            self.out.rename(self.parts / "old")
        staged.rename(self.out)
        _sync(self.out.parent)

    def finished(self) -> None:
        """Delete the parts: they are in OUT."""
        for path in self.parts.glob(f"{PART}*.npz"):
            path.unlink()

    def _same(self, known: Known, chosen: NDArray[np.int64], table: Table, staged: Path) -> bool:
        vectors = "vectors.npy" if self._format == "npy" else "vectors.parquet"
        if self._table is None or not (self.out / vectors).is_file():
            return False
        if (self.out / "rejected.csv").exists() != (staged / "rejected.csv").exists():
            return False
        alike = all((self.out / path.name).read_bytes() == path.read_bytes() for path in staged.iterdir())
        in_order = np.stack([np.zeros(len(chosen), np.int64), np.arange(len(chosen))], axis=1)
        return (
            alike and np.array_equal(known.places[chosen], in_order) and list(self._table.rows()) == list(table.rows())
        )


def name_of(run: Run | str | Path) -> str:
    """An encoder's name in meta.json: the same from any working directory, and with any image size asked for."""
    name = str(run.path) if isinstance(run, Run) else str(run)
    path = Path(name.removeprefix("local-dir:"))
    if not path.exists():
        plain, at, side = name.rpartition("@")
        name = plain if at and side.isdecimal() else name
        path = Path(name.removeprefix("local-dir:"))
    return str(path.resolve()) if path.exists() else name


def view_in(folder: str | Path) -> Preprocessing:
    """The input view of the embeddings in a folder that `embed` wrote. Raises DataError."""
    try:
        return Preprocessing.from_facts(_read_meta(Path(folder))["view"])
    except (KeyError, TypeError):
        raise DataError(f"{str(folder)!r} does not say how its images were seen: make it with twoviews embed") from None


def _view_facts(opened: Opened, form: Form) -> dict[str, Any]:
    return {
        "fingerprint": opened.fingerprint,
        "encoder": name_of(opened.name),
        "precision": opened.precision,
        "view": json.loads(json.dumps(opened.preprocessing.facts)),
        "stored": [form.height, form.width],
    }


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _reserve(path: Path, shape: tuple[int, int]) -> Any:
    """An array on disk with real blocks behind it: without, a full disk would kill the process (SIGBUS)."""
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if sys.platform == "linux":
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return vectors


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
