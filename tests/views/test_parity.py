"""Every operation against torchvision's, image by image, with the same parameters."""

import math
from itertools import permutations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from twoviews.views import color, resample, spatial

ADJUST = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


def noise(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def difference(ours: torch.Tensor, theirs: list[torch.Tensor]) -> float:
    return float((ours - torch.stack(theirs)).abs().max())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(32, 32, 32), (40, 30, 16), (30, 41, 7), (8, 8, 8), (9, 12, 33), (1, 5, 4), (64, 64, 5), (3, 3, 1)],
)
def test_crop_resize(height: int, width: int, side: int, flip: bool, channels: int) -> None:
    images = noise(3, channels, height, width)
    boxes = torch.tensor(
        [
            [0, 0, width, height],
            [width // 3, height // 2, max(width // 2, 1), max(height // 3, 1)],
            [width - 1, height - 1, 1, 1],
        ]
    )
    flips = torch.tensor([flip, not flip, flip])
    ours = resample.crop_resize(images, boxes.float(), image_size=side, flip=flips)
    theirs = []
    for image, (left, top, w, h), mirrored in zip(images, boxes.tolist(), flips.tolist(), strict=True):
        cut = reference.resized_crop(image, top, left, h, w, [side, side], antialias=True)
        theirs.append(reference.horizontal_flip(cut) if mirrored else cut)
    assert difference(ours, theirs) < 1e-5


def test_crop_resize_makes_every_view_of_every_image() -> None:
    images = noise(2, 3, 10, 10)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [2, 3, 5, 6], [2, 3, 5, 6]])
    ours = resample.crop_resize(images, boxes, image_size=6)
    alone = [resample.crop_resize(images[i % 2 :][:1], boxes[i : i + 1], image_size=6)[0] for i in range(4)]
    assert difference(ours, alone) < 1e-6


def test_fractional_boxes_weigh_pixels_by_the_share_they_cover() -> None:
    image = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]])
    half = resample.crop_resize(image, torch.tensor([[0.5, 0.0, 1.0, 1.0]]), image_size=1)
    assert half.item() == pytest.approx(0.5)
    quarter = resample.crop_resize(image, torch.tensor([[0.25, 0.0, 1.0, 1.0]]), image_size=1)
    # Centre 0.75: triangle weights 0.75 and 0.25, covered 0.75 and 0.25.
    assert quarter.item() == pytest.approx(0.25 * 0.25 / (0.25 * 0.25 + 0.75 * 0.75))


def test_fractional_boxes_do_not_see_outside() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., 5:] = 1.0
    inside = resample.crop_resize(image, torch.tensor([[1.3, 0.4, 3.7, 6.1]]), image_size=9)
    assert inside.abs().max() == 0


def test_stored_boxes_keep_the_original_geometry() -> None:
    # 400 x 200 stored as 100 x 100: a quarter of the width, half of the height.
    boxes = resample.stored_boxes(torch.tensor([[40.0, 20, 80, 80]]), torch.tensor([[400, 200]]), stored=(100, 100))
    assert boxes.tolist() == [[10, 10, 20, 40]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "values", "tolerance"),
    [
        (color.brightness, reference.adjust_brightness, (0.0, 0.4, 1.0, 1.7), 1e-6),
        (color.contrast, reference.adjust_contrast, (0.0, 0.4, 1.0, 1.7), 1e-5),
        (color.saturation, reference.adjust_saturation, (0.0, 0.4, 1.0, 1.7), 1e-5),
        (color.hue, reference.adjust_hue, (-0.5, -0.21, 0.0, 0.03, 0.5), 1e-4),
        (color.solarize, reference.solarize, (0.0, 0.5, 0.9, 1.0), 0.0),
    ],
    ids=["brightness", "contrast", "saturation", "hue", "solarize"],
)
def test_colour(ours, theirs, values, tolerance, channels) -> None:  # type: ignore[no-untyped-def]
    images = noise(len(values), channels, 13, 11)
    before = images.clone()
    result = ours(images, torch.tensor(values))
    expected = [theirs(image, value) for image, value in zip(images, values, strict=True)]
    assert difference(result, expected) <= tolerance
    assert torch.equal(images, before), "a pure function changed its input"


