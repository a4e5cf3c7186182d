"""TIFF: Pillow for what it keeps whole, tifffile (extra `science`) for deep colour, bands and stacks of pages."""

from importlib.util import find_spec
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from twoviews.data.deep import Values, from_grey, over, upright
from twoviews.data.opened import Header, Opened, Unreadable, check_size
from twoviews.data.photo import Photo, depth_of

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES, _EXTRA_SAMPLES = 262, 270, 274, 277, 338
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA = (1, 2)
_FIRST_PAGE = "the first of several pages"


def open_tiff(stream: IO[bytes], *, background: str, pages: str) -> Opened:
    """The first page, or all pages as channels: `pages` first, channels, or auto, which does as the file itself says.

    Axes other than rows, columns and channels (time, depth, series) are taken at their first place, which the header's
    note says. Raises Unreadable.
    """
    image = _with_pillow(stream) if pages != "channels" else None
    if image is not None:
        check_size(*image.size)
        more, deep = image.tag_v2.next != 0, depth_of(image)
        note = _FIRST_PAGE if more else ""
        stacked = pages == "auto" and more and _says_channels(image)
        if not (stacked or _has_bands(image)) or not find_spec("tifffile"):
            if not deep or deep.startswith("colour mode"):
                return Photo(image, stream, background=background, note=note)
            if not _has_bands(image) and (image.mode in ("F", "I") or image.mode.startswith("I;16")):
                return from_grey(image, note=note)
    if not find_spec("tifffile"):
        raise Unreadable("a TIFF of deep colour, bands or pages: it needs tifffile, pip install 'twoviews[science]'")
    stream.seek(0)
    return _with_tifffile(stream, background=background, pages=pages)


def _with_pillow(stream: IO[bytes]) -> TiffImagePlugin.TiffImageFile | None:
    try:
        image = Image.open(stream, formats=("TIFF",))
    except UnidentifiedImageError:
        return None
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image


def _says_channels(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether ImageJ or OME wrote it, whose pages may be channels."""
    description = str(image.tag_v2.get(_DESCRIPTION, ""))
    return description.startswith("ImageJ=") or "<OME" in description[:2000]


def _has_bands(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a pixel has more values than grey or RGB, or other than alpha: Pillow would pass over them."""
    tags = image.tag_v2
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO))
    if colours is None:
        return False
    extra = tuple(tags.get(_EXTRA_SAMPLES, ()))
    return int(tags.get(_SAMPLES, 1)) - colours > (1 if not extra or extra[0] in _ALPHA else 0)


def _with_tifffile(stream: IO[bytes], *, background: str, pages: str) -> Opened:
    import tifffile

    file = tifffile.TiffFile(stream)
    first: Any = file.pages[0]
    stacked = pages == "channels" or (pages == "auto" and (file.is_imagej or file.is_ome))
    content: Any = file.series[0] if stacked else first
    axes, shape = str(content.axes), tuple(int(n) for n in content.shape)
    if pages == "channels" and "C" not in axes:
        axes = "".join("C" if axis not in "YXS" else axis for axis in axes)
    if axes.count("Y") != 1 or axes.count("X") != 1 or axes.count("C") > 1 or first.dtype is None:
        raise Unreadable(f"a TIFF of axes {axes or 'unknown'}: set data.pages to first, or convert it")
    if np.dtype(first.dtype).kind not in "uif" or first.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        raise Unreadable(f"a TIFF of {first.dtype} values, colours {first.photometric}: convert it")
    size = dict(zip(axes, shape, strict=True))
    alpha = size.get("S") in (2, 4) and "C" not in size and tuple(first.extrasamples[:1]) in ((a,) for a in _ALPHA)
    depth = np.dtype(first.dtype).newbyteorder("=").name
    if alpha and not depth.startswith("uint"):
        raise Unreadable(f"transparency over {depth} values has no agreed meaning: lay it over a background")
    channels = size.get("S", 1) * size.get("C", 1) - alpha
    left = [axis for axis, n in size.items() if axis not in "YXSC" and n > 1]
    note = f"the first place of axes {', '.join(left)}" if left else ""
    if not stacked and len(file.pages) > 1:
        note = _FIRST_PAGE
    turn = int(first.tags[_ORIENTATION].value) if _ORIENTATION in first.tags else 1
    high, wide = (size["Y"], size["X"]) if turn < 5 else (size["X"], size["Y"])

    def load() -> NDArray[Any]:
        values = content.asarray()[tuple(slice(None) if axis in "YXSC" else 0 for axis in axes)]
        kept = [axis for axis in axes if axis in "YXSC"]
        values = values.transpose([kept.index(axis) for axis in "YXCS" if axis in kept])
        values = upright(values.reshape(*values.shape[:2], -1), turn).astype(depth, copy=False)
        if first.photometric == _WHITE_IS_ZERO and depth.startswith("uint"):
            values = np.iinfo(depth).max - values
        return over(values, background) if alpha else values

    return Values(Header(wide, high, channels, "TIFF", f"{channels} x {depth}", depth, note), load)
