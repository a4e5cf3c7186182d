"""The arms of a comparison: how each is named, drawn and ordered, and its scores over the seeds."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from markupsafe import Markup

from twoviews.report.figures import swatch
from twoviews.report.results import Row

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
    "distill": Arm("distillation", "distilled", "s-distill", "diamond"),
    "knn": Arm("nearest neighbours", "kNN", "s-knn", "diamond"),
    "supervised": Arm("supervised only", "supervised", "s-supervised", "triangle"),
    "linear-adam": Arm("linear layer with Adam", "linear Adam", "s-linear dash-1", "circle"),
    "random-linear": Arm("random encoder + linear", "random", "s-floor dash-1", floor=True),
    "pixels-linear": Arm("raw pixels + linear", "pixels", "s-floor dash-2", floor=True),
    "pixels-knn": Arm("raw pixels + kNN", "pixels kNN", "s-floor dash-3", floor=True),
    "shuffled-linear": Arm("shuffled labels + linear", "shuffled", "s-floor dash-4", floor=True),
}
BASELINE = "supervised"
REFERENCES = {
    "reference-linear": ("linear probe", "", "circle"),
    "reference-finetune": ("fine-tuned", " dash-1", "square"),
}
"""Of an encoder that was not trained here: how it was used, and how its line is drawn."""


def arm_of(name: str) -> Arm:
    """The arm of that name; one that this version does not know is drawn grey under its own name."""
    kind, _, encoder = name.partition(":")
    if encoder and kind in REFERENCES:
        how, dash, shape = REFERENCES[kind]
        plain = encoder.rpartition("/")[2].removeprefix("timm:")
        return Arm(f"reference {plain}, {how}", shortened(plain, 12), f"s-reference{dash}", shape)
    return ARMS.get(name, Arm(name, shortened(name, 14), "s-floor", floor=True))


def is_reference(name: str) -> bool:
    """Whether the arm's encoder was not trained here."""
    return name.partition(":")[0] in REFERENCES


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n - 1) and extremes of one score over the seeds."""

    mean: float
    deviation: float | None
    low: float
    high: float
    n: int

    @property
    def band(self) -> tuple[float, float]:
        """One standard deviation to either side."""
        return self.mean - (self.deviation or 0.0), self.mean + (self.deviation or 0.0)


def order_arms(names: Iterable[str]) -> list[str]:
    """Known arms in their reading order, then references, then the others."""
    present = set(names)
    others = sorted(present - set(ARMS), key=lambda name: (not is_reference(name), name))
    return [name for name in ARMS if name in present] + others


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


def score_text(spread: Spread) -> str:
    """ "93.1 ± 0.8 % (5 seeds)"."""
    deviation = f" ± {100 * spread.deviation:.1f}" if spread.deviation is not None else ""
    return f"{100 * spread.mean:.1f}{deviation} % ({spread.n} seed{'' if spread.n == 1 else 's'})"


def legend(arms: Iterable[str]) -> list[tuple[Markup, str]]:
    """(swatch, name) of each arm."""
    return [(swatch(arm_of(name).css, arm_of(name).shape), arm_of(name).name) for name in order_arms(arms)]


def shortened(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
