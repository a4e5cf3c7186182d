"""What holds for every loss: precision, memory, no waiting for the device, and how bad input ends."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twoviews.losses import (
    barlow_twins,
    dcl,
    info_nce,
    key_info_nce,
    nce,
    negative_cosine,
    nt_xent,
    queue_info_nce,
    soft_cross_entropy,
    sup_con,
    tiles,
    vicreg,
)

Loss = Callable[[Tensor, Tensor, float], Tensor]

QUEUED = 20


def queue(like: Tensor) -> Tensor:
    """Rows that are the same in every precision."""
    whole = torch.randint(-4, 5, (QUEUED, like.shape[-1]), generator=torch.Generator().manual_seed(7))
    return (whole + 0.5).to(like.dtype)


TILED: dict[str, Loss] = {
    "nt_xent": lambda a, b, t: nt_xent(a, b, temperature=t),
    "dcl": lambda a, b, t: dcl(a, b, temperature=t),
    "info_nce": lambda a, b, t: info_nce(a, b, temperature=t),
    "key_info_nce": lambda a, b, t: key_info_nce(a, b, temperature=t),
    "queue_info_nce": lambda a, b, t: queue_info_nce(a, b, queue(a), temperature=t),
    "sup_con": lambda a, b, t: sup_con(a, b, torch.arange(len(a)) % 4 - 1, temperature=t),
}
"""With the log-sum-exp of `tiles`."""

CONTRASTIVE: dict[str, Loss] = {**TILED, "nce": lambda a, b, t: nce(a, b, temperature=t)}
"""`nce` has strips of its own, as it wants a sum of another function of each similarity."""

ALONE: dict[str, Loss] = {
    "barlow_twins": lambda a, b, _: barlow_twins(a, b),
    "vicreg": lambda a, b, _: vicreg(a, b),
    "negative_cosine": lambda a, b, _: negative_cosine(a, b),
    "soft_cross_entropy": lambda a, b, t: soft_cross_entropy(a, b, temperature=t),
}
"""They compare no sample with another one, so there is no matrix of samples."""

EVERY = {**CONTRASTIVE, **ALONE}
TEMPERED = {**CONTRASTIVE, "soft_cross_entropy": ALONE["soft_cross_entropy"]}
ONE_SIDED = [ALONE["negative_cosine"], ALONE["soft_cross_entropy"]]
"""Their second argument is a constant."""


def each(losses: dict[str, Loss], *temperatures: float) -> Any:
    """A test of `loss` and, if any are given, `temperature`: each of them where the loss has one."""
    if not temperatures:
        return pytest.mark.parametrize("loss", losses.values(), ids=losses)
    cases = [
        pytest.param(loss, temperature, id=f"{name}-{temperature}" if name in TEMPERED else name)
        for name, loss in losses.items()
        for temperature in (temperatures if name in TEMPERED else temperatures[:1])
    ]
    return pytest.mark.parametrize(("loss", "temperature"), cases)


BOTH_REGIMES = (0.02, 0.3)


def set_tile(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(tiles, "TILE", size)
    monkeypatch.setattr(import_module("twoviews.losses.nce"), "TILE", size)


def gradients(value: Tensor, z: Sequence[Tensor]) -> list[Tensor]:
    """Of all of `z` that the loss gives one."""
    found = torch.autograd.grad(value, z, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def views(n: int, d: int, *, dtype: torch.dtype = torch.float32, noise: float = 0.8) -> tuple[Tensor, Tensor]:
    sample, *noises = torch.randn(3, n, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z_a, z_b = (sample + noise * more for more in noises)
    return z_a.to(dtype).requires_grad_(), z_b.to(dtype).requires_grad_()


@each(EVERY, *BOTH_REGIMES)
def test_gradcheck(loss: Loss, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    set_tile(monkeypatch, 3)
    z_a, z_b = views(4, 3, dtype=torch.float64)
    if loss in ONE_SIDED:
        z_b = z_b.detach()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, temperature), (z_a, z_b))


@each(EVERY, 0.01, 0.024, 0.025, 0.05, 0.5, 1.0)
def test_float32_is_close_to_float64(loss: Loss, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 16)
    single = views(40, 16)
    z_a, z_b = single[0].detach().clone(), single[1].detach().clone()
    z_a[3], z_b[3] = z_a[0], z_b[0]
    z_b[1] = z_a[1]
    z_a[5] = z_b[5] = z_b[4] = z_a[4]
    single = z_a.requires_grad_(), z_b.requires_grad_()
    double = tuple(z.detach().double().requires_grad_() for z in single)
    value, exact = loss(*single, temperature), loss(*double, temperature)
    assert value.dtype == torch.float32
    # A similarity near 1 is rounded by eps, so a logit by eps / T: that limits a loss near 0 (dcl) and every softmax.
    rounding = torch.finfo(torch.float32).eps / temperature
    assert abs(value.item() - exact.item()) <= max(1e-5 * abs(exact.item()), rounding)
    got, wanted = (torch.cat(gradients(v, z)).double() for v, z in ((value, single), (exact, double)))
    assert (got - wanted).norm() <= max(1e-5, rounding) * wanted.norm()


@each(EVERY, *BOTH_REGIMES)
def test_autocast_changes_nothing(loss: Loss, temperature: float) -> None:
    z = views(20, 16)
    plain = loss(*z, temperature)
    wanted = gradients(plain, z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*z, temperature)
        got = gradients(value, z) if loss in TILED.values() else []
    # torch's own derivatives follow the autocast of where they are asked for, which its manual wants to be outside.
    got = got or gradients(value, z)
    assert value.dtype == torch.float32
    assert torch.equal(value, plain)
    assert all(torch.equal(*both) for both in zip(got, wanted, strict=True))


@each(EVERY)
def test_bf16_projections_are_computed_in_float32(loss: Loss) -> None:
    z = tuple(z.detach().bfloat16().requires_grad_() for z in views(8, 4))
    value = loss(*z, 0.1)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(z[0].double(), z[1].double(), 0.1).item(), rel=1e-5)
    dtypes = [gradient.dtype for gradient in gradients(value, z)]
    assert dtypes == [torch.bfloat16] * (1 if loss in ONE_SIDED else 2)


class Seen(TorchDispatchMode):
    """The operations that were dispatched, and the number of elements of the largest tensor that one returned."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.masks = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.append(func.name())
        # A mask with one column is none of a tile: torch has such a one in the derivative of `F.normalize`.
        if func.name().startswith(("aten::index", "aten::masked")):
            chosen = [leaf for leaf in tree_leaves(args[1:]) if isinstance(leaf, Tensor)]
            self.masks += sum(leaf.dtype in (torch.bool, torch.uint8) and leaf.shape[-1] > 1 for leaf in chosen)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def seen(loss: Loss, z: tuple[Tensor, Tensor], temperature: float) -> tuple[Seen, Seen]:
    """Of the forward and of the backward pass."""
    with Seen() as forward:
        value = loss(*z, temperature)
    with Seen() as backward:
        value.backward()
    return forward, backward


