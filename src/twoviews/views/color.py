"""Colour operations with one set of parameters a sample: pure functions of images and parameters.

    n  images      C  channels      H, W  height and width      factors: (n,) float32
    images: (n, C, H, W) float32 in [0, 1]; so are the results, in a new tensor

Each equals torchvision's functional of the same name, image by image, in float32. Three channels are red, green
and blue. Images of any other number have no colour: saturation, hue and grayscale leave them as they are, as
torchvision does those of one channel, and everything else treats each channel as an image of its own.

The code avoids comparisons, `where` and `remainder`: torch does not vectorise them on CPUs, and each costs as
much as ten to fifty additions.
"""

import math
from functools import cache

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)
"""torchvision's luma weights; they sum to 0.9999."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The numbers of the four operations in an `order`."""

_IDENTITY = 4
_INACTIVE = 4
# A working set that stays in a core's second-level cache.
_CHUNK_PIXELS = 1 << 16


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _luma(images: Tensor, weights: tuple[float, float, float] = GREY) -> Tensor:
    """(n, 1, H, W); the images themselves, not a copy, where they are not RGB."""
    if images.shape[1] != 3:
        return images
    grey = images[:, :1] * weights[0]
    return grey.add_(images[:, 1:2], alpha=weights[1]).add_(images[:, 2:], alpha=weights[2])


def _mean(planes: Tensor) -> Tensor:
    """(n, C, H, W) to (n, C, 1, 1)."""
    # Rows first: one long sum may be split among threads, and then its rounding depends on the batch.
    return planes.sum(3, keepdim=True).sum(2, keepdim=True).div_(planes.shape[2] * planes.shape[3])


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """clamp(f x): black at 0, unchanged at 1.

    >>> brightness(torch.full((2, 3, 4, 4), 0.5), torch.tensor([0.5, 1.0]))[:, 0, 0, 0]
    tensor([0.2500, 0.5000])
    """
    return (images * _column(factors)).clamp_(0, 1)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """clamp(f x + (1 - f) m), m the mean grey of the image; of each channel where they are not RGB."""
    factors = _column(factors)
    return (images * factors).add_(_mean(_luma(images)) * (1 - factors)).clamp_(0, 1)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """clamp(f x + (1 - f) g), g the grey of each pixel."""
    if images.shape[1] != 3:
        return images.clone()
    factors = _column(factors)
    return (images * factors).add_(_luma(images) * (1 - factors)).clamp_(0, 1)


def hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue of HSV by `shifts` turns, in [-0.5, 0.5]; value and chroma stay."""
    return images.clone() if images.shape[1] != 3 else _turn_hue(images.clone(), shifts)


def _turn_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """`hue`, into `images`.

    With lo and hi the smallest and largest channel and c = hi - lo, the distance of the hue from red is
    1 + (g + b - r - lo) / c sixths of a turn, to the side of green where g >= b, and back
    r = lo + c clamp(|h - 3| - 1), g = hi - c clamp(|h - 2| - 1), b = hi - c clamp(|h - 4| - 1), h in [0, 6).
    """
    r, g, b = images.unbind(1)
    high, low, chroma, turned, work = r.new_empty(5, *r.shape).unbind(0)
    torch.maximum(torch.maximum(r, g, out=high), b, out=high)
    torch.minimum(torch.minimum(r, g, out=low), b, out=low)
    torch.sub(high, low, out=chroma)
    # Grey pixels: 0 / tiny, and whatever hue they get is multiplied by no chroma.
    torch.clamp_min(chroma, 1e-30, out=work)
    torch.add(g, b, out=turned).sub_(r).sub_(low).div_(work).add_(1)
    torch.copysign(turned, torch.sub(g, b, out=work), out=turned).add_((shifts * 6).view(-1, 1, 1))
    turned.sub_(torch.mul(turned, 1 / 6, out=work).floor_(), alpha=6)
    low.sub_(chroma)
    high.add_(chroma)
    # clamp(d - 1, 0, 1) = clamp(d, 1, 2) - 1; the 1 went into `low` and `high`.
    torch.addcmul(low, chroma, torch.sub(turned, 3, out=work).abs_().clamp_(1, 2), out=r)
    torch.addcmul(high, chroma, torch.sub(turned, 2, out=work).abs_().clamp_(1, 2), value=-1, out=g)
    torch.addcmul(high, chroma, torch.sub(turned, 4, out=work).abs_().clamp_(1, 2), value=-1, out=b)
    return images.clamp_(0, 1)


def grayscale(images: Tensor) -> Tensor:
    """The grey of each pixel, in as many channels as before."""
    return images.clone() if images.shape[1] != 3 else _luma(images).expand_as(images).contiguous()


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """1 - x where x >= threshold, else x."""
    return torch.where(images >= _column(thresholds), 1 - images, images)


def band_jitter(images: Tensor, *, gains: Tensor, offsets: Tensor) -> Tensor:
    """clamp(g x + o) of each channel; gains, offsets: (n, C)."""
    return (images * gains.view(*gains.shape, 1, 1)).add_(offsets.view(*offsets.shape, 1, 1)).clamp_(0, 1)


def color_affine(images: Tensor, *, matrices: Tensor) -> Tensor:
    """clamp(x M): channel j becomes the sum over the channels i of x_i M_ij; matrices: (n, C, C)."""
    return torch.bmm(matrices.transpose(1, 2), images.flatten(2)).clamp_(0, 1).view_as(images)


def color_jitter(images: Tensor, *, factors: Tensor, shifts: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in each sample's own order, clamped after each.

    factors: (n, 3) brightness, contrast, saturation; shifts: (n,) hue; order: (n, 4) int64, each row a
    permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE. Equal to torchvision's functions one after the other
    (1e-4).
    """
    return jitter_(images.clone(), factors=factors, shifts=shifts, order=order, active=None)


