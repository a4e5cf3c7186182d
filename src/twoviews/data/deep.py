"""Images that Pillow cannot hold in 8 bits: arrays of any type, up to 32 bands, 16-bit PNG, deep greyscale files."""

from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.opened import Header, Opened, Range, Unreadable, check_size
from twoviews.data.photo import Photo, check_png, colour, one_at_a_time

_PNG_MODES = {2: "RGB", 4: "LA", 6: "RGBA"}
"""By the colour type in a PNG's header."""


class Values:
    """An image whose values come in one array, loaded when they are wanted."""

    def __init__(self, header: Header, load: Callable[[], NDArray[Any]], *, window: Range | None = None) -> None:
        check_size(header.width, header.height, header.channels)
        self.header, self.window, self._load = header, window, load

    def samples(self) -> NDArray[Any]:
        with one_at_a_time(self.header.width * self.header.height * self.header.channels):
            values = self._load()
        wanted = (self.header.height, self.header.width, self.header.channels)
        if values.shape != wanted:
            raise Unreadable(f"its values have shape {values.shape}, its header says {wanted}")
        return values


def from_array(array: NDArray[Any], *, background: str) -> Opened:
    """(H, W) or (H, W, C) of real numbers, C from 1 to 32: bands, never an alpha channel. Raises Unreadable."""
    if array.dtype.kind not in "uif":
        raise Unreadable(f"array of {array.dtype}: images hold whole numbers or floats")
    if array.ndim not in (2, 3):
        raise Unreadable(f"array of shape {array.shape}: images are (H, W) or (H, W, C)")
    stack = array[..., None] if array.ndim == 2 else array
    height, width, channels = stack.shape
    check_size(width, height, channels)
    if array.dtype == np.uint8 and channels in (1, 3):
        flat = stack[..., 0] if channels == 1 else stack
        return Photo(Image.fromarray(np.ascontiguousarray(flat)), None, background=background)
    header = Header(width, height, channels, "array", f"{channels} x {array.dtype}", array.dtype.newbyteorder("=").name)
    return Values(header, lambda: stack)


def from_grey(image: Image.Image, *, note: str = "") -> Opened:
    """What Pillow opened as 16-bit or 32-bit greyscale."""
    depth = {"F": "float32", "I": "int32"}.get(image.mode, "uint16")
    header = Header(*image.size, 1, image.format or "array", image.mode, depth, note)
    return Values(header, lambda: np.asarray(image).astype(depth, copy=False)[..., None])


def open_png16(stream: IO[bytes], *, background: str) -> Opened:
    """A PNG of 16 bits a channel, in colour or with alpha; Pillow by itself would keep the upper bytes only."""
    stream.seek(16)
    head = stream.read(10)
    width, height = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:8], "big")
    if head[9] not in _PNG_MODES:
        raise Unreadable(f"broken PNG: colour type {head[9]}")
    mode = _PNG_MODES[head[9]]

    def load() -> NDArray[Any]:
        check_png(stream)
        if mode == "LA":  # four bytes a pixel, as in 8-bit RGBA
            values = _png_bytes(stream, "RGBA", "RGBA").reshape(height, width, 2, 2)
        else:
            # What one reading takes for the upper byte, the other passes over.
            both = [_png_bytes(stream, mode, f"{mode};16{order}") for order in "BL"]
            values = np.stack(both, axis=-1)
        whole = values[..., 0].astype(np.uint16) << 8 | values[..., 1]
        return whole if mode == "RGB" else over(whole, background)

    return Values(Header(width, height, 1 if mode == "LA" else 3, "PNG", f"{mode};16", "uint16"), load)


def _png_bytes(stream: IO[bytes], mode: str, rawmode: str) -> NDArray[np.uint8]:
    """The bytes of a PNG, unfiltered and untangled by Pillow, taken as pixels of another mode."""
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as image:
        image._mode = mode
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
        return np.asarray(image)


def over(values: NDArray[Any], background: str) -> NDArray[Any]:
    """(H, W, C + 1), alpha last, laid over the background: (H, W, C); white is the largest whole number."""
    top = np.iinfo(values.dtype).max
    red, green, blue = colour(background)
    paper = np.array([red, green, blue] if values.shape[2] == 4 else [0.299 * red + 0.587 * green + 0.114 * blue])
    alpha = values[..., -1:].astype(np.float64) / top
    mixed = values[..., :-1] * alpha + paper * (top / 255) * (1 - alpha)
    return np.rint(mixed).astype(values.dtype)


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, C) turned as EXIF's orientation, 1 to 8, says (CIPA DC-008, 4.6.4)."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]
