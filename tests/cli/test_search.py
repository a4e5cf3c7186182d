"""`twoviews search`: what is found, what the page shows, what is refused."""

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.errors import UsageError
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.search import find_similar
from twoviews.run import Run, write_json

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def run(place: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared run, to write into."""
    return Path(shutil.copytree(place.run, tmp_path_factory.mktemp("search") / "run"))


@pytest.fixture(scope="module")
def photos(place: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images as files, in a folder a class, and one file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    with np.load(place.train) as arrays:
        for number, (pixels, label) in enumerate(zip(arrays["images"], arrays["labels"], strict=True)):
            (folder / str(label)).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / str(label) / f"{number:02d}.png")
    (folder / "a" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    return folder


@pytest.fixture(scope="module")
def embedded(run: Path, photos: Path, twoviews: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "vectors"
    outcome = twoviews("embed", run, photos, "--out", folder, "--quiet")
    assert outcome.code == 0, outcome.err
    return folder


def found(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    return outcome.json()


def expected(folder: Path, query: np.ndarray, without: list[str], top: int) -> list[str]:
    """Ids by a plain argsort."""
    kept = Embeddings.load(folder)
    unit = kept.vectors / np.linalg.norm(kept.vectors, axis=1, keepdims=True)
    order = np.argsort(-(unit @ query), kind="stable")
    return [kept.ids[row] for row in order if kept.ids[row] not in without][:top]


def unit_of(folder: Path, name: str) -> Any:
    kept = Embeddings.load(folder)
    vector = kept.vectors[kept.ids.index(name)]
    return vector / np.linalg.norm(vector)


class TestFound:
    def test_an_id_of_what_the_run_was_trained_on(self, run: Path, twoviews: Command) -> None:
        shown = found(twoviews("search", run, "07", "--top", 5, "--json"))
        assert (shown["wanted"], shown["unwanted"], shown["count"]) == (["07"], [], 60)
        ids = [hit["id"] for hit in shown["hits"]]
        (kept,) = (run / "embeddings").glob("in-*")
        assert ids == expected(kept, unit_of(kept, "07"), ["07"], 5)
        similarities = [hit["similarity"] for hit in shown["hits"]]
        assert similarities == sorted(similarities, reverse=True)
        assert {hit["label"] for hit in shown["hits"]} <= set("abcd")

    def test_the_collection_is_embedded_once(self, run: Path, photos: Path, twoviews: Command) -> None:
        arguments = ("search", run, "a/00.png", "--in", photos, "--json")
        first, second = twoviews(*arguments), twoviews(*arguments)
        assert found(first) == found(second)
        assert "60 of 61 are embedded already" in second.err or "nothing was to be embedded" in second.err

    def test_kept_vectors_that_are_damaged_are_made_again(self, run: Path, twoviews: Command) -> None:
        first = found(twoviews("search", run, "07", "--json"))
        for kept in (run / "embeddings").glob("in-*"):
            (kept / "index.csv").write_text("id,label,width,height,content,stamp\ntorn", encoding="utf-8")
        assert found(twoviews("search", run, "07", "--json")) == first

    def test_a_file_finds_itself_and_its_kind(self, run: Path, photos: Path, embedded: Path, twoviews: Command) -> None:
        shown = found(twoviews("search", run, photos / "b" / "05.png", "--in", embedded, "--top", 4, "--json"))
        assert shown["hits"][0]["id"] == "b/05.png"
        assert shown["hits"][0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert shown["hits"][0]["label"] == "b"

    def test_several_less_others(self, run: Path, photos: Path, embedded: Path, twoviews: Command) -> None:
        arguments = ("a/00.png", photos / "b" / "01.png", "--minus", "c/02.png", "d/03.png", "--in", embedded)
        shown = found(twoviews("search", run, *arguments, "--top", 20, "--json"))
        a, b, c, d = (unit_of(embedded, f"{name}.png") for name in ("a/00", "b/01", "c/02", "d/03"))
        own = ["a/00.png", "c/02.png", "d/03.png"]  # the file is not known to be the id b/01.png
        wanted = expected(embedded, (a + b) / 2 - (c + d) / 2, own, 20)
        assert [hit["id"] for hit in shown["hits"]] == wanted
        assert shown["unwanted"] == ["c/02.png", "d/03.png"]

    def test_the_table(self, run: Path, embedded: Path, twoviews: Command) -> None:
        outcome = twoviews("search", run, "a/00.png", "--in", embedded, "--top", 2)
        lines = [line for line in outcome.out.splitlines() if ".png" in line]
        assert [re.split(r"\s*│\s*", line)[1] for line in lines] == ["1", "2"]
        assert outcome.err == ""

    def test_more_than_there_are(self, run: Path, embedded: Path, twoviews: Command) -> None:
        outcome = twoviews("search", run, "a/00.png", "--in", embedded, "--top", 100, "--json")
        assert len(found(outcome)["hits"]) == 59
        assert f"{embedded} has 59 images besides the query: all are given, not 100" in outcome.err

    def test_an_id_goes_before_a_file(
        self, run: Path, photos: Path, embedded: Path, twoviews: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(photos)
        for query, itself in (("a/00.png", False), ("./a/00.png", True)):
            shown = found(twoviews("search", run, query, "--in", embedded, "--json"))
            assert ("a/00.png" in [hit["id"] for hit in shown["hits"]]) is itself

    def test_arrays_from_python(self, run: Path, photos: Path) -> None:
        images = np.stack([np.asarray(Image.open(path)) for path in sorted(photos.rglob("[0-9]*.png"))])
        before = sorted((run / "embeddings").iterdir())
        result = find_similar(run, photos / "a" / "00.png", within=images, top=1)
        assert result.hits[0].similarity == pytest.approx(1, abs=1e-5)
        assert sorted((run / "embeddings").iterdir()) == before


class TestPage:
    def test_it_shows_query_and_hits(
        self, run: Path, photos: Path, embedded: Path, twoviews: Command, tmp_path: Path
    ) -> None:
        page = tmp_path / "page.html"
        arguments = (photos / "b" / "05.png", "--minus", "a/00.png", "--in", embedded, "--top", 3, "--out", page)
        shown = found(twoviews("search", run, *arguments, "--json"))
        text = page.read_text()
        assert shown["page"] == str(page)
        assert text.count("data:image/png;base64,") == 5
        assert "no picture" not in text
        assert text.count('class="box other"') == 1
        for rank, hit in enumerate(shown["hits"], start=1):
            assert f"{rank}. {hit['similarity']:.3f} · {hit['label']}" in text
            assert hit["id"] in text
        assert not re.search(r"<script|https?://", text)

    def test_names_are_only_text(self, run: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        name = '"><img src=x onerror=alert(1)>\u202e.png'
        shutil.copytree(photos / "a", tmp_path / "in")
        try:
            shutil.copy(photos / "b" / "05.png", tmp_path / "in" / name)
        except OSError:
            pytest.skip("this file system does not take such names")
        page = tmp_path / "page.html"
        outcome = twoviews("search", run, name, "--in", tmp_path / "in", "--out", page)
        assert outcome.code == 0, outcome.err
        assert "<img src=x" not in page.read_text()
        assert html.escape('"><img src=x onerror=alert(1)>', quote=False) in page.read_text().replace("&#34;", '"')

    def test_pictures_that_are_gone(
        self, run: Path, photos: Path, embedded: Path, twoviews: Command, tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(embedded, tmp_path / "vectors"))
        meta = json.loads((folder / "meta.json").read_text())
        write_json(folder / "meta.json", {**meta, "data": str(tmp_path / "moved")})
        page = tmp_path / "page.html"
        outcome = twoviews("search", run, "a/00.png", "--in", folder, "--out", page)
        assert outcome.code == 0, outcome.err
        assert "the page shows no pictures of the collection" in outcome.err
        assert "no picture" in page.read_text()


class TestRefused:
    def refuse(self, outcome: Any, code: int, *words: str) -> None:
        assert outcome.code == code, outcome.err
        assert "Traceback" not in outcome.err
        for word in words:
            assert word in outcome.err

    def test_an_index_of_another_encoder(self, run: Path, embedded: Path, twoviews: Command, tmp_path: Path) -> None:
        kept = Embeddings.load(embedded)
        other = Embeddings(kept.vectors, kept.ids, kept.labels, kept.classes, "0" * 64)
        other.save(tmp_path / "other")
        outcome = twoviews("search", run, "a/00.png", "--in", tmp_path / "other")
        self.refuse(outcome, 2, "embedded by another encoder", "fingerprint 000000000000")

    def test_vectors_from_elsewhere(self, run: Path, embedded: Path, twoviews: Command, tmp_path: Path) -> None:
        kept = Embeddings.load(embedded)
        Embeddings(kept.vectors, kept.ids, kept.labels, kept.classes, "").save(tmp_path / "other")
        outcome = twoviews("search", run, "a/00.png", "--in", tmp_path / "other", "--json")
        assert len(found(outcome)["hits"]) == 10
        assert "does not say which encoder made its vectors" in outcome.err

    def test_a_query_that_is_no_image(self, run: Path, photos: Path, embedded: Path, twoviews: Command) -> None:
        torn = photos / "a" / "torn.png"
        outcome = twoviews("search", run, torn, "--in", embedded)
        self.refuse(outcome, 3, f"the query {str(torn)!r} cannot be used: no image that can be read")
        outcome = twoviews("search", run, photos, "--in", embedded)
        self.refuse(outcome, 2, f"the query {str(photos)!r} is a folder: give image files")

    def test_an_id_without_a_vector(self, run: Path, photos: Path, twoviews: Command) -> None:
        outcome = twoviews("search", run, "a/torn.png", "--in", photos)
        self.refuse(outcome, 3, "the query 'a/torn.png' is in the collection, but could not be read")

    def test_an_unknown_id(self, run: Path, photos: Path, embedded: Path, twoviews: Command) -> None:
        for collection in (photos, embedded):
            outcome = twoviews("search", run, "a/00.pgn", "--in", collection)
            self.refuse(outcome, 2, "no such file, and unknown id 'a/00.pgn': did you mean 'a/00.png'?")
            outcome = twoviews("search", run, "nothere", "--in", collection)
            assert outcome.err.count(".png") == 3

    def test_an_empty_collection(self, run: Path, twoviews: Command, tmp_path: Path) -> None:
        Embeddings(np.zeros((0, 4), np.float32), (), np.zeros(0, np.int64), (), "").save(tmp_path / "none")
        self.refuse(twoviews("search", run, "x", "--in", tmp_path / "none"), 3, "nothing to search in")
        (tmp_path / "empty").mkdir()
        self.refuse(twoviews("search", run, "x", "--in", tmp_path / "empty"), 3, "empty")

    def test_nothing_but_the_query(self, run: Path, photos: Path, twoviews: Command, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        shutil.copy(photos / "a" / "00.png", tmp_path / "one")
        outcome = twoviews("search", run, "00.png", "--in", tmp_path / "one")
        self.refuse(outcome, 3, "holds nothing but the query")

    @pytest.mark.parametrize(("value", "words"), [(0, "a vector of zeros"), (np.nan, "not finite (first: 'a/00.png')")])
    def test_broken_vectors(
        self, run: Path, embedded: Path, twoviews: Command, tmp_path: Path, value: float, words: str
    ) -> None:
        folder = Path(shutil.copytree(embedded, tmp_path / "vectors"))
        vectors = np.load(folder / "vectors.npy")
        vectors[0] = value
        np.save(folder / "vectors.npy", vectors)
        self.refuse(twoviews("search", run, "a/00.png", "--in", folder), 3, words)

    def test_what_comes_to_nothing(self, run: Path, embedded: Path, twoviews: Command) -> None:
        outcome = twoviews("search", run, "a/00.png", "--minus", "a/00.png", "--in", embedded)
        self.refuse(outcome, 3, "nothing is left of the query")

    def test_options(self, run: Path, embedded: Path, twoviews: Command, tmp_path: Path) -> None:
        search = ("search", run, "a/00.png", "--in", embedded)
        self.refuse(twoviews(*search, "--top", 0), 2, "--top is 0: give at least 1")
        self.refuse(twoviews(*search, "--out", tmp_path / "page.png"), 2, "give a name that ends in .html")
        (tmp_path / "page.html").mkdir()
        self.refuse(twoviews(*search, "--out", tmp_path / "page.html"), 6, "is a folder: choose another --out")

    def test_a_run_whose_data_only_python_has(self, run: Path, tmp_path: Path) -> None:
        lone = tmp_path / "lone"
        lone.mkdir()
        for name in ("run.json", "config.toml"):
            shutil.copy(run / name, lone)
        text = re.sub(r"(?m)^source = .*\n", "", (lone / "config.toml").read_text(), count=1)
        (lone / "config.toml").write_text(text)
        with pytest.raises(UsageError, match="arrays handed over in Python: name the collection with --in"):
            find_similar(Run(lone), "07")

    def test_an_encoder_without_a_collection(self, twoviews: Command) -> None:
        self.refuse(twoviews("search", "timm:resnet18", "x"), 2, "no collection of its own: name one with --in")
