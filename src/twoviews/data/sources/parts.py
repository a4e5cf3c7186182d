"""Items of other sources as one source, with ids, labels and groups of its own."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twoviews.data.source import Item, Source, Stored, is_grouped, is_stored


@dataclass(frozen=True, eq=False)
class JoinedSource:
    """Items of other sources, under ids, labels and groups of its own.

    parts      the sources
    places     (N, 2) int64, the part and the index in it
    unmatched  rows of a label file that name no item
    """

    spec: str
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    parts: tuple[Source, ...]
    places: NDArray[np.int64]
    unmatched: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        part, at = self.places[index].tolist()
        return Item(self.ids[index], self.labels[index], self.parts[part][at].read, self.groups[index])


@dataclass(frozen=True, eq=False)
class StoredJoinedSource:
    """A `JoinedSource` whose parts are all `Stored`: they are read one after the other, each in its own order."""

    # A class of its own, since `Stored` is told by its members.
    joined: JoinedSource
    stored: tuple[Stored, ...]

    @property
    def spec(self) -> str:
        return self.joined.spec

    @property
    def labels(self) -> Sequence[str | None]:
        return self.joined.labels

    @property
    def groups(self) -> Sequence[str | None]:
        return self.joined.groups

    @property
    def unmatched(self) -> int:
        return self.joined.unmatched

    def __len__(self) -> int:
        return len(self.joined)

    def __getitem__(self, index: int) -> Item:
        return self.joined[index]

    @property
    def storage_order(self) -> NDArray[np.int64]:
        rank = np.empty(len(self), np.int64)
        for part, stored in enumerate(self.stored):
            order = stored.storage_order
            of_part = np.empty(len(order), np.int64)
            of_part[order] = np.arange(len(order))
            mine = self.joined.places[:, 0] == part
            rank[mine] = of_part[self.joined.places[mine, 1]]
        return np.lexsort((rank, self.joined.places[:, 0])).astype(np.int64)

    @property
    def stamp(self) -> str:
        return "\n".join(stored.stamp for stored in self.stored)


def without(source: Source, ids: Collection[str]) -> Source:
    """The items whose id is not among `ids`."""
    unwanted = frozenset(ids)
    names = [source[at].id for at in range(len(source))]
    keep = [at for at, name in enumerate(names) if name not in unwanted]
    if len(keep) == len(names):
        return source
    labels, groups = source.labels, groups_of(source)
    kept_labels, kept_groups = (tuple(column[at] for at in keep) for column in (labels, groups))
    places = np.stack([np.zeros(len(keep), np.int64), np.array(keep, np.int64)], axis=1)
    kept_names = tuple(names[at] for at in keep)
    return with_abilities(JoinedSource(source.spec, kept_names, kept_labels, kept_groups, (source,), places))


def with_abilities(joined: JoinedSource) -> Source:
    """The source as one that is `Stored`, if all of its parts are."""
    stored = tuple(part for part in joined.parts if is_stored(part))
    return StoredJoinedSource(joined, stored) if len(stored) == len(joined.parts) else joined


def groups_of(source: Source) -> Sequence[str | None]:
    """The groups of the items, None where the source knows none; as many as `len(source)`."""
    return source.groups if is_grouped(source) else (None,) * len(source)
