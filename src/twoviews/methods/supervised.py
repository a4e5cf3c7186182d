"""The supervised baseline as a method: cross-entropy on the labels, in the same loop as all others."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from twoviews.errors import UsageError
from twoviews.methods.method import Method, Pool, Projections, Step
from twoviews.methods.views import named, through


class Supervised(Method):
    """Encoder, linear classifier, cross-entropy; unlabelled samples are left out.

    `classes`: how many there are; by default those of the data. `label_smoothing`: share of the target that is spread
    over all classes.
    """

    n_views = 1
    uses_labels = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        classes: Annotated[int, Field(ge=2)] | None = None,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = classes or 2
        self.classifier = nn.Linear(int(encoder.num_features), self.classes)  # type: ignore[arg-type]
        self.label_smoothing = label_smoothing

    @classmethod
    def suited(cls, options: Mapping[str, Any], pool: Pool) -> Mapping[str, tuple[Any, str]]:
        if pool.classes < 2:
            raise UsageError(
                f"method supervised needs labels of at least two classes, the data has {pool.classes}: "
                "give class folders or a manifest with a label column"
            )
        asked = options.get("classes")
        if asked is not None and asked < pool.classes:
            raise UsageError(f"method.classes = {asked}, but the data has {pool.classes} classes: leave it out")
        return {} if asked is not None else {"classes": (pool.classes, "those of the data")}

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("logits", through(views, self.encoder, self.classifier))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        logits = projections["logits0"]
        target = labels if labels is not None else torch.full((len(logits),), -1, device=logits.device)
        known = target >= 0
        count = known.sum().clamp_min(1)
        total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum", label_smoothing=self.label_smoothing)
        right = ((logits.detach().argmax(1) == target) & known).sum() / count
        return Step(total / count, {"train_accuracy": right})

    def chance_loss(self, batch_size: int) -> float:
        return math.log(self.classes)
