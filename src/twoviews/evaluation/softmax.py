"""A softmax layer on features as they are, trained with Adam: the linear evaluation of many tutorials.

`probe` finds the optimum of a regularised likelihood on standardised features; this stops after some passes, wherever
it is by then, so its accuracy depends on rate, batch, passes and the scale of the features.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from ..data.loading import epoch_order
from ..errors import UsageError
from .features import check_labelled
from .probe import LinearProbe


def fit_softmax(
    vectors: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    *,
    classes: int,
    lr: float,
    batch_size: int,
    epochs: int,
    seed: int,
    eps: float = 1e-8,
) -> LinearProbe:
    """A layer fitted on vectors (N, D) with labels (N,) in 0 .. classes-1, as a probe with mean 0 and std 1.

    Glorot's uniform start with bias 0, a constant rate, a new order each pass, the last batch of a pass as short as it
    is, no penalty; in float32 on the CPU. `converged` is False: the number of passes ends the fit. Raises UsageError
    for a rate, batch or number of passes that is not above 0, DataError for values that are not finite and labels out
    of range.

    >>> x = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    >>> y = np.array([0, 0, 1, 1])
    >>> fit_softmax(x, y, classes=2, lr=0.1, batch_size=2, epochs=20, seed=0).predict(x)
    array([0, 0, 1, 1])
    """
    for name, value in (("rate", lr), ("batch", batch_size), ("number of passes", epochs)):
        if not 0 < value < np.inf:
            raise UsageError(f"the {name} of the softmax layer must be above 0 and finite, got {value}")
    check_labelled(vectors, labels, classes=classes)
    inputs = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    targets = torch.from_numpy(labels.astype(np.int64))
    layer = nn.Linear(inputs.shape[1], classes, device="meta").to_empty(device="cpu")  # its own draws are not used
    nn.init.xavier_uniform_(layer.weight, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, eps=eps)
    updates = 0
    for epoch in range(epochs):
        order = torch.from_numpy(epoch_order(len(inputs), seed=seed, epoch=epoch))
        for rows in order.split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(layer(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            updates += 1
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.weight, layer.bias))
    dimensions = inputs.shape[1]
    return LinearProbe(np.zeros(dimensions), np.ones(dimensions), weight, bias, 0.0, updates, False)
