"""Embeddings on disk beside the vectors: the table of their items, in index.csv or, with the vectors, in parquet.

N items, D dimensions.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RefusedError

COLUMNS = ("id", "label", "width", "height", "content", "stamp")
CHUNK = 16384
"""Rows that are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Table:
    """What is known of embedded items, beside their vectors.

    ids, labels  N texts; a label is a class's name, or "" for none
    sizes        (N, 2) int32, original (width, height)
    contents     (N,) S32, a digest of the undecoded bytes in hexadecimal
    stamps       (N,) S16, a digest of the file's size, times and place
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    sizes: npt.NDArray[np.int32]
    contents: npt.NDArray[np.bytes_]
    stamps: npt.NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def of(rows: Iterable[tuple[str, str, Any, Any, str, str]]) -> "Table":
        """From rows of `COLUMNS`."""
        columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        sizes = np.array([columns[2], columns[3]], np.int32).T.reshape(-1, 2)
        return Table(columns[0], columns[1], sizes, np.array(columns[4], "S32"), np.array(columns[5], "S16"))

    def rows(self) -> Iterable[tuple[str, str, int, int, str, str]]:
        """Rows of `COLUMNS`."""
        texts = (np.char.decode(column, "ascii").tolist() for column in (self.contents, self.stamps))
        return zip(self.ids, self.labels, self.sizes[:, 0].tolist(), self.sizes[:, 1].tolist(), *texts, strict=True)


def write_index(path: Path, table: Table) -> None:
    """index.csv, a row an item."""
    # surrogatepass is the one handler under which every str reads back as itself.
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(table.rows())


def read_index(path: Path) -> Table | None:
    """What `write_index` wrote; None for an index that tells ids and labels only. Raises ValueError, csv.Error."""
    with path.open(encoding="utf-8", errors="surrogatepass", newline="") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, None)
        if header == list(COLUMNS[:2]):
            return None
        if header != list(COLUMNS):
            raise ValueError(f"{path.name} does not start with {','.join(COLUMNS)}")
        return Table.of((i, label, w, h, content, stamp) for i, label, w, h, content, stamp in rows)


def write_parquet(path: Path, vectors: npt.NDArray[np.float32], table: Table) -> None:
    """A row an item: id, label, vector (a list of D float32) and the other columns of `COLUMNS`.

    `vectors` (N, D) may be memory-mapped. Raises RefusedError for ids that are no text, as parquet holds text only.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    dimensions = vectors.shape[1]
    vector = pa.list_(pa.float32(), dimensions)
    types = (pa.string(), pa.string(), vector, pa.int32(), pa.int32(), pa.string(), pa.string())
    names = ("id", "label", "vector", *COLUMNS[2:])
    schema = pa.schema(list(zip(names, types, strict=True)))
    rows = list(table.rows())
    # Vectors are noise to a compressor.
    packed = [name for name in names if name != "vector"]
    with pq.ParquetWriter(path, schema, compression=dict.fromkeys(packed, "zstd"), use_dictionary=["label"]) as writer:
        for start in range(0, len(rows), CHUNK):
            ids, labels, *others = zip(*rows[start : start + CHUNK], strict=True)
            flat = np.ascontiguousarray(vectors[start : start + CHUNK]).reshape(-1)
            try:
                columns = [
                    pa.array(ids, pa.string()),
                    pa.array([label or None for label in labels], pa.string()),
                    pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dimensions),
                    *(pa.array(column, kind) for column, kind in zip(others, types[3:], strict=True)),
                ]
            except UnicodeEncodeError:
                odd = next(name for name in (*ids, *labels) if not _is_text(name))
                raise RefusedError(f"{odd!r} is no UTF-8 text, which parquet needs: choose --format npy") from None
            writer.write_batch(pa.record_batch(columns, schema=schema))


def read_parquet(path: Path) -> tuple[npt.NDArray[np.float32], list[str], list[str]]:
    """(N, D) vectors, ids and labels ("" is none). Raises ValueError for what `write_parquet` did not write."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            kind = file.schema_arrow.field("vector").type
            if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
                raise ValueError(f"{path.name} holds vectors of {kind}, not lists of one length of float32")
            vectors = np.empty((file.metadata.num_rows, kind.list_size), np.float32)
            ids: list[str] = []
            labels: list[str] = []
            for batch in file.iter_batches(CHUNK, columns=["id", "label", "vector"]):
                chunk = batch.column("vector").flatten().to_numpy()
                vectors[len(ids) : len(ids) + len(batch)] = chunk.reshape(-1, kind.list_size)
                ids += batch.column("id").to_pylist()
                labels += [label or "" for label in batch.column("label").to_pylist()]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    return vectors, ids, labels


def read_parquet_table(path: Path) -> Table:
    """The table in a file of `write_parquet`. Raises ValueError."""
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path, columns=list(COLUMNS)).to_pydict()
    except OSError as error:
        raise ValueError(f"{path.name}: {error}") from None
    columns["label"] = [label or "" for label in columns["label"]]
    return Table.of(zip(*(columns[name] for name in COLUMNS), strict=True))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
