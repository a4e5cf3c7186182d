"""Images sorted into folders by what was said of them: links to the originals, which nothing here writes to."""

import csv
import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from twoviews.data.decoding.decode import Unreadable
from twoviews.data.source import Spec, open_source
from twoviews.errors import RefusedError, ResourceError, UsageError
from twoviews.jobs.newfolder import check_place
from twoviews.run import write_rows

UNSURE = "unsure"
"""The folder of images whose answer is not sure."""

LIST = ".twoviews-sorted.csv"
"""In a folder that was sorted into: name, id and kind (link, copy) of all that was put there."""

_LONGEST = 200
"""Characters of a file's name: most file systems take 255 bytes."""


def image_files(data: Spec, *, download: bool = False) -> dict[str, Path]:
    """Where the image of each id lies. Raises UsageError for data whose images are no files of their own."""
    source = open_source(data, download=download)
    files = {}
    for at in range(len(source)):
        item = source[at]
        try:
            raw = item.read()
        except (OSError, ValueError, Unreadable):
            raw = b""
        if not isinstance(raw, Path):
            raise UsageError(
                f"{source.spec!r} cannot be sorted into folders: its image {item.id!r} is no file of its own; write the"
                " answers with --out FILE.csv, or give a folder or a list of files"
            )
        files[item.id] = raw.absolute()
    return files


def check_folder(out: str | Path, files: Iterable[Path], *, overwrite: bool) -> Path:
    """The folder, if it can be sorted into; nothing is changed.

    Raises RefusedError for a file, a folder that holds one of `files`, and one that is not empty, unless `overwrite` is
    on and all in it was put there by an earlier sorting; ResourceError where nothing can be written.
    """
    out = Path(out).absolute()
    if out.exists() and not out.is_dir():
        raise RefusedError(f"{out} is a file: choose another --sort-into")
    if not out.exists() or not any(out.iterdir()):
        check_place(out, option="--sort-into")
        return out
    if not overwrite:
        raise RefusedError(f"{out} is not empty: choose another --sort-into or give --overwrite")
    real = os.path.realpath(out)
    for file in files:
        if file.is_relative_to(out) or Path(os.path.realpath(file)).is_relative_to(real):
            raise RefusedError(f"{out} holds the original {file}: choose another --sort-into")
    listed = _listed(out)
    foreign = sorted(name for name, kind in _present(out).items() if name != LIST and listed.get(name) != kind)
    if foreign:
        raise RefusedError(
            f"{out} holds {foreign[0]!r}, which no sorting put there: choose another --sort-into, or move it away"
        )
    return out


def sort_into(
    out: Path, files: Mapping[str, Path], answers: Sequence[tuple[str, Sequence[str | None]]], *, copy: bool = False
) -> dict[str, int]:
    """Put each image into the folders of its answers (None: `UNSURE`); how many lie in each folder.

    `out`: as `check_folder` gave it; what an earlier sorting put there goes first. Links are symbolic and absolute. A
    class's folder has its name, without what no folder's name may have. An image keeps its file's name where that is
    alone in its folder; else it has its whole id in one word. Raises ResourceError where nothing can be written.
    """
    folders = _folder_names({name for _, names in answers for name in names})
    inside: dict[str, list[str]] = {}
    for item, names in answers:
        for name in names:
            inside.setdefault(folders[name], []).append(item)
    kind = "copy" if copy else "link"
    placed = [
        {"name": f"{folder}/{name}", "id": item, "kind": kind}
        for folder, items in sorted(inside.items())
        for name, item in zip(_file_names(items), items, strict=True)
    ]
    try:
        _clear(out)
        # First the list: what is cut short can be cleared as well.
        out.mkdir(parents=True, exist_ok=True)
        write_rows(out / LIST, placed, columns=["name", "id", "kind"])
        for row in placed:
            place, file = out / row["name"], files[row["id"]]
            place.parent.mkdir(exist_ok=True)
            if copy:
                shutil.copy2(file, place)
            else:
                place.symlink_to(file)
    except OSError as error:
        step = "make room" if copy else "where links cannot be made, give --copy"
        raise ResourceError(f"cannot sort into {out} ({error.strerror or error}): {step}") from None
    return {folder: len(items) for folder, items in sorted(inside.items())}


def _present(out: Path) -> dict[str, str]:
    """Files and links below `out`, by their POSIX names: `link` or `copy`."""
    found = {}
    for folder, folders, files in os.walk(out):
        for name in (*files, *folders):
            path = Path(folder, name)
            if path.is_symlink() or name in files:
                found[path.relative_to(out).as_posix()] = "link" if path.is_symlink() else "copy"
    return found


def _listed(out: Path) -> dict[str, str]:
    """What an earlier sorting put there; nothing where there was none."""
    try:
        with (out / LIST).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return {row["name"]: row["kind"] for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error):
        return {}


def _clear(out: Path) -> None:
    """Remove what an earlier sorting put there, and the folders that it leaves empty."""
    listed = _listed(out)
    present = _present(out) if listed else {}
    for name in listed.keys() & present.keys():
        (out / name).unlink()
    for name in {name.partition("/")[0] for name in listed}:
        if (out / name).is_dir() and not any((out / name).iterdir()):
            (out / name).rmdir()


def _folder_names(classes: Collection[str | None]) -> dict[str | None, str]:
    """A folder a class, each another one also where upper and lower case are the same."""
    names: dict[str | None, str] = {}
    if None in classes:
        names[None] = UNSURE
    taken = {UNSURE}
    for name in sorted(name for name in classes if name is not None):
        safe = re.sub(r"[/\\:*?\"<>|\x00-\x1f]", "_", name).strip(" ")[:_LONGEST]
        names[name] = _free("_" + safe if safe.startswith(".") or not safe else safe, taken)
    return names


def _file_names(ids: Sequence[str]) -> list[str]:
    """Of the items of one folder."""
    last = [item.rpartition("/")[2] for item in ids]
    count = Counter(name.casefold() for name in last)
    taken = {name for name, times in count.items() if times == 1}
    return [
        name if count[name.casefold()] == 1 else _free(item.replace("/", "_")[-_LONGEST:], taken)
        for name, item in zip(last, ids, strict=True)
    ]


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number before its suffix where it is taken; it is taken then."""
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (name, "")
    free, number = name, 2
    while free.casefold() in taken:
        free, number = f"{stem}-{number}{suffix}", number + 1
    taken.add(free.casefold())
    return free
