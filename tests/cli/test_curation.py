"""`twoviews duplicates`, `outliers` and `suspects`: what they print, write and refuse."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from twoviews.cli.output import print_table
from twoviews.data.source import open_source
from twoviews.encoders import build_encoder, save_encoder
from twoviews.errors import DataError
from twoviews.jobs.curating import curate, curated_pages, twins
from twoviews.jobs.curating.twins import changed

Command = Callable[..., Any]
HOSTILE = os.fsdecode(b"w\xff <img src=x>\xe2\x80\xae.png")
EXACT = ("--threshold", "0.9999")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def refused(outcome: Any, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    for word in words:
        assert word in last, last


@dataclass(frozen=True)
class Place:
    """Data, and a run that was never trained: random weights tell these patterns apart."""

    run: Path
    train: Path
    unlabelled: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, images: Callable[..., Path]) -> Place:
    folder = tmp_path_factory.mktemp("curated")
    torch.manual_seed(3)
    encoder = build_encoder("convnet_tiny", image_size=8, channels=1)
    save_encoder(encoder, folder / "encoder", preprocessing={"mean": [0.5], "std": [0.25]}, extra={"cache_side": 10})
    train = images(folder / "train.npz", count=60, seed=0)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "precision": "fp32", "threads": 1}))
    return Place(folder, train, images(folder / "unlabelled.npz", count=24, seed=2, classes=None))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, place: Place) -> Path:
    """The images of the run's data as files in class folders, with two planted copies and one of an awful name."""
    folder = tmp_path_factory.mktemp("photos")
    with np.load(place.train) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for number, (image, label) in enumerate(zip(images[:40], labels, strict=False)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{number:02d}.png")
    Image.fromarray(images[0]).save(folder / "a" / "00-copy.png")
    Image.fromarray(images[1]).save(folder / "copy-of-01.png")  # without a label
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG\r\n")
    try:
        Image.fromarray(images[2]).save(folder / "c" / HOSTILE, format="PNG")
    except OSError:
        pytest.skip("this file system does not take such names")
    return folder


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without pictures, which take a process to make."""
    monkeypatch.setattr(curated_pages, "pictures_of", lambda *_, **__: {})


def test_duplicates_are_grouped_and_what_is_kept_is_listed(
    photos: Path, place: Place, twoviews: Command, tmp_path: Path
) -> None:
    out, manifest = tmp_path / "found", tmp_path / "lists" / "kept.csv"
    manifest.parent.mkdir()
    outcome = twoviews("duplicates", place.run, photos, *EXACT, "--out", out, "--manifest", manifest)
    assert outcome.code == 0, outcome.err
    assert "3 of 43 images are near duplicates in 3 groups; from similarity 0.9999 on: as given" in outcome.out
    assert sorted(path.name for path in out.iterdir()) == [
        *("duplicates.csv", "duplicates.html", "exclude.csv", "kept.csv"),
    ]
    groups: dict[str, list[str]] = {}
    for row in rows_of(out / "duplicates.csv"):
        groups.setdefault(row["group"], []).append(row["id"])
        assert row["kept"] == ("true" if len(groups[row["group"]]) == 1 else "false")
        assert float(row["similarity"]) >= 0.9999
    assert sorted(groups.values()) == [
        ["a/00-copy.png", "a/00.png"],
        ["b/01.png", "copy-of-01.png"],
        ["c/02.png", f"c/{HOSTILE}"],
    ]
    excluded = {row["id"]: row["reason"] for row in rows_of(out / "exclude.csv")}
    assert excluded["a/00.png"] == "near duplicate of a/00-copy.png"
    assert set(excluded) == {"a/00.png", "copy-of-01.png", f"c/{HOSTILE}"}
    for path in (manifest, out / "kept.csv"):
        source = open_source(path)
        assert len(source) == 40
        items = [source[row] for row in range(40)]
        assert {item.label for item in items} == set("abcd")
        kept = {os.path.relpath(os.path.realpath(item.read()), photos) for item in items}  # type: ignore[arg-type]
        assert kept == {
            os.path.relpath(path, photos) for path in photos.rglob("*.png") if path.name != "broken.png"
        } - set(excluded)
    page = (out / "duplicates.html").read_text(encoding="utf-8")
    for words in ("Just above the threshold", "Just below the threshold", "Groups", "data:image/png;base64,"):
        assert words in page
    assert "<img src=x>" not in page
    assert "<script" not in page


def test_a_manifest_of_what_is_kept_is_read_by_other_commands(
    photos: Path, place: Place, twoviews: Command, tmp_path: Path
) -> None:
    manifest = tmp_path / "kept.csv"
    assert twoviews("duplicates", place.run, photos, *EXACT, "--manifest", manifest, "--quiet").code == 0
    again = twoviews("duplicates", place.run, manifest, *EXACT, "--json")
    assert again.code == 0, again.err
    assert again.json()["images"] == 40
    assert again.json()["groups"] == []


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("first", "00-copy.png"), ("largest", "x/01-large.png"), ("labelled", "x/02.png")],
)
def test_rules(rule: str, kept: str, place: Place, twoviews: Command, tmp_path: Path) -> None:
    with np.load(place.train) as arrays:
        images = [Image.fromarray(image) for image in arrays["images"][:9]]
    (tmp_path / "x").mkdir()
    for number, image in enumerate(images):
        image.resize((32, 32), Image.Resampling.BICUBIC).save(tmp_path / f"{number:02d}.png")
    small = images[0].resize((32, 32), Image.Resampling.BICUBIC)
    small.save(tmp_path / "00-copy.png")
    small.save(tmp_path / "x" / "02.png")
    if rule == "largest":
        images[0].resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "x" / "01-large.png")
    outcome = twoviews("duplicates", place.run, tmp_path, "--threshold", "0.9", "--keep", rule, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json()
    assert found["keep"] == rule
    (group,) = [group for group in found["groups"] if group["kept"] == kept]
    assert {"00-copy.png", "00.png", "x/02.png"} <= {kept, *(one["id"] for one in group["dropped"])}


@pytest.mark.usefixtures("unpictured")
def test_the_threshold_comes_from_copies_with_its_reason(place: Place, twoviews: Command, tmp_path: Path) -> None:
    outcome = twoviews("duplicates", place.run, place.train, "--out", tmp_path / "found")
    assert outcome.code == 0, outcome.err
    assert "near duplicates from similarity = 0." in outcome.err
    assert "% of cropped, brighter, re-encoded copies reach " in outcome.err
    assert "some images and changed copies of them" in (tmp_path / "found" / "duplicates.html").read_text()


def test_data_without_files_gets_a_list_of_ids(place: Place, twoviews: Command, tmp_path: Path) -> None:
    with np.load(place.train) as arrays:
        images, labels = arrays["images"][:12], arrays["labels"][:12]
    data, kept = tmp_path / "data.npz", tmp_path / "kept.csv"
    np.savez(data, images=np.concatenate([images, images[:2]]), labels=np.concatenate([labels, labels[:2]]))
    outcome = twoviews("duplicates", place.run, data, *EXACT, "--manifest", kept)
    assert outcome.code == 0, outcome.err
    assert f"--labels {kept}:kept" in outcome.err
    assert [row["split"] for row in rows_of(kept)] == ["kept"] * 12 + ["near_duplicate"] * 2
    again = twoviews("duplicates", place.run, data, *EXACT, "--labels", f"{kept}:kept", "--json")
    assert again.json()["images"] == 12


def test_groups_of_patients_stay_in_the_list(photos: Path, place: Place, twoviews: Command, tmp_path: Path) -> None:
    data, kept = tmp_path / "data.csv", tmp_path / "kept.csv"
    lines = [f"{os.path.relpath(path, tmp_path)},p{row % 3}" for row, path in enumerate(sorted(photos.glob("b/*.png")))]
    data.write_text("\n".join(["file_name,group", *lines]) + "\n")
    outcome = twoviews("duplicates", place.run, data, *EXACT, "--manifest", kept)
    assert outcome.code == 0, outcome.err
    assert [row["group"] for row in rows_of(kept)] == [f"p{row % 3}" for row in range(len(lines))]
    assert len(open_source(kept)) == len(lines)


@pytest.mark.usefixtures("unpictured")
def test_outliers_are_ranked(place: Place, twoviews: Command, tmp_path: Path) -> None:
    with np.load(place.train) as arrays:
        images = arrays["images"]
    data, out = tmp_path / "data.npz", tmp_path / "far"
    np.savez(data, images=np.concatenate([images, np.zeros((1, 8, 8), np.uint8)]))
    outcome = twoviews("outliers", place.run, data, "--out", out, "--k", 5, *EXACT)
    assert outcome.code == 0, outcome.err
    rows = rows_of(out / "outliers.csv")
    assert rows[0]["id"] == "60"
    assert [int(row["rank"]) for row in rows] == list(range(1, 62))
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances, reverse=True)
    assert rows[0]["outlier"] == "true"
    assert "60" in [row["id"] for row in rows_of(out / "exclude.csv")]
    assert "Farthest from all others" in (out / "outliers.html").read_text()
    found = twoviews("outliers", place.run, data, "--k", 5, *EXACT, "--json").json()
    assert found["k"] == 5
    assert [row["id"] for row in found["ranked"]] == [row["id"] for row in rows]


def test_fewer_images_than_k_is_said(
    place: Place, twoviews: Command, images: Callable[..., Path], tmp_path: Path
) -> None:
    data = images(tmp_path / "few.npz", count=6, seed=5)
    outcome = twoviews("outliers", place.run, data, *EXACT)
    assert outcome.code == 0, outcome.err
    assert "k is 20, but there are 5 others: all are taken" in outcome.err


@pytest.mark.usefixtures("unpictured")
def test_wrong_labels_are_found(place: Place, twoviews: Command, tmp_path: Path) -> None:
    with np.load(place.train) as arrays:
        names = [str(label) for label in arrays["labels"]]
    ids = [open_source(place.train)[row].id for row in range(len(names))]
    wrong = {7: "a", 22: "b"}
    labels, out = tmp_path / "labels.csv", tmp_path / "suspects"
    lines = [f"{name},{wrong.get(row, names[row])}" for row, name in enumerate(ids)]
    labels.write_text("\n".join(["file_name,label", *lines]) + "\n")
    outcome = twoviews("suspects", place.run, place.train, "--labels", labels, "--out", out, *EXACT, "--k", 8)
    assert outcome.code == 0, outcome.err
    assert "of 60 labels look wrong: another is 10 times as probable (score)" in outcome.out
    rows = rows_of(out / "suspects.csv")
    assert {row["id"] for row in rows[:2]} == {ids[row] for row in wrong}
    for row in rows[:2]:
        assert row["looks_like"] == names[ids.index(row["id"])]
    assert len(rows) == 60
    assert "Most suspect first" in (out / "suspects.html").read_text()
    again = twoviews("suspects", place.run, place.train, "--labels", labels, *EXACT, "--k", 8, "--json").json()
    assert again["labels"] == 60
    assert [row["id"] for row in again["ranked"]] == [row["id"] for row in rows]
    first = again["ranked"][0]
    assert (first["suspect"], first["copy_disagrees"]) == (True, False)
    assert f"{first['score']:.2f}" == rows[0]["score"]
    assert f"{first['probe']:.3f}" == rows[0]["probe"]


@pytest.mark.usefixtures("unpictured")
def test_witnesses_that_know_little_are_said_to(place: Place, twoviews: Command, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    drawn = np.random.default_rng(0).integers(0, 3, 60)
    labels.write_text("\n".join(["file_name,label", *(f"{row:02d},{name}" for row, name in enumerate(drawn))]) + "\n")
    outcome = twoviews("suspects", place.run, place.train, "--labels", labels, *EXACT, "--out", tmp_path / "suspects")
    assert outcome.code == 0, outcome.err
    assert "this encoder tells the classes badly apart" in outcome.err
    assert "below 80% many suspects are the encoder" in (tmp_path / "suspects" / "suspects.html").read_text()


def test_labels_are_needed(place: Place, twoviews: Command, tmp_path: Path) -> None:
    refused(twoviews("suspects", place.run, place.unlabelled, *EXACT), 3, "no image has a label", "--labels FILE")
    one = tmp_path / "one.npz"
    np.savez(one, images=np.random.default_rng(0).integers(0, 255, (6, 8, 8), np.uint8), labels=np.array(["x"] * 6))
    refused(twoviews("suspects", place.run, one, *EXACT), 3, "all 6 labels are 'x'")


def test_cleanlab_is_asked_for_before_any_work(
    place: Place, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cleanlab", None)
    outcome = twoviews("suspects", place.run, tmp_path / "nowhere", "--cleanlab")
    refused(outcome, 2, "pip install 'twoviews[curation]'")


@pytest.mark.usefixtures("unpictured")
def test_one_image_and_all_identical(place: Place, twoviews: Command, tmp_path: Path) -> None:
    one, same = tmp_path / "one.npz", tmp_path / "same.npz"
    picture = np.random.default_rng(0).integers(0, 255, (1, 8, 8), np.uint8)
    np.savez(one, images=picture)
    np.savez(same, images=np.repeat(picture, 9, axis=0))
    assert twoviews("duplicates", place.run, one, "--json", "--out", tmp_path / "one").json()["groups"] == []
    found = twoviews("duplicates", place.run, same, "--json").json()
    assert (len(found["groups"]), found["dropped"]) == (1, 8)
    refused(twoviews("outliers", place.run, one), 3, "has 1 image: neighbours need two that differ")
    refused(twoviews("outliers", place.run, same), 3, "has 9 images, all copies of one")


def test_an_empty_collection(place: Place, twoviews: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("duplicates", "outliers", "suspects"):
        refused(twoviews(name, place.run, tmp_path / "empty"), 3, "no image in folder")


def test_vectors_that_are_not_finite(place: Place, twoviews: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = curate.embed_with

    def broken(*arguments: Any, **options: Any) -> Any:
        found, opened = embed(*arguments, **options)
        return replace(found, vectors=np.where(np.arange(len(found))[:, None] == 3, np.nan, found.vectors)), opened

    monkeypatch.setattr(curate, "embed_with", broken)
    for name in ("duplicates", "outliers", "suspects"):
        refused(twoviews(name, place.run, place.train), 3, "1 of 60 vectors of the images are not finite", "row 3")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("duplicates", "--threshold", "1.5"), "threshold is 1.5"),
        (("outliers", "--threshold", "nan"), "threshold is nan"),
        (("duplicates", "--keep", "largets"), "unknown rule to keep by 'largets': did you mean 'largest'?"),
        (("outliers", "--k", "0"), "k is 0"),
        (("suspects", "--k", "-3"), "k is -3"),
        (("duplicates", "--manifest", "kept.parquet"), "is not .csv"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    arguments: tuple[str, ...], words: str, place: Place, twoviews: Command, tmp_path: Path
) -> None:
    name, *options = arguments
    refused(twoviews(name, place.run, tmp_path / "nowhere", *options), 2, words)


def test_what_cannot_be_written_is_refused_before_any_work(place: Place, twoviews: Command, tmp_path: Path) -> None:
    for option in ("--manifest", "--out"):
        command = ("duplicates", place.run, tmp_path / "nowhere", option, place.train / "kept.csv")
        refused(twoviews(*command), 5, "cannot write to", f"choose another {option}")


def test_long_names_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name = "/".join(f"{number:08x}" for number in range(30)) + ".jpg"
    print_table(("rank", "id", "score"), [(1, name, 0.5)])
    cells = [line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert "".join(cells) == name


@pytest.mark.usefixtures("unpictured")
def test_nothing_is_overwritten_unasked(place: Place, twoviews: Command, tmp_path: Path) -> None:
    out, manifest = tmp_path / "out", tmp_path / "kept.csv"
    command = ("duplicates", place.run, place.train, *EXACT, "--out", out, "--manifest", manifest)
    assert twoviews(*command).code == 0
    refused(twoviews(*command), 6, "is not empty (it holds 'duplicates.csv'): choose another --out or give --overwrite")
    refused(twoviews(*command[:-4], "--manifest", manifest), 6, "choose another --manifest or give --overwrite")
    assert twoviews(*command, "--overwrite").code == 0
    (out / "mine.txt").write_text("keep me")
    refused(twoviews(*command, "--overwrite"), 6, "it holds 'mine.txt'): choose another --out")
    assert (out / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_copies_are_changed_a_little(encoded: bool, channels: int) -> None:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(40.0), np.arange(50.0))[..., None] + np.arange(channels)
    values = (smooth / smooth.max() * 200).astype(np.uint8)
    copy = changed(values, rng, encoded=encoded)
    assert copy.shape == values.shape
    assert copy.dtype == values.dtype
    assert not np.array_equal(copy, values)
    assert np.corrcoef(copy.ravel(), values.ravel())[0, 1] > 0.99
    assert 1.0 < copy.mean() / values.mean() < 1.2


def test_the_brightest_values_do_not_wrap_around() -> None:
    assert changed(np.full((8, 8, 1), 255, np.uint8), np.random.default_rng(0)).min() > 229


def save_seeing(folder: Path, **view: str) -> Path:
    """An encoder of colour images that are seen so."""
    torch.manual_seed(3)
    encoder = build_encoder("convnet_tiny", image_size=8, channels=3)
    about = {"cache_side": 10, "intensity": "uint8", **view}
    save_encoder(encoder, folder, preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3}, extra=about)
    return folder


def transparent(path: Path, image: NDArray[np.uint8], clear: NDArray[np.bool_]) -> None:
    """Bright where nobody sees it."""
    shown = np.where(clear[..., None], 255 - image, image)
    alpha = np.where(clear, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([shown, alpha])).save(path.with_suffix(".png"))


def paged(path: Path, image: NDArray[np.uint8], clear: NDArray[np.bool_]) -> None:
    """A channel a page."""
    tifffile.imwrite(path.with_suffix(".tif"), np.moveaxis(image, 2, 0), photometric="minisblack")


@pytest.mark.parametrize(
    ("write", "view"), [(transparent, {"background": "black"}), (paged, {"pages": "channels"})], ids=["alpha", "pages"]
)
def test_copies_are_opened_as_the_images_are(write: Callable[..., None], view: dict[str, str], tmp_path: Path) -> None:
    """The threshold is that of the same pictures in files that can be opened in one way only."""
    rng = np.random.default_rng(0)
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    for number in range(12):
        image = rng.integers(0, 256, (10, 10, 3), np.uint8)
        clear = rng.random((10, 10)) < 0.5 if write is transparent else np.zeros((10, 10), bool)
        image[clear] = 0
        Image.fromarray(image).save(tmp_path / "plain" / f"{number:02}.png")
        write(tmp_path / "other" / f"{number:02}", image, clear)
    encoder = save_seeing(tmp_path / "encoder", **view)
    plain, other = (curate.duplicates(encoder, tmp_path / name).nearness for name in ("plain", "other"))
    assert np.allclose(plain.vectors, other.vectors, atol=1e-5)
    assert np.allclose(plain.twins, other.twins, atol=1e-5)
    assert plain.threshold.value == pytest.approx(other.threshold.value, abs=1e-4)


def test_copies_of_files_that_state_a_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for number in range(12):
        values = rng.integers(0, 2000, (10, 10)).astype("<u2")
        write_scan(tmp_path / "scans" / f"{number:02}.dcm", values, level=1000, width=2000)
    found = curate.duplicates(save_seeing(tmp_path / "encoder", intensity="file"), tmp_path / "scans")
    assert len(found.nearness.twins) == 12
    assert np.median(found.nearness.twins) > np.median(found.nearness.similarity)


def write_scan(path: Path, values: NDArray[np.uint16], *, level: int, width: int) -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.WindowCenter, data.WindowWidth, data.PixelData = level, width, values.tobytes()
    data.save_as(path, enforce_file_format=True)


def test_where_no_copy_can_be_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(twins, "changed", full)
    with pytest.raises(DataError, match=r"no changed copy could be made of 60 images .*give --threshold"):
        curate.duplicates(place.run, place.train)


def test_json_is_json(photos: Path, place: Place, twoviews: Command) -> None:
    outcome = twoviews("suspects", place.run, photos, *EXACT, "--json", "--quiet")
    assert outcome.err == ""
    assert set(json.loads(outcome.out)) == {"labels", "not_judged", "agreement", "suspects", "ranked", "out"}


def test_numbers_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["arm", *(f"{n} a class" for n in range(100, 112))], [["knn", *["40.4 ± 1.2"] * 12]], numbers=True)
    assert capsys.readouterr().out.count("40.4 ± 1.2") == 12
