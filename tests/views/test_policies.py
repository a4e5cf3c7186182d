"""The contract of every policy, the distributions of their parameters, and `Views`."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop as ReferenceCrop
from torchvision.transforms.v2 import functional as reference

from twoviews.errors import UsageError
from twoviews.views import ops, policies, resample
from twoviews.views.draws import Draws
from twoviews.views.policies import NORMALIZATIONS, POLICIES, Policy, Views, find_policy


@dataclass(frozen=True)
class Batch:
    values: torch.Tensor
    sizes: torch.Tensor
    samples: torch.Tensor

    def __getitem__(self, part: slice) -> "Batch":
        return Batch(self.values[part], self.sizes[part], self.samples[part])


def make_batch(n: int = 6, *, height: int = 20, width: int = 20, channels: int = 3, first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(n)
    values = torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[width, height], [2 * width, height], [5 * width, 7 * height]], dtype=torch.int32)
    return Batch(values, sizes.repeat(-(-n // 3), 1)[:n], torch.arange(first, first + n))


def make_views(policy: Policy | str, *, side: int = 16, normalization: str = "none") -> Views:
    mean, std = NORMALIZATIONS[normalization]
    return Views(find_policy(policy) if isinstance(policy, str) else policy, image_size=side, mean=mean, std=std)


def make_draws(n: int, *, seed: int = 0) -> Draws:
    samples = torch.arange(n)
    return Draws(seed=seed, epoch=0, samples=samples, views=torch.zeros_like(samples))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 2, 3, 13])
@pytest.mark.parametrize(
    ("height", "width", "side"), [(20, 20, 16), (9, 14, 21), (8, 8, 8), (1, 1, 1), (2, 3, 2), (40, 40, 7)]
)
def test_contract(name: str, channels: int, height: int, width: int, side: int) -> None:
    batch = make_batch(height=height, width=width, channels=channels)
    before = batch.values.clone()
    made = make_views(name, side=side)(batch, seed=1, epoch=2, views=(0, 5, 1))
    assert len(made) == 3
    for view in made:
        assert view.shape == (6, channels, side, side)
        assert view.dtype == torch.float32
        assert view.is_contiguous()
        assert not view.requires_grad
        assert view.isfinite().all()
        assert view.min() >= 0
        assert view.max() <= 1
    assert torch.equal(batch.values, before)


@pytest.mark.parametrize("name", POLICIES)
def test_same_key_same_bytes_other_key_other_bytes(name: str) -> None:
    batch, views = make_batch(), make_views(name)
    first = views(batch, seed=3, epoch=1, views=(0, 1))
    again = views(batch, seed=3, epoch=1, views=(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = [
        first[1],
        views(batch, seed=4, epoch=1, views=(0,))[0],
        views(batch, seed=3, epoch=2, views=(0,))[0],
    ]
    for other in others:
        same = (other == first[0]).flatten(1).all(1)
        assert bool(same.all()) == (name == "none")


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", POLICIES)
def test_views_do_not_depend_on_chunks(name: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, views = make_batch(13, height=21, width=19, channels=channels), make_views(name, side=17)
    whole = views(batch, seed=0, epoch=0, views=(0, 1))
    monkeypatch.setattr(policies, "_CHUNK_PIXELS", 3 * 2 * 17 * 17)
    monkeypatch.setattr("twoviews.views.color._CHUNK_PIXELS", 2 * 17 * 17)
    chunked = views(batch, seed=0, epoch=0, views=(0, 1))
    parts = [views(batch[part], seed=0, epoch=0, views=(1,))[0] for part in (slice(1), slice(1, 9), slice(9, 13))]
    # Matrix products may round otherwise in another batch; the draws may not differ at all.
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(whole, chunked, strict=True))
    assert (whole[1] - torch.cat(parts)).abs().max() < 1e-6


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_precision_of_the_network_does_not_reach_the_pixels(precision: str) -> None:
    batch, views = make_batch(40, height=40, width=40), make_views("simclr", side=32)
    plain = views(batch, seed=0, epoch=0, views=(0,))[0]
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lowered = views(batch, seed=0, epoch=0, views=(0,))[0]
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(chosen)
    assert torch.equal(plain, lowered)


def test_none_is_the_central_square() -> None:
    batch = make_batch(2, height=12, width=12)
    batch = replace(batch, sizes=torch.tensor([[12, 12], [24, 12]]))
    made = make_views("none", side=8)(batch, seed=0, epoch=0, views=(0,))[0]
    images = batch.values.permute(0, 3, 1, 2) / 255
    square = reference.resize(images[0], [8, 8], antialias=True)
    # The second image is twice as wide as stored: its central square is the central half of the columns.
    narrow = reference.resized_crop(images[1], 0, 3, 12, 6, [8, 8], antialias=True)
    assert (made - torch.stack([square, narrow])).abs().max() < 1e-5


def test_full_frame_takes_everything() -> None:
    batch = make_batch(1, height=10, width=14)
    made = make_views(Policy("full", ops.FullFrame()), side=6)(batch, seed=0, epoch=0, views=(0,))[0]
    expected = reference.resize(batch.values.permute(0, 3, 1, 2) / 255, [6, 6], antialias=True)
    assert (made - expected).abs().max() < 1e-5


def test_crop_and_flip_are_torchvisions_for_the_drawn_box() -> None:
    batch = make_batch(5, height=30, width=24)
    batch = replace(batch, sizes=torch.tensor([[24, 30]] * 5))
    crop = ops.RandomResizedCrop()
    draws = make_draws(5)
    made = crop(batch, draws, image_size=9)
    boxes = resample.random_boxes(batch.sizes, draws, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)).long()
    flips = draws.chance("flip", 0.5)
    assert flips.any()
    assert not flips.all()
    for i in range(5):
        left, top, width, height = boxes[i].tolist()
        image = batch.values[i].permute(2, 0, 1) / 255
        expected = reference.resized_crop(image, top, left, height, width, [9, 9], antialias=True)
        expected = expected.flip(2) if flips[i] else expected
        assert (made[i] - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((32, 32), (0.08, 1.0)),
        ((170, 128), (0.9, 1.0)),
        ((40, 300), (0.08, 1.0)),
        ((300, 40), (0.9, 1.0)),
        ((9, 2), (0.08, 1.0)),
        ((1, 1), (0.08, 1.0)),
    ],
)
def test_distribution_of_crops(size: tuple[int, int], scale: tuple[float, float]) -> None:
    n = 1500
    ratio = (3 / 4, 4 / 3)
    ours = resample.random_boxes(torch.tensor([size]).expand(n, 2), make_draws(n), scale=scale, ratio=ratio)
    left, top, width, height = ours.double().unbind(1)
    assert torch.equal(ours, ours.round())
    assert ours.min() >= 0
    assert (left + width).max() <= size[0]
    assert (top + height).max() <= size[1]
    torch.manual_seed(0)
    image = torch.empty(1, size[1], size[0])
    theirs = torch.tensor([ReferenceCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]).double()
    pairs = {
        "area": (width * height, theirs[:, 2] * theirs[:, 3]),
        "ratio": (width / height, theirs[:, 3] / theirs[:, 2]),
        "left": (left, theirs[:, 1]),
        "top": (top, theirs[:, 0]),
    }
    for name, (a, b) in pairs.items():
        # Two-sample Kolmogorov-Smirnov, at a probability of about 1e-6.
        grid = torch.cat([a, b]).unique()
        distance = np.abs(
            np.searchsorted(a.sort().values.numpy(), grid.numpy(), side="right")
            - np.searchsorted(b.sort().values.numpy(), grid.numpy(), side="right")
        ).max()
        assert distance / n < 2.7 * np.sqrt(2 / n), name


def test_distribution_of_colour_factors() -> None:
    factors = ops._jitter_factors(make_draws(20_000), 0.4, 1.6, 0.0)
    for column, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.6), (1.0, 1.0)]):
        values = factors[:, column]
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6
        quartiles = values.quantile(torch.tensor([0.25, 0.5, 0.75]))
        expected = torch.tensor([low + (high - low) * q for q in (0.25, 0.5, 0.75)])
        assert torch.allclose(quartiles, expected, atol=0.04)


@pytest.mark.parametrize(
    ("op", "share"),
    [
        (ops.ColorJitter(probability=0.8), 0.8),
        (ops.ColorJitterYIQ(probability=0.8), 0.8),
        (ops.RandomGrayscale(0.2), 0.2),
        (ops.GaussianBlur(sigma=(1.0, 2.0)), 0.5),
        (ops.Solarize(probability=0.3), 0.3),
        (ops.BandJitter(probability=0.6), 0.6),
        (ops.QuarterTurn(), 7 / 8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_share_of_changed_samples(op: ops.Op, share: float) -> None:
    images = torch.rand(2000, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    changed = (op(images.clone(), make_draws(2000)) != images).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_normalization(normalization: str, channels: int) -> None:
    batch = make_batch(channels=channels)
    plain = make_views("none")(batch, seed=0, epoch=0, views=(0,))[0]
    made = make_views("none", normalization=normalization)(batch, seed=0, epoch=0, views=(0,))[0]
    mean, std = (list(v) if channels == 3 else [sum(v) / 3] for v in NORMALIZATIONS[normalization])
    assert torch.allclose(made, reference.normalize(plain, mean, std), atol=1e-6)


def test_description_is_plain() -> None:
    assert POLICIES["simclr-small"].describe() == [
        {
            "op": "RandomResizedCrop",
            "min_scale": 0.08,
            "max_scale": 1.0,
            "ratio": (3 / 4, 4 / 3),
            "flip": 0.5,
        },
        {
            "op": "ColorJitter",
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "hue": 0.1,
            "probability": 0.8,
        },
        {"op": "RandomGrayscale", "probability": 0.2},
    ]


def test_options() -> None:
    changed = POLICIES["simclr-small"].with_options(min_scale=0.3, strength=1.0, blur=0.25, flip=0.0)
    crop, jitter, _, blur = changed.describe()
    assert (crop["min_scale"], crop["flip"]) == (0.3, 0.0)
    assert [jitter[k] for k in ("brightness", "contrast", "saturation", "hue")] == [0.8, 0.8, 0.8, 0.2]
    assert (blur["op"], blur["probability"]) == ("GaussianBlur", 0.25)
    assert POLICIES["simclr-small"].with_options() == POLICIES["simclr-small"]
    assert [op["op"] for op in POLICIES["simclr"].with_options(blur=0.0).describe()] == [
        "RandomResizedCrop",
        "ColorJitter",
        "RandomGrayscale",
    ]
    weak = POLICIES["weak"].with_options(strength=0.5).describe()[1]
    assert (weak["brightness"], weak["saturation"], weak["hue"]) == (0.4, 0.0, 0.0)


def test_blur_changes_no_other_draw() -> None:
    batch = make_batch(8)
    plain = make_views("simclr-small")(batch, seed=0, epoch=0, views=(0,))[0]
    blurred = make_views(POLICIES["simclr-small"].with_options(blur=0.5))(batch, seed=0, epoch=0, views=(0,))[0]
    same = (plain == blurred).flatten(1).all(1)
    assert same.any()
    assert not same.all()


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("digits", {"min_scale": 0.5}, "'digits' cannot take min_scale: it has no random crop"),
        ("digits", {"flip": 0.5}, "'digits' cannot take flip: it has no random crop"),
        ("none", {"strength": 1.0}, "'none' cannot take strength: it has no colour jitter"),
        ("none", {"blur": 0.5}, "'none' cannot take blur: it is not random"),
        ("simclr", {"min_scale": 0.0}, "min_scale must be above 0 and at most 1, not 0.0"),
        ("simclr", {"flip": 1.5}, "flip must be at least 0 and at most 1, not 1.5"),
        ("simclr", {"blur": float("nan")}, "blur must be at least 0 and at most 1, not nan"),
        ("simclr", {"strength": -1.0}, "strength must be at least 0 and at most 2.5, not -1.0"),
    ],
)
def test_options_that_cannot_be_honoured(policy: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        POLICIES[policy].with_options(**options)


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="unknown policy 'simcrl': did you mean 'simclr'"):
        find_policy("simcrl")
    with pytest.raises(UsageError, match="image size must be at least 1 pixel, not 0"):
        make_views("none", side=0)
    with pytest.raises(UsageError, match="mean must have 1 to 32 numbers, one a channel, not 33"):
        Views(POLICIES["none"], image_size=8, mean=(0.5,) * 33, std=(1.0,))
    with pytest.raises(UsageError, match="std must be above 0"):
        Views(POLICIES["none"], image_size=8, mean=(0.5,), std=(0.0,))
    batch = make_batch()
    with pytest.raises(UsageError, match=r"uint8 images \(B, H, W, C\) of 1 to 32 channels, not of torch.float32"):
        make_views("none")(replace(batch, values=batch.values.float()), seed=0, epoch=0, views=(0,))


def test_no_images_no_views() -> None:
    made = make_views("simclr")(make_batch()[:0], seed=0, epoch=0, views=(0, 1))
    assert [view.shape for view in made] == [(0, 3, 16, 16)] * 2
    assert make_views("simclr")(make_batch(), seed=0, epoch=0, views=()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", POLICIES)
def test_same_views_on_cuda(name: str) -> None:
    batch = make_batch(24)
    there = Batch(batch.values.cuda(), batch.sizes.cuda(), batch.samples.cuda())
    here = make_views(name)(batch, seed=0, epoch=0, views=(0, 1))
    moved = make_views(name)(there, seed=0, epoch=0, views=(0, 1))
    assert all((a - b.cpu()).abs().max() < 1e-4 for a, b in zip(here, moved, strict=True))
