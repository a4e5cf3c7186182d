"""What several commands have in common on the command line. Standard library only, so that `--help` is quick."""

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn

DATA_HELP = (
    "images: a folder, files or a pattern, a CSV, TSV or JSONL manifest, parquet or Arrow, tar shards, a zip, .npy or "
    ".npz, hf:NAME, or one of digits, cifar10, cifar100, stl10; several are joined; NAME:SPLIT selects a split"
)


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors that offer the nearest command or option."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice: " in message and "choose from" in message:
            given, _, rest = message.partition("invalid choice: ")[2].partition(" (choose from ")
            known = [word.strip(" '\"") for word in rest.rstrip(")").split(",")]
            near = get_close_matches(given.strip("'"), known, n=1, cutoff=0.5)
            message = f"unknown command {given}: " + (
                f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
            )
        elif message.startswith("unrecognized arguments: "):
            given = message.partition(": ")[2].split()[0]
            known = sorted({o for action in self._all_actions() for o in action.option_strings if o.startswith("--")})
            near = get_close_matches(given.partition("=")[0], known, n=1, cutoff=0.5)
            message = f"unknown argument {given!r}" + (f": did you mean {near[0]}?" if near else "")
        self.exit(2, f"twoviews: {message}\n(see {self.prog} --help)\n")

    def _all_actions(self) -> list[argparse.Action]:
        found = list(self._actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    found += sub._actions
        return found


Declare = Callable[[str, str, str], Parser]
"""Name, help and example of a command to its parser."""


def data_option(sub: Parser, name: str, *, required: bool = False, text: str = DATA_HELP) -> None:
    """One path or several; `commands.COMMANDS` get one as it is."""
    options: dict[str, Any] = {"required": required} if name.startswith("-") else {}
    sub.add_argument(name, metavar="DATA", nargs="+", action=_OneOrMore, help=text, **options)


class _OneOrMore(argparse.Action):
    """A single value is not a list of one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def run_option(sub: Parser) -> None:
    """What commands that only read an encoder take."""
    sub.add_argument("run", metavar="RUN", help="run directory, timm:NAME, or a folder with an encoder")


def near_option(sub: Parser) -> None:
    """From where on images count as near duplicates."""
    sub.add_argument(
        "--threshold",
        type=float,
        metavar="COSINE",
        help="similarity from which on images are near duplicates (default: what changed copies of some of them reach)",
    )


def labels_option(sub: Parser, what: str = "all data") -> None:
    help_text = f"a list whose labels are joined to {what} by id; FILE:SPLIT takes the items of one split"
    sub.add_argument("--labels", metavar="FILE", help=help_text)


def exclude_option(sub: Parser, what: str) -> None:
    sub.add_argument("--exclude", metavar="FILE", help=f"CSV with the ids of {what} to leave out, as check writes it")


def settings_option(sub: Parser) -> None:
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="any section.key=value",
    )


def recipe_option(sub: Parser) -> None:
    sub.add_argument(
        "--recipe",
        default="default",
        help="a name from twoviews recipes, or a TOML file (default: %(default)s)",
    )


def overwrite_option(sub: Parser) -> None:
    sub.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")


def devices_option(sub: Parser) -> None:
    sub.add_argument(
        "--devices",
        type=int,
        metavar="N",
        default=1,
        help="work in N processes, one a GPU; the same numbers for the same train.bn_group",
    )


def micro_batch_option(sub: Parser) -> None:
    sub.add_argument(
        "--micro-batch",
        type=_count_or_auto,
        metavar="N",
        help="samples whose graph is in memory at a time, or 'auto': less memory, more time, the same result",
    )


def _count_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def download_option(sub: Parser) -> None:
    sub.add_argument("--download", action="store_true", help="allow fetching a named data set")


def common_options(sub: Parser) -> None:
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    sub.add_argument("--quiet", action="store_true", help="say nothing but results and errors")
