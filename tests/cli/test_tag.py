"""`twoviews tag`: from a handful of examples, one tag an image or several."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import twoviews as tv
from twoviews.data.source import open_source
from twoviews.data.sources.tags import open_tagged
from twoviews.errors import DataError

Command = Callable[..., Any]
TAGS = ("dots", "rows", "columns")


def done(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return outcome


def refused(outcome: Any, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    for word in words:
        assert word in outcome.err


def draw(path: Path, tags: tuple[str, ...], rng: np.random.Generator) -> None:
    """An 8x8 image with a pattern a tag, and noise."""
    image = np.full((8, 8), 30.0)
    image[::2, ::2] += 90.0 * ("dots" in tags)
    image[1::2] += 70.0 * ("rows" in tags)
    image[:, 1::4] += 60.0 * ("columns" in tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image + rng.integers(0, 20, (8, 8))).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def handful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four examples a tag, in a folder each."""
    folder, rng = tmp_path_factory.mktemp("handful"), np.random.default_rng(0)
    for tag in TAGS:
        for number in range(4):
            draw(folder / tag / f"{number}.png", (tag,), rng)
    return folder


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, set[str]]]:
    """Images with any of the tags, and which; the same twice over."""
    folder, rng = tmp_path_factory.mktemp("collection"), np.random.default_rng(1)
    truth = {}
    for number in range(64):
        tags = tuple(tag for bit, tag in enumerate(TAGS) if number >> bit & 1)
        draw(folder / f"{number:02d}.png", tags, rng)
        truth[f"{number:02d}.png"] = set(tags)
    return folder, truth


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that timm wrote."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("timm") / "test_resnet"
    save_for_hf(timm.create_model("test_resnet", num_classes=7).eval(), str(folder), safe_serialization=True)
    return folder


