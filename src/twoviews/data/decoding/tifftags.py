"""What a TIFF says of itself: colours, missing values, and how its pages make a stack."""

import math
import os
import re
import struct
from dataclasses import replace
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from twoviews.data.decoding.deep import Values
from twoviews.data.decoding.opened import Opened, Unreadable

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}
ASSOCIATED = 1  # alpha that the colours have been multiplied by
ALPHA = (ASSOCIATED, 2)
PHOTOMETRIC, DESCRIPTION, ORIENTATION, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = 262, 270, 274, 277, 338, 339
BITS, NODATA = 258, 42113
_COUNTS = re.compile(r"^(images|channels|slices|frames)=(\d{1,9})\s*$", re.MULTILINE)


def is_stack(description: str, *, pages: int) -> bool:
    """Whether ImageJ or OME wrote it, whose pages may be channels, and there is more than one, here or elsewhere."""
    if is_imagej(description):
        return pages > 1 or any(int(count) > 1 for _, count in _COUNTS.findall(description))
    if pages > 1 or not is_ome(description):
        return is_ome(description)
    try:
        return any(planes > 1 for planes, _ in _ome_planes(_parsed(description)))
    except (Unreadable, ValueError):
        return False


def is_ome(description: str) -> bool:
    """Whether it is the XML of OME."""
    return description.rstrip("\0 \n").endswith("OME>")


def is_imagej(description: str) -> bool:
    """Whether it is ImageJ's text, and not the XML of OME."""
    return description.startswith(("ImageJ=", "SCIFIO="))


def count_pages(stream: IO[bytes]) -> int:
    """How many pages are chained. Raises Unreadable where the chain leads out of the file or back into itself."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
    entry = 20 if big else 12
    many, offset = struct.Struct(order + ("Q" if big else "H")), struct.Struct(order + ("Q" if big else "L"))
    (at,) = offset.unpack_from(head, 8 if big else 4)
    seen: set[int] = set()
    while at:
        if at in seen:
            raise Unreadable("a TIFF whose list of pages runs in a circle")
        seen.add(at)
        stream.seek(min(at, size))
        count = stream.read(many.size)
        end = at + many.size + entry * (many.unpack(count)[0] if len(count) == many.size else size)
        if end + offset.size > size:
            raise Unreadable(f"a TIFF that is cut short: its page {len(seen)} is not in the file")
        stream.seek(end)
        (at,) = offset.unpack(stream.read(offset.size))
    return len(seen)


def check_ome(description: str, *, pages: int) -> str:
    """The name that an OME file gives to itself, "" if it needs none. Raises Unreadable if it names planes elsewhere.

    Those are not looked for: a description may name any file of this machine. The sizes are checked because
    tifffile would make a list as long as they say.
    """
    root = _parsed(description)
    found = _ome_planes(root)
    if not found:
        raise Unreadable("an OME-TIFF that another file describes: set data.pages to first, or write it as one file")
    for planes, most in found:
        if max(planes, most) > pages:
            raise Unreadable(
                f"an OME-TIFF of {max(planes, most)} planes, of which {pages} are in the file: set data.pages to "
                "first, or write it as one file"
            )
    own = root.get("UUID")
    others = {(e.text, e.get("FileName", "")) for e in root.iter() if e.tag.endswith("UUID") and e.text != own}
    # A file without an identity of its own may be named once, by the name that it once had.
    alone = next(iter(others))[1] if own is None and len(others) == 1 else ""
    if others and (not alone or set(alone) & set("/\\")):
        raise Unreadable(
            f"an OME-TIFF with planes in another file, {min(name for _, name in others)[:100]!r}: set data.pages to "
            "first, or write it as one file"
        )
    return alone


def _parsed(description: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(description.rstrip("\0 \n"))
    except ElementTree.ParseError as error:
        raise Unreadable(f"an OME-TIFF whose description is broken, {error}: set data.pages to first") from None


def _ome_planes(root: ElementTree.Element) -> list[tuple[int, int]]:
    """Of each image: how many planes it has, and the most that one of its entries speaks of."""
    found = []
    for pixels in (e for e in root.iter() if e.tag.endswith("Pixels")):
        channel = next((e for e in pixels if e.tag.endswith("Channel")), None)
        together = 1 if channel is None else max(1, int(channel.get("SamplesPerPixel", 1)))
        sizes = [int(pixels.get(f"Size{axis}", 1)) for axis in "CZT"]
        entries = [e for e in pixels if e.tag.endswith("TiffData")]
        spoken = [int(e.get(name, 0)) for e in entries for name in ("IFD", "NumPlanes", "PlaneCount")]
        found.append((max(1, sizes[0] // together) * sizes[1] * sizes[2], max(spoken, default=0)))
    return found


def without(opened: Opened, nodata: Any, *, mirrored: bool = False) -> Opened:
    """With the value of GDAL's tag, a text, taken as missing: NaN, which makes it floats, or black if it has 8 bits.

    Of three channels, only what is missing in all is, as 255 is no rare value of a colour. mirrored: white was zero.
    """
    header = opened.header
    kind = np.dtype(header.depth)
    try:
        value = float(str(nodata).strip("\0 "))
    except ValueError:
        return opened
    if kind.kind != "f":
        ends = np.iinfo(kind)
        if not (math.isfinite(value) and value == int(value) and ends.min <= value <= ends.max):
            return opened
        value = int(value) if not mirrored else ends.max + ends.min - int(value)
        depth = header.depth if kind == np.uint8 else "float32" if kind.itemsize <= 2 else "float64"
    else:
        depth = header.depth
    if math.isnan(value) or (depth == "uint8" and value == 0):
        return opened
    colours = header.channels == 3 and kind.kind != "f"

    def load() -> NDArray[Any]:
        values = opened.samples()
        with np.errstate(over="ignore"):
            missing = values == kind.type(value)
        if colours:
            missing &= missing.all(axis=2, keepdims=True)
        known = values.astype(depth)
        known[missing] = 0 if depth == "uint8" else np.nan
        return known

    return Values(replace(header, depth=depth), load, window=opened.window)
