"""TIFF: every value where it belongs, of one page or of a stack, or the reason why not."""

import gc
import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.decoding import tiff, tiffpages
from twoviews.data.decoding.decode import OpenImage, Unreadable, decode
from twoviews.data.decoding.intensity import Intensity

Samples = Callable[..., NDArray[Any]]

CUBE = np.random.default_rng(0).integers(0, 5000, (13, 6, 8), dtype=np.uint16)


def tif(values: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


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
def test_tiff_values_arrive_as_they_are(name: str, samples: Samples) -> None:
    data, expected = TIFFS[name]
    np.testing.assert_array_equal(samples(data), expected)
    low, high = float(expected.min()), float(expected.max())
    shades = decode(data, intensity=Intensity("range", ((low, high),)))
    np.testing.assert_allclose(shades, (expected.astype(float) - low) * 255 / (high - low), atol=0.51)


def test_pages_are_the_first_or_channels_and_it_is_said(samples: Samples) -> None:
    data = tif(CUBE[:5])
    with OpenImage(data) as image:
        assert (image.header.channels, image.header.note) == (1, "the first of several pages")
    assert (samples(data) == CUBE[0][..., None]).all()
    assert (samples(data, pages="channels") == np.moveaxis(CUBE[:5], 0, 2)).all()
    assert (samples(TIFFS["ImageJ channels"][0], pages="first") == CUBE[0][..., None]).all()


def test_time_and_depth_are_taken_at_their_first_place(samples: Samples) -> None:
    stack = np.random.default_rng(1).integers(0, 99, (2, 3, 4, 6, 8), dtype=np.uint16)
    data = tif(stack, imagej=True, metadata={"axes": "TZCYX"})
    with OpenImage(data) as image:
        assert image.header.note == "the first place of axes T, Z"
    assert (samples(data) == np.moveaxis(stack[0, 0], 0, 2)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_stand_upright(orientation: int, samples: Samples) -> None:
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
def test_tiffs_that_cannot_be_used_say_why(data: bytes, options: dict[str, str], reason: str, samples: Samples) -> None:
    with pytest.raises(Unreadable, match=reason) as caught, OpenImage(data, **options) as image:  # type: ignore[arg-type]
        image.samples()
    assert "\n" not in str(caught.value)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tifffile."""
    monkeypatch.setattr(tiff, "find_spec", lambda name: None)


NEEDS = r"a TIFF of deep colour, bands or pages: it needs tifffile, pip install 'twoviews\[science\]'"


@pytest.mark.parametrize("name", ["13 planes", "13 bands a pixel", "8-bit bands", "16-bit RGB", "signed", "float64"])
@pytest.mark.usefixtures("bare")
def test_without_tifffile_it_is_named(name: str, samples: Samples) -> None:
    with pytest.raises(Unreadable, match=NEEDS):
        samples(TIFFS[name][0])


@pytest.mark.usefixtures("bare")
def test_without_tifffile_pillow_does_what_it_can(samples: Samples) -> None:
    for name in ("16-bit grey", "32-bit integers", "float grey"):
        np.testing.assert_array_equal(samples(TIFFS[name][0]), TIFFS[name][1])
    for name in ("ImageJ channels", "OME channels"):
        with OpenImage(TIFFS[name][0]) as image:
            assert image.header.note == (
                "the first of several pages: its channels need tifffile, pip install 'twoviews[science]'"
            )
            np.testing.assert_array_equal(image.samples(), TIFFS[name][1][..., :1])
    with OpenImage(tif(CUBE[:2], metadata=None)) as image:
        assert image.header.note == "the first of several pages"


BYTES = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
WIDE = (np.arange(48, dtype=np.uint32) + 2**31 - 24).reshape(6, 8)


@pytest.mark.parametrize("pages", ["auto", "first", "channels"])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tif(WIDE), WIDE),
        (tif(BYTES.view(np.int8)), BYTES.view(np.int8)),
        (tif(CUBE[0], photometric="miniswhite"), 65535 - CUBE[0]),
        (tif(BYTES, photometric="miniswhite"), 255 - BYTES),
        (tif(CUBE[0].astype(np.int16) - 2500, photometric="miniswhite"), 2499 - CUBE[0].astype(np.int16)),
        (tif(BYTES > 99, photometric="minisblack"), (BYTES > 99) * np.uint8(255)),
        (tif(BYTES > 99, photometric="miniswhite"), (BYTES <= 99) * np.uint8(255)),
    ],
    ids=["uint32", "int8", "white zero 16", "white zero 8", "white zero signed", "bits", "white zero bits"],
)
def test_every_kind_of_grey_in_every_way(data: bytes, expected: NDArray[Any], pages: str, samples: Samples) -> None:
    found = samples(data, pages=pages)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found[..., 0], expected)


def test_floats_with_white_zero_have_no_meaning(samples: Samples) -> None:
    with pytest.raises(Unreadable, match="white is zero has no agreed meaning"):
        samples(tif(CUBE[0] / np.float32(3), photometric="miniswhite"))


@pytest.mark.parametrize("photometric", ["rgb", "minisblack", "miniswhite"])
def test_alpha_that_is_multiplied_in_already_is_not_multiplied_again(photometric: str, samples: Samples) -> None:
    colours = 3 if photometric == "rgb" else 1
    plain = np.full((4, 5, colours + 1), 40000, np.uint16)
    plain[..., -1] = np.array([0, 13107, 32768, 52428, 65535])
    associated = plain.copy()
    associated[..., :-1] = np.rint(plain[..., :-1] * (plain[..., -1:] / 65535.0))
    if photometric == "miniswhite":
        plain[..., 0], associated[..., 0] = 65535 - plain[..., 0], 65535 - associated[..., 0]
    opaque = plain[..., -1] / 65535.0
    expected = 40000 * opaque + 65535 * (1 - opaque)
    for values, kind in ((plain, "unassalpha"), (associated, "assocalpha")):
        found = samples(tif(values, photometric=photometric, extrasamples=[kind]))
        np.testing.assert_allclose(found.astype(int), np.stack([expected] * colours, axis=2), atol=1)


def tagged(values: NDArray[Any], text: str, **options: Any) -> bytes:
    """With GDAL's tag of the value that stands for missing."""
    return tif(values, extratags=[(42113, 2, 0, text, True)], **options)


def test_what_is_missing_is_nan(samples: Samples) -> None:
    values = CUBE[:3].astype(np.uint16) + 1
    values[:, 0, :3] = 0
    for data, plain in (
        (tagged(values[0], "0"), values[:1]),
        (tagged(values, "0", photometric="minisblack", planarconfig="separate"), values),
        (tagged(values[0].astype(np.int16), "0"), values[:1]),
        (tagged(values[0].astype(np.float32), "0"), values[:1]),
    ):
        expected = np.moveaxis(plain, 0, 2).astype(np.float32)
        expected[0, :3] = np.nan
        np.testing.assert_array_equal(samples(data), expected)
        shades = decode(data, intensity=Intensity("range", ((-5000.0, 5000.0),)))
        assert (shades[0, :3] == 0).all()
        assert shades[1:].min() > 100
    wide = WIDE.copy()
    wide[0] = 2**32 - 1
    found = samples(tagged(wide, "4294967295"))
    assert found.dtype == np.float64
    assert np.isnan(found[0]).all()
    assert (found[1:, :, 0] == wide[1:]).all()
    lowest = np.where(CUBE[0] < 500, np.finfo(np.float32).min, CUBE[0].astype(np.float32))
    assert (np.isnan(samples(tagged(lowest, "-3.4028234663852886e+38"))[..., 0]) == (CUBE[0] < 500)).all()


@pytest.mark.parametrize("text", ["-9999", "70000", "1.5", "nan", "none"])
def test_what_no_value_can_be_is_not_missing(text: str, samples: Samples) -> None:
    np.testing.assert_array_equal(samples(tagged(CUBE[0], text)), CUBE[0][..., None])


def test_missing_bytes_are_black(samples: Samples) -> None:
    colours = np.stack([BYTES] * 3, axis=2)
    colours[0], colours[1, :, 0] = 255, 255
    found = samples(tagged(colours, "255", photometric="rgb"))
    assert found.dtype == np.uint8
    assert (found[0] == 0).all()
    np.testing.assert_array_equal(found[1:], colours[1:])  # one full colour is no missing pixel
    np.testing.assert_array_equal(samples(tagged(BYTES, "0"))[..., 0], BYTES)
    assert samples(tagged(BYTES, "20", photometric="miniswhite"))[0, 4] == 0


def ome(data: str, *, planes: int = 2, count: int = 2, root: str = "") -> bytes:
    """`count` pages of 6 x 8, described by OME as `planes` channels with these entries."""
    xml = (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {root}><Image ID="a">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="8" SizeY="6" SizeC="{planes}" SizeZ="1" '
        f'SizeT="1">{data}</Pixels></Image></OME>'
    )
    return tif(CUBE[:count], description=xml, metadata=None, photometric="minisblack")


def entry(name: str, *, channel: int, page: int, uuid: str = "urn:uuid:b") -> str:
    return f'<TiffData FirstC="{channel}" IFD="{page}" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID></TiffData>'


OWN = entry("a.tif", channel=0, page=0, uuid="urn:uuid:a")


@pytest.mark.parametrize("kept", ["file", "bytes"])
@pytest.mark.parametrize("name", ["../other.tif", "other.tif"])
def test_ome_opens_no_other_file(tmp_path: Path, name: str, kept: str, samples: Samples) -> None:
    (tmp_path / "in").mkdir()
    data = ome(OWN + entry(name, channel=1, page=0), root='UUID="urn:uuid:a"')
    for folder in (tmp_path, tmp_path / "in"):
        (folder / "other.tif").write_bytes(tif(CUBE[9:11], metadata=None))
    path = tmp_path / "in" / "a.tif"
    path.write_bytes(data)
    raw = path if kept == "file" else data
    for pages in ("auto", "channels"):
        with pytest.raises(Unreadable, match=f"OME-TIFF with planes in another file, '{name}': set data.pages to fi"):
            samples(raw, pages=pages)
    np.testing.assert_array_equal(samples(raw, pages="first"), CUBE[0][..., None])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ome("<TiffData/>", planes=3), "an OME-TIFF of 3 planes, of which 2 are in the file: set data.pages to first"),
        (ome("<TiffData/>", planes=10**9), "an OME-TIFF of 1000000000 planes, of which 2"),
        (ome('<TiffData IFD="0" PlaneCount="1000000000"/>'), "an OME-TIFF of 1000000000 planes, of which 2"),
        (ome("<TiffData/>", planes=2, count=1), "an OME-TIFF of 2 planes, of which 1"),
        (ome("<TiffData/>").replace(b"</Pixels>", b"</Pixelz>"), "whose description is broken"),
        (ome("<TiffData/>").replace(b"Pixels", b"Binary"), "an OME-TIFF that another file describes"),
        (ome(entry("../a.tif", channel=0, page=0), planes=2), "planes in another file"),
        (ome('<TiffData IFD="0" PlaneCount="1"/>'), "an OME-TIFF of which a plane is not in the file"),
    ],
    ids=["lost", "endless", "endless entry", "one page", "broken", "companion", "climbs", "half"],
)
def test_ome_that_cannot_be_used_says_why(data: bytes, reason: str, samples: Samples) -> None:
    with pytest.raises(Unreadable, match=reason):
        samples(data)


