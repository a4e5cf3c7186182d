"""The comparison: arms on the same labelled subsets, settings chosen on validation, the test set read at the end.

An arm is a way from labelled samples to a classifier. Its one setting is chosen once, at one reference budget on
validation, and then used for all budgets and seeds; below `FIXED_BELOW` labels a class it is fixed beforehand.
"""

import base64
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from twoviews import distributed
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.calibration import calibration_error, fit_temperature, nll, reliability
from twoviews.evaluation.metrics import classification_metrics, confusion, per_class, score
from twoviews.evaluation.statistics import units_an_item
from twoviews.evaluation.subsets import subset

ARMS = (
    *("knn", "linear", "linear-adam", "finetune", "distill", "supervised"),
    *("random-linear", "pixels-linear", "pixels-knn", "shuffled-linear"),
)
TRAINED_ARMS = ("finetune", "supervised", "distill")
"""Those that train an encoder, in the order in which they run; all others fit on cached features."""
DEFAULT_ARMS = tuple(arm for arm in ARMS if arm not in ("linear-adam", "distill", "shuffled-linear"))
"""Those that run where none are named: `linear-adam` is what tutorials do, `linear` is its optimum; `distill` costs a
further training; `shuffled-linear` is a check of the comparison, not of the encoder."""
PRETRAINED_ARMS = ("linear", "linear-adam", "finetune", "distill")
"""What the verdict holds against the baseline, and what becomes the classifier."""
REFERENCE_ARMS = ("reference-linear", "reference-finetune")
"""With the name of an encoder that was not trained here: `reference-linear:NAME`."""

FIXED_BELOW = 5
"""Labels a class from which settings are chosen on validation."""

LADDER = (1, 2, 5, 10, 20, 50, 100)
"""Budgets where none are named, as far as the classes reach."""
TRAINED_LADDER = (1, 10, 100)
"""Those of them at which arms are trained."""

Budget = int | Literal["all"]


