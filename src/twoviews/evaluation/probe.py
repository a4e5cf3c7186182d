"""The linear probe: multinomial logistic regression on standardised vectors, to the optimum.

    minimise   mean cross-entropy  +  strength * sum of squared weights,    intercept free

scikit-learn's LogisticRegression minimises the same with C = 1 / (2 * strength * N) (for two classes, where
it uses one weight vector for the difference, C = 1 / (strength * N)).

N samples, D dimensions, C classes with a training sample, R = rank <= min(N, D).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from ..errors import UsageError
from .features import check_finite, check_labelled

_Matrix = npt.NDArray[np.float64]

# The fitted logits of a sample sum to 0 over the classes seen, so the largest is >= 0: a class without a
# training sample is never predicted, and its probability is finite and below 1e-13.
ABSENT_BIAS = -30.0

# Iterations before the preconditioner is renewed; each further round is twice as long.
_FIRST_ROUND = 100

# Products of one evaluation of the objective: about 1 ms on one core.
_THREADS_FROM = 2**23


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted probe: scores = (vectors - mean) / std @ weight.T + bias.

    mean, std (D,); weight (classes, D); bias (classes,), all float64. A class without a training sample has
    weight 0 and bias -30. `converged` is False when `max_iterations` ended the fit.
    """

    mean: _Matrix
    std: _Matrix
    weight: _Matrix
    bias: _Matrix
    strength: float
    iterations: int
    converged: bool

    def scores(self, vectors: npt.NDArray[Any]) -> _Matrix:
        """Logits (N, classes). Raises UsageError for another dimension, DataError when not finite."""
        check_finite(vectors)
        if vectors.shape[1] != len(self.mean):
            raise UsageError(
                f"the probe was fitted on {len(self.mean)} dimensions, got {vectors.shape[1]}: embed with "
                "the same encoder"
            )
        scores: _Matrix = ((vectors - self.mean) / self.std) @ self.weight.T + self.bias
        return scores

    def predict_proba(self, vectors: npt.NDArray[Any]) -> _Matrix:
        """Probabilities (N, classes), rows sum to 1."""
        scores = self.scores(vectors)
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        return scores

    def predict(self, vectors: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Most probable class (N,), the lower index at equality."""
        best: npt.NDArray[np.int64] = self.scores(vectors).argmax(axis=1)
        return best


def fit_probe(
    vectors: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    *,
    classes: int,
    strength: float,
    max_iterations: int = 1000,
) -> LinearProbe:
    """Fit one probe on vectors (N, D) with labels (N,) in 0 .. classes-1.

    Raises UsageError for a strength that is not above 0, DataError for values that are not finite and labels
    out of range.

    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> fit_probe(x, np.array([0, 0, 1, 1]), classes=2, strength=0.01).predict(x)
    array([0, 0, 1, 1])
    """
    return fit_probes(vectors, labels, classes=classes, strengths=[strength], max_iterations=max_iterations)[0]


def fit_probes(
    vectors: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    *,
    classes: int,
    strengths: Sequence[float],
    max_iterations: int = 1000,
) -> list[LinearProbe]:
    """One probe a strength, in the given order; fitted from strong to weak, each starting from the last.

    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> probes = fit_probes(x, np.array([0, 0, 1, 1]), classes=2, strengths=[1e-3, 1.0])
    >>> [round(float(p.weight[1, 0]), 2) for p in probes]
    [3.76, 0.18]
    """
    for strength in strengths:
        if not 0 < strength < np.inf:
            raise UsageError(f"the probe's strength must be above 0 and finite, got {strength}")
    check_labelled(vectors, labels, classes=classes)
    standard = vectors.astype(np.float64)
    mean = standard.mean(axis=0)
    standard -= mean
    std = np.sqrt(np.einsum("nd,nd->d", standard, standard) / len(standard))
    # What is left of a constant feature after the subtraction is rounding: it must not be blown up.
    std[std <= 1e-9 * np.abs(mean)] = 1.0
    std[std == 0] = 1.0
    standard /= std
    seen, target = np.unique(labels, return_inverse=True)
    fitted: dict[float, LinearProbe] = {}
    # One thread for small fits: threads that wait for each other a thousand times a second cost 20 to 70 times
    # the fit itself on a busy machine.
    small = standard.size * len(seen) < _THREADS_FROM
    with threadpool_limits(1 if small else None):
        rotation, coordinates, variance = _principal_axes(standard)
        del standard
        seen_weight, seen_bias = np.zeros((len(seen), len(variance))), np.zeros(len(seen))
        for strength in sorted(set(strengths), reverse=True):
            seen_weight, seen_bias, iterations, converged = _fit(
                coordinates,
                target,
                variance,
                strength=strength,
                start=(seen_weight, seen_bias),
                max_iterations=max_iterations,
            )
            weight = np.zeros((classes, len(mean)))
            bias = np.full(classes, ABSENT_BIAS)
            weight[seen], bias[seen] = seen_weight @ rotation.T, seen_bias
            fitted[strength] = LinearProbe(mean, std, weight, bias, strength, iterations, converged)
    return [fitted[strength] for strength in strengths]


def _principal_axes(standard: _Matrix) -> tuple[_Matrix, _Matrix, _Matrix]:
    """Orthonormal axes (D, R), the coordinates (N, R) and their variances (R,).

    The penalty does not see a rotation, and weights outside the span of the samples are 0 at the optimum, so
    the solution is exactly the same; it is smaller for N < D, and its curvature is known along each axis.
    """
    n, d = standard.shape
    if n < d:
        # By the products of samples with each other: several times faster than a singular value decomposition. What it
        # cannot see, axes with less than 1e-11 of the largest variance, no penalty would let a weight make use of.
        squared, left = np.linalg.eigh(standard @ standard.T)
        kept = squared > 1e-11 * squared.max(initial=0.0)
        left, size = left[:, kept], np.sqrt(squared[kept])
        return standard.T @ (left / size), left * size, squared[kept] / n
    variance, rotation = np.linalg.eigh(standard.T @ standard / n)
    return rotation, standard @ rotation, variance.clip(min=0.0)


def _fit(
    coordinates: _Matrix,
    target: npt.NDArray[np.int64],
    variance: _Matrix,
    *,
    strength: float,
    start: tuple[_Matrix, _Matrix],
    max_iterations: int,
) -> tuple[_Matrix, _Matrix, int, bool]:
    """Weights (C, R) and bias (C,) in the principal axes by L-BFGS, preconditioned by their curvature."""
    n, c = len(target), len(start[1])
    samples = np.arange(n)

    def softmax(parameters: _Matrix) -> tuple[_Matrix, float]:
        """Probabilities (C, N) and the mean cross-entropy."""
        # Not (N, C): the reductions over a few classes then run along contiguous memory.
        p = parameters[:, :-1] @ coordinates.T
        p += parameters[:, -1:]
        p -= p.max(axis=0)
        own = p[target, samples]
        np.exp(p, out=p)
        total = p.sum(axis=0)
        p /= total
        return p, float((np.log(total) - own).sum()) / n

    def objective(flat: _Matrix, scale: _Matrix) -> tuple[float, _Matrix]:
        parameters = flat.reshape(c, -1) * scale
        p, loss = softmax(parameters)
        p[target, samples] -= 1.0
        gradient = np.empty_like(parameters)
        gradient[:, :-1] = p @ coordinates / n + 2 * strength * parameters[:, :-1]
        gradient[:, -1] = p.sum(axis=1) / n
        gradient *= scale
        return loss + strength * float(np.square(parameters[:, :-1]).sum()), gradient.ravel()

    parameters = np.column_stack(start)
    # The curvature where all classes are equally probable.
    curvature = np.tile(np.append(variance / c + 2 * strength, 1.0 / c), (c, 1))
    iterations, limit = 0, _FIRST_ROUND
    while True:
        scale = 1.0 / np.sqrt(curvature)
        limit = min(limit, max_iterations - iterations)
        result = minimize(
            objective,
            (parameters / scale).ravel(),
            args=(scale,),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": limit,
                "maxfun": 21 * limit,  # above the 20 trials that a line search may take
                # Where the samples are fitted well only the penalty curves, and a gradient g leaves a weight
                # off by g / (2 strength): the scaled gradient that allows 1e-5 there.
                "gtol": float(np.clip(2e-5 * strength * scale.min(), 1e-11, 1e-7)),
                "ftol": 0.0,
            },
        )
        parameters = result.x.reshape(c, -1) * scale
        iterations += int(result.nit)
        converged = result.status != 1
        if converged or iterations >= max_iterations:
            return parameters[:, :-1], parameters[:, -1] - parameters[:, -1].mean(), iterations, converged
        # Slow where most samples are fitted and no longer curve: take the curvature found by now.
        p, _ = softmax(parameters)
        p *= 1.0 - p
        curvature[:, :-1] = p @ np.square(coordinates) / n + 2 * strength
        curvature[:, -1] = p.mean(axis=1) + 2 * strength
        limit = 2 * limit
