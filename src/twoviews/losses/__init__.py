"""Losses: pure functions of tensors, one file each."""

from twoviews.losses.dcl import dcl, dcl_with_accuracy
from twoviews.losses.info_nce import (
    info_nce,
    info_nce_with_accuracy,
    queue_info_nce,
    queue_info_nce_with_accuracy,
)
from twoviews.losses.nt_xent import NTXentLoss, nt_xent, nt_xent_with_accuracy
from twoviews.losses.sup_con import sup_con

__all__ = [
    "NTXentLoss",
    "dcl",
    "dcl_with_accuracy",
    "info_nce",
    "info_nce_with_accuracy",
    "nt_xent",
    "nt_xent_with_accuracy",
    "queue_info_nce",
    "queue_info_nce_with_accuracy",
    "sup_con",
]
