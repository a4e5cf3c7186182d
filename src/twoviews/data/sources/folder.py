"""Folders of image files, nested, with or without class folders."""

import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from twoviews.data.source import SHARDS, TABLES, Item
from twoviews.errors import DataError, unknown_name

# fmt: off
SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".dcm", ".dicom",
))
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SPLIT_NAMES = frozenset((
    "train", "training", "val", "valid", "validation", "dev", "test", "testing", "unlabeled", "unlabelled",
))
# fmt: on
METADATA = ("metadata.csv", "metadata.jsonl")
_FOLDERS_LOOKED_AT = 100  # without a table or shard in them; a folder of images may have a million folders


@dataclass(frozen=True)
class FileSource:
    """Image files below `root`; `names` are their POSIX paths relative to it, sorted, and serve as ids.

    `groups` left out are none.
    """

    spec: str
    root: Path
    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    groups: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (None,) * len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        name = self.names[index]
        return Item(name, self.labels[index], partial(self.root.joinpath, name), self.groups[index])


def open_folder(root: Path, *, split: str | None = None) -> FileSource:
    """Every image file below `root`, each real file once; label = name of the first folder below `root`.

    Where the first level holds nothing but splits (train, val, test) the second one gives the labels. Images
    in `root` itself have no label. Hidden files are left out. Raises DataError if there is no image.
    """
    spec = str(root) if split is None else f"{root}:{split}"
    if split is not None:
        folders = [entry.name for entry in os.scandir(root) if entry.is_dir()]
        if split not in folders:
            raise unknown_name(f"sub-folder of {root.name!r}", split, folders)
        root = root / split
    ignored: Counter[str] = Counter()
    names = tuple(sorted(_walk(root, ignored)))
    if not names:
        found = ", ".join(f"{count} {suffix or '(no suffix)'}" for suffix, count in ignored.most_common(3))
        raise DataError(
            f"no image in folder {str(root)!r}: "
            + (f"found only {found}" if found else "it is empty")
            + "; images end in .jpg, .png, .webp, .tif, .bmp, .gif, .ppm, .avif or .dcm"
        )
    return FileSource(spec, root, names, folder_labels(names))


def folder_labels(names: tuple[str, ...]) -> tuple[str | None, ...]:
    """The first folder of each name, or the second where the first level holds nothing but splits."""
    splits = all(name.count("/") > 1 and name.partition("/")[0].lower() in SPLIT_NAMES for name in names)
    parts = (name.split("/", 2)[splits:] for name in names)
    return tuple(sys.intern(p[0]) if len(p) > 1 else None for p in parts)


