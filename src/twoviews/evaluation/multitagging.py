"""Several tags an image from examples: a logistic probe a tag against the rest, with a threshold for each.

N examples with vectors (N, D), T tags. What is said of how well it does comes from examples that were left out, as in
`tagging`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from ..errors import DataError, UsageError
from .features import check_finite
from .tagging import Score, Scores, Units, Vectors, folds_of, least, unit_numbers

PENALTIES = (0.3, 3.0, 30.0)
"""Of the probes: strength = penalty / examples, one for all tags."""


@dataclass(frozen=True)
class TagFigures:
    """One tag: how many examples have it, and what cross-validation says; None where too few have it.

    `precision`: average precision, to be held against the tag's share of the examples, which is a guess's; `f1` at
    thresholds that were chosen without the examples it is measured on.
    """

    tag: str
    examples: int
    precision: float | None
    f1: float | None
    threshold: float


@dataclass(frozen=True)
class MultiTagger:
    """Several tags an image: `probabilities` (Q, D) -> (Q, T), and the threshold of each tag (T,).

    `mean_precision`, `f1_micro`, `f1_macro`: over the tags that were cross-validated; None without one. `penalty`: of
    `PENALTIES` the one with the highest mean precision.
    """

    probabilities: Score
    thresholds: Scores
    figures: tuple[TagFigures, ...]
    mean_precision: float | None
    f1_micro: float | None
    f1_macro: float | None
    parts: int
    penalty: float


def fit_multi_tagger(
    vectors: Vectors, tags: npt.NDArray[np.bool_], *, names: Sequence[str], units: Units | None = None
) -> MultiTagger:
    """From examples with any number of tags, (N, T), to a logistic probe a tag against the rest and its threshold.

    The threshold of a tag is the one with the highest F1 on examples that were left out; 0.5 where fewer than two units
    have the tag. Probabilities are calibrated by one temperature, fitted on the same. Raises DataError for a tag that
    no example or every example has, and vectors that are not finite; UsageError for shapes that do not fit.

    >>> x = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]] * 3)
    >>> tagger = fit_multi_tagger(x, x > 0.5, names=["a", "b"])
    >>> tagger.mean_precision, (tagger.probabilities(x) >= tagger.thresholds).tolist() == (x > 0.5).tolist()
    (1.0, True)
    """
    check_finite(vectors, what="examples")
    if tags.shape != (len(vectors), len(names)):
        raise UsageError(f"{len(vectors)} examples and {len(names)} tags need an array of both, got {tags.shape}")
    for name, count in zip(names, tags.sum(axis=0), strict=True):
        if count in (0, len(tags)):
            many = "every example has" if count else "no example has"
            raise DataError(f"{many} the tag {name!r}: give examples with it and without it, or leave it out")
    numbers, folds = unit_numbers(units, len(tags)), folds_of(tags, units=units)
    tried = np.array(
        [len(np.unique(numbers[has])) > 1 and len(np.unique(numbers[~has])) > 1 for has in tags.T], dtype=np.bool_
    )
    candidates = np.zeros((len(PENALTIES), *tags.shape))
    for fold in np.unique(folds):
        out, rest = folds == fold, folds != fold
        for scores, fitted in zip(candidates, _fit_logistic(vectors[rest], tags[rest], PENALTIES), strict=True):
            scores[out] = fitted(vectors[out])
    precise = [sum(average_precision(s[:, t], tags[:, t]) for t in np.flatnonzero(tried)) for s in candidates]
    best = int(np.argmax(precise))
    left, temperature = candidates[best], 1.0
    if tried.any():
        truth, known = tags[:, tried].astype(np.float64), left[:, tried]
        shown = (truth * len(truth) + 1) / (len(truth) + 2)  # as in `smooth_temperature`
        temperature = least(lambda t: float((np.logaddexp(0, known / t) - shown * known / t).sum()))
    held = expit(left / temperature)
    thresholds = np.full(len(names), 0.5)
    chosen = np.zeros(tags.shape, dtype=np.bool_)
    for t in np.flatnonzero(tried):
        thresholds[t] = best_threshold(held[:, t], tags[:, t])
        for fold in np.unique(folds):
            out = folds == fold
            chosen[out, t] = held[out, t] >= best_threshold(held[~out, t], tags[~out, t])
    figures = tuple(
        TagFigures(
            name,
            int(tags[:, t].sum()),
            average_precision(held[:, t], tags[:, t]) if tried[t] else None,
            f1(tags[:, t], chosen[:, t]) if tried[t] else None,
            float(thresholds[t]),
        )
        for t, name in enumerate(names)
    )
    (final,) = _fit_logistic(vectors, tags, PENALTIES[best : best + 1])
    return MultiTagger(
        lambda queries: expit(final(queries) / temperature),
        thresholds,
        figures,
        _mean([figure.precision for figure in figures]),
        f1(tags[:, tried], chosen[:, tried]) if tried.any() else None,
        _mean([figure.f1 for figure in figures]),
        len(np.unique(folds)),
        PENALTIES[best],
    )


def average_precision(scores: npt.NDArray[Any], tags: npt.NDArray[np.bool_]) -> float:
    """Mean precision over the steps of recall, (N,) both, equal scores taken together; as scikit-learn has it.

    >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True])).__round__(4)
    0.8333
    """
    if not tags.any():
        raise DataError("average precision needs an example with the tag: give one")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(tags[order])
    ends = np.append(np.diff(scores[order]) != 0, True)
    steps = np.diff(np.append(0, hits[ends]))
    return float((hits[ends] / (np.flatnonzero(ends) + 1) * steps).sum() / hits[-1])


def f1(tags: npt.NDArray[np.bool_], chosen: npt.NDArray[np.bool_]) -> float:
    """2 hits / (had + chosen), over all entries together; 0 where nothing was had or chosen.

    >>> f1(np.array([True, True, False]), np.array([True, False, False])).__round__(4)
    0.6667
    """
    both = int(tags.sum()) + int(chosen.sum())
    return 2 * int((tags & chosen).sum()) / both if both else 0.0


def best_threshold(scores: npt.NDArray[Any], tags: npt.NDArray[np.bool_]) -> float:
    """The probability from which on the tag is given, for the highest F1; (N,) both.

    Half way to the next lower score; of equals the highest. 0.5 where none has the tag.

    >>> best_threshold(np.array([0.9, 0.6, 0.2]), np.array([True, True, False]))
    0.4
    """
    if not tags.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], np.cumsum(tags[order])
    ends = np.append(np.diff(sorted_scores) != 0, True)
    quality = np.where(ends, 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1]), -1.0)
    at = int(quality.argmax())
    lower = sorted_scores[at + 1] if at + 1 < len(hits) else 0.0
    return float((sorted_scores[at] + lower) / 2)


def _fit_logistic(vectors: Vectors, tags: npt.NDArray[np.bool_], penalties: Sequence[float]) -> list[Score]:
    """A logistic probe a tag: mean cross-entropy + strength / 2 * squared weights, which is `fit_probe` of two classes.

    All share one rotation to the principal axes of the standardised vectors, which the penalty does not see. A tag that
    all or none of these examples have is its bias alone.
    """
    standard = vectors.astype(np.float64)
    mean = standard.mean(axis=0)
    standard -= mean
    std = standard.std(axis=0)
    std[std <= 1e-9 * np.abs(mean)] = 1.0
    std[std == 0] = 1.0
    standard /= std
    weights = {penalty: np.zeros((tags.shape[1], len(mean) + 1)) for penalty in penalties}
    with threadpool_limits(1):  # small products, many times
        left, size, axes = np.linalg.svd(standard, full_matrices=False)
        rank = int((size > size.max(initial=0.0) * max(standard.shape) * np.finfo(np.float64).eps).sum())
        coordinates, rotation, variance = left[:, :rank] * size[:rank], axes[:rank], size[:rank] ** 2 / len(standard)
        for t, has in enumerate(tags.T):
            start = np.zeros(rank + 1)
            for penalty in sorted(penalties, reverse=True):
                if has.all() or not has.any():
                    weights[penalty][t, -1] = 30.0 if has.all() else -30.0
                    continue
                start = _logistic(coordinates, has, variance, strength=penalty / len(has), start=start)
                weights[penalty][t] = np.append(start[:-1] @ rotation, start[-1])

    def score_by(weight: Scores) -> Score:
        def scores(queries: Vectors) -> Scores:
            check_finite(queries)
            if queries.shape[1] != len(mean):
                raise UsageError(
                    f"the examples have {len(mean)} dimensions, got {queries.shape[1]}: embed with the same encoder"
                )
            found: Scores = (queries - mean) / std @ weight[:, :-1].T + weight[:, -1]
            return found

        return scores

    return [score_by(weights[penalty]) for penalty in penalties]


def _logistic(
    coordinates: Scores, has: npt.NDArray[np.bool_], variance: Scores, *, strength: float, start: Scores
) -> Scores:
    """Weights and bias (R + 1,) in the principal axes, by L-BFGS preconditioned with the curvature at even odds."""
    n, truth = len(has), has.astype(np.float64)
    scale = 1 / np.sqrt(np.append(variance / 4 + strength, 0.25))

    def objective(scaled: Scores) -> tuple[float, Scores]:
        w = scaled * scale
        z = coordinates @ w[:-1] + w[-1]
        wrong = (expit(z) - truth) / n
        gradient = np.append(wrong @ coordinates + strength * w[:-1], wrong.sum()) * scale
        loss = float((np.logaddexp(0, z) - truth * z).sum()) / n
        return loss + strength / 2 * float(w[:-1] @ w[:-1]), gradient

    options = {"maxiter": 500, "gtol": 1e-7, "ftol": 1e-12}
    found: Scores = minimize(objective, start / scale, jac=True, method="L-BFGS-B", options=options).x * scale
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
