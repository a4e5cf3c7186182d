"""Named lists of operations, and `Views`, which makes normalised views of a batch with one of them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from twoviews.compute import exact_float32
from twoviews.errors import UsageError, unknown_name
from twoviews.views.draws import Draws
from twoviews.views.ops import (
    BandJitter,
    CenterCrop,
    ColorAffine,
    ColorJitter,
    ColorJitterYIQ,
    DecodedBatch,
    GaussianBlur,
    Part,
    QuarterTurn,
    RandomAffine,
    RandomGrayscale,
    RandomResizedCrop,
    Solarize,
    TranslateZoom,
)
from twoviews.views.policy import Policy as Policy
from twoviews.views.shown import MAX_CHANNELS

NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation a channel: to [-1, 1], to the statistics of ImageNet, and left in [0, 1].

Three equal numbers serve any number of channels; those of ImageNet are of red, green and blue."""

# On a CPU the views of some samples pass through all ops before the next ones do, and stay in the cache.
_CHUNK_PIXELS = 1 << 19


# SimCLR (arXiv:2002.05709), section 3 and appendix A, for photographs of 96 pixels and more.
_SIMCLR = Policy(
    "simclr",
    RandomResizedCrop(),
    (ColorJitter(0.8, 0.8, 0.8, 0.2), RandomGrayscale(0.2), GaussianBlur()),
)

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        _SIMCLR,
        # Named by the pictures it is for. The same pixels: an op draws by its own name, not by its policy's.
        replace(_SIMCLR, name="photo"),
        # The same paper, appendix B.9 (CIFAR-10): half the colour strength, and no blur of so few pixels.
        Policy("simclr-small", RandomResizedCrop(), (ColorJitter(0.4, 0.4, 0.4, 0.1), RandomGrayscale(0.2))),
        # The same strengths with hue in YIQ: other pixels, fewer operations.
        Policy(
            "simclr-small-fast",
            RandomResizedCrop(),
            (ColorJitterYIQ(0.4, 0.4, 0.4, 0.1), RandomGrayscale(0.2)),
        ),
        # BYOL (arXiv:2006.07733), appendix B, table 6, for photographs; also Barlow Twins' and MoCo v3's. All of the
        # first views are blurred and few of the second, and only second ones are solarized.
        Policy(
            "byol",
            RandomResizedCrop(),
            (
                ColorJitter(0.4, 0.4, 0.2, 0.1),
                RandomGrayscale(0.2),
                GaussianBlur(probability=(1.0, 0.1)),
                Solarize(probability=(0.0, 0.2)),
            ),
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
        # Scans, x-rays, photographs in grey. Two crops of a photograph share their histogram of colours, and a network
        # can tell pairs by that alone (SimCLR, section 3.1); in grey there is only that of intensities,
        # so brightness and contrast are jittered half as strongly again as in `simclr-small`, and more would clip
        # what is bright. Findings are small, and a small crop loses them (MoCo-CXR, arXiv:2010.05352):
        # no crop is below MoCo's 0.2 of the area (arXiv:1911.05722, its code), and blur is that of SimCLR cut
        # down to sigma 1 and a fifth of the views, which leaves fine texture readable.
        Policy(
            "gray",
            RandomResizedCrop(min_scale=0.2),
            (ColorJitter(0.6, 0.6, 0.0, 0.0), GaussianBlur(sigma=(0.1, 1.0), probability=0.2)),
        ),
        # Satellites, aerial and microscope images of any number of bands: crop from 0.2, jitter of 0.4 in four of five
        # views and blur are those of SSL4EO-S12 (arXiv:2211.07044, its code for MoCo v2). There each band is
        # jittered alike; here half of the jitter is each band's own, as light, haze and staining change the ratios of
        # bands, by which views could be matched. An offset of 0.1, for haze and dark current, is our choice. What is
        # seen from above has no up or left; turning helps on microscope images (arXiv:2402.14566). The eight
        # symmetries contain the mirror, so the crop does not mirror.
        Policy(
            "multiband",
            RandomResizedCrop(min_scale=0.2, flip=0.0),
            (QuarterTurn(), BandJitter(gain=0.4, offset=0.1, shared=0.5), GaussianBlur()),
        ),
        # The Keras example "Semi-supervised image classification using contrastive pretraining with SimCLR", its
        # `contrastive_augmentation` and `classification_augmentation`, for STL-10 at 96 pixels.
        Policy("keras-strong", TranslateZoom.keeping(0.25), (ColorAffine(0.6, 0.2),)),
        Policy("keras-weak", TranslateZoom.keeping(0.75), (ColorAffine(0.3, 0.1),)),
        # How images are seen at evaluation: the central square, nothing random.
        Policy("none", CenterCrop()),
    )
}


def find_policy(name: str) -> Policy:
    """The policy of this name; UsageError with the nearest name for another."""
    if name not in POLICIES:
        raise unknown_name("policy", name, POLICIES)
    return POLICIES[name]


class Views:
    """Normalised random views of decoded batches.

    mean, std: one number a channel, or one for all; images of one channel take the mean of three numbers.

    >>> views = Views(POLICIES["simclr-small"], image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> # first, second = views(batch, seed=0, epoch=4, views=(0, 1))
    """

    def __init__(self, policy: Policy, *, image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        if image_size < 1:
            raise UsageError(f"the image size must be at least 1 pixel, not {image_size}")
        for name, values in (("mean", mean), ("std", std)):
            if not 1 <= len(values) <= MAX_CHANNELS:
                raise UsageError(f"{name} must have 1 to {MAX_CHANNELS} numbers, one a channel, not {len(values)}")
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise UsageError(
                "mean and std must be finite, and std must be above 0 in every channel, "
                f"not {tuple(mean)} and {tuple(std)}"
            )
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
        if values.dtype != torch.uint8 or values.ndim != 4 or not 1 <= values.shape[3] <= MAX_CHANNELS:
            raise UsageError(
                f"views are made of uint8 images (B, H, W, C) of 1 to {MAX_CHANNELS} channels, "
                f"not of {values.dtype} {tuple(values.shape)}"
            )
        if count == 0:
            return []
        out = torch.empty(count, len(values), values.shape[3], side, side, device=values.device)
        mean, std = self.normalization(values.shape[3])
        step = len(values)
        if values.device.type == "cpu":
            # The chunk was measured in pixels of three channels.
            step = max(3 * _CHUNK_PIXELS // (max(values.shape[3], 3) * count * side * side), 1)
        with exact_float32(values.device.type):
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
        """Mean and standard deviation of each channel: as given, one for all, or the mean of three for one channel.

        Raises UsageError where there are other numbers than channels.

        >>> Views(POLICIES["none"], image_size=8, mean=(0.5,), std=(0.25,)).normalization(2)
        ((0.5, 0.5), (0.25, 0.25))
        """

        def spread(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
            if len(values) == channels:
                return values
            if channels == 1 and len(values) == 3:
                return (sum(values) / 3,)
            # `symmetric` and `none` are written as three equal numbers.
            if len(values) in (1, 3) and len(set(values)) == 1:
                return values[:1] * channels
            raise UsageError(
                f"{name} has {len(values)} numbers, but the images have {channels} channels: give one number a channel "
                "(--set views.normalization=measured finds them) or one for all"
            )

        return spread("mean", self.mean), spread("std", self.std)
