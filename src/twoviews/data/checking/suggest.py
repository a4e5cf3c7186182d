"""A configuration to start from, given what the images are like. Each value comes with its reason."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twoviews.data.checking.examine import EIGHT_BITS, Deep
from twoviews.data.decoding.intensity import AUTO_PERCENTILES, Intensity, in_words, measure
from twoviews.errors import DataError

_USUAL_SIZES = (64, 96, 128)  # above, training time grows by the square; who can afford it will say so
_SMALL = 64
_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A value to start from, and why."""

    value: str | int
    reason: str


def suggest(short_sides: Sequence[int], *, channels: int, gpu: bool = False) -> dict[str, Suggestion]:
    """`image_size`, `policy`, `encoder` and `stem`, given the shorter side of every image in pixels."""
    short = round(statistics.median(short_sides))
    if short <= _SMALL:
        size, reason = short, f"the median short side is {short}"
    else:
        # Crops are taken from images stored at 1.25 times the image size.
        size = max((usual for usual in _USUAL_SIZES if usual * 1.25 <= short), default=_SMALL)
        reason = f"the median short side is {short}, and larger sizes cost time by their square"
    stem = "small" if size <= _SMALL else "standard"
    why = "a 3x3 stem keeps the resolution up to 64 pixels" if stem == "small" else "above 64 pixels"
    return {
        "image_size": Suggestion(size, reason),
        "policy": suggest_policy(size, channels=channels),
        "encoder": suggest_encoder(size, gpu=gpu),
        "stem": Suggestion(stem, why),
    }


def suggest_policy(image_size: int, *, channels: int) -> Suggestion:
    """The views to start from, by the side of a view in pixels and the channels."""
    if channels == 1 and image_size <= _DIGITS:
        return Suggestion("digits", "small greyscale images: shifts and small turns, no flips")
    if channels == 1:
        return Suggestion(
            "gray", f"greyscale images of {image_size} pixels: brightness and contrast in place of colour"
        )
    if channels != 3:
        return Suggestion("multiband", f"{channels} channels are no colours: each band is jittered by itself")
    if image_size <= _SMALL:
        return Suggestion("simclr-small", f"at {image_size} pixels a blur would leave nothing")
    return Suggestion("simclr", f"photographs of {image_size} pixels bear all of SimCLR's operations")


def suggest_encoder(image_size: int, *, gpu: bool) -> Suggestion:
    """The network to start from, by the side of a view in pixels and the hardware."""
    if gpu:
        return Suggestion("resnet18", "a GPU is there")
    name = "resnet_mini" if image_size > 16 else "convnet_tiny"
    return Suggestion(name, f"a small network for a CPU at {image_size} px")


def suggest_intensity(depths: Counter[str], deep: Sequence[Deep]) -> Suggestion:
    """How values become 8 bits, by the depths of the images and what was measured on some of the deep ones."""
    if not deep:
        return Suggestion(EIGHT_BITS, "8 bits a channel, taken as they are")
    depth = max(depths, key=lambda name: (depths[name], name == EIGHT_BITS, name))  # as training decides
    if depth == EIGHT_BITS:
        most = f"{depths[depth]:,} of {depths.total():,} images have 8 bits a channel"
        return Suggestion(EIGHT_BITS, f"{most}, taken as they are; training leaves out the others")
    deep = [found for found in deep if found.pixels.dtype.name == depth] or deep
    low, high = min(found.low for found in deep), max(found.high for found in deep)
    told = f"{in_words(depth)} from {low:,.6g} to {high:,.6g}"
    white, black = (float(np.mean([getattr(found, end) for found in deep])) for end in ("white", "black"))
    lost, share = ("white", white) if white >= black else ("black", black)
    if share >= 0.005:
        told += f": an 8-bit clip would leave {100 * share:.0f} % {lost}"
    channels = Counter(found.pixels.shape[1] for found in deep).most_common(1)[0][0]
    alike = [found for found in deep if found.pixels.shape[1] == channels]
    try:
        measured, _ = measure(Intensity(), [found.pixels for found in alike], windows=[found.window for found in alike])
    except DataError as error:
        return Suggestion("auto", f"{told}; {error}")
    if measured.kind == "file":
        return Suggestion("file", f"{told}; every file states its window")
    if measured.ranges == ((0.0, 1.0),):
        return Suggestion(str(measured), f"{told}; these are fractions")
    spans = "; ".join(f"{a:,.6g} to {b:,.6g}" for a, b in measured.ranges[:4])
    more = f" and {len(measured.ranges) - 4} more bands" if len(measured.ranges) > 4 else ""
    percent = ",".join(f"{value:g}" for value in AUTO_PERCENTILES)
    return Suggestion(f"percentile:{percent}", f"{told}; these percentiles are {spans}{more}")
