"""`twoviews compare`: several runs in one table, one page and, where they can be, in pairs."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import twoviews
from twoviews.cli import main
from twoviews.errors import DataError, UsageError
from twoviews.report import write_runs_page

Change = Callable[[Path, Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def own(runs: Path, tmp_path: Path) -> Path:
    """The runs, to be changed at will."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def test_one_row_a_run_arm_and_budget(runs: Path) -> None:
    found = twoviews.compare_runs([runs / "a", runs / "b"])
    assert found["budgets"] == [1, 10, "all"]
    assert len(found["rows"]) == 2 * 4 * 3
    row = next(r for r in found["rows"] if (r["run"], r["arm"], r["labels_per_class"]) == ("b", "finetune", 10))
    results = json.loads((runs / "b" / "evaluation" / "results.json").read_text())
    mine = [r["accuracy"] for r in results["rows"] if (r["arm"], r["labels_per_class"]) == ("finetune", 10)]
    assert row["mean"] == pytest.approx(sum(mine) / 4, abs=1e-6)
    assert (row["n"], row["n_train"]) == (4, 40)
    assert [run["method"] for run in found["runs"]] == ["simclr", "vicreg"]


def test_a_planted_gain_is_found_and_none_is_not(runs: Path) -> None:
    found = twoviews.compare_runs([runs / "a", runs / "b", runs / "c"], arm="finetune")
    by = {(p["run"], p["labels_per_class"]): p for p in found["pairs"]}
    assert {p["conclusion"] for (run, _), p in by.items() if run == "b"} == {"better"}
    assert {p["conclusion"] for (run, _), p in by.items() if run == "c"} == {"cannot tell"}
    for pair in found["pairs"]:
        assert pair["low"] <= pair["mean_difference"] <= pair["high"]
        assert pair["p_adjusted"] >= pair["p"]
        assert (pair["against"], pair["n"], pair["n_test"]) == ("a", 4, 240)
    assert found["sentence"].startswith("b is better at 1 label a class (+")
    assert "c is not clearly different from a at any number of labels." in found["sentence"]


def test_a_pair_is_the_difference_of_the_two_means(runs: Path) -> None:
    found = twoviews.compare_runs([runs / "a", runs / "b"], arm="linear", metric="f1_macro")
    mean = {(r["run"], r["labels_per_class"]): r["mean"] for r in found["rows"] if r["arm"] == "linear"}
    assert len(found["pairs"]) == 3
    for pair in found["pairs"]:
        budget = pair["labels_per_class"]
        assert pair["mean_difference"] == pytest.approx(mean["b", budget] - mean["a", budget], abs=2e-6)
    last = found["pairs"][-1]
    assert (last["labels_per_class"], last["n"]) == ("all", 1)
    assert last["conclusion"] == "better", "a linear probe on all labels has no luck of training"


def _group(run: Path, size: int) -> None:
    """So many test items, one after another, are of one patient."""
    path = run / "evaluation" / "predictions.csv"
    head, *lines = path.read_text().splitlines()
    grouped = [f"{line},patient-{number // size}" for number, line in enumerate(lines)]
    path.write_text("\n".join([f"{head},group", *grouped]) + "\n")


@pytest.mark.parametrize("grouped", ["a", "b", "ab"])
def test_images_of_a_group_are_paired_as_one(own: Path, grouped: str) -> None:
    alone = twoviews.compare_runs([own / "a", own / "b"], arm="finetune")["pairs"]
    for name in grouped:
        _group(own / name, 12)
    together = twoviews.compare_runs([own / "a", own / "b"], arm="finetune")["pairs"]
    for one, other in zip(alone, together, strict=True):
        assert other["mean_difference"] == pytest.approx(one["mean_difference"])
        assert (other["n_test"], other["n_units"], one["n_units"]) == (240, 20, 240)
        assert (other["low"], other["high"]) != (one["low"], one["high"])


def test_other_groups_cannot_be_paired(own: Path) -> None:
    _group(own / "a", 12)
    _group(own / "b", 10)
    assert "the groups of their test items differ" in twoviews.compare_runs([own / "a", own / "b"])["not_paired"][0]


