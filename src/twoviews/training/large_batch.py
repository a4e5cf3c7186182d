"""The exact gradient of a large batch, whatever memory holds and however many processes share it.

The batch is cut into BatchNorm groups of `bn_group` consecutive samples, and a group is what is projected at a time.
    1. Every group is projected; the graph of the first `micro_batch` samples is kept, that of the others is not.
    2. One loss compares all projections of all processes; its gradient stops at the projections.
    3. Group by group, in order, that gradient goes on into the weights; groups without a graph are projected again.
    4. The processes' gradients are added up.
Views, dropout and BatchNorm statistics are functions of the samples, the step and the group, so what is projected again
is what was projected, and neither `micro_batch` nor the number of processes changes the function that is computed;
`micro_batch` does not change a bit of the gradient.

Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (gradient cache);
groups, kept graph and processes are ours.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from twoviews import distributed
from twoviews.compute import mixed_seed
from twoviews.methods.method import Method, Projections, Step

LoadViews = Callable[[slice], Sequence[Tensor]]
"""Rows of this process's samples to their views, each (rows, ...); the same rows always give the same views."""


@dataclass(frozen=True)
class Accumulated:
    """What one step leaves besides the gradients: the comparison, and the projections of the whole batch, detached."""

    step: Step
    projections: Projections


