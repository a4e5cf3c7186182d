"""The curves of docs/suggest.md, from the results of benchmarks/suggest.py: difference from random against labels.

python benchmarks/suggest_chart.py --out docs/img/suggest.svg
"""

import argparse
import json
import math
from pathlib import Path

from markupsafe import Markup

from twoviews.report.figures import Axis, Line, element, line_chart, linear_axis, marker, written

RESULTS = Path(__file__).parent / "results"
PANELS = (
    ("digits", "suggest-digits.json"),
    ("clothing10", "suggest-clothing10.json"),
    ("CIFAR-10", "suggest-cifar10.json"),
)
LOOKS = (("typical", "circle"), ("diverse", "square"), ("uncertain", "triangle"), ("mixed", "diamond"))
COLOURS = ("#0072b2", "#9a6a00", "#c2410c", "#1a1a1a")
WIDTH, HEIGHT = 380, 330
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.title{font-weight:600;font-size:14px;fill:#111}"
    ".middle{text-anchor:middle}.end{text-anchor:end}.grid{stroke:#ddd;fill:none}.axis{stroke:#666;fill:none}.reference{stroke:#111;stroke-width:1.2;"
    "fill:none}.line{fill:none;stroke-width:2}.hair{fill:none;stroke-width:1.2;stroke-opacity:.65}"
    + "".join(f".s-{n}{{stroke:{c}}}.mark.s-{n}{{fill:{c}}}" for (n, _), c in zip(LOOKS, COLOURS, strict=True))
)


def panel(title: str, path: Path, left: int) -> Markup:
    found = json.loads(path.read_text(encoding="ascii"))["strategies"]
    sizes = [row["labels"] for row in found["random"]]
    reach = math.log10(sizes[-1] / sizes[0])
    lines, ends = [], [0.0]
    for index, (name, shape) in enumerate(LOOKS):
        rows = [row["against_random"] for row in found[name]]
        # Beside each other: whiskers at one place could not be told apart.
        places = [math.log10(size) + (index - 1.5) * 0.012 * reach for size in sizes]
        means, lows, highs = ([row[key] for row in rows] for key in ("mean", "low", "high"))
        whiskers = tuple(zip(places, lows, highs, strict=True))
        lines.append(Line(name, f"s-{name}", tuple(zip(places, means, strict=True)), marker=shape, whiskers=whiskers))
        ends += [*lows, *highs]
    y = linear_axis(min(ends), max(ends), title="accuracy above random choice, points (95 %)", scale=100)
    ticks = tuple((math.log10(size), str(size)) for size in sizes)
    x = Axis(ticks[0][0] - 0.05 * reach, ticks[-1][0] + 0.05 * reach, ticks, "labels, log scale")
    chart = line_chart(lines, x=x, y=y, width=WIDTH, height=HEIGHT, label=title, levels=((0.0, ""),))
    drawn = str(chart).replace("<svg ", f'<svg x="{left}" y="56" width="{WIDTH}" height="{HEIGHT}" ', 1)
    return written(title, left + 2.0, 44.0, "title") + Markup(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    width, height = len(PANELS) * (WIDTH + 20) - 20, HEIGHT + 64
    keys = [
        marker(shape, (14.0 + 110 * at, 16.0), css=f"s-{name}") + written(name, 24.0 + 110 * at, 20.0, "key")
        for at, (name, shape) in enumerate(LOOKS)
    ]
    panels = [panel(title, RESULTS / name, at * (WIDTH + 20)) for at, (title, name) in enumerate(PANELS)]
    size = {"width": width, "height": height}
    frame = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", **size}
    paper = element("rect", {**size, "fill": "#fff"})
    options.out.write_text(f"{element('svg', frame, element('style', {}, STYLE), paper, *keys, *panels)}\n", "utf-8")


if __name__ == "__main__":
    main()
