"""NT-Xent, exact over all 2N - 2 negatives; the 2N x 2N matrix never exists (see `tiles`).

Shapes: N pairs, D dimensions.
    z (2N, D)   unit rows; rows i and i + N are the two views of one sample
    positive (N,), negatives (2N,)   similarity / T of the pair, and log sum exp over all rows but the pair

Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1.
"""

from torch import Tensor, nn

from twoviews import distributed
from twoviews.losses.pairs import accuracy, check_pairs, cross_entropy, full_precision, pair_logits


def nt_xent(z_a: Tensor, z_b: Tensor, *, temperature: float) -> Tensor:
    """Mean over 2N rows of -log softmax of the positive among the 2N - 1 other rows.

    `z_a`, `z_b`: (N, D), the two views' projections in the same order; normalised here. Computed in float32, or
    float64 when given that, also under autocast. Returns a scalar; ln(2N - 1) is chance. Raises `ValueError` for
    shapes that do not match or a temperature that is not positive.

    >>> import torch
    >>> z = torch.eye(4)
    >>> nt_xent(z, z, temperature=0.5).item() < 1.9459  # ln 7
    True
    """
    return nt_xent_with_accuracy(z_a, z_b, temperature=temperature)[0]


def nt_xent_with_accuracy(z_a: Tensor, z_b: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """`nt_xent`, and from the same pass the contrastive accuracy.

    The accuracy is the part of the 2N rows whose positive is at least as similar as every one of their 2N - 2
    negatives (ties by rounding count as right).
    """
    check_pairs(z_a, z_b, temperature=temperature)
    with full_precision(z_a):
        positive, negatives, largest = pair_logits(z_a, z_b, temperature=temperature)
        return cross_entropy(positive, negatives), accuracy(positive, largest, temperature=temperature)


class NTXentLoss(nn.Module):
    """`nt_xent` as a module: `NTXentLoss(temperature=0.5)(z_a, z_b)`.

    `gather_distributed`: in a loop of your own under torch.distributed, compare with the other processes' pairs too;
    each (N, D) a process, N the same in all (see `gather_with_gradient`). Every process gets the loss over all pairs,
    and DistributedDataParallel's mean of gradients is that loss's gradient. Each process does its part of the
    arithmetic.
    """

    def __init__(self, temperature: float = 0.5, *, gather_distributed: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        if not self.gather_distributed:
            return nt_xent(z_a, z_b, temperature=self.temperature)
        z_a, z_b = distributed.gather_with_gradient(z_a), distributed.gather_with_gradient(z_b)
        with distributed.divided():
            return nt_xent(z_a, z_b, temperature=self.temperature)
