"""Whether what was written, read again, gives what torch gives, on real pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twoviews.errors import TwoviewsError
from twoviews.export.subject import Reopened, Subject

TOLERANCE = 1e-4
"""Largest difference that is let pass, as a part of the largest value; float32 sums in another order give 1e-6."""


@dataclass(frozen=True)
class Check:
    """What came of it.

    pictures    how many, each at its own size
    on          what they were, in words
    difference  the largest of any output from torch's, by name
    scale       the largest absolute value of that output
    """

    pictures: int
    on: str
    difference: dict[str, float]
    scale: dict[str, float]

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {"pictures": self.pictures, "on": self.on, "largest_difference": self.difference, "largest": self.scale}

    def sentence(self) -> str:
        """For people."""
        parts = [f"{name} {value:.1e} (values up to {self.scale[name]:.3g})" for name, value in self.difference.items()]
        return f"Largest difference from torch on {self.pictures} {self.on}: {', '.join(parts)}."


def compare(subject: Subject, reopened: Reopened, pictures: Sequence[NDArray[np.uint8]], *, on: str) -> Check:
    """Run both on each picture (H, W, C), and on a corner of all of them, at most twice the stored side, as a batch.

    Raises TwoviewsError where an output differs by more than TOLERANCE.
    """
    program, names = subject.program(), subject.outputs()
    difference, scale = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    # Photographs at their full size, together in float32, would fill the memory.
    limit = 2 * subject.stored_side
    height, width = (min(limit, *(picture.shape[axis] for picture in pictures)) for axis in (0, 1))
    together = np.stack([picture[:height, :width] for picture in pictures])
    for images in [*(picture[None] for picture in pictures), together]:
        batch = torch.from_numpy(np.ascontiguousarray(images))
        with torch.no_grad():
            wanted, given = program(batch), reopened(batch)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for name, mine, theirs in zip(names, wanted, given, strict=False):
            # numpy's maximum keeps what is not a number.
            difference[name] = float(np.maximum(difference[name], float((mine - theirs).abs().max())))
            scale[name] = max(scale[name], float(mine.abs().max()))
    compared = names[: len(given)]
    check = Check(len(pictures), on, {n: difference[n] for n in compared}, {n: scale[n] for n in compared})
    # Written so that a value that is not a number fails.
    wrong = [name for name in compared if not difference[name] <= TOLERANCE * max(scale[name], 1e-6)]
    if wrong:
        raise TwoviewsError(
            f"what was exported differs from the encoder ({check.sentence()}): nothing was kept; take another format, "
            "and report it"
        )
    return check
