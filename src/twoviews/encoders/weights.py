"""Weights to begin from: public ones, a safetensors file, an encoder folder, or a checkpoint of another library."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import interpolate

from twoviews.encoders.checkpoints import Found, find_encoder, is_checkpoint, is_copy, read_checkpoint
from twoviews.encoders.zoo import Encoder
from twoviews.errors import DataError, RefusedError, UsageError

PUBLIC = ("pretrained", "timm")
"""The values of `init` that mean public weights."""

_POSITIONS = ("pos_embed", "pos_embedding")
_PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".pt2", ".tar"}


@dataclass(frozen=True, slots=True)
class Transfer:
    """What came of loading weights into a network: tensor names of each kind, and what stood before them in a file."""

    source: str
    copied: tuple[str, ...]
    adapted: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    prefix: str = ""

    def __str__(self) -> str:
        total = len(self.copied) + len(self.adapted) + len(self.missing)
        text = f"{len(self.copied)} of {total} tensors from {self.source}"
        for what, names in (
            ("adapted to stem, patches or channels", self.adapted),
            ("random", self.missing),
            ("not used", self.unused),
        ):
            if names:
                text += f"; {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        return text


def initialize(encoder: Encoder, init: str | Path) -> Transfer:
    """Load public weights (`pretrained`, `timm`) or those of a file or encoder folder into `encoder`.

    Tensors of equal name and shape are copied. A first convolution (or patch embedding) of another kernel or
    channel count is adapted, see `adapt_convolution`; a position embedding is resized. The rest stays random, but of
    a checkpoint (`.pt`, `.pth`, `.ckpt`, `.bin`, `.tar`) every tensor of the encoder must come. In a file the encoder
    is found as in `transfer_checkpoint`, whatever stands before its names.
    Errors: DataError for weights that cannot be had or read, RefusedError for a pickle of more than tensors, UsageError
    when less than half of the tensors fit, or of a checkpoint not all.
    """
    if str(init) in PUBLIC:
        source = f"the public weights of {encoder.architecture['name']}"
        transfer = transfer_weights(encoder.body, _public_state(encoder), source=source)
    else:
        path = _weights_file(init)
        transfer = (transfer_checkpoint if is_checkpoint(path) else _transfer_safetensors)(encoder.body, path)
    encoder.initialization = str(transfer)
    return transfer


@torch.no_grad()
def transfer_weights(body: nn.Module, state: Mapping[str, Tensor], *, source: str = "the given weights") -> Transfer:
    """Copy the tensors of `state` that fit into `body`, adapting the first convolution and positions.

    A prefix before every name, such as `backbone.`, is taken off; of several, that of no momentum encoder.
    Errors: UsageError when less than half fit.
    """
    own = body.state_dict()
    state = _without_prefix(state, own)
    first = next((f"{path}.weight" for path, part in body.named_modules() if isinstance(part, nn.Conv2d)), "")
    equal = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    changed: dict[str, Tensor] = {}
    for name, target in own.items():
        if name in state and name not in equal:
            value = _adapted(name, state[name], target, body=body, first=first)
            if value is not None:
                changed[name] = value
    fitting = {**equal, **changed}
    if 2 * len(fitting) < len(own):
        raise UsageError(
            f"only {len(fitting)} of {len(own)} tensors of {type(body).__name__} are in "
            f"{source}: these are weights of another architecture, so name that one as the encoder"
        )
    for name, value in fitting.items():
        own[name].copy_(value)
    return Transfer(
        source,
        copied=tuple(equal),
        adapted=tuple(changed),
        missing=tuple(name for name in own if name not in fitting),
        unused=tuple(sorted(set(state) - set(own))),
    )


def transfer_checkpoint(body: nn.Module, path: Path, *, prefix: str | None = None, exact: bool = False) -> Transfer:
    """Load the encoder in a checkpoint into `body`, every tensor of it; heads and momentum encoders are left out.

    `prefix`: before the names of the encoder that is meant, of several. `exact`: without adapting any tensor. Errors:
    as `initialize`; UsageError also for a tensor of another shape that cannot be, or may not be, adapted.
    """
    tensors = read_safetensors(path) if path.suffix.lower() == ".safetensors" else read_checkpoint(path)
    found = find_encoder(tensors, body, file=path.name, prefix=prefix)
    own = body.state_dict()
    before = {name: value.clone() for name, value in own.items()}
    moved = _transfer_found(body, found, file=path.name)
    changed = moved.missing + (moved.adapted if exact else ())
    if changed:
        body.load_state_dict(before)
        name, more = changed[0], f", and {len(changed) - 1} more differ" if changed[1:] else ""
        theirs, ours = tuple(found.state[name].shape), tuple(own[name].shape)
        cure = "name the network, the stem, the channels and the image size that it was trained with"
        if changed == moved.adapted[:1] and len(ours) == 4 and theirs[:2] == ours[:2]:  # nothing but the kernel
            cure = f"give --stem {'standard' if theirs[2:] > ours[2:] else 'small'}"
        elif changed == moved.adapted[:1] and name.endswith(_POSITIONS):
            cure = f"give --image-size {_side_of(theirs[1], body) or 'PX, that of its training'}"
        raise UsageError(
            f"{path.name} does not fit {type(body).__name__}: {name} is {theirs} there and {ours} here{more}: {cure}"
        )
    return moved


def adapt_convolution(weight: Tensor, *, channels: int, kernel: tuple[int, int]) -> Tensor:
    """A convolution's weight (O, I, K, K) for another channel count and kernel: (O, channels, *kernel).

    Channels: summed over I and shared out equally, so a grey image answers as its RGB copy did. Kernel: the
    new one answers to an image as the old one did to that image enlarged bilinearly by old/new.
    """
    if weight.shape[1] != channels:
        weight = (weight.sum(dim=1, keepdim=True) / channels).expand(-1, channels, -1, -1)
    if tuple(weight.shape[2:]) == kernel:
        return weight
    area = kernel[0] * kernel[1]
    pixels = torch.eye(area, dtype=torch.float32).view(area, 1, *kernel)
    enlarged = interpolate(pixels, size=tuple(weight.shape[2:]), mode="bilinear", align_corners=False)
    return (weight.float().flatten(2) @ enlarged.flatten(1).T).reshape(*weight.shape[:2], *kernel)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU. Errors: DataError when missing or malformed."""
    try:
        # Read here: safetensors itself opens no path that is not valid UTF-8.
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; take an intact .safetensors file") from error
    return dict(sorted(tensors.items()))  # safetensors gives them in another order each time


