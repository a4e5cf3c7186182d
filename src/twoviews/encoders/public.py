"""Weights of timm's networks as they were published: public ones, a folder that timm wrote, or a file.

`build_encoder(init=...)` adapts weights to a network; here the network is the one that the weights were made for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twoviews.encoders.weights import read_safetensors, refuse_pickle
from twoviews.encoders.zoo import Encoder, count_features
from twoviews.errors import DataError, RefusedError, UsageError, unknown_name

HUB_FILE = "model.safetensors"

FOREIGN = 0.1
"""Part of a file's tensors, the classifier's not counted, above which what a network leaves unused makes it another."""


LEAST_SIDE, MOST_SIDE = 112, 224
"""Image sizes in px between which a reference meets images of other sizes than its own.

Public weights were mostly trained at 224 px: on a few patches of a thumbnail they would be a straw man, so that smaller
images are enlarged; DINOv2 was, as other encoders are, evaluated at 224 px though trained at 518 (arXiv:2304.07193).
"""


@dataclass(frozen=True, slots=True)
class TimmWeights:
    """Weights on disk and the timm network that they were made for.

    name    timm's, with the tag of public weights
    file    safetensors
    folder  with timm's `config.json`, where there is one
    public  whether they are those that timm itself names
    """

    name: str
    file: Path
    folder: Path | None = None
    public: bool = False


@dataclass(frozen=True, slots=True)
class PublishedInput:
    """What a published network was trained on.

    channels
    size   side of its images in px
    step   what another size should be a multiple of, in px
    fixed  whether the network is built for one size
    """

    channels: int
    size: int
    step: int
    fixed: bool


@dataclass(frozen=True, slots=True)
class Absent:
    """Public weights that are not to be had, and why, in words that say what to do."""

    reason: str


def find_public(name: str, *, download: bool = False, what: str = "reference") -> TimmWeights | Absent:
    """Public weights by timm's name, with or without `timm:` and a tag, from Hugging Face's cache on this machine.

    The network is used with `download` only. Nothing but safetensors is read. `what` is named: reference, encoder.
    Errors: UsageError for an unknown name and for one without public weights, RefusedError where those are a pickle.

    >>> find_public("vit_small_patch14_dinov2.lvd142m").name              # doctest: +SKIP
    'vit_small_patch14_dinov2.lvd142m'
    """
    network, about = _published(name, what=what)
    if about is None or not about.has_weights:
        raise UsageError(f"timm has no public weights of {network!r}: give a file as {network}=FILE.safetensors")
    full = f"{network}.{about.tag}" if about.tag else network
    instead = f"or give what you have as local-dir:FOLDER or {full}=FILE.safetensors"
    if not about.hf_hub_id:
        raise RefusedError(
            f"the public weights of {full!r} are a pickle, which may run code when read: convert them where you trust "
            f"them, and give {full}=FILE.safetensors"
        )
    import huggingface_hub

    repository, at, revision = about.hf_hub_id.partition("@")
    if not download:
        # Only this looks into the cache and nowhere else: `hf_hub_download` asks a server even with local_files_only.
        file = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE, revision=revision if at else None)
        if not isinstance(file, str):
            return Absent(f"the public weights of {full} are not on this machine: give --download once, {instead}")
        return TimmWeights(full, Path(file), public=True)
    try:
        file = huggingface_hub.hf_hub_download(repository, HUB_FILE, revision=revision if at else None)
    except Exception as error:  # httpx and the hub client each raise from a tree of their own
        return Absent(
            f"the public weights of {full} could not be had ({_line(error)}): connect to the network once, {instead}"
        )
    return TimmWeights(full, Path(file), public=True)


def find_in_folder(folder: Path, *, what: str = "reference") -> TimmWeights:
    """A folder as timm's `save_for_hf` writes it: config.json and model.safetensors.

    Errors: DataError for what is missing, UsageError for an unknown network, RefusedError where the weights are a
    pickle only.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        network = str(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'config.json'} does not say what timm says ({type(error).__name__}: {_line(error)}): give a "
            "folder that timm's save_for_hf wrote"
        ) from None
    file = folder / HUB_FILE
    if not file.is_file():
        for other in sorted(folder.iterdir()):
            refuse_pickle(other)
        raise DataError(f"{folder} holds no {HUB_FILE}: give a folder that timm's save_for_hf wrote")
    _published(network, what=what)
    return TimmWeights(network, file, folder)


def name_file(network: str, file: Path, *, what: str = "reference") -> TimmWeights:
    """A safetensors file and the timm network that it is for; with a tag, its mean, std and size are the tag's.

    Errors: UsageError for an unknown network, DataError for no file, RefusedError for a pickle.
    """
    refuse_pickle(file)
    _published(network, what=what)
    if file.suffix != ".safetensors" or not file.is_file():
        raise DataError(f"no .safetensors file {str(file)!r}: give an existing one as {network}=FILE.safetensors")
    return TimmWeights(network.removeprefix("timm:"), file)


def published_input(weights: TimmWeights) -> PublishedInput:
    """What the network was trained on, without its weights. Errors: DataError where timm cannot build it."""
    try:
        with torch.random.fork_rng(devices=[]):
            body = _create(weights, pretrained=False)
        config: dict[str, Any] = body.pretrained_cfg
        channels, height, width = config["input_size"]
        # For the side of a patch and the stride of the last map timm has one word.
        stages: Any = getattr(body, "feature_info", None)
        step = int(stages[-1]["reduction"]) if stages else 1
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, KeyError) as error:
        raise DataError(f"timm cannot build {weights.name} for {weights.file}: {_line(error)}") from error
    return PublishedInput(int(channels), max(int(height), int(width)), step, bool(config.get("fixed_input_size")))


