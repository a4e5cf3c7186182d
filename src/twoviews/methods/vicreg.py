"""VICReg: views alike, every dimension spread over the batch, different dimensions uncorrelated.

Bardes, Ponce & LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning".
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import vicreg
from twoviews.methods.heads import normalised_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.views import listed, named, over_pairs, through


class VICReg(Method):
    """Encoder, three-layer projector, the three terms.

    `invariance`, `variance`, `covariance`: their weights. `projector_dim`: width of every layer of the projector;
    8,192 in the paper.
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        invariance: Annotated[float, Field(ge=0)] = 25.0,
        variance: Annotated[float, Field(ge=0)] = 25.0,
        covariance: Annotated[float, Field(ge=0)] = 1.0,
        projector_dim: Annotated[int, Field(ge=2)] = 1024,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        self.projector = normalised_head([features, *[projector_dim] * 3], last="no bias")
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("z", through(views, self.encoder, self.projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        def loss(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            # Not the spread of directions: the loss compares lengths too, and collapses by shrinking. It aims at 1.
            return vicreg(a, b, **self.weights), a.detach().std(0).mean()

        return over_pairs(listed("z", projections), loss, metric="projection_spread")
