"""BYOL: predict what a slow copy of the network says of the other view; no negatives.

Grill et al. 2020, "Bootstrap your own latent: A new approach to self-supervised learning".
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import negative_cosine, spread
from twoviews.methods.heads import normalised_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.momentum import follow, rising, slow_copy
from twoviews.methods.views import GLOBAL, listed, named, over_targets, through


class BYOL(Method):
    """Encoder, projector and predictor, momentum copies of the first two, 2 - 2 cosine.

    `momentum`: of the slow copies at the start; rises to 1 along a cosine. `projector_width`: of the hidden layers of
    projector and predictor. `projector_dim`: of what is predicted.
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.99,
        projector_width: Annotated[int, Field(ge=1)] = 1024,
        projector_dim: Annotated[int, Field(ge=2)] = 256,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        # The predictor's normalisation would take a bias away again.
        self.projector = normalised_head([features, projector_width, projector_dim], last="no bias")
        self.predictor = normalised_head([projector_dim, projector_width, projector_dim])
        self.slow_encoder = slow_copy(self.encoder)
        self.slow_projector = slow_copy(self.projector)
        self.momentum = momentum

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("prediction", through(views, self.encoder, self.projector, self.predictor))

    def targets(self, views: Sequence[Tensor]) -> Projections:
        return named("target", through(views[:GLOBAL], self.slow_encoder, self.slow_projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        predictions, targets = listed("prediction", projections), listed("target", projections)
        loss = 2 + 2 * over_targets(predictions, targets, negative_cosine)
        return Step(loss, {"projection_spread": spread(targets[0])})

    def after_step(self, projections: Projections, progress: float) -> None:
        momentum = rising(self.momentum, progress)
        follow(self.slow_encoder, self.encoder, momentum=momentum)
        follow(self.slow_projector, self.projector, momentum=momentum)

    def chance_loss(self, batch_size: int) -> float:
        return 2.0
