"""Supervised contrastive loss: all samples of a class attract. The matrix never exists (see `tiles`).

Shapes: N pairs, M = 2N rows, D dimensions; rows i and i + N are the two views of one sample.
    others (M,)     log sum exp over all rows but the row itself
    sums (M, D)     of the rows of each class, of which there are at most N
    friends         mean over rows of the mean similarity / T to the other rows of its class: not from pairs, as all
                    pairs of a class have together |sum|^2, less |row|^2 for each row with itself

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
        sums = _class_sums(z, of_class)
        members = torch.zeros_like(z[:, 0]).index_add(0, of_class, torch.ones_like(z[:, 0]))
        weights = 1 / ((members - 1) * temperature)  # numbers of classes that are not there have sums of 0
        # No `sums[of_class]`: its gradient is added up in any order, on CPUs too.
        friends = (sums.square().sum(1) @ weights - z.square().sum(1) @ weights[of_class]) / len(z)
        others, _ = log_sum_exp(z, temperature=temperature, without=(0,))
        return others.mean() - friends


def _class_sums(z: Tensor, of_class: Tensor) -> Tensor:
    """The sum of each class's rows, the same bits at every call."""
    zeros = torch.zeros_like(z)
    if z.device.type == "cpu":
        return zeros.index_add(0, of_class, z)  # row by row; `index_put` adds from several threads at once
    return zeros.index_put((of_class,), z, accumulate=True)  # sorted first; `index_add` adds in any order


def _number(labels: Tensor) -> Tensor:
    """Labels as 0 .. at most N - 1, each -1 a class of its own; by sorting, which does not wait for the device."""
    ordered, order = labels.long().sort()
    new = torch.ones_like(ordered)
    new[1:] = (ordered[1:] != ordered[:-1]) | (ordered[1:] < 0)
    return torch.empty_like(ordered).scatter_(0, order, new.cumsum(0) - 1)
