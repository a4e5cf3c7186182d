"""Tar shards and zip files: the same items as a folder, labels beside images, indexes, damage, many threads."""

import io
import os
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.data.corpus import load_corpus
from twoviews.data.decoding.decode import Unreadable
from twoviews.data.source import Grouped, Source, Stored, open_source
from twoviews.data.sources import shards
from twoviews.data.sources.archives import MemberSource
from twoviews.data.sources.shards import open_shards
from twoviews.data.sources.tarheaders import walk
from twoviews.data.sources.zipped import open_zip
from twoviews.errors import DataError, RefusedError, UsageError

Members = Iterable[tuple[str, bytes]]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write_tar(path: Path, members: Members, *, kind: str = "gnu") -> Path:
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: Members, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return path


def open_tar(*paths: Path, split: str | None = None) -> MemberSource:
    return open_shards(paths, spec="these", split=split)


def read(source: Source, index: int) -> bytes:
    data = source[index].read()
    assert isinstance(data, bytes)
    return data


def why(source: Source, index: int) -> str:
    with pytest.raises(Unreadable) as caught:
        source[index].read()
    return str(caught.value)


WRITERS: dict[str, Callable[[Path, Members], Path]] = {
    "tar": lambda path, members: write_tar(path.with_suffix(".tar"), members),
    "zip": lambda path, members: write_zip(path.with_suffix(".zip"), members),
}
either = pytest.mark.parametrize("kind", WRITERS)


def make(folder: Path, kind: str, members: Members, *, name: str = "a") -> Source:
    return open_source(WRITERS[kind](folder / name, members))


# The same items as a folder


@pytest.mark.parametrize("container", ["ustar", "gnu", "pax", "stored", "deflated"])
def test_the_same_ids_labels_and_bytes_as_the_folder(
    image_folder: Callable[..., Path], tmp_path: Path, container: str
) -> None:
    root = image_folder({"train/cat": 2, "test/dog": 2, "train/" + "long" * 30: 1})
    files = sorted((p for p in root.rglob("*") if p.is_file()), reverse=True)
    members = [("./" + p.relative_to(root).as_posix(), p.read_bytes()) for p in files]
    members += [("notes.txt", b"x"), ("train/.hidden.png", b"x"), ("__MACOSX/train/cat/0.png", b"x")]
    if container in FORMATS:
        source: Source = open_tar(write_tar(tmp_path / "a.tar", members, kind=container))
    else:
        method = zipfile.ZIP_STORED if container == "stored" else zipfile.ZIP_DEFLATED
        source = open_zip(write_zip(tmp_path / "a.zip", members, method=method))
    folder = open_source(root)
    assert [source[i].id for i in range(len(source))] == [folder[i].id for i in range(len(folder))]
    assert list(source.labels) == list(folder.labels) == [source[i].label for i in range(len(source))]
    for i in range(len(folder)):
        path = folder[i].read()
        assert isinstance(path, Path)
        assert read(source, i) == path.read_bytes()
    assert isinstance(source, MemberSource)
    assert source.skipped == {".txt": 1, "hidden": 2}


@either
def test_what_a_source_of_archives_promises(tmp_path: Path, kind: str) -> None:
    source = make(tmp_path, kind, [("b.png", b"1"), ("a.png", b"22"), ("c.png", b"333")])
    assert isinstance(source, Source)
    assert isinstance(source, Stored)
    assert isinstance(source, Grouped)
    assert list(source.groups) == list(source.labels) == [None] * 3
    assert source.storage_order.tolist() == [1, 0, 2]
    assert source[-1].id == "c.png"
    assert read(source, 0) == b"22"
    with pytest.raises(IndexError):
        source[3]
    before = source.stamp
    os.utime(tmp_path / f"a.{kind}", ns=(1, 1))
    again = open_source(tmp_path / f"a.{kind}")
    assert isinstance(again, Stored)
    assert again.stamp != before


@either
@pytest.mark.parametrize(
    "name",
    ["caf\u00e9.png", "cafe\u0301.png", "\U0001f9f6.png", "new\nline.png", "-rf.png", "a..b.png", "n" * 246 + ".PNG"],
)
def test_any_name_is_an_id(tmp_path: Path, kind: str, name: str) -> None:
    source = make(tmp_path, kind, [(name, b"x")])
    assert source[0].id == name
    assert read(source, 0) == b"x"


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_are_no_text(tmp_path: Path, kind: str) -> None:
    name = os.fsdecode(b"raw\xff.png")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=FORMATS[kind], encoding="utf-8", errors="surrogateescape") as tar:
        tar.addfile(tarfile.TarInfo(name))
    assert open_tar(path).ids == open_tar(path).ids == (name,)


