"""Networks by name: built-in, timm, torchvision, with the stem that fits the image size."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twoviews.encoders.builtin import BUILTIN, build_builtin
from twoviews.errors import UsageError, unknown_name

SMALL_IMAGE = 64
"""Up to this side in px `auto` chooses the small stem."""

STEMS = ("auto", "small", "standard")

# A network's family is the module that defines it, known without building the network.
_RESNETS = {
    "timm.models.resnet",
    "timm.models.res2net",
    "timm.models.resnest",
    "timm.models.sknet",
    "torchvision.models.resnet",
}
_TIMM_MOBILE = {"timm.models.mobilenetv3", "timm.models.efficientnet"}
_TORCHVISION_MOBILE = {
    "torchvision.models.mobilenetv2",
    "torchvision.models.mobilenetv3",
    "torchvision.models.efficientnet",
}
_TIMM_VITS = {"timm.models.vision_transformer", "timm.models.deit"}
_TORCHVISION_VITS = {"torchvision.models.vision_transformer"}
_AUXILIARY_HEADS = {"torchvision.models.googlenet", "torchvision.models.inception"}


class Encoder(nn.Module):
    """A network without its classifier: (B, C, S, S) -> (B, num_features), the `h` of SimCLR.

    `body` is the bare architecture, whose `state_dict` is what a saved encoder holds. `architecture` says
    what it is: name, source (`builtin`, `timm`, `torchvision` or `module`), stem, channels, image_size in px,
    num_features, model_args (timm's own arguments). `initialization` says in words where the weights began.
    """

    def __init__(self, body: nn.Module, *, architecture: dict[str, Any]) -> None:
        super().__init__()
        self.body = body
        self.architecture = architecture
        self.num_features: int = architecture["num_features"]
        self.initialization = "random"

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a name leads: its source, the bare name and the module that defines it."""

    source: str
    name: str
    module: str


def stem_choice(name: str, image_size: int, stem: str = "auto") -> tuple[str, str]:
    """The stem that `build_encoder` will use, `small` or `standard`, and the reason in words.

    Errors: UsageError for an unknown name or stem, or `small` where the network has no small form.

    >>> stem_choice("resnet18", 32)
    ('small', 'images of 32 px: 3x3 first convolution of stride 1, no max-pool')
    >>> stem_choice("resnet18", 96)
    ('standard', 'images of 96 px')
    """
    if stem not in STEMS:
        raise unknown_name("stem", stem, STEMS)
    place = _find(name)
    small = _small_form(place, image_size)
    if stem == "small" and small is None:
        raise UsageError(f"encoder {name!r} has no small stem: take encoder.stem = auto or standard")
    if stem != "auto":
        return stem, f"asked for: {small}" if stem == "small" else "asked for"
    limit = (place.source == "builtin" and BUILTIN[place.name].small_up_to) or SMALL_IMAGE
    if image_size > limit:
        return "standard", f"images of {image_size} px"
    if small is None:
        return "standard", f"{name} has no form for small images"
    return "small", f"images of {image_size} px: {small}"


def construct(name: str, *, image_size: int, channels: int, stem: str) -> Encoder:
    """Build a network by name with random weights and the stem given or chosen."""
    if image_size < 1 or channels < 1:
        raise UsageError(f"an encoder needs image_size and channels of at least 1, got {image_size} and {channels}")
    place = _find(name)
    used, _ = stem_choice(name, image_size, stem)
    small = used == "small"
    model_args: dict[str, Any] = {}
    try:
        if place.source == "builtin":
            body = build_builtin(place.name, channels=channels, image_size=image_size, small=small)
        elif place.source == "timm":
            import timm

            model_args = _timm_arguments(place, image_size=image_size, channels=channels, small=small)
            body = timm.create_model(place.name, pretrained=False, num_classes=0, **model_args)
        else:
            body = _torchvision_body(place, image_size=image_size, channels=channels)
        if small:
            _make_small(body, place)
        num_features = count_features(body, image_size=image_size, channels=channels)
    except UsageError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        # Each architecture has its own way of refusing an image size, and few name it.
        raise UsageError(
            f"encoder {name!r} cannot take {image_size} px images with {channels} channels "
            f"({_first_line(error)}): choose another image size, stem or encoder"
        ) from error
    architecture = {
        "name": place.name,
        "source": place.source,
        "stem": used,
        "channels": channels,
        "image_size": image_size,
        "num_features": num_features,
        "model_args": model_args,
    }
    return Encoder(body, architecture=architecture)


def wrap_encoder(module: nn.Module, *, image_size: int, channels: int = 3) -> Encoder:
    """Take any `nn.Module` that maps (B, channels, S, S) to (B, D) as an encoder; D is found by a dry run.

    The dry run leaves weights, buffers, mode and random state as they were. An `Encoder` comes back as it is.
    Errors: UsageError when the module does not run, or its output is not (B, D).

    >>> from torch import nn
    >>> own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> wrap_encoder(own, image_size=32).num_features
    8
    """
    if isinstance(module, Encoder):
        own = module.architecture["channels"]
        if own != channels:
            raise UsageError(f"the encoder was made for {own} channels, the images have {channels}: build it for these")
        return module
    name = type(module).__name__
    try:
        num_features = count_features(module, image_size=image_size, channels=channels)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"{name} does not run on images of shape (2, {channels}, {image_size}, {image_size}): {_first_line(error)}"
        ) from error
    architecture = {
        "name": name,
        "source": "module",
        "stem": "own",
        "channels": channels,
        "image_size": image_size,
        "num_features": num_features,
        "model_args": {},
    }
    return Encoder(module, architecture=architecture)


