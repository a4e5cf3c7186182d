"""SimCLR: two views of a sample attract, all others in the batch repel.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations" (v1), and the deeper
head of Chen et al. 2020b, "Big Self-Supervised Models are Strong Semi-Supervised Learners" (v2).
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import nt_xent_with_accuracy
from twoviews.methods.heads import projection_head
from twoviews.methods.method import Method, Projections, Step


class SimCLR(Method):
    """Encoder, projection head, NT-Xent.

    `temperature`: of the softmax over similarities. `projector_layers`: 2 as in v1, 3 as in v2. `projector_width`:
    of the hidden layers, the encoder's width by default. `projector_dim`: of z.

    >>> encoder = nn.Flatten(); encoder.num_features = 48
    >>> method = SimCLR(encoder, temperature=0.2)
    >>> method.compare(method([torch.rand(8, 3, 4, 4)] * 2)).loss.ndim
    0
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        projector_layers: Literal[2, 3] = 2,
        projector_width: Annotated[int, Field(ge=1)] | None = None,
        projector_dim: Annotated[int, Field(ge=2)] = 128,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        self.projector = projection_head(
            features, layers=projector_layers, width=projector_width or features, out_features=projector_dim
        )
        self.temperature = temperature

    def project(self, views: Sequence[Tensor]) -> Projections:
        # One pass over both views: BatchNorm statistics are those of all views of the group.
        z = self.projector(self.encoder(torch.cat(list(views))))
        z_a, z_b = z.chunk(2)
        return {"a": z_a, "b": z_b}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        loss, accuracy = nt_xent_with_accuracy(projections["a"], projections["b"], temperature=self.temperature)
        return Step(loss, {"contrastive_accuracy": accuracy})

    def chance_loss(self, batch_size: int) -> float:
        return math.log(2 * batch_size - 1)
