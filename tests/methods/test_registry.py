"""`METHODS`, and the options of a method of one's own."""

from typing import Any

import pytest
from torch import nn

from twoviews.errors import UsageError
from twoviews.methods import METHODS, Method, SimCLR, build_method, method_options


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_class_of_the_file_of_its_name(name: str) -> None:
    assert issubclass(METHODS[name], Method)
    assert METHODS[name].__module__ == f"twoviews.methods.{name}"


class Unannotated(SimCLR):
    def __init__(self, encoder: nn.Module, *, weight=1.0) -> None:  # type: ignore[no-untyped-def]
        super().__init__(encoder)


class Required(SimCLR):
    def __init__(self, encoder: nn.Module, *, weight: float) -> None:
        super().__init__(encoder)


class Strange(SimCLR):
    def __init__(self, encoder: nn.Module, *, weight: nn.Module | None = None) -> None:
        super().__init__(encoder)


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Unannotated, "method mine: option weight needs an annotation"),
        (Required, "method mine: option weight needs a default"),
        (Strange, "method mine: option weight has the annotation .*Module.*: give one of plain values"),
    ],
)
def test_an_option_that_cannot_be_checked(cls: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mine", cls)
    encoder = nn.Flatten()
    encoder.num_features = 12  # type: ignore[assignment]
    with pytest.raises(UsageError, match=text):
        build_method("mine", encoder, options={"weight": 2})
    if cls is not Strange:
        with pytest.raises(UsageError, match=text):
            method_options("mine")
