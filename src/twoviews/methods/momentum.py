"""Momentum networks: slow copies that follow the trained ones and get no gradient."""

import copy
import math

import torch
from torch import nn


def slow_copy(module: nn.Module) -> nn.Module:
    """A copy that is never trained. In training its normalisation uses the statistics of each BatchNorm group."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, *, momentum: float) -> None:
    """slow = momentum slow + (1 - momentum) fast, for every parameter; buffers are the slow module's own."""
    torch._foreach_lerp_([*slow.parameters()], [*fast.parameters()], 1 - momentum)


def rising(base: float, progress: float) -> float:
    """From `base` to 1 along a cosine as `progress` goes from 0 to 1 (Grill et al. 2020, section 3.3).

    >>> rising(0.99, 0.0), rising(0.99, 1.0)
    (0.99, 1.0)
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
