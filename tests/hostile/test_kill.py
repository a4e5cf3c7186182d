"""A real SIGKILL in the middle of a run of its own, and `twoviews resume`: the bytes of the run that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from twoviews.cli import main
from twoviews.jobs.pretraining import pretrain
from twoviews.run import Run, read_lines

STEPS = 40


def arguments(data: Path, out: Path, *, checkpoint_minutes: int) -> list[str]:
    settings = [
        f"train.steps={STEPS}",
        f"train.checkpoint_minutes={checkpoint_minutes}",
        "train.evaluations=3",
        "train.precision=fp32",
        "train.threads=1",
        "train.device=cpu",
        "views.policy=digits",
    ]
    options = [word for text in settings for word in ("--set", text)]
    return ["pretrain", str(data), "--out", str(out), "--encoder", "convnet_tiny", "--batch-size", "16", *options]


def test_killed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
    data = tmp_path / "pool.npz"
    np.savez(data, images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    killed, whole = Run(tmp_path / "killed"), Run(tmp_path / "whole")
    environment = {**os.environ, "PYTHONHASHSEED": "random"}
    process = subprocess.Popen(
        [sys.executable, "-m", "twoviews", *arguments(data, killed.path, checkpoint_minutes=0)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        while process.poll() is None and len(list(read_lines(killed.metrics))) < 4:
            time.sleep(0.005)
    finally:
        process.kill()
        output = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, output
    done = [row["step"] for row in read_lines(killed.metrics)]
    assert 4 <= len(done) < STEPS
    assert killed.info()["status"] == "running"

    assert main(["resume", str(killed.path), "--quiet"]) == 0
    assert main([*arguments(data, whole.path, checkpoint_minutes=99), "--quiet"]) == 0
    assert 0 < killed.info()["resumed_at"][0] < STEPS
    for file in ("encoder/model.safetensors", "metrics.jsonl"):
        assert (killed.path / file).read_bytes() == (whole.path / file).read_bytes(), file
    assert [r["step"] for r in read_lines(killed.metrics) if "event" not in r] == list(range(STEPS))
