"""What is in the data, found by decoding all of it once: what `twoviews check` prints."""

import hashlib
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from twoviews.data.assemble import DEFAULT_SIDE, KEPT_SIDE
from twoviews.data.corpus import Rejected, sort_classes
from twoviews.data.decode import Header, OpenImage, Unreadable
from twoviews.data.pool import for_each
from twoviews.data.source import Source, Spec, Stored, open_source
from twoviews.errors import DataError
from twoviews.narrate import Narrator, quiet

_USUAL_SIZES = (64, 96, 128)  # above, training time grows by the square; who can afford it will say so
_SMALL = 64


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest value."""

    min: int
    median: float
    max: int


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A value to start from, and why."""

    value: str | int
    reason: str


@dataclass(frozen=True)
class ScanReport:
    """What `scan` found; `duplicates` are groups of ids with equal pixels, `width` and `height` in pixels."""

    spec: str
    images: int
    rejected: tuple[Rejected, ...]
    formats: dict[str, int]
    modes: dict[str, int]
    channels: int
    width: Spread
    height: Spread
    classes: dict[str, int]
    unlabelled: int
    duplicates: tuple[tuple[str, ...], ...]
    images_per_second: float
    suggestions: dict[str, Suggestion]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and text, for JSON."""
        return asdict(self)


def scan(spec: Spec, *, download: bool = False, narrator: Narrator | None = None) -> ScanReport:
    """Decode every image of `spec` once, keep nothing, and report. Raises DataError if none is readable.

    >>> report = scan("digits:val")
    >>> report.images, report.width.max, report.suggestions["policy"].value
    (400, 8, 'digits')
    """
    source = open_source(spec, download=download)
    headers: list[Header | None] = [None] * len(source)
    digests: list[bytes] = [b""] * len(source)
    reasons: dict[int, str] = {}

    def work(index: int) -> None:
        try:
            with OpenImage(source[index].read()) as image:
                header = image.header
                big = max(header.width, header.height) > KEPT_SIDE
                pixels = image.pixels(size=(DEFAULT_SIDE, DEFAULT_SIDE) if big else None)
        except Unreadable as error:
            reasons[index] = str(error)
        except Exception as error:  # `read` of a source is foreign code
            reasons[index] = f"{type(error).__name__}: {error}"[:200]
        else:
            headers[index] = header
            size = f"{header.width} {header.height} {header.channels}".encode()
            digests[index] = hashlib.blake2b(pixels.data, digest_size=16, key=size).digest()

    order = source.storage_order.tolist() if isinstance(source, Stored) else range(len(source))
    start = time.perf_counter()
    for_each(order, work, narrator=narrator or quiet(), what="checking images")
    seconds = time.perf_counter() - start
    return _report(source, headers, digests, reasons, len(source) / max(seconds, 1e-9))


def _report(
    source: Source, headers: list[Header | None], digests: list[bytes], reasons: dict[int, str], rate: float
) -> ScanReport:
    found = [header for header in headers if header is not None]
    rejected = tuple(Rejected(source[i].id, reason) for i, reason in sorted(reasons.items()))
    if not found:
        first = "; ".join(f"{item.id!r}: {item.reason}" for item in rejected[:3])
        raise DataError(f"no readable image in {source.spec!r}: {first or 'it is empty'}")
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, header in enumerate(headers):
        if header is not None:
            groups[digests[index]].append(index)
    repeated = [group for group in groups.values() if len(group) > 1]
    names = Counter(source.labels[i] for i, header in enumerate(headers) if header is not None)
    classes = {name: names[name] for name in sort_classes(name for name in names if name is not None)}
    channels = max(header.channels for header in found)
    return ScanReport(
        spec=source.spec,
        images=len(found),
        rejected=rejected,
        formats=dict(Counter(header.format for header in found).most_common()),
        modes=dict(Counter(header.mode for header in found).most_common()),
        channels=channels,
        width=_spread([header.width for header in found]),
        height=_spread([header.height for header in found]),
        classes=classes,
        unlabelled=names[None],
        duplicates=tuple(tuple(source[i].id for i in group) for group in repeated),
        images_per_second=rate,
        suggestions=suggest([min(header.width, header.height) for header in found], channels=channels),
        warnings=tuple(_warnings(source, len(found), len(rejected), classes, repeated)),
    )


def suggest(short_sides: list[int], *, channels: int) -> dict[str, Suggestion]:
    """`image_size`, `policy` and `stem` to start from, given the shorter side of every image in pixels."""
    short = round(statistics.median(short_sides))
    if short <= _SMALL:
        size, reason = short, f"the median short side is {short}"
    else:
        # Crops are taken from images stored at 1.25 times the image size.
        size = max((usual for usual in _USUAL_SIZES if usual * 1.25 <= short), default=_SMALL)
        reason = f"the median short side is {short}, and larger sizes cost time by their square"
    stem = "small" if size <= _SMALL else "standard"
    why = "a 3x3 stem keeps the resolution up to 64 pixels" if stem == "small" else "above 64 pixels"
    return {
        "image_size": Suggestion(size, reason),
        "policy": suggest_policy(size, channels=channels),
        "stem": Suggestion(stem, why),
    }


def suggest_policy(image_size: int, *, channels: int) -> Suggestion:
    """The views to start from, by the side of a view in pixels and the channels."""
    if channels == 1 and image_size <= 32:
        return Suggestion("digits", "small greyscale images: shifts and small turns, no flips")
    if image_size <= _SMALL:
        return Suggestion("simclr-small", f"at {image_size} pixels a blur would leave nothing")
    return Suggestion("simclr", f"photographs of {image_size} pixels bear all of SimCLR's operations")


def _spread(values: list[int]) -> Spread:
    return Spread(min(values), float(statistics.median(values)), max(values))


def _warnings(
    source: Source, count: int, rejected: int, classes: dict[str, int], repeated: list[list[int]]
) -> list[str]:
    texts = []
    if rejected > count:
        texts.append(f"{rejected} of {count + rejected} images are rejected: training would refuse this data")
    if count == 1:
        texts.append("one image only: there is nothing to contrast it with")
    if len(classes) == 1:
        texts.append(f"one class only, {next(iter(classes))!r}: it can be trained on, but not evaluated")
    single = [name for name, number in classes.items() if number == 1]
    if single:
        texts.append(f"{len(single)} classes have one image only, such as {single[0]!r}")
    spellings: dict[str, str] = {}
    for name in classes:
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            texts.append(f"classes {other!r} and {name!r} differ only by case")
    clashing = sum(len({source.labels[i] for i in group} - {None}) > 1 for group in repeated)
    if clashing:
        texts.append(f"{clashing} groups of equal images have labels that disagree")
    return texts
