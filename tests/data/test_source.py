"""Which items exist: folders, manifests, parquet files, arrays, names."""

import csv
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twoviews.data.decoding.decode import decode
from twoviews.data.source import Grouped, Item, Source, is_grouped, is_source, is_stored, open_source
from twoviews.data.sources.rows import open_rows
from twoviews.errors import DataError, TwoviewsError, UsageError

Folder = Callable[..., Path]


def ids(source: Source) -> list[str]:
    return [source[i].id for i in range(len(source))]


# Folders


def test_class_folders_give_labels_and_sorted_relative_ids(image_folder: Folder) -> None:
    root = image_folder({"dog/deep/er": 1, "cat": 2, "": 1})
    source = open_source(root)
    assert ids(source) == ["0.png", "cat/0.png", "cat/1.png", "dog/deep/er/0.png"]
    assert list(source.labels) == [None, "cat", "cat", "dog"]
    assert source[3].label == "dog"
    assert decode(source[3].read()).shape == (10, 12, 3)
    assert isinstance(source, Source)


def test_a_flat_folder_has_no_labels(image_folder: Folder) -> None:
    assert list(open_source(str(image_folder({"": 2}))).labels) == [None, None]


def test_split_folders_are_no_classes(image_folder: Folder) -> None:
    root = image_folder({"train/cat": 1, "train/dog": 1, "test/cat": 1})
    assert list(open_source(root).labels) == ["cat", "cat", "dog"]
    assert ids(open_source(f"{root}:train")) == ["cat/0.png", "dog/0.png"]
    with pytest.raises(UsageError, match="unknown sub-folder of 'photos' 'tran': did you mean 'train'"):
        open_source(f"{root}:tran")


def test_hidden_and_foreign_files_are_left_out(image_folder: Folder) -> None:
    root = image_folder({"cat": 1})
    for name in (".DS_Store.png", "notes.txt", ".git/a.png", "__MACOSX/b.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    assert ids(open_source(root)) == ["cat/0.png"]


def test_images_without_a_suffix_are_known_by_their_content(image_folder: Folder) -> None:
    root = image_folder({"a": 1})
    data = (root / "a" / "0.png").read_bytes()
    for name in ("noext", "1.2.840.10008"):
        (root / "a" / name).write_bytes(data)
    (root / "a" / "IM0001").write_bytes(bytes(128) + b"DICM")
    for name in ("LICENSE", "7.13", "photo.txt"):
        (root / "a" / name).write_bytes(b"no picture" if name != "photo.txt" else data)
    assert ids(open_source(root)) == ["a/0.png", "a/1.2.840.10008", "a/IM0001", "a/noext"]
    assert ids(open_source(root / "a" / "noext")) == ["noext"]
    with pytest.raises(DataError, match=r"LICENSE' is no data set"):
        open_source(root / "a" / "LICENSE")


def test_links_to_folders_above_and_a_thousand_files(tmp_path: Path) -> None:
    root = tmp_path / "outer" / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "outer" / "neighbour.png").write_bytes(b"x")
    for index in range(1000):
        (root / "a" / f"{index}.png").write_bytes(b"x")
    (root / "up").symlink_to("..")
    (root / "a" / "again").symlink_to("..")
    found = ids(open_source(root))
    assert len(found) == 1000
    assert all(name.startswith("a/") and name.count("/") == 1 for name in found)


