"""Decoded images on disk: continued after a kill, made once by two processes, found by their content."""

import errno
import fcntl
import os
import shutil
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

from twoviews.cli import main
from twoviews.data import assemble, building, cache, keys, locks
from twoviews.data.corpus import load_corpus
from twoviews.data.source import Item, Raw, open_source
from twoviews.errors import ResourceError, UsageError
from twoviews.narrate import Narrator, Ticker, quiet

Folder = Callable[..., Path]
Picture = Callable[..., Image.Image]

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
    assert whole(home) == 1


def whole(home: Path) -> int:
    """How many entries lie in a cache in which nothing is unfinished."""
    assert not list(home.glob(f"{cache.MAKING}*"))
    for folder in home.iterdir():
        assert {path.name for path in folder.iterdir()} in ({"values.npy", "index.json"}, {"same.json"})
    return len(list(home.glob("*/values.npy")))


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
    assert whole(home) == 1


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
    from twoviews.data import obtain as module

    monkeypatch.setattr(module, "KEPT_IN_MEMORY", 0)
    home = tmp_path / "file"
    home.write_text("in the way")
    found = load_corpus(image_folder({"a": 3}), cache_dir=home / "cache")
    assert not isinstance(found.values, np.memmap)
    assert isinstance(load_corpus(image_folder({"a": 3}), cache_dir=tmp_path / "cache").values, np.memmap)


