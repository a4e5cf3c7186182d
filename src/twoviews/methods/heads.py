"""Projection and prediction heads: (B, in) -> (B, out)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn


def projection_head(in_features: int, *, layers: int, width: int, out_features: int) -> nn.Sequential:
    """SimCLR's head: `layers` linear layers, each with BatchNorm, ReLU between; (B, in) -> (B, out).

    As in the authors' code, every layer is normalised (Chen et al. 2020, section 2.1; v2 uses three layers: Chen et al.
    2020b, section 2); the last one without offset, as there, and without scale, as in MoCo v3's code.
    """
    return normalised_head([in_features, *[width] * (layers - 1), out_features], last="norm")


def normalised_head(widths: Sequence[int], *, last: Literal["linear", "no bias", "norm"] = "linear") -> nn.Sequential:
    """Linear, BatchNorm, ReLU for each hidden width, then a linear layer: with bias, without, or normalised.

    `last="norm"`: BatchNorm without scale and offset of its own. What is normalised, or compared without regard to a
    constant, has no use for a bias.

    >>> [type(module).__name__ for module in normalised_head([8, 16, 4])]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    modules: list[nn.Module] = []
    *hidden, out_features = widths[1:]
    before = widths[0]
    for width in hidden:
        modules += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        before = width
    modules.append(nn.Linear(before, out_features, bias=last == "linear"))
    if last == "norm":
        modules.append(nn.BatchNorm1d(out_features, affine=False))
    return nn.Sequential(*modules)


def plain_head(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between and no normalisation, Glorot's uniform initialisation and no bias to begin with.

    Keras's `Dense`; MoCo v2's head has this form too (Chen et al. 2020c).
    """
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        modules += [layer, nn.ReLU(inplace=True)]
    return nn.Sequential(*modules[:-1])
