"""Noise-contrastive estimation over pairs: is this pair two views of one sample, or chance?

Shapes: N pairs, M = 2N rows, D dimensions, k = 2N - 2 noise rows for each row.
    s (t, M)        similarity / T of t rows with all, recomputed in the backward pass
    positive (M,)   similarity / T of each row with its other view

A logistic classifier with the logit s - ln k, which is what tells one true row from k of noise: a similarity of 0 says
"as likely as chance".

Source: Gutmann & Hyvarinen 2010, "Noise-contrastive estimation", eq. 2 to 4, with k noise samples for one of data as in
Mnih & Kavukcuoglu 2013, "Learning word embeddings efficiently with noise-contrastive estimation", eq. 8. Chen et al.
2020 (SimCLR, table 2) compare a logistic loss without the ln k.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twoviews.losses.pairs import accuracy, check_pairs, full_precision, unit_rows

TILE = 1024
"""Rows whose similarities are in memory at a time."""


def nce(z_a: Tensor, z_b: Tensor, *, temperature: float) -> Tensor:
    """Mean over 2N rows of -log p(its other view is true) - sum over the 2N - 2 other rows of log p(noise).

    `z_a`, `z_b`: (N, D), N >= 2, normalised here. Returns a scalar; ln(1 + k) + k ln(1 + 1 / k), about ln k + 1, is
    chance (k = 2N - 2). Raises `ValueError` for shapes that do not match, fewer than 2 pairs or a temperature that is
    not positive.

    >>> z = torch.eye(4)
    >>> nce(z, z, temperature=0.1).item() < nce(z, z.flip(0), temperature=0.1).item()
    True
    """
    return nce_with_accuracy(z_a, z_b, temperature=temperature)[0]


def nce_with_accuracy(z_a: Tensor, z_b: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """`nce`, and the part of the 2N rows whose positive is at least as similar as every negative."""
    check_pairs(z_a, z_b, temperature=temperature, at_least=2)
    with full_precision(z_a):
        a, b = unit_rows(z_a), unit_rows(z_b)
        z = torch.cat([a, b])
        log_k = math.log(len(z) - 2)
        positive = ((a * b).sum(1) / temperature).repeat(2)
        noise, tops = [], []
        for start in range(0, len(z), TILE):
            # The graph of one tile at a time: a step on 4,096 pairs would else keep 2 x 268 MB.
            of_rows, top = checkpoint(
                _tile, z, start, temperature, log_k, use_reentrant=False, preserve_rng_state=False
            )
            noise.append(of_rows)
            tops.append(top)
        loss = -(F.logsigmoid(positive - log_k) + torch.cat(noise)).mean()
        return loss, accuracy(positive, torch.cat(tops), temperature=temperature)


def _tile(z: Tensor, start: int, temperature: float, log_k: float) -> tuple[Tensor, Tensor]:
    """Of some rows: the sum over all negatives of log p(noise), and the largest similarity / T of a negative."""
    rows = z[start : start + TILE]
    at = torch.arange(start, start + len(rows), device=z.device)
    own = torch.stack([at, (at + len(z) // 2) % len(z)], 1)
    with full_precision(z):  # for the second time in the backward pass
        s = (rows @ z.T / temperature).scatter(1, own, -math.inf)
    # Not `softplus`, which from 20 on is its argument.
    return F.logsigmoid(log_k - s).sum(1), s.detach().amax(1)