# Labels


@either
def test_labels_and_groups_in_files_beside_the_images(tmp_path: Path, kind: str) -> None:
    source = make(
        tmp_path,
        kind,
        [
            ("x/1.cls", b"3\n"),
            ("x/1.left.jpg", b""),
            ("x/1.right.jpg", b""),
            ("x/2.cls", b"-1"),
            ("x/2.jpg", b""),
            ("x/3.jpg", b""),
            ("x/3.json", b'{"class": "tabby cat", "group": 7}'),
            ("x/4.cls", "Käfer".encode()),
            ("x/4.jpg", b""),
            ("x/4.json", b'{"label": "other", "group": "p4"}'),
            ("x/5.jpg", b""),
            ("x/6.jpg", b""),
            ("x/6.JSON", b'{"cls": 0, "label": null}'),
            ("x/7.jpg", b""),
            ("x/7.json", b"[1, 2]"),
        ],
    )
    assert list(source.labels) == ["3", "3", None, "tabby cat", "Käfer", None, None, None]
    assert isinstance(source, Grouped)
    assert list(source.groups) == [None, None, None, "7", "p4", None, None, None]
    assert source[4].group == "p4"


@either
def test_files_without_labels_leave_them_to_the_folders(tmp_path: Path, kind: str) -> None:
    source = make(tmp_path, kind, [("cat/1.jpg", b""), ("cat/1.json", b'{"group": "g"}'), ("dog/1.jpg", b"")])
    assert list(source.labels) == ["cat", "dog"]


@either
@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("1.json", b"{", "label file '1.json': Expecting property name"),
        ("1.json", b'{"label": [1]}', "label is '[1]', neither text nor a whole number"),
        ("1.json", b'{"label": true}', "label is 'True', neither"),
        ("1.json", b'{"cls": 1.5}', "cls is '1.5', neither"),
        ("1.json", b'{"label": "\\ud800"}', "not one line of text"),
        ("1.json", b"[" * 100_000, "recursion"),
        ("1.json", b'{"label": ' + b"9" * 5000 + b"}", "limit"),
        ("1.json", b" " * (1 << 20) + b"{}", "1,048,578 bytes, above the limit of 1,048,576"),
        ("1.cls", b"\xff\xfe", "can't decode byte 0xff"),
        ("1.cls", b"a\nb", "it is 'a\\nb', not one line of text"),
        ("1.cls", np.int64(3).tobytes(), "not one line of text"),
    ],
)
def test_a_broken_label_file_costs_its_own_image(
    tmp_path: Path, kind: str, name: str, data: bytes, reason: str
) -> None:
    source = make(tmp_path, kind, [("1.jpg", b"x"), (name, data), ("2.jpg", b"y"), ("2.cls", b"b")])
    assert list(source.labels) == [None, "b"]
    assert reason in why(source, 0)
    assert read(source, 1) == b"y"


