"""Charts as inline SVG, from plain numbers: geometry only, colours come from the page's CSS variables.

Nothing here carries a style attribute or a script, so the page can forbid both. Text is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

MARKER = 4.5
"""Radius of a marker, in pixels."""

_CORNERS = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "triangle": ((0, -1.2), (1.2, 0.9), (-1.2, 0.9)),
}


@dataclass(frozen=True)
class Axis:
    """A range and its ticks (position, text), in the units of the data."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str = ""
    scale: float = 1.0
    """What a value is multiplied by when it is written: 100 for per cent."""

    def place(self, value: float, start: float, stop: float) -> float:
        """Where a value lies between two page coordinates."""
        return start + (value - self.low) / (self.high - self.low) * (stop - start)


@dataclass(frozen=True)
class Line:
    """A series: name, CSS class, points, and for some a band (x, low, high), titled markers, an end text.

    `whiskers`: (x, low, high) as thin upright lines; `sizes`: radii of the markers, in pixels.
    """

    name: str
    css: str
    points: tuple[Point, ...]
    band: tuple[tuple[float, float, float], ...] = ()
    titles: tuple[str, ...] = ()
    end: str = ""
    marker: str = ""
    whiskers: tuple[tuple[float, float, float], ...] = ()
    sizes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Arrow:
    """From a point to the right, at one height; `beyond` ends it open: the goal lies further on."""

    start: Point
    stop: float
    text: str
    title: str
    beyond: bool = False


def element(name: str, attributes: Mapping[str, object], *children: str | Markup) -> Markup:
    """One element with every attribute and every child escaped that is not already markup."""
    opened = "".join(f' {key}="{escape(plain(value))}"' for key, value in attributes.items() if value is not None)
    return Markup(f"<{name}{opened}>{''.join(escape(child) for child in children)}</{name}>")


