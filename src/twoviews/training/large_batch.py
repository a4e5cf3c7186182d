"""A batch as BatchNorm groups: `project` once a group, running statistics moved once a step."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from twoviews.methods.method import Method, Projections


def project_in_groups(method: Method, views: Sequence[Tensor], *, bn_group: int, forward: nn.Module) -> Projections:
    """Projections of a batch whose BatchNorm statistics belong to `bn_group` consecutive samples.

    `views`: each (B, ...), B a multiple of `bn_group`. `forward` is `method` or its compiled form. Running statistics
    end as (1 - m) old + m (mean over the groups), m being the layer's momentum: the group i of G moves them by
    a_i = (m / G) / (1 - (G - i) m / G), which gives all groups the same weight.
    """
    count = len(views[0]) // bn_group
    momenta = {
        m: m.momentum for m in method.modules() if isinstance(m, _BatchNorm) and m.training and m.momentum is not None
    }
    parts = []
    try:
        for index in range(count):
            for norm, momentum in momenta.items():
                share = momentum / count
                norm.momentum = share / (1 - (count - 1 - index) * share)
            rows = slice(index * bn_group, (index + 1) * bn_group)
            parts.append(forward([view[rows] for view in views]))
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    return Projections.join(parts)
