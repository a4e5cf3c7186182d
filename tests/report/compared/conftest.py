"""Results of a comparison as `evaluate` writes them, from simulated predictions: real statistics, no training."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.config import Evaluate
from twoviews.evaluation.calibration import calibration_error, fit_temperature, nll, reliability
from twoviews.evaluation.compare import Budget, Comparison, Split, is_trained, order_of, pack
from twoviews.evaluation.floors import floors
from twoviews.evaluation.metrics import classification_metrics, confusion, per_class
from twoviews.evaluation.verdict import verdict
from twoviews.jobs.comparing.length import Length
from twoviews.jobs.comparing.protocol import options_of

# (skill with one label a class, what each tenfold of labels adds), in units of the logit of the true class.
SKILLS = {
    "knn": (1.7, 0.8),
    "linear": (1.8, 1.1),
    "finetune": (1.6, 1.4),
    "supervised": (0.6, 1.55),
    "random-linear": (0.5, 0.6),
    "pixels-linear": (0.5, 0.75),
    "pixels-knn": (0.6, 0.6),
    "shuffled-linear": (0.0, 0.0),
    "reference-linear:timm:vit_small_patch14_dinov2.lvd142m": (2.5, 1.2),
}
BUDGETS: tuple[Budget, ...] = (1, 2, 5, 10, 20, 50, 100, "all")
TRAINED: tuple[Budget, ...] = (1, 10, 100, "all")


def simulate(
    names: Sequence[str],
    *,
    skills: Mapping[str, tuple[float, float]] = SKILLS,
    budgets: Sequence[Budget] = BUDGETS,
    trained_at: Sequence[Budget] = TRAINED,
    n_train: int = 2400,
    n_test: int = 600,
    subsets: int = 20,
    seeds: int = 5,
    metric: str = "accuracy",
    world: int = 0,
    luck: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
    """(results, records, test labels). `world` makes the data, `luck` the arms' answers to it."""
    rng, count = np.random.default_rng(world), len(names)
    truth = np.sort(rng.integers(0, count, n_test))
    train, val = np.arange(n_train) % count, rng.integers(0, count, 200)
    hard, near = rng.normal(size=n_test + 200), rng.integers(0, count, n_test + 200)
    comparison = Comparison(Split(train, val, truth, tuple(names)), metric=metric)
    dice, details = np.random.default_rng((world, luck, 1)), []
    for arm, (start, slope) in skills.items():
        own = dice.normal(size=n_test + 200)
        at = [b for b in budgets if b in trained_at] if is_trained(arm) else list(budgets)
        for budget in at:
            labels = n_train if budget == "all" else budget * count
            many = seeds if is_trained(arm) else (1 if budget == "all" else subsets)
            for seed in range(many):
                skill = start + slope * math.log10(labels / count) + 0.15 * dice.normal()
                scores = dice.gumbel(size=(n_test + 200, count))
                everyone = np.concatenate([truth, val])
                if not arm.startswith("shuffled"):
                    scores[np.arange(len(everyone)), everyone] += skill + 0.8 * own - hard
                scores[np.arange(len(everyone)), near] += 1.2
                scores *= 2.2
                mine, held = scores[:n_test], scores[n_test:]
                predicted = mine.argmax(1)
                if seed == 0:  # the others of an arm and budget are calibrated alike, and this takes its time
                    temperature = fit_temperature(held, val)
                    bins, scaled = reliability(mine, truth), reliability(mine, truth, temperature=temperature)
                    calibration = {
                        "nll": nll(mine, truth),
                        "ece": calibration_error(bins),
                        "temperature": temperature,
                        "nll_scaled": nll(mine, truth, temperature),
                        "ece_scaled": calibration_error(scaled),
                    }
                scored = classification_metrics(truth, predicted, classes=count) | calibration
                row = {
                    "arm": arm,
                    "labels_per_class": budget,
                    "seed": seed,
                    **{name: round(float(value), 6) for name, value in scored.items()},
                    "n_train": labels,
                    "n_val": 200 if budget == "all" or budget >= 5 else 0,
                    "n_test": n_test,
                }
                on_val = float((held.argmax(1) == val).mean())
                record = {"row": row, "predicted": pack(predicted), "val_score": on_val, "shippable": False}
                comparison.add(record)
                if budget == at[-1] and seed == 0:
                    details.append(
                        {
                            "arm": arm,
                            "labels_per_class": budget,
                            "seed": seed,
                            "per_class": per_class(truth, predicted, classes=list(names)),
                            "confusion": confusion(truth, predicted, classes=count).tolist(),
                            "reliability": bins,
                            "reliability_scaled": scaled,
                        }
                    )
    comparison.rows.sort(key=lambda r: (order_of(r["arm"]), budgets.index(r["labels_per_class"]), r["seed"]))
    results = {
        "rows": comparison.rows,
        "floors": floors(comparison.split),
        "protocol": _protocol(skills, budgets, world=world, n_test=n_test),
        "verdict": verdict(comparison, budgets),
        "classes": list(names),
        "classifier": None,
        "details": details,
        "looks": {
            "count": 2,
            "test": "7e" * 32,
            "openings": [
                {"time": f"2025-01-3{day}T10:00:00+00:00", "command": "twoviews evaluate runs/a", "comparison": c * 64}
                for day, c in ((0, "a"), (1, "b"))
            ],
        },
        "cut": [],
        "excluded": ["4 items of train nearly the same as an item of test", "6 items of val the same as one of test"],
    }
    return results, comparison.records, truth


