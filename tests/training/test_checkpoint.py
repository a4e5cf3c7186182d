"""Checkpoints: whole or not there, whatever happens in between."""

import errno
import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import twoviews.training.checkpoint as module
from twoviews.errors import ResourceError
from twoviews.narrate import Narrator
from twoviews.training.checkpoint import load_checkpoint, restore, save_checkpoint
from twoviews.training.optim import build_optimizer, parameter_groups


class Listener(Narrator):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, text: str, *, style: str = "") -> None:
        self.lines.append(f"{style} {text}".strip())


def trained(*, name: str = "adamw", seed: int = 0, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and an optimiser that have state."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    optimizer = build_optimizer(parameter_groups(net, weight_decay=0.1), name=name)
    advance(net, optimizer, steps=steps)
    return net, optimizer


def advance(net: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int) -> None:
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.zero_grad()
        net(torch.full((4, 4), step + 1.0) + torch.eye(4)).square().mean().backward()
        optimizer.step()


def save(folder: Path, step: int, *, state: Any = None, keep: int = 2, **facts: Any) -> Path:
    net, optimizer = state or trained(steps=step)
    return save_checkpoint(folder, step=step, module=net, optimizer=optimizer, facts=facts, keep=keep)


def load(folder: Path) -> tuple[Any, list[str]]:
    listener = Listener()
    return load_checkpoint(folder, narrator=listener), listener.lines


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_a_restored_pair_goes_on_as_the_saved_one(tmp_path: Path, name: str) -> None:
    net, optimizer = trained(name=name)
    save(tmp_path / "checkpoints", 3, state=(net, optimizer), skipped=7)
    found, warnings = load(tmp_path / "checkpoints")
    assert found.facts == {"step": 3, "skipped": 7}
    assert not warnings
    other, fresh = trained(name=name, seed=9, steps=0)
    restore(found, module=other, optimizer=fresh)
    advance(net, optimizer, steps=3)
    advance(other, fresh, steps=3)
    for key, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars"])
def test_state_keeps_the_memory_order_of_its_weight(tmp_path: Path, name: str) -> None:
    def built() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        return net, build_optimizer(parameter_groups(net, weight_decay=0.1), name=name)

    def go_on(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        views = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = net(views.contiguous(memory_format=torch.channels_last)).square().mean()
            loss.backward()
            optimizer.step()

    def strides(optimizer: torch.optim.Optimizer) -> dict[tuple[int, str], tuple[int, ...]]:
        return {
            # Of an axis of one it means nothing, and gradients have another there.
            (index, key): tuple(s for s, n in zip(value.stride(), value.shape, strict=True) if n > 1)
            for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
            if isinstance(value, torch.Tensor)
        }

    net, optimizer = built()
    go_on(net, optimizer)
    assert (27, 1, 9, 3) in strides(optimizer).values()
    save(tmp_path / "checkpoints", 3, state=(net, optimizer))
    other, fresh = built()
    restore(load(tmp_path / "checkpoints")[0], module=other, optimizer=fresh)
    assert strides(fresh) == strides(optimizer)
    for pair in ((net, optimizer), (other, fresh)):
        go_on(*pair)
    for key, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key


def test_the_folder_holds_what_the_run_directory_promises(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 1200)
    assert path.name == "step-00001200"
    assert sorted(p.name for p in path.iterdir()) == ["COMPLETE", "state.json", "state.safetensors"]
    assert (tmp_path / "latest").read_text() == "checkpoints/step-00001200\n"
    digests = json.loads((path / "COMPLETE").read_text())
    assert digests == {n: module.sha256_file(path / n) for n in ("state.safetensors", "state.json")}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load(tmp_path / "checkpoints") == (None, [])


def test_saved_tensors_are_a_fixed_picture(tmp_path: Path) -> None:
    net, optimizer = trained()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    save(tmp_path / "checkpoints", 3, state=(net, optimizer))
    advance(net, optimizer, steps=1)
    found, _ = load(tmp_path / "checkpoints")
    for key, tensor in before.items():
        assert torch.equal(found.tensors[f"module.{key}"], tensor)


def test_shared_tensors_are_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    optimizer = build_optimizer(parameter_groups(net, weight_decay=0.0), name="sgd")
    save(tmp_path / "checkpoints", 1, state=(net, optimizer))
    found, _ = load(tmp_path / "checkpoints")
    assert torch.equal(found.tensors["module.1.weight"], net[0].weight)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 30, 4):
        save(folder, step, keep=2)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000004", "step-00000030"]
    assert load(folder)[0].facts["step"] == 30


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink], ids=["truncated", "one bit", "gone"])
@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "COMPLETE"])
def test_a_damaged_newest_is_passed_over_by_name(tmp_path: Path, file: str, damage: Any) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    path = save(folder, 2)
    damage(path / file)
    found, lines = load(folder)
    assert found.path.name == "step-00000001"
    assert found.facts["step"] == 1
    assert len(lines) == 1
    assert lines[0].startswith("warn checkpoint step-00000002 is passed over: ")


