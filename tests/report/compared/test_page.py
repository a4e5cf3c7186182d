"""A comparison on the page: what a manager, a reviewer and a hostile file get to see."""

import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from twoviews.report import write_report
from twoviews.report.arms import arm_of, order_arms
from twoviews.report.details import reliability_panel
from twoviews.report.labels import LabelScale, floor_scores, saving_text
from twoviews.report.parts import Info
from twoviews.report.results import Bin, Details, Floor, Results, Row, Saving
from twoviews.report.tried import looks_text, protocol, tried
from twoviews.report.verdicts import doubts, shown
from twoviews.report.words import p_value, points

Change = Callable[[Path, Callable[[dict[str, Any]], None]], None]
REFERENCE = "reference-linear:timm:vit_small_patch14_dinov2.lvd142m"


class Outline(HTMLParser):
    """Sections, and whether every element that is opened is closed in order."""

    VOID = ("meta", "link", "img", "input", "br", "image", "path", "rect", "circle", "polyline", "polygon")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sections += [dict(attrs)["id"] or ""] if tag == "section" else []
        self.scripts += tag == "script"
        self.wrong += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def page_of(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def words(text: str) -> str:
    """What a reader sees of a page, without tags."""
    plain = re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", text, flags=re.S)
    return " ".join(html.unescape(plain).split())


def test_the_verdict_stands_first_with_a_number_and_interval_for_each_budget(
    compared_run: Path, simulated: tuple[dict[str, Any], Any, Any]
) -> None:
    text = page_of(compared_run)
    verdict = simulated[0]["verdict"]
    sections = ["labels", "comparison", "results", "classes", "calibration", "tried", "protocol"]
    assert Outline(text).sections == sections
    assert html.unescape(re.findall(r"<h1[^>]*>(.*?)</h1>", text)[0]) in verdict["sentence"]
    tiles = re.findall(
        r'<li class="tile (\w+)"><span class="at">(.*?)</span><b>(.*?)</b><span class="reach">(.*?)<', text
    )
    assert len(tiles) == len(verdict["comparisons"]) == 3
    for (css, _, number, reach), c in zip(tiles, verdict["comparisons"], strict=True):
        assert css == {"helps": "helps", "hurts": "hurts", "cannot tell": "unsure"}[c["conclusion"]]
        assert number == points(c["mean_difference"])
        assert reach == f"{points(c['low'])} to {points(c['high'])}"


def test_pages_are_well_formed_and_need_no_script(compared_run: Path) -> None:
    outline = Outline(page_of(compared_run))
    assert outline.wrong == []
    assert outline.open == []
    assert outline.scripts == 1
    text = words(page_of(compared_run))
    for said in ("The test set was opened 2 times", "4 items of train nearly the same", "tested on 240 images"):
        assert said in text, "all of it stands in the page itself"


def test_the_picture_holds_all_arms_their_spread_guessing_and_labels_saved(
    compared_run: Path, simulated: tuple[dict[str, Any], Any, Any]
) -> None:
    results = simulated[0]
    section = page_of(compared_run).partition('<section id="labels">')[2].partition("</section>")[0]
    wide = section.partition('<div class="narrow">')[0]
    arms = {row["arm"] for row in results["rows"]}
    assert set(re.findall(r'data-name="([^"]*)"', wide)) == {html.escape(arm_of(arm).name) for arm in arms}
    assert wide.count('class="reference"') == 2
    assert "random guess" not in wide, "words in the plot would lie on the lines"
    assert "guessing: 25.0 (random guess) and " in html.unescape(section.partition('<ul class="legend">')[2])
    assert wide.count('class="band') == 2, "the verdict's arm and the baseline"
    assert wide.count('class="hair') > 10
    mine = [s for s in results["verdict"]["labels_saved"] if s["arm"] == results["verdict"]["primary_arm"]]
    helped = {c["labels_per_class"] for c in results["verdict"]["comparisons"] if c["conclusion"] == "helps"}
    longer = [
        s for s in mine if s["labels_per_class"] in helped and (s["baseline_labels"] or s["more_than"]) > s["labels"]
    ]
    assert longer, "the simulated gain saves labels"
    assert wide.count('class="arrow"') == len(longer)
    assert "labelled images, log scale" in wide


def test_a_difference_that_may_be_chance_saves_no_labels(compared_run: Path, change: Change) -> None:
    def unclear(results: dict[str, Any]) -> None:
        for c in results["verdict"]["comparisons"]:
            c["conclusion"] = "cannot tell"

    change(compared_run, unclear)
    text = page_of(compared_run)
    assert 'class="arrow"' not in text
    assert text.count("<small>not clear</small>") == 3
    assert "what it saves may be chance" in text


def test_references_say_who_wins(compared_run: Path, change: Change) -> None:
    def beaten(results: dict[str, Any]) -> None:
        verdict = results["verdict"]
        verdict["notes"] = ["Public weights are better: use them.", "Another thing."]
        verdict["sentence"] += " Another thing."
        verdict["others"] = [
            {
                "labels_per_class": 10,
                "arm": "linear",
                "against": REFERENCE,
                "mean_difference": -0.08,
                "low": -0.1,
                "high": -0.06,
                "p_adjusted": 0.001,
                "conclusion": "hurts",
            }
        ]

    change(compared_run, beaten)
    text = words(page_of(compared_run))
    assert "Against encoders that were not trained here" in text
    assert "linear probe minus reference vit_small_patch14_dinov2.lvd142m, linear probe" in text
    assert "−8.0 −10.0 to −6.0 worse" in text
    assert "Public weights are better: use them." in text
    assert text.count("Another thing.") == 1, "what the sentence says is not said again"


def test_p_values_are_shown_with_their_correction(
    compared_run: Path, simulated: tuple[dict[str, Any], Any, Any]
) -> None:
    text = words(page_of(compared_run))
    assert "p, adjusted" in text
    for c in simulated[0]["verdict"]["comparisons"]:
        assert f"{p_value(c['p'])} {p_value(c['p_adjusted'])} 5 240 {c['conclusion']}" in text


def test_classes_and_confusions_stand_side_by_side(
    compared_run: Path, simulated: tuple[dict[str, Any], Any, Any]
) -> None:
    text = page_of(compared_run)
    section = text.partition('<section id="classes">')[2].partition("</section>")[0]
    assert section.count('<svg class="confusion"') == 2
    results = simulated[0]
    two = [
        next(d for d in results["details"] if d["arm"] == arm)
        for arm in (results["verdict"]["primary_arm"], "supervised")
    ]
    first = [d["per_class"][0] for d in two]
    gained = points(first[0]["f1"] - first[1]["f1"])
    numbers = " ".join(f"{100 * s[key]:.1f}" for s in first for key in ("precision", "recall", "f1"))
    assert f"ankle boot {first[0]['support']} {numbers} {gained}" in words(section)
    assert "&lt;dress&gt; &amp; co" in section
    assert "<dress>" not in text


def test_calibration_is_drawn_as_it_comes_and_scaled(
    compared_run: Path, simulated: tuple[dict[str, Any], Any, Any]
) -> None:
    section = page_of(compared_run).partition('<section id="calibration">')[2].partition("</section>")[0]
    assert section.count('data-name="as it comes"') == 2
    row = next(
        r for r in simulated[0]["rows"] if (r["arm"], r["labels_per_class"], r["seed"]) == ("supervised", "all", 0)
    )
    assert f"as it comes, ECE {100 * row['ece']:.1f} %" in section
    assert f"temperature {row['temperature']:.3g}, ECE {100 * row['ece_scaled']:.1f} %" in section


def test_calibration_points_lie_where_they_were_measured() -> None:
    bins = [Bin(count=9, confidence=0.5, accuracy=0.25), Bin(count=0, confidence=None, accuracy=None)]
    panel = reliability_panel(Details(arm="knn", labels_per_class=5, reliability=bins), Results())
    assert panel is not None
    assert "as it comes: 50.0 % sure, 25.0 % right" in panel.chart
    assert len(panel.legend) == 1
    assert reliability_panel(Details(arm="knn", labels_per_class=5), Results()) is None


def long_search(run: Path) -> Path:
    """The run with an arm that tried nine settings."""
    path = run / "evaluation" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    trials = [{"setting": i, "val_score": 0.1 * i} for i in range(9)]
    results["protocol"]["settings"]["linear"] = {"setting": 8, "reference_budget": 10, "trials": trials}
    path.write_text(json.dumps(results), encoding="utf-8")
    return run


def test_what_was_tried_is_listed_whatever_a_setting_looks_like(compared_run: Path) -> None:
    text = words(page_of(compared_run))
    assert "3 at 100 labels a class: 3 → 80.0 0.3 → 79.0 0.03 → 78.0" in text
    assert "lr: 0.001; stop: 0.6 → 79.0" in text
    assert "nothing: fixed beforehand" in text
    assert "<summary>9 at 10 labels a class</summary>" in page_of(long_search(compared_run))
    odd = Results(
        protocol={"settings": {"knn": 5, "linear": {"trials": ["x", {"setting": None, "val_score": float("nan")}]}}}
    )
    assert [(t.chosen, t.trials) for t in tried(odd)] == [("", [("", "–", True)]), ("5", [])]
    assert tried(Results(protocol={"settings": [1]})) == []


def test_the_paragraph_can_be_copied_and_the_command_run(compared_run: Path) -> None:
    text = page_of(compared_run)
    paste = re.findall(r'<blockquote class="paste">(.*?)</blockquote>', text)
    assert len(paste) == 1
    assert paste[0].startswith("A convnet was pretrained once")
    assert ".paste{" in text
    assert "user-select:all" in text
    assert "<pre>twoviews evaluate runs/a --train labelled/train --test labelled/test</pre>" in text
    listed = Results(protocol={"command": ["twoviews", "evaluate", "my run"]})
    assert protocol(listed).command == "twoviews evaluate 'my run'"


def test_the_first_look_is_told_and_a_second_one_marked(compared_run: Path, change: Change) -> None:
    assert 'class="banner">The test set was opened 2 times' in page_of(compared_run)

    def once(results: dict[str, Any]) -> None:
        results["looks"] = {"count": 1}

    change(compared_run, once)
    assert 'class="lead">The test set was opened once' in page_of(compared_run)
    assert looks_text(None) == ("", False)


def test_another_metric_is_drawn_and_named(compared_run: Path, change: Change) -> None:
    def balanced(results: dict[str, Any]) -> None:
        results["verdict"]["metric"] = "balanced_accuracy"

    change(compared_run, balanced)
    text = page_of(compared_run)
    assert "test balanced accuracy, %" in text
    assert "points of balanced accuracy" in text
    assert re.search(r'id="m-balanced_accuracy" checked', text)


def test_two_hundred_classes_fold_and_stay_small(compared_run: Path, change: Change) -> None:
    names = [f"class <{i}> & {'long ' * (i % 9)}" for i in range(200)]

    def many(results: dict[str, Any]) -> None:
        results["classes"] = names
        for d in results["details"]:
            d["confusion"] = [[3 if i == j else (i * j) % 2 for j in range(200)] for i in range(200)]
            d["per_class"] = [{"class": n, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 6} for n in names]

    change(compared_run, many)
    text = page_of(compared_run)
    assert len(text) < 3_000_000
    assert '<details class="wide-open"><summary>Precision, recall and F1 of 200 classes' in text
    assert Outline(text).wrong == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.update(floors=[], details=[], looks=None, protocol={}, classes=[], excluded=[]),
        lambda r: r.update(floors=[{"name": "<b>"}], details=[{"arm": "linear", "labels_per_class": 1}]),
        lambda r: r.update(rows=[{"arm": "linear", "labels_per_class": 1, "accuracy": 0.5}]),
        lambda r: r.update(rows=[]),
        lambda r: r["rows"].clear() or r["details"].clear(),
        lambda r: [row.update(n_train=None, ece=float("nan"), accuracy=float("inf")) for row in r["rows"]],
        lambda r: [row.pop("n_train") for row in r["rows"][:3]],
        lambda r: r.update(verdict={"sentence": "No verdict: nothing was run."}),
        lambda r: r.update(verdict={"sentence": "", "metric": "precision_macro", "primary_arm": "absent"}),
        lambda r: r.update(
            verdict={"sentence": "x", "metric": "no such", "labels_saved": [{"arm": "a", "labels_per_class": 1}]}
        ),
        lambda r: [
            c.update(low=None, high=None, p=None, n=None, mean_difference=float("nan"))
            for c in r["verdict"]["comparisons"]
        ],
        lambda r: [s.update(labels=0, score=None) for s in r["verdict"]["labels_saved"]],
        lambda r: r.update(looks={"count": None, "openings": [{}]}),
        lambda r: r["verdict"].update(
            others=[{"labels_per_class": 1, "arm": "<i>", "against": "<u>"}], notes=["<script>"]
        ),
        lambda r: r["protocol"].update(paragraph="<script>alert(1)</script>", command=[], settings={"<b>": None}),
    ],
    ids=range(15),
)
def test_whatever_is_missing_or_odd_still_has_a_page(compared_run: Path, change: Change, spoil: Any) -> None:
    change(compared_run, spoil)
    outline = Outline(page_of(compared_run))
    assert outline.wrong == []
    assert outline.open == []
    assert outline.scripts == 1


