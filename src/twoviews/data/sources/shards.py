"""Tar files, as WebDataset and `tar` write them: listed once, then read by position; nothing is extracted to disk."""

import io
import re
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from twoviews.data.decoding.decode import Unreadable
from twoviews.data.sources.archives import MEMBER_BYTES, MemberSource, make_source, read_exactly, too_large
from twoviews.data.sources.indexes import list_once
from twoviews.data.sources.members import LABEL_BYTES, Collector, Listing, clean_name
from twoviews.data.sources.tarheaders import Damaged, Member, walk
from twoviews.errors import DataError, RefusedError

_COLUMNS = 3  # bytes, how many, and for a sparse member how long its headers before them, else 0
_EMPTY = 100_000
_BUFFER = 1 << 14  # small members share a read, large ones are skipped
_SPARSE_HEADER = 1 << 15  # `tarfile` searches a sparse member's header in quadratic time
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def open_shards(paths: Sequence[Path], *, spec: str, split: str | None = None) -> MemberSource:
    """The images of tar files, one or many as one source; ids are the names of the members.

    The label of `a/0.jpg` is in `a/0.cls`, or under `label`, `cls` or `class` in `a/0.json`, its group there under
    `group`; without such files, the folders give labels as in `open_folder`. Where two shards have a member of one
    name, all ids begin with their shard's file name. `split` keeps the shards with that word in their names, else the
    folder of that name. Links, devices and folders are counted in `skipped`, never followed or made. A member that
    is cut short, or bytes where no header can be found, are items that cannot be read, with the reason.

    Raises DataError for no tar, a compressed one, a name twice in one shard, no image; RefusedError for absolute
    names, names with "..", and headers above 1 MB: one such member, and nothing of the archive is used.

    >>> source = open_shards([Path("0000.tar"), Path("0001.tar")], spec="shards")  # doctest: +SKIP
    >>> source[0].id, source[0].label  # doctest: +SKIP
    ('cat/0.jpg', 'cat')
    """
    shards = sorted({path.resolve(): path for path in reversed(paths)}.values())
    folder = None
    if split is not None:
        named = [path for path in shards if split.lower() in re.split(r"[\W_]+", path.stem.lower())]
        shards, folder = (named, None) if named else (shards, split)
    listed = [list_once(path, columns=_COLUMNS, walk=_list) for path in shards]
    return make_source(spec, listed, extract=_extract, folder=folder)


def _list(path: Path) -> Listing:
    collector, members, empty = Collector(path, columns=_COLUMNS), 0, 0
    with path.open("rb", buffering=_BUFFER) as file:
        _require_plain(path, file.read(8))
        try:
            for member in walk(file, str(path)):
                members += 1
                _collect(collector, path, file, member)
                empty += member.kind == "file" and not member.stored
                if empty > _EMPTY:
                    raise RefusedError(
                        f"{str(path)!r} has more than {_EMPTY:,} members of 0 bytes, which are no images but fill the "
                        "memory: pack it again without them"
                    )
        except Damaged as error:
            if not members:
                raise DataError(f"{str(path)!r} is no tar archive: {error}") from error
            collector.add_lost(f"{path.name}@{error.offset}", f"{error}: what lies behind it is lost; pack it again")
    return collector.finish()


def _collect(collector: Collector, path: Path, file: BinaryIO, member: Member) -> None:
    if member.kind not in ("file", "sparse"):
        clean_name(member.name, path)
        collector.skip(member.kind)
        return
    name, use = collector.classify(member.name)
    place = (member.data, member.stored, member.data - member.start if member.kind == "sparse" else 0)
    if use == "image":
        collector.add_image(name, place)
    elif use:
        collector.add_facts(name, use, partial(_extract, file, place, limit=LABEL_BYTES))


def _require_plain(path: Path, head: bytes) -> None:
    if not head:
        raise DataError(f"{str(path)!r} is empty: 0 bytes; make or download it again")
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(
                f"{str(path)!r} is compressed as a whole ({kind}), so no item can be read by itself: decompress it once"
            )


def _extract(file: BinaryIO, place: Sequence[int], *, limit: int = MEMBER_BYTES) -> bytes:
    data, stored, headers = place
    if stored > limit:
        raise too_large(stored, limit)
    if not headers:
        return read_exactly(file, data, stored)
    if headers > _SPARSE_HEADER:
        raise Unreadable(f"stored as a sparse file with headers of {headers:,} bytes; pack it without --sparse")
    blob = read_exactly(file, data - headers, headers + stored)
    try:
        with tarfile.open(fileobj=io.BytesIO(blob), mode="r:") as tar:
            member = tar.next()
            stream = None if member is None else tar.extractfile(member)
            if member is None or stream is None:
                raise Unreadable("a sparse member that cannot be read")
            if member.size > limit:
                raise too_large(member.size, limit)
            content = stream.read()
    except (tarfile.TarError, ValueError, OSError, IndexError, OverflowError) as error:
        raise Unreadable(f"a sparse member that cannot be read: {error}"[:200]) from error
    if len(content) != member.size:
        raise Unreadable(f"cut short: {len(content):,} of {member.size:,} bytes are there")
    return content
