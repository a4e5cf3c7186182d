"""Distillation's two ends: the teacher that a run's classifier is, and the student that becomes a run's classifier."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from twoviews.compute import Compute
from twoviews.config import Recipe
from twoviews.data.streams import Streams
from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import fingerprint_module
from twoviews.evaluation.finetune import Classifier
from twoviews.jobs.classifying.classifier import load_classifier, save_classifier
from twoviews.jobs.parts import Parts
from twoviews.jobs.vectors.embed import Preprocessing
from twoviews.methods import Distillation, Method
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.views.multicrop import AnyViews


@dataclass(frozen=True)
class Teacher:
    """What a student's run knows of its teacher; the network itself is with the method."""

    run: str
    classes: tuple[str, ...]
    fingerprint: str
    """Over weights and buffers: with another teacher a resumed run would not give the same bytes."""


def as_taught(config: Recipe, parts: Parts) -> Parts:
    """The parts with labels that count in the teacher's classes, where a distillation learns from labels too.

    The data may lack some of the classes. Raises `DataError` for those that the teacher does not know.
    """
    options = config.method.options
    if config.method.name != "distillation" or options.get("teacher") is None or not options.get("labelled_weight"):
        return parts
    teacher = Run(str(options["teacher"]))
    _, classes = load_classifier(teacher)
    # Labels of the pool are shown only where no labelled data stands beside it.
    names = ("pool",) if parts.labelled is None else ("labelled", "validation")
    counted = {}
    for name in names:
        corpus = getattr(parts, name)
        if corpus is not None:
            used = (corpus.classes[label] for label in np.unique(corpus.labels[corpus.labels >= 0]))
            check_known(used, classes, of=corpus.spec, teacher=teacher)
            counted[name] = corpus.relabel(classes)
    return replace(parts, **counted)


def check_known(names: Iterable[str], classes: Sequence[str], *, of: str, teacher: Run) -> None:
    """Raise `DataError` where `names`, the classes of the data `of`, has one that is not among the teacher's."""
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise DataError(
            f"{of} has classes that the teacher {teacher.path} does not know: {_some(unknown)}; its own: "
            f"{', '.join(classes[:10])}"
        )


def hand_over_teacher(
    method: Method, config: Recipe, streams: Streams, views: AnyViews, *, compute: Compute, narrator: Narrator
) -> Teacher | None:
    """Load the teacher of a distillation, check that it can see what the student sees, and give it to the method.

    None for other methods. Labels that are learned from must count in the teacher's classes, as `as_taught` makes them.
    Raises `UsageError` for a run without a classifier, and for channels, normalisation, image size or a number of
    classes that do not fit.
    """
    if not isinstance(method, Distillation):
        return None
    run = Run(str(config.method.options["teacher"]))
    classifier, classes = load_classifier(run)
    seen = Preprocessing.of(run.encoder)
    channels = streams.pool.values.shape[3]
    if channels != seen.storage.channels:
        raise UsageError(
            f"the teacher {run.path} sees images of {seen.storage.channels} channels and the student's have "
            f"{channels}: set data.channels={seen.storage.channels}"
        )
    if views.normalization(channels) != (seen.mean, seen.std):
        raise UsageError(
            f"the teacher {run.path} sees images normalised by mean {seen.mean} and std {seen.std}, the student by "
            f"{' and '.join(map(str, views.normalization(channels)))}: give the student the same"
        )
    if len(classes) != method.classes:
        raise UsageError(
            f"method.classes = {method.classes}, but the teacher {run.path} has {len(classes)}: set method.classes="
            f"{len(classes)}"
        )
    assert not method.uses_labels or streams.classes == classes, "relabelled before"
    teacher = Teacher(str(run.path), classes, fingerprint_module(classifier))
    compute.place(classifier)
    _try(classifier, run, size=views.image_size, trained=seen.image_size, channels=channels, compute=compute)
    if views.image_size != seen.image_size:
        narrator.warn(f"the teacher was trained on {seen.image_size} px and sees {views.image_size} px here")
    method.learn_from(classifier)
    narrator.say(
        f"teacher {run.path}: {parameters(classifier):,} parameters, {len(classes)} classes; the student has "
        f"{parameters(method):,}"
    )
    return teacher


def save_student(run: Run, method: Method, teacher: Teacher) -> None:
    """Write the student as the run's classifier, beside its encoder, which must be written already."""
    assert isinstance(method, Distillation)
    student = Classifier(method.encoder, classes=method.classes)
    student.head = method.head
    save_classifier(
        run.classifier,
        probe=None,
        classifier=student,
        encoder=run.encoder,
        classes=teacher.classes,
        facts={
            "arm": "distillation",
            "teacher": teacher.run,
            "teacher_fingerprint": teacher.fingerprint,
            "temperature": method.temperature,
            "labelled_weight": method.labelled_weight,
        },
    )


def parameters(module: nn.Module) -> int:
    """How many numbers a network has."""
    return sum(p.numel() for p in module.parameters())


def _try(classifier: nn.Module, run: Run, *, size: int, trained: int, channels: int, compute: Compute) -> None:
    """Whether the teacher takes images of this size, as not every network does."""
    try:
        with torch.no_grad(), compute.autocast():
            classifier(compute.arrange(torch.zeros(1, channels, size, size, device=compute.device)))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"the teacher {run.path} was trained on {trained} px and cannot take {size} px "
            f"({str(error).splitlines()[0]}): leave the image size out"
        ) from None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