def test_one_training_a_run_concludes_nothing(own: Path) -> None:
    for name in ("a", "b"):
        records = own / name / "evaluation" / "records.jsonl"
        kept = [line for line in records.read_text().splitlines() if json.loads(line)["row"]["seed"] == 0]
        records.write_text("".join(line + "\n" for line in kept))
    found = twoviews.compare_runs([own / "a", own / "b"], arm="finetune")
    assert {(p["n"], p["p_adjusted"], p["conclusion"]) for p in found["pairs"]} == {(1, 1.0, "cannot tell")}


@pytest.mark.parametrize("arm", ["linear", "pixels-knn"])
def test_one_label_subset_concludes_nothing_and_says_so(own: Path, arm: str) -> None:
    for name in ("a", "b"):
        records = own / name / "evaluation" / "records.jsonl"
        kept = [line for line in records.read_text().splitlines() if json.loads(line)["row"]["seed"] == 0]
        records.write_text("".join(line + "\n" for line in kept))
    found = twoviews.compare_runs([own / "a", own / "b"], arm=arm)
    few = [pair for pair in found["pairs"] if pair["labels_per_class"] != "all"]
    assert {(p["n"], p["p_adjusted"], p["conclusion"]) for p in few} == {(1, 1.0, "cannot tell")}
    assert any("not the luck of label subsets and trainings, and nothing is concluded" in n for n in found["notes"])
    assert any("an interval covers test items, not what" in note for note in found["notes"])
    several = twoviews.compare_runs([own / "a", own / "c"], arm=arm)
    assert not any("covers label subsets" in note for note in several["notes"])


def test_seeds_of_one_recipe_are_told(runs: Path) -> None:
    found = twoviews.compare_runs([runs / name for name in "abc"])
    told = [note for note in found["notes"] if "one recipe pretrained with other seeds" in note]
    assert len(told) == 1
    assert told[0].startswith("a, c are one recipe")
    assert any("Each run is one pretraining" in note for note in found["notes"])
    assert any("9 pairs" in note or "6 pairs" in note for note in found["notes"])


def test_other_data_cannot_be_paired(runs: Path) -> None:
    found = twoviews.compare_runs([runs / "a", runs / "d"])
    assert found["pairs"] == []
    assert len(found["not_paired"]) == 1
    assert (
        "d and a cannot be compared in pairs: their test images are not known to be the same" in found["not_paired"][0]
    )
    told = "The test images of d and a are not known to be the same (other images, another order, or decoded in"
    assert any(note.startswith(told) for note in found["notes"])
    assert found["sentence"] == "Nothing could be compared in pairs."


def _sized(own: Path, change: Change, **sides: int) -> None:
    """As if the runs had decoded the same images at these sides."""
    for name, side in sides.items():
        with (own / name / "config.toml").open("a", encoding="utf-8") as file:
            file.write(f"[data]\ncache_side = {side}\n")
        change(
            own / name,
            lambda r, side=side: r["protocol"].update(
                n_train_available=400,
                data_fingerprints={part: f"{part} at {side}" for part in ("train", "val", "test")},
            ),
        )


def test_one_test_set_at_two_sizes_is_paired(own: Path, change: Change) -> None:
    plain = twoviews.compare_runs([own / "a", own / "b"])
    _sized(own, change, a=120, b=40)
    found = twoviews.compare_runs([own / "a", own / "b"])
    assert (found["pairs"], found["not_paired"]) == (plain["pairs"], [])
    told = "The images of b and a differ in pixels (decoded at 40 and 120 px): test items are taken for the same by"
    assert [note.startswith(told) for note in found["notes"]].count(True) == 1


@pytest.mark.parametrize(
    ("how", "part"),
    [
        (lambda r: r["protocol"]["labels_fingerprints"].update(test="x"), "test"),
        (lambda r: r["protocol"]["labels_fingerprints"].update(train="x"), "labelled training"),
        (lambda r: r["protocol"]["labels_fingerprints"].update(val="x"), "validation"),
        (lambda r: r["protocol"].update(test="labelled/other"), "test"),
        (lambda r: r["protocol"].update(train="labelled/other"), "labelled training"),
    ],
    ids=range(5),
)
def test_other_items_at_another_size_are_not(own: Path, change: Change, how: Any, part: str) -> None:
    _sized(own, change, a=120, b=40)
    change(own / "b", how)
    found = twoviews.compare_runs([own / "a", own / "b"], arm="linear")
    assert found["pairs"] == []
    assert f"their {part} images are not known to be the same (decoded at 40 and 120 px)" in found["not_paired"][0]
    assert any("not on one scale" in note for note in found["notes"]) == (part == "test")


