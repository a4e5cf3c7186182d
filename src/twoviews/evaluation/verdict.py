"""The verdict of a comparison: one arm against the supervised baseline, in a sentence and in numbers.

What is claimed rests on paired differences of test predictions, seed by seed and item by item: `crossed_interval` over
both, Holm over the budgets of the one comparison that the verdict is about. benchmarks/verdicts.py simulates how often
it is wrong. The sentence is made in `wording.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from twoviews.evaluation.compare import (
    PRETRAINED_ARMS,
    REFERENCE_ARMS,
    Budget,
    Comparison,
    order_of,
    reference_budget,
)
from twoviews.evaluation.labels_saved import labels_saved
from twoviews.evaluation.metrics import item_values, item_weight
from twoviews.evaluation.statistics import by_unit, conclusion, crossed_interval, holm
from twoviews.evaluation.wording import notes_of, sentence_of

BASELINE = "supervised"
FLOOR = "random-linear"
SANITY = "shuffled-linear"

LEVEL = 0.05
"""Of all claims about the primary arm together."""


def verdict(
    comparison: Comparison, budgets: Sequence[Budget], *, subject: str = "self-supervision", primary: str = "auto"
) -> dict[str, Any]:
    """One sentence, and what it rests on: the primary arm against supervised, and all else beside it.

    `primary`: the arm that was named beforehand, or "auto": `primary_arm`. `subject`: what the sentence credits.

    sentence      for whoever reads only that
    metric, primary_arm, chosen_among (arms, by validation; none where it was named), against
    comparisons   one a budget: labels_per_class, arm, against, mean_difference, low and high (95 %, of this budget by
                  itself; None for one test item), n (seeds paired), n_test, items_share (of the squared half-width that
                  more test items would take away), p, p_adjusted (Holm over these budgets), conclusion by that < 0.05
    others        the same of each further arm against supervised, of the primary arm against each reference and, if it
                  is a linear one, against the untrained encoder; Holm over budgets within each pair, not over pairs
    labels_saved  `labels_saved` of the primary arm, the other pretrained arms and the references
    notes         sentences: how to read it, and what throws doubt on it

    Chosen among k arms by the validation scores of the same fits, the primary arm is also the one whose seeds were
    lucky, on test as on validation; left alone, that doubles the false verdicts of two equal arms. So its p-values
    count k times, and its intervals are of 1 - 0.05 / k (Bonferroni); an arm that is named beforehand pays nothing.

    One pair of seeds leaves the luck of subsets and trainings out, so nothing is concluded (p_adjusted = 1), unless
    both arms are without chance on all labels: `leaves_no_luck`. What is not covered: that the encoder was pretrained
    once, and that label subsets come from one labelled pool.
    """
    answers = Answers(comparison)
    arms = answers.arms()
    rivals = list(_rivals(comparison, budgets)) if primary == "auto" else []
    choices = max(len(rivals), 1)
    chosen = primary_arm(comparison, budgets) if primary == "auto" else primary
    if chosen not in arms:
        chosen = None
    against = {
        name: compare_arms(answers, name, BASELINE, budgets, choices=choices if name == chosen else 1)
        for name in arms
        if name != BASELINE
    }
    comparisons = against[chosen] if chosen is not None and chosen != BASELINE else []
    references = [arm for arm in arms if arm.split(":")[0] in REFERENCE_ARMS]
    beside = [
        row
        for other in (*references, *([FLOOR] if chosen in ("linear", "linear-adam") else []))
        if other in arms and chosen is not None and other != chosen
        for row in compare_arms(answers, chosen, other, budgets, choices=choices)
    ]
    others = [row for arm, rows in against.items() if arm != chosen for row in rows] + beside
    own = [arm for arm in (chosen, *PRETRAINED_ARMS, "knn", *references) if arm is not None and arm in arms]
    saved = labels_saved(
        {(arm, b): answers.scores(arm, b) for arm in dict.fromkeys([*own, BASELINE]) for b in budgets},
        {(row["arm"], row["labels_per_class"]): row["n_train"] for row in comparison.rows},
        baseline=BASELINE,
    )
    facts: dict[str, Any] = {
        "metric": comparison.metric,
        "primary_arm": chosen,
        "chosen_among": rivals,
        "against": BASELINE,
        "comparisons": comparisons,
        "others": others,
        "labels_saved": saved,
    }
    choice = {
        "named": primary if primary != "auto" else None,
        "at": selection_point(comparison, budgets),
        "rivals": rivals,
        "subject": subject,
        "baseline": BASELINE in arms,
        "smallest_class": int(np.unique(comparison.split.test, return_counts=True)[1].min()),
        "shuffled": above_chance(answers, budgets),
    }
    return {"sentence": sentence_of(facts, choice), **facts, "notes": notes_of(facts, choice)}


def primary_arm(comparison: Comparison, budgets: Sequence[Budget]) -> str | None:
    """The pretrained arm that is best on validation; without validation fine-tuning, where it ran.

    Best at `selection_point`, in the mean over the seeds that all of them have there, so on the same labels.
    """
    ran = {row["arm"] for row in comparison.rows}
    candidates = [arm for arm in PRETRAINED_ARMS if arm in ran]
    if not candidates:
        return None
    scores = _rivals(comparison, budgets)
    if not scores:
        return "finetune" if "finetune" in candidates else candidates[0]
    common = set.intersection(*(set(found) for found in scores.values()))

    def on_validation(arm: str) -> float:
        found = scores[arm]
        return float(np.mean([found[seed] for seed in sorted(common or found)]))

    return max(scores, key=on_validation)


def _rivals(comparison: Comparison, budgets: Sequence[Budget]) -> dict[str, dict[int, float]]:
    """Scores on validation, by seed, of the pretrained arms that are chosen between."""
    point = selection_point(comparison, budgets)
    scores: dict[str, dict[int, float]] = {}
    for arm in PRETRAINED_ARMS:
        for (a, budget, seed), score in comparison.val_scores.items():
            if a == arm and budget == point:
                scores.setdefault(arm, {})[seed] = score
    return scores


def selection_point(comparison: Comparison, budgets: Sequence[Budget]) -> Budget | None:
    """Where pretrained arms are chosen between: the reference budget of those that most of them have; None without."""
    have: dict[Budget, set[str]] = {}
    for arm, budget, _ in comparison.val_scores:
        if arm in PRETRAINED_ARMS:
            have.setdefault(budget, set()).add(arm)
    most = max(map(len, have.values()), default=0)
    usual = [budget for budget in budgets if len(have.get(budget, ())) == most > 0]
    return reference_budget(usual) or (usual[-1] if usual else None)


@dataclass
class Answers:
    """The test predictions of a comparison as values of items, each made once."""

    comparison: Comparison
    _made: dict[tuple[str, Budget, int], npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seeds: dict[tuple[str, Budget], list[int]] = {}
        for arm, budget, seed in sorted(self.comparison.predictions, key=lambda key: key[2]):
            self._seeds.setdefault((arm, budget), []).append(seed)

    @property
    def classes(self) -> int:
        return len(self.comparison.split.classes)

    def arms(self) -> list[str]:
        return sorted({arm for arm, _ in self._seeds}, key=order_of)

    def seeds(self, arm: str, budget: Budget) -> list[int]:
        return self._seeds.get((arm, budget), [])

    def values(self, arm: str, budget: Budget, seed: int) -> npt.NDArray[np.float64]:
        key = (arm, budget, seed)
        if key not in self._made:
            self._made[key] = item_values(
                self.comparison.split.test,
                self.comparison.predictions[key],
                classes=self.classes,
                metric=self.comparison.metric,
            )
        return self._made[key]

    def scores(self, arm: str, budget: Budget) -> dict[int, float]:
        return {seed: float(self.values(arm, budget, seed).mean()) for seed in self.seeds(arm, budget)}

    def differences(self, arm: str, against: str, budget: Budget) -> npt.NDArray[np.float64] | None:
        """(S, N) over the seeds that both have; an arm without chance on all labels goes with each of the other's."""
        ours, theirs = self.seeds(arm, budget), self.seeds(against, budget)
        pairs = [(seed, seed) for seed in ours if seed in theirs]
        if budget == "all" and len(ours) == 1 and without_chance(arm):
            pairs = [(ours[0], seed) for seed in theirs]
        elif budget == "all" and len(theirs) == 1 and without_chance(against):
            pairs = [(seed, theirs[0]) for seed in ours]
        if not pairs:
            return None
        return np.stack([self.values(arm, budget, s) - self.values(against, budget, t) for s, t in pairs])