def refuse_pickle(path: Path) -> None:
    """Raise RefusedError for a file whose name says that only pickle can read it."""
    if path.suffix.lower() in _PICKLES:
        raise RefusedError(
            f"{path} may run code when read (pickle): convert it where you trust it, with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors'), or take the "
            "encoder in it with twoviews import"
        )


def encoder_folder(folder: str | Path) -> Path:
    """The folder with `config.json`: `folder` itself, or its `encoder`. Errors: DataError when neither is."""
    for place in (Path(folder), Path(folder) / "encoder"):
        if (place / "config.json").is_file():
            return place
    raise DataError(f"no encoder in {str(folder)!r}: give a run directory or a folder with config.json")


def _public_state(encoder: Encoder) -> Mapping[str, Tensor]:
    name, source = encoder.architecture["name"], encoder.architecture["source"]
    if source not in ("timm", "torchvision"):
        raise UsageError(f"encoder {name!r} has no public weights: leave init out, or give a .safetensors file")
    try:
        if source == "timm":
            import timm

            state: Mapping[str, Tensor] = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
        else:
            import torchvision

            state = torchvision.models.get_model(name, weights="DEFAULT").state_dict()
    except Exception as error:  # urllib, requests, httpx and the hub client each raise from a tree of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the public weights of {name!r} could not be had ({reason}): "
            "connect to the network once, or give a .safetensors file as init"
        ) from error
    return state


def _weights_file(init: str | Path) -> Path:
    path = Path(init)
    if path.is_dir():
        return encoder_folder(path) / "model.safetensors"
    if is_checkpoint(path):
        return path
    refuse_pickle(path)
    if path.suffix.lower() == ".safetensors":
        if not path.is_file():
            raise DataError(f"no file {str(path)!r}: give an existing .safetensors file as init")
        return path
    raise UsageError(
        f"init {str(init)!r} is neither 'pretrained' nor a .safetensors file nor an encoder folder nor a "
        "checkpoint (.pt, .pth, .ckpt, .bin, .tar)"
    )


def _transfer_safetensors(body: nn.Module, path: Path) -> Transfer:
    tensors = read_safetensors(path)
    try:
        found = find_encoder(tensors, body, file=path.name)
    except UsageError:  # a part of the network is enough to begin from
        return transfer_weights(body, tensors, source=path.name)
    return _transfer_found(body, found, file=path.name)


def _transfer_found(body: nn.Module, found: Found, *, file: str) -> Transfer:
    own = body.state_dict()
    counters = {name: own[name] for name in own if name not in found.state}  # BatchNorm's, which older files lack
    source = f"{file}, {found.prefix!r}" if found.prefix else file
    moved = transfer_weights(body, {**counters, **found.state}, source=source)
    return replace(moved, unused=found.left_out, prefix=found.prefix)


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not own:
        return state
    probe = next(iter(own))
    prefixes = {""} | {name.removesuffix(probe) for name in state if name.endswith("." + probe)}

    def rank(prefix: str) -> tuple[int, bool]:
        return sum(prefix + name in state for name in own), not is_copy(prefix)

    best = max(sorted(prefixes), key=rank)
    return {name.removeprefix(best): value for name, value in state.items()}


def _adapted(name: str, value: Tensor, target: Tensor, *, body: nn.Module, first: str) -> Tensor | None:
    if name == first and value.ndim == 4 and value.shape[0] == target.shape[0]:
        height, width = target.shape[2:]
        return adapt_convolution(value, channels=target.shape[1], kernel=(height, width))
    if name.endswith(_POSITIONS) and value.ndim == 3 and value.shape[2] == target.shape[2]:
        prefix = _prefix_tokens(body)
        old, new = isqrt(value.shape[1] - prefix), isqrt(target.shape[1] - prefix)
        if (old * old + prefix, new * new + prefix) == (value.shape[1], target.shape[1]):
            from timm.layers.pos_embed import resample_abs_pos_embed

            resized: Tensor = resample_abs_pos_embed(value, new_size=[new, new], num_prefix_tokens=prefix)
            return resized
    return None


def _prefix_tokens(body: nn.Module) -> int:
    """How many positions stand before those of the patches."""
    return 0 if getattr(body, "no_embed_class", False) else getattr(body, "num_prefix_tokens", 1)


def _side_of(positions: int, body: nn.Module) -> int | None:
    """The image size in px of a square of patches, None where the first convolution does not cut them."""
    first = next((part for part in body.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.kernel_size != first.stride:
        return None
    return isqrt(positions - _prefix_tokens(body)) * first.stride[0]
