"""Guarded decoding: bytes, paths, Pillow images and arrays to uint8 (H, W, C), or a reason why not.

Pillow alone turns a 16-bit ramp into white, a 16-bit RGB PNG into its high bytes, reads a PNG with a broken
checksum and leaves photographs lying on their side. Here an image comes out as it was meant, or `Unreadable`
says why not.
"""

import io
import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from twoviews.data.decoding import dicom, tiff
from twoviews.data.decoding.deep import from_array, from_grey, open_png16, strips
from twoviews.data.decoding.intensity import Intensity
from twoviews.data.decoding.opened import MAX_PIXELS, Header, Opened, Range, Unreadable, check_size
from twoviews.data.decoding.photo import Photo, alone, depth_of, formats, one_at_a_time, orientation_of
from twoviews.data.source import Raw

__all__ = ["MAX_PIXELS", "Header", "OpenImage", "Unreadable", "check_depth", "decode", "quiet_pillow"]

AS_IT_IS = Intensity("uint8")
PAGES = ("auto", "first", "channels")
_PNG_16 = b"\x10"
_LUMA = (0.299, 0.587, 0.114)

# What these log of a broken file, Unreadable says. Without a handler, Python would print it; with this one, only
# those see it who have set up logging.
for _name in ("PIL", "tifffile", "pydicom"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


def decode(
    raw: Raw,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    intensity: Intensity = AS_IT_IS,
    background: str = "white",
    pages: str = "auto",
) -> NDArray[np.uint8]:
    """One image as (H, W, C) uint8, turned upright where EXIF or TIFF says how, transparency over the background.

    `size` (width, height): resized to it, antialiased; `channels`: 1 or 3, by default the image's own. Values of more
    than 8 bits need an `intensity`; missing ones (NaN, TIFF's no-data) are black. `pages` of a TIFF or DICOM file:
    first, channels, or auto, as the file says; of animations, the first frame is taken. Raises Unreadable for what is
    no image, truncated, deeper than `intensity` takes, or above 100 million pixels.

    >>> import numpy as np
    >>> decode(np.zeros((4, 6), np.uint8), channels=3).shape
    (4, 6, 3)
    """
    with quiet_pillow(), OpenImage(raw, background=background, pages=pages) as image:
        return image.pixels(size=size, channels=channels, intensity=intensity).copy()


def check_depth(raw: Raw) -> None:
    """Refuse a Pillow image of which only 8 of its bits would be seen, as `OpenImage` does. Raises Unreadable.

    To be called before anything loads the image, which takes away what tells its depth.
    """
    if isinstance(raw, Image.Image) and not _is_deep_grey(raw):
        with alone(raw):
            deep = depth_of(raw)
        if deep:
            raise Unreadable(deep)


class OpenImage:
    """An image with its header read and its pixels not yet decoded; a context manager. Raises Unreadable."""

    def __init__(self, raw: Raw, *, background: str = "white", pages: str = "auto") -> None:
        self._stack = ExitStack()
        self._handed = raw if isinstance(raw, Image.Image) else None
        try:
            self._opened = self._open(raw, background=background, pages=pages)
            check_size(self.header.width, self.header.height, self.header.channels)
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

    @property
    def header(self) -> Header:
        return self._opened.header

    @property
    def window(self) -> Range | None:
        """(low, high) that the file itself states for black and white."""
        return self._opened.window

    def samples(self) -> NDArray[Any]:
        """(H, W, C) of `header.depth`, NaN missing; to be called once, in place of `pixels`. Raises Unreadable."""
        try:
            with self._loaded():
                return self._opened.samples()
        except Exception as error:
            raise _unreadable(error) from error

    def pixels(
        self, *, size: tuple[int, int] | None = None, channels: int | None = None, intensity: Intensity = AS_IT_IS
    ) -> NDArray[np.uint8]:
        """(H, W, C) uint8, read-only, see `decode`; to be called once. Raises Unreadable."""
        header = self.header
        wanted = header.channels if channels is None else channels
        if wanted != header.channels and not {wanted, header.channels} <= {1, 3}:
            raise Unreadable(f"{header.channels} channels, where {wanted} are wanted")
        refused = intensity.refuses(depth=header.depth, window=self.window)
        if refused:
            raise Unreadable(refused)
        try:
            with self._loaded():
                if isinstance(self._opened, Photo) and intensity.kind in ("uint8", "uint16"):
                    return self._opened.pixels(size=size, channels=wanted)
                with one_at_a_time(header.width * header.height * header.channels):
                    samples = self._opened.samples()
                    return _stored(samples, intensity, window=self.window, size=size, channels=wanted)
        except Exception as error:
            raise _unreadable(error) from error

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        """Inside, a Pillow image that was handed over is loaded: by one thread, and a large one when its turn comes."""
        if self._handed is None:
            yield
            return
        with one_at_a_time(self.header.width * self.header.height):
            with alone(self._handed):
                self._handed.load()
            yield

    def _open(self, raw: Raw, *, background: str, pages: str) -> Opened:
        if isinstance(raw, np.ndarray):
            return from_array(raw, background=background)
        if isinstance(raw, Image.Image):
            with one_at_a_time(raw.width * raw.height), alone(raw):
                opened = _from_pillow(raw, None, background=background)
                if raw.format == "PNG" and orientation_of(raw, getattr(raw, "fp", None)) != orientation_of(raw, None):
                    raw.load()  # what stands behind the pixels Pillow knows only then
                    opened = _from_pillow(raw, None, background=background)
                return opened
        stream: IO[bytes]
        if isinstance(raw, Path):
            if not stat.S_ISREG(raw.stat().st_mode):  # opening a pipe would wait for ever
                raise Unreadable("not a regular file")
            stream = self._stack.enter_context(raw.open("rb"))
        else:
            stream = io.BytesIO(raw)
        head = stream.read(dicom.MAGIC_AT + len(dicom.MAGIC))
        if not head:
            raise Unreadable("empty: 0 bytes")
        stream.seek(0)
        if head[dicom.MAGIC_AT :] == dicom.MAGIC:
            return dicom.open_dicom(stream, pages=pages)
        if head[:4] in tiff.MAGIC:
            return tiff.open_tiff(stream, background=background, pages=pages, stack=self._stack)
        image = Image.open(stream, formats=formats())
        self._stack.callback(image.close)
        check_size(*image.size)
        if image.format == "PNG" and head[24:25] == _PNG_16:
            return open_png16(image, stream, background=background)
        return _from_pillow(image, stream, background=background)


def _from_pillow(image: Image.Image, stream: IO[bytes] | None, *, background: str) -> Opened:
    check_size(*image.size)
    return from_grey(image) if _is_deep_grey(image) else Photo(image, stream, background=background)


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def _stored(
    samples: NDArray[Any],
    intensity: Intensity,
    *,
    window: Range | None,
    size: tuple[int, int] | None,
    channels: int,
) -> NDArray[np.uint8]:
    """(H, W, C) of any depth, scaled, clipped, resized and rounded: (height, width, channels) uint8.

    One channel at a time, so that a large image needs little more memory than its values.
    """
    intensity.apply(samples[:0], window=window)  # refuses ranges of other channels
    width, height = (samples.shape[1], samples.shape[0]) if size is None else size
    values = np.empty((height, width, channels), np.uint8)

    def plane(c: int) -> NDArray[np.float32]:
        one = replace(intensity, ranges=intensity.ranges[c : c + 1]) if len(intensity.ranges) > 1 else intensity
        return _resized(_shades(samples[..., c : c + 1], one, window=window), (width, height))

    if channels == 1 and samples.shape[2] == 3:
        grey = np.zeros((height, width), np.float32)
        for c, weight in enumerate(_LUMA):
            _add(grey, plane(c), weight)
        values[..., 0] = np.rint(grey, out=grey)
        return values
    for c in range(samples.shape[2]):
        values[..., c] = _rounded(plane(c))
    if channels > samples.shape[2]:
        values[..., 1:] = values[..., :1]
    return values


def _shades(samples: NDArray[Any], intensity: Intensity, *, window: Range | None) -> NDArray[np.float32]:
    """(H, W, 1) to (H, W), 0 black and 255 white, as NaN is black."""
    plane = np.empty(samples.shape[:2], np.float32)
    for rows in strips(plane.shape):
        intensity.apply(samples[rows], window=window)[..., 0].clip(0, 255, out=plane[rows])
        np.nan_to_num(plane[rows], copy=False)
    return plane


def _resized(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """To (width, height), of clipped values: one far out must not spread over its neighbours more than white would."""
    if size == (plane.shape[1], plane.shape[0]):
        return plane
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)).clip(0, 255)


def _add(total: NDArray[np.float32], plane: NDArray[np.float32], weight: float) -> None:
    plane *= np.float32(weight)
    total += plane


def _rounded(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rint(plane, out=plane)


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
