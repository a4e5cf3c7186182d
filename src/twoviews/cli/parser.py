"""The command line: options, help texts, examples. Standard library only, so that `--help` is quick."""

import argparse
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


class _Version(argparse.Action):
    """Looks the version up only when asked: package metadata costs milliseconds that `--help` need not pay."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"twoviews {version('twoviews')}")
        parser.exit()


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="twoviews",
        description="Unlabelled images and a few labels in; an encoder, a classifier and an honest verdict out.",
        epilog="start with: twoviews demo",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, text: str, example: str) -> Parser:
        sub: Parser = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        return sub

    sub = command("demo", "pretrain and compare on the embedded digits, offline", "twoviews demo --out runs/demo")
    sub.add_argument("--out", default="runs/demo", help="run directory (default: %(default)s)")
    _overwrite(sub)
    _common(sub)

    sub = command(
        "check", "say what is in the data and what is wrong with it", "twoviews check photos/ --against test/"
    )
    _data(sub, "data")
    _data(sub, "--against", text="data that must not be in DATA, such as the test part: what is in both is listed")
    sub.add_argument("--run", metavar="RUN", help="find near duplicates by the embeddings of this run, not by a hash")
    sub.add_argument("--out", metavar="DIR", help="folder for check.html, check.json and exclude.csv")
    _labels(sub)
    _download(sub)
    _common(sub)

    sub = command("views", "draw a contact sheet of the augmentations", "twoviews views photos/ --out sheet.png")
    _data(sub, "data")
    sub.add_argument("--out", required=True, help="PNG file to write")
    _recipe(sub)
    sub.add_argument("--image-size", type=int, help="side of a view in pixels")
    sub.add_argument("--seed", type=int, help="seed of the draws")
    _settings(sub)
    _download(sub)
    _common(sub)

    sub = command("pretrain", "train an encoder without labels", "twoviews pretrain photos/ --out runs/a --minutes 60")
    _data(sub, "data")
    _pretraining(sub)
    _labels(sub, "--labelled and --probe-data")
    _common(sub)

    sub = command("resume", "continue an interrupted run, to the same bytes", "twoviews resume runs/a")
    sub.add_argument("run", metavar="RUN", help="run directory")
    _devices(sub)
    _micro_batch(sub)
    sub.add_argument("--anyway", action="store_true", help="also on other hardware, without the promise of equal bytes")
    _common(sub)

    sub = command(
        "evaluate",
        "compare the encoder with a supervised baseline on a few labels",
        "twoviews evaluate runs/a --train labelled/train --test labelled/test --labels-per-class 1,5,10,all",
    )
    sub.add_argument("run", metavar="RUN", help="run directory")
    _evaluating(sub)
    _exclude(sub, "--train")
    sub.add_argument("--minutes", type=float, help="time for the whole comparison; what was cut is said")
    _settings(sub)
    _devices(sub)
    _download(sub)
    _common(sub)

    sub = command(
        "distill",
        "train a smaller network on what a run's classifier says of unlabelled images",
        "twoviews distill runs/a photos/ --encoder resnet18 --test labelled/test --out runs/small",
    )
    sub.add_argument("teacher", metavar="TEACHER_RUN", help="run directory with the classifier that evaluate fitted")
    _data(sub, "data")
    _pretraining(sub)
    _data(sub, "--test", text="labelled data on which teacher and student are compared at the end")
    _labels(sub)
    _common(sub)

    sub = command("embed", "write the encoder's vectors", "twoviews embed runs/a photos/ --out vectors/")
    sub.add_argument("run", metavar="RUN", help="run directory")
    _data(sub, "data")
    sub.add_argument("--out", required=True, help="folder for vectors.npy, index.csv and meta.json")
    _labels(sub)
    _devices(sub)
    _overwrite(sub)
    _download(sub)
    _common(sub)

    sub = command("predict", "classify with the classifier that evaluate fitted", "twoviews predict runs/a photos/")
    sub.add_argument("run", metavar="RUN", help="run directory")
    _data(sub, "data")
    _download(sub)
    _common(sub)

    sub = command("report", "write the run's page", "twoviews report runs/a")
    sub.add_argument("run", metavar="RUN", help="run directory")
    sub.add_argument("--out", help="HTML file to write (default: RUN/report.html)")
    _common(sub)

    sub = command(
        "compare",
        "put several evaluated runs into one table, page and test",
        "twoviews compare runs/simclr runs/vicreg --out compared.html",
    )
    sub.add_argument("runs", metavar="RUN", nargs="+", help="run directories; the others are held against the first")
    sub.add_argument("--arm", help="what they are held against each other by (default: the first run's of its verdict)")
    sub.add_argument("--metric", help="accuracy, balanced_accuracy or f1_macro (default: the first run's)")
    sub.add_argument("--out", metavar="FILE", help="HTML file to write")
    sub.add_argument("--csv", metavar="FILE", help="CSV file to write: a line a run, arm and number of labels")
    _common(sub)

    sub = command(
        "run",
        "pretrain, evaluate and report in one go",
        "twoviews run photos/ --train labelled/train --test labelled/test --minutes 60 --out runs/a",
    )
    _data(sub, "data")
    _pretraining(sub, labelled=False)
    _evaluating(sub)
    _common(sub)

    sub = command("cache", "list decoded images on disk, or remove some", "twoviews cache remove all")
    sub.add_argument("remove", nargs="*", metavar="remove NAME", help="delete these entries, or all")
    _common(sub)

    sub = command("recipes", "list the named recipes, or show one", "twoviews recipes show cifar10-cpu")
    sub.add_argument("show", nargs="*", metavar="show NAME", help="print a recipe as TOML")
    _common(sub)

    for name, text in (
        ("methods", "list the methods and their options"),
        ("encoders", "list built-in and usual encoders"),
    ):
        _common(command(name, text, f"twoviews {name}"))
    return parser


def _pretraining(sub: Parser, *, labelled: bool = True) -> None:
    sub.add_argument("--out", required=True, help="run directory")
    _recipe(sub)
    sub.add_argument("--encoder", help="name of the network: see twoviews encoders; any timm or torchvision name")
    sub.add_argument("--init", help="start from 'pretrained' (timm's public weights) or a .safetensors file")
    sub.add_argument("--image-size", type=int, help="side of a view in pixels")
    length = sub.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="passes over the data")
    length.add_argument(
        "--minutes", type=float, help="time to use; the number of steps is fixed at the start and recorded"
    )
    sub.add_argument("--fraction", type=float, help="train this part of the recipe's length, with its whole schedule")
    sub.add_argument("--batch-size", type=int, help="samples that are compared with each other in a step")
    _micro_batch(sub)
    _devices(sub)
    sub.add_argument("--seed", type=int, help="decides initial weights, order and augmentation")
    if labelled:
        _data(sub, "--labelled", text="labelled data that is trained on together with DATA, with a probe on it")
    _data(sub, "--probe-data", text="labelled data for online kNN and linear probe; not trained on")
    _exclude(sub, "DATA")
    _settings(sub)
    _overwrite(sub)
    _download(sub)


def _evaluating(sub: Parser) -> None:
    _data(sub, "--train", text="labelled data to learn from (default: what the run was trained on together with DATA)")
    _data(sub, "--test", required=True, text="labelled data for the reported numbers")
    _data(sub, "--val", text="labelled data for choosing settings (default: a fifth of train)")
    _labels(sub)
    sub.add_argument(
        "--arms",
        help="comma-separated: knn,linear,finetune,supervised,random-linear,pixels-linear,pixels-knn (default: these), "
        "linear-adam, distill, shuffled-linear",
    )
    sub.add_argument(
        "--reference",
        action="append",
        metavar="NAME",
        help="compare with an encoder that was not trained here: a name of timm, a folder or file of weights, a run; "
        "may be given several times",
    )
    sub.add_argument("--labels-per-class", help="label budgets (default: the recipe's, else 1,2,5,10,20,50,100,all)")
    sub.add_argument("--trained-at", help="those at which arms are trained (default: all named, else 1,10,100,all)")
    sub.add_argument("--seeds", type=int, help="trainings a budget (default: the recipe's, else 5)")
    sub.add_argument("--subsets", type=int, help="label subsets a budget of arms on cached features (default: 20)")
    sub.add_argument("--metric", help="accuracy, balanced_accuracy or f1_macro: for settings and verdict")


def _data(sub: Parser, name: str, *, required: bool = False, text: str = DATA_HELP) -> None:
    """One path or several; `commands.COMMANDS` get one as it is."""
    options: dict[str, Any] = {"required": required} if name.startswith("-") else {}
    sub.add_argument(name, metavar="DATA", nargs="+", action=_OneOrMore, help=text, **options)


class _OneOrMore(argparse.Action):
    """A single value is not a list of one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def _labels(sub: Parser, what: str = "all data") -> None:
    help_text = f"a list whose labels are joined to {what} by id; FILE:SPLIT takes the items of one split"
    sub.add_argument("--labels", metavar="FILE", help=help_text)


def _exclude(sub: Parser, what: str) -> None:
    sub.add_argument("--exclude", metavar="FILE", help=f"CSV with the ids of {what} to leave out, as check writes it")


def _settings(sub: Parser) -> None:
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="any section.key=value",
    )


def _recipe(sub: Parser) -> None:
    sub.add_argument(
        "--recipe",
        default="default",
        help="a name from twoviews recipes, or a TOML file (default: %(default)s)",
    )


def _overwrite(sub: Parser) -> None:
    sub.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")


def _devices(sub: Parser) -> None:
    sub.add_argument(
        "--devices",
        type=int,
        metavar="N",
        default=1,
        help="work in N processes, one a GPU; the same numbers for the same train.bn_group",
    )


def _micro_batch(sub: Parser) -> None:
    sub.add_argument(
        "--micro-batch",
        type=_count_or_auto,
        metavar="N",
        help="samples whose graph is in memory at a time, or 'auto': less memory, more time, the same result",
    )


def _count_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _download(sub: Parser) -> None:
    sub.add_argument("--download", action="store_true", help="allow fetching a named data set")


def _common(sub: Parser) -> None:
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    sub.add_argument("--quiet", action="store_true", help="say nothing but results and errors")
