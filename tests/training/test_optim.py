"""Optimisers on steps worked out by hand; schedules as pure functions of the step."""

import math

import pytest
import torch
from torch import Tensor, nn

from twoviews.training.optim import LARS, build_optimizer, parameter_groups, scaled_lr, schedule


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def values(tensor: Tensor) -> list[float]:
    return [float(v) for v in tensor.detach().flatten()]


class TestLARS:
    """By hand: g' = g + wd w; v = momentum v + lr r g'; w = w - v; r = trust |w| / |g'|."""

    def test_the_rate_lies_inside_the_momentum(self) -> None:
        w = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
        optimizer = LARS([w], lr=2.0, momentum=0.9, weight_decay=0.1, trust=1e-3)
        w.grad = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
        optimizer.step()
        # g' = (0.6, 0.8), |g'| = 1, |w| = 5, r = 0.005, v = 2 x 0.005 g' = (0.006, 0.008)
        assert values(w) == pytest.approx([2.994, 3.992], rel=1e-12)
        assert values(optimizer.state[w]["momentum_buffer"]) == pytest.approx([0.006, 0.008], rel=1e-12)

        optimizer.param_groups[0]["lr"] = 1.0
        w.grad = torch.tensor([[0.3006, 0.4008]], dtype=torch.float64)
        optimizer.step()
        # g' = (0.6, 0.8) again, |w| = 4.99, r = 0.00499; the old rate of 2 stays in v:
        # v = 0.9 (0.006, 0.008) + 1 x 0.00499 (0.6, 0.8) = (0.008394, 0.011192)
        assert values(w) == pytest.approx([2.985606, 3.980808], rel=1e-12)
        assert values(optimizer.state[w]["momentum_buffer"]) == pytest.approx([0.008394, 0.011192], rel=1e-12)

        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()  # a rate of 0 moves on by momentum alone: v = 0.9 (0.008394, 0.011192)
        assert values(w) == pytest.approx([2.985606 - 0.0075546, 3.980808 - 0.0100728], rel=1e-12)

    def test_an_excluded_group_is_plain_momentum(self) -> None:
        b = weight(3.0, 4.0)
        optimizer = LARS([{"params": [b], "adapt": False, "weight_decay": 0.0}], lr=0.5, momentum=0.9, weight_decay=0.1)
        b.grad = torch.tensor([1.0, 2.0], dtype=torch.float64)
        optimizer.step()
        assert values(b) == pytest.approx([2.5, 3.0], rel=1e-12)
        optimizer.step()  # v = 0.9 (0.5, 1) + 0.5 (1, 2) = (0.95, 1.9)
        assert values(b) == pytest.approx([1.55, 1.1], rel=1e-12)

    @pytest.mark.parametrize("start", [(0.0, 0.0), (3.0, 4.0)])
    def test_a_norm_of_zero_is_not_adapted(self, start: tuple[float, float]) -> None:
        w = weight(*start)
        optimizer = LARS([w], lr=0.5, momentum=0.0)
        w.grad = torch.tensor([1.0, -1.0] if start == (0.0, 0.0) else [0.0, 0.0], dtype=torch.float64)
        optimizer.step()
        assert values(w) == pytest.approx([-0.5, 0.5] if start == (0.0, 0.0) else list(start), rel=1e-12)

    def test_each_weight_has_its_own_rate(self) -> None:
        a, b = weight(3.0, 4.0), weight(0.0, 1.0)
        optimizer = LARS([a, b], lr=1.0, momentum=0.0)
        a.grad, b.grad = (torch.tensor([0.0, 2.0], dtype=torch.float64) for _ in range(2))
        optimizer.step()
        assert values(a) == pytest.approx([3.0, 4.0 - 0.001 * 5], rel=1e-12)
        assert values(b) == pytest.approx([0.0, 1.0 - 0.001 * 1], rel=1e-12)

    def test_a_weight_without_gradient_stays(self) -> None:
        a, b = weight(1.0), weight(1.0)
        optimizer = LARS([a, b], lr=1.0)
        a.grad = torch.ones_like(a)
        optimizer.step()
        assert values(b) == [1.0]
        assert b not in optimizer.state
        assert values(a) != [1.0]

    def test_gradients_are_left_as_they_are(self) -> None:
        w = weight(1.0, 2.0)
        w.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
        LARS([w], lr=1.0, weight_decay=0.5).step()
        assert values(w.grad) == [1.0, 1.0]

    def test_state_goes_through_a_dictionary(self) -> None:
        results = []
        for interrupted in (False, True):
            w = weight(3.0, 4.0)
            optimizer = LARS([w], lr=1.0)
            for step in range(4):
                if interrupted and step == 2:
                    state = optimizer.state_dict()
                    optimizer = LARS([w], lr=9.0)
                    optimizer.load_state_dict(state)
                w.grad = torch.tensor([1.0, step], dtype=torch.float64)
                optimizer.step()
            results.append(values(w))
        assert results[0] == results[1]

    def test_closure(self) -> None:
        w = weight(1.0)

        def closure() -> float:
            loss = (w * w).sum()
            loss.backward()
            return loss.item()

        assert LARS([w], lr=1.0).step(closure) == 1.0
        assert values(w) == pytest.approx([0.999])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 2).requires_grad_(False)