def is_image_by_content(path: str | Path) -> bool:
    """Whether a file whose name ends in no letters starts as an image: scanners write `IM0001` and `1.2.840`."""
    path = Path(path)
    suffix = path.suffix
    if suffix and not suffix[1:].isdigit():
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or head.startswith(_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _walk(root: Path, ignored: Counter[str]) -> Iterator[str]:
    """Relative names of the images; real folders before links, so that a file keeps its real name."""
    top = os.path.realpath(root)
    above = {str(parent) for parent in Path(top).parents}
    visited = {top}
    pending = [(top, "")]
    folder_links: list[tuple[str, str]] = []
    file_links: list[tuple[str, str]] = []
    while pending or folder_links:
        if not pending:
            folder_links.sort(key=lambda link: link[1], reverse=True)
            target, prefix = folder_links.pop()
            # A link to a folder above the root would pull in the root's neighbours: it is a loop, not data.
            if target in visited or target in above:
                continue
            visited.add(target)
            pending.append((target, prefix))
        folder, prefix = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name == "__MACOSX":
                    continue
                if _is_folder(entry):
                    if entry.is_symlink():
                        folder_links.append((os.path.realpath(entry.path), f"{prefix}{name}/"))
                    elif entry.path not in visited:
                        visited.add(entry.path)
                        pending.append((entry.path, f"{prefix}{name}/"))
                elif (suffix := PurePath(name).suffix.lower()) not in SUFFIXES and not is_image_by_content(entry.path):
                    ignored[suffix] += 1
                elif entry.is_symlink():
                    file_links.append((f"{prefix}{name}", os.path.realpath(entry.path)))
                elif entry.is_file():
                    yield f"{prefix}{name}"
    targets: set[str] = set()
    for name, target in sorted(file_links):
        folder, base = os.path.split(target)
        listed = folder in visited and PurePath(base).suffix.lower() in SUFFIXES and base[:1] != "."
        # A broken link is kept as an item: decoding will list it among the rejected.
        if target not in targets and not (listed and Path(target).is_file()):
            targets.add(target)
            yield name


def find_special(path: Path, *, split: str | None) -> tuple[str, list[Path]] | None:
    """What a folder holds other than images: ("tables", files), ("manifest", [file]) or ("shards", files); else None.

    Tables: a data set as Hugging Face saves it, or parquet and Arrow files up to two levels down. Manifest: a
    `metadata.csv` or `metadata.jsonl`, in the folder or in that of a split. Shards: `.tar`, like tables. The first
    image that is seen ends the search. A folder of splits gives `train`, or its only one; raises DataError if that
    leaves a choice, or if what Hugging Face saved is not whole.

    >>> find_special(Path("beans"), split="train")  # doctest: +SKIP
    ('tables', [PosixPath('beans/train/data-00000-of-00001.arrow')])
    """
    if (path / "dataset_dict.json").is_file():
        named = _read_json(path / "dataset_dict.json").get("splits")
        splits = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        splits = [name for name in splits if _is_plain(name) and (path / name).is_dir()]
        if split is not None and split not in splits:
            raise unknown_name(f"split of {path.name!r}", split, splits)
        return "tables", _saved_files(path / (split or ("train" if "train" in splits else _only(path, splits))))
    if split is not None and _is_plain(split) and (path / split).is_dir():
        return _look(path / split) or _metadata(path)
    if split is None and _metadata(path) is None:
        folders = sorted(name for name in SPLIT_NAMES if (path / name).is_dir())
        described = [name for name in folders if _metadata(path / name)]
        if described:
            return _metadata(path / ("train" if "train" in described else _only(path, folders)))
    found = _look(path)
    if found is not None and found[0] == "shards" and split is not None:
        from twoviews.data.sources.splits import of_split

        return "shards", of_split(found[1], split, what=str(path))
    return found


def _look(folder: Path) -> tuple[str, list[Path]] | None:
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return "tables", _saved_files(folder)
    return _metadata(folder) or _scan(folder)


def _metadata(folder: Path) -> tuple[str, list[Path]] | None:
    found = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    return None if found is None else ("manifest", [found])


def _scan(root: Path) -> tuple[str, list[Path]] | None:
    """Tables or shards up to two levels down, unless there is an image, or both of them."""
    found: dict[str, list[Path]] = {"tables": [], "shards": []}
    top = os.path.realpath(root)
    visited = set(map(str, Path(top).parents))  # a link to a folder above would pull in the root's neighbours
    pending, looked = [(root, 0)], 0
    while pending:
        folder, depth = pending.pop()
        target = os.path.realpath(folder)
        if target in visited:
            continue
        visited.add(target)
        inner: list[tuple[bool, str]] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = PurePath(entry.name).suffix.lower()
                kind = "tables" if suffix in TABLES else "shards" if suffix in SHARDS else None
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if _is_folder(entry):
                    inner.append((entry.is_symlink(), entry.name))
                elif suffix in SUFFIXES:
                    return None
                elif kind is not None and entry.is_file():
                    found[kind].append(folder / entry.name)
        looked += 1
        if looked == _FOLDERS_LOOKED_AT and not any(found.values()):
            return None
        if depth < 2:  # real folders before links, so that a file keeps its real name
            pending += [(folder / name, depth + 1) for _, name in sorted(inner, reverse=True)]
    kinds = [kind for kind, files in found.items() if files]
    return (kinds[0], sorted(found[kinds[0]])) if len(kinds) == 1 else None


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and PurePath(name).name == name and "\0" not in name


def _only(path: Path, splits: list[str]) -> str:
    if not splits:
        raise DataError(f"{str(path)!r} names no split that lies in it: save the data set again")
    if len(splits) > 1:
        shown = ", ".join(sorted(splits))
        raise DataError(f"{str(path)!r} holds the splits {shown}: name one, as '{path}:{min(splits)}'")
    return splits[0]


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a data set saved by Hugging Face; its state.json lists them."""
    state = _read_json(folder / "state.json")
    if any(value for key, value in state.items() if key.startswith("_indices")):
        raise DataError(f"{str(folder)!r} holds a selection of rows in a form of old: save it again with datasets")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{str(folder / 'state.json')!r} lists no data file: save the data set again")
    files = []
    for entry in listed:
        name = entry.get("filename") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not _is_plain(name) or PurePath(name).suffix.lower() not in TABLES:
            raise DataError(f"{str(folder / 'state.json')!r} lists {name!r}, which is no Arrow file beside it")
        files.append(folder / name)
        if not files[-1].is_file():
            raise DataError(f"{str(folder)!r} lacks {name!r}, which its state.json lists: copy the whole folder")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{str(path.parent)!r} has no {path.name}: copy the whole folder") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{str(path)!r} is no JSON object")
    return values