def test_a_linked_file_counts_once_and_keeps_its_real_name(tmp_path: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    (root / "z").mkdir(parents=True)
    store.mkdir()
    (root / "z" / "real.png").write_bytes(b"x")
    (root / "a.png").symlink_to("z/real.png")
    (store / "blob").write_bytes(b"x")  # as in a Hub cache, where only the link has a suffix
    (root / "one.png").symlink_to(store / "blob")
    (root / "two.png").symlink_to(store / "blob")
    (root / "broken.png").symlink_to(tmp_path / "gone")
    (root / "loop.png").symlink_to("loop.png")
    (root / "linked").symlink_to(store, target_is_directory=True)
    (store / "inside.png").write_bytes(b"x")
    assert ids(open_source(root)) == ["broken.png", "linked/inside.png", "loop.png", "one.png", "z/real.png"]


def test_the_order_of_the_directory_changes_nothing(image_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({"b": 3, "a": 3, "c/d": 2})
    expected = ids(open_source(root))
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert ids(open_source(root)) == expected


NAMES = [
    "caf\u00e9.png",
    unicodedata.normalize("NFD", "caf\u00e9") + ".png",
    "\U0001f9f6.png",
    "\u05d0\u05d1\u05d2.png",
    "new\nline.png",
    "return\rhere.png",
    "-rf.png",
    os.fsdecode(b"raw\xff.png"),
    "n" * 246 + ".png",
    '"><img src=x onerror=alert(1)>.png',
    "comma,quote'.png",
    "100%:train.png",
]


def test_any_name_is_an_item_that_can_be_read(
    tmp_path: Path, picture: Callable[..., Any], encoded: Callable[..., bytes]
) -> None:
    for seed, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(encoded(picture(seed)))
    source = open_source(tmp_path)
    assert ids(source) == sorted(NAMES)
    assert all(decode(source[i].read()).shape == (10, 12, 3) for i in range(len(source)))


# Paths that lead nowhere


def test_missing_paths_offer_the_nearest_name(image_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({"cat": 1})
    with pytest.raises(DataError, match=r"photo' does not exist: did you mean '.*photos'\?"):
        open_source(root.parent / "photo")
    with pytest.raises(DataError, match=r"did you mean '.*photos'\?"):
        open_source(f"{root.parent}/photoz/cat/0.png")
    with pytest.raises(DataError, match="has no such name"):
        open_source(root.parent / "entirely" / "else")
    monkeypatch.chdir(root.parent)
    with pytest.raises(DataError, match="did you mean 'photos'"):
        open_source("photo")


def test_a_pipe_is_no_missing_file(image_folder: Folder) -> None:
    pipe = image_folder({"": 1}) / "x.jpg"
    os.mkfifo(pipe)
    for spec in (pipe, [str(pipe.with_name("0.png")), str(pipe)]):
        with pytest.raises(DataError, match=r"x.jpg' is no regular file: give a folder, an image"):
            open_source(spec)


def test_a_column_of_a_table_is_its_rows(image_folder: Folder) -> None:
    root = image_folder({"": 2})
    paths = [str(root / name) for name in ("1.png", "0.png", "1.png")]
    for column in (np.array(paths, object), np.array(paths, object)[:, None], np.array(paths)[:, None]):
        assert ids(open_rows(column, [1, 2, 3])) == ["0/1.png", "1/0.png", "2/1.png"]


def test_no_member_of_a_source_is_computed_to_know_its_kind() -> None:
    class Costly:
        spec = ""

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Item:
            raise AssertionError

        @property
        def labels(self) -> Sequence[str | None]:
            raise AssertionError

        stamp = storage_order = groups = labels

    source: Any = Costly()
    assert is_source(source)
    assert is_stored(source)
    assert is_grouped(source)
    assert not is_source(["a.png"])
    del Costly.stamp, Costly.groups
    assert not is_stored(source)
    assert not is_grouped(source)
    source.groups = ("a",)
    assert is_grouped(source)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("cifar11", UsageError, "unknown data set 'cifar11': did you mean 'cifar1"),
        ("digit:train", UsageError, "unknown data set 'digit': did you mean 'digits'"),
        ("mnist@somewhere", UsageError, "unknown data set 'mnist'"),
        ("digits:trian", UsageError, "unknown split of digits 'trian': did you mean 'train'"),
        ("digits@here:train", UsageError, "have no folder"),
        ("", UsageError, "is no path"),
        ("a\0b", UsageError, "is no path"),
        (7, UsageError, "cannot read data from int"),
        ((1, 2, 3), UsageError, "got 3 parts"),
    ],
)
def test_specs_that_mean_nothing(spec: Any, kind: type[TwoviewsError], message: str) -> None:
    with pytest.raises(kind, match=message):
        open_source(spec)


def test_empty_folders_and_foreign_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image in folder .*it is empty"):
        open_source(tmp_path)
    (tmp_path / "photo.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"found only 1 \.heic; images end in"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"is no data set \(suffix '\.heic'\)"):
        open_source(tmp_path / "photo.heic")


def test_a_source_is_returned_as_it_is() -> None:
    class Mine:
        spec = "mine"
        labels = (None,)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Item:
            return Item("0", None, lambda: np.zeros((4, 4), np.uint8))

    mine = Mine()
    assert open_source(mine) is mine


# Manifests


@pytest.fixture
def manifest(image_folder: Folder) -> Callable[..., Path]:
    root = image_folder({"": 4})

    def write(text: str | bytes, name: str = "labels.csv") -> Path:
        path = root / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_csv_manifest(manifest: Callable[..., Path]) -> None:
    path = manifest("\ufefffile_name,label,split\r\n2.png,dog,test\r\n./0.png,cat,train\r\n\r\n1.png,,train\r\n")
    source = open_source(path)
    assert ids(source) == ["0.png", "1.png", "2.png"]
    assert list(source.labels) == ["cat", None, "dog"]
    assert decode(source[0].read()).shape == (10, 12, 3)
    assert ids(open_source(f"{path}:test")) == ["2.png"]
    with pytest.raises(UsageError, match=r"unknown split of 'labels\.csv' 'tets': did you mean 'test'"):
        open_source(f"{path}:tets")


def test_jsonl_manifest(manifest: Callable[..., Path]) -> None:
    rows = [{"file_name": "1.png", "label": 3}, {"file_name": "0.png", "label": None}, {"file_name": "2.png"}]
    source = open_source(manifest("\n".join(map(json.dumps, rows)) + "\n", "labels.jsonl"))
    assert ids(source) == ["0.png", "1.png", "2.png"]
    assert list(source.labels) == [None, "3", None]


def test_tsv_manifest_with_groups(manifest: Callable[..., Path]) -> None:
    source = open_source(manifest("group\tfile_name\tlabel\np,1\t1.png\tb\n\t0.png\t\np,1\t2.png\tb\n", "labels.tsv"))
    assert ids(source) == ["0.png", "1.png", "2.png"]
    assert list(source.labels) == [None, "b", "b"]
    assert isinstance(source, Grouped)
    assert list(source.groups) == [source[i].group for i in range(3)] == [None, "p,1", "p,1"]


def test_files_without_groups_have_none_each(image_folder: Folder) -> None:
    source = open_source(image_folder({"cat": 2}))
    assert isinstance(source, Grouped)
    assert list(source.groups) == [None, None]
    assert source[1].group is None


def test_metadata_files_may_have_further_columns(manifest: Callable[..., Path]) -> None:
    rows = [
        {"file_name": "1.png", "objects": {"bbox": [[1, 2, 3, 4]]}, "label": 7, "caption": "a\nb"},
        {"file_name": "0.png", "text": None},
    ]
    source = open_source(manifest("\n".join(map(json.dumps, rows)), "metadata.jsonl"))
    assert ids(source) == ["0.png", "1.png"]
    assert list(source.labels) == [None, "7"]
    captions = manifest('file_name,caption,,\n0.png,"two\nlines",x,y\n1.png,nan,,\n', "metadata.csv")
    assert list(open_source(captions).labels) == [None, None]


def test_paths_of_manifests(manifest: Callable[..., Path], tmp_path: Path) -> None:
    root = manifest("").parent
    (root / "deep").mkdir()
    names = ["../photos/0.png", f"{root}/1.png", "deep/.././2.png", ".//3.png"]
    source = open_source(manifest("file_name\n" + "\n".join(names)))
    assert ids(source) == sorted(["../photos/0.png", f"{root}/1.png", "deep/../2.png", "3.png"])
    assert all(decode(source[i].read()).shape == (10, 12, 3) for i in range(4))


def test_names_of_any_bytes_in_manifests(
    tmp_path: Path, picture: Callable[..., Any], encoded: Callable[..., bytes]
) -> None:
    for name in NAMES:
        (tmp_path / name).write_bytes(encoded(picture(0)))
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["file_name"], *([name] for name in NAMES)])
    assert ids(open_source(tmp_path / "labels.csv")) == sorted(NAMES)


