"""The examples in the docstrings run, and the room keeps to its words."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import twoviews.evaluation as room

MODULES = (
    "features",
    "floors",
    "gallery",
    "health",
    "knn",
    "matched",
    "metrics",
    "probe",
    "softmax",
    "statistics",
    "subsets",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(f"twoviews.evaluation.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", [n for n in MODULES if n != "gallery"])
def test_only_the_gallery_knows_of_images(name):
    text = (Path(room.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    assert not re.search(r"image|picture|pixel", text, re.IGNORECASE)
