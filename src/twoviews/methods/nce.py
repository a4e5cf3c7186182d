"""NCE: each pair is told from chance by a logistic classifier on its cosine similarity.

Gutmann & Hyvarinen 2010, "Noise-contrastive estimation"; on views of images as in the older Keras tutorials.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import nce_with_accuracy
from twoviews.methods.heads import plain_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.views import listed, named, over_pairs, through


class NCE(Method):
    """Encoder, two dense layers of one width with a ReLU between, pairwise noise-contrastive estimation.

    `temperature`: cosines are divided by it. `projector_dim`: width of both layers.
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        projector_dim: Annotated[int, Field(ge=2)] = 128,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = plain_head([int(encoder.num_features), projector_dim, projector_dim])  # type: ignore[arg-type]
        self.temperature = temperature

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("z", through(views, self.encoder, self.projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        loss = partial(nce_with_accuracy, temperature=self.temperature)
        return over_pairs(listed("z", projections), loss, metric="contrastive_accuracy")

    def chance_loss(self, batch_size: int) -> float:
        noise = 2 * batch_size - 2
        return math.log1p(noise) + noise * math.log1p(1 / noise)
