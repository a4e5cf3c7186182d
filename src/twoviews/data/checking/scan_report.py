"""What `scan` tells: plain values with the ids that they stand for."""

from dataclasses import asdict, dataclass
from typing import Any

from twoviews.data.checking.suggest import Suggestion
from twoviews.data.corpus import Rejected


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest value."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True)
class Alike:
    """Two images that are the same or nearly: ids, similarity up to 1, bits that their hashes differ in, if known."""

    first: str
    second: str
    similarity: float
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Images that are the same (or nearly, where `exact` is False) and have different labels."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class Nearness:
    """Near duplicates that were found in another way, by ids; `by` says in words which."""

    by: str
    within: tuple[Alike, ...] = ()
    against: tuple[Alike, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaks:
    """Images of the data (`first`) that are also in other data (`second`), whose test they would spoil."""

    spec: str
    images: int
    rejected: tuple[Rejected, ...]
    exact: tuple[Alike, ...]
    near: tuple[Alike, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class ScanReport:
    """What `scan` found. Lengths are in pixels, names are ids, everything is of readable images.

    duplicates       groups with equal pixels; `same_files`: with equal bytes
    near_duplicates  pairs that join images into groups, found as `near_by` says
    sizes            (width, height, images), rounded where there are very many
    misnamed         id -> format, where the name ends as another format's
    extremes         darkest, brightest, flat, long: id -> mean grey (0 to 255) or width / height
    leaks            None where there was nothing to compare with
    """

    spec: str
    images: int
    rejected: tuple[Rejected, ...]
    formats: dict[str, int]
    modes: dict[str, int]
    depths: dict[str, int]
    notes: dict[str, int]
    channels: int
    channels_found: dict[int, int]
    width: Spread
    height: Spread
    aspect: Spread
    sizes: tuple[tuple[int, int, int], ...]
    bytes: int
    classes: dict[str, int]
    balance: float | None
    unlabelled: int
    groups: int | None
    duplicates: tuple[tuple[str, ...], ...]
    same_files: tuple[tuple[str, ...], ...]
    near_by: str
    near_duplicates: tuple[Alike, ...]
    conflicts: tuple[Conflict, ...]
    misnamed: dict[str, str]
    extremes: dict[str, dict[str, float]]
    leaks: Leaks | None
    images_per_second: float
    suggestions: dict[str, Suggestion]
    warnings: tuple[str, ...]
    unlike: int = 0
    """Readable images that training leaves out, as their channels or depth are not those of the others."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and text, for JSON; with `verdict`, the sentence to begin with."""
        return {"verdict": self.verdict(), **asdict(self)}

    def verdict(self) -> str:
        """What matters most, in one sentence."""
        parts = [f"{count(self.images - self.unlike, 'image')} can be used"]
        if self.unlike:
            parts.append(f"{count(self.unlike, 'is', 'are')} of other channels or depth")
        if self.rejected:
            parts.append(f"{count(len(self.rejected), 'file')} cannot be read")
        if self.leaks is not None:
            exact, near = len(self.leaks.exact), len(self.leaks.near)
            kinds = [f"{exact:,} exact"] * (exact > 0) + [f"{near:,} near"] * (near > 0)
            found = f"{count(exact + near, 'leak')} ({', '.join(kinds)})" if kinds else "no leak"
            parts.append(f"{found} into {_short(self.leaks.spec)}")
        copies = sum(len(group) - 1 for group in self.duplicates)
        if copies:
            parts.append(f"{count(copies, 'is an exact copy', 'are exact copies')} of another")
        if self.near_duplicates:
            parts.append(f"{count(len(self.near_duplicates), 'pair')} of near duplicates")
        if self.conflicts:
            parts.append(f"{count(len(self.conflicts), 'label conflict')}")
        return "; ".join(parts) + "."

    def excluded(self) -> list[Rejected]:
        """What should not be trained on: rejected items, and leaks. Copies do no harm in pretraining."""
        found = {item.id: item.reason for item in self.rejected}
        if self.leaks is not None:
            for kind, pairs in (("is", self.leaks.exact), ("nearly is", self.leaks.near)):
                for pair in pairs:
                    found.setdefault(pair.first, f"{kind} {pair.second} of {self.leaks.spec}")
        return [Rejected(name, reason) for name, reason in sorted(found.items())]


def count(number: int, what: str, many: str = "") -> str:
    """The number and what it counts.

    >>> count(1, "image"), count(1200, "class has", "classes have")
    ('1 image', '1,200 classes have')
    """
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def _short(spec: str) -> str:
    """The end of a path, which is what tells a user's folders apart."""
    return "/".join(spec.rstrip("/").split("/")[-2:])