@pytest.mark.parametrize("count", [3, 40])
def test_links_missing_files_and_folders_in_long_and_short_manifests(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"{number:02d}.png").touch()
    (tmp_path / "link.png").symlink_to("00.png")
    names = [f"{number:02d}.png" for number in range(count)]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["file_name", "link.png", *reversed(names)]))
    assert ids(open_source(path)) == [*names, "link.png"]
    (tmp_path / "link.png").unlink()
    (tmp_path / "link.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"labels\.csv, line 2: names 'link\.png', which does not exist"):
        open_source(path)
    (tmp_path / "link.png").unlink()
    (tmp_path / "link.png").mkdir()
    with pytest.raises(DataError, match=r"line 2: names 'link\.png', which is no file"):
        open_source(path)
    (tmp_path / "link.png").rmdir()
    (tmp_path / "01.png").rename(tmp_path / "link.png")
    with pytest.raises(DataError, match=rf"line {count + 1}: names '01\.png', which does not exist"):
        open_source(path)


def test_a_row_that_is_repeated_counts_once(manifest: Callable[..., Path]) -> None:
    assert len(open_source(manifest("file_name,label\n0.png,a\n0.png,a\n1.png,b\n"))) == 2
    assert list(open_source(manifest("file_name,label\n1.png,b\n0.png,a\n./1.png,b\n")).labels) == ["a", "b"]


BROKEN_MANIFESTS: dict[str, tuple[str | bytes, str, str]] = {
    "missing image": (
        "file_name,label\n0.png,a\ngone.png,b\n",
        "labels.csv",
        "line 3: names 'gone.png', which does not",
    ),
    "rows that disagree": (
        "file_name,label\n0.png,a\n1.png,a\n0.png,b\n",
        "labels.csv",
        "line 4: .*'b', but 'a' in line 2",
    ),
    "splits that disagree": (
        "file_name,split\n0.png,train\n0.png,test\n",
        "labels.csv",
        "line 3: '0.png' has split 'test', but 'train' in line 2",
    ),
    "groups that disagree": (
        "file_name,group\n1.png,p\n0.png,p\n1.png,\n",
        "labels.csv",
        "line 4: '1.png' has group None, but 'p' in line 2",
    ),
    "NaN as group": ("file_name,group\n0.png,nan\n", "labels.csv", "line 2: group is 'nan'"),
    "column of another layout": ("path,label\n0.png,a\n", "labels.csv", "line 1: unknown column 'path': choose one of"),
    "near file_name": ("filename\n0.png\n", "labels.csv", "unknown column 'filename': did you mean 'file_name'"),
    "near file_name in metadata": (
        "text,filename\na,0.png\n",
        "metadata.csv",
        "line 1: has no column file_name, only text, filename: rename 'filename' to it",
    ),
    "fraction in metadata": ('{"file_name": "0.png", "label": [1]}', "metadata.jsonl", r"line 1: label is \[1\]"),
    "commas in TSV": ("file_name,label\n0.png,a\n", "labels.tsv", "line 1: separate the columns by tabs"),
    "zeros behind": (b"file_name\n0.png\n1.png\n\0\0\0", "labels.csv", "line 4: is not UTF-8 text"),
    "zeros without end": (b"\0" * 3_000_000, "labels.jsonl", "line 1: is not UTF-8 text"),
    "zero in JSON": ('{"file_name": "a\\u0000"}', "labels.jsonl", r"line 1: names 'a\\x00', which does not exist"),
    "true after one": (
        '{"file_name": "0.png", "label": 1}\n{"file_name": "1.png", "label": true}',
        "labels.jsonl",
        "line 2: label is True",
    ),
    "fewer columns further on": ('{"file_name": "0.png"}\n{"label": 1}', "labels.jsonl", "line 2: has no column file_"),
    "unknown column": (
        "file_name,lable\n0.png,a\n",
        "labels.csv",
        "line 1: unknown column 'lable': did you mean 'label'",
    ),
    "column twice": (
        "file_name,label,label\n0.png,a,b\n",
        "labels.csv",
        "line 1: names the column 'label' twice",
    ),
    "no file_name": ("label\na\n", "labels.csv", "line 1: has no column file_name, only label"),
    "semicolons": ("file_name;label\n0.png;a\n", "labels.csv", "line 1: separate the columns by commas"),
    "empty": ("", "labels.csv", "is empty: its first line names the columns file_name, label, split, group"),
    "header only": ("file_name,label\n", "labels.csv", "lists no image"),
    "empty JSON": ("\n", "labels.jsonl", "lists no image"),
    "case": (
        "file_name,label\n0.png,Cat\n1.png,cat\n",
        "labels.csv",
        "line 3: .* only by case from 'Cat' in line 2",
    ),
    "NaN": ("file_name,label\n0.png,NaN\n", "labels.csv", "line 2: label is 'NaN'"),
    "NaN in JSON": ('{"file_name": "0.png", "label": NaN}', "labels.jsonl", "line 1: label is nan"),
    "fraction": ('{"file_name": "0.png", "label": 1.5}', "labels.jsonl", r"line 1: label is 1\.5"),
    "truth value": ('{"file_name": "0.png", "label": true}', "labels.jsonl", "line 1: label is True"),
    "latin-1 label": (
        "file_name,label\n0.png,caf\u00e9\n".encode("latin-1"),
        "labels.csv",
        "line 2: label is not UTF-8",
    ),
    "latin-1 name": (
        "file_name,label\ncaf\u00e9.png,a\n".encode("latin-1"),
        "labels.csv",
        "line 2: .*is this file saved as UTF-8",
    ),
    "UTF-16": ("file_name,label\n0.png,a\n".encode("utf-16"), "labels.csv", "line 1: is not UTF-8"),
    "spaces": ("file_name,label\n0.png, a\n", "labels.csv", "line 2: label ' a' has spaces"),
    "too many fields": ("file_name,label\n0.png,a,b\n", "labels.csv", "line 2: has 3 fields, the header 2"),
    "too few fields": ("file_name,label\n0.png\n", "labels.csv", "line 2: has 1 fields, the header 2"),
    "no name": ("file_name,label\n,a\n", "labels.csv", "line 2: file_name is ''"),
    "a folder": ("file_name,label\n.,a\n", "labels.csv", "line 2: names '.', which is no file"),
    "open quote": ('file_name,label\n"0.png,a\n', "labels.csv", "line 3: is no CSV|line 2: is no CSV"),
    "broken JSON": ('{"file_name": "0.png"}\n{"file_name"', "labels.jsonl", "line 2: is no JSON"),
    "JSON list": ('["0.png", "a"]', "labels.jsonl", "line 1: is no JSON object"),
    "deep JSON": ("[" * 100_000, "labels.jsonl", "line 1: is no JSON"),
    "lone surrogate": (
        '{"file_name": "\\ud800.png"}',
        "labels.jsonl",
        "line 1: names .* which does not exist",
    ),
}


@pytest.mark.parametrize("name", BROKEN_MANIFESTS)
def test_broken_manifests_name_file_and_line(name: str, manifest: Callable[..., Path]) -> None:
    text, file, message = BROKEN_MANIFESTS[name]
    with pytest.raises(DataError, match=message) as caught:
        open_source(manifest(text, file))
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_needs_its_column(manifest: Callable[..., Path]) -> None:
    path = manifest("file_name,label\n0.png,a\n")
    with pytest.raises(DataError, match=r"has no split column, but split 'test' was asked for: drop ':test'"):
        open_source(f"{path}:test")


# Parquet


def image_table(count: int, encoded: Callable[..., bytes], picture: Callable[..., Any], **columns: Any) -> pa.Table:
    images = [{"bytes": encoded(picture(i)), "path": None} for i in range(count)]
    return pa.table({"img": images, "label": list(range(count)), **columns})


def test_parquet_with_class_names(tmp_path: Path, encoded: Callable[..., bytes], picture: Callable[..., Any]) -> None:
    table = image_table(12, encoded, picture).set_column(1, "label", pa.array([0, 1, -1, None] * 3))
    features = {"info": {"features": {"label": {"names": ["zebra", "ape"], "_type": "ClassLabel"}}}}
    path = tmp_path / "train.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path, row_group_size=5)
    source = open_source(path)
    assert ids(source) == [f"{i:02d}" for i in range(12)]
    assert list(source.labels) == ["zebra", "ape", None, None] * 3
    for index in (11, 0, 5, 4, 10):
        assert (decode(source[index].read()) == decode(picture(index))).all()


@pytest.mark.parametrize("kind", ["image bytes", "large binary", "relative paths", "struct of paths", "file_name"])
def test_parquet_layouts(kind: str, tmp_path: Path, encoded: Callable[..., bytes], picture: Callable[..., Any]) -> None:
    images = [encoded(picture(i)) for i in range(3)]
    names = [f"{2 - i}.png" for i in range(3)]
    for name, data in zip(names, images, strict=True):
        (tmp_path / name).write_bytes(data)
    columns: dict[str, Any] = {
        "image bytes": {"image": images},
        "large binary": {"image": pa.array(images, pa.large_binary())},
        "relative paths": {"path": names},
        "struct of paths": {"image": [{"bytes": None, "path": name} for name in names]},
        "file_name": {"file_name": names},
    }[kind]
    pq.write_table(pa.table({**columns, "label": ["a", "b", ""]}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    by_path = kind not in ("image bytes", "large binary")
    assert ids(source) == (sorted(names) if by_path else ["0", "1", "2"])
    assert list(source.labels) == ([None, "b", "a"] if by_path else ["a", "b", None])
    for index in range(3):
        assert (decode(source[index].read()) == decode(picture(2 - index if by_path else index))).all()


def test_parquet_paths_that_repeat_are_no_ids(
    tmp_path: Path, encoded: Callable[..., bytes], picture: Callable[..., Any]
) -> None:
    images = [{"bytes": encoded(picture(i)), "path": "same.png"} for i in range(2)]
    pq.write_table(pa.table({"img": images, "split": ["train", "test"]}), tmp_path / "t.parquet")
    assert ids(open_source(tmp_path / "t.parquet")) == ["0", "1"]
    assert ids(open_source(f"{tmp_path}/t.parquet:test")) == ["1"]
    with pytest.raises(UsageError, match="did you mean 'test'"):
        open_source(f"{tmp_path}/t.parquet:tst")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"]}, "has no column img or image or file_name or path, only picture"),
        ({"img": [3]}, "column 'img' holds int64"),
        ({"img": [b"x"], "label": [0.5]}, "column label holds double"),
        ({"img": pa.array([], pa.binary())}, "has no rows"),
        ({"img": [b"x"], "label": [True]}, "column label holds bool"),
    ],
)
def test_broken_tables(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "t.parquet")


def test_labels_beyond_the_class_names(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["a"]}}}}
    table = pa.table({"img": [b"x", b"y"], "label": [0, 4]})
    path = tmp_path / "t.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    with pytest.raises(DataError, match="row 1: label 4 is not among the 1 class names"):
        open_source(path)


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="is not a readable parquet file"):
        open_source(tmp_path / "t.parquet")


def test_a_split_of_a_folder_without_folders(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match=r"unknown sub-folder of '.*' 'train': there is none"):
        open_source(f"{tmp_path}:train")
