"""Parquet and Arrow tables in the layout of Hugging Face data sets: images as bytes or as paths, and labels."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twoviews.data.decoding.decode import Unreadable
from twoviews.data.source import Item, Raw
from twoviews.data.sources.arrow import Part, open_part, value_type
from twoviews.data.sources.columns import find_ids, group_texts, image_column, label_texts, outside_paths, rows_in_split
from twoviews.data.sources.splits import of_split
from twoviews.errors import DataError

_HELD_CHUNKS = 3  # more than two, since threads straddle the border of two chunks
_OPEN_PARTS = 4


class TableSource:
    """Rows of tables with one schema, sorted by id; chunks are read when needed, and few are held.

    `files` and `mark` go into `stamp`; `rooted`: ids are relative to the folder that all images are in.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        spec: str,
        files: Sequence[Path],
        split: str | None = None,
        mark: str = "",
        rooted: bool = False,
    ) -> None:
        self.spec = spec
        self._mark = mark
        self._files = tuple(files)
        self._parts = tuple(parts)
        self._column = image_column(next((part for part in parts if sum(part.counts)), parts[0]))
        self._chunks = [(part, index) for part in parts for index in range(len(part.counts))]
        self._starts = np.cumsum([0, *(count for part in parts for count in part.counts)], dtype=np.int64)
        total = int(self._starts[-1])
        keep = np.ones(total, dtype=bool)
        if split is not None:
            keep = rows_in_split(parts, split, what=Path(spec.removesuffix(f":{split}")).name)
        if not keep.any():
            raise DataError(f"{spec!r} has no rows")
        found = find_ids(parts, self._column, rooted=rooted)
        self._ids = None
        self._digits = len(str(total - 1))
        if found is None:
            self._rows = np.flatnonzero(keep)
        else:
            kept = keep[found[0]]
            self._rows, self._ids = found[0][kept], found[1].filter(pa.array(kept))
        self.labels: tuple[str | None, ...] = tuple(label_texts(parts)[self._rows].tolist())
        self.groups: tuple[str | None, ...] = tuple(group_texts(parts)[self._rows].tolist())
        for part in parts:
            part.release()
        pa.default_memory_pool().release_unused()  # what was needed to sort a million ids
        self._held: OrderedDict[int, list[Any] | str] = OrderedDict()
        self._open: OrderedDict[str, Part] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        row = int(self._rows[index])
        name = f"{row:0{self._digits}d}" if self._ids is None else self._ids[index].as_py()
        return Item(name, self.labels[index], partial(self._read, row), self.groups[index])

    @property
    def storage_order(self) -> NDArray[np.int64]:
        return np.argsort(self._rows, kind="stable").astype(np.int64)

    @property
    def stamp(self) -> str:
        """Over all files, and over the images that lie beside them."""
        digest = hashlib.sha256(self._mark.encode())
        for path in self._files:
            digest.update(_stamp_of(path.absolute()))
        for part in self._parts:
            for name in outside_paths(part, self._column):
                digest.update(_stamp_of(os.path.join(part.folder, name)))  # noqa: PTH118 (a million of them)
            part.release()
        return digest.hexdigest()

    def _read(self, row: int) -> Raw:
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            columns = self._held.get(at)
            if columns is None:
                columns = self._held[at] = self._load(at)
                if len(self._held) > _HELD_CHUNKS:
                    self._held.popitem(last=False)
        if isinstance(columns, str):
            raise Unreadable(columns)
        values = (column[row - int(self._starts[at])].as_py() for column in columns)
        value = next((value for value in values if value is not None), None)
        if isinstance(value, str):
            return self._chunks[at][0].folder / value
        if isinstance(value, bytes):
            return value
        raise Unreadable("row has neither bytes nor a path")

    def _load(self, at: int) -> list[Any] | str:
        """The columns that may hold an image, or why there are none: it is not tried again for each row."""
        part, index = self._chunks[at]
        self._open[part.name] = part
        self._open.move_to_end(part.name)
        if len(self._open) > _OPEN_PARTS:
            self._open.popitem(last=False)[1].release()
        try:
            column = part.chunk(index, self._column)
        except DataError as error:
            return str(error)
        if len(column) != part.counts[index]:
            return f"{part.name!r} promises {part.counts[index]} rows in chunk {index}, but {len(column)} are there"
        return _flat(column)


def open_tables(files: Sequence[Path], *, split: str | None, spec: str) -> TableSource:
    """The rows of `.parquet` and Arrow files: `img|image` (struct<bytes, path>, bytes) or `file_name|path`.

    `label` or `labels` (whole numbers take the names of a Hugging Face ClassLabel), `group`. A split is that of the
    column `split`, or else the one that the files' names tell. Ids are the paths where all are there and unique, else
    a unique `id`, else zero-padded row numbers over all files in order. Paths are relative to their file. Raises
    DataError for a file that is not readable, has no such column, or another schema than the first.

    >>> source = open_tables([Path("data/train-00000-of-00001.parquet")], split=None, spec="data")  # doctest: +SKIP
    """
    files = sorted(files)
    if not files:
        raise DataError(f"{spec!r} holds no table")
    first = open_part(files[0])
    if split is not None and "split" not in first.schema.names:
        what = str(files[0]) if len(files) == 1 else spec.removesuffix(f":{split}")
        files, split = of_split(files, split, what=what), None
    parts: list[Part] = []
    for path in files:
        part = first if str(path) == first.name else open_part(path)
        if parts:
            _check_alike(parts[0], part)
        part.release()
        parts.append(part)
    return TableSource(parts, spec=spec, files=files, split=split)


def _check_alike(one: Part, other: Part) -> None:
    """Columns may come in another order, and one without any value has no type of its own."""
    for name in dict.fromkeys((*one.schema.names, *other.schema.names)):
        for part in (one, other):
            if name not in part.schema.names:
                raise DataError(
                    f"{one.name!r} and {other.name!r} are no one table: {part.name!r} has no column {name!r}; "
                    "open them one by one"
                )
        kinds = [value_type(part.schema.field(name).type) for part in (one, other)]
        if kinds[0] != kinds[1] and not any(map(pa.types.is_null, kinds)):
            raise DataError(
                f"{one.name!r} and {other.name!r} are no one table: column {name!r} holds {kinds[0]} in the first, "
                f"{kinds[1]} in the second; open them one by one"
            )


def _flat(column: Any) -> list[Any]:
    """The columns that may hold a row's image, bytes first; a struct is slow to take apart row by row."""
    parts = {"": column}
    if pa.types.is_struct(column.type):
        parts = {field.name: pc.struct_field(column, field.name) for field in column.type}
    found = [parts[name] for name in ("", "bytes", "path") if name in parts]
    return [part.chunk(0) if part.num_chunks == 1 else part for part in found]


def _stamp_of(path: str | Path) -> bytes:
    name = os.fsencode(path)
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return name + b": missing\n"
    return name + b": %d %d %d\n" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
