"""Files that vanish between being listed and being decoded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twoviews.cli import main
from twoviews.data import assemble

TINY = ("--epochs", "1", "--batch-size", "16", "--encoder", "convnet_tiny", "--quiet")
SETTINGS = ("train.precision=fp32", "train.threads=1", "train.device=cpu", "train.evaluations=1")


@pytest.fixture
def pretrain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`pretrain(lost)`: the exit code and the run of pretraining on 100 pictures of which `lost` vanish at once."""
    from twoviews.jobs.pretraining import pretrain as job

    monkeypatch.setattr(job, "measure", lambda *_: (0.01, 0.0))
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(100):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    look = assemble.Assembly.look

    def run(lost: int) -> tuple[int, Path]:
        def losing(self: Any, *, budget: int) -> Any:
            for number in range(lost):
                (folder / f"{number:03d}.png").unlink()
            return look(self, budget=budget)

        monkeypatch.setattr(assemble.Assembly, "look", losing)
        out = tmp_path / "run"
        settings = [word for text in SETTINGS for word in ("--set", text)]
        return main(["pretrain", str(folder), "--out", str(out), *TINY, *settings]), out

    return run


def test_a_few_are_counted_and_the_run_completes(pretrain: Any) -> None:
    code, run = pretrain(2)
    assert code == 0
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["data"]["count"], info["data"]["rejected"]) == ("finished", 98, 2)
    rejected = (run / "rejected.csv").read_text()
    assert '"000.png","No such file or directory"' in rejected
    assert main(["report", str(run), "--quiet"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "2 files were not used" in page
    assert "98, 8 × 8, greyscale, 2 rejected" in page


def test_too_many_end_it(pretrain: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, run = pretrain(60)
    assert code == 3
    assert "60 of 100 images" in capsys.readouterr().err
    assert not run.exists()
