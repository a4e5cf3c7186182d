"""The verdict from end to end: killed and continued, further arms, references, the metric, what is written."""

import csv
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from twoviews.cli.shown import show_results
from twoviews.evaluation.compare import Comparison
from twoviews.jobs.comparing import trained
from twoviews.jobs.comparing.records import read_records
from twoviews.run import Run

Command = Callable[..., Any]
FEW = ("--labels-per-class", "1,5", "--seeds", "2")


@pytest.fixture
def run(place: Any, tmp_path: Path) -> Path:
    """A copy of the finished run, not evaluated."""
    path = Path(shutil.copytree(place.run, tmp_path / "run"))
    shutil.rmtree(path / "evaluation")
    return path


@pytest.fixture
def evaluate(place: Any, twoviews: Command) -> Callable[..., Any]:
    def run_it(run: Path, *options: object) -> Any:
        return twoviews("evaluate", run, "--train", place.train, "--test", place.test, "--json", *options)

    return run_it


def whole(outcome: Any) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return dict(outcome.json())


def comparable(run: Path) -> dict[str, Any]:
    """All that an evaluation wrote but for times and the page."""
    folder = run / "evaluation"
    found: dict[str, Any] = {
        name: (folder / name).read_text()
        for name in ("records.jsonl", "results.csv", "curves.jsonl", "predictions.csv")
    }
    results = json.loads((folder / "results.json").read_text())
    assert results.pop("looks")["count"] == 1
    results["protocol"].pop("test_reads")
    results["protocol"].pop("command")
    model = {path.name: path.read_bytes() for path in (run / "classifier").iterdir()}
    return {**found, "results": results, "classifier": model}


@pytest.mark.parametrize("kept", [3, 15, 26])
def test_a_comparison_that_was_killed_gives_the_same_results(
    run: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: int
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "straight" / "run"))
    whole(evaluate(other, *FEW))
    fit, fits = Comparison.fit, []

    def until_the_kill(self: Comparison, *arguments: Any, **options: Any) -> Any:
        fits.append(arguments)
        if len(fits) > kept:
            raise KeyboardInterrupt
        return fit(self, *arguments, **options)

    monkeypatch.setattr(Comparison, "fit", until_the_kill)
    assert evaluate(run, *FEW).code == 130
    assert not (run / "evaluation" / "results.json").exists()
    assert (run / "evaluation" / "journal").is_dir()
    monkeypatch.setattr(Comparison, "fit", fit)
    outcome = evaluate(run, *FEW)
    whole(outcome)
    assert "going on with a comparison that was interrupted" in outcome.err
    assert "this replaces" not in outcome.err
    assert not (run / "evaluation" / "journal").exists()
    assert comparable(run) == comparable(other)


