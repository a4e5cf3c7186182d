"""Every failure that is not a bug in twoviews, with the exit code of the command.

    TwoviewsError            1
    ├── UsageError           2   arguments or configuration
    ├── DataError            3   data unusable
    ├── NotFiniteError       4   training not finite
    ├── ResourceError        5   out of memory or disk
    ├── RefusedError         6   unsafe file, output not empty
    ├── Interrupted        130   Ctrl-C, state saved
    └── Terminated         143   SIGTERM, state saved

A message says what is wrong, the value received and what to do next.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TwoviewsError(Exception):
    """Root of the tree: catch this to catch everything that twoviews raises on purpose."""

    exit_code = 1


class UsageError(TwoviewsError):
    """A wrong argument, option, name or configuration value."""

    exit_code = 2


class DataError(TwoviewsError):
    """The data cannot serve the request: missing, empty, unreadable, too few labels."""

    exit_code = 3


class NotFiniteError(TwoviewsError):
    """Training stopped because loss or gradients were not finite several times in a row."""

    exit_code = 4


class ResourceError(TwoviewsError):
    """Out of memory or disk."""

    exit_code = 5


class RefusedError(TwoviewsError):
    """Refused for safety: an output that is not empty, a file that could run code."""

    exit_code = 6


class Interrupted(TwoviewsError):
    """Ctrl-C; what could be saved was saved."""

    exit_code = 130


class Terminated(TwoviewsError):
    """SIGTERM; what could be saved was saved."""

    exit_code = 143


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which libraries tell in exceptions of many kinds.

    >>> out_of_memory(RuntimeError("MPS backend out of memory"))
    True
    """
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a list, with the nearest one offered.

    >>> print(unknown_name("encoder", "resnet81", ["resnet18", "resnet50"]))
    unknown encoder 'resnet81': did you mean 'resnet18'?
    """
    names = sorted(known)
    if not names:
        return UsageError(f"unknown {what} {name!r}: there is none")
    by_lower = {known.lower(): known for known in names}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    if near:
        return UsageError(f"unknown {what} {name!r}: did you mean {by_lower[near[0]]!r}?")
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return UsageError(f"unknown {what} {name!r}: choose one of {shown}")
