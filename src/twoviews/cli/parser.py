"""The command line: options, help texts, examples. Standard library only, so that `--help` is quick."""

import argparse
from typing import NoReturn

from twoviews.cli.options import (
    Parser,
    common_options,
    data_option,
    devices_option,
    download_option,
    exclude_option,
    labels_option,
    micro_batch_option,
    overwrite_option,
    recipe_option,
    settings_option,
)
from twoviews.cli.verbs import VERBS


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
    overwrite_option(sub)
    common_options(sub)

    sub = command(
        "check", "say what is in the data and what is wrong with it", "twoviews check photos/ --against test/"
    )
    data_option(sub, "data")
    data_option(
        sub, "--against", text="data that must not be in DATA, such as the test part: what is in both is listed"
    )
    sub.add_argument("--run", metavar="RUN", help="find near duplicates by the embeddings of this run, not by a hash")
    sub.add_argument("--out", metavar="DIR", help="folder for check.html, check.json and exclude.csv")
    labels_option(sub)
    download_option(sub)
    common_options(sub)

    sub = command("views", "draw a contact sheet of the augmentations", "twoviews views photos/ --out sheet.png")
    data_option(sub, "data")
    sub.add_argument("--out", required=True, help="PNG file to write")
    recipe_option(sub)
    sub.add_argument("--image-size", type=int, help="side of a view in pixels")
    sub.add_argument("--seed", type=int, help="seed of the draws")
    settings_option(sub)
    download_option(sub)
    common_options(sub)

    sub = command("pretrain", "train an encoder without labels", "twoviews pretrain photos/ --out runs/a --minutes 60")
    data_option(sub, "data")
    _pretraining(sub)
    labels_option(sub, "--labelled and --probe-data")
    common_options(sub)

    sub = command("resume", "continue an interrupted run, to the same bytes", "twoviews resume runs/a")
    sub.add_argument("run", metavar="RUN", help="run directory")
    devices_option(sub)
    micro_batch_option(sub)
    sub.add_argument("--anyway", action="store_true", help="also on other hardware, without the promise of equal bytes")
    common_options(sub)

    sub = command(
        "evaluate",
        "compare the encoder with a supervised baseline on a few labels",
        "twoviews evaluate runs/a --train labelled/train --test labelled/test --labels-per-class 1,5,10,all",
    )
    sub.add_argument("run", metavar="RUN", help="run directory")
    _evaluating(sub)
    exclude_option(sub, "--train")
    sub.add_argument("--minutes", type=float, help="time for the whole comparison; what was cut is said")
    settings_option(sub)
    devices_option(sub)
    download_option(sub)
    common_options(sub)

    sub = command(
        "distill",
        "train a smaller network on what a run's classifier says of unlabelled images",
        "twoviews distill runs/a photos/ --encoder resnet18 --test labelled/test --out runs/small",
    )
    sub.add_argument("teacher", metavar="TEACHER_RUN", help="run directory with the classifier that evaluate fitted")
    data_option(sub, "data")
    _pretraining(sub)
    data_option(sub, "--test", text="labelled data on which teacher and student are compared at the end")
    labels_option(sub)
    common_options(sub)

    sub = command("report", "write the run's page", "twoviews report runs/a")
    sub.add_argument("run", metavar="RUN", help="run directory")
    sub.add_argument("--out", help="HTML file to write (default: RUN/report.html)")
    common_options(sub)

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
    common_options(sub)

    sub = command(
        "run",
        "pretrain, evaluate and report in one go",
        "twoviews run photos/ --train labelled/train --test labelled/test --minutes 60 --out runs/a",
    )
    data_option(sub, "data")
    _pretraining(sub, labelled=False)
    _evaluating(sub)
    common_options(sub)

    sub = command("cache", "list decoded images on disk, or remove some", "twoviews cache remove all")
    sub.add_argument("remove", nargs="*", metavar="remove NAME", help="delete these entries, or all")
    common_options(sub)

    sub = command("recipes", "list the named recipes, or show one", "twoviews recipes show cifar10-cpu")
    sub.add_argument("show", nargs="*", metavar="show NAME", help="print a recipe as TOML")
    common_options(sub)

    for name, text in (
        ("methods", "list the methods and their options"),
        ("encoders", "list built-in and usual encoders"),
    ):
        common_options(command(name, text, f"twoviews {name}"))
    for verb in VERBS.values():
        verb.declare(command)
    return parser


def _pretraining(sub: Parser, *, labelled: bool = True) -> None:
    sub.add_argument("--out", required=True, help="run directory")
    recipe_option(sub)
    sub.add_argument("--encoder", help="name of the network: see twoviews encoders; any timm or torchvision name")
    sub.add_argument(
        "--init",
        help="start from 'pretrained' (timm's public weights), a .safetensors file or a checkpoint of another library",
    )
    sub.add_argument("--image-size", type=int, help="side of a view in pixels")
    length = sub.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="passes over the data")
    length.add_argument(
        "--minutes", type=float, help="time to use; the number of steps is fixed at the start and recorded"
    )
    sub.add_argument("--fraction", type=float, help="train this part of the recipe's length, with its whole schedule")
    sub.add_argument("--batch-size", type=int, help="samples that are compared with each other in a step")
    micro_batch_option(sub)
    devices_option(sub)
    sub.add_argument("--seed", type=int, help="decides initial weights, order and augmentation")
    if labelled:
        data_option(sub, "--labelled", text="labelled data that is trained on together with DATA, with a probe on it")
    data_option(sub, "--probe-data", text="labelled data for online kNN and linear probe; not trained on")
    exclude_option(sub, "DATA")
    settings_option(sub)
    overwrite_option(sub)
    download_option(sub)


def _evaluating(sub: Parser) -> None:
    data_option(
        sub, "--train", text="labelled data to learn from (default: what the run was trained on together with DATA)"
    )
    data_option(sub, "--test", required=True, text="labelled data for the reported numbers")
    data_option(sub, "--val", text="labelled data for choosing settings (default: a fifth of train)")
    labels_option(sub)
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
