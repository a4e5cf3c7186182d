"""The sizes of images as a chart: a dot a size, its area the number of images."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from twoviews.report.figures import Axis, element

_LEFT, _TOP, _BOTTOM, _RIGHT = 52, 12, 42, 14


def size_chart(sizes: Sequence[Sequence[int]], *, width: int, height: int) -> Markup:
    """(width, height, images) on logarithmic axes of one scale, so that a diagonal is one shape."""
    if not sizes:
        return Markup()
    x, y = _axis([size[0] for size in sizes]), _axis([size[1] for size in sizes])
    # One scale for both: the longer axis decides, the other is widened around its middle.
    stop, bottom = width - _RIGHT, height - _BOTTOM
    unit = max((x.high - x.low) / (stop - _LEFT), (y.high - y.low) / (bottom - _TOP))
    x, y = _widen(x, unit * (stop - _LEFT)), _widen(y, unit * (bottom - _TOP))
    parts = []
    for at, text in _ticks(y):
        level = y.place(at, bottom, _TOP)
        parts.append(element("path", {"class": "grid", "d": f"M{_LEFT} {level:.1f}H{stop}"}))
        parts.append(element("text", {"class": "tick end", "x": _LEFT - 7, "y": level + 4}, text))
    for at, text in _ticks(x):
        where = x.place(at, _LEFT, stop)
        parts.append(element("path", {"class": "grid", "d": f"M{where:.1f} {_TOP}V{bottom}"}))
        parts.append(element("text", {"class": "tick middle", "x": where, "y": bottom + 17}, text))
    parts.append(_square(x, y, stop=stop, bottom=bottom))
    middle = (_LEFT + stop) / 2
    parts.append(element("text", {"class": "axis-title middle", "x": middle, "y": height - 6}, "width, px"))
    turned = f"translate(12 {(bottom + _TOP) / 2:.1f}) rotate(-90)"
    parts.append(element("text", {"class": "axis-title middle", "transform": turned}, "height, px"))
    most = max(size[2] for size in sizes)
    for wide, high, count in sorted(sizes, key=lambda size: -size[2]):  # small dots on top
        title = element("title", {}, f"{wide:,} x {high:,} px: {count:,} image{'' if count == 1 else 's'}")
        place = {"cx": x.place(math.log(wide), _LEFT, stop), "cy": y.place(math.log(high), bottom, _TOP)}
        radius = 2.5 + 13.0 * math.sqrt(count / most)
        parts.append(element("circle", {"class": "size", **place, "r": radius}, title))
    label = "sizes of the images: height over width, a larger dot for more images"
    return element(
        "svg", {"class": "chart", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": label}, *parts
    )


def _axis(values: Sequence[int]) -> Axis:
    low, high = math.log(max(1, min(values))), math.log(max(1, max(values)))
    return Axis(low - 0.12, high + 0.12, ())


def _widen(axis: Axis, length: float) -> Axis:
    middle = (axis.low + axis.high) / 2
    length = max(length, 0.9)
    return Axis(middle - length / 2, middle + length / 2, ())


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """Round numbers, as many as have room."""
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [
            value
            for power in range(7)
            for step in steps
            if axis.low <= math.log(value := step * 10**power) <= axis.high and float(value).is_integer()
        ]
        if len(found) <= 6:
            break
    return [(math.log(value), f"{value:,.0f}") for value in found]


def _square(x: Axis, y: Axis, *, stop: int, bottom: int) -> Markup:
    """The diagonal of squares, where it crosses the chart."""
    low, high = max(x.low, y.low), min(x.high, y.high)
    if low >= high:
        return Markup()
    start, end = (f"{x.place(value, _LEFT, stop):.1f} {y.place(value, bottom, _TOP):.1f}" for value in (low, high))
    return element("path", {"class": "reference", "d": f"M{start}L{end}"}, element("title", {}, "square images"))
