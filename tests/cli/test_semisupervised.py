"""The recipe of Keras's example on files in STL-10's true layout, from the command to the three curves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from twoviews.data.corpus import read_csv
from twoviews.run import Run, read_lines


def write_stl10(root: Path, *, unlabelled: int, labelled: int, test: int) -> Path:
    """Noisy patterns of ten classes; stored as channel, column, row."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 160, (10, 3, 96, 96))
    for name, count in (("unlabeled", unlabelled), ("train", labelled), ("test", test)):
        classes = np.arange(count) % 10
        images = patterns[classes] + rng.integers(0, 96, (count, 3, 96, 96))
        images.astype(np.uint8).tofile(folder / f"{name}_X.bin")
        if name != "unlabeled":
            (classes + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    (folder / "class_names.txt").write_text("".join(f"class{index}\n" for index in range(10)))
    return root


def test_stl10_semisupervised_from_end_to_end(tmp_path: Path, twoviews: Callable[..., Any]) -> None:
    stl10 = write_stl10(tmp_path / "data", unlabelled=40, labelled=30, test=15)
    out = tmp_path / "run"
    settings = ["train.batch_size=10", "train.labelled_batch=2", "evaluate.batch_size=9", "evaluate.epochs=2"]
    settings += ["evaluate.curves=2"]
    settings += ["train.evaluations=3", "train.threads=1", 'evaluate.arms=["finetune", "supervised", "pixels-knn"]']
    outcome = twoviews(
        "run",
        f"stl10@{stl10}:unlabeled",
        *("--train", f"stl10@{stl10}:train", "--test", f"stl10@{stl10}:test"),
        *("--recipe", "stl10-semisupervised", "--epochs", "1", "--out", str(out)),
        *(word for setting in settings for word in ("--set", setting)),
    )
    assert outcome.code == 0, outcome.err
    run = Run(out)

    # A tenth of the labels is for the curves alone, in pretraining as in the comparison.
    parts = [row["part"] for row in read_csv(run.labelled)]
    assert (parts.count("train"), parts.count("validation")) == (27, 3)
    results = json.loads(run.results.read_text())
    assert {row["n_train"] for row in results["rows"]} == {27}
    assert results["protocol"]["n_val"] == 3

    # The probe is measured along the way, the trained arms after every pass.
    rows = list(read_lines(run.metrics))
    assert len([row for row in rows if "online_probe" in row]) == 3
    assert all("contrastive_accuracy" in row and "probe_loss" in row for row in rows if "loss" in row)
    curves = list(read_lines(run.evaluation / "curves.jsonl"))
    for arm in ("finetune", "supervised"):
        assert [row["epoch"] for row in curves if row["arm"] == arm] == [1, 2]
        assert all(row["val_accuracy"] is not None for row in curves if row["arm"] == arm)
    page = run.report.read_text()
    assert "Accuracy over the epochs" in page
    assert "Linear probe during pretraining" in page
