"""Data sets by name: digits, the archives of CIFAR and STL-10 in their true layout, torchvision's names."""

import contextlib
import functools
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from twoviews.data.corpus import load_corpus
from twoviews.data.decoding.decode import decode
from twoviews.data.source import Source, Stored, open_source
from twoviews.data.sources.inert import read_inert
from twoviews.errors import DataError, RefusedError, UsageError

TEN = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
HUNDRED = [f"thing_{i:02d}" for i in range(100)]


def ids(source: Source) -> list[str]:
    return [source[i].id for i in range(len(source))]


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Digits


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


def test_a_folder_of_that_name_is_written_with_a_dot(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder({"": 1}, name="digits")
    monkeypatch.chdir(root.parent)
    assert len(open_source("./digits")) == 1
    assert len(open_source("digits")) == 1797


# CIFAR


def as_python2(batch: dict[str, Any]) -> bytes:
    """The opcodes that Python 2 wrote in 2009, when texts and bytes were one: the true form of the archives."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def value(of: Any) -> bytes:
        if isinstance(of, str):
            return text(of.encode())
        if isinstance(of, int):
            return b"K" + bytes([of])
        if isinstance(of, list):
            return b"](" + b"".join(map(value, of)) + b"e"
        made = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        kind = (
            b"cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        shape = b"".join(b"M" + struct.pack("<H", side) for side in of.shape) + b"\x86"
        return made + b"(K\x01" + shape + kind + b"\x89" + text(of.tobytes()) + b"tb"

    return b"\x80\x02}q\x00(" + b"".join(value(key) + value(of) for key, of in batch.items()) + b"u."


def as_python3(batch: dict[str, Any], *, protocol: int) -> bytes:
    def value(of: Any) -> Any:
        return of.encode() if isinstance(of, str) else [value(part) for part in of] if isinstance(of, list) else of

    return pickle.dumps({value(key): value(of) for key, of in batch.items()}, protocol)


WRITERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "python 2": as_python2,
    **{f"protocol {p}": functools.partial(as_python3, protocol=p) for p in range(5)},
}


def cifar_files(name: str, *, write: Callable[[dict[str, Any]], bytes] | None, each: int = 2) -> dict[str, bytes]:
    """The files of a small CIFAR: `each` images a batch, all different; pickled by `write`, or binary."""
    ten = name == "cifar10"
    parts = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if ten else ["train", "test"]
    files = {}
    for index, part in enumerate(parts):
        pixels = noise(each, 3072, seed=index)
        labels = [(index + i) % (10 if ten else 100) for i in range(each)]
        if write is None:
            heads = [bytes([label]) if ten else bytes([7, label]) for label in labels]
            files[f"{part}.bin"] = b"".join(head + row.tobytes() for head, row in zip(heads, pixels, strict=True))
        else:
            named = {"labels": labels} if ten else {"coarse_labels": [7] * each, "fine_labels": labels}
            names = [f"{part}_{i}.png" for i in range(each)]
            files[part] = write({"batch_label": part, **named, "data": pixels, "filenames": names})
    if write is None:
        files["batches.meta.txt" if ten else "fine_label_names.txt"] = (
            "\n".join(TEN if ten else HUNDRED).encode() + b"\n\n"
        )
    else:
        key = "label_names" if ten else "fine_label_names"
        files["batches.meta" if ten else "meta"] = write({key: TEN if ten else HUNDRED})
    return files


PLACES = {
    ("cifar10", True): ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ("cifar10", False): ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    ("cifar100", True): ("cifar-100-python", "cifar-100-python.tar.gz"),
    ("cifar100", False): ("cifar-100-binary", "cifar-100-binary.tar.gz"),
}


def put_folder(root: Path, folder: str, files: dict[str, bytes]) -> None:
    (root / folder).mkdir(parents=True)
    for file, data in files.items():
        (root / folder / file).write_bytes(data)


def put_archive(path: Path, folder: str, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for file, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def expected(name: str, split: str, each: int = 2) -> tuple[Any, list[str]]:
    """What `cifar_files` holds, put together anew."""
    parts = {"train": range(5), "test": range(5, 6)} if name == "cifar10" else {"train": range(1), "test": range(1, 2)}
    images = np.concatenate([noise(each, 3072, seed=i).reshape(each, 3, 32, 32) for i in parts[split]])
    classes = TEN if name == "cifar10" else HUNDRED
    return images.transpose(0, 2, 3, 1), [classes[i + row] for i in parts[split] for row in range(each)]


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar.gz"])
@pytest.mark.parametrize("pickled", [True, False], ids=["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_in_every_version(name: str, pickled: bool, packed: bool, tmp_path: Path) -> None:
    folder, archive = PLACES[name, pickled]
    files = cifar_files(name, write=as_python2 if pickled else None)
    if packed:
        put_archive(tmp_path / archive, folder, files)
    else:
        put_folder(tmp_path, folder, files)
    for split in ("train", "test"):
        source = open_source(f"{name}@{tmp_path}:{split}")
        images, labels = expected(name, split)
        assert list(source.labels) == labels
        assert ids(source) == [str(i).zfill(len(str(len(images) - 1))) for i in range(len(images))]
        assert all((source[i].read() == images[i]).all() for i in range(len(images)))
    corpus = load_corpus(f"{name}@{tmp_path}")
    assert corpus.values.shape == (len(expected(name, "train")[0]), 32, 32, 3)


@pytest.mark.parametrize("writer", WRITERS)
def test_pickles_of_every_protocol(writer: str, tmp_path: Path) -> None:
    put_folder(tmp_path, "cifar-10-batches-py", cifar_files("cifar10", write=WRITERS[writer]))
    source = open_source(f"cifar10@{tmp_path}")
    images, labels = expected("cifar10", "train")
    assert list(source.labels) == labels
    assert all((source[i].read() == images[i]).all() for i in range(10))


def test_python2_form_is_what_pickle_reads() -> None:
    made = pickle.loads(as_python2({"data": noise(2, 3072), "labels": [3, 9]}), encoding="latin1")
    assert made["labels"] == [3, 9]
    assert (made["data"] == noise(2, 3072)).all()


def test_folders_with_colons_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_folder(tmp_path / "my:data", "cifar-10-batches-py", cifar_files("cifar10", write=as_python2))
    assert len(open_source(f"cifar10@{tmp_path}/my:data")) == 10
    assert len(open_source(f"cifar10@{tmp_path}/my:data:test")) == 2
    assert len(open_source(f"cifar10@{tmp_path}/my:data/cifar-10-batches-py:test")) == 2
    monkeypatch.setenv("TWOVIEWS_DATA", f"{tmp_path}/my:data")
    assert list(open_source("cifar10:test").labels) == ["dog", "horse"]
    assert list(open_source("torchvision:CIFAR10:test").labels) == ["dog", "horse"]
    with pytest.raises(UsageError, match="unknown split of cifar10 'tets': did you mean 'test'"):
        open_source("cifar10:tets")


@pytest.mark.parametrize("spec", ["cifar10", "cifar100:test", "stl10:unlabeled", "torchvision:FashionMNIST"])
def test_sets_that_are_not_there_say_how_to_get_them(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWOVIEWS_DATA", raising=False)
    name = spec if spec.startswith("torchvision") else spec.partition(":")[0]
    with pytest.raises(DataError, match=rf"{name} is not .* in 'data': name its folder as {name}@FOLDER.*--download"):
        open_source(spec)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    files = cifar_files("cifar10", write=as_python2)
    del files["data_batch_4"]
    put_folder(tmp_path, "cifar-10-batches-py", files)
    with pytest.raises(DataError, match=r"not whole.*; 'cifar-10-batches-py' lacks 'data_batch_4'$"):
        open_source(f"cifar10@{tmp_path}")
    assert len(open_source(f"cifar10@{tmp_path}:test")) == 2
    put_archive(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", cifar_files("cifar10", write=None))
    assert len(open_source(f"cifar10@{tmp_path}")) == 10


PIXELS = noise(2, 3072)
BAD_BATCHES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short: pickle exhausted before seeing STOP"),
    "text": (b"hello", "is no file of CIFAR's python version"),
    "a list": (b"].", "is no file of CIFAR's python version, or cut short: it holds a list"),
    "nothing in it": (b"}.", "it has no array 'data' with a list 'labels'"),
    "labels too few": (as_python2({"data": PIXELS, "labels": [1]}), "has 1 labels for 2 images"),
    "labels as text": (as_python2({"data": PIXELS, "labels": ["a", "b"]}), "or some are no numbers"),
    "label out of range": (as_python2({"data": PIXELS, "labels": [1, 10]}), "label of image 1 is not from 0 to 9"),
    "label far out of range": (
        as_python3({"data": PIXELS, "labels": [-(10**30), 1]}, protocol=2),
        "label of image 0 is not from 0 to 9",
    ),
    "another shape": (as_python2({"data": noise(2, 768), "labels": [1, 2]}), r"for shape \(2, 768\): 3 x 32 x 32"),
    "other numbers": (as_python3({"data": PIXELS.astype("i2"), "labels": [1, 2]}, protocol=2), "that is not of bytes"),
    "by column": (as_python3({"data": np.asfortranarray(PIXELS), "labels": [1, 2]}, protocol=2), "row by row"),
    "more images": (as_python2({"data": noise(3, 3072), "labels": [1, 2, 3]}), "has 3 images, the batch before 2"),
    "shape promises more": (
        as_python2({"data": PIXELS, "labels": [1, 2]}).replace(b"M\x02\x00M\x00\x0c", b"M\x03\x00M\x00\x0c"),
        r"has 6,144 bytes of pixels for shape \(3, 3072\)",
    ),
    "memo that is not": (b"}h\x07.", "is no file of CIFAR"),
    "mark that is not": (b"}u.", "is no file of CIFAR"),
    "dict as key": (b"}}}s.", "items for a dict"),
    "wide characters": (
        as_python2({"data": PIXELS, "labels": [1, 2]}).replace(
            b"T" + struct.pack("<i", 6144) + PIXELS.tobytes(),
            b"X" + struct.pack("<I", 12288) + ("\u0100" * 6144).encode(),
        ),
        "has pixels that are no bytes",
    ),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_broken_batches_name_the_file(name: str, tmp_path: Path) -> None:
    data, message = BAD_BATCHES[name]
    files = cifar_files("cifar10", write=as_python2)
    put_folder(tmp_path, "cifar-10-batches-py", {**files, "data_batch_3": data})
    with pytest.raises(DataError, match=message) as caught:
        open_source(f"cifar10@{tmp_path}")
    assert "cifar-10-batches-py/data_batch_3'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_no_truncated_batch_is_taken(writer: str, tmp_path: Path) -> None:
    files = cifar_files("cifar10", write=WRITERS[writer], each=1)
    put_folder(tmp_path, "cifar-10-batches-py", files)
    whole = files["test_batch"]
    for length in (*range(0, 120), *range(120, len(whole) - 1, 97), len(whole) - 1):
        (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(whole[:length])
        with pytest.raises(DataError):
            open_source(f"cifar10@{tmp_path}:test")


def test_no_damaged_byte_is_a_crash() -> None:
    draws = np.random.default_rng(11)
    whole = bytearray(as_python2({"labels": [1, 2], "data": noise(2, 60), "filenames": ["a", "b"]}))
    for _ in range(4000):
        data = bytearray(whole)
        for at in draws.integers(0, len(data), 3):
            data[at] = draws.integers(0, 256)
        with contextlib.suppress(DataError, RefusedError):  # not: any other exception
            assert isinstance(read_inert(bytes(data), "damaged"), dict)


class Harm:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_malicious_pickles_run_nothing(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in ((os.mkdir, "harm"), (os.system, "touch harm"), (print, "harm"), (getattr, "os", "mkdir")):
        data = pickle.dumps({"data": Harm(*call), "labels": [1, 2]}, protocol)
        put = {**cifar_files("cifar10", write=as_python2), "data_batch_1": data}
        folder = f"{call[0].__name__}-{protocol}"
        put_folder(tmp_path / folder, "cifar-10-batches-py", put)
        put_archive(tmp_path / f"{folder}-tar" / "cifar-10-python.tar.gz", "cifar-10-batches-py", put)
        for home in (folder, f"{folder}-tar"):
            with pytest.raises(
                RefusedError, match=rf"data_batch_1.* asks for '.*\.{call[0].__name__}'.*get the archive"
            ):
                open_source(f"cifar10@{home}")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"(Vmkdir\nios\nmkdir\n.", "opcode INST"),
        (b"(cos\nmkdir\nVx\no.", "'os.mkdir'"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"Pother\n.", "opcode PERSID"),
        (b"}S'a'\nN.", "opcode STRING"),
        (b"cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
        (b"cnumpy.core.multiarray\nscalar\n.", "'numpy.core.multiarray.scalar'"),
        (b"cbuiltins\neval\n.", "'builtins.eval'"),
        (b"\x80\x05\x8c\x05numpy\x8c\x04load\x93.", "'numpy.load'"),
    ],
)
def test_what_no_archive_needs_is_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(RefusedError, match=rf"^batch .*{named}"):
        read_inert(data, "batch")


@pytest.mark.parametrize(
    "data",
    [
        b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",  # another codec
        b"c_codecs\nencode\n)R.",
        b"cnumpy\ndtype\n(cnumpy\nndarray\ntR.",
        b"cnumpy\nndarray\n(K\x01tR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\ntR.",
        b"](K\x01K\x02tb.",  # contents for a list
    ],
)
def test_calls_that_describe_nothing(data: bytes) -> None:
    with pytest.raises(DataError, match="is no file of CIFAR's python version"):
        read_inert(data, "batch")


def test_many_copies_of_one_text_stay_one() -> None:
    call = b"h\x01(h\x02h\x03tR"
    head = (
        b"c_codecs\nencode\nq\x01T"
        + struct.pack("<i", 1 << 20)
        + b"x" * (1 << 20)
        + b"q\x02X\x06\x00\x00\x00latin1q\x03"
    )
    found = read_inert(head + b"}q\x04U\x01a](" + call * 10_000 + b"es.", "batch")["a"]
    assert len({id(text) for text in found}) == 1


def test_pickles_without_end_are_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 2,097,152 steps"):
        read_inert(b"](" + b"N" * (1 << 22) + b"e.", "batch")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("data_batch_2.bin", lambda data: data[:-1], "data_batch_2.bin' is cut short: 6,145 bytes"),
        ("data_batch_2.bin", lambda data: b"", "is cut short: 0 bytes are no multiple"),
        ("data_batch_2.bin", lambda data: data[:3073], "has 1 images, the batch before 2"),
        ("data_batch_2.bin", lambda data: b"\x0a" + data[1:], "label of image 0 is not from 0 to 9"),
        ("batches.meta.txt", lambda data: b"a\nb\n", "has 2 class names: there must be 10, each once"),
        ("batches.meta.txt", lambda data: b"a\n" * 10, "has 10 class names: there must be 10, each once"),
    ],
)
def test_broken_binary_files(file: str, change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    files = cifar_files("cifar10", write=None)
    put_folder(tmp_path, "cifar-10-batches-bin", {**files, file: change(files[file])})
    with pytest.raises(DataError, match=message) as caught:
        open_source(f"cifar10@{tmp_path}")
    assert file in str(caught.value)


def test_broken_archives(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    put_archive(path, "cifar-10-batches-py", cifar_files("cifar10", write=as_python2))
    whole = path.read_bytes()
    for data in (b"", b"hello", whole[: len(whole) // 2], whole[:40] + b"xx" + whole[42:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz' is not a readable \.tar\.gz|not whole"):
            open_source(f"cifar10@{tmp_path}")
    put_archive(path, "elsewhere", cifar_files("cifar10", write=as_python2))
    with pytest.raises(DataError, match=r"'cifar-10-python\.tar\.gz' lacks 'data_batch_1'"):
        open_source(f"cifar10@{tmp_path}")


def test_links_and_sizes_of_an_archive_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files("cifar10", write=as_python2)
    secret = tmp_path / "secret"
    secret.write_bytes(files.pop("test_batch"))
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        for file, data in files.items():
            member = tarfile.TarInfo(f"../cifar-10-batches-py/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match="lacks 'test_batch'"):
        open_source(f"cifar10@{tmp_path}:test")
    monkeypatch.setattr("twoviews.data.sources.binary._LARGEST_ARCHIVE", 4096)
    with pytest.raises(DataError, match="unpacks to more than 4,096 bytes: it is no archive of CIFAR"):
        open_source(f"cifar10@{tmp_path}")


def test_files_that_are_too_large_or_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_folder(tmp_path, "cifar-10-batches-py", cifar_files("cifar10", write=as_python2))
    monkeypatch.setattr("twoviews.data.sources.binary._LARGEST_FILE", 4096)
    with pytest.raises(DataError, match="data_batch_1' has more than 4,096 bytes"):
        open_source(f"cifar10@{tmp_path}")

    def forbidden(path: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DataError, match=r"batches\.meta' cannot be read: Permission denied"):
        open_source(f"cifar10@{tmp_path}")


# STL-10


def stl_files(root: Path, *, unlabeled: int = 5) -> dict[str, Any]:
    """A small STL-10; the images (N, 96, 96, 3) of each part."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    parts = {"train": noise(3, 96, 96, 3, seed=1), "test": noise(2, 96, 96, 3, seed=2)}
    parts["unlabeled"] = noise(unlabeled, 96, 96, 3, seed=3)
    for part, images in parts.items():
        with (folder / f"{part}_X.bin").open("wb") as file:
            for image in images:
                for channel in range(3):
                    for column in range(96):
                        file.write(image[:, column, channel].tobytes())
    (folder / "train_y.bin").write_bytes(bytes([1, 10, 4]))
    (folder / "test_y.bin").write_bytes(bytes([2, 2]))
    (folder / "class_names.txt").write_text("\n".join(TEN) + "\n")
    return parts


def test_stl10_is_mapped_column_by_column(tmp_path: Path) -> None:
    parts = stl_files(tmp_path)
    for split, labels in (("train", ["airplane", "truck", "cat"]), ("test", ["bird"] * 2), ("unlabeled", [None] * 5)):
        source = open_source(f"stl10@{tmp_path}:{split}")
        assert list(source.labels) == labels
        assert all((source[i].read() == parts[split][i]).all() for i in range(len(source)))
        assert isinstance(source[0].read(), np.memmap)
        corpus = load_corpus(f"stl10@{tmp_path}/stl10_binary:{split}")
        assert isinstance(corpus.values, np.memmap)
        assert (corpus.values == parts[split]).all()
    assert list(open_source(f"stl10@{tmp_path}").labels) == ["airplane", "truck", "cat"]


def test_stl10_with_its_unlabelled_images_joined(tmp_path: Path) -> None:
    parts = stl_files(tmp_path, unlabeled=9)
    for spec in (f"stl10@{tmp_path}:train+unlabeled", f"torchvision:STL10@{tmp_path}:train+unlabeled"):
        source = open_source(spec)
        assert list(source.labels) == ["airplane", "truck", "cat", *[None] * 9]
        assert ids(source) == [f"{i:02d}" for i in range(12)]
        joined = np.concatenate([parts["train"], parts["unlabeled"]])
        assert all((source[i].read() == joined[i]).all() for i in range(12))
        assert isinstance(source[11].read(), np.memmap)
        assert (load_corpus(spec).values == joined).all()
    assert isinstance(source, Stored)
    before = source.stamp
    os.utime(tmp_path / "stl10_binary" / "unlabeled_X.bin", (1, 1))
    again = open_source(spec)
    assert isinstance(again, Stored)
    assert again.stamp != before


def test_a_hundred_thousand_unlabelled_images_cost_no_memory(tmp_path: Path) -> None:
    stl_files(tmp_path)
    with (tmp_path / "stl10_binary" / "unlabeled_X.bin").open("r+b") as file:
        file.truncate(100_000 * 27_648)  # holes: the disk holds nothing either
    source = open_source(f"stl10@{tmp_path}:unlabeled")
    assert len(source) == 100_000
    assert source[99_999].id == "99999"
    assert decode(source[99_999].read()).max() == 0


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train_X.bin", lambda data: data[:-1], "is cut short: 82,943 bytes are no multiple of 3 x 96 x 96"),
        ("train_X.bin", lambda data: b"", "is cut short: 0 bytes"),
        ("train_X.bin", lambda data: data[:27648], "has 3 labels for 1 images: is one of them cut short"),
        ("train_y.bin", lambda data: data[:2], "has 2 labels for 3 images"),
        ("train_y.bin", lambda data: b"\x01\x00\x02", "label of image 1 is not from 1 to 10"),
        ("train_y.bin", lambda data: b"\x01\x0b\x02", "label of image 1 is not from 1 to 10"),
        ("class_names.txt", lambda data: data[20:], "class names: there must be 10"),
    ],
)
def test_broken_stl10(file: str, change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    stl_files(tmp_path)
    path = tmp_path / "stl10_binary" / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        open_source(f"stl10@{tmp_path}")


def test_stl10_that_is_not_whole_or_packed(tmp_path: Path) -> None:
    stl_files(tmp_path / "whole")
    (tmp_path / "whole" / "stl10_binary" / "train_y.bin").unlink()
    with pytest.raises(DataError, match=r"not whole.*'stl10_binary' lacks 'train_y\.bin'"):
        open_source(f"stl10@{tmp_path}/whole")
    (tmp_path / "stl10_binary.tar.gz").touch()
    with pytest.raises(DataError, match=r"'stl10_binary\.tar\.gz' cannot be read by position: unpack it once"):
        open_source(f"stl10@{tmp_path}")


# Downloads


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Addresses of files below `tmp_path`/served on this machine."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield lambda name: f"http://127.0.0.1:{server.server_address[1]}/{name}"
        server.shutdown()
        thread.join()


def test_a_download_is_read_by_the_same_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Callable[[str], str]
) -> None:
    path = tmp_path / "served" / "cifar-10-python.tar.gz"
    files = cifar_files("cifar10", write=as_python2)
    put_archive(path, "cifar-10-batches-py", files)
    monkeypatch.setattr(datasets.CIFAR10, "url", served(path.name))
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", "0" * 32)
    home = tmp_path / "home"
    with pytest.raises(DataError, match=r"cifar10 could not be downloaded to '.*home': File not found or corrupted"):
        open_source(f"cifar10@{home}", download=True)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(path.read_bytes()).hexdigest())
    (home / "cifar-10-python.tar.gz").unlink()
    assert list(open_source(f"cifar10@{home}", download=True).labels) == expected("cifar10", "train")[1]
    assert (home / "cifar-10-batches-py" / "test_batch").read_bytes() == files["test_batch"]
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:1/gone")
    assert len(open_source(f"cifar10@{home}", download=True)) == 10  # it is there
    (home / "cifar-10-batches-py" / "test_batch").unlink()
    (home / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(DataError, match="cifar10 could not be downloaded to"):
        open_source(f"cifar10@{home}:test", download=True)


def test_a_packed_stl10_is_unpacked_where_downloads_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stl_files(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made" / "stl10_binary").iterdir()}
    path = tmp_path / "home" / "stl10_binary.tar.gz"
    put_archive(path, "stl10_binary", files)
    monkeypatch.setattr(datasets.STL10, "tgz_md5", md5(path.read_bytes()).hexdigest())
    assert len(open_source(f"stl10@{path.parent}:unlabeled", download=True)) == 5


# torchvision's names


def mnist_files(root: Path, name: str, images: Any, labels: Any) -> Path:
    """Files in idx layout, as Fashion-MNIST's: big-endian numbers, then bytes."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", len(images) - 1), ("t10k", 1)):
        some = slice(0, count) if part == "train" else slice(-1, None)
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images[some].tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(labels[some]))
    return raw


def test_fashion_mnist_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(4, 28, 28)
    mnist_files(tmp_path / "a:b", "FashionMNIST", images, [9, 0, 5, 1])
    source = open_source(f"torchvision:FashionMNIST@{tmp_path}/a:b")
    assert list(source.labels) == ["Ankle boot", "T-shirt/top", "Sandal"]
    assert ids(source) == ["0", "1", "2"]
    assert (decode(source[2].read())[..., 0] == images[2]).all()
    assert source.spec == f"torchvision:FashionMNIST@{tmp_path}/a:b"
    test = open_source(f"torchvision:fashionmnist@{tmp_path}/a:b:test")
    assert list(test.labels) == ["Trouser"]
    monkeypatch.setenv("TWOVIEWS_DATA", f"{tmp_path}/a:b")
    assert load_corpus("torchvision:FashionMNIST").values.shape == (3, 28, 28, 1)
    with pytest.raises(UsageError, match="unknown split of FashionMNIST 'tests': did you mean 'test'"):
        open_source("torchvision:FashionMNIST:tests")


def test_a_broken_file_of_torchvision(tmp_path: Path) -> None:
    raw = mnist_files(tmp_path, "FashionMNIST", noise(4, 28, 28), [9, 0, 5, 1])
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"FashionMNIST is not \(or not whole\) in .*shape '\[3, 28, 28\]' is invalid"):
        open_source(f"torchvision:FashionMNIST@{tmp_path}")
    file.write_bytes(struct.pack(">II", 0x801, 3) + b"abc")
    with pytest.raises(DataError, match=r"FashionMNIST in '.*' cannot be read: ValueError: x should have 3 dim"):
        open_source(f"torchvision:FashionMNIST@{tmp_path}")


def test_eurosat_has_paths_for_ids_and_no_splits(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = image_folder({"eurosat/2750/River": 2, "eurosat/2750/Forest": 1})
    source = open_source(f"torchvision:EuroSAT@{root}")
    assert ids(source) == [f"eurosat/2750/{name}.png" for name in ("Forest/0", "River/0", "River/1")]
    assert list(source.labels) == ["Forest", "River", "River"]
    with pytest.raises(UsageError, match="EuroSAT has no splits, but 'train' was asked for: drop ':train'"):
        open_source(f"torchvision:EuroSAT@{root}:train")


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (
            "torchvision:FashionMNST",
            UsageError,
            "unknown torchvision data set 'FashionMNST': did you mean 'FashionMNIST'",
        ),
        ("torchvision:", UsageError, "unknown torchvision data set ''"),
        ("torchvision:LSUN", UsageError, "unknown torchvision data set 'LSUN'"),
        ("torchvision:ImageFolder@x", UsageError, "unknown torchvision data set 'ImageFolder'"),
        ("torchvision:MNIST@", UsageError, "names no folder after '@': write torchvision:MNIST@FOLDER"),
        ("torchvision:EMNIST@x", UsageError, "EMNIST has several parts and none of its own: write torchvision:EMNIST"),
        ("torchvision:SVHN@x:trian", UsageError, r"SVHN has no split 'trian': Unknown value 'trian'.*'test'"),
        ("torchvision:CIFAR10@x:trian", UsageError, "unknown split of CIFAR10 'trian': did you mean 'train'"),
        ("torchvision:SVHN@x:extra", DataError, r"torchvision:SVHN is not .* in 'x'.*--download"),
        ("torchvision:ImageNet@x", DataError, r"torchvision:ImageNet is not .* as torchvision cannot download it"),
        ("torchvision:Flowers102@x:val", DataError, "torchvision:Flowers102 is not .*Dataset not found"),
    ],
)
def test_names_of_torchvision_that_lead_nowhere(
    spec: str, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        open_source(spec)
    assert list(tmp_path.iterdir()) == []
