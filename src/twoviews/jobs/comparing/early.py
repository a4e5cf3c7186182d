"""What a comparison is asked for, held against its sources before anything costly: nothing is decoded.

What only the images tell, such as copies that differ in name, `load_labelled` finds later; both raise the same errors.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twoviews import distributed
from twoviews.config import Evaluate
from twoviews.data.corpus import read_excluded, sort_classes
from twoviews.data.source import Source, Spec, is_source, open_source
from twoviews.data.sources.parts import groups_of, without
from twoviews.evaluation.compare import Split
from twoviews.evaluation.subsets import split_validation
from twoviews.jobs.comparing.copies import all_lies_in
from twoviews.jobs.comparing.labelled import check_classes
from twoviews.jobs.comparing.request import asked_budgets, check_options
from twoviews.jobs.decide import spec_text
from twoviews.jobs.reading import no_labels


@dataclass(frozen=True)
class _Part:
    """The labelled items of a source: what it is called, where from, labels and groups of N items."""

    spec: str
    given: Spec
    labels: tuple[str, ...]
    groups: tuple[str | None, ...]


def check_comparison(
    o: Evaluate,
    *,
    test: Spec,
    train: Spec | None = None,
    val: Spec | None = None,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    learnt: bool = False,
    drawn: int | None = None,
    download: bool = False,
) -> None:
    """Refuse what `load_labelled` and the budgets would refuse, as far as labels, groups and ids tell it.

    All items are taken to be readable and to stay. `learnt`: the encoder is trained on the labels of train, so that
    only what `o.validation` says is held out. `drawn`: train is the pool, of which so many labels are used, the same
    number of each class. Without `train`, only the others are looked at; so are data sets of Python's own, which may
    have to read every image for its label, not at all.

    Raises `UsageError` for options that do not fit together, `DataError` for parts without labels, classes that train
    lacks, a part that is another one, and labels that do not suffice.
    """
    check_options(o)
    parts = {}
    with distributed.one_before_others():
        for name, spec in (("train", train), ("val", val), ("test", test)):
            of_pool = name == "train" and drawn is not None
            if spec is None or not _tells_labels(spec):
                continue
            source = open_source(spec, labels=None if of_pool else labels, download=download)
            if name == "train" and exclude is not None:
                source = without(source, read_excluded(Path(exclude)))
            part = _part(source, spec)
            if part.labels:
                parts[name] = part
            elif len(source) and not of_pool:
                raise no_labels(f"--{name} {part.spec}")
    if "train" in parts:
        classes = sort_classes(parts["train"].labels)
        for name in ("val", "test"):
            if name in parts:
                check_classes(name, parts[name].labels, classes)
    pairs = [("train", "test"), ("val", "test"), ("val", "train") if learnt else ("train", "val")]
    for name, other in pairs if drawn is None else pairs[1:2]:
        if name in parts and other in parts and _same(parts[name], parts[other]):
            raise all_lies_in(name, parts[name].spec, other, parts[other].spec)
    if "train" not in parts or (drawn is not None and drawn % len(classes)):
        return  # pretraining itself refuses, before its first step, what cannot be shared by the classes
    split, held_out = _split(o, parts, classes, given=val is not None, learnt=learnt, drawn=drawn)
    asked_budgets(o, split, held_out=held_out)


def _tells_labels(spec: Spec) -> bool:
    return isinstance(spec, str | Path | list | tuple | np.ndarray) or is_source(spec)


def _part(source: Source, spec: Spec) -> _Part:
    known = [(label, group) for label, group in zip(source.labels, groups_of(source), strict=True) if label is not None]
    return _Part(source.spec, spec, tuple(label for label, _ in known), tuple(group for _, group in known))


def _same(part: _Part, other: _Part) -> bool:
    """Whether two parts are surely the same images, whatever their source is called."""
    if part.labels != other.labels:
        return False
    one, two = part.given, other.given
    if one is two:
        return True
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two) == 2 and one[0] is two[0]:
        return not isinstance(one[0], str | Path) or spec_text(list(one)) == spec_text(list(two))
    texts = spec_text(one), spec_text(two)
    return None not in texts and _place(str(texts[0])) == _place(str(texts[1]))


def _place(text: str) -> tuple[str, str]:
    """Where a path leads, and the split; other texts stay as they are."""
    path, split = Path(text).expanduser(), ""
    # Not Path's own: it raises for a name that is too long, which a list of paths is.
    if not os.path.exists(path) and ":" in text:  # noqa: PTH110
        head, _, split = text.rpartition(":")
        path = Path(head).expanduser()
    return (str(path.resolve()), split) if os.path.exists(path) else (text, "")  # noqa: PTH110


def _split(
    o: Evaluate, parts: dict[str, _Part], classes: Sequence[str], *, given: bool, learnt: bool, drawn: int | None
) -> tuple[Split, bool]:
    """The labels as they will be parted, and whether validation is taken out of train."""
    number = {name: index for index, name in enumerate(classes)}
    numbers = {name: np.array([number[label] for label in part.labels], np.int64) for name, part in parts.items()}
    nothing = np.zeros(0, np.int64)
    train, val, test = (numbers.get(name, nothing) for name in ("train", "val", "test"))
    if drawn is not None:
        return Split(np.repeat(np.arange(len(classes)), drawn // len(classes)), val, test, tuple(classes)), False
    if given and not learnt:
        return Split(train, val, test, tuple(classes)), False
    share = o.validation or 0.0 if learnt else o.validation
    kept, held = split_validation(train, seed=o.split_seed, part=share, groups=parts["train"].groups, classes=classes)
    return Split(train[kept], train[held], test, tuple(classes)), True
