"""`--devices N`: this command again, in N processes on this machine, by torchrun's launcher."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from twoviews import distributed
from twoviews.errors import UsageError

LOOPBACK = ("lo", "lo0")


def launch(arguments: Sequence[str], *, count: int) -> int:
    """Run `twoviews ARGUMENTS` in `count` processes; returns the exit code of the first that failed, or 0.

    The processes find each other by a file and talk over loopback: nothing listens beyond this machine.
    Raises `UsageError` for more processes than there are GPUs or, without one, cores.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from twoviews.compute import available_cores

    there, what = (torch.cuda.device_count(), "GPUs") if torch.cuda.is_available() else (available_cores(), "cores")
    if not 1 <= count <= there:
        raise UsageError(f"--devices {count}: this machine has {there} {what}")
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the processes speak for themselves
    with tempfile.TemporaryDirectory(prefix="twoviews-") as folder:
        os.environ[distributed.STORE] = str(Path(folder) / "processes")
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            for name in LOOPBACK:
                if Path(f"/sys/class/net/{name}").exists():
                    os.environ.setdefault(variable, name)
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


def _exit_code(error: object) -> int:
    """That of the process which failed by itself, first; those that the launcher ended have a negative one."""
    failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)  # type: ignore[attr-defined]
    codes = [failure.exitcode for failure in failures]
    own = [code for code in codes if code > 0]
    return own[0] if own else 128 + abs(codes[0]) if codes[0] != -signal.SIGKILL else 1
