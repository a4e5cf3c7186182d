"""Crop, resize and flip in one resampling, for a whole batch with a box a sample.

    N  images out (V views of B samples, view-major: row n comes from sample n % B)
    B  stored images      H, W  stored height and width      S  side of the images out
    K  taps: stored pixels that one pixel out can see

A resize is separable: a matrix for the rows and one for the columns. The filter is the triangle that
torchvision's antialiased bilinear resize uses, wider where the crop shrinks. A stored pixel counts as far
as the box covers it, which clamps the coordinates to the box, as cropping first would.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from twoviews.views.draws import Draws

ATTEMPTS = 10


def random_boxes(sizes: Tensor, draws: Draws, *, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes of torchvision's RandomResizedCrop: (N, 4) float32 left, top, width, height, all whole numbers.

    sizes: (N, 2) original width and height. Area a uniform share of the image within `scale`, width / height
    log-uniform within `ratio`; after ten boxes that do not fit, the largest central one of a legal ratio.
    Source: Szegedy et al. 2014 (arXiv:1409.4842), section 6; the constants are SimCLR's, appendix A.
    """
    width, height = sizes.to(torch.float32).unsqueeze(2).unbind(1)
    area = draws.uniform("area", ATTEMPTS, low=scale[0], high=scale[1]) * (width * height)
    aspect = draws.uniform("ratio", ATTEMPTS, low=math.log(ratio[0]), high=math.log(ratio[1])).exp_()
    widths = (area * aspect).sqrt_().round_()
    heights = (area / aspect).sqrt_().round_()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    # The fallback stands in an extra column: argmax takes the first of equal values, hence the first fit.
    fallback_width = torch.minimum(width, (height * ratio[1]).round_())
    fallback_height = torch.minimum(height, (width / ratio[0]).round_())
    first = torch.cat([fits, torch.ones_like(fits[:, :1])], dim=1).to(torch.uint8).argmax(1, keepdim=True)
    crop_width = torch.cat([widths, fallback_width], dim=1).gather(1, first)
    crop_height = torch.cat([heights, fallback_height], dim=1).gather(1, first)
    spare = torch.cat([width - crop_width, height - crop_height], dim=1)
    drawn = (draws.uniform("corner", 2) * (spare + 1)).floor_()
    corner = torch.where(first < ATTEMPTS, torch.minimum(drawn, spare), (spare / 2).floor_())
    return torch.cat([corner, crop_width, crop_height], dim=1)


def central_boxes(sizes: Tensor, fraction: float) -> Tensor:
    """The central squares of side `fraction * min(width, height)`, on whole pixels: (N, 4) float32."""
    side = (sizes.amin(1, keepdim=True) * fraction).round_().clamp_min_(1)
    corner = ((sizes - side) / 2).floor_()
    return torch.cat([corner, side, side], dim=1)


def full_boxes(sizes: Tensor) -> Tensor:
    """The whole images: (N, 4) float32."""
    return torch.cat([torch.zeros_like(sizes), sizes], dim=1).to(torch.float32)


def stored_boxes(boxes: Tensor, sizes: Tensor, *, stored: tuple[int, int]) -> Tensor:
    """Boxes of the original geometry, in pixels of the stored (height, width): (N, 4) float32."""
    stretch = torch.stack([stored[1] / sizes[:, 0], stored[0] / sizes[:, 1]], dim=1)
    return boxes * stretch.repeat(1, 2)


def planes(values: Tensor) -> Tensor:
    """(B, H, W, C) uint8 to (B, C, H, W) float32, still 0 to 255."""
    out = torch.empty(values.shape[0], values.shape[3], *values.shape[1:3], device=values.device)
    return out.copy_(values.permute(0, 3, 1, 2))


def _taps(low: Tensor, extent: Tensor, flip: Tensor | None, *, stored: int, side: int) -> tuple[Tensor, Tensor]:
    """First tap (N, S, 1) and weights (N, S, K), rows summing to 1, along one axis.

    low, extent: (N,) the box, in stored pixels; flip: (N,) bool, read from the far end.
    """
    count = min(2 * math.ceil(max(stored / side, 1.0)) + 1, stored)
    position = torch.arange(side, dtype=torch.float32, device=low.device).add_(0.5)
    scale = (extent / side).view(-1, 1, 1)
    low, high = low.view(-1, 1, 1), (low + extent).view(-1, 1, 1)
    if flip is None:
        centre = low + scale * position.view(1, -1, 1)
    else:
        position = torch.where(flip.view(-1, 1), side - position, position)
        centre = low + scale * position.unsqueeze(2)
    reach = scale.clamp_min(1.0)
    first = (centre - reach).round_().clamp_(0, stored - count)
    pixel = first + torch.arange(count, dtype=torch.float32, device=low.device)
    covered = torch.minimum(pixel + 1, high).sub_(torch.maximum(pixel, low)).clamp_min_(0)
    weights = (1 - (pixel + 0.5 - centre).abs_().div_(reach)).clamp_min_(0).mul_(covered)
    return first.to(torch.int64), weights.div_(weights.sum(2, keepdim=True))


def crop_resize(
    images: Tensor, boxes: Tensor, *, image_size: int, flip: Tensor | None = None, gain: float = 1.0
) -> Tensor:
    """Cut each box out, resize it to a square and mirror it where asked: (N, C, S, S) float32.

    images: (B, C, H, W) float32; boxes: (N, 4) left, top, width, height in pixels of these and inside them,
    fractions allowed, N a multiple of B; flip: (N,) bool; `gain` multiplies the result. Equal to
    torchvision's `resized_crop(..., antialias=True)` for whole-numbered boxes (1e-5).
    """
    (source, channels, height, width), count = images.shape, boxes.shape[0]
    left, top, box_width, box_height = boxes.unbind(1)
    first, weights = _taps(top, box_height, None, stored=height, side=image_size)
    # Rows: few taps each, so a weighted gather of whole rows is cheaper than a matrix product.
    plane = torch.arange(count, device=images.device).remainder_(source).mul_(channels).view(-1, 1, 1, 1)
    plane = plane + torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    tap = torch.arange(weights.shape[2], device=images.device)
    rows = plane.mul_(height) + (first + tap).unsqueeze(1)
    narrowed = F.embedding_bag(
        rows.view(-1, tap.shape[0]),
        images.view(-1, width),
        mode="sum",
        per_sample_weights=weights.unsqueeze(1).expand_as(rows).reshape(-1, tap.shape[0]),
    )
    first, weights = _taps(left, box_width, flip, stored=width, side=image_size)
    if gain != 1.0:
        weights.mul_(gain)
    columns = torch.arange(weights.shape[2], device=images.device) + first
    matrix = weights.new_zeros(count, image_size, width).scatter_(2, columns, weights)
    out = torch.bmm(narrowed.view(count, channels * image_size, width), matrix.transpose(1, 2))
    return out.view(count, channels, image_size, image_size)
