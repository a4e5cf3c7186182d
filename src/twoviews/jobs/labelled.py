"""Labelled data for a comparison: train, validation and test with one list of classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twoviews.data.checking.duplicates import near_duplicates
from twoviews.data.checking.prints import SQUARE, corpus_hashes
from twoviews.data.corpus import Corpus, read_csv, read_excluded
from twoviews.data.source import Spec
from twoviews.errors import DataError
from twoviews.evaluation.compare import Split
from twoviews.evaluation.subsets import split_validation
from twoviews.jobs.embed import Preprocessing
from twoviews.jobs.parts import TRAIN, VALIDATION, read_parts
from twoviews.jobs.reading import load_shared
from twoviews.narrate import Narrator
from twoviews.run import Run

COPIES_ARE_RARE = 0.1
"""Part of a set above which near duplicates are no copies but its nature, as of a camera that does not move."""


@dataclass(frozen=True)
class Labelled:
    """The three labelled parts, with one list of classes."""

    train: Corpus
    val: Corpus
    test: Corpus
    split: Split
    val_origin: str
    excluded: list[str]
    overlap: str


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
    download: bool,
    narrator: Narrator,
) -> Labelled:
    """Decode the labelled parts as the run's encoder wants them, and hold out validation where none is given.

    Without `train`, it is the labelled data that the run was trained on, and its validation. `part`, `split_seed`: how
    much is held out and by which draw, as `split_validation` takes them. What lies in test as well leaves train and
    validation. `labels`: a manifest joined to all parts by id. `exclude`: a CSV file with the ids of train that are
    left out.

    Raises `DataError` for a part without labels, and for classes of val or test that train lacks.
    """
    parts: dict[str, Corpus] = {}
    excluded = []
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
    origin = "given by --val" if val is not None else "held out before pretraining"
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
        labelled = np.flatnonzero(corpus.labels >= 0)
        if not len(labelled):
            raise DataError(
                f"--{name} {corpus.spec} has no labels: give class folders or a manifest with a label column"
            )
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
            unknown = sorted(set(parts[name].classes) - set(classes))
            if unknown:
                raise DataError(
                    f"--{name} has classes that --train lacks: {', '.join(unknown[:5])}; "
                    f"those of --train: {', '.join(classes[:10])}"
                )
            parts[name] = parts[name].relabel(classes)
    for name in ("train", "val"):
        if name in parts:
            parts[name], leaks = _without_leaks(parts[name], parts["test"], name=name)
            excluded += leaks
            for text in leaks:
                narrator.warn(text)
    if "val" not in parts:
        # What the run was trained on stays whole: its probe has seen all of it.
        keep, held_out = split_validation(parts["train"].labels, seed=split_seed, part=0.0 if train is None else part)
        origin = (
            "a stratified fifth of train, at most 5,000" if part is None else f"a stratified {part:.0%} of train"
        ) + f", held out before any subset is drawn: {len(held_out)} labels"
        if not len(held_out):
            origin = "none held out"
        parts["val"] = parts["train"].select(held_out)
        parts["train"] = parts["train"].select(keep)
    split = Split(parts["train"].labels, parts["val"].labels, parts["test"].labels, classes)
    narrator.say(
        f"labelled: train {len(split.train):,}, validation {len(split.val):,} ({origin}), test {len(split.test):,}; "
        f"{len(classes)} classes"
    )
    overlap = _overlap(run, parts["test"])
    narrator.say(overlap)
    return Labelled(parts["train"], parts["val"], parts["test"], split, origin, excluded, overlap)


def _without_leaks(part: Corpus, test: Corpus, *, name: str) -> tuple[Corpus, list[str]]:
    """The part without the pictures that lie in test too, and how many those were, in words."""
    known = set(test.content_keys())
    same = np.array([key in known for key in part.content_keys()], dtype=bool)
    near = np.zeros(len(part), dtype=bool)
    if min(part.values.shape[1:3]) >= SQUARE:  # smaller ones have too little to be recognised by
        prints = (corpus_hashes(corpus.values, corpus.sizes) for corpus in (test, part))
        near[[pair.second for pair in near_duplicates(next(prints), other=next(prints))]] = True
    near &= ~same
    words = [f"{int(same.sum())} items of {name} with the same pixels as an item of test"] if same.any() else []
    if near.mean() > COPIES_ARE_RARE:
        words.append(
            f"none of the {int(near.sum())} items of {name} that resemble an item of test: too many to be copies"
        )
        near[:] = False
    elif near.any():
        words.append(f"{int(near.sum())} items of {name} nearly the same as an item of test")
    if not words:
        return part, []
    kept = np.flatnonzero(~(same | near))
    if not len(kept):
        raise DataError(f"every item of --{name} {part.spec} lies in --test {test.spec} too: give other data")
    return part.select(kept), words


def _overlap(run: Run, test: Corpus) -> str:
    """How many test items the encoder was trained on, without their labels, in words.

    Raises `DataError` where it was trained with their labels.
    """
    rows = [row for path in (run.manifest, run.labelled) if path.is_file() for row in read_csv(path)]
    pool = {row["content"] for row in rows if row.get("content")}
    info = run.info()
    stored = info["data"]
    if not pool or tuple(stored[side] for side in ("height", "width", "channels")) != test.values.shape[1:]:
        return "not known whether test items were among the unlabelled images"
    count = sum(key.hex() in pool for key in test.content_keys())
    if not count:
        return "no test item was among the unlabelled images"
    if info.get("labels_trained_on"):
        raise DataError(
            f"{count} of {len(test)} test items were among the images whose labels the encoder was trained on, so an "
            "accuracy on them would mean nothing: train without them, or give another --test"
        )
    return f"{count} of {len(test)} test items were among the unlabelled images: the comparison is transductive"
