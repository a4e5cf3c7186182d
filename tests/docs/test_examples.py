"""The examples run, with few steps on little data."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert "own_loop.py" in [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, "--data", "digits:val", "--test", "digits:val", "--steps", "2"])
    runpy.run_path(str(path), run_name="__main__")
    found = re.findall(r"(?:kNN|linear) ([01]\.\d+)", capsys.readouterr().out)
    assert found
    for accuracy in found:
        assert 0.3 < float(accuracy) <= 1  # chance is 0.1, and the data is its own training set