def manifest(folder: Path, rows: dict[str, Any], name: str = "tags.csv") -> Path:
    path = folder / name
    with path.open("w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps({"file_name": item, "label": label}) + "\n" for item, label in rows.items())
        else:
            csv.writer(file).writerows([("file_name", "label"), *rows.items()])
    return path


class TestOneTag:
    def test_a_folder_a_tag(
        self, place: Any, handful: Path, twoviews: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = shutil.copytree(place.run, tmp_path / "run", ignore=shutil.ignore_patterns("classifier"))
        photos, rng, truth = tmp_path / "photos", np.random.default_rng(2), []
        for number in range(30):
            truth.append(TAGS[number % 3])
            draw(photos / f"{number:02d}.png", (truth[-1],), rng)
        outcome = done(twoviews("tag", run, photos, "--examples", handful, "--json"))
        found = outcome.json()
        assert found["tags"] == sorted(TAGS)
        figures = found["figures"]
        assert (figures["examples"], figures["parts"], figures["left_out"].keys()) == (12, 12, {"mean", "probe"})
        best = figures["left_out"][figures["method"]]
        assert best["right"] == max(held["right"] for held in figures["left_out"].values())
        assert best["tried"] == 12
        right = [row["label"] == tag for row, tag in zip(found["answers"], truth, strict=True)]
        assert np.mean(right) > 0.8
        assert f"method = {figures['method']}  (12 examples of 3 tags, each left out once: mean " in outcome.err
        assert "takes 18 held-out items or more" in outcome.err
        text = done(twoviews("tag", run, photos, "--examples", handful, "--method", "mean", "--certainty", 0.7)).out
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert list(rows[0]) == ["id", "label", "probability", "runner_up", "runner_up_probability", "unsure"]
        assert {row["unsure"] for row in rows} <= {"true", "false"}
        out = tmp_path / "sorted"
        done(twoviews("tag", run, photos, "--examples", handful, "--sort-into", out))
        assert {p.parent.name for p in out.rglob("*.png")} <= {*TAGS, "unsure"}
        assert len(list(out.rglob("*.png"))) == 30

    def test_any_encoder(self, place: Any, handful: Path, twoviews: Command) -> None:
        """The folder alone is an encoder, and gives what its run gives."""
        answers = [
            done(twoviews("tag", encoder, handful, "--examples", handful, "--json")).json()["answers"]
            for encoder in (place.run, place.run / "encoder")
        ]
        assert answers[0] == answers[1]

    def test_one_example_a_tag(self, place: Any, handful: Path, twoviews: Command, tmp_path: Path) -> None:
        for tag in TAGS:
            (tmp_path / tag).mkdir()
            shutil.copy(handful / tag / "0.png", tmp_path / tag)
        outcome = done(twoviews("tag", place.run, handful, "--examples", tmp_path, "--json"))
        assert outcome.json()["figures"]["method"] == "mean"
        assert outcome.json()["figures"]["parts"] == 0
        assert "one example a tag: how well the tags are told apart cannot be measured" in outcome.err
        shutil.copy(handful / "rows" / "1.png", tmp_path / "rows")
        outcome = done(twoviews("tag", place.run, handful, "--examples", tmp_path, "--json"))
        assert outcome.json()["figures"]["left_out"]["mean"]["tried"] == 2
        assert "one example each, so not measured: columns, dots" in outcome.err

    def test_an_unreadable_example(self, place: Any, handful: Path, twoviews: Command, tmp_path: Path) -> None:
        examples = Path(shutil.copytree(handful, tmp_path / "examples"))
        (examples / "stars").mkdir()
        (examples / "stars" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
        outcome = done(twoviews("tag", place.run, handful, "--examples", examples, "--json"))
        assert outcome.json()["tags"] == sorted(TAGS)
        assert "rejected" in outcome.err

    def test_groups_are_left_out_together(self, place: Any, handful: Path, tmp_path: Path) -> None:
        examples = Path(shutil.copytree(handful, tmp_path / "examples"))
        names = [f"{tag}/{n}.png" for tag in TAGS for n in range(4)]
        with (examples / "list.csv").open("w", newline="") as file:
            rows = [(n, n.split("/")[0], f"day {n[-5]}") for n in names]
            csv.writer(file).writerows([("file_name", "label", "group"), *rows])
        assert tv.tag(place.run, handful, examples=examples / "list.csv").figures["parts"] == 4

    def test_tags_of_one_group_are_told(self, place: Any, handful: Path, twoviews: Command, tmp_path: Path) -> None:
        examples = Path(shutil.copytree(handful, tmp_path / "examples"))

        def tag(groups: dict[str, str]) -> Any:
            rows = [(f"{name}.png", name.split("/")[0], group) for name, group in groups.items()]
            with (examples / "list.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("file_name", "label", "group"), *rows])
            return done(twoviews("tag", place.run, handful, "--examples", examples / "list.csv", "--json"))

        each = {f"{tag}/{n}": f"day {tag}" for tag in ("rows", "dots") for n in range(2)}
        outcome = tag(each)
        assert outcome.json()["figures"]["parts"] == 0
        assert "no tag has examples of two groups: how well the tags are told apart cannot be measured" in outcome.err
        assert "examples of each of the tags dots, rows are all of one group, so not measured" in outcome.err
        assert "one example" not in outcome.err
        outcome = tag({**each, "rows/2": "another day", "columns/0": "day dots"})
        assert outcome.json()["figures"]["left_out"]["mean"]["tried"] == 3
        wanted = "examples of tag dots are all of one group, so not measured: give some of another"
        assert wanted in " ".join(outcome.err.split())
        assert "one example each, so not measured: columns" in outcome.err

    def test_refusals(self, place: Any, handful: Path, twoviews: Command, tmp_path: Path) -> None:
        def tag(examples: object, *options: object) -> Any:
            return twoviews("tag", place.run, handful, "--examples", examples, *options)

        refused(tag(handful / "rows"), 3, "have no labels: give a folder a tag, or a manifest")
        (tmp_path / "one").mkdir()
        shutil.copytree(handful / "rows", tmp_path / "one" / "rows")
        refused(tag(tmp_path / "one"), 3, "1 tag (rows): give examples of two or more")
        (tmp_path / "empty").mkdir()
        refused(tag(tmp_path / "empty"), 3, "no image in folder")
        refused(tag(tmp_path / "none"), 3, "does not exist")
        refused(tag(handful, "--method", "men"), 2, "men")
        refused(tag(handful, "--out", tmp_path / "a.txt"), 2, "as .csv, .json or .parquet")
        refused(tag(handful, "--copy"), 2, "give --sort-into DIR too")
        refused(tag(handful, "--separator", ""), 2, "the separator is empty")
        outcome = twoviews("tag", place.run, tmp_path / "empty", "--examples", handful)
        assert outcome.code == 3
        assert "no image in folder" in outcome.err


class TestPublicWeights:
    """What weights of timm leave open, the examples decide for the data."""

    def draw(self, folder: Path, *, size: tuple[int, int], top: int, depth: type) -> Path:
        rng = np.random.default_rng(size[0])
        for at, name in enumerate(("dark/0", "dark/1", "light/0", "light/1")):
            path = folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = rng.integers(at // 2 * top // 2, (1 + at // 2) * top // 2, size[::-1])
            Image.fromarray(values.astype(depth)).save(path)
        return folder

    def test_of_another_size(self, network: Path, twoviews: Command, tmp_path: Path) -> None:
        examples = self.draw(tmp_path / "examples", size=(96, 96), top=256, depth=np.uint8)
        photos = self.draw(tmp_path / "photos", size=(400, 300), top=256, depth=np.uint8)
        outcome = done(twoviews("tag", network, photos, "--examples", examples, "--json"))
        assert [row["label"] for row in outcome.json()["answers"]] == ["dark", "dark", "light", "light"]
        assert outcome.err.count("image_size = ") == outcome.err.count("image_size = 128  (") == 1

    def test_of_another_depth(self, network: Path, twoviews: Command, tmp_path: Path) -> None:
        """Scaled alike: what is light among dark examples is not dark among light data."""
        examples = self.draw(tmp_path / "examples", size=(40, 40), top=4096, depth=np.uint16)
        photos = self.draw(tmp_path / "photos", size=(48, 48), top=3000, depth=np.uint16)
        outcome = done(twoviews("tag", network, photos, "--examples", examples, "--json"))
        assert len(outcome.json()["answers"]) == 4


class TestSeveralTags:
    @pytest.fixture
    def examples(self, collection: tuple[Path, dict[str, set[str]]]) -> dict[str, str]:
        return {name: "|".join(sorted(tags)) for name, tags in collection[1].items() if tags}

    def test_by_cross_validation(
        self, place: Any, collection: tuple[Path, dict[str, set[str]]], examples: dict[str, str], twoviews: Command
    ) -> None:
        folder, truth = collection
        path = manifest(folder, examples)
        outcome = done(twoviews("tag", place.run, folder, "--examples", path, "--json"))
        found = outcome.json()
        figures = found["figures"]
        assert figures.keys() == {
            *("examples", "tags", "parts", "penalty", "mean_average_precision", "f1_micro", "f1_macro", "per_tag")
        }
        assert (figures["examples"], figures["tags"], figures["parts"]) == (56, 3, 56)
        assert figures["mean_average_precision"] > 0.8
        assert figures["f1_micro"] > 0.7
        assert f"mean average precision {figures['mean_average_precision']:.3f}" in outcome.err
        thresholds = {row["tag"]: row["threshold"] for row in figures["per_tag"]}
        right = 0
        for row in found["answers"]:
            assert list(row["probabilities"]) == found["tags"] == sorted(TAGS)
            for tag, probability in row["probabilities"].items():
                if abs(probability - thresholds[tag]) > 1e-3:
                    assert (tag in row["tags"]) == (probability > thresholds[tag])
            right += set(row["tags"]) == truth[row["id"]]
        assert right > 40

    def test_every_spelling_says_the_same(
        self, collection: tuple[Path, dict[str, set[str]]], examples: dict[str, str]
    ) -> None:
        folder, _ = collection
        wanted = [tuple(text.split("|")) for text in examples.values()]
        for name, spelt in (
            ("a.csv", lambda text: text),
            ("b.csv", lambda text: text.replace("|", " ; ")),
            ("c.tsv", lambda text: text),
            ("d.jsonl", lambda text: text.split("|")),
        ):
            rows = {item: spelt(text) for item, text in examples.items()}
            path = manifest(folder, rows, name)
            if name.endswith(".tsv"):
                path.write_text("file_name\tlabel\n" + "".join(f"{k}\t{v}\n" for k, v in rows.items()))
            found = open_tagged(path)
            assert list(found.tags or ()) == wanted, name
            assert [found.source[at].id for at in range(len(found.source))] == list(examples)

    def test_tables_and_folders(
        self,
        place: Any,
        collection: tuple[Path, dict[str, set[str]]],
        examples: dict[str, str],
        twoviews: Command,
        tmp_path: Path,
    ) -> None:
        folder, _ = collection
        command = ("tag", place.run, folder, "--examples", manifest(folder, examples))
        answers = done(twoviews(*command, "--out", tmp_path / "a.json", "--json")).json()["answers"]
        assert json.loads((tmp_path / "a.json").read_text()) == answers
        text = done(twoviews(*command)).out
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert list(rows[0]) == ["id", "tags", *(f"probability:{tag}" for tag in sorted(TAGS))]
        assert [row["tags"].split("|") if row["tags"] else [] for row in rows] == [row["tags"] for row in answers]
        out = tmp_path / "sorted"
        shown = done(twoviews(*command, "--out", tmp_path / "a.parquet", "--sort-into", out)).out
        assert "average precision" in shown
        table = pq.read_table(tmp_path / "a.parquet").to_pylist()
        assert [row["tags"] for row in table] == [row["tags"] for row in answers]
        assert [row["probability:rows"] for row in table] == [row["probabilities"]["rows"] for row in answers]
        for row in answers:
            places = {path.parent.name for path in out.rglob(row["id"])}
            assert places == set(row["tags"]) or (not row["tags"] and places == {"unsure"})

    def test_an_empty_list_is_no_tag_and_an_empty_cell_says_nothing(
        self, place: Any, collection: tuple[Path, dict[str, set[str]]], twoviews: Command
    ) -> None:
        folder, truth = collection
        path = manifest(folder, {name: sorted(tags) for name, tags in truth.items()}, "all.jsonl")
        assert (
            done(twoviews("tag", place.run, folder, "--examples", path, "--json")).json()["figures"]["examples"] == 64
        )
        path = manifest(folder, {name: "|".join(sorted(tags)) for name, tags in truth.items()}, "some.csv")
        outcome = done(twoviews("tag", place.run, folder, "--examples", path, "--json", "--certainty", 0.9))
        assert "--certainty is for one tag an image" in outcome.err
        assert outcome.json()["figures"]["examples"] == 56
        assert "8 of 64 examples have no label and are left out" in outcome.err

    def test_refusals(
        self, place: Any, collection: tuple[Path, dict[str, set[str]]], twoviews: Command, tmp_path: Path
    ) -> None:
        folder, truth = collection
        names = list(truth)

        def tag(labels: list[Any], *options: object, name: str = "bad.csv") -> Any:
            path = manifest(folder, dict(zip(names, labels, strict=False)), name)
            return twoviews("tag", place.run, folder, "--examples", path, *options)

        refused(tag(["a|b", "a;c", "b"]), 3, "hold both '|' and ';'")
        done(tag(["a|b", "a;c", "b"], "--separator", "|"))
        refused(tag(["a|b", "b|A", "b"]), 3, "differ only by case: 'A' and 'a'")
        refused(tag(["a|b", "a|c", "a"]), 3, "every example has the tag 'a'")
        refused(tag([[], []], name="bad.jsonl"), 3, "have no tag at all")
        refused(tag([["a"], [{"b": 1}]], name="bad.jsonl"), 3, "are not all names")
        refused(tag(["a|b", "b|c", "c"], "--method", "probe"), 2, "leave --method out")

    def test_single_labels_are_read_as_before(self, handful: Path, tmp_path: Path) -> None:
        plain = {"rows/0.png": "a b", "rows/1.png": "c"}
        shutil.copytree(handful / "rows", tmp_path / "rows")
        for name in ("one.csv", "one.jsonl"):
            path = manifest(tmp_path, plain, name)
            assert open_tagged(path).tags is None
            assert list(open_tagged(path, separator=" ").tags or ()) == [("a", "b"), ("c",)]
        path = manifest(tmp_path, {"rows/0.png": ["a|b", "c"]}, "bars.jsonl")
        assert open_tagged(path).separator == ";"
        path = manifest(tmp_path, {"rows/0.png": ["a", "b"], "rows/9.png": ["c"]}, "several.jsonl")
        with pytest.raises(DataError, match=r"line 1: label is \['a', 'b'\]"):
            open_source(path)
        with pytest.raises(DataError, match=r"line 2: names 'rows/9.png', which does not exist"):
            open_tagged(path)
