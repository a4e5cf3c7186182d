"""Distillation: a student learns what a teacher, a fine-tuned classifier, says of unlabelled images.

Chen et al. 2020b, "Big Self-Supervised Models are Strong Semi-Supervised Learners" (SimCLR v2), section 2, eq. 2 and 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from twoviews.errors import UsageError
from twoviews.losses import soft_cross_entropy
from twoviews.losses.pairs import full_precision, in_float32
from twoviews.methods.method import Method, Pool, Projections, Step

_HOW = "twoviews distill TEACHER_RUN DATA --out RUN"


class Distillation(Method):
    """Encoder, linear classifier, cross-entropy with the soft labels of a teacher, which sees the same view.

    `teacher`: run directory whose classifier teaches; who builds the method hands it over with `learn_from`. `classes`:
    the teacher's, how many. `temperature`: of both softmaxes; the loss is multiplied by its square, as in Hinton et al.
    2015. `labelled_weight`: of the cross-entropy on the labelled samples of a batch, 1 - alpha of eq. 3; the soft
    labels of all samples have the rest.

    The teacher is a constant: in evaluation mode whatever the mode of the method, without gradient, and no part of the
    state, so checkpoints are those of the student.
    """

    n_views = 1

    def __init__(
        self,
        encoder: nn.Module,
        *,
        teacher: str | None = None,
        classes: Annotated[int, Field(ge=2)] | None = None,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        labelled_weight: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = classes or 2
        self.head = nn.Linear(int(encoder.num_features), self.classes)  # type: ignore[arg-type]
        self.temperature, self.labelled_weight = temperature, labelled_weight
        self.uses_labels = labelled_weight > 0
        # In a list, which torch does not look into: no mode, state, optimiser or BatchNorm group of ours reaches it.
        self._teacher: list[nn.Module] = []

    @classmethod
    def suited(cls, options: Mapping[str, Any], pool: Pool) -> Mapping[str, tuple[Any, str]]:
        if options.get("teacher") is None or options.get("classes") is None:
            raise UsageError(f"method distillation needs a teacher and its classes: start it with {_HOW}")
        if options.get("labelled_weight") and not pool.labelled:
            raise UsageError(
                f"method.labelled_weight = {options['labelled_weight']}, but the data has no labels: give "
                "--labelled DATA, or leave it out"
            )
        return {}

    def learn_from(self, teacher: nn.Module) -> None:
        """Take over the teacher, views (B, ...) to logits (B, classes), on the device and in the type that it has."""
        self._teacher = [teacher.eval().requires_grad_(False)]

    def project(self, views: Sequence[Tensor]) -> Projections:
        h = self.encoder(views[0])
        with full_precision(h):  # as the classifier does that is made of it
            return {"logits": self.head(in_float32(h))}

    def targets(self, views: Sequence[Tensor]) -> Projections:
        if not self._teacher:
            raise UsageError(f"method distillation has no teacher: start it with {_HOW}, or call learn_from(module)")
        return {"target": self._teacher[0](views[0])}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        logits, target = projections["logits"], projections["target"]
        loss = soft_cross_entropy(logits, target, temperature=self.temperature)
        agreement = (logits.detach().argmax(1) == target.argmax(1)).float().mean()
        if not self.uses_labels:
            return Step(loss, {"agreement": agreement})
        known = labels if labels is not None else torch.full((len(logits),), -1, device=logits.device)
        count = (known >= 0).sum().clamp_min(1)
        hard = F.cross_entropy(logits, known, ignore_index=-1, reduction="sum") / count
        return Step((1 - self.labelled_weight) * loss + self.labelled_weight * hard, {"agreement": agreement})

    def chance_loss(self, batch_size: int) -> float:
        soft = self.temperature**2 * math.log(self.classes)
        return (1 - self.labelled_weight) * soft + self.labelled_weight * math.log(self.classes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distillation":
        """What `to`, `double` and their like go through: the teacher follows."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self._teacher:
            teacher._apply(fn, recurse)
        return self
