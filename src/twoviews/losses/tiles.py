"""Log-sum-exp over similarities, in tiles: what every contrastive loss needs of the matrix that never exists.

Shapes: x (N, D), y (K, D) rows; t rows a tile.
    s (t, t)        a tile of x y' / T, recomputed in the backward pass
    rows (N,)       log sum over j of exp(s_ij), columns (K,) log sum over i
    top (N,)        the largest s of each row: is the positive larger than all of these?

Memory is O((N + K) D + t^2), forward and backward. Where x is y the matrix is symmetric: tiles on and above the
diagonal are enough, and each serves its rows and, transposed, its columns. Under `distributed.divided` each process
takes every n-th tile, and the sums are added up: arithmetic O(N K / processes), the same values in every process.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twoviews import distributed
from twoviews.compute import exact_float32

TILE = 1024
"""Rows a tile on a CPU: 4 MB of float32, which stays in a core's cache."""

GPU_TILE = 4096

PER_PROCESS, SMALLEST = 8, 128
"""Where processes share the tiles: about so many of the whole matrix for each, and no smaller than so many rows."""

_SHARED_SHIFT_FROM = 1 / 40
"""From this temperature on, exp((s - 1) / T) >= exp(-80) is a normal float32, so one shift serves all rows."""


class LogSumExp(NamedTuple):
    """Of the rows and, for two sets, the columns of the matrix; the tops carry no gradient."""

    rows: Tensor
    columns: Tensor
    row_top: Tensor
    column_top: Tensor