WAITS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::unique_consecutive",
    "aten::_unique2",
}
"""Operations whose answer the host needs before it can go on."""


@each(EVERY, *BOTH_REGIMES)
def test_nothing_waits_for_the_device(loss: Loss, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    set_tile(monkeypatch, 5)
    for part in seen(loss, views(8, 4), temperature):
        assert "aten::addmm.out" in part.names or loss not in TILED.values()  # the mode looked inside
        assert len(part.names) > 4
        assert not WAITS & set(part.names)
        assert not part.masks


def test_the_watch_sees_what_waits() -> None:
    x = torch.arange(3.0)
    with Seen() as watch:
        x[x > 1]
        x[x > 1] = 0.0
        x.masked_fill(x > 1, 0.0)
        x.sum().item()
        torch.nonzero(x)
    assert watch.masks == 3
    assert {"aten::_local_scalar_dense", "aten::nonzero"} <= WAITS & set(watch.names)


@each(EVERY, *BOTH_REGIMES)
def test_no_number_is_copied_to_the_device(loss: Loss, temperature: float) -> None:
    for part in seen(loss, views(8, 4), temperature):
        assert "aten::lift_fresh" not in part.names


@each(EVERY, *BOTH_REGIMES)
def test_no_gradient_is_added_up_in_any_order(loss: Loss, temperature: float) -> None:
    """Not by several threads of a CPU either: a resumed run has the same bits."""
    _, backward = seen(loss, views(8, 4), temperature)
    assert not [name for name in backward.names if "index_put" in name or "index_add" in name or "scatter_" in name]


class Precision(TorchDispatchMode):
    """The precision that torch was set to at each matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mm" in func.name():
            self.found.add(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@each(EVERY, *BOTH_REGIMES)
def test_products_are_exact_whatever_the_network_has(loss: Loss, temperature: float) -> None:
    """In the backward pass too where the similarities are made a second time."""
    with Precision() as before:
        torch.eye(2) @ torch.eye(2)
    torch.set_float32_matmul_precision("high")
    try:
        with Precision() as forward:
            value = loss(*views(8, 4), temperature)
        with Precision() as backward:
            value.backward()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert before.found == {"highest"}
    assert forward.found <= {"highest"}
    if loss in TILED.values():
        assert forward.found == backward.found == {"highest"}


SWITCHES = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from twoviews.losses import nt_xent

class Products(TorchDispatchMode):
    found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "mm" in str(func):
            self.found |= {torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision}
        return func(*args, **(kwargs or {}))

def state():
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "refused"
    return older, torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision

def loss():
    with Products():
        nt_xent(torch.randn(8, 4, requires_grad=True), torch.randn(8, 4), temperature=0.5).backward()

exec(CHOSEN)
if WITH_LOSS:
    loss()
    assert Products.found and not Products.found & {"tf32", "bf16"}, Products.found
before = state()
exec(BACK)
print(before, state())
"""


@pytest.mark.parametrize(
    ("chosen", "back"),
    [
        ("torch.backends.cuda.matmul.allow_tf32 = True", "torch.backends.cuda.matmul.allow_tf32 = False"),
        ("torch.backends.fp32_precision = 'tf32'", "torch.backends.fp32_precision = 'ieee'"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "torch.backends.cuda.matmul.fp32_precision = 'ieee'"),
        ("torch.set_float32_matmul_precision('medium')", "torch.set_float32_matmul_precision('highest')"),
        ("torch.backends.mkldnn.fp32_precision = 'bf16'", "torch.backends.mkldnn.fp32_precision = 'ieee'"),
    ],
    ids=range(5),
)
def test_torch_s_switches_are_off_meanwhile_and_left_as_they_were(chosen: str, back: str) -> None:
    """In processes of their own: some cannot be set back."""
    found = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", f"CHOSEN, BACK, WITH_LOSS = {(chosen, back, twice)!r}\n{SWITCHES}"],
            capture_output=True,
            text=True,
        )
        for twice in (True, False)
    ]
    assert found[0].returncode == found[1].returncode == 0, found[0].stderr + found[1].stderr
    assert found[0].stdout == found[1].stdout


