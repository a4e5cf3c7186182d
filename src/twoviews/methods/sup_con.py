"""SupCon: SimCLR in which all views of a class attract, where labels are given.

Khosla et al. 2020, "Supervised Contrastive Learning".
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from twoviews.errors import UsageError
from twoviews.losses import sup_con
from twoviews.methods.heads import projection_head
from twoviews.methods.method import Method, Pool, Projections, Step
from twoviews.methods.views import listed, named, over_pairs, through


class SupCon(Method):
    """Encoder, SimCLR's projection head, the supervised contrastive loss; unlabelled samples attract their own views.

    `temperature`: of the softmax over similarities. `projector_width`: of the hidden layer, the encoder's width by
    default. `projector_dim`: of z.
    """

    takes_crops = True
    uses_labels = True

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

    @classmethod
    def suited(cls, options: Mapping[str, Any], pool: Pool) -> Mapping[str, tuple[Any, str]]:
        if not pool.labelled:
            raise UsageError("method sup_con needs labels, and the data has none: give class folders or a manifest")
        return {}

    def project(self, views: Sequence[Tensor]) -> Projections:
        return named("z", through(views, self.encoder, self.projector))

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        z = listed("z", projections)
        of_class = labels if labels is not None else torch.full((len(z[0]),), -1, device=z[0].device)

        def loss(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return sup_con(a, b, of_class, temperature=self.temperature), (of_class >= 0).float().mean()

        return over_pairs(z, loss, metric="labelled_share")
