"""The division of the work: which tiles a share has, and that shares in lockstep give what one process gives."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from twoviews import distributed
from twoviews.losses import (
    NTXentLoss,
    dcl_with_accuracy,
    info_nce_with_accuracy,
    key_info_nce_with_accuracy,
    nt_xent_with_accuracy,
    queue_info_nce_with_accuracy,
    sup_con,
    tiles,
)


def rows(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("sizes", [(12, 12), (10, 10), (7, 16), (16, 7), (2, 2)])
def test_shares_are_disjoint_even_and_all(sizes: tuple[int, int], n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 3)
    x, y = rows(sizes[0], 4, 0), rows(sizes[1], 4, 1)
    for upper in (False, True) if sizes[0] == sizes[1] else (False,):
        times = torch.zeros(sizes, dtype=torch.int64)
        counts = []
        for i in range(n):
            work = tiles._Tiles(x, y, 0.5, (), (i, n))
            mine = [(r, c) for r, c, _ in (work.upper() if upper else work.all())]
            counts.append(len(mine))
            for r, c in mine:
                times[r, c] += 1
                if upper and r != c:
                    times[c, r] += 1
        assert (times == 1).all()
        assert max(counts) - min(counts) <= 1
        across, down = -(-sizes[0] // 3), -(-sizes[1] // 3)
        assert sum(counts) == (across * (across + 1) // 2 if upper else across * down)


class Lockstep:
    """n shares, each in a thread of its own, with sums and largest values over them."""

    def __init__(self, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._n, self._barrier, self._place = n, threading.Barrier(n, timeout=30), threading.local()
        self._parts: list[Tensor | None] = [None] * n
        monkeypatch.setattr(distributed, "share", lambda: (self._place.i, n))
        monkeypatch.setattr(distributed, "sum_", lambda tensors: [self._combine(t, torch.sum) for t in tensors])
        monkeypatch.setattr(distributed, "max_", lambda tensor: self._combine(tensor, torch.amax))

    def __call__(self, function: Callable[[], Any]) -> list[Any]:
        def one(i: int) -> Any:
            self._place.i = i
            try:
                return function()
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self._n) as pool:
            return [future.result() for future in [pool.submit(one, i) for i in range(self._n)]]

    def _combine(self, tensor: Tensor, how: Callable[[Tensor, int], Tensor]) -> Tensor:
        self._parts[self._place.i] = tensor.clone()
        self._barrier.wait()
        together = how(torch.stack([part for part in self._parts if part is not None]), 0)
        self._barrier.wait()
        return tensor.copy_(together)


class Tiles(TorchDispatchMode):
    """The number of tiles computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name() == "aten::addmm.out"
        return func(*args, **(kwargs or {}))


EVERY: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "nt_xent": lambda a, b, t: nt_xent_with_accuracy(a, b, temperature=t),
    "dcl": lambda a, b, t: dcl_with_accuracy(a, b, temperature=t),
    "info_nce": lambda a, b, t: info_nce_with_accuracy(a, b, temperature=t),
    "key_info_nce": lambda a, b, t: key_info_nce_with_accuracy(a, b, temperature=t),
    "queue_info_nce": lambda a, b, t: queue_info_nce_with_accuracy(a, b, rows(11, 4, 9), temperature=t),
    "sup_con": lambda a, b, t: (sup_con(a, b, torch.arange(len(a)) % 4 - 1, temperature=t), torch.zeros(())),
}


@pytest.mark.parametrize(("size", "n"), [(3, 2), (3, 5), (1024, 2)])  # of one tile, the second share has nothing
@pytest.mark.parametrize("temperature", [0.01, 0.3])
@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
def test_shares_in_lockstep(
    loss: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
    temperature: float,
    size: int,
    n: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "TILE", size)

    def work() -> tuple[list[Tensor], int, int]:
        z = rows(6, 4, 0).requires_grad_(), rows(6, 4, 1).requires_grad_()
        with Tiles() as forward:
            value, accuracy = loss(*z, temperature)
        with Tiles() as backward:
            gradients = torch.autograd.grad(value, z)
        return [value.detach(), accuracy, *gradients], forward.count, backward.count

    wanted, total, _ = work()
    shares = Lockstep(n, monkeypatch)(work)
    counts = [forward for _, forward, _ in shares]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1
    assert [backward for _, _, backward in shares] == counts
    for got, _, _ in shares:
        assert all(torch.equal(*both) for both in zip(got, shares[0][0], strict=True))
        assert all(torch.allclose(*both, rtol=1e-10, atol=1e-12) for both in zip(got, wanted, strict=True))


def test_share_is_everything_unless_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.share() == (0, 1)
    with distributed.divided():
        assert distributed.share() == (0, 1)  # one process
    monkeypatch.setattr(distributed.group, "rank", lambda: 2)
    monkeypatch.setattr(distributed.group, "size", lambda: 3)
    assert distributed.share() == (0, 1)
    with distributed.divided():
        with distributed.divided():
            assert distributed.share() == (2, 3)
        assert distributed.share() == (2, 3)
    assert distributed.share() == (0, 1)
    with pytest.raises(ArithmeticError), distributed.divided():
        raise ArithmeticError
    assert distributed.share() == (0, 1)


def test_backward_has_the_share_of_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 3)
    monkeypatch.setattr(distributed, "share", lambda: (1, 2))
    summed: list[Tensor] = []
    monkeypatch.setattr(distributed, "sum_", lambda tensors: summed.extend(tensors))
    x = torch.nn.functional.normalize(rows(6, 4, 0)).requires_grad_()
    lse, _ = tiles.log_sum_exp(x, temperature=0.5, without=(0,))
    monkeypatch.setattr(distributed, "share", lambda: (0, 1))  # `divided` is over
    assert len(summed) == 1
    with Tiles() as backward:
        torch.autograd.grad(lse[:3].sum(), x)
    assert backward.count == 1  # of three
    assert len(summed) == 2


def test_module_divides_only_what_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    z_a, z_b = rows(6, 4, 0), rows(6, 4, 1)
    asked: list[bool] = []
    share = distributed.share
    monkeypatch.setattr(distributed, "share", lambda: asked.append(distributed.group._divided.get()) or share())
    alone = NTXentLoss(0.5)(z_a, z_b)
    together = NTXentLoss(0.5, gather_distributed=True)(z_a, z_b)
    assert asked == [False, True]
    assert torch.equal(alone, together)
