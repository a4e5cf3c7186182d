"""InfoNCE with keys of the batch, and NCE: each against its paper's equation, one row and one term at a time."""

import math
from collections.abc import Callable, Sequence
from importlib import import_module

import pytest
import torch
from torch import Tensor

from twoviews.losses import info_nce, key_info_nce, key_info_nce_with_accuracy, nce, nce_with_accuracy, tiles

noise = import_module("twoviews.losses.nce")  # the package has a function of that name

Scored = tuple[Tensor, Tensor | float]


def pairs(n: int, d: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * a).requires_grad_(), (b + 0.5 * a).requires_grad_()


def duplicated(n: int, d: int) -> tuple[Tensor, Tensor]:
    z_a, z_b = (z.detach() for z in pairs(n, d, seed=1))
    z_a[3], z_b[3] = z_a[0], z_b[0]  # two samples with the same two views
    z_b[1] = z_a[1]  # two views that are equal
    z_a[4] = z_b[4] = z_b[2] = z_a[2]  # and all four of them
    return z_a.requires_grad_(), z_b.requires_grad_()


def units(*sets: Tensor) -> list[Tensor]:
    return [z / z.norm() for rows in sets for z in rows]


def right(positive: Tensor, others: Sequence[Tensor]) -> bool:
    # Within rounding, as equal similarities are computed along different ways.
    return all(bool(positive >= other - 1e-9) for other in others)


def keys_by_definition(query: Tensor, key: Tensor, temperature: float) -> Scored:
    """MoCo v3, section 3, eq. 1: of each query, its own key among those of the batch; no way back."""
    keys, terms, hits = units(key), [], 0
    for i, q in enumerate(units(query)):
        logits = [q @ k / temperature for k in keys]
        terms.append(-(logits[i] - torch.logsumexp(torch.stack(logits), 0)))
        hits += right(logits[i], logits)
    return torch.stack(terms).mean(), hits / len(terms)


def nce_by_definition(z_a: Tensor, z_b: Tensor, temperature: float) -> Scored:
    """Gutmann & Hyvarinen 2010, eq. 2 and 3: the logistic function of log(true / noise), with k of noise for one true.

    With the similarity for the logarithm of the ratio of densities, that is similarity - ln k.
    """
    rows, n = units(z_a, z_b), len(z_a)
    k = 2 * n - 2
    terms, hits = [], 0
    for i, row in enumerate(rows):
        other = (i + n) % (2 * n)
        positive = row @ rows[other] / temperature
        negatives = [row @ rows[j] / temperature for j in range(2 * n) if j not in (i, other)]
        assert len(negatives) == k
        # log(1 - p) as log of the other class's probability: p itself rounds to 1.
        term = -torch.nn.functional.logsigmoid(positive - math.log(k))
        for s in negatives:
            term = term - torch.nn.functional.logsigmoid(-(s - math.log(k)))
        terms.append(term)
        hits += right(positive, negatives)
    return torch.stack(terms).mean(), hits / (2 * n)


def agree(ours: Scored, reference: Scored, inputs: Sequence[Tensor]) -> None:
    """Value, accuracy and the gradients of all inputs."""
    assert ours[0].shape == ()
    assert torch.allclose(ours[0], reference[0], rtol=1e-9, atol=1e-11)
    assert float(ours[1]) == pytest.approx(float(reference[1]), abs=1e-12)
    got, wanted = (torch.autograd.grad(scored[0] * 1.7, inputs) for scored in (ours, reference))
    for one, other in zip(got, wanted, strict=True):
        assert torch.isfinite(one).all()
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.fixture(params=[1, 3, 1024])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tiles, "TILE", request.param)
    monkeypatch.setattr(noise, "TILE", request.param)
    return int(request.param)


temperatures = pytest.mark.parametrize("temperature", [0.01, 0.024, 0.025, 0.5])
data = pytest.mark.parametrize("z", [pairs(5, 3), duplicated(6, 4)], ids=["random", "duplicated"])


