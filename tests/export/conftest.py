"""Runs without training: an encoder folder with random weights, a probe on it, and pictures to check exports on."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from twoviews.encoders import Encoder, build_encoder, save_encoder
from twoviews.evaluation.certainty import Certainty
from twoviews.evaluation.finetune import Classifier
from twoviews.jobs.classifying.classifier import save_classifier
from twoviews.run import Run

CLASSES = ("cat", "dog", "emu")


def shaken(encoder: Encoder, *, seed: int = 0) -> Encoder:
    """As after training: BatchNorm's statistics and biases are not what they began as."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if value.ndim == 1 and value.dtype.is_floating_point:
                value.copy_(0.5 + torch.rand(value.shape, generator=generator) * (1.0 if "var" in name else 0.5))
    return encoder.eval()


def write_run(
    path: Path, name: str, *, side: int, stem: str = "auto", channels: int = 3, data: Path | None = None
) -> Run:
    """A finished run of a network that was not trained, with a fine-tuned-like classifier of three classes."""
    torch.manual_seed(0)
    encoder = shaken(build_encoder(name, image_size=side, channels=channels, stem=stem))
    run = Run(path)
    save_encoder(
        encoder,
        run.encoder,
        preprocessing={"mean": [0.4] * channels, "std": [0.25] * channels},
        extra={"cache_side": round(1.25 * side), "intensity": "uint8"},
    )
    run.config.write_text(f"[data]\nsource = {json.dumps(str(data))}\n" if data else "")
    run.update(
        **{
            "status": "finished",
            "precision": "fp32",
            "threads": 1,
            "steps": 3,
            "step": 3,
            "batch_size": 8,
            "epochs": 1.0,
        },
        **{"seed": 0, "device": "cpu", "cpu": "a processor", "command": ["twoviews", "pretrain", "/there/photos"]},
        data={"spec": "/there/photos", "fingerprint": "ab" * 32, "count": 24, "width": 40, "height": 40, "channels": 3},
    )
    classifier = Classifier(encoder, classes=len(CLASSES))
    with torch.no_grad():
        classifier.head.weight.normal_()
        classifier.head.bias.normal_()
    save_classifier(
        run.classifier,
        probe=None,
        classifier=classifier,
        encoder=run.encoder,
        classes=CLASSES,
        facts={"arm": "finetune"},
        certainty=Certainty(2.5, ((0.9, 4, 4), (0.5, 8, 6))),
    )
    return run


def write_results(run: Run) -> None:
    """What the card reads of an evaluation."""
    rows = [
        {"arm": "linear", "labels_per_class": 5, "seed": seed, "accuracy": value, "n_test": 80}
        for seed, value in enumerate((0.5, 0.6, 0.7))
    ]
    run.evaluation.mkdir()
    results = {
        "rows": rows,
        "verdict": {"metric": "accuracy", "sentence": "Self-supervision helped."},
        "protocol": {"paragraph": "Classifiers were compared on nested subsets."},
    }
    run.results.write_text(json.dumps(results))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of smooth pictures of several sizes, some above the stored side and some below."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index, size in enumerate([(120, 90), (30, 41), (64, 64), (35, 20)]):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Run:
    run = write_run(tmp_path_factory.mktemp("tiny") / "run", "convnet_tiny", side=16, data=pictures)
    write_results(run)
    return run


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Callable[..., Run]:
    """`make_run(name, side=, stem=)`, see `write_run`; tests only read these runs, which are made once each."""

    @cache
    def make(name: str, *, side: int, stem: str = "auto") -> Run:
        return write_run(tmp_path_factory.mktemp("made") / "run", name, side=side, stem=stem, data=pictures)

    return make
