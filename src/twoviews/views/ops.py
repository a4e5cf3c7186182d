"""The operations of a policy: strengths as fields, parameters from draws, work for the whole batch.

The first op of a policy is a `Framing`, the others are `Op`s, which may overwrite the images they are given. A
`probability` is one number, or one a view where views differ, as BYOL's do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

import torch
from torch import Tensor

from twoviews.views import color, resample, spatial
from twoviews.views.draws import Draws, Share, sent


class DecodedBatch(Protocol):
    """What views need of a batch: B images of one stored size."""

    @property
    def values(self) -> Tensor:
        """(B, H, W, C) uint8, C from 1 to 32; three channels are red, green and blue."""

    @property
    def sizes(self) -> Tensor:
        """(B, 2) original width and height, before the images were stored; where the samples' indices are."""

    @property
    def samples(self) -> Tensor:
        """(B,) int64, which sample of the corpus each is; on the host, where draws are cheap, or beside the values."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the images of a batch."""

    values: Tensor
    sizes: Tensor
    samples: Tensor

    @classmethod
    def of(cls, batch: DecodedBatch, part: slice) -> Self:
        """The images that the slice selects; nothing is copied."""
        return cls(values=batch.values[part], sizes=batch.sizes[part], samples=batch.samples[part])


class Framing(Protocol):
    """Cuts and resizes: a decoded batch and N = views * B draws to (N, C, S, S) float32 in [0, 1].

    The draws are where the sizes are, the result is where the values are.
    """

    def __call__(self, batch: DecodedBatch, draws: Draws, *, image_size: int) -> Tensor: ...


class Op(Protocol):
    """Changes images: (N, C, S, S) float32 in [0, 1] and N draws to the same."""

    def __call__(self, images: Tensor, draws: Draws) -> Tensor: ...


def _framed(
    batch: DecodedBatch, boxes: Tensor, sizes: Tensor, *, image_size: int, flip: Tensor | None = None
) -> Tensor:
    images = resample.planes(batch.values)
    boxes = sent(resample.stored_boxes(boxes, sizes, stored=(images.shape[2], images.shape[3])), images.device)
    flip = None if flip is None else sent(flip, images.device)
    return resample.crop_resize(images, boxes, image_size=image_size, flip=flip, gain=1 / 255).clamp_(0, 1)


