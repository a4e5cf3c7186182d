"""Parquet and Arrow tables: one file, many, folders as Hugging Face writes them, and `hf:`."""

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from twoviews.data.corpus import load_corpus
from twoviews.data.decoding.decode import Unreadable, decode
from twoviews.data.source import Grouped, Source, Stored, open_source
from twoviews.data.sources import columns, folder, table
from twoviews.data.sources.folder import find_special
from twoviews.data.sources.hub import open_hub
from twoviews.data.sources.splits import of_split, told_split
from twoviews.data.sources.table import open_tables
from twoviews.errors import DataError, ResourceError, TwoviewsError, UsageError

Write = Callable[[pa.Table, Path], None]


def ids(source: Source) -> list[str]:
    return [source[i].id for i in range(len(source))]


@pytest.fixture
def images(picture: Callable[..., Any], encoded: Callable[..., bytes]) -> Callable[[int], list[bytes]]:
    return lambda count: [encoded(picture(i)) for i in range(count)]


def write_parquet(content: pa.Table, path: Path) -> None:
    pq.write_table(content, path, row_group_size=4)


def write_stream(content: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=4)


def write_file(content: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=4)


def write_packed(content: pa.Table, path: Path) -> None:
    feather.write_feather(content, path, compression="lz4", chunksize=4)


FORMS: dict[str, tuple[str, Write]] = {
    "parquet": ("t.parquet", write_parquet),
    "Arrow stream": ("t.arrow", write_stream),
    "Arrow file": ("t.arrow", write_file),
    "feather": ("t.feather", write_packed),
}


def class_names(content: pa.Table, names: list[str]) -> pa.Table:
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return content.replace_schema_metadata({"huggingface": json.dumps(features)})


# One file


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_items(
    form: str, tmp_path: Path, images: Callable[[int], list[bytes]], picture: Callable[..., Any]
) -> None:
    order = np.random.default_rng(0).permutation(11).tolist()
    data = images(11)
    content = pa.table(
        {
            "caption": [f"picture {i}" for i in order],
            "image": [{"bytes": data[i], "path": f"{'cat' if i % 2 else 'dog'}/{i:02d}.png"} for i in order],
            "label": [None if i == 3 else i % 2 for i in order],
            "group": pa.array([f"g{i // 4}" for i in order]).dictionary_encode(),
            "split": ["test" if i > 8 else "train" for i in order],
        }
    )
    name, write = FORMS[form]
    write(class_names(content, ["dog", "cat"]), tmp_path / name)
    source = open_source(tmp_path / name)
    by_id = sorted(range(11), key=lambda i: (i % 2 == 0, i))
    assert ids(source) == [f"{'cat' if i % 2 else 'dog'}/{i:02d}.png" for i in by_id]
    assert list(source.labels) == [None if i == 3 else "cat" if i % 2 else "dog" for i in by_id]
    assert isinstance(source, Grouped)
    assert list(source.groups) == [f"g{i // 4}" for i in by_id]
    assert source[0].group == source.groups[0]
    assert isinstance(source, Stored)
    assert [order[row] for row in range(11)] == [by_id[i] for i in source.storage_order]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda at: decode(source[at].read()), [*range(11)] * 8))
    assert all((read[at] == decode(picture(by_id[at % 11]))).all() for at in range(88))
    assert ids(open_source(f"{tmp_path / name}:test")) == ["cat/09.png", "dog/10.png"]
    with pytest.raises(UsageError, match=rf"unknown split of '{name}' 'tain': did you mean 'train'"):
        open_source(f"{tmp_path / name}:tain")


