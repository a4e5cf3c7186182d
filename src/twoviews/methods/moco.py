"""MoCo v2: a query is to find its key, of a slow copy of the network, among a queue of keys of earlier batches.

He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning"; head, temperature and augmentation
of Chen et al. 2020c, "Improved Baselines with Momentum Contrastive Learning". The paper shuffles samples between GPUs,
so that query and key do not share BatchNorm statistics by which they could be told. Here statistics belong to groups
(`train.bn_group`), and the key's are those of the slow copy over the query's group: the larger the groups, the less
they tell.
"""

import math
from bisect import bisect_right
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
_OWN_KEYS = 1 / 8
"""Older keys of its own image that a query may find in the queue, in the mean: those are negatives that are none."""


def own_keys(queue_size: int, pool: Pool) -> float:
    """Older keys of its own image that a query finds in a queue of this size, in the mean over a later epoch.

    An epoch is a permutation of its own: its keys are of other images, and every key of earlier epochs is of the
    query's image with a chance of 1 / N. So a batch that begins an epoch finds Q / N, the next one (Q - B) / N, and
    so on to 0. Labelled data beside the pool has its own epochs, and its part of the queue.

    >>> own_keys(30, Pool(60, batch=60)), round(own_keys(4096, Pool(50_000, batch=256)), 4)
    (0.5, 0.0036)
    """
    found = 0.0
    for count, batch in ((pool.samples, pool.batch - pool.labelled_batch), (pool.labelled, pool.labelled_batch)):
        if batch:
            share = batch / pool.batch
            keys, steps = queue_size * share, max(1, count // batch)
            reached = min(steps, math.ceil(keys / batch))
            found += share * (reached * keys - batch * reached * (reached - 1) / 2) / (count * steps)
    return found


class MoCo(Method):
    """Encoder, plain head, their momentum copies, InfoNCE against a queue (v2).

    `temperature`: of the softmax over similarities. `momentum`: of the slow copy, each step. `queue_size`: keys that
    are kept, by default 4,096; at most half the pool, and so few that a query finds no more than 1/8 older keys of its
    own image among them, in the mean (`own_keys`). `projector_width`: of the hidden layer, the encoder's width by
    default. `projector_dim`: of queries and keys.
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
        sizes = range(1, pool.samples // 2 + 1)
        most = max(1, bisect_right(sizes, _OWN_KEYS, key=lambda size: own_keys(size, pool)))
        asked = options.get("queue_size")
        size = min(_QUEUE, most) if asked is None else asked
        meets = f"{own_keys(size, pool):.2g} older keys of its own image, in the mean"
        if size > most:
            raise UsageError(
                f"method.queue_size = {size}: with {pool.samples:,} images in batches of {pool.batch:,}, a query would "
                f"find {meets}, and push it away; {_OWN_KEYS:g} and half of the images are the limit: give at most "
                f"{most}, or a smaller batch"
            )
        return {"queue_size": (size, f"{pool.samples:,} images in batches of {pool.batch:,}: a query finds {meets}")}

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