def test_an_interrupted_comparison_is_not_continued_by_another(
    run: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Comparison.fit

    def first(self: Comparison, arm: Any, budget: Any, seed: int, **options: Any) -> Any:
        if (arm.name, budget) == ("linear", 5):
            raise KeyboardInterrupt
        return fit(self, arm, budget, seed, **options)

    monkeypatch.setattr(Comparison, "fit", first)
    assert evaluate(run, *FEW, "--arms", "knn,linear").code == 130
    monkeypatch.setattr(Comparison, "fit", fit)
    outcome = evaluate(run, *FEW, "--arms", "knn,linear", "--metric", "f1_macro")
    results = whole(outcome)
    assert "going on" not in outcome.err
    assert "this replaces" not in outcome.err
    assert results["looks"]["count"] == 2
    said = evaluate(run, *FEW, "--arms", "knn").err
    last = results["looks"]["openings"][-1]
    when = datetime.fromisoformat(last["time"]).astimezone()
    assert f"this replaces the evaluation of {when:%Y-%m-%d %H:%M} ({last['command']})" in " ".join(said.split())


def test_all_that_is_written(run: Path, evaluate: Callable[..., Any]) -> None:
    results = whole(evaluate(run, *FEW))
    assert results.keys() == {
        *("comparison", "rows", "floors", "protocol", "verdict", "classes"),
        *("classifier", "details", "looks", "cut", "excluded"),
    }
    with (run / "evaluation" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == [row["arm"] for row in results["rows"]]
    assert [float(row["ece"]) for row in rows] == [row["ece"] for row in results["rows"]]
    assert {floor["name"] for floor in results["floors"]} == {"random guess", "majority class"}
    records = read_records(Run(run))
    assert [(r.arm, r.budget, r.seed) for r in records] == [
        (row["arm"], row["labels_per_class"], row["seed"]) for row in results["rows"]
    ]
    detailed = {(found["arm"], found["labels_per_class"], found["seed"]) for found in results["details"]}
    assert detailed == {(row["arm"], 5, 0) for row in results["rows"]}
    for found in results["details"]:
        assert sum(map(sum, found["confusion"])) == sum(b["count"] for b in found["reliability"]) == 40
    assert "two-way random-effects" in results["protocol"]["paragraph"]
    assert not any("seconds" in key for key in results["protocol"])


def test_a_second_look_at_the_test_set_is_counted(run: Path, evaluate: Callable[..., Any]) -> None:
    arms = ("--arms", "knn", "--labels-per-class", "1", "--seeds", "1")
    counts = [whole(evaluate(run, *arms))["looks"]["count"] for _ in range(2)]
    assert counts == [1, 2]


def test_distillation_and_the_check_by_shuffled_labels(run: Path, evaluate: Callable[..., Any]) -> None:
    arms = "finetune,distill,supervised,shuffled-linear"
    results = whole(evaluate(run, *FEW, "--arms", arms))
    assert [row["arm"] for row in results["rows"]][:: 2 * 2] == ["finetune", "distill", "supervised", "shuffled-linear"]
    assert "labels the images of the pool" in results["protocol"]["distill"]
    settings = results["protocol"]["settings"]
    assert len({len(settings[arm]["trials"]) for arm in ("finetune", "distill", "supervised")}) == 1


def test_a_student_begins_as_its_teacher(run: Path, evaluate: Callable[..., Any], place: Any) -> None:
    """At a rate of next to nothing it answers as the teacher does; alone, the arm makes its own teacher."""
    still = ("--set", "evaluate.lrs=[1e-12]", "--set", "evaluate.fixed_lr=1e-12", "--labels-per-class", "5")
    results = whole(evaluate(run, *still, "--arms", "finetune,distill", "--seeds", "2"))
    records = {(r.arm, r.seed): r.predicted.tolist() for r in read_records(Run(run))}
    assert all(records["finetune", seed] == records["distill", seed] for seed in (0, 1))
    assert results["verdict"]["primary_arm"] in ("finetune", "distill")


def test_another_run_as_reference(run: Path, place: Any, evaluate: Callable[..., Any]) -> None:
    """The run itself: its frozen features give what its own do."""
    results = whole(evaluate(run, *FEW, "--arms", "linear,finetune,supervised", "--reference", place.run))
    rows = {(row["arm"], row["labels_per_class"], row["seed"]): row["accuracy"] for row in results["rows"]}
    names = [f"reference-{kind}:{place.run}" for kind in ("linear", "finetune")]
    for budget in (1, 5):
        for seed in (0, 1):
            assert rows[names[0], budget, seed] == rows["linear", budget, seed]
            assert rows[names[1], budget, seed] == rows["finetune", budget, seed]
    assert results["protocol"]["references"][str(place.run)]["sha256"]
    assert {found["against"] for found in results["verdict"]["others"]} >= set(names[:1])


def test_a_reference_that_has_seen_the_test_set(
    run: Path,
    place: Any,
    evaluate: Callable[..., Any],
    twoviews: Command,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its labels: not measured. Without: told. A folder's name is none of timm's."""
    barely = ("--epochs", 1, "--batch-size", 16, "--encoder", "convnet_tiny", *tiny)
    for name, further in (("learnt", ("--set", "method.name=supervised")), ("saw", ())):
        made = twoviews("pretrain", place.test, "--out", tmp_path / name, *barely, *further)
        assert made.code == 0, made.err
    monkeypatch.chdir(tmp_path)
    found = evaluate(run, *FEW, "--arms", "linear", "--reference", "learnt", "--reference", "saw")
    results = whole(found)
    assert {row["arm"] for row in results["rows"]} == {"linear", "reference-linear:./saw"}
    assert any(
        "learnt was not measured: 40 of 40 test items were among the images whose labels" in text
        for text in results["cut"]
    )
    assert "40 of 40 test items were among the unlabelled images" in results["protocol"]["references"]["./saw"]["seen"]
    assert "saw: 40 of 40" in found.err
    assert "ublic weights" not in results["verdict"]["sentence"]


def test_few_labels_make_a_teacher_with_the_fixed_rate(
    run: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below five labels a class nothing that validation chose is used, and no teacher is trained twice."""
    plans: list[Any] = []
    fit = trained.fit_classifier

    def watched(*inputs: Any, plan: Any, **named: Any) -> Any:
        plans.append((plan.lr, named["targets"] is None))
        return fit(*inputs, plan=plan, **named)

    monkeypatch.setattr(trained, "fit_classifier", watched)
    rates = ("--set", "evaluate.lrs=[1e-4,2e-4]", "--set", "evaluate.fixed_lr=3e-4")
    arms = ("--arms", "finetune,distill", "--labels-per-class", "1,5", "--trained-at", "1,5", "--seeds", "2")
    whole(evaluate(run, *rates, *arms))
    assert [lr for lr, _ in plans].count(3e-4) == 4
    assert [from_labels for _, from_labels in plans[-8:]] == [True, False] * 4  # two budgets, two seeds


def test_test_images_that_the_encoder_saw_make_a_transductive_verdict(
    run: Path, place: Any, twoviews: Command, evaluate: Callable[..., Any]
) -> None:
    """It was pretrained on what is the training data elsewhere."""
    few = (*FEW, "--arms", "linear,supervised")
    turned = twoviews("evaluate", run, "--train", place.test, "--test", place.train, "--json", *few)
    for outcome, told in ((turned, True), (evaluate(run, *few), False)):
        notes = whole(outcome)["verdict"]["notes"]
        assert any(text.startswith("The verdict is transductive: some test images") for text in notes) == told


@pytest.mark.parametrize("arms", ["finetune,distill", "distill,supervised"])
def test_time_is_planned_with_the_labelling_of_the_pool_and_with_teachers(
    run: Path, evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arms: str
) -> None:
    """The plan's updates and images of the pool are those of the trainings."""
    plan, fit, scores = trained.plan_in_time, trained.fit_classifier, trained.Trained._scores
    planned: list[Any] = []
    fits: list[int] = []
    labelled: list[int] = []

    def watched(*inputs: Any, **named: Any) -> Any:
        planned.append((inputs[2], found := plan(*inputs, **named)))
        fits.clear()  # of the rehearsal
        return found

    def fitted(*inputs: Any, **named: Any) -> Any:
        fits.append(named["plan"].updates)
        return fit(*inputs, **named)

    def scored(self: Any, classifier: Any, corpus: Any, ground: Any) -> Any:
        if planned and corpus is not ground.parts["val"] and corpus is not ground.parts["test"]:
            labelled.append(len(corpus))
        return scores(self, classifier, corpus, ground)

    monkeypatch.setattr(trained, "plan_in_time", watched)
    monkeypatch.setattr(trained, "fit_classifier", fitted)
    monkeypatch.setattr(trained.Trained, "_scores", scored)
    whole(evaluate(run, *FEW, "--arms", arms, "--minutes", "9", "--set", "evaluate.lrs=[1e-3,2e-3]"))
    ((work, found),) = planned
    assert work.units(found.length, found.seeds) * found.length.count == sum(fits)
    assert work.labelled(found.length, found.seeds) == sum(labelled)
    assert set(labelled) == {60}


def test_weights_that_cannot_be_had_are_said(run: Path, evaluate: Callable[..., Any]) -> None:
    name = "vit_small_patch14_dinov2.lvd142m"
    results = whole(evaluate(run, *FEW, "--arms", "linear", "--reference", name))
    assert any(name in text and "not measured" in text for text in results["cut"])
    assert not any(row["arm"].startswith("reference") for row in results["rows"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metric", "acuracy"), "metric"),
        (("--set", "train.lr=3"), "evaluate only"),
        (("--set", "evaluate.primary=knn", "--arms", "linear"), "not among the arms"),
        (("--set", "evaluate.primary=pixels-linear"), "does not use the encoder"),
        (("--set", "evaluate.primary=supervised"), "choose one of auto, linear, linear-adam, finetune, distill, knn"),
        (("--set", "evaluate.primary=finetun"), "did you mean 'finetune'?"),
        (("--labels-per-class", "1,5", "--trained-at", "2"), "not among the budgets"),
        (("--reference", "resnet1888"), "resnet1888"),
        (("--subsets", "0"), "subsets"),
    ],
)
def test_what_cannot_be_is_refused(
    run: Path, evaluate: Callable[..., Any], options: tuple[str, ...], words: str
) -> None:
    outcome = evaluate(run, *options)
    assert outcome.code == 2, outcome.err
    assert words in outcome.err
    assert not (run / "evaluation" / "openings.jsonl").exists() or "resnet1888" in options


def test_the_usual_budgets_reach_as_far_as_the_classes(run: Path, evaluate: Callable[..., Any]) -> None:
    results = whole(evaluate(run, "--arms", "knn,supervised"))
    assert results["protocol"]["labels_per_class"] == [1, 2, 5, 10, "all"]
    assert results["protocol"]["trained_at"] == [1, 10, "all"]
    seeds = {(row["arm"], row["labels_per_class"]): row["seed"] + 1 for row in results["rows"]}
    assert (seeds["knn", 1], seeds["knn", "all"], seeds["supervised", "all"]) == (20, 1, 5)


def test_the_table_has_the_verdict_s_score_and_the_fits_of_each_arm(capsys: pytest.CaptureFixture[str]) -> None:
    fits = {("knn", 1): 20, ("knn", "all"): 1, ("finetune", 1): 5, ("finetune", "all"): 5}
    rows = [
        {"arm": arm, "labels_per_class": budget, "seed": seed, "accuracy": 0.9, "balanced_accuracy": 0.5}
        for (arm, budget), count in fits.items()
        for seed in range(count)
    ]
    judged = {"sentence": "It helped.", "metric": "balanced_accuracy"}
    results = {"rows": rows, "protocol": {"labels_per_class": [1, "all"]}, "verdict": judged, "cut": []}
    show_results(results, "run", as_json=False)
    said = capsys.readouterr().out
    assert said.startswith("test balanced accuracy in %, mean ± sd over n label subsets or trainings\n")
    cells = [line.replace("│", " ").split() for line in said.splitlines() if "50.0" in line]
    assert cells == [
        ["knn", "20,", "1", "50.0", "±", "0.0", "50.0"],
        ["finetune", "5", "50.0", "±", "0.0", "50.0", "±", "0.0"],
    ]
    assert "90.0" not in said


def test_a_baseline_that_has_not_left_chance_is_told(run: Path, evaluate: Callable[..., Any]) -> None:
    barely = ("--set", "evaluate.lrs=[1e-9]", "--set", "evaluate.fixed_lr=1e-9")
    judged = whole(evaluate(run, *FEW, *barely, "--arms", "linear,supervised"))["verdict"]
    told = "The baseline is not trained: its loss is still 1.39, where guessing by the classes' shares has 1.39"
    assert told in judged["sentence"]
    assert any(told in text for text in judged["notes"])
    well = ("--set", "evaluate.lrs=[1e-2]", "--set", "evaluate.fixed_lr=1e-2", "--set", "evaluate.updates=60")
    notes = whole(evaluate(run, *FEW, *well, "--arms", "linear,supervised"))["verdict"]["notes"]
    assert not any("not trained" in text for text in notes)


def test_an_evaluation_without_a_classifier_leaves_the_earlier_one(
    run: Path, evaluate: Callable[..., Any], twoviews: Command, place: Any
) -> None:
    whole(evaluate(run, *FEW, "--arms", "linear"))
    before = (run / "classifier" / "model.safetensors").read_bytes()
    answers = twoviews("predict", run, place.test, "--json").json()
    outcome = evaluate(run, *FEW, "--arms", "knn")
    assert whole(outcome)["classifier"] is None
    assert f"{run / 'classifier'} stays, of an earlier evaluation" in outcome.err
    assert (run / "classifier" / "model.safetensors").read_bytes() == before
    assert twoviews("predict", run, place.test, "--json").json() == answers
    about = json.loads((run / "classifier" / "config.json").read_text())
    assert (about["train"], about["test"]) == (str(place.train), str(place.test))
    # Its items and labels are there for a comparison with other runs.
    found = twoviews("compare", run, place.run, "--arm", "knn", "--json").json()
    assert json.dumps(found).count("has no predictions") == 0
