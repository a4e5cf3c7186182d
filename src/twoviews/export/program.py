"""A network that takes pictures as they are: framing, resizing and normalisation inside, for formats that run alone.

B  pictures of one size      H, W  their height and width, any      C  channels
S  image size of the encoder      A  stored side, to which `embed` decodes pictures first
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """A classifier on an encoder's vectors: (B, D) -> logits and calibrated probabilities, (B, classes) each.

    `layer` stands before the linear one where the classifier was fine-tuned from inside the projection head.
    `temperature` divides the logits (Guo et al. 2017, section 4.2); 1 leaves the softmax as it is.
    """

    temperature: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        classes: Sequence[str],
        temperature: float,
        layer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.layer = layer
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(bias)
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.linear(vectors if self.layer is None else self.layer(vectors))
        return logits, (logits / self.temperature).softmax(1)


class Program(nn.Module):
    """(B, H, W, C) uint8 -> vectors (B, num_features), and with a head logits and probabilities (B, classes).

    What `embed` does to a picture, in one step: a picture above A is squeezed into a square of A, the central square of
    the original is cut out of that and resized to S, and normalised. Both resizes are the antialiased bilinear one,
    here as two matrices made from H and W, so that H and W stay free and every runtime computes the same products. The
    stored picture is not rounded to 8 bits in between.

    >>> program = Program(nn.Flatten(), image_size=2, stored_side=4, mean=(0.0,), std=(1.0,))
    >>> program(torch.full((1, 3, 5, 1), 255, dtype=torch.uint8)).shape
    torch.Size([1, 4])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        image_size: int,
        stored_side: int,
        mean: Sequence[float],
        std: Sequence[float],
        head: Head | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.image_size, self.stored_side = image_size, stored_side
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor([float(v) for v in values]).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        vectors: Tensor = self.encoder(self.framed(images))
        if self.head is None:
            return vectors
        return (vectors, *self.head(vectors))

    def framed(self, images: Tensor) -> Tensor:
        """What the encoder sees: (B, C, S, S) float32, normalised."""
        # Lengths as tensors: as numbers they would be compared while the program is traced, and be fixed by it.
        rows = torch.arange(images.shape[1], dtype=torch.float32, device=images.device)
        columns = torch.arange(images.shape[2], dtype=torch.float32, device=images.device)
        height, width = rows[-1] + 1, columns[-1] + 1
        planes = images.permute(0, 3, 1, 2).to(torch.float32)
        down = self._axis(rows, height, width) @ planes
        framed = down @ self._axis(columns, width, height).transpose(0, 1)
        return (framed / 255 - self.mean) / self.std

    def _axis(self, pixels: Tensor, length: Tensor, other: Tensor) -> Tensor:
        """(S, length): what each pixel out takes of each pixel in, along one axis."""
        side = torch.minimum(length, other)
        corner = torch.floor((length - side) / 2)
        direct = _triangle(pixels, low=corner, extent=side, out=self.image_size)
        stored = torch.arange(self.stored_side, dtype=torch.float32, device=pixels.device)
        squeezed = _triangle(pixels, low=torch.zeros_like(length), extent=length, out=self.stored_side)
        scale = self.stored_side / length
        cut = _triangle(stored, low=corner * scale, extent=side * scale, out=self.image_size)
        return torch.where(torch.maximum(length, other) <= self.stored_side, direct, cut @ squeezed)


def _triangle(pixels: Tensor, *, low: Tensor, extent: Tensor, out: int) -> Tensor:
    """(out, N): weights of N pixels, numbered from 0, for `out` pixels of the span [low, low + extent); see `views`."""
    scale = extent / out
    centre = low + scale * (torch.arange(out, dtype=torch.float32, device=pixels.device) + 0.5).unsqueeze(1)
    reach = scale.clamp(min=1.0)
    covered = (torch.minimum(pixels + 1, low + extent) - torch.maximum(pixels, low)).clamp(min=0.0)
    weights = (1 - (pixels + 0.5 - centre).abs() / reach).clamp(min=0.0) * covered
    return weights / weights.sum(1, keepdim=True)
