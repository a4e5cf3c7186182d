"""Torch checkpoints of others (lightly, solo-learn, torchvision, MoCo): their tensors, and the encoder among them.

A checkpoint is a pickle, which can run code. Here torch reads it with `weights_only`, which knows tensors and plain
values and refuses all else; nothing else in the package reads one, and nothing writes one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from twoviews.errors import DataError, RefusedError, UsageError

SUFFIXES = frozenset((".pt", ".pth", ".ckpt", ".bin", ".tar"))
"""Of files that torch writes; `.pth.tar` is MoCo's."""

# A momentum encoder stands beside the one that was trained, with the same names; the trained one is meant.
_COPIES = ("momentum", "encoder_k", "target", "teacher", "ema", "optimizer")


@dataclass(frozen=True, slots=True)
class Found:
    """An encoder in a checkpoint.

    state     its tensors by the names of the network that they are for
    prefix    what stood before these names
    left_out  names of the checkpoint's other tensors: projection heads, classifiers, momentum encoders, optimisers
    """

    state: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]


def is_checkpoint(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in SUFFIXES


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a file of `torch.save`, on the CPU, by name; names inside of tables are joined by dots.

    Errors: DataError for a file that is missing, damaged or without tensors, RefusedError for one that holds more than
    tensors and plain values.
    """
    if not path.is_file():
        raise DataError(f"no file {str(path)!r}: give an existing checkpoint")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive is told in as many ways as it can be damaged
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if type(error).__name__ == "UnpicklingError":
            raise RefusedError(
                f"{path} may run code when read (it holds more than tensors, or is no checkpoint): convert it where "
                "you trust it, with safetensors.torch.save_file(torch.load(FILE, weights_only=False)['state_dict'], "
                "'weights.safetensors'), and give that file"
            ) from error
        raise DataError(f"cannot read {path} ({reason}): give an intact checkpoint") from error
    try:
        tensors = dict(_tensors(loaded))
    except RecursionError:
        raise DataError(f"{path} holds a table inside of itself: give a checkpoint with a plain state_dict") from None
    if not tensors:
        raise DataError(f"{path} holds no tensors by name: give a checkpoint with a state_dict")
    return tensors


def is_copy(prefix: str) -> bool:
    """Whether what stands before tensors' names tells of a momentum encoder."""
    return any(word in prefix for word in _COPIES)


def find_encoder(tensors: Mapping[str, Tensor], body: nn.Module, *, file: str, prefix: str | None = None) -> Found:
    """The tensors of `body` among those of a checkpoint, whatever stands before their names.

    Names are timm's and torchvision's (`layer1.0.conv1.weight`), or numbers in their order, as in lightly's
    `nn.Sequential(*list(resnet.children())[:-1])`. Of several encoders the one is taken that is no momentum copy, or
    that of `prefix`. Shapes are not compared. Raises UsageError that lists what is missing or unexpected.
    """
    own = list(body.state_dict())
    best, parts = Found({}, "", ()), frozenset[str]()
    for names in _namings(body, own):
        for before in _prefixes(tensors, names) if prefix is None else [prefix]:
            found = _with_prefix(tensors, names, before)
            if not parts or _rank(found) > _rank(best):
                best, parts = found, frozenset(name.partition(".")[0] for name in names)
    missing = [name for name in own if name not in best.state and not name.endswith("num_batches_tracked")]
    inside = [name.removeprefix(best.prefix) for name in best.left_out if name.startswith(best.prefix)]
    # A further block of a stage is another network; what has a place of its own beside the stages is a head.
    unexpected = [name for name in inside if name.partition(".")[0] in parts]
    if missing or unexpected:
        lists = (("missing", missing), ("unexpected", unexpected))
        told = "; ".join(f"{what}: {_some(names)}" for what, names in lists if names)
        at = f" under {best.prefix!r}" if best.prefix else ""
        raise UsageError(
            f"{len(best.state)} of the {len(own)} tensors of {type(body).__name__} are in {file}{at}; {told}. These "
            "are weights of another network, or of another stem: name it as the encoder; the file begins with "
            f"{_some(list(tensors))}"
        )
    return best


def _tensors(value: object, before: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield before, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(name, str):
                yield from _tensors(inner, f"{before}.{name}" if before else name)


def _namings(body: nn.Module, own: Sequence[str]) -> Iterator[dict[str, str]]:
    """Names in a checkpoint, without prefix, to those of the network."""
    yield {name: name for name in own}
    children = [name for name, _ in body.named_children()]
    with_state = [name for name in children if any(key.startswith(f"{name}.") for key in own)]
    for counted, shortcut in ((children, "downsample"), (with_state, "shortcut")):
        number = {name: str(index) for index, name in enumerate(counted)}

        def numbered(name: str, number: dict[str, str] = number, shortcut: str = shortcut) -> str:
            child, _, rest = name.partition(".")
            return f"{number.get(child, child)}.{rest}".replace(".downsample.", f".{shortcut}.")

        yield {numbered(name): name for name in own}
    # ResNets for CIFAR call the shortcut so, whether their parts have names or numbers.
    yield {name.replace(".downsample.", ".shortcut."): name for name in own}


def _prefixes(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> list[str]:
    probe = next(iter(names), "")
    return sorted({name.removesuffix(probe) for name in tensors if name == probe or name.endswith("." + probe)}) or [""]


def _with_prefix(tensors: Mapping[str, Tensor], names: Mapping[str, str], prefix: str) -> Found:
    state = {own: tensors[prefix + name] for name, own in names.items() if prefix + name in tensors}
    taken = {prefix + name for name in names}
    return Found(state, prefix, tuple(name for name in tensors if name not in taken))


def _rank(found: Found) -> tuple[int, bool, int]:
    """More tensors, then no copy, then the shorter prefix."""
    return len(found.state), not is_copy(found.prefix), -len(found.prefix)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
