"""Images examined in processes of their own, one a core, that may crash, hang or run out of memory without harm.

Every process has a thread here that reads items, sends them and takes the answers. The item at which a process ended is
tried once more, alone, and then rejected. The processes end when their standard input does: also with a killed parent.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from twoviews.data.checking.examine import Finding, Large, examine, from_json
from twoviews.data.checking.process import Died, Process, Request
from twoviews.data.decoding.decode import Unreadable, quiet_pillow
from twoviews.data.source import Raw
from twoviews.narrate import Narrator

MOST_PROCESSES = 32
_AHEAD, _AHEAD_BYTES = 16, 1 << 20  # sent before the answers to earlier ones came
_PIXELS_AT_ONCE = 48_000_000  # of large images, over all processes
_POLL = 0.1


def inspect(
    order: Sequence[int],
    read: Callable[[int], Raw],
    keep: Callable[[int, Finding | str], None],
    *,
    request: Request,
    narrator: Narrator,
    what: str,
) -> None:
    """Examine `read(i)` for each i of `order`, and call `keep(i, finding or reason)`, one at a time, in any order.

    Raises ResourceError where no process can be started.
    """
    processes = max(1, min(_cores(), MOST_PROCESSES, -(-len(order) // 8)))
    desk = _Desk(order, read, keep, request)
    threads = [threading.Thread(target=desk.work, name=f"inspector-{i}", daemon=True) for i in range(processes)]
    with quiet_pillow(), narrator.track(len(order), what) as tick:
        for thread in threads:
            thread.start()
        told = 0
        try:
            while alive := [thread for thread in threads if thread.is_alive()]:
                alive[0].join(_POLL)
                desk.stop_hanging()
                if desk.done > told:
                    done = desk.done
                    tick(done - told)
                    told = done
        except BaseException:
            desk.stop()
            for thread in threads:
                thread.join(5)
            raise
        if desk.done > told:
            tick(desk.done - told)
    if desk.error is not None:
        raise desk.error


class _Stopped(Exception):
    """Nothing is to be started any more."""


class _Desk:
    """What the threads share: items to hand out, room for large ones, the first error."""

    def __init__(
        self,
        order: Sequence[int],
        read: Callable[[int], Raw],
        keep: Callable[[int, Finding | str], None],
        request: Request,
    ) -> None:
        self._left = iter(order)
        self._read, self._keep, self._request = read, keep, request
        self._lock = threading.Lock()
        self._room = threading.Condition()
        self._pixels = 0
        self._large: deque[tuple[int, int]] = deque()
        self._running: set[Process] = set()
        self._stopped = False
        self.done = 0
        self.error: BaseException | None = None

    def work(self) -> None:
        """One thread's part."""
        try:
            _Clerk(self, self._request).run()
        except BaseException as error:
            if not self._stopped:
                self.error = self.error or error
            self.stop()

    def stop(self) -> None:
        """End all processes now; their threads follow."""
        self._stopped = True
        with self._lock:
            running = list(self._running)
        for process in running:
            process.kill()
        with self._room:
            self._room.notify_all()

    def stop_hanging(self) -> None:
        with self._lock:
            running = list(self._running)
        for process in running:
            process.stop_if_hanging()

    def start(self) -> Process:
        if self._stopped:
            raise _Stopped
        process = Process(self._request)
        with self._lock:
            self._running.add(process)
        if self._stopped:
            process.kill()
        return process

    def leave(self, process: Process) -> None:
        with self._lock:
            self._running.discard(process)

    def next(self) -> int | None:
        with self._lock:
            return None if self._stopped else next(self._left, None)

    def read(self, index: int) -> Raw | None:
        """The item; None where it cannot be read, which is kept as a rejection."""
        try:
            raw = self._read(index)
        except Exception as error:  # `read` of a source is foreign code
            self.keep(index, str(error) if isinstance(error, Unreadable) else f"{type(error).__name__}: {error}"[:200])
            return None
        if isinstance(raw, Path | bytes | np.ndarray | Image.Image):
            return raw
        self.keep(index, f"{type(raw).__name__} is no image: give a path, bytes, an array or a Pillow image")
        return None

    def keep(self, index: int, found: Finding | str) -> None:
        with self._lock:
            self._keep(index, found)
            self.done += 1

    def put_off(self, index: int, pixels: int) -> None:
        with self._lock:
            self._large.append((index, pixels))

    def next_large(self) -> tuple[int, int] | None:
        with self._lock:
            return self._large.popleft() if self._large and not self._stopped else None

    @contextmanager
    def room_for(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels may be decoded beside what the others do."""
        pixels = min(pixels, _PIXELS_AT_ONCE)
        with self._room:
            self._room.wait_for(lambda: self._stopped or self._pixels + pixels <= _PIXELS_AT_ONCE)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._room:
                self._pixels -= pixels
                self._room.notify_all()


class _Clerk:
    """One thread with its process: keeps a few items ahead of the answers."""

    def __init__(self, desk: _Desk, request: Request) -> None:
        self._desk, self._request = desk, request
        self._process: Process | None = None
        self._sent: deque[tuple[int, int]] = deque()  # index, bytes
        self._again: deque[int] = deque()  # sent to a process that ended, and not its last
        self._head = {
            "storage": asdict(request.storage),
            "picture": request.picture,
            "alarm": int(2 * request.timeout) + 1,
        }

    def run(self) -> None:
        try:
            while True:
                try:
                    self._fill()
                    if self._sent:
                        self._take(self._ask().receive())
                        continue
                except Died:
                    self._bury()
                    continue
                large = self._desk.next_large()
                if large is None:
                    return
                with self._desk.room_for(large[1]):
                    self._alone(large[0], tries=2)
        finally:
            if self._process is not None:
                process, self._process = self._process, None
                self._desk.leave(process)
                process.close()

    def _fill(self) -> None:
        while len(self._sent) < _AHEAD and sum(size for _, size in self._sent) < _AHEAD_BYTES:
            index = self._again.popleft() if self._again else self._desk.next()
            if index is None:
                return
            raw = self._desk.read(index)
            if raw is None or self._examined_here(index, raw):
                continue
            self._send(index, raw, wait=True)

    def _take(self, answer: dict[str, Any]) -> None:
        index, _ = self._sent.popleft()
        if "large" in answer:
            self._desk.put_off(index, answer["large"])
        else:
            self._desk.keep(index, from_json(answer["finding"]) if "finding" in answer else answer["rejected"])

    def _bury(self) -> None:
        """The process ended at the first of what was sent: that one gets another try, alone."""
        self._let_go()
        first, rest = self._sent.popleft()[0], [index for index, _ in self._sent]
        self._sent.clear()
        self._again.extendleft(reversed(rest))
        self._alone(first, tries=1)

    def _alone(self, index: int, *, tries: int) -> None:
        raw = self._desk.read(index)
        if raw is None:
            return
        reason = ""
        for _ in range(tries):
            try:
                self._send(index, raw, wait=False)
                self._take(self._ask().receive())
                return
            except Died as died:
                self._sent.clear()
                self._let_go()
                reason = str(died)
        self._desk.keep(index, reason)

    def _send(self, index: int, raw: Raw, *, wait: bool) -> None:
        head: dict[str, Any] = {**self._head, "wait": wait}
        payload: bytes | memoryview = b""
        if isinstance(raw, Path):
            head["path"] = str(raw)
        elif isinstance(raw, bytes):
            payload = raw
            head["size"] = len(raw)
        else:
            array = np.ascontiguousarray(raw)
            payload = array.reshape(-1).view(np.uint8).data
            head |= {"size": array.nbytes, "dtype": array.dtype.str, "shape": array.shape}
        self._sent.append((index, len(payload)))
        self._ask().send(head, payload)

    def _examined_here(self, index: int, raw: Raw) -> bool:
        """Pillow's images are objects of this process; arrays of objects are no images at all."""
        if isinstance(raw, bytes | Path) or (isinstance(raw, np.ndarray) and raw.dtype.kind in "biuf" and raw.size):
            return False
        try:
            self._desk.keep(index, examine(raw, self._request.storage, picture=self._request.picture))
        except (Unreadable, Large) as error:
            self._desk.keep(index, str(error))
        return True

    def _ask(self) -> Process:
        if self._process is None:
            self._process = self._desk.start()
        return self._process

    def _let_go(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            self._desk.leave(process)
            process.kill()
            process.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
