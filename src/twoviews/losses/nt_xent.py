"""NT-Xent, exact over all 2N-2 negatives, in tiles: the 2N x 2N matrix never exists.

Shapes: N pairs, M = 2N rows, D dimensions, t rows a tile.
    z (M, D)   unit rows; row i and row i + N (mod M) are the two views of one sample
    s (t, t)   a tile of similarities z z' / T, recomputed in the backward pass
    lse (M,)   log sum exp of a row over all columns but its own

The similarity matrix is symmetric, so tiles on and above the diagonal are enough: a tile serves its rows
and, transposed, its columns. Memory is O(M D + t^2) forward and backward.

Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 1024
"""Rows a tile: 4 MB of float32, which stays in a core's cache."""

_SHARED_SHIFT_FROM = 1 / 40
"""From this temperature on, exp((s - 1) / T) >= exp(-80) is a normal float32, so one shift serves all rows."""


def nt_xent(z_a: Tensor, z_b: Tensor, *, temperature: float) -> Tensor:
    """Mean over 2N rows of -log softmax of the positive among the 2N-1 other rows.

    `z_a`, `z_b`: (N, D), the two views' projections in the same order; normalised here. Computed in float32, or
    float64 when given that, also under autocast. Returns a scalar; ln(2N-1) is chance. Raises `ValueError` for
    shapes that do not match or a temperature that is not positive.

    >>> z = torch.eye(4)
    >>> nt_xent(z, z, temperature=0.5).item() < math.log(7)
    True
    """
    return nt_xent_with_accuracy(z_a, z_b, temperature=temperature)[0]


def nt_xent_with_accuracy(z_a: Tensor, z_b: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """`nt_xent`, and the contrastive accuracy from the same pass.

    The accuracy is the part of the 2N rows whose positive is at least as similar as every one of their 2N-2
    negatives (ties by rounding count as right).
    """
    if z_a.shape != z_b.shape or z_a.ndim != 2 or len(z_a) == 0:
        raise ValueError(f"z_a and z_b must both be (N, D), N > 0; got {tuple(z_a.shape)} and {tuple(z_b.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with torch.autocast(z_a.device.type, enabled=False):
        z = torch.cat([z_a, z_b])
        if z.dtype not in (torch.float32, torch.float64):
            z = z.float()
        loss, accuracy = _NTXent.apply(F.normalize(z, dim=1), temperature)
    return loss, accuracy


class NTXentLoss(nn.Module):
    """`nt_xent` as a module: `NTXentLoss(temperature=0.5)(z_a, z_b)`."""

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return nt_xent(z_a, z_b, temperature=self.temperature)


class _NTXent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        half = len(z) // 2
        positive = (z[:half] * z[half:]).sum(1).div_(temperature).repeat(2)
        lse = z.new_full((len(z),), -math.inf)
        largest = lse.clone()
        shared_shift = temperature >= _SHARED_SHIFT_FROM
        if shared_shift:
            total = torch.zeros_like(lse)
        for rows, columns in _tiles(len(z)):
            s = (z[rows] @ z[columns].T).div_(temperature)
            if rows == columns:
                s.fill_diagonal_(-math.inf)
            torch.maximum(largest[rows], s.amax(1), out=largest[rows])
            if rows != columns:
                torch.maximum(largest[columns], s.amax(0), out=largest[columns])
            if shared_shift:
                s.sub_(1 / temperature).exp_()
                total[rows] += s.sum(1)
                if rows != columns:
                    total[columns] += s.sum(0)
            else:
                lse[rows] = torch.logaddexp(lse[rows], torch.logsumexp(s, 1))
                if rows != columns:
                    lse[columns] = torch.logaddexp(lse[columns], torch.logsumexp(s, 0))
        if shared_shift:
            lse = total.log_().add_(1 / temperature)
        ctx.save_for_backward(z, lse)
        ctx.temperature = temperature
        # The positive is among the compared columns, so equality is "right"; its tile rounds differently.
        slack = 4 * torch.finfo(z.dtype).eps / temperature
        accuracy = (positive >= largest - slack).to(z.dtype).mean()
        ctx.mark_non_differentiable(accuracy)
        return (lse - positive).mean(), accuracy

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_accuracy: Tensor) -> tuple[Tensor, None]:
        z, lse = ctx.saved_tensors
        half, temperature = len(z) // 2, ctx.temperature
        grad = -2 * torch.cat([z[half:], z[:half]])  # each pair is the positive of two rows
        for rows, columns in _tiles(len(z)):
            s = (z[rows] @ z[columns].T).div_(temperature)
            if rows == columns:
                s.fill_diagonal_(-math.inf)
                # Row softmax plus column softmax: an entry is a logit of its row and of its column.
                weight = (s - lse[rows, None]).exp_() + (s - lse[None, columns]).exp_()
                grad[rows] += weight @ z[columns]
            else:
                weight = (s - lse[None, columns]).exp_()
                weight += s.sub_(lse[rows, None]).exp_()
                grad[rows] += weight @ z[columns]
                grad[columns] += weight.T @ z[rows]
        return grad.mul_(grad_loss / (len(z) * temperature)), None


def _tiles(count: int) -> Iterator[tuple[slice, slice]]:
    starts = range(0, count, TILE)
    for row in starts:
        for column in starts[row // TILE :]:
            yield slice(row, min(row + TILE, count)), slice(column, min(column + TILE, count))
