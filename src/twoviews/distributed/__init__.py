"""Processes that train together: who we are, gathers and sums. In one process everything is an identity.

`torchrun` (or `twoviews pretrain --devices N`) starts the processes and tells each its place by environment
variables; `join` makes them a group: NCCL on GPUs, gloo on CPUs.

Replicated work: where every process holds the same tensors, `divided()` lets what knows how (the tiles of the losses)
share the arithmetic out; the results are the same everywhere. Outside of it each process works for itself.
"""

from twoviews.distributed.group import (
    alone,
    barrier,
    divided,
    is_main,
    join,
    local_rank,
    local_size,
    one_before_others,
    rank,
    share,
    size,
)
from twoviews.distributed.tensors import broadcast_, gather, gather_with_gradient, max_, sum_, sum_gradients_
from twoviews.distributed.values import agreed, exchange, gather_rows, largest, require_equal, spread

__all__ = [
    "agreed",
    "alone",
    "barrier",
    "broadcast_",
    "divided",
    "exchange",
    "gather",
    "gather_rows",
    "gather_with_gradient",
    "is_main",
    "join",
    "largest",
    "local_rank",
    "local_size",
    "max_",
    "one_before_others",
    "rank",
    "require_equal",
    "share",
    "size",
    "spread",
    "sum_",
    "sum_gradients_",
]
