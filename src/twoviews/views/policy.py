"""A policy: a framing and the ops after it, with options that change their strengths."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from twoviews.errors import UsageError
from twoviews.views.draws import Draws, Share
from twoviews.views.ops import (
    BandJitter,
    ColorAffine,
    ColorJitter,
    ColorJitterYIQ,
    DecodedBatch,
    Framing,
    GaussianBlur,
    Op,
    RandomGrayscale,
    RandomResizedCrop,
    TranslateZoom,
)


@dataclass(frozen=True)
class Policy:
    """A framing and the ops after it; the same for every view, but for probabilities that are given for each.

    >>> policy = Policy("mine", RandomResizedCrop(), (ColorJitter(), RandomGrayscale()))
    >>> [op["op"] for op in policy.describe()]
    ['RandomResizedCrop', 'ColorJitter', 'RandomGrayscale']
    >>> policy.unused(13)
    ['ColorJitter: saturation and hue', 'RandomGrayscale']
    """

    name: str
    framing: Framing
    ops: tuple[Op, ...] = ()

    def __call__(self, batch: DecodedBatch, draws: Draws, *, image_size: int) -> Tensor:
        """N = views * B draws, view-major, to (N, C, S, S) float32 in [0, 1]."""
        images = self.framing(batch, draws.named(type(self.framing).__name__), image_size=image_size)
        draws = draws.to(images.device)
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

    def unused(self, channels: int) -> list[str]:
        """What does nothing to images of so many channels, in words: colour, unless there are three, taken for RGB."""
        if channels == 3:
            return []
        idle = []
        for op in self.ops:
            kind = type(op).__name__
            if isinstance(op, ColorJitter | ColorJitterYIQ) and _ever(op.probability):
                parts = [part for part in ("saturation", "hue") if getattr(op, part)]
                if parts:
                    light = op.brightness or op.contrast
                    idle.append(f"{kind}: {' and '.join(parts)}" if light else kind)
            elif isinstance(op, ColorAffine) and op.jitter:
                idle.append(f"{kind}: jitter" if op.brightness else kind)
            elif isinstance(op, RandomGrayscale) and _ever(op.probability):
                idle.append(kind)
        return idle

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
        brightness, contrast and saturation and 0.2 s for hue, of those that the policy has; so too for the gain
        (0.8 s) and the offset (0.2 s) of a jitter of bands. blur, flip: probabilities, in every view.
        Raises UsageError where the policy has nothing to apply an option to.
        """
        changed = self
        if min_scale is not None:
            _check("min_scale", min_scale, at_most=1.0, above=True)
            changed = replace(changed, framing=_keeping(self._crop("min_scale"), min_scale))
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
            changed = replace(changed, ops=changed._with_blur(blur))
        return changed

    def _crop(self, option: str) -> RandomResizedCrop | TranslateZoom:
        if not isinstance(self.framing, RandomResizedCrop | TranslateZoom):
            raise self._refusal(option, "it has no random crop")
        return self.framing

    def _with_strength(self, strength: float) -> tuple[Op, ...]:
        def scaled(op: Op) -> Op:
            if isinstance(op, BandJitter):
                return replace(
                    op,
                    gain=0.8 * strength if op.gain else 0.0,
                    offset=0.2 * strength if op.offset else 0.0,
                )
            if not isinstance(op, ColorJitter | ColorJitterYIQ):
                return op
            return replace(
                op,
                brightness=0.8 * strength if op.brightness else 0.0,
                contrast=0.8 * strength if op.contrast else 0.0,
                saturation=0.8 * strength if op.saturation else 0.0,
                hue=0.2 * strength if op.hue else 0.0,
            )

        if not any(isinstance(op, ColorJitter | ColorJitterYIQ | BandJitter) for op in self.ops):
            raise self._refusal("strength", "it has no colour jitter")
        return tuple(map(scaled, self.ops))

    def _with_blur(self, probability: float) -> tuple[Op, ...]:
        """Where the policy has its blur, else after all else."""
        if not probability:
            return tuple(op for op in self.ops if not isinstance(op, GaussianBlur))
        if not any(isinstance(op, GaussianBlur) for op in self.ops):
            return (*self.ops, GaussianBlur(probability=probability))
        return tuple(replace(op, probability=probability) if isinstance(op, GaussianBlur) else op for op in self.ops)

    def _refusal(self, option: str, reason: str) -> UsageError:
        return UsageError(
            f"the policy {self.name!r} cannot take {option}: {reason}. Leave {option} out or choose another policy."
        )


def _keeping(crop: RandomResizedCrop | TranslateZoom, min_scale: float) -> Framing:
    if isinstance(crop, TranslateZoom):
        return TranslateZoom.keeping(min_scale, flip=crop.flip)
    return replace(crop, min_scale=min_scale)


def _ever(probability: Share) -> bool:
    return any(probability) if isinstance(probability, tuple) else bool(probability)


def _check(option: str, value: float, *, at_most: float, above: bool = False) -> None:
    if not (value > 0.0 if above else value >= 0.0) or not value <= at_most:
        raise UsageError(
            f"{option} must be {'above 0' if above else 'at least 0'} and at most {at_most:g}, not {value!r}"
        )
