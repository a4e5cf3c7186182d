"""The command: parse, call one library function, print. Nothing heavy is imported before a command runs."""

import os
import sys
from collections.abc import Sequence

from twoviews.errors import TwoviewsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `twoviews ARGUMENTS`; returns the exit code (see `twoviews.errors`)."""
    from twoviews.cli.parser import build_parser

    arguments = build_parser().parse_args(argv)
    from twoviews.cli import commands

    try:
        commands.COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except TwoviewsError as error:
        print(f"twoviews: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("twoviews: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `twoviews ... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("twoviews: out of memory: try a smaller --batch-size or --image-size", file=sys.stderr)
        return 5
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        print("twoviews: out of memory: try half the --batch-size, or a smaller --image-size", file=sys.stderr)
        return 5
    return 0
