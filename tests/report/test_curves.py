"""The picture of accuracy over the epochs: which curves, where they lie, what is said of them."""

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twoviews.report import write_report
from twoviews.report.curves import epoch_panels
from twoviews.report.parts import CurvePoint, Info, Metric

PROTOCOL = {"validation": "given by --val"}


def points(
    arm: str, values: list[float | None], *, budget: int | str = "all", seed: int = 0, epochs: bool = True
) -> Any:
    return [
        CurvePoint(
            arm=arm,
            labels_per_class=budget,  # type: ignore[arg-type]
            seed=seed,
            update=10 * (i + 1),
            epoch=i + 1 if epochs else None,
            train_loss=2.0 / (i + 1),
            val_accuracy=value,
        )
        for i, value in enumerate(values)
    ]


def probe(values: list[float], *, key: str = "online_linear", every: int = 4) -> list[Metric]:
    rows: list[dict[str, Any]] = []
    for step in range(every * len(values)):
        rows.append({"step": step, "epoch": step // every, "loss": 5.0})
        if step % every == every - 1:
            rows.append({"step": step, "event": "evaluation", key: values[step // every]})
    return [Metric(**row) for row in rows]


def lines(chart: str) -> dict[str, list[tuple[float, float]]]:
    """Series of a chart by name, in its own units."""
    left, stop, bottom, top = map(float, re.findall(r'data-box="([^"]*)"', chart)[0].split())
    x0, x1, y0, y1 = map(float, re.findall(r'data-range="([^"]*)"', chart)[0].split())
    found = {}
    for text, name in re.findall(r'points="([^"]*)" data-name="([^"]*)"', chart):
        pairs = [tuple(map(float, pair.split(","))) for pair in text.split()]
        found[name] = [
            (x0 + (x - left) / (stop - left) * (x1 - x0), y0 + (y - bottom) / (top - bottom) * (y1 - y0))
            for x, y in pairs
        ]
    return found


def panels(metrics: list[Metric], curves: list[CurvePoint], **info: Any) -> list[Any]:
    return epoch_panels(metrics, curves, info=Info(**info), protocol=PROTOCOL)


def test_three_curves_lie_where_their_epochs_and_accuracies_are() -> None:
    curves = [*points("finetune", [0.8, 0.9, 0.95]), *points("supervised", [0.2, 0.5, 0.7])]
    accuracy, losses = panels(probe([0.4, 0.5, 0.6, 0.7]), curves, steps=16, epochs=4.0)
    wanted = {
        "linear probe during pretraining": [(1, 0.4), (2, 0.5), (3, 0.6), (4, 0.7)],
        "fine-tuning": [(1, 0.8), (2, 0.9), (3, 0.95)],
        "supervised only": [(1, 0.2), (2, 0.5), (3, 0.7)],
    }
    for chart in (accuracy.chart, accuracy.narrow):
        drawn = lines(chart)
        assert list(drawn) == list(wanted)
        for name, values in wanted.items():
            assert drawn[name] == pytest.approx([pytest.approx(pair, abs=0.01) for pair in values])
    assert {name: len(values) for name, values in lines(losses.chart).items()} == {
        "fine-tuning": 3,
        "supervised only": 3,
    }


def test_axes_ends_and_legend_say_what_is_what() -> None:
    curves = [*points("finetune", [0.8, 0.951]), *points("supervised", [0.2, 0.7])]
    accuracy, losses = panels(probe([0.4, 0.6234]), curves)
    assert re.findall(r'class="axis-title[^>]*>([^<]*)<', accuracy.chart) == ["epoch", "validation accuracy, %"]
    assert re.findall(r'class="axis-title[^>]*>([^<]*)<', losses.chart) == ["epoch", "training loss (cross-entropy)"]
    ends = re.findall(r'class="end-label[^>]*>([^<]*)<', accuracy.chart)
    assert ends == ["probe 62.3 %", "fine-tuned 95.1 %", "supervised 70.0 %"]
    assert re.findall(r'class="end-label[^>]*>([^<]*)<', accuracy.narrow) == ["62.3 %", "95.1 %", "70.0 %"]
    assert [name for _, name in accuracy.legend] == [
        "linear probe during pretraining",
        "fine-tuning",
        "supervised only",
    ]
    assert [name for _, name in losses.legend] == ["fine-tuning", "supervised only"]


def test_ends_of_short_lines_stand_in_the_margin() -> None:
    """Inside the chart the text would lie on the longer lines."""
    (accuracy, _) = panels(probe([0.5] * 40), points("finetune", [0.5, 0.5]))
    places = re.findall(r'class="end-label[^>]* x="([\d.]+)"', accuracy.chart)
    assert len(places) == 2
    assert len(set(places)) == 1


def test_the_note_says_what_each_curve_is_and_on_which_data() -> None:
    curves = [*points("finetune", [0.8, 0.9], budget=10), *points("supervised", [0.2, 0.5], budget=10)]
    (accuracy, losses) = panels(probe([0.4, 0.5]), curves, probe_data="pets/")
    assert accuracy.note == (
        "Linear probe during pretraining: fitted anew to the encoder at each point, measured on labels held out of "
        "pets/. Fine-tuning and supervised only, 10 labels a class, seed 0: measured on validation (given by --val). "
        "An epoch is a pass over the unlabelled images in pretraining, over the labelled subset in the two others."
    )
    assert losses.note.startswith("Fine-tuning and supervised only, 10 labels a class, seed 0: mean over the augmented")
    (alone,) = panels(probe([0.4, 0.5], key="online_probe"), [], labelled={"spec": "stl10:train"})
    assert alone.note == (
        "Linear probe during pretraining: a linear layer that learns beside it, measured on labels held out of "
        "stl10:train. An epoch is a pass over the unlabelled images."
    )


def test_the_probe_that_learns_on_the_way_goes_first() -> None:
    metrics = [*probe([0.1, 0.2]), *probe([0.6, 0.7], key="online_probe")]
    (accuracy,) = panels(metrics, [])
    assert [round(y, 3) for _, y in lines(accuracy.chart)["linear probe during pretraining"]] == [0.6, 0.7]


def test_epochs_come_from_run_json_or_from_the_step_s_row() -> None:
    for info in ({"steps": 8, "epochs": 4.0}, {}):
        (accuracy,) = panels(probe([0.1, 0.2], every=4), [], **info)
        drawn = lines(accuracy.chart)["linear probe during pretraining"]
        assert [round(x, 2) for x, _ in drawn] == ([2, 4] if info else [1, 2])
    orphans = [Metric(step=s, event="evaluation", online_linear=0.5) for s in (1, 2)]
    assert panels(orphans, []) == []


def test_the_followed_training_is_drawn_and_no_trial() -> None:
    trial = points("finetune", [None, None, 0.99])
    other = points("finetune", [None, None, 0.98], seed=1)
    smaller = points("finetune", [0.1, 0.2, 0.3], budget=5)
    followed = points("finetune", [0.6, 0.7, 0.8])
    (accuracy, losses) = panels([], [*trial, *smaller, *followed, *other])
    (drawn,) = lines(accuracy.chart).values()
    assert [round(y, 3) for _, y in drawn] == [0.6, 0.7, 0.8]
    assert "all labels, seed 0" in losses.note


def test_without_validation_losses_alone_are_drawn() -> None:
    curves = [*points("finetune", [None] * 3, budget=5), *points("supervised", [None] * 3, budget=10)]
    (losses,) = panels([], curves)
    assert losses.title == "Training loss over the epochs"
    assert list(lines(losses.chart)) == ["supervised only"]


@pytest.mark.parametrize(
    ("metrics", "curves"),
    [
        ([], []),
        (probe([0.5]), points("finetune", [0.5])),  # one point is no curve
        ([], points("finetune", [0.5, 0.6], epochs=False)),  # of an older evaluation
    ],
)
def test_without_a_curve_there_is_no_picture(metrics: list[Metric], curves: list[CurvePoint]) -> None:
    assert panels(metrics, curves) == []


def test_many_points_have_no_markers_but_their_words() -> None:
    few, many = (panels(probe([0.5, 0.6] * count), [])[0].chart for count in (3, 60))
    assert ('class="mark' in few, 'class="mark' in many) == (True, False)
    assert many.count("linear probe during pretraining, epoch") == 120


def test_the_page_shows_them_first_in_training(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    section = text[text.index('<section id="training">') :]
    heads = re.findall(r"<h3>([^<]*)</h3>", section)
    assert heads[:3] == ["Accuracy over the epochs", "Training loss over the epochs", "Loss"]
    assert "held out of digits[:1198]. Fine-tuning and supervised only, all labels, seed 0" in section
    assert "validation (the last 200 of train)" in section
    shutil.rmtree(run_dir / "evaluation")
    (run_dir / "metrics.jsonl").unlink()
    assert "over the epochs" not in write_report(run_dir).read_text(encoding="utf-8")


def test_hostile_words_of_the_protocol_are_inert(run_dir: Path, edit: Callable[[Path, dict[str, Any]], None]) -> None:
    evil = "<script>alert(1)</script>"
    results = json.loads((run_dir / "evaluation" / "results.json").read_text())
    results["protocol"]["validation"] = evil
    edit(run_dir / "evaluation" / "results.json", results)
    edit(run_dir / "run.json", {"probe_data": evil})
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert evil not in text
    assert f"held out of {html.escape(evil)}" in text


def test_the_classifier_has_its_macro_averages(run_dir: Path) -> None:
    text = write_report(run_dir).read_text(encoding="utf-8")
    foot = re.findall(r"<tfoot>(.*?)</tfoot>", text)
    assert len(foot) == 1
    assert re.findall(r"(?<=>)[\d.]+(?=</td>)", foot[0]) == ["97.7", "97.6", "97.5"]
