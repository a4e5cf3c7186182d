"""Small methods around an encoder that takes images of any size, and views of them."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from twoviews.methods import Method, build_method, method_options

SMALL = {"projector_dim": 12, "projector_width": 16, "queue_size": 24, "classes": 3}


@pytest.fixture
def make(worker: ModuleType) -> Callable[..., Method]:
    """`make(name, seed=0, **options)`: a method in float64, with few dimensions where it has such an option."""

    def build(name: str, *, seed: int = 0, **options: Any) -> Method:
        torch.manual_seed(seed)
        known = {key: value for key, value in SMALL.items() if key in method_options(name)}
        return build_method(name, worker.Convolutions("batch"), options={**known, **options}).double()

    return build


@pytest.fixture
def views() -> Callable[..., list[Tensor]]:
    """`views(*sides, count=8, seed=0)`: for each side (count, 1, side, side), noisy parts of the same images."""

    def draw(*sides: int, count: int = 8, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
        parts = [images[..., :side, :side] for side in sides]
        return [part + 0.5 * torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in parts]

    return draw


@pytest.fixture
def labels() -> Callable[[Method, int], Tensor | None]:
    """`labels(method, count)`: for methods that want some; a third of the samples has none."""

    def of(method: Method, count: int) -> Tensor | None:
        return torch.arange(count) % 3 - 1 if method.uses_labels else None

    return of
