"""Label files: CSV or JSON lines with `file_name,label[,split]`, paths relative to the file."""

import csv
import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple, NoReturn

from twoviews.data.folder import FileSource
from twoviews.errors import DataError, unknown_name

COLUMNS = ("file_name", "label", "split")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Row(NamedTuple):
    line: int
    name: str
    label: str | None
    split: str | None


def open_manifest(path: Path, *, split: str | None = None) -> FileSource:
    """The files that a manifest lists, or those of one split; an empty label means none.

    Raises DataError naming file and line for a missing file, an unknown column, labels that disagree or
    differ only by case, NaN, text that is not UTF-8.
    """
    # surrogateescape: a name on disk may be any bytes, and must be found again as written by
    # `write_manifest`.
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        _fail(path, text[: text.index("\0")].count("\n") + 1, "is not UTF-8 text: save it as UTF-8")
    rows: dict[str, _Row] = {}
    spellings: dict[str, _Row] = {}
    for row in _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text):
        _check_label(path, row, spellings)
        known = rows.setdefault(row.name, row)
        for what, one, other in (("label", known.label, row.label), ("split", known.split, row.split)):
            if one != other:
                _fail(path, row.line, f"{row.name!r} has {what} {other!r}, but {one!r} in line {known.line}")
    if not rows:
        raise DataError(f"{str(path)!r} lists no image: it needs a row for each, with {', '.join(COLUMNS[:2])}")
    if split is not None:
        splits = {row.split for row in rows.values() if row.split is not None}
        if not splits:
            raise DataError(f"{str(path)!r} has no split column, but split {split!r} was asked for: drop ':{split}'")
        if split not in splits:
            raise unknown_name(f"split of {path.name!r}", split, splits)
    chosen = sorted((row for row in rows.values() if split is None or row.split == split), key=lambda r: r.name)
    for row in chosen:
        _check_file(path, row)
    spec = str(path) if split is None else f"{path}:{split}"
    names, labels = tuple(row.name for row in chosen), tuple(row.label for row in chosen)
    return FileSource(spec, path.parent, names, labels)


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(path, header)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                _fail(path, reader.line_num, f"has {len(fields)} fields, the header {len(header)}: quote commas")
            yield _row(path, reader.line_num, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        _fail(path, reader.line_num, f"is no CSV: {error}")


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            _fail(path, line, f"is no JSON: {error}")
        if not isinstance(values, dict):
            _fail(path, line, f"is no JSON object: {content[:60]!r}")
        _check_columns(path, list(values), line)
        yield _row(path, line, values)


def _check_columns(path: Path, columns: list[str], line: int = 1) -> None:
    if not columns or columns == [""]:
        raise DataError(f"{str(path)!r} is empty: its first line names the columns {', '.join(COLUMNS)}")
    for column in columns:
        if column not in COLUMNS:
            hint = "separate the columns by commas" if re.search("[;\t]", column) else ""
            _fail(path, line, hint or str(unknown_name("column", column, COLUMNS)))
        if columns.count(column) > 1:
            _fail(path, line, f"names the column {column!r} twice")
    if "file_name" not in columns:
        _fail(path, line, f"has no column file_name, only {', '.join(columns)}")


def _row(path: Path, line: int, values: dict[str, Any]) -> _Row:
    name = values["file_name"]
    if not isinstance(name, str) or not name:
        _fail(path, line, f"file_name is {name!r}: give the path of an image relative to this file")
    texts: list[str | None] = []
    for column in COLUMNS[1:]:
        value = values.get(column)
        if value is None or value == "":
            texts.append(None)
        elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            texts.append(str(value))
        else:
            _fail(path, line, f"{column} is {value!r}: give a name, a whole number, or leave it empty for none")
    return _Row(line, PurePath(name).as_posix(), texts[0], texts[1])


def _check_label(path: Path, row: _Row, spellings: dict[str, _Row]) -> None:
    if row.label is None:
        return
    if row.label.strip().lower() == "nan":
        _fail(path, row.line, f"label is {row.label!r}: leave it empty where there is none")
    if row.label != row.label.strip():
        _fail(path, row.line, f"label {row.label!r} has spaces around it")
    if _SURROGATE.search(row.label):
        _fail(path, row.line, "label is not UTF-8: save the file as UTF-8")
    first = spellings.setdefault(row.label.casefold(), row)
    if first.label != row.label:
        _fail(
            path,
            row.line,
            f"label {row.label!r} differs only by case from {first.label!r} in line {first.line}",
        )


def _check_file(path: Path, row: _Row) -> None:
    try:
        regular = stat.S_ISREG((path.parent / row.name).stat().st_mode)
    except (OSError, ValueError):
        if _SURROGATE.search(row.name):
            _fail(path, row.line, f"names {row.name!r}, which does not exist: is this file saved as UTF-8?")
        _fail(
            path,
            row.line,
            f"names {row.name!r}, which does not exist: paths are relative to {str(path.parent)!r}",
        )
    if not regular:
        _fail(path, row.line, f"names {row.name!r}, which is no file")


def _fail(path: Path, line: int, problem: str) -> NoReturn:
    raise DataError(f"{path}, line {line}: {problem}")
