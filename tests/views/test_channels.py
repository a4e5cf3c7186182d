"""Images of 1 to 32 channels: what every op does to them, and the ops that are made for bands."""

import doctest
import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from twoviews.errors import UsageError
from twoviews.views import color, ops, spatial
from twoviews.views.draws import Draws
from twoviews.views.policies import NORMALIZATIONS, POLICIES, Policy, Views, find_policy

COUNTS = (2, 4, 5, 13, 32)


def noise(n: int, channels: int, side: int = 12, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def make_draws(n: int, *, seed: int = 0) -> Draws:
    samples = torch.arange(n)
    return Draws(seed=seed, epoch=0, samples=samples, views=torch.zeros_like(samples))


def make_batch(n: int, channels: int, *, side: int = 16) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(channels)
    return SimpleNamespace(
        values=torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=generator),
        sizes=torch.tensor([[side, 2 * side]] * n),
        samples=torch.arange(n),
    )


def make_views(name: str) -> Views:
    return Views(POLICIES[name], image_size=12, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize("channels", COUNTS)
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "multiband"])
def test_each_band_is_treated_as_an_image_of_one_channel(name: str, channels: int) -> None:
    batch = make_batch(9, channels)
    views = make_views(name)(batch, seed=5, epoch=1, views=(0, 1))
    for band in range(channels):
        alone = SimpleNamespace(**{**vars(batch), "values": batch.values[..., band : band + 1].contiguous()})
        single = make_views(name)(alone, seed=5, epoch=1, views=(0, 1))
        for many, one in zip(views, single, strict=True):
            assert (many[:, band] - one[:, 0]).abs().max() < 1e-5


@pytest.mark.parametrize("channels", COUNTS)
def test_colour_functions_of_bands(channels: int) -> None:
    images, factors = noise(3, channels), torch.tensor([0.0, 0.5, 1.6])
    for unchanged in (color.saturation(images, factors), color.hue(images, factors), color.grayscale(images)):
        assert torch.equal(unchanged, images)
        assert unchanged.data_ptr() != images.data_ptr()
    for image, factor, made in zip(images, factors.tolist(), color.contrast(images, factors), strict=True):
        for band, changed in zip(image, made, strict=True):
            assert (changed - (factor * band + (1 - factor) * band.mean()).clamp(0, 1)).abs().max() < 1e-6


@pytest.mark.parametrize("channels", [2, 13])
def test_jitter_of_bands_as_on_a_gpu(channels: int) -> None:
    images = noise(40, channels)
    order, active = torch.rand(40, 4, generator=torch.Generator().manual_seed(1)).argsort(1), torch.arange(40) % 3 > 0
    factors = 0.4 + torch.rand(40, 3, generator=torch.Generator().manual_seed(2))
    here, there = images.clone(), images.clone()
    color._jitter_sorted(here, factors, torch.full((40,), 0.2), order, active)
    color._jitter_unsorted(there, factors, torch.full((40,), 0.2), order, active)
    assert (here - there).abs().max() < 1e-5
    assert torch.equal(here[~active], images[~active])
    assert (here != images).flatten(1).any(1)[active].all()


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_band_jitter_is_that_of_each_band(channels: int) -> None:
    n, op = 60, ops.BandJitter(gain=1.5, offset=0.3, shared=0.25, probability=0.7)
    images, draws = noise(n, channels), make_draws(n)
    before = images.clone()
    made = op(images, draws)
    active = draws.uniform("active") < 0.7
    u, v = (draws.uniform(name, channels + 1).double() * 2 - 1 for name in ("gain", "offset"))
    assert torch.equal(images, before)
    assert 0 < int(active.sum()) < n
    clipped = 0
    for i in range(n):
        for c in range(channels):
            band = before[i, c].double()
            if active[i]:
                gain = max(0.0, 1 + 1.5 * (0.25 * u[i, 0] + 0.75 * u[i, c + 1]).item())
                offset = 0.3 * (0.25 * v[i, 0] + 0.75 * v[i, c + 1]).item()
                clipped += gain == 0
                band = (gain * band + offset).clamp(0, 1)
                assert (made[i, c] - band).abs().max() < 1e-6
            else:
                assert torch.equal(made[i, c], before[i, c])
    assert clipped, "a gain that would be negative is none"