@pytest.mark.parametrize("kept", ["file", "bytes"])
def test_ome_that_names_itself_is_read_under_any_name(tmp_path: Path, kept: str, samples: Samples) -> None:
    entries = entry("was.tif", channel=0, page=1) + entry("was.tif", channel=1, page=0)
    for data in (ome(entries), ome(entries, root='UUID="urn:uuid:b"')):
        path = tmp_path / "is.tif"
        path.write_bytes(data)
        found = samples(path if kept == "file" else data)
        np.testing.assert_array_equal(found, np.moveaxis(CUBE[[1, 0]], 0, 2))


VIRTUAL = {"imagej": True, "metadata": {"axes": "CYX"}}


@pytest.mark.parametrize("pages", ["auto", "channels"])
@pytest.mark.parametrize("options", [{}, {"truncate": True}, {"compression": "zlib"}], ids=["pages", "one", "zlib"])
def test_a_stack_that_is_cut_short_has_not_fewer_channels(
    options: dict[str, Any], pages: str, samples: Samples
) -> None:
    if "compression" in options:
        data = tif(
            CUBE[:3],
            description="ImageJ=1.53\nimages=5\nchannels=5\n",
            metadata=None,
            photometric="minisblack",
            **options,
        )
    else:
        whole = tif(CUBE[:5], **VIRTUAL, **options)
        np.testing.assert_array_equal(samples(whole, pages=pages), np.moveaxis(CUBE[:5], 0, 2))
        data = whole[: whole.index(CUBE[4].tobytes()) + 20]
    with pytest.raises(Unreadable, match=r"cut short"):
        samples(data, pages=pages)


