"""The command line as people and their scripts know it."""

import argparse
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from twoviews.cli.commands import COMMANDS
from twoviews.cli.parser import build_parser

# Scripts stand on these: what is here stays, and a new option is added here. `*` marks what must be given.
FROZEN = """
cache [remove NAME] --json --quiet
check DATA --against --download --json --labels --out --quiet --run
compare RUN --arm --csv --json --metric --out --quiet
demo --json --out --overwrite --quiet
distill TEACHER_RUN DATA --batch-size --devices --download --encoder --epochs --exclude --fraction --image-size --init \
--json --labelled --labels --micro-batch --minutes --out* --overwrite --probe-data --quiet --recipe --seed --set --test
duplicates RUN DATA --download --json --keep --labels --manifest --out --overwrite --quiet --threshold
embed RUN DATA --devices --download --format --json --labels --out* --overwrite --quiet
encoders --json --quiet
evaluate RUN --arms --devices --download --exclude --json --labels --labels-per-class --metric --minutes --quiet \
--reference --seeds --set --subsets --test* --train --trained-at --val
export RUN --classifier --download --format* --images --json --out* --push --quiet
import FILE --channels --encoder* --image-size --json --mean --out* --prefix --quiet --std --stem
methods --json --quiet
outliers RUN DATA --download --json --k --labels --out --overwrite --quiet --threshold
predict RUN DATA --certainty --copy --download --json --out --overwrite --quiet --sort-into
pretrain DATA --batch-size --devices --download --encoder --epochs --exclude --fraction --image-size --init --json \
--labelled --labels --micro-batch --minutes --out* --overwrite --probe-data --quiet --recipe --seed --set
recipes [show NAME] --json --quiet
report RUN --json --out --quiet
resume RUN --anyway --devices --json --micro-batch --quiet
run DATA --arms --batch-size --devices --download --encoder --epochs --exclude --fraction --image-size --init --json \
--labels --labels-per-class --metric --micro-batch --minutes --out* --overwrite --probe-data --quiet --recipe \
--reference --seed --seeds --set --subsets --test* --train --trained-at --val
search RUN QUERY --download --in --json --minus --out --quiet --top
suggest RUN DATA --count --download --json --labels --out --page --quiet --seed --strategy --unlabelled
suspects RUN DATA --cleanlab --download --json --k --labels --out --overwrite --quiet --threshold
tag RUN DATA --certainty --copy --download --examples* --json --method --out --overwrite --quiet --separator --sort-into
views DATA --download --image-size --json --out* --quiet --recipe --seed --set
"""


def subparsers() -> dict[str, argparse.ArgumentParser]:
    (commands,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(commands.choices)


def described(parser: argparse.ArgumentParser) -> str:
    words, options = [], []
    for action in parser._actions:
        if not action.option_strings:
            words.append(str(action.metavar) if action.nargs != "*" else f"[{action.metavar}]")
        elif "--help" not in action.option_strings:
            options.append(action.option_strings[0] + ("*" if action.required else ""))
    return " ".join([*words, *sorted(options)])


def test_commands_and_options_are_frozen() -> None:
    found = "".join(f"{name} {described(parser)}\n" for name, parser in sorted(subparsers().items()))
    assert found == FROZEN.lstrip()


def test_every_command_is_implemented() -> None:
    assert set(COMMANDS) == set(subparsers())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_an_example_that_parses(name: str, twoviews: Callable[..., Any]) -> None:
    outcome = twoviews(name, "--help")
    assert outcome.code == 0
    example = outcome.out.partition("example:")[2].split("\n")[0]
    words = shlex.split(example)
    assert words[:2] == ["twoviews", name]
    build_parser().parse_args(words[1:])
    for action in subparsers()[name]._actions:
        if action.option_strings:
            assert action.help, action.option_strings


def test_help_names_every_command(twoviews: Callable[..., Any]) -> None:
    outcome = twoviews("--help")
    assert outcome.code == 0
    for name in COMMANDS:
        assert f"\n    {name}" in outcome.out


def test_version(twoviews: Callable[..., Any]) -> None:
    from importlib.metadata import version

    outcome = twoviews("--version")
    assert (outcome.code, outcome.out) == (0, f"twoviews {version('twoviews')}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("pretrian",), "unknown command 'pretrian': did you mean 'pretrain'?"),
        (("zzz",), "unknown command 'zzz': choose one of demo, check,"),
        (("pretrain", "x"), "the following arguments are required: --out"),
        (("pretrain", "x", "--out", "y", "--epoch", "3"), "unknown argument '--epoch': did you mean --epochs?"),
        (("pretrain", "x", "--out", "y", "--batchsize=3"), "unknown argument '--batchsize=3': did you mean --batch-"),
        (
            ("pretrain", "x", "--out", "y", "--steps", "3"),
            "unknown argument '--steps': give it as --set train.steps=...",
        ),
        (("pretrain", "x", "--out", "y", "--lr=1"), "unknown argument '--lr=1': give it as --set optim.lr=..."),
        (("run", "x", "--out", "y", "--test", "z", "--temperature", "1"), "give it as --set method.temperature=..."),
        (("pretrain", "x", "--out", "y", "--device", "cpu"), "did you mean --devices, or --set train.device=...?"),
        (("pretrain", "x", "--out", "y", "--seeds", "3"), "did you mean --seed, or --set evaluate.seeds=...?"),
        (("evaluate", "x", "--test", "y", "--weight-decay", "3"), "give it as --set evaluate.weight_decay=..."),
        (("evaluate", "x", "--test", "y", "--temperature", "3"), "unknown argument '--temperature'"),
        (("report", "x", "steps"), "unknown argument 'steps'"),
        (("report", "x", "--epochs", "3"), "unknown argument '--epochs'"),
        (("pretrain", "x", "--out", "y", "--epochs", "many"), "argument --epochs: invalid int value: 'many'"),
        (("pretrain", "x", "--out", "y", "--epochs", "1", "--minutes", "1"), "not allowed with argument --epochs"),
        (("evaluate", "x", "--train", "y"), "the following arguments are required: --test"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], message: str, twoviews: Callable[..., Any]) -> None:
    outcome = twoviews(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    first, *rest = outcome.err.splitlines()
    assert first.startswith("twoviews: ")
    assert message in first
    assert len(rest) == 1
    assert rest[0] == f"(see twoviews {arguments[0]} --help)" if len(arguments) > 1 else "(see twoviews --help)"


def test_options_of_other_commands_are_not_offered(twoviews: Callable[..., Any]) -> None:
    for arguments in (("report", "x", "--epoch", "3"), ("evaluate", "x", "--test", "y", "--temperature", "3")):
        assert "did you mean" not in twoviews(*arguments).err
