"""What every method of `METHODS` promises; a new one is tested by being in the list."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twoviews.methods import METHODS, Distillation, Method, Pool, Projections, Step, build_method
from twoviews.training.large_batch import Accumulated, accumulate_gradients

FEATURES = 16


class Small(nn.Module):
    """(B, 1, 8, 8) -> (B, 16), with one BatchNorm and no parameter that normalisation makes idle."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8 * 36, FEATURES, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.linear(self.norm(self.conv(images)).relu().flatten(1))
        return features


def make(name: str, *, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"teacher": "a run", "classes": 3} if name == "distillation" else {}
    chosen = METHODS[name].suited(options, Pool(64, labelled=64, classes=3))
    options |= {key: value for key, (value, _) in chosen.items()}
    method = build_method(name, Small().double(), options=options).double()
    if isinstance(method, Distillation):
        method.learn_from(teacher())
    return method


def teacher() -> nn.Module:
    """A classifier of three classes that is sure of itself: the loss cannot fall below the entropy of its labels."""
    with torch.random.fork_rng():
        torch.manual_seed(99)
        head = nn.Linear(FEATURES, 3)
        nn.init.normal_(head.weight, std=10.0)
        return nn.Sequential(Small(), head).double()


def views_of(method: Method, *, count: int = 24, seed: int = 1) -> list[Tensor]:
    """Noisy views of `count` random images, each (count, 1, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(method.n_views, count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return [images + 0.7 * one for one in noise]


def norms_of(method: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def outputs(method: Method, views: Sequence[Tensor]) -> Projections:
    """What `compare` gets: projections, and targets without gradient."""
    with torch.no_grad():
        targets = method.targets(views)
    return {**method(views), **targets}


def accumulate(
    method: Method, views: Sequence[Tensor], *, bn_group: int, micro_batch: int | None = None
) -> Accumulated:
    labels = torch.arange(len(views[0])) % 3 if method.uses_labels else None
    return accumulate_gradients(
        method,
        lambda rows: [view[rows] for view in views],
        count=len(views[0]),
        bn_group=bn_group,
        micro_batch=micro_batch,
        labels=labels,
    )


def compare(method: Method, projections: Projections) -> Step:
    labels = torch.arange(len(next(iter(projections.values())))) % 3 if method.uses_labels else None
    return method.compare(projections, labels)


pytestmark = pytest.mark.parametrize("name", METHODS)


def test_projections_are_one_row_a_sample(name: str) -> None:
    method = make(name)
    assert method.n_views >= 1
    views = views_of(method, count=6)
    projections, targets = method(views), method.targets(views)
    assert projections
    assert not projections.keys() & targets.keys()
    assert all(len(tensor) == 6 for tensor in (*projections.values(), *targets.values()))
    assert any(tensor.requires_grad for tensor in projections.values())


def test_compare_gives_a_scalar_and_scalars(name: str) -> None:
    method = make(name)
    step = compare(method, outputs(method, views_of(method)))
    assert step.loss.shape == ()
    assert math.isfinite(step.loss.item())
    for value in step.metrics.values():
        assert value.shape == ()
        assert not value.requires_grad


def test_every_parameter_gets_a_gradient(name: str) -> None:
    method = make(name)
    compare(method, outputs(method, views_of(method))).loss.backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


def test_the_loss_falls(name: str) -> None:
    method = make(name)
    views = views_of(method, count=64)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    # Without `after_step`: queues and momentum networks stand still, so that what the optimiser does is seen alone, and
    # a queue is not filled with the same samples again.
    for _ in range(25):
        optimizer.zero_grad()
        done = accumulate(method, views, bn_group=64)
        optimizer.step()
        losses.append(done.step.loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_compare_is_pure(name: str) -> None:
    method = make(name)
    projections = outputs(method, views_of(method))
    free = {key: tensor.detach().clone().requires_grad_(tensor.requires_grad) for key, tensor in projections.items()}
    before = {key: tensor.detach().clone() for key, tensor in free.items()}
    state = copy.deepcopy(method.state_dict())
    generator = torch.get_rng_state()
    first, second = compare(method, free), compare(method, free)
    assert first.loss.item() == second.loss.item()
    assert {k: v.item() for k, v in first.metrics.items()} == {k: v.item() for k, v in second.metrics.items()}
    first.loss.backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    for key, tensor in free.items():
        assert torch.equal(tensor, before[key])
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, state[key])


def test_compare_knows_no_order_of_samples(name: str) -> None:
    method = make(name)
    projections = outputs(method, views_of(method))
    order = 3 * torch.randperm(8, generator=torch.Generator().manual_seed(0)).repeat_interleave(3)
    order += torch.arange(3).repeat(8)  # keeps the labels where they are
    moved = {key: tensor[order] for key, tensor in projections.items()}
    assert compare(method, moved).loss.item() == pytest.approx(compare(method, projections).loss.item(), rel=1e-12)


def test_chance_is_the_loss_of_unrelated_projections(name: str) -> None:
    method = make(name)
    chance = method.chance_loss(24)
    if chance is None:
        return
    # Small, so that what is no direction but a logit says nothing either.
    unrelated = {
        key: 1e-3 * torch.randn(tensor.shape, dtype=tensor.dtype, generator=torch.Generator().manual_seed(seed))
        for seed, (key, tensor) in enumerate(outputs(method, views_of(method)).items())
    }
    # Directions of finitely many dimensions are not quite orthogonal.
    assert compare(method, unrelated).loss.item() == pytest.approx(chance, rel=0.15, abs=0.1)


def test_the_seed_decides_everything(name: str) -> None:
    one, same, other = make(name, seed=3), make(name, seed=3), make(name, seed=4)
    losses = [compare(m, outputs(m, views_of(m))).loss.item() for m in (one, same, other)]
    assert losses[0] == losses[1] != losses[2]


def test_state_goes_through_bytes(name: str) -> None:
    from safetensors.torch import load, save

    method, other = make(name, seed=0), make(name, seed=1)
    outputs(method, views_of(method))  # moves the running statistics away from those of a new one
    other.load_state_dict(load(save(method.state_dict())))
    for mode in (False, True):
        method.train(mode)
        other.train(mode)
        losses = [compare(m, outputs(m, views_of(m))).loss.item() for m in (method, other)]
        assert losses[0] == losses[1]


def test_groups_project_as_each_alone(name: str) -> None:
    method = make(name)
    views = views_of(method)
    state = copy.deepcopy(method.state_dict())
    joined = accumulate(method, views, bn_group=8).projections
    for start in (0, 8, 16):
        method.load_state_dict(state)
        alone = outputs(method, [view[start : start + 8] for view in views])
        assert alone.keys() == joined.keys()
        for key, tensor in alone.items():
            assert torch.equal(joined[key][start : start + 8], tensor)
    method.load_state_dict(state)
    whole = outputs(method, views)
    assert any(not torch.allclose(joined[key], whole[key]) for key in whole)  # the groups matter


def test_one_group_is_the_plain_step(name: str) -> None:
    method, plain = make(name), make(name)
    views = views_of(method)
    done = accumulate(method, views, bn_group=24)
    wanted = outputs(plain, views)
    step = compare(plain, wanted)
    step.loss.backward()
    assert done.step.loss.item() == step.loss.item()
    for key, tensor in wanted.items():
        assert torch.equal(done.projections[key], tensor)
        assert not done.projections[key].requires_grad
    for key, tensor in plain.state_dict().items():
        assert torch.equal(method.state_dict()[key], tensor)
    same_gradients(method, plain, tolerance=0)


@pytest.mark.parametrize("micro_batch", [4, 8, 20])
def test_a_micro_batch_changes_no_bit(name: str, micro_batch: int) -> None:
    whole, cut = make(name), make(name)
    views = views_of(whole)
    one, other = accumulate(whole, views, bn_group=4), accumulate(cut, views, bn_group=4, micro_batch=micro_batch)
    assert one.step.loss.item() == other.step.loss.item()
    assert {k: v.item() for k, v in one.step.metrics.items()} == {k: v.item() for k, v in other.step.metrics.items()}
    for key, tensor in whole.state_dict().items():
        assert torch.equal(cut.state_dict()[key], tensor), key
    same_gradients(whole, cut, tolerance=0)


def same_gradients(one: Method, other: Method, *, tolerance: float) -> None:
    gradients = dict(other.named_parameters())
    for key, parameter in one.named_parameters():
        wanted = gradients[key].grad
        assert (parameter.grad is None) == (wanted is None), key
        if parameter.grad is not None and wanted is not None:
            assert (parameter.grad - wanted).norm() <= tolerance * wanted.norm(), key


def group_statistics(method: Method, views: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of one group at every normalisation layer."""
    copied = copy.deepcopy(method)
    for norm in norms_of(copied):
        norm.momentum = 1.0
    outputs(copied, views)
    return [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms_of(copied)]  # type: ignore[union-attr]


