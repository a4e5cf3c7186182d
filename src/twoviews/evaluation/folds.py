"""What is chosen without a validation part: by scores of samples that the classifier was not fitted on, in turn.

N samples, D dimensions, C classes, P penalties.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .calibration import fit_temperature, nll
from .compare import FIXED_BELOW
from .features import check_labelled
from .probe import fit_probes

_Indices = npt.NDArray[np.int64]


def deal(labels: _Indices, *, folds: int, seed: int) -> _Indices:
    """The fold (N,) of each sample, 0 .. folds - 1: those of a class spread evenly, and so are all.

    Raises UsageError for fewer than 2 folds, and for more than the smallest class has samples: each fit needs
    every class.

    >>> dealt = deal(np.array([0, 0, 0, 1, 1, 1, 1]), folds=2, seed=0)
    >>> [int((dealt == fold).sum()) for fold in (0, 1)]
    [4, 3]
    """
    seen, counts = np.unique(labels, return_counts=True)
    if not 2 <= folds <= counts.min(initial=len(labels)):
        raise UsageError(
            f"{folds} folds cannot be made of classes of which the smallest has {counts.min(initial=len(labels))} "
            "samples: give at least 2, and at most as many"
        )
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == index)) for index in seen])
    dealt = np.empty(len(labels), dtype=np.int64)
    dealt[order] = np.arange(len(labels)) % folds  # goes on from class to class
    return dealt


def most_folds(labels: _Indices, *, folds: int) -> int:
    """`folds`, or as many as the smallest class allows; 0 where that has fewer samples than settings are chosen on.

    >>> [most_folds(np.repeat([0, 1], n), folds=8) for n in (4, 6, 9)]
    [0, 6, 8]
    """
    smallest = int(np.unique(labels, return_counts=True)[1].min(initial=len(labels)))
    return min(folds, smallest) if smallest >= FIXED_BELOW else 0


def held_out_scores(
    fit: Callable[[npt.NDArray[Any], _Indices, npt.NDArray[Any]], Sequence[npt.NDArray[np.float64]]],
    vectors: npt.NDArray[Any],
    labels: _Indices,
    *,
    dealt: _Indices,
) -> list[npt.NDArray[np.float64]]:
    """Scores (N, C) of every sample by what was fitted without its fold, for each setting that `fit` tries.

    `fit(vectors, labels, others)` gives the scores of `others`, one array a setting.
    """
    parts: list[tuple[npt.NDArray[np.bool_], Sequence[npt.NDArray[np.float64]]]] = []
    for fold in range(int(dealt.max()) + 1):
        out = dealt == fold
        parts.append((out, fit(vectors[~out], labels[~out], vectors[out])))
    scores = []
    for setting in range(len(parts[0][1])):
        whole = np.empty((len(labels), parts[0][1][0].shape[1]))
        for out, found in parts:
            whole[out] = found[setting]
        scores.append(whole)
    return scores


def choose_penalty(
    vectors: npt.NDArray[Any], labels: _Indices, *, classes: int, penalties: Sequence[float], dealt: _Indices
) -> tuple[int, list[dict[str, float]], npt.NDArray[np.float64]]:
    """Which of the linear probe's penalties (strength = penalty / samples) is best on held-out samples.

    Returns its position; for each its penalty, accuracy and nll, the negative log-likelihood at the temperature that
    suits it; and the held-out scores (N, C) of the chosen one. The least nll decides, of equals the first: among few
    samples many penalties have the same accuracy, and which has more is luck. Raises as `fit_probes` does.

    >>> x = np.random.default_rng(0).normal(size=(40, 3)) + np.repeat([[0.0], [3.0]], 20, axis=0)
    >>> labels = np.repeat([0, 1], 20)
    >>> dealt = deal(labels, folds=5, seed=0)
    >>> best, trials, scores = choose_penalty(x, labels, classes=2, penalties=(3e4, 0.3), dealt=dealt)
    >>> best, trials[1]["accuracy"], scores.shape
    (1, 1.0, (40, 2))
    """
    check_labelled(vectors, labels, classes=classes)

    def fit(given: npt.NDArray[Any], named: _Indices, others: npt.NDArray[Any]) -> Sequence[npt.NDArray[np.float64]]:
        strengths = [penalty / len(named) for penalty in penalties]
        return [probe.scores(others) for probe in fit_probes(given, named, classes=classes, strengths=strengths)]

    tried = held_out_scores(fit, vectors, labels, dealt=dealt)
    trials = [
        {
            "penalty": float(penalty),
            "accuracy": float((scores.argmax(axis=1) == labels).mean()),
            "nll": nll(scores, labels, fit_temperature(scores, labels)),
        }
        for penalty, scores in zip(penalties, tried, strict=True)
    ]
    best = min(range(len(tried)), key=lambda index: trials[index]["nll"])
    return best, trials, tried[best]
