"""Rows that a command gives, as a file: CSV, JSON or parquet by the ending of its name."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from twoviews.errors import DataError, RefusedError, ResourceError, UsageError
from twoviews.jobs.newfolder import check_place
from twoviews.run import write_rows, write_text

ENDINGS = (".csv", ".json", ".parquet")

Kind = Literal["text", "texts", "number", "flag"]
Row = Mapping[str, Any]
"""Values by column: str, list of str, float, bool; None where there is none."""


def check_table(path: str | Path, *, overwrite: bool) -> Path:
    """The path, if a table can be written there.

    Raises UsageError for another ending, RefusedError for a file that is there, unless `overwrite`, ResourceError
    where nothing can be written.

    >>> check_table("tags.xlsx", overwrite=False)
    Traceback (most recent call last):
    ...
    twoviews.errors.UsageError: 'tags.xlsx' ends in '.xlsx': a table is written as .csv, .json or .parquet
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{str(path)!r} ends in {path.suffix!r}: a table is written as .csv, .json or .parquet")
    if path.is_dir() or (path.exists() and not overwrite):
        raise RefusedError(f"{path} exists: choose another --out" + ("" if path.is_dir() else " or give --overwrite"))
    check_place(path)
    return path


def write_table(path: Path, rows: Sequence[Row], *, columns: Mapping[str, Kind], separator: str = "|") -> None:
    """All or nothing. CSV: as `cell` writes values. JSON: a list of objects. Parquet: strings, doubles, bools, lists.

    Raises DataError for parquet and a name that is no UTF-8, ResourceError where nothing can be written.
    """
    ending = path.suffix.lower()
    if ending == ".json":
        return write_text(path, json.dumps(list(rows), indent=1, allow_nan=False) + "\n")
    if ending == ".csv":
        cells = ({name: cell(row[name], separator=separator) for name in columns} for row in rows)
        return write_rows(path, cells, columns=list(columns))
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"text": pa.string(), "texts": pa.list_(pa.string()), "number": pa.float64(), "flag": pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, temporary)
        temporary.replace(path)
    except UnicodeEncodeError:
        raise DataError(f"{path}: parquet takes no names that are not UTF-8: write .csv or .json") from None
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ResourceError(f"cannot write {path}: {error.strerror or error}") from None


def cell(value: Any, *, separator: str = "|") -> Any:
    """A value as CSV has it: nothing for None, true and false, the texts of a list one after the other.

    >>> [cell(value) for value in (None, True, ["a", "b"], 0.5)]
    ['', 'true', 'a|b', 0.5]
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return separator.join(value) if isinstance(value, list | tuple) else value
