"""16 bits, floats, bands and stacks: every value where it belongs, or the reason why not."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from twoviews.data import tiff
from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.decode import OpenImage, Unreadable, decode
from twoviews.data.intensity import Intensity
from twoviews.errors import DataError, UsageError
from twoviews.narrate import Narrator

WHOLE = Intensity("uint16")
RAMP = np.linspace(0, 65535, 6 * 8).astype(np.uint16).reshape(6, 8)


def png16(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel, by its specification; alpha is the last of 2 or 4 channels."""
    height, width, channels = values.shape
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2").reshape(height, -1))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, kinds[channels], 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tif(values: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def dicom(values: NDArray[Any], *, kind: str = "MONOCHROME2", **facts: Any) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["twoviews"])
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, data.file_meta.MediaStorageSOPInstanceUID
    colour = kind == "RGB"
    data.Rows, data.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 3 if colour else 1, kind
    if colour:
        data.PlanarConfiguration = 0
    if values.ndim == 3 and not colour:
        data.NumberOfFrames = len(values)
    bits = 8 * values.dtype.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in facts.items():
        setattr(data, name, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def samples(raw: Any, **options: Any) -> NDArray[Any]:
    with OpenImage(raw, **options) as image:
        values = image.samples()
        header = image.header
        assert values.shape == (header.height, header.width, header.channels)
        assert values.dtype.name == header.depth
        return values


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_keeps_every_bit(channels: int) -> None:
    values = np.stack([np.roll(RAMP, c) for c in range(channels)], axis=2)
    data = png16(values)
    assert (samples(data) == values).all()
    assert (decode(data, intensity=WHOLE) == np.rint(values / 257)).all()


def test_a_16_bit_ramp_is_not_white() -> None:
    plain = np.asarray(Image.open(io.BytesIO(png16(RAMP[..., None]))).convert("L"))
    assert (plain == 255).mean() > 0.9  # what the usual one-liner makes of it
    assert (decode(png16(RAMP[..., None]), intensity=WHOLE) == 255).mean() < 0.05


@pytest.mark.parametrize(("channels", "background"), [(2, "white"), (4, "white"), (4, "#800000")])
def test_16_bit_transparency_lies_over_the_background(channels: int, background: str) -> None:
    values = np.full((4, 4, channels), 20000, np.uint16)
    values[:2, :, -1], values[2:, :, -1] = 0, 65535
    found = samples(png16(values), background=background)
    paper = {"white": (65535,) * 3, "#800000": (0x8080, 0, 0)}[background]
    assert found[0, 0].tolist() == list(paper[: channels - 1])
    assert (found[3] == 20000).all()


def test_a_16_bit_png_with_a_broken_checksum_is_refused() -> None:
    data = bytearray(png16(np.stack([RAMP] * 3, axis=2)))
    data[60] ^= 0xFF
    with pytest.raises(Unreadable, match="wrong checksum of IDAT"):
        decode(bytes(data), intensity=WHOLE)


CUBE = np.random.default_rng(0).integers(0, 5000, (13, 6, 8), dtype=np.uint16)

# name: (bytes, values as (H, W, C))
TIFFS: dict[str, tuple[bytes, NDArray[Any]]] = {
    "16-bit RGB": (tif(np.moveaxis(CUBE[:3], 0, 2), photometric="rgb"), np.moveaxis(CUBE[:3], 0, 2)),
    "16-bit grey": (tif(CUBE[0]), CUBE[0][..., None]),
    "big-endian grey": (tif(CUBE[0], byteorder=">"), CUBE[0][..., None]),
    "32-bit integers": (tif(CUBE[0].astype(np.int32) * 9999), CUBE[0][..., None].astype(np.int32) * 9999),
    "float grey": (tif(CUBE[0] / np.float32(7)), CUBE[0][..., None] / np.float32(7)),
    "float64": (tif(CUBE[0] / 7.0), CUBE[0][..., None] / 7.0),
    "signed": (tif(CUBE[0].astype(np.int16) - 2500), CUBE[0][..., None].astype(np.int16) - 2500),
    "13 planes": (tif(CUBE, photometric="minisblack", planarconfig="separate"), np.moveaxis(CUBE, 0, 2)),
    "13 bands a pixel": (
        tif(np.moveaxis(CUBE, 0, 2), photometric="minisblack", planarconfig="contig"),
        np.moveaxis(CUBE, 0, 2),
    ),
    "8-bit bands": (
        tif(np.moveaxis(CUBE[:5], 0, 2).astype(np.uint8), photometric="minisblack", planarconfig="contig"),
        np.moveaxis(CUBE[:5], 0, 2).astype(np.uint8),
    ),
    "ImageJ channels": (tif(CUBE[:5], imagej=True, metadata={"axes": "CYX"}), np.moveaxis(CUBE[:5], 0, 2)),
    "OME channels": (tif(CUBE[:5], ome=True, metadata={"axes": "CYX"}), np.moveaxis(CUBE[:5], 0, 2)),
    "deflated": (
        tif(CUBE[:4], photometric="minisblack", planarconfig="separate", compression="zlib"),
        np.moveaxis(CUBE[:4], 0, 2),
    ),
    "BigTIFF": (
        tif(CUBE[:3], bigtiff=True, photometric="minisblack", planarconfig="separate"),
        np.moveaxis(CUBE[:3], 0, 2),
    ),
    "white is zero": (
        tif(CUBE[:2], photometric="miniswhite", planarconfig="separate"),
        65535 - np.moveaxis(CUBE[:2], 0, 2),
    ),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_values_arrive_as_they_are(name: str) -> None:
    data, expected = TIFFS[name]
    np.testing.assert_array_equal(samples(data), expected)
    low, high = float(expected.min()), float(expected.max())
    shades = decode(data, intensity=Intensity("range", ((low, high),)))
    np.testing.assert_allclose(shades, (expected.astype(float) - low) * 255 / (high - low), atol=0.51)


def test_pages_are_the_first_or_channels_and_it_is_said() -> None:
    data = tif(CUBE[:5])
    with OpenImage(data) as image:
        assert (image.header.channels, image.header.note) == (1, "the first of several pages")
    assert (samples(data) == CUBE[0][..., None]).all()
    assert (samples(data, pages="channels") == np.moveaxis(CUBE[:5], 0, 2)).all()
    assert (samples(TIFFS["ImageJ channels"][0], pages="first") == CUBE[0][..., None]).all()


def test_time_and_depth_are_taken_at_their_first_place() -> None:
    stack = np.random.default_rng(1).integers(0, 99, (2, 3, 4, 6, 8), dtype=np.uint16)
    data = tif(stack, imagej=True, metadata={"axes": "TZCYX"})
    with OpenImage(data) as image:
        assert image.header.note == "the first place of axes T, Z"
    assert (samples(data) == np.moveaxis(stack[0, 0], 0, 2)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_stand_upright(orientation: int) -> None:
    values = np.moveaxis(CUBE[:3], 0, 2)
    data = tif(values, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    upright = {1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1]}
    turned = values.transpose(1, 0, 2)
    upright |= {5: turned, 6: turned[:, ::-1], 7: turned[::-1, ::-1], 8: turned[::-1]}
    np.testing.assert_array_equal(samples(data), upright[orientation])


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (
            tif(np.zeros((40, 6, 8), np.uint16), photometric="minisblack", planarconfig="separate"),
            {},
            "40 channels, above",
        ),
        (tif(np.zeros((6, 8, 3), np.uint16), photometric="cielab"), {}, "colours|colour mode"),
        (TIFFS["13 planes"][0][:-200], {}, "."),
        (tif(CUBE[:5])[:300], {"pages": "channels"}, "."),
        (b"II*\0" + bytes(60), {}, "."),
    ],
    ids=["too many bands", "Lab", "cut short", "cut in the first page", "no pages"],
)
def test_tiffs_that_cannot_be_used_say_why(data: bytes, options: dict[str, str], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as caught, OpenImage(data, **options) as image:  # type: ignore[arg-type]
        image.samples()
    assert "\n" not in str(caught.value)


def test_without_tifffile_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "find_spec", lambda name: None)
    with pytest.raises(Unreadable, match=r"needs tifffile, pip install 'twoviews\[science\]'"):
        decode(TIFFS["13 planes"][0])
    assert samples(TIFFS["16-bit grey"][0]).shape == (6, 8, 1)  # Pillow can
    with OpenImage(TIFFS["ImageJ channels"][0]) as image:
        assert image.header.note == "the first of several pages"


def test_dicom_in_its_units_with_its_window() -> None:
    stored = np.arange(48, dtype=np.int16).reshape(6, 8) * 50
    facts = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": [40, 50], "WindowWidth": [400, 500]}
    data = dicom(stored, **facts)
    np.testing.assert_array_equal(samples(data), stored[..., None] * 2.0 - 1024)
    with OpenImage(data) as image:
        assert image.window == (-160.0, 240.0)
        assert image.header.format == "DICOM"
    shades = decode(data, intensity=Intensity("file"))
    expected = ((stored * 2.0 - 1024 + 160) * 255 / 400).clip(0, 255)
    np.testing.assert_allclose(shades[..., 0], expected, atol=0.51)


def test_dicom_of_every_kind() -> None:
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8) * 90
    assert (samples(dicom(grey)) == grey[..., None]).all()
    inverted = dicom(grey, kind="MONOCHROME1", WindowCenter=1000, WindowWidth=200)
    assert (samples(inverted) == -grey[..., None].astype(np.float32)).all()
    with OpenImage(inverted) as image:
        assert image.window == (-1100.0, -900.0)
    byte = grey.astype(np.uint8)
    assert (decode(dicom(byte)) == byte[..., None]).all()
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert (decode(dicom(rgb, kind="RGB")) == rgb).all()
    frames = np.stack([grey, grey + 1, grey + 2])
    with OpenImage(dicom(frames)) as image:
        assert (image.header.channels, image.header.note) == (1, "the first of 3 frames")
    assert (samples(dicom(frames)) == grey[..., None]).all()
    assert (samples(dicom(frames), pages="channels") == np.moveaxis(frames, 0, 2)).all()


def test_dicom_that_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.zeros((6, 8), np.uint16)
    with pytest.raises(Unreadable, match=r"."):
        decode(dicom(grey)[:-40], intensity=WHOLE)
    with pytest.raises(Unreadable, match="PALETTE COLOR"):
        decode(dicom(grey, kind="PALETTE COLOR"))
    with pytest.raises(Unreadable, match="16 bits a channel"):
        decode(dicom(grey))
    with pytest.raises(Unreadable, match="40000 x 40000 pixels, above the limit"):
        decode(dicom(grey, Rows=40000, Columns=40000), intensity=WHOLE)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(Unreadable, match=r"needs pydicom, pip install 'twoviews\[dicom\]'"):
        decode(dicom(grey))


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
    assert corpus.intensity.startswith("range:1000,11")
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
