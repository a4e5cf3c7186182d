"""A small pool of images on disk, and the settings of a run of a second."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STEPS = 8
SETTINGS = (
    f"train.steps={STEPS}",
    "train.precision=fp32",
    "train.threads=1",
    "train.device=cpu",
    "train.evaluations=2",
    "train.checkpoint_minutes=0",
    "views.policy=digits",
)


def write_pool(path: Path, *, count: int = 40, seed: int = 0) -> Path:
    """`count` noisy 8x8 images of four patterns."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).integers(0, 200, (4, 8, 8))
    labels = np.arange(count) % 4
    images = patterns[labels] + rng.integers(0, 56, (count, 8, 8))
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture
def new_pool() -> Callable[..., Path]:
    return write_pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pool") / "pool.npz")


@pytest.fixture(scope="module")
def thin() -> Iterator[None]:
    """`convnet_tiny` with eight channels: what is tested is not the network, and saving it every step costs."""
    from twoviews.encoders.builtin import BUILTIN

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILTIN, "convnet_tiny", replace(BUILTIN["convnet_tiny"], widths=(8, 8, 8, 8)))
        yield


@pytest.fixture(scope="module")
def start(pool: Path, thin: None) -> Callable[..., Any]:
    """`start(out, *settings, data=pool, ...)`: pretrain in a second, without the timing that tests do not need."""
    from twoviews.jobs.pretraining import pretrain as job

    def run(out: Path, *settings: str, data: Any = pool, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job, "measure", lambda *_: (0.01, 0.0))
            return job.pretrain(
                data,
                out=out,
                encoder=options.pop("encoder", "convnet_tiny"),
                batch_size=16,
                settings=(*SETTINGS, *settings),
                **options,
            )

    return run