def test_one_arm_alone(compared_run: Path, change: Change) -> None:
    def alone(results: dict[str, Any]) -> None:
        results["rows"] = [row for row in results["rows"] if row["arm"] == "linear"]
        results["details"] = [d for d in results["details"] if d["arm"] == "linear"]
        results["verdict"] = {"sentence": "No verdict: the supervised baseline was not run.", "primary_arm": "linear"}

    change(compared_run, alone)
    text = page_of(compared_run)
    assert "comparison" not in Outline(text).sections
    assert text.count('<svg class="confusion"') == 1
    assert "F1 gained" not in text


def test_labels_have_their_place_where_their_number_is_known() -> None:
    rows = [Row(arm="a", labels_per_class=b, n_train=n) for b, n in ((1, 10), (10, 100), ("all", 1000))]
    scale = LabelScale(rows, [1, 10, "all"])
    assert scale.places == {1: 1.0, 10: 2.0, "all": 3.0}
    assert [text for _, text in scale.axis(700).ticks] == ["10\n1", "100\n10", "1,000\nall"]
    assert [text for _, text in scale.axis(60).ticks] == ["10\n1", "", "1,000\nall"], "no room for the middle one"
    other = [*rows, Row(arm="b", labels_per_class="all", n_train=2000)]
    unknown = LabelScale(other, [1, 10, "all"])
    assert unknown.gap is not None
    assert unknown.places[10] == 1.0
    assert unknown.arrows([Saving(arm="a", labels_per_class=1, labels=10, score=0.5, baseline_labels=40)]) == []


