"""The encoder folder: safetensors weights, `config.json` in timm's schema, a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from twoviews.encoders.card import encoder_card
from twoviews.encoders.weights import encoder_folder, read_safetensors
from twoviews.encoders.zoo import Encoder, construct
from twoviews.errors import DataError, UsageError

_ARCHITECTURE = ("name", "source", "stem", "channels", "image_size", "num_features", "model_args")


def save_encoder(
    encoder: Encoder,
    folder: str | Path,
    *,
    preprocessing: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `model.safetensors`, `config.json` (timm's schema) and `README.md` (a model card) into `folder`.

    `preprocessing` needs `mean` and `std`, one number a channel; `interpolation` ("bilinear") and `crop_pct`
    (1.0) may be given, and all its keys are kept. `extra` joins the `twoviews` table of
    `config.json`. All must be JSON types. Tensors are named as in the bare architecture.
    """
    folder = Path(folder)
    absent = {"mean", "std"} - set(preprocessing)
    if absent:
        raise UsageError(f"preprocessing lacks {', '.join(sorted(absent))}: give one number a channel")
    config = describe_encoder(encoder, preprocessing=preprocessing, extra=extra or {})
    state = tensors_of(encoder.body)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
    card = encoder_card(config).render()
    _replace(folder / "README.md", card.encode(errors="backslashreplace"))  # names may hold bytes that are no text
    _replace(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def load_encoder(folder: str | Path, *, module: nn.Module | None = None) -> Encoder:
    """The encoder saved in `folder`, or in `folder/encoder` for a run, in eval mode on the CPU.

    An encoder that began as your own `nn.Module` needs that module again, as `module`, for the weights.
    Errors: DataError for a missing or damaged folder, UsageError without the module it needs.

    >>> load_encoder("runs/photos")                    # doctest: +SKIP
    """
    folder = encoder_folder(folder)
    config = read_encoder_config(folder)
    table = config["twoviews"]
    try:
        if table["source"] == "module":
            if module is None:
                raise UsageError(
                    f"{folder} holds weights of your own {table['name']}: pass module={table['name']}(...)"
                )
            encoder = Encoder(module, architecture={key: table[key] for key in _ARCHITECTURE})
        else:
            prefix = "" if table["source"] == "builtin" else f"{table['source']}:"
            with torch.random.fork_rng(devices=[]):
                encoder = construct(
                    prefix + table["name"],
                    image_size=table["image_size"],
                    channels=table["channels"],
                    stem=table["stem"],
                )
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} is not a complete encoder description ({error!r})") from error
    state = read_safetensors(folder / "model.safetensors")
    try:
        encoder.body.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder / 'model.safetensors'} does not fit its config.json: {reason}") from error
    encoder.initialization = f"loaded from {folder.name}"
    return encoder.eval()


def read_encoder_config(folder: str | Path) -> dict[str, Any]:
    """`config.json` of an encoder folder; `["twoviews"]["preprocessing"]` says how images were normalised."""
    path = encoder_folder(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("twoviews"), dict):
        raise DataError(f"{path} has no twoviews table: load a plain timm folder with timm, or pass it as init")
    return config


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers of a module as safetensors takes them. Errors: UsageError for a state that is no tensor."""
    state = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise UsageError(f"{name} of {type(module).__name__} is no tensor: only tensors can be saved")
        # clone: safetensors takes neither shared memory nor channels-last tensors
        state[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return state


def describe_encoder(encoder: Encoder, *, preprocessing: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` of an encoder folder, in timm's schema; arguments as of `save_encoder`.

    `architecture` is a name known to timm only where timm rebuilds this very network: `["twoviews"]["loads_in_timm"]`.
    """
    about = encoder.architecture
    clash = set(extra) & ({*_ARCHITECTURE, "preprocessing", "loads_in_timm"})
    if clash:
        raise UsageError(f"extra may not replace {', '.join(sorted(clash))}")
    size = about["image_size"]
    # A small ViT is told by its patch_size; timm would silently give a small MobileNet its own stride.
    in_timm = about["source"] == "timm" and (about["stem"] == "standard" or "patch_size" in about["model_args"])
    pretrained_cfg: dict[str, Any] = {
        "mean": list(preprocessing["mean"]),
        "std": list(preprocessing["std"]),
        "input_size": [about["channels"], size, size],
        "interpolation": preprocessing.get("interpolation", "bilinear"),
        "crop_pct": preprocessing.get("crop_pct", 1.0),
        "num_classes": 0,
    }
    if in_timm:
        own = getattr(encoder.body, "pretrained_cfg", None) or {}
        for key in ("classifier", "first_conv", "fixed_input_size"):
            if own.get(key) is not None:
                pretrained_cfg[key] = own[key]
    return {
        "architecture": about["name"].split(".")[0]
        if in_timm
        else f"twoviews_{about['source']}_{about['name']}_{about['stem']}",
        "num_classes": 0,
        "num_features": about["num_features"],
        "model_args": about["model_args"],
        "pretrained_cfg": pretrained_cfg,
        "twoviews": {
            **{key: about[key] for key in _ARCHITECTURE},
            "loads_in_timm": in_timm,
            "preprocessing": dict(preprocessing),
            **extra,
        },
    }


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
