"""The one picture of a comparison: score over the number of labels, of all arms, and what labels are saved."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from markupsafe import Markup

from twoviews.report.arms import (
    BASELINE,
    Arm,
    Budget,
    Spread,
    arm_of,
    budget_text,
    order_arms,
    order_budgets,
    score_text,
    spreads,
)
from twoviews.report.charts import Panel
from twoviews.report.figures import Arrow, Axis, Line, line_chart, linear_axis
from twoviews.report.results import METRICS, Floor, Results, Row, Saving
from twoviews.report.words import counted

PIXELS_A_LETTER = 6.8


def labels_panel(results: Results) -> Panel | None:
    """A line an arm with one standard deviation; guessing as dotted levels; labels saved as arrows."""
    metric = results.metric
    found = spreads(results.rows, metric)
    if not found:
        return None
    scale = LabelScale(results.rows, [budget for _, budget in found])
    primary = results.verdict.primary_arm if results.verdict else None
    savings = sure_savings(results)
    # Words beside them would lie on the lines: the legend has them.
    levels = [(value, "") for value in floor_scores(results.floors, metric).values()]
    ends = [end for spread in found.values() for end in spread.band] + [value for value, _ in levels]
    y = linear_axis(
        max(0.0, min(ends)), min(1.0, max(ends) + 0.01), title=f"test {METRICS[metric]}, %", scale=100, count=8
    )
    wide = {BASELINE, primary}

    def draw(width: int, height: int, right: int) -> Markup:
        lines = [
            scale.line(arm_of(name), {b: s for (arm, b), s in found.items() if arm == name}, banded=name in wide)
            for name in reversed(_last_on_top(order_arms(arm for arm, _ in found), primary))
        ]
        label = (
            f"test {METRICS[metric]} in per cent over the number of labels, a line an arm; the tables have the numbers"
        )
        return line_chart(
            lines,
            x=scale.axis(width - right - 44),
            y=y,
            width=width,
            height=height,
            right=right,
            label=label,
            gap=scale.gap,
            levels=levels,
            arrows=scale.arrows(savings),
        )

    title = f"Test {METRICS[metric]} by number of labels"
    return Panel(title, draw(900, 500, 118), narrow=draw(372, 440, 84), note=_note(results, scale, savings))


class LabelScale:
    """Where a budget lies: by the images it stands for where every row tells, else by labels a class, "all" apart."""

    def __init__(self, rows: Sequence[Row], budgets: Iterable[Budget]) -> None:
        self.budgets = order_budgets(budgets)
        counts = {b: [r.n_train for r in rows if r.labels_per_class == b and r.n_train] for b in self.budgets}
        self.counts = {b: fmean(n) for b, n in counts.items() if n}
        # Subsets of a budget may differ by an image; "all" of other data is another number, and no place.
        alike = all(max(n) <= 1.02 * min(n) for n in counts.values() if n)
        self.counted = alike and len(self.counts) == len(self.budgets)
        self.gap: float | None = None
        if self.counted:
            self.places = {b: math.log10(n) for b, n in self.counts.items()}
        else:
            numbers = [b for b in self.budgets if isinstance(b, int)]
            self.places = {n: math.log10(max(n, 1)) for n in numbers}
            last = max(self.places.values(), default=0.0)
            step = max(0.3, last / max(len(numbers) - 1, 1)) if len(numbers) > 1 else 0.5
            if "all" in self.budgets:
                self.places["all"] = last + step
                self.gap = last + step / 2 if numbers else None

    def axis(self, pixels: int) -> Axis:
        """The axis of a chart that is so wide; ticks without room have no text."""
        low, high = min(self.places.values()), max(self.places.values())
        margin = 0.04 * (high - low) or 0.5
        low, high = low - margin, high + margin
        ticks: list[tuple[float, str]] = []
        end = math.inf
        # "all" and the largest budget come first: the others make way.
        order = sorted(self.budgets, key=lambda b: -self.places[b])
        first = (self.places[order[-1]] - low) / (high - low) * pixels
        for budget in order:
            text = self._tick(budget)
            half = PIXELS_A_LETTER * max(len(line) for line in text.split("\n")) / 2 + 3
            middle = (self.places[budget] - low) / (high - low) * pixels
            fits = middle + half <= end and (budget == order[-1] or middle - half > first + half or len(order) < 3)
            ticks.append((self.places[budget], text if fits else ""))
            end = middle - half if fits else end
        title = "labelled images, log scale; below, a class" if self.counted else "labels per class (log scale)"
        return Axis(low, high, tuple(reversed(ticks)), title)

    def _tick(self, budget: Budget) -> str:
        word = budget if isinstance(budget, str) else f"{budget:,}"
        return f"{counted(self.counts[budget])}\n{word}" if self.counted else word

    def line(self, arm: Arm, found: Mapping[Budget, Spread], *, banded: bool) -> Line:
        """The line of an arm, its spread as a band or as whiskers."""
        places = self.places
        points = [(b, found[b]) for b in self.budgets if b in found]
        spread = tuple((places[b], *s.band) for b, s in points)
        return Line(
            arm.name,
            arm.css,
            tuple((places[b], s.mean) for b, s in points),
            band=spread if banded else (),
            whiskers=() if banded else tuple(ends for ends in spread if ends[1] < ends[2]),
            titles=tuple(f"{arm.name}, {budget_text(b)}: {score_text(s)}" for b, s in points),
            end=arm.short,
            # A line of one point would be nothing at all.
            marker=arm.shape or ("circle" if len(points) == 1 else ""),
        )

    def arrows(self, savings: Sequence[Saving]) -> list[Arrow]:
        """From each point to where the baseline reaches its score, or as far as the baseline was measured."""
        if not self.counted:
            return []
        found = []
        for saving in savings:
            beyond = saving.baseline_labels is None
            goal = saving.more_than if saving.baseline_labels is None else saving.baseline_labels
            if goal is None or not saving.labels or saving.score is None or goal <= saving.labels:
                continue
            times = f"{'>' if beyond else ''}{times_text(goal / saving.labels)}"
            title = f"{budget_text(saving.labels_per_class)}: {saving_text(saving)}"
            start = math.log10(saving.labels), saving.score
            found.append(Arrow(start, math.log10(goal), times, title, beyond=beyond))
        return found


def sure_savings(results: Results) -> list[Saving]:
    """What the verdict's arm saves where it helps: a difference that may be chance saves nothing."""
    verdict = results.verdict
    if verdict is None:
        return []
    helped = {c.labels_per_class for c in verdict.comparisons if c.conclusion == "helps"}
    return [s for s in verdict.labels_saved if s.arm == verdict.primary_arm and s.labels_per_class in helped]