def test_arrows_lead_to_where_the_baseline_is_as_good() -> None:
    scale = LabelScale([Row(arm="a", labels_per_class=1, n_train=10)], [1])
    savings = [
        Saving(arm="a", labels_per_class=1, labels=10, score=0.5, baseline_labels=42),
        Saving(arm="a", labels_per_class=1, labels=10, score=0.5, more_than=1000),
        Saving(arm="a", labels_per_class=1, labels=10, score=0.5, baseline_labels=7),
        Saving(arm="a", labels_per_class=1, labels=10, score=0.5, more_than=10),
        Saving(arm="a", labels_per_class=1, labels=10, score=0.5),
        Saving(arm="a", labels_per_class=1, labels=10, score=0.5, at_most=5),
    ]
    drawn = scale.arrows(savings)
    assert [(a.start, round(a.stop, 3), a.text, a.beyond) for a in drawn] == [
        ((1.0, 0.5), 1.623, "4.2×", False),
        ((1.0, 0.5), 3.0, ">100×", True),
    ]
    assert saving_text(savings[0]) == "the baseline needs about 42 labels, 4.2 times as many"
    assert saving_text(savings[1]) == "the baseline needs more than 1,000 labels"
    assert saving_text(savings[4]) == "not known"
    assert saving_text(savings[5]) == "the baseline needs at most 5 labels"