def linear_axis(low: float, high: float, *, title: str = "", count: int = 5, scale: float = 1.0) -> Axis:
    """An axis over [low, high] with round ticks, widened to them. `scale` multiplies the tick texts."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1.0):
        pad = max(abs(low) * 0.1, 0.05)
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    digits = max(0, -math.floor(math.log10(step * scale) + 1e-9))
    digits += 1 if abs(round(step * scale, digits) - step * scale) > 1e-9 * step * scale else 0
    ticks = tuple((i * step, f"{i * step * scale:,.{digits}f}") for i in range(first, last + 1))
    return Axis(first * step, last * step, ticks, title, scale)


def line_chart(
    lines: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    width: int,
    height: int,
    label: str,
    right: int = 14,
    levels: Sequence[tuple[float, str]] = (),
    arrows: Sequence[Arrow] = (),
    gap: float | None = None,
    aside: bool = False,
) -> Markup:
    """Lines over a grid, with bands, markers, texts at the ends, dotted levels, arrows and an axis gap.

    Titles of the axes stand below the one and on top of the other; a tick's text may have a second line.
    `right` is the margin in which the texts at the ends stand, with `aside` those of shorter lines too, which would lie
    on other lines; `gap` is an x at which the axis is broken.
    """
    left, top = 44, 34 if y.title else 14
    bottom = height - (54 if any("\n" in text for _, text in x.ticks) else 40)
    stop = width - right

    def at(point: Point) -> Point:
        return x.place(point[0], left, stop), y.place(point[1], bottom, top)

    parts = [_grid(x, y, left=left, top=top, bottom=bottom, stop=stop)]
    if gap is not None:
        where = x.place(gap, left, stop)
        parts.append(path(f"M{plain(where - 6)} {bottom + 5}l4 -10m3 10l4 -10", "gap"))
    for value, words in levels:
        level = y.place(value, bottom, top)
        parts.append(path(f"M{left} {plain(level)}H{stop}", "reference"))
        if words:
            parts.append(written(words, stop - 2, level - 5, "note end"))
    for line in lines:
        if len(line.band) > 1:
            upper = [at((px, high)) for px, _, high in line.band]
            lower = [at((px, low)) for px, low, _ in reversed(line.band)]
            parts.append(element("polygon", {"class": f"band {line.css}", "points": _places([*upper, *lower])}))
        elif line.band and line.band[0][1] < line.band[0][2]:
            px, low, high = line.band[0]
            start, end = at((px, low)), at((px, high))
            d = f"M{_places([start])}L{_places([end])}"
            parts.append(path(d, f"spread {line.css}"))
    for line in lines:
        for px, low, high in line.whiskers:
            upright = _places([at((px, low)), at((px, high))]).replace(" ", "L")
            parts.append(path(f"M{upright}", f"hair {line.css}"))
    for index, line in enumerate(lines):
        places = [at(point) for point in line.points]
        drawn = {
            "class": f"line {line.css}",
            "points": _places(places),
            "data-name": line.name,
            "data-index": index,
        }
        parts.append(element("polyline", drawn))
        if line.marker or line.titles:
            titles = line.titles or ("",) * len(places)
            sizes = line.sizes or (MARKER,) * len(places)
            marks = [
                marker(line.marker, place, css=line.css, title=title, size=size)
                for place, title, size in zip(places, titles, sizes, strict=True)
            ]
            parts.append(element("g", {"data-of": index}, *marks))
    parts += [_arrow(arrow, at(arrow.start), x.place(arrow.stop, left, stop)) for arrow in arrows]
    ends = [(at(line.points[-1]), line) for line in lines if line.end and line.points]
    for height_at, (place, line) in zip(_spread([p[1] for p, _ in ends], top, bottom), ends, strict=True):
        parts.append(written(line.end, (stop if aside else place[0]) + 9, height_at + 4, f"end-label {line.css}"))
    frame = {
        "class": "chart",
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-label": label,
        "data-box": f"{left} {stop} {bottom} {top}",
        "data-range": f"{x.low} {x.high} {y.low} {y.high}",
        "data-x": x.title,
        "data-scale": y.scale,
    }
    return element("svg", frame, *parts)


def marker(shape: str, place: Point, *, css: str, title: str = "", size: float = MARKER) -> Markup:
    """A circle, square, diamond or triangle: shape doubles what colour says. "" is a title only."""
    px, py = place
    corners = [(px + size * dx, py + size * dy) for dx, dy in _CORNERS.get(shape, ())]
    inside = (element("title", {}, title),) if title else ()
    if corners:
        return element("polygon", {"class": f"mark {css}", "points": _places(corners)}, *inside)
    return element("circle", {"class": f"mark {css}" if shape else "hit", "cx": px, "cy": py, "r": size}, *inside)


def swatch(css: str, shape: str) -> Markup:
    """A short piece of a line, for legends."""
    line = element("polyline", {"class": f"line {css}", "points": "1,7 27,7"})
    mark = marker(shape, (14, 7), css=css) if shape else Markup()
    return element("svg", {"class": "swatch", "viewBox": "0 0 28 14", "aria-hidden": "true"}, line, mark)


def interval(low: float, mean: float, high: float, *, reach: tuple[float, float]) -> Markup:
    """A difference with its interval beside zero, drawn within `reach`, which holds zero."""
    axis = Axis(*reach, ())
    start, middle, stop = (axis.place(value, 6, 154) for value in (low, mean, high))
    parts = [
        path(f"M{plain(axis.place(0.0, 6, 154))} 1V17", "axis"),
        path(f"M{plain(start)} 9H{plain(stop)}", "whisker"),
        marker("circle", (middle, 9), css="s-difference", size=4),
    ]
    return element("svg", {"class": "interval", "viewBox": "0 0 160 18", "aria-hidden": "true"}, *parts)


def _grid(x: Axis, y: Axis, *, left: int, top: int, bottom: int, stop: int) -> Markup:
    parts = []
    for value, text in y.ticks:
        level = y.place(value, bottom, top)
        parts.append(path(f"M{left} {plain(level)}H{stop}", "grid"))
        parts.append(written(text, left - 7, level + 4, "tick end"))
    for value, text in x.ticks:
        where = x.place(value, left, stop)
        first, _, second = text.partition("\n")
        parts.append(path(f"M{plain(where)} {bottom}v4", "axis"))
        if first:
            parts.append(written(first, where, bottom + 18, "tick middle"))
        if second:
            parts.append(written(second, where, bottom + 32, "tick middle second"))
    parts.append(path(f"M{left} {bottom}H{stop}", "axis"))
    below = 49 if any("\n" in text for _, text in x.ticks) else 35
    parts.append(written(x.title, (left + stop) / 2, bottom + below, "axis-title middle"))
    if y.title:
        parts.append(written(y.title, 2, 12, "axis-title"))
    return Markup("").join(parts)


def _arrow(arrow: Arrow, start: Point, stop: float) -> Markup:
    """The arrow with its text above, where there is room for it; nothing where it would be shorter than its head."""
    begin, level = start[0] + MARKER + 3, start[1]
    if stop - begin < 8:
        return Markup()
    head = f"M{plain(stop - 6)} {plain(level - 4)}L{plain(stop)} {plain(level)}L{plain(stop - 6)} {plain(level + 4)}"
    parts = [
        element("title", {}, arrow.title),
        path(f"M{plain(begin)} {plain(level)}H{plain(stop)}", "shaft beyond" if arrow.beyond else "shaft"),
        path(head, "head"),
    ]
    if stop - begin > 6.6 * len(arrow.text):
        parts.append(written(arrow.text, (begin + stop) / 2, level - 6, "arrow-text middle"))
    return element("g", {"class": "arrow"}, *parts)


def _spread(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """The heights moved apart by a line of text each, as little as need be, in the same order."""
    line = 14.0
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = [heights[i] for i in order]
    for _ in range(40):
        for i in range(len(moved) - 1):
            lack = line - (moved[i + 1] - moved[i])
            if lack > 0:
                moved[i] -= lack / 2
                moved[i + 1] += lack / 2
        if moved:
            shift = max(0.0, top - moved[0]) - max(0.0, moved[-1] - bottom)
            moved = [value + shift for value in moved] if moved[-1] - moved[0] <= bottom - top else moved
    placed = dict(zip(order, moved, strict=True))
    return [placed[i] for i in range(len(heights))]


def path(d: str, css: str) -> Markup:
    """A path."""
    return element("path", {"class": css, "d": d})


def written(text: str, x: float, y: float, css: str) -> Markup:
    """A text; `css` says how it is aligned."""
    return element("text", {"class": css, "x": x, "y": y}, text)


def turned(text: str, x: float, y: float, css: str, *, angle: int) -> Markup:
    """A text that is turned around its start."""
    return element("text", {"class": css, "transform": f"translate({plain(x)} {plain(y)}) rotate({angle})"}, text)


def _places(places: Sequence[Point]) -> str:
    return " ".join(f"{plain(px)},{plain(py)}" for px, py in places)


def plain(value: object) -> str:
    """One decimal is a tenth of a pixel: enough, and half the bytes."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
