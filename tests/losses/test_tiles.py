"""The tiles: log-sum-exps against the whole matrix, for any shape, left-out diagonals and tile size."""

import math

import pytest
import torch
from torch import Tensor

from twoviews.losses import tiles


def rows(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x).to(dtype).requires_grad_()


def whole(x: Tensor, y: Tensor, temperature: float, without: tuple[int, ...]) -> Tensor:
    s = x @ y.T / temperature
    apart = torch.arange(len(y)) - torch.arange(len(x))[:, None]
    return s.masked_fill(sum((apart.abs() == k for k in without), torch.zeros_like(apart).bool()), -math.inf)


def same(got: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(got, wanted, rtol=1e-11, atol=1e-11)


@pytest.fixture(params=[1, 3, 1024])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tiles, "TILE", request.param)
    return int(request.param)


temperatures = pytest.mark.parametrize("temperature", [0.0249, 0.025])


@temperatures
@pytest.mark.parametrize("without", [(), (0,), (0, 4), (1, 7), (20,)])
def test_within_one_set(temperature: float, without: tuple[int, ...], tile: int) -> None:
    x = rows(8, 3, seed=0)
    s = whole(x, x, temperature, without)
    lse, top = tiles.log_sum_exp(x, temperature=temperature, without=without)
    assert same(lse, torch.logsumexp(s, 1))
    assert same(top, s.amax(1))
    assert not top.requires_grad
    upstream = torch.linspace(-1, 2, 8, dtype=torch.float64)
    got, wanted = (torch.autograd.grad((v * upstream).sum(), x)[0] for v in (lse, torch.logsumexp(s, 1)))
    assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-10)


@temperatures
@pytest.mark.parametrize("shape", [(7, 7), (2, 9), (9, 2), (1, 5)])
@pytest.mark.parametrize("without", [(), (0,), (1, 3)])
def test_between_two_sets(shape: tuple[int, int], temperature: float, without: tuple[int, ...], tile: int) -> None:
    x, y = rows(shape[0], 3, seed=0), rows(shape[1], 3, seed=1)
    s = whole(x, y, temperature, without)
    found = tiles.log_sum_exp_between(x, y, temperature=temperature, without=without)
    wanted = torch.logsumexp(s, 1), torch.logsumexp(s, 0)
    assert same(found.rows, wanted[0])
    assert same(found.columns, wanted[1])
    assert same(found.row_top, s.amax(1))
    assert same(found.column_top, s.amax(0))
    assert not found.row_top.requires_grad
    assert not found.column_top.requires_grad
    gradients = []
    for lse in (torch.cat([found.rows, found.columns]), torch.cat(wanted)):
        left = lse[lse.isfinite()]  # a row of which nothing is left has -inf
        gradients.append(torch.autograd.grad(left @ left, (x, y)))
    for got, want in zip(*gradients, strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


@temperatures
def test_columns_only_if_wanted(temperature: float, tile: int) -> None:
    x, y = rows(5, 3, seed=0), rows(8, 3, seed=1)
    both = tiles.log_sum_exp_between(x, y, temperature=temperature)
    found = tiles.log_sum_exp_between(x, y, temperature=temperature, columns=False)
    assert torch.equal(found.rows, both.rows)
    assert torch.equal(found.row_top, both.row_top)
    assert (found.columns == -math.inf).all()
    assert (found.column_top == -math.inf).all()
    got, wanted = (torch.autograd.grad(f.rows.sum(), (x, y)) for f in (found, both))
    assert all(torch.allclose(*pair, rtol=1e-12, atol=1e-12) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.015, 0.0249, 0.025, 0.026])
def test_opposite_rows_in_float32(temperature: float) -> None:
    """The smallest exponentials there are: similarity -1 only."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    lse, top = tiles.log_sum_exp(x, temperature=temperature, without=(0,))
    assert lse[0].item() == pytest.approx(math.log(2) - 1 / temperature, rel=1e-6)
    assert top.tolist() == pytest.approx([-1 / temperature, 1 / temperature, 1 / temperature])
    gradient = torch.autograd.grad(lse[0], x)[0]
    wanted = torch.tensor([[-1.0, 0.0], [0.5, 0.0], [0.5, 0.0]]) / temperature
    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=0)


@temperatures
def test_input_stays_as_it_is(temperature: float) -> None:
    x = rows(6, 3, seed=0)
    before = x.detach().clone()
    lse, _ = tiles.log_sum_exp(x, temperature=temperature, without=(0,))
    upstream = torch.ones(6, dtype=torch.float64)
    first, again = (torch.autograd.grad(lse, x, upstream, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(x.detach(), before)
    assert (upstream == 1).all()
