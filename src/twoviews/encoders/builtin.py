"""Small networks for processors without a GPU, in a few sizes.

All but one are convolution + BatchNorm + ReLU with widths that are multiples of 32, which bf16 matrix units (AMX) and
channels-last convolutions want, and without dropout. FLOPs count a multiply-add as two, for one RGB image.

    name               image   MFLOP   parameters   features
    convnet_tiny        8 px     9.6       0.24 M        256
    resnet_mini        32 px      90       1.21 M        256
    resnet_mini_wide   32 px     192       2.70 M        384
    convnet_strided    96 px     215       0.86 M        128
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from twoviews.errors import UsageError


def _conv(before: int, after: int, *, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)


class ConvNetTiny(nn.Module):
    """Four convolutions, then the mean and the maximum over positions: for images of 8 to 32 px.

    (B, channels, S, S) -> (B, 2 x widths[-1]). `stride` is that of the first convolution.
    """

    def __init__(self, *, channels: int, stride: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        strides = (stride, 1, 2, 1)
        before = (channels, *widths[:-1])
        layers: list[nn.Module] = []
        for inner, outer, step in zip(before, widths, strides, strict=True):
            layers += [_conv(inner, outer, stride=step), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers(images)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, section 3.3), stride on the first."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, after, stride=stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = _conv(after, after)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(_conv(before, after, stride=stride, kernel=1), nn.BatchNorm2d(after))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(maps)))
        output: Tensor = self.relu(self.bn2(self.conv2(inner)) + self.shortcut(maps))
        return output


class ResNetMini(nn.Module):
    """A residual network with a 3x3 stem that halves the image at every stage: for 32 to 96 px.

    (B, channels, S, S) -> (B, widths[-1]), the mean over positions. `stem` is the width of the first
    convolution and `stride` its stride; stage i has `depths[i]` blocks of `widths[i]` channels.
    """

    def __init__(
        self,
        *,
        channels: int,
        stride: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        stem: int = 32,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(channels, stem, stride=stride), nn.BatchNorm2d(stem), nn.ReLU(inplace=True))
        blocks: list[nn.Module] = []
        before = stem
        for width, depth in zip(widths, depths, strict=True):
            for index in range(depth):
                blocks.append(BasicBlock(before, width, stride=2 if index == 0 else 1))
                before = width
        self.blocks = nn.Sequential(*blocks)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(self.stem(images))
        return maps.mean(dim=(2, 3))


class ConvNetStrided(nn.Module):
    """3x3 convolutions of stride 2 without padding or BatchNorm, flattened into a linear layer; ReLU after each.

    (B, channels, S, S) -> (B, features), S = `image_size` alone. Four convolutions leave a pixel at 31 px. Raises
    UsageError for a smaller size. Glorot's uniform initialisation (Glorot and Bengio 2010, section 4.2.1), biases 0.
    Source: the encoder of the Keras example "Semi-supervised image classification using contrastive pretraining with
    SimCLR", made for 96 px.
    """

    def __init__(self, *, channels: int, image_size: int, widths: tuple[int, ...], features: int) -> None:
        super().__init__()
        least = 2 ** (len(widths) + 1) - 1
        if image_size < least:
            raise UsageError(
                f"{len(widths)} unpadded convolutions of stride 2 leave nothing of images below {least} px, got "
                f"{image_size}: choose an image size of {least} or more, or another encoder"
            )
        layers: list[nn.Module] = []
        side = image_size
        for inner, outer in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(inner, outer, 3, stride=2), nn.ReLU(inplace=True)]
            side = (side - 1) // 2
        layers += [nn.Flatten(), nn.Linear(widths[-1] * side * side, features), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        for part in self.layers:
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def _initialize(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True, slots=True)
class _Small:
    """A size of a built-in network. `small_up_to`: image side in px up to which the stem has stride 1; 0: it never has.

    `depths` are of a residual network, `features` of one that flattens its maps.
    """

    description: str
    small_up_to: int
    widths: tuple[int, ...]
    depths: tuple[int, ...] | None = None
    features: int | None = None


BUILTIN: dict[str, _Small] = {
    "convnet_tiny": _Small("four convolutions, 0.24 M parameters: 8 to 32 px", 16, (32, 64, 128, 128)),
    "resnet_mini": _Small(
        "small residual network, 1.2 M parameters: 32 to 96 px on a CPU", 64, (64, 128, 256), (1, 1, 1)
    ),
    "resnet_mini_wide": _Small("resnet_mini of 1.5 times the width, 2.7 M parameters", 64, (96, 192, 384), (1, 1, 1)),
    "convnet_strided": _Small(
        "four convolutions of stride 2 without BatchNorm, 0.86 M parameters at 96 px: Keras's SimCLR example",
        0,
        (128, 128, 128, 128),
        features=128,
    ),
}


def build_builtin(name: str, *, channels: int, image_size: int, small: bool) -> nn.Module:
    """A built-in network by name with random weights; `small`: first convolution of stride 1, else 2."""
    size = BUILTIN[name]
    if size.features is not None:
        return ConvNetStrided(channels=channels, image_size=image_size, widths=size.widths, features=size.features)
    stride = 1 if small else 2
    if size.depths is not None:
        return ResNetMini(channels=channels, stride=stride, widths=size.widths, depths=size.depths)
    return ConvNetTiny(channels=channels, stride=stride, widths=size.widths)
