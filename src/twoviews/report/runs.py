"""`write_runs_page`: several runs in one table and one picture, as one HTML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from twoviews.report.arms import Arm, Budget, Spread, arm_of, order_arms, order_budgets, shortened
from twoviews.report.charts import Panel
from twoviews.report.figures import line_chart, linear_axis, swatch
from twoviews.report.labels import LabelScale
from twoviews.report.page import FILTERS
from twoviews.report.results import METRICS, Comparison, Row
from twoviews.report.template import HERE, policy_hash, template, write_page
from twoviews.report.verdicts import LONG, Difference, differences, headline_of

SHAPES = ("circle", "square", "diamond", "triangle")
COLOURS = 10


@dataclass(frozen=True)
class Block:
    """The table of one arm: a row a run, a column a budget; `best` holds the highest mean of each column."""

    arm: str
    name: str
    budgets: list[Budget]
    rows: list[tuple[str, dict[Budget, Spread]]]
    best: set[tuple[str, Budget]]


def write_runs_page(path: Path, found: Mapping[str, Any]) -> Path:
    """Write the page of `found` (what `compare_runs` gives) and return where it lies.

    The page makes no request and runs no script. Raises ResourceError where it cannot be written.

    >>> write_runs_page(Path("runs.html"), twoviews.compare_runs(["runs/a", "runs/b"]))          # doctest: +SKIP
    """
    style = (HERE / "page.css").read_text(encoding="utf-8")
    names = [run["name"] for run in found["runs"]]
    headline, rest = headline_of(found["sentence"])
    blocks = _blocks(found, names)
    panels = {block.arm: _panel(block, found, names) for block in blocks}
    main = found["arm"] if found["arm"] in panels else next(iter(panels), None)
    html = template("compare.html.j2", filters=FILTERS).render(
        policy=f"default-src 'none'; style-src {policy_hash(style)}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        found=found,
        headline=headline,
        rest=rest,
        size="long" if len(headline) > LONG else "",
        metric=METRICS.get(found["metric"], found["metric"]),
        arm="" if found["arm"] is None else arm_of(found["arm"]).name,
        arm_of=arm_of,
        blocks=sorted(blocks, key=lambda block: block.arm != main),
        main=panels.get(main) if main is not None else None,
        further=[panel for arm, panel in panels.items() if arm != main and not arm_of(arm).floor],
        legend=[(swatch(_drawn(i, name).css, _drawn(i, name).shape), name) for i, name in enumerate(names)],
        budgets=order_budgets(pair["labels_per_class"] for pair in found["pairs"]),
        pairs=_pairs(found),
    )
    return write_page(path, html)


def _blocks(found: Mapping[str, Any], names: list[str]) -> list[Block]:
    blocks = []
    for arm in order_arms(row["arm"] for row in found["rows"]):
        here = [row for row in found["rows"] if row["arm"] == arm]
        budgets = order_budgets(row["labels_per_class"] for row in here)
        cells: dict[str, dict[Budget, Spread]] = {}
        for row in here:
            cells.setdefault(row["run"], {})[row["labels_per_class"]] = _spread(row)
        top = {b: max(c[b].mean for c in cells.values() if b in c) for b in budgets}
        best = {(run, b) for run, c in cells.items() for b, s in c.items() if s.mean == top[b] and len(cells) > 1}
        rows = [(name, cells[name]) for name in names if name in cells]
        blocks.append(Block(arm, arm_of(arm).name, budgets, rows, best))
    return blocks


def _spread(row: Mapping[str, Any]) -> Spread:
    deviation = row["deviation"] or 0.0
    return Spread(row["mean"], row["deviation"], row["mean"] - deviation, row["mean"] + deviation, row["n"])


def _drawn(index: int, name: str) -> Arm:
    """How a run's line looks: the colour says which, and so does the shape."""
    dash = f" dash-{1 + index // COLOURS % 4}" if index >= COLOURS else ""
    return Arm(name, shortened(name, 14), f"s-c{index % COLOURS}{dash}", SHAPES[index % len(SHAPES)])


def _panel(block: Block, found: Mapping[str, Any], names: list[str]) -> Panel:
    """A line a run, of one arm."""
    metric = METRICS.get(found["metric"], found["metric"])
    of_arm = [row for row in found["rows"] if row["arm"] == block.arm]
    rows = [Row(arm=r["run"], labels_per_class=r["labels_per_class"], n_train=r["n_train"]) for r in of_arm]
    scale = LabelScale(rows, block.budgets)
    ends = [end for _, cells in block.rows for spread in cells.values() for end in spread.band]
    y = linear_axis(max(0.0, min(ends)), min(1.0, max(ends) + 0.01), title=f"test {metric}, %", scale=100, count=7)

    def draw(width: int, height: int, right: int) -> Markup:
        lines = [
            scale.line(_drawn(names.index(name), name), cells, banded=len(block.rows) <= 4)
            for name, cells in block.rows
        ]
        label = f"test {metric} of {block.name} in per cent over the number of labels, a line a run"
        x = scale.axis(width - right - 44)
        return line_chart(lines, x=x, y=y, width=width, height=height, right=right, label=label, gap=scale.gap)

    return Panel(block.name, draw(900, 460, 118), narrow=draw(372, 400, 84))


def _pairs(found: Mapping[str, Any]) -> list[tuple[str, dict[Budget, Difference]]]:
    """The pairs of each run with the first: a cell a budget."""
    pairs = [Comparison.model_validate({**pair, "arm": pair["run"]}) for pair in found["pairs"]]
    rows: dict[str, dict[Budget, Difference]] = {}
    for difference in differences(pairs):
        rows.setdefault(difference.of.arm, {})[difference.of.labels_per_class] = difference
    return list(rows.items())
