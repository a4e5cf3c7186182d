"""How values of any depth become 8 bits."""

import numpy as np
import pytest

from twoviews.data.decoding.intensity import Intensity, in_words, measure
from twoviews.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("text", "kind", "ranges"),
    [
        ("auto", "auto", ()),
        ("uint8", "uint8", ()),
        ("uint16", "uint16", ()),
        ("file", "file", ()),
        ("window:40,400", "range", ((-160.0, 240.0),)),
        ("range:0,4095", "range", ((0.0, 4095.0),)),
        ("range:0,1;-2.5,3", "range", ((0.0, 1.0), (-2.5, 3.0))),
        ("percentile:1,99", "percentile", ((1.0, 99.0),)),
    ],
)
def test_what_is_written_is_read_back(text: str, kind: str, ranges: tuple[tuple[float, float], ...]) -> None:
    read = Intensity.parse(text)
    assert (read.kind, read.ranges) == (kind, ranges)
    assert Intensity.parse(str(read)) == read
    assert read.known == (kind not in ("auto", "percentile"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "uint32", "window", "window:40", "window:40,0", "window:1,2;3,4", "range:5,5", "range:9,1"),
        *("percentile:50,50", "percentile:-1,99", "percentile:1,101", "range:0,inf", "range:0,nan", "range:a,b"),
        *("uint8:1,2", "auto:deep", "window:40,400:deep", "percentile:1,99:deep", "range:deep", "range:0,1:deep:deep"),
    ],
)
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"intensity .*: write auto, uint8"):
        Intensity.parse(text)


def test_a_range_maps_its_ends_to_black_and_white() -> None:
    values = np.array([[[100.0], [200.0], [300.0], [50.0]]])
    shades = Intensity.parse("range:100,300").apply(values)
    assert shades.dtype == np.float32
    assert shades[0, :, 0].tolist() == [0.0, 127.5, 255.0, -63.75]


def test_wide_values_keep_their_lowest_bits() -> None:
    values = np.array([[[1_000_000_000], [1_000_000_001], [1_000_000_002]]], dtype=np.int32)
    shades = Intensity.parse("range:1000000000,1000000002").apply(values)
    assert shades[0, :, 0].tolist() == [0.0, 127.5, 255.0]


def test_whole_types_and_windows_of_files() -> None:
    whole = Intensity("uint16")
    assert whole.apply(np.array([[[65535]]], np.uint16)).item() == pytest.approx(255)
    assert whole.apply(np.array([[[77]]], np.uint8)).item() == 77
    stated = Intensity("file")
    assert stated.apply(np.array([[[0.0]]]), window=(-100.0, 100.0)).item() == 127.5
    assert "states no window, where data.intensity is file" in stated.refuses(depth="int16", window=None)
    assert "16 bits a channel" in Intensity("uint8").refuses(depth="uint16", window=None)
    assert Intensity("uint8").refuses(depth="uint8", window=None) == ""
    assert Intensity("uint16").refuses(depth="uint16", window=None) == ""


def test_grey_among_colours_takes_the_range_of_each() -> None:
    shades = Intensity.parse("range:0,1;0,2;0,4").apply(np.ones((1, 1, 1)))
    assert shades.tolist() == [[[255.0, 127.5, 63.75]]]


@pytest.mark.parametrize("depth", ["float32", "int16", "int32", "uint32"])
def test_the_whole_of_16_bits_is_no_range_of_other_types(depth: str) -> None:
    assert "where data.intensity is uint16: they have another range" in Intensity("uint16").refuses(
        depth=depth, window=None
    )


def test_a_range_is_recorded_to_the_last_digit() -> None:
    text = "range:100000000.4,100000001.6"
    assert str(Intensity.parse(text)) == text
    odd = Intensity("range", ((1 / 3, 2 / 3),))
    assert Intensity.parse(str(odd)) == odd


