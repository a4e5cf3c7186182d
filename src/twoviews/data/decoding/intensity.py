"""How values of any depth become 8 bits: a stated range a channel, measured once on the pool, never a silent clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twoviews.data.decoding.opened import Range
from twoviews.errors import DataError, UsageError

Kind = Literal["auto", "uint8", "uint16", "file", "percentile", "range"]

FORMS = (
    "auto, uint8, uint16, file, percentile:LOW,HIGH, window:LEVEL,WIDTH or range:LOW,HIGH (one for each channel, by ;)"
)
AUTO_PERCENTILES = (0.1, 99.9)
"""Of `auto`: a hot pixel decides nothing, and what is bright but rare, as in fluorescence, keeps its shades."""

_DEEP = ":deep"
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Intensity:
    """Which values become black and white; what lies between is linear.

    uint8       8-bit values as they are; deeper images are refused
    uint16      the whole range of unsigned integers of 8 and of 16 bits
    file        the window (level, width) that each DICOM file states
    range       `ranges`: (low, high) for all channels, or one for each; where it is `deep`, as one that `auto` measured
                (`range:LOW,HIGH:deep`), 8-bit images are refused
    percentile  a range still to be measured on the pool, `ranges[0]` in per cent
    auto        one of these, still to be decided on the pool

    >>> Intensity.parse("window:40,400").ranges
    ((-160.0, 240.0),)
    """

    kind: Kind = "auto"
    ranges: tuple[Range, ...] = ()
    deep: bool = False

    @staticmethod
    def parse(text: str) -> "Intensity":
        """Read one of `FORMS`. Raises UsageError."""
        name, colon, rest = text.strip().partition(":")
        rest, deep = (rest.removesuffix(_DEEP), True) if name == "range" and rest.endswith(_DEEP) else (rest, False)
        if not colon and name in ("auto", "uint8", "uint16", "file"):
            return Intensity(name)  # type: ignore[arg-type]
        try:
            ranges = tuple(_pair(part) for part in rest.split(";"))
        except ValueError:
            raise UsageError(f"cannot read intensity {text!r}: write {FORMS}") from None
        first = ranges[0]
        if name == "window" and len(ranges) == 1 and first[1] > 0:
            return Intensity("range", ((first[0] - first[1] / 2, first[0] + first[1] / 2),))
        if name == "percentile" and len(ranges) == 1 and 0 <= first[0] < first[1] <= 100:
            return Intensity("percentile", ranges)
        if name == "range" and all(low < high for low, high in ranges):
            return Intensity("range", ranges, deep=deep)
        raise UsageError(f"cannot use intensity {text!r}: write {FORMS}, each LOW below HIGH and each WIDTH above 0")

    def __str__(self) -> str:
        if not self.ranges:
            return self.kind
        ranges = ";".join(f"{_number(low)},{_number(high)}" for low, high in self.ranges)
        return f"{self.kind}:{ranges}{_DEEP if self.deep else ''}"

    @property
    def known(self) -> bool:
        """Whether nothing is left to be measured or decided."""
        return self.kind not in ("auto", "percentile")

    def refuses(self, *, depth: str, window: Range | None) -> str:
        """Why an image of this depth cannot be taken, or ""."""
        if self.deep and depth == "uint8":
            return f"{in_words(depth)}, where data.intensity was measured on deeper images: they have another range"
        if self.kind == "uint8" and depth != "uint8":
            return f"{in_words(depth)}, where data.intensity is uint8: only 8 bits a channel are taken as they are"
        if self.kind == "uint16" and depth not in ("uint8", "uint16"):
            return f"{in_words(depth)}, where data.intensity is uint16: they have another range"
        if self.kind == "file" and window is None:
            return "it states no window, where data.intensity is file"
        return ""

    def apply(self, samples: NDArray[Any], *, window: Range | None = None) -> NDArray[np.float32]:
        """(H, W, C) of any depth to float32, 0 black and 255 white; beyond them, and NaN, for the caller to clip.

        Grey becomes three channels where each of three has a range.
        """
        if samples.dtype == np.uint8 and self.kind in ("uint8", "uint16"):
            return samples.astype(np.float32)
        ranges = ((0.0, 65535.0),) if self.kind == "uint16" else (window,) if self.kind == "file" else self.ranges
        # float64 for wide values, whose lowest bits would be lost before the range is subtracted.
        wide = np.float32 if samples.dtype.itemsize <= 2 else np.float64
        low, high = np.array([r for r in ranges if r is not None], wide).T
        shades: NDArray[np.float32] = ((samples - low) * (255.0 / (high - low))).astype(np.float32)
        return shades


def measure(
    setting: Intensity, samples: Sequence[NDArray[Any]], *, windows: Sequence[Range | None]
) -> tuple[Intensity, str]:
    """The range that `auto` or `percentile` comes to, and why in words.

    samples: a few images of the pool, each (pixels, channels) in its own type; windows: those that the files state.
    Up to three channels share one range, which keeps colours; more have one each, as bands have no common scale.
    """
    shared = max(part.shape[1] for part in samples) <= 3
    columns = np.concatenate([np.asarray(part, np.float64).reshape(-1, 1) if shared else part for part in samples])
    columns = np.where(np.isfinite(columns), columns, np.nan)
    values = columns[~np.isnan(columns)]
    if not len(values):
        raise DataError("no finite value in the sampled images: their intensity cannot be measured")
    found = f"values from {values.min():,.6g} to {values.max():,.6g} in {len(samples):,} sampled images"
    if setting.kind == "auto" and all(window is not None for window in windows):
        return Intensity("file"), f"every file states its window; {found}"
    percent = setting.ranges[0] if setting.ranges else AUTO_PERCENTILES
    fractions = samples[0].dtype.kind == "f" and values.min() >= 0 and values.max() <= 1
    if setting.kind == "auto" and fractions and np.percentile(values, AUTO_PERCENTILES[1]) >= 0.5:
        return Intensity("range", ((0.0, 1.0),)), f"{found}: fractions"
    ranges = tuple(_range_of(column[~np.isnan(column)], percent) for column in columns.T)
    outside = np.nansum((columns < [low for low, _ in ranges]) | (columns > [high for _, high in ranges])) / len(values)
    clipped = f"{100 * outside:.2g} % of them, outside percentiles {percent[0]:g} to {percent[1]:g}, are clipped"
    return Intensity("range", ranges), f"{found}; {clipped}"


def some_pixels(samples: NDArray[Any], count: int) -> NDArray[Any]:
    """At most `count` pixels from all over an image: (H, W, C) to (pixels, C), a copy."""
    pixels = samples.reshape(-1, samples.shape[2])
    if len(pixels) <= count:
        return pixels.copy()
    # Multiples of the golden ratio: a regular step would meet the same columns in every row.
    return pixels[(np.arange(1, count + 1) * _GOLDEN % 1 * len(pixels)).astype(np.int64)]


def in_words(depth: str) -> str:
    """A NumPy type name as users say it.

    >>> in_words("uint16"), in_words("float32")
    ('16 bits a channel', 'floating-point values')
    """
    kind = np.dtype(depth)
    if kind.kind == "f":
        return "floating-point values"
    sign = "signed " if kind.kind == "i" else ""
    return "32-bit integers" if kind.itemsize == 4 else f"{sign}{8 * kind.itemsize} bits a channel"


def _number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _pair(text: str) -> Range:
    low, high = (float(part) for part in text.split(","))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(text)
    return low, high


def _range_of(values: NDArray[np.float64], percent: Range) -> Range:
    """Two percentiles in nine digits; what is constant becomes black, instead of a division by zero."""
    low, high = (float(f"{at:.9g}") for at in np.percentile(values, percent)) if len(values) else (0.0, 0.0)
    return (low, high) if low < high else (low, low + max(1.0, abs(low)))