def count_features(body: nn.Module, *, image_size: int, channels: int) -> int:
    """D of an output (B, D), by a forward pass in eval mode that leaves no trace in `body`."""
    modes = {module: module.training for module in body.modules()}
    kept = {key: value.clone() for key, value in body.named_buffers()}
    first = next(body.parameters(), torch.zeros(0))
    images = torch.zeros(2, channels, image_size, image_size, dtype=first.dtype, device=first.device)
    devices = [first.device] if first.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            output = body.eval()(images)
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for key, value in body.named_buffers():
                if key in kept:
                    value.copy_(kept[key])
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[0] != 2:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"{type(body).__name__} returned {shown} for a batch of 2; an encoder returns one tensor (B, D): "
            "pool and flatten its output"
        )
    return int(output.shape[1])


def patch_side(image_size: int) -> int:
    """The patch side in px of a small ViT: the largest divisor of the image size that leaves 8 x 8 patches.

    >>> patch_side(32), patch_side(50)
    (4, 5)
    """
    return max(side for side in range(1, max(1, image_size // 8) + 1) if image_size % side == 0)


def _find(name: str) -> _Place:
    prefix, _, bare = name.rpartition(":")
    if prefix not in ("", "timm", "torchvision"):
        raise unknown_name("encoder source", prefix, ("timm", "torchvision"))
    if not prefix and bare in BUILTIN:
        return _Place("builtin", bare, "")
    # Together they cost seconds to import, which a built-in network need not pay.
    import timm
    import torchvision

    if prefix != "torchvision" and timm.is_model(bare):
        return _Place("timm", bare, timm.models.model_entrypoint(bare).__module__)
    listed = torchvision.models.list_models(module=torchvision.models)
    if prefix != "timm" and bare in listed:
        return _Place("torchvision", bare, torchvision.models.get_model_builder(bare).__module__)
    if prefix == "torchvision":
        raise unknown_name("encoder", name, [f"torchvision:{known}" for known in listed])
    if prefix == "timm":
        raise unknown_name("encoder", name, [f"timm:{known}" for known in timm.list_models()])
    raise unknown_name("encoder", name, [*BUILTIN, *timm.list_models()])


def _small_form(place: _Place, image_size: int) -> str | None:
    if place.source == "builtin" and not BUILTIN[place.name].small_up_to:
        return None
    if place.source == "builtin" or place.module in _TIMM_MOBILE | _TORCHVISION_MOBILE:
        return "first convolution of stride 1"
    if place.module in _RESNETS:
        return "3x3 first convolution of stride 1, no max-pool"
    if place.module in _TIMM_VITS:
        side = patch_side(image_size)
        return f"patches of {side} px"
    return None


def _timm_arguments(place: _Place, *, image_size: int, channels: int, small: bool) -> dict[str, Any]:
    import timm

    arguments: dict[str, Any] = {}
    if channels != 3:
        arguments["in_chans"] = channels
    defaults = timm.get_pretrained_cfg(place.name)
    if defaults is not None and defaults.fixed_input_size:
        arguments["img_size"] = image_size
    if small and place.module in _TIMM_VITS:
        arguments["patch_size"] = patch_side(image_size)
    return arguments


def _make_small(body: Any, place: _Place) -> None:
    """Turn a freshly built ResNet or MobileNet into its small form in place; others were built small."""
    if place.module in _RESNETS:
        if isinstance(body.conv1, nn.Conv2d):
            body.conv1 = _convolution_like(body.conv1, kernel=3, stride=1)
            nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        else:  # the deep stem of ResNet-C and -D has 3x3 convolutions already
            body.conv1[0].stride = (1, 1)
        body.maxpool = nn.Identity()
    elif place.module in _TIMM_MOBILE:
        body.conv_stem.stride = (1, 1)
    elif place.module in _TORCHVISION_MOBILE:
        body.features[0][0].stride = (1, 1)


def _torchvision_body(place: _Place, *, image_size: int, channels: int) -> nn.Module:
    if place.module in _AUXILIARY_HEADS:
        raise UsageError(f"torchvision's {place.name} trains with auxiliary heads: take its timm name instead")
    import torchvision

    if place.module in _TORCHVISION_VITS:
        body: nn.Module = torchvision.models.get_model(place.name, weights=None, image_size=image_size)
    else:
        body = torchvision.models.get_model(place.name, weights=None)
    _remove_head(body, place.name)
    if channels != 3:
        path, first = next((path, part) for path, part in body.named_modules() if isinstance(part, nn.Conv2d))
        new = _convolution_like(first, channels=channels)
        body.set_submodule(path, new)
    return body


def _remove_head(body: nn.Module, name: str) -> None:
    """Replace the last linear layer of the head, and the head's dropout, by the identity, as timm does."""
    for attribute in ("fc", "classifier", "heads", "head"):
        head = getattr(body, attribute, None)
        if not isinstance(head, nn.Module):
            continue
        parts = [(attribute + ("." + path if path else ""), part) for path, part in head.named_modules()]
        linear = [path for path, part in parts if isinstance(part, nn.Linear)]
        dropout = [path for path, part in parts if isinstance(part, nn.Dropout)]
        if linear:
            for path in [linear[-1], *dropout]:
                body.set_submodule(path, nn.Identity())
            return
    raise UsageError(f"torchvision's {name} has no linear head to remove: choose another encoder")


def _convolution_like(
    old: nn.Conv2d, *, channels: int | None = None, kernel: int | None = None, stride: int | None = None
) -> nn.Conv2d:
    size = (kernel, kernel) if kernel else old.kernel_size
    return nn.Conv2d(
        channels or old.in_channels,
        old.out_channels,
        size,  # type: ignore[arg-type]
        stride=stride or old.stride,  # type: ignore[arg-type]
        padding=kernel // 2 if kernel else old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