def test_all_damaged_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        truncate(save(tmp_path / "checkpoints", step) / "state.safetensors")
    found, lines = load(tmp_path / "checkpoints")
    assert found is None
    assert len(lines) == 2


def test_a_damaged_one_is_replaced_and_a_whole_one_is_left(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 2)
    before = path.stat().st_ino
    save(tmp_path / "checkpoints", 2)
    assert path.stat().st_ino == before
    truncate(path / "state.safetensors")
    save(tmp_path / "checkpoints", 2)
    assert load(tmp_path / "checkpoints")[0].facts["step"] == 2


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code may catch it."""


STAGES = ["save_file", "sha256_file", "_fsync", "write_text"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_save_leaves_a_whole_checkpoint_and_its_litter_goes(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    state = trained(steps=2)

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, stage, die)
        with pytest.raises(Killed):
            save(folder, 2, state=state)
    found, lines = load(folder)
    assert found.facts["step"] == (2 if stage == "write_text" else 1)  # renamed by then
    assert not lines
    save(folder, 3)
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
    assert load(folder)[0].facts["step"] == 3


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Io: No space left on device (os error 28)"),  # which is no OSError
    SafetensorError("Io: Disk quota exceeded (os error 122)"),
]


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("stage", ["save_file", "_fsync"])
def test_a_full_disk(tmp_path: Path, stage: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    net, optimizer = trained(steps=2)

    def full(*_: Any, **__: Any) -> None:
        raise error

    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(module, stage, full)
        patch.setattr(module.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1234))
        with pytest.raises(ResourceError) as caught:
            save(folder, 2, state=(net, optimizer))
    text = str(caught.value)
    tensors = [*net.state_dict().values()]
    for state in optimizer.state_dict()["state"].values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    needed = sum(t.numel() * t.element_size() for t in tensors)
    assert str(error) in text
    assert f"it needs {needed:,} bytes and 1,234 are free" in text
    assert "twoviews resume" in text
    assert caught.value.exit_code == 5
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before  # intact, and no litter
    assert load(folder)[0].facts["step"] == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_full_disk_before_the_first_checkpoint(tmp_path: Path, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    state = trained(steps=1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    if not told:
        monkeypatch.setattr(module.shutil, "disk_usage", full)
    with pytest.raises(ResourceError, match=r"No space left on device; it needs .* bytes") as caught:
        save(tmp_path / "run" / "checkpoints", 1, state=state)
    assert ("are free" in str(caught.value)) == told


def test_a_bug_is_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(module, "save_file", broken)
    with pytest.raises(TypeError, match="a bug"):
        save(tmp_path / "checkpoints", 1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_old_checkpoints_go_only_after_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 1, keep=1)
    removed: list[tuple[str, bool]] = []
    rmtree = module.shutil.rmtree

    def watch(path: Path, **options: Any) -> None:
        if path.exists():
            new = folder / "step-00000002"
            removed.append((path.name, new.exists() and module._damage(new) is None))
        rmtree(path, **options)

    monkeypatch.setattr(module.shutil, "rmtree", watch)
    save(folder, 2, keep=1)
    assert removed == [("step-00000001", True)]
