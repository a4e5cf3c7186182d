"""DICOM (extra `dicom`): rescaled to its units, mirrored where white is low, its window kept beside it."""

import os
import struct
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from twoviews.data.decoding.deep import Values
from twoviews.data.decoding.opened import Header, Opened, Range, Unreadable

MAGIC, MAGIC_AT = b"DICM", 128
_PIXEL_DATA, _NO_LENGTH = (0x7FE0, 0x0010), 0xFFFFFFFF
_MAX_HEADER = 1 << 26
_GREY = ("MONOCHROME1", "MONOCHROME2", "")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""What pydicom gives as RGB."""


def open_dicom(stream: IO[bytes], *, pages: str) -> Opened:
    """The first frame as it is stored, or all frames as channels where `pages` is channels. Raises Unreadable.

    MONOCHROME1 is mirrored inside the range that its bits span, so that the same picture has the same values whichever
    way it was stored.
    """
    try:
        import pydicom
        from pydicom.pixels.utils import pixel_array
    except ImportError:
        raise Unreadable("a DICOM file: it needs pydicom, pip install 'twoviews[dicom]'") from None
    data: Any = pydicom.dcmread(cast(BinaryIO, _Header(stream)), stop_before_pixels=True)
    _check_pixels(stream, implicit=bool(data.original_encoding[0]), order="<" if data.original_encoding[1] else ">")
    kind = str(data.get("PhotometricInterpretation", ""))
    samples, frames = int(data.get("SamplesPerPixel", 1)), int(data.get("NumberOfFrames", 1) or 1)
    if (samples, kind) not in [(1, grey) for grey in _GREY] + [(3, colour) for colour in _COLOUR]:
        raise Unreadable(
            f"a DICOM file of {kind or 'no kind'} and {samples} samples a pixel: convert it to RGB or greyscale"
        )
    stacked = pages == "channels" and frames > 1 and samples == 1
    channels = frames if stacked else samples
    note = f"the first of {frames} frames" if frames > 1 and not stacked else ""
    scaled = samples == 1 and (
        "ModalityLUTSequence" in data
        or float(data.get("RescaleSlope", 1) or 1) != 1
        or float(data.get("RescaleIntercept", 0) or 0) != 0
    )
    bits, signed = int(data.get("BitsAllocated", 16)), int(data.get("PixelRepresentation", 0)) == 1
    if bits not in (1, 8, 16, 32):
        raise Unreadable(f"a DICOM file of {bits} bits a value")
    depth = "float32" if scaled else f"{'int' if signed else 'uint'}{max(bits, 8)}"
    mirror: float | int | None = None
    if kind == "MONOCHROME1":
        ends = _ends(int(data.get("BitsStored", bits)), signed=signed)
        mirror = float(_rescale(ends, data).sum()) if scaled else int(ends.sum())

    def load() -> NDArray[Any]:
        values = np.asarray(pixel_array(cast(BinaryIO, stream), index=None if stacked else 0))
        if scaled:
            values = _rescale(values, data)
        if mirror is not None:
            values = values.dtype.type(mirror) - values
        values = np.moveaxis(values, 0, -1) if stacked else values.reshape(*values.shape[:2], -1)
        return values.astype(depth, copy=False)

    header = Header(int(data.Columns), int(data.Rows), channels, "DICOM", kind, depth, note)
    return Values(header, load, window=_window(data, mirror=mirror))


class _Header:
    """A stream of which pydicom gets the header, of bounded size. Raises Unreadable."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, _MAX_HEADER
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        # pydicom reads to the end only what it then inflates, to whatever size. It alone knows which transfer syntax
        # it goes by: elements before it may have any length, and it may occur twice.
        if size < 0:
            raise Unreadable("a DICOM file that is deflated as a whole: write it again in another transfer syntax")
        self._left -= size
        if self._left < 0:
            raise Unreadable(f"a DICOM file whose header is larger than {_MAX_HEADER >> 20} MB")
        return self._stream.read(size)


def _check_pixels(stream: IO[bytes], *, implicit: bool, order: str) -> None:
    """The stream stands before the pixels: whether they are of whole numbers, and all there. Raises Unreadable."""
    head = stream.read(8 if implicit else 12)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != _PIXEL_DATA:
        raise Unreadable("a DICOM file without pixels of whole numbers")
    (length,) = struct.unpack(f"{order}L", head[-4:])
    start = stream.tell()
    if length != _NO_LENGTH and start + length > stream.seek(0, os.SEEK_END):
        raise Unreadable("a DICOM file that is cut short")


def _ends(bits: int, *, signed: bool) -> NDArray[Any]:
    """The least and the greatest value of so many bits."""
    low = -(1 << bits - 1) if signed else 0
    return np.array([low, low + (1 << bits) - 1], np.int64)


def _rescale(values: NDArray[Any], data: Any) -> NDArray[np.float32]:
    """Stored values, of any shape, in the units that the file states."""
    if "ModalityLUTSequence" in data:
        from pydicom.pixels.processing import apply_modality_lut

        return np.asarray(apply_modality_lut(values, data), np.float32)
    wide: NDArray[Any] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    np.multiply(wide, float(data.get("RescaleSlope", 1) or 1), out=wide)
    np.add(wide, float(data.get("RescaleIntercept", 0) or 0), out=wide)
    return wide.astype(np.float32, copy=False)


def _window(data: Any, *, mirror: float | None) -> Range | None:
    """(low, high) of the first window that the file states, in its own units."""
    level, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if level is None or width is None or width <= 0:
        return None
    low, high = level - width / 2, level + width / 2
    return (low, high) if mirror is None else (mirror - high, mirror - low)


def _first(value: Any) -> float | None:
    """A number, or the first of several."""
    try:
        return float(value if isinstance(value, (str, int, float)) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
