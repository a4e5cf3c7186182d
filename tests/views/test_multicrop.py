"""Multi-crop: which view has which size, which part of the image it shows, and what it does not depend on."""

import doctest
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from twoviews.errors import UsageError
from twoviews.views import multicrop, ops
from twoviews.views.multicrop import MultiCrop
from twoviews.views.policies import POLICIES, Policy, Views
from twoviews.views.sheet import contact_sheet


def make_batch(n: int, *, side: int = 40, channels: int = 3) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(n)
    return SimpleNamespace(
        values=torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=generator),
        sizes=torch.full((n, 2), side),
        samples=torch.arange(n),
    )


def make_views(policy: Policy | str = "simclr-small", *, side: int = 32) -> Views:
    policy = POLICIES[policy] if isinstance(policy, str) else policy
    return Views(policy, image_size=side, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def make_crops(**options: object) -> MultiCrop:
    given: dict[str, object] = {"global_views": 2, "local_views": 3, "local_size": 12}
    return MultiCrop(make_views(), **(given | options))  # type: ignore[arg-type]


def test_sizes_in_the_order_asked_for() -> None:
    made = make_crops()(make_batch(4), seed=0, epoch=0, views=(3, 0, 2, 1, 9, 0))
    assert [tuple(view.shape) for view in made] == [(4, 3, s, s) for s in (12, 32, 12, 32, 12, 32)]
    assert torch.equal(made[1], made[5])
    assert all(view.dtype == torch.float32 for view in made)
    assert make_crops()(make_batch(4), seed=0, epoch=0, views=()) == []
    empty = make_crops()(
        SimpleNamespace(**{k: v[:0] for k, v in vars(make_batch(2)).items()}), seed=0, epoch=0, views=(1, 2)
    )
    assert [tuple(view.shape) for view in empty] == [(0, 3, 32, 32), (0, 3, 12, 12)]


def test_it_says_what_it_is() -> None:
    views, crops = make_views(), make_crops()
    assert (crops.global_views, crops.local_views, crops.local_size, crops.image_size) == (2, 3, 12, 32)
    assert (crops.mean, crops.std) == (views.mean, views.std)
    assert crops.normalization(1) == views.normalization(1)
    assert crops.policy == POLICIES["simclr-small"].with_options(min_scale=0.25)
    assert "global_views=2, local_views=3, local_size=12" in repr(crops)


def test_each_view_is_that_of_its_policy() -> None:
    batch, crops = make_batch(7), make_crops()
    made = crops(batch, seed=3, epoch=2, views=range(5))
    policy = POLICIES["simclr-small"]
    whole = make_views(replace(policy, framing=ops.RandomResizedCrop(min_scale=0.25)))
    part = make_views(replace(policy, framing=ops.RandomResizedCrop(min_scale=0.05, max_scale=0.25)), side=12)
    expected = [
        *whole(batch, seed=3, epoch=2, views=(0, 1)),
        *part(batch, seed=3, epoch=2, views=(2, 3, 4)),
    ]
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
    own = make_crops(global_min_scale=None)
    assert own.policy == policy
    same = own(batch, seed=3, epoch=2, views=(0, 1, 2))
    assert all(
        torch.equal(a, b) for a, b in zip(same, make_views()(batch, seed=3, epoch=2, views=(0, 1)), strict=False)
    )
    assert torch.equal(same[2], make_views(part.policy, side=12)(batch, seed=3, epoch=2, views=(2,))[0])


def test_pixels_depend_on_seed_epoch_sample_and_view_alone() -> None:
    crops, batch = make_crops(), make_batch(9)
    whole = crops(batch, seed=1, epoch=1, views=range(5))
    later = SimpleNamespace(**{k: v[4:] for k, v in vars(batch).items()})
    some = crops(later, seed=1, epoch=1, views=(4, 1))
    # Matrix products may round otherwise in another batch.
    assert (some[0] - whole[4][4:]).abs().max() < 1e-5
    assert (some[1] - whole[1][4:]).abs().max() < 1e-5
    more = make_crops(local_views=8)(batch, seed=1, epoch=1, views=range(10))
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(whole, more, strict=False))
    for other in (crops(batch, seed=2, epoch=1, views=(2,)), crops(batch, seed=1, epoch=2, views=(2,)), whole[3:]):
        assert not (other[0] == whole[2]).flatten(1).all(1).any()