def test_biases_and_norms_are_neither_decayed_nor_adapted() -> None:
    net = Net()
    weights, rest = parameter_groups(net, weight_decay=0.3, lr_ratio=0.25)
    assert {id(p) for p in weights["params"]} == {id(net.conv.weight), id(net.linear.weight)}
    assert {id(p) for p in rest["params"]} == {
        id(p) for p in (net.conv.bias, net.norm.weight, net.norm.bias, net.linear.bias)
    }
    assert (weights["weight_decay"], weights["adapt"], weights["lr_ratio"]) == (0.3, True, 0.25)
    assert (rest["weight_decay"], rest["adapt"], rest["lr_ratio"]) == (0.0, False, 0.25)


def test_an_empty_group_is_left_out() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), weight_decay=0.1)) == 1


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("lars", LARS)])
def test_optimizers_by_name(name: str, kind: type) -> None:
    net = Net()
    optimizer = build_optimizer(parameter_groups(net, weight_decay=0.3), name=name, momentum=0.8)
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(group["lr_ratio"] == 1.0 for group in optimizer.param_groups)
    momenta = [group["betas"][0] if name == "adamw" else group["momentum"] for group in optimizer.param_groups]
    assert momenta == [0.8, 0.8]
    if name == "lars":
        assert [group["adapt"] for group in optimizer.param_groups] == [True, False]


@pytest.mark.parametrize(
    ("batch_size", "scaling", "wanted"),
    [(4096, "linear", 4.8), (4096, "sqrt", 1.2), (4096, "none", 0.3), (64, "linear", 0.075), (64, "sqrt", 0.15)],
)
def test_scaled_rate(batch_size: int, scaling: str, wanted: float) -> None:
    assert scaled_lr(0.3, batch_size=batch_size, reference=256, scaling=scaling) == pytest.approx(wanted, rel=1e-12)


class TestSchedule:
    def test_warm_up_then_cosine(self) -> None:
        got = [schedule(s, steps=10, warmup=0.2) for s in range(10)]
        wanted = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
        assert got == pytest.approx(wanted, rel=1e-12)

    def test_the_first_step_moves_and_the_last_too(self) -> None:
        for steps in (1, 2, 3, 100):
            assert schedule(0, steps=steps, warmup=0.1) > 0
            assert schedule(steps - 1, steps=steps, warmup=0.1) > 0

    def test_without_warm_up_it_starts_at_the_peak(self) -> None:
        assert schedule(0, steps=10, warmup=0.0) == 1.0

    def test_all_warm_up(self) -> None:
        assert [schedule(s, steps=4, warmup=1.0) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]

    def test_constant(self) -> None:
        assert [schedule(s, steps=4, warmup=0.5, shape="constant") for s in range(4)] == [0.5, 1.0, 1.0, 1.0]

    @pytest.mark.parametrize("warmup", [0.0, 0.1, 0.37, 1.0])
    def test_it_rises_then_falls_within_the_peak(self, warmup: float) -> None:
        got = [schedule(s, steps=200, warmup=warmup) for s in range(200)]
        top = got.index(max(got))
        assert max(got) == 1.0
        assert min(got) > 0
        assert got[: top + 1] == sorted(got[: top + 1])
        assert got[top:] == sorted(got[top:], reverse=True)