def accumulate_gradients(
    method: Method,
    load_views: LoadViews,
    *,
    count: int,
    bn_group: int,
    micro_batch: int | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
    forward: nn.Module | None = None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Accumulated:
    """Add the gradient of the loss over the whole batch to `.grad` of the method's parameters.

    `count`: this process's samples, a multiple of `bn_group`, the same in every process; the whole batch is theirs in
    order of rank. `micro_batch`: samples whose graph is kept at a time, a multiple of `bn_group`; None keeps all.
    `labels`: (count,) of this process. `seed`: of dropout and drop-path; another one each step. `forward`: the method
    or its compiled form. Raises `ValueError` for numbers that do not divide.

    The loss and the gradients are those of the whole batch in every process: step the optimiser, average nothing.

    >>> from twoviews.methods import SimCLR
    >>> encoder = nn.Flatten(); encoder.num_features = 12
    >>> method, views = SimCLR(encoder), [torch.rand(8, 3, 2, 2)] * 2
    >>> done = accumulate_gradients(
    ...     method, lambda rows: [v[rows] for v in views], count=8, bn_group=4, micro_batch=4
    ... )
    >>> done.step.loss.ndim, done.projections["z0"].shape
    (0, torch.Size([8, 128]))
    """
    kept = count if micro_batch is None else min(micro_batch, count)
    if count % bn_group or kept % bn_group:
        raise ValueError(f"{count} samples and a micro-batch of {kept} must be multiples of bn_group {bn_group}")
    groups = [slice(start, start + bn_group) for start in range(0, count, bn_group)]
    first = distributed.rank() * len(groups)
    project = forward if forward is not None else method

    def projected(index: int, views: Sequence[Tensor]) -> Projections:
        # By the group's place in the whole batch, so that dropout knows nothing of processes and micro-batches either.
        torch.manual_seed(mixed_seed(seed, first + index))
        with autocast():
            out: Projections = project(views)
            return out

    with torch.random.fork_rng(devices=_gpus(method)), _RunningStatistics(method) as norms:
        # Projections and targets of every group
        graphs: dict[int, Projections] = {}
        parts: list[Projections] = []
        constants: list[Projections] = []
        for index, rows in enumerate(groups):
            views = load_views(rows)
            with torch.set_grad_enabled(rows.stop <= kept):
                out = projected(index, views)
            if rows.stop <= kept:
                graphs[index] = out
            parts.append({name: tensor.detach() for name, tensor in out.items()})
            with torch.no_grad(), autocast():
                constants.append(method.targets(views))
            norms.note()
            del views, out

        # One comparison of all samples
        leaves = {name: tensor.requires_grad_() for name, tensor in _join(parts).items()}
        targets = _join(constants)
        every_label = None if labels is None else distributed.gather(labels)
        torch.manual_seed(mixed_seed(seed, -1))  # the same in every process
        with distributed.divided():
            step = method.compare({**leaves, **targets}, every_label)
        step.loss.backward()

        # On into the weights
        offset = distributed.rank() * count
        for index, rows in enumerate(groups):
            graph = graphs.pop(index, None)
            if graph is None:
                graph = projected(index, load_views(rows))
            own = slice(offset + rows.start, offset + rows.stop)
            grads = {name: leaf.grad[own] for name, leaf in leaves.items() if leaf.grad is not None}
            names = [name for name in grads if graph[name].requires_grad]
            torch.autograd.backward([graph[n] for n in names], [grads[n].to(graph[n].dtype) for n in names])
            del graph
    distributed.sum_gradients_(method.parameters())
    gathered = {**{name: leaf.detach() for name, leaf in leaves.items()}, **targets}
    metrics = {name: value.detach() for name, value in step.metrics.items()}
    return Accumulated(Step(step.loss.detach(), metrics), gathered)


def _gpus(method: Method) -> list[int]:
    """Whose generators dropout draws from, beside the CPU's."""
    return sorted({p.device.index or 0 for p in method.parameters() if p.device.type == "cuda"})


def _join(parts: Sequence[Projections]) -> dict[str, Tensor]:
    """Consecutive groups of this process, and then of all, as one batch; in float32 where they are shorter.

    Losses take differences of large numbers: autocast is for networks.
    """
    joined = {name: distributed.gather(torch.cat([part[name] for part in parts])) for name in parts[0]}
    return {name: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for name, t in joined.items()}


class _RunningStatistics:
    """BatchNorm's running statistics, moved once a step: (1 - m) old + m (mean over all groups of all processes).

    Inside the context every layer has momentum 1, so that its buffers show the statistics of the group that went
    through last; `note` adds them up. A momentum of None is torch's cumulative mean over steps. The buffers get their
    new values at the end: a graph wants them untouched until its backward pass.
    """

    def __init__(self, method: Method) -> None:
        self._norms = [
            m for m in method.modules() if isinstance(m, _BatchNorm) and m.training and m.running_mean is not None
        ]
        self._momenta = [norm.momentum for norm in self._norms]
        # A list at a time: a GPU would spend more on starting a kernel a buffer than on the network of a small encoder.
        self._shown = [b for norm in self._norms for b in _statistics(norm)]
        self._counts = [norm.num_batches_tracked for norm in self._norms if norm.num_batches_tracked is not None]
        self._old = copied(self._shown)
        self._old_counts = copied(self._counts)
        self._sums: list[Tensor] = []
        self._groups = 0

    def __enter__(self) -> "_RunningStatistics":
        for norm in self._norms:
            norm.momentum = 1.0
        return self

    def note(self) -> None:
        """A group went through."""
        if self._groups == 0:
            self._sums = copied(self._shown)
        elif self._shown:
            torch._foreach_add_(self._sums, self._shown)
        self._groups += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for norm, momentum in zip(self._norms, self._momenta, strict=True):
            norm.momentum = momentum
        copy_back(self._shown, self._old)
        copy_back(self._counts, self._old_counts)
        if kind is not None or not self._sums:
            return
        distributed.sum_(self._sums, mean=True)
        if self._counts:
            torch._foreach_add_(self._counts, 1)
        shares = [share for norm in self._norms for share in (_share(norm),) * 2]
        torch._foreach_mul_(self._shown, [1 - share for share in shares])
        torch._foreach_add_(self._shown, torch._foreach_mul(torch._foreach_div(self._sums, self._groups), shares))


def _share(norm: _BatchNorm) -> float:
    """What a step's statistics take of the running ones."""
    if norm.momentum is not None:
        return norm.momentum
    return 0.0 if norm.num_batches_tracked is None else 1 / int(norm.num_batches_tracked)


def synchronise_norms(module: nn.Module) -> None:
    """Make every BatchNorm in a module one over the whole batch of all processes; the weights stay the same objects.

    By timm's conversion: torch's takes the activation away from layers that are BatchNorm and activation in one.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]


def copied(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies, bit for bit; a kernel a list, where tensors are alike."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    copy_back(copies, tensors)
    return copies


def copy_back(tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Give tensors the values of their copies."""
    if tensors:
        torch._foreach_copy_(list(tensors), list(before))


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
