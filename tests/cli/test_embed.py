"""`twoviews embed`: resumed, incremental, and what it refuses. Encoders are untrained.

With two processes: tests/distributed/test_commands.py.
"""

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from twoviews.data.corpus import load_corpus
from twoviews.data.decoding.decode import OpenImage
from twoviews.data.locks import acquire
from twoviews.data.source import Item
from twoviews.encoders import build_encoder, save_encoder
from twoviews.errors import DataError, RefusedError, ResourceError, UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.vectors import making
from twoviews.jobs.vectors.embed import embed
from twoviews.jobs.vectors.embedded import write_part
from twoviews.jobs.vectors.embedding import Embedded, embed_into
from twoviews.jobs.vectors.opened import open_encoder
from twoviews.jobs.vectors.outfolder import name_of
from twoviews.narrate import Narrator

COUNT = 43


class Listener(Narrator):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        self.texts.append(text)


def write_encoder(folder: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    encoder = build_encoder("convnet_tiny", image_size=8, channels=3)
    about = {"cache_side": 20, "intensity": "uint8", "data": "noise", "method": "none"}
    save_encoder(encoder, folder, preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3}, extra=about)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"), seed=0)


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that timm wrote."""
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=7).eval()
    folder = tmp_path_factory.mktemp("timm") / "test_resnet"
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def draw(path: Path, seed: int, *, size: tuple[int, int] | None = None) -> Path:
    rng = np.random.default_rng(seed)
    width, height = size or (int(rng.integers(12, 40)), int(rng.integers(12, 40)))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`COUNT` images of many sizes, in two classes."""
    for number in range(COUNT):
        draw(tmp_path / "photos" / "ab"[number % 2] / f"{number:03}.png", number)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "BATCH", 4)
    monkeypatch.setattr(making, "AHEAD", 8)
    monkeypatch.setattr(making, "MEASURED_SECONDS", 0)
    monkeypatch.setattr("twoviews.compute.available_cores", lambda: 1)  # of four images, threads would have a few each


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was opened to be decoded, since."""
    seen: list[Any] = []
    enter = OpenImage.__enter__

    def counted(self: OpenImage) -> OpenImage:
        seen.append(self)
        return enter(self)

    monkeypatch.setattr(OpenImage, "__enter__", counted)
    return seen


class Opening:
    """A source that opens its files anew at each reading."""

    spec = "files"
    labels = (None,) * 6

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        return Item(str(index), None, lambda: Image.open(io.BytesIO(self.files[index])))


def counts(found: Embedded) -> dict[str, int]:
    names = ("kept", "resumed", "made", "changed", "dropped")
    return {name: getattr(found, name) for name in names if getattr(found, name)}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def beside(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path.name.startswith(".")]


def resave(folder: Path, change: Callable[[Any], Any]) -> None:
    np.save(folder / "vectors.npy", change(np.load(folder / "vectors.npy")))


class TestIntoAFolder:
    def test_the_vectors_are_those_of_all_at_once(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        found = embed_into(encoder, photos, out=tmp_path / "v")
        whole = embed(encoder, photos)
        made = found.embeddings
        assert counts(found) == {"made": COUNT}
        assert (made.ids, made.classes, made.fingerprint) == (whole.ids, ("a", "b"), whole.fingerprint)
        assert np.array_equal(made.labels, whole.labels)
        assert np.allclose(made.vectors, whole.vectors, rtol=1e-5, atol=1e-6)
        assert np.ptp(made.vectors, axis=0).max() > 0.01
        assert isinstance(made.vectors, np.memmap)
        assert beside(tmp_path / "v") == []

    def test_a_second_call_decodes_nothing_and_writes_nothing(
        self, encoder: Path, photos: Path, tmp_path: Path, opened: list[Any]
    ) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        before = [
            (path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted((tmp_path / "v").iterdir())
        ]
        opened.clear()
        found = embed_into(encoder, photos, out=tmp_path / "v")
        assert counts(found) == {"kept": COUNT}
        assert found.images_per_second is None
        assert opened == []
        after = [
            (path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted((tmp_path / "v").iterdir())
        ]
        assert after == before

    def test_only_what_is_new_or_changed(self, encoder: Path, photos: Path, tmp_path: Path, opened: list[Any]) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        draw(photos / "a" / "000.png", 1000)
        for number in range(3):
            draw(photos / "c" / f"new{number}.png", 2000 + number)
        for name in ("b/001.png", "b/003.png"):
            (photos / name).unlink()
        opened.clear()
        found = embed_into(encoder, photos, out=tmp_path / "v")
        assert counts(found) == {"kept": COUNT - 3, "made": 4, "changed": 1, "dropped": 2}
        assert len(opened) == 4
        fresh = embed_into(encoder, photos, out=tmp_path / "fresh").embeddings
        assert found.embeddings.ids == fresh.ids
        assert found.embeddings.classes == ("a", "b", "c")
        assert np.allclose(found.embeddings.vectors, fresh.vectors, rtol=1e-5, atol=1e-6)
        texts = [(tmp_path / name / "index.csv").read_text() for name in ("v", "fresh")]
        assert texts[0] == texts[1]

    def test_touched_and_moved_files_are_read_but_not_decoded(
        self, encoder: Path, photos: Path, tmp_path: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        copy = tmp_path / "copy"
        shutil.copytree(photos, copy)
        opened.clear()
        assert counts(embed_into(encoder, copy, out=tmp_path / "v")) == {"kept": COUNT}
        assert opened == []
        monkeypatch.setattr("twoviews.jobs.vectors.embedded.content_at", lambda *_: pytest.fail("read again"))
        assert counts(embed_into(encoder, copy, out=tmp_path / "v")) == {"kept": COUNT}

    def test_new_labels_need_no_new_vectors(
        self, encoder: Path, photos: Path, tmp_path: Path, opened: list[Any]
    ) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
        rows = [f"{name},{'x' if number < 5 else 'y'}" for number, name in enumerate(names)]
        (tmp_path / "labels.csv").write_text("\n".join(["file_name,label", *rows]))
        opened.clear()
        found = embed_into(encoder, photos, out=tmp_path / "v", labels=tmp_path / "labels.csv")
        assert counts(found) == {"kept": COUNT}
        assert opened == []
        assert found.embeddings.classes == ("x", "y")
        assert found.embeddings.labels.tolist() == [0] * 5 + [1] * (COUNT - 5)

    def test_a_size_that_changes_how_images_are_stored(self, encoder: Path, tmp_path: Path) -> None:
        """Images of one size are kept as they are; one of another size makes all of them squares."""
        for number in range(9):
            draw(tmp_path / "same" / f"{number}.png", number, size=(18, 14))
        first = embed_into(encoder, tmp_path / "same", out=tmp_path / "v")
        assert json.loads((tmp_path / "v" / "meta.json").read_text())["stored"] == [14, 18]
        draw(tmp_path / "same" / "x.png", 9, size=(30, 24))
        listener = Listener()
        found = embed_into(encoder, tmp_path / "same", out=tmp_path / "v", narrator=listener)
        assert counts(found) == {"made": 10, "changed": 9}
        assert any("stored as 20 x 20, not 18 x 14: all are embedded again" in text for text in listener.texts)
        assert not np.array_equal(found.embeddings.vectors[:9], first.embeddings.vectors)
        whole = embed(encoder, tmp_path / "same")
        assert np.allclose(found.embeddings.vectors, whole.vectors, rtol=1e-5, atol=1e-6)
        (tmp_path / "same" / "x.png").unlink()
        found = embed_into(encoder, tmp_path / "same", out=tmp_path / "v")
        assert counts(found) == {"made": 9, "changed": 9, "dropped": 1}
        assert np.array_equal(found.embeddings.vectors, first.embeddings.vectors)

    def test_shards_are_compared_by_content(
        self, encoder: Path, photos: Path, tmp_path: Path, opened: list[Any]
    ) -> None:
        import tarfile

        def pack() -> None:
            with tarfile.open(tmp_path / "photos.tar", "w") as tar:
                for path in sorted(photos.rglob("*.png"), reverse=True):
                    tar.add(path, arcname=str(path.relative_to(photos)))

        pack()
        first = embed_into(encoder, tmp_path / "photos.tar", out=tmp_path / "v")
        assert np.allclose(first.embeddings.vectors, embed(encoder, photos).vectors, rtol=1e-5, atol=1e-6)
        draw(photos / "a" / "000.png", 1000)
        pack()
        opened.clear()
        found = embed_into(encoder, tmp_path / "photos.tar", out=tmp_path / "v")
        assert counts(found) == {"kept": COUNT - 1, "made": 1, "changed": 1}
        assert len(opened) == 1

    def test_what_pretraining_decoded_is_not_decoded_again(
        self, encoder: Path, photos: Path, tmp_path: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (photos / "a" / "broken.png").write_bytes(b"no image")
        storage = open_encoder(encoder).preprocessing.storage
        load_corpus(photos, cache_side=storage.cache_side, channels=3, intensity="uint8", memory_limit=0)
        opened.clear()
        monkeypatch.setattr(OpenImage, "pixels", lambda *_, **__: pytest.fail("decoded"))
        found = embed_into(encoder, photos, out=tmp_path / "v")
        assert counts(found) == {"made": COUNT}
        assert [item.id for item in found.rejected] == ["a/broken.png"]
        monkeypatch.undo()
        assert np.allclose(found.embeddings.vectors, embed(encoder, photos).vectors, rtol=1e-5, atol=1e-6)

    def test_pillow_images_of_16_bits_are_rejected_whatever_touched_them(self, encoder: Path, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        files = [b"P6 16 16 255\n" + rng.bytes(768)] * 4 + [b"P6 16 16 65535\n" + rng.bytes(1536)] * 2
        given = [Image.open(io.BytesIO(file)) for file in files]
        for number, images in enumerate((given, given, Opening(files))):
            found = embed_into(encoder, images, out=tmp_path / str(number))
            assert [(item.id, item.reason) for item in found.rejected] == [
                ("4", "16 bits a channel"),
                ("5", "16 bits a channel"),
            ]
            assert embed(encoder, images).ids == found.embeddings.ids == ("0", "1", "2", "3")

    def test_arrays(self, encoder: Path, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (10, 16, 16), np.uint8)
        embed_into(encoder, images, out=tmp_path / "v")
        images[3] = 255 - images[3]
        assert counts(embed_into(encoder, images, out=tmp_path / "v")) == {"kept": 9, "made": 1, "changed": 1}


class TestInterrupted:
    def stopped(self, monkeypatch: pytest.MonkeyPatch, *, after: int, error: BaseException) -> None:
        write, done = write_part, [0]

        def part(*arguments: Any) -> None:
            if done[0] == after:
                raise error
            done[0] += 1
            write(*arguments)

        monkeypatch.setattr(making, "write_part", part)

    def test_goes_on_to_the_same_bytes(
        self, encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Any]
    ) -> None:
        (photos / "a" / "001.png").write_bytes(b"no image")
        embed_into(encoder, photos, out=tmp_path / "unbroken")
        out, listener = tmp_path / "v", Listener()
        for after in (3, 2):
            with monkeypatch.context() as patch:
                self.stopped(patch, after=after, error=KeyboardInterrupt())
                with pytest.raises(KeyboardInterrupt):
                    embed_into(encoder, photos, out=out, narrator=listener)
            assert not out.exists()
        assert any("the same command goes on from there" in text for text in listener.texts)
        opened.clear()
        found = embed_into(encoder, photos, out=out)
        assert counts(found) == {"resumed": 19, "made": COUNT - 19}  # one of the twenty is broken
        assert len(opened) == COUNT - 19
        assert content(out) == content(tmp_path / "unbroken")
        assert beside(out) == []

    def test_what_changed_meanwhile_is_made_anew(
        self, encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for seed in (1000, 1001):
            with monkeypatch.context() as patch:
                self.stopped(patch, after=3, error=KeyboardInterrupt())
                with pytest.raises(KeyboardInterrupt):
                    embed_into(encoder, photos, out=tmp_path / "v")
            draw(photos / "a" / "000.png", seed)
        found = embed_into(encoder, photos, out=tmp_path / "v")
        assert np.allclose(found.embeddings.vectors, embed(encoder, photos).vectors, rtol=1e-5, atol=1e-6)

    def test_another_encoder_takes_nothing_over(
        self, encoder: Path, other_encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            self.stopped(patch, after=3, error=KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                embed_into(other_encoder, photos, out=tmp_path / "v")
        assert counts(embed_into(encoder, photos, out=tmp_path / "v")) == {"made": COUNT}

    def test_a_damaged_part_is_made_anew(
        self, encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            self.stopped(patch, after=3, error=KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                embed_into(encoder, photos, out=tmp_path / "v")
        part = sorted((tmp_path / ".v.embedding").glob("part-*.npz"))[1]
        part.write_bytes(part.read_bytes()[:300])
        assert counts(embed_into(encoder, photos, out=tmp_path / "v")) == {"resumed": 8, "made": COUNT - 8}

    def test_killed_between_two_renames(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        (tmp_path / ".v.embedding").mkdir()
        (tmp_path / "v").rename(tmp_path / ".v.embedding" / "old")
        assert counts(embed_into(encoder, photos, out=tmp_path / "v")) == {"kept": COUNT}

    def test_stopped_between_two_renames(
        self, encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        before = content(tmp_path / "v")
        (photos / "a" / "000.png").unlink()
        rename = Path.rename

        def stopped(self: Path, target: Path) -> Path:
            if self.name == "staged":
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", stopped)
            with pytest.raises(KeyboardInterrupt):
                embed_into(encoder, photos, out=tmp_path / "v")
        assert content(tmp_path / "v") == before
        assert beside(tmp_path / "v") == []
        assert counts(embed_into(encoder, photos, out=tmp_path / "v")) == {"kept": COUNT - 1, "dropped": 1}

    def test_room_for_parquet_is_that_of_parts_array_and_file(
        self, encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        width = embed_into(encoder, photos, out=tmp_path / "v").embeddings.vectors.shape[1]
        (tmp_path / ".w.embedding" / "staged").mkdir(parents=True)

        def usage(place: Path) -> Any:
            assert not (place / "staged").exists()
            return shutil._ntuple_diskusage(0, 0, 2 * COUNT * width * 4)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        with pytest.raises(ResourceError, match="no space"):
            embed_into(encoder, photos, out=tmp_path / "w", file_format="parquet")
        assert counts(embed_into(encoder, photos, out=tmp_path / "w")) == {"made": COUNT}

    def test_a_full_disk(self, encoder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            self.stopped(patch, after=2, error=OSError(28, "No space left on device"))
            with pytest.raises(ResourceError, match=r"no space left .* give the same command again"):
                embed_into(encoder, photos, out=tmp_path / "v")
        assert counts(embed_into(encoder, photos, out=tmp_path / "v")) == {"resumed": 8, "made": COUNT - 8}
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(ResourceError, match="MB are needed, 0 MB are free"):
            embed_into(encoder, photos, out=tmp_path / "w")
        assert beside(tmp_path / "w") == []


class TestRefused:
    def test_another_encoder(self, encoder: Path, other_encoder: Path, photos: Path, tmp_path: Path) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        before = content(tmp_path / "v")
        with pytest.raises(RefusedError, match=r"of another encoder or input view .*give --overwrite"):
            embed_into(other_encoder, photos, out=tmp_path / "v")
        assert content(tmp_path / "v") == before
        found = embed_into(other_encoder, photos, out=tmp_path / "v", overwrite=True)
        assert counts(found) == {"made": COUNT}
        assert beside(tmp_path / "v") == []

    def test_other_items(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        draw(tmp_path / "others" / "x.png", 5)
        with pytest.raises(RefusedError, match=r"of 43 other items \(as 'a/000.png'\), and of none of these"):
            embed_into(encoder, tmp_path / "others", out=tmp_path / "v")
        assert len(embed(encoder, tmp_path / "others", out=tmp_path / "v", overwrite=True)) == 1

    def test_other_items_of_embeddings_without_stamps(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        embed(encoder, photos).save(tmp_path / "v")
        draw(tmp_path / "others" / "x.png", 5)
        with pytest.raises(RefusedError, match=r"of 43 other items \(as 'a/000.png'\), and of none of these"):
            embed_into(encoder, tmp_path / "others", out=tmp_path / "v")
        index = tmp_path / "v" / "index.csv"
        index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
        with pytest.raises(DataError, match=r"damaged .*give --overwrite"):
            embed_into(encoder, photos, out=tmp_path / "v")

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_what_is_not_ours(self, overwrite: bool, encoder: Path, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(RefusedError, match="is a file"):
            embed_into(encoder, photos, out=tmp_path / "file", overwrite=overwrite)
        with pytest.raises(RefusedError, match="will not delete it"):
            embed_into(encoder, photos, out=photos, overwrite=overwrite)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "index.csv").write_text("id,label\n")
        with pytest.raises(RefusedError, match=r"holds no embeddings but 'index.csv'"):
            embed_into(encoder, photos, out=tmp_path / "mine", overwrite=overwrite)
        with pytest.raises(UsageError, match="the format is 'csv'"):
            embed_into(encoder, photos, out=tmp_path / "v", file_format="csv")

    @pytest.mark.parametrize(
        ("name", "text"), [("index.csv", None), ("meta.json", "{"), ("vectors.npy", "x"), ("meta.json", "[]")]
    )
    def test_damage(self, name: str, text: str | None, encoder: Path, photos: Path, tmp_path: Path) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        path = tmp_path / "v" / name
        path.write_text(text if text is not None else "".join(path.read_text().splitlines(keepends=True)[:-1]))
        with pytest.raises(DataError, match=r"damaged .*give --overwrite"):
            embed_into(encoder, photos, out=tmp_path / "v")
        assert counts(embed_into(encoder, photos, out=tmp_path / "v", overwrite=True)) == {"made": COUNT}

    @pytest.mark.parametrize(
        "damage",
        [
            lambda folder: (folder / "vectors.npy").write_bytes(b""),
            lambda folder: (folder / "vectors.npy").unlink(),
            lambda folder: (folder / "index.csv").write_text((folder / "index.csv").read_text().rstrip() + ',"'),
            lambda folder: (folder / "index.csv").write_text("id;" + (folder / "index.csv").read_text()[3:]),
            lambda folder: (folder / "index.csv").write_text(""),
            lambda folder: resave(folder, lambda vectors: vectors[:, :8]),
            lambda folder: resave(folder, lambda vectors: vectors[:, :1]),
            lambda folder: resave(folder, lambda vectors: vectors[:, 0]),
            lambda folder: resave(folder, lambda vectors: vectors.astype(np.int8)),
            lambda folder: resave(folder, lambda vectors: vectors.astype(np.float64)),
        ],
        ids=["empty", "missing", "quote", "header", "no header", "narrow", "one", "flat", "int8", "float64"],
    )
    def test_vectors_that_are_not_its_own(
        self, damage: Callable[[Path], object], encoder: Path, photos: Path, tmp_path: Path
    ) -> None:
        embed_into(encoder, photos, out=tmp_path / "v")
        damage(tmp_path / "v")
        draw(photos / "a" / "new.png", 99)
        with pytest.raises(DataError, match=r"damaged .*give --overwrite"):
            embed_into(encoder, photos, out=tmp_path / "v")

    def test_embeddings_without_stamps_are_made_anew(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        embed(encoder, photos).save(tmp_path / "v")
        assert counts(embed_into(encoder, photos, out=tmp_path / "v")) == {"made": COUNT, "changed": COUNT}

    def test_two_at_once(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        (tmp_path / ".v.embedding").mkdir()
        lock = acquire(tmp_path / ".v.embedding")
        assert lock is not None
        with lock, pytest.raises(RefusedError, match="another process is embedding into"):
            embed_into(encoder, photos, out=tmp_path / "v")
        assert counts(embed_into(encoder, photos, out=tmp_path / "v")) == {"made": COUNT}

    def test_hardly_an_image(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError):
            embed_into(encoder, tmp_path / "empty", out=tmp_path / "v")
        for number in range(COUNT + 1):
            (photos / "a" / f"broken{number}.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"44 of 87 images .* cannot be used"):
            embed_into(encoder, photos, out=tmp_path / "v")
        assert beside(tmp_path / "v") == []

    def test_some_are_rejected(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        (photos / "a" / "broken.png").write_bytes(b"no image")
        listener = Listener()
        found = embed_into(encoder, photos, out=tmp_path / "v", narrator=listener)
        assert [item.id for item in found.rejected] == ["a/broken.png"]
        assert any("1 of 44 images rejected (see rejected.csv)" in text for text in listener.texts)
        with (tmp_path / "v" / "rejected.csv").open(newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == ["a/broken.png"]
        (photos / "a" / "000.png").write_bytes(b"no image either")
        draw(photos / "a" / "broken.png", 77)
        found = embed_into(encoder, photos, out=tmp_path / "v")
        assert counts(found) == {"kept": COUNT - 1, "made": 1, "dropped": 1}
        assert [item.id for item in found.rejected] == ["a/000.png"]
        (photos / "a" / "000.png").unlink()
        embed_into(encoder, photos, out=tmp_path / "v")
        assert not (tmp_path / "v" / "rejected.csv").exists()


class TestParquet:
    def test_reads_back(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        npy = embed_into(encoder, photos, out=tmp_path / "v").embeddings
        found = embed_into(encoder, photos, out=tmp_path / "p", file_format="parquet").embeddings
        assert sorted(content(tmp_path / "p")) == ["meta.json", "vectors.parquet"]
        assert np.array_equal(found.vectors, npy.vectors)
        assert np.array_equal(found.labels, npy.labels)
        assert (found.ids, found.classes, found.fingerprint) == (npy.ids, npy.classes, npy.fingerprint)
        table = pq.read_table(tmp_path / "p" / "vectors.parquet")
        assert table.schema.field("vector").type == pa.list_(pa.float32(), npy.vectors.shape[1])
        assert table.column("id").to_pylist() == list(npy.ids)
        assert table.column("vector")[5].as_py() == npy.vectors[5].tolist()

    def test_is_incremental_and_changes_its_format(
        self, encoder: Path, photos: Path, tmp_path: Path, opened: list[Any]
    ) -> None:
        first = embed_into(encoder, photos, out=tmp_path / "v", file_format="parquet").embeddings
        opened.clear()
        assert counts(embed_into(encoder, photos, out=tmp_path / "v", file_format="parquet")) == {"kept": COUNT}
        draw(photos / "a" / "000.png", 1000)
        found = embed_into(encoder, photos, out=tmp_path / "v", file_format="npy")
        assert counts(found) == {"kept": COUNT - 1, "made": 1, "changed": 1}
        assert len(opened) == 1
        assert sorted(content(tmp_path / "v")) == ["index.csv", "meta.json", "vectors.npy"]
        assert np.array_equal(found.embeddings.vectors[1:], first.vectors[1:])

    def test_damage_and_names_that_are_no_text(self, encoder: Path, photos: Path, tmp_path: Path) -> None:
        embed_into(encoder, photos, out=tmp_path / "v", file_format="parquet")
        path = tmp_path / "v" / "vectors.parquet"
        whole = path.read_bytes()
        narrow = pq.read_table(path)
        at = narrow.schema.get_field_index("vector")
        narrow = narrow.set_column(at, "vector", pa.array([[0.5]] * COUNT, pa.list_(pa.float32(), 1)))
        pq.write_table(narrow, path)
        with pytest.raises(DataError, match=r"damaged .*give --overwrite"):
            embed_into(encoder, photos, out=tmp_path / "v", file_format="parquet")
        path.write_bytes(whole[:-100])
        with pytest.raises(DataError, match="damaged"):
            Embeddings.load(tmp_path / "v")
        with pytest.raises(DataError, match=r"damaged .*give --overwrite"):
            embed_into(encoder, photos, out=tmp_path / "v", file_format="parquet")
        if sys.platform == "linux":
            draw(photos / "z.png", 3).rename(photos / os.fsdecode(b"z\xff.png"))
            with pytest.raises(RefusedError, match=r"is no UTF-8 text, which parquet needs: choose --format npy"):
                embed_into(encoder, photos, out=tmp_path / "p", file_format="parquet")
            assert len(embed_into(encoder, photos, out=tmp_path / "n").embeddings) == COUNT + 1


class TestWhatIsNamed:
    def test_an_encoder_saved_without_extra(self, photos: Path, tmp_path: Path) -> None:
        saved = tmp_path / "saved"
        save_encoder(
            build_encoder("convnet_tiny", image_size=8), saved, preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3}
        )
        assert open_encoder(saved).preprocessing.storage.cache_side == 10
        assert len(embed(saved, photos)) == COUNT

    @pytest.mark.parametrize(
        ("table", "key", "value"),
        [
            ("twoviews", "image_size", None),
            ("twoviews", "channels", None),
            ("twoviews", "cache_side", "x"),
            ("twoviews", "cache_side", 0),
            ("twoviews", "image_size", "x"),
            ("pretrained_cfg", "std", None),
        ],
    )
    def test_an_incomplete_description(
        self, table: str, key: str, value: object, encoder: Path, photos: Path, tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(encoder, tmp_path / "encoder"))
        config = json.loads((folder / "config.json").read_text())
        config[table].pop(key)
        if value is not None:
            config[table][key] = value
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(DataError, match=r"config\.json"):
            embed(folder, photos)

    def test_a_timm_folder_gives_timms_own_features(self, network: Path, tmp_path: Path) -> None:
        """Images of the size at which it sees them, so that nothing is resampled; grey ones are repeated."""
        rng = np.random.default_rng(0)
        colour, grey = rng.integers(0, 256, (3, 160, 160, 3), np.uint8), rng.integers(0, 256, (3, 160, 160), np.uint8)
        model: Any = timm.create_model(f"local-dir:{network}", pretrained=True, num_classes=0).eval()
        mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
        for images in (colour, grey):
            values = torch.from_numpy(images).float() / 255
            values = values.permute(0, 3, 1, 2) if images.ndim == 4 else values[:, None].expand(-1, 3, -1, -1)
            with torch.no_grad():
                wanted = model((values - mean) / std).numpy()
            assert np.abs(embed(network, images).vectors - wanted).max() < 1e-5 * np.abs(wanted).max()

    def test_the_size_is_that_of_the_first_time(self, network: Path, tmp_path: Path) -> None:
        """Larger images would otherwise be seen larger, and their vectors be of no use beside the others."""
        for number in range(6):
            draw(tmp_path / "photos" / f"{number}.png", number, size=(120 + 10 * number, 130))
        first = embed_into(network, tmp_path / "photos", out=tmp_path / "v")
        meta = json.loads((tmp_path / "v" / "meta.json").read_text())
        assert meta["view"]["image_size"] == 128
        for number in range(6, 16):
            draw(tmp_path / "photos" / f"{number:02}.png", number, size=(200, 210))
        found = embed_into(network, tmp_path / "photos", out=tmp_path / "v")
        assert counts(found) == {"kept": 6, "made": 10}
        query = embed(network, tmp_path / "photos" / "06.png", like=tmp_path / "v")
        assert query.fingerprint == found.embeddings.fingerprint == first.embeddings.fingerprint
        assert embed(network, tmp_path / "photos" / "06.png").fingerprint != query.fingerprint
        with pytest.raises(RefusedError, match="another encoder or input view"):
            embed_into(f"{network}@160", tmp_path / "photos", out=tmp_path / "v")
        with pytest.raises(DataError, match="does not say how its images were seen"):
            embed(network, tmp_path / "photos", like=tmp_path)

    def test_an_encoder_has_one_name(self, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(network.parent)
        given = (network, "test_resnet", "./test_resnet", "test_resnet@64", f"local-dir:{network}@64", f"{network}/")
        assert {name_of(name) for name in given} == {str(network.resolve())}
        assert name_of("timm:resnet18@64") == "timm:resnet18"

    def test_a_run_by_its_encoder_folder(self, place: Any, tmp_path: Path) -> None:
        by_run, by_folder = open_encoder(place.run), open_encoder(place.run / "encoder")
        assert by_run.fingerprint == by_folder.fingerprint
        assert by_folder.kept == place.run / "embeddings"
        copy = open_encoder(shutil.copytree(place.run / "encoder", tmp_path / "copy"))
        assert (copy.kept, copy.precision, copy.run) == (None, "fp32", None)
        assert copy.fingerprint == by_run.fingerprint  # it was trained in fp32

    def test_what_is_no_encoder(self, encoder: Path, network: Path, tmp_path: Path) -> None:
        (tmp_path / "weights.pth").write_bytes(b"x")
        for given, error, words in (
            (tmp_path / "none", UsageError, "is not a run directory: it has no run.json"),
            (tmp_path, UsageError, "is not a run directory: it has no run.json"),
            ("resnet18", UsageError, "name an encoder as timm:NAME"),
            ("timm:resnet19", UsageError, "unknown encoder 'resnet19': did you mean"),
            ("timm:resnet18", DataError, "encoder timm:resnet18: .* give --download once"),
            (f"{encoder}@32", UsageError, "was trained at 8 px and takes no other size"),
            (f"{network}@3", UsageError, "asks for 3 px"),
            (tmp_path / "weights.pth", RefusedError, "pickle"),
            (f"local-dir:{tmp_path / 'none'}", DataError, "no folder"),
        ):
            with pytest.raises(error, match=words):
                open_encoder(given)


class TestTheCommand:
    def test_tells_counts_and_speeds(
        self, encoder: Path, photos: Path, tmp_path: Path, twoviews: Callable[..., Any]
    ) -> None:
        done = twoviews("embed", encoder, photos, "--out", tmp_path / "v")
        assert done.code == 0, done.err
        assert "images/s; the encoder alone reaches" in done.err
        assert "bottleneck" in done.err
        (photos / "a" / "000.png").unlink()
        again = twoviews("embed", encoder, photos, "--out", tmp_path / "v", "--format", "parquet", "--json")
        assert again.json() == {
            "out": str(tmp_path / "v"),
            "count": COUNT - 1,
            "dimensions": Embeddings.load(tmp_path / "v").vectors.shape[1],
            **{"kept": COUNT - 1, "resumed": 0, "made": 0, "changed": 0, "dropped": 1, "rejected": 0},
        }
        assert "42 of 42 are embedded already" in again.err
        assert "nothing was to be embedded" in again.err
