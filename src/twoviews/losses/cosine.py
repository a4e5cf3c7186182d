"""Negative cosine similarity to a constant target: the loss of SimSiam and, as 2 + 2 times it, of BYOL.

Shapes: N samples, D dimensions.

Sources: Chen & He 2021, "Exploring Simple Siamese Representation Learning", eq. 1 and 2; Grill et al. 2020, "Bootstrap
your own latent", eq. 2.
"""

import math

import torch
from torch import Tensor

from twoviews.losses.pairs import check_shapes, full_precision, unit_rows


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the mean cosine of each prediction with its target, in [-1, 1]; no gradient reaches the target.

    `prediction`, `target`: (N, D), normalised here. Returns a scalar. Raises `ValueError` for shapes that do not match.

    >>> negative_cosine(torch.eye(3), 5 * torch.eye(3)).item()
    -1.0
    """
    check_shapes(prediction, target, names="prediction and target")
    with full_precision(prediction):
        return -(unit_rows(prediction) * unit_rows(target.detach())).sum(1).mean()


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """The standard deviation of unit rows (N, D) over the batch, mean over dimensions, times sqrt(D).

    1 where rows are spread over the sphere, 0 where all are the same: collapse (Chen & He 2021, section 4.1).

    >>> spread(torch.ones(4, 2)).item()
    0.0
    """
    return unit_rows(z).std(0, correction=0).mean() * math.sqrt(z.shape[1])
