"""DCL, InfoNCE with and without a queue, SupCon: each against its paper's equation, one row and one term at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from twoviews.losses import (
    dcl,
    dcl_with_accuracy,
    info_nce,
    info_nce_with_accuracy,
    nt_xent,
    queue_info_nce,
    queue_info_nce_with_accuracy,
    sup_con,
    tiles,
)

Scored = tuple[Tensor, Tensor | float | None]


def pairs(n: int, d: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * a).requires_grad_(), (b + 0.5 * a).requires_grad_()


def duplicated(n: int, d: int) -> tuple[Tensor, Tensor]:
    z_a, z_b = (z.detach() for z in pairs(n, d, seed=1))
    z_a[3], z_b[3] = z_a[0], z_b[0]  # two samples with the same two views
    z_b[1] = z_a[1]  # two views that are equal
    z_a[4] = z_b[4] = z_b[2] = z_a[2]  # and all four of them
    return z_a.requires_grad_(), z_b.requires_grad_()


def queue_of(k: int, d: int, seed: int = 2) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def units(*sets: Tensor) -> list[Tensor]:
    return [z / z.norm() for rows in sets for z in rows]


def log_sum_exp(logits: Sequence[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(list(logits)), 0)


def right(positive: Tensor, others: Sequence[Tensor]) -> bool:
    # Within rounding, as equal similarities are computed along different ways.
    return all(bool(positive >= other - 1e-9) for other in others)


def dcl_by_definition(z_a: Tensor, z_b: Tensor, temperature: float) -> Scored:
    """Yeh et al. 2022, eq. 6: the positive is not in the sum."""
    rows, n = units(z_a, z_b), len(z_a)
    terms, hits = [], 0
    for i, row in enumerate(rows):
        positive = row @ rows[(i + n) % (2 * n)] / temperature
        negatives = [row @ rows[j] / temperature for j in range(2 * n) if j not in (i, (i + n) % (2 * n))]
        terms.append(-positive + log_sum_exp(negatives))
        hits += right(positive, negatives)
    return torch.stack(terms).mean(), hits / (2 * n)


def info_nce_by_definition(z_a: Tensor, z_b: Tensor, temperature: float) -> Scored:
    """van den Oord et al. 2018, eq. 4, from the first view to the second and back."""
    a, b, terms, hits = units(z_a), units(z_b), [], 0
    for here, there in ((a, b), (b, a)):
        for i, row in enumerate(here):
            logits = [row @ other / temperature for other in there]
            terms.append(-(logits[i] - log_sum_exp(logits)))
            hits += right(logits[i], logits)
    return torch.stack(terms).mean(), hits / (2 * len(a))


def queue_by_definition(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Scored:
    """He et al. 2020, eq. 1: one positive and K negatives."""
    negatives, terms, hits = units(queue), [], 0
    for q, k in zip(units(query), units(key), strict=True):
        logits = [q @ k / temperature, *(q @ other / temperature for other in negatives)]
        terms.append(-(logits[0] - log_sum_exp(logits)))
        hits += right(logits[0], logits)
    return torch.stack(terms).mean(), hits / len(terms)


def sup_con_by_definition(z_a: Tensor, z_b: Tensor, labels: Sequence[int], temperature: float) -> Scored:
    """Khosla et al. 2020, eq. 2; a sample without a label has its other view for a class."""
    rows, n = units(z_a, z_b), len(z_a)
    terms = []
    for i, row in enumerate(rows):
        logits = {j: row @ rows[j] / temperature for j in range(2 * n) if j != i}
        whole = log_sum_exp(list(logits.values()))
        alone = labels[i % n] == -1
        friends = [j for j in logits if (j % n == i % n if alone else labels[j % n] == labels[i % n])]
        terms.append(-sum(logits[p] - whole for p in friends) / len(friends))
    return torch.stack(terms).mean(), None


def agree(ours: Scored, reference: Scored, inputs: Sequence[Tensor]) -> None:
    """Value, accuracy and the gradients of all inputs."""
    assert ours[0].shape == ()
    assert torch.allclose(ours[0], reference[0], rtol=1e-9, atol=1e-11)
    if reference[1] is not None:
        assert ours[1] is not None
        assert float(ours[1]) == pytest.approx(reference[1], abs=1e-12)
    got, wanted = (torch.autograd.grad(scored[0] * 1.7, inputs) for scored in (ours, reference))
    for one, other in zip(got, wanted, strict=True):
        assert torch.isfinite(one).all()
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.fixture(params=[1, 3, 1024])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tiles, "TILE", request.param)
    return int(request.param)


temperatures = pytest.mark.parametrize("temperature", [0.01, 0.024, 0.025, 0.5])
data = pytest.mark.parametrize("z", [pairs(5, 3), duplicated(6, 4)], ids=["random", "duplicated"])

LABELS = {
    "any order": [7, 0, 7, 3, 0],
    "one class": [4, 4, 4, 4, 4],
    "some without": [-1, 5, -1, 5, 0],
}


@data
@temperatures
def test_dcl(z: tuple[Tensor, Tensor], temperature: float, tile: int) -> None:
    agree(dcl_with_accuracy(*z, temperature=temperature), dcl_by_definition(*z, temperature), z)
    assert torch.equal(dcl(*z, temperature=temperature), dcl_with_accuracy(*z, temperature=temperature)[0])


@data
@temperatures
def test_info_nce(z: tuple[Tensor, Tensor], temperature: float, tile: int) -> None:
    agree(info_nce_with_accuracy(*z, temperature=temperature), info_nce_by_definition(*z, temperature), z)
    assert torch.equal(info_nce(*z, temperature=temperature), info_nce_with_accuracy(*z, temperature=temperature)[0])


@data
@temperatures
@pytest.mark.parametrize("queued", [1, 8])
def test_queue(z: tuple[Tensor, Tensor], queued: int, temperature: float, tile: int) -> None:
    queue = queue_of(queued, z[0].shape[1])
    if queued > 1:
        with torch.no_grad():
            queue[2], queue[3], queue[4] = queue[1], z[0][0], z[1][0]  # in the queue twice, a query and its own key
    ours = queue_info_nce_with_accuracy(*z, queue, temperature=temperature)
    agree(ours, queue_by_definition(*z, queue, temperature), (*z, queue))
    assert torch.equal(queue_info_nce(*z, queue, temperature=temperature), ours[0])


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@temperatures
def test_sup_con(labels: list[int], temperature: float, tile: int) -> None:
    z = pairs(5, 3)
    ours = sup_con(*z, torch.tensor(labels), temperature=temperature), None
    agree(ours, sup_con_by_definition(*z, labels, temperature), z)


@temperatures
def test_sup_con_of_duplicated_rows(temperature: float, tile: int) -> None:
    z, labels = duplicated(6, 4), [1, 0, 1, -1, 0, 2]
    ours = sup_con(*z, torch.tensor(labels), temperature=temperature), None
    agree(ours, sup_con_by_definition(*z, labels, temperature), z)


@temperatures
def test_sup_con_without_labels_is_nt_xent(temperature: float) -> None:
    z = pairs(7, 4)
    for labels in (torch.full((7,), -1), torch.arange(7).flip(0)):
        ours, plain = sup_con(*z, labels, temperature=temperature), nt_xent(*z, temperature=temperature)
        agree((ours, None), (plain, None), z)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ],
)
def test_sup_con_gives_the_same_bytes_again(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z = [view.to(device).requires_grad_() for view in torch.randn(2, 1024, 64, generator=generator)]
    labels = torch.randint(-1, 3, (1024,), generator=generator).to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(4):
            loss = sup_con(*z, labels, temperature=0.1)
            found.append((loss.detach(), *torch.autograd.grad(loss, z)))
    finally:
        torch.set_num_threads(threads)
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], again, strict=True))


def test_sup_con_asks_only_who_is_of_one_class() -> None:
    z_a, z_b = pairs(6, 4)
    labels = torch.tensor([2, -1, 0, 2, -1, 0])
    value = sup_con(z_a, z_b, labels, temperature=0.1).item()
    renamed = torch.tensor([0, -1, 10**12, 0, -1, 10**12])
    order = torch.tensor([3, 5, 1, 0, 4, 2])
    assert sup_con(z_a, z_b, renamed, temperature=0.1).item() == pytest.approx(value, rel=1e-12)
    assert sup_con(z_a[order], z_b[order], labels[order], temperature=0.1).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_sup_con_takes_any_integers(dtype: torch.dtype) -> None:
    z = pairs(4, 3)
    labels = torch.tensor([1, 0, 1, 3])
    wanted = sup_con(*z, labels, temperature=0.1).item()
    assert sup_con(*z, labels.to(dtype), temperature=0.1).item() == wanted


def test_one_pair() -> None:
    z = pairs(1, 4)
    loss, accuracy = info_nce_with_accuracy(*z, temperature=0.1)
    assert accuracy.item() == 1.0
    for value in (
        loss,
        sup_con(*z, torch.tensor([3]), temperature=0.1),
        sup_con(*z, torch.tensor([-1]), temperature=0.1),
    ):
        assert value.item() == pytest.approx(0.0, abs=1e-12)
        assert all(gradient.abs().max() < 1e-12 for gradient in torch.autograd.grad(value, z))


def test_dcl_of_one_pair_has_no_value() -> None:
    z_a, z_b = pairs(1, 4)
    with pytest.raises(ValueError, match=r"must both be \(N, D\), N >= 2; got \(1, 4\) and \(1, 4\)"):
        dcl(z_a, z_b, temperature=0.1)


def test_dcl_may_be_negative() -> None:
    eye = torch.eye(4)
    assert dcl(eye, eye, temperature=0.1).item() == pytest.approx(math.log(6) - 10, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_equal_projections_are_chance(temperature: float) -> None:
    z = torch.ones(8, 4, dtype=torch.float64)
    for loss, wanted in (
        (dcl_with_accuracy(z, z, temperature=temperature), 14),
        (info_nce_with_accuracy(z, z, temperature=temperature), 8),
        (queue_info_nce_with_accuracy(z, z, z[:5], temperature=temperature), 6),
        ((sup_con(z, z, torch.tensor([0, 0, 1, 1, 2, 2, -1, -1]), temperature=temperature), torch.ones(())), 15),
    ):
        assert loss[0].item() == pytest.approx(math.log(wanted), rel=1e-12)
        assert loss[1].item() == 1.0  # ties count as right


def test_accuracy_counts_rows() -> None:
    eye = torch.eye(4)
    exchanged = eye[[1, 0, 2, 3]]
    for accuracy in (dcl_with_accuracy, info_nce_with_accuracy):
        assert accuracy(eye, eye, temperature=0.5)[1].item() == 1.0
        assert accuracy(eye, exchanged, temperature=0.5)[1].item() == 0.5
    assert queue_info_nce_with_accuracy(eye, eye, exchanged, temperature=0.5)[1].item() == 1.0
    assert queue_info_nce_with_accuracy(eye, exchanged, eye[1:], temperature=0.5)[1].item() == 0.75


@pytest.mark.parametrize("accuracy", [dcl_with_accuracy, info_nce_with_accuracy])
def test_accuracy_carries_no_gradient(accuracy: Callable[..., tuple[Tensor, Tensor]]) -> None:
    assert not accuracy(*pairs(4, 3), temperature=0.5)[1].requires_grad
    assert not queue_info_nce_with_accuracy(*pairs(4, 3), queue_of(5, 3), temperature=0.5)[1].requires_grad


class Products(TorchDispatchMode):
    """The number of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "mm" in func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_queue_without_gradient_costs_none(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 2)
    query, key = pairs(4, 3)
    queue = queue_of(6, 3)
    counts, gradients = [], []
    for others in ((key, queue), (key.detach(), queue.detach())):
        loss = queue_info_nce(query, *others, temperature=temperature)
        with Products() as products:
            gradients.append(torch.autograd.grad(loss, (query, *(z for z in others if z.requires_grad))))
        counts.append(products.count)
    recomputed = gradient_of_one = 2 * 3
    assert counts == [recomputed + 2 * gradient_of_one, recomputed + gradient_of_one]
    assert [len(g) for g in gradients] == [3, 1]
    assert torch.equal(gradients[0][0], gradients[1][0])

    wanted = torch.autograd.grad(queue_by_definition(query, key, queue, temperature)[0], (key, queue))
    for needed, others in ((key, (key, queue.detach())), (queue, (key.detach(), queue))):
        loss = queue_info_nce(query.detach(), *others, temperature=temperature)
        got = torch.autograd.grad(loss, needed)[0]
        assert torch.allclose(got, wanted[0 if needed is key else 1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [0.02, 0.3])
def test_gradcheck_of_queue(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 2)
    inputs = (*pairs(3, 3), queue_of(5, 3))
    assert torch.autograd.gradcheck(lambda q, k, n: queue_info_nce(q, k, n, temperature=temperature), inputs)


@pytest.mark.parametrize("shape", [(0, 3), (5, 2), (3,), (5, 3, 1)])
def test_wrong_queue(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="queue must be") as raised:
        queue_info_nce(torch.ones(4, 3), torch.ones(4, 3), torch.ones(shape), temperature=0.1)
    assert str(raised.value) == f"queue must be (K, 3), K >= 1; got {shape}"


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()])
def test_wrong_labels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="labels must be") as raised:
        sup_con(torch.ones(4, 3), torch.ones(4, 3), torch.zeros(shape, dtype=torch.int64), temperature=0.1)
    assert str(raised.value) == f"labels must be (4,), one a sample; got {shape}"