@either
@pytest.mark.parametrize(("members", "name"), [(["x.jpg", "y.jpg", "./x.jpg"], "x.jpg"), (["x.cls"] * 2, "x.cls")])
def test_a_name_twice_in_one_archive(tmp_path: Path, kind: str, members: list[str], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the standard library
        path = WRITERS[kind](tmp_path / "a", [(member, bytes([i])) for i, member in enumerate(members)])
    with pytest.raises(DataError, match=f"holds '{name}' twice, and which of the two is meant cannot be known: pack"):
        open_source(path)


# Many shards


def test_many_shards_are_one_source(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{i}.tar", [(f"{i}/{9 - i}.png", bytes([i]))]) for i in range(5)]
    source = open_tar(*reversed(paths), paths[0])
    assert source.ids == ("0/9.png", "1/8.png", "2/7.png", "3/6.png", "4/5.png")
    assert source.labels == ("0", "1", "2", "3", "4")
    assert [read(source, i) for i in range(5)] == [bytes([i]) for i in range(5)]
    assert open_tar(*paths).stamp == source.stamp


def test_a_name_in_two_shards_prefixes_every_id(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "0000.tar", [("cat/1.png", b"1"), ("dog/1.png", b"2")])
    second = write_tar(tmp_path / "0001.tar", [("cat/1.png", b"3")])
    source = open_tar(first, second)
    assert source.ids == ("0000.tar/cat/1.png", "0000.tar/dog/1.png", "0001.tar/cat/1.png")
    assert source.labels == ("cat", "dog", "cat")
    assert [read(source, i) for i in range(3)] == [b"1", b"2", b"3"]


def test_shards_of_one_file_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / part / "0.tar" for part in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        write_tar(path, [("x.png", path.parent.name.encode())])
    source = open_tar(*paths)
    assert source.ids == ("a/0.tar/x.png", "b/0.tar/x.png")
    assert [read(source, i) for i in range(2)] == [b"a", b"b"]


def test_a_split_is_a_word_of_the_shards_names_or_a_folder(tmp_path: Path) -> None:
    train = write_tar(tmp_path / "data_train-00.tar", [("cat/1.png", b"1")])
    test = write_tar(tmp_path / "data_test-00.tar", [("cat/2.png", b"2")])
    assert open_tar(train, test, split="train").ids == ("cat/1.png",)
    both = write_tar(
        tmp_path / "all.tar", [("train/cat/1.png", b"1"), ("test/cat/2.png", b"2"), ("test/cat/1.png", b"3")]
    )
    source = open_tar(both, split="test")
    assert (source.ids, source.labels, read(source, 1)) == (("cat/1.png", "cat/2.png"), ("cat", "cat"), b"2")
    with pytest.raises(UsageError, match="unknown folder in 'these' 'tran': did you mean 'train'"):
        open_tar(both, split="tran")


# Formats of tar


def test_headers_are_read_as_the_standard_library_reads_them(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    types = [tarfile.REGTYPE] * 6 + [
        tarfile.AREGTYPE,
        tarfile.CONTTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
    ]
    types += [tarfile.CHRTYPE, tarfile.FIFOTYPE, b"V"]
    for kind, code in FORMATS.items():
        path = tmp_path / f"{kind}.tar"
        with tarfile.open(path, "w", format=code, pax_headers={"comment": "x"} if kind == "pax" else None) as tar:
            for i in range(200):
                parts = [
                    "p" * int(draw.integers(1, 60)) for _ in range(int(draw.integers(1, 4 if kind == "ustar" else 12)))
                ]
                info = tarfile.TarInfo("/".join([*parts[:-1], f"{i:03d}" + "\u00e4" * int(draw.integers(0, 20))]))
                info.type = types[int(draw.integers(len(types)))]
                info.mtime = float(draw.random()) * 1e9
                info.linkname = "l" * int(draw.integers(0, 100 if kind == "ustar" else 300))
                data = draw.bytes(int(draw.integers(0, 2000))) if info.isreg() or info.type == b"V" else b""
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        with tarfile.open(path) as tar:
            expected = [(m.name, m.isreg(), m.offset_data, m.size) for m in tar]
        with path.open("rb") as file:
            found = [(m.name.rstrip("/"), m.kind == "file", m.data, m.stored) for m in walk(file, "x")]
        assert len(found) == 200
        assert found == expected


def test_sizes_in_base_256_and_signed_checksums(tmp_path: Path) -> None:
    info = tarfile.TarInfo("caf\u00e9.jpg")
    info.size = 3
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8"))
    block[124:136] = b"\x80" + (3).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    path = tmp_path / "a.tar"
    path.write_bytes(block + b"abc".ljust(512, b"\0") + bytes(1024))
    source = open_tar(path)
    assert source.ids == ("caf\u00e9.jpg",)
    assert read(source, 0) == b"abc"


def sparse_gnu(name: str, blocks: list[tuple[int, bytes]], size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = sum(len(data) for _, data in blocks)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    structs = [b"%011o\0%011o\0" % (offset, len(data)) for offset, data in blocks]
    header[386:482] = b"".join(structs[:4]).ljust(96, b"\0")
    rest = structs[4:]
    header[482] = bool(rest)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = b""
    for start in range(0, len(rest), 21):
        part = b"".join(rest[start : start + 21]).ljust(504, b"\0")
        more += part + bytes([start + 21 < len(rest)]) + bytes(7)
    data = b"".join(data for _, data in blocks)
    return bytes(header) + more + data + bytes(-len(data) % 512)


def sparse_pax(name: str, blocks: list[tuple[int, bytes]], size: int) -> bytes:
    table = "".join(f"{number}\n" for offset, data in blocks for number in (offset, len(data)))
    content = f"{len(blocks)}\n{table}".encode()
    content += bytes(-len(content) % 512) + b"".join(data for _, data in blocks)
    info = tarfile.TarInfo(f"GNUSparseFile.0/{name}")
    info.size = len(content)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    info.pax_headers |= {"GNU.sparse.name": name, "GNU.sparse.realsize": str(size)}
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize("count", [2, 4, 5, 60])
@pytest.mark.parametrize("form", [sparse_gnu, sparse_pax])
def test_sparse_members_are_whole(tmp_path: Path, form: Callable[..., bytes], count: int) -> None:
    blocks = [(i * 2000, bytes([65 + i % 26]) * 700) for i in range(count)]
    size = count * 2000 + 300
    whole = bytearray(size)
    for offset, data in blocks:
        whole[offset : offset + len(data)] = data
    plain = tarfile.TarInfo("after.jpg")
    path = tmp_path / "a.tar"
    path.write_bytes(form("cat/0.jpg", blocks, size) + plain.tobuf() + bytes(1024))
    source = open_tar(path)
    assert source.ids == ("after.jpg", "cat/0.jpg")
    assert read(source, 1) == bytes(whole)
    assert read(source, 0) == b""
    path.write_bytes(form("cat/0.jpg", blocks, 1 << 32) + bytes(1024))
    assert "4,294,967,296 bytes, above the limit of 268,435,456" in why(open_tar(path), 0)
    path.write_bytes(form("cat/0.jpg", blocks, size)[:-600])
    assert "cut short" in why(open_tar(path), 0)


# Kinds of zip


def test_zip64_comments_and_bytes_in_front(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        with opened.open(zipfile.ZipInfo("a.jpg"), "w", force_zip64=True) as member:
            member.write(b"abc")
        opened.comment = b"a comment"
    path.write_bytes(b"#!/bin/sh\n" * 99 + path.read_bytes())
    assert read(open_zip(path), 0) == b"abc"


def test_names_in_utf8_without_its_flag_and_with_backslashes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, system in (("k\u00e4fer/1.jpg", 3), ("dog\\2.jpg", 0)):
            info = zipfile.ZipInfo(name)
            info.create_system = system
            opened.writestr(info, b"x")
    data = path.read_bytes()
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = data.index(mark) + place
        data = data[:at] + b"\0\0" + data[at + 2 :]
    path.write_bytes(data)
    source = open_zip(path)
    assert source.ids == ("dog/2.jpg", "k\u00e4fer/1.jpg")
    assert source.labels == ("dog", "k\u00e4fer")
    assert [read(source, i) for i in range(2)] == [b"x", b"x"]


def patch(path: Path, changes: Iterable[tuple[bytes, int, bytes]]) -> Path:
    """Overwrite what lies `offset` bytes behind the first occurrence of each mark."""
    data = bytearray(path.read_bytes())
    for mark, offset, new in changes:
        at = data.index(mark) + offset
        data[at : at + len(new)] = new
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([(b"PK\1\2", 8, b"\1")], "encrypted: unpack the archive with its password"),
        ([(b"PK\1\2", 10, b"\x0e")], "compressed by method 14, and only stored and deflated members are read"),
        ([(b"PK\1\2", 16, b"\0\0\0\0")], "damaged: wrong checksum"),
        ([(b"PK\1\2", 24, b"\1\0\0\0")], "damaged: more than the 1 bytes declared"),
        ([(b"PK\1\2", 24, b"\0\1\0\0")], "damaged: fewer than the 256 bytes declared"),
        ([(b"PK\1\2", 24, b"\0\0\0\xf0")], "4,026,531,840 bytes, above the limit of 268,435,456"),
        ([(b"PK\1\2", 20, b"\0\0\0\x0f")], "cut short: "),
        ([(b"PK\3\4", 0, b"PK\3\5")], "damaged: no member at byte 0"),
        ([(b"\x03\0", 0, b"\xff\xff")], "damaged: Error -3"),
    ],
)
def test_members_of_a_zip_that_cannot_be_read(
    tmp_path: Path, changes: list[tuple[bytes, int, bytes]], reason: str
) -> None:
    path = write_zip(tmp_path / "a.zip", [("a.jpg", b"")])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.jpg", b"a" * 40)
        opened.writestr("b.jpg", b"fine")
    if reason.startswith("damaged: Error"):
        changes = [(b"a.jpg", 5, b"\xff\xff")]
    source = open_zip(patch(path, changes))
    assert reason in why(source, 0)
    assert read(source, 1) == b"fine"
    assert reason in why(open_zip(path), 0)


# Damage


def test_a_shard_cut_in_its_last_member(
    tmp_path: Path, picture: Callable[..., Any], encoded: Callable[..., bytes]
) -> None:
    members = [(f"cat/{i}.png", encoded(picture(i))) for i in range(4)]
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    os.truncate(path, last.offset_data + 50)
    for _ in range(2):  # walked, and from its index
        corpus = load_corpus(path)
        assert corpus.ids == ("cat/0.png", "cat/1.png", "cat/2.png")
        assert [(item.id, item.reason) for item in corpus.rejected] == [
            ("cat/3.png", f"cut short: 50 of {last.size:,} bytes are there")
        ]


def test_a_cut_label_file_is_the_reason(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.json", b'{"label": "a"}' + b" " * 600)])
    os.truncate(path, path.stat().st_size // 512 * 512 - 10_240 + 2048 + 100)
    with tarfile.open(write_tar(tmp_path / "b.tar", [("1.jpg", b"x"), ("1.json", b"y" * 600)])) as tar:
        os.truncate(path, tar.getmembers()[1].offset_data + 100)
    assert why(open_tar(path), 0) == "label file '1.json': cut short: 100 of 614 bytes are there"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda data: data[:1024] + b"\xff" * 512 + data[1536:],
            "no header at byte 1,024: what lies behind it is lost",
        ),
        (lambda data: data[:1025] + b"!" + data[1026:], "wrong checksum of the header at byte 1,024: what lies behind"),
        (lambda data: data[:1300], "the file ends inside a header at byte 1,024: what lies behind it is lost"),
    ],
)
def test_what_is_lost_is_listed(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    path = write_tar(tmp_path / "a.tar", [("train/x/1.jpg", b"1"), ("train/x/2.jpg", b"2"), ("train/x/3.jpg", b"3")])
    path.write_bytes(damage(path.read_bytes()))
    source = open_tar(path)
    assert source.ids == ("a.tar@1024", "train/x/1.jpg")
    assert source.labels == (None, "x")
    assert why(source, 0).startswith(reason)
    assert read(source, 1) == b"1"
    assert open_tar(path, split="train").ids == ("a.tar@1024", "x/1.jpg")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tar", b"", "is empty: 0 bytes; make or download it again"),
        ("a.tar", b"x" * 2000, "is no tar archive: no header at byte 0"),
        ("a.tar", b"x" * 100, "is no tar archive: the file ends inside a header at byte 0"),
        ("a.tar", bytes(10_240), "no image in archive .*: it is empty; images end in .jpg"),
        ("a.tar", b"\x1f\x8b" + bytes(600), r"compressed as a whole \(gzip\), so no item .*: decompress it once"),
        ("a.tar", b"\x28\xb5\x2f\xfd" + bytes(600), r"compressed as a whole \(zstd\)"),
        ("a.zip", b"", "is not a readable zip file: File is not a zip file; make or download it again"),
        ("a.zip", b"x" * 2000, "is not a readable zip file"),
        ("a.zip", b"PK\5\6" + bytes(18), "no image in archive .*: it is empty"),
        ("a.zip", b"PK\5\6" + bytes(8) + b"\xff\0\0\0" * 2 + bytes(2), "is not a readable zip file: Bad offset"),
    ],
)
def test_files_that_are_no_archives(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)


def test_a_zip_cut_or_flipped_anywhere_is_data_that_cannot_be_used(tmp_path: Path) -> None:
    whole = write_zip(
        tmp_path / "whole.zip", [("cat/1.jpg", b"x" * 50), ("cat/1.json", b'{"label": "a"}')]
    ).read_bytes()
    draw = np.random.default_rng(5)
    path = tmp_path / "a.zip"
    for round_ in range(200):
        data = bytearray(whole)
        if round_ % 2:
            del data[int(draw.integers(len(data))) :]
        else:
            data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
        path.write_bytes(data)
        try:
            source = open_zip(path)
        except (DataError, RefusedError):
            continue
        for i in range(len(source)):
            with suppress(Unreadable):
                assert read(source, i) == b"x" * 50


def test_a_tar_cut_or_flipped_anywhere_is_data_that_cannot_be_used(tmp_path: Path) -> None:
    long = "n" * 200
    members = [(f"cat/{long}.jpg", b"x" * 50), (f"cat/{long}.json", b'{"label": "a"}'), ("dog/1.jpg", b"x" * 50)]
    draw = np.random.default_rng(6)
    path = tmp_path / "a.tar"
    for kind in ("gnu", "pax"):
        whole = write_tar(tmp_path / "whole.tar", members, kind=kind).read_bytes()
        for round_ in range(200):
            data = bytearray(whole[:8192])
            if round_ % 4 == 0:
                del data[int(draw.integers(len(data))) :]
            else:
                data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
            path.write_bytes(data)
            try:
                source = open_tar(path)
            except (DataError, RefusedError):
                continue
            for i in range(len(source)):
                with suppress(Unreadable):
                    assert len(read(source, i)) == 50


def test_no_image_says_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("inner.tar"))
    with pytest.raises(
        DataError, match=r"no image in archive 'these': found only 2 link, 1 folder, 1 \.tar; images end"
    ):
        open_tar(path)
    with pytest.raises(DataError, match=r"gone\.tar' cannot be read: No such file or directory"):
        open_tar(tmp_path / "gone.tar")


