"""Processes that train together: who we are, gathers and sums. In one process everything is an identity.

`torchrun` (or `twoviews pretrain --devices N`) starts the processes and tells each its place by environment
variables; `join` makes them a group: NCCL on GPUs, gloo on CPUs.

Replicated work: where every process holds the same tensors, `divided()` lets what knows how (the tiles of the losses)
share the arithmetic out; the results are the same everywhere. Outside of it each process works for itself.
"""

import atexit
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from twoviews.errors import ResourceError, UsageError

STORE = "TWOVIEWS_STORE"
"""Environment variable: a file by which the processes of one machine find each other without an open port."""

TIMEOUT_MINUTES = 10
"""How long a process waits for the others before it gives up; the environment's TWOVIEWS_TIMEOUT_MINUTES changes it."""

T = TypeVar("T")
R = TypeVar("R")

_BUCKET_BYTES = 25 * 2**20

_divided: ContextVar[bool] = ContextVar("divided", default=False)


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if _active() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def local_rank() -> int:
    """This process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if _active() else 0


def local_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if _active() else 1


def launched_rank() -> int:
    """The rank that a launcher gave this process, known before the group exists; 0 without a launcher."""
    return int(os.environ.get("RANK", 0)) if launched() else 0


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def join() -> None:
    """Make a group of the processes that a launcher started, until the process ends; without a launcher, nothing.

    NCCL for GPUs, gloo for CPUs. A group that is there already is used as it is. Raises `UsageError` when the others
    cannot be reached.
    """
    if not launched() or _active():
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    minutes = float(os.environ.get("TWOVIEWS_TIMEOUT_MINUTES", TIMEOUT_MINUTES))
    store = os.environ.get(STORE)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=f"file://{store}" if store else "env://",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=timedelta(minutes=minutes),
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot join the others: "
            f"{str(error).splitlines()[0]}"
        ) from None
    atexit.register(_leave)


@contextmanager
def divided() -> Iterator[None]:
    """Inside, tensors are the same in every process, and `share` gives each process a part of the work."""
    token = _divided.set(True)
    try:
        yield
    finally:
        _divided.reset(token)


def share() -> tuple[int, int]:
    """(i, n): of work that can be divided, do part i of n. (0, 1) outside `divided`."""
    return (rank(), size()) if _divided.get() else (0, 1)


def gather(tensor: Tensor) -> Tensor:
    """The processes' tensors, all of one shape, joined along the first axis in order of rank; without gradient."""
    if size() == 1:
        return tensor.detach()
    mine = tensor.detach().contiguous()
    parts = [torch.empty_like(mine) for _ in range(size())]
    with _talking():
        dist.all_gather(parts, mine)
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """`gather` for a loop of your own: the gradient that comes back is summed over the processes.

    (B, ...) to (ranks x B, ...). What is differentiated is thus the sum of the processes' losses; with gradients
    averaged, as DistributedDataParallel does, that is the mean loss. Every process must run the backward pass.
    """
    if size() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous()
        if total is grad:
            total = grad.clone()
        with _talking():
            dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def sum_(tensors: Sequence[Tensor], *, mean: bool = False) -> None:
    """Replace each tensor by the sum (or mean) over the processes; in buckets, so that few messages are sent."""
    if size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        with _talking():
            dist.all_reduce(flat)
        if mean:
            flat /= size()
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def max_(tensor: Tensor) -> Tensor:
    """Replace a tensor by the elementwise maximum over the processes."""
    if size() > 1:
        with _talking():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def largest(value: float) -> float:
    """The largest of the processes' values."""
    return float(max_(torch.tensor(float(value), dtype=torch.float64)).item()) if size() > 1 else value


def gather_rows(array: NDArray[np.float32], counts: Sequence[int]) -> NDArray[np.float32]:
    """The processes' rows, (counts[rank], D), one after the other in every process."""
    if size() == 1:
        return array
    padded = np.zeros((max(counts), int(largest(array.shape[1]))), np.float32)
    padded[: len(array), : array.shape[1]] = array
    everything = gather(torch.from_numpy(padded)[None]).numpy()
    return np.concatenate([rows[:count] for rows, count in zip(everything, counts, strict=True)])


def broadcast_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of process 0."""
    if size() > 1:
        for tensor in tensors:
            with _talking():
                dist.broadcast(tensor.detach(), src=0)


def agreed(value: Any) -> Any:
    """The value of process 0, which JSON must be able to carry."""
    return value if size() == 1 else exchange(value)[0]


def exchange(value: Any) -> list[Any]:
    """Every process's value in order of rank; JSON must be able to carry it (nothing is unpickled here)."""
    if size() == 1:
        return [value]
    text = json.dumps(value).encode()
    lengths = gather(torch.tensor([len(text)]))
    padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    rows = gather(padded[None])
    return [json.loads(bytes(row[:n].tolist())) for row, n in zip(rows, lengths.tolist(), strict=True)]


def spread(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """`[work(item) for item in items]`, each item in one of the processes; JSON must be able to carry the results."""
    mine = [work(item) for item in items[rank() :: size()]]
    shared = exchange(mine)
    return [shared[number % size()][number // size()] for number in range(len(items))]


def barrier() -> None:
    """Wait until every process is here."""
    if size() > 1:
        with _talking():
            dist.barrier()


@contextmanager
def one_before_others() -> Iterator[None]:
    """The first process of each machine runs the block, then the others do: for work that leaves a file for them."""
    if local_rank() > 0:
        barrier()
    yield
    if local_rank() == 0:
        barrier()


@contextmanager
def _talking() -> Iterator[None]:
    """What the libraries below say when another process is gone, as an error that a user can act on."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ResourceError(
            f"process {rank()} of {size()} lost the others: one of them ended, was killed (often for memory), or did "
            "not answer in time; see its own message, then continue with twoviews resume"
        ) from error


def _leave() -> None:
    if _active():
        dist.destroy_process_group()


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one type and device, about 25 MB together."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        same = bucket and (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not same or held >= _BUCKET_BYTES):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket
