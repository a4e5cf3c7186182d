"""Zip files: the central directory is listed, members are read where they lie; nothing is extracted to disk."""

import stat
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from struct import error as StructError
from struct import unpack_from
from typing import IO, BinaryIO, cast

from twoviews.data.decoding.decode import Unreadable
from twoviews.data.sources.archives import MEMBER_BYTES, MemberSource, make_source, read_exactly, too_large
from twoviews.data.sources.indexes import list_once
from twoviews.data.sources.members import LABEL_BYTES, Collector, Listing, clean_name
from twoviews.errors import DataError, RefusedError

MEMBERS = 250_000
_DIRECTORY_BYTES = MEMBERS * 512
_COLUMNS = 5  # local header, bytes as stored, bytes, CRC-32, method
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_ENTRY, _LOCAL = 46, 30  # bytes of a directory's entry and of a local header, before their names
_LARGEST = 1 << 62


def open_zip(path: Path) -> MemberSource:
    """The images of a zip file; ids are the names of its members, labels and refused names as in `open_shards`.

    Members that are encrypted, neither stored nor deflated, above 256 MiB, or not of the size and checksum that the
    directory gives, are items that cannot be read, with the reason. Archives inside are not opened. Raises DataError
    for no zip, a name twice, no image; RefusedError for names that lead out of it, and above 250,000 members.

    >>> source = open_zip(Path("photos.zip"))  # doctest: +SKIP
    >>> source[0].id, source[0].label  # doctest: +SKIP
    ('cat/0.jpg', 'cat')
    """
    return make_source(str(path), [list_once(path, columns=_COLUMNS, walk=_list)], extract=_extract)


class _Counted:
    """The file as `zipfile` sees it; its directory is counted before objects are made of it, for counts can lie."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        data = b"" if size > _DIRECTORY_BYTES else self._file.read(size)
        position = count = 0
        if data.startswith(b"PK\1\2"):
            while position + _ENTRY <= len(data) and count <= MEMBERS:
                position += _ENTRY + sum(unpack_from("<HHH", data, position + 28))
                count += 1
        if size > _DIRECTORY_BYTES or count > MEMBERS:
            found = f"a directory of {size:,} bytes" if size > _DIRECTORY_BYTES else f"more than {MEMBERS:,} members"
            raise RefusedError(
                f"{str(self._path)!r} has {found}, more than is held in memory: unpack it, or pack it as tar shards"
            )
        return data


def _list(path: Path) -> Listing:
    collector = Collector(path, columns=_COLUMNS)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(cast(IO[bytes], _Counted(path, file))) as opened:
                entries = opened.infolist()
        # NotImplementedError: a version of the format that `zipfile` does not know.
        except (zipfile.BadZipFile, StructError, ValueError, EOFError, OSError, NotImplementedError) as error:
            raise DataError(f"{str(path)!r} is not a readable zip file: {error}; make or download it again") from error
    with path.open("rb", buffering=0) as file:
        for entry in entries:
            _collect(collector, path, file, entry)
    return collector.finish()


def _collect(collector: Collector, path: Path, file: BinaryIO, entry: zipfile.ZipInfo) -> None:
    mode = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
    raw = _name(entry)
    if raw.endswith("/") or mode not in (0, stat.S_IFREG):
        clean_name(raw, path)
        folder = raw.endswith("/") or mode == stat.S_IFDIR
        collector.skip("folder" if folder else "link" if mode == stat.S_IFLNK else "device")
        return
    name, use = collector.classify(raw)
    numbers = (entry.header_offset, entry.compress_size, entry.file_size, entry.CRC, entry.compress_type)
    place = [max(0, min(number, _LARGEST)) for number in numbers]
    reason = _why_not(entry)
    if use == "image":
        collector.add_image(name, place, reason=reason)
    elif use:
        collector.add_facts(name, use, partial(_extract_or, reason, file, place))


def _name(entry: zipfile.ZipInfo) -> str:
    """As it was meant: `zipfile` cuts it at a NUL, and takes names without the UTF-8 flag for those of DOS."""
    name = entry.orig_filename
    if not entry.flag_bits & 0x800 and not name.isascii():
        # macOS and others write UTF-8 without the flag; what is valid UTF-8 is hardly ever anything else.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if entry.create_system == 0 else name


def _why_not(entry: zipfile.ZipInfo) -> str:
    if entry.header_offset < 0:
        return "damaged: it would lie before the archive"
    if entry.flag_bits & 0x1:
        return "encrypted: unpack the archive with its password"
    if entry.compress_type not in (_STORED, _DEFLATED):
        return f"compressed by method {entry.compress_type}, and only stored and deflated members are read"
    largest = max(entry.file_size, entry.compress_size)
    return str(too_large(largest)) if largest > MEMBER_BYTES else ""


def _extract_or(reason: str, file: BinaryIO, place: Sequence[int]) -> bytes:
    if reason:
        raise Unreadable(reason)
    return _extract(file, place, limit=LABEL_BYTES)


def _extract(file: BinaryIO, place: Sequence[int], *, limit: int = MEMBER_BYTES) -> bytes:
    start, packed, size, checksum, method = place
    if max(size, packed) > limit:
        raise too_large(max(size, packed), limit)
    header = read_exactly(file, start, _LOCAL)
    if header[:4] != b"PK\3\4":
        raise Unreadable(f"damaged: no member at byte {start}")
    data = read_exactly(file, start + _LOCAL + sum(unpack_from("<HH", header, 26)), packed)
    if method == _DEFLATED:
        try:
            # One byte more than declared tells a member that lies about its size, whatever it would become.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise Unreadable(f"damaged: {error}") from error
    if len(data) != size:
        raise Unreadable(f"damaged: {'more' if len(data) > size else 'fewer'} than the {size:,} bytes declared")
    if zlib.crc32(data) != checksum:
        raise Unreadable("damaged: wrong checksum")
    return data
