"""`twoviews suggest`: from no label over a list that is filled in to the next round."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.evaluation.features import Embeddings

Command = Callable[..., Any]
CLASSES = "abcd"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fill_in(path: Path, *, leave: int = 0) -> None:
    """What a labeller does: `unlabelled.npz` has the classes a, b, c, d, a, b, ... in the order of its images."""
    rows = rows_of(path)
    for place, row in enumerate(rows):
        if not row["label"] and place < len(rows) - leave:
            row["label"] = CLASSES[int(row["file_name"]) % 4]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def refused(outcome: Any, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    for word in words:
        assert word in last


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_loop(place: Any, twoviews: Command, here: Path) -> None:
    out, page = here / "to_label.csv", here / "to_label.html"
    first = twoviews("suggest", place.run, place.unlabelled, "--count", 6, "--page", page)
    assert first.code == 0, first.err
    assert "strategy = mixed  (typical ones: there are not yet labels of two classes)" in first.err
    assert "6 images to label: fill in the column label of to_label.csv" in first.out
    assert first.out.splitlines()[-1].endswith("--count 6 --labels to_label.csv --out to_label.csv")
    listed = rows_of(out)
    assert [list(row) for row in listed] == [["file_name", "label", "why"]] * 6
    assert {row["label"] for row in listed} == {""}
    assert all(row["why"].startswith("typical cluster=") for row in listed)
    assert page.read_text(encoding="utf-8").count("data:image/png") == 6
    assert "<script" not in page.read_text(encoding="utf-8")

    fill_in(out)
    arguments = ("--count", 8, "--labels", out, "--out", out, "--strategy", "uncertain", "--json")
    second = twoviews("suggest", place.run, place.unlabelled, *arguments)
    assert second.code == 0, second.err
    grown = rows_of(out)
    assert [row["file_name"] for row in grown[:6]] == [row["file_name"] for row in listed]
    assert [row["label"] != "" for row in grown] == [True] * 6 + [False] * 8
    assert len({row["file_name"] for row in grown}) == 14
    told = second.json()
    assert [row["id"] for row in told["chosen"]] == [row["file_name"] for row in grown[6:]]
    assert (told["labelled"], told["waiting"], told["left"]) == (6, 0, 24 - 14)

    # What other commands make of the list.
    embedded = twoviews("embed", place.run, place.unlabelled, "--labels", out, "--out", here / "vectors")
    assert embedded.code == 0, embedded.err
    vectors = Embeddings.load(here / "vectors")
    assert {i: vectors.classes[c] for i, c in zip(vectors.ids, vectors.labels, strict=True) if c >= 0} == {
        row["file_name"]: row["label"] for row in grown[:6]
    }


def test_what_was_left_open_waits(place: Any, twoviews: Command, here: Path) -> None:
    out = here / "a.csv"
    twoviews("suggest", place.run, place.unlabelled, "--count", 8, "--out", out)
    fill_in(out, leave=2)
    waiting = {row["file_name"] for row in rows_of(out) if not row["label"]}
    assert len(waiting) == 2
    again = twoviews("suggest", place.run, place.unlabelled, "--count", 8, "--labels", out, "--out", here / "b.csv")
    assert "warning: 2 images suggested earlier still have no label" in again.err
    grown = rows_of(here / "b.csv")
    assert [row["file_name"] for row in grown[:8]] == [row["file_name"] for row in rows_of(out)]
    assert not waiting & {row["file_name"] for row in grown[8:]}


def test_the_same_list_every_time(place: Any, twoviews: Command, here: Path) -> None:
    for name in ("a.csv", "b.csv"):
        twoviews("suggest", place.run, place.unlabelled, "--count", 8, "--out", name)
    assert (here / "a.csv").read_bytes() == (here / "b.csv").read_bytes()


def test_other_columns_and_rows_go_along(place: Any, twoviews: Command, here: Path) -> None:
    """A list of all images with few labels, as somebody may have: what has no label is no work of ours."""
    lines = [f"{row:02d},{CLASSES[row % 4] if row < 6 else ''},ward{row % 3}" for row in range(24)]
    (here / "mine.csv").write_text("\n".join(["file_name,label,group", *lines]) + "\n", encoding="utf-8")
    outcome = twoviews("suggest", place.run, place.unlabelled, "--count", 5, "--labels", "mine.csv", "--out", "new.csv")
    assert outcome.code == 0, outcome.err
    rows = rows_of(here / "new.csv")
    assert list(rows[0]) == ["file_name", "label", "group", "why"]
    assert [(row["label"], row["group"]) for row in rows[:6]] == [(CLASSES[r % 4], f"ward{r % 3}") for r in range(6)]
    assert all(int(row["file_name"]) >= 6 for row in rows[6:])
    assert len(rows) == 11


class TestOneFileForBoth:
    """`--labels` and `--out` alike: the file is somebody's, and grows."""

    def suggest(self, place: Any, twoviews: Command, name: str, *options: object) -> list[str]:
        arguments = ("--count", 5, "--labels", name, "--out", name.partition(":")[0], *options)
        outcome = twoviews("suggest", place.run, place.unlabelled, *arguments, "--json")
        assert outcome.code == 0, outcome.err
        return [row["id"] for row in outcome.json()["chosen"]]

    def test_every_row_stays(self, place: Any, twoviews: Command, here: Path) -> None:
        lines = [f"./{row:02d},{CLASSES[row % 4] if row < 6 else ''},ward{row % 3}" for row in reversed(range(24))]
        (here / "mine.csv").write_text("\n".join(["file_name,label,group", *lines]) + "\n", encoding="utf-8")
        chosen = self.suggest(place, twoviews, "mine.csv")
        header, *after = (here / "mine.csv").read_bytes().decode().split("\n")[:-1]
        assert header == "file_name,label,group,why"
        assert [line.rpartition(",")[0] for line in after] == lines
        rows = rows_of(here / "mine.csv")
        assert {row["file_name"] for row in rows if row["why"]} == {f"./{name}" for name in chosen}
        assert all(row["why"] == "" for row in rows if row["label"])
        again = self.suggest(place, twoviews, "mine.csv")
        assert not set(again) & set(chosen)
        assert len(rows_of(here / "mine.csv")) == 24

    @pytest.mark.parametrize(("name", "mark", "end"), [("metadata.csv", "\ufeff", "\r\n"), ("metadata.tsv", "", "\n")])
    def test_every_column_stays(
        self, place: Any, twoviews: Command, here: Path, name: str, mark: str, end: str
    ) -> None:
        tab = "\t" if name.endswith(".tsv") else ","
        lines = [tab.join((f"{row:02d}", f'"blur{tab}ré"', CLASSES[row % 4])) for row in range(6)]
        text = mark + end.join([tab.join(("file_name", "comment", "label")), *lines]) + end
        (here / name).write_bytes(text.encode())
        chosen = self.suggest(place, twoviews, name)
        after = (here / name).read_bytes().decode().split(end)
        assert after[0] == mark + tab.join(("file_name", "comment", "label", "why"))
        assert after[1:7] == [line + tab for line in lines]
        assert [line.split(tab)[:3] for line in after[7:-1]] == [[item, "", ""] for item in chosen]
        assert all(line.split(tab)[3] for line in after[7:-1])
        assert after[-1] == ""

    def test_rows_of_other_splits_stay(self, place: Any, twoviews: Command, here: Path) -> None:
        lines = [
            f"{row:02d},{CLASSES[row % 4] if row < 6 else ''},{'test' if row > 20 else 'train'}" for row in range(24)
        ]
        (here / "mine.csv").write_text("\n".join(["file_name,label,split", *lines]) + "\n", encoding="utf-8")
        chosen = self.suggest(place, twoviews, "mine.csv:train")
        after = (here / "mine.csv").read_text(encoding="utf-8").splitlines()[1:]
        assert [line.rpartition(",")[0] for line in after] == lines
        assert max(chosen) <= "20"

    def test_what_cannot_keep_its_rows(self, place: Any, twoviews: Command, here: Path) -> None:
        (here / "mine.jsonl").write_text('{"file_name": "00", "label": "a"}\n', encoding="utf-8")
        (here / "groups.csv").write_text("file_name,group\n00,ward\n", encoding="utf-8")
        for name, problem in (("mine.jsonl", "is no .csv or .tsv"), ("groups.csv", "has no column label to fill in")):
            before = (here / name).read_bytes()
            outcome = twoviews("suggest", place.run, place.unlabelled, "--labels", name, "--out", name)
            refused(outcome, 6, f"{name} {problem}", "choose another --out")
            assert "embed" not in outcome.err
            assert (here / name).read_bytes() == before


