"""Named lists of operations, and `Views`, which makes normalised views of a batch with one of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from twoviews.errors import UsageError, unknown_name
from twoviews.views.draws import Draws
from twoviews.views.ops import (
    CenterCrop,
    ColorJitter,
    ColorJitterYIQ,
    DecodedBatch,
    Framing,
    GaussianBlur,
    Op,
    Part,
    RandomAffine,
    RandomGrayscale,
    RandomResizedCrop,
)

NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation a channel: to [-1, 1], to the statistics of ImageNet, and left in [0, 1]."""

# On a CPU the views of some samples pass through all ops before the next ones do, and stay in the cache.
_CHUNK_PIXELS = 1 << 19


@dataclass(frozen=True)
class Policy:
    """A framing and the ops after it; the same for every view.

    >>> [op["op"] for op in POLICIES["simclr-small"].describe()]
    ['RandomResizedCrop', 'ColorJitter', 'RandomGrayscale']
    """

    name: str
    framing: Framing
    ops: tuple[Op, ...] = ()

    def __call__(self, batch: DecodedBatch, draws: Draws, *, image_size: int) -> Tensor:
        """N = views * B draws, view-major, to (N, C, S, S) float32 in [0, 1]."""
        images = self.framing(batch, draws.named(type(self.framing).__name__), image_size=image_size)
        seen: Counter[str] = Counter()
        for op in self.ops:
            # Named by kind, so that adding a blur does not change the other draws.
            kind = type(op).__name__
            images = op(images, draws.named(f"{kind}-{seen[kind]}" if seen[kind] else kind))
            seen[kind] += 1
        return images

    def describe(self) -> list[dict[str, Any]]:
        """Every op with its strengths, as plain values, for the record of a run."""
        return [{"op": type(op).__name__, **asdict(op)} for op in (self.framing, *self.ops)]  # type: ignore[call-overload]

    def with_options(
        self,
        *,
        min_scale: float | None = None,
        strength: float | None = None,
        blur: float | None = None,
        flip: float | None = None,
    ) -> "Policy":
        """This policy with other strengths; None leaves them.

        min_scale: smallest share of the area a crop keeps, in (0, 1]. strength: SimCLR's s, so 0.8 s for
        brightness, contrast and saturation and 0.2 s for hue, of those that the policy has. blur, flip:
        probabilities.
        Raises UsageError where the policy has nothing to apply an option to.
        """
        changed = self
        if min_scale is not None:
            _check("min_scale", min_scale, at_most=1.0, above=True)
            changed = replace(changed, framing=replace(self._crop("min_scale"), min_scale=min_scale))
        if flip is not None:
            _check("flip", flip, at_most=1.0)
            changed = replace(changed, framing=replace(changed._crop("flip"), flip=flip))
        if strength is not None:
            _check("strength", strength, at_most=2.5)
            changed = replace(changed, ops=changed._with_strength(strength))
        if blur is not None:
            _check("blur", blur, at_most=1.0)
            if not self.ops:
                raise self._refusal("blur", "it is not random")
            others = tuple(op for op in changed.ops if not isinstance(op, GaussianBlur))
            present = [op for op in changed.ops if isinstance(op, GaussianBlur)] or [GaussianBlur()]
            added = (replace(present[0], probability=blur),) if blur else ()
            changed = replace(changed, ops=others + added)
        return changed

    def _crop(self, option: str) -> RandomResizedCrop:
        if not isinstance(self.framing, RandomResizedCrop):
            raise self._refusal(option, "it has no random crop")
        return self.framing

    def _with_strength(self, strength: float) -> tuple[Op, ...]:
        def scaled(op: Op) -> Op:
            if not isinstance(op, ColorJitter | ColorJitterYIQ):
                return op
            return replace(
                op,
                brightness=0.8 * strength if op.brightness else 0.0,
                contrast=0.8 * strength if op.contrast else 0.0,
                saturation=0.8 * strength if op.saturation else 0.0,
                hue=0.2 * strength if op.hue else 0.0,
            )

        if not any(isinstance(op, ColorJitter | ColorJitterYIQ) for op in self.ops):
            raise self._refusal("strength", "it has no colour jitter")
        return tuple(map(scaled, self.ops))

    def _refusal(self, option: str, reason: str) -> UsageError:
        return UsageError(
            f"the policy {self.name!r} cannot take {option}: {reason}. Leave {option} out or choose another policy."
        )


