"""Plain tensors: `model.safetensors`, named as in the bare architecture, and words that say how to build that."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from twoviews.encoders.folder import tensors_of
from twoviews.encoders.weights import read_safetensors
from twoviews.encoders.zoo import Encoder
from twoviews.export.subject import Outputs, Reopened, Subject, Written

Edit = tuple[str, nn.Module]
"""Where a module stands in a network, and what takes its place there."""


def accept(subject: Subject) -> None:
    """Every network can be written so."""


def write(subject: Subject, folder: Path) -> Written:
    """Write the encoder folder that `twoviews.load_encoder` reads, and `classifier.safetensors` beside it."""
    (folder / "model.safetensors").write_bytes(save(tensors_of(subject.encoder.body), metadata={"format": "pt"}))
    config = dict(subject.config)
    head, note = subject.head, ""
    if head is not None:
        (folder / "classifier.safetensors").write_bytes(save(tensors_of(head), metadata={"format": "pt"}))
        layer = "" if head.layer is None else "the layers in `layer.*` of the projection head, then "
        config["classifier"] = {
            "classes": list(head.classes),
            "temperature": float(head.temperature),
            "layer": None if head.layer is None else str(head.layer),
        }
        note = (
            f"`classifier.safetensors`, on the vectors: {layer}`logits = vectors @ linear.weight.T + linear.bias`; the "
            "softmax of `logits / temperature` is the calibrated probabilities. The order of classes is that of "
            "`classifier.classes` in `config.json`."
        )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    code = building_code(subject.encoder)
    if code is None:
        code = 'import twoviews\n\nnetwork = twoviews.load_encoder("FOLDER")'
        note = f"{_words(subject.encoder)}\n\n{note}".strip()
    side = subject.image_size
    code += f"\nvectors = network(images)  # (B, {subject.channels}, {side}, {side}), normalised as said above"
    return Written("pytorch" if "twoviews" not in code else "twoviews", code, note)


def reopen(subject: Subject, folder: Path) -> Reopened:
    """The tensors in a network that is built as the card says, or by `load_encoder`."""
    body = _built(subject.encoder)
    body.load_state_dict(read_safetensors(folder / "model.safetensors"), strict=True)
    body.eval()
    program = subject.program()
    stored = read_safetensors(folder / "classifier.safetensors") if subject.head is not None else {}

    def run(images: Tensor) -> Outputs:
        vectors: Tensor = body(program.framed(images))
        if subject.head is None:
            return (vectors,)
        inner = vectors if subject.head.layer is None else subject.head.layer(vectors)
        logits = inner @ stored["linear.weight"].T + stored["linear.bias"]
        return vectors, logits, (logits / stored["temperature"]).softmax(1)

    return run


def building_code(encoder: Encoder) -> str | None:
    """Python that builds the network from timm or torchvision and loads FOLDER into it; None for others."""
    about = encoder.architecture
    edits = None if about["source"] not in ("timm", "torchvision") else _edits(encoder)
    if edits is None:
        return None
    lines = ["from safetensors.torch import load_file"]
    if any(isinstance(part, nn.Module) for _, part in edits):
        lines.append("from torch import nn")
    if about["source"] == "timm":
        options = "".join(f", {key}={value!r}" for key, value in about["model_args"].items())
        lines += ["import timm", "", f'network = timm.create_model("{about["name"]}", num_classes=0{options})']
    else:
        size = f", image_size={about['image_size']}" if _sized(about["name"]) else ""
        lines += [
            "import torchvision",
            "",
            f'network = torchvision.models.get_model("{about["name"]}", weights=None{size})',
        ]
    lines += [f'network.set_submodule("{path}", nn.{part!r})' for path, part in edits]
    return "\n".join([*lines, 'network.load_state_dict(load_file("FOLDER/model.safetensors"))', "network.eval()"])


def _sized(name: str) -> bool:
    import torchvision

    return bool(torchvision.models.get_model_builder(name).__module__ == "torchvision.models.vision_transformer")


def _published(encoder: Encoder) -> nn.Module:
    """The network as its library builds it, with random weights."""
    about = encoder.architecture
    with torch.random.fork_rng(devices=[]):
        if about["source"] == "timm":
            import timm

            network: nn.Module = timm.create_model(about["name"], num_classes=0, **about["model_args"])
        else:
            import torchvision

            size = {"image_size": about["image_size"]} if _sized(about["name"]) else {}
            network = torchvision.models.get_model(about["name"], weights=None, **size)
    return network


def _built(encoder: Encoder) -> nn.Module:
    edits = None if encoder.architecture["source"] not in ("timm", "torchvision") else _edits(encoder)
    if edits is None:
        import copy

        return copy.deepcopy(encoder.body)
    network = _published(encoder)
    for path, part in edits:
        network.set_submodule(path, part)
    return network


def _edits(encoder: Encoder) -> list[Edit] | None:
    """What makes the published network into this one; None where more differs than convolutions and identities."""
    network = _published(encoder)
    own = dict(encoder.body.named_modules())
    edits: list[Edit] = []
    for path, part in _leaves(network):
        mine = own.get(path)
        if mine is None or repr(mine) == repr(part):
            continue
        if isinstance(mine, nn.Identity):
            edits.append((path, nn.Identity()))
        elif type(mine) is nn.Conv2d:
            with torch.random.fork_rng(devices=[]):
                edits.append((path, _like(mine)))
        else:
            return None
    for path, part in edits:
        network.set_submodule(path, part)
    mine_names, names = encoder.body.state_dict(), network.state_dict()
    same = [(name, value.shape) for name, value in names.items()] == [(n, v.shape) for n, v in mine_names.items()]
    return edits if same else None


def _leaves(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path, part) for path, part in network.named_modules() if path and not any(part.children()))


def _like(part: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(
        part.in_channels,
        part.out_channels,
        part.kernel_size,  # type: ignore[arg-type]
        stride=part.stride,  # type: ignore[arg-type]
        padding=part.padding,  # type: ignore[arg-type]
        dilation=part.dilation,  # type: ignore[arg-type]
        groups=part.groups,
        bias=part.bias is not None,
        padding_mode=part.padding_mode,
    )


def _words(encoder: Encoder) -> str:
    return f"The network, as torch prints it:\n\n```\n{encoder.body}\n```"
