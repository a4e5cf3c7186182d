"""The verdict of a comparison: one arm against the supervised baseline, in a sentence and in numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from twoviews.evaluation.compare import PRETRAINED_ARMS, Budget, Comparison, reference_budget
from twoviews.evaluation.statistics import conclusion, paired_interval


def verdict(comparison: Comparison, budgets: Sequence[Budget], *, subject: str = "self-supervision") -> dict[str, Any]:
    """One sentence and its paired intervals: the best of the pretrained arms on validation, against supervised.

    Intervals are Student's t over the seeds' differences in test accuracy, 95 %, one a budget, not corrected for
    several budgets; pretraining itself was run once. "all" has one seed and so no interval. `subject`: what it credits.
    """
    primary = primary_arm(comparison, budgets)
    against = "supervised"
    accuracy = {(r["arm"], r["labels_per_class"], r["seed"]): r["accuracy"] for r in comparison.rows}
    comparisons = []
    for budget in budgets:
        seeds = sorted(s for a, b, s in accuracy if a == primary and b == budget)
        pairs = [s for s in seeds if (against, budget, s) in accuracy]
        if not pairs:
            continue
        interval = paired_interval([accuracy[primary, budget, s] - accuracy[against, budget, s] for s in pairs])
        single = interval.n == 1
        comparisons.append(
            {
                "labels_per_class": budget,
                "arm": primary,
                "against": against,
                "mean_difference": round(interval.mean, 6),
                "low": None if single else round(interval.low, 6),
                "high": None if single else round(interval.high, 6),
                "n": interval.n,
                "conclusion": "one seed" if single else conclusion(interval),
            }
        )
    return {
        "sentence": _sentence(primary, comparisons, subject),
        "primary_arm": primary,
        "comparisons": comparisons,
    }


def primary_arm(comparison: Comparison, budgets: Sequence[Budget]) -> str | None:
    """The pretrained arm that is best on validation; without validation fine-tuning, where it ran."""
    ran = {row["arm"] for row in comparison.rows}
    candidates = [arm for arm in PRETRAINED_ARMS if arm in ran]
    if not candidates:
        return None
    if not len(comparison.split.val) and "finetune" in candidates:
        return "finetune"
    reference = reference_budget(budgets)

    def on_validation(arm: str) -> float:
        values = [v for (a, b, _), v in comparison.val_scores.items() if a == arm and b == reference]
        return float(np.mean(values)) if values else -1.0

    return max(candidates, key=on_validation)


NAMES = {
    "linear": "a linear probe on the frozen encoder",
    "linear-adam": "a softmax layer on the frozen encoder, trained with Adam",
    "finetune": "fine-tuning the encoder",
    "supervised": "training from scratch",
}


def _sentence(primary: str | None, comparisons: list[dict[str, Any]], subject: str) -> str:
    if primary is None:
        return "No verdict: neither the linear probe nor fine-tuning was run."
    if not comparisons:
        return f"No verdict: the supervised baseline was not run beside {NAMES[primary]}."
    parts = {"helps": [], "hurts": [], "cannot tell": [], "one seed": []}  # type: dict[str, list[str]]
    for row in comparisons:
        budget = _budget_words(row["labels_per_class"])
        points = f"{100 * row['mean_difference']:+.1f}"
        if row["low"] is not None:
            points += f" ± {50 * (row['high'] - row['low']):.1f}"
        parts[row["conclusion"]].append(f"{budget} ({points} points)")
    sentences = []
    if parts["helps"]:
        sentences.append(f"{subject[0].upper()}{subject[1:]} helped {_join(parts['helps'])}.")
    if parts["hurts"]:
        start = "It hurt" if sentences else f"{subject[0].upper()}{subject[1:]} hurt"
        sentences.append(f"{start} {_join(parts['hurts'])}.")
    if parts["cannot tell"]:
        start = "There is no clear difference" if sentences else f"Cannot tell whether {subject} helped"
        sentences.append(f"{start} {_join(parts['cannot tell'])}.")
    if parts["one seed"]:
        what = _join(parts["one seed"])
        sentences.append(f"{what[0].upper()}{what[1:]} there is one seed, so no interval.")
    n = max(row["n"] for row in comparisons)
    sentences.append(
        f"Compared: test accuracy of {NAMES[primary]} and of {NAMES['supervised']} on the same labels, "
        f"± a 95 % interval over {n} label subsets."
    )
    return " ".join(sentences)


def _budget_words(budget: Budget) -> str:
    if budget == "all":
        return "with all labels"
    return f"at {budget} label{'' if budget == 1 else 's'} a class"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