@pytest.mark.parametrize("shift", [-0.5, -1 / 3, -0.1, 0.0, 1 / 6, 0.27, 0.5])
def test_hue_of_special_colours(shift: float) -> None:
    # Every combination of few levels: greys, two equal channels, the corners of the cube, near ties.
    levels = torch.tensor([0.0, 1e-7, 1 / 255, 0.5, 0.5 + 6e-8, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 12, 18)
    ours = color.hue(colours, torch.tensor([shift]))
    assert difference(ours, [reference.adjust_hue(colours[0], shift)]) < 1e-4
    assert ours.min() >= 0
    assert ours.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_grayscale(channels: int) -> None:
    images = noise(2, channels, 9, 9)
    expected = [reference.rgb_to_grayscale(image, num_output_channels=channels) for image in images]
    assert difference(color.grayscale(images), expected) < 1e-6


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_in_every_order(channels: int) -> None:
    orders = torch.tensor(list(permutations(range(4))) * 2)
    n = len(orders)
    images = noise(n, channels, 8, 9)
    factors = noise(n, 3, seed=1) * 1.8
    shifts = noise(n, seed=2) - 0.5
    ours = color.color_jitter(images, factors=factors, shifts=shifts, order=orders)
    theirs = []
    for i, image in enumerate(images):
        for kind in orders[i].tolist():
            value = shifts[i] if kind == color.HUE else factors[i, kind]
            image = ADJUST[kind](image, float(value))
        theirs.append(image)
    assert difference(ours, theirs) < 1e-4


def test_colour_jitter_leaves_inactive_samples_alone() -> None:
    images = noise(6, 3, 8, 8)
    active = torch.tensor([True, False, True, False, False, True])
    parameters = {
        "factors": noise(6, 3, seed=1) + 0.5,
        "shifts": noise(6, seed=2) - 0.5,
        "order": noise(6, 4, seed=3).argsort(1),
    }
    changed = color.jitter_(images.clone(), active=active, **parameters)
    assert torch.equal(changed[~active], images[~active])
    assert torch.equal(changed[active], color.color_jitter(images, **parameters)[active])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("turned", [True, False])
def test_colour_jitter_as_on_a_gpu(turned: bool, channels: int) -> None:
    images = noise(48, channels, 8, 9)
    factors, order, active = (
        noise(48, 3, seed=1) + 0.5,
        noise(48, 4, seed=2).argsort(1),
        noise(48, seed=3) < 0.7,
    )
    shifts = noise(48, seed=4) - 0.5 if turned else None
    here, there = images.clone(), images.clone()
    color._jitter_sorted(here, factors, shifts, order, active)
    color._jitter_unsorted(there, factors, shifts, order, active)
    assert (here - there).abs().max() < 1e-5
    assert torch.equal(here[~active], images[~active])
    assert (here != images).flatten(1).any(1)[active].all()


YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]],
    dtype=torch.float64,
)


def one_by_one(image: torch.Tensor, factors: list[float], shift: float, order: tuple[int, ...]) -> torch.Tensor:
    """The four steps, unclamped, in float64."""
    image = image.double()
    for kind in order:
        luma = torch.tensordot(YIQ[0], image, dims=1)
        if kind == color.BRIGHTNESS:
            image = factors[0] * image
        elif kind == color.CONTRAST:
            image = factors[1] * image + (1 - factors[1]) * luma.mean()
        elif kind == color.SATURATION:
            image = factors[2] * image + (1 - factors[2]) * luma
        else:
            y, i, q = torch.tensordot(YIQ, image, dims=1)
            cos, sin = math.cos(2 * math.pi * shift), math.sin(2 * math.pi * shift)
            image = torch.tensordot(
                torch.linalg.inv(YIQ), torch.stack([y, cos * i + sin * q, cos * q - sin * i]), dims=1
            )
    return image.clamp(0, 1)


def test_yiq_jitter_is_the_four_steps_in_every_order() -> None:
    factors, shift = [1.3, 0.6, 1.4], 0.17
    image = noise(1, 3, 8, 9)
    ours = color.color_jitter_yiq(image, factors=torch.tensor([factors]), shifts=torch.tensor([shift]))
    for order in permutations(range(4)):
        assert difference(ours.double(), [one_by_one(image[0], factors, shift, order)]) < 2e-6


def test_yiq_hue_turns_the_same_way_as_hsv() -> None:
    red = torch.tensor([0.6, 0.3, 0.3]).view(1, 3, 1, 1)
    one, third = torch.ones(1, 3), torch.tensor([1 / 3])
    turned = color.color_jitter_yiq(red, factors=one, shifts=third).flatten()
    assert turned.argmax() == 1
    assert color.hue(red, third).flatten().argmax() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_yiq_jitter_of_light_alone_is_torchvisions_up_to_clamping(channels: int) -> None:
    images = noise(1, channels, 8, 8) * 0.4 + 0.3
    ours = color.color_jitter_yiq(images, factors=torch.tensor([[1.1, 0.8, 1.0]]), shifts=torch.zeros(1))
    theirs = reference.adjust_contrast(reference.adjust_brightness(images[0], 1.1), 0.8)
    # Their luma weights sum to 0.9999.
    assert difference(ours, [theirs]) < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (33, 9), (8, 5), (5, 9), (3, 3)])
def test_gaussian_blur(side: int, kernel: int, channels: int) -> None:
    sigmas = [0.1, 0.7, 2.0]
    images = noise(3, channels, side, side)
    ours = spatial.gaussian_blur(images, torch.tensor(sigmas), kernel=kernel)
    theirs = [reference.gaussian_blur(x, [kernel, kernel], [s, s]) for x, s in zip(images, sigmas, strict=True)]
    assert difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 13])
def test_affine(side: int, channels: int) -> None:
    angle, scale = [0.0, 14.0, -40.0, 90.0], [1.0, 0.85, 1.15, 0.5]
    translate = [[0.0, 0.0], [1.0, -0.5], [0.3, 2.0], [-3.0, 0.0]]
    shear = [[0.0, 0.0], [10.0, 0.0], [-7.0, 12.0], [0.0, -20.0]]
    images = noise(4, channels, side, side)
    ours = spatial.affine(
        images,
        angle=torch.tensor(angle),
        translate=torch.tensor(translate),
        scale=torch.tensor(scale),
        shear=torch.tensor(shear),
    )
    theirs = [
        reference.affine(
            images[i], angle[i], translate[i], scale[i], shear[i], interpolation=InterpolationMode.BILINEAR
        )
        for i in range(4)
    ]
    assert difference(ours, theirs) < 1e-5
