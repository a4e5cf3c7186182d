"""A student of distillation and its teacher, held against each other on the same labelled items."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from twoviews import distributed
from twoviews.compute import choose_compute_as
from twoviews.data.corpus import Corpus, load_corpus, read_csv
from twoviews.data.source import Spec
from twoviews.errors import DataError, TwoviewsError
from twoviews.evaluation.features import fingerprint_module
from twoviews.evaluation.finetune import Classifier, class_logits
from twoviews.evaluation.matched import matched_interval, method_of
from twoviews.jobs.classifying.classifier import load_classifier
from twoviews.jobs.comparing.looks import finish_opening, in_words, looks, record_opening
from twoviews.jobs.comparing.overlap import units_of
from twoviews.jobs.parts import TRAIN
from twoviews.jobs.pretraining.teacher import parameters
from twoviews.jobs.vectors.embed import Preprocessing
from twoviews.jobs.vectors.online import batches
from twoviews.narrate import Narrator
from twoviews.run import Run, read_json, write_json

SEEN = {
    "student_images": ("images that the student was trained on", "the comparison is transductive"),
    "student_labels": ("images whose labels the student was trained on", "it is not measured on new images"),
    "teacher_images": ("images that the teacher's encoder was trained on", "the comparison is transductive"),
    "teacher_labels": ("labelled images that the teacher comes from", "it is not measured on new images"),
}
"""What test items are held against, and what it means to be among those."""


def compare_with_teacher(
    run: Run,
    teacher: Run,
    test: Spec,
    *,
    labels: str | Path | None = None,
    download: bool = False,
    module: nn.Module | None = None,
    narrator: Narrator,
) -> dict[str, Any]:
    """Accuracy of student and teacher on the same labelled items, each with its own input view, and the difference.

    Items that a side was trained on stay, are told and are counted: `seen`, see `SEEN`; None where it is not known.
    `looks`: how often the student's test set was opened by now. Written into `run.json` and
    `evaluation/distillation.json`. `module`: the student's own encoder, where it is one.
    """
    read = {
        name: _read(side, test, labels=labels, download=download, module=own, narrator=narrator)
        for name, side, own in (("teacher", teacher, None), ("student", run, module))
    }
    opened = read["student"].test.fingerprint
    comparison = _identity(read.values())
    if distributed.is_main():
        record_opening(run, test_fingerprint=opened, comparison=comparison)
    distributed.barrier()  # on disk before a score is known
    right = {name: _right(side, narrator=narrator) for name, side in read.items()}
    sides: dict[str, dict[str, Any]] = {
        name: {"run": str(side.run.path), "parameters": parameters(side.classifier)} for name, side in read.items()
    }
    if read["teacher"].fingerprint != run.info()["teacher"]:
        narrator.warn(f"the classifier of {teacher.path} is no longer the one that taught {run.path}")
    both = [item for item in right["student"] if item in right["teacher"]]
    first, second = (np.array([right[name][item] for item in both], dtype=bool) for name in ("student", "teacher"))
    corpus = read["student"].test
    groups = [group for item, group in zip(corpus.ids, corpus.groups or (), strict=False) if item in right["teacher"]]
    interval = matched_interval(first, second, units=units_of(groups))
    # In one process, as it goes on where data cannot be read, which the others would wait for.
    counted = _seen(run, teacher, read, set(both), download=download) if distributed.is_main() else {}
    seen: dict[str, int | None] = distributed.exchange(counted)[0]
    for name, count in seen.items():
        if count:
            narrator.warn(f"{count} of {len(both)} test items have the pixels of {': '.join(SEEN[name])}")
        elif count is None:
            narrator.say(f"not known whether test items are among the {SEEN[name][0]}")
    looked = distributed.exchange(looks(run, opened) if distributed.is_main() else {})[0]
    if looked["count"] > 1:
        narrator.warn(in_words(looked))
    for name, hits in (("student", first), ("teacher", second)):
        sides[name]["accuracy"] = round(float(hits.mean()), 4)
    found = {
        "test": str(test) if isinstance(test, str | Path) else json.dumps(test, default=str),
        "n_test": len(both),
        "seen": seen,
        "looks": looked["count"],
        **sides,
        "difference": {
            "student_less_teacher": round(interval.mean, 4),
            "low": round(interval.low, 4),
            "high": round(interval.high, 4),
            "only_student_right": int((first & ~second).sum()),
            "only_teacher_right": int((~first & second).sum()),
            "interval": f"95 %: {method_of(interval)}",
        },
    }
    if distributed.is_main():
        write_json(run.evaluation / "distillation.json", found)
        run.update(distillation=found)
        finish_opening(run, comparison=comparison)
    distributed.barrier()
    return found


def compare_as_asked(run: Run, *, module: nn.Module | None = None, narrator: Narrator) -> None:
    """Make the comparison that an interrupted `distill` was asked for and has not made, of a run that is finished.

    Nothing where there is none to make. `module`: as in `compare_with_teacher`.
    """
    info = run.info()
    asked = info.get("distillation_test")
    if asked is None or info.get("distillation") is not None:
        return
    if asked["test"] is None:
        narrator.warn(f"{run.path} was to be compared on data handed over in Python, which cannot be read again")
        return
    distributed.join()
    teacher = Run(asked["teacher"])
    found = compare_with_teacher(
        run,
        teacher,
        asked["test"],
        labels=asked["labels"],
        download=asked["download"],
        module=module,
        narrator=narrator,
    )
    accuracies = " and ".join(f"{100 * found[name]['accuracy']:.1f} % of the {name}" for name in ("student", "teacher"))
    narrator.say(f"test accuracy on {found['n_test']:,} items of {found['test']}: {accuracies}")


@dataclass(frozen=True)
class _Side:
    """A run's classifier with its fingerprint, and the labelled items of `test` as it sees them."""

    run: Run
    classifier: Classifier
    fingerprint: str
    test: Corpus


