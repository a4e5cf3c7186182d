"""Paths that a pattern stands for: `*`, `?`, `[a-z]`, `**` (folders, any depth), `{a,b}` and `{0000..0099}`."""

import fnmatch
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from twoviews.errors import DataError, UsageError

MOST = 100_000
_GLOB = re.compile(r"[*?]|\[[^/]+\]")
_BRACES = re.compile(r"\{(?:([0-9]{1,18})\.\.([0-9]{1,18})|([^{}]*,[^{}]*))\}")


@dataclass(frozen=True)
class Matches:
    """`root` is what stands before the first folder of the pattern, "" or with a slash at its end.

    `named` are the paths that are spelled out by braces, `found` those that were looked for, both sorted; `deep` says
    that `**` did the looking, and `folders` holds those of `found` that are folders.
    """

    root: str
    named: list[str]
    found: list[str]
    folders: frozenset[str]
    deep: bool


def find_matches(spec: str) -> Matches | None:
    """What the pattern `spec` stands for, or None where it is none; hidden files only where a dot is asked for.

    `**` does not follow links to folders. Raises DataError naming the part of the pattern that nothing matches, and
    paths of a `{...}` that are missing; UsageError for more than 100,000 of them.
    """
    text = re.sub("/+", "/", os.path.expanduser(spec))  # noqa: PTH111 — a Path would lose the slash at the end
    starts = [match.start() for kind in (_GLOB, _BRACES) if (match := kind.search(text))]
    if not starts:
        return None
    named: set[str] = set()
    found: dict[str, bool] = {}
    missing: list[str] = []
    reasons: list[str] = []
    paths = list(islice(_spell(text), MOST + 1))
    if len(paths) > MOST:
        raise UsageError(f"{spec!r} spells out more than {MOST:,} paths: write * instead of a range")
    for path in dict.fromkeys(paths):
        if os.path.lexists(path):
            named.add(path)
        elif not _GLOB.search(path):
            missing.append(path)
        else:
            more, reason = _look(path, spec)
            found.update(more)
            reasons += [reason] if reason else []
    if missing:
        count = f"{len(missing):,} of {len(paths):,} are missing, first " if len(paths) > 1 else ""
        raise DataError(f"{spec!r}: {count}{missing[0]!r}, which does not exist: put it there, or name what there is")
    if not (named or found):
        raise DataError(f"{spec!r} matches nothing: {reasons[0]}")
    root = text[: text.rfind("/", 0, min(starts)) + 1]
    folders = frozenset(path for path, is_folder in found.items() if is_folder)
    return Matches(root, sorted(named), sorted(found.keys() - named), folders, "**" in text.split("/"))


def _spell(text: str) -> Iterator[str]:
    """The alternatives of the braces, inner ones first; lazily, since a range may be of any length."""
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    first, last, names = match.groups()
    options: Iterator[str]
    if names is None:
        low, high = int(first), int(last)
        padded = any(text[0] == "0" and len(text) > 1 for text in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if low <= high else -1
        options = (f"{number:0{width}d}" for number in range(low, high + step, step))
    else:
        options = iter(names.split(","))
    for option in options:
        yield from _spell(text[: match.start()] + option + text[match.end() :])


def _look(path: str, spec: str) -> tuple[dict[str, bool], str]:
    """The paths that one glob matches, and whether they are folders; or why there is none."""
    parts = [part for part in path.split("/") if part]
    only_folders = path.endswith("/")
    if parts[-1] == "**" and not only_folders:
        parts.append("*")
    here = dict.fromkeys(["/" if path.startswith("/") else ""], True)
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        there: dict[str, bool] = {}
        for folder in here:
            for name, is_folder in _step(folder, part):
                if is_folder or (last and not only_folders):
                    there[name if last or not name or name.endswith("/") else f"{name}/"] = is_folder
        if not there:
            before = "/".join(parts[:at]) or ("/" if path.startswith("/") else ".")
            before = f"/{before}" if path.startswith("/") and at else before
            if all(not _GLOB.search(part) for part in parts[: at + 1]):
                raise DataError(f"{spec!r} matches nothing: {before!r} has no folder {part!r}")
            return {}, f"nothing in {before!r} matches {part + '/' * only_folders!r}"
        here = there
    return here, ""


def _step(folder: str, part: str) -> Iterator[tuple[str, bool]]:
    """What `part` matches in `folder`, which is "" or ends in a slash, and whether it is a folder."""
    if part == "**":
        yield folder, True
        pending = [folder]
        while pending:
            for name, is_folder, is_link in _list(pending.pop()):
                if is_folder and not is_link:
                    yield name, True
                    pending.append(f"{name}/")
    elif _GLOB.search(part) and not os.path.lexists(folder + part):
        matches = re.compile(fnmatch.translate(part)).match
        for name, is_folder, _ in _list(folder, hidden=part.startswith(".")):
            if matches(name[len(folder) :]):
                yield name, is_folder
    elif os.path.lexists(folder + part):
        yield folder + part, os.path.isdir(folder + part)  # noqa: PTH112 — as text, like all of these


def _list(folder: str, *, hidden: bool = False) -> Iterator[tuple[str, bool, bool]]:
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name.startswith(".") != hidden or entry.name == "__MACOSX":
                    continue
                is_link = entry.is_symlink()
                try:
                    is_folder, is_file = entry.is_dir(), is_link or entry.is_file()
                except OSError:  # a link to itself
                    is_folder, is_file = False, True
                if is_folder or is_file:
                    yield folder + entry.name, is_folder, is_link
    except OSError as error:
        raise DataError(f"{folder!r} may not be read: {error.strerror}") from error
