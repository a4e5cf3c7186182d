"""Barlow Twins: the same unit says the same of both views, and different units say different things.

Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction".
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import barlow_twins, spread
from twoviews.methods.heads import normalised_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.views import listed, named, over_pairs, through


class BarlowTwins(Method):
    """Encoder, three-layer projector, cross-correlation towards the identity.

    `redundancy`: weight (lambda) of the correlation of different units. `projector_dim`: width of every layer of the
    projector; 8,192 in the paper, which gains by it. `scale`: of the loss, which else is as large as `projector_dim`
    (the authors' code has 0.024).
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        redundancy: Annotated[float, Field(ge=0)] = 5e-3,
        projector_dim: Annotated[int, Field(ge=2)] = 1024,
        scale: Annotated[float, Field(gt=0)] = 0.024,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        self.projector = normalised_head([features, *[projector_dim] * 3], last="no bias")
        self.redundancy, self.scale = redundancy, scale

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("z", through(views, self.encoder, self.projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        def loss(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return self.scale * barlow_twins(a, b, redundancy=self.redundancy), spread(a)

        return over_pairs(listed("z", projections), loss, metric="projection_spread")