def test_labels_of_the_data(place: Any, twoviews: Command, here: Path) -> None:
    refused(
        twoviews("suggest", place.run, place.train, "--count", 5),
        *(3, "each of the 60 images has a label (60): they come with the data", "--unlabelled passes them over"),
    )
    assert list(here.iterdir()) == []
    outcome = twoviews("suggest", place.run, place.train, "--count", 5, "--unlabelled")
    assert outcome.code == 0, outcome.err
    assert len(rows_of(here / "to_label.csv")) == 5
    refused(
        twoviews("suggest", place.run, place.train, "--unlabelled", "--labels", "to_label.csv", "--out", "b.csv"),
        *(2, "--unlabelled and --labels exclude each other"),
    )


def test_more_than_there_are(place: Any, twoviews: Command, here: Path) -> None:
    outcome = twoviews("suggest", place.run, place.unlabelled, "--count", 1000, "--strategy", "diverse")
    assert outcome.code == 0, outcome.err
    listed = len(rows_of(here / "to_label.csv"))
    assert f"warning: 1,000 were asked for, but only {listed} are left without a label" in outcome.err


def test_what_cannot_be_read_is_not_suggested(place: Any, twoviews: Command, here: Path) -> None:
    photos = here / "photos"
    photos.mkdir()
    for row in range(6):
        pixels = np.random.default_rng(row).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{row}.png")
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(photos / "copy.png")
    (photos / "copy2.png").write_bytes((photos / "copy.png").read_bytes())
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    outcome = twoviews("suggest", place.run, photos, "--count", 9, "--page", "p.html")
    assert outcome.code == 0, outcome.err
    listed = {row["file_name"] for row in rows_of(here / "to_label.csv")}
    assert "broken.png" not in listed
    assert len(listed & {"copy.png", "copy2.png"}) == 1