@either
def test_an_archive_written_anew_is_noticed(tmp_path: Path, kind: str) -> None:
    source = make(tmp_path, kind, [("1.jpg", b"old"), ("2.jpg", b"other")])
    make(tmp_path, kind, [("2.jpg", b"new"), ("1.jpg", b"other bytes")])
    assert why(source, 0) == f"'a.{kind}' has changed since it was opened; start again"
    (tmp_path / f"a.{kind}").unlink()
    assert why(source, 0) == f"'a.{kind}': No such file or directory"


# Threads


@either
def test_threads_read_at_once(tmp_path: Path, kind: str) -> None:
    draw = np.random.default_rng(7)
    members = [(f"{i:03d}.jpg", draw.bytes(int(draw.integers(1, 40_000)))) for i in range(200)]
    source = make(tmp_path, kind, members)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).permutation(len(members)).tolist():
            if source[i].read() != members[i][1]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# The index


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards that are walked."""
    found: list[Path] = []
    walk_one = shards._list

    def spy(path: Path) -> Any:
        found.append(path)
        return walk_one(path)

    monkeypatch.setattr(shards, "_list", spy)
    return found


MEMBERS = [("a/1.jpg", b"1"), ("a/1.json", b'{"label": "L", "group": "g"}'), ("a/2.jpg", b"2"), ("r.txt", b"")]


def everything(source: MemberSource) -> tuple[Any, ...]:
    contents = [source[i].read() for i in range(len(source))]
    return source.ids, source.labels, source.groups, source.skipped, source.stamp, contents


def test_a_shard_is_walked_once(tmp_path: Path, own_cache: Path, walks: list[Path]) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    first = everything(open_tar(path))
    assert first[:4] == (("a/1.jpg", "a/2.jpg"), ("L", None), ("g", None), {".txt": 1})
    assert everything(open_tar(path)) == first
    assert len(walks) == 1
    index = list((own_cache / "indexes").iterdir())
    assert [file.suffix for file in index] == [".npz"]
    write_tar(path, [*MEMBERS, ("a/3.jpg", b"3")])
    assert len(open_tar(path)) == 3
    assert len(walks) == 2
    assert list((own_cache / "indexes").iterdir()) == index


def test_an_archive_of_the_same_size_and_time_is_walked_again(tmp_path: Path, walks: list[Path]) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"1")])
    os.utime(path, ns=(0, 0))
    open_tar(path)
    write_tar(path, [("2.jpg", b"1")])
    os.utime(path, ns=(0, 0))
    assert open_tar(path).ids == ("2.jpg",)
    assert len(walks) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-40], lambda data: data[:200] + b"?" + data[201:]]
)
def test_a_damaged_index_is_made_anew(
    tmp_path: Path, own_cache: Path, walks: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    first = everything(open_tar(path))
    (index,) = (own_cache / "indexes").iterdir()
    whole = index.read_bytes()
    index.write_bytes(damage(whole))
    assert everything(open_tar(path)) == first
    assert len(walks) == 2
    assert everything(open_tar(path)) == first
    assert len(walks) == 2


def test_without_a_place_for_the_index_everything_works(tmp_path: Path, own_cache: Path, walks: list[Path]) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("not a folder", encoding="ascii")
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    assert everything(open_tar(path)) == everything(open_tar(path))
    assert len(walks) == 2
    assert own_cache.read_text(encoding="ascii") == "not a folder"
