"""Two processes compute what one does: loss, every gradient, and the weights after many steps."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from twoviews.distributed import tensors
from twoviews.methods import METHODS

NAMES = (
    "simclr-batch-16-float64",
    "simclr-batch-32-float32",
    "simclr-batch-10-float64",
    "simclr-group-14-float64",
    "simclr-batch-dropout-16-float64",
    "simclr-transformer-16-float64",
    "simclr-cold",
    "momentum-batch-16-float64",
    "plain-batch-16-float64",
    "plain-group-16-float32",
    "own_method-batch-16-float64",
    "own_method-batch-32-float32",
    "chance-batch-cumulative-16-float64",
    "simclr-skipping-16-float64",
    *(f"methods.{name}" for name in METHODS),
)


def difference(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm; of the difference alone where that is nothing but rounding.

    The mean of what was normalised is 0, and so is what a predictor's normalisation finds behind a projector's.
    """
    norm = float(one.double().norm())
    return float((one.double() - other.double()).norm()) / (norm if norm > 1e-13 else 1.0)


def test_no_case_is_forgotten(worker: ModuleType) -> None:
    assert sorted(NAMES) == sorted(worker.CASES)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(name: str, worker: ModuleType, computed: Path) -> None:
    case = worker.CASES[name]
    alone, method = worker.train(case)
    single = case.get("dtype") == "float32"
    weights = {f"grad.{n}" for n, p in method.named_parameters() if p.requires_grad}
    if case["encoder"] != "skipping":
        assert weights == {key for key in alone if key.startswith("grad.")}
    for rank in (0, 1):
        together = load_file(computed / f"{name}.{rank}.safetensors")
        assert together.keys() == alone.keys()
        for key, tensor in alone.items():
            if key.startswith("grad.") or key == "losses":
                assert difference(tensor, together[key]) < (1e-5 if single else 1e-10), key
            else:
                assert difference(tensor, together[key]) < (1e-5 if single else 1e-8), key


@pytest.mark.parametrize("name", NAMES)
def test_both_processes_hold_the_same_bytes(name: str, computed: Path) -> None:
    first, second = (load_file(computed / f"{name}.{rank}.safetensors") for rank in (0, 1))
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_change_no_bit_in_processes_either(name: str, computed: Path) -> None:
    for rank in (0, 1):
        whole = load_file(computed / f"{name}.{rank}.safetensors")
        cut = load_file(computed / f"{name}.cut.{rank}.safetensors")
        for key, tensor in whole.items():
            assert torch.equal(tensor, cut[key]), key


def test_the_cases_train(worker: ModuleType) -> None:
    """What is compared above moves: weights, statistics, queue, momentum encoder."""
    case = worker.CASES["momentum-batch-16-float64"]
    found, method = worker.train(case)
    before = worker.make(case["method"], case["encoder"], torch.float64).state_dict()
    for key, tensor in method.state_dict().items():
        assert not torch.equal(tensor, before[key]), key
    assert len(set(found["losses"].tolist())) > case["steps"]


def test_the_loss_in_a_loop_under_distributed_data_parallel(worker: ModuleType, computed: Path) -> None:
    alone = worker.own_loop()
    for rank in (0, 1):
        together = load_file(computed / f"own_loop.{rank}.safetensors")
        assert together.keys() == alone.keys()
        for key, tensor in alone.items():
            assert tensor.norm() > 0, key
            assert difference(tensor, together[key]) < 1e-10, key


UNEVEN = """
import torch
import torch.distributed as dist
from twoviews.distributed import gather_with_gradient
from twoviews.losses import NTXentLoss
import os, sys
if sys.argv[1] == "joined":
    from twoviews import distributed
    distributed.join()
else:
    dist.init_process_group(
        "gloo", init_method="file://" + os.environ["TWOVIEWS_STORE"], rank=int(os.environ["RANK"]), world_size=2
    )
for count in (4, 4 - dist.get_rank()):
    z = torch.randn(count, 8, requires_grad=True)
    try:
        NTXentLoss(0.5, gather_distributed=True)(z, z).backward()
    except ValueError as error:
        print(count, error, file=sys.stderr)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("group", ["joined", "own"])
def test_batches_of_two_sizes_are_refused_in_every_process(
    group: str, launch: Callable[..., Any], finish: Callable[..., list[str]]
) -> None:
    """After a step with equal ones, as at the end of an epoch; gloo ended the process itself."""
    for count, told in zip((4, 3), finish(launch("-c", UNEVEN, group)), strict=True):
        assert f"{count} processes gather batches of one size, got 4 and 3 in order of rank: drop the last" in told
        assert told.count("processes gather") == 1


class Sent(Exception):
    """With where the message was."""


@pytest.mark.parametrize(("config", "where"), [("cuda:nccl", "meta"), ("cpu:gloo,cuda:nccl", "cpu")])
def test_what_has_a_gradient_is_sent_as_the_group_can(config: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of the caller's own may have NCCL alone, which takes no tensor on a CPU."""

    def all_reduce(tensor: Tensor, **_: Any) -> None:
        raise Sent(tensor.device.type)

    monkeypatch.setattr(tensors, "size", lambda: 2)
    monkeypatch.setattr(tensors.dist, "get_backend_config", lambda: config)
    monkeypatch.setattr(tensors.dist, "all_reduce", all_reduce)
    with pytest.raises(Sent, match=where):
        tensors.sum_gradients_(nn.Linear(2, 2, device="meta").parameters())
