"""The images of a training: the pool, and the labelled ones that are trained on together with it."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from twoviews.config import Recipe
from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus, read_csv
from twoviews.data.source import Spec
from twoviews.errors import DataError, UsageError
from twoviews.evaluation.subsets import split_validation, subset
from twoviews.jobs.reading import load_shared
from twoviews.narrate import Narrator
from twoviews.run import Run, write_rows

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Parts:
    """`labelled` and `validation` are there where labels are trained on; images of validation may be in the pool.

    `items`: which of the pool are drawn as unlabelled, where it is not all.
    """

    pool: Corpus
    labelled: Corpus | None = None
    validation: Corpus | None = None
    items: np.ndarray | None = None

    @property
    def unlabelled(self) -> int:
        """Samples of the pool that are drawn."""
        return len(self.pool) if self.items is None else len(self.items)

    def fingerprint(self) -> str:
        """sha256 over the labelled images, their ids and labels, part by part."""
        digest = hashlib.sha256()
        for corpus in (self.labelled, self.validation):
            if corpus is not None and len(corpus):
                names = [corpus.classes[label] for label in corpus.labels]
                digest.update(json.dumps([corpus.fingerprint, names]).encode())
        return digest.hexdigest()


def part_labelled(
    config: Recipe,
    pool: Corpus,
    *,
    given: Spec | None = None,
    storage: Storage,
    labels: str | Path | None,
    download: bool = False,
    narrator: Narrator,
) -> Parts:
    """Take the labelled part out of the pool (`data.labelled`), or read it from `given` or `data.labelled_source`.

    Images of the pool that are among the labelled ones, pixel for pixel, are not drawn as unlabelled too: in one batch
    they would be negatives of themselves. A function of the data and the configuration, so a resumed run parts them
    alike. Raises `DataError` for too few labels, and where fewer than two images are left without label.
    """
    wanted, source = config.data.labelled, given if given is not None else config.data.labelled_source
    if wanted is not None and source is not None:
        raise UsageError("give labelled data or data.labelled, which takes them from the pool, not both")
    if wanted is not None:
        parts = _out_of_pool(pool, wanted, config.data.validation)
    elif source is not None:
        other = load_shared(source, storage, labels=labels, download=download, narrator=narrator)
        known = other.select(np.flatnonzero(other.labels >= 0))
        if not len(known):
            raise DataError(f"{other.spec} has no labels: give class folders or a manifest with a label column")
        e = config.evaluate
        if e.validation is None:
            train, held_out = np.arange(len(known)), np.empty(0, np.int64)
        else:
            train, held_out = split_validation(
                known.labels, seed=e.split_seed, part=e.validation, groups=known.groups, classes=known.classes
            )
        taken = known.select(train)
        parts = Parts(pool, taken, known.select(held_out), _not_among(taken, pool, narrator=narrator))
    else:
        return Parts(pool)
    assert parts.labelled is not None
    assert parts.validation is not None
    held = len(parts.validation)
    narrator.say(
        f"{parts.unlabelled:,} images without label and {len(parts.labelled):,} labelled of "
        f"{len(parts.labelled.classes)} classes, trained on together; {held:,} more labels for validation"
    )
    known_groups = {group for group in parts.labelled.groups or () if group is not None}
    if shared := sum(group in known_groups for group in parts.validation.groups or ()):
        narrator.warn(
            f"{shared} of {held} labels for validation are of a group that labels trained on are of too, as "
            "data.labelled and data.validation take single images: with --labelled DATA and evaluate.validation, "
            "whole groups are held out"
        )
    return parts


def write_parts(run: Run, parts: Parts) -> None:
    """Which labelled items were trained on and which are for validation: `labelled.csv`."""
    rows = [
        {"id": item, "part": name, "content": key.hex()}
        for name, corpus in ((TRAIN, parts.labelled), (VALIDATION, parts.validation))
        if corpus is not None
        for item, key in zip(corpus.ids, corpus.content_keys(), strict=True)
    ]
    write_rows(run.labelled, rows, columns=["id", "part", "content"])


def read_parts(run: Run, *, storage: Storage, download: bool, narrator: Narrator) -> dict[str, Corpus]:
    """The labelled items that a run was trained with: `train` and, where there are any, `validation`.

    Raises `UsageError` for a run that was trained without.
    """
    info: dict[str, Any] = run.info().get("labelled") or {}
    spec: Spec | None = info.get("spec")
    if not info or not run.labelled.is_file():
        raise UsageError(f"{run.path} was trained without labels: give labelled data with --train DATA")
    if spec is None:
        raise UsageError(
            f"the labelled data of {run.path} was handed over in Python and cannot be read again: give it as train"
        )
    corpus = load_shared(spec, storage, labels=info.get("labels"), download=download, narrator=narrator)
    place = {item: index for index, item in enumerate(corpus.ids)}
    chosen: dict[str, list[int]] = {TRAIN: [], VALIDATION: []}
    for row in read_csv(run.labelled):
        if row["id"] not in place:
            raise DataError(
                f"{row['id']} of {run.labelled} is no longer in {spec}: give labelled data with --train DATA"
            )
        chosen[row["part"]].append(place[row["id"]])
    found = {name: corpus.select(np.array(indices, np.int64)) for name, indices in chosen.items() if indices}
    if Parts(corpus, found.get(TRAIN), found.get(VALIDATION)).fingerprint() != info["fingerprint"]:
        raise DataError(
            f"images or labels of {spec} have changed since {run.path} was trained on them: give labelled data with "
            "--train DATA"
        )
    return found


def _not_among(labelled: Corpus, pool: Corpus, *, narrator: Narrator) -> np.ndarray | None:
    """Which of the pool are not among the labelled images; None where all are."""
    keys = set(labelled.content_keys())
    left = np.array([index for index, key in enumerate(pool.content_keys()) if key not in keys], np.int64)
    if len(left) == len(pool):
        return None
    found = f"{len(pool) - len(left):,} of {len(pool):,} images of {pool.spec} are among the labelled ones"
    if len(left) < 2:
        raise DataError(
            f"{found}, trained on as such, and {len(left)} without label would be left: give other images without "
            "label, or take data.labelled=N labels of these in place of labelled data"
        )
    narrator.say(f"{found}, pixel for pixel, and are drawn as labelled only")
    return left


def _out_of_pool(pool: Corpus, labelled: int, validation: int) -> Parts:
    classes = len(pool.classes)
    if classes < 2:
        raise DataError(
            f"data.labelled takes labels from {pool.spec}, which has {classes} classes: give --labelled DATA"
        )
    for name, count in (("labelled", labelled), ("validation", validation)):
        if count % classes:
            fitting = max(classes, count // classes * classes)
            raise UsageError(f"data.{name} = {count} cannot be shared equally by {classes} classes: give {fitting}")
    chosen = subset(pool.labels, per_class=labelled // classes, seed=0, classes=pool.classes)
    left = pool.labels.copy()
    left[chosen] = -1
    held_out = np.empty(0, np.int64)
    if validation:
        held_out = subset(left, per_class=validation // classes, seed=0, classes=pool.classes)
    others = np.setdiff1d(np.arange(len(pool)), chosen)
    hidden = replace(pool, labels=np.full_like(pool.labels, -1), classes=())
    return Parts(hidden, pool.select(chosen), pool.select(held_out), others)
