"""How many labels the baseline needs for what another arm reaches with few."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from twoviews.evaluation.compare import Budget


def labels_saved(
    scores: Mapping[tuple[str, Budget], Mapping[int, float]],
    counts: Mapping[tuple[str, Budget], int],
    *,
    baseline: str,
) -> list[dict[str, Any]]:
    """For each arm and budget, the labels at which the baseline's curve comes to the same score.

    `scores`: of (arm, budget), by seed, in the order of the rows; `counts`: labels used, by the same key. An arm's
    score is the mean over the seeds that the baseline has too, where there are such. The baseline's curve is its mean
    score at each number of labels, made monotone by the running maximum (a dip would only make savings larger), and
    linear in the logarithm of the number between them. Each row: arm, labels_per_class, labels, score and one of three:

    baseline_labels   how many the baseline needs
    more_than         censored: it does not get there with its most, so many
    at_most           censored: it is there with its fewest, so many, already

    Point estimates, without an interval: the comparisons say which differences are sure.

    >>> scores = {("linear", 1): {0: 0.6}, ("supervised", 1): {0: 0.5}, ("supervised", 10): {0: 0.7}}
    >>> counts = {("linear", 1): 10, ("supervised", 1): 10, ("supervised", 10): 100}
    >>> labels_saved(scores, counts, baseline="supervised")[0]["baseline_labels"]    # half-way from 10 to 100
    31.6
    """
    of_baseline = {b: s for (arm, b), s in scores.items() if arm == baseline and s}
    if not of_baseline:
        return []
    points = sorted((counts[baseline, b], float(np.mean(list(s.values())))) for b, s in of_baseline.items())
    numbers, curve = [n for n, _ in points], np.maximum.accumulate([s for _, s in points])
    rows = []
    for (arm, budget), by_seed in scores.items():
        if arm == baseline or not by_seed:
            continue
        shared = [s for seed, s in by_seed.items() if seed in of_baseline.get(budget, {})]
        score = float(np.mean(shared or list(by_seed.values())))
        needed = more_than = at_most = None
        place = int(np.searchsorted(curve, score))  # the first point that is as good
        if place == len(curve):
            more_than = numbers[-1]
        elif place == 0 and curve[0] > score:
            at_most = numbers[0]
        elif place == 0:
            needed = float(numbers[0])
        else:
            part = (score - curve[place - 1]) / (curve[place] - curve[place - 1])
            first, second = math.log(numbers[place - 1]), math.log(numbers[place])
            needed = round(math.exp(first + float(part) * (second - first)), 1)
        rows.append(
            {
                "arm": arm,
                "labels_per_class": budget,
                "labels": counts[arm, budget],
                "score": round(score, 6),
                "baseline_labels": needed,
                "more_than": more_than,
                "at_most": at_most,
            }
        )
    return rows
