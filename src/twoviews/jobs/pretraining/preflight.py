"""Before step 0: what fits into memory and how long a step takes, on a copy that is thrown away."""

import copy
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from twoviews import distributed
from twoviews.compute import Compute
from twoviews.data.cache import available_memory
from twoviews.data.streams import Streams
from twoviews.errors import ResourceError, out_of_memory
from twoviews.jobs.pretraining.prepare import Job, optimizer_of
from twoviews.narrate import Narrator
from twoviews.training.loop import Evaluator, train_step, views_wanted

PART_OF_MEMORY = 0.8
"""Of what is free, for weights, gradients and graphs; the rest is for what kernels and loss need in passing."""

WARM_UP_STEPS = 2
ENOUGH_STEPS = 3
PATIENCE_SECONDS = 45
"""Where one step takes long, what it needed besides does not matter, and one is enough."""


def measure(job: Job, evaluators: Sequence[Evaluator], seconds: float) -> tuple[float, float]:
    """Seconds a step (mean over `seconds`), and seconds of all evaluations, on a copy of the model.

    Of the slowest process.
    """
    method, step = _rehearsal(job)
    taken: list[float] = []
    began = time.monotonic()
    for number in range(40):
        started = time.monotonic()
        step(number)
        # A step that takes long by itself needs no warm-up; one that takes long because it compiles does.
        if number >= WARM_UP_STEPS or (not job.plan.compile and time.monotonic() - began > PATIENCE_SECONDS / 2):
            taken.append(time.monotonic() - started)
        enough = len(taken) >= ENOUGH_STEPS and sum(taken) > seconds
        late = bool(taken) and time.monotonic() - began > PATIENCE_SECONDS
        if distributed.agreed(enough or late):
            break
    started = time.monotonic()
    if job.plan.evaluations:
        for evaluator in evaluators:
            list(evaluator(method.get_submodule("encoder")))
    evaluating = (time.monotonic() - started) * job.plan.evaluations
    mean = sum(taken) / len(taken) if taken else 0.0
    return distributed.largest(mean), distributed.largest(evaluating)


def fitting_micro_batch(job: Job, *, narrator: Narrator) -> int:
    """The largest multiple of `bn_group`, up to the batch, whose graph memory holds; the same in every process.

    Raises `ResourceError` where not even one group fits.
    """
    group, own = job.plan.bn_group, job.plan.batch_size // distributed.size()
    if distributed.largest(float(_runs_out(partial(graph_bytes, job, samples=group), job.compute))):
        raise ResourceError(_too_large(group))
    graph = graph_bytes(job, samples=group)
    _release(job.compute)
    weights = sum(p.numel() * p.element_size() for p in job.method.parameters())
    free = _free_bytes(job.compute)
    # Gradients and two moments come on top; and, while one graph is kept, half another in a pass without a graph.
    room = PART_OF_MEMORY * free - 3 * weights - 0.5 * graph
    fitting = min(own // group, int(-distributed.largest(-(room // graph)))) * group
    while fitting >= group and job.compute.device.type != "cpu":
        attempt = partial(_try_step, job.with_plan(micro_batch=fitting))
        if not distributed.largest(float(_runs_out(attempt, job.compute))):
            break
        fitting = min(fitting - group, fitting * 7 // 8 // group * group)
    if fitting < group:
        raise ResourceError(
            f"{_too_large(group)}; its graph needs {graph / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        )
    reason = f"{graph / group / 1e6:.2f} MB a sample, {free / 1e9:.1f} GB free" + (
        "; the whole batch fits" if fitting == own else ""
    )
    narrator.chose("micro_batch", fitting, reason)
    return fitting


@contextmanager
def told_what_fits(job: Job) -> Iterator[None]:
    """Out of memory inside becomes a `ResourceError` that says what to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        group, own = job.plan.bn_group, job.plan.batch_size // distributed.size()
        kept = min(job.plan.micro_batch or own, own)
        if kept == group:
            raise ResourceError(_too_large(group)) from error
        raise ResourceError(
            f"out of memory with the graph of {kept} samples: --micro-batch {max(group, kept // 2 // group * group)} "
            "gives the same result in less, --micro-batch auto finds what fits"
        ) from error


def graph_bytes(job: Job, *, samples: int) -> int:
    """Bytes that the graph of `samples` samples keeps for the backward pass, weights not counted."""
    method = copy.deepcopy(job.method).train()
    batch = job.streams.fetch(job.streams.numbers(seed=0, step=0)[:samples], device=job.compute.device)
    pictures = job.views(batch, seed=0, epoch=0, views=views_wanted(method, job.views))
    own = {p.untyped_storage().data_ptr() for p in (*method.parameters(), *method.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), job.compute.autocast():
        projections = method([job.compute.arrange(picture) for picture in pictures])
    del projections  # until here, so that no storage was freed and counted as another one's
    return sum(kept.values())


def peak_memory_gb(compute: Compute) -> float:
    """The most memory that this process has held."""
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _rehearsal(job: Job) -> tuple[nn.Module, Callable[[int], object]]:
    """A copy of the model, and a function that trains it for a step."""
    method, online = copy.deepcopy(job.method), copy.deepcopy(job.online)
    optimizer = optimizer_of(job.config, method)
    forward: nn.Module = torch.compile(method) if job.plan.compile else method  # type: ignore[assignment]
    method.train()
    plan = replace(job.plan, steps=10**6)

    def step(number: int) -> object:
        return train_step(
            method,
            optimizer,
            job.views,
            job.streams,
            step=number,
            plan=plan,
            compute=job.compute,
            forward=forward,
            online=online,
        )

    return method, step


def _try_step(job: Job) -> None:
    """This process's part of a step, without the others: memory may run out in one of them."""
    own = job.plan.batch_size // distributed.size()
    with distributed.alone():
        whole = job.streams
        labelled = whole.labelled_batch * own // whole.batch_size
        streams = Streams(whole.pool, own - labelled, whole.labelled if labelled else None, labelled, whole.items)
        _rehearsal(replace(job, plan=replace(job.plan, batch_size=own), streams=streams, online=None))[1](0)


def _runs_out(work: Callable[[], object], compute: Compute) -> bool:
    """Whether work needs more memory than the device has."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return True
    finally:
        _release(compute)
    return False


def _release(compute: Compute) -> None:
    """Give memory that torch keeps for later back to the device, so that what is free is seen."""
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()


def _too_large(group: int) -> str:
    return (
        f"memory does not hold one BatchNorm group of {group} samples: try --set train.bn_group={max(2, group // 2)} "
        "(which changes its statistics), or a smaller --image-size"
    )


def _free_bytes(compute: Compute) -> int:
    if compute.device.type == "cuda":
        return int(torch.cuda.mem_get_info(compute.device)[0])
    return available_memory() // distributed.local_size()
