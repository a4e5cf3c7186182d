"""Manifests whose label column holds several labels an image: tags."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from twoviews.data.source import MANIFESTS, Source, Spec, open_source
from twoviews.data.sources.folder import METADATA
from twoviews.data.sources.manifest import open_manifest
from twoviews.errors import DataError, UsageError

SEPARATORS = ("|", ";")
"""That are looked for where none is named."""


@dataclass(frozen=True)
class TaggedSource:
    """A source, and the tags of each item where they may be several: None for an item of which nothing is said.

    `tags` is None where each item has one label at most: `source.labels`. `separator` joins tags when they are written:
    that of the manifest; of lists the first of `SEPARATORS` that is in no tag.
    """

    source: Source
    tags: tuple[tuple[str, ...] | None, ...] | None
    separator: str = SEPARATORS[0]


def open_tagged(spec: Spec, *, separator: str | None = None, download: bool = False) -> TaggedSource:
    """A source with its tags: several an item where a label of a manifest is a JSON list or holds a separator.

    `separator`: what stands between tags; by default `|` or `;`, where a label has one of them. Named, or with lists,
    every label is tags, also where each item has one. An empty cell says nothing, an empty list says: no tag. Raises
    DataError for labels with both separators, tags that differ only by case, lists of anything but names, UsageError
    for an empty separator, and what `open_source` raises.

    >>> open_tagged("tags.csv").tags[0]                                                     # doctest: +SKIP
    ('beach', 'dog')
    """
    if separator == "":
        raise UsageError("the separator is empty: name what stands between tags, such as ','")
    found = _manifest(spec)
    if found is None:
        source = open_source(spec, download=download)
        if separator is None:
            return TaggedSource(source, None)
        lists = False
    else:
        path, split = found
        lists = path.suffix.lower() == ".jsonl"
        source = open_manifest(path, split=split, lists=lists)
    parsed = [_list(label) if lists else None for label in source.labels]
    several = any(tags is not None for tags in parsed)
    texts = [label for label, tags in zip(source.labels, parsed, strict=True) if label is not None and tags is None]
    if separator is None:
        used = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
        if len(used) > 1:
            raise DataError(
                f"labels of {source.spec!r} hold both '|' and ';': name what stands between tags (--separator)"
            )
        if not used and not several:
            return TaggedSource(source, None)
        separator = used[0] if used else None
    tags = [
        parts if parts is not None else None if label is None else _split(label, separator)
        for label, parts in zip(source.labels, parsed, strict=True)
    ]
    spellings: dict[str, str] = {}
    for tag in sorted({tag for of_item in tags for tag in of_item or ()}):
        if (first := spellings.setdefault(tag.casefold(), tag)) != tag:
            raise DataError(f"tags of {source.spec!r} differ only by case: {first!r} and {tag!r}; write them alike")
    free = [mark for mark in SEPARATORS if not any(mark in tag for tag in spellings.values())]
    return TaggedSource(source, tuple(tags), separator or (free or SEPARATORS)[0])


def _manifest(spec: Spec) -> tuple[Path, str | None] | None:
    """Path and split, where `spec` is a manifest or a folder with one."""
    if not isinstance(spec, str | Path):
        return None
    path, split = Path(spec).expanduser(), None
    if not os.path.lexists(path) and ":" in str(spec):
        head, _, split = str(spec).rpartition(":")
        path = Path(head).expanduser()
    if path.is_dir() and split is None:
        path = next((path / name for name in METADATA if (path / name).is_file()), path)
    return (path, split) if path.is_file() and path.suffix.lower() in MANIFESTS else None


def _list(label: str | None) -> tuple[str, ...] | None:
    """The tags of a label that was a JSON list; None for another."""
    if label is None or not label.startswith("["):
        return None
    try:
        values = json.loads(label)
    except ValueError:
        return None
    names = [
        str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else "" for value in values
    ]
    if not all(names):
        raise DataError(f"the tags {label} are not all names: give a list of texts or whole numbers")
    return tuple(dict.fromkeys(names))


def _split(label: str, separator: str | None) -> tuple[str, ...]:
    parts = label.split(separator) if separator is not None else [label]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