def test_a_table_and_a_folder_give_the_same_ids_labels_and_pixels(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    root = image_folder({"cat": 3, "dog": 2})
    plain = open_source(root)
    rows = [(name, label) for name, label in zip(ids(plain), plain.labels, strict=True)][::-1]
    cells = [{"bytes": (root / name).read_bytes(), "path": f"./{name}"} for name, _ in rows]
    pq.write_table(pa.table({"image": cells, "label": [label for _, label in rows]}), tmp_path / "t.parquet")
    packed = open_source(tmp_path / "t.parquet")
    assert ids(packed) == ids(plain)
    assert list(packed.labels) == list(plain.labels)
    assert load_corpus(packed).fingerprint == load_corpus(plain).fingerprint


def test_ids_are_sorted_as_python_sorts(tmp_path: Path) -> None:
    names = ["b", "B", "\uffff", "\U0001f9f6", "a b", "a\n", "\u00e9", "e\u0301", "a/b", "a-b", "a.b", "ab"]
    pq.write_table(pa.table({"img": [b"x"] * len(names), "path": names}), tmp_path / "t.parquet")
    assert ids(open_source(tmp_path / "t.parquet")) == sorted(names)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["c", "a", "b"], ["a", "b", "c"]),
        ([10, 9, -1], ["-1", "10", "9"]),
        (["a", "a", "b"], ["0", "1", "2"]),
        (["a", None, "b"], ["0", "1", "2"]),
        (["a", "", "b"], ["0", "1", "2"]),
        ([0.5, 1.5, 2.5], ["0", "1", "2"]),
    ],
)
def test_a_unique_id_column_gives_ids_where_paths_do_not(
    values: list[Any], expected: list[str], tmp_path: Path
) -> None:
    cells = [{"bytes": b"x", "path": "same.png"}] * 3
    pq.write_table(pa.table({"image": cells, "id": values}), tmp_path / "t.parquet")
    assert ids(open_source(tmp_path / "t.parquet")) == expected
    pq.write_table(pa.table({"image": [b"x"] * 3, "id": values, "file_name": ["z", "y", "x"]}), tmp_path / "t.parquet")
    assert ids(open_source(tmp_path / "t.parquet")) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ({"labels": ["a", "b"]}, ["a", "b"]),
        ({"labels": [1, -1]}, ["1", None]),
        ({"labels": [["a"], ["a", "b"]]}, [None, None]),  # several labels of one image are no class
        ({"label": ["x", "y"], "labels": ["a", "b"]}, ["x", "y"]),
        ({"fine_label": [3, 4]}, [None, None]),
        ({"label": pa.nulls(2)}, [None, None]),
        ({"label": pa.array(["u", "v"]).dictionary_encode()}, ["u", "v"]),
    ],
)
def test_where_labels_come_from(column: dict[str, Any], expected: list[str | None], tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [b"x", b"y"], **column}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert list(source.labels) == expected
    assert isinstance(source, Grouped)
    assert list(source.groups) == [None, None]


