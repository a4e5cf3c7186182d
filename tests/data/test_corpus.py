"""The decoded array: its form, its cache, what is left out, and the tables about it."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.data import assemble, cache
from twoviews.data.corpus import Corpus, load_corpus, read_csv, sort_classes, write_manifest, write_rejected
from twoviews.data.decoding.decode import decode
from twoviews.data.source import Item
from twoviews.errors import DataError, ResourceError, UsageError
from twoviews.narrate import Narrator

Folder = Callable[..., Path]


def test_images_of_one_size_are_kept(image_folder: Folder) -> None:
    root = image_folder({"b": 2, "a": 1})
    corpus = load_corpus(root)
    assert corpus.values.shape == (3, 10, 12, 3)
    assert corpus.values.dtype == np.uint8
    assert corpus.sizes.tolist() == [[12, 10]] * 3
    assert corpus.sizes.dtype == np.int32
    assert corpus.ids == ("a/0.png", "b/0.png", "b/1.png")
    assert corpus.classes == ("a", "b")
    assert corpus.labels.tolist() == [0, 1, 1]
    assert corpus.rejected == ()
    assert corpus.spec == str(root)
    assert (corpus.values[1] == decode(root / "b" / "0.png")).all()
    assert len(corpus) == 3
    assert repr(corpus) == f"Corpus({str(root)!r}: 3 images 10x12x3, 2 classes)"


def test_images_of_many_sizes_become_squares(image_folder: Folder) -> None:
    image_folder({"a": 2}, size=(40, 20))
    root = image_folder({"b": 2}, size=(30, 300))
    corpus = load_corpus(root, cache_side=24)
    assert corpus.values.shape == (4, 24, 24, 3)
    assert corpus.sizes.tolist() == [[40, 20]] * 2 + [[30, 300]] * 2
    assert (corpus.values[3] == decode(root / "b" / "1.png", size=(24, 24))).all()
    assert load_corpus(root).values.shape[1:3] == (assemble.DEFAULT_SIDE,) * 2
    assert load_corpus(root, cache_side=900).values.shape[1:3] == (300, 300)


def test_one_large_size_is_not_kept_by_default(image_folder: Folder) -> None:
    root = image_folder({"": 2}, size=(300, 40))
    assert load_corpus(root).values.shape == (2, 128, 128, 3)
    assert load_corpus(root, cache_side=300).values.shape == (2, 40, 300, 3)


@pytest.mark.parametrize(
    ("modes", "channels", "expected"),
    [
        ("LL", None, 1),
        ("L1", None, 1),
        ("L", 3, 3),
        ("LR", None, 3),
        ("RL", None, 3),
        ("R", 1, 1),
        ("LLRL", 1, 1),
    ],
)
def test_channels(modes: str, channels: int | None, expected: int, image_folder: Folder) -> None:
    for index, mode in enumerate(modes):
        root = image_folder({str(index): 2}, mode="RGB" if mode == "R" else mode)
    corpus = load_corpus(root, channels=channels)
    assert corpus.values.shape == (2 * len(modes), 10, 12, expected)
    first = decode(root / "0" / "0.png", channels=expected)
    assert (corpus.values[0] == first).all()


def test_arrays_are_taken_without_a_copy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    corpus = load_corpus((images, [10, 9, 10, -1, 2]))
    assert np.shares_memory(corpus.values, images)
    assert corpus.classes == ("2", "9", "10")
    assert corpus.labels.tolist() == [2, 1, 2, -1, 0]
    assert corpus.sizes.tolist() == [[6, 8]] * 5
    grey = load_corpus(images[..., 0], channels=3)
    assert grey.values.shape == (5, 8, 6, 3)
    assert np.shares_memory(grey.values, images)
    assert load_corpus(images, channels=1).values.shape == (5, 8, 6, 1)
    small = load_corpus(images, cache_side=4)
    assert small.values.shape == (5, 4, 4, 3)
    assert (small.values[2] == decode(images[2], size=(4, 4))).all()


def test_an_npy_file_stays_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    assert isinstance(load_corpus(tmp_path / "a.npy").values, np.memmap)


def spoil(root: Path, names: list[str]) -> None:
    for name in names:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("limit", [None, 0], ids=["memory", "disk"])
@pytest.mark.parametrize("size", [(12, 10), (300, 20)], ids=["one size", "squares"])
def test_bad_files_are_listed_and_never_stop_the_run(
    image_folder: Folder, limit: int | None, size: tuple[int, int]
) -> None:
    image_folder({"a": 4}, size=size)
    root = image_folder({"b": 4})
    (root / "a" / "0.png").write_bytes(b"")
    spoil(root, ["a/2.png", "b/3.png"])
    narrator = Warned()
    corpus = load_corpus(root, memory_limit=limit, cache_side=16, narrator=narrator)
    assert corpus.ids == ("a/1.png", "a/3.png", "b/0.png", "b/1.png", "b/2.png")
    assert [item.id for item in corpus.rejected] == ["a/0.png", "a/2.png", "b/3.png"]
    assert corpus.rejected[0].reason == "empty: 0 bytes"
    side = None if size == (12, 10) else (16, 16)
    for index, name in enumerate(corpus.ids):
        assert (corpus.values[index] == decode(root / name, size=side)).all()
    assert narrator.warnings == ["3 of 8 images rejected, the first 'a/0.png': empty: 0 bytes"]
    assert isinstance(corpus.values, np.memmap) == (limit == 0)
    again = load_corpus(root, memory_limit=limit, cache_side=16)
    assert again.fingerprint == corpus.fingerprint
    assert again.rejected == corpus.rejected


class Warned(Narrator):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_rejected_file_does_not_decide_the_form(image_folder: Folder) -> None:
    root = image_folder({"": 3}, mode="L")
    Image.effect_noise((200, 150), 90).convert("RGB").save(root / "odd.png")
    spoil(root, ["odd.png"])
    corpus = load_corpus(root)
    assert corpus.values.shape == (3, 10, 12, 1)
    assert [item.id for item in corpus.rejected] == ["odd.png"]


def test_too_many_bad_files_end_it(image_folder: Folder) -> None:
    root = image_folder({"": 5})
    spoil(root, ["0.png", "1.png", "2.png"])
    with pytest.raises(
        DataError, match=r"3 of 5 images in .* cannot be used: '0.png': .*; '1.png': .*; '2.png': .*repair"
    ):
        load_corpus(root)
    spoil(root, ["3.png", "4.png"])
    with pytest.raises(DataError, match=r"no readable image in .*photos': '0\.png': .*; '1\.png': .*; '2\.png': "):
        load_corpus(root)


def test_a_source_of_ones_own() -> None:
    class Mine:
        spec = "mine"
        labels = ("x", None, "x")

        def __init__(self, names: str) -> None:
            self.names = names

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Item:
            def read() -> Image.Image:
                if index == 1:
                    raise KeyError("the net is down")
                return Image.new("L", (6, 6), index)

            return Item(self.names[index], self.labels[index], read)

    corpus = load_corpus(Mine("abc"))
    assert corpus.ids == ("a", "c")
    assert corpus.values.mean((1, 2, 3)).tolist() == [0, 2]
    assert corpus.rejected[0].reason == "KeyError: 'the net is down'"
    with pytest.raises(DataError, match="gives 1 ids twice"):
        load_corpus(Mine("aba"))


def test_the_fingerprint_covers_pixels_sizes_and_ids_and_not_labels(image_folder: Folder) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    prints = {load_corpus((images, [0, 1, 0, 1])).fingerprint, load_corpus(images).fingerprint}
    assert len(prints) == 1
    other = images.copy()
    other[3, 7, 7] ^= 1
    assert load_corpus(other).fingerprint not in prints
    root = image_folder({"": 2})
    first = load_corpus(root).fingerprint
    (root / "1.png").rename(root / "2.png")
    assert load_corpus(root).fingerprint != first


def test_the_fingerprint_does_not_depend_on_the_process(image_folder: Folder, tmp_path: Path) -> None:
    root = image_folder({"b": 3, "a": 3})
    program = "import sys; from twoviews.data.corpus import *; print(load_corpus(sys.argv[1]).fingerprint)"
    expected = load_corpus(root).fingerprint
    environment = {**os.environ, "PYTHONHASHSEED": str(random.Random(1).randrange(1 << 30))}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    found = subprocess.run(
        [sys.executable, "-c", program, str(root)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == expected


def test_select(image_folder: Folder) -> None:
    corpus = load_corpus(image_folder({"a": 2, "b": 3}))
    part = corpus.select([4, 0])
    assert part.ids == ("b/2.png", "a/0.png")
    assert part.labels.tolist() == [1, 0]
    assert part.classes == ("a", "b")
    assert (part.values[0] == corpus.values[4]).all()
    assert np.shares_memory(corpus.select(range(1, 4)).values, corpus.values)
    assert corpus.select(np.arange(5)).fingerprint == corpus.fingerprint
    assert corpus.select([0, 4]).fingerprint != part.fingerprint
    assert len(corpus.select([])) == 0
    for bad in ([5], [-1], [[0]], [0.5], [True, False]):
        with pytest.raises(UsageError, match="select takes"):
            corpus.select(bad)


def test_relabel(image_folder: Folder) -> None:
    corpus = load_corpus(image_folder({"cat": 1, "dog": 2}))
    again = corpus.relabel(("ant", "dog", "cat"))
    assert again.labels.tolist() == [2, 1, 1]
    assert again.classes == ("ant", "dog", "cat")
    assert again.fingerprint == corpus.fingerprint
    assert corpus.select([0]).relabel(["cat"]).labels.tolist() == [0]
    with pytest.raises(DataError, match="unknown class 'dog': did you mean 'dogs'"):
        corpus.relabel(["cat", "dogs"])
    assert load_corpus(np.zeros((2, 4, 4), np.uint8)).relabel(["a"]).labels.tolist() == [-1, -1]


def test_equal_pixels_have_equal_keys(image_folder: Folder) -> None:
    root = image_folder({"": 3})
    Image.open(root / "1.png").save(root / "re-encoded.bmp")
    corpus = load_corpus(root)
    keys = corpus.content_keys()
    assert len(set(keys)) == 3
    assert keys[corpus.ids.index("re-encoded.bmp")] == keys[1]
    assert set(load_corpus(root).select([1]).content_keys()) & set(keys) == {keys[1]}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
    ],
)
def test_classes_are_sorted(names: list[str], expected: tuple[str, ...]) -> None:
    assert sort_classes(names) == expected


@pytest.mark.parametrize(
    ("options", "message"), [({"cache_side": 0}, "cache_side is 0"), ({"channels": 0}, "channels is 0")]
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_corpus("digits:val", **options)


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_data_still_loads(count: int, image_folder: Folder) -> None:
    corpus = load_corpus(image_folder({"only": count}))
    assert len(corpus) == count
    assert corpus.classes == ("only",)


# The cache on disk


def test_the_cache_is_used_again_and_made_anew_after_a_change(
    image_folder: Folder, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder({"a": 3})
    in_memory = load_corpus(root)
    assert not own_cache.exists()
    first = load_corpus(root, memory_limit=0)
    assert isinstance(first.values, np.memmap)
    assert (first.values == in_memory.values).all()
    assert first.fingerprint == in_memory.fingerprint
    assert len(list(own_cache.glob("*/values.npy"))) == 1

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(assemble.Assembly, "look", fail)
        again = load_corpus(root, memory_limit=0)
        assert (again.values == first.values).all()
        assert (again.ids, again.fingerprint) == (first.ids, first.fingerprint)
        with pytest.raises(AssertionError, match="decoded again"):
            load_corpus(root, memory_limit=0, channels=1)
    Image.new("RGB", (12, 10), (1, 2, 3)).save(root / "a" / "1.png")
    assert load_corpus(root, memory_limit=0).values[1, 0, 0].tolist() == [1, 2, 3]
    assert len(list(own_cache.glob("*/values.npy"))) == 2


def test_a_spoilt_cache_is_replaced(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 3}), tmp_path / "elsewhere"
    first = load_corpus(root, memory_limit=0, cache_dir=home)
    expected = np.array(first.values)
    folder = next(home.glob("*/values.npy")).parent
    (folder / "index.json").write_text("{")
    assert (load_corpus(root, memory_limit=0, cache_dir=home).values == expected).all()
    values = (folder / "values.npy").read_bytes()
    (folder / "values.npy").write_bytes(values[:-1])
    assert (load_corpus(root, memory_limit=0, cache_dir=home).values == expected).all()
    assert list(home.glob("*/values.npy")) == [folder / "values.npy"]


def test_a_full_disk_is_told_and_leaves_no_litter(
    image_folder: Folder, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder({"a": 3})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"need 0\.00 GB in .*GB free: free some, set cache_dir"):
        load_corpus(root, memory_limit=0)
    assert list(own_cache.iterdir()) == []


def test_an_interruption_leaves_no_litter(
    image_folder: Folder, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder({"a": 3})

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assemble.Assembly, "_put", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_corpus(root, memory_limit=0)
    assert list(own_cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made(image_folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match=r"cannot write the decoded images to .*set cache_dir"):
        load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=tmp_path / "file" / "deep")


def test_the_free_memory_is_a_sensible_number() -> None:
    assert 1 << 20 < cache.available_memory() < 1 << 50


# Tables


def test_tables_survive_any_name(tmp_path: Path, picture: Callable[..., Image.Image]) -> None:
    root = tmp_path / "photos"
    names = [
        "a,b",
        'quo"te',
        "new\nline",
        "return\r",
        "-dash",
        os.fsdecode(b"\xff"),
        "\U0001f9f6",
        "=1+1",
        " space ",
    ]
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        picture(seed).save(root / name / f"{name}.png")
        if seed < 3:
            (root / name / f"{name}-bad.png").write_bytes(b"")
    corpus = load_corpus(root)
    write_manifest(tmp_path / "manifest.csv", corpus)
    write_rejected(tmp_path / "rejected.csv", corpus)
    rows = read_csv(tmp_path / "manifest.csv")
    assert tuple(row["id"] for row in rows) == corpus.ids == tuple(sorted(f"{name}/{name}.png" for name in names))
    assert [row["label"] for row in rows] == [corpus.classes[i] for i in corpus.labels]
    assert {(row["width"], row["height"]) for row in rows} == {("12", "10")}
    rejected = read_csv(tmp_path / "rejected.csv")
    assert [row["id"] for row in rejected] == [item.id for item in corpus.rejected]
    assert rejected[0]["reason"] == "empty: 0 bytes"
    assert sorted(path.name for path in tmp_path.glob("*.csv*")) == ["manifest.csv", "rejected.csv"]


def test_an_unlabelled_corpus_has_empty_labels(tmp_path: Path) -> None:
    corpus: Corpus = load_corpus(np.zeros((2, 4, 4), np.uint8))
    write_manifest(tmp_path / "manifest.csv", corpus)
    assert [row["label"] for row in read_csv(tmp_path / "manifest.csv")] == ["", ""]
