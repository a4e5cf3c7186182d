"""Decode every item of a source into one uint8 array: which form it takes, and who is left out."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twoviews.data.cache import Decoded
from twoviews.data.decoding.decode import PAGES, Header, OpenImage, Unreadable
from twoviews.data.decoding.intensity import Intensity, in_words, measure, some_pixels
from twoviews.data.decoding.opened import MAX_CHANNELS
from twoviews.data.decoding.photo import colour
from twoviews.data.pool import for_each
from twoviews.data.source import Raw, Source, is_stored
from twoviews.errors import DataError, UsageError
from twoviews.narrate import Narrator

DEFAULT_SIDE = 128
KEPT_SIDE = 256  # without a cache_side, larger images are not kept even if they are all of one size
MEASURED_IMAGES, MEASURED_PIXELS = 256, 4096
"""How many images, and how many pixels of each, tell the range of deep values."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Storage:
    """How decoded images are to be stored. Raises UsageError for what no image can be.

    cache_side  pixels; images of one size not above it are kept as they are, others become squares of it
    channels    1 to 32, by default the images' own
    intensity   see `Intensity`
    background  colour under transparent pixels
    pages       of TIFF and DICOM: auto, first or channels
    """

    cache_side: int | None = None
    channels: int | None = None
    intensity: str = "auto"
    background: str = "white"
    pages: str = "auto"

    def __post_init__(self) -> None:
        if self.cache_side is not None and self.cache_side < 1:
            raise UsageError(f"cache_side is {self.cache_side}: give at least 1 pixel")
        if self.channels is not None and not 1 <= self.channels <= MAX_CHANNELS:
            raise UsageError(f"channels is {self.channels}: give 1 (greyscale), 3 (RGB), or up to {MAX_CHANNELS} bands")
        if self.pages not in PAGES:
            raise UsageError(f"pages is {self.pages!r}: give one of {', '.join(PAGES)}")
        colour(self.background)
        Intensity.parse(self.intensity)

    def open(self, raw: Raw) -> OpenImage:
        """Open an image as these settings say."""
        return OpenImage(raw, background=self.background, pages=self.pages)


@dataclass(frozen=True)
class Form:
    """The shape of the stored images, the commonest depth of what they are made from, and the reason for the shape."""

    height: int
    width: int
    channels: int
    depth: str
    reason: str = field(compare=False)

    def misfit(self, header: Header) -> str:
        """Why an image cannot be stored so, or ""."""
        if header.channels != self.channels and not {header.channels, self.channels} <= {1, 3}:
            return f"{header.channels} channels, where {self.channels} are stored"
        return ""


def choose_form(headers: Sequence[Header], storage: Storage) -> Form:
    """Images of one size not above `cache_side` are kept; else squares of it, not above the largest side."""
    # Grey among colours becomes colour, so the two count together.
    colours = any(header.channels == 3 for header in headers)
    counts = Counter(3 if colours and header.channels == 1 else header.channels for header in headers)
    usual = storage.channels or max(counts, key=lambda n: (counts[n], n))
    fitting = [h for h in headers if h.channels == usual or {h.channels, usual} <= {1, 3}] or headers
    depths = Counter(header.depth for header in fitting)
    depth = max(depths, key=lambda name: (depths[name], name == "uint8", name))
    sizes = {(header.width, header.height) for header in fitting}
    largest = max(max(size) for size in sizes)
    if len(sizes) == 1 and largest <= (storage.cache_side or KEPT_SIDE):
        width, height = next(iter(sizes))
        return Form(height, width, usual, depth, "all images have this size")
    side = min(storage.cache_side or DEFAULT_SIDE, largest)
    found = f"{len(sizes)} sizes, the largest side {largest}" if len(sizes) > 1 else f"all are {largest} wide or high"
    return Form(side, side, usual, depth, found)


