"""Labelled data for a comparison: train, validation and test with one list of classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from twoviews.config import Recipe
from twoviews.data.corpus import Corpus
from twoviews.data.source import Spec
from twoviews.errors import DataError
from twoviews.evaluation.compare import Split
from twoviews.evaluation.subsets import split_validation
from twoviews.jobs.training import load_shared
from twoviews.narrate import Narrator


@dataclass(frozen=True)
class Labelled:
    """The three labelled parts, with one list of classes."""

    train: Corpus
    val: Corpus
    test: Corpus
    split: Split
    val_origin: str
    excluded: list[str]


def load_labelled(
    config: Recipe,
    info: dict[str, Any],
    *,
    train: Spec,
    val: Spec | None,
    test: Spec,
    download: bool,
    narrator: Narrator,
) -> Labelled:
    """Decode the labelled parts as the run's encoder wants them, and hold out validation where none is given.

    Raises `DataError` for a part without labels, and for classes of val or test that train lacks.
    """
    parts: dict[str, Corpus] = {}
    excluded = []
    for name, spec in (("train", train), ("val", val), ("test", test)):
        if spec is None:
            continue
        corpus = load_shared(
            spec,
            config.data.cache_side,
            channels=info["data"]["channels"],
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
    origin = "given by --val"
    if "val" not in parts:
        keep, held_out = split_validation(parts["train"].labels, seed=0)
        origin = (
            f"a stratified fifth of train, at most 5,000, held out before any subset is drawn: {len(held_out)} labels"
        )
        parts["val"] = parts["train"].select(held_out)
        parts["train"] = parts["train"].select(keep)
    split = Split(parts["train"].labels, parts["val"].labels, parts["test"].labels, classes)
    narrator.say(
        f"labelled: train {len(split.train):,}, validation {len(split.val):,} ({origin}), test {len(split.test):,}; "
        f"{len(classes)} classes"
    )
    return Labelled(parts["train"], parts["val"], parts["test"], split, origin, excluded)
