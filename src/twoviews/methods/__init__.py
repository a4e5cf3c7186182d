"""Methods: one paper, one file. A method sees views and nothing else."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from twoviews.errors import UsageError, unknown_name
from twoviews.methods.barlow_twins import BarlowTwins
from twoviews.methods.byol import BYOL
from twoviews.methods.dcl import DCL
from twoviews.methods.distillation import Distillation
from twoviews.methods.fast_siam import FastSiam
from twoviews.methods.method import Method, Pool, Projections, Step
from twoviews.methods.moco import MoCo
from twoviews.methods.moco_v3 import MoCoV3
from twoviews.methods.nce import NCE
from twoviews.methods.simclr import SimCLR
from twoviews.methods.simsiam import SimSiam
from twoviews.methods.sup_con import SupCon
from twoviews.methods.supervised import Supervised
from twoviews.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "dcl": DCL,
    "nce": NCE,
    "moco": MoCo,
    "moco_v3": MoCoV3,
    "byol": BYOL,
    "simsiam": SimSiam,
    "fast_siam": FastSiam,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "sup_con": SupCon,
    "supervised": Supervised,
    "distillation": Distillation,
}

__all__ = [
    "BYOL",
    "DCL",
    "METHODS",
    "NCE",
    "BarlowTwins",
    "Distillation",
    "FastSiam",
    "Method",
    "MoCo",
    "MoCoV3",
    "Pool",
    "Projections",
    "SimCLR",
    "SimSiam",
    "Step",
    "SupCon",
    "Supervised",
    "VICReg",
    "build_method",
    "method_options",
]


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
