"""MoCo's queue and slow copy: order, wrap-around, exact mixing, what a data set allows, and going on from a state."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from twoviews.errors import UsageError
from twoviews.methods import Method, MoCo, Pool
from twoviews.training.large_batch import accumulate_gradients
from twoviews.training.optim import build_optimizer, parameter_groups

Make = Callable[..., Method]
Views = Callable[..., list[Tensor]]


def keys(first: int, count: int) -> Mapping[str, Tensor]:
    """Keys that say which they are: number n is n everywhere."""
    return {"key": torch.arange(first, first + count, dtype=torch.float64)[:, None].expand(count, 12)}


@pytest.mark.parametrize("batches", [(4, 4, 4, 4), (6, 6), (3, 5, 1, 6, 2), (10, 2), (1, 13, 4, 25, 3)])
def test_the_queue_keeps_the_newest_keys_and_overwrites_the_oldest(batches: tuple[int, ...], make: Make) -> None:
    method = make("moco", queue_size=6)
    assert isinstance(method, MoCo)
    newest: deque[float] = deque(maxlen=6)
    arrived = 1
    for count in batches:
        method.after_step(keys(arrived, count), 0.5)
        newest.extend(range(arrived, arrived + count))
        arrived += count
        oldest = int(method.oldest)
        in_order = [*method.queue[oldest:, 0].tolist(), *method.queue[:oldest, 0].tolist()]
        assert in_order[-len(newest) :] == list(newest)
    assert arrived > 6  # it went round


def test_a_key_stays_where_it_came_to_until_it_is_the_oldest(make: Make) -> None:
    method = make("moco", queue_size=6)
    assert isinstance(method, MoCo)
    for first in (1, 5):
        method.after_step(keys(first, 4), 0.5)
    assert method.queue[:, 0].tolist() == [7, 8, 3, 4, 5, 6]
    assert int(method.oldest) == 2


def test_a_new_queue_is_of_unit_rows(make: Make) -> None:
    method = make("moco", queue_size=50)
    assert isinstance(method, MoCo)
    assert method.queue.shape == (50, 12)
    assert torch.allclose(method.queue.norm(dim=1), torch.ones(50, dtype=torch.float64), rtol=1e-6)
    assert len(set(method.queue[:, 0].tolist())) == 50


def test_the_keys_of_a_step_are_negatives_of_the_next_one_only(make: Make, views: Views) -> None:
    """He et al. 2020, algorithm 1: the loss comes before the queue moves."""
    method = make("moco", queue_size=8)
    assert isinstance(method, MoCo)
    before = method.queue.clone()
    seen = {**method(views(8, 8)), **method.targets(views(8, 8))}
    first = method.compare(seen).loss.item()
    assert torch.equal(method.queue, before)
    method.after_step({k: v.detach() for k, v in seen.items()}, 0.5)
    assert torch.equal(method.queue, seen["key"])
    assert method.compare(seen).loss.item() > first  # now its own key is among the negatives


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_the_slow_copy_follows_by_one_less_the_momentum(momentum: float, make: Make, views: Views) -> None:
    method = make("moco", momentum=momentum)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator))
    method(views(8, 8))  # moves the running statistics of the fast one alone
    parts = {"encoder": "slow_encoder", "projector": "slow_projector"}
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.after_step(keys(1, 4), 0.3)
    now = method.state_dict()
    for fast, slow in parts.items():
        names = dict(method.get_submodule(fast).named_parameters())
        assert names
        for name in names:
            mixed = momentum * before[f"{slow}.{name}"] + (1 - momentum) * before[f"{fast}.{name}"]
            assert torch.allclose(now[f"{slow}.{name}"], mixed, rtol=1e-14, atol=1e-15), name
            assert torch.equal(now[f"{fast}.{name}"], before[f"{fast}.{name}"])
        for name, _ in method.get_submodule(fast).named_buffers():  # statistics are each network's own
            assert torch.equal(now[f"{slow}.{name}"], before[f"{slow}.{name}"]), name
    assert not any(p.requires_grad for slow in parts.values() for p in method.get_submodule(slow).parameters())


def test_key_and_query_of_a_new_method_are_of_the_same_network(make: Make, views: Views) -> None:
    method = make("moco")
    image = views(8)[0]
    found = {**method([image, image]), **method.targets([image, image])}
    assert torch.allclose(torch.nn.functional.normalize(found["query0"], dim=1), found["key"], rtol=1e-12)


def train(method: Method, optimizer: torch.optim.Optimizer, views: Views, steps: range) -> list[float]:
    losses = []
    for step in steps:
        images = views(8, 8, count=10, seed=step)
        optimizer.zero_grad()
        done = accumulate_gradients(
            method, lambda rows, images=images: [v[rows] for v in images], count=10, bn_group=5, seed=step
        )
        optimizer.step()
        method.after_step(done.projections, (step + 1) / 6)
        losses.append(done.step.loss.item())
    return losses


def test_a_state_goes_on_to_the_same_bytes(make: Make, views: Views) -> None:
    """Queue, its place, slow copy and statistics are all in the state; a new method of another seed takes it over."""

    def optimized(method: Method) -> torch.optim.Optimizer:
        built = build_optimizer(parameter_groups(method, weight_decay=1e-2), name="adamw")
        for group in built.param_groups:
            group["lr"] = 1e-2
        return built

    whole, half, resumed = (make("moco", queue_size=24, seed=seed) for seed in (0, 0, 1))
    optimizers = [optimized(method) for method in (whole, half, resumed)]
    wanted = train(whole, optimizers[0], views, range(6))
    train(half, optimizers[1], views, range(3))
    resumed.load_state_dict(load(save(half.state_dict())))
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    assert train(resumed, optimizers[2], views, range(3, 6)) == wanted[3:]
    state = resumed.state_dict()
    assert int(state["oldest"]) == 60 % 24
    for name, tensor in whole.state_dict().items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize(
    ("samples", "size"), [(20_000, 4096), (8193, 4096), (8192, 4096), (8191, 4095), (9, 4), (2, 1)]
)
def test_by_default_the_queue_is_half_the_pool_at_most(samples: int, size: int) -> None:
    chosen = MoCo.suited({}, Pool(samples))
    assert chosen["queue_size"][0] == size
    assert f"{samples:,}" in chosen["queue_size"][1]


@pytest.mark.parametrize("options", [{"queue_size": 10}, {"queue_size": 1, "momentum": 0.9}])
def test_a_queue_that_fits_is_taken(options: dict[str, Any]) -> None:
    assert MoCo.suited(options, Pool(20)) == {}


def test_a_queue_of_more_than_half_the_pool_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        MoCo.suited({"queue_size": 11}, Pool(20))
    assert str(raised.value) == (
        "method.queue_size = 11 is more than half of the 20 images, so the queue would hold many views of the "
        "batch's own samples as negatives: give at most 10"
    )


@pytest.mark.parametrize(("option", "value"), [("queue_size", 0), ("momentum", 1.0), ("temperature", 0.0)])
def test_options_out_of_range(option: str, value: float, make: Make) -> None:
    with pytest.raises(UsageError, match=rf"method\.{option} = {value}: Input should be"):
        make("moco", **{option: value})