@each(TILED, 0.01, 0.5)
def test_the_whole_matrix_never_exists(loss: Loss, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    set_tile(monkeypatch, 16)
    rows = 64
    for part in seen(loss, views(rows // 2, 4), temperature):
        assert part.names.count("aten::addmm.out") >= 4  # the mode looked inside, tile by tile
        assert part.largest <= max(rows * 4, 16 * 16)
    set_tile(monkeypatch, 1024)
    half = (rows // 2) ** 2
    whole = {"info_nce": half, "key_info_nce": half, "queue_info_nce": rows // 2 * QUEUED}
    for part in seen(loss, views(rows // 2, 4), temperature):  # and would have seen the matrix
        assert part.largest == next((whole[name] for name in whole if loss is EVERY[name]), rows**2)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_nce_holds_a_strip_of_the_matrix(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns of some rows, in the backward pass too."""
    rows = 64
    for tile, largest in ((16, 16 * rows), (1024, rows**2)):
        set_tile(monkeypatch, tile)
        for part in seen(EVERY["nce"], views(rows // 2, 4), temperature):
            assert part.largest == largest


@each(ALONE)
def test_samples_are_not_compared(loss: Loss) -> None:
    rows, d = 64, 4
    for part in seen(loss, views(rows, d), 1.0):
        assert part.largest == rows * d


@each(TILED, *BOTH_REGIMES)
def test_no_second_derivative(loss: Loss, temperature: float) -> None:
    z = views(4, 3)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        torch.autograd.grad(loss(*z, temperature), z, create_graph=True)[0].sum().backward()


@each({name: loss for name, loss in EVERY.items() if name not in TILED}, *BOTH_REGIMES)
def test_a_second_derivative_where_torch_sees_all(loss: Loss, temperature: float) -> None:
    z_a, z_b = views(4, 3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda a: loss(a, z_b.detach(), temperature), (z_a,))


@each(EVERY, *BOTH_REGIMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_give_nan(loss: Loss, temperature: float, bad: float) -> None:
    for view in range(2):
        z = [z.detach() for z in views(6, 3)]
        z[view][2, 1] = bad
        assert loss(z[0], z[1], temperature).isnan()


# To Barlow Twins that of a dimension does not, to VICReg and to logits each does: see test_without_negatives.py.
@each({**CONTRASTIVE, "negative_cosine": ALONE["negative_cosine"]}, *BOTH_REGIMES)
def test_length_does_not_matter(loss: Loss, temperature: float) -> None:
    z_a, z_b = views(6, 3, dtype=torch.float64)
    stretch = torch.linspace(0.1, 9.0, 6, dtype=torch.float64)[:, None]
    assert loss(z_a * stretch, z_b / stretch, temperature).item() == pytest.approx(
        loss(z_a, z_b, temperature).item(), rel=1e-11
    )


@each(EVERY)
def test_one_view_without_gradient(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    set_tile(monkeypatch, 4)
    z_a, z_b = views(6, 3, dtype=torch.float64)
    wanted = torch.autograd.grad(loss(z_a, z_b, 0.1), z_a)[0]
    assert torch.allclose(torch.autograd.grad(loss(z_a, z_b.detach(), 0.1), z_a)[0], wanted, rtol=1e-12, atol=0)
    assert not loss(z_a.detach(), z_b.detach(), 0.1).requires_grad


@each(EVERY)
@pytest.mark.parametrize(
    ("shape_a", "shape_b", "message"),
    [
        ((4, 3), (5, 3), r"got \(4, 3\) and \(5, 3\)"),
        ((4, 3), (4, 2), r"got \(4, 3\) and \(4, 2\)"),
        ((4,), (4,), r"got \(4,\) and \(4,\)"),
        ((0, 3), (0, 3), r"got \(0, 3\) and \(0, 3\)"),
    ],
)
def test_wrong_shapes(loss: Loss, shape_a: tuple[int, ...], shape_b: tuple[int, ...], message: str) -> None:
    z_a, z_b = torch.zeros(shape_a), torch.zeros(shape_b)
    with pytest.raises(ValueError, match=r"must both be \(N, D\), N >= [12]; " + message):
        loss(z_a, z_b, 0.5)


@each(TEMPERED, 0.0, -1.0, float("nan"))
def test_wrong_temperature(loss: Loss, temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        loss(torch.ones(2, 2), torch.ones(2, 2), temperature)
