"""One of the processes that examine images, seen from outside (`inspector.py` is its inside)."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from twoviews.data.assemble import Storage
from twoviews.data.checking.inspector import READY
from twoviews.errors import ResourceError

COMMAND = (sys.executable, "-P", "-m", "twoviews.data.checking.inspector")
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """How items are examined (see `examine`), by which command, and how many seconds one may take."""

    storage: Storage = field(default_factory=Storage)
    picture: int = 0
    command: Sequence[str] = COMMAND
    timeout: float = TIMEOUT


class Died(Exception):
    """The process ended; the text is the reason for which its item is rejected."""


class Process:
    """One inspector, from outside; used by one thread, killed by any."""

    def __init__(self, request: Request) -> None:
        self._timeout = request.timeout
        self._waiting_since: float | None = None
        self._overdue = False
        try:
            self._popen = subprocess.Popen(
                list(request.command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
            )
        except OSError as error:
            raise ResourceError(f"cannot start a process to examine images: {error.strerror}") from None
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout
        self._answers: SimpleQueue[bytes] = SimpleQueue()
        # A thread of its own: with full pipes both ways, each side would wait for the other to read.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        with self._waiting():
            ready = self._answers.get() == READY
        if not ready:
            code = self._end()
            raise ResourceError(
                f"the process that examines images did not start (exit status {code}): see what "
                f"{' '.join(request.command)!r} says"
            )

    def send(self, head: dict[str, Any], payload: bytes | memoryview) -> None:
        with self._waiting():
            try:
                self._stdin.write(json.dumps(head).encode() + b"\n")
                self._stdin.write(payload)
                self._stdin.flush()
            except OSError:  # the pipe is broken
                raise Died(self._why()) from None

    def receive(self) -> dict[str, Any]:
        with self._waiting():
            line = self._answers.get()
        if not line.endswith(b"\n"):
            raise Died(self._why())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            for line in self._stdout:
                self._answers.put(line)
        self._answers.put(b"")

    def stop_if_hanging(self) -> None:
        since = self._waiting_since
        if since is not None and time.monotonic() - since > self._timeout:
            self._overdue = True
            self.kill()

    def kill(self) -> None:
        with suppress(OSError):
            self._popen.kill()

    def close(self) -> None:
        with suppress(OSError):
            self._stdin.close()
        try:
            self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._end()

    def _why(self) -> str:
        code = self._end()
        if self._overdue:
            return f"took more than {self._timeout:g} s"
        return f"the decoder crashed (signal {-code})" if code < 0 else f"the decoder ended its process (status {code})"

    def _end(self) -> int:
        # Its end of the pipe is closed, so it is gone or going.
        try:
            code = self._popen.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._popen.wait()
        self._listener.join(5)
        for stream in (self._stdin, self._stdout):
            with suppress(OSError):
                stream.close()
        return code

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None


def _environment() -> dict[str, str]:
    """One thread each, and the modules that this process would import."""
    threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }
