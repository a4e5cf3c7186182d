"""Methods: one paper, one file. A method sees views and nothing else."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from twoviews.errors import UsageError, unknown_name
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.simclr import SimCLR

METHODS: dict[str, type[Method]] = {"simclr": SimCLR}

__all__ = ["METHODS", "Method", "Projections", "SimCLR", "Step", "build_method", "method_options"]


def method_options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults: the keyword-only arguments of its constructor."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build_method(name: str, encoder: nn.Module, *, options: Mapping[str, Any]) -> Method:
    """Construct a method by name around an encoder.

    Raises `UsageError` for an unknown name or option (the nearest one offered) and for a value of the wrong type
    or range.
    """
    known = method_options(name)
    cls = METHODS[name]
    parameters = inspect.signature(cls, eval_str=True).parameters
    checked: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise unknown_name(f"option of method {name}", key, known)
        adapter: TypeAdapter[Any] = TypeAdapter(
            parameters[key].annotation, config=ConfigDict(strict=False, allow_inf_nan=False)
        )
        try:
            checked[key] = adapter.validate_python(value)
        except ValidationError as error:
            raise UsageError(f"method.{key} = {value!r}: {error.errors()[0]['msg']}") from None
    return cls(encoder, **checked)
