"""Evaluation as others have published it: their optimiser, length, start, linear layer and split."""

import csv
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluate(place: Any, twoviews: Callable[..., Any], tmp_path: Path) -> Evaluate:
    """Evaluate a copy of the finished run under other settings; the run lies in `tmp_path / "run"`."""

    def run_it(*options: object, **settings: Any) -> dict[str, Any]:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(place.run, run)
        config = tomllib.loads((run / "config.toml").read_text())
        config["evaluate"] |= settings
        (run / "config.toml").write_text(tomli_w.dumps(config))
        outcome = twoviews("evaluate", run, "--train", place.train, "--test", place.test, "--json", *options)
        assert outcome.code == 0, outcome.err
        return dict(outcome.json())

    return run_it


def curves_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "evaluation" / "curves.jsonl").read_text().splitlines()]


def test_the_curves_of_the_largest_budget_are_followed_and_nothing_else_changes(place: Any) -> None:
    rows = [json.loads(line) for line in (place.run / "evaluation" / "curves.jsonl").read_text().splitlines()]
    keys = {"arm", "labels_per_class", "seed", "lr", "update", "epoch", "train_loss", "val_accuracy"}
    assert all(row.keys() == keys for row in rows)
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        run = runs.setdefault((row["arm"], row["labels_per_class"], row["seed"]), [])
        if run and row["update"] <= run[-1]["update"]:
            run.clear()  # a trial
        run.append(row)
    for (_, budget, seed), run in runs.items():
        measured = [row["val_accuracy"] is not None for row in run]
        assert measured == ([True] * len(run) if (budget, seed) == (5, 0) else [False] * (len(run) - 1) + [True])
        assert [row["epoch"] for row in run] == [
            round(16 * u / (4 * budget), 4) if budget == 1 else u for u in range(1, len(run) + 1)
        ]
    # Trials come first, and are not followed.
    trials = rows[: 2 * 3 * 6]
    assert {row["labels_per_class"] for row in trials} == {5}
    assert sum(row["val_accuracy"] is not None for row in trials) == 2 * 3


def test_where_to_stop_may_be_chosen_on_validation(evaluate: Evaluate, tmp_path: Path) -> None:
    results = evaluate("--arms", "finetune,supervised", "--labels-per-class", "1,5", "--seeds", 1, stop="validation")
    for arm, chosen in results["protocol"]["settings"].items():
        assert len(chosen["trials"]) == 3 * 6
        best = max(trial["val_score"] for trial in chosen["trials"])
        assert best == next(t["val_score"] for t in chosen["trials"] if t["setting"] == chosen["setting"])
        rows = [row for row in curves_of(tmp_path) if (row["arm"], row["labels_per_class"]) == (arm, 5)][3 * 6 :]
        assert [row["update"] for row in rows] == list(range(1, round(6 * chosen["setting"]["stop"]) + 1))
    assert "stopped where validation was best" in results["protocol"]["trained"]


