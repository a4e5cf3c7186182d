import math
from hashlib import blake2b

import pytest
import torch

from twoviews.views.draws import Draws

MASK = (1 << 64) - 1


def mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def absorbed(key: int, value: int) -> int:
    return mixed(mixed((key + 0x9E3779B97F4A7C15) & MASK) ^ (value & MASK))


def expected(seed: int, epoch: int, sample: int, view: int, *names: str, column: int | None = None) -> float:
    """The definition, in Python's integers."""
    key = seed & MASK
    hashes = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in names]
    for value in (epoch, sample, view, *hashes):
        key = absorbed(key, value)
    if column is not None:
        key = mixed((key + column * 0x9E3779B97F4A7C15) & MASK)
    return (key >> 40) / 2**24


def draws(n: int = 1, *, seed: int = 0, epoch: int = 0, view: int = 0, first: int = 0) -> Draws:
    samples = torch.arange(first, first + n)
    return Draws(seed=seed, epoch=epoch, samples=samples, views=torch.full_like(samples, view))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 + 5])
@pytest.mark.parametrize("sample", [0, 12_345, 2**40])
def test_definition(seed: int, sample: int) -> None:
    made = draws(seed=seed, epoch=7, view=3, first=sample)
    assert made.uniform("a").tolist() == [expected(seed, 7, sample, 3, "a")]
    assert made.named("crop").uniform("é", 3).tolist() == [
        [expected(seed, 7, sample, 3, "crop", "é", column=c) for c in range(3)]
    ]


def test_known_values() -> None:
    # Written down, so that a change of the hash, which would change every published run, is seen.
    made = draws(2, seed=42, epoch=1, view=1).uniform("angle")
    assert made.mul(2**24).long().tolist() == [7362741, 13601112]


def test_draws_do_not_depend_on_the_batch() -> None:
    whole = draws(64)
    parts = [draws(n, first=first) for first, n in ((0, 1), (1, 40), (41, 23))]
    for draw in (lambda d: d.uniform("x", 5), lambda d: d.permutation("p", 4), lambda d: d.chance("c", 0.3)):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))


def test_draws_keep_no_state() -> None:
    made = draws(8)
    first = made.uniform("x")
    made.uniform("y", 100)
    assert torch.equal(made.uniform("x"), first)


@pytest.mark.parametrize(
    "other",
    [
        draws(4096, seed=1),
        draws(4096, epoch=1),
        draws(4096, view=1),
        draws(4096, first=4096),
        draws(4096).named("x"),
    ],
    ids=["seed", "epoch", "view", "sample", "stream"],
)
def test_streams_are_independent(other: Draws) -> None:
    pair = torch.stack([draws(4096).uniform("x"), other.uniform("x")])
    # The standard error of a correlation of independent draws is 1 / 64.
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / 64
    assert int((pair[0] == pair[1]).sum()) < 5


def test_names_and_columns_are_independent() -> None:
    made = draws(4096)
    table = torch.cat([made.uniform("x", 3), made.uniform("y", 3), made.uniform("x").unsqueeze(1)], dim=1)
    away = torch.corrcoef(table.T) - torch.eye(7)
    assert away.abs().max() < 5 / 64


@pytest.mark.parametrize("axis", ["samples", "columns", "epochs"])
def test_uniform(axis: str) -> None:
    n = 20_000
    if axis == "samples":
        values = draws(n).uniform("u")
    elif axis == "columns":
        values = draws(1).uniform("u", n)[0]
    else:
        values = torch.cat([draws(100, epoch=e).uniform("u") for e in range(n // 100)])
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() < 1
    counts = values.double().histc(100, 0, 1)
    chi_squared = float(((counts - n / 100) ** 2 / (n / 100)).sum())
    # 99 degrees of freedom: mean 99, standard deviation 14.
    assert abs(chi_squared - 99) < 5 * math.sqrt(2 * 99)
    # Neighbours do not resemble each other either.
    pair = torch.stack([values[:-1], values[1:]])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / math.sqrt(n)


def test_range_and_chance() -> None:
    made = draws(20_000)
    values = made.uniform("v", low=-3.0, high=5.0)
    assert values.min() >= -3
    assert values.max() <= 5
    assert float(values.mean()) == pytest.approx(1.0, abs=0.1)
    assert float(made.chance("c", 0.2).float().mean()) == pytest.approx(0.2, abs=0.015)
    assert not made.chance("c", 0.0).any()
    assert made.chance("c", 1.0).all()


def test_permutations_are_equally_frequent() -> None:
    orders = draws(24_000).permutation("order", 4)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(24_000, 4))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_same_numbers_on_cuda() -> None:
    samples = torch.arange(1000)
    here = Draws(seed=5, epoch=2, samples=samples, views=samples % 2)
    there = Draws(seed=5, epoch=2, samples=samples.cuda(), views=(samples % 2).cuda())
    assert torch.equal(here.uniform("x", 7), there.uniform("x", 7).cpu())
