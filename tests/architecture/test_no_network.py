"""The guard of `conftest.py` holds: a test that reaches beyond this machine fails."""

import socket
from collections.abc import Callable

import pytest

# TEST-NET-1 (RFC 5737): never routed, should the guard fail.
ELSEWHERE = ("192.0.2.1", 9)


def connect() -> None:
    with socket.socket() as s:
        s.settimeout(0.2)
        s.connect(ELSEWHERE)


def connect_ex() -> None:
    with socket.socket() as s:
        s.settimeout(0.2)
        s.connect_ex(ELSEWHERE)


def sendto() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.sendto(b"", ELSEWHERE)


def look_up() -> None:
    socket.getaddrinfo("twoviews.invalid", 443)


def create_connection() -> None:
    socket.create_connection(("twoviews.invalid", 443), timeout=0.2).close()


@pytest.mark.parametrize("reach", [connect, connect_ex, sendto, look_up, create_connection])
def test_reaching_out_fails_the_test(reach: Callable[[], None]) -> None:
    with pytest.raises(pytest.fail.Exception, match="reaches for the network"):
        reach()


def test_loopback_is_open() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"here")
            assert accepted.recv(4) == b"here"
