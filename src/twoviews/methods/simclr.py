"""SimCLR: two views of a sample attract, all others in the batch repel.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations" (v1), and the deeper
head of Chen et al. 2020b, "Big Self-Supervised Models are Strong Semi-Supervised Learners" (v2).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import info_nce_with_accuracy, nt_xent_with_accuracy
from twoviews.methods.heads import plain_head, projection_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.views import listed, named, over_pairs, through


class SimCLR(Method):
    """Encoder, projection head, NT-Xent.

    `temperature`: of the softmax over similarities. `projector_layers`: 2 as in v1, 3 as in v2. `projector_width`:
    of the hidden layers, the encoder's width by default. `projector_dim`: of z. `projector_norm`: BatchNorm after each
    of its layers, as the authors have it; Keras's example has none. `negatives`: `all`, the other samples' views of
    both kinds, or `other view`, which is InfoNCE in both directions, as Keras's example and CLIP have it.

    >>> import torch
    >>> encoder = nn.Flatten(); encoder.num_features = 48
    >>> method = SimCLR(encoder, temperature=0.2)
    >>> method.compare(method([torch.rand(8, 3, 4, 4)] * 2)).loss.ndim
    0
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        projector_layers: Literal[2, 3] = 2,
        projector_width: Annotated[int, Field(ge=1)] | None = None,
        projector_dim: Annotated[int, Field(ge=2)] = 128,
        projector_norm: bool = True,
        negatives: Literal["all", "other view"] = "all",
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        width = projector_width or features
        self.encoder = encoder
        self.projector = (
            projection_head(features, layers=projector_layers, width=width, out_features=projector_dim)
            if projector_norm
            else plain_head([features, *[width] * (projector_layers - 1), projector_dim])
        )
        self.temperature = temperature
        self.negatives = negatives

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("z", through(views, self.encoder, self.projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        loss = nt_xent_with_accuracy if self.negatives == "all" else info_nce_with_accuracy
        z = listed("z", projections)
        return over_pairs(z, partial(loss, temperature=self.temperature), metric="contrastive_accuracy")

    def chance_loss(self, batch_size: int) -> float:
        return math.log(2 * batch_size - 1 if self.negatives == "all" else batch_size)