@pytest.mark.parametrize("place", ["array (240, 32, 32)", "list of 240", "MNIST of 240 items"])
def test_what_python_handed_over_has_no_name(own: Path, change: Change, place: str) -> None:
    for name in ("a", "b"):
        change(own / name, lambda r: r["protocol"].update(test=place))
    _sized(own, change, a=120, b=40)
    assert twoviews.compare_runs([own / "a", own / "b"])["pairs"] == []


def test_other_pixels_at_one_size_are_other_images(own: Path, change: Change) -> None:
    _sized(own, change, a=40, b=40)
    change(own / "b", lambda r: r["protocol"]["data_fingerprints"].update(test="x"))
    assert twoviews.compare_runs([own / "a", own / "b"])["pairs"] == []


def test_the_same_pixels_with_other_labels_are_told(own: Path, change: Change) -> None:
    change(own / "b", lambda r: r["protocol"]["labels_fingerprints"].update(train="x"))
    found = twoviews.compare_runs([own / "a", own / "b"])
    assert "training images are not known to be the same (the same images with other labels)" in found["not_paired"][0]


def test_runs_of_an_earlier_version_are_told(own: Path, change: Change) -> None:
    change(own / "b", lambda r: r["protocol"].pop("labels_fingerprints"))
    found = twoviews.compare_runs([own / "a", own / "b"])
    assert "(b was evaluated by an earlier version: evaluate again)" in found["not_paired"][0]


def test_an_arm_that_the_first_run_chose_counts_as_often_as_it_had_a_choice(own: Path, change: Change) -> None:
    for choice in (["linear", "finetune"], []):
        change(own / "a", lambda r, choice=choice: r["verdict"].update(primary_arm="finetune", chosen_among=choice))
        by = {how: twoviews.compare_runs([own / "a", own / "c"], arm=how) for how in (None, "finetune")}
        own_p, named_p = ([pair["p"] for pair in by[how]["pairs"]] for how in (None, "finetune"))
        assert own_p == pytest.approx([min(1, max(len(choice), 1) * p) for p in named_p], rel=1e-3)
        assert any("was the best of 2 in a" in note for note in by[None]["notes"]) == bool(choice)
        assert not any("was the best of" in note for note in by["finetune"]["notes"])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: (run / "evaluation" / "records.jsonl").unlink(), "has no records of single answers"),
        (
            lambda run: (run / "evaluation" / "records.jsonl").write_text('{"row": {}}\n'),
            "records.jsonl cannot be read",
        ),
        (lambda run: (run / "evaluation" / "records.jsonl").write_text("{\n"), "records.jsonl cannot be read"),
        (lambda run: (run / "evaluation" / "predictions.csv").unlink(), "has no predictions.csv"),
        (
            lambda run: (run / "evaluation" / "predictions.csv").write_text("id,label\n1,ghost\n"),
            "predictions.csv cannot be read",
        ),
        (
            lambda run: (run / "evaluation" / "predictions.csv").write_text("id,label\n1,bag\n"),
            "do not fit its results",
        ),
    ],
    ids=range(6),
)
def test_what_keeps_runs_from_being_paired_is_said(own: Path, spoil: Any, reason: str) -> None:
    spoil(own / "b")
    found = twoviews.compare_runs([own / "a", own / "b", own / "c"])
    assert len(found["not_paired"]) == 1
    assert re.search(reason, found["not_paired"][0])
    assert {pair["run"] for pair in found["pairs"]} == {"c"}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda r: r.update(classes=["other"] * 4), "their classes differ"),
        (lambda r: r["protocol"]["data_fingerprints"].update(train="x"), "labelled training images are not known"),
        (lambda r: r.pop("protocol"), "test images are not known to be the same"),
    ],
    ids=range(3),
)
def test_runs_that_answer_other_questions(own: Path, change: Change, how: Any, reason: str) -> None:
    change(own / "b", how)
    found = twoviews.compare_runs([own / "a", own / "b"])
    assert re.search(reason, found["not_paired"][0])