@pytest.mark.parametrize(("shared", "spread"), [(1.0, 0), (0.0, 1)])
def test_what_bands_share(shared: float, spread: int) -> None:
    grey = noise(50, 1).expand(-1, 6, -1, -1).contiguous()
    made = ops.BandJitter(shared=shared, probability=1.0)(grey, make_draws(50))
    alike = (made == made[:, :1]).flatten(1).all(1)
    assert bool(alike.all()) == (spread == 0)
    assert bool(alike.any()) == (spread == 0)


def test_the_draws_of_a_band_do_not_depend_on_how_many_there_are() -> None:
    images, op = noise(20, 8), ops.BandJitter()
    assert torch.equal(op(images, make_draws(20))[:, :5], op(images[:, :5].contiguous(), make_draws(20)))


def symmetries(image: np.ndarray) -> list[np.ndarray]:
    """(C, S, S): the four turns, and those of the mirrored image."""
    return [np.rot90(each, k, axes=(1, 2)) for each in (image, image[:, :, ::-1]) for k in range(4)]


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_the_eight_symmetries_are_equally_frequent(channels: int) -> None:
    n = 1600
    images = noise(n, channels, 5)
    made = ops.QuarterTurn()(images.clone(), make_draws(n)).numpy()
    counts = np.zeros(8, int)
    for before, after in zip(images.numpy(), made, strict=True):
        (kind,) = (k for k, turned in enumerate(symmetries(before)) if np.array_equal(turned, after))
        counts[kind] += 1
    # Five standard deviations of a binomial of an eighth.
    assert np.abs(counts - n / 8).max() < 5 * np.sqrt(n * 7 / 64)


def test_each_mirror_has_its_coin() -> None:
    images, draws = noise(64, 2, 4), make_draws(64)
    expected = images.numpy().copy()
    for i in range(64):
        one = expected[i]
        one = one.swapaxes(1, 2) if draws.uniform("xy")[i] < 0.5 else one
        one = one[:, :, ::-1] if draws.uniform("x")[i] < 0.5 else one
        expected[i] = one[:, ::-1] if draws.uniform("y")[i] < 0.5 else one
    assert np.array_equal(ops.QuarterTurn()(images, draws).numpy(), expected)


def test_mirrors() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert spatial.mirrored(image, "x").flatten().tolist() == [2, 1, 4, 3]
    assert spatial.mirrored(image, "y").flatten().tolist() == [3, 4, 1, 2]
    assert spatial.mirrored(image, "xy").flatten().tolist() == [1, 3, 2, 4]


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        ("photo", ["ColorJitter: saturation and hue", "RandomGrayscale"]),
        ("simclr-small-fast", ["ColorJitterYIQ: saturation and hue", "RandomGrayscale"]),
        ("weak", []),
        ("digits", []),
        ("gray", []),
        ("multiband", []),
        ("none", []),
    ],
)
def test_what_switches_off_is_said(name: str, idle: list[str]) -> None:
    policy = find_policy(name)
    assert policy.unused(3) == []
    assert [policy.unused(channels) for channels in (1, 2, 4, 32)] == [idle] * 4


def test_only_what_was_on_switches_off() -> None:
    parts = (ops.ColorJitter(0.0, 0.0, 0.0, 0.1), ops.ColorJitter(probability=0.0), ops.RandomGrayscale(0.0))
    assert Policy("mine", ops.FullFrame(), parts).unused(4) == ["ColorJitter"]
    hue = Policy("mine", ops.FullFrame(), (ops.ColorJitter(saturation=0.0),))
    assert hue.unused(1) == ["ColorJitter: hue"]
    assert POLICIES["photo"].with_options(strength=0.0).unused(1) == ["RandomGrayscale"]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 4])
def test_what_is_unused_changes_nothing(name: str, channels: int) -> None:
    policy = POLICIES[name]
    kept = [op for op in policy.ops if not isinstance(op, ops.RandomGrayscale)]
    kept = [replace(op, saturation=0.0, hue=0.0) if isinstance(op, ops.ColorJitter) else op for op in kept]
    batch = make_batch(12, channels)
    made, without = (
        Views(p, image_size=12, mean=(0.5,), std=(0.5,))(batch, seed=0, epoch=0, views=(0, 1))
        for p in (policy, Policy(name, policy.framing, tuple(kept)))
    )
    assert all(torch.equal(a, b) for a, b in zip(made, without, strict=True))


