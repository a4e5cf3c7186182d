"""Two evaluated runs, held against each other: one arm, the same labels, the same test items."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twoviews.errors import DataError, TwoviewsError
from twoviews.evaluation.compare import FIXED_BELOW, Budget
from twoviews.evaluation.metrics import item_values, item_weight
from twoviews.evaluation.statistics import by_unit, conclusion, crossed_interval, holm, units_an_item
from twoviews.evaluation.verdict import LEVEL, leaves_no_luck
from twoviews.evaluation.wording import budget_words
from twoviews.jobs.comparing.labelled import GIVEN
from twoviews.jobs.comparing.overlap import units_of
from twoviews.jobs.comparing.records import Record, read_records
from twoviews.run import Run

WORDS = {"helps": "better", "hurts": "worse", "cannot tell": "cannot tell"}

DECODING = ("cache_side", "channels", "intensity", "background", "pages")
"""Settings of `data` by which the pixels of one image differ from run to run."""
PLACES = {"test": ("test",), "train": ("train",), "val": ("train", "validation")}
"""Where the protocol says that a part lies."""
HANDED = re.compile(r"(array|tensor) \(|list of \d|\w+ of \d+ items$")
"""How what Python handed over is called: that has no place, and numbers for ids."""


@dataclass(frozen=True)
class Evaluated:
    """A run with its results."""

    name: str
    run: Run
    info: dict[str, Any]
    settings: dict[str, Any]
    results: dict[str, Any]

    @property
    def verdict(self) -> dict[str, Any]:
        return self.results.get("verdict") or {}

    @property
    def metric(self) -> str:
        return str(self.verdict.get("metric", "accuracy"))

    @property
    def arms(self) -> set[str]:
        return {row["arm"] for row in self.results["rows"]}

    @property
    def protocol(self) -> dict[str, Any]:
        return self.results.get("protocol") or {}

    def fingerprint(self, part: str) -> str | None:
        """What identifies the images of a part: pixels and ids."""
        return (self.protocol.get("data_fingerprints") or {}).get(part)

    def labelled(self, part: str) -> str | None:
        """What identifies the items of a part whatever their pixels: ids and labels."""
        return (self.protocol.get("labels_fingerprints") or {}).get(part)

    @property
    def decoded(self) -> dict[str, Any]:
        """How the labelled images were decoded, as far as the settings say it."""
        data = self.settings.get("data") or {}
        return {name: data[name] for name in DECODING if data.get(name) is not None}

    def choice(self, arm: str) -> dict[str, Any]:
        """The setting of an arm, and how it was chosen."""
        return (self.protocol.get("settings") or {}).get(arm) or {}


def paired(runs: Sequence[Evaluated], arm: str, metric: str, *, choices: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Each run less the first, at the budgets that both have; and who cannot be paired, with the reason.

    `choices`: arms that this one was chosen among by the first run's scores; its p-values count as often, and its
    intervals are of 1 - 0.05 / choices, since the arm whose seeds were lucky in that run tends to be chosen (as in the
    verdict).
    """
    first, *others = runs
    pairs: list[dict[str, Any]] = []
    told: list[bool] = []
    not_paired = []
    for run in others:
        try:
            _require_alike(first, run, arm)
            ours, theirs = Answers(run, arm, metric), Answers(first, arm, metric)
            if not np.array_equal(ours.labels, theirs.labels):
                raise DataError("their test labels differ")
            units = _units(ours, theirs)
            shared = [b for b in ours.budgets if set(ours.seeds(b)) & set(theirs.seeds(b))]
            if not shared:
                raise DataError(f"they share no seed of {arm} at any number of labels")
        except TwoviewsError as error:
            not_paired.append(f"{run.name} and {first.name} cannot be compared in pairs: {error}.")
            continue
        for budget in shared:
            seeds = sorted(set(ours.seeds(budget)) & set(theirs.seeds(budget)))
            differences = np.stack([ours.values(budget, s) - theirs.values(budget, s) for s in seeds])
            interval = crossed_interval(
                by_unit(differences, units), weight=ours.weight * units_an_item(units), confidence=1 - LEVEL / choices
            )
            assert interval.p is not None, "of a mean over items there is one"
            told.append(leaves_no_luck(interval.n, budget, arm))
            finite = bool(np.isfinite(interval.low))
            pairs.append(
                {
                    "run": run.name,
                    "against": first.name,
                    "arm": arm,
                    "labels_per_class": budget,
                    "mean_difference": round(interval.mean, 6),
                    "low": round(interval.low, 6) if finite else None,
                    "high": round(interval.high, 6) if finite else None,
                    "n": interval.n,
                    "n_test": len(ours.labels),
                    "n_units": interval.items,
                    "p": float(f"{min(1.0, choices * interval.p):.4g}"),
                }
            )
    adjusted = iter(holm([pair["p"] for pair, sound in zip(pairs, told, strict=True) if sound]))
    for pair, sound in zip(pairs, told, strict=True):
        p = next(adjusted) if sound else 1.0
        pair["p_adjusted"] = float(f"{p:.4g}")
        pair["conclusion"] = WORDS[conclusion(pair["mean_difference"], p)]
    return pairs, not_paired