def compare_arms(
    answers: Answers, arm: str, against: str, budgets: Sequence[Budget], *, choices: int = 1
) -> list[dict[str, Any]]:
    """A row for each budget that both arms have, with Holm's correction over these; see `verdict`.

    `choices`: out of how many arms this one was chosen by the validation scores of the same fits.
    """
    split = answers.comparison.split
    weight = item_weight(split.test, classes=answers.classes, metric=answers.comparison.metric)
    found = []
    for budget in budgets:
        differences = answers.differences(arm, against, budget)
        if differences is not None:
            interval = crossed_interval(
                by_unit(differences, split.units),
                confidence=1 - LEVEL / choices,
                weight=weight * split.independent,
            )
            told = leaves_no_luck(interval.n, budget, arm, against)
            found.append((budget, interval, min(1.0, choices * (interval.p or 0.0)), told))
    adjusted = iter(holm([p for *_, p, told in found if told]))
    rows = []
    for budget, interval, p, told in found:
        corrected = next(adjusted) if told else 1.0
        finite = bool(np.isfinite(interval.low))
        rows.append(
            {
                "labels_per_class": budget,
                "arm": arm,
                "against": against,
                "mean_difference": round(interval.mean, 6),
                "low": round(interval.low, 6) if finite else None,
                "high": round(interval.high, 6) if finite else None,
                "n": interval.n,
                "n_test": len(split.test),
                "n_units": interval.items,
                "items_share": round(interval.share or 0.0, 3),
                "p": float(f"{p:.4g}"),
                "p_adjusted": float(f"{corrected:.4g}"),
                "conclusion": conclusion(interval.mean, corrected, level=LEVEL),
            }
        )
    return rows


