"""Which split a file belongs to, told by its name or its folder, as Hugging Face does."""

import re
from collections.abc import Sequence
from pathlib import Path

from twoviews.errors import DataError, unknown_name

# The words that tell a split, and which of them mean the same.
WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}
_SHARD = re.compile(r"[-_.]\d+([-_.]of[-_.]\d+)?$")


def told_split(path: Path) -> str | None:
    """The split that a file's name tells, else its folder's or the folder's above that.

    >>> told_split(Path("data/train_extra-00000-of-00003.parquet")), told_split(Path("val/part.parquet"))
    ('train_extra', 'val')
    """
    stem = _SHARD.sub("", path.stem)
    last = stem.rpartition("-")[2]
    if re.search(r"-\d{5}-of-\d{5}$", path.stem) and last != "data":
        return last
    for word in re.split(r"[^A-Za-z]+", stem):
        if word.lower() in WORDS:
            return word
    folders = (path.parent.name, path.parent.parent.name)
    return next((name for name in folders if name.lower() in WORDS), None)


def of_split(files: Sequence[Path], split: str, *, what: str) -> list[Path]:
    """The files of one split; `val` and `validation` are one. Raises DataError where no name tells a split.

    A folder of the very name of the split will do, whatever it is; UsageError if the split is another.
    """
    told = [told_split(path) for path in files]
    wanted = _same(split)
    found = [path for path, name in zip(files, told, strict=True) if name is not None and _same(name) == wanted]
    found = found or [
        path
        for path, name in zip(files, told, strict=True)
        if name is None and split in (path.parent.name, path.parent.parent.name)
    ]
    if found:
        return found
    known = {name for name in told if name is not None}
    if not known:
        raise DataError(f"{what!r} has no column split, but {split!r} was asked for: drop ':{split}'")
    raise unknown_name(f"split of {what!r}", split, known)


def _same(split: str) -> str:
    return WORDS.get(split.lower(), split)
