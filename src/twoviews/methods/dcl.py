"""DCL: SimCLR without the positive in the denominator, which small batches gain by.

Yeh et al. 2022, "Decoupled Contrastive Learning".
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import dcl_with_accuracy
from twoviews.methods.heads import projection_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.views import listed, named, over_pairs, through


class DCL(Method):
    """Encoder, SimCLR's projection head, the decoupled contrastive loss.

    `temperature`: of the softmax over similarities. `projector_width`: of the hidden layer, the encoder's width by
    default. `projector_dim`: of z.
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.1,
        projector_width: Annotated[int, Field(ge=1)] | None = None,
        projector_dim: Annotated[int, Field(ge=2)] = 128,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        self.projector = projection_head(
            features, layers=2, width=projector_width or features, out_features=projector_dim
        )
        self.temperature = temperature

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("z", through(views, self.encoder, self.projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        loss = partial(dcl_with_accuracy, temperature=self.temperature)
        return over_pairs(listed("z", projections), loss, metric="contrastive_accuracy")

    def chance_loss(self, batch_size: int) -> float:
        return math.log(2 * batch_size - 2)
