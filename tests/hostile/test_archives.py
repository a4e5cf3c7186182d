"""Archives made to do harm: nothing is written outside, and what is refused is refused in one sentence."""

import io
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.data.decoding.decode import Unreadable
from twoviews.data.source import Source, open_source
from twoviews.errors import DataError, RefusedError, TwoviewsError

MILLION = 1_000_000
KINDS = ("tar", "zip")
either = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    home = tmp_path / "cache-home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for the archive, a victim beside it; at the end there is nothing else."""
    (tmp_path / "victim.jpg").write_bytes(b"precious")
    folder = tmp_path / "place"
    folder.mkdir()
    yield folder
    assert {path.name for path in tmp_path.iterdir()} <= {"victim.jpg", "place", "cache-home"}
    assert [path.name for path in folder.rglob("*")] in (["a.tar"], ["a.zip"])
    assert (tmp_path / "victim.jpg").read_bytes() == b"precious"
    indexes = tmp_path / "cache-home" / "twoviews" / "indexes"
    kept = [path for path in (tmp_path / "cache-home").rglob("*") if path.is_file()]
    assert all(path.parent == indexes and path.suffix == ".npz" for path in kept)


def tar_of(place: Path, members: list[tuple[str, bytes, str, bytes]]) -> Path:
    """Members are (name, type, target of a link, bytes)."""
    path = place / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, target, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def zip_of(place: Path, members: list[tuple[str, int, bytes]]) -> Path:
    """Members are (name, mode, bytes)."""
    path = place / "a.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as opened:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, mode, data in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.create_system, info.external_attr = 3, mode << 16
            opened.writestr(info, data)
    return path


def archive(place: Path, kind: str, names: list[str]) -> Path:
    if kind == "tar":
        return tar_of(place, [(name, tarfile.REGTYPE, "", b"x") for name in names])
    return zip_of(place, [(name, stat.S_IFREG | 0o644, b"x") for name in names])


