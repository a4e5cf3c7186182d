"""Parquet files in the layout of Hugging Face data sets: images as bytes or as paths, and labels."""

import json
import threading
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from twoviews.data.source import Item, Raw
from twoviews.errors import DataError, unknown_name

IMAGE_COLUMNS = ("img", "image")
PATH_COLUMNS = ("file_name", "path")
_HELD_GROUPS = 3  # more than two, since threads straddle the border of two groups


class ParquetSource:
    """Rows of a parquet file, sorted by id; row groups are read when needed, and few are held."""

    def __init__(self, path: Path, *, split: str | None) -> None:
        self.spec = str(path) if split is None else f"{path}:{split}"
        self._path = path
        self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        self._column = _image_column(path, schema)
        self._starts = np.cumsum(
            [0] + [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        )
        total = int(self._starts[-1])
        keep = np.arange(total) if split is None else self._rows_of(split)
        if not len(keep):
            raise DataError(f"{str(path)!r} has no rows")
        ids = self._path_ids(keep) or [f"{row:0{len(str(total - 1))}d}" for row in keep]
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        self._ids = [ids[i] for i in order]
        self._rows: NDArray[np.int64] = keep[order].astype(np.int64)
        labels = self._read_labels()
        self.labels: tuple[str | None, ...] = tuple(labels[row] for row in self._rows)
        self._held: OrderedDict[int, list[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Item:
        return Item(self._ids[index], self.labels[index], partial(self._read, int(self._rows[index])))

    @property
    def storage_order(self) -> NDArray[np.int64]:
        return np.argsort(self._rows, kind="stable").astype(np.int64)

    @property
    def stamp(self) -> str:
        status = self._path.stat()
        return f"{self._path.resolve()}:{status.st_size}:{status.st_mtime_ns}"

    def _read(self, row: int) -> Raw:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            column = self._held.get(group)
            if column is None:
                column = _flat(self._file.read_row_group(group, columns=[self._column]).column(0))
                self._held[group] = column
                if len(self._held) > _HELD_GROUPS:
                    self._held.popitem(last=False)
        values = (part[row - int(self._starts[group])].as_py() for part in column)
        value = next((value for value in values if value is not None), None)
        if isinstance(value, str):
            return self._path.parent / value
        if isinstance(value, bytes):
            return value
        raise ValueError("row has neither bytes nor a path")

    def _path_ids(self, keep: NDArray[Any]) -> list[str] | None:
        kind = self._file.schema_arrow.field(self._column).type
        if pa.types.is_struct(kind):
            if kind.get_field_index("path") < 0:
                return None
            paths = self._file.read(columns=[f"{self._column}.path"]).column(0)
            values = [None if v is None else v["path"] for v in paths.to_pylist()]
        elif _is_text(kind):
            values = self._file.read(columns=[self._column]).column(0).to_pylist()
        else:
            return None
        return [values[row] for row in keep] if all(values) and len(set(values)) == len(values) else None

    def _rows_of(self, split: str) -> NDArray[np.int64]:
        if "split" not in self._file.schema_arrow.names:
            raise DataError(f"{str(self._path)!r} has no column split, but {split!r} was asked for: drop ':{split}'")
        values = self._file.read(columns=["split"]).column(0).to_pylist()
        rows = np.flatnonzero([value == split for value in values])
        if not len(rows):
            raise unknown_name(f"split of {self._path.name!r}", split, {str(v) for v in values if v is not None})
        return rows.astype(np.int64)

    def _read_labels(self) -> list[str | None]:
        schema = self._file.schema_arrow
        if "label" not in schema.names:
            return [None] * int(self._starts[-1])
        column = self._file.read(columns=["label"]).column(0)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_integer(kind) or _is_text(kind) or pa.types.is_null(kind)):
            raise DataError(f"{str(self._path)!r}: column label holds {kind}, not whole numbers or text")
        values = column.to_pylist()
        if not pa.types.is_integer(kind):
            return [value or None for value in values]
        names = _class_names(schema)
        if not names:
            # -1 is how Hugging Face and torchvision mark rows without a label.
            return [None if value is None or value == -1 else str(value) for value in values]
        for row, value in enumerate(values):
            if value is not None and not -1 <= value < len(names):
                raise DataError(
                    f"{str(self._path)!r}, row {row}: label {value} is not among the {len(names)} class names"
                )
        return [None if value is None or value == -1 else names[value] for value in values]


def open_parquet(path: Path, *, split: str | None = None) -> ParquetSource:
    """The rows of a parquet file: `img|image` (struct<bytes, path>, bytes) or `file_name|path`; `label`.

    Ids are the paths where all are there and unique, else zero-padded row numbers. Whole-number labels take
    the names of a Hugging Face ClassLabel. Raises DataError if it is no parquet file or has no such column.
    """
    try:
        return ParquetSource(path, split=split)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def _flat(column: Any) -> list[Any]:
    """The columns that may hold a row's image, bytes first; a struct is slow to take apart row by row."""
    parts = {"": column}
    if pa.types.is_struct(column.type):
        parts = {field.name: pc.struct_field(column, field.name) for field in column.type}
    found = [parts[name] for name in ("", "bytes", "path") if name in parts]
    return [part.chunk(0) if part.num_chunks == 1 else part for part in found]


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_column(path: Path, schema: Any) -> str:
    for name in IMAGE_COLUMNS + PATH_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if _is_text(kind) or (name in IMAGE_COLUMNS and _is_bytes(kind)):
                return name
            if pa.types.is_struct(kind) and {f.name for f in kind} & {"bytes", "path"}:
                return name
            raise DataError(f"{str(path)!r}: column {name!r} holds {kind}, not image bytes or paths")
    wanted = " or ".join(IMAGE_COLUMNS + PATH_COLUMNS)
    raise DataError(f"{str(path)!r} has no column {wanted}, only {', '.join(schema.names)}")


def _class_names(schema: Any) -> list[str]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
