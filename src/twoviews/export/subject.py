"""What is taken away, whatever the format: the encoder, how it sees pictures, and the classifier if asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from twoviews.encoders import Encoder
from twoviews.export.program import Head, Program

Outputs = tuple[Tensor, ...]
"""Vectors, and with a classifier logits, and where the format holds them probabilities."""

Reopened = Callable[[Tensor], Outputs]
"""What was written, read again: from pictures (B, H, W, C) uint8."""


@dataclass(frozen=True)
class Subject:
    """An encoder on the CPU in eval mode.

    config       its `config.json`, timm's schema with the table `twoviews`, see `describe_encoder`
    stored_side  to which pictures are decoded before they are framed, in px
    intensity    how values of other than 8 bits become 8 bits before they come in
    head         the classifier on it; its encoder is then `encoder`, fine-tuned or not
    calibrated   on how many validation items the head's temperature was fitted; 0: it is 1
    """

    encoder: Encoder
    config: Mapping[str, Any]
    stored_side: int
    intensity: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: Head | None = None
    calibrated: int = 0

    @property
    def name(self) -> str:
        """Of the network."""
        return str(self.encoder.architecture["name"])

    @property
    def image_size(self) -> int:
        return int(self.encoder.architecture["image_size"])

    @property
    def channels(self) -> int:
        return int(self.encoder.architecture["channels"])

    def program(self) -> Program:
        """It as one network from pictures to outputs, in eval mode."""
        return Program(
            self.encoder,
            image_size=self.image_size,
            stored_side=self.stored_side,
            mean=self.mean,
            std=self.std,
            head=self.head,
        ).eval()

    def outputs(self) -> list[str]:
        """Names of what a program gives, in order."""
        return ["vectors"] if self.head is None else ["vectors", "logits", "probabilities"]

    def facts(self) -> dict[str, Any]:
        """What a program's `config.json` says: input, outputs and classes, as JSON."""
        found: dict[str, Any] = {
            "network": {key: self.encoder.architecture[key] for key in ("name", "source", "stem", "num_features")},
            "input": {
                "name": "images",
                "shape": ["batch", "height", "width", self.channels],
                "dtype": "uint8",
                "intensity": self.intensity,
            },
            "inside": {
                "stored_side": self.stored_side,
                "image_size": self.image_size,
                "mean": list(self.mean),
                "std": list(self.std),
            },
            "outputs": self.outputs(),
        }
        if self.head is not None:
            found["classes"] = list(self.head.classes)
            found["temperature"] = float(self.head.temperature)
            found["calibrated_on"] = self.calibrated
        return found


@dataclass(frozen=True)
class Written:
    """What a format adds to the model card: the library, the code that loads the folder, and what to know of it.

    takes_pictures  whether what was written frames and normalises by itself
    """

    library: str
    code: str
    note: str
    takes_pictures: bool = False


def words_of_input(subject: Subject) -> str:
    """How a program takes pictures, for a card."""
    channels = {1: "grey", 3: "red, green, blue"}.get(subject.channels, f"{subject.channels} bands")
    depth = "" if subject.intensity == "uint8" else f" (deeper values scaled to 8 bits by `{subject.intensity}` first)"
    return (
        f"`images`, uint8 (batch, height, width, {subject.channels}), {channels}{depth}, any height and width, one "
        "size a batch. Framing, resizing and normalisation are inside"
    )
