"""What `twoviews check` finds."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.data.checking.examine import Deep
from twoviews.data.checking.scan import scan, suggest
from twoviews.data.checking.scan_report import Alike, Nearness, ScanReport
from twoviews.data.checking.suggest import suggest_encoder, suggest_intensity, suggest_policy
from twoviews.errors import DataError

Folder = Callable[..., Path]


def scene(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse) + rng.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Four scenes each of a and b."""
    for seed in range(8):
        folder = tmp_path / "scenes" / "ab"[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        scene(seed).save(folder / f"{seed}.png")
    return tmp_path / "scenes"


def pairs(found: tuple[Alike, ...]) -> list[tuple[str, str]]:
    return [(pair.first, pair.second) for pair in found]


def test_the_report(image_folder: Folder) -> None:
    image_folder({"cat": 3}, size=(12, 10))
    image_folder({"dog": 1}, size=(20, 30), suffix=".jpg")
    root = image_folder({"Cat": 1}, size=(14, 10), mode="L")
    Image.open(root / "cat" / "1.png").save(root / "dog" / "copy.bmp")
    (root / "cat" / "bad.png").write_bytes(b"")
    report = scan(root)
    assert report.images == 6
    assert [(item.id, item.reason) for item in report.rejected] == [("cat/bad.png", "empty: 0 bytes")]
    assert report.formats == {"PNG": 4, "JPEG": 1, "BMP": 1}
    assert report.modes == {"RGB": 5, "L": 1}
    assert report.depths == {"uint8": 6}
    assert (report.channels, report.channels_found) == (3, {3: 5, 1: 1})
    assert (report.width.min, report.width.median, report.width.max) == (12, 12, 20)
    assert (report.height.min, report.height.max) == (10, 30)
    assert (report.aspect.min, report.aspect.max) == (0.6667, 1.4)
    assert sorted(report.sizes) == [(12, 10, 4), (14, 10, 1), (20, 30, 1)]
    assert report.bytes == sum(path.stat().st_size for path in root.rglob("*.*"))
    assert report.classes == {"Cat": 1, "cat": 3, "dog": 2}
    assert report.balance == pytest.approx(0.9206)
    assert (report.unlabelled, report.leaks) == (0, None)
    assert report.duplicates == (("cat/1.png", "dog/copy.bmp"),)
    assert report.same_files == ()
    assert [(c.ids, c.labels, c.exact) for c in report.conflicts] == [
        (("cat/1.png", "dog/copy.bmp"), ("cat", "dog"), True)
    ]
    assert report.images_per_second > 0
    assert "classes 'Cat' and 'cat' differ only by case" in report.warnings
    assert "1 group of equal images has labels that disagree" in report.warnings
    assert "1 class has one image only, such as 'Cat'" in report.warnings
    assert report.verdict() == (
        "6 images can be used; 1 file cannot be read; 1 is an exact copy of another; 1 label conflict."
    )
    told = json.loads(json.dumps(report.to_dict()))
    assert told["suggestions"]["stem"]["value"] == "small"
    assert told["verdict"] == report.verdict()


def test_a_scan_does_not_stop_where_training_would(image_folder: Folder) -> None:
    root = image_folder({"": 3})
    for name in ("0.png", "1.png"):
        (root / name).write_bytes(b"no image")
    report = scan(root)
    assert report.images == 1
    assert report.unlabelled == 1
    assert "2 of 3 images are rejected: training would refuse this data" in report.warnings
    assert "one image only: there is nothing to contrast it with" in report.warnings
    (root / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no readable image in .*: '0\.png': .*; '1\.png': .*; '2\.png': "):
        scan(root)


def test_nothing_to_scan() -> None:
    with pytest.raises(DataError, match="no readable image in 'empty': it is empty"):
        scan(_Empty())


class _Empty:
    spec = "empty"
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError


def test_one_class_is_told(image_folder: Folder) -> None:
    assert scan(image_folder({"only": 2})).warnings == (
        "one class only, 'only': it can be trained on, but not evaluated",
    )


def test_uneven_classes_are_told(image_folder: Folder) -> None:
    assert scan(image_folder({"rare": 2, "often": 20})).warnings == (
        "classes are uneven: 'often' has 20 images, 'rare' 2",
    )


def test_duplicates_near_and_exact(scenes: Path) -> None:
    shutil.copy(scenes / "a" / "0.png", scenes / "a" / "0-copy.png")
    Image.open(scenes / "a" / "2.png").save(scenes / "a" / "2-again.bmp")
    Image.open(scenes / "b" / "1.png").save(scenes / "a" / "1-packed.jpg", quality=60)
    Image.open(scenes / "b" / "3.png").resize((48, 36)).save(scenes / "b" / "3-half.png")
    report = scan(scenes)
    assert report.duplicates == (("a/0-copy.png", "a/0.png"), ("a/2-again.bmp", "a/2.png"))
    assert report.same_files == (("a/0-copy.png", "a/0.png"),)
    assert pairs(report.near_duplicates) == [("a/1-packed.jpg", "b/1.png"), ("b/3-half.png", "b/3.png")]
    assert all(pair.similarity > 0.985 for pair in report.near_duplicates)
    assert report.near_by == "perceptual hash and thumbnail"
    assert [(c.ids, c.labels, c.exact) for c in report.conflicts] == [
        (("a/1-packed.jpg", "b/1.png"), ("a", "b"), False)
    ]
    assert "1 pair of near duplicates has labels that disagree" in report.warnings
    assert report.excluded() == []


def test_leaks_into_other_data(scenes: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    test.mkdir()
    shutil.copy(scenes / "a" / "0.png", test / "same.png")
    Image.open(scenes / "a" / "2.png").save(test / "pixels.bmp")
    Image.open(scenes / "b" / "1.png").save(test / "near.jpg", quality=60)
    scene(99).save(test / "other.png")
    (test / "bad.png").write_bytes(b"")
    (scenes / "a" / "bad.png").write_bytes(b"")
    report = scan(scenes, against=test)
    assert report.leaks is not None
    assert pairs(report.leaks.exact) == [("a/0.png", "same.png"), ("a/2.png", "pixels.bmp")]
    assert pairs(report.leaks.near) == [("b/1.png", "near.jpg")]
    assert (report.leaks.images, [item.id for item in report.leaks.rejected]) == (4, ["bad.png"])
    spec = str(test)
    assert [(item.id, item.reason) for item in report.excluded()] == [
        ("a/0.png", f"is same.png of {spec}"),
        ("a/2.png", f"is pixels.bmp of {spec}"),
        ("a/bad.png", "empty: 0 bytes"),
        ("b/1.png", f"nearly is near.jpg of {spec}"),
    ]
    assert report.verdict().startswith("8 images can be used; 1 file cannot be read; 3 leaks (2 exact, 1 near) into ")
    assert f"3 images are also in {spec}: exclude.csv of --out lists them for pretrain --exclude" in report.warnings
    (test / "only").mkdir()
    scene(98).save(test / "only" / "x.png")
    clean = scan(scenes, against=test / "only")
    assert clean.leaks is not None
    assert (clean.leaks.exact, clean.leaks.near) == ((), ())
    assert "no leak into test/only" in clean.verdict()


def test_groups_that_are_in_both(scenes: Path) -> None:
    rows = [f"a/{seed}.png,{'p1' if seed < 4 else 'p2'}" for seed in (0, 2, 4, 6)]
    (scenes / "train.csv").write_text("\n".join(["file_name,group", *rows]) + "\n")
    (scenes / "test.csv").write_text("file_name,group\nb/1.png,p2\nb/3.png,p3\n")
    report = scan(scenes / "train.csv", against=scenes / "test.csv")
    assert report.groups == 2
    assert report.leaks is not None
    assert report.leaks.groups == ("p2",)
    assert "1 group is in both, such as 'p2'" in report.warnings


def test_near_duplicates_that_were_found_elsewhere(scenes: Path) -> None:
    shutil.copy(scenes / "a" / "0.png", scenes / "a" / "0-copy.png")
    known = (Alike("a/0-copy.png", "a/0.png", 1.0), Alike("a/2.png", "b/3.png", 0.97))
    report = scan(scenes, nearness=Nearness("embeddings of runs/a", known))
    assert pairs(report.near_duplicates) == [("a/2.png", "b/3.png")]  # those that are equal are told already
    assert report.near_by == "embeddings of runs/a"
    assert [c.ids for c in report.conflicts] == [("a/2.png", "b/3.png")]


def test_names_that_lie(image_folder: Folder) -> None:
    root = image_folder({"": 2})
    (root / "0.png").rename(root / "0.JPG")
    (root / "1.png").rename(root / "1.PNG")
    report = scan(root)
    assert report.misnamed == {"0.JPG": "PNG"}
    assert report.warnings == ("1 file is of another format than the name says",)


def test_extremes(tmp_path: Path) -> None:
    for seed in range(3):
        scene(seed).save(tmp_path / f"{seed}.png")
    lights = (np.asarray(scene(9)) > 210).astype(np.uint8) * 60
    Image.fromarray(lights).save(tmp_path / "dark.png")
    Image.fromarray(255 - lights).save(tmp_path / "bright.png")
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    scene(5, (400, 100)).save(tmp_path / "wide.png")
    scene(6, (50, 150)).save(tmp_path / "tall.png")
    found = scan(tmp_path).extremes
    assert {kind: list(shown) for kind, shown in found.items()} == {
        "darkest": ["dark.png"],
        "brightest": ["bright.png"],
        "flat": ["white.png"],
        "long": ["wide.png", "tall.png"],
    }
    assert found["flat"] == {"white.png": 255.0}
    assert found["long"]["wide.png"] == 4.0


def test_names_that_are_no_text(image_folder: Folder) -> None:
    root = image_folder({"a": 2})
    name = os.fsdecode(b"r\xff\n<b>.png")
    try:
        (root / "a" / "0.png").rename(root / "a" / name)
    except OSError:
        pytest.skip("this file system does not take such names")
    empty = os.fsdecode(b"\xfe.png")
    (root / "a" / empty).write_bytes(b"")
    report = scan(root)
    assert report.images == 2
    assert report.rejected[0].id == f"a/{empty}"
    assert json.loads(json.dumps(report.to_dict()))["rejected"][0]["id"] == report.rejected[0].id


def test_many_sizes_are_rounded() -> None:
    class Sizes:
        spec, labels = "sizes", (None,) * 900

        def __len__(self) -> int:
            return 900

        def __getitem__(self, index: int) -> Any:
            from twoviews.data.source import Item

            return Item(f"{index:04d}", None, lambda: np.zeros((100 + index, 120), np.uint8))

    report = scan(Sizes())
    assert len(report.sizes) <= 400
    assert sum(count for _, _, count in report.sizes) == 900


@pytest.mark.parametrize(
    ("short", "channels", "size", "policy", "stem"),
    [
        (8, 1, 8, "digits", "small"),
        (28, 1, 28, "digits", "small"),
        (32, 3, 32, "simclr-small", "small"),
        (64, 1, 64, "gray", "small"),
        (300, 1, 128, "gray", "standard"),
        (70, 3, 64, "simclr-small", "small"),
        (128, 3, 96, "simclr", "standard"),
        (3000, 3, 128, "simclr", "standard"),
        (128, 5, 96, "multiband", "standard"),
        (16, 2, 16, "multiband", "small"),
    ],
)
def test_suggestions(short: int, channels: int, size: int, policy: str, stem: str) -> None:
    found = suggest([short - 1, short, short + 5], channels=channels)
    assert {name: item.value for name, item in found.items()} == {
        "image_size": size,
        "policy": policy,
        "encoder": "resnet_mini" if size > 16 else "convnet_tiny",
        "stem": stem,
    }
    assert all(item.reason for item in found.values())


def test_suggested_views_exist() -> None:
    from twoviews.views.policies import find_policy

    for channels, size in ((1, 8), (1, 96), (3, 32), (3, 96), (7, 96)):
        find_policy(str(suggest_policy(size, channels=channels).value))


def test_a_gpu_affords_a_larger_network() -> None:
    assert suggest_encoder(96, gpu=True).value == "resnet18"


class TestIntensity:
    def deep(self, values: np.ndarray, **facts: Any) -> Deep:
        pixels = values.reshape(-1, 1)
        white, black = float((values > 255).mean()), float((values < 0.5).mean())
        low, high = float(values.min()), float(values.max())
        return Deep(low, high, white, black, pixels, facts.get("window"))

    def test_eight_bits(self) -> None:
        assert suggest_intensity(Counter(uint8=3), []).value == "uint8"

    def test_sixteen_bits_tell_what_a_clip_would_do(self) -> None:
        values = np.linspace(212, 4080, 4000).round().astype(np.uint16)
        found = suggest_intensity(Counter(uint16=2), [self.deep(values)])
        assert found.value == "percentile:0.1,99.9"
        assert found.reason.startswith(
            "16 bits a channel from 212 to 4,080: an 8-bit clip would leave 99 % white; these percentiles are 21"
        )

    def test_fractions_would_be_black(self) -> None:
        values = np.linspace(0, 1, 500, dtype=np.float32)
        found = suggest_intensity(Counter(float32=2, uint8=1), [self.deep(values)])
        assert found.value == "range:0,1"
        assert "floating-point values from 0 to 1: an 8-bit clip would leave 50 % black" in found.reason

    def test_windows_that_files_state(self) -> None:
        values = np.arange(-1000, 1000, dtype=np.int16)
        found = suggest_intensity(Counter(int16=2), [self.deep(values, window=(-160.0, 240.0))])
        assert found.value == "file"

    def test_a_few_deep_images_decide_nothing(self) -> None:
        values = np.linspace(212, 4080, 4000).round().astype(np.uint16)
        found = suggest_intensity(Counter(uint8=28, uint16=1), [self.deep(values)])
        assert found.value == "uint8"
        assert found.reason.startswith("28 of 29 images have 8 bits a channel, taken as they are")

    def test_nothing_finite(self) -> None:
        nothing = Deep(0.0, 0.0, 0.0, 0.0, np.full((4, 1), np.nan), None)
        found = suggest_intensity(Counter(float32=1), [nothing])
        assert found.value == "auto"
        assert "no finite value" in found.reason

    def test_in_a_scan(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for index in range(4):
            values = rng.integers(300, 4000, (40, 50), dtype=np.uint16)
            Image.fromarray(values).save(tmp_path / f"{index}.png")
        report = scan(tmp_path)
        assert report.depths == {"uint16": 4}
        assert report.suggestions["intensity"].value == "percentile:0.1,99.9"
        assert "an 8-bit clip would leave 100 % white" in report.suggestions["intensity"].reason
        scene(1).save(tmp_path / "eight.png")
        words = (
            "1 image has not 16 bits a channel as the others: left out by training, unless data.intensity takes both"
        )
        report = scan(tmp_path)
        assert words in report.warnings
        assert report.verdict().startswith("4 images can be used; 1 is of other channels or depth")


def test_bands() -> None:
    rng = np.random.default_rng(0)
    report = scan(rng.integers(0, 256, (6, 40, 40, 5), dtype=np.uint8))
    assert (report.channels, report.channels_found) == (5, {5: 6})
    assert report.suggestions["policy"].value == "multiband"


def test_arrays_are_scanned_too() -> None:
    images = np.zeros((4, 300, 300), np.uint8)
    images[3] = 9
    report = scan((images, [0, 0, 1, 1]))
    assert report.duplicates == (("0", "1", "2"),)
    assert report.formats == {"array": 4}
    assert report.classes == {"0": 2, "1": 2}
    assert report.bytes == 0


def test_a_verdict_without_trouble() -> None:
    report = scan(np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8))
    assert isinstance(report, ScanReport)
    assert report.verdict() == "3 images can be used."
