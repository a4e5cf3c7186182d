"""Gaussian blur, zooms and affine maps with one set of parameters a sample: pure functions of images and parameters.

n  images      C  channels      S  side      images: (n, C, S, S) float32 in [0, 1]
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def mirrored(images: Tensor, axis: str) -> Tensor:
    """Left and right exchanged (`axis` "x"), up and down ("y"), or both axes with each other ("xy")."""
    return images.transpose(2, 3) if axis == "xy" else images.flip(3 if axis == "x" else 2)


def blur_kernel(image_size: int) -> int:
    """The odd kernel near a tenth of the side (SimCLR, appendix A), at least 3.

    >>> blur_kernel(224), blur_kernel(96), blur_kernel(32)
    (23, 9, 3)
    """
    return max(int(0.1 * image_size) // 2 * 2 + 1, 3)


def _blur_matrices(sigmas: Tensor, *, kernel: int, side: int) -> Tensor:
    """(n, S, S): row i holds the weights of the pixels that pixel i of the result is made of."""
    reach = kernel // 2
    offset = torch.arange(-reach, reach + 1, device=sigmas.device)
    weights = torch.softmax((offset / sigmas.unsqueeze(1)).square_().mul_(-0.5), dim=1)
    pixel = (torch.arange(side, device=sigmas.device).unsqueeze(1) + offset).abs_()
    mirrored = torch.minimum(pixel, 2 * (side - 1) - pixel).expand(len(sigmas), side, kernel)
    matrices = weights.new_zeros(len(sigmas), side, side)
    return matrices.scatter_add_(2, mirrored, weights.unsqueeze(1).expand_as(mirrored))


def gaussian_blur(images: Tensor, sigmas: Tensor, *, kernel: int) -> Tensor:
    """Convolve with a Gaussian of `sigmas` ((n,), pixels), cut off at the odd `kernel`; edges are mirrored.

    Equal to torchvision's `gaussian_blur` (1e-5).
    """
    n, channels, side = images.shape[:3]
    # A side of 1 or 2 has too few pixels to mirror a wide kernel.
    matrices = _blur_matrices(sigmas, kernel=min(kernel, 2 * side - 1), side=side)
    rows = torch.bmm(images.reshape(n, channels * side, side), matrices.transpose(1, 2))
    return torch.matmul(matrices.unsqueeze(1), rows.view_as(images))


def _zoom_matrices(shift: Tensor, visible: Tensor, *, side: int, flip: Tensor | None = None) -> Tensor:
    """(n, S, S): row i holds the weights of the pixels that pixel i of the result is made of, along one axis."""
    position = torch.arange(side, dtype=torch.float32, device=shift.device).add_(0.5 - side / 2)
    # In pixels of the source, whose centres are whole numbers.
    source = visible.unsqueeze(1) * position + (side / 2 - 0.5 - shift.unsqueeze(1))
    first = source.floor()
    second = (source - first).unsqueeze(2)
    pixel = torch.stack([first, first + 1], 2).to(torch.int64)
    # Mirrored at the edges, the source repeats after two sides.
    pixel.remainder_(2 * side)
    pixel = torch.minimum(pixel, 2 * side - 1 - pixel)
    if flip is not None:
        pixel = torch.where(flip.view(-1, 1, 1), side - 1 - pixel, pixel)
    matrices = second.new_zeros(len(shift), side, side)
    return matrices.scatter_add_(2, pixel, torch.cat([1 - second, second], 2))


def translate_zoom(images: Tensor, *, shift: Tensor, visible: Tensor, flip: Tensor | None = None) -> Tensor:
    """Mirror left and right where asked, translate, then enlarge about the centre, bilinear, edges mirrored.

    shift: (n, 2) pixels x, y, the picture to the right and down; visible: (n, 2) shares of the side along x and y that
    fill the result; flip: (n,) bool. One resampling, equal to torch's `grid_sample(..., padding_mode="reflection",
    align_corners=False)` (1e-5).
    """
    n, channels, side = images.shape[:3]
    columns = _zoom_matrices(shift[:, 0], visible[:, 0], side=side, flip=flip)
    rows = _zoom_matrices(shift[:, 1], visible[:, 1], side=side)
    moved = torch.bmm(images.reshape(n, channels * side, side), columns.transpose(1, 2))
    return torch.matmul(rows.unsqueeze(1), moved.view_as(images))


def affine(images: Tensor, *, angle: Tensor, translate: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Shear, scale, rotate and translate about the centre, bilinear, black outside.

    angle: (n,) degrees, clockwise; translate: (n, 2) pixels x, y; scale: (n,); shear: (n, 2) degrees x, y. Equal to
    torchvision's `affine(..., BILINEAR, fill=None)` (1e-5).
    """
    side = images.shape[2]
    turn, shear_x, shear_y = angle * (math.pi / 180), *(shear * (math.pi / 180)).unbind(1)
    a = (turn - shear_y).cos() / shear_y.cos()
    b = -(a * shear_x.tan() + turn.sin())
    c = (turn - shear_y).sin() / shear_y.cos()
    d = turn.cos() - c * shear_x.tan()
    # grid_sample asks where each pixel of the result comes from, hence the inverse.
    inverse = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1) / scale.view(-1, 1, 1)
    shift = inverse @ (translate / (-0.5 * side)).unsqueeze(2)
    grid = F.affine_grid(torch.cat([inverse, shift], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
