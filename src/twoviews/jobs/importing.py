"""A checkpoint of another library made into an encoder folder, which every command takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twoviews.encoders import build_encoder, save_encoder
from twoviews.encoders.checkpoints import is_checkpoint
from twoviews.encoders.weights import transfer_checkpoint
from twoviews.errors import UsageError
from twoviews.jobs.newfolder import check_new, filled
from twoviews.jobs.vectors.opened import STORED
from twoviews.narrate import Narrator
from twoviews.views.policies import NORMALIZATIONS, POLICIES, Views


def import_encoder(
    file: str | Path,
    *,
    encoder: str,
    out: str | Path,
    image_size: int = 224,
    channels: int = 3,
    stem: str = "auto",
    prefix: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Take the encoder out of a checkpoint of lightly, solo-learn, torchvision or MoCo into the new folder `out`.

    `file`: `.pt`, `.pth`, `.ckpt`, `.bin` or `.tar`, of which tensors alone are read, or `.safetensors`. `encoder`,
    `image_size`, `channels`, `stem`: the network that it was trained as, see `build_encoder`; solo-learn's and
    lightly's for CIFAR have the stem `small`. `prefix`: before the names of the encoder that is meant, of several, as
    `state_dict.momentum_backbone.`. `mean`, `std`: of its training, one number a channel; by default
    ImageNet's for three channels and 0.5 for any other number, which is told.

    Every tensor of the network must be there in its shape. Gives `out`, `encoder`, `num_features`, `tensors` (how
    many), `prefix`, `left_out` (names: heads, momentum encoders, optimisers). Errors: UsageError for weights of another
    network, which lists what is missing or unexpected, DataError for a damaged file, RefusedError for one that could
    run code and for a folder that is not empty, ResourceError where nothing can be written.

    >>> import_encoder("moco_v2.pth.tar", encoder="resnet50", out="moco/")["prefix"]           # doctest: +SKIP
    'state_dict.module.encoder_q.'
    """
    narrator = narrator or Narrator()
    file, out = Path(file), Path(out)
    if not (is_checkpoint(file) or file.suffix.lower() == ".safetensors"):
        raise UsageError(
            f"{file} is no checkpoint by its name: give a .pt, .pth, .ckpt, .bin, .tar or .safetensors file"
        )
    check_new(out)
    usual = NORMALIZATIONS["imagenet" if channels == 3 else "symmetric"]
    views = Views(
        POLICIES["none"],
        image_size=image_size,
        mean=usual[0] if mean is None else list(map(float, mean)),
        std=usual[1] if std is None else list(map(float, std)),
    )
    seen = dict(zip(("mean", "std"), map(list, views.normalization(channels)), strict=True))
    for name, given in (("mean", mean), ("std", std)):
        if given is None:
            reason = f"a checkpoint does not tell: ImageNet's for 3 channels, else 0.5; --{name} states another"
            narrator.chose(name, seen[name], reason)
    built = build_encoder(encoder, image_size=image_size, channels=channels, stem=stem)
    found = transfer_checkpoint(built.body, file, prefix=prefix, exact=True)
    narrator.say(str(found))
    with filled(out) as staged:
        save_encoder(
            built,
            staged,
            preprocessing=seen,
            extra={"cache_side": round(STORED * image_size), "origin": f"imported by twoviews from {file.name}"},
        )
    return {
        "out": str(out),
        "encoder": built.architecture["name"],
        "stem": built.architecture["stem"],
        "num_features": built.num_features,
        "tensors": len(found.copied),
        "prefix": found.prefix,
        "left_out": list(found.unused),
    }
