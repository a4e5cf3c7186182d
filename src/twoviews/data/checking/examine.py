"""What is measured about one image, decoded in full: header, digests, hash and thumbnail, range of deep values."""

import base64
import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.assemble import Storage
from twoviews.data.checking.prints import SQUARE, perceptual_hash, squeeze, thumbnail16
from twoviews.data.decoding.decode import Header, OpenImage
from twoviews.data.decoding.intensity import AUTO_PERCENTILES, Intensity, measure, some_pixels
from twoviews.data.source import Raw
from twoviews.views.shown import visible_rgb

LARGE_PIXELS = 16_000_000
"""Above, an 8-bit image is decoded to a smaller size, and is only decoded when its turn has come."""
REDUCED_SIDE = 2048
SAMPLED_PIXELS = 1024
CRISP_SIDE = 48
"""Pictures up to this side are shown losslessly."""
EIGHT_BITS = "uint8"


@dataclass(frozen=True, slots=True)
class Deep:
    """Of an image of more than 8 bits: lowest and highest value, the shares that 8 bits would clip, some pixels.

    pixels  (P, C) in the image's own type, evenly spaced
    """

    low: float
    high: float
    white: float
    black: float
    pixels: NDArray[Any]
    window: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one readable image.

    size_bytes   of the encoded file; 0 for arrays, whose `file_digest` is empty
    file_digest, pixel_digest  16 bytes; the second of shape and values as decoded
    print_hash   64 bits, `thumb` (16, 16) uint8 grey: see `duplicates`
    picture      an encoded image to be shown, where one was asked for
    """

    header: Header
    size_bytes: int
    file_digest: bytes
    pixel_digest: bytes
    print_hash: int
    thumb: NDArray[np.uint8]
    deep: Deep | None = None
    picture: bytes = b""


class Large(Exception):
    """The image has many pixels: to be asked for again when there is memory."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.pixels = pixels


def examine(raw: Raw, storage: Storage, *, picture: int = 0, wait: bool = False) -> Finding:
    """Decode one image and measure it. `picture`: the longer side of an image to be shown, 0 for none.

    Raises Unreadable for what cannot be decoded, and with `wait` Large for what needs much memory.
    """
    with storage.open(raw) as image:
        header = image.header
        pixels = header.width * header.height * max(1, header.channels // 3)
        if wait and pixels > LARGE_PIXELS:
            raise Large(pixels)
        window = image.window
        values = _decoded(image)
    deep = None
    if header.depth != EIGHT_BITS:
        deep, shades = _look_deep(values, window)
    else:
        shades = values
    square = _square(shades)
    return Finding(
        header,
        *_digest_file(raw),
        _digest_pixels(values, header),
        int(perceptual_hash(square)),
        thumbnail16(square),
        deep,
        _picture(shades, header, picture) if picture else b"",
    )


def _decoded(image: OpenImage) -> NDArray[Any]:
    header = image.header
    if header.depth == EIGHT_BITS and header.width * header.height > LARGE_PIXELS:
        share = REDUCED_SIDE / max(header.width, header.height)
        return image.pixels(size=(max(1, round(header.width * share)), max(1, round(header.height * share))))
    return image.samples()


def _look_deep(values: NDArray[Any], window: tuple[float, float] | None) -> tuple[Deep, NDArray[np.uint8]]:
    """Facts of deep values, and the image in 8 bits by its own percentiles."""
    pixels = some_pixels(values, SAMPLED_PIXELS)
    finite = pixels[np.isfinite(pixels)].astype(np.float64)
    if not len(finite):
        return Deep(0.0, 0.0, 0.0, 0.0, pixels, window), np.zeros(values.shape, np.uint8)
    own, _ = measure(Intensity("percentile", (AUTO_PERCENTILES,)), [pixels], windows=[None])
    # Floats of all pixels of a large image would need eight times its memory.
    step = math.ceil(math.sqrt(values.shape[0] * values.shape[1] / LARGE_PIXELS))
    shades = np.nan_to_num(own.apply(values[::step, ::step])).clip(0, 255).astype(np.uint8)
    white, black = float(np.mean(finite > 255)), float(np.mean(finite < 0.5))
    return Deep(float(finite.min()), float(finite.max()), white, black, pixels, window), shades


def _square(shades: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, C) to (32, 32) grey; Pillow's box filter is the mean of each cell, without a copy in floats."""
    planes = [Image.fromarray(np.ascontiguousarray(shades[..., c])) for c in range(shades.shape[2])]
    if len(planes) == 3:
        planes = [Image.merge("RGB", planes).convert("L")]
    small = [np.asarray(plane.resize((SQUARE, SQUARE), Image.Resampling.BOX), np.float32) for plane in planes]
    return squeeze(np.mean(small, axis=0))


def _digest_pixels(values: NDArray[Any], header: Header) -> bytes:
    shape = f"{header.width} {header.height} {header.channels} {values.dtype.name}".encode()
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16, key=shape).digest()


def _digest_file(raw: Raw) -> tuple[int, bytes]:
    if not isinstance(raw, bytes | Path):
        return 0, b""
    digest, size = hashlib.blake2b(digest_size=16), 0
    for block in _blocks(raw):
        digest.update(block)
        size += len(block)
    return size, digest.digest()


def _blocks(raw: bytes | Path) -> Iterator[bytes]:
    if isinstance(raw, bytes):
        yield raw
        return
    with raw.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _picture(shades: NDArray[np.uint8], header: Header, side: int) -> bytes:
    image = Image.fromarray(visible_rgb(np.ascontiguousarray(shades)))
    share = side / max(header.width, header.height)
    if share < 1:
        size = max(1, round(header.width * share)), max(1, round(header.height * share))
        image = image.resize(size, Image.Resampling.BOX)
    stream = io.BytesIO()
    if max(image.size) <= CRISP_SIDE:
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=82)
    return stream.getvalue()


def to_json(found: Finding) -> dict[str, Any]:
    """Plain values, for a pipe."""
    deep = found.deep
    return {
        "header": asdict(found.header),
        "size_bytes": found.size_bytes,
        "file_digest": found.file_digest.hex(),
        "pixel_digest": found.pixel_digest.hex(),
        "print_hash": found.print_hash,
        "thumb": _packed(found.thumb.tobytes()),
        "picture": _packed(found.picture),
        "deep": deep
        and {
            **{name: getattr(deep, name) for name in ("low", "high", "white", "black", "window")},
            "dtype": deep.pixels.dtype.str,
            "channels": deep.pixels.shape[1],
            "pixels": _packed(np.ascontiguousarray(deep.pixels).tobytes()),
        },
    }


def from_json(told: dict[str, Any]) -> Finding:
    """What `to_json` wrote."""
    deep = told["deep"]
    return Finding(
        Header(**told["header"]),
        told["size_bytes"],
        bytes.fromhex(told["file_digest"]),
        bytes.fromhex(told["pixel_digest"]),
        told["print_hash"],
        np.frombuffer(base64.b64decode(told["thumb"]), np.uint8).reshape(16, 16),
        deep
        and Deep(
            deep["low"],
            deep["high"],
            deep["white"],
            deep["black"],
            pixels=np.frombuffer(base64.b64decode(deep["pixels"]), deep["dtype"]).reshape(-1, deep["channels"]),
            window=tuple(deep["window"]) if deep["window"] else None,
        ),
        base64.b64decode(told["picture"]),
    )


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
