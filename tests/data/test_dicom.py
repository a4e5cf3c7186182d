"""DICOM: in its units, upright in shade, one frame at a time, or the reason why not."""

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from twoviews.data.corpus import load_corpus
from twoviews.data.decoding.decode import OpenImage, Unreadable, decode
from twoviews.data.decoding.intensity import Intensity

Samples = Callable[..., NDArray[Any]]

WHOLE = Intensity("uint16")


def dicom(values: NDArray[Any], *, kind: str = "MONOCHROME2", **facts: Any) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["twoviews"])
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, data.file_meta.MediaStorageSOPInstanceUID
    colour = not kind.startswith(("MONO", "PALETTE"))
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
    data["PixelData"].VR = "OW"
    for name, value in facts.items():
        setattr(data, name, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def test_dicom_in_its_units_with_its_window(samples: Samples) -> None:
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


def test_dicom_of_every_kind(samples: Samples) -> None:
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8) * 90
    assert (samples(dicom(grey)) == grey[..., None]).all()
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
    for data in (dicom(grey)[:-40], dicom(np.stack([grey] * 9))[:-40]):
        with pytest.raises(Unreadable, match="a DICOM file that is cut short"):
            decode(data, intensity=WHOLE)
    with pytest.raises(Unreadable, match="PALETTE COLOR"):
        decode(dicom(grey, kind="PALETTE COLOR"))
    with pytest.raises(Unreadable, match="YBR_PARTIAL_420 and 3 samples a pixel: convert it to RGB"):
        decode(dicom(np.zeros((6, 8, 3), np.uint8), kind="YBR_PARTIAL_420"))
    bare = dicom(grey)
    bare = bare[: bare.index(b"\xe0\x7f\x10\x00")]
    floats = bare + struct.pack("<HH2sHL", 0x7FE0, 0x0008, b"OF", 0, 192) + bytes(192)
    for data in (bare, floats):
        with pytest.raises(Unreadable, match="a DICOM file without pixels of whole numbers"):
            decode(data, intensity=WHOLE)
    with pytest.raises(Unreadable, match="16 bits a channel"):
        decode(dicom(grey))
    with pytest.raises(Unreadable, match="40000 x 40000 pixels, above the limit"):
        decode(dicom(grey, Rows=40000, Columns=40000), intensity=WHOLE)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(Unreadable, match=r"needs pydicom, pip install 'twoviews\[dicom\]'"):
        decode(dicom(grey))


def element(tag: int, kind: bytes, value: bytes) -> bytes:
    length = struct.pack("<HL", 0, len(value)) if kind == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", 2, tag) + kind + length + value


@pytest.mark.parametrize("padding", [0, 5000, 1 << 20])
def test_what_is_deflated_is_not_inflated(padding: int) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, 64 << 20) + bytes(64 << 20)) + packer.flush()
    padded = element(1, b"OB", b"\0\1" + bytes(padding))
    bomb = bytes(128) + b"DICM" + padded + element(0x10, b"UI", DeflatedExplicitVRLittleEndian.encode()) + packed
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="deflated as a whole: write it again"):
            decode(bomb, intensity=WHOLE)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    plain = dicom(np.full((6, 8), 9, np.uint16))
    at = plain.index(b"\2\0\1\0OB")
    assert (decode(plain[:at] + padded + plain[at + 14 :], intensity=WHOLE) == 0).all()


def test_a_header_without_end_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.dcm"
    head = bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 1, b"OB", 0, 1 << 30)
    file.write_bytes(head)
    os.truncate(file, len(head) + (1 << 30))
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="a DICOM file whose header is larger than 64 MB"):
            decode(file, intensity=WHOLE)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "facts", "window"),
    [
        (np.uint16, {}, (900.0, 1100.0)),
        (np.uint16, {"BitsStored": 12, "HighBit": 11}, (900.0, 1100.0)),
        (np.int16, {"BitsStored": 12, "HighBit": 11}, (900.0, 1100.0)),
        (np.int16, {"RescaleSlope": 3, "RescaleIntercept": -1024}, (900.0, 1100.0)),
        (np.uint8, {}, (900.0, 1100.0)),
    ],
    ids=["16 bits", "12 bits", "signed", "rescaled", "8 bits"],
)
def test_a_picture_has_the_same_values_whichever_way_it_is_stored(
    kind: Any, facts: dict[str, int], window: tuple[float, float], samples: Samples
) -> None:
    bits = facts.get("BitsStored", 8 * np.dtype(kind).itemsize)
    low = -(1 << bits - 1) if np.dtype(kind).kind == "i" else 0
    high = low + (1 << bits) - 1
    plain = np.random.default_rng(0).integers(low, high, (6, 8), endpoint=True).astype(kind)
    plain[0, :2] = low, high
    mirrored = (low + high - plain.astype(np.int64)).astype(kind)
    slope, offset = facts.get("RescaleSlope", 1), facts.get("RescaleIntercept", 0)
    total = slope * (low + high) + 2 * offset  # of the least and the greatest value, in units
    first = dicom(plain, WindowCenter=1000, WindowWidth=200, **facts)
    second = dicom(mirrored, kind="MONOCHROME1", WindowCenter=total - 1000, WindowWidth=200, **facts)
    assert samples(first).dtype == samples(second).dtype == ("float32" if "RescaleSlope" in facts else kind)
    np.testing.assert_array_equal(samples(second), samples(first))
    for data in (first, second):
        with OpenImage(data) as image:
            assert image.window == window


def test_colour_differences_become_rgb_once() -> None:
    rgb = np.random.default_rng(0).integers(60, 190, (6, 8, 3), dtype=np.uint8)
    stored = convert_color_space(rgb, "RGB", "YBR_FULL")
    found = decode(dicom(stored, kind="YBR_FULL"))
    np.testing.assert_allclose(found.astype(int), rgb.astype(int), atol=2)


def test_of_many_frames_only_the_one_that_is_taken_is_decoded(samples: Samples) -> None:
    frames = np.random.default_rng(0).integers(0, 4000, (40, 128, 128), dtype=np.uint16)
    plain = dicom(frames)
    packed = pydicom.dcmread(io.BytesIO(plain))
    packed.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, packed, enforce_file_format=True)
    for data in (plain, stream.getvalue()):
        samples(data)
        tracemalloc.start()
        found = samples(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (found[..., 0] == frames[0]).all()
        assert peak < frames.nbytes / 4
    with pytest.raises(Unreadable, match="40 channels, above the limit of 32"):
        samples(plain, pages="channels")


@pytest.mark.parametrize("suffix", [".dcm", ".DICOM"])
def test_a_folder_of_dicom_files(tmp_path: Path, suffix: str) -> None:
    for index in range(6):
        values = np.random.default_rng(index).integers(0, 4000, (10, 12), dtype=np.uint16)
        (tmp_path / f"{index}{suffix}").write_bytes(dicom(values, WindowCenter=2000, WindowWidth=4000))
    corpus = load_corpus(tmp_path)
    assert corpus.values.shape == (6, 10, 12, 1)
    assert corpus.rejected == ()
    assert corpus.intensity == "file"
