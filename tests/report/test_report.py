"""The page as a reader, a phone and an attacker meet it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.errors import DataError, ResourceError
from twoviews.report import write_report

HOSTILE = '"><img src=x onerror=alert(1)>.png'
SECTIONS = (
    *("labels", "comparison", "results", "training", "views", "classifier", "neighbours", "map", "health"),
    *("tried", "protocol", "derived", "provenance", "rejected"),
)
Edit = Callable[[Path, dict[str, Any]], None]


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, and texts by element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.inside.setdefault(self._open, []).append(data)

    @property
    def sections(self) -> list[str]:
        return [a["id"] or "" for tag, a in self.elements if tag == "section"]

    def text(self, tag: str) -> str:
        return " ".join(" ".join(self.inside.get(tag, [])).split())


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_every_part_has_its_section_in_order(run_dir: Path) -> None:
    assert write_report(run_dir) == run_dir / "report.html"
    page = page_of(run_dir)
    assert page.sections == list(SECTIONS)
    assert page.text("h1").startswith("Self-supervision helped: +14.2 points")
    assert [a["href"] for tag, a in page.elements if tag == "a"] == [f"#{id}" for id in SECTIONS]


@pytest.mark.parametrize(
    ("missing", "without"),
    [
        ("run.json", {"derived"}),
        ("config.toml", set()),
        ("metrics.jsonl", {"health"}),
        ("rejected.csv", {"rejected"}),
        ("views.png", {"views"}),
        ("evaluation/results.json", {"labels", "comparison", "results", "classifier", "tried", "protocol"}),
        ("evaluation/curves.jsonl", set()),
        ("evaluation/gallery.json", {"neighbours", "map"}),
        ("evaluation/thumbnails.png", {"neighbours"}),
    ],
)
def test_a_missing_file_costs_its_own_sections_only(run_dir: Path, missing: str, without: set[str]) -> None:
    (run_dir / missing).unlink()
    assert page_of(run_dir).sections == [name for name in SECTIONS if name not in without]


def test_without_evaluation_the_page_says_what_to_do_next(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "evaluation")
    page = page_of(run_dir)
    assert page.text("h1") == "The encoder is trained. What it is worth is not measured yet."
    assert f"twoviews evaluate {run_dir} --train DATA --test DATA" in page.text("pre")
    assert "resume" not in page.text("pre")


def test_an_unfinished_run_says_how_far_it_is(run_dir: Path, edit: Edit) -> None:
    shutil.rmtree(run_dir / "evaluation")
    edit(run_dir / "run.json", {"status": "running", "step": 120})
    page = page_of(run_dir)
    assert page.text("h1") == "This run is still on its way."
    assert "(status: running, step 120 of 460)" in page.text("p")
    assert f"twoviews resume {run_dir}" in page.text("pre")


def test_the_oldest_and_barest_runs_have_a_page(tmp_path: Path) -> None:
    run = tmp_path / "bare"
    (run / "evaluation").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": 5.1}\n{"step": 3, "lo')
    (run / "evaluation" / "results.json").write_text('{"rows": [{"arm": "new-arm", "labels_per_class": 3}]}')
    page = page_of(run)
    assert page.sections == ["training"]
    assert page.text("h1") == "Evaluated, but without a verdict."


def test_one_budget_and_one_seed_still_draw_every_arm(run_dir: Path) -> None:
    rows = [{"arm": arm, "labels_per_class": "all", "seed": 0, "accuracy": 0.5} for arm in ("knn", "pixels-knn")]
    (run_dir / "evaluation" / "results.json").write_text(json.dumps({"rows": rows}))
    titles = page_of(run_dir).text("title")
    assert "nearest neighbours, all labels: 50.0 % (1 seed)" in titles
    assert "raw pixels + kNN, all labels: 50.0 % (1 seed)" in titles


def test_the_table_holds_mean_and_deviation_over_seeds(run_dir: Path) -> None:
    rows = [
        {"arm": "linear", "labels_per_class": 5, "seed": s, "accuracy": a, "f1_macro": 0.25}
        for s, a in enumerate((0.90, 0.92, 0.94))
    ]
    (run_dir / "evaluation" / "results.json").write_text(json.dumps({"rows": rows}))
    html = page_of(run_dir).html
    assert re.search(r">92\.0</span><small title=\"3 seeds\">± 2\.0</small>", html)
    assert re.search(r">25\.0</span><small title=\"3 seeds\">± 0\.0", html)
    assert "balanced accuracy" not in html


def test_curves_show_the_runs_that_count_and_not_the_trials(run_dir: Path) -> None:
    names = re.findall(r'data-name="(fine-tuning|supervised only), seed', page_of(run_dir).html)
    assert len(names) == 2 * (3 * 5 + 1)
    curves = run_dir / "evaluation" / "curves.jsonl"
    rows = [
        {
            "arm": "finetune",
            "labels_per_class": 1,
            "seed": 0,
            "update": u,
            "train_loss": loss,
            "val_accuracy": v,
        }
        for loss, v in ((9.0, 0.1), (1.0, 0.5))
        for u in (10, 20)
    ]
    curves.write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = page_of(run_dir).html
    assert "Validation accuracy, %." in html
    assert len(re.findall(r'points="\S+ \S+" data-name="fine-tuning, seed 0"', html)) == 1


def test_nested_protocols_read_as_words(run_dir: Path, edit: Edit) -> None:
    edit(run_dir / "evaluation" / "results.json", {"protocol": {"batchnorm": {"samples": 512, "of": ["a", {"b": 1}]}}})
    assert "samples: 512; of: a, (b: 1)" in page_of(run_dir).text("dd")


def test_pretraining_is_drawn_against_chance(run_dir: Path) -> None:
    assert "chance 6.24" in page_of(run_dir).html
    (run_dir / "run.json").unlink()
    assert "chance 6.24" not in page_of(run_dir).html


def test_hostile_words_are_inert_wherever_they_stand(run_dir: Path, edit: Edit) -> None:
    run = run_dir.rename(run_dir.with_name('x" onload="alert(2)'))
    evil = f"</script></style></title><script>alert(3)</script>{HOSTILE}"
    decisions = {evil: {"value": [evil], "reason": evil}}
    edit(run / "run.json", {"cpu": evil, "command": ["twoviews", evil], "decisions": decisions})
    results = json.loads((run / "evaluation" / "results.json").read_text())
    results["verdict"]["sentence"] = evil
    results["protocol"][evil] = {evil: [evil]}
    results |= {"classes": [evil] * 10, "cut": [evil], "excluded": [{"id": evil}]}
    results["rows"][0]["arm"] = evil
    (run / "evaluation" / "results.json").write_text(json.dumps(results))
    edit(run / "evaluation" / "gallery.json", {"classes": [f"{i}{evil}" for i in range(10)]})
    (run / "config.toml").write_text(f"[views]\npolicy = '{evil}'\n")
    page = page_of(run)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == ["contact sheet of augmented views"]
    assert not [name for _, a in page.elements for name in a if name.startswith("on") or name == "style"]
    assert page.text("h1") == evil
    assert HOSTILE in page.text("bdi")


def test_names_that_are_no_text_are_shown_as_escapes(run_dir: Path) -> None:
    with (run_dir / "rejected.csv").open("ab") as file:
        file.write(b"raw-\xff.png,unreadable\n")
    gallery = run_dir / "evaluation" / "gallery.json"
    gallery.write_text(gallery.read_text().replace('"digits/', '"\\\\udcff/'))
    page = page_of(run_dir)
    assert "raw-\\udcff.png" in page.text("bdi")
    assert "notes/\\u202egnp.txt\\n.png" in page.text("bdi")
    assert "\u202e" not in page.html


def test_nothing_is_requested_and_only_its_own_style_and_script_may_run(run_dir: Path) -> None:
    page = page_of(run_dir)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]*", "", page.html))
    policy = next(a["content"] or "" for _, a in page.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page.html, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert len(content) == 1
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_page_adapts_to_phone_and_dark(run_dir: Path) -> None:
    html = page_of(run_dir).html
    assert 'content="width=device-width, initial-scale=1"' in html
    assert "prefers-color-scheme:dark" in html
    figures = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    assert not re.search(r"(fill|stroke)=\"", figures), "colours come from the style sheet alone"


def test_the_page_stays_small(run_dir: Path, edit: Edit) -> None:
    rng = np.random.default_rng(0)
    count = 500
    photo = rng.integers(0, 256, (25 * 12, 20 * 12, 3), dtype=np.uint8)
    sheet = Image.fromarray(photo).resize((960, 1200), Image.Resampling.BICUBIC)
    noisy = np.asarray(sheet) // 2 + rng.integers(0, 96, (1200, 960, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(run_dir / "evaluation" / "thumbnails.png")
    Image.fromarray(noisy).save(run_dir / "views.png")
    edit(
        run_dir / "evaluation" / "gallery.json",
        {
            "ids": [f"{i}.jpg" for i in range(count)],
            "labels": [i % 10 for i in range(count)],
            "predicted": None,
            "xy": rng.random((count, 2)).tolist(),
        },
    )
    lines = [json.dumps({"step": s, "loss": float(rng.random())}) for s in range(20_000)]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    written = write_report(run_dir)
    assert written.stat().st_size < 3_000_000
    html = written.read_text(encoding="utf-8")
    assert html.count("data:image/") == 2
    assert "Each point is the mean of 84 steps." in html


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", r"run\.json cannot be read: Expecting"),
        ("run.json", "[]", r"run\.json cannot be read: Input should be a valid dictionary"),
        ("run.json", "[" * 100_000, r"run\.json cannot be read: "),
        ("config.toml", "a = ", r"config\.toml cannot be read: "),
        ("metrics.jsonl", '{"step": 1}\n{"st\n', r"metrics\.jsonl, line 2, cannot be read"),
        ("metrics.jsonl", '{"loss": 1}\n', r"metrics\.jsonl, line 1, cannot be read: step: Field required"),
        (
            "evaluation/results.json",
            '{"rows": [{"seed": 0}]}',
            r"results\.json cannot be read: rows\[0\]\.arm",
        ),
        (
            "evaluation/results.json",
            '{"classifier": {"confusion": [[1, 2]]}}',
            "the confusion matrix is not square",
        ),
        ("evaluation/curves.jsonl", "x\n", r"curves\.jsonl, line 1, cannot be read"),
        ("evaluation/gallery.json", '{"ids": ["a"], "xy": []}x', r"gallery\.json cannot be read: Extra data"),
        ("evaluation/gallery.json", '{"ids": ["a"], "labels": [1, 2]}', "2 labels for 1 ids"),
        (
            "evaluation/gallery.json",
            '{"ids": ["a"], "labels": [3], "classes": ["x"]}',
            "not among the 1 classes",
        ),
        ("evaluation/gallery.json", '{"neighbours": [{"query": 7}]}', "not among the 0 ids"),
        ("evaluation/gallery.json", '{"ids": ["a"], "xy": [[NaN, 0]]}', "a map position is not finite"),
        ("evaluation/gallery.json", '{"tile": 999, "ids": ["a"]}', r"thumbnails\.png is 960 x 720 pixels"),
        ("evaluation/thumbnails.png", "GIF89a", r"thumbnails\.png cannot be read: "),
        ("views.png", "", r"views\.png cannot be read: "),
    ],
)
def test_a_broken_file_is_named(run_dir: Path, file: str, content: str, message: str) -> None:
    (run_dir / file).write_text(content)
    with pytest.raises(DataError, match=message):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_a_cut_image_is_named(run_dir: Path) -> None:
    views = run_dir / "views.png"
    views.write_bytes(views.read_bytes()[:400])
    with pytest.raises(DataError, match=r"views\.png cannot be read: .*remove it"):
        write_report(run_dir)


def test_one_step_is_one(run_dir: Path, edit: Edit) -> None:
    assert "100 epochs 460 steps of 256" in page_of(run_dir).text("span")
    edit(run_dir / "run.json", {"step": 1, "steps": 1, "epochs": 1.0})
    page = page_of(run_dir)
    assert "1 epoch 1 step of 256" in page.text("span")
    assert "was pretrained for" not in page.text("p")
    edit(run_dir / "run.json", {"epochs": 0.5})
    assert "The encoder was pretrained for 1 step (0.5 epochs)." in page_of(run_dir).text("p")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder: give the run directory"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no run \(no run\.json\)"):
        write_report(tmp_path)


def test_out_is_where_it_is_asked_for(run_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "pages" / "one.html"
    assert write_report(run_dir, out=target) == target
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (run_dir / "report.html").exists()
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    with pytest.raises(ResourceError, match="cannot write"):
        write_report(run_dir, out=blocked)


def test_the_report_needs_no_torch() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; import twoviews.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_how_the_batch_was_shared_out() -> None:
    from twoviews.report.parts import Info

    assert Info(batch_size=4096, bn_group=256, micro_batch=512, processes=2).batch_in_words() == (
        "4,096 samples, BatchNorm groups of 256, micro-batches of 512, 2 processes"
    )
    assert Info(batch_size=64, processes=1).batch_in_words() == "64 samples"
    assert Info().batch_in_words() == ""
