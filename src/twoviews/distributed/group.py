"""The processes: who we are, and how we meet. In one process everything is an identity."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta

import torch
import torch.distributed as dist

from twoviews.errors import ResourceError, UsageError
from twoviews.launched import STORE, launched

TIMEOUT_MINUTES = 10
"""How long a process waits for the others in a training step; the environment's TWOVIEWS_TIMEOUT_MINUTES changes it."""

_divided: ContextVar[bool] = ContextVar("divided", default=False)
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_patient: dist.ProcessGroup | None = None


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if active() and not _alone.get() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if active() and not _alone.get() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def local_rank() -> int:
    """This process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if active() else 0


def local_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if active() else 1


def join() -> None:
    """Make a group of the processes that a launcher started, until the process ends; without a launcher, nothing.

    NCCL for GPUs, gloo for CPUs. A group that the caller made is used as it is. Raises `UsageError` when the others
    cannot be reached.
    """
    global _patient
    if not launched() or _patient is not None:
        return
    number = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
    text = os.environ.get("TWOVIEWS_TIMEOUT_MINUTES", str(TIMEOUT_MINUTES))
    try:
        limit = timedelta(minutes=float(text))
    except (ValueError, OverflowError):
        raise UsageError(f"TWOVIEWS_TIMEOUT_MINUTES is {text!r}: give a number of minutes") from None
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    store = os.environ.get(STORE)
    try:
        if not active():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                init_method=f"file://{store}" if store else "env://",
                rank=int(os.environ["RANK"]),
                world_size=int(os.environ["WORLD_SIZE"]),
                timeout=limit,
            )
            atexit.register(_leave)
        made = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        _patient = made if isinstance(made, dist.ProcessGroup) else None
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{number} cannot join the others: {str(error).splitlines()[0]}") from None


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is the only one: for trials that may fail in one of several."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


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


def barrier() -> None:
    """Wait until every process is here."""
    if size() > 1:
        with talking():
            dist.barrier(group=patient())


@contextmanager
def one_before_others() -> Iterator[None]:
    """The first process of each machine runs the block, then the others do: for work that leaves a file for them.

    Where it fails the others get to run it too: the error may be one that its caller lives with.
    """
    if local_rank() > 0:
        barrier()
    try:
        yield
    except Exception:
        with suppress(Exception):  # what ended the block is what is to be told
            if local_rank() == 0:
                barrier()
        raise
    if local_rank() == 0:
        barrier()


@contextmanager
def talking() -> Iterator[None]:
    """What the libraries below say when another process is gone, as an error that a user can act on."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        who, text = f"process {rank()} of {size()}", str(error)
        if any(word in text.lower() for word in ("closed", "timed out", "timeout", "reset by peer", "broken pipe")):
            raise ResourceError(
                f"{who} lost the others: one of them ended, was killed (often for memory), or did not answer in time; "
                "see its own message, then continue with twoviews resume"
            ) from error
        raise ResourceError(f"{who} cannot talk to the others: {text.splitlines()[0]}") from error


def _leave() -> None:
    global _patient
    # A group that outlives the interpreter has its threads torn down under them ("terminate called ...").
    _patient = None
    if active():
        dist.destroy_process_group()


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def patient() -> dist.ProcessGroup | None:
    """The group for what takes one process long while the others wait (decoding, a fit), and for values on the CPU."""
    return _patient
