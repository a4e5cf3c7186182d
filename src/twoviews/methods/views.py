"""What methods share that take any number of views of several sizes: two global views first, then local crops.

Multi-crop: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (SwAV),
section 3.3. Local crops are compared with global views only, never with each other.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from twoviews.methods.method import Projections, Step

GLOBAL = 2


def through(inputs: Sequence[Tensor], *modules: nn.Module, of: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Each view (B, ...) through the modules in turn; views of one size in one pass, largest last.

    So BatchNorm's statistics are those of all views of a size of the group, and those that are kept for evaluation are
    the global views'. `of`: the views that the inputs were made of, whose sizes these no longer show.
    """
    views = inputs if of is None else of
    outputs: dict[int, Tensor] = {}
    for size in sorted({view.shape[1:] for view in views}, key=lambda shape: shape[-1]):
        alike = [index for index, view in enumerate(views) if view.shape[1:] == size]
        out = torch.cat([inputs[index] for index in alike])
        for module in modules:
            out = module(out)
        outputs |= dict(zip(alike, out.chunk(len(alike)), strict=True))
    return [outputs[index] for index in range(len(views))]


def named(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """One projection a view: `z0`, `z1` and so on."""
    return {f"{name}{index}": tensor for index, tensor in enumerate(tensors)}


def listed(name: str, projections: Projections) -> list[Tensor]:
    """What `named` named, in order."""
    found: list[Tensor] = []
    while f"{name}{len(found)}" in projections:
        found.append(projections[f"{name}{len(found)}"])
    return found


def over_pairs(z: Sequence[Tensor], loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], *, metric: str) -> Step:
    """A symmetric loss, mean over all pairs of a global view with a later one; the metric of the two global views."""
    pairs = [loss(z[g], z[v]) for g in range(GLOBAL) for v in range(g + 1, len(z))]
    return Step(torch.stack([value for value, _ in pairs]).mean(), {metric: pairs[0][1].detach()})


def over_targets(
    predictions: Sequence[Tensor], targets: Sequence[Tensor], loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """A loss of each view's prediction and each other global view's target, mean over all."""
    return torch.stack([loss(p, t) for v, p in enumerate(predictions) for g, t in enumerate(targets) if g != v]).mean()
