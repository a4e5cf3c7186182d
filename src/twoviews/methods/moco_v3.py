"""MoCo v3: a predictor, momentum keys of the same batch as negatives, both directions; no queue.

Chen, Xie & He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", section 3. The
heads are those of the authors' ResNets; for vision transformers they take deeper ones and freeze the patch projection,
which this does not.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses.info_nce import key_info_nce_with_accuracy
from twoviews.methods.heads import normalised_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.momentum import follow, rising, slow_copy
from twoviews.methods.views import GLOBAL, listed, named, over_targets, through


class MoCoV3(Method):
    """Encoder, projector and predictor, momentum copies of the first two, InfoNCE over the batch (v3).

    `temperature`: of the softmax over similarities. `momentum`: of the slow copies at the start; rises to 1 along a
    cosine. `projector_width`: of the hidden layers. `projector_dim`: of queries and keys.
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.2,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.99,
        projector_width: Annotated[int, Field(ge=1)] = 1024,
        projector_dim: Annotated[int, Field(ge=2)] = 256,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        self.projector = normalised_head([features, projector_width, projector_dim], last="norm")
        self.predictor = normalised_head([projector_dim, projector_width, projector_dim])
        self.slow_encoder = slow_copy(self.encoder)
        self.slow_projector = slow_copy(self.projector)
        self.temperature, self.momentum = temperature, momentum

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("query", through(views, self.encoder, self.projector, self.predictor))

    def targets(self, views: Sequence[Tensor]) -> Projections:
        return named("key", through(views[:GLOBAL], self.slow_encoder, self.slow_projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        queries, keys = listed("query", projections), listed("key", projections)
        accuracies: list[Tensor] = []

        def loss_of(query: Tensor, key: Tensor) -> Tensor:
            loss, accuracy = key_info_nce_with_accuracy(query, key, temperature=self.temperature)
            accuracies.append(accuracy.detach())
            return loss

        # 2 T: so that the size of the gradient does not depend on the temperature (section 3, algorithm 1, which adds
        # the two directions where this takes their mean).
        loss = 2 * self.temperature * over_targets(queries, keys, loss_of)
        return Step(loss, {"contrastive_accuracy": accuracies[0]})

    def after_step(self, projections: Projections, progress: float) -> None:
        momentum = rising(self.momentum, progress)
        follow(self.slow_encoder, self.encoder, momentum=momentum)
        follow(self.slow_projector, self.projector, momentum=momentum)

    def chance_loss(self, batch_size: int) -> float:
        return 2 * self.temperature * math.log(batch_size)
