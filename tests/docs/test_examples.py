"""The examples run, with few steps on little data."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    path = next(path for path in EXAMPLES if path.name == name)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_tested() -> None:
    assert [path.name for path in EXAMPLES] == ["own_loop.py", "own_method.py"]


def test_own_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run("own_loop.py", ["--data", "digits:val", "--test", "digits:val", "--steps", "2"], monkeypatch, capsys)
    found = re.findall(r"(?:kNN|linear) ([01]\.\d+)", shown)
    assert found
    for accuracy in found:
        assert 0.3 < float(accuracy) <= 1  # chance is 0.1, and the data is its own training set


def test_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Micro-batches come with the contract: the steps of the example, and those of the whole batch at once."""
    from twoviews.jobs.pretraining import pretrain
    from twoviews.methods import METHODS
    from twoviews.run import Run, read_lines

    monkeypatch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
    monkeypatch.setitem(METHODS, "spectral", METHODS["simclr"])  # taken away again after the test
    out = tmp_path / "run"
    shown = run("own_method.py", ["--data", "digits:train", "--out", str(out), "--epochs", "2"], monkeypatch, capsys)
    assert shown == f"1 processes, encoder in {out}/encoder\n"
    first = [row["loss"] for row in read_lines(Run(out).metrics) if "loss" in row]
    assert first[-1] < first[0]
    assert Run(out).info()["micro_batch"] == 64
    settings = (out / "config.toml").read_text().replace("micro_batch = 64", "micro_batch = 256")
    (tmp_path / "whole.toml").write_text(settings)
    again = pretrain.pretrain("digits:train", out=tmp_path / "again", recipe=tmp_path / "whole.toml")
    assert [row["loss"] for row in read_lines(again.metrics) if "loss" in row] == first
