"""What the losses over pairs share: unit rows in float32, and what a positive is worth against its negatives."""

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from twoviews.compute import exact_float32
from twoviews.losses.tiles import log_sum_exp


def full_precision(z: Tensor) -> AbstractContextManager[None]:
    """Neither autocast nor products in TF32 or bf16: similarities over a small temperature need float32."""
    return exact_float32(z.device.type)


def in_float32(z: Tensor) -> Tensor:
    """As it is in float32 or float64, else as float32."""
    return z if z.dtype in (torch.float32, torch.float64) else z.float()


def unit_rows(z: Tensor) -> Tensor:
    """Rows of length 1, in float32 or float64."""
    return F.normalize(in_float32(z), dim=1)


def check_shapes(z_a: Tensor, z_b: Tensor, *, at_least: int = 1, names: str = "z_a and z_b") -> None:
    """Raises `ValueError` for shapes that do not match or too few pairs."""
    if z_a.shape != z_b.shape or z_a.ndim != 2 or len(z_a) < at_least:
        raise ValueError(f"{names} must both be (N, D), N >= {at_least}; got {tuple(z_a.shape)} and {tuple(z_b.shape)}")


def check_pairs(z_a: Tensor, z_b: Tensor, *, temperature: float, at_least: int = 1, names: str = "z_a and z_b") -> None:
    """Raises `ValueError` for shapes that do not match, too few pairs, or a temperature that is not positive."""
    check_shapes(z_a, z_b, at_least=at_least, names=names)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def pair_logits(z_a: Tensor, z_b: Tensor, *, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """For each of the 2N rows: its positive's logit, log sum exp over its negatives, and the largest of these."""
    a, b = unit_rows(z_a), unit_rows(z_b)
    positive = ((a * b).sum(1) / temperature).repeat(2)
    negatives, largest = log_sum_exp(torch.cat([a, b]), temperature=temperature, without=(0, len(a)))
    return positive, negatives, largest


def cross_entropy(positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean of -log(exp(positive) / (exp(positive) + exp(negatives))): (M,) logits, (M,) log-sum-exps, to a scalar.

    As log(1 + exp(negatives - positive)), so that small losses keep their digits.
    """
    gap = negatives - positive
    return torch.logaddexp(gap, torch.zeros_like(gap)).mean()


def accuracy(positive: Tensor, largest_negative: Tensor, *, temperature: float) -> Tensor:
    """The part of the rows whose positive is at least as similar as every negative; ties by rounding count as right."""
    with torch.no_grad():
        slack = 16 * torch.finfo(positive.dtype).eps / temperature
        return (positive >= largest_negative - slack).to(positive.dtype).mean()
