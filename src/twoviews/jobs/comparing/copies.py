"""Pictures that lie in two sets, and may not.

They are the same by their stored pixels, and nearly the same by prints of the whole image (`near_duplicates`), which
need a side of 32 pixels.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twoviews.data.checking.duplicates import near_duplicates
from twoviews.data.checking.prints import SQUARE, Prints, corpus_hashes
from twoviews.data.corpus import Corpus
from twoviews.errors import DataError

COPIES_ARE_RARE = 0.1
"""Part of a set above which near duplicates may be its nature, as of a camera that does not move."""

Mask = NDArray[np.bool_]


class Seen:
    """A corpus and what its images are recognised by, computed once, when asked for."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus)

    @cached_property
    def keys(self) -> list[bytes]:
        return self.corpus.content_keys()

    @cached_property
    def prints(self) -> Prints | None:
        """None where images are so small that they have too little to be recognised by."""
        values = self.corpus.values
        return corpus_hashes(values, self.corpus.sizes) if min(values.shape[1:3]) >= SQUARE else None

    @cached_property
    def repeats_itself(self) -> bool:
        """Whether near duplicates are this corpus's nature."""
        if self.prints is None:
            return False
        alike = {row for pair in near_duplicates(self.prints) for row in (pair.first, pair.second)}
        return len(alike) > COPIES_ARE_RARE * len(self)

    def select(self, indices: NDArray[np.int64]) -> "Seen":
        """The images at `indices`, with what is known of them."""
        if len(indices) == len(self) and (indices == np.arange(len(self))).all():
            return self
        chosen = Seen(self.corpus.select(indices))
        if "keys" in self.__dict__:
            chosen.keys = [self.keys[i] for i in indices.tolist()]
        if "prints" in self.__dict__ and self.prints is not None:
            hashes, thumbs, aspects = self.prints
            chosen.prints = Prints(hashes[indices], thumbs[indices], aspects[indices])
        return chosen


@dataclass(frozen=True)
class Copies:
    """Which of N images are in another set: `same` pixels, or else `near`. `alike`: how many resemble it by nature."""

    same: Mask
    near: Mask
    alike: int


def find_copies(part: Seen, *, of: Seen) -> Copies:
    """Which images of `part` are in `of`.

    Where more than a tenth resembles the other set, and near duplicates are as common within one of both, they are its
    nature: no copies are told from them then.
    """
    same = np.zeros(len(part), dtype=bool)
    if part.corpus.values.shape[1:] == of.corpus.values.shape[1:]:
        known = set(of.keys)
        same[:] = [key in known for key in part.keys]
    near = np.zeros(len(part), dtype=bool)
    if part.prints is not None and of.prints is not None:
        near[[pair.second for pair in near_duplicates(of.prints, other=part.prints)]] = True
    near &= ~same
    if near.mean() > COPIES_ARE_RARE and (part.repeats_itself or of.repeats_itself):
        return Copies(same, np.zeros_like(near), int(near.sum()))
    return Copies(same, near, 0)


def without_copies(part: Seen, other: Seen, *, name: str, other_name: str) -> tuple[Seen, list[str]]:
    """The part without the pictures that lie in `other` too, and how many those were, in words.

    Raises `DataError` where nothing would be left.
    """
    found = find_copies(part, of=other)
    words = []
    if found.same.any():
        words.append(f"{int(found.same.sum())} items of {name} with the same pixels as an item of {other_name}")
    if found.alike:
        words.append(
            f"none of the {found.alike} items of {name} that resemble an item of {other_name}: too many to be copies"
        )
    elif found.near.any():
        words.append(f"{int(found.near.sum())} items of {name} nearly the same as an item of {other_name}")
    kept = np.flatnonzero(~(found.same | found.near))
    if not len(kept):
        raise all_lies_in(name, part.corpus.spec, other_name, other.corpus.spec)
    return part.select(kept), words


def all_lies_in(name: str, spec: str, other_name: str, other_spec: str) -> DataError:
    """The error for a part that adds nothing to another; parts are called as their options."""
    return DataError(f"every item of --{name} {spec} lies in --{other_name} {other_spec} too: give other data")
