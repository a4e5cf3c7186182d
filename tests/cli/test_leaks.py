"""What lies in train and in test is never counted; what is excluded is said; labels may come from elsewhere."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus, load_corpus
from twoviews.encoders.public import Absent
from twoviews.jobs.comparing import trained_on
from twoviews.jobs.comparing.copies import Seen
from twoviews.jobs.comparing.labelled import Labelled, load_labelled
from twoviews.jobs.comparing.overlap import apart_from_training
from twoviews.jobs.comparing.reference import load_reference
from twoviews.narrate import Narrator
from twoviews.run import Run

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


def near(seed: int, path: Path) -> None:
    """A picture packed again, smaller."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).resize((40, 40)).save(path, quality=85)


@pytest.fixture
def taught(tmp_path: Path, twoviews: Command, tiny: list[str], hasty: None) -> Callable[..., Run]:
    """`taught(*options)`: a run on pictures 100 to 123 and, with their labels, 0 to 11, which it stores at 40 px."""

    def start(*options: object, pool: bool = False) -> Run:
        unlabelled, labelled = draw(tmp_path / "pool", range(100, 124)), draw(tmp_path / "labelled", range(12))
        common = ("--epochs", 1, "--batch-size", 12, "--encoder", "convnet_tiny", "--image-size", 32, *tiny)
        beside = () if pool else ("--labelled", labelled, "--set", "train.labelled_batch=4")
        outcome = twoviews("pretrain", unlabelled, "--out", tmp_path / "taught", *beside, *common, *options)
        assert outcome.code == 0, outcome.err
        return Run(tmp_path / "taught")

    return start


SUP_CON = ("--set", "method.name=sup_con")


def apart(run: Run, train: Path | None, test: Path, **options: Any) -> Labelled:
    return load_labelled(run, train=train, val=None, test=test, download=False, narrator=Narrator(), **options)


