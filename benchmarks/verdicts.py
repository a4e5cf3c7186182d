"""How often the verdict is wrong, and how small a gain it sees: simulated comparisons with a known truth.

    python benchmarks/verdicts.py --out benchmarks/results/verdicts.json

Each of the --simulations of a case is a whole comparison on 8 budgets that goes through the same `verdict()` as a real
one: two candidates for the primary arm, `linear` with 20 label subsets and `finetune` with 5, chosen between on 200
validation items, and `supervised` with 5. An arm answers an item rightly where a latent value is above 0, the sum of

  the budget's skill         the same for all arms, or raised for the two candidates by the planted gain
  difficulty of the item     shared by all arms, budgets and seeds
  item x arm                 what an arm finds hard whichever its seed; SHARED of its variance is that of all budgets
  subset                     luck of the labels drawn, shared by all arms: it is paired away
  arm x seed                 luck of training, and of a subset for an arm; shared by validation and test, and SHARED of
                             its variance by all budgets, as label subsets are nested
  arm x seed x item          the rest

all normal; a wrong answer is one of the other 9 classes, uniformly. On "all" labels there is no luck of the subset, and
`linear` has one seed. Where nothing differs, a false verdict is one that says "helps" or "hurts" at any budget. A gain
is found where any budget says "helps"; the mean over budgets is given too.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from twoviews.compute import cpu_name
from twoviews.evaluation.compare import Budget, Comparison, Split
from twoviews.evaluation.verdict import verdict

BUDGETS: tuple[Budget, ...] = (1, 2, 5, 10, 20, 50, 100, "all")
ACCURACY = dict(zip(BUDGETS, (0.30, 0.38, 0.47, 0.54, 0.60, 0.67, 0.72, 0.76), strict=True))
CLASSES, VALIDATION = 10, 200
CANDIDATES = {"linear": 20, "finetune": 5}
BASELINE = ("supervised", 5)
SHARED = 0.5


@dataclass(frozen=True)
class Case:
    """The standard deviations of a world, in units of the latent value, its test set and what the verdict is asked for.

    `equal`: as many of each class, else in geometric proportions, the commonest 20 times the rarest.
    """

    name: str
    n_test: int
    item: float = 1.0
    item_arm: float = 0.5
    subset: float = 0.2
    seed: float = 0.08
    rest: float = 0.5
    equal: bool = True
    metric: str = "accuracy"
    primary: str = "auto"


def simulate(case: Case, gain: float, rng: np.random.Generator, *, budgets: Sequence[Budget] = BUDGETS) -> Comparison:
    """A comparison in which both candidates are `gain` (a fraction) more accurate than the baseline at each budget."""
    test, val = (_labels(n, case, rng) for n in (case.n_test, VALIDATION))
    answers = len(test) + len(val)
    truth = np.concatenate([test, val])
    comparison = Comparison(
        Split(np.repeat(np.arange(CLASSES), 200), val, test, tuple(map(str, range(CLASSES)))), metric=case.metric
    )
    difficulty = case.item * _normal(rng, answers)
    subsets = case.subset * _normal(rng, max(CANDIDATES.values()))
    for arm, seeds in (*CANDIDATES.items(), BASELINE):
        hard, luck = _normal(rng, answers), _normal(rng, seeds)
        for budget in budgets:
            mean = skill_of(ACCURACY[budget] + (gain if arm != BASELINE[0] else 0.0), case, all_labels=budget == "all")
            own = mean + difficulty + case.item_arm * _mix(hard, _normal(rng, answers))
            chance = case.seed * _mix(luck, _normal(rng, seeds)) + (0.0 if budget == "all" else subsets[:seeds])
            used = 1 if budget == "all" and arm == "linear" else seeds
            latent = own + chance[:used, None] + case.rest * _normal(rng, (used, answers))
            wrong = (truth + rng.integers(1, CLASSES, size=answers)) % CLASSES
            predicted = np.where(latent > 0, truth, wrong)
            n_train = 2000 if budget == "all" else CLASSES * budget
            for seed in range(used):
                key = (arm, budget, seed)
                comparison.predictions[key] = predicted[seed, : len(test)]
                comparison.val_scores[key] = float((predicted[seed, len(test) :] == val).mean())
                comparison.rows.append({"arm": arm, "labels_per_class": budget, "seed": seed, "n_train": n_train})
    return comparison


def skill_of(accuracy: float, case: Case, *, all_labels: bool) -> float:
    """The latent mean at which an arm has this accuracy in the mean over all that is drawn."""
    parts = (case.item, case.item_arm, 0.0 if all_labels else case.subset, case.seed, case.rest)
    return float(norm.ppf(accuracy) * np.sqrt(sum(part**2 for part in parts)))


def points_of(case: Case) -> dict[str, float]:
    """What the standard deviations of subset and seed come to in points of accuracy, at an accuracy of 60 %."""
    latent = np.sqrt(case.item**2 + case.item_arm**2 + case.rest**2)
    return {
        name: round(100 * float(norm.cdf(norm.ppf(0.6) + value / latent) - 0.6), 1)
        for name, value in (("subset", case.subset), ("seed", case.seed))
    }


def _normal(rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _mix(common: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own


def _labels(count: int, case: Case, rng: np.random.Generator) -> np.ndarray:
    """(count,) labels, each class at least once."""
    if case.equal:
        return np.arange(count) % CLASSES
    shares = 20.0 ** -np.linspace(0, 1, CLASSES)
    return np.concatenate([np.arange(CLASSES), rng.choice(CLASSES, size=count - CLASSES, p=shares / shares.sum())])


def measure(
    case: Case,
    gain: float,
    *,
    simulations: int,
    seed: int,
    budgets: Sequence[Budget] = BUDGETS,
) -> dict[str, Any]:
    """How the verdicts on many comparisons come out."""
    rng = np.random.default_rng([seed, case.n_test])
    helps = hurts = any_helps = covered = rows = others = 0
    false, widths = 0, []
    for _ in range(simulations):
        found = verdict(simulate(case, gain, rng, budgets=budgets), budgets, primary=case.primary)
        said = [row["conclusion"] for row in found["comparisons"]]
        helps, hurts = helps + said.count("helps"), hurts + said.count("hurts")
        any_helps += "helps" in said
        false += "hurts" in said or ("helps" in said and gain == 0)
        for row in found["comparisons"]:
            covered += row["low"] <= gain <= row["high"]
            widths.append(50 * (row["high"] - row["low"]))
            rows += 1
        others += any(row["conclusion"] != "cannot tell" for row in found["others"])
    interval = binomtest(false, simulations).proportion_ci(method="exact")
    return {
        **asdict(case),
        "gain_points": round(100 * gain, 1),
        "simulations": simulations,
        "seed_and_subset_in_points": points_of(case),
        "false_verdicts": round(false / simulations, 4),
        "false_verdicts_95": [round(interval.low, 4), round(interval.high, 4)],
        "verdicts_with_helps": round(any_helps / simulations, 4),
        "budgets_with_helps": round(helps / rows, 4),
        "budgets_with_hurts": round(hurts / rows, 4),
        "intervals_that_cover": round(covered / rows, 4) if case.metric == "accuracy" else None,
        "half_width_points": round(float(np.median(widths)), 2),
        "an_other_pair_concluded": round(others / simulations, 4),
    }


NULL = (
    Case("usual", 30),
    Case("usual", 100),
    Case("usual", 372),
    Case("usual", 2000),
    Case("much luck of training", 372, seed=0.3),
    Case("much luck of training", 2000, seed=0.3),
    Case("arm named beforehand", 372, primary="finetune"),
    Case("arm named beforehand, much luck", 2000, seed=0.3, primary="finetune"),
    Case("no luck of training", 372, seed=0.0),
    Case("much luck of subsets", 372, subset=0.5),
    Case("arms differ by item", 372, item_arm=1.0, rest=0.2),
    Case("arms are alike by item", 372, item_arm=0.15, rest=0.15, seed=0.03),
    Case("unequal classes, balanced accuracy", 100, equal=False, metric="balanced_accuracy"),
    Case("unequal classes, balanced accuracy", 372, equal=False, metric="balanced_accuracy"),
    Case("unequal classes, macro F1", 372, equal=False, metric="f1_macro"),
)
GAINS = (
    *((Case("usual", n), 0.10) for n in (50, 100, 200, 372, 1000, 2000)),
    *((Case("arm named beforehand", n, primary="finetune"), 0.10) for n in (100, 200, 372)),
    *((Case("some luck of training", n, seed=0.15), 0.10) for n in (372, 2000)),
    *((Case("usual", n), 0.05) for n in (372, 2000)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    results = []
    print(
        f"{'case':36} {'test':>5} {'gain':>5} {'false':>7} {'helps':>7} {'a budget':>9} {'covers':>7} {'± points':>9}"
    )
    for case, gain in (*((case, 0.0) for case in NULL), *GAINS):
        row = measure(case, gain, simulations=options.simulations, seed=options.seed)
        results.append(row)
        covers = row["intervals_that_cover"]
        print(
            f"{case.name:36} {case.n_test:5} {row['gain_points']:5.1f} {100 * row['false_verdicts']:6.1f}% "
            f"{100 * row['verdicts_with_helps']:6.1f}% {100 * row['budgets_with_helps']:8.1f}% "
            f"{'-' if covers is None else f'{100 * covers:.1f}%':>7} {row['half_width_points']:9.1f}",
            flush=True,
        )
    if options.out:
        facts = {
            "command": f"python benchmarks/verdicts.py --simulations {options.simulations} --seed {options.seed}",
            "budgets": list(BUDGETS),
            "accuracy_of_the_baseline": list(ACCURACY.values()),
            "seeds": {**CANDIDATES, BASELINE[0]: BASELINE[1]},
            "validation_items": VALIDATION,
            "classes": CLASSES,
            "machine": f"{cpu_name()}, {platform.system()}, Python {platform.python_version()}",
            "results": results,
        }
        options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
