"""Sources made of others: labels joined by id, and lists and patterns of paths as one source."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePath
from typing import NoReturn

import numpy as np

from twoviews.data.source import MANIFESTS, SHARDS, TABLES, Source, Spec, open_source
from twoviews.data.sources.arrays import ArraySource
from twoviews.data.sources.folder import SUFFIXES, FileSource, folder_labels
from twoviews.data.sources.manifest import Rows, clean_name, read_rows
from twoviews.data.sources.parts import JoinedSource, groups_of, with_abilities
from twoviews.data.sources.patterns import Matches, find_matches
from twoviews.errors import DataError, UsageError

_KNOWN = SUFFIXES | MANIFESTS | TABLES | SHARDS | {".zip", ".npy", ".npz"}


def join_labels(spec: Spec, labels: Path, *, download: bool) -> Source:
    """The items behind `spec` with the labels and groups that a manifest gives them: `file_name` is an item's id.

    A column that the file lacks stays as the source has it; an item without a row has neither label nor group. With
    `FILE:train` only the items with a row of that split remain. Rows that name no item are counted in `unmatched`.
    One file may serve several sets: it is refused only where no row names an item. Raises DataError then, or what
    `read_rows` raises.

    >>> source = join_labels("photos", Path("labels.csv"), download=False)  # doctest: +SKIP
    """
    path, split = labels.expanduser(), None
    if not os.path.lexists(path) and ":" in path.name:
        head, _, split = str(path).rpartition(":")
        path = Path(head)
    if not path.is_file():
        raise DataError(f"the label file {str(labels)!r} does not exist: give a .csv, .tsv or .jsonl file")
    if path.suffix.lower() not in MANIFESTS:
        raise UsageError(f"the label file {str(path)!r} is not .csv, .tsv or .jsonl: give a manifest with file_name")
    rows = read_rows(path, split=split)
    if split is None and not rows.columns & {"label", "group"}:
        raise DataError(f"{str(path)!r} has neither label nor group, only {', '.join(sorted(rows.columns))}: add one")
    inner = open_source(spec, download=download)
    ids = [inner[at].id for at in range(len(inner))]
    row_of = {name: row for row, name in enumerate(rows.names)}
    found = [row_of.get(clean_name(name)) if name else None for name in ids]
    matched = {row for row in found if row is not None}
    if not matched:
        _mismatch(path, rows, inner.spec, ids)
    keep = [at for at, row in enumerate(found) if split is None or row is not None]
    values = {}
    for what, own in (("label", inner.labels), ("group", groups_of(inner))):
        given = (*rows.column(what), None)  # the last one for items without a row
        takes = what in rows.columns
        values[what] = tuple(given[-1 if (row := found[at]) is None else row] if takes else own[at] for at in keep)
    unmatched = len(rows.names) - len(matched)
    if isinstance(inner, ArraySource) and len(keep) == len(inner) and not unmatched:
        return replace(inner, labels=values["label"], groups=values["group"])
    places = np.stack([np.zeros(len(keep), np.int64), np.array(keep, np.int64)], axis=1)
    names = tuple(ids[at] for at in keep)
    return with_abilities(
        JoinedSource(inner.spec, names, values["label"], values["group"], (inner,), places, unmatched)
    )


def _mismatch(path: Path, rows: Rows, spec: str, ids: list[str]) -> NoReturn:
    hint = "write each file_name as the id is"
    stems = Counter(PurePath(name).stem for name in ids)
    wanted = Counter(PurePath(name).stem for name in rows.names)
    # Not taken by itself: two folders that count from 0 have the same names for other images.
    if max(wanted.values()) == 1 and all(stems[stem] == 1 for stem in wanted):
        hint += ", with its folder and suffix: the names without them would match"
    raise DataError(
        f"none of the {len(rows.names):,} rows of {str(path)!r} names an item of {spec!r}: "
        f"the file has {rows.names[0]!r}, the data {next(iter(ids), '')!r}: {hint}"
    )


def open_all(paths: list[str], *, download: bool) -> Source:
    """Several paths as one source, whose `spec` is the JSON list of them.

    Image files are as in the folder that holds them all, ids and labels; tar files are shards of one data set, and
    so are tables. Anything else is opened by itself, and its ids begin with as much of the end of its path as tells
    it from the others: `a/x.jpg`, `b/x.jpg`. One path alone is opened as that path.

    Raises UsageError for a folder inside another one of the list, DataError as `open_source` does.

    >>> open_all(["photos/2023", "photos/2024"], download=False)[0].id  # doctest: +SKIP
    '2023/0.jpg'
    """
    unique = list({_absolute(path): path for path in reversed(paths)}.values())[::-1]
    if not unique or not all(unique):
        raise UsageError(f"the list of paths {json.dumps(paths)} has none or an empty one: name folders or files")
    if len(unique) == 1:
        return open_source(unique[0], download=download)
    spec = json.dumps(paths)
    if all(_has_suffix(path, SUFFIXES) and Path(path).expanduser().is_file() for path in unique):
        files = [_absolute(path) for path in unique]
        root = os.path.commonpath([os.path.dirname(file) for file in files])  # noqa: PTH120 — text, for speed
        return _image_files(spec, root, [os.path.relpath(file, root) for file in files])
    return _open_together(unique, spec=spec, download=download)


def open_pattern(spec: str, *, download: bool = False) -> Source | None:
    """What a pattern stands for (see `find_matches`) or a JSON list of paths, as one source; None if `spec` is neither.

    Image files are as in the folder before the pattern, ids and labels: `photos/**/*.jpg` as `photos`. Where there are
    images, other files are passed over, as in a folder; folders stay, but with `**`, which has seen what is in them.
    Raises DataError naming the part of the pattern that nothing matches.

    >>> open_pattern("photos") is None
    True
    """
    if spec.startswith("["):
        try:
            paths = json.loads(spec)
        except (ValueError, RecursionError):
            paths = None
        if isinstance(paths, list) and all(isinstance(path, str) for path in paths):
            return open_all(paths, download=download)
    matches = find_matches(spec)
    if matches is None:
        return None
    paths = _wanted(matches, spec)
    if all(_has_suffix(path, SUFFIXES) and path not in matches.folders for path in paths):
        return _image_files(spec, matches.root, [path[len(matches.root) :] for path in paths])
    # Paths, not texts: a folder may have the name of a data set.
    return _open_together([Path(path) for path in paths], spec=spec, download=False)


def _wanted(matches: Matches, spec: str) -> list[str]:
    files = [path for path in matches.found if path not in matches.folders and _has_suffix(path, _KNOWN)]
    images = [path for path in files if _has_suffix(path, SUFFIXES)]
    folders = [] if matches.deep and files else sorted(matches.folders.difference(matches.named))
    paths = sorted({*matches.named, *folders, *(images or files)})
    if not paths:
        kinds = Counter(PurePath(path).suffix for path in matches.found)
        shown = ", ".join(f"{count} {suffix or '(no suffix)'}" for suffix, count in kinds.most_common(3))
        raise DataError(f"{spec!r} matches only {shown}: name images, folders, shards or tables")
    return paths


def _image_files(spec: str, root: str, names: list[str]) -> FileSource:
    ids = tuple(sorted(names))
    return FileSource(spec, Path(root), ids, folder_labels(ids))


def _open_together(paths: Sequence[str | Path], *, spec: str, download: bool) -> Source:
    files = [Path(path).expanduser() for path in paths]
    for suffixes in (SHARDS, TABLES):
        if all(_has_suffix(path, suffixes) for path in paths) and all(file.is_file() for file in files):
            if suffixes is SHARDS:
                from twoviews.data.sources.shards import open_shards

                return open_shards(files, spec=spec)
            from twoviews.data.sources.table import open_tables

            return open_tables(files, split=None, spec=spec)
    if len(paths) == 1:
        return open_source(paths[0], download=download)
    _check_nesting(paths)
    parts = tuple(open_source(path, download=download) for path in paths)
    ids: list[str] = []
    for path, part, tail in zip(paths, parts, _tails(paths), strict=True):
        alone = len(part) == 1 and _has_suffix(path, SUFFIXES)
        ids += [tail] if alone else [f"{tail}/{part[at].id}" for at in range(len(part))]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for before, after in pairwise(order):
        if ids[before] == ids[after]:
            raise DataError(
                f"{spec}: two images have the id {ids[after]!r}: rename a folder, or name one of them alone"
            )
    labels = [label for part in parts for label in part.labels]
    groups = [group for part in parts for group in groups_of(part)]
    counts = [len(part) for part in parts]
    places = np.stack(
        [np.repeat(np.arange(len(parts)), counts), np.concatenate([np.arange(n) for n in counts])], axis=1
    )
    return with_abilities(
        JoinedSource(
            spec,
            tuple(ids[at] for at in order),
            tuple(labels[at] for at in order),
            tuple(groups[at] for at in order),
            parts,
            places[order].astype(np.int64),
        )
    )


def _check_nesting(paths: Sequence[str | Path]) -> None:
    """A folder and what lies in it: the same images twice."""
    folders = {_absolute(path): path for path in paths if Path(path).expanduser().is_dir()}
    for path in paths:
        if Path(path).expanduser().is_dir() or _has_suffix(path, SUFFIXES):
            for parent in PurePath(_absolute(path)).parents:
                if str(parent) in folders:
                    outer = folders[str(parent)]
                    raise UsageError(
                        f"{str(path)!r} lies in {str(outer)!r}, so its images would count twice: drop one of them"
                    )


def _tails(paths: Sequence[str | Path]) -> list[str]:
    """The ends of the paths, of as many parts as it takes that no two are the same."""
    parts = [PurePath(_absolute(path)).parts[1:] for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        tails = ["/".join(part[-depth:]) for part in parts]
        if len(set(tails)) == len(tails):
            return tails
    return [str(path) for path in paths]


def _absolute(path: str | Path) -> str:
    folder, name = os.path.split(os.path.expanduser(path))  # noqa: PTH111 — text, for speed
    # Taken out as text, `..` behind a link would lead elsewhere.
    folder = os.path.realpath(folder) if ".." in PurePath(path).parts else folder
    return os.path.normpath(os.path.join(os.getcwd(), folder, name))  # noqa: PTH109, PTH118 — the same


def _has_suffix(path: str | Path, suffixes: frozenset[str]) -> bool:
    return os.path.splitext(path)[1].lower() in suffixes  # noqa: PTH122 — the same
