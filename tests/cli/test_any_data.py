"""The same pictures in any container give the same weights; deep values and bands are seen as they were meant."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from twoviews.data.corpus import load_corpus
from twoviews.data.source import open_source

Command = Callable[..., Any]

COUNT, CLASSES = 500, ("dog", "cat", "Äpfel", "10", "9")


def pictures() -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    """(id, label, pixels) of 500 small pictures, not in the order of their ids."""
    rng = np.random.default_rng(0)
    for number in rng.permutation(COUNT).tolist():
        label = CLASSES[number % len(CLASSES)]
        yield f"{label}/{number}.png", label, rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same pictures in every form that can be opened."""
    home = tmp_path_factory.mktemp("containers")
    entries = []
    for name, label, pixels in pictures():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        entries.append((name, label, pixels, stream.getvalue()))
    folder = home / "folder"
    for name, _, _, data in entries:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    # The lists lie beside copies of the folders, so that their names are the same.
    listed = home / "listed"
    shutil.copytree(folder, listed)
    rows = [(name, label) for name, label, _, _ in entries]
    (listed / "all.csv").write_text("file_name,label\n" + "".join(f"{n},{c}\n" for n, c in rows), encoding="utf-8")
    (listed / "all.tsv").write_text("file_name\tlabel\n" + "".join(f"{n}\t{c}\n" for n, c in rows), encoding="utf-8")
    lines = (json.dumps({"file_name": n, "label": c}) + "\n" for n, c in rows)
    (listed / "all.jsonl").write_text("".join(lines), encoding="utf-8")
    table = pa.table(
        {
            "image": [{"bytes": data, "path": name} for name, _, _, data in entries],
            "label": [label for _, label, _, _ in entries],
        }
    )
    pq.write_table(table, home / "all.parquet", row_group_size=64)
    (home / "parts").mkdir()
    for part in range(3):
        pq.write_table(table.slice(part * 200, 200), home / "parts" / f"train-{part:05d}-of-00003.parquet")
    (home / "shards").mkdir()
    for shard in range(4):
        with tarfile.open(home / "shards" / f"data-{shard:04d}.tar", "w") as tar:
            for name, label, _, data in entries[shard::4]:
                for member, content in ((name, data), (name.replace(".png", ".cls"), label.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(home / "all.zip", "w") as archive:
        for name, _, _, data in entries:
            archive.writestr(name, data)
    np.savez(
        home / "all.npz",
        images=np.stack([pixels for _, _, pixels, _ in entries]),
        labels=np.array([label for _, label, _, _ in entries]),
        ids=np.array([name for name, _, _, _ in entries]),
    )
    datasets = pytest.importorskip("datasets")
    # `save_to_disk` keeps of a picture's path its last part, so the whole name has a column.
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(CLASSES)),
            "file_name": datasets.Value("string"),
        }
    )
    columns = {
        "image": [{"bytes": data, "path": name} for name, _, _, data in entries],
        "label": [label for _, label, _, _ in entries],
        "file_name": [name for name, _, _, _ in entries],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(home / "saved")
    return {
        "folder": folder,
        "csv": listed / "all.csv",
        "tsv": listed / "all.tsv",
        "jsonl": listed / "all.jsonl",
        "pattern": str(folder / "**" / "*.png"),
        "parquet": home / "all.parquet",
        "parquet parts": home / "parts",
        "shards": str(home / "shards" / "data-{0000..0003}.tar"),
        "zip": home / "all.zip",
        "npz": home / "all.npz",
        "saved": home / "saved",
    }


KINDS = ("csv", "tsv", "jsonl", "pattern", "parquet", "parquet parts", "shards", "zip", "npz", "saved")


@pytest.mark.parametrize("kind", KINDS)
def test_any_container_gives_the_same_ids_labels_and_order(kind: str, containers: dict[str, Any]) -> None:
    expected, found = load_corpus(containers["folder"]), load_corpus(containers[kind])
    assert len(found) == COUNT
    assert found.ids == expected.ids
    assert found.classes == expected.classes
    assert (found.labels == expected.labels).all()
    assert found.fingerprint == expected.fingerprint
    source = open_source(containers[kind])
    assert [source[i].label for i in range(0, COUNT, 50)] == [source.labels[i] for i in range(0, COUNT, 50)]


def test_any_container_gives_the_same_weights(
    containers: dict[str, Any], tmp_path: Path, twoviews: Command, tiny: list[str], hasty: None
) -> None:
    digests = {}
    for kind, spec in containers.items():
        out = tmp_path / kind
        options = ("--epochs", 1, "--batch-size", 100, "--encoder", "convnet_tiny", "--seed", 1, "--json", "--quiet")
        outcome = twoviews("pretrain", spec, "--out", out, *options, *tiny)
        assert outcome.code == 0, outcome.err
        digests[kind] = outcome.json()["encoder_sha256"]
    assert len(digests) == len(KINDS) + 1
    assert len(set(digests.values())) == 1, digests


SIDE = 12


def patterned(count: int, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(count, SIDE, SIDE) in [0, 1]: four classes by where they are bright, under noise; and their classes."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(count) % 4
    rows, columns = np.indices((SIDE, SIDE)) / (SIDE - 1)
    shapes = np.stack([rows, columns, np.abs(rows - 0.5) * 2, np.abs(columns - 0.5) * 2])
    return 0.7 * shapes[kinds] + 0.3 * rng.random((count, SIDE, SIDE)), kinds


def sixteen_bits(values: NDArray[np.float64]) -> NDArray[Any]:
    return np.rint(3000 + 400 * values).astype(np.uint16)


def floats(values: NDArray[np.float64]) -> NDArray[Any]:
    return (0.002 * values - 0.001).astype(np.float32)


def thirteen_bands(values: NDArray[np.float64]) -> NDArray[Any]:
    """The classes show in band 9 alone, on another scale than the others."""
    noise = np.random.default_rng(9).random((len(values), SIDE, SIDE, 13))
    noise[..., 9] = values
    return np.rint(300 + noise * np.linspace(100, 9000, 13)).astype(np.uint16)


def write_set(root: Path, images: NDArray[Any], kinds: NDArray[np.int64]) -> Path:
    bands = {"photometric": "minisblack", "planarconfig": "contig"} if images.ndim == 4 else {}
    for number, (image, kind) in enumerate(zip(images, kinds.tolist(), strict=True)):
        path = root / "abcd"[kind] / f"{number:03d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, image, **bands)
    return root


def nearest(train: NDArray[Any], kinds: NDArray[np.int64], test: NDArray[Any], truth: NDArray[np.int64]) -> float:
    """Accuracy of the class whose mean image is nearest."""
    means = np.stack([train[kinds == k].mean(axis=0).ravel() for k in range(4)])
    distances = ((test.reshape(len(test), 1, -1) - means) ** 2).sum(axis=2)
    return float((distances.argmin(axis=1) == truth).mean())


@pytest.mark.parametrize(("make", "channels"), [(sixteen_bits, 1), (floats, 1), (thirteen_bands, 13)])
def test_deep_sets_are_learnt_where_a_clipped_decode_would_see_nothing(
    make: Callable[[NDArray[np.float64]], NDArray[Any]],
    channels: int,
    tmp_path: Path,
    twoviews: Command,
    tiny: list[str],
    hasty: None,
) -> None:
    train, kinds = patterned(120, seed=0)
    test, truth = patterned(80, seed=1)
    clipped = [make(part).clip(0, 255).astype(np.uint8)[..., None][..., :3].astype(float) for part in (train, test)]
    assert nearest(clipped[0], kinds, clipped[1], truth) < 0.45
    write_set(tmp_path / "train", make(train), kinds)
    write_set(tmp_path / "test", make(test), truth)
    run = tmp_path / "run"
    options = ("--epochs", 4, "--batch-size", 40, "--encoder", "convnet_tiny")
    trained = twoviews("pretrain", tmp_path / "train", "--out", run, *options, *tiny)
    assert trained.code == 0, trained.err
    assert "data.intensity = range:" in trained.err
    assert "views.normalization = measured" in trained.err
    config = json.loads((run / "encoder" / "config.json").read_text())
    info = json.loads((run / "run.json").read_text())
    assert config["twoviews"]["channels"] == channels
    assert config["pretrained_cfg"]["input_size"] == [channels, SIDE, SIDE]
    assert len(config["pretrained_cfg"]["mean"]) == channels
    assert config["twoviews"]["intensity"] == info["data"]["intensity"]
    assert info["data"]["intensity"].count(";") == (12 if channels == 13 else 0)
    arms = ("--arms", "knn,linear", "--labels-per-class", "all", "--seeds", 1)
    outcome = twoviews(
        *("evaluate", run, "--train", tmp_path / "train", "--test", tmp_path / "test", *arms, "--json", "--quiet")
    )
    assert outcome.code == 0, outcome.err
    scores = {row["arm"]: row["accuracy"] for row in outcome.json()["rows"]}
    assert max(scores.values()) > 0.7, scores
    assert (run / "report.html").stat().st_size > 10_000
    assert twoviews("predict", run, tmp_path / "test", "--quiet").out.count("\n") == 81
