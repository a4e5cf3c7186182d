"""The first layer of a run's projection head: SimCLR v2 fine-tunes from there (Chen et al. 2020b, section 2)."""

import json
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import nn

from twoviews.errors import UsageError
from twoviews.evaluation.finetune import WithHead
from twoviews.methods import Method
from twoviews.methods.heads import normalised_head, plain_head
from twoviews.run import Run, read_json


def first_layer(method: Method) -> nn.Sequential | None:
    """The linear layer of the method's projection head before its first ReLU, normalised or not.

    None without one, and for one of another form than `empty_head` builds, as a method of one's own may have.
    """
    projector = dict(method.named_children()).get("projector")
    if type(projector) is not nn.Sequential:  # of a subclass neither slicing nor `forward` is known
        return None
    end = next((index for index, layer in enumerate(projector) if isinstance(layer, nn.ReLU)), None)
    layer = projector[:end] if end else nn.Sequential()
    if not len(layer) or not isinstance(layer[0], nn.Linear) or layer[0].in_features != method.encoder.num_features:
        return None
    with torch.device("meta"):  # no memory, and no random numbers drawn
        built = empty_head(nn.Identity(), _about(layer)).layer[:-1]  # without the ReLU
    return layer if _form(layer) == _form(built) else None


def save_head(run: Run, method: Method) -> None:
    """Write the first layer of the method's projection head, where it has one of several layers."""
    layer = first_layer(method)
    if layer is None:
        return
    run.head.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in layer.state_dict().items()}
    save_file(tensors, run.head / "model.safetensors")
    (run.head / "config.json").write_text(json.dumps(_about(layer), indent=1) + "\n", encoding="utf-8")


def with_head(encoder: nn.Module, folder: Path) -> WithHead:
    """The encoder with the layer of a run's folder `head` on it. Raises `UsageError` where there is none."""
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder.parent} keeps no first layer of a projection head to fine-tune from: set evaluate.finetune_from=h"
        )
    built = empty_head(encoder, read_json(folder / "config.json"))
    built.layer.load_state_dict(load((folder / "model.safetensors").read_bytes()))
    return built


def empty_head(encoder: nn.Module, about: dict[str, int | bool]) -> WithHead:
    """The same with weights that are yet to be loaded; `about`: what `config.json` says."""
    widths = [int(about["in_features"]), int(about["width"]), 1]
    head = normalised_head(widths) if about["normalised"] else plain_head(widths)
    return WithHead(encoder, head[:-1], width=int(about["width"]))


def _about(layer: nn.Sequential) -> dict[str, int | bool]:
    first = layer[0]
    assert isinstance(first, nn.Linear)
    return {"in_features": first.in_features, "width": first.out_features, "normalised": len(layer) == 2}


def _form(layer: nn.Sequential) -> list[object]:
    """Kinds of modules with their settings, and the tensors that they would save."""
    # Processes that share a batch have their BatchNorm replaced by one of theirs, with the same tensors.
    kinds = [nn.BatchNorm1d if isinstance(module, nn.SyncBatchNorm) else type(module) for module in layer]
    tensors = [(name, tensor.shape, tensor.dtype) for name, tensor in layer.state_dict().items()]
    return [*zip(kinds, (module.extra_repr() for module in layer), strict=True), *tensors]