def _protocol(skills: Mapping[str, Any], budgets: Sequence[Budget], *, world: int, n_test: int) -> dict[str, Any]:
    tried = [{"setting": s, "val_score": 0.8 - 0.01 * i} for i, s in enumerate((3.0, 0.3, 0.03))]
    rates = [{"setting": {"lr": lr, "stop": 0.6}, "val_score": 0.79} for lr in (1e-3, 2e-3)]
    search = {"setting": 3.0, "fixed_below_5": 0.3, "reference_budget": 100, "trials": tried}
    trained = {"setting": {"lr": 1e-3, "stop": 0.6}, "fixed_below_5": 2e-3, "reference_budget": 100, "trials": rates}
    nothing = {"setting": None, "fixed_below_5": None, "reference_budget": None, "trials": []}
    chosen = {arm: trained if is_trained(arm) else nothing if "knn" in arm else search for arm in skills}
    return {
        "train": "labelled/train",
        "test": "labelled/test",
        "validation": "200 of train, stratified",
        "pool_overlap": "12 of 600 test items lie in the unlabelled pool: the verdict is transductive",
        "n_val": 200,
        "n_test": n_test,
        "metric": "accuracy",
        "labels_per_class": list(budgets),
        "seeds": 5,
        "subsets": "stratified, seeded, nested over budgets, the same for all arms",
        "pretraining": "run once, without labels; only the label subsets and the classifiers are reseeded",
        "selection": "one setting an arm, by accuracy on validation; below 5 labels a class fixed beforehand",
        "settings": chosen,
        "options": {arm: options_of(arm, Evaluate(), Length(60, 64), chosen=chosen) for arm in skills},
        "test_reads": "each arm's once, after its setting was chosen",
        "data_fingerprints": {name: f"{world}{name[0]}" * 16 for name in ("train", "val", "test")},
        "labels_fingerprints": {name: f"{world}{name[0]}" * 16 for name in ("train", "val", "test")},
        "paragraph": "A convnet was pretrained once on 50,000 images without labels (simclr, 200 epochs). Classifiers "
        f"were compared on stratified, nested subsets of 2,400 labelled images, and tested on {n_test} images.",
        "command": "twoviews evaluate runs/a --train labelled/train --test labelled/test",
    }


def write_evaluation(run: Path, results: dict[str, Any], records: list[dict[str, Any]], truth: np.ndarray) -> Path:
    """The files of a finished comparison, beside what the run has."""
    folder = run / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    kept = ({key: record[key] for key in ("row", "predicted", "val_score")} for record in records)
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
    names = results["classes"]
    lines = [f"{i}.png,{json.dumps(names[t])},{json.dumps(names[t])}" for i, t in enumerate(truth)]
    (folder / "predictions.csv").write_text("\n".join(["id,label,predicted", *lines]) + "\n", encoding="utf-8")
    return run


CLOTHES = ("ankle boot", "bag", "coat", "<dress> & co")
FEW: tuple[Budget, ...] = (1, 10, "all")
REFERENCE = "reference-linear:timm:vit_small_patch14_dinov2.lvd142m"
Simulated = tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]


@pytest.fixture(scope="session")
def simulated() -> Simulated:
    """A comparison of four classes with every kind of arm; not to be changed."""
    return simulate(CLOTHES, budgets=FEW, trained_at=FEW, n_train=400, n_test=240, subsets=5, seeds=5)


@pytest.fixture
def compared_run(tmp_path: Path, simulated: Simulated) -> Path:
    """A run with that comparison and little else, to be changed at will."""
    run = write_evaluation(tmp_path / "compared", *simulated)
    (run / "run.json").write_text('{"status": "finished"}', encoding="utf-8")
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `a`, `b` far better, `c` as `a` but for its seed, and `d` on other data; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    for luck, (name, gain, seed, world) in enumerate(
        (("a", 0.0, 0, 0), ("b", 2.5, 0, 0), ("c", 0.0, 1, 0), ("d", 0.0, 0, 7))
    ):
        skills = {"linear": (1.0 + gain, 0.5), "finetune": (0.8 + gain, 0.6), "supervised": (0.5, 1.0)}
        skills |= {"pixels-knn": (0.3, 0.3)}
        made = simulate(
            CLOTHES,
            skills=skills,
            budgets=FEW,
            trained_at=FEW,
            n_train=400,
            n_test=240,
            subsets=4,
            seeds=4,
            world=world,
            luck=luck,
        )
        run = write_evaluation(folder / name, *made)
        method = "vicreg" if name == "b" else "simclr"
        (run / "config.toml").write_text(f'[method]\nname = "{method}"\n[train]\nseed = {seed}\n', encoding="utf-8")
        facts = {"status": "finished", "seed": seed, "encoder": {"name": "tiny"}, "epochs": 100}
        (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture
def change() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Change a run's results in place."""

    def edit(run: Path, how: Callable[[dict[str, Any]], None]) -> None:
        path = run / "evaluation" / "results.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        how(results)
        path.write_text(json.dumps(results), encoding="utf-8")

    return edit
