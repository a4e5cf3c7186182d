"""What is in the data, found by decoding all of it once: what `twoviews check` tells."""

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from twoviews.data.assemble import Storage, choose_form
from twoviews.data.checking.examine import EIGHT_BITS
from twoviews.data.checking.findings import SMALLEST_SIDE, Findings, Match, inspect_source
from twoviews.data.checking.prints import has_contrast
from twoviews.data.checking.process import Request
from twoviews.data.checking.scan_report import Alike, Conflict, Leaks, Nearness, ScanReport, Spread, count
from twoviews.data.checking.suggest import suggest, suggest_intensity, suggest_policy
from twoviews.data.corpus import Rejected, sort_classes
from twoviews.data.decoding.decode import Header
from twoviews.data.decoding.intensity import in_words
from twoviews.data.source import Source, Spec, is_grouped, open_source
from twoviews.narrate import Narrator, quiet

__all__ = ["ScanReport", "scan", "suggest", "suggest_policy"]

BY_HASH = "perceptual hash and thumbnail"
_MOST_SIZES = 400
_SHOWN_EXTREMES = 6
_DARK, _BRIGHT = 16.0, 239.0
_LONG = 2.5
"""Ratio of the sides from which an image is listed: its central square shows less than half of it."""
_UNEVEN = 10
_Key = TypeVar("_Key", bound=Hashable)


def scan(
    spec: Spec,
    *,
    against: Spec | None = None,
    labels: str | Path | None = None,
    nearness: Nearness | None = None,
    download: bool = False,
    request: Request | None = None,
    narrator: Narrator | None = None,
) -> ScanReport:
    """Decode every image of `spec` once, in processes that may crash, and report.

    `against`: data that must not be in it, such as the test part; `labels`: a manifest joined by id; `nearness`: near
    duplicates to report in place of those found by hash. The suggestions are for a machine without a GPU.
    Raises DataError if none is readable, ResourceError if no process can be started.

    >>> report = scan("digits:val")
    >>> report.images, report.width.max, report.suggestions["policy"].value
    (400, 8, 'digits')
    """
    narrator, request = narrator or quiet(), request or Request()
    source = open_source(spec, labels=labels, download=download)
    other = None if against is None else open_source(against, download=download)
    found = inspect_source(source, request=request, narrator=narrator, what="checking images")
    leaks = None
    if other is not None:
        seen = inspect_source(other, request=request, narrator=narrator, what="checking the other images")
        leaks = _leaks(found, seen, nearness)
    return _report(found, leaks=leaks, nearness=nearness)


def _report(found: Findings, *, leaks: Leaks | None, nearness: Nearness | None) -> ScanReport:
    source, rows = found.source, found.readable
    headers = [header for header in found.headers if header is not None]
    names = Counter(source.labels[row] for row in rows)
    classes = {name: names[name] for name in sort_classes(name for name in names if name is not None)}
    equal = found.equal(found.pixel_digests)
    near = found.near(equal) if nearness is None else []
    pairs = _alike(near, found, found)
    if nearness is not None:
        group_of = {name: number for number, group in enumerate(equal) for name in found.ids(group)}
        pairs = tuple(
            p for p in nearness.within if p.first not in group_of or group_of[p.first] != group_of.get(p.second)
        )
    rejected = _rejected(found)
    depths = Counter(header.depth for header in headers)
    form = choose_form(headers, Storage())
    conflicts = _conflicts(source, equal, pairs)
    suggestions = suggest([min(h.width, h.height) for h in headers], channels=form.channels)
    suggestions["intensity"] = suggest_intensity(depths, [found.deep[row] for row in sorted(found.deep)])
    misnamed = found.misnamed()
    return ScanReport(
        spec=source.spec,
        images=len(rows),
        rejected=rejected,
        formats=_counts(header.format for header in headers),
        modes=_counts(header.mode for header in headers),
        depths=_counts(header.depth for header in headers),
        notes=_counts(header.note for header in headers if header.note),
        channels=form.channels,
        channels_found=_counts(header.channels for header in headers),
        width=_spread([header.width for header in headers]),
        height=_spread([header.height for header in headers]),
        aspect=_spread([round(header.width / header.height, 4) for header in headers]),
        sizes=_sizes(headers),
        bytes=int(found.file_sizes.sum()),
        classes=classes,
        balance=_balance(list(classes.values())),
        unlabelled=names[None],
        groups=len(set(source.groups) - {None}) if is_grouped(source) else None,
        duplicates=tuple(found.ids(group) for group in equal),
        same_files=tuple(found.ids(group) for group in found.equal(found.file_digests)),
        near_by=_by_hash(headers) if nearness is None else nearness.by,
        near_duplicates=pairs,
        conflicts=conflicts,
        misnamed={source[row].id: kind for row, kind in misnamed},
        extremes=_extremes(found),
        leaks=leaks,
        images_per_second=len(source) / max(found.seconds, 1e-9),
        suggestions=suggestions,
        warnings=tuple(_warnings(len(rows), rejected, classes, headers, conflicts, misnamed, leaks)),
        unlike=sum(_unlike(headers)),
    )