def jitter_(images: Tensor, *, factors: Tensor, shifts: Tensor | None, order: Tensor, active: Tensor | None) -> Tensor:
    """`color_jitter` into `images`, of the `active` samples ((n,) bool) or of all; no shifts, no hue.

    Brightness, contrast and saturation are all clamp(f x + (1 - f) m) with another m, so one pass can do
    another of them for each sample. Hue, the dear one, runs once, with up to three passes before and after.
    """
    # Sorting by need counts samples, and a GPU would have to be waited for.
    run = _jitter_sorted if images.device.type == "cpu" else _jitter_unsorted
    run(images, factors, shifts, order, active)
    return images


def _jitter_unsorted(
    images: Tensor, factors: Tensor, shifts: Tensor | None, order: Tensor, active: Tensor | None
) -> None:
    """Six passes over every sample; those that one does not need are given a factor of 1."""
    if active is not None:
        factors = torch.where(active.unsqueeze(1), factors, 1.0)
        shifts = None if shifts is None else torch.where(active, shifts, 0.0)
    slots = _slots(factors, order, _place_of_hue(order), channels=images.shape[1])
    _run_slots(images, slots, shifts, before=(0, 0, 0), after=(len(images),) * 3)


def _jitter_sorted(
    images: Tensor, factors: Tensor, shifts: Tensor | None, order: Tensor, active: Tensor | None
) -> None:
    """Sorted by the place of hue in their order, the samples that still need a pass are one slice."""
    place = _place_of_hue(order)
    if active is not None:
        place = torch.where(active, place, _INACTIVE)
    chosen = place.argsort(stable=True)[: int((place < _INACTIVE).sum())]
    place = place[chosen]
    slots = _slots(factors[chosen], order[chosen], place, channels=images.shape[1])
    shifts = None if shifts is None else shifts[chosen]
    # Chunks were measured in pixels of three channels.
    step = max(3 * _CHUNK_PIXELS // (max(images.shape[1], 3) * images.shape[2] * images.shape[3]), 1)
    scratch = torch.empty_like(images[:step])
    for start in range(0, len(chosen), step):
        part = slice(start, start + step)
        places = place[part].tolist()
        chunk = torch.index_select(images, 0, chosen[part], out=scratch[: len(places)])
        _run_slots(
            chunk,
            slots[part],
            None if shifts is None else shifts[part],
            before=tuple(sum(p <= k for p in places) for k in range(3)),
            after=tuple(sum(p < 3 - k for p in places) for k in range(3)),
        )
        images.index_copy_(0, chosen[part], chunk)


def _place_of_hue(order: Tensor) -> Tensor:
    return (order == HUE).to(torch.uint8).argmax(1)


def _slots(factors: Tensor, order: Tensor, when: Tensor, *, channels: int) -> Tensor:
    """(n, 6, 3): for the three passes before hue and after it, f and what m takes of mean and of grey."""
    if channels != 3:
        factors = torch.cat([factors[:, :2], torch.ones_like(factors[:, :1])], dim=1)
    slot = torch.arange(3, device=order.device)
    when = when.unsqueeze(1)
    padded = torch.cat([order, torch.full_like(order, _IDENTITY)], dim=1)
    before = torch.where(slot < when, padded[:, :3], _IDENTITY)
    after = padded.gather(1, (when + 1 + slot).clamp_max_(7))
    kind = torch.cat([before, after], dim=1)
    f = torch.cat([factors, torch.ones_like(factors[:, :2])], dim=1).gather(1, kind)
    return torch.stack([f, (1 - f) * (kind == CONTRAST), (1 - f) * (kind == SATURATION)], dim=2)


def _run_slots(
    images: Tensor, slots: Tensor, shifts: Tensor | None, *, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    for k in range(3):
        _blend(images[before[k] :], slots[before[k] :, k])
    if images.shape[1] == 3 and shifts is not None:
        _turn_hue(images, shifts)
    for k in range(3):
        _blend(images[: after[k]], slots[: after[k], 3 + k])


def _blend(images: Tensor, slots: Tensor) -> None:
    """One pass, into `images`."""
    if len(images) == 0:
        return
    f, of_mean, of_grey = slots.view(-1, 3, 1, 1, 1).unbind(1)
    if images.shape[1] not in (1, 3):
        # No grey to blend with. torch vectorises two passes with one number a channel, not one with two.
        mean = _mean(images).mul_(of_mean)
        images.mul_(f).add_(mean).clamp_(0, 1)
        return
    grey = _luma(images)
    m = (grey * of_grey).add_(_mean(grey).mul_(of_mean))
    torch.addcmul(m, images, f, out=images).clamp_(0, 1)


_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@cache
def _yiq_bases(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(3, 3) each: the identity, the projection to grey, and the quarter turn of hue."""
    yiq = torch.tensor(_YIQ, dtype=torch.float64)
    back = torch.linalg.inv(yiq)
    # Hue grows from red to green, which is clockwise in the plane of I and Q.
    quarter = torch.outer(back[:, 1], yiq[2]) - torch.outer(back[:, 2], yiq[1])
    bases = (torch.eye(3, dtype=torch.float64), yiq[0].expand(3, 3), quarter)
    eye, grey, quarter = (basis.to(device, dtype) for basis in bases)
    return eye, grey, quarter


def color_jitter_yiq(images: Tensor, *, factors: Tensor, shifts: Tensor) -> Tensor:
    """Brightness, contrast, saturation and a turn of hue in YIQ as one affine map of colour, clamped once.

    factors: (n, 3) brightness, contrast, saturation; shifts: (n,) turns. Without clamping in between, and
    with luma weights that sum to 1, the four commute: brightness and contrast scale Y, I and Q, saturation
    scales I and Q, hue turns them, and contrast adds (1 - contrast) * mean Y * brightness wherever it stands.
    So every order gives the same. Another op than `color_jitter`, whose hue is HSV's: it is faster, and it keeps luma
    where HSV keeps the largest channel. Images that are not RGB get light and contrast, channel by channel.
    """
    light = factors[:, 0] * factors[:, 1]
    lift = factors[:, 0] * (1 - factors[:, 1])
    if images.shape[1] != 3:
        return torch.addcmul(_mean(images).mul_(_column(lift)), images, _column(light)).clamp_(0, 1)
    red, green, blue = _mean(images).flatten(1).unbind(1)
    offset = (red * _YIQ[0][0] + green * _YIQ[0][1] + blue * _YIQ[0][2]) * lift
    colour, angle = light * factors[:, 2], shifts * (2 * math.pi)
    along, across = (colour * angle.cos()).view(-1, 1, 1), (colour * angle.sin()).view(-1, 1, 1)
    eye, grey, quarter = _yiq_bases(images.device, images.dtype)
    matrices = along * eye + (light.view(-1, 1, 1) - along) * grey + across * quarter
    return torch.baddbmm(offset.view(-1, 1, 1), matrices, images.flatten(2)).clamp_(0, 1).view_as(images)
