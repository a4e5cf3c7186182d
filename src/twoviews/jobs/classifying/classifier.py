"""The classifier that `evaluate` fitted: saved beside the run, loaded again, its confidence."""

import csv
import json
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import nn

from twoviews.encoders import load_encoder
from twoviews.errors import UsageError
from twoviews.evaluation.certainty import Certainty, curve_from
from twoviews.evaluation.finetune import Classifier
from twoviews.evaluation.probe import LinearProbe
from twoviews.jobs.head import empty_head
from twoviews.run import Run, read_json, write_rows
from twoviews.training.checkpoint import sha256_file

_CURVE = ("probability", "answered", "right")
VALIDATION = "validation.csv"
"""Beside the weights: what the validation items say of the probabilities, `Certainty.curve`."""


def save_classifier(
    folder: Path,
    *,
    probe: LinearProbe | None,
    classifier: Classifier | None,
    encoder: Path,
    head: Path | None = None,
    classes: Sequence[str],
    facts: dict[str, Any],
    certainty: Certainty | None = None,
) -> None:
    """Write a probe (on the run's encoder) or a fine-tuned classifier (with its encoder); the one there is replaced.

    `head`: folder of the projection head whose first layer the classifier has kept. `certainty`: measured on
    validation, where there was one.
    """
    if classifier is None:
        assert probe is not None
        weight = probe.weight / probe.std
        tensors = {
            "head.weight": torch.from_numpy(weight).float(),
            "head.bias": torch.from_numpy(probe.bias - weight @ probe.mean).float(),
        }
    else:
        tensors = classifier.state_dict()
    config = {
        "kind": "finetuned" if classifier is not None else "head",
        "classes": list(classes),
        "encoder_sha256": sha256_file(encoder / "model.safetensors"),
        "head": None if head is None else read_json(head / "config.json"),
        **facts,
    }
    if certainty is not None:
        config["calibration"] = {"temperature": certainty.temperature, "items": certainty.items}
    mark = secrets.token_hex(8)
    temporary, old = (folder.with_name(f".{folder.name}.{mark}.{what}") for what in ("tmp", "old"))
    temporary.mkdir(parents=True)
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
        temporary / "model.safetensors",
    )
    (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    if certainty is not None:
        rows = [dict(zip(_CURVE, point, strict=True)) for point in certainty.curve]
        write_rows(temporary / VALIDATION, rows, columns=list(_CURVE))
    with suppress(FileNotFoundError):  # the first one
        folder.rename(old)
    temporary.rename(folder)
    for left in folder.parent.glob(f".{folder.name}.*"):  # also by a process that was killed
        shutil.rmtree(left, ignore_errors=True)


def load_classifier(run: Run, *, encoder: nn.Module | None = None) -> tuple[Classifier, tuple[str, ...]]:
    """The classifier of a finished run, in evaluation mode on the CPU, and the names of its classes.

    `encoder`: for a run that trained your own module, that module. Raises `UsageError` when the run has no classifier,
    one that is damaged, or one that was fitted to another encoder.
    """
    run.require_finished()
    if not (run.classifier / "config.json").is_file():
        raise UsageError(
            f"{run.path} has no classifier yet: fit one with twoviews evaluate {run.path} --train DATA --test DATA"
        )
    again = f"run twoviews evaluate {run.path} again"
    try:
        config = read_json(run.classifier / "config.json")
    except UsageError as error:
        raise UsageError(f"{error}; {again}") from None
    if config.get("arm") == "distillation":
        again = "train the student again with twoviews distill"  # an evaluation leaves it as it is
    built: nn.Module = load_encoder(run.encoder, module=encoder)
    if config["encoder_sha256"] != sha256_file(run.encoder / "model.safetensors"):
        raise UsageError(f"{run.classifier} was fitted to another encoder: {again}")
    if config.get("head"):
        built = empty_head(built, config["head"])
    classifier = Classifier(built, classes=len(config["classes"]))
    path = run.classifier / "model.safetensors"
    try:
        tensors = load(path.read_bytes())
        classifier.load_state_dict(tensors, strict=config["kind"] == "finetuned")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}): {again}") from None
    return classifier.eval(), tuple(config["classes"])


def load_certainty(run: Run) -> Certainty | None:
    """What validation said of the run's classifier; None where it was fitted without, or before that was kept.

    Raises `UsageError` for files that are damaged.
    """
    about = read_json(run.classifier / "config.json").get("calibration")
    if about is None:
        return None
    path = run.classifier / VALIDATION
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        if tuple(header) != _CURVE:
            raise ValueError(f"its columns are {', '.join(header)}")
        return Certainty(float(about["temperature"]), curve_from(rows))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read ({error}): run twoviews evaluate {run.path} again") from None


def why_uncalibrated(run: Run) -> str:
    """Why `load_certainty` gives None, and what would change that."""
    about = read_json(run.classifier / "config.json")
    again = f"twoviews evaluate {run.path} --train DATA --test DATA"
    if about.get("arm") == "distillation":
        return "a student's classifier is not calibrated"
    if about.get("val_accuracy") is None:
        return f"the classifier was fitted without validation items; with some: {again} --val DATA"
    return f"an earlier version, which kept no calibration, fitted the classifier; fit it again: {again}"
