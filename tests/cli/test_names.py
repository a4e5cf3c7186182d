"""File names that break things: every command works, and each name reads back from what was written."""

import csv
import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.evaluation.features import Embeddings

NAMES = [
    unicodedata.normalize("NFC", "é.png"),
    unicodedata.normalize("NFD", "é.png"),
    "🙂.png",
    "\u05d0\u05d1\u202e.png",
    "two\nlines.png",
    "re\rturn.png",
    "-dash.png",
    "a,b;'c.png",
    '"><img src=x onerror=alert(1)>.png',
    os.fsdecode(b"raw\xff.png"),
    "x" * 246 + ".png",
]
CLASSES = ["-c", '"><script>alert(2)<']


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), first_seed=0)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("others"), first_seed=100)


def draw(folder: Path, *, first_seed: int) -> Path:
    for number, kind in enumerate(CLASSES):
        (folder / kind).mkdir()
        for seed, name in enumerate(NAMES, first_seed):
            pixels = np.random.default_rng(seed).integers(100 * number, 100 * number + 99, (8, 8), dtype=np.uint8)
            try:
                Image.fromarray(pixels).save(folder / kind / name, format="PNG")
            except OSError:
                pytest.skip("this file system does not take such names")
    return folder


IDS = sorted(f"{kind}/{name}" for kind in CLASSES for name in NAMES)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_every_command(
    photos: Path, others: Path, twoviews: Callable[..., Any], tiny: list[str], tmp_path: Path, hasty: None
) -> None:
    def done(*arguments: object) -> Any:
        outcome = twoviews(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    run = tmp_path / os.fsdecode(b"r\xff\n<b>")
    done("check", photos)
    assert set(done("check", photos, "--json").json()["classes"]) == set(CLASSES)
    done("views", photos, "--out", tmp_path / "sheet.png")
    done("pretrain", photos, "--out", run, "--epochs", 1, "--encoder", "convnet_tiny", *tiny)
    assert [row["id"] for row in rows_of(run / "manifest.csv")] == IDS

    arguments = ["--train", photos, "--test", others, "--labels-per-class", 1, "--seeds", 1, "--arms", "linear"]
    done("evaluate", run, *arguments)
    predictions = rows_of(run / "evaluation" / "predictions.csv")
    assert [row["id"] for row in predictions] == IDS
    assert {row["label"] for row in predictions} == set(CLASSES)

    done("embed", run, photos, "--out", tmp_path / "vectors")
    assert list(Embeddings.load(tmp_path / "vectors").ids) == IDS
    text = done("predict", run, photos).out
    assert [row["id"] for row in csv.DictReader(io.StringIO(text, newline=""))] == IDS
    assert [row["id"] for row in done("predict", run, photos, "--json").json()] == IDS

    done("report", run)
    page = (run / "report.html").read_text(encoding="utf-8", errors="surrogateescape")
    for tag in ("<img src=x", "<script>alert"):
        assert tag not in page
