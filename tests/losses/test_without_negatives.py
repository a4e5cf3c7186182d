"""Barlow Twins, VICReg, negative cosine and soft labels: each against its paper's equation, one term at a time."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from twoviews.losses import barlow_twins, negative_cosine, soft_cross_entropy, spread, vicreg


def pairs(n: int, d: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.7 * a + 2).requires_grad_(), (b + 0.5 * a - 1).requires_grad_()


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum() / len(values)


def barlow_by_definition(z_a: Tensor, z_b: Tensor, redundancy: float) -> Tensor:
    """Zbontar et al. 2021, eq. 1 and 2, each dimension less its mean over the batch."""
    n, d = z_a.shape
    a = [[z_a[s, i] - mean([*z_a[:, i]]) for s in range(n)] for i in range(d)]
    b = [[z_b[s, j] - mean([*z_b[:, j]]) for s in range(n)] for j in range(d)]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(d):
        for j in range(d):
            products = sum((a[i][s] * b[j][s] for s in range(n)), start=total * 0)
            lengths = [sum((x * x for x in xs), start=total * 0).sqrt() for xs in (a[i], b[j])]
            c = products / (lengths[0] * lengths[1])
            total = total + ((1 - c) ** 2 if i == j else redundancy * c**2)
    return total


def variance_by_definition(z: Tensor) -> Tensor:
    """Bardes et al. 2022, eq. 1 and 2, with gamma 1 and epsilon 1e-4."""
    n, d = z.shape
    terms = []
    for j in range(d):
        centre = mean([*z[:, j]])
        variance = sum(((x - centre) ** 2 for x in z[:, j]), start=centre * 0) / (n - 1)
        deviation = (variance + 1e-4).sqrt()
        terms.append((1 - deviation).clamp_min(0))
    return mean(terms)


def covariance_by_definition(z: Tensor) -> Tensor:
    """Eq. 3 and 4."""
    n, d = z.shape
    centre = [mean([*z[:, j]]) for j in range(d)]
    total = z.sum() * 0
    for i in range(d):
        for j in range(d):
            if i != j:
                c = sum(((row[i] - centre[i]) * (row[j] - centre[j]) for row in z), start=total * 0) / (n - 1)
                total = total + c**2
    return total / d


def vicreg_by_definition(z_a: Tensor, z_b: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """Eq. 5 and 6; the distance over d and the variance terms over 2, as in the authors' code."""
    n, d = z_a.shape
    distance = sum((((a - b) ** 2).sum() for a, b in zip(z_a, z_b, strict=True)), start=z_a.sum() * 0) / n
    spreads = variance_by_definition(z_a) + variance_by_definition(z_b)
    shared = covariance_by_definition(z_a) + covariance_by_definition(z_b)
    return invariance * distance / d + variance * spreads / 2 + covariance * shared


def cosine_by_definition(prediction: Tensor, target: Tensor) -> Tensor:
    """Chen & He 2021, eq. 1."""
    return mean([-(p / p.norm()) @ (t / t.norm()) for p, t in zip(prediction, target, strict=True)])


