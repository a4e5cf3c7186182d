"""Training in charts, from a run's records: which series, which axis, which words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from markupsafe import Markup

from twoviews.report.arms import Budget, arm_of, budget_text, order_arms, order_budgets
from twoviews.report.figures import Axis, Line, Point, line_chart, linear_axis
from twoviews.report.parts import CurvePoint, Metric


@dataclass(frozen=True)
class Panel:
    """A chart with its title and what to read from it; `narrow` is the same chart laid out for a phone.

    `legend`: (swatch, name) of each line, where the chart has one of its own.
    """

    title: str
    chart: Markup
    note: str = ""
    narrow: Markup | None = None
    legend: tuple[tuple[Markup, str], ...] = ()


def pretraining_panels(metrics: Sequence[Metric], *, chance_loss: float | None) -> list[Panel]:
    """Loss against chance, contrastive accuracy, and accuracy on labelled images on the way."""
    panels = []
    loss, every = _thin(_series(metrics, lambda m: m.loss))
    if loss:
        top = max([value for _, value in loss] + ([chance_loss] if chance_loss is not None else []))
        y = linear_axis(min(value for _, value in loss), top)
        chance = () if chance_loss is None else ((chance_loss, f"chance {chance_loss:.2f}"),)
        note = "The method's own loss."
        if chance:
            note = "The method's own loss; below the dotted line it is better than that of guessing."
        panels.append(_panel("Loss", [Line("loss", "s-linear", loss)], y, note + every, levels=chance))
    accuracy, every = _thin(_series(metrics, lambda m: m.contrastive_accuracy))
    if accuracy:
        y = linear_axis(0.0, 1.0, scale=100)
        note = "How often, in %, the nearest other view in the batch is the one of the same image."
        line = Line("contrastive accuracy", "s-linear", accuracy)
        panels.append(_panel("Contrastive accuracy %", [line], y, note + every))
    online = [
        Line(name, css, points, marker=shape)
        for name, css, shape, points in (
            ("kNN", "s-knn", "diamond", _series(metrics, lambda m: m.online_knn)),
            ("linear", "s-linear", "circle", _series(metrics, lambda m: m.online_linear)),
        )
        if points
    ]
    if online:
        values = [value for line in online for _, value in line.points]
        y = linear_axis(min(values), max(values), scale=100)
        note = (
            "On the labelled images given by --probe-data, on the way: "
            + " and ".join(line.name for line in online)
            + "."
        )
        panels.append(_panel("Online accuracy %", _ended(online), y, note))
    return panels


HEALTH = (
    (
        "effective_rank",
        "Effective rank",
        "In how many directions the embeddings spread. A fall towards 1 is collapse; higher is richer.",
    ),
    (
        "alignment",
        "Alignment",
        "How far apart the two views of one image lie (mean squared distance, 0 to 4). Lower is closer; "
        "near 0 together with a low rank is collapse.",
    ),
    (
        "uniformity",
        "Uniformity",
        "How evenly the images cover the sphere (log of the mean Gaussian potential). More negative "
        "is more even; 0 is collapse.",
    ),
)


def health_panels(metrics: Sequence[Metric]) -> list[Panel]:
    """Effective rank, alignment and uniformity over training, each with what it means."""
    panels = []
    for key, title, meaning in HEALTH:
        points = _series(metrics, lambda m, key=key: getattr(m, key))  # type: ignore[misc]
        if points:
            values = [value for _, value in points]
            y = linear_axis(min(values), max(values))
            panels.append(_panel(title, _ended([Line(title.lower(), "s-linear", points, marker="circle")]), y, meaning))
    return panels


def training_panels(curves: Sequence[CurvePoint]) -> list[Panel]:
    """The trained arms, a panel a budget: validation accuracy where it was followed in all, else training loss."""
    panels = []
    runs = last_runs(curves)
    for budget in order_budgets(budget for _, budget, _ in runs):
        here = {(arm, seed): points for (arm, b, seed), points in runs.items() if b == budget}
        # One value at the end is a result, not a curve.
        followed = all(sum(p.val_accuracy is not None for p in points) > 1 for points in here.values())
        lines = []
        for name in order_arms(arm for arm, _ in here):
            for (arm, seed), points in here.items():
                values = [(float(p.update), p.val_accuracy if followed else p.train_loss) for p in points]
                drawn, _ = _thin([(x, y) for x, y in values if y is not None], keep=80)
                if arm == name and drawn:
                    title = arm_of(arm).name + (f", seed {seed}" if seed is not None else "")
                    lines.append(Line(title, f"thin {arm_of(arm).css}", drawn))
        if lines:
            heights = [value for line in lines for _, value in line.points]
            y = linear_axis(min(heights), max(heights), scale=100 if followed else 1)
            note = "Validation accuracy, %." if followed else "Training loss."
            panels.append(_panel(budget_text(budget), lines, y, note, x_title="update"))
    return panels


def last_runs(curves: Sequence[CurvePoint]) -> dict[tuple[str, Budget, int | None], list[CurvePoint]]:
    """The last training of each (arm, budget, seed): those before it tried settings."""
    runs: dict[tuple[str, Budget, int | None], list[CurvePoint]] = {}
    for point in curves:
        run = runs.setdefault((point.arm, point.labels_per_class, point.seed), [])
        if run and point.update <= run[-1].update:
            run.clear()
        run.append(point)
    return runs


def _panel(
    title: str,
    lines: Sequence[Line],
    y: Axis,
    note: str,
    *,
    x_title: str = "step",
    levels: Sequence[tuple[float, str]] = (),
) -> Panel:
    high = max(px for line in lines for px, _ in line.points)
    x = linear_axis(0.0, max(high, 1.0), title=x_title, count=4)
    x = Axis(0.0, max(high, 1.0), tuple(t for t in x.ticks if t[0] <= high * 1.001), x_title)
    right = 56 if any(line.end for line in lines) else 14
    chart = line_chart(lines, x=x, y=y, width=360, height=250, right=right, label=title, levels=levels)
    return Panel(title, chart, note)


def _ended(lines: Sequence[Line]) -> list[Line]:
    """The lines with their names at their ends, where there is more than one."""
    if len(lines) < 2:
        return list(lines)
    return [replace(line, end=line.name) for line in lines]


def _series(metrics: Sequence[Metric], value: Callable[[Metric], float | None]) -> tuple[Point, ...]:
    pairs = ((metric.step, value(metric)) for metric in metrics)
    return tuple((float(step), number) for step, number in pairs if number is not None)


def _thin(points: Sequence[Point], keep: int = 240) -> tuple[tuple[Point, ...], str]:
    """At most `keep` points, each the mean of as many neighbours, and the words that say so."""
    size = math.ceil(len(points) / keep)
    if size <= 1:
        return tuple(points), ""
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = tuple((fmean(px for px, _ in group), fmean(value for _, value in group)) for group in groups)
    return means, f" Each point is the mean of {size} steps."