def _read(
    run: Run,
    test: Spec,
    *,
    labels: str | Path | None,
    download: bool,
    module: nn.Module | None,
    narrator: Narrator,
) -> _Side:
    classifier, classes = load_classifier(run, encoder=module)
    corpus = Preprocessing.of(run.encoder).load(test, labels=labels, download=download, narrator=narrator)
    corpus = corpus.select(np.flatnonzero(corpus.labels >= 0)).relabel(classes)
    if not len(corpus):
        raise DataError(f"no item of --test {corpus.spec} that can be read has a label: give other data")
    return _Side(run, classifier, fingerprint_module(classifier), corpus)


def _identity(sides: Iterable[_Side]) -> str:
    """A hash of what a comparison's numbers depend on: one that was killed and goes on is the same look at test."""
    facts = [(side.fingerprint, side.test.fingerprint, side.test.labels_fingerprint) for side in sides]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _right(side: _Side, *, narrator: Narrator) -> dict[str, bool]:
    """Of each test item, whether the classifier has it right."""
    info, views = side.run.info(), Preprocessing.of(side.run.encoder).views()
    compute = choose_compute_as(precision=info["precision"], threads=info["threads"], narrator=narrator)
    compute.place(side.classifier)
    scores = class_logits(side.classifier, batches(side.test, views, compute=compute), compute=compute)
    return dict(zip(side.test.ids, map(bool, scores.argmax(1) == side.test.labels), strict=True))


def _seen(run: Run, teacher: Run, read: dict[str, _Side], items: set[str], *, download: bool) -> dict[str, int | None]:
    """How many of the test items have the pixels of what the sides were trained on, by the names of `SEEN`."""
    found: dict[str, int | None] = {}
    for name, side in (("student", run), ("teacher", teacher)):
        test = read[name].test
        keys = [key.hex() for item, key in zip(test.ids, test.content_keys(), strict=True) if item in items]
        shape = test.values.shape[1:]
        own = _own_labels(side, shape) if name == "student" else _labels_behind(side, shape, download=download)
        known = {"images": _contents(side, _rows(side), shape), "labels": own}
        for what, (contents, complete) in known.items():
            count = sum(key in contents for key in keys)
            found[f"{name}_{what}"] = count if count or complete else None
    return found


def _labels_behind(run: Run, shape: tuple[int, ...], *, download: bool) -> tuple[set[str], bool]:
    """Contents of the labelled images that a classifier comes from, over its teachers, and whether these are all."""
    contents: set[str] = set()
    complete, visited = True, set()
    while run.path.resolve() not in visited:
        visited.add(run.path.resolve())
        try:
            own, known = _own_labels(run, shape)
            contents, complete = contents | own, complete and known
            about = read_json(run.classifier / "config.json")
            if about.get("arm") != "distillation":
                fitted, known = _fitted_on(run, shape, download=download)
                return contents | fitted, complete and known
        except TwoviewsError:  # moved or deleted since
            break
        run = Run(about["teacher"])
    return contents, False


def _own_labels(run: Run, shape: tuple[int, ...]) -> tuple[set[str], bool]:
    """Of the images whose labels an encoder or a student was trained on."""
    if not run.info().get("labels_trained_on"):
        return set(), True
    # Where labelled data stands beside the pool, labels of the pool are not shown.
    together = [row for row in _rows(run) if "part" in row]
    return _contents(run, together or [row for row in _rows(run) if row["label"]], shape)


def _fitted_on(run: Run, shape: tuple[int, ...], *, download: bool) -> tuple[set[str], bool]:
    """Of the labelled data of a run's evaluation, without what lay in its test too and so was not trained on."""
    spec, stored = read_json(run.classifier / "config.json"), Preprocessing.of(run.encoder).storage
    if "train" not in spec:  # a classifier of before it said so
        spec = read_json(run.results)["protocol"]
    train, test = (
        load_corpus(
            spec[name],
            cache_side=stored.cache_side,
            channels=stored.channels,
            intensity=stored.intensity,
            background=stored.background,
            pages=stored.pages,
            download=download,
        )
        for name in ("train", "test")
    )
    kept = set(train.content_keys()) - set(test.content_keys())
    return {key.hex() for key in kept}, train.values.shape[1:] == shape


def _rows(run: Run) -> list[dict[str, str]]:
    """Of the images that a run was trained on: its pool and, with the column `part`, labelled ones beside it."""
    rows = [row for file in (run.manifest, run.labelled) if file.is_file() for row in read_csv(file)]
    return [row for row in rows if row.get("part", TRAIN) == TRAIN]


def _contents(run: Run, rows: list[dict[str, str]], shape: tuple[int, ...]) -> tuple[set[str], bool]:
    """What images of a run can be told by, and whether all have it, for comparison with images of this shape."""
    stored = run.info()["data"]
    contents = {row["content"] for row in rows if row.get("content")}
    complete = bool(rows) and all(row.get("content") for row in rows)
    return contents, complete and tuple(stored[side] for side in ("height", "width", "channels")) == shape
