"""The command answers `--help` and refuses a wrong word without loading the heavy libraries."""

import re
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "PIL", "pyarrow", "tensorboardX"}
COMMAND = "import sys; from twoviews.cli import main; sys.argv = ['twoviews', *{words!r}]; sys.exit(main())"


def imported(code: str) -> tuple[int, str, set[str]]:
    """Exit code, standard output and imported top-level packages of a fresh interpreter that runs `code`."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, timeout=60)
    names = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE)
    return done.returncode, done.stdout, {name.partition(".")[0] for name in names}


def test_the_probe_sees_imports() -> None:
    code, output, packages = imported("import numpy; print('done')")
    assert (code, output) == (0, "done\n")
    assert "numpy" in packages


@pytest.mark.parametrize(
    "module", ["twoviews", "twoviews.errors", "twoviews.narrate", "twoviews.config", "twoviews.cli"]
)
def test_light_modules(module: str) -> None:
    code, _, packages = imported(f"import {module}")
    assert code == 0
    assert packages & HEAVY == set()


@pytest.mark.parametrize(("words", "expected"), [(["--help"], 0), (["pretrain", "--help"], 0), (["pretrian"], 2)])
def test_commands_that_do_no_work(words: list[str], expected: int) -> None:
    code, output, packages = imported(COMMAND.format(words=words))
    assert code == expected
    assert expected != 0 or "usage" in output.lower()
    assert packages & HEAVY == set()
