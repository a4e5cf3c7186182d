"""Processes that examine images, and what becomes of an item that ends one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.data.checking.examine import Finding
from twoviews.data.checking.inspectors import inspect
from twoviews.data.checking.process import Request
from twoviews.errors import ResourceError
from twoviews.narrate import Narrator, Ticker

Folder = Callable[..., Path]

WORKER = """
import os, signal, sys, time
from pathlib import Path
from twoviews.data.checking import examine, inspector

plain = examine.examine
home = Path(sys.argv[1])
(home / "pids").mkdir(exist_ok=True)
(home / "pids" / str(os.getpid())).touch()

def broken(raw, storage, *, picture=0, wait=False):
    name = raw.name if isinstance(raw, Path) else bytes(raw[:8]).decode("latin-1")
    if name.startswith("segv"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("exit"):
        os._exit(3)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("noise"):
        print("a decoder speaks", flush=True)
        os.write(1, b"and in C\\n")
    if name.startswith("once") and not (home / "met").exists():
        (home / "met").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("fault"):
        raise KeyError("a bug")
    return plain(raw, storage, picture=picture, wait=wait)

examine.examine = broken
inspector.serve()
"""


@pytest.fixture
def worker_home(tmp_path: Path) -> Path:
    home = tmp_path / "worker"
    home.mkdir()
    (home / "worker.py").write_text(WORKER)
    return home


def request(home: Path, *, timeout: float = 60.0, picture: int = 0) -> Request:
    command = (sys.executable, "-P", str(home / "worker.py"), str(home))
    return Request(picture=picture, command=command, timeout=timeout)


def examined(
    raws: list[Any], asked: Request | None = None, *, narrator: Narrator | None = None
) -> dict[int, Finding | str]:
    found: dict[int, Finding | str] = {}
    inspect(
        range(len(raws)),
        lambda index: raws[index],
        found.__setitem__,
        request=asked or Request(),
        narrator=narrator or Narrator(),
        what="checking",
    )
    return found


def reasons(found: dict[int, Finding | str]) -> dict[int, str]:
    return {index: value for index, value in sorted(found.items()) if isinstance(value, str)}


def workers_left(home: Path) -> list[int]:
    left = []
    for entry in (home / "pids").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(entry.name), 0)
            left.append(int(entry.name))
    return left


def test_a_decoder_that_crashes_costs_its_image_only(image_folder: Folder, worker_home: Path) -> None:
    root = image_folder({"": 40})
    for place, name in ((5, "segv.png"), (17, "exit.png"), (18, "once.png"), (30, "fault.png"), (31, "noise.png")):
        (root / f"{place}.png").rename(root / name)
    paths = sorted(root.iterdir())
    found = examined(paths, request(worker_home))
    assert set(found) == set(range(40))
    assert {paths[index].name: reason for index, reason in reasons(found).items()} == {
        "segv.png": "the decoder crashed (signal 11)",
        "exit.png": "the decoder ended its process (status 3)",
        "fault.png": "KeyError: 'a bug'",
    }
    assert workers_left(worker_home) == []


def test_a_decoder_that_hangs_is_stopped(image_folder: Folder, worker_home: Path) -> None:
    root = image_folder({"": 6})
    (root / "2.png").rename(root / "hang.png")
    paths = sorted(root.iterdir())
    found = examined(paths, request(worker_home, timeout=4.0))
    assert reasons(found) == {5: "took more than 4 s"}
    assert workers_left(worker_home) == []


def test_bytes_that_crash_a_decoder(encoded: Any, picture: Any, worker_home: Path) -> None:
    good = [encoded(picture(seed)) for seed in range(12)]
    found = examined([*good[:6], b"segv....", *good[6:]], request(worker_home))
    assert reasons(found) == {6: "the decoder crashed (signal 11)"}


def test_every_kind_of_item(image_folder: Folder, encoded: Any, picture: Any) -> None:
    path = image_folder({"": 1}) / "0.png"
    pixels = np.asarray(Image.open(path))
    raws = [
        path,
        path.read_bytes(),
        pixels,
        np.asfortranarray(pixels),
        Image.open(path),
        pixels.astype(np.uint16) * 16,
        pixels[..., 0],
        np.full((9, 7, 5), 0.25, np.float32),
    ]
    found = examined(raws)
    assert reasons(found) == {}
    one = [value for value in found.values() if isinstance(value, Finding)]
    by_index = {index: value for index, value in found.items() if isinstance(value, Finding)}
    assert len({by_index[i].pixel_digest for i in range(5)}) == 1
    assert len({value.pixel_digest for value in one}) == 4
    assert by_index[0].file_digest == by_index[1].file_digest != b""
    assert by_index[0].size_bytes == path.stat().st_size
    assert {by_index[i].file_digest for i in range(2, 8)} == {b""}
    assert len({by_index[i].print_hash for i in range(5)}) == 1
    deep = by_index[5].deep
    assert deep is not None
    assert (deep.low, deep.high) == (pixels.min() * 16.0, pixels.max() * 16.0)
    assert deep.pixels.shape == (120, 3)
    assert by_index[7].header.channels == 5
    assert by_index[0].deep is None


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_large_items_and_large_answers_do_not_wait_for_each_other(kind: str) -> None:
    """Both fill a pipe: neither side may stop reading while it writes."""
    images = np.random.default_rng(0).integers(0, 60000, (60, 64, 64, 3)).astype(kind)
    found: dict[int, Finding | str] = {}
    request = Request(timeout=20.0)
    inspect(range(60), images.__getitem__, found.__setitem__, request=request, narrator=Narrator(), what="x")
    assert len(found) == 60
    assert [one for one in found.values() if isinstance(one, str)] == []


def test_what_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    raws = [
        tmp_path / "gone.png",
        tmp_path / "pipe.png",
        b"",
        b"no image",
        "text",
        None,
        np.array(["a"], dtype=object),
        np.zeros((0, 4), np.uint8),
    ]
    found = reasons(examined(raws))
    assert found[0] == "No such file or directory"
    assert found[1] == "not a regular file"
    assert found[2] == "empty: 0 bytes"
    assert found[3] == "no image that can be read: unknown format or broken header"
    assert found[4] == "str is no image: give a path, bytes, an array or a Pillow image"
    assert found[5].startswith("NoneType is no image")
    assert found[6] == "array of object: images hold whole numbers or floats"
    assert "nothing to see" in found[7]


def test_a_source_that_cannot_be_read(image_folder: Folder) -> None:
    path = image_folder({"": 1}) / "0.png"
    found: dict[int, Finding | str] = {}

    def read(index: int) -> Path:
        if index % 3 == 1:
            raise RuntimeError("the archive is broken here")
        return path

    inspect(range(9), read, found.__setitem__, request=Request(), narrator=Narrator(), what="x")
    assert reasons(found) == dict.fromkeys((1, 4, 7), "RuntimeError: the archive is broken here")
    assert len(found) == 9


def test_a_file_whose_name_is_no_text(image_folder: Folder) -> None:
    root = image_folder({"": 1})
    name = os.fsdecode(b"r\xff\n<b>.png")
    try:
        (root / "0.png").rename(root / name)
    except OSError:
        pytest.skip("this file system does not take such names")
    assert reasons(examined([root / name])) == {}


def test_pictures_to_be_shown(image_folder: Folder) -> None:
    small, large = image_folder({"": 1}, size=(20, 10)) / "0.png", image_folder({"": 1}, name="l", size=(500, 300))
    found = examined([small, large / "0.png", np.zeros((30, 30, 7), np.float32)], Request(picture=100))
    shown = [value.picture for _, value in sorted(found.items()) if isinstance(value, Finding)]
    assert [data[:4] for data in shown] == [b"\x89PNG", b"\xff\xd8\xff\xe0", b"\x89PNG"]
    sizes = []
    for index, data in enumerate(shown):
        path = small.parent / f"shown-{index}"
        path.write_bytes(data)
        with Image.open(path) as image:
            sizes.append(image.size)
    assert sizes == [(20, 10), (100, 60), (30, 30)]
    unasked = examined([small])[0]
    assert isinstance(unasked, Finding)
    assert unasked.picture == b""


def test_a_process_that_does_not_start() -> None:
    command = (sys.executable, "-c", "raise SystemExit(4)")
    with pytest.raises(ResourceError, match=r"the process that examines images did not start \(exit status 4\)"):
        examined([b"x"], Request(command=command))
    with pytest.raises(ResourceError, match="cannot start a process to examine images: No such file"):
        examined([b"x"], Request(command=("no-such-program",)))


class _Interrupting(Narrator):
    @contextmanager
    def track(self, total: int, what: str) -> Iterator[Ticker]:
        def tick(advance: int = 1, **values: Any) -> None:
            raise KeyboardInterrupt

        yield tick


def test_an_interruption_ends_the_processes(image_folder: Folder, worker_home: Path) -> None:
    root = image_folder({"": 30})
    (root / "29.png").rename(root / "hang.png")
    with pytest.raises(KeyboardInterrupt):
        examined(sorted(root.iterdir()), request(worker_home), narrator=_Interrupting())
    assert workers_left(worker_home) == []


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_inspectors import examined, request
home, root = Path(sys.argv[1]), Path(sys.argv[2])
print("go", flush=True)
examined(sorted(root.iterdir()) * 100000, request(home))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_parent(how: signal.Signals, image_folder: Folder, worker_home: Path) -> None:
    root = image_folder({"": 3})
    code = PARENT.format(tests=str(Path(__file__).parent))
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(worker_home), str(root)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "go\n"
    deadline = time.monotonic() + 60
    while not (worker_home / "pids").is_dir() or not list((worker_home / "pids").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(how)
    parent.wait()
    parent.stdout.close()
    while left := [pid for pid in workers_left(worker_home) if not _is_zombie(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _is_zombie(pid: int) -> bool:
    """Ended, where nobody waits for orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


MEMORY = """
import resource, sys
from pathlib import Path
from twoviews.data.checking.scan import scan
report = scan(sys.argv[1])
print([item.reason for item in report.rejected], report.images)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_images_and_bombs_fit_into_memory(image_folder: Folder) -> None:
    root = image_folder({"": 20})
    Image.new("L", (12000, 12000)).save(root / "144.png", compress_level=1)
    Image.new("1", (20000, 20000)).save(root / "400.png", compress_level=1)
    for name in ("a", "b"):
        Image.new("L", (9000, 9000), 7).save(root / f"large-{name}.png", compress_level=1)
    Image.fromarray(np.full((6000, 6000), 900, np.uint16)).save(root / "deep.png", compress_level=1)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(root)], capture_output=True, text=True, check=True)
    told, own, children = done.stdout.splitlines()
    assert told == (
        "['12000 x 12000 pixels, above the limit of 100 million', 'too many pixels, above the limit of 100 million'] 23"
    )
    # The children's is the largest of them; no two decode a large image at once.
    assert int(own) + int(children) + 200e6 < 1.5e9
