"""16 bits, floats, bands and stacks: every value where it belongs, or the reason why not."""

import io
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.decoding import decode as decode_module
from twoviews.data.decoding import photo
from twoviews.data.decoding.decode import Unreadable, decode
from twoviews.data.decoding.intensity import Intensity
from twoviews.errors import DataError, UsageError
from twoviews.narrate import Narrator

Samples = Callable[..., NDArray[Any]]

WHOLE = Intensity("uint16")
RAMP = np.linspace(0, 65535, 6 * 8).astype(np.uint16).reshape(6, 8)


# First row, first column, and the steps from there, of the seven passes (PNG specification, 8.2).
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(values: NDArray[np.uint16], *, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of 16 bits a channel, by its specification; alpha is the last of 2 or 4 channels."""
    height, width, channels = values.shape
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    passes = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, kinds[channels], 0, 0, int(interlaced))
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tif(values: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_keeps_every_bit(channels: int, samples: Samples) -> None:
    values = np.stack([np.roll(RAMP, c) for c in range(channels)], axis=2)
    data = png16(values)
    assert (samples(data) == values).all()
    assert (decode(data, intensity=WHOLE) == np.rint(values / 257)).all()


def test_a_16_bit_ramp_is_not_white() -> None:
    plain = np.asarray(Image.open(io.BytesIO(png16(RAMP[..., None]))).convert("L"))
    assert (plain == 255).mean() > 0.9  # what the usual one-liner makes of it
    assert (decode(png16(RAMP[..., None]), intensity=WHOLE) == 255).mean() < 0.05


@pytest.mark.parametrize(("channels", "background"), [(2, "white"), (4, "white"), (4, "#800000")])
def test_16_bit_transparency_lies_over_the_background(channels: int, background: str, samples: Samples) -> None:
    values = np.full((4, 4, channels), 20000, np.uint16)
    values[:2, :, -1], values[2:, :, -1] = 0, 65535
    found = samples(png16(values), background=background)
    paper = {"white": (65535,) * 3, "#800000": (0x8080, 0, 0)}[background]
    assert found[0, 0].tolist() == list(paper[: channels - 1])
    assert (found[3] == 20000).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_16_bit_png_with_a_broken_checksum_is_refused(channels: int) -> None:
    data = bytearray(png16(np.stack([RAMP] * channels, axis=2)))
    data[data.index(b"IEND") - 5] ^= 0xFF
    with pytest.raises(Unreadable, match="wrong checksum of IDAT"):
        decode(bytes(data), intensity=WHOLE)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_interlaced_16_bit_png(channels: int, samples: Samples) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (13, 11, channels), dtype=np.uint16)
    np.testing.assert_array_equal(samples(png16(values, interlaced=True)), samples(png16(values)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_16_bit_png_stands_upright(orientation: int, channels: int, samples: Samples) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (6, 8, channels), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png16(values, extra=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    turned = {1: values, 3: np.rot90(values, 2), 6: np.rot90(values, -1), 8: np.rot90(values, 1)}[orientation]
    np.testing.assert_array_equal(samples(data), turned)


def test_the_clear_colour_of_a_16_bit_png_lies_over_the_background(samples: Samples) -> None:
    for channels, paper in ((1, 0.299 * 0x8080), (3, (0x8080, 0, 0))):
        values = np.full((4, 5, channels), 20000, np.uint16)
        values[0], values[1, :, 0] = 20001, 20001
        data = png16(values, extra=chunk(b"tRNS", struct.pack(f">{channels}H", *[20001] * channels)))
        expected = values.copy()
        expected[0] = np.rint(paper)
        if channels == 1:
            expected[1] = np.rint(paper)
        np.testing.assert_array_equal(samples(data, background="#800000"), expected)


@pytest.mark.parametrize(
    ("options", "limit"),
    [({}, 1.6), ({"size": (64, 64)}, 1.6), ({"channels": 1}, 1.6)],
    ids=["whole", "resized", "grey"],
)
def test_a_large_deep_image_needs_little_more_than_its_values(options: dict[str, Any], limit: float) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (1500, 1500, 3), dtype=np.uint16)
    decode(values, intensity=WHOLE, **options)
    tracemalloc.start()
    decode(values, intensity=WHOLE, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < limit * values.nbytes + (16 << 20)  # and a strip's worth of temporary copies


def test_large_deep_images_are_scaled_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo, "_LARGE_PIXELS", 10)
    inside, most = [], []
    shades = decode_module._shades

    def watch(*arguments: Any, **options: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        result = shades(*arguments, **options)
        inside.pop()
        return result

    monkeypatch.setattr(decode_module, "_shades", watch)
    values = np.random.default_rng(0).integers(0, 65536, (300, 300, 3), dtype=np.uint16)
    threads = [threading.Thread(target=decode, args=(values,), kwargs={"intensity": WHOLE}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 24
    assert max(most) == 1


CUBE = np.random.default_rng(0).integers(0, 5000, (13, 6, 8), dtype=np.uint16)


def test_bands_of_arrays_are_no_transparency() -> None:
    bands = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    assert (decode(bands) == bands).all()
    assert decode(bands, size=(3, 2)).shape == (2, 3, 4)
    with pytest.raises(Unreadable, match="4 channels, where 3 are wanted"):
        decode(bands, channels=3)


def test_resizing_deep_values_is_antialiased_and_clips_last() -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 1000.0).astype(np.float32)
    assert (decode(checks, size=(8, 8), intensity=Intensity.parse("range:0,1000")) == 128).mean() > 0.9
    bright = checks * 1e9  # far out of range: white and black mix to grey, as they would in a picture
    assert abs(int(decode(bright, size=(8, 8), intensity=Intensity.parse("range:0,1000")).mean()) - 128) < 3


def test_nan_is_black_and_infinity_white() -> None:
    values = np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32)
    assert decode(values, intensity=Intensity.parse("range:0,1"))[..., 0].tolist() == [[0, 255], [0, 128]]


# Whole sets


def pool(folder: Path, images: dict[str, bytes]) -> Path:
    for name, data in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def narrow(seed: int, *, low: int = 1000, high: int = 1200) -> NDArray[np.uint16]:
    """16-bit values in a narrow range, as instruments give them."""
    return np.random.default_rng(seed).integers(low, high, (10, 12), dtype=np.uint16)


def loaded(spec: Any, **options: Any) -> tuple[Corpus, dict[str, Any]]:
    narrator = Narrator()
    return load_corpus(spec, narrator=narrator, **options), narrator.decisions


def test_the_range_of_a_16_bit_pool_is_measured_told_and_recorded(tmp_path: Path) -> None:
    folder = pool(tmp_path / "pool", {f"{i}.png": png16(narrow(i)[..., None]) for i in range(8)})
    corpus, decisions = loaded(folder)
    assert corpus.values.shape == (8, 10, 12, 1)
    assert corpus.values.max() == 255
    assert corpus.values.min() == 0
    assert abs(corpus.values.mean() - 127) < 5
    assert corpus.intensity.startswith("range:1000")
    assert decisions["data.intensity"]["value"] == corpus.intensity
    assert "values from 1,000 to 1,199" in decisions["data.intensity"]["reason"]
    # Other data is scaled by what was recorded, not by itself.
    other = pool(tmp_path / "other", {"a.png": png16(narrow(0, low=1100, high=1101)[..., None])})
    again, decisions = loaded(other, intensity=corpus.intensity)
    assert abs(int(again.values[0, 0, 0, 0]) - 128) < 3
    assert again.intensity == corpus.intensity
    assert "data.intensity" not in decisions


def test_the_measured_range_does_not_depend_on_threads_or_disk(tmp_path: Path) -> None:
    folder = pool(tmp_path / "pool", {f"{i}.tif": tif(narrow(i)) for i in range(9)})
    first = load_corpus(folder)
    second = load_corpus(folder, cache_dir=tmp_path / "cache", memory_limit=0)
    found = load_corpus(folder, cache_dir=tmp_path / "cache", memory_limit=0)
    assert first.fingerprint == second.fingerprint == found.fingerprint
    assert first.intensity == second.intensity == found.intensity


def test_the_few_of_another_depth_are_left_out_with_the_way_to_take_them(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((10, 12), 99, np.uint8)).save(stream, "PNG")
    images = {f"{i}.png": stream.getvalue() for i in range(3)} | {"deep.png": png16(narrow(0)[..., None])}
    folder = pool(tmp_path / "pool", images)
    corpus, _ = loaded(folder)
    (left_out,) = corpus.rejected
    assert left_out.id == "deep.png"
    assert left_out.reason == "16 bits a channel among images of 8 bits a channel: set data.intensity to take both"
    assert len(load_corpus(folder, intensity="uint16")) == 4
    (folder / "0.png").write_bytes(images["deep.png"])
    (folder / "1.png").write_bytes(images["deep.png"])
    corpus, _ = loaded(folder)
    assert [item.reason.partition(":")[0] for item in corpus.rejected] == [
        "8 bits a channel among images of 16 bits a channel"
    ]


def test_deep_images_are_refused_where_8_bits_were_asked_for(tmp_path: Path) -> None:
    folder = pool(tmp_path / "pool", {f"{i}.tif": tif(narrow(i)) for i in range(3)})
    with pytest.raises(DataError, match=r"no readable image .*only 8 bits a channel are taken as they are"):
        load_corpus(folder, intensity="uint8")


def test_13_bands_have_a_range_each(tmp_path: Path) -> None:
    scale = np.arange(1, 14, dtype=np.uint16)[:, None, None]
    images = {
        f"{i}.tif": tif(narrow(i, low=0, high=100)[None] * scale, photometric="minisblack", planarconfig="separate")
        for i in range(6)
    }
    corpus, _ = loaded(pool(tmp_path / "pool", images))
    assert corpus.values.shape == (6, 10, 12, 13)
    assert corpus.intensity.count(";") == 12
    means = corpus.values.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(means, means[0], atol=1)


def test_images_of_other_bands_are_left_out(tmp_path: Path) -> None:
    images = {f"{i}.tif": tif(CUBE[:5], photometric="minisblack", planarconfig="separate") for i in range(4)}
    images["odd.tif"] = tif(CUBE[:7], photometric="minisblack", planarconfig="separate")
    corpus, _ = loaded(pool(tmp_path / "pool", images))
    assert [(item.id, item.reason) for item in corpus.rejected] == [
        ("odd.tif", "7 channels, where 5 are stored"),
    ]


def test_arrays_of_any_type() -> None:
    deep = np.random.default_rng(0).normal(50, 10, (20, 8, 9, 3)).astype(np.float32)
    corpus, decisions = loaded((deep, np.arange(20) % 2))
    assert corpus.values.dtype == np.uint8
    assert 120 < corpus.values.mean() < 135
    assert decisions["data.intensity"]["value"] == corpus.intensity
    bands = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 7), dtype=np.uint8)
    assert load_corpus(bands).values is bands


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intensity": "unit8"}, "cannot read intensity 'unit8'"),
        ({"background": "whight"}, "unknown colour 'whight'"),
        ({"pages": "all"}, "pages is 'all'"),
        ({"channels": 33}, "channels is 33"),
    ],
)
def test_settings_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_corpus("digits", **options)
