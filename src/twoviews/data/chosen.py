"""Some of the items of a source."""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twoviews.data.source import Grouped, Item, Source, Stored


class Chosen:
    """The items of `source` at `indices`, ascending; groups as there."""

    def __init__(self, source: Source, indices: ArrayLike) -> None:
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)
        self.spec = source.spec
        self.labels: tuple[str | None, ...] = tuple(source.labels[i] for i in self._indices.tolist())
        groups = source.groups if isinstance(source, Grouped) else None
        self.groups: tuple[str | None, ...] = tuple(groups[i] if groups else None for i in self._indices.tolist())

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Item:
        return self._source[int(self._indices[index])]


class ChosenStored(Chosen):
    """The same of a source that has an order of its own to be read in."""

    def __init__(self, source: Source, indices: ArrayLike, *, stored: Stored) -> None:
        super().__init__(source, indices)
        self._stored = stored

    @property
    def storage_order(self) -> NDArray[np.int64]:
        place = np.full(len(self._source), -1, dtype=np.int64)
        place[self._indices] = np.arange(len(self._indices))
        order = place[self._stored.storage_order]
        return order[order >= 0]

    @property
    def stamp(self) -> str:
        return self._stored.stamp


def choose(source: Source, indices: ArrayLike) -> Source:
    """The items at `indices`, ascending."""
    if isinstance(source, Stored):
        return ChosenStored(source, indices, stored=source)
    return Chosen(source, indices)


def without(source: Source, ids: Collection[str]) -> Source:
    """The items whose id is not among `ids`."""
    unwanted = frozenset(ids)
    return choose(source, [i for i in range(len(source)) if source[i].id not in unwanted])
