"""What lies in train and in test is never counted; what is excluded is said; labels may come from elsewhere."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]

SIDE = 48


def picture(seed: int) -> Image.Image:
    """A pattern that no other seed resembles."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw(folder: Path, seeds: range) -> Path:
    for seed in seeds:
        path = folder / "ab"[seed % 2] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    return folder


@pytest.fixture
def run(tmp_path: Path, twoviews: Command, tiny: list[str], hasty: None) -> Path:
    """A run on 24 unlabelled pictures, four of which are in the test set of the tests below."""
    pool = draw(tmp_path / "pool", range(100, 124))
    out = tmp_path / "run"
    options = ("--epochs", 1, "--batch-size", 12, "--encoder", "convnet_tiny", *tiny)
    outcome = twoviews("pretrain", pool, "--out", out, *options)
    assert outcome.code == 0, outcome.err
    return out


OPTIONS = ("--arms", "knn", "--labels-per-class", "all", "--seeds", 1, "--json", "--quiet")


def test_leaks_leave_train_and_are_counted(run: Path, tmp_path: Path, twoviews: Command) -> None:
    train, test = draw(tmp_path / "train", range(20)), draw(tmp_path / "test", range(120, 140))
    for seed in (124, 125, 126):  # the same pixels in another format
        picture(seed).save(train / "a" / f"same-{seed}.bmp")
    for seed in (127, 128):  # packed again, smaller
        picture(seed).resize((40, 40)).save(train / "b" / f"near-{seed}.jpg", quality=85)
    outcome = twoviews("evaluate", run, "--train", train, "--test", test, *OPTIONS)
    assert outcome.code == 0, outcome.err
    results = outcome.json()
    assert results["excluded"] == [
        "3 items of train with the same pixels as an item of test",
        "2 items of train nearly the same as an item of test",
    ]
    assert results["protocol"]["n_train_available"] + results["protocol"]["n_val"] == 20
    overlap = "4 of 20 test items were among the unlabelled images: the comparison is transductive"
    assert results["protocol"]["pool_overlap"] == overlap
    page = (run / "report.html").read_text(encoding="utf-8")
    assert overlap in page
    assert "3 items of train with the same pixels" in page


def test_what_validation_has_leaves_train(run: Path, tmp_path: Path, twoviews: Command) -> None:
    train, val, test = (
        draw(tmp_path / name, range(first, first + 20)) for name, first in (("train", 0), ("val", 30), ("test", 60))
    )
    for seed in (30, 31, 32):
        picture(seed).save(train / "a" / f"same-{seed}.bmp")
    for seed in (33, 34):
        picture(seed).resize((40, 40)).save(train / "b" / f"near-{seed}.jpg", quality=85)
    # What is in all three leaves both.
    for part in (train, val):
        picture(60).save(part / "a" / "of-test.bmp")
    outcome = twoviews("evaluate", run, "--train", train, "--val", val, "--test", test, *OPTIONS)
    assert outcome.code == 0, outcome.err
    results = outcome.json()
    assert results["excluded"] == [
        "1 items of train with the same pixels as an item of test",
        "1 items of val with the same pixels as an item of test",
        "3 items of train with the same pixels as an item of val",
        "2 items of train nearly the same as an item of val",
    ]
    assert (results["protocol"]["n_train_available"], results["protocol"]["n_val"]) == (20, 20)


def test_validation_gives_way_where_the_encoder_was_trained_on_train(
    tmp_path: Path, twoviews: Command, tiny: list[str], hasty: None
) -> None:
    """The encoder has seen these labels: taking them out of train would not make validation blind."""
    pool, train = draw(tmp_path / "pool", range(100, 112)), draw(tmp_path / "train", range(12))
    val, test = draw(tmp_path / "val", range(8, 16)), draw(tmp_path / "test", range(60, 70))
    options = ("--epochs", 1, "--batch-size", 12, "--encoder", "convnet_tiny", "--set", "train.labelled_batch=4", *tiny)
    outcome = twoviews("pretrain", pool, "--labelled", train, "--out", tmp_path / "run", *options)
    assert outcome.code == 0, outcome.err
    outcome = twoviews("evaluate", tmp_path / "run", "--val", val, "--test", test, *OPTIONS)
    assert outcome.code == 0, outcome.err
    results = outcome.json()
    assert results["excluded"] == ["4 items of val with the same pixels as an item of train"]
    assert (results["protocol"]["n_train_available"], results["protocol"]["n_val"]) == (12, 4)
    outcome = twoviews("evaluate", tmp_path / "run", "--val", train, "--test", test, *OPTIONS)
    assert outcome.code == 3
    assert "every item of --val" in outcome.err.splitlines()[-1]
    assert "lies in --train" in outcome.err.splitlines()[-1]


def test_a_camera_that_does_not_move_loses_nothing(run: Path, tmp_path: Path, twoviews: Command) -> None:
    """Where a large part resembles test, they are no copies."""
    scene = np.asarray(picture(7)).copy()
    for part, seeds in (("train", range(20)), ("test", range(30, 40))):
        for seed in seeds:
            path = tmp_path / part / "ab"[seed % 2] / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = scene.copy()
            image[seed % 7 : seed % 7 + 2, 3:5] = seed * 6
            Image.fromarray(image).save(path)
    outcome = twoviews("evaluate", run, "--train", tmp_path / "train", "--test", tmp_path / "test", *OPTIONS)
    results = outcome.json()
    assert results["protocol"]["n_train_available"] + results["protocol"]["n_val"] == 20
    (words,) = results["excluded"]
    assert words.startswith("none of the ")
    assert words.endswith("items of train that resemble an item of test: too many to be copies")


