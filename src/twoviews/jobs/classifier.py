"""The classifier that `evaluate` fitted: saved beside the run, used by `predict`."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save_file
from torch import nn

from twoviews.compute import choose_compute
from twoviews.data.source import Spec
from twoviews.encoders import load_encoder
from twoviews.errors import UsageError
from twoviews.evaluation.finetune import Classifier, class_scores
from twoviews.evaluation.probe import LinearProbe
from twoviews.jobs.embed import Preprocessing
from twoviews.jobs.head import empty_head
from twoviews.jobs.online import batches
from twoviews.narrate import Narrator
from twoviews.run import Run, read_json
from twoviews.training.checkpoint import sha256_file


@dataclass(frozen=True)
class Prediction:
    """One item's most probable class; `probability` is the softmax, not calibrated."""

    id: str
    label: str
    probability: float


def save_classifier(
    folder: Path,
    *,
    probe: LinearProbe | None,
    classifier: Classifier | None,
    encoder: Path,
    head: Path | None = None,
    classes: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Write a probe (on the run's encoder) or a fine-tuned classifier (with its encoder), replacing the one there.

    `head`: folder of the projection head whose first layer the classifier has kept.
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
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
        temporary / "model.safetensors",
    )
    (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def predict(
    run: Run | str | Path,
    data: Spec,
    *,
    encoder: nn.Module | None = None,
    download: bool = False,
    narrator: Narrator | None = None,
) -> list[Prediction]:
    """Classify every readable item of `data` with the classifier that `evaluate` chose on validation.

    `encoder`: for a run that trained your own module, that module. Raises `UsageError` when the run has no
    classifier, or one that was fitted to another encoder.
    """
    narrator = narrator or Narrator()
    run = run if isinstance(run, Run) else Run(run)
    info = run.require_finished()
    classifier, classes = load_classifier(run, encoder=encoder)
    preprocessing = Preprocessing.of(run.encoder)
    corpus = preprocessing.load(data, download=download, narrator=narrator)
    compute = choose_compute(device="auto", precision=info["precision"], threads=info["threads"], narrator=narrator)
    compute.place(classifier)
    scores = class_scores(classifier, batches(corpus, preprocessing.views(), compute=compute), compute=compute)
    best = scores.argmax(1)
    top = scores[np.arange(len(scores)), best]
    return [Prediction(i, classes[b], round(float(p), 4)) for i, b, p in zip(corpus.ids, best, top, strict=True)]


def load_classifier(run: Run, *, encoder: nn.Module | None = None) -> tuple[Classifier, tuple[str, ...]]:
    """The classifier of a finished run, in evaluation mode on the CPU, and the names of its classes.

    `encoder` and errors: as in `predict`.
    """
    run.require_finished()
    if not (run.classifier / "config.json").is_file():
        raise UsageError(
            f"{run.path} has no classifier yet: fit one with twoviews evaluate {run.path} --train DATA --test DATA"
        )
    config = read_json(run.classifier / "config.json")
    if config["encoder_sha256"] != sha256_file(run.encoder / "model.safetensors"):
        raise UsageError(f"{run.classifier} was fitted to another encoder: run twoviews evaluate {run.path} again")
    built: nn.Module = load_encoder(run.encoder, module=encoder)
    if config.get("head"):
        built = empty_head(built, config["head"])
    classifier = Classifier(built, classes=len(config["classes"]))
    tensors = load((run.classifier / "model.safetensors").read_bytes())
    classifier.load_state_dict(tensors, strict=config["kind"] == "finetuned")
    return classifier.eval(), tuple(config["classes"])
