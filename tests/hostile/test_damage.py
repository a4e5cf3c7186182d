"""Damaged files of our own that say what no file of ours says: refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.encoders import build_encoder, save_encoder
from twoviews.errors import DataError
from twoviews.evaluation.tables import Table, write_index
from twoviews.jobs.vectors.embedded import table_in
from twoviews.jobs.vectors.opened import Preprocessing


def test_a_picture_wider_than_any(tmp_path: Path) -> None:
    write_index(tmp_path / "index.csv", Table.of([("a.png", "", 32, 32, "0" * 32, "0" * 16)]))
    (tmp_path / "meta.json").write_text('{"dimensions": 2}')
    np.save(tmp_path / "vectors.npy", np.zeros((1, 2), np.float32))
    assert table_in(tmp_path) is not None
    index = (tmp_path / "index.csv").read_text()
    (tmp_path / "index.csv").write_text(index.replace(",32,", ",99999999999,", 1))
    with pytest.raises(DataError, match=r"damaged .*give --overwrite"):
        table_in(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("intensity", 3), ("intensity", None), ("background", 3), ("pages", [])])
def test_an_input_view_that_is_none(key: str, value: Any, tmp_path: Path) -> None:
    encoder = build_encoder("convnet_tiny", image_size=8)
    save_encoder(encoder, tmp_path, preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3})
    facts = Preprocessing.of(tmp_path).facts
    assert Preprocessing.from_facts(facts) == Preprocessing.of(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["twoviews"][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"config\.json does not say how images are seen .*save the encoder again"):
        Preprocessing.of(tmp_path)
    facts["storage"][key] = value
    with pytest.raises(TypeError):
        Preprocessing.from_facts(facts)
