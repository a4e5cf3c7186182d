"""What every test gets: few threads, and no network."""

import importlib.util
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

THREADS = min(2, os.cpu_count() or 1)
# Before torch and numpy are imported, and for the commands that tests start: the same sums on every machine.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = str(THREADS)

# Commands that tests start import compiled modules: compiling torch anew costs each of them seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """A test that sets the number of torch threads does not set it for the next one."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


def stays_here(family: int, address: Any) -> bool:
    """Whether a socket address lies on this machine."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return family == getattr(socket, "AF_UNIX", None)
    return is_local(address[0])


def is_local(host: str | bytes | None) -> bool:
    """Whether a host name or address means this machine; an unknown name does not."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def refuse(what: str) -> None:
    # `pytest.fail` raises no Exception, so the code under test cannot swallow it and fall back on something.
    pytest.fail(f"this test reaches for the network: {what}")


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections, datagrams and look-ups beyond loopback fail a test that is not marked `network`."""
    if request.node.get_closest_marker("network"):
        return
    connect, connect_ex, sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
    getaddrinfo = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if not stays_here(self.family, address):
            refuse(f"connect to {address}")
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if not stays_here(self.family, address):
            refuse(f"connect to {address}")
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        if not stays_here(self.family, rest[-1]):
            refuse(f"send to {rest[-1]}")
        return sendto(self, data, *rest)

    def guarded_getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        if not is_local(host):
            refuse(f"look up {host}")
        return getaddrinfo(host, *rest, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket.socket, "sendto", guarded_sendto)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


@pytest.fixture(scope="session")
def worker() -> ModuleType:
    """What each process of `tests/distributed` runs: small networks, methods and cases, for use in this process."""
    path = Path(__file__).parent / "distributed" / "worker.py"
    spec = importlib.util.spec_from_file_location("worker", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
