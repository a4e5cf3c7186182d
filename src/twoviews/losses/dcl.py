"""The decoupled contrastive loss: NT-Xent without the positive in its denominator. Shapes as in `nt_xent`.

Source: Yeh et al. 2022, "Decoupled Contrastive Learning", eq. 6.
"""

from torch import Tensor

from twoviews.losses.pairs import accuracy, check_pairs, full_precision, pair_logits


def dcl(z_a: Tensor, z_b: Tensor, *, temperature: float) -> Tensor:
    """Mean over 2N rows of (log sum exp over the 2N - 2 negatives) - positive, similarities over temperature.

    `z_a`, `z_b`: (N, D), N >= 2, normalised here. Returns a scalar, which may be negative; ln(2N - 2) is chance. Raises
    `ValueError` for shapes that do not match, fewer than 2 pairs or a temperature that is not positive.

    >>> import torch
    >>> dcl(torch.ones(4, 2), torch.ones(4, 2), temperature=0.1).item() # doctest: +ELLIPSIS
    1.79...
    """
    return dcl_with_accuracy(z_a, z_b, temperature=temperature)[0]


def dcl_with_accuracy(z_a: Tensor, z_b: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """`dcl`, and from the same pass the contrastive accuracy of `nt_xent_with_accuracy`."""
    check_pairs(z_a, z_b, temperature=temperature, at_least=2)
    with full_precision(z_a):
        positive, negatives, largest = pair_logits(z_a, z_b, temperature=temperature)
        return (negatives - positive).mean(), accuracy(positive, largest, temperature=temperature)