def test_pictures_stored_otherwise_cannot_be_compared(run: Path, tmp_path: Path, twoviews: Command) -> None:
    train, test = draw(tmp_path / "train", range(20)), draw(tmp_path / "test", range(30, 40))
    for path in test.rglob("*.png"):
        Image.open(path).resize((30, 40)).save(path)
    results = twoviews("evaluate", run, "--train", train, "--test", test, *OPTIONS).json()
    assert results["protocol"]["pool_overlap"] == "not known whether test items were among the unlabelled images"


def test_without_overlap_it_is_said_too(run: Path, tmp_path: Path, twoviews: Command) -> None:
    train, test = draw(tmp_path / "train", range(20)), draw(tmp_path / "test", range(30, 40))
    results = twoviews("evaluate", run, "--train", train, "--test", test, *OPTIONS).json()
    assert results["excluded"] == []
    assert results["protocol"]["pool_overlap"] == "no test item was among the unlabelled images"


def test_what_check_lists_is_left_out(
    run: Path, tmp_path: Path, twoviews: Command, tiny: list[str], hasty: None
) -> None:
    train, test = draw(tmp_path / "train", range(20)), draw(tmp_path / "test", range(30, 40))
    listed = tmp_path / "exclude.csv"
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "reason"), ("a/0.png", "seen"), ("b/1.png", "seen"), ("gone.png", "-")])
    results = twoviews("evaluate", run, "--train", train, "--test", test, "--exclude", listed, *OPTIONS).json()
    assert results["protocol"]["n_train_available"] + results["protocol"]["n_val"] == 18
    assert results["excluded"] == [f"2 items of train listed in {listed}"]
    out = tmp_path / "second"
    options = ("--epochs", 1, "--encoder", "convnet_tiny", "--exclude", listed, *tiny)
    assert twoviews("pretrain", train, "--out", out, *options).code == 0
    info = json.loads((out / "run.json").read_text())
    assert (info["data"]["count"], info["data"]["excluded"]) == (18, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("name,reason\na/0.png,x\n", "has no column id, only name, reason")],
)
def test_lists_that_cannot_be_used(
    content: str | None, words: str, tmp_path: Path, twoviews: Command, tiny: list[str]
) -> None:
    listed = tmp_path / "exclude.csv"
    if content is not None:
        listed.write_text(content)
    train = draw(tmp_path / "train", range(4))
    outcome = twoviews("pretrain", train, "--out", tmp_path / "run", "--exclude", listed, *tiny)
    assert outcome.code == 3
    assert words in outcome.err
    everything = tmp_path / "all.csv"
    everything.write_text("id\n" + "".join(f"{'ab'[i % 2]}/{i}.png\n" for i in range(4)))
    outcome = twoviews("pretrain", train, "--out", tmp_path / "run", "--exclude", everything, *tiny)
    assert outcome.code == 3
    assert "holds no image that is not excluded" in outcome.err


def test_labels_are_joined_by_id(run: Path, tmp_path: Path, twoviews: Command) -> None:
    for name, seeds in (("train", range(20)), ("test", range(30, 40))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            picture(seed).save(tmp_path / name / f"{seed}.png")
    labels = tmp_path / "labels.csv"
    seeds = [*range(20), *range(30, 40)]
    labels.write_text("file_name,label\n" + "".join(f"{seed}.png,{'xy'[seed % 2]}\n" for seed in seeds))
    data = ("--train", tmp_path / "train", "--test", tmp_path / "test")
    assert "has no labels" in twoviews("evaluate", run, *data, *OPTIONS).err
    outcome = twoviews("evaluate", run, *data, "--labels", labels, *OPTIONS)
    assert outcome.code == 0, outcome.err
    assert outcome.json()["classes"] == ["x", "y"]


def test_labels_reach_the_probe_data_and_a_resumed_run(
    tmp_path: Path, twoviews: Command, tiny: list[str], hasty: None
) -> None:
    probe = tmp_path / "probe"
    probe.mkdir()
    for seed in range(12):
        picture(seed).save(probe / f"{seed}.png")
    labels = tmp_path / "labels.csv"
    labels.write_text("file_name,label\n" + "".join(f"{seed}.png,{'xy'[seed % 2]}\n" for seed in range(12)))
    pool = draw(tmp_path / "pool", range(100, 112))
    arguments = ("pretrain", pool, "--epochs", 1, "--encoder", "convnet_tiny", "--probe-data", probe, *tiny)
    refused = twoviews(*arguments, "--out", tmp_path / "none")
    assert refused.code == 3
    assert "probe has no labels" in refused.err
    assert "reading images" not in refused.err  # before anything is decoded
    out = tmp_path / "run"
    assert twoviews(*arguments, "--out", out, "--labels", labels).code == 0
    assert '"online_knn"' in (out / "metrics.jsonl").read_text()
    assert json.loads((out / "run.json").read_text())["probe_labels"] == str(labels)
