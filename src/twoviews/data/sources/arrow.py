"""Parquet and Arrow files opened one way: whole columns that are small, and one chunk of a column that is large."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twoviews.errors import DataError

# Arrow's readers refuse structs whose bytes pass 2 GB in one piece, which a large row group does.
_BATCH_ROWS = 4096
_MAGIC = b"ARROW1"


class Part(Protocol):
    """One file of a table, or a table in memory; its chunks are its row groups or record batches."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path:
        """What the paths in it are relative to."""
        ...

    @property
    def schema(self) -> Any: ...
    @property
    def counts(self) -> list[int]:
        """Rows of each chunk."""
        ...

    def column(self, name: str) -> Any:
        """All values of a column as ChunkedArray; `img.path` is a field of a struct."""
        ...

    def chunk(self, index: int, name: str) -> Any:
        """The values of a top column in one chunk, as ChunkedArray."""
        ...

    def may_lack(self, name: str) -> bool:
        """False if the column is known to hold no null."""
        ...

    def release(self) -> None:
        """Close what is open; it opens by itself when needed again."""
        ...


def open_part(path: Path) -> Part:
    """A `.parquet` file, or an Arrow file in file or stream format. Raises DataError if it cannot be read.

    >>> open_part(Path("train-00000-of-00002.parquet")).counts  # doctest: +SKIP
    [100, 100, 37]
    """
    if path.suffix.lower() == ".parquet":
        return ParquetPart(path)
    with _reading(str(path), "Arrow"):
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
        if magic == _MAGIC:
            return FilePart(path)
        if not magic:
            raise DataError(f"{str(path)!r} is not a readable Arrow file: it is empty")
        # Nothing is copied: the table lies in the mapped file.
        with pa.memory_map(str(path)) as file:
            return TablePart(pa.ipc.open_stream(file).read_all(), name=str(path), folder=path.parent)


class ParquetPart:
    """A parquet file; its row groups are its chunks."""

    def __init__(self, path: Path) -> None:
        self.name, self.folder = str(path), path.parent
        self._file: Any = None
        self._lock = threading.Lock()
        with self._opened() as file:
            self.schema = _sound(self.name, file.schema_arrow)
            self.counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if min(self.counts, default=0) < 0:
                raise pa.ArrowInvalid(f"a row group has {min(self.counts)} rows")

    def column(self, name: str) -> Any:
        with self._opened() as file:
            return _checked(self, _field(file.read(columns=[name]).column(0), name))

    def chunk(self, index: int, name: str) -> Any:
        with self._opened() as file:
            batches = file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[index], columns=[name])
            kind = self.schema.field(name).type
            return plain(pa.chunked_array([batch.column(0) for batch in batches], type=kind))

    def may_lack(self, name: str) -> bool:
        with self._opened() as file:
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                columns = [group.column(i) for i in range(group.num_columns)]
                found = next((column.statistics for column in columns if column.path_in_schema == name), None)
                if found is None or not found.has_null_count or found.null_count:
                    return True
        return False

    def release(self) -> None:
        with self._lock:
            self._file = None

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with self._lock, _reading(self.name, "parquet"):
            if self._file is None:
                self._file = pq.ParquetFile(self.name)
            yield self._file


