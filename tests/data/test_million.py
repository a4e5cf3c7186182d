"""A manifest of a million rows, and a smaller one on the same path."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from twoviews.data.loading import epoch_order
from twoviews.data.sources.manifest import open_manifest, read_rows
from twoviews.errors import DataError


@pytest.fixture(scope="session")
def million() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "million.py"
    spec = importlib.util.spec_from_file_location("million", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_thousands_of_rows(kind: str, million: ModuleType, tmp_path: Path) -> None:
    path = million.make_manifest(tmp_path, folders=30, files=100, kind=kind)
    source = open_manifest(path)
    assert source.names == tuple(sorted(f"f{n // 100:04d}/i{n:06d}.png" for n in range(3000)))
    assert [source[at].label for at in (0, 2999)] == ["c0", "c29"]
    assert source.groups == tuple(f"g{n // 100}" for n in range(3000))
    # Held once each, however many rows have them.
    assert len(set(map(id, source.labels))) == len(set(map(id, source.groups))) == 30
    assert len(open_manifest(path, split="train")) == 3000
    assert sorted(epoch_order(3000, seed=0, epoch=0).tolist()) == list(range(3000))
    (tmp_path / "f0007" / "i000712.png").unlink()
    with pytest.raises(DataError, match=r"line \d+: names 'f0007/i000712\.png', which does not exist"):
        open_manifest(path)
    assert len(read_rows(path).names) == 3000


def test_files_are_found_by_listing_their_folders(
    million: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = million.make_manifest(tmp_path, folders=3, files=50)
    looks: list[str] = []
    stat: Callable[..., object] = Path.stat

    def counted(self: Path, **options: bool) -> object:
        looks.append(self.name)
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", counted)
    assert len(open_manifest(path)) == 150
    assert looks == []
    with path.open("a") as file:
        file.write("f0002/../f0001/i000050.png,c1,train,\n")
    assert len(open_manifest(path)) == 151
    assert looks == ["i000050.png"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("shape", [(1000, 1000), (20, 50_000)])
def test_memory_for_a_million_rows(shape: tuple[int, int], million: ModuleType, tmp_path: Path) -> None:
    path = million.make_manifest(tmp_path, folders=shape[0], files=shape[1])
    found = million.measure_apart(path)
    assert found["rows"] == 1_000_000
    assert found["peak_mb"] < 300