def above_chance(answers: Answers, budgets: Sequence[Budget]) -> list[Budget]:
    """Budgets at which a probe trained on shuffled labels is right more often than answers of its classes' shares.

    An item's expected hit, if answers know nothing of it, is the part of all answers that its class gets (the agreement
    by chance of Cohen 1960); so an imbalance that the probe has learnt counts for nothing. Over seeds and items, Holm
    over budgets, at the level 0.01: a false alarm here would cast doubt on a sound comparison. One seed tells nothing,
    as one permutation may fit by luck.
    """
    labels = answers.comparison.split.test
    found: list[tuple[Budget, float, float]] = []
    for budget in budgets:
        seeds = answers.seeds(SANITY, budget)
        if len(seeds) < 2:
            continue
        excess = []
        for seed in seeds:
            predicted = answers.comparison.predictions[SANITY, budget, seed]
            shares = np.bincount(predicted, minlength=answers.classes) / len(labels)
            excess.append((labels == predicted) - shares[labels])
        interval = crossed_interval(by_unit(np.stack(excess), answers.comparison.split.units))
        found.append((budget, interval.mean, interval.p or 0.0))
    adjusted = holm([p for _, _, p in found])
    return [budget for (budget, mean, _), p in zip(found, adjusted, strict=True) if mean > 0 and p < 0.01]


def without_chance(arm: str) -> bool:
    """Whether the same labels always give the same classifier."""
    return arm in ("linear", "knn", "pixels-linear", "pixels-knn") or arm.startswith(f"{REFERENCE_ARMS[0]}:")


def leaves_no_luck(n: int, budget: Budget, *arms: str) -> bool:
    """Whether an interval over `n` seeds allows a conclusion: it covers the luck of subsets and trainings, or there is
    none.

    >>> leaves_no_luck(1, 10, "linear"), leaves_no_luck(1, "all", "linear"), leaves_no_luck(1, "all", "linear-adam")
    (False, True, False)
    """
    return n > 1 or (budget == "all" and all(map(without_chance, arms)))
