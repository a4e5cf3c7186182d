"""The script of docs/sklearn.md runs, with fewer steps on fewer digits."""

import re
from pathlib import Path

import pytest
from sklearn import datasets
from sklearn.utils import Bunch

from twoviews import sklearn

PAGE = Path(__file__).parents[2] / "docs" / "sklearn.md"
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    digits = datasets.load_digits()
    some = Bunch(images=digits.images[:400], target=digits.target[:400])
    monkeypatch.setattr(datasets, "load_digits", lambda: some)
    script = "\n".join(PYTHON.findall(PAGE.read_text(encoding="utf-8")))
    settings = "['train.precision=fp32', 'train.threads=1', 'train.evaluations=0']"
    for long, short in ((r"epochs=\d+", f"steps=3, batch_size=64, settings={settings}"), (r"\b1198\b", "250")):
        script, found = re.subn(long, short, script)
        assert found, long
    exec(compile(script, PAGE.name, "exec"), {"__name__": "page"})
    shown = capsys.readouterr().out
    assert re.search(r"chosen \{'encoder__temperature': 0\.[15]\}\n", shown)
    scores = [float(text) for text in re.findall(r"(?:test|pixels) ([01]\.\d+)", shown)]
    assert len(scores) == 5
    assert min(scores) > 0.3  # chance is 0.1
    assert "(3, 256) ['contrastiveencoder0' 'contrastiveencoder1']" in shown


def test_the_page_tells_of_all_that_is_public() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in (*sklearn.__all__, "from_run"):
        assert name in text
    for name in (*sklearn.EmbeddingClassifier().get_params(), *sklearn.ContrastiveEncoder().get_params()):
        if name not in ("kind", "penalties", "k", "similarity_temperature", "folds", "run", "encoder", "download"):
            assert re.search(rf"\b{name}\b", text), name
