"""What several commands have in common on the command line. Standard library only, so that `--help` is quick."""

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn

SURE = 0.8
"""How near an option is that is offered beside a setting of just the name that was given."""

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
        self.exit(2, f"twoviews: {message}\n(see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but a command refuses what it does not know itself: above it, its options are not known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]!r}{self._advice(unknown[0].partition('=')[0])}")
        return found, unknown

    def _advice(self, given: str) -> str:
        if not given.startswith("-"):
            return ""
        known = [o.lstrip("-") for action in self._actions for o in action.option_strings if o.startswith("--")]
        given = given.lstrip("-")
        setting = _setting(given, command=self.prog.split()[-1]) if "set" in known else None
        near = get_close_matches(given, known, n=1, cutoff=SURE if setting else 0.5)
        if setting and not near:
            return f": give it as --set {setting}=..."
        return f": did you mean --{near[0]}{f', or --set {setting}=...' if setting else ''}?" if near else ""


def _setting(option: str, *, command: str) -> str | None:
    """The one setting of the configuration that is called as an option, without its dashes, that there is not."""
    from twoviews.config import Recipe

    name = option.replace("-", "_")
    sections = {key: field.annotation for key, field in Recipe.model_fields.items()}
    judging = {"evaluate": sections.pop("evaluate")}
    if command == "evaluate":  # it takes no other settings
        sections = {}
    for among in (sections, judging):
        found = [key for key, section in among.items() if name in getattr(section, "model_fields", ())]
        if found:
            return f"{found[0]}.{name}" if len(found) == 1 else None
    if not sections:
        return None
    from twoviews.methods import METHODS, method_options

    return f"method.{name}" if any(name in method_options(method) for method in METHODS) else None


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
