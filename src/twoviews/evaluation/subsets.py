"""Label subsets and validation splits: stratified, seeded, the same for whoever asks.

N samples; labels (N,) int64, -1 = none. Each class has its own random stream from (seed, class, purpose), so
a class is drawn alike whatever the others hold, and a subset says nothing about a split.

Groups (a patient, a camera, a session) hold samples that are not independent: a split takes each of them whole.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError

_SUBSET, _SPLIT, _GROUPS = 1, 2, 3
_NOTHING = 1e-9  # what rounding may leave of a gain

_Indices = npt.NDArray[np.int64]

Groups: TypeAlias = Sequence[str | None]
"""The group of each sample; None: independent of all others."""


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
    groups: Groups | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[_Indices, _Indices]:
    """Ascending indices (train, validation) of the labelled samples, stratified.

    Validation gets `fraction` of them, at most `maximum`, or just `part` of them, however many: 0 holds nothing out.
    At least one sample of each class stays in train, so with one label a class validation is empty.

    `groups` (N): all samples of a group come to the same side, so shares are met only as nearly as groups allow, and a
    class that lives in one group stays in train. Groups are drawn at random while they fit; then come those that bring
    the classes nearer to their shares, and at least one, of whatever size, for a class that would have none. Where no
    sample has company the split is that without groups.

    `classes`: their names, for messages. Raises UsageError for values out of range, DataError where validation would
    stay empty because each group holds all that there is of a class.

    >>> train, validation = split_validation(np.repeat([0, 1], 10), seed=0)
    >>> len(train), len(validation)
    (16, 4)
    >>> [len(indices) for indices in split_validation(np.repeat([0, 1], 10), seed=0, part=0)]
    [20, 0]
    >>> train, validation = split_validation(np.repeat([0, 1], 10), seed=0, groups=list("aabbccddeeffgghhiijj"))
    >>> len(train), len(validation)
    (16, 4)
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
    company = _company(labels, groups)
    whole = _whole_groups(labels, company, np.array(names), share, seed) if company.any() else np.zeros(0, np.int64)
    taken = np.array([(labels[whole] == index).sum() for index in names])
    orders = [order[company[order] == 0] for order in orders]  # those without company fill up
    rest = np.clip(share - taken, 0, np.minimum([len(order) for order in orders], counts - taken - 1))
    validation = np.concatenate([whole, *(order[:k] for order, k in zip(orders, rest, strict=True))])
    if company.any() and share.any() and not len(validation):
        assert groups is not None
        first = int(np.flatnonzero((labels == names[share.argmax()]) & (company > 0))[0])
        inside = company == company[first]
        only = next(index for index in names if inside[labels == index].all())
        named = str(only) if classes is None else classes[only]
        raise DataError(
            f"no group can be held out for validation, as train needs every class: group {groups[first]!r} holds all "
            f"of class {named!r}; give validation data, or hold nothing out (evaluate.validation = 0)"
        )
    free = labels >= 0
    free[validation] = False
    return np.flatnonzero(free), np.sort(validation)


def _company(labels: npt.NDArray[np.int64], groups: Groups | None) -> _Indices:
    """(N,): from 1 the number of the group, in the order of names, of a sample that shares it with another labelled
    one; else 0."""
    if groups is None:
        return np.zeros(len(labels), np.int64)
    if len(groups) != len(labels):
        raise UsageError(f"need one group a sample, got {len(groups)} for {len(labels)} samples")
    known = [None if label < 0 else group for label, group in zip(labels.tolist(), groups, strict=True)]
    sizes = Counter(group for group in known if group is not None)
    number = {group: i + 1 for i, group in enumerate(sorted(group for group, size in sizes.items() if size > 1))}
    return np.array([0 if group is None else number.get(group, 0) for group in known], np.int64)


def _whole_groups(
    labels: npt.NDArray[np.int64], company: _Indices, names: _Indices, share: _Indices, seed: int
) -> _Indices:
    """The samples of the groups that validation gets; `share`: how many it should hold of each of the classes `names`.

    Every class keeps a sample outside of them.
    """
    members = np.flatnonzero((company > 0) & (labels >= 0))
    # A row for each group and class that meet; rows of a group stand together, groups in the order of the draw.
    order = np.random.default_rng([seed, 0, _GROUPS]).permutation(int(company.max()))
    group, kind = np.argsort(order)[company[members] - 1], np.searchsorted(names, labels[members])
    cells, held = np.unique(group * len(names) + kind, return_counts=True)
    row, column = np.divmod(cells, len(names))
    starts = np.searchsorted(row, np.arange(len(order) + 1))
    counts = np.bincount(np.searchsorted(names, labels[labels >= 0]), minlength=len(names))
    spare = counts - 1
    # What has no company is drawn by itself, for its part of the share.
    left = share * np.bincount(column, weights=held, minlength=len(names)) / counts
    chosen = np.zeros(len(order), dtype=bool)

    def take(index: int) -> None:
        cell = slice(starts[index], starts[index + 1])
        left[column[cell]] -= held[cell]
        spare[column[cell]] -= held[cell]
        chosen[index] = True

    def feasible() -> npt.NDArray[np.bool_]:
        too_much = np.bincount(row, weights=held > spare[column], minlength=len(order)) > 0
        return ~too_much & ~chosen

    def gain() -> npt.NDArray[np.float64]:
        """What taking a group removes of the classes' squared distances from their shares, by class size; where it
        cannot be taken -inf."""
        removed = np.bincount(row, weights=(2 * left[column] - held) * held / counts[column], minlength=len(order))
        found: npt.NDArray[np.float64] = np.where(feasible(), removed, -np.inf)
        return found

    for index in range(len(order)):
        cell = slice(starts[index], starts[index + 1])
        kinds = column[cell]
        if (held[cell] <= np.ceil(left[kinds])).all() and (held[cell] <= spare[kinds]).all():
            take(index)
    while (value := gain()).max() > _NOTHING:
        for found in np.argsort(-value, kind="stable")[: (value > _NOTHING).sum()].tolist():
            cell = slice(starts[found], starts[found + 1])
            kinds = column[cell]
            removed = ((2 * left[kinds] - held[cell]) * held[cell] / counts[kinds]).sum()
            if removed > _NOTHING and (held[cell] <= spare[kinds]).all():
                take(found)
    for absent in np.flatnonzero((share > 0) & (counts == np.bincount(column, weights=held, minlength=len(names)))):
        holders = row[column == absent]
        if not chosen[holders].any() and (value := gain()[holders]).max() > -np.inf:
            take(int(holders[value.argmax()]))
    samples: _Indices = members[chosen[group]]
    return samples


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
