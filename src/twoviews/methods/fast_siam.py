"""FastSiam: SimSiam with more than two views, each predicting the mean of the others' projections.

Pototzky et al. 2022, "FastSiam: Resource-Efficient Self-supervised Learning on a Single GPU": averaged targets are
steadier, so small batches and few epochs suffice.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import negative_cosine, spread
from twoviews.methods.heads import normalised_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.views import listed, named, through


class FastSiam(Method):
    """Encoder, three-layer projector, bottleneck predictor, negative cosine to the mean of the other views' targets.

    `views`: of each sample, 4 as in the paper. `projector_dim`: width of every layer of the projector, and of what is
    predicted. `predictor_width`: of the bottleneck, a quarter of that by default.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: Annotated[int, Field(ge=3, le=16)] = 4,
        projector_dim: Annotated[int, Field(ge=2)] = 512,
        predictor_width: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.n_views = views
        self.encoder = encoder
        self.projector = normalised_head([features, *[projector_dim] * 3], last="norm")
        self.predictor = normalised_head([projector_dim, predictor_width or max(1, projector_dim // 4), projector_dim])

    def project(self, views: Sequence[Tensor]) -> Projections:
        z = through(views, self.encoder, self.projector)
        return {**named("prediction", through(z, self.predictor)), **named("target", [t.detach() for t in z])}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        predictions = listed("prediction", projections)
        targets = torch.stack(listed("target", projections))
        others = (targets.sum(0) - targets) / (len(targets) - 1)
        losses = [negative_cosine(p, t) for p, t in zip(predictions, others, strict=True)]
        return Step(torch.stack(losses).mean(), {"projection_spread": spread(targets[0])})

    def chance_loss(self, batch_size: int) -> float:
        return 0.0
