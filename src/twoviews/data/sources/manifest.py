"""Label files: CSV, TSV or JSON lines with `file_name[,label][,split][,group]`, paths relative to the file."""

import csv
import json
import operator
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, NoReturn, TypeAlias

from twoviews.data.sources.folder import FileSource
from twoviews.errors import DataError, unknown_name

COLUMNS = ("file_name", "label", "split", "group")
NOTES = ("why",)
"""Columns for whoever fills the file in, as `twoviews suggest` writes them: not read."""
_VALUES = COLUMNS[1:]
_WORTH_LISTING = 8
_SURROGATE = re.compile("[\ud800-\udfff]")
# Where each row says something of its own, looking it up would only take memory.
_PLAIN = (str, type(None))
_HELD = 100_000
# Label, split and group.
_Facts: TypeAlias = tuple[str | None, str | None, str | None]


@dataclass(frozen=True)
class Rows:
    """What a manifest lists: `names` sorted, each once, and what it says of them in its `columns`."""

    # Columns, not rows: a million rows are a million names, and few facts, which are held once.
    names: list[str]
    facts: list[_Facts]
    columns: frozenset[str]

    def column(self, what: str) -> tuple[str | None, ...]:
        """The values of `label`, `split` or `group`; None each where there is no such column."""
        at = _VALUES.index(what)
        return tuple(facts[at] for facts in self.facts)

    def take(self, order: Sequence[int]) -> "Rows":
        """The rows at `order`."""
        names, facts = list(map(self.names.__getitem__, order)), list(map(self.facts.__getitem__, order))
        return Rows(names, facts, self.columns)

    def rise(self) -> bool:
        """Whether the names are sorted without repeats."""
        return all(map(operator.lt, self.names, islice(self.names, 1, None)))


def open_manifest(path: Path, *, split: str | None = None, lists: bool = False) -> FileSource:
    """The files that a manifest lists, or those of one split; an empty label means none.

    A file that is named `metadata`, as Hugging Face has it, may have further columns. `lists`: as in `read_rows`.
    Raises DataError naming file and line for a missing file, an unknown column, rows that disagree, labels that differ
    only by case, NaN, text that is not UTF-8.
    """
    rows = read_rows(path, split=split, lists=lists)
    for name in _not_listed(path.parent, rows.names):
        _check_file(path, name, lists=lists)
    spec = str(path) if split is None else f"{path}:{split}"
    return FileSource(spec, path.parent, tuple(rows.names), rows.column("label"), rows.column("group"))


def read_rows(path: Path, *, split: str | None = None, lists: bool = False) -> Rows:
    """The rows of a manifest, or those of one split; whether the files exist is not looked at.

    `lists`: a label of a JSON Lines file may be a list; it is kept as its JSON text.

    Raises DataError as `open_manifest` does, UsageError for an unknown split.
    """
    reader = _Reader(path, lists=lists)
    names: list[str] = []
    said: list[_Facts] = []
    for _, name, facts in reader.rows():
        names.append(name)
        said.append(facts)
    rows = Rows(names, said, frozenset(reader.columns))
    if not rows.names:
        raise DataError(f"{str(path)!r} lists no image: it needs a row for each, with {', '.join(COLUMNS[:2])}")
    if not rows.rise():
        rows = rows.take(sorted(range(len(rows.names)), key=rows.names.__getitem__))
        if not rows.rise():
            rows = rows.take(_first_of_each(path, rows, lists=lists))
    if split is None:
        return rows
    parts = rows.column("split")
    known = {part for part in parts if part is not None}
    if not known:
        raise DataError(f"{str(path)!r} has no split column, but split {split!r} was asked for: drop ':{split}'")
    if split not in known:
        raise unknown_name(f"split of {path.name!r}", split, known)
    return rows.take([at for at, part in enumerate(parts) if part == split])


def clean_name(name: str) -> str:
    """A path as an id: POSIX, without `.` and repeated slashes; `..` stays, since a link may stand before it.

    >>> clean_name("./a//b.png")
    'a/b.png'
    """
    if os.sep == "/" and name and not ("//" in name or "./" in name or name[-1] in "/."):
        return name
    return PurePath(name).as_posix()


