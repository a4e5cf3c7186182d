"""What `twoviews check` finds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twoviews.data.scan import scan, suggest
from twoviews.errors import DataError

Folder = Callable[..., Path]


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
    assert report.channels == 3
    assert (report.width.min, report.width.median, report.width.max) == (12, 12, 20)
    assert (report.height.min, report.height.max) == (10, 30)
    assert report.classes == {"Cat": 1, "cat": 3, "dog": 2}
    assert report.unlabelled == 0
    assert report.duplicates == (("cat/1.png", "dog/copy.bmp"),)
    assert report.images_per_second > 0
    assert "classes 'Cat' and 'cat' differ only by case" in report.warnings
    assert "1 groups of equal images have labels that disagree" in report.warnings
    assert "1 classes have one image only, such as 'Cat'" in report.warnings
    assert json.loads(json.dumps(report.to_dict()))["suggestions"]["stem"]["value"] == "small"


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


def test_one_class_is_told(image_folder: Folder) -> None:
    assert scan(image_folder({"only": 2})).warnings == (
        "one class only, 'only': it can be trained on, but not evaluated",
    )


@pytest.mark.parametrize(
    ("short", "channels", "size", "policy", "stem"),
    [
        (8, 1, 8, "digits", "small"),
        (28, 1, 28, "digits", "small"),
        (32, 3, 32, "simclr-small", "small"),
        (64, 1, 64, "simclr-small", "small"),
        (70, 3, 64, "simclr-small", "small"),
        (128, 3, 96, "simclr", "standard"),
        (3000, 3, 128, "simclr", "standard"),
    ],
)
def test_suggestions(short: int, channels: int, size: int, policy: str, stem: str) -> None:
    found = suggest([short - 1, short, short + 5], channels=channels)
    assert {name: item.value for name, item in found.items()} == {
        "image_size": size,
        "policy": policy,
        "stem": stem,
    }
    assert all(item.reason for item in found.values())


def test_arrays_are_scanned_too() -> None:
    images = np.zeros((4, 300, 300), np.uint8)
    images[3] = 9
    report = scan((images, [0, 0, 1, 1]))
    assert report.duplicates == (("0", "1", "2"),)
    assert report.formats == {"array": 4}
    assert report.classes == {"0": 2, "1": 2}
