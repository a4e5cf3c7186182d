"""One tag an image from a few examples: by the nearest class mean or a probe, whichever does better on those left out.

N examples with vectors (N, D), T tags. What is said of how well it does comes from examples that were left out, with
all that is not independent of them (`units`: a patient, a session).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..errors import DataError, UsageError, unknown_name
from .certainty import Certainty
from .features import check_finite, check_labelled
from .probe import fit_probe

METHODS = ("mean", "probe")
"""Ways to one tag an image, the simpler first."""

PENALTY = 0.3
"""Of the probes: strength = penalty / examples, as the comparison's below 5 labels a class."""

LEAVE_ONE_OUT = 100
"""Units of examples up to which each is left out by itself."""
FOLDS = 10
"""Parts into which more units are divided."""

_SCALE = 10.0
"""What cosines are multiplied by, so that they are logits of a usual size before a temperature is fitted."""

Vectors = npt.NDArray[Any]
Scores = npt.NDArray[np.float64]
Score = Callable[[Vectors], Scores]
Units = Sequence[str | None]


@dataclass(frozen=True)
class Held:
    """How a method did on examples that were left out: `right` of `tried`."""

    right: int
    tried: int

    @property
    def share(self) -> float:
        """Of the tried ones; 0 without any."""
        return self.right / self.tried if self.tried else 0.0


@dataclass(frozen=True)
class Tagger:
    """One tag an image: `scores` (Q, D) -> (Q, T) logits, by `method`; `held`: each method that was tried.

    `parts`: into how many the examples were divided, as many as units where each was left out by itself; 0: no tag has
    two examples, nothing could be left out.
    """

    scores: Score
    method: str
    held: dict[str, Held]
    parts: int
    certainty: Certainty


def fit_tagger(
    vectors: Vectors, labels: npt.NDArray[np.int64], *, tags: int, method: str = "auto", units: Units | None = None
) -> Tagger:
    """From examples with one label each, in 0 .. tags-1, to a tagger.

    `auto`: the method with more of the left-out examples right, at equality the nearest mean. An example whose tag has
    no other unit is not tried: left out, it would take its tag with it. Raises DataError for fewer than two tags,
    a tag without an example and vectors that are not finite, UsageError for an unknown method.

    >>> x = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    >>> tagger = fit_tagger(x, np.array([0, 0, 1, 1]), tags=2)
    >>> tagger.method, tagger.held["mean"], tagger.scores(np.array([[0.0, 2.0], [1.0, 0.2]])).argmax(axis=1)
    ('mean', Held(right=4, tried=4), array([0, 1]))
    """
    if method != "auto" and method not in METHODS:
        raise unknown_name("method", method, ("auto", *METHODS))
    check_labelled(vectors, labels, classes=tags, what="examples")
    if tags < 2:
        raise DataError("the examples have one tag: give examples of at least two, since a tag is told from others")
    given = np.bincount(labels, minlength=tags)
    if not given.all():
        raise DataError(f"tag number {int(given.argmin())} has no example: give at least one of each")
    numbers = unit_numbers(units, len(labels))
    folds = folds_of(np.eye(tags, dtype=np.bool_)[labels], units=units)
    elsewhere = np.array([(numbers[labels == tag] != unit).any() for tag, unit in zip(labels, numbers, strict=True)])
    left: dict[str, Scores] = {}
    for name in METHODS if method == "auto" else (method,):
        left[name] = np.full((len(labels), tags), -np.inf)
        for fold in np.unique(folds[elsewhere]):
            out, rest = folds == fold, folds != fold
            left[name][out] = _fit(name, vectors[rest], labels[rest], tags=tags)(vectors[out])
    # A fold may hold all of a tag's units without being one of them.
    tried = elsewhere & np.array([(labels[folds != f] == t).any() for f, t in zip(folds, labels, strict=True)])
    held = {
        name: Held(int((scores[tried].argmax(axis=1) == labels[tried]).sum()), int(tried.sum()))
        for name, scores in left.items()
    }
    best = max(held, key=lambda name: held[name].right)
    scores, truth = left[best][tried], labels[tried]
    certainty = Certainty.measured(scores, truth, temperature=smooth_temperature(scores, truth))
    parts = len(np.unique(folds)) if tried.any() else 0
    return Tagger(_fit(best, vectors, labels, tags=tags), best, held, parts, certainty)


