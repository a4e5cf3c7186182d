"""Chunks and cached gradients against the graph of the whole batch, made in the plainest way."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twoviews.compute import mixed_seed
from twoviews.encoders import build_encoder
from twoviews.methods import Method, build_method
from twoviews.training.large_batch import accumulate_gradients, synchronise_norms
from twoviews.training.optim import build_optimizer, parameter_groups

BATCH, CHUNK = 1024, 64


def one_shot(method: Method, views: list[Tensor], *, seed: int) -> Tensor:
    """The definition: every group projected with its graph, one comparison, one backward pass."""
    parts, targets = [], []
    for index, start in enumerate(range(0, len(views[0]), CHUNK)):
        torch.manual_seed(mixed_seed(seed, index))  # the dropout of that group
        group = [view[start : start + CHUNK] for view in views]
        parts.append(method.project(group))
        with torch.no_grad():
            targets.append(method.targets(group))
    joined = {name: torch.cat([part[name] for part in outputs]) for outputs in (parts, targets) for name in outputs[0]}
    torch.manual_seed(mixed_seed(seed, -1))
    step = method.compare(joined)
    step.loss.backward()
    torch.manual_seed(seed)
    method.after_step({name: tensor.detach() for name, tensor in joined.items()}, 0.0)
    return step.loss.detach()


def chunked(method: Method, views: list[Tensor], *, seed: int, micro_batch: int = CHUNK) -> Tensor:
    done = accumulate_gradients(
        method,
        lambda rows: [view[rows] for view in views],
        count=len(views[0]),
        bn_group=CHUNK,
        micro_batch=micro_batch,
        seed=seed,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method.after_step(done.projections, 0.0)
    return done.step.loss


PAIRS = [
    ("simclr", "group"),
    ("simclr", "batch"),
    ("simclr", "transformer"),
    ("simclr", "batch-dropout"),
    ("momentum", "batch"),
    ("plain", "group"),
    ("own_method", "batch"),
    ("chance", "batch-cumulative"),
]


def largest_difference(one: Method, other: Method) -> float:
    """Over all weights: norm of the difference of the gradients over their norm."""
    others = dict(other.named_parameters())
    worst = 0.0
    for name, parameter in one.named_parameters():
        wanted = others[name].grad
        assert (parameter.grad is None) == (wanted is None) == (not parameter.requires_grad), name
        if parameter.grad is not None and wanted is not None:
            assert wanted.norm() > 0, name
            worst = max(worst, float((parameter.grad - wanted).norm() / wanted.norm()))
    return worst


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("method", "encoder"), PAIRS)
def test_gradients_of_a_large_batch(
    method: str, encoder: str, dtype: torch.dtype, tolerance: float, worker: ModuleType
) -> None:
    views = worker.views_of(BATCH, 0, dtype)
    whole, cut = worker.make(method, encoder, dtype), worker.make(method, encoder, dtype)
    losses = one_shot(whole, views, seed=3), chunked(cut, views, seed=3)
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=tolerance)
    assert largest_difference(cut, whole) < tolerance


@pytest.mark.parametrize("micro_batch", [128, 960, 1024])
def test_micro_batches_of_several_groups(micro_batch: int, worker: ModuleType) -> None:
    views = worker.views_of(BATCH, 0, torch.float32)
    small, large = (worker.make("simclr", "batch-dropout", torch.float32) for _ in range(2))
    assert chunked(small, views, seed=1).item() == chunked(large, views, seed=1, micro_batch=micro_batch).item()
    assert largest_difference(small, large) == 0.0
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, large.state_dict()[name]), name


def weights_after(worker: ModuleType, step: Any, method: str, encoder: str, dtype: torch.dtype) -> tuple[Any, Method]:
    """20 steps of SGD with momentum on batches of 256 in chunks of 64."""
    trained: Method = worker.make(method, encoder, dtype)
    optimizer = build_optimizer(parameter_groups(trained, weight_decay=1e-4), name="sgd")
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    losses = []
    for number in range(20):
        optimizer.zero_grad()
        losses.append(step(trained, worker.views_of(256, number, dtype), seed=number).item())
        optimizer.step()
    return losses, trained


@pytest.mark.parametrize(("method", "encoder"), PAIRS)
def test_weights_after_twenty_steps(method: str, encoder: str, worker: ModuleType) -> None:
    whole, reference = weights_after(worker, one_shot, method, encoder, torch.float64)
    cut, trained = weights_after(worker, chunked, method, encoder, torch.float64)
    assert cut == pytest.approx(whole, rel=1e-10)
    parameters = dict(reference.named_parameters())
    for name, parameter in trained.named_parameters():
        assert (parameter - parameters[name]).norm() <= 1e-8 * parameters[name].norm(), name


@pytest.mark.parametrize(("method", "encoder"), PAIRS[:2])
def test_loss_curve_in_single_precision(method: str, encoder: str, worker: ModuleType) -> None:
    whole, _ = weights_after(worker, one_shot, method, encoder, torch.float32)
    cut, _ = weights_after(worker, chunked, method, encoder, torch.float32)
    assert cut == pytest.approx(whole, rel=0.01)
    assert whole[-1] < whole[0]


def test_the_caller_s_generator_goes_on(worker: ModuleType) -> None:
    method, views = worker.make("simclr", "batch-dropout", torch.float32), worker.views_of(128, 0, torch.float32)
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    chunked(method, views, seed=0)
    assert torch.equal(torch.cat([first, torch.rand(1)]), wanted)


def test_only_the_micro_batch_has_a_graph(worker: ModuleType) -> None:
    """Bytes kept for the backward pass while the loss is computed: those of the micro-batch."""
    views = worker.views_of(256, 0, torch.float32)

    def kept(micro_batch: int) -> int:
        method = worker.make("simclr", "group", torch.float32)
        weights = {tensor.data_ptr() for tensor in (*method.parameters(), *method.buffers())}
        bytes_at_comparison, held = [], {}
        compare = method.compare

        def watched(*arguments: Any) -> Any:
            bytes_at_comparison.append(sum(held.values()))
            return compare(*arguments)

        def note(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights:
                held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        method.compare = watched
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            chunked(method, views, seed=0, micro_batch=micro_batch)
        return int(bytes_at_comparison[0])

    assert 3.5 < kept(256) / kept(64) < 4.5


def test_targets_are_computed_once(worker: ModuleType) -> None:
    method = worker.make("momentum", "batch", torch.float64)
    calls = {"project": 0, "targets": 0}
    for name in calls:
        original = getattr(method, name)

        def counted(views: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(views)

        setattr(method, name, counted)
    chunked(method, worker.views_of(256, 0, torch.float64), seed=0)
    assert calls == {"project": 4 + 3, "targets": 4}  # the first chunk keeps its graph


def test_comparison_is_in_single_precision_under_autocast(worker: ModuleType) -> None:
    method = worker.make("plain", "group", torch.float32)
    seen = []
    compare = method.compare

    def watched(projections: Any, labels: Any) -> Any:
        seen.extend(tensor.dtype for tensor in projections.values())
        assert not torch.is_autocast_enabled("cpu")
        return compare(projections, labels)

    method.compare = watched
    views = worker.views_of(64, 0, torch.float32)
    done = accumulate_gradients(
        method,
        lambda rows: [view[rows] for view in views],
        count=64,
        bn_group=64,
        autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    )
    assert seen == [torch.float32] * 2
    assert done.step.loss.dtype == torch.float32
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "efficientnet_b0"])
def test_norms_over_all_processes_leave_the_network_what_it_was(name: str) -> None:
    method = build_method("byol", build_encoder(name, image_size=32), options={})
    weights, state = [*method.parameters()], list(method.state_dict())
    images = torch.rand(2, 3, 32, 32)
    before = method.eval().encoder(images)
    synchronise_norms(method)
    assert torch.equal(method.encoder(images), before)
    assert [id(p) for p in method.parameters()] == [id(p) for p in weights]
    assert list(method.state_dict()) == state
    norms = [module for module in method.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