def test_a_deep_range_refuses_8_bits_and_a_stated_one_does_not() -> None:
    deep = Intensity.parse("range:0,4095;1,2:deep")
    assert (deep.ranges, deep.deep, str(deep)) == (((0, 4095), (1, 2)), True, "range:0,4095;1,2:deep")
    assert "8 bits a channel, where data.intensity was measured on deeper images" in deep.refuses(
        depth="uint8", window=None
    )
    assert not deep.refuses(depth="uint16", window=None)
    assert not Intensity.parse("range:0,4095").refuses(depth="uint8", window=None)


def test_auto_ignores_a_few_hot_pixels_and_says_what_it_clips() -> None:
    values = np.linspace(1000, 2000, 100_000).reshape(-1, 1)
    values[:5] = 65535
    found, reason = measure(Intensity(), [values.astype(np.uint16)], windows=[None])
    ((low, high),) = found.ranges
    assert 1000 <= low < 1002
    assert 1998 < high <= 2000
    assert "values from 1,000 to 65,535" in reason
    assert "0.1 % of them" in reason
    assert "are clipped" in reason


def test_fractions_keep_their_range_and_dark_floats_do_not() -> None:
    fractions = np.linspace(0, 1, 1000, dtype=np.float32).reshape(-1, 1)
    assert str(measure(Intensity(), [fractions], windows=[None])[0]) == "range:0,1"
    dark, _ = measure(Intensity(), [fractions / 100], windows=[None])
    assert dark.ranges[0][1] < 0.0101


def test_bands_have_a_range_each_and_colours_share_one() -> None:
    bands = np.stack([np.linspace(0, 10, 500), np.linspace(0, 1000, 500), np.full(500, 7.0), np.zeros(500)], axis=1)
    found, _ = measure(Intensity.parse("percentile:0,100"), [bands.astype(np.float32)], windows=[None])
    assert found.ranges == ((0.0, 10.0), (0.0, 1000.0), (7.0, 14.0), (0.0, 1.0))
    shared, _ = measure(Intensity.parse("percentile:0,100"), [bands[:, :3].astype(np.float32)], windows=[None])
    assert shared.ranges == ((0.0, 1000.0),)


def test_windows_that_all_files_state_are_used() -> None:
    values = np.arange(100, dtype=np.int16).reshape(-1, 1)
    assert measure(Intensity(), [values, values], windows=[(0, 50), (0, 90)])[0] == Intensity("file")
    assert measure(Intensity(), [values, values], windows=[(0, 50), None])[0].kind == "range"
    assert measure(Intensity.parse("percentile:1,99"), [values], windows=[(0, 50)])[0].kind == "range"


def test_what_is_not_finite_does_not_count() -> None:
    values = np.array([[0.0], [np.nan], [np.inf], [100.0]], dtype=np.float32)
    assert measure(Intensity.parse("percentile:0,100"), [values], windows=[None])[0].ranges == ((0.0, 100.0),)
    with pytest.raises(DataError, match="no finite value"):
        measure(Intensity(), [np.full((3, 1), np.nan)], windows=[None])


def test_a_band_without_a_value_does_not_matter_to_the_others() -> None:
    bands = np.stack([np.full(9, np.nan), *(np.arange(9.0) * k for k in (1, 2, 3))], axis=1)
    bands[0, 1] = np.nan
    found, reason = measure(Intensity.parse("percentile:0,100"), [bands], windows=[None])
    assert found.ranges == ((0.0, 1.0), (1.0, 8.0), (0.0, 16.0), (0.0, 24.0))
    assert "values from 0 to 24" in reason


def test_grey_and_colour_are_measured_together() -> None:
    grey, colour = np.full((5, 1), 100, np.uint16), np.full((5, 3), 900, np.uint16)
    assert measure(Intensity.parse("percentile:0,100"), [grey, colour], windows=[None] * 2)[0].ranges == ((100, 900),)


def test_depths_in_words() -> None:
    names = ("uint16", "int16", "int32", "float64")
    assert [in_words(name) for name in names] == [
        "16 bits a channel",
        "signed 16 bits a channel",
        "32-bit integers",
        "floating-point values",
    ]