class Room(Protocol):
    """Where decoded images go, and what is there already."""

    def allocate(self, shape: Shape, *, intensity: str) -> NDArray[np.uint8]: ...
    def done(self, index: int) -> bool: ...
    def finished(self, index: int, raw: Raw) -> None: ...
    def closing(self) -> None:
        """All is there; rows may move."""
        ...


class Memory:
    """A room that keeps nothing."""

    def allocate(self, shape: Shape, *, intensity: str) -> NDArray[np.uint8]:
        return np.empty(shape, np.uint8)

    def done(self, index: int) -> bool:
        return False

    def finished(self, index: int, raw: Raw) -> None:
        return None

    def closing(self) -> None:
        return None


class Assembly:
    """The steps of one assembly: `look` at all items, then `decode` those that `look` did not keep."""

    def __init__(self, source: Source, *, storage: Storage, narrator: Narrator) -> None:
        self._source = source
        self._storage = storage
        self._narrator = narrator
        self.intensity = Intensity.parse(storage.intensity)
        self._headers: list[Header | None] = [None] * len(source)
        self._reasons: dict[int, str] = {}
        self._values: NDArray[np.uint8] | None = None
        self._form: Form | None = None
        self._order: Sequence[int] = source.storage_order.tolist() if is_stored(source) else range(len(source))

    def look(self, *, budget: int) -> Form:
        """Read every header. While all images are alike and fit into `budget` bytes, decode them on the way.

        Most data sets of small images are of one size: they are then opened once instead of twice.
        """
        first = self._first_header()
        shades = Intensity("uint8") if self.intensity.kind == "auto" else self.intensity
        if first is not None and shades.known and not (self.intensity.kind == "auto" and first.depth != "uint8"):
            form = choose_form([first], self._storage)
            # Another number of ranges is refused once it is known that the first image is like the others.
            if self._bytes(form) <= budget and len(shades.ranges) in (0, 1, form.channels):
                self._form = form
                self._values = np.empty((len(self._source), form.height, form.width, form.channels), np.uint8)

        def work(index: int) -> None:
            with self._storage.open(self._source[index].read()) as image:
                header = self._headers[index] = image.header
                form, values = self._form, self._values  # another thread may set them to None
                if form is None or values is None or first is None:
                    return
                alike = ("width", "height", "channels", "depth")
                if all(getattr(header, name) == getattr(first, name) for name in alike):
                    self._put(image, index, values, form, shades)
                else:
                    self._form = None

        self._guarded(self._order, work, "reading images")
        form = self._plan()
        self._settle(form)
        form = self._plan()
        if self._form != form or self._values is None:
            self._form = self._values = None
        return form

    def _settle(self, form: Form) -> None:
        """Decide what is open of the intensity, and leave out what it cannot take."""
        setting = self.intensity
        if setting.kind == "auto":
            for index, header in enumerate(self._headers):
                if header is not None and index not in self._reasons and header.depth != form.depth:
                    others = f"images of {in_words(form.depth)}"
                    self._reasons[index] = f"{in_words(header.depth)} among {others}: set data.intensity to take both"
        if len(setting.ranges) not in (0, 1, form.channels):
            raise UsageError(
                f"data.intensity has {len(setting.ranges)} ranges for images of {form.channels} channels: give one, or "
                "one for each"
            )
        if setting.kind == "auto" and form.depth == "uint8":
            self.intensity = Intensity("uint8")
        elif not setting.known:
            chosen, windows = [], []
            for samples, window in self._some_samples():
                chosen.append(samples)
                windows.append(window)
            if not chosen:
                self._plan()
                raise DataError(f"{self._source.spec!r}: none of the sampled images can be decoded")
            found, reason = measure(setting, chosen, windows=windows)
            # 8 bits, which `auto` leaves out here, would later be nearly black by this range.
            self.intensity = replace(found, deep=setting.kind == "auto" and found.kind == "range")
            self._narrator.chose("data.intensity", str(self.intensity), reason)

    def _some_samples(self) -> Iterator[tuple[NDArray[Any], tuple[float, float] | None]]:
        """(pixels, channels) of evenly spaced images, and the windows that they state."""
        kept = self._kept()
        for index in kept[:: max(1, -(-len(kept) // MEASURED_IMAGES))].tolist():
            try:
                with self._storage.open(self._source[index].read()) as image:
                    samples, window = image.samples(), image.window
            except Exception:  # met again, and listed, when everything is decoded
                continue
            yield some_pixels(samples, MEASURED_PIXELS), window

    @property
    def decoded(self) -> bool:
        """Whether `look` has decoded everything already."""
        return self._values is not None

    def decode(self, form: Form, room: Room) -> Decoded:
        """The array in the form that `look` gave; what fails to decode is left out, and may change it."""
        while self._values is None:
            self._form = form
            shape = (len(self._source), form.height, form.width, form.channels)
            values = room.allocate(shape, intensity=str(self.intensity))

            def work(index: int, *, form: Form = form, values: NDArray[np.uint8] = values) -> None:
                raw = self._source[index].read()
                with self._storage.open(raw) as image:
                    self._headers[index] = image.header
                    self._put(image, index, values, form, self.intensity)
                room.finished(index, raw)

            left = [i for i in self._order if i not in self._reasons and not room.done(i)]
            self._guarded(left, work, "decoding images")
            form = self._plan()
            if (form.height, form.width, form.channels) == values.shape[1:]:
                self._values = values
        kept = self._kept()
        values = self._values
        if len(kept) < len(values):
            room.closing()
        for row, index in enumerate(kept.tolist()):
            if row != index:  # close the gaps in place: a copy would need the memory twice
                values[row] = values[index]
        sizes = np.array([(h.width, h.height) for h in self._surviving()], dtype=np.int32).reshape(-1, 2)
        return Decoded(values[: len(kept)], sizes, kept, self.rejected, intensity=str(self.intensity))

    @property
    def rejected(self) -> tuple[tuple[int, str], ...]:
        return tuple(sorted(self._reasons.items()))

    def _put(self, image: OpenImage, index: int, values: NDArray[np.uint8], form: Form, intensity: Intensity) -> None:
        size = (form.width, form.height)
        values[index] = image.pixels(size=size, channels=form.channels, intensity=intensity)

    def _guarded(self, order: Sequence[int], work: Callable[[int], None], what: str) -> None:
        def safe(index: int) -> None:
            try:
                work(index)
            except Unreadable as error:
                self._reasons[index] = str(error)
            except Exception as error:  # `read` of a source is foreign code
                self._reasons[index] = f"{type(error).__name__}: {error}"[:200]

        for_each(order, safe, narrator=self._narrator, what=what)

    def _first_header(self) -> Header | None:
        for index in list(self._order)[:20]:
            try:
                with self._storage.open(self._source[index].read()) as image:
                    return image.header
            except Exception:  # met again, and listed, by `look`
                continue
        return None

    def _kept(self) -> NDArray[np.int64]:
        return np.array([i for i in range(len(self._source)) if i not in self._reasons], dtype=np.int64)

    def _surviving(self) -> list[Header]:
        return [h for i, h in enumerate(self._headers) if h is not None and i not in self._reasons]

    def _plan(self) -> Form:
        """The form of what is left; what it does not fit is left out."""
        headers = self._surviving()
        if headers:
            form = choose_form(headers, self._storage)
            for index, header in enumerate(self._headers):
                if header is not None and index not in self._reasons and (reason := form.misfit(header)):
                    self._reasons[index] = reason
            headers = self._surviving()
        reasons = self.rejected
        first = "; ".join(f"{self._source[i].id!r}: {reason}" for i, reason in reasons[:3])
        if not headers:
            raise DataError(f"no readable image in {self._source.spec!r}: {first}")
        if len(reasons) > len(headers):
            raise DataError(
                f"{len(reasons)} of {len(self._source)} images in {self._source.spec!r} cannot be used: "
                f"{first}; remove or repair them"
            )
        return choose_form(headers, self._storage)

    def _bytes(self, form: Form) -> int:
        return len(self._source) * form.height * form.width * form.channels