def _choice(arm: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda r: r["protocol"]["settings"][arm].update(changes)


def _option(arm: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda r: r["protocol"]["options"][arm].update(changes)


@pytest.mark.parametrize(
    ("how", "arm", "reason"),
    [
        (
            _option("finetune", updates=2, policy="digits"),
            "finetune",
            "finetune was evaluated otherwise (policy digits in b, auto in a; updates 2 in b, 60 in a): evaluate both "
            "alike.",
        ),
        (
            lambda r: r["protocol"]["options"].update(supervised={}),
            "supervised",
            "optimizer not given in b, adamw in a",
        ),
        (lambda r: r["protocol"].pop("options"), "linear", "b does not say how linear was evaluated: evaluate "),
        (lambda r: r["protocol"]["options"].pop("linear"), "linear", "b does not say how linear was evaluated: eval"),
        (_option("pixels-knn", knn_k=5), "pixels-knn", "(knn_k 5 in b, 20 in a)"),
        (lambda r: r["protocol"]["data_fingerprints"].update(val="x"), "linear", "their validation images are not"),
        (_choice("linear", fixed_below_5=1), "linear", "(setting below 5 labels 1 in b, 0.3 in a)"),
        (_choice("linear", reference_budget=10), "linear", "(chosen at 10 labels a class in b, at 100 labels a class"),
        (_choice("linear", trials=[]), "linear", "tried not given in b, 3, 0.3, 0.03 in a; chosen not"),
        (
            _choice("finetune", trials=[{"setting": {"lr": lr, "stop": 1.0}} for lr in (0.1, 0.2, 0.2)]),
            "finetune",
            "(tried 0.1, 0.2 in b, 0.001, 0.002 in a)",
        ),
    ],
    ids=range(10),
)
def test_an_arm_that_was_evaluated_otherwise(own: Path, change: Change, how: Any, arm: str, reason: str) -> None:
    change(own / "b", how)
    found = twoviews.compare_runs([own / "a", own / "b", own / "c"], arm=arm)
    assert len(found["not_paired"]) == 1
    assert found["not_paired"][0].startswith("b and a cannot be compared in pairs: ")
    assert reason in found["not_paired"][0]
    assert {pair["run"] for pair in found["pairs"]} == {"c"}


def test_settings_of_other_arms_keep_no_run_out(own: Path, change: Change) -> None:
    change(own / "b", _option("pixels-knn", knn_k=5))
    change(own / "b", lambda r: r["protocol"]["options"].pop("supervised"))
    assert twoviews.compare_runs([own / "a", own / "b"], arm="finetune")["not_paired"] == []
    change(own / "b", lambda r: r["protocol"]["data_fingerprints"].update(val="x"))
    change(own / "b", _option("pixels-knn", knn_k=20))
    change(own / "b", lambda r: r["protocol"]["options"].pop("finetune"))
    assert twoviews.compare_runs([own / "a", own / "b"], arm="pixels-knn")["not_paired"] == []


def test_labels_in_another_order_are_noticed(own: Path) -> None:
    path = own / "b" / "evaluation" / "predictions.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert "do not fit its results" in twoviews.compare_runs([own / "a", own / "b"])["not_paired"][0]


def test_no_seed_in_common(own: Path) -> None:
    path = own / "b" / "evaluation" / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["row"]["seed"] += 100
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "they share no seed of" in twoviews.compare_runs([own / "a", own / "b"])["not_paired"][0]


def test_another_metric_is_told(own: Path, change: Change) -> None:
    change(own / "b", lambda r: r["verdict"].update(metric="f1_macro"))
    found = twoviews.compare_runs([own / "a", own / "b"])
    assert found["metric"] == "accuracy"
    assert any("b by f1_macro; here all are compared by accuracy" in note for note in found["notes"])
    assert twoviews.compare_runs([own / "b", own / "a"])["metric"] == "f1_macro"


def test_wrong_requests(runs: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        twoviews.compare_runs([])
    with pytest.raises(UsageError, match="given twice"):
        twoviews.compare_runs([runs / "a", str(runs / "b" / ".." / "a")])
    with pytest.raises(UsageError, match="has no arm 'distill': in all runs there is linear, finetune, supervised"):
        twoviews.compare_runs([runs / "a", runs / "b"], arm="distill")
    with pytest.raises(UsageError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        twoviews.compare_runs([runs / "a"], metric="acuracy")
    with pytest.raises(UsageError, match="is not a run directory"):
        twoviews.compare_runs([tmp_path])
    (own / "b" / "evaluation" / "results.json").unlink()
    with pytest.raises(DataError, match=r"b is not evaluated: twoviews evaluate .*b --train DATA --test DATA"):
        twoviews.compare_runs([own / "a", own / "b"])
    (own / "b" / "evaluation" / "results.json").write_text('{"rows": [{"arm": 1}]}')
    with pytest.raises(DataError, match="holds no rows of a comparison"):
        twoviews.compare_runs([own / "a", own / "b"])


def test_runs_of_one_name_are_told_apart(own: Path) -> None:
    shutil.copytree(own / "b", own / "again" / "a")
    found = twoviews.compare_runs([own / "a", own / "again" / "a", own / "c"])
    assert [run["name"] for run in found["runs"]] == ["runs/a", "again/a", "c"]


def test_one_run_is_a_table_too(runs: Path) -> None:
    found = twoviews.compare_runs([runs / "a"])
    assert found["pairs"] == found["not_paired"] == []
    assert found["sentence"] == "One run: no pair."


def test_the_page_holds_table_picture_and_pairs(runs: Path, tmp_path: Path) -> None:
    found = twoviews.compare_runs([runs / name for name in "abcd"], out=tmp_path / "runs.html")
    text = (tmp_path / "runs.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', text) == ["labels", "pairs", "scores", "runs"]
    wide = text.partition('<div class="wide">')[2].partition('<div class="narrow">')[0]
    assert set(re.findall(r'data-name="(\w+)"', wide)) == set("abcd")
    assert "<script" not in text
    assert 'content="default-src &#39;none&#39;; style-src' in text
    cells = re.findall(r'title="p [^"]*">(.*?)</span>', text)
    assert len(cells) == len(found["pairs"])
    assert found["not_paired"][0].split(":")[0] in text


def test_the_page_is_safe_from_names(tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script>"
    row = {"run": evil, "arm": evil, "labels_per_class": 5, "mean": 0.5, "deviation": None, "n": 1, "n_train": None}
    run = dict.fromkeys(
        ("method", "encoder", "init", "image_size", "images", "epochs", "seed", "test", "sentence"), evil
    )
    found = {
        "sentence": evil,
        "metric": "accuracy",
        "arm": evil,
        "against": evil,
        "budgets": [5],
        "runs": [{**run, "name": evil}],
        "rows": [row],
        "pairs": [],
        "not_paired": [evil],
        "notes": [evil],
    }
    text = write_runs_page(tmp_path / "x.html", found).read_text(encoding="utf-8")
    assert "<script" not in text
    empty = {**found, "arm": None, "rows": [], "runs": [{**run, "name": "a", "sentence": None}]}
    assert "no verdict" in write_runs_page(tmp_path / "y.html", empty).read_text(encoding="utf-8")


def test_the_command_prints_writes_and_gives_json(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, table = tmp_path / "p.html", tmp_path / "t.csv"
    arguments = ["compare", str(runs / "a"), str(runs / "b"), "--arm", "finetune"]
    assert main([*arguments, "--out", str(page), "--csv", str(table)]) == 0
    said = capsys.readouterr().out
    assert "finetune: points more than a" in said
    assert "b is better at 1 label a class" in said
    assert f"written: {page}" in said
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 24
    assert {line["path"] for line in lines} == {str(runs / "a"), str(runs / "b")}
    assert lines[0]["metric"] == "accuracy"
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [pair["conclusion"] for pair in found["pairs"]] == ["better"] * 3
    assert main(["compare", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