@data
@temperatures
def test_keys(z: tuple[Tensor, Tensor], temperature: float, tile: int) -> None:
    ours = key_info_nce_with_accuracy(*z, temperature=temperature)
    agree(ours, keys_by_definition(*z, temperature), z)
    assert torch.equal(key_info_nce(*z, temperature=temperature), ours[0])


@data
@temperatures
def test_nce(z: tuple[Tensor, Tensor], temperature: float, tile: int) -> None:
    ours = nce_with_accuracy(*z, temperature=temperature)
    agree(ours, nce_by_definition(*z, temperature), z)
    assert torch.equal(nce(*z, temperature=temperature), ours[0])


@temperatures
def test_both_directions_of_keys_are_info_nce(temperature: float) -> None:
    a, b = pairs(7, 4)
    ways = [key_info_nce(x, y, temperature=temperature) for x, y in ((a, b), (b, a))]
    assert ways[0].item() != ways[1].item()
    assert torch.allclose(torch.stack(ways).mean(), info_nce(a, b, temperature=temperature), rtol=1e-12)


def test_keys_without_gradient_get_none() -> None:
    query, key = pairs(6, 4)
    wanted = torch.autograd.grad(key_info_nce(query, key, temperature=0.1), query)[0]
    loss = key_info_nce(query, key.detach(), temperature=0.1)
    assert torch.equal(torch.autograd.grad(loss, query)[0], wanted)


def test_one_query_has_nothing_to_be_confused_with() -> None:
    z = pairs(1, 4)
    loss, accuracy = key_info_nce_with_accuracy(*z, temperature=0.1)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert accuracy.item() == 1.0


def test_nce_of_one_pair_has_no_value() -> None:
    with pytest.raises(ValueError, match=r"must both be \(N, D\), N >= 2; got \(1, 4\) and \(1, 4\)"):
        nce(*pairs(1, 4), temperature=0.1)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_chance(temperature: float) -> None:
    """Equal projections for the softmax; for the logistic function orthogonal ones, which say "as likely as chance"."""
    z = torch.ones(8, 4, dtype=torch.float64)
    assert key_info_nce(z, z, temperature=temperature).item() == pytest.approx(math.log(8), rel=1e-12)
    every = torch.eye(16, dtype=torch.float64)
    k = 14
    chance = math.log(1 + k) + k * math.log(1 + 1 / k)
    assert nce(every[:8], every[8:], temperature=temperature).item() == pytest.approx(chance, rel=1e-12)


def test_nce_is_least_where_the_similarity_is_the_log_of_the_ratio_of_densities() -> None:
    """The sense of ln k: pairs that are true in 0.3 of the draws, and noise in 0.1 of k times as many."""
    k, true, chance = 6, 0.3, 0.1

    def slope(similarity: float) -> float:
        s = torch.tensor(similarity, dtype=torch.float64, requires_grad=True)
        p = (s - math.log(k)).sigmoid()
        expected = -true * p.log() - k * chance * (1 - p).log()
        return float(torch.autograd.grad(expected, s)[0])

    assert slope(math.log(true / chance)) == pytest.approx(0.0, abs=1e-12)
    assert slope(math.log(true / chance) - 0.1) < 0 < slope(math.log(true / chance) + 0.1)


def test_accuracy_counts_rows() -> None:
    eye = torch.eye(4)
    exchanged = eye[[1, 0, 2, 3]]
    for accuracy in (key_info_nce_with_accuracy, nce_with_accuracy):
        assert accuracy(eye, eye, temperature=0.5)[1].item() == 1.0
        assert accuracy(eye, exchanged, temperature=0.5)[1].item() == 0.5


@pytest.mark.parametrize("accuracy", [key_info_nce_with_accuracy, nce_with_accuracy])
def test_accuracy_carries_no_gradient(accuracy: Callable[..., tuple[Tensor, Tensor]]) -> None:
    assert not accuracy(*pairs(4, 3), temperature=0.5)[1].requires_grad


def test_wrong_keys_are_called_so() -> None:
    with pytest.raises(ValueError, match=r"query and key must both be \(N, D\), N >= 1; got \(4, 3\) and \(5, 3\)"):
        key_info_nce(torch.ones(4, 3), torch.ones(5, 3), temperature=0.1)
