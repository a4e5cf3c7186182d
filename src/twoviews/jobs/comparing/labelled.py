"""Labelled data for a comparison: train, validation and test with one list of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from twoviews.data.corpus import Corpus, read_excluded
from twoviews.data.source import Spec
from twoviews.errors import DataError
from twoviews.evaluation.compare import Split
from twoviews.evaluation.subsets import split_validation
from twoviews.jobs.comparing.copies import Seen, without_copies
from twoviews.jobs.comparing.overlap import apart_from_training, group_names, groups_in_words, units_of, without_groups
from twoviews.jobs.parts import TRAIN, VALIDATION, read_parts
from twoviews.jobs.reading import load_shared, no_labels
from twoviews.jobs.vectors.embed import Preprocessing
from twoviews.narrate import Narrator
from twoviews.run import Run

GIVEN = "given by --val"
"""Where validation comes from, if not from the labelled training data."""


@dataclass(frozen=True)
class Labelled:
    """The three labelled parts, with one list of classes.

    `excluded`: what left a part, and why. `overlap`: how much of test was among the unlabelled images; `transductive`:
    whether some of these stay in test. `groups`: what is known of them, and that none is on two sides.
    `test_fingerprint`: of the labelled test images as they were read, before any left.
    """

    train: Corpus
    val: Corpus
    test: Corpus
    split: Split
    val_origin: str
    excluded: list[str]
    overlap: str
    transductive: bool
    groups: str
    test_fingerprint: str


def load_labelled(
    run: Run,
    *,
    train: Spec | None,
    val: Spec | None,
    test: Spec,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    part: float | None = None,
    split_seed: int = 0,
    overlap: Literal["mark", "drop"] = "mark",
    download: bool,
    narrator: Narrator,
) -> Labelled:
    """Decode the labelled parts as the run's encoder wants them, and hold out validation where none is given.

    Without `train`, it is the labelled data that the run was trained on, and its validation. `part`, `split_seed`: how
    much is held out and by which draw, as `split_validation` takes them. `labels`: a manifest joined to all parts by
    id. `exclude`: a CSV file with the ids of train that are left out. `overlap`: test items that were among the
    unlabelled images are told, or dropped (`apart_from_training`).

    What lies in test as well, as pixels or nearly, leaves train and validation; so does an item whose group is in
    test. What lies in a given validation as well, and a group in train and in validation, leaves train, as a given
    validation is a fixed measure; where the encoder was trained on train's labels, and has seen them anyway, it leaves
    validation. What is held out is held out by whole groups. All is counted in `excluded`.

    Raises `DataError` for a part without labels, for classes of val or test that train lacks, and where nothing is left
    of a part or of a class of train.
    """
    parts: dict[str, Corpus] = {}
    own: dict[str, Corpus] = {}
    read: list[Seen] = []
    excluded: list[str] = []
    storage = Preprocessing.of(run.encoder).storage
    if train is None:
        own = read_parts(run, storage=storage, download=download, narrator=narrator)
        parts["train"] = own[TRAIN]
        if exclude is not None:
            left_out = set(read_excluded(Path(exclude)))
            kept = [index for index, item in enumerate(own[TRAIN].ids) if item not in left_out]
            excluded.append(f"{len(own[TRAIN]) - len(kept)} items of train listed in {exclude}")
            parts["train"] = own[TRAIN].select(np.array(kept, np.int64))
        if val is None and VALIDATION in own:
            parts["val"] = own[VALIDATION]
    origin = GIVEN if val is not None else "held out before pretraining"
    for name, spec in (("train", train), ("val", val), ("test", test)):
        if spec is None:
            continue
        corpus = load_shared(
            spec,
            storage,
            labels=labels,
            exclude=exclude if name == "train" else None,
            download=download,
            narrator=narrator,
        )
        read.append(Seen(corpus))
        labelled = np.flatnonzero(corpus.labels >= 0)
        if not len(labelled):
            raise no_labels(f"--{name} {corpus.spec}")
        if len(labelled) < len(corpus):
            excluded.append(f"{len(corpus) - len(labelled)} items of {name} without a label")
        if corpus.rejected:
            excluded.append(f"{len(corpus.rejected)} unreadable items of {name}")
        if corpus.excluded:
            excluded.append(f"{corpus.excluded} items of {name} listed in {exclude}")
        parts[name] = corpus.select(labelled)
    classes = parts["train"].classes
    for name in ("val", "test"):
        if name in parts:
            check_classes(name, parts[name].classes, classes)
            parts[name] = parts[name].relabel(classes)
    seen = {name: Seen(corpus) for name, corpus in parts.items()}
    fingerprint = parts["test"].fingerprint
    own_train = train is None
    apart = apart_from_training(
        run,
        seen["test"],
        overlap=overlap,
        read=[*seen.values(), *read],  # the first ones are looked at below too
        learnt=Seen(own[TRAIN]) if own_train else None,
        download=download,
        narrator=narrator,
    )
    seen["test"] = apart.test
    leaks = [
        *apart.excluded,
        *_part_ways(seen, own_train=own_train, given=val is not None, one_list=labels is not None),
    ]
    for text in leaks:
        narrator.warn(text)
    excluded += leaks
    for name, what in seen.items():
        # Validation of labels that the encoder was trained on may end: nothing is chosen then.
        if not len(what) and not (name == "val" and val is None):
            raise DataError(f"no item of {name} is left, without {', '.join(leaks)}: give other data")
    lost = np.setdiff1d(parts["train"].labels, seen["train"].corpus.labels)
    if len(lost):
        raise DataError(
            f"no item of class {classes[lost[0]]!r} is left in train, without {', '.join(leaks)}: give other data"
        )
    parts = {name: part.corpus for name, part in seen.items()}
    if "val" not in parts:
        # What the run was trained on stays whole: its probe has seen all of it.
        share = 0.0 if own_train else part
        parts["train"], parts["val"], origin = _hold_out(parts["train"], share, seed=split_seed, narrator=narrator)
    elif not len(parts["val"]):
        origin = f"none left of what was {origin}"
    test = parts["test"]
    split = Split(parts["train"].labels, parts["val"].labels, test.labels, classes, units_of(test.groups))
    narrator.say(
        f"labelled: train {len(split.train):,}, validation {len(split.val):,} ({origin}), test {len(split.test):,}; "
        f"{len(classes)} classes"
    )
    groups = groups_in_words(parts["train"], parts["val"], parts["test"])
    for text in (apart.words, groups):
        narrator.say(text)
    return Labelled(
        parts["train"],
        parts["val"],
        parts["test"],
        split,
        origin,
        excluded,
        apart.words,
        apart.transductive,
        groups,
        fingerprint,
    )


def check_classes(name: str, theirs: Sequence[str], classes: Sequence[str]) -> None:
    """Raise `DataError` for classes of the part `name` that train lacks."""
    if unknown := sorted(set(theirs) - set(classes)):
        raise DataError(
            f"--{name} has classes that --train lacks: {', '.join(unknown[:5])}; "
            f"those of --train: {', '.join(classes[:10])}"
        )


def _part_ways(seen: dict[str, Seen], *, own_train: bool, given: bool, one_list: bool) -> list[str]:
    """Take out of train and validation what may not be there, in place; how many those were, in words."""
    leaks = []
    for name in [name for name in ("train", "val") if name in seen]:
        seen[name], words = without_copies(seen[name], seen["test"], name=name, other_name="test")
        leaks += words
        seen[name], words = without_groups(seen[name], seen["test"], name=name, other_name="test", one_list=one_list)
        leaks += words
    if "val" in seen:
        name, other, there = ("val", "train", "train") if own_train else ("train", "val", "validation")
        if given and len(seen[name]) and len(seen[other]):
            seen[name], words = without_copies(seen[name], seen[other], name=name, other_name=other)
            leaks += words
        seen[name], words = without_groups(seen[name], seen[other], name=name, other_name=there, one_list=one_list)
        leaks += words
    return leaks


def _hold_out(train: Corpus, part: float | None, *, seed: int, narrator: Narrator) -> tuple[Corpus, Corpus, str]:
    """What stays of train, validation, and where that comes from, in words."""
    keep, held_out = split_validation(train.labels, seed=seed, part=part, groups=train.groups, classes=train.classes)
    left, val = train.select(keep), train.select(held_out)
    if not len(val):
        return left, val, "none held out"
    share = "a stratified fifth of train, at most 5,000" if part is None else f"a stratified {part:.0%} of train"
    origin = f"{share}, held out before any subset is drawn: {len(val)} labels"
    if whole := len(group_names(val)):
        origin += f", by whole groups ({whole} of {whole + len(group_names(left))})"
        if len(absent := np.setdiff1d(left.labels, val.labels)):
            names = ", ".join(train.classes[i] for i in absent[:5])
            narrator.warn(f"validation has no item of {names}: whole groups leave none to it")
    return left, val, origin
