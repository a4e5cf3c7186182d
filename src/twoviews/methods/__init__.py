"""Methods: one paper, one file. A method sees views and nothing else."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from torch import nn

from twoviews.errors import UsageError, unknown_name
from twoviews.methods.distillation import Distillation
from twoviews.methods.method import Method, Pool, Projections, Step
from twoviews.methods.moco import MoCo
from twoviews.methods.simclr import SimCLR

__all__ = [
    "METHODS",
    "Distillation",
    "Method",
    "MoCo",
    "Pool",
    "Projections",
    "SimCLR",
    "Step",
    "build_method",
    "method_options",
]


def _loaded(classes: Mapping[str, str]) -> dict[str, type[Method]]:
    return {name: getattr(import_module(f"{__name__}.{name}"), cls) for name, cls in classes.items()}


METHODS = _loaded(
    {
        "simclr": "SimCLR",
        "dcl": "DCL",
        "nce": "NCE",
        "moco": "MoCo",
        "moco_v3": "MoCoV3",
        "byol": "BYOL",
        "simsiam": "SimSiam",
        "fast_siam": "FastSiam",
        "barlow_twins": "BarlowTwins",
        "vicreg": "VICReg",
        "sup_con": "SupCon",
        "supervised": "Supervised",
        "distillation": "Distillation",
    }
)
"""Each method's class, in the file that has the method's name."""


def method_options(name: str) -> dict[str, Any]:
    """The options of a method with their defaults: the keyword-only arguments of its constructor.

    Raises `UsageError` for an unknown name (the nearest one offered) and for an option without annotation or default.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    options = [p for p in inspect.signature(METHODS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        for lacking, found in (("an annotation", option.annotation), ("a default", option.default)):
            if found is inspect.Parameter.empty:
                raise UsageError(f"method {name}: option {option.name} needs {lacking}")
    return {option.name: option.default for option in options}


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
        annotation = parameters[key].annotation
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=False, allow_inf_nan=False))
        except PydanticUserError:
            raise UsageError(
                f"method {name}: option {key} has the annotation {annotation}: give one of plain values"
            ) from None
        try:
            checked[key] = adapter.validate_python(value)
        except ValidationError as error:
            raise UsageError(f"method.{key} = {value!r}: {error.errors()[0]['msg']}") from None
    return cls(encoder, **checked)
