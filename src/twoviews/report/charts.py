"""From a run's records to its charts: which series, which axis, which words."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from markupsafe import Markup

from twoviews.report.figures import Axis, Line, Point, interval, line_chart, linear_axis, swatch
from twoviews.report.parts import Comparison, CurvePoint, Metric, Row

Budget = int | str


@dataclass(frozen=True)
class Arm:
    """How an arm is named and drawn. Floors are what any method must beat."""

    name: str
    short: str
    css: str
    shape: str = ""
    floor: bool = False


ARMS = {
    "linear": Arm("linear probe", "linear", "s-linear", "circle"),
    "finetune": Arm("fine-tuning", "fine-tuned", "s-finetune", "square"),
    "knn": Arm("nearest neighbours", "kNN", "s-knn", "diamond"),
    "supervised": Arm("supervised only", "supervised", "s-supervised", "triangle"),
    "linear-adam": Arm("linear layer with Adam", "linear Adam", "s-linear dash-1", "circle"),
    "random-linear": Arm("random encoder + linear", "random", "s-floor dash-1", floor=True),
    "pixels-linear": Arm("raw pixels + linear", "pixels", "s-floor dash-2", floor=True),
    "pixels-knn": Arm("raw pixels + kNN", "pixels kNN", "s-floor dash-3", floor=True),
}


def arm_of(name: str) -> Arm:
    """The arm of that name; one that this version does not know is drawn grey under its own name."""
    return ARMS.get(name, Arm(name, name[:12], "s-floor", floor=True))


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


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n - 1) and extremes of one score over the seeds."""

    mean: float
    deviation: float | None
    low: float
    high: float
    n: int


def order_arms(names: Iterable[str]) -> list[str]:
    """Known arms in their reading order, then the others."""
    present = set(names)
    return [name for name in ARMS if name in present] + sorted(present - set(ARMS))


def order_budgets(budgets: Iterable[Budget]) -> list[Budget]:
    """Numbers of labels rising, "all" last."""
    return sorted(set(budgets), key=lambda budget: math.inf if isinstance(budget, str) else budget)


def spreads(rows: Sequence[Row], score: str) -> dict[tuple[str, Budget], Spread]:
    """One `Spread` for each (arm, labels per class) that has that score."""
    values: dict[tuple[str, Budget], list[float]] = defaultdict(list)
    for row in rows:
        value = getattr(row, score)
        if value is not None:
            values[row.arm, row.labels_per_class].append(value)
    return {
        key: Spread(fmean(v), stdev(v) if len(v) > 1 else None, min(v), max(v), len(v)) for key, v in values.items()
    }


def budget_text(budget: Budget) -> str:
    """ "all labels", "1 label a class", "5 labels a class"."""
    if isinstance(budget, str):
        return "all labels"
    return f"{budget:,} label{'' if budget == 1 else 's'} a class"


def budget_panel(rows: Sequence[Row]) -> Panel | None:
    """Accuracy over labels per class: a line an arm, the band from the lowest to the highest seed."""
    found = spreads(rows, "accuracy")
    if not found:
        return None
    budgets = order_budgets(budget for _, budget in found)
    numbers = [budget for budget in budgets if isinstance(budget, int)]
    places: dict[Budget, float] = {number: math.log10(max(number, 1)) for number in numbers}
    last = max(places.values(), default=0.0)
    step = max(0.3, last / max(len(numbers) - 1, 1)) if len(numbers) > 1 else 0.5
    if "all" in budgets:
        places["all"] = last + step
    low_x, high_x = min(places.values()), max(places.values())
    margin = 0.04 * (high_x - low_x) or 0.5
    ticks = tuple((place, "all" if budget == "all" else f"{budget:,}") for budget, place in places.items())
    x = Axis(low_x - margin, high_x + margin, ticks, "labels per class (log scale)")
    low = min(spread.low for spread in found.values())
    high = max(spread.high for spread in found.values())
    y = linear_axis(low, min(1.0, high + 0.02), title="accuracy %", scale=100, count=8)
    gap = last + step / 2 if "all" in budgets and numbers else None

    def draw(width: int, height: int, right: int) -> Markup:
        lines = []
        for name in reversed(order_arms(arm for arm, _ in found)):
            arm, points = arm_of(name), [(b, found[name, b]) for b in budgets if (name, b) in found]
            lines.append(
                Line(
                    arm.name,
                    arm.css,
                    tuple((places[b], s.mean) for b, s in points),
                    band=() if arm.floor else tuple((places[b], s.low, s.high) for b, s in points),
                    titles=tuple(f"{arm.name}, {budget_text(b)}: {score_text(s)}" for b, s in points),
                    end=arm.short,
                    # A line of one point would be nothing at all.
                    marker=arm.shape or ("circle" if len(points) == 1 else ""),
                )
            )
        label = "accuracy in per cent over labels per class, one line for each arm; the table has the numbers"
        return line_chart(lines, x=x, y=y, width=width, height=height, right=right, label=label, gap=gap)

    return Panel("Accuracy by number of labels", draw(880, 440, 96), narrow=draw(372, 380, 76))


def score_text(spread: Spread) -> str:
    """ "93.1 ± 0.8 % (5 seeds)"."""
    deviation = f" ± {100 * spread.deviation:.1f}" if spread.deviation is not None else ""
    return f"{100 * spread.mean:.1f}{deviation} % ({spread.n} seed{'' if spread.n == 1 else 's'})"


def legend(arms: Iterable[str]) -> list[tuple[Markup, str]]:
    """(swatch, name) of each arm."""
    return [(swatch(arm_of(name).css, arm_of(name).shape), arm_of(name).name) for name in order_arms(arms)]


def comparison_bars(comparisons: Sequence[Comparison]) -> list[Markup]:
    """One interval a comparison, all to one scale; empty markup where a number is missing."""
    ends = [v for c in comparisons for v in (c.low, c.high, c.mean_difference) if v is not None]
    reach = min(ends, default=0.0), max(ends, default=0.0)
    reach = min(reach[0], 0.0), max(reach[1], 0.01)
    return [
        Markup()
        if c.low is None or c.high is None or c.mean_difference is None
        else interval(c.low, c.mean_difference, c.high, reach=reach)
        for c in comparisons
    ]


def pretraining_panels(metrics: Sequence[Metric], *, chance_loss: float | None) -> list[Panel]:
    """Loss against chance, contrastive accuracy, and accuracy on labelled images on the way."""
    panels = []
    loss, every = _thin(_series(metrics, lambda m: m.loss))
    if loss:
        top = max([value for _, value in loss] + ([chance_loss] if chance_loss is not None else []))
        y = linear_axis(min(value for _, value in loss), top)
        chance = None if chance_loss is None else (chance_loss, f"chance {chance_loss:.2f}")
        note = "The method's own loss."
        if chance is not None:
            note = "The method's own loss; below the dotted line it is better than that of guessing."
        panels.append(_panel("Loss", [Line("loss", "s-linear", loss)], y, note + every, reference=chance))
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
    reference: tuple[float, str] | None = None,
) -> Panel:
    high = max(px for line in lines for px, _ in line.points)
    x = linear_axis(0.0, max(high, 1.0), title=x_title, count=4)
    x = Axis(0.0, max(high, 1.0), tuple(t for t in x.ticks if t[0] <= high * 1.001), x_title)
    right = 56 if any(line.end for line in lines) else 14
    chart = line_chart(lines, x=x, y=y, width=360, height=250, right=right, label=title, reference=reference)
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
