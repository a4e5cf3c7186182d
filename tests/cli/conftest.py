"""The command in this process, small data, and one finished run that all tests of the command share."""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TINY = (
    "train.precision=fp32",
    "train.threads=1",
    "train.device=cpu",
    "train.evaluations=1",
    "evaluate.updates=6",
    "evaluate.batch_size=16",
)


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def invoke(*arguments: object) -> Outcome:
    """Run `twoviews ARGUMENTS` here; importing torch again for every command would take seconds."""
    from twoviews.cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=e) for e in ("strict", "backslashreplace")]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            code: Any = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "surrogateescape"))  # type: ignore[attr-defined]
    return Outcome(int(code or 0), *texts)


def assign(settings: Sequence[str]) -> list[str]:
    """`--set` for each setting."""
    return [word for text in settings for word in ("--set", text)]


def write_images(path: Path, *, count: int, seed: int, classes: Sequence[str] | None = ("a", "b", "c", "d")) -> Path:
    """`.npz` with noisy 8x8 images, one pattern a class, and the classes' names where there are any."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(count) % len(classes or "four")
    patterns = np.random.default_rng(7).integers(0, 200, (8, 8, 8))
    arrays = {"images": (patterns[kinds] + rng.integers(0, 56, (count, 8, 8))).astype(np.uint8)}
    if classes is not None:
        arrays["labels"] = np.array(classes)[kinds]
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def images() -> Callable[..., Path]:
    """`images(path, count=, seed=)`: see `write_images`."""
    return write_images


@dataclass(frozen=True)
class Place:
    """Data on disk, and a run that was pretrained and evaluated on it; tests only read them."""

    run: Path
    train: Path
    test: Path
    unlabelled: Path
    pretrained: Outcome
    evaluated: Outcome


@pytest.fixture(scope="session")
def twoviews() -> Callable[..., Outcome]:
    return invoke


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Options that make any command quick."""
    return assign(TINY)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    train = write_images(folder / "train.npz", count=60, seed=0)
    test = write_images(folder / "test.npz", count=40, seed=1)
    unlabelled = write_images(folder / "unlabelled.npz", count=24, seed=2, classes=None)
    run = folder / "run"
    pretrained = invoke(
        *("pretrain", train, "--out", run, "--epochs", 2, "--batch-size", 16, "--seed", 3, "--encoder", "convnet_tiny"),
        *("--probe-data", train, *assign(TINY)),
    )
    evaluated = invoke(
        *("evaluate", run, "--train", train, "--test", test, "--labels-per-class", "1,5", "--seeds", 2, "--json"),
    )
    return Place(run, train, test, unlabelled, pretrained, evaluated)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretraining without the measured steps, which only `--minutes` and the printed forecast need."""
    from twoviews.jobs.pretraining import pretrain

    monkeypatch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
