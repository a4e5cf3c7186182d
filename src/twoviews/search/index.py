"""Exact nearest vectors by cosine similarity, over collections that may be larger than memory.

N vectors of the collection, Q queries, D dimensions, k answers.

A similarity is the cosine in float64, rounded to a multiple of 2^-24, which float32 holds; answers are ordered by it,
equal ones by their place in the collection. Nearly all of the work is float32 products of a block with all queries.
They are within a proven bound of the similarities, so what they put below the k-th best by more than the bound cannot
be an answer; the few that are left are computed in float64. So the answers are those of a plain argsort, for any block,
thread count and batch of queries.
"""

from bisect import bisect
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.features import Embeddings, check_finite

GROUP = 1024
"""Queries that share a pass over the collection."""
_PRODUCTS, _HELD, _WIDE = 2**22, 2**21, 2**24  # numbers: products of a block, answers of a group, values of a block
_EXACT = 2**21  # values that are float64 at a time
_ROUNDED = 2.0**-24  # of float32
_LARGE = 1e18  # lengths beyond: products of float32 could leave its range
_LISTED = 5000


class Nearest(NamedTuple):
    """Rows of the collection and their cosine similarities, both (Q, k), most similar first, equal ones by row."""

    rows: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


class Index:
    """Exact search in embeddings, whose vectors may be a memory-mapped file; only their lengths are held, 12 N bytes.

    Attributes: `embeddings`, `norms` (N,) float64. A zero vector is similar to nothing (0). Raises DataError without a
    vector, and for one that is not finite.

    >>> vectors = np.array([[3, 0], [0, 2], [1, 1]], dtype=np.float32)
    >>> index = Index(Embeddings(vectors, ("a", "b", "c"), np.array([-1, -1, -1]), (), ""))
    >>> found = index.search(np.array([1.0, 0.1]), top=2)
    >>> [index.embeddings.ids[row] for row in found.rows[0]]
    ['a', 'c']
    """

    def __init__(self, embeddings: Embeddings) -> None:
        if not len(embeddings):
            raise DataError("there is nothing to search in: the collection holds no vector")
        self.embeddings = embeddings
        self.norms = np.empty(len(embeddings))
        for part in _parts(len(embeddings), _EXACT // max(1, embeddings.vectors.shape[1])):
            block = embeddings.vectors[part].astype(np.float64)
            self.norms[part] = np.sqrt(np.einsum("ij,ij->i", block, block))
        broken = np.flatnonzero(~np.isfinite(self.norms))
        if len(broken):
            raise DataError(
                f"{len(broken):,} of {len(embeddings):,} vectors are not finite (first: {embeddings.ids[broken[0]]!r}"
                "): the encoder has diverged or its input is broken"
            )
        some = self.norms[self.norms > 0]
        self._wild = bool(len(some)) and not 1 / _LARGE < some.min() <= some.max() < _LARGE
        with np.errstate(divide="ignore", over="ignore"):
            self._scale = np.where(self.norms > 0, 1 / self.norms, 0).astype(np.float32)

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """The index of a folder that `twoviews embed` or `Embeddings.save` wrote; the vectors stay on disk.

        Raises DataError for what is missing, damaged or empty.

        >>> Index.open("vectors/").search_ids(["cat.jpg"]).rows.shape          # doctest: +SKIP
        (1, 10)
        """
        return cls(Embeddings.load(folder, mapped=True))

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        return f"Index({len(self):,} vectors of {self.embeddings.vectors.shape[1]} dimensions)"

    def row(self, name: str) -> int:
        """The row of an id. Raises UsageError that offers the nearest one."""
        try:
            return self.embeddings.ids.index(name)
        except ValueError:
            raise unknown_name("id", name, near_ids(name, self.embeddings.ids)) from None

    def search(
        self,
        queries: Embeddings | npt.NDArray[Any],
        *,
        top: int = 10,
        without: Sequence[Collection[int]] | None = None,
    ) -> Nearest:
        """The `top` most similar vectors to each query, (Q, D) or one (D,), of any length; all where there are fewer.

        `without`: for each query the rows that are no answers to it; there are min(top, N - most of these) answers.
        Raises UsageError for embeddings of another encoder than the index's (where both are known), another D, and a
        `top` below 1; DataError for queries that are not finite.
        """
        if isinstance(queries, Embeddings):
            self.require_encoder(queries.fingerprint)
            queries = queries.vectors
        vectors = np.atleast_2d(queries)
        dimensions = self.embeddings.vectors.shape[1]
        check_finite(vectors, what="queries")
        if top < 1:
            raise UsageError(f"top must be at least 1, got {top}")
        if vectors.shape[1] != dimensions:
            raise UsageError(
                f"the collection has {dimensions} dimensions and the queries {vectors.shape[1]}: embed both with the "
                "same encoder"
            )
        left_out = [sorted(set(rows)) for rows in without] if without is not None else []
        if without is not None and len(left_out) != len(vectors):
            raise UsageError(f"without needs rows for each of {len(vectors)} queries, got {len(left_out)}")
        most = max(map(len, left_out), default=0)
        found = _join(
            [self._find(part, top=min(top + most, len(self))) for part in _groups(_unit(vectors), top + most)]
        )
        if not most:
            return found
        return _drop(found, left_out, top=min(top, len(self) - most))

    def search_ids(self, ids: Sequence[str], *, top: int = 10) -> Nearest:
        """The `top` most similar others to each of these ids. Raises UsageError as `row` and `search` do."""
        at = {name: row for row, name in reversed(list(enumerate(self.embeddings.ids)))} if len(ids) > 8 else {}
        rows = [at[name] if name in at else self.row(name) for name in ids]
        return self.search(self.embeddings.vectors[rows], top=top, without=[(row,) for row in rows])

    def require_encoder(self, fingerprint: str) -> None:
        """Raise UsageError where the collection is known to be embedded by another encoder."""
        mine = self.embeddings.fingerprint
        if mine and fingerprint and mine != fingerprint:
            raise UsageError(
                f"the collection was embedded by another encoder, or seen in another way (fingerprint {mine[:12]}, the "
                f"queries' {fingerprint[:12]}): embed it again with this one"
            )

    def _find(self, unit: npt.NDArray[np.float64], *, top: int) -> Nearest:
        best = _Best(len(unit), top)
        single = unit.astype(np.float32)
        dimensions = unit.shape[1]
        # Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: D roundings of a sum in any order; then
        # those of the query, the length, its inverse, the division and the result.
        bound = np.float32(1.01 * (dimensions + 8) * _ROUNDED)
        nowhere = np.logical_not(unit.any(axis=1))
        best.settle(nowhere)
        rows = min(_PRODUCTS // max(1, len(unit)), _WIDE // max(1, dimensions))
        for part in _parts(len(self), rows):
            products = self._products(single, part)
            floor = np.where(nowhere, np.inf, best.floor() - bound)
            width = products.shape[1]
            if width > top and (np.isneginf(floor).any() or _many(products, floor, top=top)):
                kth = np.partition(products, width - top, axis=1)[:, -top]
                floor = np.maximum(floor, kth - 2 * bound)
            asked, at = np.divmod(np.flatnonzero(products >= floor[:, None]), width)
            for some in _parts(len(at), max(1, _EXACT // max(1, dimensions))):
                query, row = asked[some], at[some] + part.start
                best.add(query, row, self._similarity(unit, query, row))
        return best.result()

    def _products(self, single: npt.NDArray[np.float32], part: slice) -> npt.NDArray[np.float32]:
        """(Q, rows) float32, each within the bound of its similarity."""
        block = self.embeddings.vectors[part]
        if self._wild:
            lengths = np.where(self.norms[part] > 0, self.norms[part], 1)
            return single @ (block / lengths[:, None]).astype(np.float32).T
        if len(single) > block.shape[1]:  # fewer numbers to multiply
            return single @ (block * self._scale[part, None]).T
        products: npt.NDArray[np.float32] = single @ block.T
        products *= self._scale[part]
        return products

    def _similarity(
        self, unit: npt.NDArray[np.float64], query: npt.NDArray[np.int64], row: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """(M,) of pairs. Summed row by row, so that equal vectors have equal similarities wherever they lie."""
        values = self.embeddings.vectors[row].astype(np.float64)
        values *= unit[query]
        norms = self.norms[row]
        cosines: npt.NDArray[np.float64] = values.sum(axis=1) / np.where(norms > 0, norms, 1)
        # A fixed step: beside zero, float32 would tell apart what rounding alone has made different.
        return (np.rint(cosines / _ROUNDED) * _ROUNDED + 0.0).astype(np.float32)


class _Best:
    """The best so far of each query. What comes in is merged when it is as much as what is held."""

    def __init__(self, queries: int, top: int) -> None:
        self._top = top
        self._index = np.full((queries, top), np.iinfo(np.int64).max)
        self._similarity = np.full((queries, top), -np.inf, np.float32)
        self._waiting: list[tuple[npt.NDArray[Any], ...]] = []
        self._count = 0

    def settle(self, queries: npt.NDArray[np.bool_]) -> None:
        """Queries to which all are equally similar, not at all."""
        self._index[queries], self._similarity[queries] = np.arange(self._top), 0

    def floor(self) -> npt.NDArray[np.float32]:
        """(Q,): what is below is no answer; -inf where there are fewer than k yet."""
        return self._similarity[:, -1]

    def add(
        self, query: npt.NDArray[np.int64], row: npt.NDArray[np.int64], similarity: npt.NDArray[np.float32]
    ) -> None:
        """Rows come in ascending order of blocks, so that one as good as the k-th comes too late."""
        good = similarity > self._similarity[query, -1]
        self._waiting.append((query[good], row[good], similarity[good]))
        self._count += int(good.sum())
        if self._count >= self._similarity.size:
            self._merge()

    def result(self) -> Nearest:
        self._merge()
        return Nearest(self._index, self._similarity)

    def _merge(self) -> None:
        if not self._count:
            return
        query, row, similarity = (np.concatenate(values) for values in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        touched = np.unique(query)
        query = np.concatenate([np.repeat(touched, self._top), query])
        row = np.concatenate([self._index[touched].ravel(), row])
        similarity = np.concatenate([self._similarity[touched].ravel(), similarity])
        order = np.lexsort((row, -similarity, query))
        first = np.searchsorted(query[order], touched)
        kept = order[first[:, None] + np.arange(self._top)]
        self._index[touched], self._similarity[touched] = row[kept], similarity[kept]


def combine(wanted: npt.NDArray[Any], unwanted: npt.NDArray[Any] | None = None) -> npt.NDArray[np.float64]:
    """One query (D,) of several: the mean of the unit vectors (P, D), less the mean of those of `unwanted` (M, D).

    Raises DataError for values that are not finite, for a zero vector, and where nothing is left.

    >>> combine(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 3.0]]))
    array([ 0.5, -0.5])
    """
    total = np.zeros(np.atleast_2d(wanted).shape[1])
    for vectors, sign in ((wanted, 1), (unwanted, -1)):
        if vectors is None or not len(vectors):
            continue
        vectors = np.atleast_2d(vectors)
        check_finite(vectors, what="queries")
        unit = _unit(vectors)
        if not unit.any(axis=1).all():
            raise DataError("a query has a vector of zeros, which is similar to nothing: leave it out")
        total += sign * unit.mean(axis=0)
    if np.linalg.norm(total) < 1e-6:
        raise DataError("nothing is left of the query: what is wanted and what is not come to the same")
    return total


def near_ids(name: str, ids: Sequence[str]) -> Sequence[str]:
    """Of many ids those among which the nearest to `name` is sought: to compare with a million takes a minute."""
    if len(ids) <= _LISTED:
        return ids
    last, lower = name.rpartition("/")[2], name.lower()
    alike = [other for other in ids if other.rpartition("/")[2] == last or other.lower() == lower]
    if not alike:
        ordered = sorted(ids)
        place = bisect(ordered, name)
        alike = ordered[max(0, place - _LISTED // 2) : place + _LISTED // 2]
    return get_close_matches(name, alike, n=1, cutoff=0.5) or alike[:20]


def _unit(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(Q, D) of length 1; what is zero stays zero."""
    largest = np.abs(vectors).max(axis=1, initial=0)
    # First by the largest: squares of what only float64 holds would leave its range.
    unit: npt.NDArray[np.float64] = vectors / np.where(largest > 0, largest, 1).astype(np.float64)[:, None]
    lengths = np.linalg.norm(unit, axis=1)
    unit /= np.where(lengths > 0, lengths, 1)[:, None]
    return unit


def _groups(unit: npt.NDArray[np.float64], top: int) -> Iterator[npt.NDArray[np.float64]]:
    for part in _parts(max(1, len(unit)), max(1, min(GROUP, _HELD // top))):
        yield unit[part]


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, max(1, size)):
        yield slice(start, min(count, start + max(1, size)))


def _many(products: npt.NDArray[np.float32], floor: npt.NDArray[np.float32], *, top: int) -> bool:
    return int(np.count_nonzero(products >= floor[:, None])) > len(products) * max(64, 4 * top)


def _join(parts: list[Nearest]) -> Nearest:
    return Nearest(np.concatenate([part.rows for part in parts]), np.concatenate([part.similarities for part in parts]))


def _drop(found: Nearest, left_out: list[list[int]], *, top: int) -> Nearest:
    """Without each query's own rows."""
    kept = np.ones(found.rows.shape, bool)
    for query, rows in enumerate(left_out):
        kept[query] = ~np.isin(found.rows[query], rows)
    order = np.argsort(~kept, axis=1, kind="stable")[:, :top]
    return Nearest(np.take_along_axis(found.rows, order, axis=1), np.take_along_axis(found.similarities, order, axis=1))
