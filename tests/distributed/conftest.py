"""Starts processes that train together, and reads what they leave."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")


Processes = list[subprocess.Popen[str]]


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Processes]:
    """`launch(*arguments)`: `python *arguments` in two processes that know of each other, as torchrun would."""

    def start(*arguments: str | Path, count: int = 2, **environment: str) -> Processes:
        return start_processes(tmp_path / "processes", *arguments, count=count, **environment)

    return start


@pytest.fixture
def finish() -> Callable[[Processes], list[str]]:
    """Wait for all: what each wrote to standard error. Fails where one failed."""
    return wait_for


@pytest.fixture(scope="session")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes computed: CASE.RANK.safetensors and, in micro-batches, CASE.cut.RANK.safetensors."""
    folder = tmp_path_factory.mktemp("computed")
    wait_for(start_processes(folder / "processes", WORKER, folder))
    return folder


def start_processes(store: Path, *arguments: str | Path, count: int = 2, **environment: str) -> Processes:
    shared = {
        **os.environ,
        "TWOVIEWS_STORE": str(store),
        "TWOVIEWS_TIMEOUT_MINUTES": "2",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def wait_for(processes: Processes) -> list[str]:
    """Wait for all; what each wrote to standard error. Fails where one failed."""
    errors = []
    try:
        for process in processes:
            errors.append(process.communicate(timeout=240)[1])
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(errors)
    return errors
