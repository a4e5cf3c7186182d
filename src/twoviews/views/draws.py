"""Counter-based randomness: every draw is a pure function of (seed, epoch, sample, view, name).

There is no state to advance, so a draw does not depend on workers, chunks, batches, ranks or devices, and
replaying a chunk gives the same views. Numbers are drawn where the samples' indices are, which is the host: a GPU
would spend more on starting some hundred tiny kernels than on the pixels. The hash is the finaliser of splitmix64
(Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), in int64 tensors whose products wrap
modulo 2**64.
"""

from hashlib import blake2b
from typing import Self

import torch
from torch import Tensor

Share = float | tuple[float, ...]
"""A probability for all views, or one a view: view v takes number v, modulo how many there are."""


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shifted(bits: Tensor, by: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask removes the copies of the sign bit.
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64 bits one to one: each input bit reaches every output bit."""
    bits = (bits ^ _shifted(bits, 30)).mul_(_FIRST)
    bits.bitwise_xor_(_shifted(bits, 27)).mul_(_SECOND)
    return bits.bitwise_xor_(_shifted(bits, 31))


def _absorb(key: Tensor, value: Tensor | int) -> Tensor:
    """A key for each pair (key, value); distinct values of one key never collide."""
    return _mix(_mix(key + _GOLDEN) ^ value)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for it: CUDA takes its copy of ordinary memory before the call returns."""
    return values.to(device, non_blocking=device.type == "cuda")


def _hashed(name: str) -> int:
    # Python's hash() changes from process to process.
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


class Draws:
    """Uniform draws for B samples, each named, each a function of (seed, epoch, sample, view, name) alone.

    samples, views: (B,) int64 on one device, where the draws are made; `to` hands them out on another. The same numbers
    on CPU and CUDA.

    >>> draws = Draws(seed=0, epoch=3, samples=torch.tensor([7, 8]), views=torch.tensor([0, 0]))
    >>> draws.uniform("angle", low=-15.0, high=15.0).shape
    torch.Size([2])
    """

    __slots__ = ("_device", "_scrambled", "_views")

    def __init__(self, *, seed: int, epoch: int, samples: Tensor, views: Tensor) -> None:
        key = _absorb(torch.full_like(samples[:1], _signed(seed)), _signed(epoch))  # the same for all
        for value in (samples, views):
            key = _absorb(key, value)
        self._scrambled = _mix(key + _GOLDEN)  # half of every `_absorb` to come
        self._views = views
        self._device = samples.device

    def __len__(self) -> int:
        return self._views.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the draws are handed out."""
        return self._device

    def to(self, device: torch.device) -> Self:
        """The same draws, handed out on `device`."""
        return self._with(self._scrambled, device)

    def named(self, name: str) -> Self:
        """An independent stream: the same names drawn from it give other numbers."""
        return self._with(_mix(_mix(self._scrambled ^ _hashed(name)) + _GOLDEN), self._device)

    def _with(self, scrambled: Tensor, device: torch.device) -> Self:
        stream = object.__new__(type(self))
        stream._scrambled, stream._views, stream._device = scrambled, self._views, device
        return stream

    def uniform(self, name: str, count: int | None = None, *, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B,) or (B, count) float32, uniform in [low, high); steps of (high - low) / 2**24."""
        return sent(self._drawn(name, count, low=low, high=high), self._device)

    def _drawn(self, name: str, count: int | None = None, *, low: float = 0.0, high: float = 1.0) -> Tensor:
        key = _mix(self._scrambled ^ _hashed(name))
        if count is not None:
            steps = torch.arange(count, device=key.device) * _GOLDEN
            key = _mix(key.unsqueeze(1) + steps)
        # 24 bits are all that a float32 holds, so that 1.0 is never rounded to.
        unit = _shifted(key, 40).to(torch.float32).mul_(2.0**-24)
        if (low, high) == (0.0, 1.0):
            return unit
        return unit.mul_(high - low).add_(low)

    def chance(self, name: str, probability: Share) -> Tensor:
        """(B,) bool, true with this probability, which may differ from view to view."""
        drawn = self._drawn(name)
        if not isinstance(probability, tuple):
            return sent(drawn < probability, self._device)
        turn = self._views.remainder(len(probability))
        # View by view: a tensor of probabilities would have to be sent to where the draws are made.
        limits = torch.zeros_like(drawn)
        for number, share in enumerate(probability):
            limits.masked_fill_(turn == number, share)
        return sent(drawn < limits, self._device)

    def permutation(self, name: str, count: int) -> Tensor:
        """(B, count) int64: every row its own random order of 0 .. count - 1."""
        return sent(self._drawn(name, count).argsort(dim=1, stable=True), self._device)
