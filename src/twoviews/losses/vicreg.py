"""VICReg: views alike (invariance), every dimension spread (variance), dimensions unlike (covariance).

Shapes: N pairs, D dimensions.
    z_a, z_b (N, D)     not normalised
    covariance (D, D)   of each view's dimensions

Source: Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization", eq. 1 to 6. As in the authors'
code the squared distance is a mean over dimensions too, and the variance terms of the two views are averaged.
"""

import torch.nn.functional as F
from torch import Tensor

from twoviews.losses.pairs import check_shapes, full_precision, in_float32

_EPS = 1e-4


def vicreg(
    z_a: Tensor, z_b: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    """The weighted sum of the three terms; `z_a`, `z_b`: (N, D), N >= 2. Returns a scalar >= 0.

    invariance: mean squared difference. variance: mean over dimensions, and over the views, of how much the standard
    deviation lacks of 1. covariance: sum of squared covariances of different dimensions over D, added over the views.
    Raises `ValueError` for shapes that do not match, fewer than 2 pairs or a negative weight.

    >>> import torch
    >>> z = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    >>> vicreg(z, z).item()
    0.0
    """
    check_shapes(z_a, z_b, at_least=2)
    if not all(weight >= 0 for weight in (invariance, variance, covariance)):
        raise ValueError(f"the weights must not be negative, got {invariance}, {variance} and {covariance}")
    with full_precision(z_a):
        a, b = in_float32(z_a), in_float32(z_b)
        spread_a, shared_a = _regularisers(a)
        spread_b, shared_b = _regularisers(b)
        alike = F.mse_loss(a, b)
        return invariance * alike + variance * (spread_a + spread_b) / 2 + covariance * (shared_a + shared_b)


def _regularisers(z: Tensor) -> tuple[Tensor, Tensor]:
    """The variance term and the covariance term of one view."""
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    own = covariance.diagonal()
    lacking = F.relu(1 - (own + _EPS).sqrt()).mean()
    return lacking, (covariance.square().sum() - own.square().sum()) / z.shape[1]
