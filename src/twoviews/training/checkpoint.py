"""Checkpoints: safetensors + readable JSON, one folder each, complete or not there.

Save: write into a hidden folder, fsync, COMPLETE with the sha256 of each file, rename, fsync the parent, and only
then delete older ones. Load: the newest whose COMPLETE fits its files; damaged ones are named and passed over.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from twoviews.errors import ResourceError
from twoviews.narrate import Narrator
from twoviews.run import write_text
from twoviews.training.online_probe import OnlineProbe

STATE, FACTS, COMPLETE = "state.safetensors", "state.json", "COMPLETE"


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: tensors by name, and the facts beside them."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    online: OnlineProbe | None = None,
    facts: dict[str, Any],
    keep: int,
) -> Path:
    """Save the state after `step` steps under `folder/step-XXXXXXXX`, and keep the newest `keep`.

    `online`: a probe that is trained beside the module. Raises `ResourceError` when it cannot be written, say on a
    full disk; what was there before is untouched.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    if final.exists() and _damage(final) is None:
        return final  # the same step again, after a resume: the bytes are the same
    tensors = _state(module, optimizer)
    if online is not None:
        tensors |= {f"online.{name}": tensor for name, tensor in _state(online, online.optimizer).items()}
    # Clones: safetensors refuses tensors that share memory, and a copy on the CPU is a fixed picture of the state.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_litter(folder)
        temporary.mkdir()
        save_file(tensors, temporary / STATE)
        (temporary / FACTS).write_text(json.dumps({"step": step, **facts}, indent=1) + "\n", encoding="utf-8")
        digests = {name: sha256_file(temporary / name) for name in (STATE, FACTS)}
        (temporary / COMPLETE).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        for name in (STATE, FACTS, COMPLETE):
            _fsync(temporary / name)
        _fsync(temporary)
        shutil.rmtree(final, ignore_errors=True)  # there only if damaged
        temporary.rename(final)
        _fsync(folder)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # safetensors reports a full disk, a full quota and the like by an exception of its own.
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        needed = sum(t.numel() * t.element_size() for t in tensors.values())
        free = _free_bytes(folder)
        raise ResourceError(
            f"cannot save a checkpoint in {folder}: {error}; it needs {needed:,} bytes"
            + (f" and {free:,} are free" if free is not None else "")
            + ". What was saved before is intact: make room, then twoviews resume"
        ) from None
    write_text(folder.parent / "latest", f"{folder.name}/{final.name}\n")
    # A damaged later step must not push out the one just saved.
    whole = [path for path in _saved(folder) if path <= final or _damage(path) is None]
    for old in set(_saved(folder)) - set(whole[:keep]):
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, *, narrator: Narrator) -> Checkpoint | None:
    """The newest whole checkpoint, or None; damaged ones are named to the narrator and passed over."""
    for path in _saved(folder):
        problem = _damage(path)
        if problem is None:
            facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
            return Checkpoint(path, load((path / STATE).read_bytes()), facts)
        narrator.warn(f"checkpoint {path.name} is passed over: {problem}")
    return None


def restore(
    checkpoint: Checkpoint, *, module: nn.Module, optimizer: torch.optim.Optimizer, online: OnlineProbe | None = None
) -> None:
    """Put a checkpoint's tensors into what was built from the same configuration."""
    _put(checkpoint.tensors, module, optimizer)
    if online is not None:
        own = {k.removeprefix("online."): v for k, v in checkpoint.tensors.items() if k.startswith("online.")}
        _put(own, online, online.optimizer)


def _put(tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    prefix = "module."
    module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = _laid_out_as(weights[int(index)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(weight: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in the memory order of its weight, which files do not keep: over two orders an update is slow."""
    if tensor.ndim < 2 or tensor.shape != weight.shape:
        return tensor
    return torch.empty_like(weight, dtype=tensor.dtype, memory_format=torch.preserve_format).copy_(tensor)


def remove_litter(folder: Path) -> None:
    """Delete half-written checkpoints that a killed process left."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _damage(path: Path) -> str | None:
    try:
        digests = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if sha256_file(path / name) != digest:
                return f"{name} does not fit its sha256"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _free_bytes(folder: Path) -> int | None:
    """Where `folder` would be, as it may not be there yet; None where the file system does not tell."""
    for there in (folder.absolute(), *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(there).free
    return None


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    return tensors | {
        f"optimizer.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
