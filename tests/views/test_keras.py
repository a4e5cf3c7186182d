"""The policies of Keras's SimCLR example: one resampling against pixel by pixel, colours against a written-out sum."""

import doctest
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from twoviews.errors import UsageError
from twoviews.views import color, ops, spatial
from twoviews.views.draws import Draws
from twoviews.views.policies import POLICIES, Policy, find_policy


def noise(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def make_draws(n: int, *, seed: int = 0) -> Draws:
    samples = torch.arange(n)
    return Draws(seed=seed, epoch=0, samples=samples, views=torch.zeros_like(samples))


def make_batch(n: int, *, height: int, width: int, size: tuple[int, int] | None = None) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(height)
    return SimpleNamespace(
        values=torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator),
        sizes=torch.tensor([size or (width, height)] * n, dtype=torch.int32),
        samples=torch.arange(n),
    )


def reflected(pixel: int, side: int) -> int:
    """d c b a | a b c d | d c b a"""
    while not 0 <= pixel < side:
        pixel = -pixel - 1 if pixel < 0 else 2 * side - 1 - pixel
    return pixel


def pixel_by_pixel(
    image: torch.Tensor, shift: list[float], visible: list[float], mirror: bool
) -> tuple[torch.Tensor, bool]:
    """(C, S, S) in float64, each centre traced back through zoom and translation; and whether an edge was met."""
    image = (image.flip(2) if mirror else image).double()
    side = image.shape[1]
    out, edge = torch.empty_like(image), False
    for i in range(side):
        for j in range(side):
            taps = []
            for at, move, share in ((i, shift[1], visible[1]), (j, shift[0], visible[0])):
                zoomed = side / 2 + (at + 0.5 - side / 2) * share
                source = zoomed - move - 0.5
                first = math.floor(source)
                edge = edge or not 0 <= first < side - 1
                taps.append(
                    [(reflected(first, side), 1 - source + first), (reflected(first + 1, side), source - first)]
                )
            out[:, i, j] = sum(image[:, y, x] * wy * wx for y, wy in taps[0] for x, wx in taps[1])
    return out, edge


SHIFTS = [[0.0, 0.0], [2.0, -1.0], [-3.7, 0.4], [1.3, 2.9], [0.0, 0.0], [-2.2, -2.2]]
VISIBLE = [[1.0, 1.0], [1.0, 1.0], [0.5, 0.9], [0.73, 0.61], [0.5, 0.5], [1.0, 0.55]]
MIRROR = [False, True, True, False, True, False]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 4, 9])
@pytest.mark.parametrize("flips", [True, False])
def test_translate_zoom_pixel_by_pixel(side: int, channels: int, flips: bool) -> None:
    images = noise(len(SHIFTS), channels, side, side)
    before = images.clone()
    mirror = torch.tensor(MIRROR) if flips else None
    made = spatial.translate_zoom(images, shift=torch.tensor(SHIFTS), visible=torch.tensor(VISIBLE), flip=mirror)
    met = False
    for i, image in enumerate(images):
        expected, edge = pixel_by_pixel(image, SHIFTS[i], VISIBLE[i], flips and MIRROR[i])
        assert (made[i] - expected).abs().max() < 2e-6
        met = met or edge
    assert met, "no edge was mirrored"
    assert torch.equal(images, before), "a pure function changed its input"


@pytest.mark.parametrize("side", [8, 33])
def test_translate_zoom_is_grid_sample(side: int) -> None:
    n = 40
    images, mirror = noise(n, 3, side, side), noise(n, seed=1) < 0.5
    shift = (noise(n, 2, seed=2) - 0.5) * side
    visible = 0.5 + noise(n, 2, seed=3) / 2
    made = spatial.translate_zoom(images, shift=shift, visible=visible, flip=mirror)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = visible.unbind(1)
    theta[:, :, 2] = -2 * shift / side
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    turned = torch.where(mirror.view(-1, 1, 1, 1), images.flip(3), images)
    expected = F.grid_sample(turned, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    assert (made - expected).abs().max() < 1e-5


def test_nothing_moved_is_the_same_image() -> None:
    images = noise(2, 3, 7, 7)
    still = spatial.translate_zoom(images, shift=torch.zeros(2, 2), visible=torch.ones(2, 2))
    assert torch.equal(still, images)
    mirrored = spatial.translate_zoom(images, shift=torch.zeros(2, 2), visible=torch.ones(2, 2), flip=torch.ones(2) > 0)
    assert torch.equal(mirrored, images.flip(3))


def test_the_framing_moves_the_central_square() -> None:
    # Stored as a square of what was twice as wide as high: the central half of the columns.
    batch, draws = make_batch(30, height=20, width=20, size=(40, 20)), make_draws(60)
    crop = ops.TranslateZoom(0.3, 0.4, flip=0.25)
    made = crop(batch, draws, image_size=12)
    frames = ops.CenterCrop()(batch, make_draws(30), image_size=12).repeat(2, 1, 1, 1)
    u, v = draws.uniform("translate", 2).double(), draws.uniform("zoom", 2).double()
    flip = draws.uniform("flip") < 0.25
    assert 0 < int(flip.sum()) < 30
    for i in range(0, 60, 7):
        shift, visible = (12 * 0.3 * (2 * u[i] - 1)).tolist(), (0.6 + 0.4 * v[i]).tolist()
        expected, _ = pixel_by_pixel(frames[i], shift, visible, bool(flip[i]))
        assert (made[i] - expected).abs().max() < 1e-5


def test_share_of_mirrored_views() -> None:
    batch, n = make_batch(1, height=6, width=6), 2000
    batch = SimpleNamespace(
        values=batch.values.expand(n, -1, -1, -1), sizes=batch.sizes.expand(n, -1), samples=torch.arange(n)
    )
    plain = ops.CenterCrop()(batch, make_draws(n), image_size=6)
    made = ops.TranslateZoom(0.0, 0.0)(batch, make_draws(n), image_size=6)
    mirrored = (made - plain.flip(3)).abs().flatten(1).amax(1) < 1e-6
    still = (made - plain).abs().flatten(1).amax(1) < 1e-6
    assert (mirrored ^ still).all()
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.05)
    never = ops.TranslateZoom(0.0, 0.0, flip=0.0)(batch, make_draws(n), image_size=6)
    assert (never - plain).abs().max() < 1e-6