def _sizes(batch: DecodedBatch, draws: Draws) -> Tensor:
    return batch.sizes.repeat(len(draws) // len(batch.sizes), 1)


@dataclass(frozen=True, slots=True)
class RandomResizedCrop:
    """A box of random area and aspect ratio, resized to the square, mirrored with probability `flip`."""

    min_scale: float = 0.08
    max_scale: float = 1.0
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __call__(self, batch: DecodedBatch, draws: Draws, *, image_size: int) -> Tensor:
        sizes = _sizes(batch, draws)
        boxes = resample.random_boxes(sizes, draws, scale=(self.min_scale, self.max_scale), ratio=self.ratio)
        flip = draws.chance("flip", self.flip) if self.flip else None
        return _framed(batch, boxes, sizes, image_size=image_size, flip=flip)


@dataclass(frozen=True, slots=True)
class CenterCrop:
    """The central square of side `fraction` times the shorter side, resized."""

    fraction: float = 1.0

    def __call__(self, batch: DecodedBatch, draws: Draws, *, image_size: int) -> Tensor:
        sizes = _sizes(batch, draws)
        return _framed(batch, resample.central_boxes(sizes, self.fraction), sizes, image_size=image_size)


@dataclass(frozen=True, slots=True)
class FullFrame:
    """The whole image, squeezed into the square."""

    def __call__(self, batch: DecodedBatch, draws: Draws, *, image_size: int) -> Tensor:
        sizes = _sizes(batch, draws)
        return _framed(batch, resample.full_boxes(sizes), sizes, image_size=image_size)


@dataclass(frozen=True, slots=True)
class TranslateZoom:
    """The central square, mirrored with probability `flip`, translated, then enlarged about its centre.

    translate: the largest translation, a share of the side; zoom: the largest share of the side that an enlargement
    takes away. Both are drawn for each axis by itself, so sides may change their ratio. Edges are mirrored. Source:
    Keras, RandomFlip, RandomTranslation and RandomZoom, here in one resampling instead of two.
    """

    translate: float
    zoom: float
    flip: float = 0.5

    @classmethod
    def keeping(cls, min_area: float, *, flip: float = 0.5) -> Self:
        """At least this share of the area stays visible, and the translation is half of the largest zoom.

        Source: the Keras example "Semi-supervised image classification using contrastive pretraining with SimCLR".

        >>> TranslateZoom.keeping(0.25)
        TranslateZoom(translate=0.25, zoom=0.5, flip=0.5)
        """
        zoom = 1 - math.sqrt(min_area)
        return cls(translate=zoom / 2, zoom=zoom, flip=flip)

    def __call__(self, batch: DecodedBatch, draws: Draws, *, image_size: int) -> Tensor:
        boxes = resample.central_boxes(batch.sizes, 1.0)
        # Once for all views: what is random comes after the resize.
        images = _framed(batch, boxes, batch.sizes, image_size=image_size)
        reach = self.translate * image_size
        draws = draws.to(images.device)
        return spatial.translate_zoom(
            images.repeat(len(draws) // max(len(images), 1), 1, 1, 1),
            shift=draws.uniform("translate", 2, low=-reach, high=reach),
            visible=draws.uniform("zoom", 2, low=1 - self.zoom, high=1.0),
            flip=draws.chance("flip", self.flip) if self.flip else None,
        ).clamp_(0, 1)


def _where_active(images: Tensor, active: Tensor, function: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """`function(images, *parameters)` for the active samples, the others as they are."""
    if images.device.type != "cpu":
        # Selecting would wait for the device to say how many there are.
        return torch.where(active.view(-1, 1, 1, 1), function(images, *parameters), images)
    chosen = active.nonzero().squeeze(1)
    return images.index_copy_(0, chosen, function(images.index_select(0, chosen), *(p[chosen] for p in parameters)))


def _jitter_factors(draws: Draws, *strengths: float) -> Tensor:
    """(N, 3), uniform in [max(0, 1 - x), 1 + x] for each strength x."""
    factors = draws.uniform("factors", len(strengths))
    # Column by column: a tensor of bounds would have to be sent to the device.
    for column, x in zip(factors.unbind(1), strengths, strict=True):
        low = max(0.0, 1 - x)
        column.mul_(1 + x - low).add_(low)
    return factors


@dataclass(frozen=True, slots=True)
class ColorJitter:
    """Brightness, contrast, saturation and exact HSV hue in random order, for a share of the samples.

    Images of other than three channels get brightness and contrast, each channel about its own mean.
    Source: SimCLR (arXiv:2002.05709), appendix A: strength s gives 0.8 s, 0.8 s, 0.8 s and 0.2 s.
    """

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    probability: Share = 0.8

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return color.jitter_(
            images,
            factors=_jitter_factors(draws, self.brightness, self.contrast, self.saturation),
            shifts=draws.uniform("hue", low=-self.hue, high=self.hue) if self.hue else None,
            order=draws.permutation("order", 4),
            active=draws.chance("active", self.probability),
        )


@dataclass(frozen=True, slots=True)
class ColorJitterYIQ:
    """As `ColorJitter`, with hue turned in YIQ and one clamp at the end: one affine map of colour."""

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    probability: Share = 0.8

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        active = draws.chance("active", self.probability)
        factors = _jitter_factors(draws, self.brightness, self.contrast, self.saturation)
        shifts = draws.uniform("hue", low=-self.hue, high=self.hue)
        # The identity matrix keeps every bit, and costs less than taking samples out and putting them back.
        return color.color_jitter_yiq(
            images,
            factors=torch.where(active.unsqueeze(1), factors, 1.0),
            shifts=torch.where(active, shifts, 0.0),
        )


@dataclass(frozen=True, slots=True)
class ColorAffine:
    """Colours multiplied by (1 + b) times the identity plus a matrix of nine numbers, clamped to [0, 1].

    b is uniform in [-brightness, brightness), the nine numbers in [-jitter, jitter). Images of other than three
    channels are multiplied by 1 + b alone. Source: the Keras example "Semi-supervised image classification using
    contrastive pretraining with SimCLR", RandomColorAffine.
    """

    brightness: float
    jitter: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        scales = draws.uniform("brightness", low=1 - self.brightness, high=1 + self.brightness)
        if images.shape[1] != 3:
            return color.brightness(images, scales)
        matrices = draws.uniform("jitter", 9, low=-self.jitter, high=self.jitter).view(-1, 3, 3)
        matrices.diagonal(dim1=1, dim2=2).add_(scales.unsqueeze(1))
        return color.color_affine(images, matrices=matrices)


@dataclass(frozen=True, slots=True)
class RandomGrayscale:
    """Colour removed from a share of the samples; images of other than three channels have none."""

    probability: Share = 0.2

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        if images.shape[1] != 3:
            return images
        return _where_active(images, draws.chance("active", self.probability), color.grayscale)


@dataclass(frozen=True, slots=True)
class BandJitter:
    """Each band x of a share of the samples becomes g x + o, clamped to [0, 1].

    g is 1 + gain u and at least 0, o is offset v; u and v are `shared` parts one draw for all bands of the view, as
    light and haze change them alike, and 1 - `shared` parts a draw for each band, all uniform in [-1, 1). So `gain`
    and `offset` bound the change whatever is shared; 0 jitters each band alone, 1 all together.
    """

    gain: float = 0.4
    offset: float = 0.1
    shared: float = 0.5
    probability: Share = 0.8

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        active = draws.chance("active", self.probability).unsqueeze(1)
        gains = self._mixed(images, draws, "gain").mul_(self.gain).add_(1).clamp_min_(0)
        offsets = self._mixed(images, draws, "offset").mul_(self.offset)
        # A gain of 1 and an offset of 0 keep every bit, and cost less than taking samples out and putting them back.
        return color.band_jitter(
            images,
            gains=torch.where(active, gains, 1.0),
            offsets=torch.where(active, offsets, 0.0),
        )

    def _mixed(self, images: Tensor, draws: Draws, name: str) -> Tensor:
        """(N, C) in [-1, 1)."""
        both = draws.uniform(name, images.shape[1] + 1, low=-1.0, high=1.0)
        return both[:, 1:].mul_(1 - self.shared).add_(both[:, :1], alpha=self.shared)


@dataclass(frozen=True, slots=True)
class QuarterTurn:
    """One of the eight symmetries of the square, each equally often: by 0, 90, 180 or 270 degrees, mirrored or not.

    For pictures without an up and down or a left and right: from above, through a microscope.
    """

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        # Three coins make the eight: a quarter turn is the axes exchanged and then one of them mirrored.
        for axis in ("xy", "x", "y"):
            images = _where_active(images, draws.chance(axis, 0.5), partial(spatial.mirrored, axis=axis))
        return images


@dataclass(frozen=True, slots=True)
class GaussianBlur:
    """A share of the samples blurred; sigma in pixels; `kernel` None: odd, near a tenth of the side."""

    sigma: tuple[float, float] = (0.1, 2.0)
    probability: Share = 0.5
    kernel: int | None = None

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        kernel = self.kernel or spatial.blur_kernel(images.shape[2])

        def blur(images: Tensor, sigmas: Tensor) -> Tensor:
            return spatial.gaussian_blur(images, sigmas, kernel=kernel)

        sigmas = draws.uniform("sigma", low=self.sigma[0], high=self.sigma[1])
        return _where_active(images, draws.chance("active", self.probability), blur, sigmas)


@dataclass(frozen=True, slots=True)
class Solarize:
    """Bright pixels inverted in a share of the samples (BYOL, arXiv:2006.07733, appendix B)."""

    threshold: float = 0.5
    probability: Share = 0.2

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        thresholds = torch.full((len(images),), self.threshold, device=images.device)
        return _where_active(images, draws.chance("active", self.probability), color.solarize, thresholds)


@dataclass(frozen=True, slots=True)
class RandomAffine:
    """A small rotation and shear (degrees), translation (share of the side) and change of scale."""

    degrees: float = 15.0
    translate: float = 0.12
    scale: tuple[float, float] = (0.85, 1.15)
    shear: float = 10.0

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        reach = self.translate * images.shape[2]
        return spatial.affine(
            images,
            angle=draws.uniform("angle", low=-self.degrees, high=self.degrees),
            translate=draws.uniform("translate", 2, low=-reach, high=reach),
            scale=draws.uniform("scale", low=self.scale[0], high=self.scale[1]),
            shear=draws.uniform("shear", 2, low=-self.shear, high=self.shear),
        )