def test_guessing_is_told_by_how_it_guesses() -> None:
    floors = [Floor(name="random guess", accuracy=0.1), Floor(name="majority class", accuracy=0.12, **{"class": "cat"})]
    assert floor_scores(floors, "accuracy") == {"random guess": 0.1, "majority class, cat": 0.12}
    assert floor_scores(floors, "f1_macro") == {}


def saving(labels: int, **told: float) -> dict[str, Any]:
    return {"arm": "linear", "labels_per_class": labels, "labels": 10 * labels, "score": 0.5, **told}


@pytest.mark.parametrize(
    ("conclusion", "saved", "kept"),
    [
        ("cannot tell", [saving(1, more_than=10), saving(2, more_than=10), saving(24, more_than=10)], []),
        ("helps", [saving(1, more_than=10), saving(2, more_than=10)], [1]),
        ("cannot tell", [saving(1, baseline_labels=36), saving(10, more_than=100), saving(20, more_than=100)], [1, 10]),
        ("cannot tell", [saving(1, at_most=5), saving(24, at_most=10)], [1, 24]),
        ("cannot tell", [saving(1)], []),
    ],
)
def test_savings_beyond_the_baseline_say_nothing(conclusion: str, saved: list[dict[str, Any]], kept: list[int]) -> None:
    compared = {"labels_per_class": 1, "arm": "linear", "against": "supervised", "conclusion": conclusion}
    verdict = {"sentence": "", "primary_arm": "linear", "comparisons": [compared], "labels_saved": saved}
    told = shown(Results.model_validate({"verdict": verdict}))
    assert [row.of.labels_per_class for row in told.savings] == kept
    others = {**verdict, "primary_arm": "knn", "comparisons": []}
    told = shown(Results.model_validate({"verdict": others}))
    assert [row.of.labels_per_class for row in told.other_savings] == ([] if conclusion == "helps" else kept)


