"""Images that Pillow cannot hold in 8 bits: arrays of any type, up to 32 bands, 16-bit PNG, deep greyscale files."""

import math
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.decoding.opened import Header, Opened, Range, Unreadable, check_size
from twoviews.data.decoding.photo import Photo, check_png, colour, one_at_a_time, orientation_of

_PNG_MODES = {0: "I", 2: "RGB", 4: "LA", 6: "RGBA"}
"""By the colour type in a PNG's header."""
_STRIP_VALUES = 1 << 20


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
    # Pillow stretches a PGM of more than 8 bits to 65535, in a mode of 32.
    depth = {"F": "float32", "I": "uint16" if image.format == "PPM" else "int32"}.get(image.mode, "uint16")
    turn = orientation_of(image, None)
    width, height = image.size if turn < 5 else image.size[::-1]
    header = Header(width, height, 1, image.format or "array", image.mode, depth, note)
    return Values(header, lambda: upright(np.asarray(image).astype(depth, copy=False)[..., None], turn))


def open_png16(image: Image.Image, stream: IO[bytes], *, background: str) -> Opened:
    """A PNG of 16 bits a channel, of which Pillow by itself keeps the upper bytes only, unless it is grey."""
    stream.seek(25)
    kind = stream.read(1)[0]
    if kind not in _PNG_MODES:
        raise Unreadable(f"broken PNG: colour type {kind}")
    mode = _PNG_MODES[kind]
    turn = orientation_of(image, stream)
    clear = image.info.get("transparency")

    def load() -> NDArray[Any]:
        check_png(stream)
        values = _png_values(stream, mode)
        if mode in ("LA", "RGBA"):
            values = over(values, background)
        elif clear is not None:
            values[(values == clear).all(axis=2)] = np.rint(paper_of(background, values.shape[2], 65535))
        return upright(values, turn)

    width, height = image.size if turn < 5 else image.size[::-1]
    return Values(Header(width, height, 3 if "RGB" in mode else 1, "PNG", f"{mode};16", "uint16"), load)


def _png_values(stream: IO[bytes], mode: str) -> NDArray[np.uint16]:
    """(H, W, C) as stored: unfiltered and untangled by Pillow, then taken as pixels of another mode."""
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as image:
        if mode == "I":
            return np.asarray(image).astype(np.uint16)[..., None]
        width, height = image.size
    whole = np.empty((height, width, 2 * len(mode)), np.uint8)
    if mode == "LA":  # four bytes a pixel, as in 8-bit RGBA
        _read_png(stream, "RGBA", "RGBA", whole)
    else:
        # What one reading takes for the upper byte, the other passes over.
        _read_png(stream, mode, f"{mode};16B", whole[..., 0::2])
        _read_png(stream, mode, f"{mode};16L", whole[..., 1::2])
    values = whole.view(">u2").byteswap(inplace=True)
    return values.view("<u2").astype(np.uint16, copy=False)


def _read_png(stream: IO[bytes], mode: str, rawmode: str, into: NDArray[np.uint8]) -> None:
    stream.seek(0)
    with Image.open(stream, formats=("PNG",)) as image:
        image._mode = mode
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
        for rows in strips(into.shape):
            into[rows] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def over(values: NDArray[Any], background: str, *, premultiplied: bool = False) -> NDArray[Any]:
    """(H, W, C + 1), alpha last, laid over the background: (H, W, C); white is the largest whole number.

    premultiplied: the colours have been multiplied by alpha already, as where TIFF calls it associated.
    """
    top = np.iinfo(values.dtype).max
    paper = paper_of(background, values.shape[2] - 1, top)
    mixed = np.empty((*values.shape[:2], values.shape[2] - 1), values.dtype)
    for rows in strips(values.shape):
        alpha = values[rows, :, -1:] / np.float64(top)
        seen = values[rows, :, :-1] * (1.0 if premultiplied else alpha) + paper * (1 - alpha)
        mixed[rows] = np.rint(seen).clip(0, top)
    return mixed


def paper_of(background: str, channels: int, top: int) -> NDArray[np.float64]:
    """The colour's values in 3 channels, or in 1, where `top` is white."""
    red, green, blue = colour(background)
    paper = [red, green, blue] if channels == 3 else [0.299 * red + 0.587 * green + 0.114 * blue]
    return np.array(paper) * (top / 255)


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of (H, W, ...) in pieces of about a million values, where temporary copies would fill the memory."""
    height = shape[0]
    step = max(1, _STRIP_VALUES * height // max(1, math.prod(shape)))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, C) turned as EXIF's orientation, 1 to 8, says (CIPA DC-008, 4.6.4)."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]