def _leaks(found: Findings, other: Findings, nearness: Nearness | None) -> Leaks:
    exact = found.equal_to(other)
    if nearness is None:
        near = _alike(found.near_to(other, but=[match.first for match in exact]), found, other)
    else:
        known = {found.source[match.first].id for match in exact}
        near = tuple(pair for pair in nearness.against if pair.first not in known)
    shared: set[str | None] = set()
    if is_grouped(found.source) and is_grouped(other.source):
        shared = (set(found.source.groups) & set(other.source.groups)) - {None}
    return Leaks(
        spec=other.source.spec,
        images=len(other.readable),
        rejected=_rejected(other),
        exact=_alike(exact, found, other),
        near=near,
        groups=tuple(sorted(str(name) for name in shared)),
    )


def _alike(matches: Sequence[Match], found: Findings, other: Findings) -> tuple[Alike, ...]:
    return tuple(
        Alike(found.source[match.first].id, other.source[match.second].id, match.similarity, match.bits)
        for match in matches
    )


def _rejected(found: Findings) -> tuple[Rejected, ...]:
    return tuple(Rejected(found.source[row].id, reason) for row, reason in sorted(found.reasons.items()))


def _conflicts(source: Source, equal: Sequence[Sequence[int]], pairs: Sequence[Alike]) -> tuple[Conflict, ...]:
    found = []
    for group in equal:
        labels = [(source[row].id, label) for row in group if (label := source.labels[row]) is not None]
        if len({label for _, label in labels}) > 1:
            found.append(Conflict(tuple(name for name, _ in labels), tuple(label for _, label in labels), exact=True))
    if pairs:
        label_of = {source[row].id: source.labels[row] for row in range(len(source))}
        for pair in pairs:
            first, second = label_of[pair.first], label_of[pair.second]
            if first is not None and second is not None and first != second:
                found.append(Conflict((pair.first, pair.second), (first, second), exact=False))
    return tuple(found)


def _by_hash(headers: Sequence[Header]) -> str:
    small = sum(min(header.width, header.height) < SMALLEST_SIDE for header in headers)
    return BY_HASH + (f", without {count(small, 'image')} of a side below {SMALLEST_SIDE} px" if small else "")


def _extremes(found: Findings) -> dict[str, dict[str, float]]:
    """The images that stand out by light or shape; values of more than 8 bits have no light to speak of."""
    rows = [(row, header) for row, header in enumerate(found.headers) if header is not None]
    plain = np.array([row for row, header in rows if header.depth == EIGHT_BITS], dtype=np.int64)
    thumbs = found.thumbs[plain]
    means = thumbs.reshape(len(plain), 256).mean(axis=1, dtype=np.float32)
    contrast = has_contrast(thumbs)
    order = np.argsort(means, kind="stable").tolist()
    dark = [i for i in order if means[i] < _DARK and contrast[i]][:_SHOWN_EXTREMES]
    bright = [i for i in order[::-1] if means[i] > _BRIGHT and contrast[i]][:_SHOWN_EXTREMES]
    shapes = sorted(
        ((row, header.width / header.height) for row, header in rows), key=lambda pair: -abs(math.log(pair[1]))
    )
    by_light = {"darkest": dark, "brightest": bright, "flat": np.flatnonzero(~contrast).tolist()}
    return {
        **{
            name: {found.source[int(plain[i])].id: round(float(means[i]), 1) for i in places}
            for name, places in by_light.items()
        },
        "long": {found.source[row].id: round(ratio, 3) for row, ratio in shapes if max(ratio, 1 / ratio) >= _LONG},
    }