def test_the_area_of_the_crops() -> None:
    # Each pixel of the image holds its own column and row, so a view tells which box it shows.
    side, n = 250, 300
    position = torch.arange(side, dtype=torch.uint8).expand(side, side)
    values = torch.stack([position, position.T, torch.zeros_like(position)], dim=2).expand(n, -1, -1, -1)
    batch = SimpleNamespace(values=values, sizes=torch.full((n, 2), side), samples=torch.arange(n))
    plain = Views(Policy("plain", ops.RandomResizedCrop()), image_size=20, mean=(0.0,), std=(1.0,))
    crops = MultiCrop(plain, global_views=1, local_views=1, local_size=10, local_scale=(0.1, 0.2))
    for view, (low, high) in zip(crops(batch, seed=0, epoch=0, views=(0, 1)), ((0.25, 1.0), (0.1, 0.2)), strict=True):
        s = view.shape[2]
        pixels = view * 255
        # Centres of the outer pixels are a pixel of the view short of the box; mirrored ones run backwards.
        width = (pixels[:, 0, 0, -2] - pixels[:, 0, 0, 1]).abs() * s / (s - 3)
        height = (pixels[:, 1, -2, 0] - pixels[:, 1, 1, 0]).abs() * s / (s - 3)
        area = width * height / side**2
        assert area.min() > low - 0.02
        assert area.max() < high + 0.02
        assert area.min() < low + 0.05 * (high - low) + 0.02
        assert area.max() > high - 0.25 * (high - low)


def test_a_contact_sheet_shows_it() -> None:
    crops, batch = make_crops(local_size=16), make_batch(2)
    sheet = np.asarray(contact_sheet(batch, crops, seed=0, columns=5, rows=2))  # type: ignore[arg-type]
    assert sheet.shape == (2 + 2 * 66, 2 + 72 + 4 * 66, 3)
    (local,) = crops(batch, seed=0, epoch=0, views=(3,))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in crops.normalization(3))
    expected = ((local[0] * std + mean).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    # 16 pixels in a cell of 64.
    shown = sheet[2 + 2 : 66 : 4, 74 + 3 * 66 + 2 : 74 + 3 * 66 + 64 : 4]
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("digits", {}, "needs a policy with a random crop, and 'digits' has none: choose another policy"),
        ("keras-strong", {}, "and 'keras-strong' has none"),
        ("simclr", {"local_size": 33}, "must have 4 to 32 px, the size of the global ones, not 33: choose another"),
        ("simclr", {"local_size": 3}, "must have 4 to 32 px, the size of the global ones, not 3"),
        ("simclr", {"local_views": 0}, "needs local_views of at least 1, not 0: leave it out"),
        ("simclr", {"global_views": 0}, "needs global_views of at least 1, not 0"),
        ("simclr", {"local_scale": (0.3, 0.2)}, r"above 0 and at most 1, not \(0.3, 0.2\): give two"),
        ("simclr", {"local_scale": (0.0, 0.2)}, r"not \(0.0, 0.2\)"),
        ("simclr", {"local_scale": (0.1, 1.2)}, r"not \(0.1, 1.2\)"),
        ("simclr", {"global_min_scale": 0.0}, "min_scale must be above 0 and at most 1, not 0.0"),
    ],
)
def test_crops_that_cannot_be(policy: str, options: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"global_views": 2, "local_views": 2, "local_size": 16}
    with pytest.raises(UsageError, match=message):
        MultiCrop(make_views(policy), **(given | options))  # type: ignore[arg-type]


def test_docstring_examples() -> None:
    result = doctest.testmod(multicrop)
    assert result.attempted > 0
    assert result.failed == 0
