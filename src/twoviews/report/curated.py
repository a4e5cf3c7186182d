"""`write_curated_page`: duplicates, outliers or suspect labels that were found, with pictures, as one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from twoviews.report.albums import Album, Gallery, Pictures
from twoviews.report.figures import element, linear_axis
from twoviews.report.pictures import visible
from twoviews.report.template import HERE, policy_hash, template, write_page

_LEFT, _TOP, _BOTTOM, _RIGHT = 46, 24, 42, 14
_BINS = 50


@dataclass(frozen=True)
class Section:
    """Groups of pictures with a note each: `groups` hold (id, words) pairs; `more` says what is not shown."""

    id: str
    title: str
    lead: str
    groups: Sequence[Sequence[tuple[str, str]]]
    notes: Sequence[str]
    more: str = ""


@dataclass(frozen=True)
class Curated:
    """What the page says: the command's name, the data, one sentence, facts in a table, sections of pictures.

    `nearest` and `twins`: similarities that are drawn with the `threshold`, where there is one.
    """

    command: str
    spec: str
    sentence: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    nearest: Sequence[float] = ()
    twins: Sequence[float] = ()
    threshold: float | None = None


def write_curated_page(path: Path, found: Curated, *, pictures: Pictures) -> Path:
    """Write the page and return where it lies.

    `pictures`: encoded JPEG or PNG images by id; what lacks is shown without. The page makes no request and runs no
    script. Raises ResourceError where it cannot be written.

    >>> write_curated_page(Path("found.html"), found, pictures={})          # doctest: +SKIP
    PosixPath('found.html')
    """
    style = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "check.css", "curated.css"))
    album = Album(pictures)
    galleries = [
        Gallery(
            part.id,
            part.title,
            part.lead,
            tuple(tuple(album.shot(name, label=words) for name, words in group) for group in part.groups),
            tuple(part.notes),
            part.more,
        )
        for part in found.sections
        if part.groups
    ]
    page = template("curated.html.j2", filters={"visible": visible})
    allowed = f"img-src data:; style-src {policy_hash(style)}"
    html = page.render(
        policy=f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        found=found,
        galleries=galleries,
        wide=_similarities(found, width=960, height=260),
        narrow=_similarities(found, width=340, height=230),
    )
    return write_page(path, html)


def _similarities(found: Curated, *, width: int, height: int) -> Markup:
    """Two histograms over one axis: images to their nearest other, changed copies to their images; the threshold."""
    if found.threshold is None or not found.nearest:
        return Markup()
    # Half of the nearest neighbours say where the rest lies; the far tail would take all the room.
    values = sorted([*found.nearest, *found.twins, found.threshold])
    x = linear_axis(max(-1.0, values[len(values) // 100] - 0.02), 1.0)
    stop, bottom = width - _RIGHT, height - _BOTTOM
    parts = []
    for at, text in x.ticks:
        where = x.place(at, _LEFT, stop)
        parts.append(element("path", {"class": "grid", "d": f"M{where:.1f} {_TOP}V{bottom}"}))
        parts.append(element("text", {"class": "tick middle", "x": where, "y": bottom + 17}, text))
    for css, name, data in (("near", "images", found.nearest), ("copy", "copies", found.twins)):
        counts = [0] * _BINS
        for value in data:
            if x.low <= value:
                counts[min(_BINS - 1, int((value - x.low) / (x.high - x.low) * _BINS))] += 1
        for at, count in enumerate(counts):
            # Shares of the highest bar: few copies stand beside many images.
            size = (bottom - _TOP) * count / max(1, *counts)
            left, right = (x.place(x.low + (x.high - x.low) * i / _BINS, _LEFT, stop) for i in (at, at + 1))
            if count:
                box = {"x": left, "y": bottom - size, "width": right - left, "height": size}
                parts.append(element("rect", {"class": css, **box}, element("title", {}, f"{count:,} {name}")))
    place = x.place(found.threshold, _LEFT, stop)
    parts.append(element("path", {"class": "limit", "d": f"M{place:.1f} {_TOP - 6}V{bottom}"}))
    side, shift = ("end", -6) if place > (stop + _LEFT) / 2 else ("start", 6)
    text = f"threshold {found.threshold:.4f}"
    parts.append(element("text", {"class": f"tick {side}", "x": place + shift, "y": _TOP - 10}, text))
    middle = (_LEFT + stop) / 2
    title = "similarity (cosine, whitened)"
    parts.append(element("text", {"class": "axis-title middle", "x": middle, "y": height - 6}, title))
    label = "how similar images are to the nearest other one, and changed copies to their image"
    return element(
        "svg", {"class": "chart", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": label}, *parts
    )
