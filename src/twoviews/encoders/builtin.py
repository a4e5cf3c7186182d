"""Two small networks for processors without a GPU, in a few sizes.

All are convolution + BatchNorm + ReLU with widths that are multiples of 32, which bf16 matrix units (AMX) and
channels-last convolutions want, and without dropout. FLOPs count a multiply-add as two, for one RGB image.

    name               image   MFLOP   parameters   features
    convnet_tiny        8 px     9.6       0.24 M        256
    resnet_mini        32 px      90       1.21 M        256
    resnet_mini_wide   32 px     192       2.70 M        384
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


def _initialize(network: nn.Module) -> None:
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True, slots=True)
class _Small:
    """A size of a built-in network. `small_up_to`: image side in px up to which the stem has stride 1."""

    description: str
    small_up_to: int
    widths: tuple[int, ...]
    depths: tuple[int, ...] | None = None


BUILTIN: dict[str, _Small] = {
    "convnet_tiny": _Small("four convolutions, 0.24 M parameters: 8 to 32 px", 16, (32, 64, 128, 128)),
    "resnet_mini": _Small(
        "small residual network, 1.2 M parameters: 32 to 96 px on a CPU", 64, (64, 128, 256), (1, 1, 1)
    ),
    "resnet_mini_wide": _Small("resnet_mini of 1.5 times the width, 2.7 M parameters", 64, (96, 192, 384), (1, 1, 1)),
}


def build_builtin(name: str, *, channels: int, small: bool) -> nn.Module:
    """A built-in network by name with random weights; `small`: first convolution of stride 1, else 2."""
    size = BUILTIN[name]
    stride = 1 if small else 2
    if size.depths is not None:
        return ResNetMini(channels=channels, stride=stride, widths=size.widths, depths=size.depths)
    return ConvNetTiny(channels=channels, stride=stride, widths=size.widths)
