"""What every kind of opened image has: a header, samples, and the reason why not."""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from twoviews.errors import DataError

Range = tuple[float, float]

MAX_PIXELS = 100_000_000
MAX_CHANNELS = 32
MAX_VALUES = 3 * MAX_PIXELS


class Unreadable(DataError):
    """The image cannot be used; the message is the reason, without the image's name."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says about itself once decoded, and turned upright where EXIF or TIFF says how.

    channels  1, 3 or, for bands, up to 32
    depth     NumPy's name of the type of its values, such as uint8
    note      what of the file is not used, in words
    """

    width: int
    height: int
    channels: int
    format: str
    mode: str
    depth: str = "uint8"
    note: str = ""


class Opened(Protocol):
    """An image whose header is known and whose values are still to be decoded, once."""

    header: Header
    window: Range | None
    """(low, high) that the file itself states for black and white."""

    def samples(self) -> NDArray[Any]:
        """(H, W, C), turned as the header says, of its depth, transparency laid over the background; NaN is missing."""
        ...


def check_size(width: int, height: int, channels: int = 1) -> None:
    """Refuse what is empty, or so large that it would fill the memory. Raises Unreadable."""
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width} x {height} pixels, above the limit of {MAX_PIXELS // 1_000_000} million")
    if 0 in (width, height, channels):
        raise Unreadable(f"{width} x {height} pixels of {channels} channels: nothing to see")
    if channels > MAX_CHANNELS:
        raise Unreadable(f"{channels} channels, above the limit of {MAX_CHANNELS}")
    if width * height * channels > MAX_VALUES:
        raise Unreadable(f"{width} x {height} pixels of {channels} channels: too many values")
