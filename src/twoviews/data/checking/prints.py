"""By what near duplicates are found: a 64-bit hash of the whole image squeezed to a square of grey, and a thumbnail.

Copies that were resized, packed again, made brighter or slightly cropped keep nearly all bits of their hash. Pictures
without contrast have no hash to speak of.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SQUARE = 32
"""The side that hash and thumbnail are computed from."""
FLAT = 3.0
"""Below this standard deviation (of 255) a picture has nothing to be recognised by."""
# The 64 lowest frequencies but the mean, which is brightness.
_FREQUENCIES = sorted(
    ((u, v) for u in range(12) for v in range(12) if u or v), key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair)
)
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*_FREQUENCIES[:64], strict=True))
_COSINES = np.cos(np.pi / SQUARE * np.outer(np.arange(12), np.arange(SQUARE) + 0.5)).astype(np.float32)
_COSINES[0] *= np.sqrt(0.5)


class Prints(NamedTuple):
    """What near duplicates are found by; rows stand for images.

    hashes (N,) uint64; thumbs (N, 16, 16) uint8, grey; aspects (N,) float32, width / height of the original.
    """

    hashes: NDArray[np.uint64]
    thumbs: NDArray[np.uint8]
    aspects: NDArray[np.float32]


def squeeze(grey: ArrayLike) -> NDArray[np.float32]:
    """(H, W) or (N, H, W) to (..., 32, 32): the mean of each cell, whatever the shape."""
    values = np.asarray(grey, dtype=np.float32)
    down, across = (_cells(side, SQUARE) for side in values.shape[-2:])
    squeezed: NDArray[np.float32] = np.matmul(np.matmul(down, values), across.T, dtype=np.float32)
    return squeezed


def perceptual_hash(grey: ArrayLike) -> NDArray[np.uint64]:
    """64 bits of (H, W) or of each of (N, H, W): whether a low frequency of its cosine transform is above the median.

    >>> int(perceptual_hash(np.tile(np.arange(64), (48, 1)))) == int(perceptual_hash(np.tile(np.arange(90), (20, 1))))
    True
    """
    spectrum = (_COSINES @ squeeze(grey) @ _COSINES.T)[..., _ROWS, _COLUMNS]
    # An eighth of a shade: where a frequency is not there at all, rounding errors must not decide.
    spectrum = np.rint(spectrum / 32)
    bits = spectrum > np.median(spectrum, axis=-1, keepdims=True)
    return np.ascontiguousarray(np.packbits(bits, axis=-1)).view(">u8")[..., 0].astype(np.uint64)


def thumbnail16(grey: ArrayLike) -> NDArray[np.uint8]:
    """(H, W) or (N, H, W) to (..., 16, 16) uint8."""
    squeezed = squeeze(grey)
    small = squeezed.reshape(*squeezed.shape[:-2], 16, 2, 16, 2).mean(axis=(-3, -1))
    thumbs: NDArray[np.uint8] = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    return thumbs


def to_grey(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(..., H, W, C) to (..., H, W): luma of three channels as Pillow weighs them, else the mean."""
    pixels = values.astype(np.float32)
    shares = [0.299, 0.587, 0.114] if values.shape[-1] == 3 else [1 / values.shape[-1]] * values.shape[-1]
    grey: NDArray[np.float32] = pixels @ np.array(shares, dtype=np.float32)
    return grey


def corpus_hashes(values: NDArray[np.uint8], sizes: NDArray[np.int32]) -> Prints:
    """The prints of a corpus: values (N, H, W, C) as stored, sizes (N, 2) original width and height.

    Nearly the bits that `scan` finds for the same pictures.
    """
    count, height, width, channels = values.shape
    hashes, thumbs = np.empty(count, np.uint64), np.empty((count, 16, 16), np.uint8)
    rows = max(1, (1 << 22) // max(1, height * width * channels))
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        square = squeeze(to_grey(values[part]))
        hashes[part], thumbs[part] = perceptual_hash(square), thumbnail16(square)
    return Prints(hashes, thumbs, (sizes[:, 0] / np.maximum(sizes[:, 1], 1)).astype(np.float32))


def has_contrast(thumbs: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N, 16, 16) to (N,): whether there is anything that a picture could be recognised by."""
    flat = thumbs.reshape(len(thumbs), 256)
    deviation = [flat[i : i + 65536].std(axis=1, dtype=np.float32) for i in range(0, max(len(flat), 1), 65536)]
    return np.concatenate(deviation) >= FLAT


def _cells(side: int, cells: int) -> NDArray[np.float32]:
    """(cells, side): the share of each pixel in each cell of a line, rows summing to one."""
    edges = np.arange(side + 1) * (cells / side)
    low, high = edges[:-1], edges[1:]
    cell = np.arange(cells)[:, None]
    overlap = np.clip(np.minimum(high, cell + 1) - np.maximum(low, cell), 0, None)
    weights: NDArray[np.float32] = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
