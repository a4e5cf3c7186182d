"""Which items exist: folders, manifests, parquet files, arrays, names."""

import json
import os
import pickle
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twoviews.data.decode import decode
from twoviews.data.source import Item, Source, open_source
from twoviews.errors import DataError, RefusedError, TwoviewsError, UsageError

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


def test_a_row_that_is_repeated_counts_once(manifest: Callable[..., Path]) -> None:
    assert len(open_source(manifest("file_name,label\n0.png,a\n0.png,a\n1.png,b\n"))) == 2


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
    "empty": ("", "labels.csv", "is empty: its first line names the columns file_name, label, split"),
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


# Arrays


def test_arrays_in_python_are_not_copied() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    source = open_source((images, ["b", "", "a"]))
    assert list(source.labels) == ["b", None, "a"]
    assert np.shares_memory(source[1].read(), images)
    assert list(open_source(np.zeros((2, 4, 4), np.uint8)).labels) == [None, None]
    assert list(open_source((images, np.array([[5], [-1], [10]]))).labels) == ["5", None, "10"]


def test_npy_and_npz(tmp_path: Path) -> None:
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    np.save(tmp_path / "a.npy", images)
    assert (open_source(tmp_path / "a.npy")[2].read()[..., 0] == images[2]).all()
    np.savez_compressed(tmp_path / "b.npz", x=images, y=[2, 1, 0], ids=["c", "a", "b"])
    source = open_source(tmp_path / "b.npz")
    assert ids(source) == ["a", "b", "c"]
    assert list(source.labels) == ["1", "0", "2"]
    assert (source[0].read()[..., 0] == images[1]).all()
    with pytest.raises(UsageError, match="has no splits"):
        open_source(f"{tmp_path}/b.npz:train")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), None, "holds float32: images are uint8"),
        (np.zeros((2, 4, 4), np.uint16), None, "holds uint16"),
        (np.zeros((2, 3, 8, 8), np.uint8), None, r"move the channels last: images.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 8, 8, 13), np.uint8), None, "13 channels: 1 or 3 channels are understood"),
        (np.zeros((8, 8), np.uint8), None, r"shape \(8, 8\)"),
        (np.zeros((0, 8, 8), np.uint8), None, "none of them 0"),
        (np.zeros((2, 4, 4), np.uint8), [1, 2, 3], r"2 images, but labels have shape \(3,\)"),
        (np.zeros((2, 4, 4), np.uint8), [1.0, np.nan], "labels hold float64"),
    ],
)
def test_arrays_that_are_no_images(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source((images, labels) if labels is not None else images)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm-was-done",)


def test_arrays_that_need_pickle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Harm(), Harm()], dtype=object)
    np.save("objects.npy", objects, allow_pickle=True)
    np.savez("objects.npz", images=np.zeros((2, 4, 4), np.uint8), labels=objects)
    Path("plain.npy").write_bytes(pickle.dumps(Harm()))
    with zipfile.ZipFile("plain.npz", "w") as archive:
        archive.writestr("images.npy", pickle.dumps(Harm()))
    for name in ("objects.npy", "objects.npz", "plain.npy", "plain.npz"):
        with pytest.raises(RefusedError, match="pickle"):
            open_source(name)
    with pytest.raises(RefusedError, match="array of objects"):
        open_source(np.array([[[Harm()]]], dtype=object))
    assert not Path("harm-was-done").exists()


def test_broken_array_files(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"hello")
    with pytest.raises(DataError, match="is not a numpy file"):
        open_source(tmp_path / "a.npy")
    (tmp_path / "a.npz").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"is not a readable \.npz file"):
        open_source(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", pictures=np.zeros(3))
    with pytest.raises(DataError, match="has no array images or x, only pictures"):
        open_source(tmp_path / "b.npz")
    np.save(tmp_path / "cut.npy", np.zeros((4, 8, 8), np.uint8))
    data = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-9])
    with pytest.raises(DataError, match=r"is not a readable \.npy file"):
        open_source(tmp_path / "cut.npy")
    with zipfile.ZipFile(tmp_path / "promise.npz", "w") as archive:
        archive.writestr("images.npy", data.replace(b"(4, 8, 8)", b"(4444, 8888, 8888)").replace(b" " * 9, b"", 1))
    with pytest.raises(DataError, match="its header promises 351,0"):
        open_source(tmp_path / "promise.npz")
    np.savez(tmp_path / "twice.npz", images=np.zeros((2, 4, 4), np.uint8), ids=["a", "a"])
    with pytest.raises(DataError, match="ids are not unique: 1 of 2"):
        open_source(tmp_path / "twice.npz")


# Names


def test_digits_and_their_parts() -> None:
    parts = {
        split: open_source(f"digits:{split}" if split else "digits") for split in ("", "train", "test", "fit", "val")
    }
    assert {split: len(part) for split, part in parts.items()} == {
        "": 1797,
        "train": 1198,
        "test": 599,
        "fit": 798,
        "val": 400,
    }
    assert ids(parts["train"]) + ids(parts["test"]) == ids(parts[""])
    assert ids(parts["fit"]) + ids(parts["val"]) == ids(parts["train"])
    image = parts[""][0].read()
    assert isinstance(image, np.ndarray)
    assert image.shape == (8, 8, 1)
    assert image[0, :, 0].tolist() == [round(v * 255 / 16) for v in (0, 0, 5, 13, 9, 1, 0, 0)]
    assert list(parts[""].labels[:4]) == ["0", "1", "2", "3"]


def test_a_folder_of_that_name_is_written_with_a_dot(image_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({"": 1}, name="digits")
    monkeypatch.chdir(root.parent)
    assert len(open_source("./digits")) == 1
    assert len(open_source("digits")) == 1797


def cifar_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CIFAR-10 of two images a batch, with torchvision's checksums made to agree."""
    import hashlib

    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(first: int) -> dict[str, Any]:
        return {"data": np.full((2, 3072), first, np.uint8), "labels": [first % 10, 1]}

    train = [[name, write(name, batch(i))] for i, (name, _) in enumerate(CIFAR10.train_list)]
    test = [[name, write(name, batch(77))] for name, _ in CIFAR10.test_list]
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})


def test_torchvision_sets_from_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_files(tmp_path / "my:data", monkeypatch)
    source = open_source(f"cifar10@{tmp_path}/my:data")
    assert len(source) == 10
    assert list(source.labels[:4]) == ["a", "b", "b", "b"]
    monkeypatch.setenv("TWOVIEWS_DATA", f"{tmp_path}/my:data")
    test = open_source("cifar10:test")
    assert list(test.labels) == ["h", "b"]
    assert decode(test[0].read()).mean() == 77
    assert len(open_source(f"cifar10@{tmp_path}/my:data:test")) == 2


@pytest.mark.parametrize("spec", ["cifar10", "cifar100:test", "stl10:unlabeled"])
def test_sets_that_are_not_there_say_how_to_get_them(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWOVIEWS_DATA", raising=False)
    name = spec.partition(":")[0]
    with pytest.raises(DataError, match=rf"{name} is not .* in 'data': name its folder as {name}@FOLDER.*--download"):
        open_source(spec)


def test_a_split_of_a_folder_without_folders(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match=r"unknown sub-folder of '.*' 'train': there is none"):
        open_source(f"{tmp_path}:train")
