"""The examples in the docstrings of the methods run."""

import doctest
import importlib
import pkgutil

import pytest

import twoviews.methods as room

MODULES = [module.name for module in pkgutil.iter_modules(room.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(f"twoviews.methods.{name}")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
