"""Decode every item of a source into one uint8 array: which form it takes, and who is left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twoviews.data.cache import Decoded
from twoviews.data.decode import Header, OpenImage, Unreadable
from twoviews.data.pool import for_each
from twoviews.data.source import Source, Stored
from twoviews.errors import DataError
from twoviews.narrate import Narrator

DEFAULT_SIDE = 128
KEPT_SIDE = 256  # without a cache_side, larger images are not kept even if they are all of one size

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Form:
    """The shape of the stored images, and the reason for it."""

    height: int
    width: int
    channels: int
    reason: str


def choose_form(headers: Sequence[Header], *, cache_side: int | None, channels: int | None) -> Form:
    """Images of one size not above `cache_side` are kept; else squares of it, not above the largest side."""
    grey = all(header.channels == 1 for header in headers)
    wanted = channels or (1 if grey else 3)
    sizes = {(header.width, header.height) for header in headers}
    largest = max(max(size) for size in sizes)
    if len(sizes) == 1 and largest <= (cache_side or KEPT_SIDE):
        width, height = next(iter(sizes))
        return Form(height, width, wanted, "all images have this size")
    side = min(cache_side or DEFAULT_SIDE, largest)
    found = f"{len(sizes)} sizes, the largest side {largest}" if len(sizes) > 1 else f"all are {largest} wide or high"
    return Form(side, side, wanted, found)


class Assembly:
    """The steps of one assembly: `look` at all items, then `decode` those that `look` did not keep."""

    def __init__(self, source: Source, *, cache_side: int | None, channels: int | None, narrator: Narrator) -> None:
        self._source = source
        self._side = cache_side
        self._channels = channels
        self._narrator = narrator
        self._headers: list[Header | None] = [None] * len(source)
        self._reasons: dict[int, str] = {}
        self._values: NDArray[np.uint8] | None = None
        self._form: Form | None = None
        self._order: Sequence[int] = source.storage_order.tolist() if isinstance(source, Stored) else range(len(source))

    def look(self, *, budget: int) -> Form:
        """Read every header. While all images are alike and fit into `budget` bytes, decode them on the way.

        Most data sets of small images are of one size: they are then opened once instead of twice.
        """
        first = self._first_header()
        if first is not None:
            form = choose_form([first], cache_side=self._side, channels=self._channels)
            if self._bytes(form) <= budget:
                self._form = form
                self._values = np.empty((len(self._source), form.height, form.width, form.channels), np.uint8)

        def work(index: int) -> None:
            with OpenImage(self._source[index].read()) as image:
                header = self._headers[index] = image.header
                form, values = self._form, self._values  # another thread may set them to None
                if form is None or values is None or first is None:
                    return
                if (header.width, header.height, header.channels) == (
                    first.width,
                    first.height,
                    first.channels,
                ):
                    self._put(image, index, values, form)
                else:
                    self._form = None

        self._guarded(self._order, work, "reading images")
        form = self._plan()
        if self._form != form or self._values is None:
            self._form = self._values = None
        return form

    @property
    def decoded(self) -> bool:
        """Whether `look` has decoded everything already."""
        return self._values is not None

    def decode(self, form: Form, allocate: Callable[[Shape], NDArray[np.uint8]]) -> Decoded:
        """The array in the form that `look` gave; what fails to decode is left out, and may change it."""
        while self._values is None:
            self._form = form
            values = allocate((len(self._source), form.height, form.width, form.channels))

            def work(index: int, *, form: Form = form, values: NDArray[np.uint8] = values) -> None:
                with OpenImage(self._source[index].read()) as image:
                    self._headers[index] = image.header
                    self._put(image, index, values, form)

            self._guarded([i for i in self._order if i not in self._reasons], work, "decoding images")
            form = self._plan()
            if (form.height, form.width, form.channels) == values.shape[1:]:
                self._values = values
        kept = self._kept()
        values = self._values
        for row, index in enumerate(kept.tolist()):
            if row != index:  # close the gaps in place: a copy would need the memory twice
                values[row] = values[index]
        sizes = np.array([(h.width, h.height) for h in self._surviving()], dtype=np.int32).reshape(-1, 2)
        return Decoded(values[: len(kept)], sizes, kept, self.rejected)

    @property
    def rejected(self) -> tuple[tuple[int, str], ...]:
        return tuple(sorted(self._reasons.items()))

    def _put(self, image: OpenImage, index: int, values: NDArray[np.uint8], form: Form) -> None:
        values[index] = image.pixels(size=(form.width, form.height), channels=form.channels)

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
                with OpenImage(self._source[index].read()) as image:
                    return image.header
            except Exception:  # met again, and listed, by `look`
                continue
        return None

    def _kept(self) -> NDArray[np.int64]:
        return np.array([i for i in range(len(self._source)) if i not in self._reasons], dtype=np.int64)

    def _surviving(self) -> list[Header]:
        return [h for i, h in enumerate(self._headers) if h is not None and i not in self._reasons]

    def _plan(self) -> Form:
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
        return choose_form(headers, cache_side=self._side, channels=self._channels)

    def _bytes(self, form: Form) -> int:
        return len(self._source) * form.height * form.width * form.channels
