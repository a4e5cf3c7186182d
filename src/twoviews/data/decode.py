"""Guarded decoding: bytes, paths, Pillow images and arrays to uint8 (H, W, C), or a reason why not.

Pillow alone turns a 16-bit ramp into white, a 16-bit RGB PNG into its high bytes, reads a PNG with a broken
checksum and leaves photographs lying on their side. Here an image comes out as it was meant, or `Unreadable`
says why not.
"""

import io
import os
import stat
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from twoviews.data.source import Raw
from twoviews.errors import DataError

MAX_PIXELS = 100_000_000
# Formats whose pixels Pillow gives without loss of meaning; JPEG 2000 would be narrowed to 8 bits without a
# word.
FORMATS = ("JPEG", "PNG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
GREY_MODES = frozenset({"1", "L", "LA", "La"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
# draft and reduce stop at twice the target, so that the last, antialiased step decides the result (as
# Image.thumbnail).
_REDUCING_GAP = 2.0
_LARGE_PIXELS = 16_000_000
_large = threading.Lock()  # one large image at a time, so that a pool of threads does not multiply the peak
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


class Unreadable(DataError):
    """The image cannot be used; the message is the reason, without the image's name."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says about itself: upright `width` and `height`; its channels (1 or 3) once decoded."""

    width: int
    height: int
    channels: int
    format: str
    mode: str


def decode(raw: Raw, *, size: tuple[int, int] | None = None, channels: int | None = None) -> NDArray[np.uint8]:
    """One image, upright, as (H, W, C) uint8; the first frame of animations, transparency over white.

    `size` (width, height): resized to it, antialiased; `channels`: 1 or 3, by default the image's own. Raises
    Unreadable for what is no image, truncated, of more than 8 bits a channel, or above 100 million pixels.

    >>> import numpy as np
    >>> decode(np.zeros((4, 6), np.uint8), channels=3).shape
    (4, 6, 3)
    """
    with quiet_pillow(), OpenImage(raw) as image:
        return image.pixels(size=size, channels=channels).copy()


class OpenImage:
    """An image with its header read and its pixels not yet decoded; a context manager. Raises Unreadable."""

    def __init__(self, raw: Raw) -> None:
        self._stack = ExitStack()
        self._stream: IO[bytes] | None = None
        self._orientation = 1
        try:
            self._image = self._open(raw)
            self.header = self._read_header()
        except BaseException as error:
            self._stack.close()
            if isinstance(error, Exception):
                raise _unreadable(error) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, raw: Raw) -> Image.Image:
        if isinstance(raw, np.ndarray):
            return _from_array(raw)
        if isinstance(raw, Image.Image):
            return raw
        if isinstance(raw, Path):
            if not stat.S_ISREG(raw.stat().st_mode):  # opening a pipe would wait for ever
                raise Unreadable("not a regular file")
            self._stream = self._stack.enter_context(raw.open("rb"))
        else:
            self._stream = io.BytesIO(raw)
        if not self._stream.read(1):
            raise Unreadable("empty: 0 bytes")
        self._stream.seek(0)
        image = Image.open(self._stream, formats=_formats())
        self._stack.callback(image.close)
        return image

    def _read_header(self) -> Header:
        image = self._image
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Unreadable(f"{width} x {height} pixels, above the limit of {MAX_PIXELS // 1_000_000} million")
        if 0 in image.size:
            raise Unreadable(f"{width} x {height} pixels: nothing to see")
        deep = _depth(image)
        if deep:
            raise Unreadable(f"{deep}: only 8 bits a channel are understood; convert it with the scaling it needs")
        self._orientation = _orientation(image, self._stream)
        if self._orientation >= 5:
            width, height = height, width
        return Header(width, height, 1 if image.mode in GREY_MODES else 3, image.format or "array", image.mode)

    def pixels(self, *, size: tuple[int, int] | None = None, channels: int | None = None) -> NDArray[np.uint8]:
        """(H, W, C) uint8, read-only, see `decode`; to be called once. Raises Unreadable."""
        wanted = self.header.channels if channels is None else channels
        try:
            large = self._image.width * self._image.height > _LARGE_PIXELS
            with _large if large else nullcontext():
                image = self._decode(size, "L" if wanted == 1 else "RGB")
                pixels = np.frombuffer(image.tobytes(), np.uint8)  # asarray goes the same way, slower
        except Exception as error:
            raise _unreadable(error) from error
        return pixels.reshape(image.height, image.width, wanted)

    def _decode(self, size: tuple[int, int] | None, mode: str) -> Image.Image:
        image = self._image
        if image.format == "PNG" and self._stream is not None:
            _check_png(self._stream)
        if size is not None and self._orientation >= 5:
            size = size[1], size[0]
        drafts = self._stream is not None and image.format in ("JPEG", "MPO")
        if drafts and size is not None and size != image.size:
            image.draft(None, (int(size[0] * _REDUCING_GAP), int(size[1] * _REDUCING_GAP)))
        base = _plain(image)
        if size is not None and base.size != size:
            base = base.resize(size, Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
        if base.mode in ("LA", "RGBA"):
            paper = Image.new(base.mode.removesuffix("A"), base.size, "white")
            paper.paste(base.convert(paper.mode), mask=base.getchannel("A"))
            base = paper
        if self._orientation in _TRANSPOSES:
            base = base.transpose(_TRANSPOSES[self._orientation])
        return base if base.mode == mode else base.convert(mode)


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_saved: Any = None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings inside. Counted under a lock: `warnings.catch_warnings` is not safe across threads."""
    global _quiet_depth, _quiet_saved
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_saved = warnings.catch_warnings()
            _quiet_saved.__enter__()
            warnings.simplefilter("ignore")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_saved.__exit__(None, None, None)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise Unreadable(f"array of {array.dtype}: images are uint8 from 0 to 255; scale it and convert")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise Unreadable(f"array of shape {array.shape}: images are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if 0 in array.shape:
        raise Unreadable(f"array of shape {array.shape}: nothing to see")
    return Image.fromarray(np.ascontiguousarray(array))


def _plain(image: Image.Image) -> Image.Image:
    """In L, LA, RGB or RGBA, the only modes that resize and paste treat as meant."""
    if image.has_transparency_data:
        mode = "LA" if image.mode in GREY_MODES else "RGBA"
    else:
        mode = "L" if image.mode in GREY_MODES else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _depth(image: Image.Image) -> str:
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


def _orientation(image: Image.Image, stream: IO[bytes] | None) -> int:
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


def _check_png(stream: IO[bytes]) -> None:
    """The checksums of the chunks that carry the picture: Pillow skips those of the pixels."""
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


def _unreadable(error: Exception) -> Unreadable:
    """The reason, in words that do not change from run to run (Pillow's name addresses in memory)."""
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, UnidentifiedImageError):
        return Unreadable("no image that can be read: unknown format or broken header")
    if isinstance(error, MemoryError):
        return Unreadable("out of memory while decoding")
    if isinstance(error, Image.DecompressionBombError):
        return Unreadable(f"too many pixels, above the limit of {MAX_PIXELS // 1_000_000} million")
    if isinstance(error, OSError) and error.errno is not None:
        return Unreadable(os.strerror(error.errno))
    text = " ".join(str(error).split())[:200]
    return Unreadable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
