"""Folders written whole: through links, under long names, and by two processes at once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twoviews import staged
from twoviews.errors import RefusedError, ResourceError
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.newfolder import check_new, filled


def embeddings(value: float) -> Embeddings:
    return Embeddings(np.full((1, 2), value, np.float32), ("a",), np.array([-1]), (), "")


def value_in(folder: Path) -> float:
    return float(Embeddings.load(folder).vectors[0, 0])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def kill_between_renames(save: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    rename, done = Path.rename, []

    def renamed(path: Path, to: Path) -> Path:
        if done:
            raise KeyboardInterrupt
        done.append(to)
        return rename(path, to)

    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        killed.setattr(Path, "rename", renamed)
        with pytest.raises(KeyboardInterrupt):
            save()


def test_a_link_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, link = tmp_path / "disk" / "large", tmp_path / "link"
    link.symlink_to(large)
    assert embeddings(1).save(link) == link
    embeddings(2).save(link, overwrite=True)
    assert link.is_symlink()
    assert value_in(large) == 2
    kill_between_renames(lambda: embeddings(3).save(link, overwrite=True), monkeypatch)
    assert not link.exists()
    assert value_in(link) == 2
    embeddings(4).save(link, overwrite=True)
    assert value_in(large) == 4
    assert (names(tmp_path), names(large.parent)) == ({"disk", "link"}, {"large"})
    monkeypatch.chdir(large)
    embeddings(5).save(".", overwrite=True)
    assert value_in(large) == 5


@pytest.mark.parametrize("name", ["n" * 230, "n" * 255, "é" * 127])
def test_long_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings(1).save(tmp_path / name)
    for _ in range(2):
        kill_between_renames(lambda: embeddings(2).save(tmp_path / name, overwrite=True), monkeypatch)
    assert value_in(tmp_path / name) == 1
    embeddings(3).save(tmp_path / name, overwrite=True)
    assert names(tmp_path) == {name}
    with filled(tmp_path / f"m{name[1:]}") as folder:
        (folder / "x").touch()
    assert len(names(tmp_path)) == 2


def test_names_that_no_folder_can_have(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("n" * 256, "loop", "loop/in"):
        with pytest.raises(RefusedError, match="cannot write embeddings"):
            embeddings(1).save(tmp_path / name, overwrite=True)
        with pytest.raises(ResourceError, match="cannot write to"), filled(tmp_path / name):
            pass
    with pytest.raises(ResourceError, match="choose another --out"):
        check_new(tmp_path / ("n" * 256))
    assert names(tmp_path) == {"loop"}


def test_a_new_folder_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "not/there"):
        (tmp_path / "link").symlink_to(place)
        check_new(tmp_path / "link")
        with filled(tmp_path / "link") as folder:
            (folder / "x").touch()
        assert names(tmp_path / place) == {"x"}
        (tmp_path / "link").unlink()


def test_what_is_begun_is_taken_for_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process comes between the making of a folder and its claim."""
    claimed, others = staged._claimed, iter([2, 3])

    def late(folder: Path) -> object:
        if folder.suffix == ".writing" and (value := next(others, None)) is not None:
            embeddings(value).save(tmp_path / "e", overwrite=True)
        return claimed(folder)

    monkeypatch.setattr(staged, "_claimed", late)
    embeddings(1).save(tmp_path / "e", overwrite=True)
    assert value_in(tmp_path / "e") == 1
    assert names(tmp_path) == {"e"}


@pytest.fixture
def at_rename(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """`at_rename(when, what)`: done once, `before` or `after` a folder is moved aside."""
    rename = Path.rename

    def install(when: str, what: Callable[[], object]) -> None:
        left = [what]

        def renamed(path: Path, to: Path) -> Path:
            mine = left.pop() if left and str(to).endswith(".old") else None
            if mine is not None and when == "before":
                mine()
            moved = rename(path, to)
            if mine is not None and when == "after":
                mine()
            return moved

        monkeypatch.setattr(Path, "rename", renamed)

    return install


@pytest.mark.parametrize(("when", "stays"), [("before", 2), ("after", 3)])
def test_two_replace_at_once(
    when: str, stays: float, at_rename: Callable[[str, Callable[[], object]], None], tmp_path: Path
) -> None:
    embeddings(1).save(tmp_path / "e")
    at_rename(when, lambda: embeddings(3).save(tmp_path / "e", overwrite=True))
    embeddings(2).save(tmp_path / "e", overwrite=True)
    assert value_in(tmp_path / "e") == stays
    assert names(tmp_path) == {"e"}


def test_the_folder_goes_while_it_is_replaced(
    at_rename: Callable[[str, Callable[[], object]], None], tmp_path: Path
) -> None:
    embeddings(1).save(tmp_path / "e")
    at_rename("before", lambda: os.rename(tmp_path / "e", tmp_path / "other's"))  # noqa: PTH104 — Path's is watched
    embeddings(2).save(tmp_path / "e", overwrite=True)
    assert value_in(tmp_path / "e") == 2
    assert names(tmp_path) == {"e", "other's"}
