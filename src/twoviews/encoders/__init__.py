"""Encoders: timm, torchvision, built-in networks and any `nn.Module` behind one class, saved as timm folders.

>>> encoder = build_encoder("resnet_mini", image_size=32)
>>> encoder.num_features, encoder.architecture["stem"]
(256, 'small')
"""

from pathlib import Path

from twoviews.encoders.builtin import BUILTIN
from twoviews.encoders.folder import load_encoder, read_encoder_config, save_encoder
from twoviews.encoders.weights import Transfer, encoder_folder, initialize
from twoviews.encoders.zoo import Encoder, construct, stem_choice, wrap_encoder

__all__ = [
    "ENCODERS",
    "Encoder",
    "Transfer",
    "build_encoder",
    "encoder_folder",
    "load_encoder",
    "read_encoder_config",
    "save_encoder",
    "stem_choice",
    "wrap_encoder",
]

ENCODERS: dict[str, str] = {
    **{name: size.description for name, size in BUILTIN.items()},
    "mobilenetv3_small_100": "MobileNetV3, 1.5 M parameters: little memory, few operations",
    "efficientnet_b0": "EfficientNet-B0, 4.0 M parameters",
    "vit_tiny_patch16_224": "vision transformer, 5.5 M parameters",
    "resnet18": "ResNet-18, 11.2 M parameters: the field's usual choice for small images",
    "convnext_nano": "ConvNeXt, 15.0 M parameters: 96 px and more",
    "resnet50": "ResNet-50, 23.5 M parameters: the encoder of the SimCLR paper",
}
"""Built-in networks and a few good ones from timm, with one line each; every timm name works."""


def build_encoder(
    name: str, *, image_size: int, channels: int = 3, stem: str = "auto", init: str | Path | None = None
) -> Encoder:
    """An encoder by name: (B, channels, image_size, image_size) -> (B, num_features).

    `name`: built-in, then timm, then torchvision; `timm:NAME` and `torchvision:NAME` say which. `stem`: see
    `stem_choice`. `init`: None for random weights drawn from torch's global generator, `pretrained` (or
    `timm`) for the public weights of that architecture, or a `.safetensors` file or encoder folder; what was
    loaded, adapted and left random stands in `encoder.initialization`.
    Errors: UsageError (unknown name, impossible size or stem, weights of another network), DataError (weights
    that cannot be had), RefusedError (pickle).

    >>> build_encoder("resnet18", image_size=32, channels=1).num_features
    512
    """
    encoder = construct(name, image_size=image_size, channels=channels, stem=stem)
    if init is not None:
        initialize(encoder, init)
    return encoder
