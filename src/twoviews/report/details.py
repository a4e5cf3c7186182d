"""The primary arm and the baseline side by side: class by class, confusion, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from twoviews.report.arms import Budget, arm_of, budget_text, order_arms, order_budgets
from twoviews.report.charts import Panel
from twoviews.report.figures import Line, line_chart, linear_axis, swatch
from twoviews.report.matrices import confusion_matrix
from twoviews.report.results import Bin, ClassScore, Details, Results
from twoviews.report.words import measured

MANY = 30
"""Classes from which their table scrolls."""


@dataclass(frozen=True)
class Side:
    """An arm's details under its name."""

    title: str
    matrix: Markup | None
    calibration: Panel | None
    confused: list[tuple[str, str, int]]


@dataclass(frozen=True)
class ClassRow:
    """Scores of one class by the arms that are shown, None where an arm has none of it."""

    name: str
    support: int | None
    scores: list[ClassScore | None]
    difference: float | None


@dataclass(frozen=True)
class Calibrated:
    """Calibration of an arm at a budget, means over its seeds."""

    arm: str
    budget: Budget
    nll: float | None
    ece: float | None
    temperature: float | None
    nll_scaled: float | None
    ece_scaled: float | None


def sides(results: Results) -> list[Side]:
    """The primary arm and the baseline, those of them that have details."""
    return [
        Side(
            f"{arm_of(d.arm).name}, {budget_text(d.labels_per_class)}",
            confusion_matrix(d.confusion, results.named(len(d.confusion))) if d.confusion else None,
            reliability_panel(d, results),
            most_confused(d.confusion, results.named(len(d.confusion))),
        )
        for d in _two(results)
    ]


def class_rows(results: Results) -> list[ClassRow]:
    """A row a class; `difference` is primary less baseline in F1."""
    two = [{score.name: score for score in d.per_class} for d in _two(results)]
    rows = []
    for name in dict.fromkeys(name for scores in two for name in scores):
        found = [scores.get(name) for scores in two]
        known = [score for score in found if score is not None]
        f1 = [score.f1 for score in found if score is not None]
        both = [value for value in f1 if value is not None]
        difference = both[0] - both[1] if len(both) == 2 else None
        rows.append(ClassRow(name, known[0].support, found, difference))
    return rows


def most_confused(matrix: Sequence[Sequence[int]], classes: Sequence[str], keep: int = 6) -> list[tuple[str, str, int]]:
    """The largest entries off the diagonal: (true class, predicted class, count)."""
    found = [
        (classes[i], classes[j], value)
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
        if i != j and value
    ]
    return sorted(found, key=lambda entry: (-entry[2], entry[:2]))[:keep]


def reliability_panel(details: Details, results: Results) -> Panel | None:
    """How often the classifier is right, over how sure it says it is; raw, and with the temperature of validation."""
    ece = {key: _mean(results, details, key) for key in ("ece", "ece_scaled", "temperature")}
    scaled = "scaled" if ece["temperature"] is None else f"temperature {measured(ece['temperature'])}"
    series = (
        ("as it comes", "s-raw", "square", details.reliability, ece["ece"]),
        (scaled, "s-scaled", "circle", details.reliability_scaled or [], ece["ece_scaled"]),
    )
    lines, legend = [], []
    for name, css, shape, bins, error in series:
        points, sizes = _points(bins)
        if points:
            titles = tuple(f"{name}: {100 * x:.1f} % sure, {100 * y:.1f} % right" for x, y in points)
            lines.append(Line(name, f"{css} thin", points, titles=titles, marker=shape, sizes=sizes))
            said = "" if error is None else f", ECE {100 * error:.1f} %"
            legend.append((swatch(css, shape), f"{name}{said}"))
    if not lines:
        return None
    axis = linear_axis(0.0, 1.0, scale=100, count=5)
    x = linear_axis(0.0, 1.0, title="confidence, %", scale=100, count=5)
    diagonal = Line("as sure as right", "s-floor dash-2", ((0.0, 0.0), (1.0, 1.0)))
    label = "accuracy over confidence in per cent; on the dotted diagonal the two agree"
    chart = line_chart([diagonal, *lines], x=x, y=axis, width=380, height=380, right=14, label=label)
    name = f"{arm_of(details.arm).name}, {budget_text(details.labels_per_class)}"
    return Panel(f"{name}: accuracy % over confidence", chart, legend=tuple(legend))


def calibration_rows(results: Results) -> list[Calibrated]:
    """A row an arm that has a measure of calibration, at its largest budget; the primary arm and the baseline first."""
    keys = ("nll", "ece", "temperature", "nll_scaled", "ece_scaled")
    rows = [row for row in results.rows if row.ece is not None or row.nll is not None]
    found = []
    for arm in sorted(order_arms(row.arm for row in rows), key=lambda arm: arm not in _names(results)):
        budget = order_budgets(row.labels_per_class for row in rows if row.arm == arm)[-1]
        here = [row for row in rows if row.arm == arm and row.labels_per_class == budget]
        means = {key: _over([getattr(row, key) for row in here]) for key in keys}
        found.append(Calibrated(arm, budget, **means))
    return found


def _two(results: Results) -> list[Details]:
    known = {d.arm: d for d in results.details}
    return [known[name] for name in _names(results) if name in known]


def _names(results: Results) -> list[str]:
    verdict = results.verdict
    return [name for name in (verdict.primary_arm, verdict.against) if name] if verdict else []


def _mean(results: Results, details: Details, key: str) -> float | None:
    """Of the very fit that is drawn, where it has a row; else over all of that arm and budget."""
    rows = [r for r in results.rows if (r.arm, r.labels_per_class) == (details.arm, details.labels_per_class)]
    same = [row for row in rows if row.seed == details.seed]
    return _over([getattr(row, key) for row in same or rows])


def _over(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _points(bins: Sequence[Bin]) -> tuple[tuple[tuple[float, float], ...], tuple[float, ...]]:
    """(confidence, accuracy) of the bins with items, and radii whose areas are as their counts."""
    full = [(b.confidence, b.accuracy, b.count) for b in bins if b.count]
    known = [(x, y, n) for x, y, n in full if x is not None and y is not None and n]
    most = max((n for _, _, n in known), default=1.0)
    return tuple((x, y) for x, y, _ in known), tuple(2.5 + 6.5 * (n / most) ** 0.5 for _, _, n in known)