@dataclass(frozen=True)
class Split:
    """Labels of the three parts, and the classes. Labels (N,) int64, all >= 0.

    units  (N,) int64 in 0 .. U-1, which test items belong together (of one patient); None: each stands alone
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...]
    units: np.ndarray | None = None

    @property
    def independent(self) -> float:
        """Units a test item: 1 where each stands alone."""
        return units_an_item(self.units)

    def subset(self, budget: Budget, seed: int) -> np.ndarray:
        """The labelled samples of a budget: the same for every arm, nested over budgets."""
        return subset(self.train, per_class=budget, seed=seed, classes=self.classes)


@dataclass(frozen=True)
class Fitted:
    """What an arm made of one subset: class scores (N, classes), as logits, on validation and test, and the model.

    `along`: of a training that was followed, (part of it, scores on validation there) before its end; `curve`: its
    points, for the record.
    """

    val: np.ndarray
    test: Callable[[], np.ndarray]
    model: Any = None
    along: tuple[tuple[float, np.ndarray], ...] = ()
    curve: tuple[dict[str, Any], ...] = ()


class Fit(Protocol):
    """From the labelled samples at `indices` to class scores; `trial`: only to choose the setting."""

    def __call__(self, indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted: ...


@dataclass(frozen=True)
class Arm:
    """A named way to fit, and the settings it may choose from; JSON must be able to carry them.

    `stopped`: a setting that ends at this part of the training, for an arm that may stop before its end. `together`:
    the trials of all settings on one subset, for an arm that fits them faster so than one by one.
    """

    name: str
    fit: Fit
    settings: tuple[Any, ...] = (None,)
    fixed: Any = None
    stopped: Callable[[Any, float], Any] | None = None
    together: Callable[[np.ndarray, int], Sequence[Fitted]] | None = None
    """From the labelled samples and the seed."""


Remember = Callable[[tuple[Any, ...], Callable[[], Any]], Any]


def _make(_key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    return make()


@dataclass
class Comparison:
    """Rows, and what was chosen; `run_arm` makes records, `add` takes them in.

    `metric`: what settings are chosen by. `shippable`: whose model may be the classifier; `models` those that are in
    this process. `remember`: gives what was made before for a key, or makes it.
    """

    split: Split
    metric: str = "accuracy"
    remember: Remember = _make
    rows: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[tuple[str, Budget, int], np.ndarray] = field(default_factory=dict)
    val_scores: dict[tuple[str, Budget, int], float] = field(default_factory=dict)
    models: dict[tuple[str, Budget, int], Any] = field(default_factory=dict)
    shippable: list[tuple[str, Budget, int]] = field(default_factory=list)

    def choose(self, arm: Arm, budgets: Sequence[Budget], seeds: Sequence[int]) -> Any:
        """The arm's setting, by the mean score on validation over `seeds` at the reference budget."""
        if arm.name in self.chosen:
            return self.chosen[arm.name]["setting"]
        reference = selection_budget(self.split, arm.settings, budgets)
        setting, trials = arm.settings[0] if len(arm.settings) == 1 else arm.fixed, []
        if reference is not None:
            used = seeds if reference != "all" else seeds[:1]
            for candidate, tried in zip(arm.settings, self._tried(arm, reference, used), strict=True):
                trials += _mean_scores(arm, candidate, [trial["scores"] for trial in tried])
            # The first of equals, and the end before an earlier stop: `_mean_scores` begins with it.
            setting = max(trials, key=lambda t: t["val_score"])["setting"]
        self.chosen[arm.name] = {
            "setting": setting,
            "fixed_below_5": arm.fixed,
            "reference_budget": reference,
            "trials": trials,
        }
        return setting

    def _tried(self, arm: Arm, budget: Budget, seeds: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The trials of each setting, one a seed."""
        if (together := arm.together) is not None:
            by_seed = distributed.spread(
                seeds,
                lambda seed: self.remember(
                    ("trials", arm.name, budget, seed),
                    lambda: [self._trial(arm, fitted) for fitted in together(self.split.subset(budget, seed), seed)],
                ),
            )
            return [list(of_setting) for of_setting in zip(*by_seed, strict=True)]
        found = distributed.spread(
            [(candidate, seed) for candidate in arm.settings for seed in seeds],
            lambda pair: self.remember(
                ("trial", arm.name, pair[0], budget, pair[1]), lambda: self._try(arm, budget, *pair)
            ),
        )
        return [found[start : start + len(seeds)] for start in range(0, len(found), len(seeds))]

    def _try(self, arm: Arm, budget: Budget, setting: Any, seed: int) -> dict[str, Any]:
        fitted = arm.fit(self.split.subset(budget, seed), setting, seed=seed, budget=budget, trial=True)
        return self._trial(arm, fitted)

    def _trial(self, arm: Arm, fitted: Fitted) -> dict[str, Any]:
        stops = fitted.along if arm.stopped is not None else ()
        return {
            "scores": [[1.0, self._on_validation(fitted.val)], *([part, self._on_validation(s)] for part, s in stops)],
            "curve": list(fitted.curve),
        }

    def run_arm(
        self, arm: Arm, budget: Budget, seed: int, *, keep_model: bool = False, detailed: bool = False
    ) -> dict[str, Any]:
        """Fit one arm on one subset: a record for `add`, also in another process. A model is kept in this one.

        `detailed`: with scores of each class, confusion and calibration.
        """
        key = (arm.name, budget, seed)
        record: dict[str, Any] = self.remember(
            ("fit", *key), lambda: self.fit(arm, budget, seed, keep_model=keep_model, detailed=detailed)
        )
        return record

    def fit(
        self, arm: Arm, budget: Budget, seed: int, *, keep_model: bool = False, detailed: bool = False
    ) -> dict[str, Any]:
        """As `run_arm`, whatever is remembered."""
        used = self.chosen[arm.name]
        setting = arm.fixed if fixed_budget(budget) else used["setting"]
        selected = bool(used["trials"]) and not fixed_budget(budget)
        indices = self.split.subset(budget, seed)
        fitted = arm.fit(indices, setting, seed=seed, budget=budget, trial=False)
        scores, truth, classes = fitted.test(), self.split.test, self.split.classes
        if not (np.isfinite(scores).all() and np.isfinite(fitted.val).all()):
            labels = "all labels" if budget == "all" else f"{budget} labels a class"
            # By identity: the only rate of `lrs` may equal the fixed one.
            rates = "a lower evaluate.fixed_lr" if setting is arm.fixed else "lower rates, --set evaluate.lrs=..."
            cure = f"give {rates}, or " if is_trained(arm.name) else ""
            raise DataError(
                f"{arm.name} gave scores that are not finite with {labels} (seed {seed}, {setting}), so its "
                f"training diverged: {cure}leave it out of --arms"
            )
        predicted = scores.argmax(1)
        if keep_model and fitted.model is not None:
            self.models[arm.name, budget, seed] = fitted.model
        validated = len(self.split.val) > 0
        temperature = fit_temperature(fitted.val, self.split.val) if validated else None
        bins = reliability(scores, truth)
        scaled = None if temperature is None else reliability(scores, truth, temperature=temperature)
        calibrated = {
            "nll": nll(scores, truth),
            "ece": calibration_error(bins),
            "temperature": temperature,
            "nll_scaled": None if temperature is None else nll(scores, truth, temperature=temperature),
            "ece_scaled": None if scaled is None else calibration_error(scaled),
        }
        metrics = classification_metrics(truth, predicted, classes=len(classes))
        details = {
            "arm": arm.name,
            "labels_per_class": budget,
            "seed": seed,
            "per_class": per_class(truth, predicted, classes=list(classes)),
            "confusion": confusion(truth, predicted, classes=len(classes)).tolist(),
            "reliability": bins,
            "reliability_scaled": scaled,
        }
        return {
            "row": {
                "arm": arm.name,
                "labels_per_class": budget,
                "seed": seed,
                **{n: None if v is None else round(float(v), 6) for n, v in (metrics | calibrated).items()},
                "n_train": len(indices),
                "n_val": len(self.split.val) if selected else 0,
                "n_test": len(truth),
            },
            "predicted": pack(predicted),
            "val_score": self._on_validation(fitted.val) if validated else None,
            "shippable": keep_model and fitted.model is not None,
            "curve": list(fitted.curve),
            "details": details if detailed else None,
        }

    def add(self, record: dict[str, Any]) -> None:
        """Take in what `run_arm` gave."""
        row = record["row"]
        key = (row["arm"], row["labels_per_class"], row["seed"])
        self.rows.append(row)
        self.records.append(record)
        self.predictions[key] = unpack(record["predicted"])
        if record["val_score"] is not None:
            self.val_scores[key] = record["val_score"]
        if record["shippable"]:
            self.shippable.append(key)

    def _on_validation(self, scores: np.ndarray) -> float:
        if not np.isfinite(scores).all():
            return 0.0  # a training that diverged wins nothing, not even a tie at chance
        return score(self.split.val, scores.argmax(1), classes=len(self.split.classes), metric=self.metric)


def _mean_scores(arm: Arm, candidate: Any, scores: Sequence[Sequence[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Of one candidate over the seeds: at the end, and at every earlier point where all of them may have stopped."""
    stops: list[dict[float, float]] = [dict(of_seed) for of_seed in scores]
    parts = [part for part in stops[0] if all(part in of_seed for of_seed in stops)]
    return [
        {
            "setting": candidate if part == 1.0 or arm.stopped is None else arm.stopped(candidate, part),
            "val_score": round(float(np.mean([of_seed[part] for of_seed in stops])), 4),
        }
        for part in sorted(parts, reverse=True)
    ]


def pack(predicted: np.ndarray) -> str:
    """Class indices (N,) below 65,536 as text."""
    return base64.b64encode(zlib.compress(predicted.astype("<u2").tobytes(), 9)).decode()


def unpack(text: str) -> np.ndarray:
    """(N,) int64 of what `pack` gave. Raises `DataError` for text that it did not give."""
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), "<u2").astype(np.int64)
    except (ValueError, zlib.error) as error:
        raise DataError(f"predictions of a comparison cannot be read: {error}") from None


def is_trained(arm: str) -> bool:
    """Whether an arm trains an encoder."""
    return arm in TRAINED_ARMS or arm.startswith(f"{REFERENCE_ARMS[1]}:")


def order_of(arm: str) -> tuple[int, str]:
    """What arms are sorted by: their usual order, then the references."""
    return (ARMS.index(arm), "") if arm in ARMS else (len(ARMS), arm)


def usual_budgets(split: Split) -> tuple[Budget, ...]:
    """The ladder of budgets as far as the smallest class reaches, and all labels."""
    poorest = int(np.bincount(split.train, minlength=len(split.classes)).min())
    return (*(budget for budget in LADDER if budget <= poorest), "all")


def seeds_of(budget: Budget, seeds: Sequence[int]) -> Sequence[int]:
    """Of an arm on cached features: all labels are one subset, so one seed."""
    return seeds[:1] if budget == "all" else seeds


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
