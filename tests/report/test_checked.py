"""The page of a check, as a reader and an attacker meet it."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.errors import ResourceError
from twoviews.report.albums import MOST_GROUPS, MOST_PAIRS, pictured
from twoviews.report.checked import MOST_CLASSES, MOST_ROWS, write_check_page
from twoviews.report.scatter import size_chart
from twoviews.report.suggested import write_suggested_page

HOSTILE = '"><img src=x onerror=alert(1)>\u202egnp\udcff\n.png'
VOID = {"meta", "link", "img", "br", "input"}


def found(**changes: Any) -> dict[str, Any]:
    spread = {"min": 10, "median": 20.0, "max": 30}
    return {
        "verdict": "5 images can be used.",
        "spec": "photos",
        "images": 5,
        "rejected": [],
        "formats": {"PNG": 5},
        "modes": {"RGB": 5},
        "depths": {"uint8": 5},
        "notes": {},
        "channels": 3,
        "channels_found": {3: 5},
        "width": spread,
        "height": spread,
        "aspect": {"min": 0.5, "median": 1.0, "max": 2.0},
        "sizes": [(10, 20, 3), (30, 30, 2)],
        "bytes": 12_345_678,
        "classes": {"cat": 3, "dog": 2},
        "balance": 0.97,
        "unlabelled": 0,
        "groups": None,
        "duplicates": [],
        "same_files": [],
        "near_by": "perceptual hash and thumbnail",
        "near_duplicates": [],
        "conflicts": [],
        "misnamed": {},
        "extremes": {"darkest": {}, "brightest": {}, "flat": {}, "long": {}},
        "leaks": None,
        "images_per_second": 812.3,
        "suggestions": {
            name: {"value": value, "reason": f"because of {name}"}
            for name, value in (
                ("image_size", 96),
                ("policy", "simclr"),
                ("encoder", "resnet_mini"),
                ("stem", "standard"),
                ("intensity", "uint8"),
            )
        },
        "warnings": [],
        **changes,
    }


def leaks(**changes: Any) -> dict[str, Any]:
    return {"spec": "test", "images": 9, "rejected": [], "exact": [], "near": [], "groups": [], **changes}


def alike(first: str, second: str, similarity: float = 0.991, bits: int | None = 2) -> dict[str, Any]:
    return {"first": first, "second": second, "similarity": similarity, "bits": bits}


def encoded(kind: str = "JPEG", size: tuple[int, int] = (90, 60)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


class Page(HTMLParser):
    """Elements with attributes, the text of each kind of element, and whether every one is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inside.setdefault(self.open[-1], []).append(data)

    def text(self, tag: str) -> str:
        return " ".join(" ".join(self.inside.get(tag, [])).split())

    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.elements if tag == "section"]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(tmp_path: Path, values: dict[str, Any], **pictures: Any) -> Page:
    path = write_check_page(tmp_path / "check.html", values, **({"pictures": {}} | pictures))
    return Page(path.read_text(encoding="utf-8"))


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    page = page_of(tmp_path, found(warnings=["one class only"]))
    assert page.text("h1") == "5 images can be used."
    assert page.sections() == ["found", "classes", "suggested"]
    assert "one class only." in page.text("li")
    assert page.open == []
    for words in ("PNG 5", "10 to 30 px, median 20", "0.50 to 2, median 1", "0.97 (1 is even)", "812 images/s"):
        assert words in page.text("dd")
    assert "12.3 MB" in page.text("span")


def test_the_command_carries_the_suggestions(tmp_path: Path) -> None:
    assert page_of(tmp_path, found()).text("pre") == (
        "twoviews pretrain photos --image-size 96 --encoder resnet_mini --set views.policy=simclr --out runs/a"
    )
    values = found(spec="my photos", leaks=leaks(near=[alike("a", "b")]))
    values["suggestions"]["intensity"]["value"] = "percentile:0.1,99.9"
    assert page_of(tmp_path, values).text("pre") == (
        "twoviews pretrain 'my photos' --image-size 96 --encoder resnet_mini --set views.policy=simclr "
        "--set data.intensity=percentile:0.1,99.9 --exclude exclude.csv --out runs/a"
    )


def test_whatever_is_odd_is_shown(tmp_path: Path) -> None:
    values = found(
        rejected=[{"id": "bad.png", "reason": "truncated PNG"}],
        misnamed={"a.jpg": "PNG"},
        duplicates=[["d1", "d2", "d3"]],
        same_files=[["d1", "d2", "d3"]],
        near_duplicates=[alike("n1", "n2"), alike("n1", "n3", bits=None)],
        conflicts=[{"ids": ["c1", "c2"], "labels": ["cat", "dog"], "exact": False}],
        extremes={"darkest": {"dark": 3.2}, "brightest": {"bright": 250.0}, "flat": {"f": 0.0}, "long": {"l": 4.0}},
        leaks=leaks(exact=[alike("x", "X", 1.0, 0)], near=[alike("y", "Y")]),
    )
    mine, other = pictured(values)
    assert mine == ["d1", "d2", "d3", "n1", "n2", "n3", "c1", "c2", "x", "y", "dark", "bright", "f", "l"]
    assert other == ["X", "Y"]
    pictures, small = dict.fromkeys(mine, encoded()), encoded("PNG", (8, 8))
    page = page_of(tmp_path, values, pictures=pictures, other_pictures={"X": small})
    assert page.sections() == [
        *("found", "classes", "suggested", "rejected", "misnamed", "leaks", "near-leaks", "conflicts"),
        *("duplicates", "near", "long", "darkest", "brightest", "flat"),
    ]
    assert {f"#{name}" for name in page.sections()} == {entry["href"] for entry in page.all("a")}
    images = page.all("img")
    assert len(images) == 3 + 4 + 2 + 2 + 1 + 4
    assert sum(entry.get("class") == "crisp" for entry in images) == 1
    assert page.html.count("no picture") == 1  # Y
    for words in (
        "similarity 0.991, 2 of 64 bits differ",
        "similarity 0.991",
        "3 equal files",
        "equal pixels",
        "nearly the same",
        "truncated PNG",
    ):
        assert words in page.html
    assert page.open == []