def test_columns_that_webdataset_or_a_feature_name(tmp_path: Path) -> None:
    shard = {"__key__": ["b", "a"], "jpg": [{"bytes": b"1", "path": "b.jpg"}, {"bytes": b"2", "path": "a.jpg"}]}
    pq.write_table(pa.table(shard), tmp_path / "shard.parquet")
    source = open_source(tmp_path / "shard.parquet")
    assert [(source[i].id, source[i].read()) for i in range(2)] == [("a.jpg", b"2"), ("b.jpg", b"1")]
    content = pa.table({"photo": [{"bytes": b"1", "path": None}], "mask": [3]})
    meta = {"info": {"features": {"photo": {"_type": "Image"}, "mask": {"dtype": "int64", "_type": "Value"}}}}
    write_stream(content.replace_schema_metadata({"huggingface": json.dumps(meta)}), tmp_path / "named.arrow")
    assert open_source(tmp_path / "named.arrow")[0].read() == b"1"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"group": [0.5]}, "column group holds double, not whole numbers or text"),
        ({"png": ["a.png"]}, "column 'png' holds string, not image bytes or paths"),
        ({"image": [b"x"], "split": [[1]]}, "column split holds list"),
    ],
)
def test_columns_of_a_wrong_type(column: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = pa.table({"file_name": ["a.png"], **column})
    write_file(content, tmp_path / "t.arrow")
    with pytest.raises(DataError, match=message):
        open_source(f"{tmp_path}/t.arrow:1" if "split" in column else tmp_path / "t.arrow")


def test_a_column_twice(tmp_path: Path) -> None:
    content = pa.Table.from_arrays([pa.array([b"x"]), pa.array(["a"]), pa.array(["b"])], ["img", "label", "label"])
    for name, write in FORMS.values():
        if write is not write_packed:  # it refuses to write them
            write(content, tmp_path / name)
            with pytest.raises(DataError, match=rf"{name}' has the column 'label' twice: rename one of them"):
                open_source(tmp_path / name)


def test_the_stamp_follows_tables_and_the_images_beside_them(tmp_path: Path, images: Callable[..., Any]) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    inside = [{"bytes": b"x", "path": "a.png"}]
    outside = [{"bytes": None, "path": "a.png"}]
    stamps = {}
    for at, cells in enumerate((inside, outside)):
        for write, suffix in ((write_parquet, ".parquet"), (write_stream, ".arrow"), (write_file, ".feather")):
            write(pa.table({"image": cells}), tmp_path / f"{at}{suffix}")
            stamps[at, suffix] = open_source(tmp_path / f"{at}{suffix}")
    before = {key: source.stamp for key, source in stamps.items()}
    assert len(set(before.values())) == 6
    (tmp_path / "a.png").write_bytes(b"newer")
    assert [key for key, source in stamps.items() if source.stamp != before[key]] == [
        (1, suffix) for suffix in (".parquet", ".arrow", ".feather")
    ]
    os.utime(tmp_path / "0.parquet", ns=(1, 1))
    assert stamps[0, ".parquet"].stamp != before[0, ".parquet"]


# Many files


def test_many_files_are_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_KEPT_OPEN", 2)
    monkeypatch.setattr(table, "_OPEN_PARTS", 1)
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    for at in range(12):
        split = "train" if at < 8 else "validation" if at < 11 else "test"
        cells = pa.array([bytes([at, row]) for row in range(9)], pa.binary())
        labels = pa.nulls(9) if split == "test" else pa.array([f"c{at}"] * 9)
        content = {"image": cells, "label": labels}
        # The columns may come in another order; a column without values has no type.
        content = dict(reversed(content.items())) if at % 2 else content
        write_parquet(pa.table(content), root / "data" / f"{split}-{at:05d}-of-00012.parquet")
    (root / "README.md").write_text("a card")
    source = open_source(root)
    assert len(source) == 108
    assert ids(source) == [f"{row:03d}" for row in range(108)]
    paths = sorted((root / "data").iterdir())
    order = [int(path.name.split("-")[1]) for path in paths]
    for index in np.random.default_rng(1).permutation(108).tolist():
        assert source[index].read() == bytes([order[index // 9], index % 9])
    assert source.labels[0] is None
    assert source.labels[9] == "c0"
    assert len(open_source(f"{root}:train")) == 72
    assert len(open_source(f"{root}:val")) == 27
    assert open_source(f"{root}:test").labels == (None,) * 9
    with pytest.raises(UsageError, match=r"unknown split of '.*set' 'tset': did you mean 'test'"):
        open_source(f"{root}:tset")
    before = source.stamp
    os.utime(paths[-1], ns=(1, 1))
    assert source.stamp != before


def test_paths_of_many_files_are_ids_unless_they_repeat(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(name.encode())
        pq.write_table(pa.table({"path": ["0.png"]}), tmp_path / name / "t.parquet")
    files = [tmp_path / name / "t.parquet" for name in ("b", "a")]
    source = open_tables(files, split=None, spec="both")
    assert ids(source) == ["0", "1"]
    assert [source[i].read() for i in range(2)] == [tmp_path / "a" / "0.png", tmp_path / "b" / "0.png"]
    pq.write_table(pa.table({"path": ["1.png"]}), files[0])
    assert ids(open_tables(files, split=None, spec="both")) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"img": [b"x"]}, r"a\.parquet' and '.*b\.parquet' are no one table: '.*b\.parquet' has no column 'label'"),
        ({"img": [b"x"], "label": ["a"], "more": [1]}, r"'.*a\.parquet' has no column 'more'"),
        ({"img": [b"x"], "label": [1]}, "column 'label' holds string in the first, int64 in the second"),
    ],
)
def test_a_folder_of_mixed_schemas(other: dict[str, Any], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [b"x"], "label": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_a_first_file_without_rows_does_not_say_what_columns_hold(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": pa.nulls(0), "label": pa.nulls(0)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"img": [{"bytes": b"1", "path": "p.png"}], "label": ["a"]}), tmp_path / "b.parquet")
    source = open_source(tmp_path)
    assert (source[0].id, source[0].label, source[0].read()) == ("p.png", "a", b"1")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/train_extra-00000-of-00002.parquet", "train_extra"),
        ("beans-validation-00001-of-00002.arrow", "validation"),
        ("test/data-00000-of-00001.arrow", "test"),
        ("Val/a/part.parquet", "Val"),
        ("my_dev_set.parquet", "dev"),
        ("imagenet-train-000123.tar", "train"),
        ("contest.parquet", None),
        ("part-0.parquet", None),
    ],
)
def test_the_split_that_a_name_tells(name: str, split: str | None) -> None:
    assert told_split(Path(name)) == split


def test_files_without_a_split() -> None:
    with pytest.raises(DataError, match=r"'here' has no column split, but 'train' was asked for: drop ':train'"):
        of_split([Path("a.parquet"), Path("b.parquet")], "train", what="here")
    assert of_split([Path("fold1/data-00000-of-00001.arrow")], "fold1", what="here")


# Damaged files


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.98])
def test_files_cut_short(form: str, part: float, tmp_path: Path, images: Callable[[int], list[bytes]]) -> None:
    name, write = FORMS[form]
    write(pa.table({"image": images(9)}), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(part * len(data))])
    kind = "parquet" if form == "parquet" else "Arrow"
    with pytest.raises(DataError, match=rf"{name}' is not a readable {kind} file: ") as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_an_image_are_rejected_alone(
    form: str, tmp_path: Path, images: Callable[[int], list[bytes]]
) -> None:
    cells = [{"bytes": data, "path": None} for data in images(10)]
    cells[4:8] = [None, {"bytes": None, "path": None}, {"bytes": None, "path": "gone.png"}, {"bytes": b"", "path": "x"}]
    name, write = FORMS[form]
    write(pa.table({"image": cells, "label": ["a"] * 10}), tmp_path / name)
    corpus = load_corpus(tmp_path / name)
    assert corpus.ids == ("0", "1", "2", "3", "8", "9")
    assert [item.id for item in corpus.rejected] == ["4", "5", "6", "7"]
    assert [item.reason for item in corpus.rejected[:2]] == ["row has neither bytes nor a path"] * 2


