"""Images that are arrays already, in memory and in `.npy` and `.npz`."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.data.source import Grouped, Source, open_source
from twoviews.data.sources.arrays import ArraySource, from_arrays
from twoviews.errors import DataError, RefusedError, UsageError


def ids(source: Source) -> list[str]:
    return [source[i].id for i in range(len(source))]


def test_arrays_in_python_are_not_copied() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    source = open_source((images, ["b", "", "a"]))
    assert list(source.labels) == ["b", None, "a"]
    assert np.shares_memory(source[1].read(), images)
    assert list(open_source(np.zeros((2, 4, 4), np.uint8)).labels) == [None, None]
    assert list(open_source((images, np.array([[5], [-1], [10]]))).labels) == ["5", None, "10"]
    assert list(open_source((images, [3, None, "a"])).labels) == ["3", None, "a"]


@pytest.mark.parametrize(
    "kind",
    ["u1", "<u2", ">u2", "<i2", "<i4", ">i4", "<u4", "<i8", "<f2", "<f4", ">f4", "<f8"],
)
def test_real_types_keep_their_values(kind: str) -> None:
    values = np.random.default_rng(3).integers(0, 200, (2, 5, 6, 7)).astype(kind)
    source = from_arrays(values)
    assert source.images.dtype == np.dtype(kind)
    assert np.shares_memory(source.images, values)
    assert (source[1].read() == values[1]).all()


@pytest.mark.parametrize("shape", [(2, 9, 9), (2, 9, 9, 1), (2, 9, 9, 4), (2, 8, 9, 13), (2, 32, 32, 32), (2, 3, 3, 8)])
def test_one_to_32_channels(shape: tuple[int, ...]) -> None:
    source = from_arrays(np.zeros(shape, np.uint8))
    assert source.images.shape == (shape if len(shape) == 4 else (*shape, 1))


@pytest.mark.parametrize(
    "shape", [(2, 3, 32, 32), (2, 1, 28, 28), (2, 4, 16, 16), (2, 13, 64, 64), (2, 3, 20, 24), (2, 3, 480, 640)]
)
def test_channels_first_are_never_taken_for_channels_last(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"so move them last: images\.transpose\(0, 2, 3, 1\)$") as caught:
        from_arrays(np.zeros(shape, np.uint8))
    assert f"shape {shape}, {shape[3]} channels" in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), bool), None, r"holds bool: images are numbers; convert it as images\.astype"),
        (np.zeros((2, 4, 4), complex), None, "holds complex128: images are whole numbers or floats"),
        (np.zeros((2, 4, 4), "M8[s]"), None, r"holds datetime64\[s\]: images are whole numbers"),
        (np.zeros((2, 4, 4), np.longdouble), None, "floats of at most 64 bits; convert it"),
        (np.zeros((2, 4, 4), "U3"), None, "holds <U3: images are"),
        (np.zeros((2, 8, 8, 33), np.uint8), None, "33 channels: 1 to 32 are understood, on the last axis"),
        (np.zeros((8, 8), np.uint8), None, r"shape \(8, 8\)"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), None, r"images are \(N, H, W\) or \(N, H, W, C\)"),
        (np.zeros((0, 8, 8), np.uint8), None, "none of them 0"),
        (np.zeros((2, 4, 4), np.uint8), [1, 2, 3], r"2 images, but labels have shape \(3,\)"),
        (np.zeros((2, 4, 4), np.uint8), [1.0, np.nan], "labels hold float64"),
        (np.zeros((2, 4, 4), np.uint8), [True, False], "labels hold bool"),
    ],
)
def test_arrays_that_are_no_images(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source((images, labels) if labels is not None else images)


def test_npy_is_mapped_and_npz_is_sorted_by_its_ids(tmp_path: Path) -> None:
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    np.save(tmp_path / "a.npy", images)
    mapped = open_source(tmp_path / "a.npy")
    assert isinstance(mapped, ArraySource)
    assert isinstance(mapped.images, np.memmap)
    assert (mapped[2].read()[..., 0] == images[2]).all()
    np.savez_compressed(tmp_path / "b.npz", x=images, y=[2, 1, 0], ids=["c", "a", "b"], groups=["p", "q", ""])
    source = open_source(tmp_path / "b.npz")
    assert ids(source) == ["a", "b", "c"]
    assert list(source.labels) == ["1", "0", "2"]
    assert isinstance(source, Grouped)
    assert list(source.groups) == [source[i].group for i in range(3)] == ["q", None, "p"]
    assert (source[0].read()[..., 0] == images[1]).all()
    with pytest.raises(UsageError, match="has no splits"):
        open_source(f"{tmp_path}/b.npz:train")


def test_deep_and_big_endian_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 4000, (2, 6, 5, 13)).astype(">u2")
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images)
    for name in ("a.npy", "a.npz"):
        read = open_source(tmp_path / name)[1].read()
        assert read.dtype == np.dtype(">u2")
        assert (read == images[1]).all()


def test_groups_must_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), groups=[1, 2, 3])
    with pytest.raises(DataError, match=r"a\.npz: 2 images, but groups have shape \(3,\)"):
        open_source(tmp_path / "a.npz")


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