def _check(option: str, value: float, *, at_most: float, above: bool = False) -> None:
    if not (value > 0.0 if above else value >= 0.0) or not value <= at_most:
        raise UsageError(
            f"{option} must be {'above 0' if above else 'at least 0'} and at most {at_most:g}, not {value!r}"
        )


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        # SimCLR (arXiv:2002.05709), section 3 and appendix A, for photographs of 96 pixels and more.
        Policy(
            "simclr",
            RandomResizedCrop(),
            (ColorJitter(0.8, 0.8, 0.8, 0.2), RandomGrayscale(0.2), GaussianBlur()),
        ),
        # The same paper, appendix B.9 (CIFAR-10): half the colour strength, and no blur of so few pixels.
        Policy("simclr-small", RandomResizedCrop(), (ColorJitter(0.4, 0.4, 0.4, 0.1), RandomGrayscale(0.2))),
        # The same strengths with hue in YIQ: other pixels, fewer operations.
        Policy(
            "simclr-small-fast",
            RandomResizedCrop(),
            (ColorJitterYIQ(0.4, 0.4, 0.4, 0.1), RandomGrayscale(0.2)),
        ),
        # What supervised training uses; also the weak view of FixMatch-like methods. Colour stays readable.
        Policy("weak", RandomResizedCrop(min_scale=0.5), (ColorJitter(0.2, 0.2, 0.0, 0.0),)),
        # A mirrored or cropped digit is another one or none; writers vary in slant, size and place.
        Policy(
            "digits",
            CenterCrop(),
            (
                RandomAffine(degrees=25.0, translate=0.15, scale=(0.75, 1.25), shear=20.0),
                ColorJitter(0.2, 0.2, 0.0, 0.0),
            ),
        ),
        # How images are seen at evaluation: the central square, nothing random.
        Policy("none", CenterCrop()),
    )
}


def find_policy(name: str) -> Policy:
    """The policy of this name; UsageError with the nearest name for another."""
    if name not in POLICIES:
        raise unknown_name("policy", name, POLICIES)
    return POLICIES[name]


@contextmanager
def _exact_float32(device_type: str) -> Iterator[None]:
    """No autocast, no reduced-precision products: what was chosen for the network is not meant for pixels."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(chosen)


class Views:
    """Normalised random views of decoded batches.

    mean, std: one number a channel, or one for all; images of one channel take the mean of the three.

    >>> views = Views(POLICIES["simclr-small"], image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> # first, second = views(batch, seed=0, epoch=4, views=(0, 1))
    """

    def __init__(self, policy: Policy, *, image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        if image_size < 1:
            raise UsageError(f"the image size must be at least 1 pixel, not {image_size}")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, 3):
                raise UsageError(f"{name} must have 1 or 3 numbers, not {len(values)}")
        if min(std) <= 0:
            raise UsageError(f"std must be above 0 in every channel, not {tuple(std)}")
        self.policy = policy
        self.image_size = image_size
        self.mean = tuple(mean)
        self.std = tuple(std)

    def __repr__(self) -> str:
        return f"Views({self.policy.name!r}, image_size={self.image_size}, mean={self.mean}, std={self.std})"

    @torch.no_grad()
    def __call__(self, batch: DecodedBatch, *, seed: int, epoch: int, views: Sequence[int]) -> list[Tensor]:
        """One (B, C, S, S) float32 tensor for each number in `views`, on the device of the batch.

        The same (seed, epoch, sample, view) gives the same pixels in whatever batch the sample comes, up to
        the rounding of matrix products (1e-6), and the same bytes in the same batch.
        """
        values, count, side = batch.values, len(views), self.image_size
        if values.dtype != torch.uint8 or values.ndim != 4 or values.shape[3] not in (1, 3):
            raise UsageError(
                f"views are made of uint8 images (B, H, W, 1 or 3), not of {values.dtype} {tuple(values.shape)}"
            )
        if count == 0:
            return []
        out = torch.empty(count, len(values), values.shape[3], side, side, device=values.device)
        mean, std = self.normalization(values.shape[3])
        step = len(values)
        if values.device.type == "cpu":
            step = max(_CHUNK_PIXELS // (count * side * side), 1)
        with _exact_float32(values.device.type):
            for start in range(0, len(values), step or 1):
                part = Part.of(batch, slice(start, start + step))
                numbers = [torch.full_like(part.samples, view) for view in views]
                draws = Draws(
                    seed=seed,
                    epoch=epoch,
                    samples=part.samples.repeat(count),
                    views=torch.cat(numbers),
                )
                images = self.policy(part, draws, image_size=side)
                place = out[:, start : start + step]
                # x / std - mean / std as one pass; the first touch of `out` is dear enough.
                for c, (m, s) in enumerate(zip(mean, std, strict=True)):
                    torch.add(-m / s, images.view_as(place)[:, :, c], alpha=1 / s, out=place[:, :, c])
        return list(out.unbind(0))

    def normalization(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each of 1 or 3 channels."""

        def spread(values: tuple[float, ...]) -> tuple[float, ...]:
            return (sum(values) / len(values),) if channels == 1 else values * (3 // len(values))

        return spread(self.mean), spread(self.std)
