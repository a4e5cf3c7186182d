"""Images of 8 bits a channel through Pillow: the usual case, and the fast one."""

import threading
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from twoviews.data.decoding.opened import Header, Range, Unreadable
from twoviews.errors import UsageError

# Formats whose pixels Pillow gives without loss of meaning; JPEG 2000 would be narrowed to 8 bits without a
# word.
FORMATS = ("JPEG", "PNG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
GREY_MODES = frozenset({"1", "L", "LA", "La"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
# draft and reduce stop at twice the target, so that the last, antialiased step decides the result (as
# Image.thumbnail).
_REDUCING_GAP = 2.0
_LARGE_PIXELS = 16_000_000
# One large image at a time, so that a pool of threads does not multiply the peak; held again by what is called inside.
_large = threading.RLock()
# An image that Pillow has not loaded yet may occur more than once, and loading it is not safe across threads. Many
# locks, so that others are loaded meanwhile; a prime number, as addresses are multiples of 16.
_loading = tuple(threading.Lock() for _ in range(61))
_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Photo:
    """An 8-bit image that Pillow has opened, its pixels not yet decoded; `stream` where it comes from a file."""

    def __init__(self, image: Image.Image, stream: IO[bytes] | None, *, background: str, note: str = "") -> None:
        deep = depth_of(image)
        if deep:
            raise Unreadable(deep)
        self._image, self._stream, self._background = image, stream, background
        self._orientation = orientation_of(image, stream)
        width, height = image.size
        if self._orientation >= 5:
            width, height = height, width
        channels = 1 if image.mode in GREY_MODES else 3
        self.header = Header(width, height, channels, image.format or "array", image.mode, note=note)
        self.window: Range | None = None

    def samples(self) -> NDArray[np.uint8]:
        """(H, W, C), upright, of its own channels."""
        return self.pixels(size=None, channels=self.header.channels)

    def pixels(self, *, size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
        """(H, W, C) uint8, read-only; to be called once."""
        with one_at_a_time(self._image.width * self._image.height):
            image = self._decode(size, "L" if channels == 1 else "RGB")
            pixels = np.frombuffer(image.tobytes(), np.uint8)  # asarray goes the same way, slower
        return pixels.reshape(image.height, image.width, channels)

    def _decode(self, size: tuple[int, int] | None, mode: str) -> Image.Image:
        image = self._image
        if image.format == "PNG" and self._stream is not None:
            check_png(self._stream)
        if size is not None and self._orientation >= 5:
            size = size[1], size[0]
        drafts = self._stream is not None and image.format in ("JPEG", "MPO")
        if drafts and size is not None and size != image.size:
            image.draft(None, (int(size[0] * _REDUCING_GAP), int(size[1] * _REDUCING_GAP)))
        base = _plain(image)
        if size is not None and base.size != size:
            base = base.resize(size, Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
        if base.mode in ("LA", "RGBA"):
            paper = Image.new("RGB", base.size, self._background).convert(base.mode.removesuffix("A"))
            paper.paste(base.convert(paper.mode), mask=base.getchannel("A"))
            base = paper
        if self._orientation in _TRANSPOSES:
            base = base.transpose(_TRANSPOSES[self._orientation])
        return base if base.mode == mode else base.convert(mode)


def one_at_a_time(pixels: int) -> Any:
    """A context in which no two large images are decoded at once."""
    return _large if pixels > _LARGE_PIXELS else nullcontext()


def alone(image: Image.Image) -> Any:
    """A context in which no other thread loads this image, or reads what is known of it."""
    return _loading[id(image) % len(_loading)]


@cache
def formats() -> tuple[str, ...]:
    """Of `FORMATS`, those that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour's name or `#rrggbb`. Raises UsageError.

    >>> colour("white")
    (255, 255, 255)
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise UsageError(f"unknown colour {name!r}: write a name as white or black, or #rrggbb") from None


def _plain(image: Image.Image) -> Image.Image:
    """In L, LA, RGB or RGBA, the only modes that resize and paste treat as meant."""
    if image.has_transparency_data:
        mode = "LA" if image.mode in GREY_MODES else "RGBA"
    else:
        mode = "L" if image.mode in GREY_MODES else "RGB"
    return image if image.mode == mode else image.convert(mode)


def depth_of(image: Image.Image) -> str:
    """What is too deep for 8 bits, or "": where the mode hides it, the decoder's arguments do not."""
    if image.mode.startswith("I;16"):
        return "16 bits a channel"
    if image.mode in ("I", "F"):
        return "32-bit integers" if image.mode == "I" else "floating-point values"
    if image.mode not in GREY_MODES | COLOUR_MODES:
        return f"colour mode {image.mode}"
    for tile in getattr(image, "tile", []):
        for argument in tile[3] if isinstance(tile[3], tuple) else (tile[3],):
            if (isinstance(argument, str) and ";16" in argument) or (
                image.format == "PPM" and isinstance(argument, int) and argument > 255
            ):
                return "16 bits a channel"
    tags = getattr(image, "tag_v2", None)
    bits = max(tags.get(258, (8,)), default=8) if tags is not None else 8
    return f"{bits} bits a channel" if bits > 8 else ""


def orientation_of(image: Image.Image, stream: IO[bytes] | None) -> int:
    """EXIF's, 1 to 8, of what Pillow has opened but does not turn by itself."""
    if image.format == "TIFF":  # Pillow turns TIFFs by itself, size included
        return 1
    try:
        if image.format == "PNG" and "exif" not in image.info and stream is not None:
            # Not `getexif`, which would decode the image to find a chunk behind its pixels.
            return _png_orientation(stream)
        if not {"exif", "xmp", "XML:com.adobe.xmp"} & image.info.keys():
            return 1
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata that cannot be read turns nothing
        return 1
    return value if value in _TRANSPOSES else 1


def _png_orientation(stream: IO[bytes]) -> int:
    position = stream.tell()
    try:
        for kind, start, length in _png_chunks(stream):
            if kind == b"eXIf" and length < 1 << 20:
                stream.seek(start)
                exif = Image.Exif()
                exif.load(stream.read(length))
                value = exif.get(_ORIENTATION, 1)
                return value if value in _TRANSPOSES else 1
    finally:
        stream.seek(position)
    return 1


def _png_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """(type, start of data, length) of every chunk to IEND; fewer where the file is cut."""
    start = 8
    while True:
        stream.seek(start)
        head = stream.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], start + 8, length
        if head[4:] == b"IEND":
            return
        start += length + 12


def check_png(stream: IO[bytes]) -> None:
    """The checksums of the chunks that carry the picture: Pillow skips those of the pixels. Raises Unreadable."""
    position, kind = stream.tell(), b""
    for kind, start, length in _png_chunks(stream):
        if kind[:1].islower():  # optional chunks may be broken
            continue
        stream.seek(start)
        crc, left = zlib.crc32(kind), length
        while left:
            block = stream.read(min(left, 1 << 20))
            if not block:
                raise Unreadable("truncated PNG")
            crc, left = zlib.crc32(block, crc), left - len(block)
        if stream.read(4) != crc.to_bytes(4, "big"):
            raise Unreadable(f"broken PNG: wrong checksum of {kind.decode('ascii', 'replace')}")
    if kind != b"IEND":
        raise Unreadable("truncated PNG")
    stream.seek(position)