def soft_by_definition(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Chen et al. 2020b, eq. 2, times T^2 (Hinton et al. 2015, section 2)."""
    terms = []
    for student, teacher in zip(logits, target, strict=True):
        ours, theirs = ((row / temperature).exp() for row in (student, teacher))
        p_student, p_teacher = ours / ours.sum(), theirs / theirs.sum()
        terms.append(-sum((p_teacher[y] * p_student[y].log() for y in range(len(p_student))), start=ours.sum() * 0))
    return temperature**2 * mean(terms)


def agree(ours: Tensor, reference: Tensor, inputs: Sequence[Tensor], *, rtol: float = 1e-9) -> None:
    """Value and the gradients of all inputs."""
    assert ours.shape == ()
    assert torch.allclose(ours, reference, rtol=rtol, atol=1e-11)
    got, wanted = (torch.autograd.grad(value * 1.7, inputs) for value in (ours, reference))
    for one, other in zip(got, wanted, strict=True):
        assert torch.isfinite(one).all()
        assert (one - other).norm() <= rtol * other.norm()


@pytest.mark.parametrize("redundancy", [0.0, 5e-3, 1.0])
@pytest.mark.parametrize(("n", "d"), [(5, 3), (3, 4), (4, 1)])
def test_barlow_twins(n: int, d: int, redundancy: float) -> None:
    # The equation has no epsilon under the root, so it is made small beside the variance.
    z = [(z.detach() * 1e4).requires_grad_() for z in pairs(n, d)]
    agree(barlow_twins(*z, redundancy=redundancy), barlow_by_definition(*z, redundancy), z, rtol=1e-6)


def test_barlow_twins_of_usual_lengths_is_near_the_equation() -> None:
    z_a, z_b = pairs(16, 4)
    wanted = barlow_by_definition(z_a, z_b, 5e-3).item()
    assert barlow_twins(z_a, z_b).item() == pytest.approx(wanted, rel=1e-4)


def test_barlow_twins_knows_neither_length_nor_centre_of_a_dimension() -> None:
    z_a, z_b = (z.detach() * 1e4 for z in pairs(8, 3))
    scale, shift = torch.tensor([[0.5, 2.0, 30.0]]), torch.tensor([[-1e3, 0.0, 1e5]])
    value = barlow_twins(z_a, z_b).item()
    assert barlow_twins(z_a * scale + shift, z_b).item() == pytest.approx(value, rel=1e-6)
    assert barlow_twins(z_b, z_a).item() == pytest.approx(value, rel=1e-12)  # C transposed
    assert barlow_twins(z_a * torch.tensor([[-1.0, 1.0, 1.0]]), z_b).item() != pytest.approx(value, rel=0.1)


def test_barlow_twins_of_a_dimension_that_does_not_vary() -> None:
    """It says nothing of either view: (1 - 0)^2, and a gradient that is finite."""
    z = torch.tensor([[1.0, 3.0], [-1.0, 3.0], [1.0, 3.0], [-1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    loss = barlow_twins(z, z.detach())
    assert loss.item() == pytest.approx(1.0, abs=1e-8)
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_barlow_twins_of_unrelated_views_is_what_it_says() -> None:
    n, d, redundancy = 64, 32, 0.5
    a, b = torch.randn(2, n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert barlow_twins(a, b, redundancy=redundancy).item() == pytest.approx(d * (1 + redundancy * d / n), rel=0.1)


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize(("n", "d"), [(5, 3), (3, 4)])
def test_vicreg(n: int, d: int, weights: tuple[float, float, float]) -> None:
    z = pairs(n, d)
    invariance, variance, covariance = weights
    ours = vicreg(*z, invariance=invariance, variance=variance, covariance=covariance)
    assert ours.item() > 0
    agree(ours, vicreg_by_definition(*z, *weights), z)


def test_vicreg_of_one_dimension_has_no_covariance() -> None:
    z = pairs(4, 1)
    assert vicreg(*z, invariance=0, variance=0).item() == 0.0


def test_vicreg_by_default_has_the_papers_weights() -> None:
    z = pairs(5, 3)
    assert vicreg(*z).item() == vicreg(*z, invariance=25, variance=25, covariance=1).item()


def test_vicreg_asks_for_a_deviation_of_one_and_no_more() -> None:
    z = pairs(6, 3)[0].detach()
    z = (z - z.mean(0)) / z.std(0)
    only = {"invariance": 0.0, "covariance": 0.0}
    assert vicreg(2 * z, 3 * z, **only).item() == 0.0
    assert vicreg(0.5 * z, z * 2, **only).item() == pytest.approx(25 * 0.5 / 2, rel=1e-3)
    still = torch.zeros_like(z).requires_grad_()
    loss = vicreg(still, still, **only)
    assert loss.item() == pytest.approx(25 * 0.99, rel=1e-9)  # the root of epsilon
    assert torch.isfinite(torch.autograd.grad(loss, still)[0]).all()


@pytest.mark.parametrize(("n", "d"), [(5, 3), (1, 4)])
def test_negative_cosine(n: int, d: int) -> None:
    prediction, target = pairs(n, d)
    agree(negative_cosine(prediction, target), cosine_by_definition(prediction, target), [prediction])


def test_no_gradient_reaches_the_target() -> None:
    prediction, target = pairs(5, 3)
    loss = negative_cosine(prediction, target)
    assert torch.autograd.grad(loss, [target], allow_unused=True, retain_graph=True) == (None,)
    assert not negative_cosine(prediction.detach(), target).requires_grad


def test_the_square_of_byol() -> None:
    """Grill et al. 2020, eq. 2: the squared distance of unit vectors."""
    prediction, target = pairs(5, 3)
    units = [z / z.norm(dim=1, keepdim=True) for z in (prediction, target)]
    squared = (units[0] - units[1]).square().sum(1).mean()
    assert (2 + 2 * negative_cosine(prediction, target)).item() == pytest.approx(squared.item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(("n", "d"), [(5, 3), (1, 4)])
def test_soft_labels(n: int, d: int, temperature: float) -> None:
    logits, target = pairs(n, d)
    ours = soft_cross_entropy(logits, target, temperature=temperature)
    agree(ours, soft_by_definition(logits, target.detach(), temperature), [logits])
    assert not soft_cross_entropy(logits.detach(), target, temperature=temperature).requires_grad


def test_soft_labels_that_are_sure_are_labels() -> None:
    logits, _ = pairs(5, 3)
    labels = torch.tensor([0, 2, 1, 1, 0])
    wanted = torch.nn.functional.cross_entropy(logits, labels)
    agree(soft_cross_entropy(logits, 1e4 * torch.nn.functional.one_hot(labels, 3).double()), wanted, [logits])


def test_soft_labels_are_at_least_their_entropy_and_there_the_student_is_the_teacher() -> None:
    _, target = (z.detach() for z in pairs(5, 3))
    p = (target / 2).softmax(1)
    own = (target + 7).requires_grad_()  # a constant for all classes says nothing
    loss = soft_cross_entropy(own, target, temperature=2.0)
    assert loss.item() == pytest.approx(-4 * (p * p.log()).sum(1).mean().item(), rel=1e-12)
    assert torch.autograd.grad(loss, own)[0].norm() < 1e-12


def test_the_gradient_of_hot_soft_labels_keeps_its_size() -> None:
    """Hinton et al. 2015, eq. 4: for a high T it tends to (logits - target) / N K, centred, whatever T is."""
    logits, target = (z.detach() for z in pairs(6, 3))
    logits.requires_grad_()
    gap = (logits - logits.mean(1, keepdim=True)) - (target - target.mean(1, keepdim=True))
    for temperature in (1e3, 1e4):
        loss = soft_cross_entropy(logits, target, temperature=temperature)
        gradient = torch.autograd.grad(loss, logits)[0]
        assert (gradient - gap.detach() / 18).norm() < 5e-3 * gradient.norm()


def test_spread() -> None:
    rows = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    assert spread(rows).item() == pytest.approx(1.0, abs=0.02)
    assert spread(5 * rows).item() == pytest.approx(spread(rows).item(), rel=1e-6)
    assert spread(rows[:1].repeat(6, 1)).item() == pytest.approx(0.0, abs=1e-6)
    two = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert spread(two).item() == pytest.approx(0.5 * math.sqrt(2))
    assert not spread(rows.requires_grad_()).requires_grad


@pytest.mark.parametrize("redundancy", [-1.0, float("nan")])
def test_wrong_redundancy(redundancy: float) -> None:
    with pytest.raises(ValueError, match=f"redundancy must not be negative, got {redundancy}"):
        barlow_twins(*pairs(3, 2), redundancy=redundancy)


@pytest.mark.parametrize("name", ["invariance", "variance", "covariance"])
@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_wrong_weights(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match="the weights must not be negative, got") as raised:
        vicreg(*pairs(3, 2), **{name: bad})
    assert str(bad) in str(raised.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_wrong_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        soft_cross_entropy(*pairs(3, 2), temperature=temperature)


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_one_pair_has_no_statistics(loss: object) -> None:
    assert callable(loss)
    with pytest.raises(ValueError, match=r"z_a and z_b must both be \(N, D\), N >= 2; got \(1, 4\) and \(1, 4\)"):
        loss(*pairs(1, 4))


def test_wrong_targets_are_called_so() -> None:
    with pytest.raises(ValueError, match=r"prediction and target must both be \(N, D\), N >= 1; got"):
        negative_cosine(torch.ones(4, 3), torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"logits and target must both be \(N, D\), N >= 1; got \(4, 3\) and \(4, 2\)"):
        soft_cross_entropy(torch.ones(4, 3), torch.ones(4, 2))