@pytest.mark.parametrize("micro_batch", [6, None])
@pytest.mark.parametrize("momentum", [0.1, 0.9])
def test_running_statistics_move_once_by_the_mean_over_groups(
    name: str, momentum: float, micro_batch: int | None
) -> None:
    method = make(name)
    views = views_of(method)
    outputs(method, views_of(method, seed=9))  # old statistics that are not those of a new layer
    norms = norms_of(method)
    assert norms
    for norm in norms:
        norm.momentum = momentum
    old = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr]
    counts = [int(norm.num_batches_tracked) for norm in norms]  # type: ignore[arg-type]
    groups = [group_statistics(method, [v[i : i + 6] for v in views]) for i in range(0, 24, 6)]
    accumulate(method, views, bn_group=6, micro_batch=micro_batch)
    assert [int(norm.num_batches_tracked) for norm in norms] == [count + 1 for count in counts]  # type: ignore[arg-type]
    for index, norm in enumerate(norms):
        for which, now in enumerate((norm.running_mean, norm.running_var)):
            mean = torch.stack([group[index][which] for group in groups]).mean(0)
            wanted = (1 - momentum) * old[index][which] + momentum * mean
            assert torch.allclose(now, wanted, rtol=1e-12, atol=1e-14)  # type: ignore[arg-type]
        assert norm.momentum == momentum


def test_momenta_are_put_back_after_a_failure(name: str) -> None:
    method = make(name)
    before = [norm.momentum for norm in norms_of(method)]

    def broken(rows: slice) -> list[Tensor]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        accumulate_gradients(method, broken, count=24, bn_group=8)
    assert [norm.momentum for norm in norms_of(method)] == before


def test_norms_in_evaluation_stay(name: str) -> None:
    method = make(name).eval()
    state = copy.deepcopy(method.state_dict())
    accumulate(method, views_of(method), bn_group=8)
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, state[key])


def test_numbers_that_do_not_divide(name: str) -> None:
    method = make(name)
    for bn_group, micro_batch in ((5, None), (8, 12)):
        with pytest.raises(ValueError, match=f"must be multiples of bn_group {bn_group}"):
            accumulate(method, views_of(method), bn_group=bn_group, micro_batch=micro_batch)