def test_without_savings_there_is_no_heading(compared_run: Path, change: Change) -> None:
    assert "Labels saved by" in page_of(compared_run)

    def nothing(results: dict[str, Any]) -> None:
        for c in results["verdict"]["comparisons"]:
            c["conclusion"] = "cannot tell"
        for s in results["verdict"]["labels_saved"]:
            s.update(baseline_labels=None, at_most=None, more_than=1)

    change(compared_run, nothing)
    assert "Labels saved by" not in page_of(compared_run)


def test_an_encoder_below_the_floors_is_named() -> None:
    def results(**scores: float) -> Results:
        rows = [
            {"arm": arm.replace("_", "-"), "labels_per_class": budget, "accuracy": score if budget == "all" else 0.5}
            for arm, score in scores.items()
            for budget in (1, "all")
        ]
        return Results.model_validate({"rows": rows})

    below = results(linear=0.171, random_linear=0.233, pixels_linear=0.29)
    assert doubts(below, Info()) == [
        "The linear probe (17.1 %) scores below a random encoder (23.3 %) and raw pixels (29.0 %) with all labels."
    ]
    between = results(linear=0.25, random_linear=0.233, pixels_linear=0.29)
    assert doubts(between, Info()) == ["The linear probe (25.0 %) scores below raw pixels (29.0 %) with all labels."]
    assert doubts(results(linear=0.3, random_linear=0.233, pixels_linear=0.29), Info()) == []
    assert doubts(results(finetune=0.1, random_linear=0.233), Info()) == []
    assert doubts(results(linear=0.1), Info()) == []


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({"steps": 1, "epochs": 0.5, "status": "finished"}, ["The encoder was pretrained for 1 step (0.5 epochs)."]),
        ({"steps": 1250, "epochs": 0.375}, ["The encoder was pretrained for 1,250 steps (0.38 epochs)."]),
        ({"steps": 2, "epochs": 1.0}, []),
        ({"steps": 1, "epochs": 0.5, "status": "running"}, []),
        ({}, []),
    ],
)
def test_hardly_any_pretraining_is_named(info: dict[str, Any], found: list[str]) -> None:
    assert doubts(Results(), Info.model_validate(info)) == found


def test_references_are_named_by_their_encoder() -> None:
    assert arm_of(REFERENCE).name == "reference vit_small_patch14_dinov2.lvd142m, linear probe"
    assert arm_of("reference-finetune:/some/where/<run>").name == "reference <run>, fine-tuned"
    assert arm_of("unheard-of").floor
    names = ["unheard-of", REFERENCE, "supervised", "linear"]
    assert order_arms(names) == ["linear", "supervised", REFERENCE, "unheard-of"]


def test_long_headlines_are_set_smaller() -> None:
    text = "It helped " + ", ".join(f"at {n} labels a class (+1.0 ± 0.5 points)" for n in (1, 2, 5, 10)) + ". Rest."
    told = shown(Results.model_validate({"verdict": {"sentence": text}}))
    assert told.size == "long"
    assert told.rest == "Rest."
    assert shown(Results()) == type(told)()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.3331, "0.33"), (0.04, "0.04"), (0.00123, "0.0012"), (0.0004, "0.0004"), (1e-7, "< 0.0001")],
)
def test_p_values_in_words(value: float | None, text: str) -> None:
    assert p_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "+10.0"), (-0.0312, "−3.1"), (-0.0001, "0.0"), (0.0, "0.0"), (None, "–")]
)
def test_points_in_words(value: float | None, text: str) -> None:
    assert points(value) == text


def test_results_as_they_are_written_can_be_read(simulated: tuple[dict[str, Any], Any, Any]) -> None:
    read = Results.model_validate(json.loads(json.dumps(simulated[0])))
    assert read.metric == "accuracy"
    assert len(read.details) == len({row["arm"] for row in simulated[0]["rows"]})
    assert all(row.n_train for row in read.rows)
