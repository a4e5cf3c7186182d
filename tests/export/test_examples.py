"""The examples in the docstrings run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["program", "card"])
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"twoviews.export.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