def known_same(first: Evaluated, run: Evaluated, part: str) -> bool:
    """Whether a part holds the same items in two runs, by ids and labels, and by pixels where these are decoded alike.

    Decoded otherwise, the part must lie in the same place: ids alone could be those of other images.
    """
    both = (first, run)
    if None in (run.labelled(part), run.fingerprint(part)) or run.labelled(part) != first.labelled(part):
        return False
    if run.fingerprint(part) == first.fingerprint(part):
        return True
    if part == "val" and run.protocol.get("validation") == GIVEN:  # where it lies is not recorded
        return False
    told = [[one.protocol.get(key) for name in ("test", part) for key in PLACES[name]] for one in both]
    # Decoded alike, other pixels are other images.
    return (
        "cache_side" in first.decoded.keys() & run.decoded.keys()
        and first.decoded != run.decoded
        and told[0] == told[1]
        and None not in told[0]
        and not any(HANDED.match(str(text)) for text in told[0])
    )


def why_not_same(first: Evaluated, run: Evaluated, part: str) -> str:
    """Why a part may hold other items in another run, in words."""
    if old := [one.name for one in (run, first) if one.labelled(part) is None]:
        return f"{' and '.join(old)} was evaluated by an earlier version: evaluate again"
    if run.fingerprint(part) == first.fingerprint(part):
        return "the same images with other labels"
    return decoded_in_words(first, run)


def decoded_in_words(first: Evaluated, run: Evaluated) -> str:
    """Why pixels may differ."""
    sides = [one.decoded.get("cache_side") for one in (run, first)]
    if None not in sides and sides[0] != sides[1]:
        return f"decoded at {sides[0]} and {sides[1]} px"
    return "other images, another order, or decoded in another size or range"


def _require_alike(first: Evaluated, run: Evaluated, arm: str) -> None:
    """Raise `DataError` with the reason why two runs answer different questions, or answer them otherwise."""
    if run.results.get("classes") != first.results.get("classes"):
        raise DataError("their classes differ")
    parts = [("test", "test"), ("train", "labelled training")]
    if first.choice(arm).get("trials") and run.choice(arm).get("trials"):
        parts.append(("val", "validation"))
    for part, what in parts:
        if not known_same(first, run, part):
            raise DataError(f"their {what} images are not known to be the same ({why_not_same(first, run, part)})")
    mine, theirs = _decided(run, arm), _decided(first, arm)
    if differing := [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]:
        told = "; ".join(
            f"{name} {_in_words(mine.get(name))} in {run.name}, {_in_words(theirs.get(name))} in {first.name}"
            for name in differing
        )
        raise DataError(f"{arm} was evaluated otherwise ({told}): evaluate both alike")