def test_color_affine_is_the_sum_over_channels() -> None:
    images, matrices = noise(4, 3, 5, 6), noise(4, 3, 3, seed=1) * 2 - 0.6
    before = images.clone()
    made = color.color_affine(images, matrices=matrices)
    # Pixels are rows in Keras: images @ matrix.
    pixels = torch.einsum("nhwi,nij->nhwj", images.permute(0, 2, 3, 1).double(), matrices.double())
    assert (made - pixels.clamp(0, 1).permute(0, 3, 1, 2)).abs().max() < 1e-6
    assert (pixels < 0).any()
    assert (pixels > 1).any()
    assert torch.equal(images, before)


def test_color_affine_of_what_is_drawn() -> None:
    n, op = 50, ops.ColorAffine(0.6, 0.2)
    images, draws = noise(n, 3, 4, 4), make_draws(50)
    made = op(images.clone(), draws)
    b = draws.uniform("brightness").double() * 1.2 - 0.6
    j = draws.uniform("jitter", 9).double().view(n, 3, 3) * 0.4 - 0.2
    matrices = torch.eye(3, dtype=torch.float64) * (1 + b.view(-1, 1, 1)) + j
    expected = torch.einsum("nihw,nij->njhw", images.double(), matrices).clamp(0, 1)
    assert (made - expected).abs().max() < 1e-6


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_other_than_three_channels_get_brightness_alone(channels: int) -> None:
    images, draws = noise(20, channels, 4, 4), make_draws(20)
    made = ops.ColorAffine(0.6, 0.2)(images.clone(), draws)
    scale = draws.uniform("brightness").view(-1, 1, 1, 1) * 1.2 + 0.4
    assert (made - (images * scale).clamp(0, 1)).abs().max() < 1e-6


def test_what_switches_off_is_said() -> None:
    assert POLICIES["keras-strong"].unused(3) == []
    assert [POLICIES["keras-weak"].unused(channels) for channels in (1, 2, 32)] == [["ColorAffine: jitter"]] * 3
    assert Policy("mine", ops.FullFrame(), (ops.ColorAffine(0.0, 0.1),)).unused(1) == ["ColorAffine"]
    assert Policy("mine", ops.FullFrame(), (ops.ColorAffine(0.1, 0.0),)).unused(1) == []


@pytest.mark.parametrize(
    ("name", "area", "brightness", "jitter"), [("keras-strong", 0.25, 0.6, 0.2), ("keras-weak", 0.75, 0.3, 0.1)]
)
def test_strengths(name: str, area: float, brightness: float, jitter: float) -> None:
    framing, affine = find_policy(name).describe()
    zoom = 1 - math.sqrt(area)
    assert framing == {"op": "TranslateZoom", "translate": zoom / 2, "zoom": zoom, "flip": 0.5}
    assert affine == {"op": "ColorAffine", "brightness": brightness, "jitter": jitter}
    assert (1 - framing["zoom"]) ** 2 == pytest.approx(area)


def test_options() -> None:
    strong, weak = POLICIES["keras-strong"], POLICIES["keras-weak"]
    assert replace(strong.with_options(min_scale=0.75), name="keras-weak", ops=weak.ops) == weak
    changed = strong.with_options(min_scale=0.5, flip=0.0, blur=0.2)
    assert changed.framing == ops.TranslateZoom.keeping(0.5, flip=0.0)
    assert changed.ops == (*strong.ops, ops.GaussianBlur(probability=0.2))
    with pytest.raises(UsageError, match="'keras-strong' cannot take strength: it has no colour jitter"):
        strong.with_options(strength=1.0)


def test_views_are_moved_within_their_reach() -> None:
    # White left of the middle; what is mirrored in is white on the left and black on the right, so the step is one.
    n, side = 400, 64
    values = torch.zeros(n, side, side, 3, dtype=torch.uint8)
    values[:, :, : side // 2] = 255
    batch = SimpleNamespace(values=values, sizes=torch.full((n, 2), side), samples=torch.arange(n))
    made = ops.TranslateZoom(0.125, 0.5, flip=0.0)(batch, make_draws(n), image_size=side)
    # An eighth of the side, enlarged up to twice, is a quarter.
    step = made[:, 0, 0].sum(1) / side - 0.5
    assert step.abs().max() <= 0.25 + 1e-5
    assert step.min() < -0.18
    assert step.max() > 0.18
    assert float(step.mean()) == pytest.approx(0, abs=0.02)


def test_docstring_examples() -> None:
    result = doctest.testmod(ops)
    assert result.attempted > 0
    assert result.failed == 0
