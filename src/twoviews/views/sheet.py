"""The contact sheet: what the network will see, before training."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from twoviews.errors import UsageError
from twoviews.views.multicrop import AnyViews
from twoviews.views.ops import DecodedBatch, Part
from twoviews.views.shown import visible_rgb

_GUTTER = 2
_PAPER = 255
_MIN_CELL = 64


def contact_sheet(
    batch: DecodedBatch, views: AnyViews, *, seed: int, columns: int = 8, rows: int = 8, epoch: int = 0
) -> Image.Image:
    """A row for each of the first `rows` images: the image, then `columns - 1` random views of it.

    The image stands in its original aspect ratio. Tiny views are enlarged by a whole factor, pixel by pixel. Other than
    one or three channels are shown as `visible_rgb` shows them.
    Raises UsageError for fewer than two columns, one row, or one image.
    """
    if columns < 2 or rows < 1 or len(batch.samples) < 1:
        raise UsageError(
            "a contact sheet needs 2 columns, 1 row and 1 image at least, "
            f"not {columns}, {rows} and {len(batch.samples)}"
        )
    some = Part.of(batch, slice(rows))
    made = views(some, seed=seed, epoch=epoch, views=range(columns - 1))
    channels = some.values.shape[3]
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in views.normalization(channels))
    enlargement = max(1, -(-_MIN_CELL // views.image_size))
    cell = views.image_size * enlargement
    pitch = cell + _GUTTER
    # A wider gutter sets the originals apart.
    left = cell + 4 * _GUTTER
    size = (_GUTTER + left + (columns - 1) * pitch, _GUTTER + len(some.samples) * pitch)
    sheet = Image.new("RGB", size, (_PAPER,) * 3)
    for row, (values, shape) in enumerate(zip(some.values, some.sizes.tolist(), strict=True)):
        top = _GUTTER + row * pitch
        original = _original(values.cpu(), (int(shape[0]), int(shape[1])), cell)
        sheet.paste(original, (_GUTTER + (cell - original.width) // 2, top + (cell - original.height) // 2))
        for column, view in enumerate(made):
            pixels = _pixels(view[row].cpu() * std + mean)
            enlarged = pixels.resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (_GUTTER + left + column * pitch, top))
    return sheet


def _pixels(image: Tensor) -> Image.Image:
    """(C, S, S) in [0, 1] to RGB."""
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return _rgb(values.permute(1, 2, 0))


def _rgb(values: Tensor) -> Image.Image:
    """(H, W, C) uint8 to RGB."""
    return Image.fromarray(np.ascontiguousarray(visible_rgb(values.numpy())))


def _original(values: Tensor, shape: tuple[int, int], cell: int) -> Image.Image:
    """The stored image in its original aspect ratio, as large as fits into the cell."""
    stored = _rgb(values)
    ratio = cell / max(shape)
    if max(shape) < cell and shape == stored.size:
        ratio = float(cell // max(shape))
        return stored.resize((int(shape[0] * ratio), int(shape[1] * ratio)), Image.Resampling.NEAREST)
    fitted = (max(round(shape[0] * ratio), 1), max(round(shape[1] * ratio), 1))
    return stored.resize(fitted, Image.Resampling.BICUBIC)