def test_near_duplicates_of_learnt_images_leave_test_whatever_train_is(
    taught: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = taught(*SUP_CON)
    train, test = draw(tmp_path / "train", range(30, 50)), draw(tmp_path / "test", range(60, 72))
    near(3, test / "a" / "near.jpg")
    data = apart(run, train, test)
    assert data.excluded == ["1 items of test nearly the same as an image whose labels the encoder was trained on"]
    assert apart(run, None, test).excluded == data.excluded
    assert (len(data.test), data.transductive) == (12, False)
    assert data.overlap == "1 of 13 test items were nearly the same as a labelled image: they left test, 12 remain"

    def unknown(why: str) -> str:
        return (
            "no test item was among the unlabelled images; near duplicates of the labelled images were not looked "
            f"for: {why}"
        )

    # The pool is among what is read, so that the limit is of the labelled images alone.
    test_items, pool = corpus_of(test), corpus_of(tmp_path / "pool")

    def told() -> str:
        return apart_from_training(run, Seen(test_items), read=[Seen(pool)], narrator=Narrator()).words

    monkeypatch.setattr(trained_on, "POOL_LIMIT", 11)
    assert told() == unknown("they are among more than 11 images")
    monkeypatch.undo()
    (tmp_path / "labelled" / "a" / "0.png").unlink()
    assert told() == unknown("they cannot be read again as they were")
    run.update(labelled=run.info()["labelled"] | {"spec": None})
    assert told() == unknown("they were handed over in Python")


def corpus_of(folder: Path, side: int = 40, channels: int = 3) -> Corpus:
    return load_corpus(folder, cache_side=side, channels=channels, intensity="uint8")


def test_labelled_images_are_not_called_unlabelled(taught: Callable[..., Run], tmp_path: Path) -> None:
    """Trained on with their labels or without; an image of both was learnt as a labelled one."""
    run = taught(*SUP_CON)
    train, test = draw(tmp_path / "train", range(30, 50)), draw(tmp_path / "test", [*range(60, 70), 0, 1, 104])
    near(105, test / "b" / "near.jpg")
    counts = (
        "1 of 14 test items were among the unlabelled images, 1 more were nearly the same as one of them, "
        "2 more were among the labelled images"
    )
    data = apart(run, train, test, overlap="drop")
    assert data.overlap == f"{counts}: they left test, 10 remain"
    assert data.excluded == [
        "2 items of test whose labels the encoder was trained on",
        "1 items of test that were among the unlabelled images",
        "1 items of test nearly the same as one of the unlabelled images",
    ]
    run.update(labels_trained_on=0)
    data = apart(run, train, test)
    assert (data.overlap, data.transductive) == (f"{counts}: the comparison is transductive", True)
    assert apart(run, train, test, overlap="drop").excluded == [
        "2 items of test that were among the labelled images",
        "1 items of test that were among the unlabelled images",
        "1 items of test nearly the same as one of the unlabelled images",
    ]
    only = draw(tmp_path / "only", [*range(60, 70), 0, 1])
    assert apart(run, train, only).overlap == (
        "2 of 12 test items were among the labelled images: the comparison is transductive"
    )


def test_what_was_held_out_of_the_labelled_images_was_not_learnt(taught: Callable[..., Run], tmp_path: Path) -> None:
    run = taught(*SUP_CON, "--set", "evaluate.validation=0.25")
    with run.labelled.open(newline="") as file:
        held = [int(Path(row["id"]).stem) for row in csv.DictReader(file) if row["part"] == "validation"]
    assert len(held) == 3
    train, test = draw(tmp_path / "train", range(30, 50)), draw(tmp_path / "test", [*range(60, 70), *held])
    data = apart(run, train, test)
    assert (data.overlap, data.excluded) == ("no test item was among the unlabelled images", [])


def test_a_pool_whose_labels_were_used_is_no_unlabelled_one(taught: Callable[..., Run], tmp_path: Path) -> None:
    run = taught(*SUP_CON, pool=True)
    train, test = draw(tmp_path / "train", range(30, 50)), draw(tmp_path / "test", [*range(60, 70), 104])
    near(105, test / "b" / "near.jpg")
    assert apart(run, train, test, overlap="drop").overlap == (
        "1 of 12 test items were among the labelled images, 1 more were nearly the same as one of them: they left "
        "test, 10 remain"
    )


@pytest.mark.parametrize("name", ["", "encoder"])
def test_a_reference_that_was_trained_on_labels_of_test(
    name: str, taught: Callable[..., Run], run: Path, tmp_path: Path, twoviews: Command
) -> None:
    """The run stores the pictures at 48 px, the reference at 40 px: held against its training at 40 px."""
    other = taught(*SUP_CON)
    train, test = draw(tmp_path / "train", range(30, 50)), draw(tmp_path / "test", range(60, 72))
    options = ("--train", train, "--test", test, *OPTIONS, "--reference", other.path / name)

    def cut() -> list[str]:
        results = twoviews("evaluate", run, *options).json()
        assert len(results["protocol"].get("references", ())) + len(results["cut"]) == 1
        return list(results["cut"])

    assert cut() == []
    near(3, test / "b" / "leak.png")
    words = "1 items of test nearly the same as an image whose labels the encoder was trained on"
    assert cut() == [f"reference {other.path / name} was not measured: there are {words}"]
    picture(3).save(test / "b" / "leak.png")
    (told,) = cut()
    assert told.startswith(
        f"reference {other.path / name} was not measured: 1 of 13 test items were among the images whose labels"
    )


def test_grey_pictures_that_a_reference_saw_in_colour(
    tmp_path: Path, twoviews: Command, tiny: list[str], hasty: None
) -> None:
    """A pool of colour stores them in three channels; a run on grey pictures has one."""
    pool, test = draw(tmp_path / "pool", range(100, 124)), tmp_path / "test"
    (test / "a").mkdir(parents=True)
    for seed in range(4):
        picture(seed).convert("L").save(test / "a" / f"{seed}.png")
    picture(0).convert("L").save(pool / "a" / "grey.png")
    options = ("--epochs", 1, "--batch-size", 12, "--encoder", "convnet_tiny", *tiny)
    assert twoviews("pretrain", pool, "--out", tmp_path / "run", *options).code == 0
    grey = corpus_of(test, side=120, channels=1)
    storage = Storage(120, 1, "uint8")
    found = load_reference(str(tmp_path / "run"), storage=storage, sizes=grey.sizes)
    seen = found.seen(grey, narrator=Narrator())
    assert seen == "1 of 4 test items were among the unlabelled images: the comparison is transductive"
    assert not isinstance(seen, Absent)