@dataclass(frozen=True)
class _Reader:
    """Reads a manifest row by row; each distinct value is checked and held once."""

    path: Path
    lists: bool = False
    columns: set[str] = field(default_factory=set)
    known: dict[str, dict[str, str | None]] = field(default_factory=lambda: {what: {"": None} for what in _VALUES})
    spellings: dict[str, tuple[str, int]] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, str, _Facts]]:
        json_lines = self.path.suffix.lower() == ".jsonl"
        try:
            self._check_text()
            # surrogateescape: a name on disk may be any bytes, and must be found again as written by
            # `write_manifest`.
            newline = "\n" if json_lines else ""
            with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
                yield from self._json(file) if json_lines else self._csv(file)
        except OSError as error:
            raise DataError(f"{str(self.path)!r} may not be read: {error.strerror}") from error

    def _check_text(self) -> None:
        # First and in blocks: a line of what is no text may be as long as the file.
        line = 1
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                if (at := block.find(b"\0")) >= 0:
                    self.fail(line + block.count(b"\n", 0, at), "is not UTF-8 text: save it as UTF-8")
                line += block.count(b"\n")

    def _csv(self, lines: Iterator[str]) -> Iterator[tuple[int, str, _Facts]]:
        reader = csv.reader(lines, strict=True, delimiter="\t" if self.path.suffix.lower() == ".tsv" else ",")
        try:
            header = [name.strip() for name in next(reader, [])]
            self._check_columns(header)
            width, at = len(header), header.index("file_name")
            # A column that is not there is read from an empty field behind the others.
            a, b, c = (header.index(what) if what in header else width for what in _VALUES)
            seen: dict[tuple[str, str, str], _Facts] = {}
            for fields in reader:
                if not fields:
                    continue
                line = reader.line_num
                if len(fields) != width:
                    self.fail(line, f"has {len(fields)} fields, the header {width}: quote commas")
                name = fields[at]
                fields.append("")
                said = fields[a], fields[b], fields[c]
                facts = seen.get(said)
                if facts is None:
                    facts = self._facts(line, said)
                    if len(seen) < _HELD:
                        seen[said] = facts
                yield line, self._name(line, name), facts
        except csv.Error as error:
            self.fail(reader.line_num, f"is no CSV: {error}")

    def _json(self, lines: Iterator[str]) -> Iterator[tuple[int, str, _Facts]]:
        seen: dict[tuple[Any, Any, Any], _Facts] = {}
        checked: tuple[str, ...] = ()
        decode = json.JSONDecoder().decode
        for line, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                values = decode(text)
            except (ValueError, RecursionError) as error:
                self.fail(line, f"is no JSON: {error}")
            if not isinstance(values, dict):
                self.fail(line, f"is no JSON object: {text.strip()[:60]!r}")
            if checked != (keys := tuple(values)):
                self._check_columns(list(keys), line)
                checked = keys
            said = (values.get("label"), values.get("split"), values.get("group"))
            # Texts alone: a list is no key, and true is the same key as 1.
            plain = type(said[0]) in _PLAIN and type(said[1]) in _PLAIN and type(said[2]) in _PLAIN
            facts = seen.get(said) if plain else None
            if facts is None:
                facts = self._facts(line, said)
                if plain and len(seen) < _HELD:
                    seen[said] = facts
            yield line, self._name(line, values["file_name"]), facts

    def _check_columns(self, columns: list[str], line: int = 1) -> None:
        if not columns or columns == [""]:
            raise DataError(f"{str(self.path)!r} is empty: its first line names the columns {', '.join(COLUMNS)}")
        strange, wanted = {".csv": ("[;\t]", "commas"), ".tsv": ("[;,]", "tabs")}.get(
            self.path.suffix.lower(), ("(?!)", "")
        )
        if "file_name" not in columns and any(re.search(strange, column) for column in columns):
            self.fail(line, f"separate the columns by {wanted}")
        for column in columns:
            if column not in COLUMNS + NOTES:
                if self.path.stem.lower() == "metadata":
                    continue
                self.fail(line, str(unknown_name("column", column, COLUMNS)))
            if columns.count(column) > 1:
                self.fail(line, f"names the column {column!r} twice")
        if "file_name" not in columns:
            near = get_close_matches("file_name", columns, n=1, cutoff=0.5)
            shown = " ".join(", ".join(columns)[:200].split())
            self.fail(line, f"has no column file_name, only {shown}" + (f": rename {near[0]!r} to it" if near else ""))
        self.columns.update(columns)

    def _name(self, line: int, name: Any) -> str:
        if not isinstance(name, str) or not name:
            self.fail(line, f"file_name is {name!r}: give the path of an image relative to this file")
        return clean_name(name)

    def _facts(self, line: int, said: tuple[Any, Any, Any]) -> _Facts:
        label, split, group = said
        return (
            self._value("label", label, line),
            self._value("split", split, line),
            self._value("group", group, line),
        )

    def _value(self, column: str, value: Any, line: int) -> str | None:
        if value is None:
            return None
        if self.lists and column == "label" and isinstance(value, list):
            value = json.dumps(value, ensure_ascii=False)
        if not isinstance(value, str | int) or isinstance(value, bool):
            self.fail(line, f"{column} is {value!r}: give a name, a whole number, or leave it empty for none")
        text = str(value)
        known = self.known[column]
        if text in known:
            return known[text]
        if column != "split" and text.strip().lower() == "nan":
            self.fail(line, f"{column} is {text!r}: leave it empty where there is none")
        if column == "label":
            self._check_label(line, text)
        if _SURROGATE.search(text):
            self.fail(line, f"{column} is not UTF-8: save the file as UTF-8")
        known[text] = text
        return text

    def _check_label(self, line: int, label: str) -> None:
        if label != label.strip():
            self.fail(line, f"label {label!r} has spaces around it")
        first, at = self.spellings.setdefault(label.casefold(), (label, line))
        if first != label:
            self.fail(line, f"label {label!r} differs only by case from {first!r} in line {at}")

    def fail(self, line: int, problem: str) -> NoReturn:
        raise DataError(f"{self.path}, line {line}: {problem}")


