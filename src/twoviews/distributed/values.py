"""Values that processes tell each other, as JSON, and work that they share out; in one process identities."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from twoviews.distributed.group import patient, rank, size, talking
from twoviews.distributed.tensors import gather_in
from twoviews.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


def largest(value: float) -> float:
    """The largest of the processes' values."""
    if size() == 1:
        return value
    number = torch.tensor(float(value), dtype=torch.float64)
    with talking():
        dist.all_reduce(number, op=dist.ReduceOp.MAX, group=patient())
    return float(number)


def agreed(value: Any) -> Any:
    """The value of process 0, which JSON must be able to carry."""
    return value if size() == 1 else exchange(value)[0]


def exchange(value: Any) -> list[Any]:
    """Every process's value in order of rank; JSON must be able to carry it (nothing is unpickled here)."""
    if size() == 1:
        return [value]
    text = json.dumps(value).encode()
    lengths = gather_in(torch.tensor([len(text)]), patient())
    padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    rows = gather_in(padded[None], patient())
    return [json.loads(row[:n].numpy().tobytes()) for row, n in zip(rows, lengths.tolist(), strict=True)]


def require_equal(value: Any, what: str) -> None:
    """Raise `DataError` where a process has another value than process 0."""
    values = exchange(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise DataError(f"process {number} has another {what} than process 0: {other} in place of {values[0]}")


def spread(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """`[work(item) for item in items]`, each item in one of the processes; JSON must be able to carry the results."""
    mine = [work(item) for item in items[rank() :: size()]]
    shared = exchange(mine)
    return [shared[number % size()][number // size()] for number in range(len(items))]


def gather_rows(array: NDArray[np.float32], counts: Sequence[int]) -> NDArray[np.float32]:
    """The processes' rows, (counts[rank], D), one after the other in every process."""
    if size() == 1:
        return array
    everything = np.empty((sum(counts), int(largest(array.shape[1]))), np.float32)
    ends = np.cumsum([0, *counts])
    if len(array):
        everything[ends[rank()] : ends[rank() + 1]] = array
    with talking():
        for source in range(size()):
            if counts[source]:
                rows = torch.from_numpy(everything[ends[source] : ends[source + 1]])
                dist.broadcast(rows, src=source, group=patient())
    return everything
