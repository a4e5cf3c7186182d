import math

import numpy as np
import pytest
import torch

from twoviews.errors import UsageError
from twoviews.evaluation import health
from twoviews.evaluation.health import alignment, effective_rank, uniformity


def slow_rank(x):
    values = np.sqrt(np.linalg.eigvalsh(x.T @ x).clip(min=0))
    p = values / values.sum()
    return math.exp(-sum(v * math.log(v) for v in p if v > 0))


def unit(row):
    return row / math.sqrt((row**2).sum())


def slow_uniformity(x, t):
    total, pairs = 0.0, 0
    for i in range(len(x)):
        for j in range(i):
            total += math.exp(-t * ((unit(x[i]) - unit(x[j])) ** 2).sum())
            pairs += 1
    return math.log(total / pairs)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30), (1, 4), (12, 12)])
def test_effective_rank_equals_the_slow_reference(shape):
    x = normal(*shape) * np.geomspace(1, 0.01, shape[1])
    assert effective_rank(torch.from_numpy(x)) == pytest.approx(slow_rank(x), rel=1e-5)


def test_effective_rank_knows_its_ends():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.outer(torch.arange(1.0, 9), torch.ones(5))) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(4, 3)) == 0
    assert effective_rank(1e-20 * torch.eye(3)) == pytest.approx(3)
    assert effective_rank(torch.eye(3, dtype=torch.bfloat16)) == pytest.approx(3)


def test_alignment_equals_the_slow_reference():
    a, b = normal(20, 6), normal(20, 6, seed=1)
    want = np.mean([((unit(p) - unit(q)) ** 2).sum() for p, q in zip(a, b, strict=True)])
    assert alignment(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(want, rel=1e-5)
    assert alignment(torch.from_numpy(a), torch.from_numpy(3 * a)) == pytest.approx(0, abs=1e-10)
    assert alignment(torch.from_numpy(a), torch.from_numpy(-a)) == pytest.approx(4)


@pytest.mark.parametrize("t", [0.5, 2.0, 50.0])
@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_uniformity_equals_the_slow_reference(t, block, monkeypatch):
    monkeypatch.setattr(health, "_BLOCK", block)
    x = normal(25, 4)
    assert uniformity(torch.from_numpy(x), t) == pytest.approx(slow_uniformity(x, t), abs=1e-4)


def test_uniformity_prefers_spread_vectors():
    assert uniformity(torch.ones(10, 3)) == pytest.approx(0, abs=1e-5)
    collapsed = torch.ones(100, 8) + 0.01 * torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    assert uniformity(torch.from_numpy(normal(100, 8))) < -1.5 < uniformity(collapsed)


def test_nan_in_nan_out_and_no_gradient():
    x = torch.randn(4, 3, requires_grad=True)
    for value in (effective_rank(x), alignment(x, x), uniformity(x)):
        assert isinstance(value, float)
    x = torch.full((4, 3), float("nan"))
    assert all(math.isnan(v) for v in (effective_rank(x), alignment(x, x), uniformity(x)))


def test_bad_shapes_are_named():
    with pytest.raises(UsageError, match=r"got \(3,\)"):
        effective_rank(torch.ones(3))
    with pytest.raises(UsageError, match=r"got \(0, 2\)"):
        alignment(torch.ones(0, 2), torch.ones(0, 2))
    with pytest.raises(UsageError, match="two views of the same samples"):
        alignment(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(UsageError, match="at least 2 vectors, got 1"):
        uniformity(torch.ones(1, 2))
