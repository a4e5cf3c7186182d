"""The files of a run directory as types. What is only shown may have any type; what is drawn is checked."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]


class Part(BaseModel):
    """Keys that a newer version adds are passed over, so that old and new runs both have a report."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)


class Decision(Part):
    """A derived value and why it was chosen."""

    value: Any = None
    reason: str = ""


class Info(Part):
    """`run.json`. What is only shown may have any type."""

    twoviews: Any = None
    created: Any = None
    status: str | None = None
    command: list[str] = []
    python: Any = None
    torch: Any = None
    torchvision: Any = None
    timm: Any = None
    platform: Any = None
    cpu: Any = None
    gpu: Any = None
    threads: Any = None
    device: Any = None
    precision: Any = None
    seed: Any = None
    probe_data: Any = None
    labelled: dict[str, Any] | None = None
    git: dict[str, Any] | None = None
    encoder: Any = None
    data: dict[str, Any] | None = None
    step: int | None = None
    steps: int | None = None
    epochs: Number = None
    batch_size: int | None = None
    bn_group: int | None = None
    micro_batch: int | None = None
    processes: int | None = None
    seconds: Number = None
    images_per_second: Number = None
    encoder_sha256: str | None = None
    chance_loss: Number = None
    collapse: str | None = None
    decisions: dict[str, Decision] = {}

    def batch_in_words(self) -> str:
        """How a step's samples were shared out."""
        parts = (
            f"{self.batch_size:,} samples" if self.batch_size else "",
            f"BatchNorm groups of {self.bn_group:,}" if self.bn_group else "",
            f"micro-batches of {self.micro_batch:,}" if self.micro_batch else "",
            f"{self.processes:,} processes" if (self.processes or 1) > 1 else "",
        )
        return ", ".join(part for part in parts if part)


class Metric(Part):
    """A line of `metrics.jsonl`: a training step, or an evaluation on the way."""

    step: int
    epoch: Number = None
    event: str | None = None
    loss: Number = None
    contrastive_accuracy: Number = None
    effective_rank: Number = None
    alignment: Number = None
    uniformity: Number = None
    online_knn: Number = None
    online_linear: Number = None
    online_probe: Number = None


class CurvePoint(Part):
    """A line of `evaluation/curves.jsonl`."""

    arm: str
    labels_per_class: int | Literal["all"]
    seed: int | None = None
    update: int
    epoch: Number = None
    train_loss: Number = None
    val_accuracy: Number = None


class Neighbour(Part):
    """An image of the gallery and its cosine similarity to the query."""

    index: int
    similarity: Number = None


class Query(Part):
    """An image of the gallery and those nearest to it."""

    query: int
    nearest: list[Neighbour] = []


class Gallery(Part):
    """`evaluation/gallery.json`: tile i of the sprite at column i % columns, row i // columns."""

    tile: int = 48
    columns: int = 20
    ids: list[str] = []
    labels: list[int] = []
    classes: list[str] = []
    predicted: list[int] | None = None
    xy: list[tuple[float, float]] = []
    neighbours: list[Query] = []

    @model_validator(mode="after")
    def _consistent(self) -> "Gallery":
        count = len(self.ids)
        if self.tile < 1 or self.columns < 1:
            raise ValueError("tile and columns must be at least 1")
        for name in ("labels", "predicted", "xy"):
            found = len(getattr(self, name) or ())
            if found not in (0, count):
                raise ValueError(f"{found} {name} for {count} ids")
        if any(not -1 <= label < len(self.classes) for label in (*self.labels, *(self.predicted or ()))):
            raise ValueError(f"a label is not among the {len(self.classes)} classes")
        shown = [i for q in self.neighbours for i in (q.query, *(n.index for n in q.nearest))]
        if any(not 0 <= index < count for index in shown):
            raise ValueError(f"a neighbour is not among the {count} ids")
        if not all(math.isfinite(value) for point in self.xy for value in point):
            raise ValueError("a map position is not finite")
        return self

    def class_of(self, index: int, *, predicted: bool = False) -> str | None:
        """Name of the true (or predicted) class of an image, `None` where there is none."""
        labels = self.predicted if predicted else self.labels
        return self.classes[labels[index]] if labels and labels[index] >= 0 else None
