"""A process that examines images for another one: requests on standard input, a JSON line for each on standard output.

A decoder that crashes takes this process with it, and nothing else. It ends when its standard input does. The heavy
imports come late: Ctrl-C, which reaches every process of a terminal, is to be ignored before.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import IO, Any

READY = b"ready\n"


def serve() -> None:
    """Answer requests until standard input ends.

    A request is a JSON line: `path`, or `size` and perhaps `dtype` and `shape`, with so many bytes after it; `storage`,
    `picture` and `wait` as in `examine`, `alarm` in seconds. The answer is one of `finding`, `rejected` (why) and
    `large` (pixels).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    answer = _prepare()
    answers.write(READY)
    answers.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and others warn on standard error
    try:
        while line := requests.readline():
            request = json.loads(line)
            # Only if nobody is left to look at the clock: then the kernel ends what hangs.
            signal.alarm(request["alarm"])
            told = answer(request, requests)
            signal.alarm(0)
            answers.write(json.dumps(told).encode() + b"\n")
            answers.flush()
    except (BrokenPipeError, EOFError):
        os._exit(1)


def _prepare() -> Callable[[dict[str, Any], IO[bytes]], dict[str, Any]]:
    import resource
    import warnings

    from twoviews.data.assemble import Storage
    from twoviews.data.cache import available_memory
    from twoviews.data.checking import examine
    from twoviews.data.decoding.decode import Unreadable

    warnings.simplefilter("ignore")
    # A decoder that asks for everything gets an error, not the kernel's hand on another process.
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = max(available_memory(), 1 << 31)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))

    def answer(request: dict[str, Any], stream: IO[bytes]) -> dict[str, Any]:
        raw = _read(request, stream)
        try:
            storage = Storage(**request["storage"])
            # Looked up in its module, where a test may have put something else.
            found = examine.examine(raw, storage, picture=request["picture"], wait=request["wait"])
            return {"finding": examine.to_json(found)}
        except examine.Large as large:
            return {"large": large.pixels}
        except Unreadable as error:
            return {"rejected": str(error)}
        except MemoryError:
            return {"rejected": "out of memory while decoding"}
        except Exception as error:  # decoders are foreign code
            return {"rejected": f"{type(error).__name__}: {error}"[:200]}

    return answer


def _read(request: dict[str, Any], stream: IO[bytes]) -> Any:
    if "path" in request:
        from pathlib import Path

        return Path(request["path"])
    data = stream.read(request["size"])
    if len(data) < request["size"]:
        raise EOFError
    if "dtype" not in request:
        return data
    import numpy as np

    return np.frombuffer(data, request["dtype"]).reshape(request["shape"])


if __name__ == "__main__":
    serve()
