"""NT-Xent against its definition; and the arithmetic that all losses have from `tiles`, at its most exacting."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from twoviews.losses import NTXentLoss, nt_xent, nt_xent_with_accuracy, tiles


def pairs(n: int, d: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return (3 * a).to(dtype).requires_grad_(), (b + 0.5 * a).to(dtype).requires_grad_()


def views(n: int, d: int, *, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two noisy views of n samples, in float32."""
    generator = torch.Generator().manual_seed(seed)
    sample, *noises = torch.randn(3, n, d, generator=generator)
    return sample + noise * noises[0], sample + noise * noises[1]


def by_definition(z_a: Tensor, z_b: Tensor, temperature: float) -> tuple[Tensor, float]:
    """Equation 1, one row and one term at a time; and the part of rows whose positive no negative exceeds."""
    rows = [z / z.norm() for z in (*z_a, *z_b)]
    n, terms, right = len(z_a), [], 0
    for i, row in enumerate(rows):
        positive = (i + n) % (2 * n)
        logits = {j: row @ other / temperature for j, other in enumerate(rows) if j != i}
        terms.append(torch.logsumexp(torch.stack(list(logits.values())), 0) - logits[positive])
        # Within rounding, as equal similarities are computed along different ways.
        right += all(logits[positive] >= logits[j] - 1e-9 for j in logits)
    return torch.stack(terms).mean(), right / (2 * n)


def both(z_a: Tensor, z_b: Tensor, temperature: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(loss, accuracy, gradients) of twoviews and of the definition."""
    results = []
    for function in (lambda a, b: nt_xent_with_accuracy(a, b, temperature=temperature), None):
        loss, accuracy = function(z_a, z_b) if function else by_definition(z_a, z_b, temperature)
        gradients = torch.autograd.grad(loss * 1.7, (z_a, z_b))  # an upstream gradient that is not 1
        results.append((loss.detach(), float(accuracy), gradients))
    return results[0], results[1]


@pytest.fixture(params=[1, 3, 4, 1024])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tiles, "TILE", request.param)
    return int(request.param)


@pytest.mark.parametrize("temperature", [0.01, 0.024, 0.025, 0.1, 0.5, 1.0])
def test_value_gradient_and_accuracy(temperature: float, tile: int) -> None:
    ours, reference = both(*pairs(5, 3), temperature)
    assert torch.allclose(ours[0], reference[0], rtol=1e-11, atol=1e-11)
    assert ours[1] == pytest.approx(reference[1], abs=1e-12)
    for got, wanted in zip(ours[2], reference[2], strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_duplicated_rows(temperature: float, tile: int) -> None:
    z_a, z_b = (z.detach() for z in pairs(6, 4))
    z_a[3], z_b[3] = z_a[0], z_b[0]  # two samples with the same two views
    z_b[1] = z_a[1]  # two views that are equal
    z_a[5], z_b[5] = z_a[4], z_a[4]  # and all four of them
    z_b[4] = z_a[4]
    ours, reference = both(z_a.requires_grad_(), z_b.requires_grad_(), temperature)
    assert torch.allclose(ours[0], reference[0], rtol=1e-11, atol=1e-11)
    assert ours[1] == pytest.approx(reference[1], abs=1e-12)
    for got, wanted in zip(ours[2], reference[2], strict=True):
        assert torch.isfinite(got).all()
        assert torch.allclose(got, wanted, rtol=1e-8, atol=1e-10)


def test_one_pair_has_no_negatives(tile: int) -> None:
    z_a, z_b = pairs(1, 4)
    loss, accuracy = nt_xent_with_accuracy(z_a, z_b, temperature=0.1)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert accuracy.item() == 1.0
    for gradient in torch.autograd.grad(loss, (z_a, z_b)):
        assert gradient.abs().max() < 1e-12


def in_precision(z_a: Tensor, z_b: Tensor, dtype: torch.dtype, temperature: float) -> tuple[Tensor, Tensor]:
    """(loss, gradients of both views in one) computed in `dtype`, in float64."""
    z_a, z_b = (z.to(dtype).requires_grad_() for z in (z_a, z_b))
    loss = nt_xent(z_a, z_b, temperature=temperature)
    assert loss.dtype == dtype
    return loss.detach().double(), torch.cat(torch.autograd.grad(loss, (z_a, z_b))).double()


@pytest.mark.parametrize("size", [8, 1024])
@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.05, 0.5, 1.0])
def test_duplicated_rows_in_float32(temperature: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", size)
    z_a, z_b = views(24, 16, noise=0.8)
    z_a[3], z_b[3] = z_a[0], z_b[0]
    z_b[1] = z_a[1]
    z_a[5] = z_b[5] = z_b[4] = z_a[4]
    loss, gradient = in_precision(z_a, z_b, torch.float32, temperature)
    exact_loss, exact_gradient = in_precision(z_a, z_b, torch.float64, temperature)
    assert exact_loss > 0.1
    assert abs(loss - exact_loss) <= 1e-5 * exact_loss
    assert (gradient - exact_gradient).norm() <= 1e-5 * exact_gradient.norm()


@pytest.mark.parametrize(("noise", "below"), [(0.05, 1e-6), (0.3, 1e-4)])
def test_a_small_loss_keeps_its_digits(noise: float, below: float) -> None:
    z_a, z_b = views(16, 64, noise=noise)
    exact_loss, exact_gradient = in_precision(z_a, z_b, torch.float64, 0.05)
    assert 0 < exact_loss < below
    loss, gradient = in_precision(z_a, z_b, torch.float32, 0.05)
    assert abs(loss - exact_loss) <= 1e-5 * exact_loss
    assert (gradient - exact_gradient).norm() <= 1e-5 * exact_gradient.norm()

    z = torch.nn.functional.normalize(torch.cat([z_a, z_b]), dim=1)
    logits = (z @ z.T / 0.05).fill_diagonal_(-math.inf)
    naive = torch.nn.functional.cross_entropy(logits, torch.arange(32).roll(16))
    assert abs(naive.double() - exact_loss) > 1e-5 * exact_loss  # so the bound above says something


def test_equal_projections_are_chance() -> None:
    z = torch.ones(8, 4, dtype=torch.float64)
    assert nt_xent(z, z, temperature=0.1).item() == pytest.approx(math.log(15), rel=1e-12)


def test_accuracy_counts_rows(tile: int) -> None:
    eye = torch.eye(4)
    assert nt_xent_with_accuracy(eye, eye, temperature=0.5)[1].item() == 1.0
    # The views of samples 0 and 1 are exchanged: four of eight rows are nearer to another sample.
    exchanged = eye[[1, 0, 2, 3]]
    assert nt_xent_with_accuracy(eye, exchanged, temperature=0.5)[1].item() == 0.5


def test_accuracy_carries_no_gradient() -> None:
    _, accuracy = nt_xent_with_accuracy(*pairs(4, 3), temperature=0.5)
    assert not accuracy.requires_grad


def test_module_is_the_function() -> None:
    z_a, z_b = pairs(4, 3)
    assert NTXentLoss(temperature=0.3)(z_a, z_b).item() == nt_xent(z_a, z_b, temperature=0.3).item()
    assert NTXentLoss()(z_a, z_b).item() == nt_xent(z_a, z_b, temperature=0.5).item()
    assert NTXentLoss(0.3, gather_distributed=True)(z_a, z_b).item() == nt_xent(z_a, z_b, temperature=0.3).item()
    assert not list(NTXentLoss().parameters())
