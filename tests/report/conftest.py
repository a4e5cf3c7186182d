"""A run directory as a finished `twoviews run` leaves it, made from scikit-learn's digits, untrained."""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

HOSTILE = '"><img src=x onerror=alert(1)>.png'
CURVES = {
    "linear": (0.78, 0.955, 0.968, 0.986),
    "finetune": (0.77, 0.951, 0.972, 0.993),
    "knn": (0.80, 0.948, 0.961, 0.981),
    "supervised": (0.64, 0.918, 0.966, 0.994),
    "random-linear": (0.43, 0.72, 0.81, 0.952),
    "pixels-linear": (0.51, 0.77, 0.85, 0.955),
    "pixels-knn": (0.52, 0.79, 0.87, 0.981),
}
BUDGETS: tuple[int | str, ...] = (1, 5, 10, "all")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def png(pixels: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


def make_run(folder: Path) -> Path:
    """Write every part of a run."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)
    classes = [str(i) for i in range(10)]
    _pretraining(folder, rng)
    _contact_sheet(folder, images, rng)
    _results(folder, classes, rng)
    _gallery(folder, images, digits, classes, rng)
    return folder


def _pretraining(folder: Path, rng: np.random.Generator) -> None:
    steps, chance = 460, math.log(2 * 256 - 1)
    write(
        folder / "run.json",
        {
            "twoviews": "0.1.0",
            "created": "2025-01-31T09:12:44+00:00",
            "status": "finished",
            "command": ["twoviews", "pretrain", "digits", "--epochs", "100", "--out", "runs/demo"],
            "python": "3.11.9",
            "torch": "2.11.0",
            "torchvision": "0.26.0",
            "timm": "1.0.15",
            "platform": "Linux-6.1-x86_64",
            "cpu": "Example CPU @ 2.7 GHz",
            "threads": 2,
            "device": "cpu",
            "precision": "bf16",
            "seed": 0,
            "probe_data": "digits[:1198]",
            "encoder": {"name": "tiny", "stem": "small"},
            "git": {"commit": "d0969dd" + "0" * 33, "dirty": False},
            "data": {
                "spec": "digits",
                "fingerprint": "5b" * 32,
                "count": 1198,
                "rejected": 3,
                "width": 8,
                "height": 8,
                "channels": 1,
            },
            "step": steps,
            "steps": steps,
            "epochs": 100,
            "batch_size": 256,
            "seconds": 55.2,
            "images_per_second": 2170.4,
            "encoder_sha256": "9f" * 32,
            "chance_loss": chance,
            "decisions": {
                "encoder.name": {"value": "tiny", "reason": "images of 8 px on a CPU"},
                "encoder.stem": {"value": "small", "reason": "images of 64 px and less keep their pixels"},
                "train.batch_size": {"value": 256, "reason": "a fifth of 1,198 images, up to 256"},
                "train.precision": {"value": "bf16", "reason": "the CPU has AMX"},
                "train.threads": {"value": 2, "reason": "as many as cores"},
                "optim.lr": {"value": 0.002, "reason": "1e-3 at 256, no scaling for adamw"},
            },
        },
    )
    write(
        folder / "config.toml",
        '[data]\nsource = "digits"\nimage_size = 8\n\n[views]\npolicy = "digits"\n\n[encoder]\n'
        'name = "auto"\nstem = "small"\n\n[train]\nepochs = 100\nbatch_size = 256\n',
    )
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        part = step / steps
        rows.append(
            {
                "step": step,
                "epoch": step // 4,
                "loss": chance - 3.4 * (1 - math.exp(-5 * part)) + 0.07 * rng.normal(),
                "lr": 0.002 * 0.5 * (1 + math.cos(math.pi * part)),
                "contrastive_accuracy": min(1.0, 0.02 + 0.84 * (1 - math.exp(-5 * part)) + 0.015 * rng.normal()),
                "grad_norm": 1.0 + rng.random(),
            }
        )
        if step % 46 == 0:
            rows.append(
                {
                    "step": step,
                    "event": "evaluation",
                    "effective_rank": 11 + 26 * (1 - math.exp(-4 * part)),
                    "alignment": 0.2 + 0.5 * math.exp(-4 * part),
                    "uniformity": -2.9 + 1.6 * math.exp(-5 * part),
                    "online_knn": 0.97 - 0.35 * math.exp(-6 * part),
                    "online_linear": 0.965 - 0.42 * math.exp(-6 * part),
                }
            )
    write_lines(folder / "metrics.jsonl", rows)
    with (folder / "rejected.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "reason"])
        writer.writerow([HOSTILE, "cannot be decoded: truncated at 512 of 2,301 bytes"])
        writer.writerow(["3/IMG_0031.jpg", "empty file"])
        writer.writerow(["notes/\u202egnp.txt\n.png", "not an image: <b>text</b>"])


def _contact_sheet(folder: Path, images: np.ndarray, rng: np.random.Generator) -> None:
    sheet = np.full((6 * 36 + 4, 10 * 36 + 4), 245, np.uint8)
    for row in range(6):
        for column in range(10):
            image = Image.fromarray(images[row * 17])
            if column:
                image = image.rotate(float(rng.uniform(-20, 20)), translate=tuple(rng.integers(-1, 2, 2).tolist()))
            cut = np.asarray(image.resize((32, 32), Image.Resampling.NEAREST))
            sheet[4 + row * 36 : 36 + row * 36, 4 + column * 36 : 36 + column * 36] = cut
    (folder / "views.png").write_bytes(png(sheet))


def _results(folder: Path, classes: list[str], rng: np.random.Generator) -> None:
    rows = []
    for arm, means in CURVES.items():
        for budget, mean in zip(BUDGETS, means, strict=True):
            for seed in range(1 if budget == "all" else 5):
                noise = 0.0 if budget == "all" else 0.09 * (1 - mean) * float(rng.normal())
                accuracy = min(1.0, mean + noise)
                rows.append(
                    {
                        "arm": arm,
                        "labels_per_class": budget,
                        "seed": seed,
                        "accuracy": accuracy,
                        "balanced_accuracy": accuracy - 0.002,
                        "precision_macro": accuracy + 0.001,
                        "recall_macro": accuracy - 0.002,
                        "f1_macro": accuracy - 0.003,
                        "n_train": 1198 if budget == "all" else int(budget) * 10,
                        "n_val": 0 if budget == 1 else 200,
                        "n_test": 599,
                    }
                )
    confusion = np.diag(np.full(10, 58))
    for true, predicted, count in ((3, 8, 4), (9, 4, 3), (1, 8, 3), (8, 1, 2), (5, 9, 1), (7, 2, 1)):
        confusion[true, predicted] += count
    comparisons = [
        {"labels_per_class": 1, "mean_difference": 0.142, "low": 0.101, "high": 0.183, "conclusion": "helps"},
        {"labels_per_class": 5, "mean_difference": 0.037, "low": 0.021, "high": 0.053, "conclusion": "helps"},
        {
            "labels_per_class": 10,
            "mean_difference": 0.002,
            "low": -0.006,
            "high": 0.01,
            "conclusion": "cannot tell",
        },
        {
            "labels_per_class": "all",
            "mean_difference": -0.008,
            "low": None,
            "high": None,
            "conclusion": "one seed",
        },
    ]
    write(
        folder / "evaluation" / "results.json",
        {
            "rows": rows,
            "protocol": {
                "train": "digits[:1198]",
                "test": "digits[1198:]",
                "validation": "the last 200 of train",
                "n_val": 200,
                "n_test": 599,
                "seeds": 5,
                "subsets": "stratified, seeded, nested over budgets, the same for all arms",
                "features": "h, the encoder's output, of one clean view; never the projection z",
                "selection": "one setting an arm, on validation; below 5 labels a class fixed beforehand",
                "settings": {
                    "linear": {
                        "setting": 0.01,
                        "trials": [
                            {"setting": 0.01, "val_accuracy": 0.97},
                            {"setting": 0.1, "val_accuracy": 0.96},
                        ],
                    }
                },
                "test_reads": "once, after all settings were chosen",
            },
            "verdict": {
                "sentence": "Self-supervision helped: +14.2 points [+10.1, +18.3] at 1 label a class and "
                "+3.7 points [+2.1, +5.3] at 5 labels a class. No clear difference: +0.2 points [-0.6, +1.0] "
                "at 10 labels a class. -0.8 points with all labels: one seed, so no interval. Test accuracy "
                "of a linear probe on the frozen encoder minus that of training from scratch on the same "
                "labels; 95 % intervals over 5 label subsets.",
                "primary_arm": "linear",
                "comparisons": [
                    {"arm": "linear", "against": "supervised", "n": 5 if c["low"] else 1, **c} for c in comparisons
                ],
            },
            "classes": classes,
            "classifier": {
                "arm": "finetune",
                "labels_per_class": "all",
                "accuracy": 0.976,
                "precision_macro": 0.9771,
                "recall_macro": 0.9762,
                "f1_macro": 0.9753,
                "per_class": [
                    {
                        "class": name,
                        "precision": float(confusion[i, i] / confusion[:, i].sum()),
                        "recall": float(confusion[i, i] / confusion[i].sum()),
                        "f1": float(2 * confusion[i, i] / (confusion[:, i].sum() + confusion[i].sum())),
                        "support": int(confusion[i].sum()),
                    }
                    for i, name in enumerate(classes)
                ],
                "confusion": confusion.tolist(),
            },
            "cut": [],
            "excluded": [],
        },
    )
    curve = []
    for arm, budget, seed, lr in _trainings():
        speed = 40 if arm == "finetune" else 90
        for update in range(10, 301, 10):
            loss = 2.3 * math.exp(-update / speed) + 0.08 * float(rng.random())
            followed = budget == "all" or (update == 300 and budget != 1)
            accuracy = 0.97 - math.exp(-update / speed) / 2 if followed else None
            known = {"arm": arm, "labels_per_class": budget, "seed": seed, "lr": lr, "update": update}
            curve.append({**known, "epoch": update / 20, "train_loss": loss, "val_accuracy": accuracy})
    write_lines(folder / "evaluation" / "curves.jsonl", curve)


def _trainings() -> Iterator[tuple[str, int | str, int, float]]:
    """(arm, budget, seed, rate) in the order of `evaluate`: trials first, then the runs that count."""
    for arm in ("finetune", "supervised"):
        yield from ((arm, 10, 0, lr) for lr in (5e-4, 1e-3, 2e-3))
    for seed in range(5):
        for budget in BUDGETS if seed == 0 else BUDGETS[:3]:
            yield from ((arm, budget, seed, 1e-3) for arm in ("finetune", "supervised"))


def _gallery(folder: Path, images: np.ndarray, digits: Any, classes: list[str], rng: np.random.Generator) -> None:
    count, tile, columns = 300, 48, 20
    chosen = np.sort(rng.choice(len(images), count, replace=False))
    sheet = np.zeros((-(-count // columns) * tile, columns * tile), np.uint8)
    for i, index in enumerate(chosen):
        row, column = divmod(i, columns)
        cut = Image.fromarray(images[index]).resize((tile, tile), Image.Resampling.NEAREST)
        sheet[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = np.asarray(cut)
    labels = digits.target[chosen]
    centres = rng.permutation([(0.12 + 0.25 * (i % 4), 0.15 + 0.34 * (i // 4)) for i in range(10)])
    xy = np.clip(centres[labels] + rng.normal(0, 0.05, (count, 2)), 0, 1)
    vectors = PCA(16, svd_solver="full").fit_transform(digits.data)[chosen]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    predicted = labels.copy()
    for i in (5, 40, 77, 120):
        predicted[i] = (labels[i] + 5) % 10
    ids = [f"digits/{index:04d}" for index in chosen]
    ids[5] = HOSTILE
    neighbours = []
    for query in (0, 5, 9, 33, 57, 80, 120, 201):
        similarity = vectors @ vectors[query]
        nearest = np.argsort(-similarity)[1:9]
        hits = [{"index": int(i), "similarity": float(similarity[i])} for i in nearest]
        neighbours.append({"query": query, "nearest": hits})
    (folder / "evaluation" / "thumbnails.png").write_bytes(png(sheet))
    write(
        folder / "evaluation" / "gallery.json",
        {
            "tile": tile,
            "columns": columns,
            "ids": ids,
            "labels": labels.tolist(),
            "classes": classes,
            "predicted": predicted.tolist(),
            "xy": xy.tolist(),
            "neighbours": neighbours,
        },
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every part; not to be changed."""
    return make_run(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(finished_run, tmp_path / "demo"))


@pytest.fixture
def edit() -> Callable[[Path, dict[str, Any]], None]:
    """Merge values into a JSON file."""

    def merge(path: Path, values: dict[str, Any]) -> None:
        write(path, {**json.loads(path.read_text(encoding="utf-8")), **values})

    return merge