def test_a_row_group_whose_column_is_null(tmp_path: Path, images: Callable[[int], list[bytes]]) -> None:
    pq.write_table(pa.table({"img": pa.nulls(4, pa.binary())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"img": images(5)}), tmp_path / "b.parquet")
    corpus = load_corpus(tmp_path)
    assert len(corpus) == 5
    assert {item.reason for item in corpus.rejected} == {"row has neither bytes nor a path"}


def test_a_damaged_row_group_spoils_its_rows_only(tmp_path: Path, images: Callable[[int], list[bytes]]) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"img": images(12)}), path, row_group_size=4, compression="zstd")
    at = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[at : at + 60] = b"\xff" * 60
    path.write_bytes(data)
    source = open_source(path)
    for index in (0, 3, 8, 11):
        assert decode(source[index].read()).shape == (10, 12, 3)
    for index in (4, 7):
        with pytest.raises(Unreadable, match=r"t\.parquet' is not a readable parquet file"):
            source[index].read()
    assert load_corpus(path).ids == ("00", "01", "02", "03", "08", "09", "10", "11")


@pytest.mark.parametrize("write", [write_stream, write_file])
def test_offsets_that_point_nowhere(write: Write, tmp_path: Path) -> None:
    offsets = np.array([0, 4, 1 << 30, 12], dtype=np.int32)
    cells = pa.Array.from_buffers(pa.binary(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"x" * 12)])
    write(pa.table({"img": cells}), tmp_path / "t.arrow")
    source = open_source(tmp_path / "t.arrow")
    with pytest.raises(Unreadable, match="is not a readable Arrow file"):
        source[1].read()


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    names = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"a\xffbc")]
    )
    for name, write in FORMS.values():
        write(pa.table({"path": names}), tmp_path / name)
        with pytest.raises(DataError, match=r"is not a readable .* file: .*UTF-?8"):
            open_source(tmp_path / name)


