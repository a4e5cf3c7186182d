"""MoCo v2: a query is to find its key, of a slow copy of the network, among a queue of keys of earlier batches.

He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"; head, temperature and augmentation
of Chen et al. 2020c, "Improved Baselines with Momentum Contrastive Learning". The paper shuffles samples between GPUs,
so that query and key do not share BatchNorm statistics by which they could be told. Here statistics belong to groups
(`train.bn_group`), and the key's are those of the slow copy over the query's group: the larger the groups, the less
they tell.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from twoviews.errors import UsageError
from twoviews.losses import queue_info_nce_with_accuracy
from twoviews.losses.pairs import unit_rows
from twoviews.methods.heads import plain_head
from twoviews.methods.method import Method, Pool, Projections, Step
from twoviews.methods.momentum import follow, slow_copy
from twoviews.methods.views import listed, named, through

_QUEUE = 4096


class MoCo(Method):
    """Encoder, plain head, their momentum copies, InfoNCE against a queue (v2).

    `temperature`: of the softmax over similarities. `momentum`: of the slow copy, each step. `queue_size`: keys that
    are kept, by default 4,096 and at most half the pool, so that few of them are of the batch's own samples.
    `projector_width`: of the hidden layer, the encoder's width by default. `projector_dim`: of queries and keys.
    """

    takes_crops = True
    queue: Tensor
    oldest: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: Annotated[float, Field(gt=0)] = 0.2,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        queue_size: Annotated[int, Field(ge=1)] | None = None,
        projector_width: Annotated[int, Field(ge=1)] | None = None,
        projector_dim: Annotated[int, Field(ge=2)] = 128,
    ) -> None:
        super().__init__()
        features = int(encoder.num_features)  # type: ignore[arg-type]
        self.encoder = encoder
        self.projector = plain_head([features, projector_width or features, projector_dim])
        self.slow_encoder = slow_copy(self.encoder)
        self.slow_projector = slow_copy(self.projector)
        self.temperature, self.momentum = temperature, momentum
        self.register_buffer("queue", F.normalize(torch.randn(queue_size or _QUEUE, projector_dim)))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @classmethod
    def suited(cls, options: Mapping[str, Any], pool: Pool) -> Mapping[str, tuple[Any, str]]:
        half = max(1, pool.samples // 2)
        asked = options.get("queue_size")
        if asked is None:
            reason = f"{_QUEUE:,}, or half of the {pool.samples:,} images, whichever is less"
            return {"queue_size": (min(_QUEUE, half), reason)}
        if asked > half:
            raise UsageError(
                f"method.queue_size = {asked} is more than half of the {pool.samples} images, so the queue would hold "
                f"many views of the batch's own samples as negatives: give at most {half}"
            )
        return {}

    def project(self, views: Sequence[Tensor]) -> Projections:
        # Of the global views the first is the query and the second the key; every local crop is a query.
        return named("query", through([views[0], *views[2:]], self.encoder, self.projector))

    def targets(self, views: Sequence[Tensor]) -> Projections:
        return {"key": unit_rows(self.slow_projector(self.slow_encoder(views[1])))}

    def compare(self, projections: Projections, labels: Tensor | None = None) -> Step:
        parts = [
            queue_info_nce_with_accuracy(query, projections["key"], self.queue, temperature=self.temperature)
            for query in listed("query", projections)
        ]
        return Step(torch.stack([loss for loss, _ in parts]).mean(), {"contrastive_accuracy": parts[0][1]})

    @torch.no_grad()
    def after_step(self, projections: Projections, progress: float) -> None:
        follow(self.slow_encoder, self.encoder, momentum=self.momentum)
        follow(self.slow_projector, self.projector, momentum=self.momentum)
        size = len(self.queue)
        keys = projections["key"][-size:].to(self.queue.dtype)
        self.queue[(self.oldest + torch.arange(len(keys), device=keys.device)) % size] = keys
        self.oldest.add_(len(keys)).remainder_(size)

    def chance_loss(self, batch_size: int) -> float:
        return math.log(len(self.queue) + 1)
