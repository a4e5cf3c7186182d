"""`twoviews predict`: calibrated, unsure below a threshold, as a table, sorted into folders."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from twoviews.evaluation.calibration import fit_temperature
from twoviews.evaluation.certainty import Certainty
from twoviews.jobs.classifying import classifier as classifier_module
from twoviews.jobs.classifying.classifier import load_certainty, load_classifier, save_classifier
from twoviews.jobs.classifying.sorting import LIST, sort_into
from twoviews.run import Run

Command = Callable[..., Any]
COLUMNS = ["id", "label", "probability", "runner_up", "runner_up_probability", "unsure"]


def done(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return outcome


def refused(outcome: Any, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    for word in words:
        assert word in outcome.err


def as_files(source: Path, folder: Path, *, some: slice = slice(None)) -> Path:
    """The arrays of an npz as PNG files, in folders that say nothing."""
    images = np.load(source)["images"][some]
    for at, image in enumerate(images):
        path = folder / f"day{at % 2}" / f"{at // 2:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def blend(source: Path, path: Path, *, seed: int) -> Path:
    """Each image mixed with another one, so that a classifier cannot be sure; the label is drawn by the shares."""
    rng, arrays = np.random.default_rng(seed), np.load(source)
    images, labels = arrays["images"].astype(float), arrays["labels"]
    other = rng.permutation(len(images))
    share = rng.uniform(0.4, 1, len(images))
    mixed = share[:, None, None] * images + (1 - share)[:, None, None] * images[other]
    np.savez(
        path, images=mixed.astype(np.uint8), labels=np.where(rng.random(len(images)) < share, labels, labels[other])
    )
    return path


@pytest.fixture(scope="session")
def judged(
    place: Any, twoviews: Command, images: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The finished run, evaluated with a validation set that is large enough for a threshold."""
    folder = tmp_path_factory.mktemp("judged")
    val = blend(images(folder / "clear.npz", count=80, seed=5), folder / "val.npz", seed=0)
    run = Path(shutil.copytree(place.run, folder / "run"))
    data = ("--train", place.train, "--test", place.test, "--val", val)
    done(twoviews("evaluate", run, *data, "--labels-per-class", "5", "--seeds", 1, "--arms", "linear"))
    return run


