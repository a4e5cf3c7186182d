"""SimSiam: predict the other view's projection, through which no gradient goes; no negatives, no momentum.

Chen & He 2021, "Exploring Simple Siamese Representation Learning". One rate for everything, as in section 4.1;
from section 4.2 on the predictor's does not decay, which is worth 0.4 points there. On CIFAR the paper's projector has
two layers.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from twoviews.losses import negative_cosine, spread
from twoviews.methods.heads import normalised_head
from twoviews.methods.method import Method, Projections, Step
from twoviews.methods.views import GLOBAL, listed, named, over_targets, through


class SimSiam(Method):
    """Encoder, three-layer projector, bottleneck predictor, negative cosine with a stopped gradient.

    `projector_dim`: width of every layer of the projector, and of what is predicted. `predictor_width`: of the
    bottleneck, a quarter of that by default.
    """

    takes_crops = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        projector_dim: Annotated[int, Field(ge=2)] = 512,
        predictor_width: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        self.projector = normalised_head([features, *[projector_dim] * 3], last="norm")
        self.predictor = normalised_head([projector_dim, predictor_width or max(1, projector_dim // 4), projector_dim])

    def project(self, views: Sequence[Tensor]) -> Projections:
        z = through(views, self.encoder, self.projector)
        predictions = through(z, self.predictor, of=views)
        return {**named("prediction", predictions), **named("target", [t.detach() for t in z[:GLOBAL]])}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        predictions, targets = listed("prediction", projections), listed("target", projections)
        return Step(over_targets(predictions, targets, negative_cosine), {"projection_spread": spread(targets[0])})

    def chance_loss(self, batch_size: int) -> float:
        return 0.0
