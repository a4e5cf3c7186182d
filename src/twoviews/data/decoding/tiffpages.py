"""TIFF through tifffile (extra `science`): one page, or those of a stack that are wanted, and none beside them."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from twoviews.data.decoding import tifftags as tags
from twoviews.data.decoding.deep import Values, over, upright
from twoviews.data.decoding.opened import MAX_CHANNELS, MAX_VALUES, Header, Opened, Unreadable

FIRST_PAGE = "the first of several pages"
_NAME = "image.tif"  # not the file's own, out of which tifffile may read a meaning


@dataclass(frozen=True)
class _Content:
    """The axes and sizes over pages that are alike, and one of these by its number."""

    axes: str
    shape: tuple[int, ...]
    page: Any
    read: Callable[[int], NDArray[Any]]


def open_pages(stream: IO[bytes], *, background: str, pages: str, stack: ExitStack) -> Opened:
    """See `tiff.open_tiff`. Raises Unreadable."""
    file = _open(stream, _NAME, stack)
    several = len(file.pages) > 1
    description = str(file.pages[0].description)
    stacked = pages == "channels" or (pages == "auto" and tags.is_stack(description, pages=1 + several))
    content = _stack(file, stream, description, stack) if stacked else _first(file)
    note = FIRST_PAGE if several and not stacked else ""
    axes, page = content.axes, content.page
    if pages == "channels" and "C" not in axes:
        axes = "C" * len(axes)
    if axes.count("C") > 1 or sorted(set(page.axes) - set("ZS")) != ["X", "Y"]:
        raise Unreadable(f"a TIFF of axes {content.axes}{page.axes}: set data.pages to first, or convert it")
    sizes = zip(axes + page.axes, content.shape + page.shape, strict=True)
    left = [axis for axis, n in sizes if axis not in "YXSC" and n > 1]
    note = f"the first place of axes {', '.join(left)}" if left else note
    taken = content.shape[axes.index("C")] if "C" in axes else 1
    if taken > MAX_CHANNELS:
        raise Unreadable(f"{taken} channels, above the limit of {MAX_CHANNELS}")
    places = np.arange(math.prod(content.shape)).reshape(content.shape)
    wanted = np.atleast_1d(places[tuple(slice(None) if axis == "C" else 0 for axis in axes)]).tolist()
    if len(wanted) * math.prod(page.shape) > MAX_VALUES:
        raise Unreadable(f"{len(wanted)} TIFF pages of shape {page.shape}: too many values")
    return _opened(content, wanted, background=background, note=note)


def _open(stream: IO[bytes], name: str, stack: ExitStack) -> Any:
    import tifffile

    stream.seek(0)
    # By default it would open any file of this machine that the description names.
    file = stack.enter_context(tifffile.TiffFile(stream, name=name, _multifile=False))
    if not len(file.pages):
        raise Unreadable("a TIFF without a page")
    return file


def _first(file: Any) -> _Content:
    page = file.pages[0]
    return _Content("", (), page, lambda _: _decode(file, page))


def _stack(file: Any, stream: IO[bytes], description: str, stack: ExitStack) -> _Content:
    """All pages that are like the first, with the axes that the file states."""
    found = tags.count_pages(stream)
    kind = "ome" if tags.is_ome(description) else "imagej" if tags.is_imagej(description) else ""
    if kind == "ome":
        own = tags.check_ome(description, pages=found)
        file = _open(stream, own, stack) if own else file
    series = file.series[0]
    page, n = series.keyframe, len(series.keyframe.shape)
    if kind not in ("", series.kind):
        raise Unreadable(
            "an ImageJ file that is cut short" if kind == "imagej" else "an OME-TIFF whose pages are not as it says"
        )
    axes, shape = str(series.axes)[:-n], tuple(int(size) for size in series.shape)
    if shape[-n:] != tuple(page.shape):
        raise Unreadable(f"a TIFF of axes {series.axes} over pages of axes {page.axes}: set data.pages to first")
    cut = "an ImageJ file that is cut short" if kind == "imagej" else "a TIFF that is cut short"
    size, count = math.prod(page.shape), math.prod(shape[:-n])
    start = series.dataoffset
    if start is None:
        if len(series) != count:
            raise Unreadable(cut)
        return _Content(axes, shape[:-n], page, lambda number: _decode(file, series[number]))
    # One after another, maybe with a single entry in the list of pages.
    if start + count * page.nbytes > file.filehandle.size:
        raise Unreadable(cut)
    stored = np.dtype(page.dtype).newbyteorder(file.byteorder)
    return _Content(
        axes,
        shape[:-n],
        page,
        lambda number: file.filehandle.read_array(stored, size, start + number * page.nbytes).reshape(page.shape),
    )


def _decode(file: Any, page: Any) -> NDArray[Any]:
    if page is None:
        raise Unreadable("an OME-TIFF of which a plane is not in the file: set data.pages to first")
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    whole = page.keyframe.compression == 1  # with others, a wrong size may be harmless, and their decoder will tell
    if any(at + (size if whole else 0) > file.filehandle.size for at, size in places):
        raise Unreadable("a TIFF that is cut short")
    try:
        return np.asarray(page.asarray(maxworkers=1))
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(page.keyframe.compression, "name", page.keyframe.compression)
        raise Unreadable(f"a TIFF compressed by {name}: it needs imagecodecs, pip install imagecodecs") from None


def _opened(content: _Content, wanted: Sequence[int], *, background: str, note: str) -> Opened:
    page = content.page
    kind = np.dtype(page.dtype or "V")
    if kind.kind not in "buif" or page.photometric not in tags.COLOURS:
        colours = getattr(page.photometric, "name", page.photometric)
        raise Unreadable(f"a TIFF of {kind} values, colours {colours}: convert it")
    white = page.photometric == tags.WHITE_IS_ZERO
    if white and kind.kind == "f":
        raise Unreadable("a TIFF of floating-point values where white is zero has no agreed meaning: convert it")
    sizes = dict(zip(page.axes, page.shape, strict=True))
    samples, colours = sizes.get("S", 1), tags.COLOURS[page.photometric]
    extra = tuple(page.extrasamples[:1]) or ((2,) if colours == 3 else ())  # as Pillow takes 4 samples without a word
    alpha = "C" not in content.axes and samples == colours + 1 and extra[:1] in [(a,) for a in tags.ALPHA]
    depth = "uint8" if kind.kind == "b" else kind.newbyteorder("=").name
    if alpha and kind.kind != "u":
        raise Unreadable(f"transparency over {depth} values has no agreed meaning: lay it over a background")
    bits = int(page.bitspersample)
    top = (1 << bits) - 1 if kind.kind != "i" else -1
    turn = int(page.tags[tags.ORIENTATION].value) if tags.ORIENTATION in page.tags else 1
    nodata = page.tags[tags.NODATA].value if tags.NODATA in page.tags else ""

    def load() -> NDArray[Any]:
        parts = [_standing(content.read(number), page.axes).astype(depth, copy=False) for number in wanted]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        if white:
            seen = values[..., :colours] if alpha else values
            np.subtract(top, seen, out=seen)
        if bits in (1, 2, 4):
            values = values * np.uint8(255 // top)
        return upright(over(values, background, premultiplied=extra[0] == tags.ASSOCIATED) if alpha else values, turn)

    high, wide = (sizes["Y"], sizes["X"]) if turn < 5 else (sizes["X"], sizes["Y"])
    channels = samples * len(wanted) - alpha
    opened = Values(Header(wide, high, channels, "TIFF", f"{channels} x {depth}", depth, note), load)
    return opened if alpha or bits < 8 else tags.without(opened, nodata, mirrored=white)


def _standing(values: NDArray[Any], axes: str) -> NDArray[Any]:
    """One page as (H, W, samples); of axes beyond these, the first place."""
    values = values[tuple(slice(None) if axis in "YXS" else 0 for axis in axes)]
    kept = [axis for axis in axes if axis in "YXS"]
    values = values.transpose([kept.index(axis) for axis in "YXS" if axis in kept])
    return values.reshape(*values.shape[:2], -1)
