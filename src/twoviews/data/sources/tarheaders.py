"""The headers of a tar file (ustar, GNU, pax), walked without its members' bytes and with bounded memory.

The standard `tarfile` is several times slower, believes a header of 1 GB, searches it in quadratic time, and takes a
damaged header for the end. What it reads, this reads alike (held together by the tests).
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple
from zlib import adler32

from twoviews.errors import RefusedError

BLOCK = 512
HEADER_BYTES = 1 << 20  # of one long name or pax header
_EXTENSIONS = frozenset((b"L", b"K", b"x", b"X", b"g"))
_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"S": "sparse",
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "device",
}
_WITHOUT_BYTES = frozenset(("link", "device", "folder"))
_ZEROS = bytes(BLOCK)


class Damaged(Exception):
    """The archive cannot be walked beyond byte `offset`."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset


class Member(NamedTuple):
    """`kind`: "file", "sparse", "link", "device", "folder" or "other"; its first header at `start`, bytes at `data`."""

    name: str
    kind: str
    start: int
    data: int
    stored: int


def walk(file: BinaryIO, name: str) -> Iterator[Member]:
    """Every member to the end marker, or the end of the file behind a whole member; bytes beyond it may be missing.

    Raises Damaged where there is no further header, RefusedError for a header above 1 MB.
    """
    total = os.fstat(file.fileno()).st_size
    everywhere: dict[bytes, bytes] = {}
    position = 0
    while position < total:
        start = position
        extras: dict[bytes, bytes] = {}
        while True:
            block = _read(file, position, BLOCK)
            if block == _ZEROS:
                if position == start:
                    return
                raise Damaged(start, f"a header without its member at byte {start:,}")
            label, size, kind = _parse(block, position)
            position += BLOCK
            if kind not in _EXTENSIONS:
                break
            if size > HEADER_BYTES:
                raise RefusedError(
                    f"{name!r} has a header of {size:,} bytes at byte {position - BLOCK:,}, and none above "
                    f"{HEADER_BYTES:,} is read: pack it again"
                )
            payload = _read(file, position, size)
            position += _padded(size)
            if kind == b"L":
                extras.setdefault(b"path", payload.partition(b"\0")[0])
            elif kind != b"K":
                (everywhere if kind == b"g" else extras).update(_records(payload, start))
        member = _member(label, size, kind, everywhere | extras, start=start, data=position)
        if kind == b"S" and block[482]:
            member = member._replace(data=_skip_sparse_map(file, position))
        yield member
        position = member.data + _padded(member.stored)


def _member(label: bytes, size: int, type: bytes, extras: dict[bytes, bytes], *, start: int, data: int) -> Member:
    kind = _KINDS.get(type, "other")
    if extras:
        if kind == "file" and any(key.startswith(b"GNU.sparse.") for key in extras):
            kind = "sparse"
        label = extras.get(b"GNU.sparse.name") or extras.get(b"path") or label
        if b"size" in extras:
            size = _decimal(extras[b"size"], start)
    name = label.decode("utf-8", "surrogateescape")
    if kind == "file" and name[-1:] == "/":
        kind = "folder" if type == b"\0" else "other"
    if kind in _WITHOUT_BYTES:  # whatever size they give
        size = 0
    return Member(name, kind, start, data, size)


def _parse(block: bytes, at: int) -> tuple[bytes, int, bytes]:
    """Name, size and type. Raises Damaged if the block is no header."""
    try:
        claimed = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError as error:
        raise Damaged(at, f"no header at byte {at:,}") from error
    counted = b"".join((block[:148], b"        ", block[156:]))
    # The lower half of Adler-32 is 1 + the sum of the bytes modulo 65521: the checksum of the header, in C. Old
    # writers summed signed bytes.
    if adler32(counted) & 0xFFFF != (claimed + 1) % 65521 and claimed != sum(b - (b >> 7) * 256 for b in counted):
        raise Damaged(at, f"wrong checksum of the header at byte {at:,}")
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return name, size, block[156:157]


def _number(field: bytes) -> int:
    """Octal, or base 256 where the first bit is set. Raises ValueError if negative or above 2**62."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    else:
        value = int(field.partition(b"\0")[0].strip() or b"0", 8)
    if not 0 <= value < 1 << 62:
        raise ValueError(value)
    return value


def _decimal(text: bytes, at: int) -> int:
    if not text.isdigit() or len(text) > 18:
        raise Damaged(at, f"a size of {text[:20]!r} in the header at byte {at:,}")
    return int(text)


def _records(payload: bytes, at: int) -> dict[bytes, bytes]:
    """What counts of the records of a pax header, each "LENGTH KEY=VALUE" and a newline."""
    found: dict[bytes, bytes] = {}
    position, end = 0, len(payload.rstrip(b"\0"))
    while position < end:
        digits, _, _ = payload[position : position + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = payload[position + len(digits) + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or position + length > len(payload):
            raise Damaged(at, f"a pax header at byte {at:,} that makes no sense")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            found[key] = value
        position += length
    return found


def _skip_sparse_map(file: BinaryIO, position: int) -> int:
    """The end of the blocks that continue a GNU sparse header."""
    while _read(file, position, BLOCK)[504]:
        position += BLOCK
    return position + BLOCK


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    data = file.read(size)
    if len(data) < size:
        raise Damaged(position, f"the file ends inside a header at byte {position:,}")
    return data


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
