"""Optimisers, parameter groups, and learning rates as pure functions of the step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """SimCLR's layer-wise adaptive rate: the learning rate lies inside the momentum buffer.

    For a weight w with gradient g: g' = g + weight_decay w; v = momentum v + lr r g'; w = w - v, where
    r = trust |w| / |g'|, and 1 where either norm is 0. Groups with `adapt=False` (biases and norms) use r = 1.
    You et al. 2017; the placement of lr as in google-research/simclr, which matters whenever lr changes.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; the whole group at once, without device synchronisation."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            grads: list[Tensor] = [p.grad for p in weights if p.grad is not None]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
            rates: list[Tensor] | list[float]
            if group["adapt"]:
                sizes = zip(torch._foreach_norm(weights), torch._foreach_norm(grads), strict=True)
                rates = [
                    group["lr"] * torch.where((w > 0) & (g > 0), group["trust"] * w / g, torch.ones_like(w))
                    for w, g in sizes
                ]
            else:
                rates = [group["lr"]] * len(weights)
            buffers = [self.state[p]["momentum_buffer"] for p in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, torch._foreach_mul(grads, rates))
            torch._foreach_sub_(weights, buffers)
        return loss


def parameter_groups(module: nn.Module, *, weight_decay: float, lr_ratio: float = 1.0) -> list[dict[str, Any]]:
    """Two groups: weights, and biases and norms (one axis or none), which are neither decayed nor adapted."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [  # lr_ratio: the group's rate as a part of the peak
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": weight_decay,
            "adapt": True,
            "lr_ratio": lr_ratio,
        },
        {
            "params": [p for p in trained if p.ndim <= 1],
            "weight_decay": 0.0,
            "adapt": False,
            "lr_ratio": lr_ratio,
        },
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    groups: list[dict[str, Any]], *, name: str, momentum: float = 0.9, eps: float = 1e-8
) -> torch.optim.Optimizer:
    """`adamw`, `adam`, `sgd` or `lars` over `parameter_groups`; the rate is set by the schedule before each step.

    `momentum`: Adam's first beta too. `eps`: Adam's. `adam` adds weight decay to the gradient, `adamw` takes it off the
    weights.
    """
    if name == "lars":
        return LARS(groups, lr=0.0, momentum=momentum)
    plain = [{key: value for key, value in group.items() if key != "adapt"} for group in groups]
    if name == "sgd":
        return torch.optim.SGD(plain, lr=0.0, momentum=momentum)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(plain, lr=0.0, betas=(momentum, 0.999), eps=eps)


def scaled_lr(lr: float, *, batch_size: int, reference: int, scaling: str) -> float:
    """Peak rate for a batch: unchanged, linear or square root in batch_size / reference (SimCLR, appendix B.1)."""
    ratio = batch_size / reference
    return lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


def schedule(step: int, *, steps: int, warmup: float, shape: str = "cosine") -> float:
    """The part of the peak rate at a step: linear warm-up over `warmup` x steps, then cosine to 0 or constant.

    >>> [round(schedule(s, steps=10, warmup=0.2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    if shape == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
