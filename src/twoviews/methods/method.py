"""The contract of a method: `project` views, `compare` projections, move state in `after_step`.

The split is what lets the training loop run any method over BatchNorm groups, chunks or ranks without the
method knowing: `project` is called once a group, `compare` once a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Projections:
    """Named tensors, first axis = sample. Those named in `constant` carry no gradient (a momentum encoder's keys)."""

    tensors: Mapping[str, Tensor]
    constant: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @staticmethod
    def join(parts: Sequence["Projections"]) -> "Projections":
        """The projections of consecutive groups of samples as those of one batch."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0].tensors
        return Projections({name: torch.cat([p[name] for p in parts]) for name in names}, parts[0].constant)


@dataclass(frozen=True)
class Step:
    """What `compare` returns: a scalar loss and scalar tensors to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A self-supervised method around an encoder.

    `encoder` maps a view batch to `h` (B, num_features), which is all that is kept after training. `n_views` is
    the number of views of each sample that `project` receives. Labels reach only methods with `uses_labels`.
    """

    encoder: nn.Module
    n_views: int = 2
    uses_labels: bool = False

    @abstractmethod
    def project(self, views: Sequence[Tensor]) -> Projections:
        """Views, each (B, ...), to projections. Nothing here mixes samples, except normalisation layers."""

    @abstractmethod
    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        """The loss over the whole batch. Pure; uses no parameters."""

    def after_step(self, projections: Projections, progress: float) -> None:
        """Move momentum encoders and queues after an optimiser step; `progress` in [0, 1]. Default: nothing to move."""

    def chance_loss(self, batch_size: int) -> float | None:
        """The loss of an encoder that knows nothing, where there is such a value."""
        return None

    def forward(self, views: Sequence[Tensor]) -> Projections:
        return self.project(views)
