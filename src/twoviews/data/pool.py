"""Work on many images at once: decoders release Python's lock, so threads are enough."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from twoviews.data.decoding.decode import quiet_pillow
from twoviews.narrate import Narrator

_CHUNK = 64


def threads() -> int:
    """The processor cores that this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(8, cores)


def for_each(order: Sequence[int], work: Callable[[int], None], *, narrator: Narrator, what: str) -> None:
    """Call `work(i)` for each i of `order` in a few threads, about in that order; an exception ends it."""
    chunks = iter(range(0, len(order), _CHUNK))

    def run(start: int) -> int:
        chunk = order[start : start + _CHUNK]
        for index in chunk:
            work(int(index))
        return len(chunk)

    with (
        quiet_pillow(),
        narrator.track(len(order), what) as tick,
        ThreadPoolExecutor(threads(), thread_name_prefix="decode") as pool,
    ):
        running: set[Future[int]] = set()
        try:
            while True:
                # Few chunks ahead: an interruption then ends within milliseconds.
                while len(running) < 2 * threads() and (start := next(chunks, None)) is not None:
                    running.add(pool.submit(run, start))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    tick(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
