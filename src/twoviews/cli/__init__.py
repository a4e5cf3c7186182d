"""The command: parse, call one library function, print. Nothing heavy is imported before a command runs."""

import errno
import io
import os
import sys
import time
from collections.abc import Sequence

from twoviews.errors import TwoviewsError, out_of_memory
from twoviews.launched import launched, launched_rank

PATIENCE_SECONDS = 10
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `twoviews ARGUMENTS`; returns the exit code (see `twoviews.errors`)."""
    from twoviews.cli.parser import build_parser

    arguments = build_parser().parse_args(argv)
    from twoviews.cli import commands

    others = launched_rank()  # 0: this process speaks for all
    if others:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name is bytes, and is printed as those bytes
    try:
        if getattr(arguments, "devices", 1) != 1 and not launched():
            from twoviews.cli.launch import launch

            return launch(sys.argv[1:] if argv is None else argv, count=arguments.devices)
        commands.COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except TwoviewsError as error:
        if others:  # what fails everywhere is told once: process 0's end takes this one with it
            time.sleep(PATIENCE_SECONDS)
        print(f"twoviews: {f'process {others}: ' if others else ''}{error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("twoviews: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `twoviews ... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        told = _exhausted(error)
        if told is None:
            raise
        print(f"twoviews: {told}", file=sys.stderr)
        return 5
    return 0


def _exhausted(error: Exception) -> str | None:
    """What to say when memory or disk ran out, which libraries tell in exceptions of many kinds; else None."""
    text = str(error)
    if out_of_memory(error):
        return "out of memory: try --micro-batch auto, or half the --micro-batch, or a smaller --image-size"
    if getattr(error, "errno", None) in NOT_WRITABLE or "No space left" in text:
        return f"cannot write: {text}; make room, or choose another place"
    return None
