"""How a pool decides the form, the depth and the range of what is stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.decoding.intensity import Intensity
from twoviews.errors import DataError, UsageError
from twoviews.narrate import Narrator


class Listener(Narrator):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        if style == "warn":
            self.warnings.append(text)


def write(folder: Path, *images: NDArray[Any], **options: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for number, image in enumerate(images):
        tifffile.imwrite(folder / f"{image.dtype}-{number}.tif", image, **options)
    return folder


def loaded(folder: Path, **options: Any) -> tuple[Corpus, list[str]]:
    listener = Listener()
    return load_corpus(folder, narrator=listener, **options), listener.warnings


@pytest.mark.parametrize("side", [1024, 2048, 3000])
def test_the_range_is_measured_all_over_the_image(side: int, tmp_path: Path) -> None:
    image = np.zeros((side, side), np.uint16)
    image[:, side // 8 : -side // 8] = np.arange(side - 2 * (side // 8)) % 4000 + 1000
    corpus, _ = loaded(write(tmp_path / "pool", image, image), cache_side=64)
    ((low, high),) = Intensity.parse(corpus.intensity).ranges
    assert low == 0
    assert 1500 < high < 5001
    assert 60 < corpus.values.mean() < 200


def test_the_commonest_depth_decides_and_the_others_are_left_out(tmp_path: Path) -> None:
    deep = [np.full((8, 8), 3000 + i, np.uint16) for i in range(5)]
    floats = [np.full((8, 8), 0.5, np.float32)] * 2
    corpus, _ = loaded(write(tmp_path / "pool", *deep, *floats))
    assert len(corpus) == 5
    (reason,) = {item.reason for item in corpus.rejected}
    assert reason == "floating-point values among images of 16 bits a channel: set data.intensity to take both"


def test_what_auto_left_out_is_left_out_by_what_it_recorded(tmp_path: Path) -> None:
    ramp = np.arange(64).reshape(8, 8)
    folder = write(tmp_path / "pool", *[(1000 + 50 * ramp).astype(np.uint16)] * 3, ramp.astype(np.uint8))
    first, _ = loaded(folder)
    again, _ = loaded(folder, intensity=first.intensity)
    assert first.ids == again.ids == tuple(f"uint16-{number}.tif" for number in range(3))
    assert (first.values == again.values).all()
    with pytest.raises(DataError, match=r"8 bits a channel, where .* was measured on deeper images"):
        load_corpus(np.zeros((3, 8, 8), np.uint8), intensity=first.intensity)
    for stated in ("range:1000,3000", "percentile:0,100"):
        both, _ = loaded(folder, intensity=stated)
        assert len(both) == 4
        assert not both.intensity.endswith("deep")


def test_grey_and_colour_count_together(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    for name, shape, count in (("grey", (8, 8), 3), ("colour", (8, 8, 3), 3)):
        write(folder / name, *[np.full(shape, 99, np.uint8)] * count)
    write(folder / "bands", *[np.zeros((8, 8, 5), np.uint8)] * 4, photometric="minisblack", planarconfig="contig")
    corpus, _ = loaded(folder)
    assert corpus.values.shape == (6, 8, 8, 3)
    assert {item.reason for item in corpus.rejected} == {"5 channels, where 3 are stored"}


def test_grey_and_colour_of_16_bits_are_measured_together(tmp_path: Path) -> None:
    grey, colour = np.full((8, 8), 1000, np.uint16), np.full((8, 8, 3), 3000, np.uint16)
    folder = write(tmp_path / "pool", grey, grey, colour, colour)
    corpus, _ = loaded(folder, intensity="percentile:0,100")
    assert corpus.intensity == "range:1000,3000"
    assert sorted(set(corpus.values.ravel().tolist())) == [0, 255]


def test_a_range_for_each_of_other_channels_is_refused_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "pool", *[np.zeros((8, 8), np.uint16)] * 3)
    with pytest.raises(UsageError, match="has 2 ranges for images of 1 channels: give one, or one for each"):
        load_corpus(folder, intensity="range:0,1;0,2")


@pytest.mark.parametrize(("intensity", "words"), [("range:0,4000", "shades"), ("range:0,20", "black or white")])
def test_a_range_that_is_not_theirs_is_told(intensity: str, words: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = write(tmp_path / "pool", *rng.integers(30, 200, (4, 8, 8)).astype(np.uint8))
    _, warnings = loaded(folder, intensity=intensity)
    assert [words in text and "is it the range of these images?" in text for text in warnings] == [True]
    assert loaded(folder, intensity="range:0,255")[1] == []


def test_arrays_record_the_intensity_that_was_asked_for() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert [load_corpus(images, intensity=text).intensity for text in ("auto", "uint8", "uint16")] == [
        *("uint8", "uint8", "uint16")
    ]


def test_ids_to_exclude_that_are_not_there_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    for name in "ab":
        Image.new("L", (8, 8), ord(name)).save(folder / f"{name}.png")
    corpus, warnings = loaded(folder, exclude=("a.png", "c.png"))
    assert (corpus.ids, corpus.excluded) == (("b.png",), 1)
    assert warnings == [f"1 of 2 ids to exclude are not in {str(folder)!r}"]
