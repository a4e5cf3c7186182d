"""Device, threads and precision, decided from what the hardware can do, never from a timing.

A timed probe would make the choice, and with it the bytes of the weights, differ from run to run.
"""

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twoviews import distributed
from twoviews.errors import UsageError
from twoviews.narrate import Narrator


@dataclass(frozen=True)
class Compute:
    """Where and how tensors are computed."""

    device: torch.device
    bf16: bool
    threads: int

    @property
    def precision(self) -> str:
        """`bf16` (autocast, weights stay float32) or `fp32`."""
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a forward pass runs."""
        if self.bf16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device; convolution weights in channels-last order where that is faster."""
        module.to(self.device)
        if self.bf16 or self.device.type == "cuda":
            module.to(memory_format=torch.channels_last)
        return module

    def arrange(self, views: torch.Tensor) -> torch.Tensor:
        """Bring a batch of views into the memory order that the module expects."""
        if views.ndim == 4 and (self.bf16 or self.device.type == "cuda"):
            return views.contiguous(memory_format=torch.channels_last)
        return views


def choose_compute(*, device: str, precision: str, threads: int | None, narrator: Narrator) -> Compute:
    """Decide device, precision and threads, tell the reasons, and set torch's thread count.

    Raises `UsageError` for a device that is not there.
    """
    if device == "auto":
        device = _best_device()
        narrator.chose("device", device, "the fastest that torch finds here")
    if distributed.size() > 1 and torch.device(device).type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} cannot be shared by processes: use one process")
    if (reason := _unusable(device)) is not None:
        raise UsageError(f"device {device!r} cannot be used: {reason}; try --set train.device=cpu")
    target = torch.device(device)
    processes, fitting = distributed.local_size(), _fitting_threads()
    shared = f"the cores, shared by {processes} processes"
    if threads is None:
        threads = fitting
        narrator.chose("threads", threads, "one a core that this process may use" if processes == 1 else shared)
    elif processes > 1 and threads > fitting:  # more would make every process wait
        threads = fitting
        narrator.chose("threads", threads, shared)
    torch.set_num_threads(threads)
    if precision == "auto":
        bf16, reason = _bf16_pays(target)
        narrator.chose("precision", "bf16" if bf16 else "fp32", reason)
    else:
        bf16 = precision == "bf16"
    return Compute(device=target, bf16=bf16, threads=threads)


def choose_compute_as(*, precision: str, threads: int | None, device: str = "auto", narrator: Narrator) -> Compute:
    """`choose_compute` for what was trained, maybe elsewhere: the device that is here, and no more threads than cores.

    More threads than cores wait for each other. The precision stays, which makes the vectors.
    """
    if device != "auto" and (reason := _unusable(device)) is not None:
        narrator.say(f"device {device}, with which it was trained, cannot be used here: {reason}")
        device = "auto"
    if threads is not None and threads > _fitting_threads():
        threads = None
    return choose_compute(device=device, precision=precision, threads=threads, narrator=narrator)


@contextmanager
def exact_float32(device_type: str) -> Iterator[None]:
    """No autocast, no products in TF32 or bf16: what was chosen for the network is not meant for pixels and losses.

    For what runs inside; gradients that autograd makes later have the caller's precision. torch's switches are those of
    the process: threads that want other precisions must not be inside at once. In a function that torch compiles only
    autocast is off, as the compiler cannot look at the other switch.
    """
    with (
        torch.autocast(device_type, enabled=False),
        nullcontext() if torch.compiler.is_compiling() else _exact_products(),
    ):
        yield


@contextmanager
def _exact_products() -> Iterator[None]:
    backends: Any = torch.backends
    switches = ((backends.cuda.matmul, backends), (backends.mkldnn.matmul, backends.mkldnn))
    chosen = [switch.fp32_precision for switch, _ in switches]
    if not {"tf32", "bf16"}.intersection(chosen):
        yield
        return
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # chosen by the switches themselves, which the older one refuses to read
        older = None
        # What a switch has from the one above it must not stay its own.
        chosen = [
            "none" if above.fp32_precision == switch.fp32_precision else switch.fp32_precision
            for switch, above in switches
        ]
    try:
        if older is not None:
            torch.set_float32_matmul_precision("highest")
        else:
            for switch, _ in switches:
                switch.fp32_precision = "ieee"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for (switch, _), precision in zip(switches, chosen, strict=True):
            switch.fp32_precision = precision


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_name(device: torch.device) -> str | None:
    """The GPU's name as its driver reports it; None on devices that are no CUDA ones."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def tf32(device: torch.device) -> dict[str, bool] | None:
    """Whether fp32 is TF32 in convolutions (torch's default, from Ampere on) and in matrix products; None as above."""
    if device.type != "cuda":
        return None
    # Not by `allow_tf32`, which raises where a caller has set the newer flags.
    cudnn, cublas = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    return {"convolutions": cudnn.fp32_precision == "tf32", "matrix_products": cublas.fp32_precision == "tf32"}


def _fitting_threads() -> int:
    """Threads of this process, where every process has as many and every thread a core."""
    return max(1, available_cores() // distributed.local_size())


def _unusable(device: str) -> str | None:
    """Why torch cannot use a device, or None."""
    try:
        torch.empty(1, device=torch.device(device))
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available() and distributed.size() == 1:  # gloo and NCCL do not know it
        return "mps"
    return "cpu"


def _bf16_pays(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return True, "the GPU multiplies bf16 in hardware"
        return False, "the GPU has no bf16 units"
    if device.type == "cpu":
        found = [name for name in ("amx_bf16", "avx512_bf16") if name in _cpu_flags()]
        if found:
            return True, f"the processor has {' and '.join(found)}"
        return False, "the processor has neither AMX nor AVX512-BF16"
    return False, f"not measured on {device.type}"


def _cpu_flags() -> set[str]:
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # newer torch only
    if capabilities is not None:
        return {name for name, present in capabilities().items() if present is True}
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def mixed_seed(seed: int, number: int) -> int:
    """A seed of 64 bits for each pair; sums of small numbers would give one step's group the dropout of another's.

    The CPU's generator looks at 32 bits only, so those of a pair must differ there too.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest(), "little")
