"""The members of one archive, tar or zip: which are images, which are labels beside them, and which are left out."""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twoviews.data.decoding.decode import Unreadable
from twoviews.data.sources.folder import SUFFIXES
from twoviews.errors import DataError, RefusedError

IMAGE_SUFFIXES = SUFFIXES
LABEL_BYTES = 1 << 20
_LABEL_KEYS = ("label", "cls", "class")
_KINDS_COUNTED = 100  # of suffixes left out: a hostile archive has as many as members


class Facts(NamedTuple):
    """What the files beside an image say of it; `named` if they have a place for a label, `reason` if unusable."""

    label: str | None = None
    group: str | None = None
    named: bool = False
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one archive, in its order.

    names     N, POSIX; ids are made of them
    numbers   (N, K) int64: position of the member, then what its kind of archive needs to read it; -1 = lost
    labels    N, and groups N, from files beside the images
    reasons   index -> why the member cannot be used
    labelled  whether there were label files at all
    skipped   kind of member -> how many were left out
    """

    names: list[str]
    numbers: NDArray[np.int64]
    labels: list[str | None]
    groups: list[str | None]
    reasons: dict[int, str]
    labelled: bool
    skipped: dict[str, int]


def clean_name(name: str, archive: Path) -> str:
    """`name` without "./" and doubled slashes. Raises RefusedError if it is absolute, climbs by "..", or holds a NUL.

    >>> clean_name("./cat//0.jpg", Path("a.tar"))
    'cat/0.jpg'
    """
    posix = name.replace("\\", "/")
    if posix[:1] == "/" or posix[1:3] == ":/" or "\0" in name or (".." in posix and ".." in posix.split("/")):
        raise RefusedError(
            f"{str(archive)!r} has a member {name[:100]!r}, a name that leads out of it: nothing of it is read; "
            "pack it again with relative names"
        )
    if "//" in name or name[:2] == "./" or "/./" in name:
        return "/".join(part for part in name.split("/") if part not in ("", "."))
    return name


class Collector:
    """Takes the members of one archive as they come, and makes its `Listing`."""

    def __init__(self, archive: Path, *, columns: int) -> None:
        self._archive = archive
        self._columns = columns
        self._names: list[str] = []
        self._numbers = array("q")
        self._reasons: dict[int, str] = {}
        self._facts: dict[str, dict[str, Facts]] = {"cls": {}, "json": {}}
        self._known: dict[Facts, Facts] = {}
        self._skipped: Counter[str] = Counter()

    def skip(self, kind: str) -> None:
        """Count a member that is left out."""
        self._skipped[kind if kind in self._skipped or len(self._skipped) < _KINDS_COUNTED else "other"] += 1

    def classify(self, raw: str) -> tuple[str, str]:
        """The name made clean, and its use: "image", "cls", "json", or "" for what is left out, counted here."""
        name = clean_name(raw, self._archive)
        if name[:1] == "." or "/." in name or ("__MACOSX" in name and "__MACOSX" in name.split("/")):
            self.skip("hidden")
            return name, ""
        _, _, rest = name.rpartition("/")[2].partition(".")
        suffix = "." + rest.rpartition(".")[2].lower() if rest else ""
        if suffix in IMAGE_SUFFIXES:
            return name, "image"
        use = rest.lower()
        if use in self._facts:
            return name, use
        self.skip(suffix or "(no suffix)")
        return name, ""

    def add_image(self, name: str, numbers: Sequence[int], *, reason: str = "") -> None:
        """An image, where it lies, and why it cannot be read."""
        if reason:
            self._reasons[len(self._names)] = reason
        self._names.append(name)
        self._numbers.extend(numbers)

    def add_lost(self, name: str, reason: str) -> None:
        """A place of the archive where images may have been: it is listed, so that it is not lost silently."""
        self.add_image(name, (-1,) * self._columns, reason=reason)

    def add_facts(self, name: str, use: str, read: Callable[[], bytes]) -> None:
        """A label file; what is wrong with it is the reason why its images are not used."""
        key, table = _key(name), self._facts[use]
        if key in table:
            raise repeated(self._archive, name)
        try:
            facts = _read_facts(use, read())
        except (Unreadable, ValueError, RecursionError) as error:
            facts = Facts(reason=f"label file {name!r}: {error}"[:200])
        table[key] = self._known.setdefault(facts, facts)

    def finish(self) -> Listing:
        """Labels joined to images by key: the path up to the first dot of the last name."""
        count = len(self._names)
        labels: list[str | None] = [None] * count
        groups: list[str | None] = [None] * count
        first, second = self._facts["cls"], self._facts["json"]
        if first or second:
            nothing = Facts()
            for index, name in enumerate(self._names):
                key = _key(name)
                text, record = first.get(key, nothing), second.get(key, nothing)
                labels[index] = text.label if text.named else record.label
                groups[index] = record.group
                if (text.reason or record.reason) and index not in self._reasons:
                    self._reasons[index] = text.reason or record.reason
        numbers = np.frombuffer(self._numbers, dtype=np.int64).reshape(count, self._columns)
        labelled = any(facts.named or facts.reason for facts in self._known)
        return Listing(self._names, numbers, labels, groups, self._reasons, labelled, dict(self._skipped))


def repeated(archive: Path, name: str) -> DataError:
    """The error for a name that an archive holds twice."""
    return DataError(
        f"{str(archive)!r} holds {name[:100]!r} twice, and which of the two is meant cannot be known: "
        "pack it again with each name once"
    )


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _read_facts(use: str, data: bytes) -> Facts:
    if use == "cls":
        return Facts(_as_name(data.decode("utf-8-sig").strip(), "it"), named=True)
    record = json.loads(data)
    if not isinstance(record, dict):  # annotations of another kind
        return Facts()
    key = next((key for key in _LABEL_KEYS if key in record), None)
    label = None if key is None else _as_name(record[key], key)
    return Facts(label, _as_name(record.get("group"), "group"), named=key is not None)


def _as_name(value: Any, what: str) -> str | None:
    if value is None or value == "" or (what != "group" and value in (-1, "-1") and value is not False):
        return None  # -1 is how Hugging Face and torchvision mark what has no label
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{what} is {str(value)[:60]!r}, neither text nor a whole number")
    text = str(value)
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise ValueError(f"{what} is {text[:60]!r}, not one line of text")
    return text