def _decided(run: Evaluated, arm: str) -> dict[str, Any]:
    """What decided an arm beside the encoder and the data; what `--minutes` cut is in the length."""
    options: dict[str, Any] | None = (run.protocol.get("options") or {}).get(arm)
    if options is None:
        raise DataError(f"{run.name} does not say how {arm} was evaluated: evaluate {run.run.path} again")
    choice = run.choice(arm)
    tried = list(dict.fromkeys(_value(trial.get("setting")) for trial in choice.get("trials") or []))
    if tried:
        chosen: dict[str, Any] = {"tried": tried, "chosen": budget_words(choice.get("reference_budget", "all"))}
    else:
        chosen = {"setting": _value(choice.get("setting"))}
    return options | chosen | {f"setting below {FIXED_BELOW} labels": choice.get(f"fixed_below_{FIXED_BELOW}")}


def _value(setting: Any) -> Any:
    """A penalty, or the rate of a trained arm."""
    return setting.get("lr") if isinstance(setting, dict) else setting


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return f"{value:g}" if isinstance(value, float) else "not given" if value is None else str(value)


class Answers:
    """What a run's arm answered on test, fit by fit, as values of items. Raises `DataError` where that is not known."""

    def __init__(self, run: Evaluated, arm: str, metric: str) -> None:
        self.metric, self.count = metric, len(run.results["classes"])
        self.labels, self.units = _labels(run)
        try:
            records = read_records(run.run)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{run.run.records} cannot be read ({error}): evaluate {run.run.path} again") from None
        self.records: dict[tuple[Budget, int], Record] = {(r.budget, r.seed): r for r in records if r.arm == arm}
        if not self.records:
            raise DataError(f"{run.name} has no records of single answers: evaluate {run.run.path} again")
        self.weight = item_weight(self.labels, classes=self.count, metric=metric)
        for (budget, seed), record in self.records.items():
            told = record.row.get(metric)
            if len(record.predicted) != len(self.labels) or (
                isinstance(told, float) and abs(float(self.values(budget, seed).mean()) - told) > 1e-4
            ):
                raise DataError(f"the records of {run.name} do not fit its results: evaluate {run.run.path} again")

    @property
    def budgets(self) -> list[Budget]:
        return sorted({budget for budget, _ in self.records}, key=place_of)

    def seeds(self, budget: Budget) -> list[int]:
        return [seed for b, seed in self.records if b == budget]

    def values(self, budget: Budget, seed: int) -> npt.NDArray[np.float64]:
        predicted = self.records[budget, seed].predicted
        return item_values(self.labels, predicted, classes=self.count, metric=self.metric)


def _units(ours: Answers, theirs: Answers) -> npt.NDArray[np.int64] | None:
    """Which test items belong together, by whichever run knows it."""
    known = [one.units for one in (ours, theirs) if one.units is not None]
    if len(known) == 2 and not np.array_equal(known[0], known[1]):
        raise DataError("the groups of their test items differ")
    return known[0] if known else None


def _labels(run: Evaluated) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """The test labels (N,), in the order of the answers, and which of the items belong together."""
    rows = _test_items(run)
    numbers = {name: i for i, name in enumerate(run.results["classes"])}
    labels = np.array([numbers[row["label"]] for row in rows], dtype=np.int64)
    return labels, units_of([row.get("group") or None for row in rows])


def _test_items(run: Evaluated) -> list[dict[str, str]]:
    """Rows of `predictions.csv`, each with a label of the run's classes."""
    path = run.run.evaluation / "predictions.csv"
    if not path.is_file():
        raise DataError(f"{run.name} has no {path.name}, and so no labels of single test items")
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        if unknown := {row["label"] for row in rows}.difference(run.results["classes"]):
            raise KeyError(*sorted(unknown))
    except (OSError, KeyError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}): evaluate {run.run.path} again") from None
    return rows


def place_of(budget: Budget) -> tuple[bool, int]:
    """What budgets are sorted by: rising, "all" last."""
    return (True, 0) if isinstance(budget, str) else (False, budget)
