"""Policies that differ from view to view: probabilities given for each, and what BYOL does with them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from twoviews.views import ops
from twoviews.views.draws import Draws
from twoviews.views.policies import POLICIES, Policy, Views, find_policy


def make_batch(n: int, *, side: int = 20) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(n)
    return SimpleNamespace(
        values=torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator),
        sizes=torch.full((n, 2), side),
        samples=torch.arange(n),
    )


def made_by(policy: Policy, batch: SimpleNamespace, *, views: tuple[int, ...] = (0, 1), side: int = 20) -> torch.Tensor:
    """(views, B, C, S, S)."""
    maker = Views(policy, image_size=side, mean=(0.0,), std=(1.0,))
    return torch.stack(maker(batch, seed=2, epoch=1, views=views))


def changed_share(op: ops.Op, *, views: tuple[int, ...]) -> list[float]:
    batch = make_batch(1000, side=6)
    plain = made_by(Policy("plain", ops.CenterCrop()), batch, views=views, side=6)
    changed = made_by(Policy("one", ops.CenterCrop(), (op,)), batch, views=views, side=6)
    return [float(x) for x in (plain != changed).flatten(2).any(2).float().mean(1)]


def test_a_chance_for_each_view() -> None:
    views = torch.arange(5).repeat_interleave(800)
    draws = Draws(seed=0, epoch=0, samples=torch.arange(800).repeat(5), views=views).named("stream")
    drawn = draws.uniform("x")
    made = draws.chance("x", (0.7, 0.0, 0.2))
    limits = torch.tensor([0.7, 0.0, 0.2, 0.7, 0.0]).repeat_interleave(800)
    assert torch.equal(made, drawn < limits)
    assert 0 < int(made[views == 2].sum()) < int(made[views == 3].sum())
    assert torch.equal(draws.chance("x", (0.3, 0.3)), draws.chance("x", 0.3))


@pytest.mark.parametrize(
    "op",
    [
        ops.ColorJitter(),
        ops.ColorJitterYIQ(),
        ops.RandomGrayscale(),
        ops.BandJitter(),
        ops.GaussianBlur(sigma=(1.0, 2.0)),
        ops.Solarize(),
    ],
    ids=lambda op: type(op).__name__,
)
def test_every_probability_may_be_given_for_each_view(op: ops.Op) -> None:
    changed = replace(op, probability=(1.0, 0.0, 0.4))  # type: ignore[type-var]
    assert changed_share(changed, views=(1, 0, 2, 4)) == pytest.approx([0.0, 1.0, 0.4, 0.0], abs=0.05)


def test_byol_is_the_papers() -> None:
    crop, jitter, grey, blur, solarize = find_policy("byol").describe()
    assert (crop["min_scale"], crop["max_scale"], crop["flip"]) == (0.08, 1.0, 0.5)
    assert [jitter[key] for key in ("brightness", "contrast", "saturation", "hue", "probability")] == [
        *(0.4, 0.4, 0.2, 0.1, 0.8)
    ]
    assert grey == {"op": "RandomGrayscale", "probability": 0.2}
    assert blur == {"op": "GaussianBlur", "sigma": (0.1, 2.0), "probability": (1.0, 0.1), "kernel": None}
    assert solarize == {"op": "Solarize", "threshold": 0.5, "probability": (0.0, 0.2)}


def test_each_view_of_byol_is_that_of_a_policy_with_its_own_numbers() -> None:
    batch, byol = make_batch(60), POLICIES["byol"]
    both = made_by(byol, batch, views=(0, 1, 2, 3))
    for first, (blur, solarize) in enumerate(((1.0, 0.0), (0.1, 0.2))):
        own = (*byol.ops[:2], ops.GaussianBlur(probability=blur), ops.Solarize(probability=solarize))
        alike = made_by(replace(byol, ops=own), batch, views=(0, 1, 2, 3))
        same = (both - alike).abs().flatten(2).amax(2) < 1e-5
        assert same[first::2].all()
        assert not same[1 - first :: 2].all(1).any()


def test_a_view_does_not_depend_on_the_others() -> None:
    batch = make_batch(20)
    together = made_by(POLICIES["byol"], batch, views=(0, 1, 2))
    alone = made_by(POLICIES["byol"], batch, views=(1,))
    assert (together[1] - alone[0]).abs().max() < 1e-6


def test_options_of_byol() -> None:
    byol = POLICIES["byol"]
    kinds = [op["op"] for op in byol.describe()]
    changed = byol.with_options(blur=0.5)
    assert [op["op"] for op in changed.describe()] == kinds, "the blur stays before what inverts"
    assert changed.describe()[3]["probability"] == 0.5
    assert changed.describe()[4] == byol.describe()[4]
    assert [op["op"] for op in byol.with_options(blur=0.0).describe()] == [k for k in kinds if k != "GaussianBlur"]
    assert [op["op"] for op in POLICIES["weak"].with_options(blur=0.5).describe()][-1] == "GaussianBlur"


def test_what_is_unused_in_some_view() -> None:
    jitter = ops.ColorJitter(probability=(0.0, 0.3))
    assert Policy("mine", ops.FullFrame(), (jitter, ops.RandomGrayscale((0.2, 0.0)))).unused(4) == [
        "ColorJitter: saturation and hue",
        "RandomGrayscale",
    ]
    never = (replace(jitter, probability=(0.0, 0.0)), ops.RandomGrayscale((0.0, 0.0)))
    assert Policy("mine", ops.FullFrame(), never).unused(4) == []
