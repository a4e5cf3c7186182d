"""What a person can be shown of images of any number of channels."""

import numpy as np
from numpy.typing import NDArray

from twoviews.errors import UsageError

MAX_CHANNELS = 32
"""The most channels that an image may have."""


def visible_rgb(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., H, W, C) uint8 to red, green and blue (..., H, W, 3) uint8, for the eye alone.

    One channel is grey; three are red, green and blue already. Of any other number the bands, which come in order of
    wavelength as a rule, are cut into three equal consecutive groups, averaged: the first is shown as blue, the
    second as green, the last as red. A band on a border counts in both groups, as far as it lies in each; so of
    two bands the first is blue, the second red, and green is their mean. Bands that are all alike are grey.
    Raises UsageError for other than 1 to 32 channels of uint8.

    >>> visible_rgb(np.array([[[10, 20, 30, 40, 50, 60]]], np.uint8)).tolist()
    [[[55, 35, 15]]]
    """
    if values.dtype != np.uint8 or values.ndim < 3 or not 1 <= values.shape[-1] <= MAX_CHANNELS:
        raise UsageError(
            f"pictures are shown of uint8 values (..., H, W, C) of 1 to {MAX_CHANNELS} channels, "
            f"not of {values.dtype} {values.shape}"
        )
    channels = values.shape[-1]
    if channels == 3:
        return values
    if channels == 1:
        return np.repeat(values, 3, axis=-1)
    shown: NDArray[np.uint8] = np.rint(values.astype(np.float32) @ _groups(channels)).astype(np.uint8)
    return shown


def _groups(channels: int) -> NDArray[np.float32]:
    """(C, 3): the share of each band in red, green and blue; columns sum to 1."""
    band, group = np.arange(channels)[:, None], np.array([2, 1, 0])
    # Three times everything, so that the borders are whole numbers.
    low = np.maximum(3 * band, group * channels)
    high = np.minimum(3 * band + 3, (group + 1) * channels)
    shares: NDArray[np.float32] = ((high - low).clip(min=0) / channels).astype(np.float32)
    return shares
