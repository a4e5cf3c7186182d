"""BYOL and MoCo v3: a momentum that rises to 1 along a cosine, and what the slow networks are."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from twoviews.methods import Method
from twoviews.methods.momentum import rising

Make = Callable[..., Method]
Views = Callable[..., list[Tensor]]

both = pytest.mark.parametrize("name", ["byol", "moco_v3"])
PARTS = {"encoder": "slow_encoder", "projector": "slow_projector"}


def scheduled(base: float, step: int, steps: int) -> float:
    """Grill et al. 2020, section 3.2: 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2


@pytest.mark.parametrize("base", [0.0, 0.9, 0.99, 1.0])
def test_the_schedule(base: float) -> None:
    values = [rising(base, step / 8) for step in range(9)]
    assert values == pytest.approx([scheduled(base, step, 8) for step in range(9)], rel=1e-15)
    assert values[0] == pytest.approx(base, abs=1e-15)
    assert values[4] == pytest.approx((1 + base) / 2)
    assert values[8] == 1.0
    assert values == sorted(values)


@both
@pytest.mark.parametrize("step", [0, 1, 4, 7, 8])
def test_slow_networks_mix_by_the_momentum_of_the_step(name: str, step: int, make: Make) -> None:
    method = make(name, momentum=0.8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.after_step({}, step / 8)
    now, momentum = method.state_dict(), scheduled(0.8, step, 8)
    moved = []
    for fast, slow in PARTS.items():
        for key, _ in method.get_submodule(fast).named_parameters():
            mixed = momentum * before[f"{slow}.{key}"] + (1 - momentum) * before[f"{fast}.{key}"]
            assert torch.allclose(now[f"{slow}.{key}"], mixed, rtol=1e-14, atol=1e-15), key
            moved.append(f"{slow}.{key}")
            assert torch.equal(now[moved[-1]], before[moved[-1]]) == (step == 8)  # at the end it stands still
    assert all(torch.equal(now[key], before[key]) for key in now.keys() - set(moved))


@both
def test_the_predictor_has_no_slow_copy(name: str, make: Make) -> None:
    method = make(name)
    slow = {key.partition(".")[0] for key, p in method.named_parameters() if not p.requires_grad}
    assert slow == set(PARTS.values())
    trained = {key.partition(".")[0] for key, p in method.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "projector", "predictor"}


@both
def test_targets_are_of_the_slow_networks(name: str, make: Make, views: Views) -> None:
    method = make(name)
    images = views(8, 8)
    before = list(method.targets(images).values())
    with torch.no_grad():
        for part in (*PARTS, "predictor"):
            for parameter in method.get_submodule(part).parameters():
                parameter.mul_(1.5)
    assert all(torch.equal(*pair) for pair in zip(method.targets(images).values(), before, strict=True))
    with torch.no_grad():
        for slow in PARTS.values():
            for parameter in method.get_submodule(slow).parameters():
                parameter.add_(0.1)
    assert not any(torch.allclose(*pair) for pair in zip(method.targets(images).values(), before, strict=True))


@both
def test_a_slow_network_starts_as_the_fast_one(name: str, make: Make) -> None:
    method = make(name)
    for fast, slow in PARTS.items():
        pairs = zip(method.get_submodule(fast).parameters(), method.get_submodule(slow).parameters(), strict=True)
        for one, other in pairs:
            assert torch.equal(one, other)
            assert one.data_ptr() != other.data_ptr()
