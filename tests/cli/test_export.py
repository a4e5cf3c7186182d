"""`twoviews export` and `twoviews import` on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from twoviews.encoders import build_encoder

Command = Callable[..., Any]


def test_export_of_a_finished_run(twoviews: Command, place: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = twoviews("export", place.run, "--format", "state-dict", "--classifier", "--out", out)
    assert done.code == 0, done.err
    assert "largest difference from torch" in done.out
    assert "checked on 16 real pictures" in done.out
    assert "Largest difference from torch on 16 real pictures: vectors 0.0e+00" in done.err
    card = (out / "README.md").read_text()
    assert "| linear | 5 | " in card
    assert "The run was made by" in card
    assert str(place.run.parent) not in card
    again = twoviews("export", place.run, "--format", "state-dict", "--out", out)
    assert (again.code, again.out) == (6, "")
    assert "is not empty: choose another --out" in again.err
    embedded = twoviews("embed", out, place.unlabelled, "--out", tmp_path / "vectors", "--json", "--quiet")
    assert embedded.json()["count"] == 24


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--format", "timm"), 2, "timm cannot build convnet_tiny"),
        (("--format", "tim"), 2, "unknown format 'tim': did you mean 'timm'?"),
        (("--format", "state-dict", "--push", "me"), 2, "give USER/NAME"),
        ((), 2, "--format"),
    ],
)
def test_export_refuses(
    words: tuple[str, ...], code: int, message: str, twoviews: Command, place: Any, tmp_path: Path
) -> None:
    done = twoviews("export", place.run, *words, "--out", tmp_path / "out")
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_import_then_embed(twoviews: Command, place: Any, tmp_path: Path) -> None:
    encoder = build_encoder("convnet_tiny", image_size=8, channels=1)
    state = {f"backbone.{name}": value for name, value in encoder.body.state_dict().items()}
    torch.save({"state_dict": {**state, "projector.weight": torch.ones(2)}}, tmp_path / "a.ckpt")
    words = ("--encoder", "convnet_tiny", "--image-size", 8, "--channels", 1, "--mean", 0.4, "--std", 0.2)
    done = twoviews("import", tmp_path / "a.ckpt", *words, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "num_features: 256" in done.out
    assert "left_out: 1" in done.out
    embedded = twoviews("embed", tmp_path / "out", place.unlabelled, "--out", tmp_path / "vectors", "--json")
    assert embedded.json()["dimensions"] == 256
    (tmp_path / "b.ckpt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused = twoviews("import", tmp_path / "b.ckpt", *words, "--out", tmp_path / "b")
    assert refused.code == 6
    assert "may run code when read" in refused.err