def load_published(weights: TimmWeights, given: PublishedInput, *, image_size: int) -> Encoder:
    """The network as it was published, without its classifier, in eval mode, for images of `image_size` px.

    The features are those of `timm.create_model(..., pretrained=True, num_classes=0)`, given `img_size` where the
    network is built for one size. `body.pretrained_cfg` is what timm says of it: mean, std, licence.
    Errors: DataError where the file does not fit the network, UsageError where that cannot take another size.
    """
    other = image_size != given.size
    names = () if weights.public else tuple(read_safetensors(weights.file))  # timm knows the names in its own files
    try:
        with torch.random.fork_rng(devices=[]):
            body = _create(weights, pretrained=True, image_size=image_size if other and given.fixed else None)
        num_features = count_features(body, image_size=image_size, channels=given.channels)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, KeyError) as error:
        if other:
            raise UsageError(f"{weights.name} cannot take {image_size} px images: {_line(error)}") from error
        raise DataError(f"{weights.file} does not fit {weights.name}: {_line(error)}") from error
    if not weights.public:
        _require_same(body, names, weights=weights)
    architecture = {
        "name": weights.name,
        "source": "timm",
        "stem": "standard",
        "channels": given.channels,
        "image_size": image_size,
        "num_features": num_features,
        "model_args": dict(getattr(body, "pretrained_model_args", {})),
    }
    encoder = Encoder(body, architecture=architecture)
    encoder.initialization = f"loaded from {weights.file.name}"
    return encoder.eval()


def choose_side(own: int, *, sizes: NDArray[np.int32], step: int = 1, asked: int | None = None) -> tuple[int, str]:
    """The image size in px at which a reference sees images whose originals have these (width, height), and why.

    Its own where that is asked for, or is what most originals offer, within bounds; else the nearest multiple of
    `step`, never above its own.

    >>> small, large = np.array([[32, 32]]), np.array([[640, 480]])
    >>> choose_side(518, sizes=small, step=14)
    (112, 'images of 32 px enlarged; trained at 518 px')
    >>> choose_side(518, sizes=large, step=14)
    (224, 'images of 480 px reduced to the usual size; trained at 518 px')
    """
    offered = int(np.median(sizes.min(axis=1))) if len(sizes) else own
    if asked is not None:
        if asked % step:
            near = max(1, round(asked / step)) * step
            raise UsageError(f"a reference with steps of {step} px was asked for {asked} px: give @{near}")
        return asked, f"asked for; trained at {own} px"
    wanted = min(own, MOST_SIDE, max(offered, LEAST_SIDE))
    if wanted == own:
        return own, f"its own; the images have {offered} px"
    side = min(own, max(1, round(wanted / step)) * step)
    if offered > MOST_SIDE:
        return side, f"images of {offered} px reduced to the usual size; trained at {own} px"
    change = "" if offered == side else " enlarged" if offered < side else " reduced"
    return side, f"images of {offered} px{change}; trained at {own} px"


class Repeated(nn.Module):
    """An encoder of several channels for grey images: (B, 1, S, S) in [0, 1] -> (B, num_features).

    The grey channel is repeated and then normalised, channel by channel, as the encoder's own images were.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_features = int(encoder.num_features)  # type: ignore[arg-type]
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, Tensor(list(values)).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder((images - self.mean) / self.std)
        return features


def _create(weights: TimmWeights, *, pretrained: bool, image_size: int | None = None) -> Any:
    import timm

    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if image_size is not None:  # None would take the place of the folder's own
        options["img_size"] = image_size
    if weights.folder is not None:
        return timm.create_model(f"local-dir:{weights.folder}", **options)
    return timm.create_model(weights.name, pretrained_cfg_overlay={"file": str(weights.file)}, **options)


def _published(name: str, *, what: str) -> tuple[str, Any]:
    """The bare network of a timm name and what timm says of its weights, if anything. Errors: UsageError."""
    import timm

    bare = name.removeprefix("timm:")
    network, dot, tag = bare.partition(".")
    if not timm.is_model(network):
        raise unknown_name(what, bare, timm.list_pretrained() if tag else timm.list_models())
    tagged = timm.list_pretrained(f"{network}.*")
    if dot and bare not in tagged:
        raise unknown_name(what, bare, tagged or timm.list_models())
    return network, timm.get_pretrained_cfg(bare)


def _require_same(body: Any, names: tuple[str, ...], *, weights: TimmWeights) -> None:
    """timm leaves at random what a file lacks once the classifier is taken off; a reference must be whole."""
    own = set(body.state_dict())
    missing = sorted(name for name in own - set(names) if not name.endswith("num_batches_tracked"))
    if missing:
        raise DataError(
            f"{weights.file} lacks {len(missing)} of the {len(own)} tensors of {weights.name} (as {missing[0]}): name "
            "the network that it was saved from, with the names that timm gives its tensors"
        )
    head: str | tuple[str, ...] = body.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((head,) if isinstance(head, str) else head))
    unused = sorted(name for name in set(names) - own if not name.startswith(heads))
    if len(unused) > FOREIGN * len(names):
        raise DataError(
            f"{weights.file} holds {len(unused)} tensors that {weights.name} has not (as {unused[0]}): name the "
            "network that it was saved from"
        )


def _line(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:200]
