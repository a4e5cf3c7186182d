"""What lies on two sides and may not: groups in two parts of labelled data, test in what an encoder was trained on.

Test stays as it is where train can give way; what an encoder has learnt cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twoviews import distributed
from twoviews.data.corpus import Corpus, read_csv
from twoviews.errors import DataError
from twoviews.jobs.comparing.copies import Mask, Seen, find_copies
from twoviews.jobs.comparing.trained_on import groups_of_labelled, groups_of_pool, labelled_of, pool_of
from twoviews.jobs.parts import TRAIN
from twoviews.narrate import Narrator
from twoviews.run import Run

TOO_SMALL = "images below 32 pixels have too little to be told by"


def without_groups(
    part: Seen, other: Seen, *, name: str, other_name: str, one_list: bool = False
) -> tuple[Seen, list[str]]:
    """The part without the items whose group is in `other` too, which may be all, and how many those were, in words.

    Groups are told apart by name, whatever source they come from: where two sources merely number theirs, items leave
    that need not, and the words say so. `one_list`: one file gave both their groups.
    """
    theirs = group_names(other.corpus)
    mine = part.corpus.groups or ()
    kept = np.array([i for i, group in enumerate(mine) if group not in theirs], np.int64)
    shared = {group for group in mine if group is not None and group in theirs}
    if not shared:
        return part, []
    one_list |= _base(part.corpus.spec) == _base(other.corpus.spec)
    them = "a group that is" if len(shared) == 1 else f"{len(shared)} groups that are"
    words = f"{len(part) - len(kept)} items of {name}, of {them} in {other_name} too"
    if not one_list and all(group.isdigit() for group in shared):
        words += " (by number: if the two sources count differently, give groups names)"
    return part.select(kept), [words]


def group_names(corpus: Corpus) -> set[str]:
    """The groups that occur."""
    return {group for group in corpus.groups or () if group is not None}


def units_of(groups: Sequence[str | None] | None) -> NDArray[np.int64] | None:
    """Which items belong together, numbered as they come; None where none do. An item without a group stands alone."""
    known: dict[str, int] = {}
    units = []
    for place, group in enumerate(groups or ()):
        name = f"group {group}" if group is not None else f"item {place}"
        units.append(known.setdefault(name, len(known)))
    return np.array(units, np.int64) if len(known) < len(units) else None


def groups_in_words(train: Corpus, val: Corpus, test: Corpus) -> str:
    """How many groups there are, that none is on two sides, and what that means for test."""
    parts = (train, val, test)
    names = [group_names(part) for part in parts]
    if not any(names):
        return "no group column: images are taken to be independent"
    assert len(set.union(*names)) == sum(map(len, names)), "a group is on two sides"
    words = f"{sum(map(len, names))} groups, none on two sides"
    alone = sum(len(part) - sum(group is not None for group in part.groups or ()) for part in parts)
    if alone:
        words += f"; {alone} items without a group are taken to be independent"
    grouped = sum(group is not None for group in test.groups or ())
    if grouped > len(names[2]):
        words += f"; {grouped} test items come from {len(names[2])} groups, which intervals take to be independent"
    return words


@dataclass(frozen=True)
class Apart:
    """Test as it stays, what of it was in the pool, and what left it.

    `words`: of the images that were trained on; `transductive`: whether some that were among them stay in test.
    """

    test: Seen
    words: str
    transductive: bool
    excluded: list[str]


def apart_from_training(
    run: Run,
    test: Seen,
    *,
    overlap: Literal["mark", "drop"] = "mark",
    read: Sequence[Seen] = (),
    learnt: Seen | None = None,
    download: bool = False,
    narrator: Narrator,
) -> Apart:
    """Hold test against the images that the run's encoder was trained on.

    Unlabelled ones: `mark` tells how many of test they are, `drop` takes these out of test. The same pixels are found
    by the keys of the run's manifest. Near duplicates need the pool itself: it is taken from `read` if it is among
    them, else read again if it can be and has no more than `trained_on.POOL_LIMIT` images; where it is not, the words
    say so.

    What the encoder was trained on with labels leaves test in any case, and so do near duplicates (of `learnt`, the
    labelled images, read again where they are not given, as the pool is; or of a pool whose labels were used) and items
    of a group with one of them: train without these items would not help, the encoder has seen their labels.

    Raises `DataError` where pixels of test were trained on with their labels and `overlap` is `mark`, and where no item
    of test is left.
    """
    info = run.info()
    count = len(test)
    same, labelled = _by_keys(run, info, test)
    told = same is not None
    same = np.zeros(count, dtype=bool) if same is None else same
    labels_used = bool(info.get("labels_trained_on"))
    learnt_same = labelled & labels_used
    # It decides what follows, which is done together.
    distributed.require_equal([told, int(labelled.sum())], f"list of the images that {run.path} was trained on")
    if learnt_same.any() and overlap == "mark":
        raise DataError(
            f"{int(learnt_same.sum())} of {count} test items were among the images whose labels the encoder was "
            "trained on, so an accuracy on them would mean nothing: train without them, give another --test, or set "
            "evaluate.overlap = drop"
        )
    near, alike, why_not = np.zeros(count, dtype=bool), 0, TOO_SMALL
    if test.prints is not None:
        pool, why_not = pool_of(run, info, read, download=download, narrator=narrator)
        if pool is not None:
            found = find_copies(test, of=pool)
            near, alike = (found.near | found.same) & ~(same | labelled), found.alike
            why_not = "" if pool.prints is not None else TOO_SMALL

    # What was learnt with labels.
    of_pool = labels_used and not run.labelled.is_file()
    learnt_near, learnt_alike, why_not_learnt = near.copy() if of_pool else np.zeros(count, dtype=bool), 0, ""
    if labels_used and not of_pool and test.prints is not None:
        if learnt is None:
            learnt, why_not_learnt = labelled_of(run, info, download=download, narrator=narrator)
        if learnt is not None and learnt.prints is None:
            why_not_learnt = TOO_SMALL
    if labels_used and learnt is not None:
        found = find_copies(test, of=learnt)
        learnt_near |= (found.near | found.same) & ~learnt_same
        learnt_alike = found.alike
    names = group_names(learnt.corpus) if labels_used and learnt is not None else set()
    pool_names: set[str] = set()
    if group_names(test.corpus):
        pool_names = groups_of_pool(run, download=download)
        if of_pool:
            names |= pool_names
        elif labels_used and learnt is None:
            names |= groups_of_labelled(run, info, download=download)
    mates = np.array([group is not None and group in names for group in test.corpus.groups or [None] * count], bool)

    leaving = np.zeros(count, dtype=bool)
    excluded = []
    # Each item is counted where it is met first.
    for mask, words in (
        (learnt_same, "items of test whose labels the encoder was trained on"),
        (learnt_near, "items of test nearly the same as an image whose labels the encoder was trained on"),
        (mates, "items of test of a group with images whose labels the encoder was trained on"),
        (labelled & (overlap == "drop"), "items of test that were among the labelled images"),
        (same & (overlap == "drop"), "items of test that were among the unlabelled images"),
        (near & (overlap == "drop"), "items of test nearly the same as one of the unlabelled images"),
    ):
        if (new := mask & ~leaving).any():
            excluded.append(f"{int(new.sum())} {words}")
            leaving |= new
    if leaving.all():
        raise DataError(
            f"no item of --test {test.corpus.spec} is left without {' and '.join(excluded)}: give another --test"
        )
    kept = np.flatnonzero(~leaving)
    transductive = bool((same | near | labelled)[kept].any())
    # An image that lies among both was learnt as a labelled one.
    words = _in_words(
        *(same & ~learnt_near, near & ~learnt_near, labelled, learnt_near), kept=kept, told=told, why_not=why_not
    )
    if why_not_learnt:
        words += f"; near duplicates of the labelled images were not looked for: {why_not_learnt}"
    for resembling, kind in ((alike, "an unlabelled"), (learnt_alike, "a labelled")):
        if resembling:
            words += f"; {resembling} test items resemble {kind} image, too many to be copies"
    friends = sum(group is not None and group in pool_names for group in test.corpus.groups or ())
    if friends:
        words += f"; {friends} of {count} test items are of a group that the unlabelled images have too"
    return Apart(test.select(kept), words, transductive, excluded)


def _in_words(
    same: Mask, near: Mask, labelled: Mask, near_labelled: Mask, *, kept: NDArray[np.int64], told: bool, why_not: str
) -> str:
    """How much of test was among the unlabelled images, and among the labelled ones."""
    count = len(same)
    unsure = f" (near duplicates were not looked for: {why_not})" if why_not else ""
    unknown = "not known whether test items were among the unlabelled images"
    met = same | near | labelled | near_labelled
    if not met.any():
        if told:
            return f"no test item was among the unlabelled images{unsure}"
        if why_not:
            return unknown
        return "no test item is nearly the same as an unlabelled image; stored otherwise, pixels cannot be compared"
    words: list[str] = []
    for kind, equal, alike in (("an unlabelled", same, near), ("a labelled", labelled, near_labelled)):
        nearly = "one of them" if equal.any() else f"{kind} image"
        for mask, what in ((equal, f"among the {kind.split()[1]} images"), (alike, f"nearly the same as {nearly}")):
            if mask.any():
                words.append(f"{int(mask.sum())} {'more' if words else f'of {count} test items'} were {what}")
    what = "the comparison is transductive" if met[kept].any() else f"they left test, {len(kept)} remain"
    return f"{', '.join(words)}{f' ({unknown})' if why_not and not told else unsure}: {what}"


def _by_keys(run: Run, info: dict[str, Any], test: Seen) -> tuple[Mask | None, Mask]:
    """Which test items were among the run's unlabelled images, if that can be told, and which among the labelled ones.

    Labels of the pool make labelled images of it where the method used them.
    """
    pool, together = ([*read_csv(file)] if file.is_file() else [] for file in (run.manifest, run.labelled))
    # Where labelled data stands beside the pool, labels of the pool are not shown.
    rows = (
        [row for row in together if row["part"] == TRAIN]
        if together
        else [row for row in pool if row.get("label") and info.get("labels_trained_on")]
    )
    known, own = ({row["content"] for row in some if row.get("content")} for some in (pool, rows))
    keys = [key.hex() for key in test.keys]
    labelled = np.array([key in own for key in keys], dtype=bool)
    stored = info["data"]
    if not known or tuple(stored[side] for side in ("height", "width", "channels")) != test.corpus.values.shape[1:]:
        return None, labelled
    return np.array([key in known for key in keys], dtype=bool) & ~labelled, labelled


def _base(spec: str) -> str:
    """Without the split."""
    return spec.rpartition(":")[0] or spec
