"""Projection heads."""

from torch import nn


def projection_head(in_features: int, *, layers: int, width: int, out_features: int) -> nn.Sequential:
    """SimCLR's head: `layers` linear layers, each with BatchNorm, ReLU between; (B, in) -> (B, out).

    As in the authors' code, every layer is normalised, the last one without offset (Chen et al. 2020, section 2.1;
    v2 uses three layers: Chen et al. 2020b, section 2).
    """
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(in_features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        in_features = width
    modules += [nn.Linear(in_features, out_features, bias=False), nn.BatchNorm1d(out_features, affine=False)]
    return nn.Sequential(*modules)
