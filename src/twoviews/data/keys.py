"""What decoded images are found again by: ids and how they are decoded, the files' sizes and times, their bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from twoviews.data.decoding.decode import check_depth
from twoviews.data.decoding.photo import alone
from twoviews.data.pool import for_each
from twoviews.data.source import Raw, Source, is_stored
from twoviews.narrate import Narrator

_VERSION = 3  # raise it when decoding changes: what is cached then is not reused
# Which of them are there, and how old, decides what can be decoded, and to what.
_DECODERS = (
    *("tifffile", "imagecodecs", "pydicom", "python-gdcm"),
    *("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"),
)
UNREADABLE = b"unreadable".ljust(16)
"""The content of an item that cannot be read."""
# What Pillow notes of transparency, and where it looks for the orientation.
_NOTES = ("transparency", "exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Key:
    """What an entry of the cache is found by.

    ids      a digest of the items' ids
    how      how they are decoded
    stamp    a digest of the files' sizes, times and places
    content  see `content_of_source`; known where the items are no files, which then are all that `stamp` tells
    """

    ids: str
    how: str
    stamp: str
    content: str | None = None

    @property
    def names(self) -> str:
        """Of ids, settings, and what decodes."""
        decoders = " ".join(f"{name} {_installed(name)}" for name in _DECODERS)
        text = f"{_VERSION} {PIL.__version__} {decoders} {self.how} {self.ids}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def __str__(self) -> str:
        return f"{self.names}-{self.stamp}"

    def holds(self, source: Source) -> bool:
        """Whether the files are still those that the key was made of."""
        now = None if self.content is not None else cheap_key(source, how=self.how)
        return now is None or now.stamp == self.stamp


def cheap_key(source: Source, *, how: str) -> Key | None:
    """The key of a source decoded as `how` says, from files' times alone; None where items are no files."""
    stored = source.stamp if is_stored(source) else None
    ids, stamp = hashlib.sha256(), hashlib.sha256((stored or "").encode("utf-8", "surrogatepass"))
    for index in range(len(source)):
        item = source[index]
        ids.update(b"\0" + item.id.encode("utf-8", "surrogatepass"))
        if stored is not None:
            continue
        try:
            raw = item.read()
        except Exception:  # foreign code; decoding will list it among the rejected
            stamp.update(UNREADABLE)
            continue
        if not isinstance(raw, Path):
            return None
        stamp.update(file_stamp(raw))
    return Key(ids.hexdigest(), how, stamp.hexdigest()[:24])


def key_of(source: Source, *, how: str, narrator: Narrator) -> Key:
    """The key of any source: of what is no file, every item is read for it."""
    key = cheap_key(source, how=how)
    if key is not None:
        return key
    ids = hashlib.sha256()
    for index in range(len(source)):
        ids.update(b"\0" + source[index].id.encode("utf-8", "surrogatepass"))
    content = content_of_source(source, narrator=narrator)
    return Key(ids.hexdigest(), how, content[:24], content)


def content_of(raw: Raw) -> bytes:
    """16 bytes that tell the content of an undecoded image; `UNREADABLE` for what gives none."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        if isinstance(raw, Path):
            if not raw.is_file():  # opening a pipe would wait for ever
                return UNREADABLE
            with raw.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        elif isinstance(raw, bytes):
            digest.update(raw)
        else:
            if isinstance(raw, Image.Image):
                check_depth(raw)  # the array below loads the image
                with alone(raw):
                    digest.update(_around_pixels(raw).encode("utf-8", "surrogatepass"))
            array = np.ascontiguousarray(raw)
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    except Exception:  # foreign code, and lazily opened images
        return UNREADABLE
    return digest.digest()


def content_at(source: Source, index: int) -> bytes:
    """`content_of` one item."""
    try:
        return content_of(source[index].read())
    except Exception:
        return UNREADABLE


def content_of_source(source: Source, *, narrator: Narrator) -> str:
    """The content of all items, read for it in a few threads."""
    contents = [UNREADABLE] * len(source)

    def work(index: int) -> None:
        contents[index] = content_at(source, index)

    order: Sequence[int] = source.storage_order.tolist() if is_stored(source) else range(len(source))
    for_each(order, work, narrator=narrator, what="comparing images")
    return join_contents(contents)


def join_contents(contents: Sequence[bytes]) -> str:
    """The content of all items together, 16 bytes each."""
    return hashlib.sha256(b"".join(contents)).hexdigest()


def file_stamp(path: Path) -> bytes:
    """Size, times and place of a file: what tells cheaply whether it may have changed."""
    try:
        s = path.stat()
    except OSError:
        return b"missing "
    # Not size and time alone: files unpacked from two archives often share both.
    return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_dev} {s.st_ino} ".encode()


def _around_pixels(image: Image.Image) -> str:
    """What decides, besides the stored values, how an image looks."""
    palette = image.getpalette(None)  # first, as it loads the image, which may bring notes
    notes = [image.info.get(name) for name in _NOTES]
    return repr((image.mode, image.format, palette, notes, image.getexif().get(_ORIENTATION)))


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
