"""DICOM (extra `dicom`): rescaled to its units, inverted where white is low, its window kept beside it."""

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.deep import Values
from twoviews.data.opened import Header, Opened, Range, Unreadable

MAGIC, MAGIC_AT = b"DICM", 128


def open_dicom(stream: IO[bytes], *, pages: str) -> Opened:
    """The first frame, or all frames as channels where `pages` is channels. Raises Unreadable."""
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, convert_color_space
    except ImportError:
        raise Unreadable("a DICOM file: it needs pydicom, pip install 'twoviews[dicom]'") from None
    data: Any = pydicom.dcmread(stream)
    if "PixelData" not in data:
        raise Unreadable("a DICOM file without pixels of whole numbers")
    kind = str(data.get("PhotometricInterpretation", ""))
    samples, frames = int(data.get("SamplesPerPixel", 1)), int(data.get("NumberOfFrames", 1) or 1)
    if kind == "PALETTE COLOR" or samples not in (1, 3):
        raise Unreadable(
            f"a DICOM file of {kind or 'no kind'} and {samples} samples a pixel: convert it to RGB or greyscale"
        )
    stacked = pages == "channels" and frames > 1 and samples == 1
    channels = frames if stacked else samples
    note = f"the first of {frames} frames" if frames > 1 and not stacked else ""
    inverted = kind == "MONOCHROME1"
    scaled = samples == 1 and (
        "ModalityLUTSequence" in data
        or float(data.get("RescaleSlope", 1) or 1) != 1
        or float(data.get("RescaleIntercept", 0) or 0) != 0
    )
    bits, signed = int(data.get("BitsAllocated", 16)), int(data.get("PixelRepresentation", 0)) == 1
    if bits not in (1, 8, 16, 32):
        raise Unreadable(f"a DICOM file of {bits} bits a value")
    depth = "float32" if scaled or inverted else f"{'int' if signed else 'uint'}{max(bits, 8)}"

    def load() -> NDArray[Any]:
        values = np.asarray(data.pixel_array)
        if samples == 3 and kind.startswith("YBR"):
            values = convert_color_space(values, kind, "RGB")
        if frames > 1:
            values = np.moveaxis(values, 0, -1) if stacked else values[0]
        if scaled:
            values = apply_modality_lut(values, data)
        values = -values.astype(np.float32) if inverted else values.astype(depth, copy=False)
        return values if values.ndim == 3 else values[..., None]

    header = Header(int(data.Columns), int(data.Rows), channels, "DICOM", kind, depth, note)
    return Values(header, load, window=_window(data, inverted=inverted))


def _window(data: Any, *, inverted: bool) -> Range | None:
    """(low, high) of the first window that the file states, in its own units."""
    level, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if level is None or width is None or width <= 0:
        return None
    low, high = level - width / 2, level + width / 2
    return (-high, -low) if inverted else (low, high)


def _first(value: Any) -> float | None:
    """A number, or the first of several."""
    try:
        return float(value if isinstance(value, (str, int, float)) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
