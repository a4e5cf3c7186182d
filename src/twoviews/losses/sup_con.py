"""Supervised contrastive loss: all samples of a class attract. The matrix never exists (see `tiles`).

Shapes: N pairs, M = 2N rows, D dimensions; rows i and i + N are the two views of one sample.
    others (M,)     log sum exp over all rows but the row itself
    friends (M,)    mean similarity / T to the other rows of its class: from the sum of the class, not from pairs

Source: Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2 (the sum outside of the logarithm).
"""

import torch
from torch import Tensor

from twoviews.losses.pairs import check_pairs, full_precision, unit_rows
from twoviews.losses.tiles import log_sum_exp


def sup_con(z_a: Tensor, z_b: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Mean over 2N rows of -(mean over the row's class of log softmax among the 2N - 1 other rows).

    `z_a`, `z_b`: (N, D), normalised here. `labels`: (N,) integers; -1 is no label: such a sample attracts its other
    view only, so without any label this is `nt_xent`. Returns a scalar. Raises `ValueError` for shapes that do not
    match or a temperature that is not positive.

    >>> z = torch.eye(4)
    >>> apart = sup_con(z, z, torch.tensor([0, 1, 2, 3]), temperature=0.1)
    >>> bool(apart < sup_con(z, z, torch.tensor([0, 0, 1, 1]), temperature=0.1))
    True
    """
    check_pairs(z_a, z_b, temperature=temperature)
    if labels.shape != (len(z_a),):
        raise ValueError(f"labels must be ({len(z_a)},), one a sample; got {tuple(labels.shape)}")
    with full_precision(z_a):
        z = torch.cat([unit_rows(z_a), unit_rows(z_b)])
        of_class = _number(labels).repeat(2)
        sums = torch.zeros_like(z).index_add(0, of_class, z)
        members = torch.zeros_like(z[:, 0]).index_add(0, of_class, torch.ones_like(z[:, 0]))
        # A row is no friend of its own: its part of the class sum is taken off.
        friends = (z * (sums[of_class] - z)).sum(1) / ((members[of_class] - 1) * temperature)
        others, _ = log_sum_exp(z, temperature=temperature, without=(0,))
        return (others - friends).mean()


def _number(labels: Tensor) -> Tensor:
    """Labels as 0 .. at most N - 1, each -1 a class of its own; by sorting, which does not wait for the device."""
    ordered, order = labels.long().sort()
    new = torch.ones_like(ordered)
    new[1:] = (ordered[1:] != ordered[:-1]) | (ordered[1:] < 0)
    return torch.empty_like(ordered).scatter_(0, order, new.cumsum(0) - 1)
