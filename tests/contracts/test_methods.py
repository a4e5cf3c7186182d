"""What every method of `METHODS` promises; a new one is tested by being in the list."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from twoviews.methods import METHODS, Method, Projections, build_method
from twoviews.training.large_batch import project_in_groups

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
    return build_method(name, Small().double(), options={}).double()


def views_of(method: Method, *, count: int = 24, seed: int = 1) -> list[Tensor]:
    """Noisy views of `count` random images, each (count, 1, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(method.n_views, count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return [images + 0.7 * one for one in noise]


def norms_of(method: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


pytestmark = pytest.mark.parametrize("name", METHODS)


def test_projections_are_one_row_a_sample(name: str) -> None:
    method = make(name)
    assert method.n_views >= 1
    projections = method(views_of(method, count=6))
    assert projections.tensors
    for key, tensor in projections.tensors.items():
        assert len(tensor) == 6
        assert tensor.requires_grad != (key in projections.constant)


def test_compare_gives_a_scalar_and_scalars(name: str) -> None:
    method = make(name)
    step = method.compare(method(views_of(method)))
    assert step.loss.shape == ()
    assert math.isfinite(step.loss.item())
    for value in step.metrics.values():
        assert value.shape == ()
        assert not value.requires_grad


def test_every_parameter_gets_a_gradient(name: str) -> None:
    method = make(name)
    method.compare(method(views_of(method))).loss.backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


def test_the_loss_falls(name: str) -> None:
    method = make(name)
    views = views_of(method, count=64)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(25):
        projections = method(views)
        compared = method.compare(projections)
        optimizer.zero_grad()
        compared.loss.backward()
        optimizer.step()
        method.after_step(projections, (step + 1) / 25)
        losses.append(compared.loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_compare_is_pure(name: str) -> None:
    method = make(name)
    projections = method(views_of(method))
    free = Projections(
        {
            key: tensor.detach().clone().requires_grad_(key not in projections.constant)
            for key, tensor in projections.tensors.items()
        },
        projections.constant,
    )
    before = {key: tensor.detach().clone() for key, tensor in free.tensors.items()}
    state = copy.deepcopy(method.state_dict())
    generator = torch.get_rng_state()
    first = method.compare(free)
    second = method.compare(free)
    assert first.loss.item() == second.loss.item()
    assert {k: v.item() for k, v in first.metrics.items()} == {k: v.item() for k, v in second.metrics.items()}
    first.loss.backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    for key, tensor in free.tensors.items():
        assert torch.equal(tensor, before[key])
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, state[key])


def test_compare_knows_no_order_of_samples(name: str) -> None:
    method = make(name)
    projections = method(views_of(method))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    moved = Projections({k: t[order] for k, t in projections.tensors.items()}, projections.constant)
    assert method.compare(moved).loss.item() == pytest.approx(method.compare(projections).loss.item(), rel=1e-12)


def test_chance_is_the_loss_of_equal_projections(name: str) -> None:
    method = make(name)
    chance = method.chance_loss(24)
    if chance is None:
        return
    projections = method(views_of(method))
    equal = Projections({k: torch.ones_like(t) for k, t in projections.tensors.items()}, projections.constant)
    assert method.compare(equal).loss.item() == pytest.approx(chance, rel=1e-9)


def test_the_seed_decides_everything(name: str) -> None:
    one, same, other = make(name, seed=3), make(name, seed=3), make(name, seed=4)
    losses = [m.compare(m(views_of(m))).loss.item() for m in (one, same, other)]
    assert losses[0] == losses[1] != losses[2]


def test_state_goes_through_bytes(name: str) -> None:
    from safetensors.torch import load, save

    method, other = make(name, seed=0), make(name, seed=1)
    method(views_of(method))  # moves the running statistics away from those of a new one
    other.load_state_dict(load(save(method.state_dict())))
    for mode in (False, True):
        method.train(mode)
        other.train(mode)
        losses = [m.compare(m(views_of(m))).loss.item() for m in (method, other)]
        assert losses[0] == losses[1]


def test_groups_project_as_each_alone(name: str) -> None:
    method = make(name)
    views = views_of(method)
    state = copy.deepcopy(method.state_dict())
    joined = project_in_groups(method, views, bn_group=8, forward=method)
    for start in (0, 8, 16):
        method.load_state_dict(state)
        alone = method([view[start : start + 8] for view in views])
        assert alone.constant == joined.constant
        for key, tensor in alone.tensors.items():
            assert torch.equal(joined[key][start : start + 8], tensor)
    method.load_state_dict(state)
    whole = method(views)
    assert any(not torch.allclose(joined[key], whole[key]) for key in whole.tensors)  # the groups matter


def test_one_group_is_the_plain_projection(name: str) -> None:
    method, plain = make(name), make(name)
    views = views_of(method)
    joined = project_in_groups(method, views, bn_group=24, forward=method)
    wanted = plain(views)
    for key, tensor in wanted.tensors.items():
        assert torch.equal(joined[key], tensor)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(method.state_dict()[key], tensor)


def group_statistics(method: Method, views: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of one group at every normalisation layer."""
    copied = copy.deepcopy(method)
    for norm in norms_of(copied):
        norm.momentum = 1.0
    copied(views)
    return [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms_of(copied)]  # type: ignore[union-attr]


@pytest.mark.parametrize("momentum", [0.1, 0.9])
def test_running_statistics_move_once_by_the_mean_over_groups(name: str, momentum: float) -> None:
    method = make(name)
    views = views_of(method)
    method(views_of(method, seed=9))  # old statistics that are not those of a new layer
    norms = norms_of(method)
    assert norms
    for norm in norms:
        norm.momentum = momentum
    old = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr]
    groups = [group_statistics(method, [v[i : i + 6] for v in views]) for i in range(0, 24, 6)]
    project_in_groups(method, views, bn_group=6, forward=method)
    for index, norm in enumerate(norms):
        for which, now in enumerate((norm.running_mean, norm.running_var)):
            mean = torch.stack([group[index][which] for group in groups]).mean(0)
            wanted = (1 - momentum) * old[index][which] + momentum * mean
            assert torch.allclose(now, wanted, rtol=1e-12, atol=1e-14)  # type: ignore[arg-type]
        assert norm.momentum == momentum


def test_momenta_are_put_back_after_a_failure(name: str) -> None:
    class Broken(nn.Module):
        def forward(self, views: Sequence[Tensor]) -> Projections:
            raise RuntimeError("broken")

    method = make(name)
    before = [norm.momentum for norm in norms_of(method)]
    with pytest.raises(RuntimeError, match="broken"):
        project_in_groups(method, views_of(method), bn_group=8, forward=Broken())
    assert [norm.momentum for norm in norms_of(method)] == before


def test_norms_in_evaluation_stay(name: str) -> None:
    method = make(name).eval()
    state = copy.deepcopy(method.state_dict())
    project_in_groups(method, views_of(method), bn_group=8, forward=method)
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, state[key])