def test_entries_are_listed_and_removed_only_on_request(image_folder: Folder, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    assert cache.entries(home) == []
    with pytest.raises(UsageError, match="is empty"):
        cache.remove(home, ["x"], narrator=quiet())
    root = image_folder({"a": 3})
    load_corpus(root, memory_limit=0, cache_dir=home)
    load_corpus(root, memory_limit=0, cache_dir=home, channels=1)
    listed = cache.entries(home)
    kinds = {f"3 x 10 x 12 x {c} of {root}" for c in (3, 1)}
    assert {entry.what for entry in listed[:2]} == kinds
    assert {entry.what for entry in listed[2:]} == {f"the same as {entry.name}" for entry in listed[:2]}
    assert all(entry.bytes > 0 and time.time() - entry.used < 600 for entry in listed)
    with pytest.raises(UsageError, match="unknown cache entry"):
        cache.remove(home, ["nothing"], narrator=quiet())
    gone = cache.remove(home, [listed[0].name], narrator=quiet())
    assert gone == [listed[0], next(entry for entry in listed if entry.what == f"the same as {listed[0].name}")]
    assert cache.entries(home) == [entry for entry in listed if entry not in gone]
    cache.remove(home, ["all"], narrator=quiet())
    assert list(home.iterdir()) == []


class Listener(Narrator):
    """Keeps what is said, and the names of the progress bars."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        self.said.append(text)

    @contextmanager
    def track(self, total: int, what: str) -> Iterator[Ticker]:
        self.said.append(f"{what} {total}")
        with super().track(total, what) as tick:
            yield tick


def test_other_files_of_equal_names_sizes_and_times_are_other_images(picture: Picture, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        picture(seed).save(tmp_path / name / "a.ppm")
        os.utime(tmp_path / name / "a.ppm", (1_000_000_000, 1_000_000_000))
    first = load_corpus(tmp_path / "one", memory_limit=0, cache_dir=home)
    second = load_corpus(tmp_path / "two", memory_limit=0, cache_dir=home)
    assert first.fingerprint == load_corpus(tmp_path / "one").fingerprint
    assert second.fingerprint == load_corpus(tmp_path / "two").fingerprint != first.fingerprint


def test_the_lock_is_held_until_the_entry_has_its_name(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, rename, seen = tmp_path / "cache", building._rename, []

    def watched(folder: Path, target: Path) -> None:
        seen.append(locks.acquire(folder))  # as another process would, in the last moment
        rename(folder, target)
        assert (target / locks.LOCK).is_file()

    monkeypatch.setattr(building, "_rename", watched)
    load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=home)
    assert seen == [None]
    assert whole(home) == 1


def test_who_discards_a_folder_takes_nothing_from_a_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "values.npy").write_bytes(b"old")
    unlink = Path.unlink

    def with_successor(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.name == locks.LOCK:  # from here on another process can hold the folder
            for name in (locks.LOCK, "values.npy"):
                path.with_name(name).write_bytes(b"new")

    lock = locks.acquire(tmp_path)
    assert lock is not None
    with lock, monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", with_successor)
        locks.discard(tmp_path)
    assert (tmp_path / "values.npy").read_bytes() == b"new"
    locks.discard(tmp_path)
    assert not tmp_path.exists()


def test_what_cannot_be_named_is_told_and_not_decoded_again(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home = image_folder({"a": 3}), tmp_path / "cache"

    def fail(*_: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), "x")

    with monkeypatch.context() as patch:
        patch.setattr(building, "_rename", fail)
        with pytest.raises(ResourceError, match=r"could not be kept in .*Permission denied.*: set cache_dir"):
            load_corpus(root, memory_limit=0, cache_dir=home)
    monkeypatch.setattr(assemble.Assembly, "_put", fail)
    assert len(load_corpus(root, memory_limit=0, cache_dir=home)) == 3
    assert whole(home) == 1


def test_a_note_written_in_the_last_moment_gives_way(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, rmtree, targets = tmp_path / "cache", shutil.rmtree, []

    def late(target: Path, ignore_errors: bool = False) -> None:
        rmtree(target, ignore_errors=ignore_errors)
        if not targets:
            cache.note(home, target.name, holder=home / "another")
            assert (target / cache.SAME).is_file()
        targets.append(target)

    with monkeypatch.context() as patch:
        patch.setattr(building.shutil, "rmtree", late)  # type: ignore[attr-defined]
        load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=home)
    assert len(targets) == 2
    assert whole(home) == 1


def test_an_early_end_keeps_what_was_begun_before(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 3}), tmp_path / "cache"
    key = keys.cheap_key(open_source(root), how="")
    assert key is not None

    def interrupted(*, begun: bool) -> None:
        with building.building(home, key, narrator=quiet()) as work:
            if begun:
                (work.folder / "form.json").write_text("[]")
            raise KeyboardInterrupt

    for begun in (False, True):
        with pytest.raises(KeyboardInterrupt):
            interrupted(begun=begun)
        assert len(list(home.glob("*/form.json"))) == len(list(home.iterdir())) == begun


def test_other_decoders_decode_anew(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_decoding: Callable[[], None]
) -> None:
    root, home = image_folder({"a": 3}), tmp_path / "cache"
    load_corpus(root, memory_limit=0, cache_dir=home)
    no_decoding()
    load_corpus(root, memory_limit=0, cache_dir=home)
    asked = []

    def newer(name: str) -> str:
        asked.append(name)
        return "9999" if name == "tifffile" else "none"

    monkeypatch.setattr(keys, "_installed", newer)
    with pytest.raises(AssertionError, match="decoded again"):
        load_corpus(root, memory_limit=0, cache_dir=home)
    assert {"tifffile", "imagecodecs", "pydicom", "pylibjpeg"} <= set(asked)
    monkeypatch.undo()
    assert keys._installed("twoviews-of-nothing") == "none"
    assert keys._installed("numpy") == np.__version__


def test_the_content_of_a_pillow_image_is_how_it_looks(picture: Picture) -> None:
    plain = picture(0).quantize(4)
    other = plain.copy()
    other.putpalette([255 - value for value in plain.getpalette() or []])
    clear = plain.copy()
    clear.info["transparency"] = 0
    lying = picture(0)
    lying.info["exif"] = b"turned"
    grey = Image.frombytes("L", plain.size, plain.tobytes())
    images = [plain, other, clear, grey, picture(0), lying]
    assert len({keys.content_of(image) for image in images}) == len(images)
    assert keys.content_of(plain.copy()) == keys.content_of(plain)


def test_a_pipe_among_the_images_is_not_waited_for(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 3}), tmp_path / "cache"
    os.mkfifo(tmp_path / "pipe.png")
    (root / "a" / "link.png").symlink_to(tmp_path / "pipe.png")
    found = load_corpus(root, memory_limit=0, cache_dir=home)
    assert [(item.id, item.reason) for item in found.rejected] == [("a/link.png", "not a regular file")]


def test_lists_of_palette_images_are_told_apart(picture: Picture, tmp_path: Path) -> None:
    home, found = tmp_path / "cache", []
    for turn in (1, -1):
        image = picture(0).quantize(4)
        image.putpalette((image.getpalette() or [])[::turn])
        found.append(load_corpus([image], memory_limit=0, cache_dir=home).values.copy())
    assert not np.array_equal(*found)


class Counting:
    """Images handed over one by one, the second of which fails; counts how often each is read."""

    spec = "counting"

    def __init__(self, images: list[Image.Image]) -> None:
        self.images = images
        self.labels = (None,) * len(images)
        self.reads = [0] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        def read() -> Raw:
            self.reads[index] += 1
            if index == 1:
                raise RuntimeError("cannot be fetched")
            return self.images[index]

        return Item(str(index), None, read)


def test_a_source_that_fails_for_an_item_is_cached_without_it(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "cache"
    home.mkdir()
    images = [picture(seed) for seed in range(4)]
    first = load_corpus(Counting(images), memory_limit=0, cache_dir=home)
    assert [(item.id, item.reason) for item in first.rejected] == [("1", "RuntimeError: cannot be fetched")]
    monkeypatch.setattr(assemble.Assembly, "decode", None)
    narrator = Listener()
    again = load_corpus(Counting(images), memory_limit=0, cache_dir=home, narrator=narrator)
    assert again.fingerprint == first.fingerprint
    assert sum(text.startswith("comparing images") for text in narrator.said) == 1


def test_items_that_are_no_files_are_not_read_for_a_look_into_the_cache(picture: Picture, tmp_path: Path) -> None:
    source = Counting([picture(seed) for seed in range(4)])
    (tmp_path / "cache").mkdir()
    load_corpus(source, cache_dir=tmp_path / "cache")
    assert source.reads == [3, 1, 1, 1]  # the first for its kind, and for the form that the others may have


def test_what_another_process_makes_is_not_removed(
    image_folder: Folder, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder({"a": 30})
    load_corpus(root, memory_limit=0, cache_dir=own_cache, channels=1)
    process = start(root, own_cache, pause=0.03)
    assert process.stdout is not None
    assert process.stdout.readline() == "decoded\n"
    assert main(["cache", "remove", "all"]) == 0
    assert "stays: another process is decoding into it" in capsys.readouterr().err
    (part,) = own_cache.iterdir()
    out, _ = process.communicate(timeout=60)
    assert out.splitlines()[-1] == f"fingerprint {load_corpus(root).fingerprint}"
    assert whole(own_cache) == 1
    part.mkdir()  # left by a process that has died
    (part / "values.npy").touch()
    assert [entry.name for entry in cache.remove(own_cache, [part.name], narrator=quiet())] == [part.name]
    assert whole(own_cache) == 1


def after_decoding(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    decode = assemble.Assembly.decode

    def then(*rest: Any) -> Any:
        made = decode(*rest)
        act()
        return made

    monkeypatch.setattr(assemble.Assembly, "decode", then)


def test_a_cache_deleted_by_hand_is_told(image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "cache"
    after_decoding(monkeypatch, lambda: shutil.rmtree(home))
    with pytest.raises(ResourceError, match=r"could not be kept in .*No such file"):
        load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=home)


def test_a_file_completed_while_others_are_decoded_is_not_left_out_for_ever(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home = image_folder({"a": 4}), tmp_path / "cache"
    late = root / "a" / "3.png"
    data = late.read_bytes()
    late.write_bytes(data[:-30])
    with monkeypatch.context() as patch:
        after_decoding(patch, lambda: late.write_bytes(data))
        assert len(load_corpus(root, memory_limit=0, cache_dir=home)) == 3
    assert len(load_corpus(root, memory_limit=0, cache_dir=home)) == 4


def test_a_disk_without_locks_is_refused(image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(
        ResourceError, match=r"cannot write .* \(No locks available\): set cache_dir, or XDG_CACHE_HOME"
    ):
        load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=tmp_path / "cache")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which nobody can make another")
def test_a_place_where_no_folder_can_be_made_is_refused(image_folder: Folder) -> None:
    with pytest.raises(ResourceError, match=r"cannot write .*No such file"):
        load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=Path("/proc/none/cache"))


def test_a_home_where_no_note_can_be_written_serves(
    image_folder: Folder, tmp_path: Path, no_decoding: Callable[[], None]
) -> None:
    root, home = image_folder({"a": 3}), tmp_path / "cache"
    first = load_corpus(root, memory_limit=0, cache_dir=home)
    shutil.copytree(root, tmp_path / "copy")
    key = keys.cheap_key(open_source(tmp_path / "copy"), how=repr(assemble.Storage()))
    (home / str(key)).write_text("in the way")
    no_decoding()
    assert load_corpus(tmp_path / "copy", memory_limit=0, cache_dir=home).fingerprint == first.fingerprint


@pytest.mark.skipif(sys.platform != "linux", reason="reserving is Linux's")
@pytest.mark.parametrize("full", ["values.npy", "state.npy", "contents.npy"])
def test_all_that_is_written_by_memory_is_reserved(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def reserve(file: int, start: int, length: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        assert (start, length) == (0, path.stat().st_size)
        if path.name == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with pytest.raises(ResourceError, match=r"the decoded images need 0.00 GB .* free: free some, set cache_dir"):
        load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=tmp_path / "cache")


def test_a_failing_disk_is_not_held_against_the_image(
    image_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(building, "SAFE_EVERY", 0.0)
    monkeypatch.setattr(np.memmap, "flush", broken)
    with pytest.raises(ResourceError, match=r"could not be kept in .*Input/output error"):
        load_corpus(image_folder({"a": 3}), memory_limit=0, cache_dir=tmp_path / "cache")


def test_files_that_vanish_while_entries_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "there").write_bytes(b"x")
    monkeypatch.setattr(cache.os, "walk", lambda folder: [(folder, [], ["there", "gone"])])  # type: ignore[attr-defined]
    (entry,) = cache.entries(tmp_path)
    assert (entry.name, entry.what) == ("entry", "nothing that is whole")
    assert entry.bytes > 0


def deep_folder(root: Path, count: int = 4) -> Path:
    root.mkdir()
    draws = np.random.default_rng(0).integers(0, 40_000, (count, 10, 12), dtype=np.uint16)
    for index, values in enumerate(draws):
        Image.fromarray(values).save(root / f"{index}.png")
    return root


@pytest.mark.parametrize("deep", [False, True])
def test_what_auto_came_to_is_found_when_it_is_asked_for(
    image_folder: Folder, tmp_path: Path, no_decoding: Callable[[], None], monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    home = tmp_path / "cache"
    root = deep_folder(tmp_path / "deep") if deep else image_folder({"": 4})
    (root / "broken.png").write_bytes(b"no picture")
    first = load_corpus(root, memory_limit=0, cache_dir=home)
    assert first.intensity.startswith("range:" if deep else "uint8")
    shutil.copytree(root, tmp_path / "copy")
    moved = load_corpus(tmp_path / "copy", memory_limit=0, cache_dir=home)
    no_decoding()
    monkeypatch.setattr(cache, "content_of_source", None)
    for place in (root, tmp_path / "copy"):
        again = load_corpus(
            place, channels=first.values.shape[3], intensity=first.intensity, memory_limit=0, cache_dir=home
        )
        assert again.fingerprint == moved.fingerprint == first.fingerprint
        assert (again.intensity, again.rejected) == (first.intensity, first.rejected)
        with pytest.raises(AssertionError, match="decoded again"):
            load_corpus(place, intensity="range:0,9", memory_limit=0, cache_dir=home)
    assert whole(home) == 1


def test_what_auto_left_out_is_decoded_when_it_is_asked_for(tmp_path: Path) -> None:
    home, root = tmp_path / "cache", deep_folder(tmp_path / "deep")
    Image.fromarray(np.full((10, 12), 9000.5, np.float32)).save(root / "other.tif")
    first = load_corpus(root, memory_limit=0, cache_dir=home)
    assert (len(first), len(first.rejected)) == (4, 1)
    asked = load_corpus(root, channels=1, intensity=first.intensity, memory_limit=0, cache_dir=home)
    assert (len(asked), len(asked.rejected)) == (5, 0)


def test_a_comparison_of_contents_is_told(image_folder: Folder, tmp_path: Path) -> None:
    root, home, narrator = image_folder({"a": 3}), tmp_path / "cache", Listener()
    load_corpus(root, memory_limit=0, cache_dir=home)
    os.utime(root / "a" / "0.png", (1_000_000_000, 1_000_000_000))
    load_corpus(root, memory_limit=0, cache_dir=home, narrator=narrator)
    assert narrator.said[:2] == [
        "the files have other times: comparing their content with what was decoded before",
        "comparing images 3",
    ]
    assert narrator.said[2].startswith("decoded images found in ")


@pytest.mark.slow
def test_kills_at_any_moment_and_three_at_once_end_in_the_same_bytes(image_folder: Folder, tmp_path: Path) -> None:
    root, home = image_folder({"a": 200}), tmp_path / "cache"
    (root / "a" / "7.png").write_bytes((root / "a" / "8.png").read_bytes()[:-30])  # rows move
    expected = load_corpus(root)
    draws = np.random.default_rng(0)
    kills = 0
    while kills < 20:
        running = [start(root, home, pause=0.01) for _ in range(3)]
        for process in running[: int(draws.integers(1, 4))]:
            time.sleep(float(draws.uniform(0.3, 1.5)))
            kills += process.poll() is None
            process.kill()
        for process in running:
            out, err = process.communicate(timeout=120)
            if process.returncode != -signal.SIGKILL:
                assert out.splitlines()[-1] == f"fingerprint {expected.fingerprint}", err
        if not list(home.glob(f"{cache.MAKING}*")):
            assert np.array_equal(load_corpus(root, memory_limit=0, cache_dir=home).values, expected.values)
            assert whole(home) == 1
            cache.remove(home, ["all"], narrator=quiet())
    running = [start(root, home, pause=0.0) for _ in range(3)]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert out.splitlines()[-1] == f"fingerprint {expected.fingerprint}", err
    found = load_corpus(root, memory_limit=0, cache_dir=home)
    assert isinstance(found.values, np.memmap)
    assert np.array_equal(found.values, expected.values)
    assert [item.id for item in found.rejected] == ["a/7.png"]
    assert whole(home) == 1
