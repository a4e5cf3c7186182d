"""Label subsets and validation splits: stratified, seeded, the same for whoever asks.

N samples; labels (N,) int64, -1 = none. Each class has its own random stream from (seed, class, purpose), so
a class is drawn alike whatever the others hold, and a subset says nothing about a split.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError

_SUBSET, _SPLIT = 1, 2

_Indices = npt.NDArray[np.int64]


def subset(
    labels: npt.NDArray[np.int64],
    *,
    per_class: int | Literal["all"],
    seed: int,
    classes: Sequence[str] | None = None,
) -> _Indices:
    """Ascending indices of `per_class` labelled samples of each class; "all": of every labelled sample.

    For one seed, a smaller budget is contained in a larger. Without `classes` (their names), those that
    occur count. Raises DataError when a class has fewer, UsageError for a budget or seed out of range.

    >>> labels = np.array([0, 0, 0, 1, 1, -1])
    >>> small, large = (subset(labels, per_class=k, seed=0) for k in (1, 2))
    >>> len(small), len(large), set(small) <= set(large)
    (2, 4, True)
    """
    names = _names(labels, classes)
    if per_class == "all":
        return np.flatnonzero(labels >= 0)
    if per_class < 1:
        raise UsageError(f"labels per class must be at least 1 or 'all', got {per_class}")
    counts = {index: int((labels == index).sum()) for index in names}
    poorest = min(counts, key=counts.__getitem__)
    if counts[poorest] < per_class:
        largest = counts[poorest]
        step = f"ask for {largest} or fewer" if largest else "label at least one of them or leave the class out"
        raise DataError(
            f"{per_class} labels a class were asked for, but class {names[poorest]!r} has {largest}: {step}"
        )
    return np.sort(np.concatenate([_shuffled(labels, i, seed, _SUBSET)[:per_class] for i in names]))


def split_validation(
    labels: npt.NDArray[np.int64],
    *,
    fraction: float = 0.2,
    maximum: int = 5000,
    seed: int,
    part: float | None = None,
) -> tuple[_Indices, _Indices]:
    """Ascending indices (train, validation) of the labelled samples, stratified.

    Validation gets `fraction` of them, at most `maximum`, or just `part` of them, however many: 0 holds nothing out.
    At least one sample of each class stays in train, so with one label a class validation is empty. Raises UsageError
    for values out of range.

    >>> train, validation = split_validation(np.repeat([0, 1], 10), seed=0)
    >>> len(train), len(validation)
    (16, 4)
    >>> [len(indices) for indices in split_validation(np.repeat([0, 1], 10), seed=0, part=0)]
    [20, 0]
    """
    if not 0 < fraction < 1 or maximum < 1:
        raise UsageError(
            f"validation needs 0 < fraction < 1 and maximum >= 1, got fraction={fraction}, maximum={maximum}"
        )
    if part is not None and not 0 <= part < 1:
        raise UsageError(
            f"the part held out for validation must be 0 or more and below 1, got {part}: 0.2 is a fifth, 0 is none"
        )
    names = list(_names(labels, None))
    counts = np.array([(labels == index).sum() for index in names])
    target = min(round(fraction * counts.sum()), maximum) if part is None else round(part * counts.sum())
    # Largest remainders: the shares add up to the target, and no class is off by more than one.
    wanted = counts * (target / counts.sum())
    share = np.floor(wanted).astype(np.int64)
    extra = np.argsort(share - wanted, kind="stable")[: target - share.sum()]
    share[extra] += 1
    share = np.minimum(share, counts - 1)
    orders = [_shuffled(labels, index, seed, _SPLIT) for index in names]
    validation = np.concatenate([order[:k] for order, k in zip(orders, share, strict=True)])
    train = np.concatenate([order[k:] for order, k in zip(orders, share, strict=True)])
    return np.sort(train), np.sort(validation)


def _names(labels: npt.NDArray[np.int64], classes: Sequence[str] | None) -> dict[int, str]:
    if classes is not None:
        names = dict(enumerate(classes))
    else:
        names = {int(index): str(index) for index in np.unique(labels[labels >= 0])}
    if not names or not (labels >= 0).any():
        raise DataError("no sample has a label: give labelled data")
    return names


def _shuffled(labels: npt.NDArray[np.int64], index: int, seed: int, purpose: int) -> _Indices:
    if seed < 0:
        raise UsageError(f"a seed must be 0 or more, got {seed}")
    return np.random.default_rng([seed, index, purpose]).permutation(np.flatnonzero(labels == index))