def smooth_temperature(scores: Scores, labels: npt.NDArray[np.int64]) -> float:
    """The T for which scores / T have the least negative log-likelihood, as if one example more had gone wrong.

    Without that, a handful of right answers would ask for certainty; the targets are Platt's, (n + 1) / (n + 2) for the
    label (Platt 1999, "Probabilistic outputs for support vector machines", section 2.2). 1 without examples.

    >>> smooth_temperature(np.array([[3.0, 0.0]] * 4), np.zeros(4, np.int64)) > 1
    True
    """
    if not len(labels):
        return 1.0
    n = len(labels)
    known = np.isfinite(scores)  # not so: a tag that none of the kept examples had
    targets = np.tile(1 / (n + 2) / np.maximum(1, known.sum(axis=1) - 1)[:, None], scores.shape[1])
    targets[np.arange(n), labels] = (n + 1) / (n + 2)
    return least(lambda t: -float((targets * log_softmax(scores / t, axis=1))[known].sum()))


def folds_of(tags: npt.NDArray[np.bool_], *, units: Units | None = None) -> npt.NDArray[np.int64]:
    """The fold (N,) of each example: one a unit, up to LEAVE_ONE_OUT units; else FOLDS, every tag spread over them.

    Of many, units with the rarest tags are placed first, where that tag has had least: Sechidis et al. 2011, "On the
    stratification of multi-label data".

    >>> folds_of(np.ones((3, 1), bool), units=["a", "b", "a"]).tolist()
    [0, 1, 0]
    """
    numbers = unit_numbers(units, len(tags))
    count = int(numbers.max(initial=-1)) + 1
    if count <= LEAVE_ONE_OUT:
        return numbers
    have = np.zeros((count, tags.shape[1]), dtype=np.int64)
    np.add.at(have, numbers, tags.astype(np.int64))
    sizes = np.bincount(numbers, minlength=count)
    placed, fold = np.full(count, -1), np.zeros((FOLDS, tags.shape[1]), dtype=np.int64)
    held = np.zeros(FOLDS, dtype=np.int64)

    def place(unit: int, wanted: npt.NDArray[np.int64]) -> None:
        at = int(np.lexsort((held, wanted))[0])
        placed[unit] = at
        fold[at] += have[unit]
        held[at] += sizes[unit]

    for tag in np.argsort(have.sum(axis=0), kind="stable"):
        for unit in np.flatnonzero((have[:, tag] > 0) & (placed < 0)):
            place(int(unit), fold[:, tag])
    for unit in np.flatnonzero(placed < 0):
        place(int(unit), held)
    return placed[numbers]


def unit_numbers(units: Units | None, count: int) -> npt.NDArray[np.int64]:
    """Each example's unit, numbered as they come; one without a name is a unit of its own."""
    known: dict[Any, int] = {}
    return np.array(
        [known.setdefault((at if unit is None else str(unit)), len(known)) for at, unit in enumerate(units)]
        if units is not None
        else range(count),
        dtype=np.int64,
    )


def _fit(method: str, vectors: Vectors, labels: npt.NDArray[np.int64], *, tags: int) -> Score:
    if method == "mean":
        return _fit_mean(vectors, labels, tags=tags)
    return fit_probe(vectors, labels, classes=tags, strength=PENALTY / len(labels)).scores


def _fit_mean(vectors: Vectors, labels: npt.NDArray[np.int64], *, tags: int) -> Score:
    """Cosine to each tag's mean, of unit vectors less the mean of these means (Wang et al. 2019, "SimpleShot").

    A tag without an example here has -inf: nothing is near it.
    """
    seen = np.unique(labels)
    unit = _unit(vectors)
    centre = np.mean([unit[labels == tag].mean(axis=0) for tag in seen], axis=0)
    unit = _unit(unit - centre)
    means = _unit(np.stack([unit[labels == tag].mean(axis=0) for tag in seen]))

    def scores(queries: Vectors) -> Scores:
        check_finite(queries)
        if queries.shape[1] != means.shape[1]:
            raise UsageError(
                f"the examples have {means.shape[1]} dimensions, got {queries.shape[1]}: embed with the same encoder"
            )
        found = np.full((len(queries), tags), -np.inf)
        found[:, seen] = _SCALE * (_unit(_unit(queries) - centre) @ means.T)
        return found

    return scores


def _unit(vectors: Vectors) -> Scores:
    values = vectors.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Scores = values / np.where(length > 0, length, 1.0)
    return unit


def least(loss: Callable[[float], float]) -> float:
    """The temperature of the least loss."""
    found = minimize_scalar(lambda t: loss(float(np.exp(t))), bounds=(-4.6, 4.6), method="bounded")
    return round(float(np.exp(found.x)), 6)
