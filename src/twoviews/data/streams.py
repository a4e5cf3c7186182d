"""What a training step draws its samples from: one corpus, or an unlabelled and a labelled one together."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from twoviews.data.corpus import Corpus
from twoviews.data.loading import Batch, batch_indices, fetch, sent_pinned, steps_per_epoch
from twoviews.errors import DataError, UsageError

_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Streams:
    """So many samples of the pool a step and, beside them, so many of a labelled corpus.

    Each corpus has its own order and its own epochs; an epoch of the training is one of the pool. A sample is known by
    a number: its index in the pool, or, beyond those, one for every visit of a labelled sample, so that a small
    labelled corpus is seen with new views each time. Labels of the pool are not shown where there is a labelled corpus.

    >>> import numpy as np
    >>> Streams(corpus, 256).steps_per_epoch        # doctest: +SKIP
    """

    pool: Corpus
    pool_batch: int
    labelled: Corpus | None = None
    labelled_batch: int = 0
    items: _Numbers | None = None
    """Which of the pool are drawn; all by default. A number counts these."""

    def __post_init__(self) -> None:
        if (self.labelled is None) != (self.labelled_batch == 0):
            raise UsageError("a labelled corpus and the number of its samples in a batch belong together")
        if self.labelled is None:
            return
        shapes = [corpus.values.shape[1:] for corpus in (self.pool, self.labelled)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"unlabelled images are stored as {shapes[0]} and labelled ones as {shapes[1]} (height, width, "
                "channels): set data.cache_side to a side below both"
            )
        if self.labelled_batch > len(self.labelled):
            raise UsageError(
                f"{self.labelled_batch} labelled samples a batch, but there are only {len(self.labelled)}: "
                "lower train.labelled_batch"
            )

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        return self.pool_batch + self.labelled_batch

    @property
    def pool_size(self) -> int:
        """Samples of the pool that are drawn from."""
        return len(self.pool) if self.items is None else len(self.items)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the pool."""
        return steps_per_epoch(self.pool_size, batch_size=self.pool_batch)

    def numbers(self, *, seed: int, step: int) -> _Numbers:
        """The samples (batch_size,) of a step; the labelled ones evenly among the others, so in every group."""
        own = batch_indices(self.pool_size, batch_size=self.pool_batch, seed=seed, step=step)
        if self.labelled is None:
            return own
        places = [(np.arange(n) + 0.5) / n for n in (self.pool_batch, self.labelled_batch)]
        order = np.argsort(np.concatenate(places), kind="stable")
        return np.concatenate([own, self.labelled_numbers(seed=seed, step=step)])[order]

    def labelled_numbers(self, *, seed: int, step: int) -> _Numbers:
        """The labelled samples (labelled_batch,) of a step; none where there is no labelled corpus."""
        if self.labelled is None:
            return np.empty(0, np.int64)
        count = len(self.labelled)
        index = batch_indices(count, batch_size=self.labelled_batch, seed=seed, step=step)
        visit = step // steps_per_epoch(count, batch_size=self.labelled_batch)
        return self.pool_size + visit * count + index

    def fetch(self, numbers: _Numbers, *, device: torch.device | str) -> Batch:
        """The images of some samples, their values on `device`."""
        if self.labelled is None:
            batch = fetch(self.pool, self._in_pool(numbers), device=device)
            return Batch(batch.values, batch.sizes, torch.from_numpy(numbers.copy()))
        of_pool = numbers < self.pool_size
        first = fetch(self.pool, self._in_pool(numbers[of_pool]), device="cpu")
        second = fetch(self.labelled, (numbers[~of_pool] - self.pool_size) % len(self.labelled), device="cpu")
        order = torch.from_numpy(np.argsort(np.argsort(~of_pool, kind="stable"), kind="stable"))
        return Batch(
            sent_pinned(torch.cat([first.values, second.values])[order], torch.device(device)),
            torch.cat([first.sizes, second.sizes])[order],
            torch.from_numpy(numbers.copy()),
        )

    def labels(self, numbers: _Numbers) -> _Numbers:
        """(B,) class of each sample, -1 for none."""
        if self.labelled is None:
            return self.pool.labels[self._in_pool(numbers)]
        index = (numbers - self.pool_size) % len(self.labelled)
        return np.where(numbers < self.pool_size, -1, self.labelled.labels[index])

    def _in_pool(self, numbers: _Numbers) -> _Numbers:
        return numbers if self.items is None else self.items[numbers]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that training sees."""
        return (self.labelled or self.pool).classes

    @property
    def labelled_count(self) -> int:
        """How many samples have a label that training sees."""
        return int(((self.labelled or self.pool).labels >= 0).sum())
