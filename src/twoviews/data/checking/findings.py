"""What was found out about the images of a source, in columns, and how those relate to each other."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from twoviews.data.assemble import MEASURED_IMAGES
from twoviews.data.checking.duplicates import near_duplicates
from twoviews.data.checking.examine import Deep, Finding
from twoviews.data.checking.inspectors import inspect
from twoviews.data.checking.prints import Prints
from twoviews.data.checking.process import Request
from twoviews.data.decoding.decode import Header
from twoviews.data.source import Source, is_stored
from twoviews.errors import DataError
from twoviews.narrate import Narrator

SMALLEST_SIDE = 16
"""Images with a shorter side are too coarse to tell a near duplicate from one of the same kind."""
FORMATS_OF = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".avif": "AVIF",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
}


@dataclass(frozen=True, slots=True)
class Match:
    """A row and one that it equals or nearly equals; `bits` that their hashes differ in, None where unknown."""

    first: int
    second: int
    similarity: float
    bits: int | None = None


class Findings:
    """One row an item of `source`; rows of rejected items hold nothing but their reason."""

    def __init__(self, source: Source) -> None:
        count = len(source)
        self.source = source
        self.headers: list[Header | None] = [None] * count
        self.file_digests: list[bytes] = [b""] * count
        self.pixel_digests: list[bytes] = [b""] * count
        self.file_sizes = np.zeros(count, np.int64)
        self.hashes = np.zeros(count, np.uint64)
        self.thumbs = np.zeros((count, 16, 16), np.uint8)
        self.reasons: dict[int, str] = {}
        self.deep: dict[int, Deep] = {}
        self.seconds = 0.0
        self._known: dict[Header, Header] = {}
        self._sampled = max(1, -(-count // MEASURED_IMAGES))

    def keep(self, index: int, found: Finding | str) -> None:
        """Take in what an inspector found about one item."""
        if isinstance(found, str):
            self.reasons[index] = found
            return
        # Few headers differ, so that a million of them take little room.
        self.headers[index] = self._known.setdefault(found.header, found.header)
        self.file_digests[index], self.pixel_digests[index] = found.file_digest, found.pixel_digest
        self.file_sizes[index] = found.size_bytes
        self.hashes[index], self.thumbs[index] = found.print_hash, found.thumb
        if found.deep is not None and (index % self._sampled == 0 or not self.deep):
            self.deep[index] = found.deep

    @property
    def readable(self) -> list[int]:
        return [index for index, header in enumerate(self.headers) if header is not None]

    def ids(self, rows: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.source[row].id for row in rows)

    def prints(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], Prints]:
        """Of those rows whose images are large enough: rows, prints."""
        found = [(row, header) for row in rows if (header := self.headers[row]) is not None]
        large = [(row, h.width / h.height) for row, h in found if min(h.width, h.height) >= SMALLEST_SIDE]
        kept = np.array([row for row, _ in large], dtype=np.int64)
        aspects = np.array([aspect for _, aspect in large], dtype=np.float32)
        return kept, Prints(self.hashes[kept], self.thumbs[kept], aspects)

    def equal(self, digests: Sequence[bytes]) -> list[list[int]]:
        """Groups of readable rows with one digest, in order of their first row."""
        groups: dict[bytes, list[int]] = defaultdict(list)
        for row in self.readable:
            if digests[row]:
                groups[digests[row]].append(row)
        return [group for group in groups.values() if len(group) > 1]

    def near(self, equal: Sequence[Sequence[int]]) -> list[Match]:
        """Near duplicates, of each group of `equal` images only the first."""
        copies = {row for group in equal for row in group[1:]}
        rows, prints = self.prints([row for row in self.readable if row not in copies])
        at = rows.tolist()
        return [Match(at[p.first], at[p.second], p.similarity, p.bits) for p in near_duplicates(prints)]

    def equal_to(self, other: "Findings") -> list[Match]:
        """Rows here whose pixels are those of a row of `other`, with the first such row."""
        there: dict[bytes, int] = {}
        for row in reversed(other.readable):
            there[other.pixel_digests[row]] = row
        found = ((row, there.get(self.pixel_digests[row])) for row in self.readable)
        return [Match(row, match, 1.0, 0) for row, match in found if match is not None]

    def near_to(self, other: "Findings", *, but: Sequence[int]) -> list[Match]:
        """Rows here, without those of `but`, that nearly equal a row of `other`, with one such row each."""
        left_out = set(but)
        rows, prints = self.prints([row for row in self.readable if row not in left_out])
        others, other_prints = other.prints(other.readable)
        at, there = rows.tolist(), others.tolist()
        pairs = near_duplicates(other_prints, other=prints)
        return [
            Match(at[p.second], there[p.first], p.similarity, p.bits)
            for p in sorted(pairs, key=lambda pair: pair.second)
        ]

    def misnamed(self) -> list[tuple[int, str]]:
        """Rows whose ids end as another format's than the one they are of, and that format."""
        found = []
        for row in self.readable:
            header = self.headers[row]
            expected = FORMATS_OF.get(PurePosixPath(self.source[row].id).suffix.lower())
            format_ = "JPEG" if header is not None and header.format == "MPO" else header.format if header else ""
            if expected is not None and self.file_digests[row] and format_ != expected:
                found.append((row, format_))
        return found


def inspect_source(source: Source, *, request: Request, narrator: Narrator, what: str) -> Findings:
    """Examine every item of a source. Raises DataError where none is readable, ResourceError without processes."""
    found = Findings(source)
    order = source.storage_order.tolist() if is_stored(source) else range(len(source))
    start = time.perf_counter()
    inspect(order, lambda row: source[row].read(), found.keep, request=request, narrator=narrator, what=what)
    found.seconds = time.perf_counter() - start
    if not found.readable:
        first = "; ".join(f"{source[row].id!r}: {reason}" for row, reason in sorted(found.reasons.items())[:3])
        raise DataError(f"no readable image in {source.spec!r}: {first or 'it is empty'}")
    return found
