"""MoCo's queue and slow copy: order, wrap-around, exact mixing, what a data set allows, and going on from a state."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.streams import Streams
from twoviews.errors import UsageError
from twoviews.methods import Method, MoCo, Pool
from twoviews.methods.moco import own_keys
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


def blank(count: int) -> Corpus:
    return load_corpus(np.zeros((count, 4, 4), np.uint8))


STREAMS = [(60, 60, 30, 0, 0), (1198, 256, 599, 0, 0), (1198, 128, 700, 0, 0), (103, 10, 7, 0, 0)]
STREAMS += [(90, 12, 40, 20, 4), (90, 12, 40, 8, 8), (40, 16, 10, 8, 4)]


@pytest.mark.parametrize(("samples", "batch", "queue", "labelled", "labelled_batch"), STREAMS)
def test_own_keys_are_those_that_the_order_of_training_brings(
    samples: int, batch: int, queue: int, labelled: int, labelled_batch: int
) -> None:
    """Counted over epochs of the loop's own order of samples."""
    pool = Pool(samples, labelled=labelled, batch=batch, labelled_batch=labelled_batch)
    beside = blank(labelled) if labelled else None
    streams = Streams(blank(samples), batch - labelled_batch, beside, labelled_batch)
    kept: deque[int] = deque(maxlen=queue)
    found = []
    for step in range(200 * streams.steps_per_epoch):
        numbers = streams.numbers(seed=1, step=step)
        if labelled:  # each visit of a labelled image has a number of its own
            numbers = np.where(numbers < samples, numbers, samples + (numbers - samples) % labelled)
        if len(kept) == queue:
            counts = Counter(kept)
            found.append(sum(counts[item] for item in numbers.tolist()))
        kept.extend(numbers.tolist())
    epoch = streams.steps_per_epoch
    whole = found[len(found) % epoch :]
    expected = own_keys(queue, pool) * len(whole) * batch
    assert sum(whole) == pytest.approx(expected, abs=4 * expected**0.5 + 0.02 * expected)


def test_labels_of_the_pool_itself_are_no_stream_beside_it() -> None:
    assert own_keys(30, Pool(60, labelled=60, classes=3, batch=20)) == own_keys(30, Pool(60, batch=20))


@pytest.mark.parametrize(
    ("samples", "batch", "size"),
    [(50_000, 512, 4096), (20_000, 256, 4096), (8192, 256, 3968), (1198, 128, 525), (1198, 256, 427), (60, 60, 7)],
)
def test_by_default_queries_seldom_find_their_own_image(samples: int, batch: int, size: int) -> None:
    chosen, reason = MoCo.suited({}, Pool(samples, batch=batch))["queue_size"]
    assert chosen == size
    assert own_keys(size, Pool(samples, batch=batch)) <= 1 / 8
    assert size == 4096 or own_keys(size + 1, Pool(samples, batch=batch)) > 1 / 8
    assert size <= samples // 2
    assert reason.startswith(f"{samples:,} images in batches of {batch}: a query finds 0.")


def test_a_queue_has_a_key_however_small_the_pool() -> None:
    assert MoCo.suited({}, Pool(2, batch=2))["queue_size"][0] == 1


@pytest.mark.parametrize("options", [{"queue_size": 9}, {"queue_size": 1, "momentum": 0.9}])
def test_a_queue_that_fits_is_taken_and_told(options: dict[str, Any]) -> None:
    assert {name: value for name, (value, _) in MoCo.suited(options, Pool(20)).items()} == {
        "queue_size": options["queue_size"]
    }


def test_a_queue_that_holds_the_images_of_the_batch_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        MoCo.suited({"queue_size": 599}, Pool(1198, batch=256))
    assert str(raised.value) == (
        "method.queue_size = 599: with 1,198 images in batches of 256, a query would find 0.21 older keys of its own "
        "image, in the mean, and push it away; 0.125 and half of the images are the limit: give at most 427, or a "
        "smaller batch"
    )
    MoCo.suited({"queue_size": 427}, Pool(1198, batch=256))


@pytest.mark.parametrize(("option", "value"), [("queue_size", 0), ("momentum", 1.0), ("temperature", 0.0)])
def test_options_out_of_range(option: str, value: float, make: Make) -> None:
    with pytest.raises(UsageError, match=rf"method\.{option} = {value}: Input should be"):
        make("moco", **{option: value})
