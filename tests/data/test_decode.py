"""Row 16 of the hostile files: each accepted with the right pixels or rejected with its reason."""

import gzip
import io
import os
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from twoviews.data.decoding import photo as photo_module
from twoviews.data.decoding.decode import OpenImage, Unreadable, decode
from twoviews.errors import DataError

Maker = Callable[[], bytes]
FLAT = (200, 100, 50)


def flat(mode: str = "RGB", colour: Any = FLAT, size: tuple[int, int] = (16, 12)) -> Image.Image:
    return Image.new(mode, size, colour)


def save(image: Image.Image, kind: str, /, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise_jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return save(Image.fromarray(pixels), "JPEG")


def cut(data: bytes, percent: int) -> bytes:
    return data[: len(data) * percent // 100]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + extra + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    return png(side, side, 1, 0, bytes((side // 8 + 1) * side))


def png16(colour: int, samples: int) -> bytes:
    ramp = np.linspace(0, 65535, 8 * 8 * samples).astype(">u2").reshape(8, -1)
    return png(8, 8, 16, colour, b"".join(b"\0" + row.tobytes() for row in ramp))


def tiff_rgb16() -> bytes:
    pixels = np.full((4, 4, 3), 30000, "<u2").tobytes()
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 300), (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, len(pixels))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return (head.ljust(200, b"\0") + struct.pack("<HHH", 16, 16, 16)).ljust(300, b"\0") + pixels


def broken_crc(kind: bytes) -> bytes:
    data = bytearray(save(flat(), "PNG"))
    at = data.index(kind)
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length] ^= 0xFF
    return bytes(data)


def animated(kind: str) -> bytes:
    return save(flat(), kind, save_all=True, append_images=[flat(colour=(0, 0, 0))], **_lossless(kind))


def _lossless(kind: str) -> dict[str, Any]:
    return {"lossless": True} if kind == "WEBP" else {}


def transparent_palette() -> bytes:
    image = flat("P", 1)
    image.putpalette([0, 0, 0, *FLAT])
    return save(image, "PNG", transparency=1)


def fits_gzip() -> bytes:
    cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 9999", "NAXIS2  = 9999", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + gzip.compress(bytes(100_000))


REJECTED: dict[str, tuple[Maker, str]] = {
    "zero bytes": (lambda: b"", "empty: 0 bytes"),
    "text": (lambda: b"this is a letter to my aunt\n" * 9, "no image that can be read"),
    "JPEG cut at 10 %": (lambda: cut(noise_jpeg(), 10), "no image|[Tt]runcated"),
    "JPEG cut at 50 %": (lambda: cut(noise_jpeg(), 50), "truncated"),
    "JPEG cut at 90 %": (lambda: cut(noise_jpeg(), 90), "truncated"),
    "PNG cut": (lambda: cut(save(flat(), "PNG"), 90), "truncated"),
    "PNG without its end": (lambda: save(flat(), "PNG")[:-12], "truncated PNG"),
    "GIF cut": (lambda: cut(save(Image.effect_noise((64, 64), 90), "GIF"), 50), "truncated"),
    "PNG, CRC of the header": (lambda: broken_crc(b"IHDR"), "no image|checksum"),
    "PNG, CRC of the pixels": (lambda: broken_crc(b"IDAT"), "wrong checksum of IDAT"),
    "PNG of 144 Mpx": (lambda: bomb(12000), "12000 x 12000 pixels, above the limit of 100 million"),
    "PNG of 400 Mpx": (lambda: bomb(20000), "too many pixels, above the limit of 100 million"),
    "16-bit grey PNG": (lambda: png16(0, 1), "16 bits a channel"),
    "16-bit grey and alpha PNG": (lambda: png16(4, 2), "16 bits a channel"),
    "16-bit RGB PNG": (lambda: png16(2, 3), "16 bits a channel"),
    "16-bit RGBA PNG": (lambda: png16(6, 4), "16 bits a channel"),
    "16-bit RGB TIFF": (tiff_rgb16, "16 bits a channel"),
    "16-bit grey TIFF": (lambda: save(flat("I;16", 3000), "TIFF"), "16 bits a channel"),
    "16-bit RGB PPM": (lambda: b"P6 2 2 65535\n" + bytes(24), "16 bits a channel"),
    "16-bit grey PGM": (lambda: b"P5 2 2 65535\n" + bytes(8), "32-bit integers|16 bits a channel"),
    "float TIFF": (lambda: save(flat("F", 0.5), "TIFF"), "floating-point"),
    "32-bit TIFF": (lambda: save(flat("I", 70000), "TIFF"), "32-bit integers"),
    "Lab TIFF": (lambda: save(flat("LAB", (90, 0, 0)), "TIFF"), "colour mode LAB"),
    "JPEG 2000": (lambda: save(flat(), "JPEG2000"), "no image that can be read"),
    "FITS gzip bomb": (fits_gzip, "no image that can be read"),
}