def test_photo_is_simclr_by_another_name() -> None:
    photo, simclr = find_policy("photo"), find_policy("simclr")
    assert photo.describe() == simclr.describe()
    made = [make_views(name)(make_batch(6, 3), seed=1, epoch=0, views=(0,))[0] for name in ("photo", "simclr")]
    assert torch.equal(*made)


def test_strength_of_bands() -> None:
    op = POLICIES["multiband"].with_options(strength=1.0).describe()[2]
    assert (op["gain"], op["offset"], op["shared"], op["probability"]) == (0.8, 0.2, 0.5, 0.8)
    assert POLICIES["multiband"].with_options(strength=0.5) == POLICIES["multiband"]
    light = Policy("light", ops.FullFrame(), (ops.BandJitter(offset=0.0),)).with_options(strength=0.25)
    assert (light.describe()[1]["gain"], light.describe()[1]["offset"]) == (0.2, 0.0)


@pytest.mark.parametrize("channels", [2, 13])
def test_normalization_of_each_band(channels: int) -> None:
    batch = make_batch(3, channels)
    mean = [0.1 + 0.02 * c for c in range(channels)]
    std = [0.2 + 0.03 * c for c in range(channels)]
    plain = Views(POLICIES["none"], image_size=8, mean=(0.0,), std=(1.0,))(batch, seed=0, epoch=0, views=(0,))[0]
    made = Views(POLICIES["none"], image_size=8, mean=mean, std=std)(batch, seed=0, epoch=0, views=(0,))[0]
    for c in range(channels):
        assert (made[:, c] - (plain[:, c] - mean[c]) / std[c]).abs().max() < 1e-5


def test_one_number_serves_all_channels() -> None:
    for name in ("symmetric", "none"):
        mean, std = NORMALIZATIONS[name]
        views = Views(POLICIES["none"], image_size=8, mean=mean, std=std)
        assert views.normalization(13) == (mean[:1] * 13, std[:1] * 13)
    mixed = Views(POLICIES["none"], image_size=8, mean=(0.1, 0.2), std=(0.3,))
    assert mixed.normalization(2) == ((0.1, 0.2), (0.3, 0.3))


@pytest.mark.parametrize(
    ("mean", "std", "channels", "message"),
    [
        (NORMALIZATIONS["imagenet"][0], (1.0,), 13, "mean has 3 numbers, but the images have 13 channels: give one"),
        ((0.5,), (0.1, 0.2, 0.3, 0.4), 3, "std has 4 numbers, but the images have 3 channels: give one"),
        ((0.5,) * 13, (1.0,), 4, "mean has 13 numbers, but the images have 4 channels"),
        ((0.5, 0.6), (1.0,), 1, "mean has 2 numbers, but the images have 1 channels"),
    ],
)
def test_numbers_that_are_not_the_channels(mean, std, channels: int, message: str) -> None:  # type: ignore[no-untyped-def]
    views = Views(POLICIES["none"], image_size=8, mean=mean, std=std)
    with pytest.raises(UsageError, match=message):
        views(make_batch(2, channels), seed=0, epoch=0, views=(0,))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((), (1.0,), "mean must have 1 to 32 numbers, one a channel, not 0"),
        ((0.5,), (1.0,) * 33, "std must have 1 to 32 numbers, one a channel, not 33"),
        ((0.5,), (1.0, -1.0), r"std must be above 0 in every channel, not \(0.5,\) and \(1.0, -1.0\)"),
        ((float("nan"),), (1.0,), "must be finite"),
        ((0.5,), (float("inf"),), "must be finite"),
    ],
)
def test_numbers_that_normalise_nothing(mean, std, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=message):
        Views(POLICIES["none"], image_size=8, mean=mean, std=std)


@pytest.mark.parametrize("channels", [0, 33])
def test_too_many_channels_and_none(channels: int) -> None:
    with pytest.raises(UsageError, match=rf"1 to 32 channels, not of torch.uint8 \(2, 16, 16, {channels}\)"):
        make_views("none")(make_batch(2, channels), seed=0, epoch=0, views=(0,))


@pytest.mark.parametrize("name", ["color", "draws", "policies", "policy", "shown", "spatial", "statistics"])
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"twoviews.views.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
