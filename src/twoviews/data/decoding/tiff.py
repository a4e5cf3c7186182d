"""TIFF: Pillow for what it keeps whole, tifffile (extra `science`) for deep colour, bands and stacks of pages."""

from contextlib import ExitStack
from importlib.util import find_spec
from typing import IO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from twoviews.data.decoding import tifftags as tags
from twoviews.data.decoding.deep import from_grey
from twoviews.data.decoding.opened import Opened, Unreadable, check_size
from twoviews.data.decoding.photo import Photo, depth_of
from twoviews.data.decoding.tiffpages import FIRST_PAGE, open_pages

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNSIGNED, _SIGNED, _FLOAT, _VOID = 1, 2, 3, 4
_KEPT = {("I;16", 12, _UNSIGNED), ("I;16", 16, _UNSIGNED), ("I", 32, _SIGNED), ("F", 32, _FLOAT)}
"""Mode, bits and sample format of the deep greyscale whose values Pillow gives right, where black is zero."""
_NEEDED = "tifffile, pip install 'twoviews[science]'"


def open_tiff(stream: IO[bytes], *, background: str, pages: str, stack: ExitStack) -> Opened:
    """The first page, or all pages as channels: `pages` first, channels, or auto, which does as the file itself says.

    Axes other than rows, columns and channels (time, depth, series) are taken at their first place, which the header's
    note says. Values that GDAL's tag calls missing become NaN, for which whole numbers become floats, or black in 8
    bits. `stack` closes what is opened. Raises Unreadable.
    """
    image = _with_pillow(stream) if pages != "channels" else None
    if image is not None:
        check_size(*image.size)
        more = image.tag_v2.next != 0
        note = FIRST_PAGE if more else ""
        stacked = pages == "auto" and tags.is_stack(_description(image), pages=2 if more else 1)
        if stacked and not find_spec("tifffile"):
            note, stacked = f"{FIRST_PAGE}: its channels need {_NEEDED}", False
        opened = None if stacked or _has_bands(image) else _kept_by_pillow(image, stream, background, note=note)
        if opened is not None:
            return opened
    if not find_spec("tifffile"):
        raise Unreadable(f"a TIFF of deep colour, bands or pages: it needs {_NEEDED}")
    return open_pages(stream, background=background, pages=pages, stack=stack)


def _with_pillow(stream: IO[bytes]) -> TiffImagePlugin.TiffImageFile | None:
    try:
        image = Image.open(stream, formats=("TIFF",))
    except UnidentifiedImageError:
        return None
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image


def _kept_by_pillow(
    image: TiffImagePlugin.TiffImageFile, stream: IO[bytes], background: str, *, note: str
) -> Opened | None:
    """The image, if Pillow gives its values as they are meant."""
    formats = set(image.tag_v2.get(tags.SAMPLE_FORMAT, ())) or {_UNSIGNED}
    white = image.tag_v2.get(tags.PHOTOMETRIC) == tags.WHITE_IS_ZERO
    nodata = image.tag_v2.get(tags.NODATA)
    deep = depth_of(image)
    if not deep or deep.startswith("colour mode"):
        if not formats <= {_UNSIGNED, _VOID}:
            return None
        photo = Photo(image, stream, background=background, note=note)
        return tags.without(photo, nodata, mirrored=white) if image.mode in ("L", "RGB") else photo
    bits, mode = max(image.tag_v2.get(tags.BITS, (1,))), image.mode
    mode = "I;16" if mode.startswith("I;16") else mode
    if white or not {(mode, bits, form) for form in formats} <= _KEPT:
        return None
    return tags.without(from_grey(image, note=note), nodata)


def _description(image: TiffImagePlugin.TiffImageFile) -> str:
    return str(image.tag_v2.get(tags.DESCRIPTION, ""))


def _has_bands(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a pixel has more values than grey or RGB, or other than alpha: Pillow would pass over them."""
    found = image.tag_v2
    colours = tags.COLOURS.get(found.get(tags.PHOTOMETRIC, tags.BLACK_IS_ZERO))
    if colours is None:
        return False
    extra = tuple(found.get(tags.EXTRA_SAMPLES, ()))
    return int(found.get(tags.SAMPLES, 1)) - colours > (1 if not extra or extra[0] in tags.ALPHA else 0)