# name: (bytes, upright size, mean of each channel)
ACCEPTED: dict[str, tuple[Maker, tuple[int, int], tuple[float, ...]]] = {
    "RGB PNG": (lambda: save(flat(), "PNG"), (16, 12), FLAT),
    "L PNG": (lambda: save(flat("L", 77), "PNG"), (16, 12), (77,)),
    "1-bit PNG": (lambda: save(flat("1", 1), "PNG"), (16, 12), (255,)),
    "palette PNG": (lambda: save(flat().quantize(4), "PNG"), (16, 12), FLAT),
    "CMYK JPEG": (lambda: save(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (16, 12), (255, 0, 0)),
    "LA PNG": (lambda: save(flat("LA", (100, 0)), "PNG"), (16, 12), (255,)),
    "LA PNG, half": (lambda: save(flat("LA", (55, 128)), "PNG"), (16, 12), (154.6,)),
    "RGBA PNG": (lambda: save(flat("RGBA", (*FLAT, 0)), "PNG"), (16, 12), (255, 255, 255)),
    "RGBA PNG, half": (lambda: save(flat("RGBA", (*FLAT, 128)), "PNG"), (16, 12), (227.4, 177.2, 152.1)),
    "RGBA WebP": (lambda: save(flat("RGBA", (*FLAT, 0)), "WEBP", lossless=True), (16, 12), (255, 255, 255)),
    "P with transparency": (transparent_palette, (16, 12), (255, 255, 255)),
    "L with tRNS": (lambda: save(flat("L", 9), "PNG", transparency=9), (16, 12), (255,)),
    "RGB with tRNS": (lambda: save(flat(), "PNG", transparency=FLAT), (16, 12), (255, 255, 255)),
    "animated GIF": (lambda: animated("GIF"), (16, 12), FLAT),
    "animated WebP": (lambda: animated("WEBP"), (16, 12), FLAT),
    "animated PNG": (lambda: animated("PNG"), (16, 12), FLAT),
    "multi-page TIFF": (lambda: animated("TIFF"), (16, 12), FLAT),
    "deflated TIFF": (lambda: save(flat(), "TIFF", compression="tiff_deflate"), (16, 12), FLAT),
    "MPO": (lambda: save(flat(), "MPO", save_all=True, append_images=[flat()]), (16, 12), FLAT),
    "BMP": (lambda: save(flat(), "BMP"), (16, 12), FLAT),
    "PPM": (lambda: save(flat(), "PPM"), (16, 12), FLAT),
    "1x1": (lambda: save(flat(size=(1, 1)), "PNG"), (1, 1), FLAT),
    "1x20000": (lambda: save(flat(size=(1, 20000)), "PNG"), (1, 20000), FLAT),
    "ICC profile": (lambda: save(flat(), "PNG", icc_profile=b"\0" * 200), (16, 12), FLAT),
    "broken optional chunk": (
        lambda: png(1, 1, 8, 0, b"\0\x07", chunk(b"tEXt", b"a\0b")[:-1] + b"!"),
        (1, 1),
        (7,),
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_with_its_reason(name: str) -> None:
    make, reason = REJECTED[name]
    with pytest.raises(Unreadable, match=reason) as caught:
        decode(make())
    text = str(caught.value)
    assert " at 0x" not in text
    assert "\n" not in text
    assert caught.value.exit_code == DataError.exit_code


@pytest.mark.parametrize("resized", [False, True], ids=["whole", "resized"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_with_the_right_pixels(name: str, resized: bool) -> None:
    make, size, mean = ACCEPTED[name]
    data = make()
    with OpenImage(data) as image:
        assert (image.header.width, image.header.height) == size
        assert image.header.channels == len(mean)
    pixels = decode(data, size=(7, 5) if resized else None)
    assert pixels.shape == ((5, 7) if resized else size[::-1]) + (len(mean),)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.mean((0, 1)), mean, atol=1)


QUADRANTS = np.kron(np.array([[10, 90], [170, 250]], np.uint8), np.ones((16, 24), np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "late PNG", "deflated TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(QUADRANTS)
    if kind == "late PNG":
        rows = b"".join(b"\0" + row.tobytes() for row in QUADRANTS)
        late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        data = png(48, 32, 8, 0, rows, late)
    elif kind == "deflated TIFF":
        data = save(image, "TIFF", exif=exif, compression="tiff_deflate")
    else:
        quality = {"quality": 95} if kind in ("JPEG", "AVIF") else {}
        data = save(image.convert("RGB"), kind, exif=exif, **_lossless(kind), **quality)
    # Where the stored rows and columns go, by the EXIF standard (CIPA DC-008, 4.6.4).
    upright = {
        1: QUADRANTS,
        2: QUADRANTS[:, ::-1],
        3: QUADRANTS[::-1, ::-1],
        4: QUADRANTS[::-1],
        5: QUADRANTS.T,
        6: QUADRANTS[::-1].T,
        7: QUADRANTS[::-1, ::-1].T,
        8: QUADRANTS[:, ::-1].T,
    }[orientation]
    for raw in (data, Image.open(io.BytesIO(data))):
        with OpenImage(raw) as opened:
            assert (opened.header.height, opened.header.width) == upright.shape
    whole = decode(data, channels=1)[..., 0]
    inner = np.s_[4::8, 4::8]
    np.testing.assert_allclose(whole[inner].astype(int), upright[inner].astype(int), atol=8)
    small = decode(data, size=(2, 2), channels=1)[..., 0].astype(int)
    corners = upright[:: upright.shape[0] - 1, :: upright.shape[1] - 1].astype(int)
    assert (np.argsort(small.ravel()) == np.argsort(corners.ravel())).all()


@pytest.mark.parametrize("name", ["photo.jpg", "photo.gif", "photo"])
def test_the_content_counts_and_not_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(save(flat(), "PNG"))
    assert decode(path).mean((0, 1)).tolist() == list(FLAT)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(Unreadable, match="not a regular file"):
        decode(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(Unreadable, match="not a regular file"):
        decode(tmp_path / "pipe.jpg")


def test_reduced_decoding_stays_close_to_the_whole_image() -> None:
    data = save(Image.fromarray(QUADRANTS).resize((960, 640)), "JPEG", quality=95)
    slow = np.asarray(Image.open(io.BytesIO(data)).resize((40, 30), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode(data, size=(40, 30))[..., 0].astype(int) - slow).max() <= 4


def test_transparency_is_laid_over_white_before_edges_mix() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 255)  # the transparent half is black inside
    small = decode(save(Image.fromarray(pixels), "PNG"), size=(2, 1))
    assert small[0, 1, 0] == 255
    assert small[0, 1, 1] > 128


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 4), np.uint16), "16 bits a channel.*: only 8 bits a channel are taken as they are"),
        (np.zeros((4, 4, 3), np.float32), "floating-point values.*: only 8 bits"),
        (np.zeros((4, 4), np.complex64), "array of complex64"),
        (np.zeros((4, 4, 33), np.uint8), "33 channels, above the limit of 32"),
        (np.zeros((0, 4), np.uint8), "nothing to see"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        decode(array)


def test_arrays_and_pillow_images_stay_as_they_are() -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    decoded = decode(array)
    assert (decoded == array).all()
    decoded[:] = 0  # a copy
    assert array.any()
    assert decode(array[..., :1], channels=3).shape == (9, 7, 3)
    assert decode(array, channels=1).shape == (9, 7, 1)
    image = Image.open(io.BytesIO(save(Image.fromarray(array).resize((640, 640)), "JPEG")))
    assert decode(image, size=(8, 8)).shape == (8, 8, 3)
    assert image.size == (640, 640)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a\n b"), RecursionError("deep"), AssertionError()])
def test_whatever_a_decoder_raises_becomes_a_reason(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    data = save(flat(), "PNG")
    monkeypatch.setattr(Image.Image, "tobytes", fail)
    expected = {"MemoryError": "out of memory", "RuntimeError": "RuntimeError: a b"}
    with pytest.raises(Unreadable, match=expected.get(type(error).__name__, type(error).__name__)):
        decode(data)


def test_no_warning_leaks_and_the_filters_come_back() -> None:
    data = bomb(12000)  # Pillow warns above 89 million pixels
    before = list(warnings.filters)

    def refuse() -> None:
        with pytest.raises(Unreadable):
            decode(data)

    threads = [threading.Thread(target=refuse) for _ in range(8)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(warnings.filters) == inside
    assert caught == []
    assert list(warnings.filters) == before


@pytest.mark.parametrize("opened", [False, True], ids=["bytes", "Pillow"])
def test_large_images_are_decoded_one_at_a_time(opened: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_module, "_LARGE_PIXELS", 10)
    inside, most = [], []
    load = JpegImageFile.load

    def watch(image: JpegImageFile) -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        result = load(image)
        inside.pop()
        return result

    monkeypatch.setattr(JpegImageFile, "load", watch)
    data = noise_jpeg()
    raws = [Image.open(io.BytesIO(data)) if opened else data for _ in range(8)]
    threads = [threading.Thread(target=decode, args=(raw,)) for raw in raws]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) >= 8


def test_the_header_of_a_pillow_image_loads_nothing() -> None:
    image = Image.open(io.BytesIO(noise_jpeg()))
    with OpenImage(image) as opened:
        assert (opened.header.width, opened.header.height, opened.header.channels) == (64, 64, 3)
        assert getattr(image, "tile", None)
        assert np.array_equal(opened.pixels(), decode(noise_jpeg()))


def test_a_pillow_image_that_breaks_off() -> None:
    with OpenImage(Image.open(io.BytesIO(cut(noise_jpeg(), 50)))) as opened:
        assert opened.header.width == 64
        with pytest.raises(Unreadable, match="truncated"):
            opened.pixels()


def test_orientation_tag_with_an_impossible_value_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(save(flat(), "JPEG", exif=exif)).shape == (12, 16, 3)
    assert decode(save(flat(), "JPEG", exif=b"Exif\0\0nonsense")).shape == (12, 16, 3)
