"""`twoviews check`: what it prints, writes and refuses."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]
HOSTILE = os.fsdecode(b"r\xff\n<img src=x onerror=alert(1)>\xe2\x80\xae.png")


def scene(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse) + rng.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    """Train and test with one of everything that is wrong in them."""
    train, test = tmp_path / "train", tmp_path / "test"
    for seed in range(8):
        for root, shift in ((train, 0), (test, 100)):
            folder = root / "ab"[seed % 2]
            folder.mkdir(parents=True, exist_ok=True)
            scene(seed + shift).save(folder / f"{seed}.png")
    shutil.copy(train / "a" / "0.png", train / "b" / "0-copy.png")
    scene(2).save(train / "b" / "near.jpg", quality=60)
    shutil.copy(train / "a" / "4.png", test / "a" / "leak.png")
    scene(6).save(test / "a" / "near.jpg", quality=60)
    shutil.copy(train / "b" / "1.png", train / "b" / "lies.gif")
    (train / "a" / "cut.png").write_bytes((train / "a" / "0.png").read_bytes()[:100])
    (test / "b" / "empty.png").write_bytes(b"")
    Image.new("RGB", (50, 50), "white").save(train / "a" / "white.png")
    try:
        scene(50).save(train / "a" / HOSTILE, format="PNG")
    except OSError:
        pytest.skip("this file system does not take such names")
    return train, test


def test_everything_planted_is_found(planted: tuple[Path, Path], tmp_path: Path, twoviews: Command) -> None:
    train, test = planted
    out = tmp_path / "checked"
    outcome = twoviews("check", train, "--against", test, "--out", out)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == (
        "13 images can be used; 1 file cannot be read; 2 leaks (1 exact, 1 near) into "
        f"{test.parent.name}/test; 2 are exact copies of another; 1 pair of near duplicates; 2 label conflicts."
    )
    for line in (
        "rejected: 'a/cut.png': truncated PNG",
        "rejected of the other data: 'b/empty.png': empty: 0 bytes",
        "leak: 'a/4.png' is 'a/leak.png'",
        "same pixels: 'a/0.png', 'b/0-copy.png'",
        "same pixels: 'b/1.png', 'b/lies.gif'",
        "labels disagree: 'a/0.png' a, 'b/0-copy.png' b",
        "misnamed: 'b/lies.gif' is PNG",
        "warning: 1 group of equal images has labels that disagree",
        f"page: {out / 'check.html'}",
    ):
        assert line in lines
    assert any(line.startswith("near leak: 'a/6.png' and 'a/near.jpg' (") for line in lines)
    assert any(line.startswith("nearly the same: 'a/2.png' and 'b/near.jpg' (") for line in lines)
    assert sorted(path.name for path in out.iterdir()) == [
        *("against-exclude.csv", "check.html", "check.json", "exclude.csv"),
    ]
    assert [(row["id"], row["reason"]) for row in rows_of(out / "exclude.csv")] == [
        ("a/4.png", f"is a/leak.png of {test}"),
        ("a/6.png", f"nearly is a/near.jpg of {test}"),
        ("a/cut.png", "truncated PNG"),
    ]
    assert rows_of(out / "against-exclude.csv") == [{"id": "b/empty.png", "reason": "empty: 0 bytes"}]
    found = json.loads((out / "check.json").read_text())
    assert found["images"] == 13
    page = (out / "check.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 * 2 + 2 * 2 + 2 * 2 + 2 + 1
    assert "<img src=x" not in page
    assert HOSTILE not in page


def test_json_is_the_file_that_is_written(planted: tuple[Path, Path], tmp_path: Path, twoviews: Command) -> None:
    train, test = planted
    outcome = twoviews("check", train, "--against", test, "--out", tmp_path / "out", "--json", "--quiet")
    told, written = json.loads(outcome.out), json.loads((tmp_path / "out" / "check.json").read_text())
    assert outcome.err == ""
    assert told == written
    assert told["leaks"]["spec"] == str(test)


def test_names_that_are_no_text_can_be_excluded(tmp_path: Path, twoviews: Command) -> None:
    data = tmp_path / "data"
    data.mkdir()
    scene(0).save(data / "0.png")
    try:
        (data / HOSTILE).write_bytes(b"")
    except OSError:
        pytest.skip("this file system does not take such names")
    assert twoviews("check", data, "--out", tmp_path / "out").code == 0
    assert [row["id"] for row in rows_of(tmp_path / "out" / "exclude.csv")] == [HOSTILE]
    page = (tmp_path / "out" / "check.html").read_text(encoding="utf-8")
    assert "r\\udcff\\n&lt;img src=x onerror=alert(1)&gt;\\u202e.png" in page


def test_several_data(planted: tuple[Path, Path], twoviews: Command) -> None:
    train, test = planted
    found = twoviews("check", train / "a", train / "b", "--against", test / "a", test / "b", "--json").json()
    assert found["images"] == 13
    assert len(found["leaks"]["exact"]) == 1


class TestOutput:
    def test_an_earlier_check_is_replaced(self, planted: tuple[Path, Path], tmp_path: Path, twoviews: Command) -> None:
        train, test = planted
        out = tmp_path / "out"
        for data in (train, test):
            assert twoviews("check", data, "--out", out).code == 0
        assert json.loads((out / "check.json").read_text())["spec"] == str(test)

    def test_a_list_of_an_earlier_check_does_not_stay(
        self, planted: tuple[Path, Path], tmp_path: Path, twoviews: Command
    ) -> None:
        train, test = planted
        out = tmp_path / "out"
        assert twoviews("check", train, "--against", test, "--out", out).code == 0
        assert twoviews("check", train, "--out", out).code == 0
        assert sorted(path.name for path in out.iterdir()) == ["check.html", "check.json", "exclude.csv"]

    def test_anything_else_is_refused(self, planted: tuple[Path, Path], tmp_path: Path, twoviews: Command) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        outcome = twoviews("check", planted[0], "--out", out)
        assert (outcome.code, outcome.err.count("\n")) == (6, 1)
        assert f"{out} is not empty and holds no check: choose another --out" in outcome.err
        (out / "check.json").write_text("{}")
        outcome = twoviews("check", planted[0], "--out", out)
        assert outcome.code == 6
        assert f"{out} holds more than an earlier check, such as 'notes.txt'" in outcome.err
        assert (out / "notes.txt").read_text() == "mine"
        outcome = twoviews("check", planted[0], "--out", out / "notes.txt")
        assert (outcome.code, "is a file: choose another --out" in outcome.err) == (6, True)

    def test_nothing_is_written_for_data_that_cannot_be_used(self, tmp_path: Path, twoviews: Command) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "a.png").write_bytes(b"")
        outcome = twoviews("check", data, "--out", tmp_path / "out")
        assert outcome.code == 3
        assert "no readable image in" in outcome.err
        assert not (tmp_path / "out").exists()


def test_labels_from_a_file(planted: tuple[Path, Path], tmp_path: Path, twoviews: Command) -> None:
    train, _ = planted
    manifest = tmp_path / "labels.csv"
    manifest.write_text("file_name,label\na/0.png,x\nb/1.png,y\n")
    found = twoviews("check", train, "--labels", manifest, "--json").json()
    assert found["classes"] == {"x": 1, "y": 1}
    assert found["unlabelled"] == 11


def test_near_duplicates_by_a_run(place: Any, twoviews: Command, tmp_path: Path) -> None:
    outcome = twoviews(
        "check", place.train, "--against", place.test, "--run", place.run, "--out", tmp_path / "out", "--json"
    )
    assert outcome.code == 0, outcome.err
    found = outcome.json()
    assert found["near_by"].startswith(f"embeddings of {place.run}, cosine from 0.9")
    assert all(pair["bits"] is None and pair["similarity"] >= 0.9 for pair in found["near_duplicates"])
    assert found["near_by"] in (tmp_path / "out" / "check.html").read_text()
    outcome = twoviews("check", place.train, "--run", tmp_path)
    assert (outcome.code, "is not a run directory" in outcome.err) == (2, True)
