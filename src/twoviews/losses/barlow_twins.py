"""Barlow Twins: the cross-correlation of two views is to be the identity.

Shapes: N pairs, D dimensions.
    a, b (N, D)         each dimension with mean 0 and variance 1 over the batch
    correlation (D, D)  of the dimensions of a with those of b, in [-1, 1]

Source: Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", eq. 1 and 2.
"""

import torch
from torch import Tensor

from twoviews.losses.pairs import check_shapes, full_precision, in_float32

_EPS = 1e-5
"""As in the BatchNorm of the authors' code: a dimension that does not vary stays 0."""


def barlow_twins(z_a: Tensor, z_b: Tensor, *, redundancy: float = 5e-3) -> Tensor:
    """Sum over dimensions of (1 - c_ii)^2, plus `redundancy` (lambda) times the sum of c_ij^2 over i != j.

    `z_a`, `z_b`: (N, D), N >= 2, standardised here over the batch. Returns a scalar >= 0; about D (1 + lambda D / N)
    where the views have nothing in common. Raises `ValueError` for shapes that do not match, fewer than 2 pairs or a
    negative `redundancy`.

    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> barlow_twins(z, z).item() < 1e-8
    True
    """
    check_shapes(z_a, z_b, at_least=2)
    if not redundancy >= 0:
        raise ValueError(f"redundancy must not be negative, got {redundancy}")
    with full_precision(z_a):
        a, b = _standardised(in_float32(z_a)), _standardised(in_float32(z_b))
        correlation = a.T @ b / len(a)
        same = correlation.diagonal()
        return (1 - same).square().sum() + redundancy * (correlation.square().sum() - same.square().sum())


def _standardised(z: Tensor) -> Tensor:
    variance, mean = torch.var_mean(z, 0, correction=0)
    return (z - mean) * (variance + _EPS).rsqrt()
