"""`--devices N`: this command again, in N processes on this machine, by torchrun's launcher."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from twoviews.compute import available_cores
from twoviews.errors import ResourceError, UsageError
from twoviews.launched import STORE


def launch(arguments: Sequence[str], *, count: int) -> int:
    """Run `twoviews ARGUMENTS` in `count` processes; returns the exit code of the first that failed, or 0.

    The processes find each other by a file and talk over loopback: nothing listens beyond this machine.
    Raises `UsageError` for more processes than there are GPUs or, without one, cores.
    """
    there, what = (torch.cuda.device_count(), "GPUs") if torch.cuda.is_available() else (available_cores(), "cores")
    if not 1 <= count <= there:
        raise UsageError(f"--devices {count}: this machine has {there} {what}")
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the processes speak for themselves
    with tempfile.TemporaryDirectory(prefix="twoviews-") as folder, _environment(Path(folder), count):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder) / "launcher"),
            rdzv_configs={"store_type": "file"},
            max_restarts=0,
            monitor_interval=0.1,
            local_addr="127.0.0.1",
        )
        try:
            elastic_launch(config, sys.executable)("-m", "twoviews", *arguments)
        except ChildFailedError as error:
            return _exit_code(error)
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0


@contextmanager
def _environment(folder: Path, count: int) -> Iterator[None]:
    """What the launcher and its processes read; put back afterwards."""
    before = dict(os.environ)
    os.environ[STORE] = str(folder / "processes")
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # After a signal a process ends its step and saves; the launcher's own 30 s are too short for a large batch.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    # NumPy and SciPy begin as many threads as there are cores, in every process, and threads that wait for one another
    # on shared cores are many times slower. torch's own are set by `choose_compute`.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // count)))
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, loopback)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _exit_code(error: ChildFailedError) -> int:
    """That of the process which failed first; the others were ended by the launcher."""
    code = min(error.failures.values(), key=lambda failure: failure.timestamp).exitcode
    # Killed, as the system does when memory is out; aborted, as NCCL does when another process is gone.
    if code in (-signal.SIGKILL, -signal.SIGABRT):
        return ResourceError.exit_code
    return 128 - code if code < 0 else code