def log_sum_exp(x: Tensor, *, temperature: float, without: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Over all pairs of rows of one set: (log sum exp, largest similarity / T), both (N,).

    `x`: (N, D) unit rows, float32 or float64. `without`: offsets k >= 0; the entries (i, i + k) and (i + k, i) are left
    out, 0 being a row with itself. A row of which nothing is left has -inf.
    """
    lse, top = _Within.apply(x, temperature, without)
    return lse, top


def log_sum_exp_between(
    x: Tensor, y: Tensor, *, temperature: float, without: tuple[int, ...] = (), columns: bool = True
) -> LogSumExp:
    """Over all pairs of two sets of unit rows, for each row and, if `columns`, each column (else -inf there).

    `x`: (N, D), `y`: (K, D). `without`: offsets k >= 0; entries (i, i + k) and (i + k, i) are left out.
    """
    return LogSumExp(*_Between.apply(x, y, temperature, without, columns))


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, temperature: float, without: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        ctx.options = temperature, without, distributed.share()
        work = _Tiles(x, x, *ctx.options)
        total, top = work.nothing(x)
        for r, c, s in work.upper():
            if r == c:
                work.add(s, (1, total[r], top[r]))
            else:
                work.add(s, (1, total[r], top[r]), (0, total[c], top[c]))
        lse, top = work.finish(total, top)
        ctx.save_for_backward(x, lse)
        ctx.mark_non_differentiable(top)
        return lse, top

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _top: Tensor) -> tuple[Tensor, None, None]:
        _refuse_second_derivative()
        x, lse = ctx.saved_tensors
        work = _Tiles(x, x, *ctx.options)
        factor, grad_x = work.factor(lse, grad), torch.zeros_like(x)
        with exact_float32(x.device.type):  # the tiles are to be those of the forward pass
            for r, c, s in work.upper():
                # An entry is a logit of its row and of its column: its weight is the sum of both softmaxes.
                weight = work.softmax(s, (lse[r, None], factor[r, None]), (lse[None, c], factor[None, c]))
                grad_x[r].addmm_(weight, x[c])
                if r != c:
                    grad_x[c].addmm_(weight.T, x[r])
        return work.finish_gradient(grad_x), None, None


class _Between(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, temperature: float, without: tuple[int, ...], columns: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.options, ctx.columns = (temperature, without, distributed.share()), columns
        work = _Tiles(x, y, *ctx.options)
        (total, top), (column_total, column_top) = work.nothing(x), work.nothing(y)
        for r, c, s in work.all():
            if columns:
                work.add(s, (1, total[r], top[r]), (0, column_total[c], column_top[c]))
            else:
                work.add(s, (1, total[r], top[r]))
        lse, top = work.finish(total, top)
        column_lse = column_top.clone()  # -inf
        if columns:
            column_lse, column_top = work.finish(column_total, column_top)
        ctx.save_for_backward(x, y, lse, column_lse)
        ctx.mark_non_differentiable(top, column_top)
        return lse, column_lse, top, column_top

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, column_grad: Tensor, *_tops: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        _refuse_second_derivative()
        x, y, lse, column_lse = ctx.saved_tensors
        work = _Tiles(x, y, *ctx.options)
        factor, column_factor = work.factor(lse, grad), work.factor(column_lse, column_grad)
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_y = torch.zeros_like(y) if ctx.needs_input_grad[1] else None
        with exact_float32(x.device.type):
            for r, c, s in work.all():
                of_columns = (column_lse[None, c], column_factor[None, c]) if ctx.columns else None
                weight = work.softmax(s, (lse[r, None], factor[r, None]), of_columns)
                if grad_x is not None:
                    grad_x[r].addmm_(weight, y[c])
                if grad_y is not None:
                    grad_y[c].addmm_(weight.T, x[r])
        finished = [None if g is None else work.finish_gradient(g) for g in (grad_x, grad_y)]
        return finished[0], finished[1], None, None, None


class _Tiles:
    """The tiles of x y' / T that are this process's share, each in one buffer; and how their exponentials add up."""

    def __init__(
        self, x: Tensor, y: Tensor, temperature: float, without: tuple[int, ...], share: tuple[int, int]
    ) -> None:
        self._x, self._y, self._temperature, self._share = x, y, temperature, share
        self._offsets = sorted({*without, *(-offset for offset in without)})
        # Shared shift: sums of exp(s - 1/T). Else: logarithms, with a shift of their own for each row and tile.
        self._shared = temperature >= _SHARED_SHIFT_FROM
        self._shift = 1 / temperature if self._shared else 0.0
        self._rows = TILE if x.device.type == "cpu" else GPU_TILE
        if share[1] > 1:  # some tiles for each process
            parts = math.ceil(math.sqrt(PER_PROCESS * share[1]))
            self._rows = min(self._rows, max(SMALLEST, math.ceil(max(len(x), len(y)) / parts)))

    def all(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, s): s, less the shift, is -inf where left out and is overwritten by the next."""
        return self._compute(_corners(len(self._x), len(self._y), self._rows, upper=False))

    def upper(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """As `all`, without the tiles below the diagonal."""
        return self._compute(_corners(len(self._x), len(self._y), self._rows, upper=True))

    def _compute(self, corners: Iterator[tuple[slice, slice]]) -> Iterator[tuple[slice, slice, Tensor]]:
        x, y = self._x, self._y
        buffer = x.new_empty(min(self._rows, len(x)) * min(self._rows, len(y)))
        shift = x.new_full((), -self._shift)  # made on the device: nothing waits
        for r, c in islice(corners, self._share[0], None, self._share[1]):
            left, right = x[r], y[c]
            s = buffer[: len(left) * len(right)].view(len(left), len(right))
            torch.addmm(shift, left, right.T, alpha=1 / self._temperature, out=s)
            for offset in self._offsets:
                diagonal = r.start + offset - c.start
                if -len(left) < diagonal < len(right):
                    s.diagonal(diagonal).fill_(-math.inf)
            yield r, c, s

    def nothing(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sums and largest values, one a row, before the first tile."""
        none = rows.new_full((len(rows),), -math.inf)
        return (torch.zeros_like(none) if self._shared else none.clone()), none

    def add(self, s: Tensor, *sides: tuple[int, Tensor, Tensor]) -> None:
        """Add a tile to (axis, sums, largest values) of its rows and of its columns; s is used up."""
        for axis, _, top in sides:
            torch.maximum(top, s.amax(axis), out=top)
        if self._shared:
            s.exp_()
            for axis, total, _ in sides:
                total += s.sum(axis)
        else:
            for axis, total, _ in sides:
                total.copy_(torch.logaddexp(total, torch.logsumexp(s, axis)))

    def finish(self, total: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
        """Log-sum-exp and largest value, over the tiles of all processes."""
        several = self._share[1] > 1
        if several:
            distributed.max_(top)
        if self._shared:
            if several:
                distributed.sum_([total])
            return total.log_().add_(self._shift), top.add_(self._shift)
        if several:
            part = _exp_minus(total, top)
            distributed.sum_([part])
            total = part.log_().add_(top)
        return total, top

    def factor(self, lse: Tensor, grad: Tensor) -> Tensor:
        """What a tile's exponentials are multiplied with: the gradient, and with a shared shift exp(shift - lse)."""
        if not self._shared:
            return grad
        return torch.where(lse == -math.inf, 0.0, grad * (self._shift - lse).exp_())

    def softmax(self, s: Tensor, of_rows: tuple[Tensor, Tensor], of_columns: tuple[Tensor, Tensor] | None) -> Tensor:
        """The entries' weights in the gradient from (lse, factor) of rows and of columns; s is used up."""
        if self._shared:  # one exponential serves rows and columns
            return s.exp_().mul_(of_rows[1] if of_columns is None else of_rows[1] + of_columns[1])
        weight = _exp_minus(s, of_rows[0]).mul_(of_rows[1])
        if of_columns is not None:
            weight += _exp_minus(s, of_columns[0]).mul_(of_columns[1])
        return weight

    def finish_gradient(self, grad: Tensor) -> Tensor:
        """The gradient of unit rows, over the tiles of all processes."""
        if self._share[1] > 1:
            distributed.sum_([grad])
        return grad.div_(self._temperature)


def _refuse_second_derivative() -> None:
    # torch's `once_differentiable` sees only the upstream gradient, which for a mean is a constant: it would be silent.
    if torch.is_grad_enabled():
        raise RuntimeError("a tiled loss cannot differentiate twice (create_graph=True): use a plain matrix for that")


def _exp_minus(s: Tensor, lse: Tensor) -> Tensor:
    """exp(s - lse), 0 where nothing was summed."""
    return (s - torch.where(lse == -math.inf, 0.0, lse)).exp_()


def _corners(rows: int, columns: int, tile: int, *, upper: bool) -> Iterator[tuple[slice, slice]]:
    for row in range(0, rows, tile):
        for column in range(row if upper else 0, columns, tile):
            yield slice(row, min(row + tile, rows)), slice(column, min(column + tile, columns))
