"""What is embedded already: by an earlier call, in its folder, or by an interrupted one, in parts beside it."""

import csv
import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.keys import content_at, content_of, file_stamp
from twoviews.data.pool import for_each
from twoviews.data.source import Raw, Source, is_stored
from twoviews.errors import DataError
from twoviews.evaluation.tables import CHUNK, Table, read_index, read_parquet, read_parquet_table
from twoviews.narrate import Narrator

PART = "part-"


@dataclass(frozen=True, eq=False)
class Known:
    """Items that have a vector, or were found to have none.

    table    what is known of them; an id that comes again replaces the one before
    places   (M, 2) int64: which of `files`, and the row in it, -1 for an item without a vector
    reasons  why an item has no vector, by its place in the table
    files    the folder of embeddings, then parts
    """

    table: Table
    places: NDArray[np.int64]
    reasons: dict[int, str]
    files: tuple[Path, ...]

    def places_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """(N,) where in the table each id is, -1 where it is not."""
        index = {name: place for place, name in enumerate(self.table.ids)}
        return np.array([index.get(name, -1) for name in ids], np.int64).reshape(-1)

    def vectors_into(self, target: NDArray[np.float32], chosen: NDArray[np.int64]) -> None:
        """Put the vectors of `chosen` (N,), places in the table, into `target` (N, D), a file after the other."""
        numbers, rows = self.places[chosen].T
        for number, path in enumerate(self.files):
            mine = np.flatnonzero(numbers == number)
            vectors = _vectors_in(path) if len(mine) else None
            for start in range(0, len(mine) if vectors is not None else 0, CHUNK):
                some = mine[start : start + CHUNK]
                target[some] = vectors[rows[some]]  # type: ignore[index]


def read_known(folder: Path, table: Table | None, parts: Path) -> Known:
    """What an embeddings folder, of which `table` tells, and the parts in another folder hold.

    The folder is the first of the files, whether its table is given or not. A damaged part is deleted.
    """
    rows: list[tuple[Any, ...]] = list(table.rows()) if table is not None else []
    places = [(0, row) for row in range(len(rows))]
    reasons: dict[int, str] = {}
    files = [folder]
    for path in sorted(parts.glob(f"{PART}*.npz")):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                made, refused = json.loads(bytes(archive["table"]))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # the power failed
            path.unlink(missing_ok=True)
            continue
        places += [(len(files), row) for row in range(len(made))]
        rows += made
        for item, reason, content, stamp in refused:
            reasons[len(rows)] = reason
            rows.append((item, "", 0, 0, content, stamp))
            places.append((len(files), -1))
        files.append(path)
    return Known(Table.of(rows), np.array(places, np.int64).reshape(-1, 2), reasons, tuple(files))


def table_in(folder: Path) -> Table | None:
    """The table in a folder of embeddings; None where it tells ids and labels only. Raises DataError for damage."""
    try:
        if (folder / "index.csv").is_file():
            table = read_index(folder / "index.csv")
        else:
            table = read_parquet_table(folder / "vectors.parquet")
        if table is not None:
            if len(set(table.ids)) < len(table):
                raise ValueError(f"{len(table)} rows, {len(set(table.ids))} ids")
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            _check_vectors(folder, (len(table), meta["dimensions"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, csv.Error) as error:
        raise DataError(
            f"the embeddings in {str(folder)!r} are damaged ({error}): give --overwrite to make them anew"
        ) from None
    return table


def write_part(
    parts: Path,
    number: int,
    vectors: NDArray[np.float32],
    rows: Sequence[tuple[str, str, int, int, str, str]],
    refused: Sequence[tuple[str, str, str, str]],
) -> None:
    """Seal vectors (n, D) with their rows of the table, and (id, reason, content, stamp) of items without one.

    Of two parts with the same item, that with the higher number counts.
    """
    text = json.dumps([rows, refused]).encode()
    path = parts / f"{PART}{number:08}.npz"
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, vectors=vectors, table=np.frombuffer(text, np.uint8))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def next_number(parts: Path) -> int:
    """Above those of all parts that are there."""
    return max((int(path.stem[len(PART) :]) for path in parts.glob(f"{PART}*.npz")), default=-1) + 1


def stamp_of(source: Source, index: int) -> str:
    """What tells whether an item may have changed: its file's size, times and place, or what is read of it."""
    if is_stored(source):
        return _short(source.stamp.encode("utf-8", "surrogatepass"))
    try:
        raw = source[index].read()
    except Exception:  # foreign code
        return _short(b"unreadable")
    return stamp_of_raw(raw)


def stamp_of_raw(raw: Raw) -> str:
    """`stamp_of` what an item gave, of a source that is not `Stored`."""
    return _short(file_stamp(raw) if isinstance(raw, Path) else content_of(raw))


def find_unchanged(
    source: Source, ids: Sequence[str], known: Known, *, narrator: Narrator
) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
    """(N,) the place of each item in the known table, -1 for what is new or changed; and the stamps as they are now.

    A file with other times is read and compared, which costs far less than decoding it.
    """
    found = known.places_of(ids)
    stamps = np.zeros(len(ids), "S16")
    at = np.flatnonzero(found >= 0)
    together = stamp_of(source, 0) if is_stored(source) and len(at) else None
    for item in at.tolist():
        stamps[item] = (together or stamp_of(source, item)).encode()
    doubtful = at[stamps[at] != known.table.stamps[found[at]]]
    if len(doubtful):

        def compare(item: int) -> None:
            if content_at(source, item).hex().encode() != known.table.contents[found[item]]:
                found[item] = -1

        order: Iterable[int] = doubtful.tolist()
        if is_stored(source):
            wanted = np.zeros(len(ids), bool)
            wanted[doubtful] = True
            stored = source.storage_order
            order = stored[wanted[stored]].tolist()
        for_each(list(order), compare, narrator=narrator, what="comparing files")
    return found, stamps


def _vectors_in(path: Path) -> NDArray[np.float32]:
    """Of a part, or of a folder of embeddings, memory-mapped where it can be."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as archive:
            vectors: NDArray[np.float32] = archive["vectors"]
        return vectors
    if (path / "vectors.npy").is_file():
        return np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    return read_parquet(path / "vectors.parquet")[0]


def _check_vectors(folder: Path, shape: tuple[int, int]) -> None:
    """Raise OSError, KeyError or ValueError unless vectors (N, D) of float32 lie beside the table; none are read."""
    found: object
    wanted: object
    if (folder / "index.csv").is_file():
        vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="r")
        found, wanted = (vectors.shape, str(vectors.dtype)), (shape, "float32")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = pq.read_schema(folder / "vectors.parquet").field("vector").type
        wanted = pa.list_(pa.float32(), shape[1])
    if found != wanted:
        raise ValueError(f"vectors are {found}, not {wanted}")


def _short(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()
