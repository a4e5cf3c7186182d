"""A confusion matrix as inline SVG: counts in shades, errors in another colour."""

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup

from twoviews.report.arms import shortened
from twoviews.report.figures import element, plain, turned, written

NAMED = 40
"""Up to so many classes rows and columns have names, and each cell its own words."""
SHADES = 12


def confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Markup:
    """Rows are true classes, columns predicted ones; the shade is the part of the row, the text the count."""
    count = len(matrix)
    names = [shortened(classes[i] if i < len(classes) else str(i), 12) for i in range(count)]
    longest = max((len(name) for name in names), default=0) if count <= NAMED else 0
    room = 32 + 7 * longest
    cell = max(4.0, min(34.0, 560 / max(count, 1)))
    side = cell * count
    parts: list[Markup] = [written("predicted", room + side / 2, 12, "axis-title middle")]
    parts.append(turned("true", 10, room + side / 2, "axis-title middle", angle=-90))
    parts.append(element("rect", {"class": "field", "x": room, "y": room, "width": side, "height": side}))
    if count <= NAMED:
        parts += _names(names, room=room, cell=cell, turn=longest > 2)
        parts += _cells(matrix, classes, room=room, cell=cell)
    else:
        parts += _shades(matrix, room=room, cell=cell)
    frame = {"class": "confusion", "viewBox": f"0 0 {plain(room + side + 2)} {plain(room + side + 2)}"}
    return element("svg", frame | {"role": "img", "aria-label": "confusion matrix"}, *parts)


def _names(names: Sequence[str], *, room: float, cell: float, turn: bool) -> list[Markup]:
    parts = []
    for i, name in enumerate(names):
        middle = room + (i + 0.5) * cell
        parts.append(written(name, room - 6, middle + 4, "tick end"))
        if turn:
            parts.append(turned(name, middle + 4, room - 7, "tick", angle=-90))
        else:
            parts.append(written(name, middle, room - 7, "tick middle"))
    return parts


def _cells(matrix: Sequence[Sequence[int]], classes: Sequence[str], *, room: float, cell: float) -> list[Markup]:
    parts = []
    for i, row in enumerate(matrix):
        total = sum(row)
        for j, value in enumerate(row):
            if not value or not total:
                continue
            part = value / total
            box: dict[str, object] = {
                "class": "cell" if i == j else "cell wrong",
                "fill-opacity": f"{0.08 + 0.92 * part:.3f}",
                "x": room + j * cell + 0.5,
                "y": room + i * cell + 0.5,
                "width": cell - 1,
                "height": cell - 1,
            }
            true, predicted = (classes[k] if k < len(classes) else str(k) for k in (i, j))
            title = f"true {true}, predicted {predicted}: {value} of {total}"
            parts.append(element("rect", box, element("title", {}, title)))
            if cell >= 17:
                css = "count middle strong" if part > 0.5 else "count middle"
                parts.append(written(str(value), room + (j + 0.5) * cell, room + (i + 0.5) * cell + 4, css))
    return parts


def _shades(matrix: Sequence[Sequence[int]], *, room: float, cell: float) -> list[Markup]:
    """All cells of one shade as one path: thousands of them would make the page heavy."""
    found: dict[tuple[bool, int], list[str]] = defaultdict(list)
    for i, row in enumerate(matrix):
        total = sum(row)
        for j, value in enumerate(row):
            if value and total:
                shade = max(1, round(SHADES * (value / total) ** 0.5))
                side = plain(cell)
                corner = f"M{plain(room + j * cell)} {plain(room + i * cell)}"
                found[i != j, shade].append(f"{corner}h{side}v{side}h-{side}z")
    return [
        element(
            "path",
            {
                "class": "cell wrong" if wrong else "cell",
                "fill-opacity": f"{0.08 + 0.92 * (s / SHADES) ** 2:.3f}",
                "d": "".join(d),
            },
        )
        for (wrong, s), d in sorted(found.items())
    ]
