"""Pretraining in a fraction of a second."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from twoviews.jobs.pretraining import pretrain
from twoviews.sklearn import ContrastiveEncoder

TINY = ("train.precision=fp32", "train.threads=1", "train.device=cpu", "train.evaluations=0")


def tiny(method: str | None = None, **changes: Any) -> ContrastiveEncoder:
    """An encoder that trains two steps."""
    plain = {"encoder": "convnet_tiny", "steps": 2, "batch_size": 16, "settings": TINY}
    return ContrastiveEncoder(method, **plain | changes)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """120 digits (N, 8, 8) uint8, and what they are."""
    images, labels = load_digits(return_X_y=True)
    return (images[:120].reshape(-1, 8, 8) * 15).astype(np.uint8), labels[:120]


@pytest.fixture(scope="session", autouse=True)
def hasty() -> Iterator[None]:
    """Without the measured steps of the forecast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
        yield


@pytest.fixture(scope="session")
def fitted(digits: tuple[np.ndarray, np.ndarray]) -> ContrastiveEncoder:
    """Only read by tests."""
    return tiny().fit(digits[0])


@pytest.fixture(scope="session")
def make() -> Any:
    """`make(**changes)`: see `tiny`."""
    return tiny