def _first_of_each(path: Path, rows: Rows, *, lists: bool) -> list[int]:
    kept = [0]
    for at in range(1, len(rows.names)):
        if rows.names[at] != rows.names[kept[-1]]:
            kept.append(at)
        elif rows.facts[at] != rows.facts[kept[-1]]:
            _disagree(path, rows.names[at], lists=lists)
    return kept


def _disagree(path: Path, name: str, *, lists: bool) -> NoReturn:
    """Raise for the first row that says something else of `name`: lines are not held, so the file is read again."""
    reader = _Reader(path, lists=lists)
    line, _, said = next(row for row in reader.rows() if row[1] == name)
    for other, _, values in (row for row in reader.rows() if row[1] == name):
        for what, before, now in zip(_VALUES, said, values, strict=True):
            if before != now:
                reader.fail(other, f"{name!r} has {what} {now!r}, but {before!r} in line {line}")
    raise DataError(f"{str(path)!r} changed while it was read: try again")


def _not_listed(root: Path, names: list[str]) -> list[str]:
    """Those of the `names` that a listing of their folders does not show to be files; each wants a look of its own."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name[: name.rfind("/") + 1], []).append(name)
    unseen = []
    for prefix, here in folders.items():
        files: set[str] = set()
        if len(here) >= _WORTH_LISTING:
            # A few names are not worth the whole listing of a folder of millions.
            most = 1000 + 20 * len(here)
            with suppress(OSError, ValueError), os.scandir(root / prefix) as entries:
                files.update(prefix + e.name for e in islice(entries, most) if e.is_file(follow_symlinks=False))
        unseen += [name for name in here if name not in files]
    return unseen


def _check_file(path: Path, name: str, *, lists: bool) -> None:
    try:
        if stat.S_ISREG((path.parent / name).stat().st_mode):
            return
        problem = "which is no file"
    except (OSError, ValueError):
        problem = f"which does not exist: paths are relative to {str(path.parent)!r}"
        if _SURROGATE.search(name):
            problem = "which does not exist: is this file saved as UTF-8?"
    reader = _Reader(path, lists=lists)
    line = next((row[0] for row in reader.rows() if row[1] == name), 1)
    reader.fail(line, f"names {name!r}, {problem}")
