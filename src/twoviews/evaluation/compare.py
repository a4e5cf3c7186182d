"""The comparison: arms on the same labelled subsets, settings chosen on validation, the test set read at the end.

An arm is a way from labelled samples to a classifier. Its one setting is chosen once, at one reference budget on
validation, and then used for all budgets and seeds; below `FIXED_BELOW` labels a class it is fixed beforehand.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from twoviews import distributed
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.metrics import classification_metrics
from twoviews.evaluation.subsets import subset

FEATURE_ARMS = ("knn", "linear", "linear-adam", "random-linear", "pixels-linear", "pixels-knn")
TRAINED_ARMS = ("finetune", "supervised")
ARMS = ("knn", "linear", "linear-adam", "finetune", "supervised", "random-linear", "pixels-linear", "pixels-knn")
DEFAULT_ARMS = tuple(arm for arm in ARMS if arm != "linear-adam")
"""Those that run where none are named: `linear-adam` is what tutorials do, `linear` is its optimum."""
PRETRAINED_ARMS = ("linear", "linear-adam", "finetune")
"""What the verdict holds against the baseline, and what becomes the classifier."""

FIXED_BELOW = 5
"""Labels a class from which settings are chosen on validation."""

Budget = int | Literal["all"]


@dataclass(frozen=True)
class Split:
    """Labels of the three parts, and the classes. Labels (N,) int64, all >= 0."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...]

    def subset(self, budget: Budget, seed: int) -> np.ndarray:
        """The labelled samples of a budget: the same for every arm, nested over budgets."""
        return subset(self.train, per_class=budget, seed=seed, classes=self.classes)


@dataclass(frozen=True)
class Fitted:
    """What an arm made of one subset: class scores (N, classes) on validation and test, and the model behind them."""

    val: np.ndarray
    test: Callable[[], np.ndarray]
    model: Any = None


