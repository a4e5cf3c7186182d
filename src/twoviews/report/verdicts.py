"""What the verdict rests on, ready to be shown: its numbers with intervals, what else was compared, labels saved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from twoviews.report.arms import Budget, arm_of, budget_text, is_reference, order_arms, order_budgets, spreads
from twoviews.report.figures import interval
from twoviews.report.labels import saving_text, sure_savings, times_text
from twoviews.report.parts import Info
from twoviews.report.results import METRICS, Comparison, Results, Saving
from twoviews.report.words import joined, per_cent, several

LONG = 150
"""Letters from which a headline is set smaller."""
WORDS = {"helps": "better", "hurts": "worse"}
"""Of arms that are only held against each other."""
FLOORS = {"random-linear": "a random encoder", "pixels-linear": "raw pixels"}
"""What a linear probe of a trained encoder must beat."""
CSS = {"helps": "helps", "better": "helps", "hurts": "hurts", "worse": "hurts"}


@dataclass(frozen=True)
class Difference:
    """A comparison with its bar and the CSS class of its conclusion."""

    of: Comparison
    bar: Markup
    css: str


@dataclass(frozen=True)
class Grid:
    """Comparisons of several arms: a row a pair of arms, a column a budget."""

    title: str
    budgets: list[Budget]
    rows: list[tuple[str, dict[Budget, Difference]]]
    adjusted: bool


@dataclass(frozen=True)
class SavingRow:
    """Labels saved, in numbers and words; `clear` where the verdict is that the arm helps."""

    of: Saving
    clear: bool
    name: str
    times: str
    text: str


@dataclass(frozen=True)
class Shown:
    """The verdict as the page shows it."""

    headline: str = ""
    rest: str = ""
    size: str = ""
    unit: str = ""
    pair: str = ""
    differences: tuple[Difference, ...] = ()
    tested: bool = False
    grids: tuple[Grid, ...] = ()
    savings: tuple[SavingRow, ...] = ()
    other_savings: tuple[SavingRow, ...] = ()
    notes: tuple[str, ...] = ()


def shown(results: Results) -> Shown:
    """All of it; empty where there is no verdict."""
    verdict = results.verdict
    if verdict is None:
        return Shown()
    headline, rest = headline_of(verdict.sentence)
    found = differences(verdict.comparisons)
    pairs = {(arm_of(c.arm).name, arm_of(c.against).name) for c in verdict.comparisons}
    sure = sure_savings(results)
    savings = [_saving(saving, clear=saving in sure) for saving in verdict.labels_saved]
    mine = [row for row in savings if row.of.arm == verdict.primary_arm]
    return Shown(
        headline=headline,
        rest=rest,
        size="long" if len(headline) > LONG else "",
        unit=f"points of {METRICS[results.metric]}",
        pair=" minus ".join(pairs.pop()) if len(pairs) == 1 else "",
        differences=tuple(found),
        tested=any(c.p is not None for c in verdict.comparisons),
        grids=tuple(_grids(verdict.others, baseline=verdict.against)),
        savings=_telling(mine),
        other_savings=_telling([row for row in savings if row not in mine]),
        # What the sentence says already is not said again.
        notes=tuple(note for note in verdict.notes if note not in verdict.sentence),
    )


def doubts(results: Results, info: Info) -> list[str]:
    """What speaks against the encoder, whatever the verdict is: hardly pretrained, or no better than a floor."""
    found = []
    if info.status in (None, "finished") and info.steps and info.epochs and info.epochs < 1:
        steps, epochs = several(f"{info.steps:,}", "step"), several(f"{info.epochs:.2g}", "epoch")
        found.append(f"The encoder was pretrained for {steps} ({epochs}).")
    means = spreads(results.rows, results.metric)
    common = order_budgets(b for arm, b in means if arm in FLOORS and ("linear", b) in means)
    if common:
        probe = means["linear", common[-1]].mean
        floors = {name: means[arm, common[-1]].mean for arm, name in FLOORS.items() if (arm, common[-1]) in means}
        below = [f"{name} ({per_cent(mean)} %)" for name, mean in floors.items() if probe < mean]
        if below:
            at = budget_text(common[-1])
            found.append(f"The linear probe ({per_cent(probe)} %) scores below {joined(below)} with {at}.")
    return found


def headline_of(sentence: str) -> tuple[str, str]:
    """The first sentence, which is set large, and what follows it."""
    first, stop, rest = sentence.strip().partition(". ")
    return first + stop.strip(), rest


def differences(comparisons: Sequence[Comparison]) -> list[Difference]:
    """Each comparison with its interval beside zero, all to one scale; without a bar where a number is missing."""
    ends = [v for c in comparisons for v in (c.low, c.high, c.mean_difference) if v is not None]
    reach = min([0.0, *ends]), max([0.01, *ends])
    found = []
    for c in comparisons:
        bar = Markup()
        if c.low is not None and c.high is not None and c.mean_difference is not None:
            bar = interval(c.low, c.mean_difference, c.high, reach=reach)
        found.append(Difference(c, bar, CSS.get(c.conclusion, "unsure")))
    return found


def _grids(others: Sequence[Comparison], *, baseline: str) -> Iterable[Grid]:
    """What is held against references, arms against the baseline, then all else."""
    against = [c for c in others if is_reference(c.against)]
    beside = [c for c in others if c.against == baseline]
    rest = [c for c in others if c not in against and c not in beside]
    for title, rows in (
        ("Against encoders that were not trained here", against),
        (f"Every other arm minus {arm_of(baseline).name}", beside),
        ("Further pairs", rest),
    ):
        if rows:
            named: dict[tuple[str, str], dict[Budget, Difference]] = {}
            for row in differences(rows):
                word = WORDS.get(row.of.conclusion, row.of.conclusion)
                told = replace(row, of=row.of.model_copy(update={"conclusion": word}))
                named.setdefault((row.of.arm, row.of.against), {})[row.of.labels_per_class] = told
            order = order_arms(name for pair in named for name in pair)
            pairs = sorted(named, key=lambda pair: (order.index(pair[0]), order.index(pair[1])))
            budgets = order_budgets(c.labels_per_class for c in rows)
            adjusted = any(c.p_adjusted is not None for c in rows)
            yield Grid(title, budgets, [(_pair(pair, baseline), named[pair]) for pair in pairs], adjusted)


def _pair(pair: tuple[str, str], baseline: str) -> str:
    arm, against = (arm_of(name).name for name in pair)
    return arm if pair[1] == baseline else f"{arm} minus {against}"


def _saving(saving: Saving, *, clear: bool) -> SavingRow:
    times = ""
    if saving.labels and saving.baseline_labels is not None:
        times = times_text(saving.baseline_labels / saving.labels)
    elif saving.labels and saving.more_than is not None and saving.more_than > saving.labels:
        times = f">{times_text(saving.more_than / saving.labels)}"
    return SavingRow(saving, clear, arm_of(saving.arm).name, times, saving_text(saving))


def _telling(rows: Sequence[SavingRow]) -> tuple[SavingRow, ...]:
    """Without those of more labels than the baseline was run at; none where no row says anything."""
    # "240 labels: the baseline needs more than 10" is no finding.
    within = [row for row in rows if row.of.more_than is None or row.of.more_than >= (row.of.labels or 0)]
    return tuple(within) if any(row.clear or row.times or row.of.at_most is not None for row in within) else ()
