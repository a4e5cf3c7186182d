"""A folder that `timm.create_model("local-dir:DIR", pretrained=True)` loads, with the classifier as timm's own."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from twoviews.encoders.folder import tensors_of
from twoviews.errors import UsageError
from twoviews.export.subject import Outputs, Reopened, Subject, Written


def accept(subject: Subject) -> None:
    """Raise UsageError where timm would build another network."""
    about = subject.encoder.architecture
    if not subject.config["twoviews"]["loads_in_timm"]:
        own = f"{about['name']} ({about['source']}) with the stem {about['stem']!r}"
        raise UsageError(
            f"timm cannot build {own}: the format timm needs a network of timm's, unmodified, as pretrain --encoder "
            "timm:resnet18 --set encoder.stem=standard makes it; take --format state-dict, torch-export or onnx"
        )
    if subject.head is not None and subject.head.layer is not None:
        raise UsageError(
            "the classifier was fine-tuned from inside the projection head, whose layer timm has not: leave "
            "--classifier out, or take --format state-dict, torch-export or onnx"
        )


def write(subject: Subject, folder: Path) -> Written:
    """Write weights and `config.json`. Raises UsageError where timm's classifier sees other than the vectors."""
    config: dict[str, Any] = copy.deepcopy(dict(subject.config))
    tensors = tensors_of(subject.encoder.body)
    head, note = subject.head, "It gives the vectors."
    if head is not None:
        path, tensors = _with_classifier(subject)
        classes = list(head.classes)
        # Without the table of twoviews, whose loader would take the classifier for a part of the encoder.
        del config["twoviews"]
        config.update(
            num_classes=len(classes), label_names=classes, calibration={"temperature": float(head.temperature)}
        )
        config["pretrained_cfg"].update(num_classes=len(classes), classifier=path)
        note = (
            "It gives logits, in the order of `label_names` in `config.json`; divided by "
            f"{float(head.temperature):g}, their softmax is the calibrated probabilities. The vectors: "
            "`network.forward_head(network.forward_features(images), pre_logits=True)`, or `num_classes=0`."
        )
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    code = (
        "import timm\n\n"
        'network = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))\n"
        "output = network(transform(picture)[None])  # a PIL image"
    )
    return Written("timm", code, note)


def reopen(subject: Subject, folder: Path) -> Reopened:
    """As a user of timm would."""
    import timm

    network: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    framed = subject.program().framed

    def run(images: Tensor) -> Outputs:
        seen = framed(images)
        if subject.head is None:
            return (network(seen),)
        return network.forward_head(network.forward_features(seen), pre_logits=True), network(seen)

    return run


def _with_classifier(subject: Subject) -> tuple[str, dict[str, Tensor]]:
    """timm's name of its classifier, and all tensors of the network with it."""
    import timm

    head = subject.head
    assert head is not None
    arguments = subject.encoder.architecture["model_args"]
    with torch.random.fork_rng(devices=[]):
        network: Any = timm.create_model(subject.config["architecture"], num_classes=len(head.classes), **arguments)
    classifier = network.get_classifier()
    path = next((path for path, part in network.named_modules() if part is classifier), "")
    fits = isinstance(classifier, nn.Linear) and classifier.weight.shape == head.linear.weight.shape
    found = network.load_state_dict(subject.encoder.body.state_dict(), strict=False)
    if not fits or found.unexpected_keys or set(found.missing_keys) != {f"{path}.weight", f"{path}.bias"}:
        raise UsageError(
            f"timm's {subject.name} has more than a linear layer on its vectors: leave --classifier out, or take "
            "--format state-dict, torch-export or onnx"
        )
    classifier.load_state_dict(head.linear.state_dict())
    return path, tensors_of(network)