class Fit(Protocol):
    """From the labelled samples at `indices` to class scores; `trial`: only to choose the setting."""

    def __call__(self, indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted: ...


@dataclass(frozen=True)
class Arm:
    """A named way to fit, and the settings it may choose from."""

    name: str
    fit: Fit
    settings: tuple[Any, ...] = (None,)
    fixed: Any = None


@dataclass
class Comparison:
    """Rows, and what was chosen; `run_arm` makes records, `add` takes them in.

    `shippable`: whose model was kept, in this process (`models`) or in another one.
    """

    split: Split
    rows: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[tuple[str, Budget, int], np.ndarray] = field(default_factory=dict)
    val_scores: dict[tuple[str, Budget, int], float] = field(default_factory=dict)
    models: dict[tuple[str, Budget, int], Any] = field(default_factory=dict)
    shippable: list[tuple[str, Budget, int]] = field(default_factory=list)

    def choose(self, arm: Arm, budgets: Sequence[Budget], seeds: Sequence[int]) -> Any:
        """The arm's setting, by mean validation accuracy over `seeds` at the reference budget."""
        if arm.name in self.chosen:
            return self.chosen[arm.name]["setting"]
        reference = selection_budget(self.split, arm.settings, budgets)
        setting, trials = arm.settings[0] if len(arm.settings) == 1 else arm.fixed, []
        if reference is not None:
            used = seeds if reference != "all" else seeds[:1]
            scores = distributed.spread(
                [(candidate, seed) for candidate in arm.settings for seed in used],
                lambda pair: self._accuracy(
                    arm.fit(
                        self.split.subset(reference, pair[1]), pair[0], seed=pair[1], budget=reference, trial=True
                    ).val
                ),
            )
            for number, candidate in enumerate(arm.settings):
                of_candidate = scores[number * len(used) : (number + 1) * len(used)]
                trials.append({"setting": candidate, "val_accuracy": round(float(np.mean(of_candidate)), 4)})
            setting = max(trials, key=lambda t: t["val_accuracy"])["setting"]
        self.chosen[arm.name] = {
            "setting": setting,
            "fixed_below_5": arm.fixed,
            "reference_budget": reference,
            "trials": trials,
        }
        return setting

    def run_arm(self, arm: Arm, budget: Budget, seed: int, *, keep_model: bool = False) -> dict[str, Any]:
        """Fit one arm on one subset: a record for `add`, also in another process. A model is kept in this one."""
        used = self.chosen[arm.name]
        setting = arm.fixed if fixed_budget(budget) else used["setting"]
        selected = bool(used["trials"]) and not fixed_budget(budget)
        indices = self.split.subset(budget, seed)
        fitted = arm.fit(indices, setting, seed=seed, budget=budget, trial=False)
        predicted = fitted.test().argmax(1)
        if keep_model and fitted.model is not None:
            self.models[arm.name, budget, seed] = fitted.model
        return {
            "predicted": predicted.tolist(),
            "val_score": self._accuracy(fitted.val) if len(self.split.val) else None,
            "shippable": keep_model and fitted.model is not None,
            "row": {
                "arm": arm.name,
                "labels_per_class": budget,
                "seed": seed,
                **{
                    name: round(value, 6)
                    for name, value in classification_metrics(
                        self.split.test, predicted, classes=len(self.split.classes)
                    ).items()
                },
                "n_train": len(indices),
                "n_val": len(self.split.val) if selected else 0,
                "n_test": len(self.split.test),
            },
        }

    def add(self, record: dict[str, Any]) -> None:
        """Take in what `run_arm` gave."""
        row = record["row"]
        key = (row["arm"], row["labels_per_class"], row["seed"])
        self.rows.append(row)
        self.predictions[key] = np.array(record["predicted"])
        if record["val_score"] is not None:
            self.val_scores[key] = record["val_score"]
        if record["shippable"]:
            self.shippable.append(key)

    def _accuracy(self, scores: np.ndarray) -> float:
        return float((scores.argmax(1) == self.split.val).mean())


def reference_budget(budgets: Sequence[Budget]) -> Budget | None:
    """Where settings are chosen: the largest whole budget from `FIXED_BELOW` on, else "all", else nowhere."""
    whole = [b for b in budgets if b != "all" and b >= FIXED_BELOW]
    if whole:
        return max(whole)
    return "all" if "all" in budgets else None


def selection_budget(split: Split, settings: Sequence[Any], budgets: Sequence[Budget]) -> Budget | None:
    """Where an arm tries its settings; nowhere without validation, or where there is one setting only."""
    return reference_budget(budgets) if len(settings) > 1 and len(split.val) else None


def fixed_budget(budget: Budget) -> bool:
    """Whether settings at this budget are fixed beforehand."""
    return budget != "all" and budget < FIXED_BELOW


def parse_budgets(text: str | Iterable[Budget]) -> tuple[Budget, ...]:
    """`1,5,10,all` as budgets, ascending. Raises `UsageError` for what is no positive whole number or "all"."""
    parts = text.split(",") if isinstance(text, str) else list(text)
    budgets: set[Budget] = set()
    for part in parts:
        word = part.strip() if isinstance(part, str) else part
        if word == "all":
            budgets.add("all")
            continue
        try:
            number = int(word)
        except ValueError:
            number = 0
        if number < 1:
            raise UsageError(
                f"labels per class: {part!r} is neither a positive whole number nor 'all'; write 1,5,10,all"
            )
        budgets.add(number)
    return tuple(sorted(budgets, key=lambda b: (b == "all", 0 if b == "all" else b)))


def check_arms(arms: Iterable[str]) -> tuple[str, ...]:
    """Known arms in their usual order. Raises `UsageError` with the nearest name."""
    wanted = [arm.strip() for arm in arms]
    for arm in wanted:
        if arm not in ARMS:
            raise unknown_name("arm", arm, ARMS)
    return tuple(arm for arm in ARMS if arm in wanted)


def check_budgets(split: Split, budgets: Sequence[Budget]) -> None:
    """Raise `DataError` when a class has fewer labels than asked for, or there is only one class."""
    if len(split.classes) < 2:
        raise DataError(f"the labelled data has one class ({split.classes[0]!r}): a comparison needs at least two")
    for budget in budgets:
        split.subset(budget, 0)
