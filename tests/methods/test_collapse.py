"""Collapse of what `barlow_twins` and `vicreg` compare is seen, as that of the methods that name it."""

from collections.abc import Callable

import pytest
import torch

from twoviews.data.corpus import load_corpus
from twoviews.data.loading import fetch
from twoviews.encoders import build_encoder
from twoviews.evaluation.health import collapse
from twoviews.jobs.pretraining.training import HEALTH
from twoviews.methods import Method, build_method
from twoviews.views.policies import POLICIES, Views


@pytest.mark.parametrize("name", ["byol", "simsiam", "fast_siam", "barlow_twins", "vicreg"])
def test_the_spread_of_projections_is_among_what_is_watched(name: str, make: Callable[..., Method]) -> None:
    method = make(name)
    apart = torch.randn(64, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spreads = []
    kinds = ("z",) if name in ("barlow_twins", "vicreg") else ("prediction", "target")
    names = [f"{kind}{view}" for kind in kinds for view in range(method.n_views)]
    for z in (apart, 1 + 1e-3 * apart):
        metrics = method.compare(dict.fromkeys(names, z)).metrics
        assert "projection_spread" in metrics.keys() & set(HEALTH)
        spreads.append(float(metrics["projection_spread"]))
    assert spreads[0] > 0.9
    assert spreads[1] < 0.01


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_a_healthy_start_is_not_called_a_collapse(name: str) -> None:
    spreads = trained(name, steps=15)
    assert said(min(spreads)) is None


def test_vicreg_without_what_keeps_it_apart_is_said_to_collapse() -> None:
    """By shrinking, directions staying apart."""
    spreads = trained("vicreg", steps=40, variance=0, covariance=0)
    assert said(spreads[0]) is None
    assert "all samples have nearly the same projections" in str(said(spreads[-1]))


def said(projection_spread: float) -> str | None:
    return collapse(spread=0.3, effective_rank=40.0, projection_spread=projection_spread)


def trained(name: str, *, steps: int, **options: float) -> list[float]:
    """`projection_spread` at each step on digits."""
    torch.manual_seed(0)
    encoder = build_encoder("convnet_tiny", image_size=8, channels=1)
    method = build_method(name, encoder, options={"projector_dim": 32, **options})
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    views = Views(POLICIES["digits"], image_size=8, mean=(0.5,), std=(0.5,))
    batch = fetch(load_corpus("digits:val"), range(64), device="cpu")
    found = []
    for step in range(steps):
        done = method.compare(method(views(batch, seed=0, epoch=step, views=(0, 1))))
        optimizer.zero_grad()
        done.loss.backward()
        optimizer.step()
        found.append(float(done.metrics["projection_spread"]))
    return found
