"""Folders of image files, nested, with or without class folders."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from twoviews.data.source import Item
from twoviews.errors import DataError, unknown_name

# fmt: off
SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
))
SPLIT_NAMES = frozenset((
    "train", "training", "val", "valid", "validation", "dev", "test", "testing", "unlabeled", "unlabelled",
))
# fmt: on


@dataclass(frozen=True)
class FileSource:
    """Image files below `root`; `names` are their POSIX paths relative to it, sorted, and serve as ids."""

    spec: str
    root: Path
    names: tuple[str, ...]
    labels: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        name = self.names[index]
        return Item(name, self.labels[index], partial(self.root.joinpath, name))


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
            + "; images end in .jpg, .png, .webp, .tif, .bmp, .gif, .ppm or .avif"
        )
    return FileSource(spec, root, names, _folder_labels(names))


def _folder_labels(names: tuple[str, ...]) -> tuple[str | None, ...]:
    parts = [name.split("/") for name in names]
    level = 1 if all(len(p) > 2 and p[0].lower() in SPLIT_NAMES for p in parts) else 0
    return tuple(p[level] if len(p) > level + 1 else None for p in parts)


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
                elif (suffix := PurePath(name).suffix.lower()) not in SUFFIXES:
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
