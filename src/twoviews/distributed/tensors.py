"""Gathers and sums of tensors; in one process identities."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from twoviews.distributed.group import patient, rank, size, talking

_BUCKET_BYTES = 25 * 2**20


def gather(tensor: Tensor) -> Tensor:
    """The processes' tensors, all of one shape, joined along the first axis in order of rank; without gradient."""
    return tensor.detach() if size() == 1 else gather_in(tensor, None)


def gather_in(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    mine = tensor.detach().contiguous()
    parts = [torch.empty_like(mine) for _ in range(size())]
    with talking():
        dist.all_gather(parts, mine, group=group)
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """`gather` for a loop of your own: the gradient that comes back is summed over the processes.

    (B, ...) to (ranks x B, ...). What is differentiated is thus the sum of the processes' losses; with gradients
    averaged, as DistributedDataParallel does, that is the mean loss. Every process must run the backward pass, and B
    must be the same in all. Another B raises `ValueError` in every process, but in a group that has NCCL alone, where
    to compare them would make the host wait for the GPU at each step: there it is undefined, as in torch.
    """
    if size() == 1:
        return tensor
    if _host_talks():  # a message between hosts: at each call, for no process can know that another's B has changed
        rows = gather_in(torch.tensor([len(tensor)]), None).tolist()
        if len(set(rows)) > 1:
            raise ValueError(
                f"processes gather batches of one size, got {' and '.join(map(str, rows))} in order of rank: "
                "drop the last, smaller batch (drop_last=True) or share it out evenly"
            )
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
        with talking():
            dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def sum_(tensors: Sequence[Tensor], *, mean: bool = False) -> None:
    """Replace each tensor by the sum (or mean) over the processes; in buckets, so that few messages are sent."""
    if size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        with talking():
            dist.all_reduce(flat)
        if mean:
            flat /= size()
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def sum_gradients_(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by the sum over the processes; a network may have left out other blocks in each."""
    if size() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    where = "cpu" if _host_talks() or not trained else trained[0].device
    anywhere = torch.tensor([p.grad is not None for p in trained], dtype=torch.int32, device=where)
    with talking():
        dist.all_reduce(anywhere, op=dist.ReduceOp.MAX, group=patient())
    used = [p for p, has in zip(trained, anywhere.tolist(), strict=True) if has]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    sum_([p.grad for p in used if p.grad is not None])


def _host_talks() -> bool:
    """Whether tensors on the CPU can be sent: a caller's group for GPUs may have NCCL alone."""
    return "cpu:" in dist.get_backend_config()


def max_(tensor: Tensor) -> Tensor:
    """Replace a tensor by the elementwise maximum over the processes."""
    if size() > 1:
        with talking():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def broadcast_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of process 0."""
    if size() > 1:
        with talking():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)


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