@pytest.fixture(scope="session")
def photos(place: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    return as_files(blend(place.test, folder / "test.npz", seed=1), folder / "photos")


class TestCalibrated:
    @pytest.mark.parametrize("arm", ["linear", "finetune"])
    def test_the_temperature_is_that_of_validation(
        self, place: Any, twoviews: Command, images: Callable[..., Path], tmp_path: Path, arm: str
    ) -> None:
        val = blend(images(tmp_path / "clear.npz", count=48, seed=6), tmp_path / "val.npz", seed=2)
        run = Run(shutil.copytree(place.run, tmp_path / "run"))
        data = ("--train", place.train, "--test", place.test, "--val", val)
        done(twoviews("evaluate", run.path, *data, "--labels-per-class", 3, "--seeds", 1, "--arms", arm))
        about = json.loads((run.classifier / "config.json").read_text())
        assert about["arm"] == arm
        arrays = np.load(val)
        classifier, classes = load_classifier(run)
        with torch.no_grad():
            logits = classifier(torch.from_numpy(arrays["images"])[:, None].float() / 127.5 - 1).numpy()
        labels = np.array([classes.index(label) for label in arrays["labels"]])
        wanted = fit_temperature(logits, labels)
        assert about["calibration"] == {"temperature": pytest.approx(wanted, rel=1e-2), "items": 48}
        kept = load_certainty(run)
        assert kept is not None
        expected = Certainty.measured(logits, labels, temperature=wanted)
        assert (kept.items, kept.curve[-1][1:]) == (48, expected.curve[-1][1:])
        assert kept.curve[-1][0] == pytest.approx(expected.curve[-1][0], abs=0.02)

        outcome = done(twoviews("predict", run.path, val, "--json", "--certainty", 0.6))
        assert f"temperature {about['calibration']['temperature']:.3g}, fitted on 48 validation items" in outcome.err
        probabilities = softmax(logits / wanted, axis=1)
        order = np.argsort(-probabilities, axis=1)
        for row, p, best in zip(outcome.json(), probabilities, order, strict=True):
            assert list(row) == COLUMNS
            for name, wanted_best in (("label", best[0]), ("runner_up", best[1])):
                assert p[classes.index(row[name])] == pytest.approx(p[wanted_best], abs=1e-3)
            assert row["probability"] == pytest.approx(p[best[0]], abs=0.02)
            assert row["runner_up_probability"] == pytest.approx(p[best[1]], abs=0.02)

    def test_unsure_is_below_the_threshold_of_validation(self, judged: Path, photos: Path, twoviews: Command) -> None:
        kept = load_certainty(Run(judged))
        assert kept is not None
        seen = set()
        for certainty in (0.3, 0.6, 0.9):
            found = kept.threshold(certainty)
            rows = done(twoviews("predict", judged, photos, "--json", "--certainty", certainty)).json()
            assert [row["unsure"] for row in rows] == [row["probability"] < found.probability for row in rows]
            seen.add(sum(row["unsure"] for row in rows))
        assert len(seen) > 1

    def test_no_threshold_is_enough(self, judged: Path, place: Any, twoviews: Command, tmp_path: Path) -> None:
        run = shutil.copytree(judged, tmp_path / "run")
        (run / "classifier" / "validation.csv").write_text("probability,answered,right\n0.9,40,20\n0.5,80,40\n")
        outcome = done(twoviews("predict", run, place.test, "--json"))
        assert all(row["unsure"] for row in outcome.json())
        assert "every answer is unsure: on the 80 held-out items" in outcome.err

    def test_too_few_validation_items(self, place: Any, twoviews: Command) -> None:
        outcome = done(twoviews("predict", place.run, place.test, "--json"))
        assert {row["unsure"] for row in outcome.json()} == {None}
        assert "takes 18 held-out items or more to choose a threshold, and there are 12" in outcome.err

    def test_a_classifier_without_calibration(
        self, judged: Path, place: Any, twoviews: Command, tmp_path: Path
    ) -> None:
        run = shutil.copytree(judged, tmp_path / "run")
        path = run / "classifier" / "config.json"
        about = json.loads(path.read_text())
        del about["calibration"]
        for facts, reason in (
            (
                {},
                "an earlier version, which kept no calibration, fitted the classifier; fit it again: ",
            ),
            ({"val_accuracy": None}, "the classifier was fitted without validation items; with some: "),
            ({"arm": "distillation", "val_accuracy": None}, "a student's classifier is not calibrated"),
        ):
            path.write_text(json.dumps(about | facts))
            outcome = done(twoviews("predict", run, place.test, "--json"))
            assert {row["unsure"] for row in outcome.json()} == {None}
            wanted = f"probabilities are not calibrated (temperature 1), and no answer is marked unsure: {reason}"
            assert wanted in outcome.err

    @pytest.mark.parametrize("text", ["", "probability,right\n0.9,1\n", "probability,answered,right\n0.9,1,2\n"])
    def test_a_damaged_classifier(self, judged: Path, place: Any, twoviews: Command, tmp_path: Path, text: str) -> None:
        run = shutil.copytree(judged, tmp_path / "run")
        (run / "classifier" / "validation.csv").write_text(text)
        refused(twoviews("predict", run, place.test), 2, "validation.csv cannot be read", "twoviews evaluate")

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
    def test_a_classifier_cut_off(self, judged: Path, place: Any, twoviews: Command, tmp_path: Path, name: str) -> None:
        run = shutil.copytree(judged, tmp_path / "run")
        path = run / "classifier" / name
        path.write_bytes(path.read_bytes()[:100])
        refused(twoviews("predict", run, place.test), 2, f"{path} cannot be read", f"run twoviews evaluate {run} again")
        path.unlink()
        refused(twoviews("predict", run, place.test), 2, f"twoviews evaluate {run}")

    def test_a_student_cut_off(self, judged: Path, place: Any, twoviews: Command, tmp_path: Path) -> None:
        """An evaluation would leave it as it is."""
        run = shutil.copytree(judged, tmp_path / "run")
        path = run / "classifier" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"arm": "distillation"}))
        (run / "classifier" / "model.safetensors").unlink()
        refused(twoviews("predict", run, place.test), 2, "train the student again with twoviews distill")

    @pytest.mark.parametrize("cut", ["save_file", "rename"])
    def test_replaced_whole_or_not_at_all(
        self, judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
    ) -> None:
        run = Run(shutil.copytree(judged, tmp_path / "run"))
        before = {path.name: path.read_bytes() for path in run.classifier.iterdir()}
        there = set(run.path.iterdir())
        fitted, classes = load_classifier(run)

        def save() -> None:
            save_classifier(
                run.classifier,
                probe=None,
                classifier=fitted,
                encoder=run.encoder,
                classes=classes,
                facts={"arm": "new"},
            )

        def whole() -> list[dict[str, bytes]]:
            hidden = run.path.glob(f".{run.classifier.name}.*")
            folders = [folder for folder in (run.classifier, *hidden) if folder.is_dir()]
            return [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]

        rename = Path.rename

        def killed(*arguments: Any) -> Any:
            if cut == "rename" and arguments[1] != run.classifier:
                return rename(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(
                *((classifier_module, "save_file", killed) if cut == "save_file" else (Path, "rename", killed))
            )
            with pytest.raises(KeyboardInterrupt):
                save()
        assert before in whole()
        save()
        assert json.loads((run.classifier / "config.json").read_text())["arm"] == "new"
        assert set(run.path.iterdir()) == there

    @pytest.mark.parametrize("certainty", ["0", "1", "95"])
    def test_no_share(self, judged: Path, place: Any, twoviews: Command, certainty: str) -> None:
        outcome = twoviews("predict", judged, place.test, "--certainty", certainty)
        refused(outcome, 2, "certainty is the share of sure answers that are right, between 0 and 1")

    def test_public_weights_have_no_classifier(self, place: Any, twoviews: Command) -> None:
        refused(twoviews("predict", "timm:resnet18", place.test), 2, "has no classifier", "twoviews tag timm:resnet18")


class TestTables:
    def test_every_format_says_the_same(self, judged: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        wanted = done(twoviews("predict", judged, photos, "--json", "--certainty", 0.6)).json()
        assert [row["id"] for row in wanted] == sorted(row["id"] for row in wanted)
        assert {row["unsure"] for row in wanted} <= {True, False}
        text = done(twoviews("predict", judged, photos, "--certainty", 0.6)).out
        for ending in (".csv", ".json", ".parquet"):
            out = tmp_path / "new" / f"answers{ending}"
            shown = done(twoviews("predict", judged, photos, "--certainty", 0.6, "--out", out)).out
            assert f"written: {out}" in shown
            assert f"all {len(wanted)}" in " ".join(shown.replace("│", " ").split())
        assert (tmp_path / "new" / "answers.csv").read_bytes().decode() == text
        assert json.loads((tmp_path / "new" / "answers.json").read_text()) == wanted
        table = pq.read_table(tmp_path / "new" / "answers.parquet")
        assert table.column_names == COLUMNS
        assert table.to_pylist() == wanted
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert list(rows[0]) == COLUMNS
        assert [row["unsure"] == "true" for row in rows] == [row["unsure"] for row in wanted]

    def test_what_cannot_be_written(self, judged: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        refused(twoviews("predict", judged, photos, "--out", tmp_path / "a.xlsx"), 2, "as .csv, .json or .parquet")
        there = tmp_path / "mine.csv"
        there.write_text("mine")
        refused(twoviews("predict", judged, photos, "--out", there), 6, "give --overwrite")
        assert there.read_text() == "mine"
        done(twoviews("predict", judged, photos, "--out", there, "--overwrite"))
        assert there.read_text().startswith("id,label,")
        for ending in (".csv", ".json", ".parquet"):
            outcome = twoviews("predict", judged, photos, "--out", there / f"below{ending}")
            refused(outcome, 5, "cannot write to", "choose another --out")
            assert "decoding" not in outcome.err
        refused(twoviews("predict", judged, photos, "--sort-into", there / "below"), 5, "choose another --sort-into")

    @pytest.mark.skipif(os.name == "nt", reason="names are bytes elsewhere")
    def test_names_that_are_no_text(self, judged: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        folder = tmp_path / "odd"
        folder.mkdir()
        name = os.fsdecode(b"caf\xe9.png")
        shutil.copy(next(photos.rglob("*.png")), folder / name)
        refused(twoviews("predict", judged, folder, "--out", tmp_path / "a.parquet"), 3, "write .csv or .json")
        assert not list(tmp_path.glob(".*"))
        done(twoviews("predict", judged, folder, "--out", tmp_path / "a.csv", "--sort-into", tmp_path / "sorted"))
        assert b"caf\xe9.png" in (tmp_path / "a.csv").read_bytes()
        assert [path.name for path in (tmp_path / "sorted").rglob("*.png")] == [name]


class TestSorted:
    def test_links_to_the_originals(self, judged: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        before = {path: path.read_bytes() for path in photos.rglob("*.png")}
        out = tmp_path / "sorted"
        outcome = done(twoviews("predict", judged, photos, "--sort-into", out, "--certainty", 0.6))
        assert f"written: {out}" in outcome.out
        rows = done(twoviews("predict", judged, photos, "--json", "--certainty", 0.6)).json()
        links = {path: path.resolve() for path in out.rglob("*.png")}
        assert all(path.is_symlink() for path in links)
        # day0/003.png and day1/003.png are two images.
        assert len(set(links.values())) == len(links) == len(rows) == 40
        where = {target.relative_to(photos.resolve()).as_posix(): path.parent.name for path, target in links.items()}
        assert where == {row["id"]: "unsure" if row["unsure"] else row["label"] for row in rows}
        assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before

    def test_copies(self, judged: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        out = tmp_path / "sorted"
        done(twoviews("predict", judged, photos, "--sort-into", out, "--copy"))
        copies = list(out.rglob("*.png"))
        assert len(copies) == 40
        assert not any(path.is_symlink() for path in copies)
        copies[0].write_bytes(b"")
        assert all(path.stat().st_size for path in photos.rglob("*.png"))

    def test_what_is_there_is_kept_unless_it_was_sorted(
        self, judged: Path, photos: Path, twoviews: Command, tmp_path: Path
    ) -> None:
        out = tmp_path / "sorted"
        command = ("predict", judged, photos, "--sort-into", out)
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        refused(twoviews(*command), 6, f"{out} is not empty", "--overwrite")
        refused(twoviews(*command, "--overwrite"), 6, "'mine.txt', which no sorting put there")
        (out / "mine.txt").unlink()
        done(twoviews(*command, "--certainty", 0.3))
        first = sorted(path.relative_to(out) for path in out.rglob("*.png"))
        done(twoviews(*command, "--overwrite", "--copy"))
        assert len(list(out.rglob("*.png"))) == len(first)
        # Corrected by hand: that work is not thrown away.
        moved = next(out.rglob("*.png"))
        moved.rename(out / "by hand.png")
        refused(twoviews(*command, "--overwrite"), 6, "'by hand.png', which no sorting put there")
        assert (out / "by hand.png").exists()
        refused(twoviews("predict", judged, photos, "--sort-into", photos / "day0" / "000.png"), 6, "is a file")

    def test_originals_are_never_cleared(self, judged: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        out = tmp_path / "sorted"
        done(twoviews("predict", judged, photos, "--sort-into", out, "--copy"))
        refused(twoviews("predict", judged, out, "--sort-into", out, "--overwrite"), 6, "holds the original")
        assert len(list(out.rglob("*.png"))) == 40

    def test_data_without_files(self, judged: Path, place: Any, twoviews: Command, tmp_path: Path) -> None:
        out = tmp_path / "sorted"
        refused(
            twoviews("predict", judged, place.test, "--sort-into", out), 2, "is no file of its own", "--out FILE.csv"
        )
        assert not out.exists()
        refused(twoviews("predict", judged, place.test, "--copy"), 2, "give --sort-into DIR too")

    def test_an_unreadable_image_is_told_and_left_out(
        self, judged: Path, place: Any, twoviews: Command, tmp_path: Path
    ) -> None:
        photos = as_files(place.test, tmp_path / "photos", some=slice(6))
        (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
        outcome = done(twoviews("predict", judged, photos, "--json", "--sort-into", tmp_path / "sorted"))
        assert [row["id"] for row in outcome.json()] == [f"day{d}/{n:03d}.png" for d in (0, 1) for n in range(3)]
        assert "1 of 7 images rejected, the first 'broken.png'" in outcome.err
        assert len(list((tmp_path / "sorted").rglob("*.png"))) == 6

    def test_empty_data(self, judged: Path, twoviews: Command, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        refused(twoviews("predict", judged, tmp_path / "empty"), 3, "no image in folder")

    def test_names_of_folders_and_files(self, tmp_path: Path) -> None:
        files = {}
        for name in ("a/x.png", "b/x.png", "b_x.png", "c/X.png", "y"):
            path = tmp_path / "from" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            files[name] = path
        out = tmp_path / "out"
        told = sort_into(out, files, [(name, ["../up", "unsure", None]) for name in files], copy=True)
        assert told == {"_.._up": 5, "unsure": 5, "unsure-2": 5}
        for folder in told:
            found = {path.name: path.read_text() for path in (out / folder).iterdir()}
            assert found == {
                "a_x.png": "a/x.png",
                "b_x-2.png": "b/x.png",
                "b_x.png": "b_x.png",
                "c_X.png": "c/X.png",
                "y": "y",
            }
        listed = list(csv.DictReader(io.StringIO((out / LIST).read_text())))
        assert {row["id"] for row in listed} == set(files)
