"""Multi-crop: a few views of much of the image, and more of small parts of it at a smaller size."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from twoviews.errors import UsageError
from twoviews.views.ops import DecodedBatch, RandomResizedCrop
from twoviews.views.policies import Policy, Views

SMALLEST = 4
"""Side of a local view in px, at least."""


def cropping(policy: Policy) -> RandomResizedCrop:
    """The random crop of a policy, which multi-crop changes. Raises UsageError for a policy without one."""
    if not isinstance(policy.framing, RandomResizedCrop):
        raise UsageError(
            f"multi-crop needs a policy with a random crop, and {policy.name!r} has none: choose another policy, "
            "or leave multi-crop out"
        )
    return policy.framing


class MultiCrop:
    """Views of two sizes with one policy: the first `global_views` of the image size, the others of `local_size` px.

    views: the policy, size and normalisation of the global views. Their crops keep `global_min_scale` of the area at
    least (None: what the policy has), those of the local views a share within `local_scale`. Called as `Views` are, and
    the pixels of a view depend on the same (seed, epoch, sample, view) alone, not on which others are made beside it.
    Every number from `global_views` on is a local view; `local_views` says how many of them training makes.
    Source: SwAV (arXiv:2006.09882), multi-crop; 2 views of 224 px and 6 of 96 px there. That global and local views
    meet at a quarter of the area is our choice: at 0.14 in SwAV's code, at 0.4 in DINO's.
    Raises UsageError for a policy without a random crop, and counts, sizes or shares that cannot be.

    >>> from twoviews.views.policies import POLICIES
    >>> whole = Views(POLICIES["simclr"], image_size=96, mean=(0.5,), std=(0.5,))
    >>> crops = MultiCrop(whole, global_views=2, local_views=4, local_size=48)
    >>> # views = crops(batch, seed=0, epoch=4, views=range(6)); views[2].shape == (B, 3, 48, 48)
    """

    def __init__(
        self,
        views: Views,
        *,
        global_views: int,
        local_views: int,
        local_size: int,
        local_scale: tuple[float, float] = (0.05, 0.25),
        global_min_scale: float | None = 0.25,
    ) -> None:
        policy, crop = views.policy, cropping(views.policy)
        for name, count in (("global_views", global_views), ("local_views", local_views)):
            if count < 1:
                raise UsageError(f"multi-crop needs {name} of at least 1, not {count}: leave it out for one size")
        if not SMALLEST <= local_size <= views.image_size:
            raise UsageError(
                f"local views must have {SMALLEST} to {views.image_size} px, the size of the global ones, not "
                f"{local_size}: choose another local_size"
            )
        low, high = local_scale
        if not 0 < low <= high <= 1:
            raise UsageError(
                "local_scale must be a smallest and a largest share of the area, above 0 and at most 1, not "
                f"{local_scale}: give two such numbers, the smaller one first"
            )
        if global_min_scale is not None:
            policy = policy.with_options(min_scale=global_min_scale)
        self.global_views = global_views
        self.local_views = local_views
        self.local_size = local_size
        self._global = Views(policy, image_size=views.image_size, mean=views.mean, std=views.std)
        local = replace(policy, framing=replace(crop, min_scale=low, max_scale=high))
        self._local = Views(local, image_size=local_size, mean=views.mean, std=views.std)
        self.policy = policy
        self.local_policy = local
        self.image_size = views.image_size
        self.mean = views.mean
        self.std = views.std

    def __repr__(self) -> str:
        return (
            f"MultiCrop({self._global!r}, global_views={self.global_views}, local_views={self.local_views}, "
            f"local_size={self.local_size})"
        )

    def __call__(self, batch: DecodedBatch, *, seed: int, epoch: int, views: Sequence[int]) -> list[Tensor]:
        """One (B, C, S, S) float32 tensor for each number in `views`, S the side of that view."""
        large = [view for view in views if view < self.global_views]
        small = [view for view in views if view >= self.global_views]
        of_all = iter(self._global(batch, seed=seed, epoch=epoch, views=large))
        of_parts = iter(self._local(batch, seed=seed, epoch=epoch, views=small))
        return [next(of_all if view < self.global_views else of_parts) for view in views]

    def normalization(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, as those of `Views`."""
        return self._global.normalization(channels)


AnyViews = Views | MultiCrop