def test_a_plain_stack_that_is_cut_short_has_not_fewer_channels(samples: Samples) -> None:
    data = tif(CUBE[:5], metadata=None, contiguous=False)
    with pytest.raises(Unreadable, match=r"a TIFF that is cut short: its page \d is not in the file"):
        samples(data[: len(data) * 3 // 4], pages="channels")
    assert samples(data, pages="channels").shape == (6, 8, 5)


def test_pages_in_a_circle_end(samples: Samples) -> None:
    data = bytearray(tif(CUBE[0], metadata=None))
    (start,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<L", data, start + 2 + 12 * count, start)
    with pytest.raises(Unreadable, match="runs in a circle"):
        samples(bytes(data), pages="channels")


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {"ome": True, "compression": "zlib"}])
def test_of_a_hyperstack_only_its_first_place_is_decoded(options: dict[str, Any], samples: Samples) -> None:
    stack = np.random.default_rng(0).integers(0, 4000, (20, 3, 2, 64, 64), dtype=np.uint16)
    data = tif(stack, metadata={"axes": "TZCYX"}, **options)
    samples(data)
    tracemalloc.start()
    found = samples(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.moveaxis(stack[0, 0], 0, 2))
    assert peak < stack.nbytes / 2


def test_too_many_values_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch, samples: Samples) -> None:
    monkeypatch.setattr(tiffpages, "MAX_VALUES", 200)
    with pytest.raises(Unreadable, match=r"5 TIFF pages of shape \(6, 8\): too many values"):
        OpenImage(TIFFS["ImageJ channels"][0])
    assert samples(TIFFS["ImageJ channels"][0], pages="first").shape == (6, 8, 1)


def test_a_codec_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, samples: Samples) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "TIFF", compression="tiff_lzw")
    assert samples(stream.getvalue()).shape == (9, 9, 3)  # Pillow can
    monkeypatch.setattr(tifffile.TiffPage, "asarray", _without_codecs)
    with pytest.raises(Unreadable, match="a TIFF compressed by LZW: it needs imagecodecs, pip install imagecodecs"):
        samples(stream.getvalue(), pages="channels")


def _without_codecs(*_: Any, **__: Any) -> None:
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")


def test_files_are_closed_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], samples: Samples
) -> None:
    crowded = tif(np.zeros((4, 5, 9), np.uint8), photometric="minisblack", planarconfig="contig")
    cut = TIFFS["ImageJ channels"][0][:500]
    for index, data in enumerate([crowded, cut, *(data for data, _ in TIFFS.values())]):
        path = tmp_path / f"{index}.tif"
        path.write_bytes(data)
        for pages in ("auto", "first", "channels"):
            try:
                with OpenImage(path, pages=pages) as image:
                    image.samples()
            except Unreadable:
                pass
        path.rename(tmp_path / "done.tif")
    gc.collect()  # a file left open would warn, and warnings are errors
    assert capfd.readouterr() == ("", "")
