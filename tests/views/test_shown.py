"""What the eye is shown of any number of channels."""

import numpy as np
import pytest

from twoviews.errors import UsageError
from twoviews.views.shown import visible_rgb


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_one_channel_is_grey() -> None:
    values = noise(2, 5, 4, 1)
    assert np.array_equal(visible_rgb(values), np.concatenate([values] * 3, axis=-1))


def test_three_channels_are_as_they_are() -> None:
    values = noise(5, 4, 3)
    assert np.array_equal(visible_rgb(values), values)


@pytest.mark.parametrize("channels", [6, 12, 30])
def test_groups_are_averaged_and_later_bands_are_redder(channels: int) -> None:
    values, third = noise(3, 5, 4, channels), channels // 3
    shown = visible_rgb(values)
    for channel, first in enumerate((2 * third, third, 0)):
        mean = values[..., first : first + third].astype(np.float64).mean(-1)
        assert np.abs(shown[..., channel] - mean).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("channels", [2, 4, 5, 7, 8, 13, 32])
def test_a_band_on_a_border_counts_in_both_groups(channels: int) -> None:
    values = noise(6, 4, channels)
    # Each band cut into three makes every number divisible by three.
    parts = np.repeat(values.astype(np.float64), 3, axis=-1).reshape(6, 4, 3, channels).mean(-1)[..., ::-1]
    assert np.abs(visible_rgb(values) - parts).max() <= 0.5 + 1e-4


def test_two_bands() -> None:
    assert visible_rgb(np.array([[[20, 100]]], np.uint8)).tolist() == [[[100, 60, 20]]]


@pytest.mark.parametrize("channels", range(1, 33))
def test_bands_that_are_alike_are_grey_and_keep_their_value(channels: int) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    shown = visible_rgb(np.repeat(ramp, channels, axis=-1))
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, np.repeat(ramp, 3, axis=-1))


@pytest.mark.parametrize("values", [np.zeros((4, 4, 0), np.uint8), np.zeros((4, 4, 33), np.uint8), np.zeros((4, 4, 3))])
def test_what_cannot_be_shown(values: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"1 to 32 channels, not of (uint8|float64) \(4, 4, (0|33|3)\)"):
        visible_rgb(values)