def _sizes(headers: Sequence[Header]) -> tuple[tuple[int, int, int], ...]:
    sizes = Counter((header.width, header.height) for header in headers)
    digits = 3
    while len(sizes) > _MOST_SIZES:  # what a chart could not tell apart
        rounded: Counter[tuple[int, int]] = Counter()
        for (width, height), number in sizes.items():
            rounded[_round(width, digits), _round(height, digits)] += number
        sizes, digits = rounded, digits - 1
        if not digits:
            break
    return tuple((width, height, number) for (width, height), number in sizes.most_common(_MOST_SIZES))


def _round(value: int, digits: int) -> int:
    return round(value, digits - len(str(value)))


def _balance(counts: Sequence[int]) -> float | None:
    """Entropy of the classes by that of classes of one size: 1 is even; None for fewer than two."""
    if len(counts) < 2:
        return None
    shares = np.array(counts) / sum(counts)
    return round(float(-(shares * np.log(shares)).sum() / math.log(len(counts))), 4)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(min(values), float(statistics.median(values)), max(values))


def _counts(values: Iterable[_Key]) -> dict[_Key, int]:
    return dict(Counter(values).most_common())


def _warnings(
    images: int,
    rejected: Sequence[Rejected],
    classes: dict[str, int],
    headers: Sequence[Header],
    conflicts: Sequence[Conflict],
    misnamed: Sequence[tuple[int, str]],
    leaks: Leaks | None,
) -> list[str]:
    texts = []
    if len(rejected) > images:
        texts.append(
            f"{len(rejected)} of {images + len(rejected)} images are rejected: training would refuse this data"
        )
    if images == 1:
        texts.append("one image only: there is nothing to contrast it with")
    texts += _class_warnings(classes)
    exact = sum(conflict.exact for conflict in conflicts)
    if exact:
        which = count(exact, "group of equal images has", "groups of equal images have")
        texts.append(f"{which} labels that disagree")
    if len(conflicts) > exact:
        which = count(len(conflicts) - exact, "pair of near duplicates has", "pairs of near duplicates have")
        texts.append(f"{which} labels that disagree")
    if misnamed:
        texts.append(f"{count(len(misnamed), 'file is', 'files are')} of another format than the name says")
    usual = choose_form(headers, Storage())
    misfits, others = _unlike(headers)
    if misfits:
        which = count(misfits, "image has", "images have")
        texts.append(f"{which} not the {usual.channels} channels of the others: training leaves them out")
    if others:
        which = f"{count(others, 'image has', 'images have')} not {in_words(usual.depth)} as the others"
        texts.append(f"{which}: left out by training, unless data.intensity takes both")
    if leaks is not None:
        found = len(leaks.exact) + len(leaks.near)
        if found:
            which = f"{count(found, 'image is', 'images are')} also in {leaks.spec}"
            texts.append(f"{which}: exclude.csv of --out lists them for pretrain --exclude")
        if leaks.groups:
            texts.append(f"{count(len(leaks.groups), 'group is', 'groups are')} in both, such as {leaks.groups[0]!r}")
    return texts


def _unlike(headers: Sequence[Header]) -> tuple[int, int]:
    """How many images training leaves out by itself: for their channels, and for their depth."""
    usual = choose_form(headers, Storage())
    fitting = [header for header in headers if not usual.misfit(header)]
    return len(headers) - len(fitting), sum(header.depth != usual.depth for header in fitting)


def _class_warnings(classes: dict[str, int]) -> list[str]:
    texts = []
    if len(classes) == 1:
        texts.append(f"one class only, {next(iter(classes))!r}: it can be trained on, but not evaluated")
    single = [name for name, number in classes.items() if number == 1]
    if single:
        texts.append(f"{count(len(single), 'class has', 'classes have')} one image only, such as {single[0]!r}")
    if len(classes) > 1 and max(classes.values()) >= _UNEVEN * min(classes.values()):
        most, least = max(classes, key=classes.__getitem__), min(classes, key=classes.__getitem__)
        texts.append(f"classes are uneven: {most!r} has {classes[most]:,} images, {least!r} {classes[least]:,}")
    spellings: dict[str, str] = {}
    for name in classes:
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            texts.append(f"classes {other!r} and {name!r} differ only by case")
    return texts
