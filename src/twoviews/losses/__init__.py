"""Losses: pure functions of tensors, one file each."""

from twoviews.losses.barlow_twins import barlow_twins
from twoviews.losses.cosine import negative_cosine, spread
from twoviews.losses.dcl import dcl, dcl_with_accuracy
from twoviews.losses.info_nce import (
    info_nce,
    info_nce_with_accuracy,
    key_info_nce,
    key_info_nce_with_accuracy,
    queue_info_nce,
    queue_info_nce_with_accuracy,
)
from twoviews.losses.nce import nce, nce_with_accuracy
from twoviews.losses.nt_xent import NTXentLoss, nt_xent, nt_xent_with_accuracy
from twoviews.losses.soft import soft_cross_entropy
from twoviews.losses.sup_con import sup_con
from twoviews.losses.vicreg import vicreg

__all__ = [
    "NTXentLoss",
    "barlow_twins",
    "dcl",
    "dcl_with_accuracy",
    "info_nce",
    "info_nce_with_accuracy",
    "key_info_nce",
    "key_info_nce_with_accuracy",
    "nce",
    "nce_with_accuracy",
    "negative_cosine",
    "nt_xent",
    "nt_xent_with_accuracy",
    "queue_info_nce",
    "queue_info_nce_with_accuracy",
    "soft_cross_entropy",
    "spread",
    "sup_con",
    "vicreg",
]