def test_tutorials_adam(evaluate: Evaluate, tmp_path: Path) -> None:
    published = {"optimizer": "adam", "eps": 1e-7, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    length = {"epochs": 3, "batch_size": 8, "curves": 3, "lrs": [1e-3], "encoder_lr_ratio": 1.0, "head": "glorot"}
    arms = "linear-adam,finetune,supervised"
    results = evaluate("--arms", arms, "--labels-per-class", "1,5", "--seeds", 1, **published, **length)
    assert [(row["arm"], row["labels_per_class"]) for row in results["rows"]] == [
        (arm, budget) for arm in arms.split(",") for budget in (1, 5)
    ]
    assert results["protocol"]["trained"] == (
        "finetune and supervised: 3 passes over the labels in batches of 8 samples, Adam with eps 1e-07, weight decay "
        "0, a constant rate, views 'digits', last update; the encoder's rate is 1 of the head's in fine-tuning, 1 in "
        "the baseline; the linear layer starts with Glorot's draws"
    )
    assert "5 passes in batches of 128, rate 0.001, eps 1e-07" in results["protocol"]["linear-adam"]
    trained = {"policy": "digits", "stop": "last", "passes": 3, "batch_size": 8, "head": "glorot", "optimizer": "adam"}
    trained |= {"eps": 1e-7, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    assert results["protocol"]["options"] == {
        "linear-adam": {"linear_epochs": 5, "linear_batch": 128, "linear_lr": 1e-3, "eps": 1e-7},
        "finetune": trained | {"encoder_lr_ratio": 1.0, "finetune_from": "h"},
        "supervised": trained,
    }
    # 4 labels are one smaller batch, 20 are two of 8.
    for arm in ("finetune", "supervised"):
        rows = [row for row in curves_of(tmp_path) if row["arm"] == arm]
        found = [(row["labels_per_class"], row["update"], row["epoch"]) for row in rows]
        assert found == [*[(1, u, u) for u in (1, 2, 3)], *[(5, 2 * e, e) for e in (1, 2, 3)]]


def test_heads_differ_in_their_start_only(evaluate: Evaluate, tmp_path: Path) -> None:
    first: dict[str, dict[str, float]] = {}
    for head in ("probe", "zeros", "glorot"):
        evaluate(
            "--arms", "finetune,supervised", "--labels-per-class", 5, "--seeds", 1, head=head, lrs=[1e-3], updates=2
        )
        first[head] = {row["arm"]: row["train_loss"] for row in curves_of(tmp_path) if row["update"] == 1}
    chance = 1.38629  # ln 4: where all classes are equally probable
    assert first["zeros"] == {"finetune": chance, "supervised": chance}
    assert first["probe"]["supervised"] == chance
    assert first["probe"]["finetune"] != chance
    assert chance not in first["glorot"].values()


def test_the_layer_that_adam_trained_can_be_shipped(
    evaluate: Evaluate, place: Any, twoviews: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"linear_epochs": 40, "linear_batch": 8, "linear_lr": 0.01}
    results = evaluate("--arms", "linear-adam", "--labels-per-class", "all", **settings)
    assert (results["classifier"]["arm"], results["verdict"]["primary_arm"]) == ("linear-adam", "linear-adam")
    rows = twoviews("predict", tmp_path / "run", place.test, "--json").json()
    with (tmp_path / "run" / "evaluation" / "predictions.csv").open(newline="") as file:
        assert [(row["id"], row["label"]) for row in rows] == [
            (line["id"], line["predicted"]) for line in csv.DictReader(file)
        ]
    scores = results["rows"][0]
    for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro"):
        assert results["classifier"][name] == pytest.approx(scores[name], abs=1e-4)


def test_nothing_held_out(evaluate: Evaluate, place: Any, twoviews: Callable[..., Any], tmp_path: Path) -> None:
    arms = "linear,linear-adam,finetune,supervised,pixels-linear,pixels-knn,knn"
    results = evaluate("--arms", arms, "--labels-per-class", "2,all", "--seeds", 1, validation=0.0)
    protocol = results["protocol"]
    assert (protocol["n_val"], protocol["n_train_available"]) == (0, 60)
    assert protocol["selection"].startswith("nothing was selected, as there is no validation")
    assert "All settings were fixed beforehand." in protocol["paragraph"]
    assert "curves" not in protocol
    assert {
        arm: chosen["setting"] for arm, chosen in protocol["settings"].items() if chosen["setting"] is not None
    } == {
        **{"linear": 0.3, "pixels-linear": 0.3, "linear-adam": 1e-3},
        **{arm: {"lr": 2e-3, "stop": 1.0} for arm in ("finetune", "supervised")},
    }
    assert {row["n_val"] for row in results["rows"]} == {0}
    assert results["verdict"]["primary_arm"] == "finetune"
    shipped = results["classifier"]
    assert (shipped["arm"], shipped["labels_per_class"], shipped["val_accuracy"]) == ("finetune", "all", None)
    assert all(row["val_accuracy"] is None for row in curves_of(tmp_path))
    assert len(twoviews("predict", tmp_path / "run", place.test, "--json").json()) == 40
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Training loss over the epochs" in text


@pytest.mark.parametrize(("primary", "shipped"), [("linear", "linear"), ("knn", "finetune"), ("auto", "finetune")])
def test_without_validation_the_arm_that_was_named_becomes_the_classifier(
    evaluate: Evaluate, primary: str, shipped: str
) -> None:
    """Where it has a classifier; else as if none had been named."""
    options = ("--arms", "knn,linear,finetune,supervised", "--labels-per-class", 2, "--seeds", 1)
    results = evaluate(*options, validation=0.0, primary=primary)
    assert results["verdict"]["primary_arm"] == ("finetune" if primary == "auto" else primary)
    assert results["classifier"]["arm"] == shipped


def test_another_part_and_another_draw(evaluate: Evaluate) -> None:
    options = ("--arms", "linear", "--labels-per-class", "all")
    kept = [evaluate(*options, validation=0.5, split_seed=seed)["protocol"] for seed in (0, 1, 0)]
    assert [protocol["n_val"] for protocol in kept] == [30, 30, 30]
    prints = [protocol["data_fingerprints"]["val"] for protocol in kept]
    assert prints[0] == prints[2] != prints[1]


def test_what_time_cut_is_not_in_the_protocol(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews.jobs.comparing import trained
    from twoviews.jobs.comparing.length import Planned

    monkeypatch.setattr(trained, "plan_in_time", lambda length, *_, **__: Planned(length, [0], ["cut"], tried=False))
    options = ("--labels-per-class", "1,5", "--seeds", 3, "--minutes", 5)
    protocol = evaluate(*options, "--arms", "knn,linear,finetune,supervised", stop="validation")["protocol"]
    assert (protocol["seeds"], protocol["tried"]) == (1, {"linear": 5})
    assert "views 'digits', last update;" in protocol["trained"]
    assert [protocol["options"][arm]["stop"] for arm in ("finetune", "supervised")] == ["last", "last"]
    assert protocol["selection"].startswith("one setting an arm, by accuracy on validation")
    assert protocol["selection"].endswith("; of finetune and supervised fixed beforehand everywhere")
    assert "arms that train an encoder on 1, each" in protocol["paragraph"]
    assert "that of finetune and supervised was fixed beforehand everywhere." in protocol["paragraph"]
    protocol = evaluate(*options, "--arms", "finetune,supervised")["protocol"]
    assert protocol["selection"] == "nothing was selected: settings were fixed beforehand"
    assert "All settings were fixed beforehand." in protocol["paragraph"]


def test_trainings_are_counted_as_they_were_run() -> None:
    import numpy as np

    from twoviews.evaluation.compare import Comparison, Split
    from twoviews.jobs.comparing.protocol import _seeds

    labels = np.arange(8) % 2
    comparison = Comparison(Split(labels, labels, labels, ("a", "b")))
    run = {("finetune", 1): 3, ("supervised", 1): 3, ("finetune", 5): 2, ("supervised", 5): 2, ("linear", 1): 20}
    comparison.rows = [
        {"arm": arm, "labels_per_class": budget, "seed": seed} for (arm, budget), n in run.items() for seed in range(n)
    ]
    assert [_seeds(comparison, budgets) for budgets in ([1], [1, 5], [1, 5, "all"], [])] == [3, "2 to 3", "0 to 3", 0]


def test_time_cuts_passes_like_updates(evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews.jobs.comparing import length, trained

    plan, measured = trained.plan_in_time, {"seconds": 1.0, "per_update": 0.05, "per_sample": 0.0}
    monkeypatch.setattr(trained, "plan_in_time", lambda *inputs, **named: plan(*inputs, **named | measured))
    monkeypatch.setattr(length, "MIN_UPDATES", 2)
    options = ("--arms", "finetune,supervised", "--labels-per-class", 5, "--seeds", 1, "--minutes", 5)
    results = evaluate(*options, epochs=9, batch_size=8)
    assert results["cut"][0].startswith("1 of at most 9 passes over the labels")
    assert max(row["update"] for row in curves_of(tmp_path) if row["seed"] == 0) == 2