def refused(path: Path, kind: type[TwoviewsError]) -> str:
    """The one sentence in which opening it fails."""
    with pytest.raises(kind) as caught:
        open_source(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert ". " not in message
    return message


def why(source: Source, index: int) -> str:
    with pytest.raises(Unreadable) as caught:
        source[index].read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names


@either
@pytest.mark.parametrize(
    "name",
    [
        "../victim.jpg",
        "/victim.jpg",
        "cat/../../victim.jpg",
        "./../victim.jpg",
        "..",
        "../notes.txt",
        "..\\victim.jpg",
        "\\victim.jpg",
        "C:\\victim.jpg",
        "C:/victim.jpg",
        "//host/share/victim.jpg",
    ],
)
def test_names_that_lead_out(place: Path, kind: str, name: str) -> None:
    message = refused(archive(place, kind, ["cat/1.jpg", name]), RefusedError)
    assert "a name that leads out of it: nothing of it is read; pack it again with relative names" in message
    assert RefusedError.exit_code == 6


@pytest.mark.parametrize("kind", ["link", "folder", "device"])
def test_names_that_lead_out_of_what_is_not_read(place: Path, kind: str) -> None:
    code = {"link": tarfile.SYMTYPE, "folder": tarfile.DIRTYPE, "device": tarfile.CHRTYPE}[kind]
    refused(tar_of(place, [("1.jpg", tarfile.REGTYPE, "", b"x"), ("../out", code, "x", b"")]), RefusedError)


def test_a_nul_in_a_name(place: Path) -> None:
    path = zip_of(place, [("cat/1.jpg", 0, b"x"), ("ok.jpg?.exe", 0, b"x")])
    path.write_bytes(path.read_bytes().replace(b"ok.jpg?.exe", b"ok.jpg\0.exe"))
    assert r"'ok.jpg\x00.exe'" in refused(path, RefusedError)


def test_long_names_that_lead_out(place: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(place / "a.tar", "w", format=form) as tar:
            tar.addfile(tarfile.TarInfo("../" + "n" * 300 + ".jpg"))
        assert len(refused(place / "a.tar", RefusedError)) < 400


# Links and devices


def test_links_and_devices_of_a_tar(place: Path) -> None:
    path = tar_of(
        place,
        [
            ("out", tarfile.SYMTYPE, "..", b""),
            ("out/victim.jpg", tarfile.REGTYPE, "", b"overwritten"),
            ("soft.jpg", tarfile.SYMTYPE, "../victim.jpg", b""),
            ("hard.jpg", tarfile.LNKTYPE, "../victim.jpg", b""),
            ("null.jpg", tarfile.CHRTYPE, "", b""),
            ("disk.jpg", tarfile.BLKTYPE, "", b""),
            ("pipe.jpg", tarfile.FIFOTYPE, "", b""),
            ("folder.jpg", tarfile.DIRTYPE, "", b""),
        ],
    )
    source: Any = open_source(path)
    assert source.ids == ("out/victim.jpg",)
    assert source[0].read() == b"overwritten"
    assert source.skipped == {"link": 3, "device": 3, "folder": 1}


def test_links_and_devices_of_a_zip(place: Path) -> None:
    path = zip_of(
        place,
        [
            ("out", stat.S_IFLNK | 0o777, b".."),
            ("out/victim.jpg", stat.S_IFREG | 0o644, b"overwritten"),
            ("soft.jpg", stat.S_IFLNK | 0o777, b"../victim.jpg"),
            ("null.jpg", stat.S_IFCHR | 0o644, b""),
            ("pipe.jpg", stat.S_IFIFO | 0o644, b""),
            ("folder.jpg/", stat.S_IFDIR | 0o755, b""),
        ],
    )
    source: Any = open_source(path)
    assert source.ids == ("out/victim.jpg",)
    assert source[0].read() == b"overwritten"
    assert source.skipped == {"link": 2, "device": 2, "folder": 1}


# Duplicates and archives inside


@either
def test_duplicate_names(place: Path, kind: str) -> None:
    message = refused(archive(place, kind, ["cat/1.jpg", "cat/2.jpg", "cat/1.jpg"]), DataError)
    assert "holds 'cat/1.jpg' twice, and which of the two is meant cannot be known" in message


@either
def test_archives_inside_are_not_opened(place: Path, kind: str) -> None:
    inner = archive(place, kind, ["../victim.jpg"])
    data = inner.read_bytes()
    inner.unlink()
    names = ["inner.tar", "inner.zip", "inner.tar.gz"]
    if kind == "tar":
        path = tar_of(place, [(name, tarfile.REGTYPE, "", data) for name in [*names, "1.jpg"]])
    else:
        path = zip_of(place, [(name, 0, data) for name in [*names, "1.jpg"]])
    source: Any = open_source(path)
    assert source.ids == ("1.jpg",)
    assert source.skipped == {".tar": 1, ".zip": 1, ".gz": 1}


# Memory


def opened_apart(path: Path) -> dict[str, Any]:
    """Open and read an archive in a process of its own: error, items, reasons; its memory stays below 200 MB."""
    code = """
import json, resource, sys
from pathlib import Path
from twoviews.data.source import open_source
from twoviews.errors import TwoviewsError
out = {"error": None, "code": 0, "items": 0, "reasons": []}
try:
    source = open_source(Path(sys.argv[1]))
    out["items"] = len(source)
    for index in range(min(10, len(source))):
        try:
            source[index].read()
        except Exception as error:
            out["reasons"].append(f"{type(error).__name__}: {error}")
except TwoviewsError as error:
    out |= {"error": str(error), "code": error.exit_code}
if sys.platform == "linux":  # where getrusage counts the process that started this one
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    out["bytes"] = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
else:
    out["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(out))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["bytes"] < 200_000_000
    return found


def digits(numbers: np.ndarray[Any, Any], base: int, count: int) -> np.ndarray[Any, Any]:
    return 48 + numbers[:, None] // base ** np.arange(count - 1, -1, -1) % base


def write_headers(path: Path, kind: bytes, *, count: int, each: int = 50_000) -> None:
    """A tar of so many members without bytes, each of another name."""
    info = tarfile.TarInfo("d/0000000.jpg")
    info.type = kind
    header = np.frombuffer(info.tobuf(tarfile.USTAR_FORMAT), np.uint8)
    with path.open("wb") as file:
        for start in range(0, count, each):
            block = np.tile(header, (each, 1))
            block[:, 2:9] = digits(np.arange(start, start + each), 10, 7)
            block[:, 148:156] = 32
            block[:, 148:154] = digits(block.sum(axis=1, dtype=np.int64), 8, 6)
            file.write(block.tobytes())
        file.write(bytes(1024))


def million_entries(path: Path, *, claimed: int, each: int = 50_000) -> None:
    """A zip whose directory has a million entries, in the 64-bit form, and says that they are `claimed`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr(zipfile.ZipInfo("d/0000000.jpg"), b"")
    whole = stream.getvalue()
    start, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    entry = np.frombuffer(whole[start:end], np.uint8)
    size = MILLION * len(entry)
    with path.open("wb") as file:
        file.write(whole[:start])
        for first in range(0, MILLION, each):
            block = np.tile(entry, (each, 1))
            block[:, 48:55] = digits(np.arange(first, first + each), 10, 7)
            file.write(block.tobytes())
        file.write(struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, claimed, claimed, size, start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def test_a_million_empty_members_of_a_tar(place: Path) -> None:
    path = place / "a.tar"
    write_headers(path, tarfile.REGTYPE, count=MILLION)
    found = opened_apart(path)
    os.truncate(path, 0)  # half a gigabyte
    assert found["code"] == 6
    assert "has more than 100,000 members of 0 bytes" in found["error"]


def test_nothing_but_folders_of_a_tar(place: Path) -> None:
    path = place / "a.tar"
    write_headers(path, tarfile.DIRTYPE, count=200_000)
    found = opened_apart(path)
    os.truncate(path, 0)
    assert found["code"] == 3
    assert "found only 200000 folder" in found["error"]


@pytest.mark.parametrize("claimed", [MILLION, 10])
def test_a_million_members_of_a_zip_also_where_it_lies_about_them(place: Path, claimed: int) -> None:
    path = place / "a.zip"
    million_entries(path, claimed=claimed)
    found = opened_apart(path)
    assert found["code"] == 6
    assert "has more than 250,000 members, more than is held in memory" in found["error"]


def test_a_directory_of_a_zip_of_gigabytes(place: Path) -> None:
    path = place / "a.zip"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # a hole
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10, 10, 3 << 30, 0, 0))
    found = opened_apart(path)
    assert found["code"] == 6
    assert "has a directory of 3,221,225,472 bytes, more than is held in memory" in found["error"]


def bomb(path: Path, *, expanded: int, declared: int) -> None:
    """A member of zeros that expands to `expanded` bytes and declares `declared`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(1 << 24)
    packed = b"".join(packer.compress(piece) for _ in range(expanded >> 24)) + packer.flush()
    fields = (20, 0, 8, 0, 0, 0, len(packed), declared, 5, 0)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + b"1.jpg" + packed
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *fields, 0, 0, 0, 0, 0) + b"1.jpg"
    path.write_bytes(local + entry + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0))


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (320 << 20, "335,544,320 bytes, above the limit of 268,435,456 for such a member; unpack it"),
        (1000, "damaged: more than the 1,000 bytes declared"),
        (0, "damaged: more than the 0 bytes declared"),
    ],
)
def test_a_zip_bomb(place: Path, declared: int, reason: str) -> None:
    path = place / "a.zip"
    bomb(path, expanded=320 << 20, declared=declared)
    assert path.stat().st_size < 400_000
    found = opened_apart(path)
    assert found["reasons"] == [f"Unreadable: {reason}"]


def test_a_label_file_that_is_a_bomb(place: Path) -> None:
    path = place / "a.zip"
    bomb(path, expanded=320 << 20, declared=1000)
    data = path.read_bytes().replace(b"1.jpg", b"1.cls")
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("1.jpg", b"x")
    assert opened_apart(path)["reasons"] == [
        "Unreadable: label file '1.cls': damaged: more than the 1,000 bytes declared"
    ]


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("there", [True, False])
def test_a_header_of_a_gigabyte(place: Path, kind: bytes, there: bool) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 1 << 30
    path = place / "a.tar"
    path.write_bytes(tarfile.TarInfo("1.jpg").tobuf() + info.tobuf())
    if there:
        os.truncate(path, 1 << 30)  # a hole
    found = opened_apart(path)
    assert found["code"] == 6
    assert "has a header of 1,073,741,824 bytes at byte 512, and none above 1,048,576 is read" in found["error"]


@pytest.mark.parametrize(
    "payload", [b"1" * (1 << 20), b"99999999999999999999 path=x\n", b"0 path=x\n", b"8 size=-1\n", b"\xff" * 1024]
)
def test_pax_headers_that_make_no_sense(place: Path, payload: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(payload)
    path = place / "a.tar"
    data = tarfile.TarInfo("1.jpg").tobuf() + info.tobuf() + payload + bytes(-len(payload) % 512)
    path.write_bytes(data + tarfile.TarInfo("2.jpg").tobuf() + bytes(1024))
    source: Any = open_source(path)
    assert source.ids == ("1.jpg", "a.tar@512")
    assert "in the header at byte 512" in why(source, 1) or "a pax header at byte 512" in why(source, 1)


def test_ten_thousand_headers_before_one_member(place: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 6
    chain = (info.tobuf() + b"1.jpg\0".ljust(512, b"\0")) * 10_000
    path = place / "a.tar"
    path.write_bytes(chain + tarfile.TarInfo("x").tobuf() + bytes(1024))
    source: Any = open_source(path)
    assert source.ids == ("1.jpg",)


@pytest.mark.parametrize("size", [(1 << 62) - 1, 1 << 62, 1 << 86])
def test_sizes_beyond_everything(place: Path, size: int) -> None:
    info = tarfile.TarInfo("2.jpg")
    info.size = size
    path = place / "a.tar"
    path.write_bytes(tarfile.TarInfo("1.jpg").tobuf() + info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    source: Any = open_source(path)
    assert len(source) == 2
    assert "above the limit" in why(source, 1) or "no header at byte 512" in why(source, 1)
