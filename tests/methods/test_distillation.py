"""Distillation: the loss of the paper, a teacher that nothing moves, and a state that is the student's alone."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from twoviews.errors import UsageError
from twoviews.methods import Distillation, Method, Pool
from twoviews.training.large_batch import accumulate_gradients
from twoviews.training.optim import build_optimizer, parameter_groups

Make = Callable[..., Method]
Views = Callable[..., list[Tensor]]


@pytest.fixture
def teacher(worker: ModuleType) -> Callable[..., nn.Module]:
    """`teacher()`: normalised, and with dropout, so that it shows in which mode it is."""

    def build(classes: int = 3) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(42)
            body = worker.Convolutions("batch", dropout=0.3)
            return nn.Sequential(body, nn.Linear(worker.FEATURES, classes)).double()

    return build


@pytest.fixture
def student(make: Make, teacher: Callable[..., nn.Module]) -> Callable[..., Distillation]:
    """`student(**options)`: with a teacher."""

    def build(**options: Any) -> Distillation:
        method = make("distillation", **options)
        assert isinstance(method, Distillation)
        method.learn_from(teacher())
        return method

    return build


def logits(count: int = 6, classes: int = 3) -> Mapping[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(count, classes, generator=generator, dtype=torch.float64) for n in ("logits", "target")}


def softmax(row: Tensor, temperature: float) -> Sequence[float]:
    powers = [math.exp(value / temperature) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_loss_is_that_of_the_paper(temperature: float, weight: float, student: Callable[..., Distillation]) -> None:
    """Chen et al. 2020b, eq. 2 and 3 with alpha = 1 - weight, as a loop; the soft part times T^2."""
    method = student(temperature=temperature, labelled_weight=weight)
    found, labels = logits(), [2, -1, 0, -1, -1, 1]
    soft, hard, same = 0.0, 0.0, 0
    for ours, theirs, label in zip(found["logits"], found["target"], labels, strict=True):
        p_student, p_teacher = softmax(ours, temperature), softmax(theirs, temperature)
        soft -= sum(p * math.log(q) for p, q in zip(p_teacher, p_student, strict=True))
        if label >= 0:
            hard -= math.log(softmax(ours, 1.0)[label])
        same += int(ours.argmax()) == int(theirs.argmax())
    wanted = (1 - weight) * temperature**2 * soft / 6 + weight * hard / 3
    step = method.compare(found, torch.tensor(labels) if method.uses_labels else None)
    assert step.loss.item() == pytest.approx(wanted, rel=1e-12)
    assert step.metrics["agreement"].item() == pytest.approx(same / 6)


def test_labels_are_used_only_with_a_weight(student: Callable[..., Distillation]) -> None:
    assert not student().uses_labels
    method = student(labelled_weight=0.25)
    assert method.uses_labels
    found = logits()
    alone = student().compare(found).loss.item()
    for labels in (None, torch.full((6,), -1)):  # a batch in which no sample happens to have one
        assert method.compare(found, labels).loss.item() == pytest.approx(0.75 * alone, rel=1e-12)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (2.0, 0.0), (2.0, 0.5)])
def test_chance_is_a_student_that_says_the_same_of_all(
    temperature: float, weight: float, student: Callable[..., Distillation]
) -> None:
    method = student(temperature=temperature, labelled_weight=weight)
    found = {**logits(), "logits": torch.zeros(6, 3, dtype=torch.float64)}
    loss = method.compare(found, torch.arange(6) % 3).loss.item()
    assert loss == pytest.approx(method.chance_loss(6), rel=1e-12)


def test_both_see_the_same_view(student: Callable[..., Distillation], views: Views) -> None:
    method = student()
    assert method.n_views == 1
    seen: list[Tensor] = []
    for module in (method.encoder, method._teacher[0]):
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = views(8)
    accumulate_gradients(method, lambda rows: [view[rows] for view in images], count=8, bn_group=8)
    assert len(seen) == 2
    assert torch.equal(*seen)


def train(method: Method, optimizer: torch.optim.Optimizer, views: Views, steps: range) -> list[float]:
    losses = []
    for step in steps:
        images = views(8, count=12, seed=step)
        optimizer.zero_grad()
        done = accumulate_gradients(
            method,
            lambda rows, images=images: [v[rows] for v in images],  # type: ignore[misc]
            count=12,
            bn_group=4,
            micro_batch=4,
            seed=step,
        )
        optimizer.step()
        method.after_step(done.projections, (step + 1) / 6)
        losses.append(done.step.loss.item())
    return losses


def optimized(method: Method) -> torch.optim.Optimizer:
    built = build_optimizer(parameter_groups(method, weight_decay=1e-2), name="adamw")
    for group in built.param_groups:
        group["lr"] = 1e-2
    return built


def test_nothing_moves_the_teacher(student: Callable[..., Distillation], views: Views) -> None:
    method = student()
    (constant,) = method._teacher
    before, images = copy.deepcopy(constant.state_dict()), views(8)
    wanted = method.targets(images)["target"]
    train(method.train(), optimized(method), views, range(4))
    assert method.training
    assert not any(module.training for module in constant.modules())
    assert not any(p.requires_grad or p.grad is not None for p in constant.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in constant.state_dict().items())
    for mode in (True, False):
        method.train(mode)
        assert torch.equal(method.targets(images)["target"], wanted)
    assert not torch.equal(method.targets(views(8, seed=5))["target"], wanted)


def test_the_teacher_is_no_part_of_the_student(student: Callable[..., Distillation], make: Make) -> None:
    method, without = student(), make("distillation")
    (constant,) = method._teacher
    assert method.state_dict().keys() == without.state_dict().keys()
    own = set(map(id, constant.parameters()))
    assert not own & set(map(id, method.parameters()))
    assert constant not in set(method.modules())
    assert all(id(p) not in own for group in optimized(method).param_groups for p in group["params"])


def test_the_teacher_follows_where_the_student_goes(student: Callable[..., Distillation], views: Views) -> None:
    method = student()
    images = [view.float() for view in views(8)]
    assert method.float().targets(images)["target"].dtype == torch.float32
    method.to("meta")
    assert {p.device.type for p in method._teacher[0].parameters()} == {"meta"}


def test_a_copy_has_a_teacher_of_its_own(student: Callable[..., Distillation], views: Views) -> None:
    """As the rehearsal before a training makes one."""
    method = student()
    copied = copy.deepcopy(method)
    wanted = method.targets(views(8))["target"]
    assert torch.equal(copied.targets(views(8))["target"], wanted)
    copied.float()
    assert torch.equal(method.targets(views(8))["target"], wanted)


def test_a_state_goes_on_to_the_same_bytes(student: Callable[..., Distillation], views: Views) -> None:
    whole, half, resumed = student(seed=0), student(seed=0), student(seed=1)
    optimizers = [optimized(method) for method in (whole, half, resumed)]
    wanted = train(whole, optimizers[0], views, range(6))
    train(half, optimizers[1], views, range(3))
    resumed.load_state_dict(load(save(half.state_dict())))
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    assert train(resumed, optimizers[2], views, range(3, 6)) == wanted[3:]
    state = resumed.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.state_dict().items())


def test_a_student_learns_to_answer_as_its_teacher(student: Callable[..., Distillation], views: Views) -> None:
    method, images = student(), views(8, count=24)
    method._teacher[0][1].weight.mul_(30)  # sure of itself
    optimizer, agreed = optimized(method), []
    for step in range(30):
        optimizer.zero_grad()
        done = accumulate_gradients(
            method, lambda rows: [view[rows] for view in images], count=24, bn_group=24, seed=step
        )
        optimizer.step()
        agreed.append(done.step.metrics["agreement"].item())
    assert agreed[-1] == 1.0 > agreed[0]


def test_without_a_teacher(make: Make, views: Views) -> None:
    with pytest.raises(UsageError, match=r"has no teacher: start it with twoviews distill TEACHER_RUN DATA --out RUN"):
        make("distillation").targets(views(8))


@pytest.mark.parametrize("options", [{}, {"teacher": "runs/a"}, {"classes": 3}])
def test_a_teacher_must_be_named(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        Distillation.suited(options, Pool(20))
    assert str(raised.value) == (
        "method distillation needs a teacher and its classes: start it with twoviews distill TEACHER_RUN DATA --out RUN"
    )


def test_a_weight_of_labels_needs_labels() -> None:
    options = {"teacher": "runs/a", "classes": 3, "labelled_weight": 0.1}
    assert Distillation.suited(options, Pool(20, labelled=5, classes=3)) == {}
    with pytest.raises(UsageError, match=r"method.labelled_weight = 0.1, but the data has no labels: give --labelled"):
        Distillation.suited(options, Pool(20))
    assert Distillation.suited({**options, "labelled_weight": 0.0}, Pool(20)) == {}


@pytest.mark.parametrize(("option", "value"), [("temperature", 0.0), ("labelled_weight", 1.0), ("classes", 1)])
def test_options_out_of_range(option: str, value: float, make: Make) -> None:
    with pytest.raises(UsageError, match=rf"method\.{option} = {value}: Input should be"):
        make("distillation", **{option: value})
