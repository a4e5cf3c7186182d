"""Groups, copies and what an encoder has seen: nothing that decides a verdict lies on two sides, and all is counted."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.errors import DataError
from twoviews.jobs.comparing import trained_on
from twoviews.jobs.comparing.labelled import Labelled, load_labelled
from twoviews.narrate import Narrator
from twoviews.run import Run

Command = Callable[..., Any]


def picture(seed: int) -> Image.Image:
    """A pattern that no other seed resembles."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((48, 48), Image.Resampling.BICUBIC)


def again(seed: int) -> Image.Image:
    """Nearly the same: smaller, and as bytes of another kind."""
    return picture(seed).resize((40, 40), Image.Resampling.BICUBIC)


def draw(folder: Path, seeds: Iterable[int], *, near: Iterable[int] = ()) -> Path:
    """Pictures in two class folders, by the parity of their seeds; `near`: as near duplicates."""
    for make, chosen in ((picture, seeds), (again, near)):
        for seed in chosen:
            path = folder / "ab"[seed % 2] / f"{make.__name__}-{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            make(seed).save(path)
    return folder


def listed(folder: Path, groups: dict[int, str | None], *, name: str = "list.csv") -> Path:
    """A list of pictures with their groups, classes by the parity of their seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in groups:
        picture(seed).save(folder / f"{seed}.png")
    rows = [f"{seed}.png,{'ab'[seed % 2]},{group or ''}\n" for seed, group in groups.items()]
    (folder / name).write_text("file_name,label,group\n" + "".join(rows))
    return folder / name


class Told(Narrator):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        self.said.append(text)


def load(run: Run, train: Path | None, test: Path, *, narrator: Narrator | None = None, **options: Any) -> Labelled:
    given = {"val": None, **options}
    return load_labelled(run, train=train, test=test, download=False, narrator=narrator or Narrator(), **given)


@pytest.fixture(scope="module")
def pretrain(twoviews: Command, tiny: list[str]) -> Iterator[Callable[..., Run]]:
    def start(pool: Path, out: Path, *options: object) -> Run:
        common = ("--epochs", 1, "--batch-size", 8, "--encoder", "convnet_tiny", *tiny)
        outcome = twoviews("pretrain", pool, "--out", out, *common, *options)
        assert outcome.code == 0, outcome.err
        return Run(out)

    with pytest.MonkeyPatch.context() as patch:
        from twoviews.jobs.pretraining import pretrain

        patch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
        yield start


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pretrain: Callable[..., Run]) -> Run:
    """A run on unlabelled pictures 100 to 123."""
    folder = tmp_path_factory.mktemp("groups")
    return pretrain(draw(folder / "pool", range(100, 124)), folder / "run")


def test_no_group_is_on_two_sides(run: Run, tmp_path: Path) -> None:
    train = listed(tmp_path / "train", {i: f"patient {i // 4}" for i in range(40)})
    test = listed(tmp_path / "test", {i: f"patient {i // 4 % 3 + 8}" for i in range(200, 212)})
    data = load(run, train, test)
    # Patients 8 and 9 are in both, four pictures each.
    assert data.excluded == ["8 items of train, of 2 groups that are in test too"]
    assert len(data.train) + len(data.val) == 32
    held = set(data.val.groups or ())
    assert len(data.val) == 4 * len(held) == 4  # a fifth, 6, is not to be had of whole groups of 4
    assert not held & set(data.train.groups or ())
    assert np.bincount(data.split.val).tolist() == [2, 2]
    assert data.val_origin.endswith("held out before any subset is drawn: 4 labels, by whole groups (1 of 8)")
    assert data.groups == (
        "11 groups, none on two sides; 12 test items come from 3 groups, which intervals take to be independent"
    )
    same = load(run, train, test)
    assert (same.val.ids, same.train.ids, same.excluded) == (data.val.ids, data.train.ids, data.excluded)
    assert load(run, train, test, split_seed=1).val.ids != data.val.ids


def test_without_groups_it_is_said(run: Run, tmp_path: Path) -> None:
    data = load(run, draw(tmp_path / "train", range(20)), draw(tmp_path / "test", range(30, 40)))
    assert data.groups == "no group column: images are taken to be independent"
    assert data.excluded == []
    assert (data.overlap, data.transductive) == ("no test item was among the unlabelled images", False)


def test_a_group_in_a_given_validation_leaves_train(run: Run, tmp_path: Path) -> None:
    train = listed(tmp_path / "train", {i: f"camera {i // 4}" if i < 16 else None for i in range(20)})
    val = listed(tmp_path / "val", {i: f"camera {i % 2}" for i in range(60, 64)})
    test = listed(tmp_path / "test", {70: "camera 1", 71: "camera 9", 72: None, 73: None})
    data = load(run, train, test, val=val)
    assert data.excluded == [
        "4 items of train, of a group that is in test too",
        "2 items of val, of a group that is in test too",
        "4 items of train, of a group that is in validation too",
    ]
    assert (len(data.train), len(data.val), len(data.test)) == (12, 2, 4)
    assert data.val_origin == "given by --val"
    assert data.groups == "5 groups, none on two sides; 6 items without a group are taken to be independent"


def test_numbers_of_two_sources_are_doubted_but_kept_apart(run: Run, tmp_path: Path) -> None:
    numbers = {i: str(i // 4) for i in range(24)}
    train, test = listed(tmp_path / "train", numbers), listed(tmp_path / "test", {30: "0", 31: "7", 32: "8"})
    doubt = " (by number: if the two sources count differently, give groups names)"
    words = "4 items of train, of a group that is in test too"
    assert load(run, train, test).excluded == [words + doubt]
    # One list of all groups cannot count in two ways.
    for name, seeds in (("images", range(24)), ("others", range(30, 33))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            picture(seed).save(tmp_path / name / f"{seed}.png")
    labels = tmp_path / "labels.csv"
    rows = [f"{i}.png,{'ab'[i % 2]},{g}\n" for i, g in {**numbers, 30: "0", 31: "7", 32: "8"}.items()]
    labels.write_text("file_name,label,group\n" + "".join(rows))
    assert load(run, tmp_path / "images", tmp_path / "others", labels=labels).excluded == [words]


def test_groups_that_leave_nothing_are_refused(run: Run, tmp_path: Path) -> None:
    test = listed(tmp_path / "test", {30: "x", 31: "y"})
    everything = listed(tmp_path / "all", {i: "xy"[i % 2] for i in range(8)})
    with pytest.raises(DataError, match=r"no item of train is left, without 8 items of train, of 2 groups that are in"):
        load(run, everything, test)
    a_class = listed(tmp_path / "class", {i: "x" if i % 2 else f"z{i}" for i in range(8)})
    with pytest.raises(DataError, match=r"no item of class 'b' is left in train, without 4 items of train, of a group"):
        load(run, a_class, test)
    one_each = listed(tmp_path / "each", {i: f"home {i % 2}" for i in range(8)})
    with pytest.raises(DataError, match=r"no group can be held out for validation.*group 'home 0' holds all of class"):
        load(run, one_each, test)
    assert len(load(run, one_each, test, part=0.0).val) == 0


def test_every_kind_of_leak_is_found_and_counted_once(run: Run, tmp_path: Path) -> None:
    mates = {i: f"p{i}" for i in range(20)} | dict.fromkeys((20, 21, 22), "p50")
    train = listed(tmp_path / "train", {**mates, 40: "p40", 41: "p41"})  # two pictures of test
    again(42).save(train.parent / "near.png")
    with train.open("a") as file:
        file.write("near.png,a,p50\n")  # nearly one of test, and of a group with another
    test = listed(tmp_path / "test", {i: f"q{i}" for i in range(40, 50)} | {50: "p50"})
    data = load(run, train, test)
    assert data.excluded == [
        "2 items of train with the same pixels as an item of test",
        "1 items of train nearly the same as an item of test",
        "3 items of train, of a group that is in test too",
    ]
    assert sorted(data.train.ids + data.val.ids) == sorted(f"{i}.png" for i in range(20))
    assert len(data.test) == 11


def test_many_copies_leave_where_pictures_are_different(run: Run, tmp_path: Path) -> None:
    """More than a tenth may well be copies, unless the sets are full of near duplicates themselves."""
    train = draw(tmp_path / "train", range(20), near=range(30, 40))
    data = load(run, train, draw(tmp_path / "test", range(30, 50)))
    assert data.excluded == ["10 items of train nearly the same as an item of test"]
    assert len(data.train) + len(data.val) == 20


@pytest.mark.parametrize("mode", ["mark", "drop"])
def test_test_items_of_the_pool_are_marked_or_dropped(mode: str, run: Run, tmp_path: Path) -> None:
    train = draw(tmp_path / "train", range(20), near=[102])
    test = draw(tmp_path / "test", [*range(30, 40), 100, 101, 102], near=[103, 105])
    data = load(run, train, test, overlap=mode)
    counts = "3 of 15 test items were among the unlabelled images, 2 more were nearly the same as one of them"
    if mode == "mark":
        assert data.overlap == f"{counts}: the comparison is transductive"
        assert data.transductive
        assert len(data.test) == 15
        assert data.excluded == ["1 items of train nearly the same as an item of test"]
    else:
        assert data.overlap == f"{counts}: they left test, 10 remain"
        assert not data.transductive
        assert sorted(data.test.ids) == sorted(f"{'ab'[i % 2]}/picture-{i}.png" for i in range(30, 40))
        # What resembles only a picture that left test may stay in train.
        assert data.excluded == [
            "3 items of test that were among the unlabelled images",
            "2 items of test nearly the same as one of the unlabelled images",
        ]
        assert len(data.train) + len(data.val) == 21
    assert data.test_fingerprint == load(run, train, test).test_fingerprint
    with pytest.raises(DataError, match=r"no item of --test .* is left without 2 items of test that were among"):
        load(run, train, draw(tmp_path / "pooled", [110, 111]), overlap="drop")


def test_the_pool_is_read_again_only_where_it_must(
    run: Run, tmp_path: Path, pretrain: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = draw(tmp_path / "test", range(30, 40), near=[103])
    pool = draw(tmp_path / "pool", range(100, 112))
    own = pretrain(pool, tmp_path / "run")
    reading = "reading the unlabelled images again, to find near duplicates of test"
    told = Told()
    data = load(own, pool, test, narrator=told)  # the pool is train
    assert reading not in told.said
    assert (
        data.overlap == "1 of 11 test items were nearly the same as an unlabelled image: the comparison is transductive"
    )
    train = draw(tmp_path / "train", range(20))
    told = Told()
    assert load(own, train, test, narrator=told).overlap == data.overlap
    assert reading in told.said

    def unknown(why: str) -> str:
        return f"no test item was among the unlabelled images (near duplicates were not looked for: {why})"

    monkeypatch.setattr(trained_on, "POOL_LIMIT", 11)
    assert load(own, train, test).overlap == unknown("the unlabelled images are more than 11")
    monkeypatch.undo()
    picture(500).save(pool / "a" / "new.png")
    assert load(own, train, test).overlap == unknown("the unlabelled images have changed since")
    shutil.rmtree(pool)
    assert load(own, train, test).overlap == unknown("the unlabelled images cannot be read again")


def test_what_was_learnt_with_labels_leaves_test(tmp_path: Path, pretrain: Callable[..., Run]) -> None:
    labelled = listed(tmp_path / "labelled", {i: f"p{i // 4}" for i in range(24)})
    pool = draw(tmp_path / "pool", range(100, 112))
    own = pretrain(
        *(pool, tmp_path / "run", "--labelled", labelled, "--set", "method.name=sup_con"),
        *("--set", "train.labelled_batch=4"),
    )
    assert own.info()["labels_trained_on"] == 24
    test = listed(tmp_path / "test", {30: "p0", 31: "p0", 32: "q", 33: "q", 34: None, 35: None})
    again(1).save(test.parent / "near.png")
    with test.open("a") as file:
        file.write("near.png,b,q\n")
    data = load(own, None, test)
    assert data.excluded == [
        "1 items of test nearly the same as an image whose labels the encoder was trained on",
        "2 items of test of a group with images whose labels the encoder was trained on",
    ]
    assert (len(data.train), len(data.test), data.transductive) == (24, 4, False)
    # Groups and near duplicates are known too where other data are given to train on.
    other = draw(tmp_path / "other", range(60, 80))
    assert load(own, other, test).excluded == data.excluded

    leaky = listed(tmp_path / "leaky", {0: "r", 1: "r", 40: "r", 41: "r"})
    with pytest.raises(
        DataError, match=r"2 of 4 test items were among the images whose labels .* evaluate.overlap = drop"
    ):
        load(own, None, leaky)
    data = load(own, None, leaky, overlap="drop")
    assert data.excluded == ["2 items of test whose labels the encoder was trained on"]
    assert data.test.ids == ("40.png", "41.png")


def test_labels_of_the_pool_count_as_learnt(tmp_path: Path, pretrain: Callable[..., Run]) -> None:
    pool = listed(tmp_path / "pool", {i: f"p{i // 4}" for i in range(100, 124)})
    own = pretrain(pool, tmp_path / "run", "--set", "method.name=sup_con")
    test = listed(tmp_path / "test", {30: "p25", 31: "q", 32: "q", 33: None})
    again(101).save(test.parent / "near.png")
    with test.open("a") as file:
        file.write("near.png,b,q\n")
    data = load(own, draw(tmp_path / "train", range(20)), test)
    assert data.excluded == [
        "1 items of test nearly the same as an image whose labels the encoder was trained on",
        "1 items of test of a group with images whose labels the encoder was trained on",
    ]
    assert len(data.test) == 3
    assert not data.transductive


def test_groups_of_the_pool_are_told(tmp_path: Path, pretrain: Callable[..., Run]) -> None:
    pool = listed(tmp_path / "pool", {i: f"p{i // 4}" for i in range(100, 124)})
    own = pretrain(pool, tmp_path / "run")
    test = listed(tmp_path / "test", {30: "p25", 31: "p26", 32: "q", 33: None})
    data = load(own, draw(tmp_path / "train", range(20)), test)
    assert data.overlap == (
        "no test item was among the unlabelled images; 2 of 4 test items are of a group that the unlabelled images "
        "have too"
    )
    assert (data.excluded, data.transductive, len(data.test)) == ([], False, 4)


@pytest.mark.parametrize("size", [2, 4])
def test_validation_gives_way_to_labels_that_were_trained_on(
    size: int, tmp_path: Path, pretrain: Callable[..., Run]
) -> None:
    """The encoder has seen the labels of train, and still would have if train gave way."""
    pool = listed(tmp_path / "pool", {i: f"p{i // size}" for i in range(100, 124)})
    settings = ("data.labelled=8", "data.validation=8", "train.labelled_batch=4", "method.name=sup_con")
    own = pretrain(pool, tmp_path / "run", *(word for text in settings for word in ("--set", text)))
    data = load(own, None, listed(tmp_path / "test", {30: "q", 31: "r"}))
    assert len(data.train) == 8
    assert not set(data.train.groups or ()) & set(data.val.groups or ())
    assert data.excluded[0].startswith(f"{8 - len(data.val)} items of val, of ")
    assert data.excluded[0].endswith("in train too")
    if size == 2:
        assert 0 < len(data.val) < 8
        assert data.val_origin == "held out before pretraining"
    else:  # each group has an item in train
        assert len(data.val) == 0
        assert data.val_origin == "none left of what was held out before pretraining"