class FilePart:
    """An Arrow file in file format, mapped into memory; compressed batches are unpacked one at a time."""

    def __init__(self, path: Path) -> None:
        self.name, self.folder = str(path), path.parent
        self._file: Any = None
        self._lock = threading.Lock()
        with self._opened() as file:
            self.schema = _sound(self.name, pa.ipc.open_file(file).schema)
            narrow = min(self.schema.names, key=lambda name: _width(self.schema.field(name).type), default=None)
            reader = self._reader(file, narrow) if narrow is not None else pa.ipc.open_file(file)
            self.counts = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]

    def column(self, name: str) -> Any:
        with self._opened() as file:
            reader = self._reader(file, name.partition(".")[0])
            chunks = (reader.get_batch(i).column(0) for i in range(reader.num_record_batches))
            kind = _leaf(self.schema, name)
            # Fields are taken out batch by batch, so that of compressed images one batch is in memory.
            return _checked(self, pa.chunked_array([_field(_valid(chunk), name) for chunk in chunks], type=kind))

    def chunk(self, index: int, name: str) -> Any:
        with self._opened() as file:
            return plain(pa.chunked_array([_valid(self._reader(file, name).get_batch(index).column(0))]))

    def may_lack(self, name: str) -> bool:
        with self._opened() as file:
            reader = self._reader(file, name.partition(".")[0])
            chunks = (_field(reader.get_batch(i).column(0), name) for i in range(reader.num_record_batches))
            return any(chunk.null_count for chunk in chunks)

    def release(self) -> None:
        with self._lock:
            self._file = None

    def _reader(self, file: Any, name: str) -> Any:
        wanted = [self.schema.get_field_index(name)]
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with self._lock, _reading(self.name, "Arrow"):
            if self._file is None:
                self._file = pa.memory_map(self.name)
            yield self._file


class TablePart:
    """A table in memory, or in a mapped file; its record batches are its chunks."""

    def __init__(self, table: Any, *, name: str, folder: Path) -> None:
        self.name, self.folder, self.schema = name, folder, _sound(name, table.schema)
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        self.counts = [batch.num_rows for batch in self._batches]

    def column(self, name: str) -> Any:
        with _reading(self.name, "Arrow"):
            chunks = [_field(_valid(batch.column(name.partition(".")[0])), name) for batch in self._batches]
            return _checked(self, pa.chunked_array(chunks, type=_leaf(self.schema, name)))

    def chunk(self, index: int, name: str) -> Any:
        with _reading(self.name, "Arrow"):
            return plain(pa.chunked_array([_valid(self._batches[index].column(name))]))

    def may_lack(self, name: str) -> bool:
        return bool(self.column(name).null_count)

    def release(self) -> None:
        """Nothing is open."""


def _sound(name: str, schema: Any) -> Any:
    # A name is decoded, and found to be no UTF-8, when it is asked for: ask here, where that is an error of the file.
    for field in schema:
        _ = [inner.name for inner in field.type] if pa.types.is_struct(field.type) else field.name
    twice = [column for column, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"{name!r} has the column {twice[0]!r} twice: rename one of them")
    return schema


def plain(column: Any) -> Any:
    """Without dictionaries, and text as large_string, so that columns of several files can be joined."""
    if pa.types.is_dictionary(column.type):
        column = pc.dictionary_decode(column)
    return column.cast(pa.large_string()) if is_text(column.type) else column


def value_type(kind: Any) -> Any:
    """The type of the values, also where they are in a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: Any) -> bool:
    kind = value_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _checked(part: Part, column: Any) -> Any:
    if len(column) != sum(part.counts):
        raise pa.ArrowInvalid(f"a column holds {len(column)} rows, its header promises {sum(part.counts)}")
    column = plain(column)
    column.validate(full=True)  # text that is no UTF-8 is found here, not when an item is asked for
    return column


def _valid(array: Any) -> Any:
    array.validate(full=True)  # a damaged offset would read beyond the mapped file
    return array


def _field(column: Any, name: str) -> Any:
    _, dot, field = name.partition(".")
    return pc.struct_field(column, field) if dot else column


def _leaf(schema: Any, name: str) -> Any:
    top, dot, field = name.partition(".")
    kind = schema.field(top).type
    return kind.field(field).type if dot else kind


def _width(kind: Any) -> int:
    """Orders columns by how much there is to unpack to count rows."""
    return 0 if pa.types.is_primitive(kind) else 1 if is_text(kind) else 2


@contextmanager
def _reading(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name!r} is not a readable {kind} file: {reason}") from error