def test_what_is_too_much_is_counted(tmp_path: Path) -> None:
    values = found(
        rejected=[{"id": f"{i}.png", "reason": "truncated"} for i in range(MOST_ROWS + 7)],
        near_duplicates=[alike(f"a{i}", f"b{i}") for i in range(MOST_PAIRS + 1_200)],
        duplicates=[[f"{g}-{i}" for i in range(2_000)] for g in range(MOST_GROUPS + 3)],
        classes={f"class {i}": 100 - i for i in range(MOST_CLASSES + 2)},
        formats={f"F{i}": 1 for i in range(20)},
    )
    page = page_of(tmp_path, values)
    text = page.text("p")
    for words in ("and 7 more (check.json)", "and 1,200 more (check.json)", "and 3 more (check.json)"):
        assert words in text
    assert "and 2 more (check.json)" in text
    assert "and 8 more" in page.text("dd")
    assert len(page.all("figure")) == 1 + 2 * MOST_PAIRS + 6 * MOST_GROUPS
    assert len(page.html) < 300_000


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    values = found(
        spec=HOSTILE,
        verdict=f"1 leak into {HOSTILE}",
        rejected=[{"id": HOSTILE, "reason": HOSTILE}],
        classes={HOSTILE: 2, "b": 1},
        formats={HOSTILE: 1},
        notes={HOSTILE: 1},
        duplicates=[[HOSTILE, "b"]],
        near_by=HOSTILE,
        conflicts=[{"ids": [HOSTILE, "b"], "labels": [HOSTILE, "b"], "exact": True}],
        misnamed={HOSTILE: "PNG"},
        extremes={"darkest": {HOSTILE: 1.0}, "brightest": {}, "flat": {}, "long": {}},
        leaks=leaks(spec=HOSTILE, exact=[alike(HOSTILE, HOSTILE)], near=[alike(HOSTILE, HOSTILE)]),
        warnings=[HOSTILE],
    )
    page = page_of(tmp_path, values, pictures={HOSTILE: encoded()}, other_pictures={HOSTILE: encoded()})
    assert "<img src=x" not in page.html
    assert "\u202e" not in page.html
    assert "\\udcff" in page.html
    assert page.all("script") == []
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert page.open == []


def test_the_page_can_neither_run_nor_load_anything(tmp_path: Path) -> None:
    page = page_of(tmp_path, found(duplicates=[["a", "b"]]), pictures={"a": encoded()})
    (style,) = re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [entry["content"] for entry in page.all("meta") if "http-equiv" in entry]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert not any("style" in attributes for _, attributes in page.elements)
    assert all((entry["src"] or "").startswith("data:image/jpeg;base64,") for entry in page.all("img"))
    assert re.findall(r"https?://", page.html) == []


def test_cards_of_one_picture_lie_in_a_grid(tmp_path: Path) -> None:
    long = {"id": f"{'a-long-folder/' * 9}1d2e0956.jpg", "why": "typical cluster=21 score=3.5808"}
    path = write_suggested_page(tmp_path / "next.html", [long], pictures={}, spec="photos", out="")
    page = Page(path.read_text(encoding="utf-8"))
    grids = [entry["class"] for entry in page.all("div") if (entry["class"] or "").startswith("shots")]
    assert grids == ["shots even"]
    assert long["id"] in page.text("bdi")
    (caption,) = re.findall(r"\nfigcaption\{(.*?)\}", page.html)
    assert "height:" not in caption.replace("line-height:", ""), "a name is shown whole"
    extremes = {"darkest": {"dark": 3.2}, "brightest": {}, "flat": {}, "long": {}}
    page = page_of(tmp_path, found(duplicates=[["a", "b"]], extremes=extremes))
    assert re.findall(r'class="(shots[^"]*)"', page.html) == ["shots", "shots even"]


def test_a_page_without_labels_or_sizes(tmp_path: Path) -> None:
    page = page_of(tmp_path, found(classes={}, balance=None, sizes=[(8, 8, 5)], unlabelled=5, bytes=0))
    assert page.sections() == ["found", "suggested"]
    assert "no labels" in page.text("span")
    assert "All images have one size." in page.text("p")


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        write_check_page(tmp_path / "file" / "check.html", found(), pictures={})


class TestChart:
    @pytest.mark.parametrize(
        "sizes",
        [[], [(1, 1, 1)], [(8, 8, 5)], [(1, 60000, 1), (60000, 1, 9)], [(100 + i, 130, i + 1) for i in range(300)]],
    )
    def test_any_sizes(self, sizes: list[tuple[int, int, int]]) -> None:
        drawn = str(size_chart(sizes, width=520, height=380))
        assert drawn.count("<circle") == len(sizes)
        assert "nan" not in drawn
        for match in re.finditer(r'c([xy])="([\d.]+)"', drawn):
            assert 0 <= float(match[2]) <= (520 if match[1] == "x" else 380)

    def test_squares_lie_on_the_diagonal(self) -> None:
        drawn = str(size_chart([(10, 10, 1), (1000, 1000, 1)], width=400, height=400))
        (first, second) = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)
        across, down = float(second[0]) - float(first[0]), float(first[1]) - float(second[1])
        assert abs(across) == pytest.approx(abs(down), abs=0.2)
