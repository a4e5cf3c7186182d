"""Pictures of what is odd in the data, with their words, for the page of a check."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image

from twoviews.report.pictures import visible

Pictures: TypeAlias = Mapping[str, bytes]

MOST_PAIRS = 24
MOST_GROUPS = 16
MOST_OF_GROUP = 6
MOST_SHOTS = 12
_CRISP = 48
"""Pictures up to this side are enlarged with their pixels kept."""


@dataclass(frozen=True)
class Shot:
    """A picture with its words; `uri` is "" where there is none."""

    uri: str
    width: int
    height: int
    name: str
    label: str = ""
    crisp: bool = False
    other: bool = False


@dataclass(frozen=True)
class Gallery:
    """A section of pictures: groups side by side, and how many more there are."""

    id: str
    title: str
    lead: str
    groups: tuple[tuple[Shot, ...], ...]
    notes: tuple[str, ...]
    more: str


def pictured(found: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The ids whose pictures the page shows: of the data, and of what it was held against."""
    mine, other = [], []
    for group in found["duplicates"][:MOST_GROUPS]:
        mine += group[:MOST_OF_GROUP]
    for pair in found["near_duplicates"][:MOST_PAIRS]:
        mine += [pair["first"], pair["second"]]
    for conflict in found["conflicts"][:MOST_GROUPS]:
        mine += conflict["ids"][:MOST_OF_GROUP]
    for kind in ("exact", "near"):
        for pair in (found["leaks"] or {}).get(kind, ())[:MOST_PAIRS]:
            mine.append(pair["first"])
            other.append(pair["second"])
    for shown in found["extremes"].values():
        mine += list(shown)[:MOST_SHOTS]
    return list(dict.fromkeys(mine)), list(dict.fromkeys(other))


class Album:
    """Pictures by id, as data URIs; `other` marks those of the data that was held against."""

    def __init__(self, pictures: Pictures, *, other: bool = False) -> None:
        self._pictures, self._other = pictures, other

    def shot(self, name: str, *, label: str = "") -> Shot:
        data = self._pictures.get(name, b"")
        name, label = visible(name), visible(label)
        if not data:
            return Shot("", 0, 0, name, label, other=self._other)
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            (width, height), kind = image.size, str(image.format).lower()
        crisp = max(width, height) <= _CRISP
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        return Shot(uri, width, height, name, label, crisp=crisp, other=self._other)


def galleries(found: Mapping[str, Any], mine: Album, other: Album) -> list[Gallery]:
    leaks = found["leaks"] or {"exact": (), "near": (), "spec": ""}
    extremes = found["extremes"]
    return [
        _pairs(
            "leaks",
            "Leaks",
            "The same picture is in the data and, framed, in the other data. exclude.csv leaves it out of the data.",
            leaks["exact"],
            mine,
            other,
        ),
        _pairs(
            "near-leaks",
            "Near leaks",
            f"Nearly the same picture is in both. Found by {found['near_by']}; exclude.csv leaves it out of the data.",
            leaks["near"],
            mine,
            other,
        ),
        _conflicts(found["conflicts"], mine),
        _duplicates(found["duplicates"], {tuple(group) for group in found["same_files"]}, mine),
        _pairs(
            "near",
            "Near duplicates",
            f"Two pictures that are nearly the same. Found by {found['near_by']}.",
            found["near_duplicates"],
            mine,
            mine,
        ),
        _singles("long", "Long shapes", "Width by height; the central square shows the smaller part.", extremes, mine),
        _singles("darkest", "Darkest", "Mean grey, of 255.", extremes, mine),
        _singles("brightest", "Brightest", "Mean grey, of 255.", extremes, mine),
        _singles("flat", "Without contrast", "Nothing to be seen in these; mean grey, of 255.", extremes, mine),
    ]


def _pairs(id_: str, title: str, lead: str, pairs: Sequence[Mapping[str, Any]], mine: Album, other: Album) -> Gallery:
    shown = pairs[:MOST_PAIRS]
    groups = tuple((mine.shot(pair["first"]), other.shot(pair["second"])) for pair in shown)
    notes = tuple("equal pixels" if id_ == "leaks" else _distance(pair) for pair in shown)
    return Gallery(id_, title, lead, groups, notes, _more(pairs, MOST_PAIRS))


def _distance(pair: Mapping[str, Any]) -> str:
    bits = "" if pair["bits"] is None else f", {pair['bits']} of 64 bits differ"
    return f"similarity {pair['similarity']:.3f}{bits}"


def _duplicates(groups: Sequence[Sequence[str]], same_files: set[tuple[str, ...]], mine: Album) -> Gallery:
    shown = groups[:MOST_GROUPS]
    return Gallery(
        "duplicates",
        "Exact duplicates",
        "Equal in every pixel. They do no harm in pretraining; in evaluation they count more than once.",
        tuple(tuple(mine.shot(name) for name in group[:MOST_OF_GROUP]) for group in shown),
        tuple(
            f"{len(group):,} {'equal files' if tuple(group) in same_files else 'files with equal pixels'}"
            for group in shown
        ),
        _more(groups, MOST_GROUPS),
    )


def _conflicts(conflicts: Sequence[Mapping[str, Any]], mine: Album) -> Gallery:
    shown = conflicts[:MOST_GROUPS]
    return Gallery(
        "conflicts",
        "Labels that disagree",
        "The same picture, or nearly, under different labels: one of them is wrong, or the classes overlap.",
        tuple(
            tuple(
                mine.shot(name, label=label)
                for name, label in list(zip(conflict["ids"], conflict["labels"], strict=True))[:MOST_OF_GROUP]
            )
            for conflict in shown
        ),
        tuple("equal pixels" if conflict["exact"] else "nearly the same" for conflict in shown),
        _more(conflicts, MOST_GROUPS),
    )


def _singles(kind: str, title: str, lead: str, extremes: Mapping[str, Mapping[str, float]], mine: Album) -> Gallery:
    found = list(extremes[kind].items())
    groups = tuple((mine.shot(name),) for name, _ in found[:MOST_SHOTS])
    notes = tuple(f"{value:.2f}" if kind == "long" else f"{value:.0f}" for _, value in found[:MOST_SHOTS])
    return Gallery(kind, title, lead, groups, notes, _more(found, MOST_SHOTS))


def _more(found: Sequence[object], shown: int) -> str:
    return f"and {len(found) - shown:,} more (check.json)" if len(found) > shown else ""
