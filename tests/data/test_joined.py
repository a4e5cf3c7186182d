"""Labels joined by id, lists of paths, and patterns."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from twoviews.data.decoding.decode import decode
from twoviews.data.source import Grouped, Item, Source, Stored, open_source, path_text
from twoviews.data.sources.arrays import ArraySource, from_arrays
from twoviews.data.sources.joined import join_labels, open_all, open_pattern
from twoviews.data.sources.parts import JoinedSource
from twoviews.data.sources.patterns import find_matches
from twoviews.errors import DataError, TwoviewsError, UsageError

Folder = Callable[..., Path]


def ids(source: Source | None) -> list[str]:
    assert source is not None
    return [source[i].id for i in range(len(source))]


def groups(source: Source) -> list[str | None]:
    assert isinstance(source, Grouped)
    assert list(source.groups) == [source[i].group for i in range(len(source))]
    return list(source.groups)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


class Shelf:
    """A stored source: ids 0 to N-1, on its shelf in the other direction."""

    spec = "shelf"

    def __init__(self, count: int) -> None:
        self.labels = tuple(f"l{i}" for i in range(count))
        self.storage_order: NDArray[np.int64] = np.arange(count)[::-1]
        self.stamp = f"{count} books"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return Item(f"{index}", self.labels[index], lambda: np.full((4, 4, 1), index, np.uint8))


# Labels


def test_labels_and_groups_by_id(image_folder: Folder, tmp_path: Path) -> None:
    root = image_folder({"cat": 2, "dog": 2})
    file = write(tmp_path / "l.csv", "file_name,label,group\n./dog/1.png,wolf,p1\ncat/0.png,lion,\ncat/1.png,,p2\n")
    source = open_source(root, labels=file)
    assert ids(source) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert list(source.labels) == ["lion", None, None, "wolf"]
    assert [source[i].label for i in range(4)] == list(source.labels)
    assert groups(source) == [None, "p2", None, "p1"]
    assert (decode(source[3].read()) == decode(open_source(root)[3].read())).all()
    assert source.spec == str(root)
    assert isinstance(source, Source)
    assert not isinstance(source, Stored)


def test_a_column_that_the_file_lacks_stays(image_folder: Folder, tmp_path: Path) -> None:
    root = image_folder({"cat": 1, "dog": 1})
    inner = open_source(write(root / "m.csv", "file_name,label,group\ncat/0.png,a,g\ndog/0.png,b,h\n"))
    regrouped = join_labels(inner, write(tmp_path / "g.tsv", "file_name\tgroup\ncat/0.png\tp\n"), download=False)
    assert list(regrouped.labels) == ["a", "b"]
    assert groups(regrouped) == ["p", None]
    relabelled = join_labels(
        inner, write(tmp_path / "l.jsonl", '{"file_name": "dog/0.png", "label": 1}'), download=False
    )
    assert list(relabelled.labels) == [None, "1"]
    assert groups(relabelled) == ["g", "h"]


def test_a_split_of_the_label_file(image_folder: Folder, tmp_path: Path) -> None:
    root = image_folder({"": 4})
    file = write(tmp_path / "l.csv", "file_name,split,label\n0.png,test,x\n3.png,train,y\n1.png,train,x\n")
    train = open_source(root, labels=f"{file}:train")
    assert ids(train) == ["1.png", "3.png"]
    assert list(train.labels) == ["x", "y"]
    assert len(open_source(root, labels=file)) == 4
    with pytest.raises(UsageError, match=r"unknown split of 'l\.csv' 'tran': did you mean 'train'"):
        open_source(root, labels=f"{file}:tran")
    only = write(tmp_path / "only.csv", "file_name,split\n0.png,a\n1.png,b\n")
    assert ids(open_source(root, labels=f"{only}:b")) == ["1.png"]
    with pytest.raises(DataError, match=r"has neither label nor group, only file_name, split: add one"):
        open_source(root, labels=only)


def test_labels_for_arrays_do_not_copy_them(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    inner = from_arrays(images, ids=["a/1", "a/2", "b//3"])
    source = join_labels(inner, write(tmp_path / "l.csv", "file_name,label,split\na/1,x,t\nb//3,y,t\n"), download=False)
    assert isinstance(source, ArraySource)
    assert np.shares_memory(source.images, images)
    assert list(source.labels) == ["x", None, "y"]
    part = join_labels(inner, Path(f"{tmp_path}/l.csv:t"), download=False)
    assert ids(part) == ["a/1", "b//3"]


def test_a_path_is_never_taken_for_the_name_of_a_data_set(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder({"cat": 2}, name="digits")
    image_folder({"cat": 1}, name="other")
    monkeypatch.chdir(tmp_path)
    assert path_text(Path("digits")) == "./digits"
    assert len(open_source(path_text(Path("digits")))) == len(open_source(Path("digits"))) == 2
    both = open_source([Path("digits"), Path("other")])
    assert len(both) == len(open_source(both.spec)) == 3


def test_rows_that_name_nothing_are_counted(image_folder: Folder, tmp_path: Path) -> None:
    root = image_folder({"cat": 2})
    source = open_source(root, labels=write(tmp_path / "l.csv", "file_name,label\ncat/0.png,a\nold.png,a\n"))
    assert isinstance(source, JoinedSource)
    assert source.unmatched == 1
    none = write(tmp_path / "m.csv", "file_name,label\nold.png,a\nolder.png,b\n")
    with pytest.raises(DataError, match=r"none of the 2 rows of '.*m\.csv' names an item of '.*photos': the file has"):
        open_source(root, labels=none)


def test_names_without_folder_or_suffix_are_no_ids(image_folder: Folder, tmp_path: Path) -> None:
    root = image_folder({"cat": 2})
    near = write(tmp_path / "l.csv", "file_name,label\n0,a\n1,b\n")
    with pytest.raises(
        DataError, match=r"none of the 2 rows .* names an item .* the file has '0', the data 'cat/0\.png'"
    ) as e:
        open_source(root, labels=near)
    assert str(e.value).endswith("with its folder and suffix: the names without them would match")
    (root / "dog").mkdir()
    (root / "dog" / "0.png").touch()
    with pytest.raises(DataError, match=r"write each file_name as the id is$"):
        open_source(root, labels=near)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("gone.csv", DataError, "the label file '.*gone.csv' does not exist: give a .csv, .tsv or .jsonl file"),
        ("gone.csv:train", DataError, "the label file '.*gone.csv:train' does not exist"),
        ("photos/0.png", UsageError, "is not .csv, .tsv or .jsonl: give a manifest with file_name"),
        ("photos", DataError, "the label file '.*photos' does not exist"),
    ],
)
def test_label_files_that_are_none(
    name: str, kind: type[TwoviewsError], message: str, image_folder: Folder, tmp_path: Path
) -> None:
    root = image_folder({"": 1})
    with pytest.raises(kind, match=message):
        open_source(root, labels=tmp_path / name)


def test_labels_keep_the_order_of_storage(tmp_path: Path) -> None:
    file = write(tmp_path / "l.csv", "file_name,label,split\n4,a,t\n0,b,t\n1,c,t\n")
    whole = join_labels(Shelf(5), file, download=False)
    assert isinstance(whole, Stored)
    assert whole.storage_order.tolist() == [4, 3, 2, 1, 0]
    assert whole.stamp == "5 books"
    part = join_labels(Shelf(5), Path(f"{file}:t"), download=False)
    assert ids(part) == ["0", "1", "4"]
    assert isinstance(part, Stored)
    assert part.storage_order.tolist() == [2, 1, 0]
    assert list(part.labels) == ["b", "c", "a"]
    image = part[2].read()
    assert isinstance(image, np.ndarray)
    assert image.max() == 4


# Lists


def test_a_list_of_images_is_as_their_folder(image_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({"cat": 2, "dog": 1})
    monkeypatch.chdir(root.parent)
    source = open_source(["photos/dog/0.png", "photos/cat/1.png", "./photos/dog/0.png"])
    assert ids(source) == ["cat/1.png", "dog/0.png"]
    assert list(source.labels) == ["cat", "dog"]
    assert source.spec == '["photos/dog/0.png", "photos/cat/1.png", "./photos/dog/0.png"]'
    again = open_pattern(source.spec)
    assert ids(again) == ids(source)
    assert decode(source[1].read()).shape == (10, 12, 3)
    flat = open_all([str(root / "cat" / "0.png"), "photos/../photos/cat/1.png"], download=False)
    assert ids(flat) == ["0.png", "1.png"]
    assert list(flat.labels) == [None, None]


def test_one_path_alone_is_that_path(image_folder: Folder) -> None:
    root = image_folder({"cat": 2})
    assert ids(open_source([root])) == ["cat/0.png", "cat/1.png"]
    assert open_source([str(root), f"{root}/"]).spec in (str(root), f"{root}/")


def test_folders_keep_labels_and_groups_under_their_names(image_folder: Folder, tmp_path: Path) -> None:
    image_folder({"cat": 1, "dog": 1}, name="one")
    two = image_folder({"": 2}, name="two")
    write(two / "m.csv", "file_name,group\n0.png,g\n1.png,\n")
    source = open_source([f"{two}/m.csv", tmp_path / "one", "digits:test"])
    assert len(source) == 2 + 2 + 599
    assert ids(source)[-5:] == ["digits:test/1796", "m.csv/0.png", "m.csv/1.png", "one/cat/0.png", "one/dog/0.png"]
    assert list(source.labels)[-4:] == [None, None, "cat", "dog"]
    assert groups(source)[-4:] == ["g", None, None, None]
    assert list(source.labels)[:2] == list(open_source("digits:test").labels)[:2]
    assert (decode(source[601].read()) == decode(open_source(tmp_path / "one")[0].read())).all()
    assert ids(open_pattern(source.spec)) == ids(source)


def test_as_much_of_the_path_as_it_takes(image_folder: Folder, tmp_path: Path) -> None:
    for name in ("a/x", "b/x", "b/y"):
        (tmp_path / name).mkdir(parents=True)
        image_folder({"": 1}, name=name)
    source = open_all([str(tmp_path / name) for name in ("b/y", "b/x", "a/x")], download=False)
    assert ids(source) == ["a/x/0.png", "b/x/0.png", "b/y/0.png"]
    lone = open_all([str(tmp_path / "a" / "x"), str(tmp_path / "b" / "y" / "0.png")], download=False)
    assert ids(lone) == ["0.png", "x/0.png"]


def test_stored_parts_are_read_one_after_the_other(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        image = io.BytesIO()
        np.save(image, np.zeros((2, 2), np.uint8))
        rows = {"img": [b"x"] * count, "path": [f"{9 - i}" for i in range(count)]}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    parts = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    together = open_all(parts, download=False)
    assert len(together) == 5
    assert isinstance(together, Stored)
    assert sorted(together.storage_order.tolist()) == list(range(5))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").touch()
    mixed = open_all([*parts, str(tmp_path / "photos")], download=False)
    assert len(mixed) == 6
    assert not isinstance(mixed, Stored)


def test_shards_are_one_source(tmp_path: Path, picture: Callable[..., Any], encoded: Callable[..., bytes]) -> None:
    files = [
        write_tar(tmp_path / f"data-{n:02d}.tar", {f"{n}-{i}.png": encoded(picture(i)) for i in range(2)})
        for n in range(3)
    ]
    source = open_all([str(file) for file in files], download=False)
    assert ids(source) == ["0-0.png", "0-1.png", "1-0.png", "1-1.png", "2-0.png", "2-1.png"]
    assert source.spec == json.dumps([str(file) for file in files])
    spec = f"{tmp_path}/data-{{00..02}}.tar"
    ranged = open_source(spec)
    assert ids(ranged) == ids(source)
    assert ranged.spec == spec
    assert ids(open_source(f"{tmp_path}/*.tar")) == ids(source)
    with pytest.raises(
        DataError, match=r"\{00\.\.04\}\.tar': 2 of 5 are missing, first '.*data-03\.tar', which does not"
    ):
        open_source(f"{tmp_path}/data-{{00..04}}.tar")


def test_lists_that_cannot_be(image_folder: Folder, tmp_path: Path) -> None:
    root = image_folder({"cat": 1})
    with pytest.raises(UsageError, match=r"cat' lies in '.*photos', so its images would count twice: drop one of them"):
        open_source([root, root / "cat"])
    with pytest.raises(UsageError, match=r"0\.png' lies in '.*photos'"):
        open_source([root, root / "cat" / "0.png"])
    with pytest.raises(DataError, match=r"photo' does not exist: did you mean '.*photos'"):
        open_source([root, tmp_path / "photo"])
    with pytest.raises(DataError, match=r"1\.png' does not exist: did you mean '.*0\.png'"):
        open_source([root / "cat" / "0.png", root / "cat" / "1.png"])
    with pytest.raises(UsageError, match=r"the list of paths \[\] has none or an empty one"):
        open_pattern("[]")
    with pytest.raises(UsageError, match="has none or an empty one"):
        open_all(["", "photos"], download=False)


def test_a_list_of_names_of_any_bytes(tmp_path: Path) -> None:
    names = [os.fsdecode(b"raw\xff.png"), "new\nline.png", '"quoted", {a,b} [1]*.png', "\u05d0.png", "~.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    source = open_all([str(tmp_path / name) for name in names], download=False)
    assert ids(source) == sorted(names)
    assert source.spec.isascii()
    assert ids(open_pattern(source.spec)) == sorted(names)
    assert [source[i].read() for i in range(5)] == [tmp_path / name for name in sorted(names)]


def test_thousands_of_files(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"{folder:02d}").mkdir()
        for number in range(100):
            (tmp_path / f"{folder:02d}" / f"{number:03d}.png").touch()
    files = [str(path) for path in tmp_path.rglob("*.png")]
    source = open_all(files, download=False)
    assert len(source) == 2000
    assert sorted(set(source.labels), key=str) == [f"{n:02d}" for n in range(20)]
    assert ids(open_pattern(source.spec)) == ids(source)
    spelled = open_pattern(f"{tmp_path}/{{00..19}}/{{000..099}}.png")
    assert ids(spelled) == ids(source)
    assert ids(open_pattern(f"{tmp_path}/**/*.png")) == ids(open_source(tmp_path)) == ids(source)


# Patterns


def test_a_pattern_of_images_is_as_the_folder_before_it(image_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({"cat/deep": 1, "dog": 2, "": 1})
    for name in ("dog/.hidden.png", ".git/a.png", "__MACOSX/b.png", "dog/notes.txt", "dog/list.csv"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    everything = ids(open_source(root))
    monkeypatch.chdir(root.parent)
    for spec in ("photos/**/*.png", "photos/**", "photos/**/*", f"{root}/**/*.png", "./photos/**/*.p?g", "photos//**"):
        source = open_source(spec)
        assert ids(source) == everything
        assert list(source.labels) == [None, "cat", "dog", "dog"]
        assert source.spec == spec
        assert decode(source[0].read()).shape == (10, 12, 3)
    assert ids(open_source("photos/*/*.png")) == ["dog/0.png", "dog/1.png"]
    assert list(open_source("photos/d*/*.png").labels) == ["dog", "dog"]
    assert list(open_source("photos/dog/[1-9].png").labels) == [None]
    assert ids(open_source("*/dog/0.png")) == ["photos/dog/0.png"]
    assert ids(open_source("photos/{dog,cat/deep}/0.png")) == ["cat/deep/0.png", "dog/0.png"]
    assert ids(open_source("photos/**/*.{png,jpg,JPG}")) == everything
    monkeypatch.chdir(root)
    assert ids(open_source("**/*.png")) == everything
    assert ids(open_source("../photos/**/*.png")) == everything


def test_a_pattern_of_folders(image_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({"digits/x": 1, "dog/y": 1})
    (root / "b.png").write_bytes(b"x")
    (root / "notes.txt").touch()
    monkeypatch.chdir(root)
    source = open_source("*/")
    assert ids(source) == ["digits/x/0.png", "dog/y/0.png"]
    assert list(source.labels) == ["x", "y"]
    assert ids(open_source("*")) == ["b.png", "digits/x/0.png", "dog/y/0.png"]
    assert ids(open_source("dig*/")) == ["x/0.png"]  # the folder, not the data set of that name
    assert ids(open_source("{digits,dog}")) == ["digits/x/0.png", "dog/y/0.png"]


def test_links_in_patterns(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "up").symlink_to("../..")
    (tmp_path / "a" / "b" / "0.png").touch()
    (tmp_path / "a" / "loop.png").symlink_to("loop.png")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
    assert ids(open_source(f"{tmp_path}/**/*.png")) == ["a/b/0.png", "a/gone.png", "a/loop.png"]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("img{08..11}", ["img08", "img09", "img10", "img11"]),
        ("img{8..11}", ["img10", "img11", "img8", "img9"]),
        ("img{0..2}", ["img0", "img1", "img2"]),
        ("img{2..0}", ["img0", "img1", "img2"]),
        ("img{1,2}{a,b{0..1}}", [f"img{n}{end}" for n in "12" for end in ("a", "b0", "b1")]),
        ("{,pre}img", ["img", "preimg"]),
    ],
)
def test_braces(spec: str, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in named:
        Path(name).touch()
    matches = find_matches(spec)
    assert matches is not None
    assert matches.named == named


@pytest.mark.parametrize(
    "spec", ["photos", "a{b}c.png", "{}", "a[b", "a{1..}", "{a..b}", "~", "x:train", "", "{", "[]x"]
)
def test_what_is_no_pattern(spec: str) -> None:
    assert open_pattern(spec) is None


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("photos/*.jpg", DataError, r"'photos/\*\.jpg' matches nothing: nothing in 'photos' matches '\*\.jpg'"),
        ("photo/*.png", DataError, r"matches nothing: '\.' has no folder 'photo'"),
        ("photos/cats/**/*.png", DataError, r"matches nothing: 'photos' has no folder 'cats'"),
        ("photos/**/dogs/*.png", DataError, r"nothing in 'photos/\*\*' matches 'dogs'"),
        ("photos/*/*/", DataError, r"nothing in 'photos/\*' matches '\*/'"),
        ("photos/cat/*.txt", DataError, r"matches only 1 \.txt: name images, folders, shards or tables"),
        ("photos/{cat,cow}/*.png", DataError, r"matches nothing: 'photos' has no folder 'cow'"),
        ("photos/{cat,cow}/0.png", DataError, r"1 of 2 are missing, first 'photos/cow/0\.png', which does not exist"),
        ("photos/cat/0.png/*.png", DataError, r"'photos/cat' has no folder '0\.png'"),
        ("x{0..100000}.tar", UsageError, r"spells out more than 100,000 paths: write \* instead of a range"),
        ("x{1..999999999999999999}.tar", UsageError, "spells out more than 100,000 paths"),
        ("x{1..999}{1..999}.tar", UsageError, "spells out more than 100,000 paths"),
        ('["a", "b"', DataError, r"matches nothing: nothing in '\.' matches|does not exist"),
    ],
)
def test_patterns_that_match_nothing(
    spec: str, kind: type[TwoviewsError], message: str, image_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder({"cat": 1})
    (root / "cat" / "a.txt").touch()
    monkeypatch.chdir(root.parent)
    with pytest.raises(kind, match=message):
        open_source(spec)


def test_a_pattern_finds_names_of_any_bytes(tmp_path: Path) -> None:
    names = [os.fsdecode(b"raw\xff.png"), "new\nline.png", "a[1].png", "{x}.png", "*.png"]
    for name in names:
        (tmp_path / name).touch()
    assert ids(open_source(f"{tmp_path}/*.png")) == ["*.png"]  # a name that is there as written
    assert ids(open_source(f"{tmp_path}/?*.png")) == sorted(names)
    assert ids(open_source(f"{tmp_path}/" + os.fsdecode(b"raw\xff") + ".*")) == names[:1]
    assert ids(open_source(f"{tmp_path}/{{a,b}}*.png")) == ["a[1].png"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if str(path).rstrip("/").endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(DataError, match="shut/' may not be read: Permission denied"):
        open_source(f"{tmp_path}/**/*.png")
