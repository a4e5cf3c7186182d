"""The contract of a method: `project` views, `compare` projections, move state in `after_step`.

The split is what lets the training loop run any method over BatchNorm groups, memory-sized chunks and processes
without the method knowing: `project` and `targets` see some samples, `compare` always sees the whole batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Projections = Mapping[str, Tensor]
"""Named tensors, first axis = sample."""


@dataclass(frozen=True)
class Step:
    """What `compare` returns: a scalar loss and scalar tensors to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """What a method may know of the data before training: numbers of samples, of labelled ones, and of classes.

    `batch`: samples a step; `labelled_batch`: those of them that are drawn from labelled data beside the pool.
    """

    samples: int
    labelled: int = 0
    classes: int = 0
    batch: int = 1
    labelled_batch: int = 0


class Method(nn.Module, ABC):
    """A self-supervised method around an encoder.

    `encoder` maps a view batch to `h` (B, num_features), which is all that is kept after training. `n_views` is
    the number of views of each sample that `project` receives, all of one size; `takes_crops`: it receives local
    crops, which may be smaller, after them where there are any. Labels reach only methods with `uses_labels`.
    """

    encoder: nn.Module
    n_views: int = 2
    takes_crops: bool = False
    uses_labels: bool = False

    @classmethod
    def suited(cls, options: Mapping[str, Any], pool: Pool) -> Mapping[str, tuple[Any, str]]:
        """Options that the data decides, each with the reason in words. Raises `UsageError` for unfit data."""
        return {}

    @abstractmethod
    def project(self, views: Sequence[Tensor]) -> Projections:
        """Views, each (B, ...), to projections, with gradient. Nothing here mixes samples, except normalisation layers.

        Called again for the same views where memory does not hold the graph of the whole batch.
        """

    def targets(self, views: Sequence[Tensor]) -> Projections:
        """Further projections that are constants, such as a momentum encoder's keys; called once, without gradient."""
        return {}

    @abstractmethod
    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        """The loss over projections and targets of the whole batch, of all processes. Pure; uses no parameters."""

    def after_step(self, projections: Projections, progress: float) -> None:
        """Move momentum encoders and queues after an optimiser step; `progress` in [0, 1]. Default: nothing to move.

        `projections`: projections and targets of the whole batch, without gradient.
        """

    def chance_loss(self, batch_size: int) -> float | None:
        """The loss of an encoder that knows nothing, where there is such a value."""
        return None

    def forward(self, views: Sequence[Tensor]) -> Projections:
        return self.project(views)
