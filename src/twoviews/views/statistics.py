"""Mean and standard deviation of a pool of images, for their normalisation."""

import math

import numpy as np
from numpy.typing import NDArray

from twoviews.errors import UsageError
from twoviews.views.shown import MAX_CHANNELS

STD_FLOOR = 1 / 255
"""One step of the stored values: what varies less is constant, and dividing by less would enlarge rounding."""

_CHUNK_VALUES = 1 << 22


def measure_normalization(
    values: NDArray[np.uint8], *, samples: int = 2048
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], of up to `samples` evenly spaced images.

    values: (N, H, W, C) uint8, in memory or memory-mapped; only the images measured are read. Sums are whole numbers,
    so the result is the same on every machine; it is rounded to 6 digits, and a std is at least STD_FLOOR.
    Raises UsageError for other values, or none.

    >>> measure_normalization(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    if values.dtype != np.uint8 or values.ndim != 4 or not 1 <= values.shape[3] <= MAX_CHANNELS:
        raise UsageError(
            f"a normalisation is measured on uint8 images (N, H, W, C) of 1 to {MAX_CHANNELS} channels, "
            f"not on {values.dtype} {values.shape}"
        )
    if values.size == 0 or samples < 1:
        raise UsageError(f"a normalisation needs an image at least: got {values.shape} and samples={samples}")
    count, height, width, channels = values.shape
    taken = min(count, samples)
    rows = np.arange(taken) * count // taken
    step = max(_CHUNK_VALUES // (height * width * channels), 1)
    sums, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for start in range(0, taken, step):
        part = values[rows[start : start + step]].reshape(-1, channels)
        for c in range(channels):
            # Counting is exact, and needs no copy in a wider type.
            counts = np.bincount(part[:, c], minlength=256)
            sums[c] += counts @ np.arange(256)
            squares[c] += counts @ np.arange(256) ** 2
    pixels = taken * height * width
    mean, std = [], []
    for total, square in zip(sums.tolist(), squares.tolist(), strict=True):
        mean.append(round(total / pixels / 255, 6))
        # Python's integers do not round, so nothing is lost where the mean is large and the spread small.
        spread = math.sqrt(pixels * square - total**2) / pixels / 255
        std.append(round(max(spread, STD_FLOOR), 6))
    return tuple(mean), tuple(std)