def floor_scores(floors: Sequence[Floor], metric: str) -> dict[str, float]:
    """What guessing reaches, by how it guesses."""
    told = {f"{f.name}{'' if f.class_name is None else f', {f.class_name}'}": getattr(f, metric, None) for f in floors}
    return {name: value for name, value in told.items() if value is not None}


def saving_text(saving: Saving) -> str:
    """ "the baseline needs 210 labels, 4.2 times as many"."""
    labels, more = saving.labels, saving.more_than
    if saving.baseline_labels is not None:
        share = f", {times_text(saving.baseline_labels / labels)[:-1]} times as many" if labels else ""
        return f"the baseline needs about {counted(saving.baseline_labels)} labels{share}"
    if more is not None:
        return f"the baseline needs more than {counted(more)} labels"
    return f"the baseline needs at most {counted(saving.at_most)} labels" if saving.at_most is not None else "not known"


def times_text(ratio: float) -> str:
    """ "4.2×"."""
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:,.0f}×"


def _last_on_top(names: Sequence[str], primary: str | None) -> list[str]:
    """The primary arm first, so that it is drawn last, over the others."""
    return sorted(names, key=lambda name: name != primary)


def _note(results: Results, scale: LabelScale, savings: Sequence[Saving]) -> str:
    said = []
    if any(spread.deviation is not None for spread in spreads(results.rows, results.metric).values()):
        said.append("Bands and whiskers reach one standard deviation to either side of the mean, over the seeds.")
    if scale.arrows(savings) and results.verdict and results.verdict.primary_arm:
        arm, against = (arm_of(name).name for name in (results.verdict.primary_arm, results.verdict.against))
        said.append(
            f"An arrow leads from a point of {arm} to where {against} has the same score, and says how many times as "
            "many labels that takes, where the verdict is that it helps; a dashed one ends where the baseline was last "
            "measured, still below."
        )
    validated = max((int(row.n_val) for row in results.rows if row.n_val), default=0)
    if validated:
        said.append(
            f"Settings were chosen on {validated:,} further labels, the validation, which are not counted here."
        )
    return " ".join(said)
