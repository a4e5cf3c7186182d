"""NT-Xent against its definition; and that the 2N x 2N matrix never exists."""

import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twoviews.losses import NTXentLoss, nt_xent, nt_xent_with_accuracy

# The package's name `nt_xent` is the function, which hides the module of that name.
module = importlib.import_module("twoviews.losses.nt_xent")


def pairs(n: int, d: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return (3 * a).to(dtype).requires_grad_(), (b + 0.5 * a).to(dtype).requires_grad_()


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


@pytest.fixture(params=[1, 3, 4, 7, 1024])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "TILE", request.param)
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


@pytest.mark.parametrize("temperature", [0.02, 0.3])
def test_gradcheck(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 3)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=temperature), pairs(4, 3))


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.5])
def test_float32_is_close_to_float64(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 16)
    exact = nt_xent(*pairs(40, 16), temperature=temperature).item()
    single = nt_xent(*pairs(40, 16, dtype=torch.float32), temperature=temperature)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact, rel=1e-5)


def test_bf16_autocast_changes_nothing() -> None:
    z_a, z_b = pairs(20, 16, dtype=torch.float32)
    plain = nt_xent(z_a, z_b, temperature=0.05)
    wanted = torch.autograd.grad(plain, (z_a, z_b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z_a, z_b, temperature=0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == plain.item()
    for got, want in zip(torch.autograd.grad(loss, (z_a, z_b)), wanted, strict=True):
        assert torch.equal(got, want)


def test_bf16_projections_are_computed_in_float32() -> None:
    z_a, z_b = (z.detach().bfloat16().requires_grad_() for z in pairs(8, 4))
    loss = nt_xent(z_a, z_b, temperature=0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(nt_xent(z_a.double(), z_b.double(), temperature=0.1).item(), rel=1e-5)
    loss.backward()
    assert z_a.grad is not None
    assert z_a.grad.dtype == torch.bfloat16


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
    assert not list(NTXentLoss().parameters())


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "message"),
    [
        ((4, 3), (5, 3), r"got \(4, 3\) and \(5, 3\)"),
        ((4, 3), (4, 2), r"got \(4, 3\) and \(4, 2\)"),
        ((4,), (4,), r"got \(4,\) and \(4,\)"),
        ((0, 3), (0, 3), r"N > 0"),
    ],
)
def test_wrong_shapes(shape_a: tuple[int, ...], shape_b: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nt_xent(torch.zeros(shape_a), torch.zeros(shape_b), temperature=0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_wrong_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        nt_xent(torch.ones(2, 2), torch.ones(2, 2), temperature=temperature)


class Sizes(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_the_whole_matrix_never_exists(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 16)
    z_a, z_b = pairs(64, 4, dtype=torch.float32)
    rows = 2 * len(z_a)
    with Sizes() as forward:
        loss = nt_xent(z_a, z_b, temperature=temperature)
    with Sizes() as backward:
        loss.backward()
    for seen in (forward, backward):
        assert seen.operations > (rows // 16) ** 2 // 2  # the mode looked inside, tile by tile
        assert seen.largest <= max(rows * 4, 16 * 16)
    monkeypatch.setattr(module, "TILE", rows)
    with Sizes() as whole:
        nt_xent(z_a, z_b, temperature=temperature)
    assert whole.largest == rows * rows  # and would have seen the matrix
