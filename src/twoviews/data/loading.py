"""The sample order, a pure function of (seed, epoch), and batches on the device."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from twoviews.data.corpus import Corpus
from twoviews.errors import DataError, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """values (B, H, W, C) uint8; sizes (B, 2) int32, original width, height; samples (B,) int64, indices.

    Values are where they are computed with, the other two on the host.
    """

    values: torch.Tensor
    sizes: torch.Tensor
    samples: torch.Tensor

    def __len__(self) -> int:
        return len(self.samples)


def epoch_order(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of `n` samples in an epoch: a permutation (n,) int64, the same on every machine.

    Samples are sorted by a counter-based 64-bit hash (splitmix64's finaliser) of (seed, epoch, sample).

    >>> epoch_order(5, seed=0, epoch=0).tolist() == epoch_order(5, seed=0, epoch=0).tolist()
    True
    """
    return _order(n, seed, epoch).copy()


def steps_per_epoch(n: int, *, batch_size: int) -> int:
    """Whole batches in `n` samples; the rest is left to other epochs. Raises DataError if there is none."""
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}: give at least 1")
    if n < batch_size:
        raise DataError(f"a batch of {batch_size} is larger than the data, {n} images: choose a batch size up to {n}")
    return n // batch_size


def batch_indices(n: int, *, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """The samples (batch_size,) int64 of a step, counted over all epochs; short batches are dropped."""
    per_epoch = steps_per_epoch(n, batch_size=batch_size)
    epoch, position = divmod(step, per_epoch)
    return _order(n, seed, epoch)[position * batch_size : (position + 1) * batch_size].copy()


def fetch(corpus: Corpus, indices: ArrayLike, *, device: torch.device | str) -> Batch:
    """The images at `indices` (B,), their values on `device`."""
    at = np.asarray(indices, dtype=np.int64)
    target = torch.device(device)
    if target.type == "cuda":
        # Page-locked memory is sent while the host goes on; torch does not use it again before it has been sent.
        values = torch.empty(len(at), *corpus.values.shape[1:], dtype=torch.uint8, pin_memory=True)
        # `clip` changes no row, as all are there, and writes without a copy in between.
        np.take(corpus.values, at, axis=0, out=values.numpy(), mode="clip")
        values = values.to(target, non_blocking=True)
    else:
        # Indexing copies, so the tensor owns its memory even where the corpus is memory-mapped or a read-only view.
        values = torch.from_numpy(np.ascontiguousarray(corpus.values[at])).to(target)
    return Batch(values, torch.from_numpy(corpus.sizes[at]), torch.from_numpy(at.copy()))


def sent_pinned(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device, by way of page-locked memory where that lets the host go on."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # The key is a hash too, so that neighbouring seeds and epochs do not share parts of the counter's range.
    key = hashlib.blake2b(f"{seed} {epoch}".encode("ascii"), digest_size=8).digest()
    counter = np.arange(n, dtype=np.uint64) + np.frombuffer(key, dtype="<u8").astype(np.uint64)
    order = np.argsort(_mix(counter), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