@pytest.mark.parametrize("form", FORMS)
def test_flipped_bytes_end_in_our_errors(form: str, tmp_path: Path) -> None:
    name, write = FORMS[form]
    cells = [{"bytes": bytes([i]) * 50, "path": f"{i}.png"} for i in range(20)]
    write(pa.table({"image": cells, "label": pa.array(["a", "b"] * 10).dictionary_encode()}), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(7)
    opened, reasons = 0, []
    for _ in range(150):
        data = bytearray(whole)
        for at in generator.integers(0, len(data), 3).tolist():
            data[at] = int(generator.integers(0, 256))
        (tmp_path / name).write_bytes(data)
        try:
            source = open_source(tmp_path / name)
            opened += 1
            for index in range(len(source)):
                source[index].read()
        except DataError as error:
            reasons.append(str(error))
    assert 0 < opened < 150
    assert reasons
    assert not any("\n" in reason for reason in reasons)


def test_names_of_fields_that_are_no_utf8(tmp_path: Path) -> None:
    write_stream(pa.table({"image": [{"bytes": b"x", "pathless": "y"}]}), tmp_path / "t.arrow")
    data = (tmp_path / "t.arrow").read_bytes()
    (tmp_path / "t.arrow").write_bytes(data.replace(b"pathless", b"path\xff\xfess"))
    with pytest.raises(DataError, match=r"t\.arrow' is not a readable Arrow file: .*utf-?8"):
        open_source(tmp_path / "t.arrow")


@pytest.mark.parametrize("label", [4, -2])
def test_labels_beyond_the_class_names_name_their_file(label: int, tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", label)):
        write_stream(class_names(pa.table({"img": [b"x"], "label": [value]}), ["one"]), tmp_path / f"{name}.arrow")
    with pytest.raises(DataError, match=rf"b\.arrow', row 0: label {label} is not among the 1 class names"):
        open_source(tmp_path)


# Folders as Hugging Face saves them


def save(root: Path, content: pa.Table, *, files: int = 1, info: dict[str, Any] | None = None) -> Path:
    """A folder as `Dataset.save_to_disk` writes it."""
    root.mkdir(parents=True)
    names = [f"data-{at:05d}-of-{files:05d}.arrow" for at in range(files)]
    step = -(-content.num_rows // files)
    for at, name in enumerate(names):
        write_stream(content.slice(at * step, step), root / name)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (root / "state.json").write_text(json.dumps(state))
    (root / "dataset_info.json").write_text(json.dumps(info or {"features": {}}))
    return root


def test_a_saved_data_set(tmp_path: Path) -> None:
    info = {"features": {"image": {"_type": "Image"}, "label": {"names": ["ape", "bee"], "_type": "ClassLabel"}}}
    cells = [{"bytes": bytes([i]), "path": f"{i}.png"} for i in range(10)]
    root = save(tmp_path / "saved", pa.table({"image": cells, "label": [0, 1] * 5}), files=3, info=info)
    write_stream(pa.table({"other": [1]}), root / "cache-0.arrow")  # what `map` leaves; state.json does not list it
    source = open_source(root)
    assert ids(source) == [f"{i}.png" for i in range(10)]
    assert list(source.labels) == ["ape", "bee"] * 5
    assert [source[i].read() for i in range(10)] == [bytes([i]) for i in range(10)]
    with pytest.raises(DataError, match=r"has no column split, but 'train' was asked for"):
        open_source(f"{root}:train")


def test_a_dictionary_of_data_sets(tmp_path: Path) -> None:
    for at, name in enumerate(("fold1", "fold2")):
        save(tmp_path / "dict" / name, pa.table({"img": [b"x"] * (at + 1)}))
    (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": ["fold1", "fold2"]}))
    root = tmp_path / "dict"
    assert len(open_source(f"{root}:fold2")) == 2
    with pytest.raises(DataError, match=r"holds the splits fold1, fold2: name one, as '.*dict:fold1'"):
        open_source(root)
    with pytest.raises(UsageError, match="unknown split of 'dict' 'fold3': did you mean 'fold"):
        open_source(f"{root}:fold3")
    save(root / "train", pa.table({"img": [b"x"] * 5}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["fold1", "fold2", "train", "../dict", "gone"]}))
    assert len(open_source(root)) == 5
    with pytest.raises(UsageError, match="unknown split"):
        open_source(f"{root}:../dict")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', r"lacks 'gone\.arrow', which its state\.json"),
        ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', r"lists '\.\./x\.arrow', which is no Arrow"),
        ("state.json", '{"_data_files": [{"filename": "state.json"}]}', r"lists 'state\.json', which is no Arrow"),
        ("state.json", '{"_data_files": [7]}', "lists 7, which is no Arrow"),
        ("state.json", '{"_data_files": []}', "lists no data file"),
        ("state.json", "{}", "lists no data file"),
        ("state.json", "[]", "is no JSON object"),
        ("state.json", "{", "is no JSON: "),
        ("state.json", "[" * 100_000, "is no JSON: "),
        ("state.json", '{"_indices_files": [{"filename": "i.arrow"}]}', "holds a selection of rows in a form of old"),
        ("dataset_dict.json", '{"splits": 3}', "names no split that lies in it"),
    ],
)
def test_what_hugging_face_saved_is_not_whole(name: str, text: str, message: str, tmp_path: Path) -> None:
    root = save(tmp_path / "saved", pa.table({"img": [b"x"]}))
    (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(root)


def test_broken_class_names_are_no_names(tmp_path: Path) -> None:
    for info in ("{", "[]", '{"features": {"label": 3}}', '{"features": {"label": {"names": "ab"}}}'):
        root = save(tmp_path / f"saved{len(info)}", pa.table({"img": [b"x"], "label": [0]}))
        (root / "dataset_info.json").write_text(info)
        assert list(open_source(root).labels) == ["0"]


# What a folder is


def test_folders_of_images_are_left_alone(image_folder: Callable[..., Path]) -> None:
    root = image_folder({"cat": 1, "deep/er/est": 1, "": 1})
    assert find_special(root, split=None) is None
    assert find_special(root, split="cat") is None
    assert find_special(root, split="nothing") is None
    pq.write_table(pa.table({"path": ["0.png"]}), root / "index.parquet")
    assert find_special(root, split=None) is None
    (root / "cat" / "0.png").rename(root / "cat" / "0.tar")
    (root / "0.png").unlink()
    assert find_special(root, split=None) is None  # tables and shards at once


def test_a_million_images_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(300):
        (tmp_path / f"patient{at:03d}" / "study" / "series").mkdir(parents=True)
        (tmp_path / f"patient{at:03d}" / "study" / "series" / "0.png").touch()
    looked: list[str] = []
    scandir = os.scandir

    def counted(path: str | Path) -> Any:
        looked.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert find_special(tmp_path, split=None) is None
    assert len(looked) == folder._FOLDERS_LOOKED_AT
    (tmp_path / "patient000" / "front.png").touch()
    looked.clear()
    assert find_special(tmp_path, split=None) is None
    assert len(looked) == 2


def test_tables_and_shards_up_to_two_levels_down(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a/b/t.parquet", "c/t.ARROW", ".hidden/t.parquet", "a/b/c/too-deep.parquet", "__MACOSX/t.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "up").symlink_to("..")
    (tmp_path / "neighbour.parquet").touch()
    (root / "again").symlink_to("a")
    assert find_special(root, split=None) == ("tables", [root / "a/b/t.parquet", root / "c/t.ARROW"])
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("set-train-0000.tar", "set-train-0001.tar", "set-val-0000.tar", "notes.txt"):
        (shards / name).touch()
    assert find_special(shards, split=None) == ("shards", sorted(shards.glob("*.tar")))
    assert find_special(shards, split="validation") == ("shards", [shards / "set-val-0000.tar"])
    assert find_special(tmp_path, split="shards") == ("shards", sorted(shards.glob("*.tar")))
    assert find_special(tmp_path / "set" / "a" / "b" / "c", split=None) is not None


def test_metadata_makes_a_manifest_of_a_folder(image_folder: Callable[..., Path]) -> None:
    root = image_folder({"train": 2, "test": 1, "plain": 1})
    assert find_special(root, split=None) is None
    (root / "test" / "metadata.jsonl").touch()
    with pytest.raises(DataError, match=r"holds the splits test, train: name one, as '.*photos:test'"):
        find_special(root, split=None)
    (root / "train" / "metadata.csv").touch()
    assert find_special(root, split=None) == ("manifest", [root / "train" / "metadata.csv"])
    assert find_special(root, split="test") == ("manifest", [root / "test" / "metadata.jsonl"])
    assert find_special(root, split="plain") is None
    (root / "metadata.csv").touch()
    assert find_special(root, split=None) == ("manifest", [root / "metadata.csv"])
    assert find_special(root, split="train") == ("manifest", [root / "train" / "metadata.csv"])
    assert find_special(root, split="plain") == ("manifest", [root / "metadata.csv"])


# Through `datasets`


@pytest.fixture
def hugging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.chdir(tmp_path)
    return datasets


def small(datasets: Any, root: Path) -> Any:
    files = sorted(str(path) for path in root.rglob("*.png"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    labels = ["cat" if "cat/" in name else "dog" for name in files]
    return datasets.Dataset.from_dict({"image": files, "label": labels}, features=features)


def test_what_datasets_writes_opens_with_and_without_it(
    hugging: Any, tmp_path: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder({"cat": 2, "dog": 3})
    made = small(hugging, root)
    made.save_to_disk("saved", num_shards=2)
    hugging.DatasetDict({"train": made, "test": made.select([4, 0])}).save_to_disk("dict")
    capsys.readouterr()
    pixels = [decode(root.joinpath(name)) for name in ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/2.png")]
    for spec in ("saved", "hf:./saved", "dict", "hf:dict", "dict:train", "hf:./dict:train"):
        source = open_source(spec)
        assert list(source.labels) == ["cat", "cat", "dog", "dog", "dog"], spec
        assert ids(source) == ["0", "1", "2", "3", "4"], spec  # its paths are bare names, and repeat
        assert all((decode(source[i].read()) == pixels[i]).all() for i in range(5))
        assert isinstance(source, Stored)
        assert source.stamp == open_source(spec).stamp
    for spec in ("dict:test", "hf:dict:test"):
        source = open_source(spec)
        assert [(source[i].id, source[i].label) for i in range(2)] == [("0.png", "cat"), ("2.png", "dog")]
        assert (decode(source[1].read()) == pixels[4]).all()
    with pytest.raises(UsageError, match="unknown split of 'dict' 'tst': did you mean 'test'"):
        open_source("hf:dict:tst")
    with pytest.raises(UsageError, match=r"'saved' has no splits, but 'test' was asked for: drop ':test'"):
        open_source("hf:saved:test")
    with pytest.raises(UsageError, match=r"has no configurations: drop '@small'"):
        open_source("hf:saved@small")
    assert capsys.readouterr().out == ""


def test_parquet_that_datasets_writes(hugging: Any, image_folder: Callable[..., Path]) -> None:
    root = image_folder({"cat": 2, "dog": 1})
    made = small(hugging, root).cast_column("image", hugging.Image(decode=False))
    embedded = made.map(lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}})
    embedded.to_parquet("t.parquet")
    source = open_source("t.parquet")
    assert list(source.labels) == ["cat", "cat", "dog"]
    assert decode(source[2].read()).shape == (10, 12, 3)
    Path("set/data").mkdir(parents=True)
    Path("t.parquet").rename("set/data/train-00000-of-00001.parquet")
    for spec in ("set", "set:train", "hf:./set", "hf:set:train"):
        again = open_source(spec)
        assert list(again.labels) == ["cat", "cat", "dog"]
        assert again[2].read() == source[2].read() if spec.startswith("set") else isinstance(again[2].read(), bytes)


def test_an_image_folder_through_datasets_has_the_ids_of_the_folder(
    hugging: Any, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    plain, source = open_source(f"{root}:train"), open_source("hf:./photos")
    assert ids(source) == ids(plain) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert list(source.labels) == list(plain.labels)
    assert load_corpus(source).fingerprint == load_corpus(plain).fingerprint
    assert len(open_source("hf:photos:test")) == 2
    assert (Path("hf-cache")).is_dir()
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match=r"'hf:photos@other' cannot be loaded by datasets: .*other.* not found"):
        open_source("hf:photos@other")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionError("no route"), DataError, r"the Hub cannot be reached, and 'user/name' is not in the cache"),
        (OSError(28, "No space left"), ResourceError, "the disk is full; free some, or set HF_HOME"),
        (MemoryError(), ResourceError, "out of memory"),
        (ValueError("bad\nrows"), DataError, "'hf:user/name' cannot be loaded by datasets: bad rows$"),
        (KeyError(), DataError, "cannot be loaded by datasets: KeyError$"),
    ],
)
def test_what_datasets_raises_is_one_sentence(
    error: Exception, kind: type[TwoviewsError], message: str, hugging: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        print("chatter")
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("An error occurred while generating the dataset") from cause

    monkeypatch.setattr(hugging, "load_dataset", load)
    with pytest.raises(kind, match=message) as caught:
        open_source("hf:user/name")
    assert "\n" not in str(caught.value)


def test_a_name_that_the_hub_does_not_have(
    hugging: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[object, ...]] = []

    def load(*rest: object) -> None:
        asked.append(rest)
        print("chatter")
        raise hugging.exceptions.DatasetNotFoundError("Dataset 'user/nmae' doesn't exist on the Hub")

    monkeypatch.setattr(hugging, "load_dataset", load)
    with pytest.raises(
        DataError, match=r"there is no data set 'user/nmae' on the Hub that you may read: check the name"
    ):
        open_source("hf:user/nmae@small:test")
    assert asked == [("user/nmae", "small")]
    assert capsys.readouterr().out == ""


def test_data_sets_with_several_splits_and_no_train(hugging: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = hugging.Dataset.from_dict({"img": [b"x"]})
    loaded = hugging.DatasetDict({"fit": made, "held": made})
    monkeypatch.setattr(hugging, "load_dataset", lambda *_: loaded)
    with pytest.raises(DataError, match=r"'hf:user/name' has the splits fit, held: name one, as 'hf:user/name:fit'"):
        open_hub("user/name", spec="hf:user/name")
    assert len(open_hub("user/name:held", spec="hf:user/name:held")) == 1
    del loaded["held"]
    assert len(open_hub("user/name", spec="hf:user/name")) == 1


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("hf:", UsageError, "'hf:' names no data set: write hf:user/name"),
        ("hf:user/name:", UsageError, "names no data set"),
        ("hf:user/name@:train", UsageError, "names no data set"),
        ("hf::train", UsageError, "names no data set"),
        ("hf:./nowhere", DataError, r"there is no folder './nowhere'; a name of the Hub is written user/name"),
        ("hf:a/b/c", DataError, "there is no folder 'a/b/c'"),
        ("hf:t.parquet", UsageError, r"names a file: open 't\.parquet' without 'hf:'"),
    ],
)
def test_names_that_are_none(
    spec: str, kind: type[TwoviewsError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.parquet").touch()
    with pytest.raises(kind, match=message):
        open_source(spec)


def test_without_the_package_or_with_one_of_old(hugging: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging, "__version__", "3.6.0")
    with pytest.raises(UsageError, match=r"needs datasets 4 or newer, found 3\.6\.0"):
        open_source("hf:user/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"'hf:user/name' needs the package datasets: pip install 'twoviews\[hf\]'"):
        open_source("hf:user/name")
