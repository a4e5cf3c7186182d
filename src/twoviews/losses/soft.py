"""Cross-entropy with soft labels: the loss of distillation.

Shapes: N samples, K classes.
    logits, target (N, K)   of the network that learns, and of the one that is learned from

Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2; Chen et al. 2020b, "Big
Self-Supervised Models are Strong Semi-Supervised Learners" (SimCLR v2), eq. 2, which leaves the T^2 out.
"""

import torch.nn.functional as F
from torch import Tensor

from twoviews.losses.pairs import check_shapes, full_precision, in_float32


def soft_cross_entropy(logits: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean over samples of -sum_k softmax(target / T)_k log softmax(logits / T)_k, times T^2; none flows to the target.

    `logits`, `target`: (N, K). The gradient shrinks by T^2, which the factor makes up for (Hinton et al. 2015), so that
    T does not change what a weight beside another loss means. Returns a scalar, at least T^2 times the target's
    entropy; T^2 ln K where nothing is known. Raises `ValueError` for shapes that do not match or a temperature that is
    not positive.

    >>> import torch
    >>> round(soft_cross_entropy(torch.zeros(3, 4), torch.randn(3, 4)).item(), 4)  # ln 4
    1.3863
    """
    check_shapes(logits, target, names="logits and target")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with full_precision(logits):
        wanted = (in_float32(target.detach()) / temperature).softmax(1)
        return temperature**2 * F.cross_entropy(in_float32(logits) / temperature, wanted)
