"""`train.compile`: the compiled projection of every method gives the losses of the plain one, over some steps.

Fused kernels round otherwise, so the numbers are close and not the same: `resume` asks for the same `compile`.
"""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from twoviews.methods import METHODS, Method
from twoviews.training.large_batch import accumulate_gradients
from twoviews.training.optim import build_optimizer, parameter_groups

STEPS, BATCH, GROUP = 5, 16, 8

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """What was compiled for one method is not counted against the next one's limit."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def train(name: str, worker: ModuleType, *, compiled: bool, local_crops: int = 0) -> tuple[Tensor, Method]:
    """Losses of some steps in micro-batches, so that there are passes with a graph and passes without one."""
    method: Method = worker.make(f"methods.{name}", "batch", torch.float32).train()
    forward = torch.compile(method) if compiled else None
    optimizer = build_optimizer(parameter_groups(method, weight_decay=1e-4), name="adamw")
    losses = []
    for step in range(STEPS):
        views = worker.views_of(BATCH, step, torch.float32, views=method.n_views + local_crops)
        views = [view if index < method.n_views else view[..., :6, :6] for index, view in enumerate(views)]
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        optimizer.zero_grad()
        done = accumulate_gradients(
            method,
            lambda rows, views=views: [view[rows] for view in views],  # type: ignore[misc]
            count=BATCH,
            bn_group=GROUP,
            micro_batch=GROUP,
            labels=worker.labels_of(BATCH, step) if method.uses_labels else None,
            seed=step,
            forward=forward,  # type: ignore[arg-type]
        )
        optimizer.step()
        torch.manual_seed(step)
        method.after_step(done.projections, (step + 1) / STEPS)
        losses.append(done.step.loss)
    return torch.stack(losses), method


def same(name: str, worker: ModuleType, *, local_crops: int = 0) -> None:
    plain, _ = train(name, worker, compiled=False, local_crops=local_crops)
    compiled, method = train(name, worker, compiled=True, local_crops=local_crops)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] > 0  # it was compiled
    assert not counted["graph_break"]  # and as a whole
    assert len(set(plain.tolist())) == STEPS  # it trains
    assert torch.allclose(compiled, plain, rtol=1e-4, atol=0), (compiled - plain) / plain
    assert all(torch.isfinite(tensor).all() for tensor in method.state_dict().values())


@pytest.mark.parametrize("name", METHODS)
def test_compiled_and_plain_give_the_same_losses(name: str, worker: ModuleType) -> None:
    same(name, worker)


@pytest.mark.parametrize("name", ["simclr", "simsiam", "moco"])
def test_with_local_crops(name: str, worker: ModuleType) -> None:
    same(name, worker, local_crops=2)
