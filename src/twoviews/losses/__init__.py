"""Losses: pure functions of tensors, one file each."""

from twoviews.losses.nt_xent import NTXentLoss, nt_xent, nt_xent_with_accuracy

__all__ = ["NTXentLoss", "nt_xent", "nt_xent_with_accuracy"]
