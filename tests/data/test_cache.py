"""Decoded images on disk: continued after a kill, made once by two processes, found by their content."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.data import assemble, building, cache
from twoviews.data.corpus import load_corpus
from twoviews.errors import UsageError

Folder = Callable[..., Path]

SLOW = """
import sys, time
from pathlib import Path
from twoviews.cli.output import PlainNarrator
from twoviews.data import assemble, building
from twoviews.data.corpus import load_corpus
building.SAFE_EVERY = 0.0
put = assemble.Assembly._put
def slowly(self, *rest):
    time.sleep(float(sys.argv[3]))
    put(self, *rest)
    print("decoded", flush=True)
assemble.Assembly._put = slowly
corpus = load_corpus(sys.argv[1], memory_limit=0, cache_dir=Path(sys.argv[2]), narrator=PlainNarrator())
print("fingerprint", corpus.fingerprint, flush=True)
"""


def start(root: Path, home: Path, *, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(root), str(home), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_build_is_continued_and_not_begun_again(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 40}), tmp_path / "cache"
    expected = load_corpus(root).fingerprint
    process = start(root, home, pause=0.02)
    assert process.stdout is not None
    for _ in range(12):
        assert process.stdout.readline() == "decoded\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (part,) = home.iterdir()
    assert part.name.startswith(cache.MAKING)
    ready = int(np.load(part / "state.npy").sum())
    assert 8 <= ready < 40  # those in flight do not count
    out, _ = start(root, home, pause=0).communicate(timeout=60)
    assert out.count("decoded\n") == 40 - ready
    assert out.splitlines()[-1] == f"fingerprint {expected}"
    assert [path.name.startswith(cache.MAKING) for path in home.iterdir()] == [False]


def test_two_processes_make_it_once(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 30}), tmp_path / "cache"
    first = start(root, home, pause=0.03)
    assert first.stdout is not None
    assert first.stdout.readline() == "decoded\n"
    second = start(root, home, pause=0.03)
    out, err = second.communicate(timeout=60)
    rest, _ = first.communicate(timeout=60)
    assert "another process decodes the same images: waiting for it" in err
    assert "decoded" not in out
    assert out.splitlines()[-1] == rest.splitlines()[-1]
    assert len(list(home.iterdir())) == 1


def test_who_waits_for_one_that_dies_continues_its_work(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 30}), tmp_path / "cache"
    first = start(root, home, pause=0.05)
    assert first.stdout is not None
    assert first.stdout.readline() == "decoded\n"
    second = start(root, home, pause=0.0)
    assert second.stderr is not None
    while "waiting for it" not in second.stderr.readline():
        pass
    first.kill()
    first.communicate()
    out, _ = second.communicate(timeout=60)
    assert 0 < out.count("decoded\n") < 30
    assert out.splitlines()[-1] == f"fingerprint {load_corpus(root).fingerprint}"


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise AssertionError("decoded again")

        monkeypatch.setattr(assemble.Assembly, "look", fail)

    return forbid


def test_a_copy_and_touched_files_are_found_by_their_content(
    image_folder: Folder, tmp_path: Path, no_decoding: Callable[[], None]
) -> None:
    root, home = image_folder({"a": 3}), tmp_path / "cache"
    (root / "a" / "broken.png").write_bytes(b"no picture")
    first = load_corpus(root, memory_limit=0, cache_dir=home)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for path in copy.rglob("*.png"):
        os.utime(path, ns=(time.time_ns(), time.time_ns() - 10**12))
    no_decoding()
    found = load_corpus(copy, memory_limit=0, cache_dir=home)
    assert found.fingerprint == first.fingerprint
    assert found.rejected == first.rejected
    assert len(list(home.glob("*/values.npy"))) == 1
    # Told apart by a note now: nothing is read again.
    assert load_corpus(copy, memory_limit=0, cache_dir=home).fingerprint == first.fingerprint
    Image.new("RGB", (12, 10)).save(copy / "a" / "broken.png")  # repaired
    with pytest.raises(AssertionError, match="decoded again"):
        load_corpus(copy, memory_limit=0, cache_dir=home)


def test_a_form_that_changes_while_decoding_begins_again(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 4}), tmp_path / "cache"
    large = root / "a" / "large.jpg"
    Image.effect_noise((300, 200), 90).save(large)
    large.write_bytes(large.read_bytes()[:-2000])  # its header is whole
    corpus = load_corpus(root, memory_limit=0, cache_dir=home)
    assert corpus.values.shape == (4, 10, 12, 3)
    assert [item.id for item in corpus.rejected] == ["a/large.jpg"]
    assert corpus.fingerprint == load_corpus(root).fingerprint


def test_rows_that_move_are_never_continued(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home = image_folder({"a": 6}), tmp_path / "cache"
    data = (root / "a" / "1.png").read_bytes()
    (root / "a" / "1.png").write_bytes(data[:-30])
    expected = load_corpus(root).fingerprint

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building.Building, "seal", die)  # after the rows have moved
        with pytest.raises(KeyboardInterrupt):
            load_corpus(root, memory_limit=0, cache_dir=home)
    assert load_corpus(root, memory_limit=0, cache_dir=home).fingerprint == expected


def test_without_room_on_disk_the_images_stay_in_memory(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twoviews.data import corpus

    monkeypatch.setattr(corpus, "KEPT_IN_MEMORY", 0)
    home = tmp_path / "file"
    home.write_text("in the way")
    found = load_corpus(image_folder({"a": 3}), cache_dir=home / "cache")
    assert not isinstance(found.values, np.memmap)
    assert isinstance(load_corpus(image_folder({"a": 3}), cache_dir=tmp_path / "cache").values, np.memmap)


def test_entries_are_listed_and_removed_only_on_request(image_folder: Folder, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    assert cache.entries(home) == []
    with pytest.raises(UsageError, match="is empty"):
        cache.remove(home, ["x"])
    root = image_folder({"a": 3})
    load_corpus(root, memory_limit=0, cache_dir=home)
    load_corpus(root, memory_limit=0, cache_dir=home, channels=1)
    listed = cache.entries(home)
    assert {entry.what for entry in listed} == {f"3 x 10 x 12 x {c} of {root}" for c in (3, 1)}
    assert all(entry.bytes > 0 and time.time() - entry.used < 600 for entry in listed)
    with pytest.raises(UsageError, match="unknown cache entry"):
        cache.remove(home, ["nothing"])
    assert cache.remove(home, [listed[0].name]) == listed[:1]
    assert cache.entries(home) == listed[1:]
    cache.remove(home, ["all"])
    assert list(home.iterdir()) == []