class TestBadInput:
    def test_a_file_that_exists_is_not_replaced(self, place: Any, twoviews: Command, here: Path) -> None:
        (here / "to_label.csv").write_text("somebody's work", encoding="utf-8")
        outcome = twoviews("suggest", place.run, place.unlabelled)
        refused(outcome, 6, "to_label.csv exists and may hold labels", "--labels")
        assert (here / "to_label.csv").read_text(encoding="utf-8") == "somebody's work"

    def test_names(self, place: Any, twoviews: Command, here: Path) -> None:
        ask = ("suggest", place.run, place.unlabelled)
        refused(twoviews(*ask, "--out", "list.txt"), 2, "'list.txt'", "ends in .csv")
        refused(twoviews(*ask, "--page", "page.png"), 2, "'page.png'", "ends in .html")
        refused(twoviews(*ask, "--strategy", "typicla"), 2, "unknown strategy 'typicla': did you mean 'typical'?")
        refused(twoviews(*ask, "--count", 0), 2, "at least 1, got 0")
        refused(twoviews(*ask, "--seed", -1), 2, "0 or more, got -1")
        refused(twoviews(*ask, "--labels", "none.csv"), 3, "'none.csv' does not exist")
        assert list(here.iterdir()) == []

    def test_uncertain_without_labels(self, place: Any, twoviews: Command, here: Path) -> None:
        outcome = twoviews("suggest", place.run, place.unlabelled, "--strategy", "uncertain")
        refused(outcome, 3, "at least two classes, but there is no label", "--strategy typical", "as --labels")

    def test_a_list_of_other_images(self, place: Any, twoviews: Command, here: Path) -> None:
        (here / "other.csv").write_text("file_name,label,why\nx.png,a,\n", encoding="utf-8")
        outcome = twoviews("suggest", place.run, place.unlabelled, "--labels", "other.csv", "--out", "b.csv")
        refused(outcome, 3, "none of the 1 rows", "x.png")
        assert not (here / "b.csv").exists()

    def test_a_column_that_nobody_knows(self, place: Any, twoviews: Command, here: Path) -> None:
        (here / "other.csv").write_text("file_name,label,whys\n00,a,\n", encoding="utf-8")
        outcome = twoviews("suggest", place.run, place.unlabelled, "--labels", "other.csv", "--out", "b.csv")
        refused(outcome, 3, "other.csv, line 1: unknown column 'whys'")
