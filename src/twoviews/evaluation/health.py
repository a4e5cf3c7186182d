"""How healthy a representation is, without labels: effective rank, alignment, uniformity.

N vectors, D dimensions. NaN in, NaN out: health is watched during training and must not end it.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError

COLLAPSED_SPREAD, COLLAPSED_RANK, COLLAPSED_PROJECTION = 0.02, 1.5, 0.2
"""Below these little can be told apart. On digits healthy runs have 0.2 to 0.3, 20 to 55 and 0.7 to 1 (VICReg, which
counts lengths too, 0.27 to 0.4 in the first 100 steps), an untrained network is above them too, and VICReg without its
variance and covariance terms comes to a projection spread of 0.02 in 60 steps."""

# Pairs held at once: 64 MB of float32.
_BLOCK = 2**24


@torch.no_grad()
def effective_rank(vectors: Tensor) -> float:
    """exp(entropy of the singular values, normalised to sum 1) of vectors (N, D), not centred.

    Between 1 (all on one line) and min(N, D); 0 for vectors that are all zero. Roy & Vetterli 2007.

    >>> round(effective_rank(torch.eye(4)), 3)
    4.0
    """
    _check_matrix(vectors)
    if not vectors.isfinite().all():
        return math.nan
    size = torch.linalg.svdvals(vectors.double())
    total = size.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(size / total).sum().exp())


@torch.no_grad()
def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance between the normalised vectors of two views, both (N, D), row by row.

    0 (views agree) to 4 (opposite); lower is better. Wang & Isola 2020, with alpha = 2.

    >>> alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    2.0
    """
    _check_matrix(a)
    if a.shape != b.shape:
        raise UsageError(f"alignment compares two views of the same samples, got {a.shape} and {b.shape}")
    return float((F.normalize(a.float()) - F.normalize(b.float())).square().sum(dim=1).mean())


@torch.no_grad()
def uniformity(vectors: Tensor, t: float = 2.0) -> float:
    """log mean exp(-t * squared distance) over all pairs of the normalised vectors (N, D), N >= 2.

    0 (collapsed to a point) down to about -2t (spread over the sphere); lower is better. Wang & Isola 2020.

    >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    -8.0
    """
    _check_matrix(vectors)
    n = len(vectors)
    if n < 2:
        raise UsageError(f"uniformity needs at least 2 vectors, got {n}")
    unit = F.normalize(vectors.float())
    rows = max(1, _BLOCK // n)
    parts = []
    for start in range(0, n, rows):
        exponent = 2 * t * (unit[start : start + rows] @ unit.T - 1)
        # A vector is no pair with itself.
        exponent.diagonal(offset=start).fill_(-math.inf)
        parts.append(exponent.double().logsumexp(dim=1))
    return float(torch.cat(parts).logsumexp(dim=0)) - math.log(n * (n - 1))


@torch.no_grad()
def spread(vectors: Tensor) -> float:
    """Standard deviation of the normalised vectors (N, D), mean over dimensions, times sqrt(D).

    1 where they are spread over the sphere, 0 where all are the same. Chen & He 2021 (SimSiam), section 4.1.

    >>> spread(torch.ones(4, 2))
    0.0
    """
    _check_matrix(vectors)
    unit = F.normalize(vectors.float())
    return float(unit.std(0, correction=0).mean()) * math.sqrt(vectors.shape[1])


def collapse(*, spread: float, effective_rank: float, projection_spread: float | None = None) -> str | None:
    """What is wrong with vectors of so little spread or rank, and what to try, in words; None where nothing is.

    `spread`, `effective_rank`: of `h`. `projection_spread`: of what a method without negatives compares; of
    VICReg's, which are not normalised, the standard deviation.

    >>> collapse(spread=0.3, effective_rank=40.0) is None
    True
    """
    if not all(map(math.isfinite, (spread, effective_rank))):
        what = "features are not finite"
    elif spread < COLLAPSED_SPREAD:
        what = f"all samples have nearly the same features (spread {spread:.3f}, where 1 is all of the sphere)"
    elif effective_rank < COLLAPSED_RANK:
        what = f"the features lie on few directions (effective rank {effective_rank:.1f})"
    elif projection_spread is not None and projection_spread < COLLAPSED_PROJECTION:
        what = f"all samples have nearly the same projections (spread {projection_spread:.2f}, where 1 is healthy)"
    else:
        return None
    return (
        f"collapse: {what}. Try a lower optim.lr, a longer optim.warmup, a larger batch, for momentum methods a "
        "method.momentum nearer to 1, or a method with negatives (--set method.name=simclr)"
    )


def _check_matrix(vectors: Tensor) -> None:
    if vectors.ndim != 2 or not len(vectors):
        raise UsageError(f"health needs vectors (N, D) with N > 0, got {tuple(vectors.shape)}")
