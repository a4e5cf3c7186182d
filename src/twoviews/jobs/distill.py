"""From a run whose classifier teaches, and unlabelled data, to a student that classifies; and how the two compare."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w
from torch import nn

from twoviews import distributed
from twoviews.compute import choose_compute
from twoviews.config import make_recipe
from twoviews.data.source import Spec, open_source
from twoviews.encoders import read_encoder_config
from twoviews.errors import DataError
from twoviews.evaluation.finetune import class_scores
from twoviews.evaluation.matched import METHOD, matched_interval
from twoviews.jobs.classifier import load_classifier
from twoviews.jobs.embed import Preprocessing
from twoviews.jobs.online import batches
from twoviews.jobs.prepare import AUTO
from twoviews.jobs.pretrain import pretrain
from twoviews.jobs.reading import check_labelled_sources
from twoviews.jobs.teacher import parameters
from twoviews.narrate import Narrator
from twoviews.recipes import load_recipe
from twoviews.run import Run, write_json


def distill(
    teacher: Run | str | Path,
    data: Spec,
    *,
    out: str | Path,
    test: Spec | None = None,
    recipe: str | Path = "default",
    encoder: str | nn.Module | None = None,
    init: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    fraction: float | None = None,
    batch_size: int | None = None,
    micro_batch: int | Literal["auto"] | None = None,
    seed: int | None = None,
    labelled: Spec | None = None,
    probe_data: Spec | None = None,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Run:
    """Train a student on what the classifier of the run `teacher` says of unlabelled `data`; the student's run.

    SimCLR v2's third stage (Chen et al. 2020b): the student may be smaller (`encoder`; the teacher's own network by
    default). It has the teacher's image size, normalisation and the views of its fine-tuning, unless `image_size`, the
    recipe or `settings` say otherwise. The run has an encoder and a classifier, so `embed`, `predict` and `evaluate`
    take it. `test`: labelled data on which both are measured at the end: `run.info()["distillation"]`. `labels` is
    joined to `test` too. With `settings=["method.labelled_weight=0.1"]` and `labelled` data, labels are learned from as
    well. Everything else: as in `pretrain`, which does the training.

    Raises `UsageError` for a teacher without a classifier or one that cannot see such images, `DataError` for classes
    of `test` that the teacher does not know, and what `pretrain` raises.

    >>> distill("runs/large", "photos/", out="runs/small", encoder="resnet18", epochs=100)  # doctest: +SKIP
    """
    narrator = narrator or Narrator()
    teacher = teacher if isinstance(teacher, Run) else Run(teacher)
    _, classes = load_classifier(teacher)
    distributed.join()
    if test is not None:
        with distributed.one_before_others():
            _check_test(test, classes, teacher=teacher, labels=labels, download=download)
    tables = load_recipe(recipe)
    if encoder is None and make_recipe(tables).encoder.name == AUTO:
        encoder = _network_of(teacher)
        narrator.chose("encoder", encoder, "the teacher's")
    run = pretrain(
        data,
        out=out,
        recipe=recipe,
        encoder=encoder,
        init=init,
        image_size=image_size or Preprocessing.of(teacher.encoder).image_size,
        epochs=epochs,
        minutes=minutes,
        fraction=fraction,
        batch_size=batch_size,
        micro_batch=micro_batch,
        seed=seed,
        labelled=labelled,
        probe_data=probe_data,
        labels=labels,
        exclude=exclude,
        settings=[*_defaults(teacher, tables, classes=len(classes), narrator=narrator), *settings],
        overwrite=overwrite,
        download=download,
        narrator=narrator,
    )
    if test is not None:
        compare_with_teacher(
            run, teacher, test, labels=labels, download=download, module=_own(encoder), narrator=narrator
        )
    return run


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

    Written into `run.json` and `evaluation/distillation.json`. `module`: the student's own encoder, where it is one.
    """
    sides: dict[str, dict[str, Any]] = {}
    right: dict[str, dict[str, bool]] = {}
    for name, side, own in (("teacher", teacher, None), ("student", run, module)):
        right[name], count = _answers(side, test, labels=labels, download=download, module=own, narrator=narrator)
        sides[name] = {"run": str(side.path), "parameters": count}
    both = [item for item in right["student"] if item in right["teacher"]]
    first, second = (np.array([right[name][item] for item in both], dtype=bool) for name in ("student", "teacher"))
    interval = matched_interval(first, second)
    for name, hits in (("student", first), ("teacher", second)):
        sides[name]["accuracy"] = round(float(hits.mean()), 4)
    found = {
        "test": str(test) if isinstance(test, str | Path) else json.dumps(test, default=str),
        "n_test": len(both),
        **sides,
        "difference": {
            "student_less_teacher": round(interval.mean, 4),
            "low": round(interval.low, 4),
            "high": round(interval.high, 4),
            "only_student_right": int((first & ~second).sum()),
            "only_teacher_right": int((~first & second).sum()),
            "interval": f"95 %: {METHOD}",
        },
    }
    if distributed.is_main():
        write_json(run.evaluation / "distillation.json", found)
        run.update(distillation=found)
    distributed.barrier()
    return found


def _answers(
    run: Run,
    test: Spec,
    *,
    labels: str | Path | None,
    download: bool,
    module: nn.Module | None,
    narrator: Narrator,
) -> tuple[dict[str, bool], int]:
    """Of each labelled item whether the run's classifier has it right, and the classifier's parameters."""
    info = run.info()
    classifier, classes = load_classifier(run, encoder=module)
    preprocessing = Preprocessing.of(run.encoder)
    corpus = preprocessing.load(test, labels=labels, download=download, narrator=narrator)
    corpus = corpus.select(np.flatnonzero(corpus.labels >= 0)).relabel(classes)
    if not len(corpus):
        raise DataError(f"no item of --test {corpus.spec} that can be read has a label: give other data")
    compute = choose_compute(device="auto", precision=info["precision"], threads=info["threads"], narrator=narrator)
    compute.place(classifier)
    scores = class_scores(classifier, batches(corpus, preprocessing.views(), compute=compute), compute=compute)
    hits = scores.argmax(1) == corpus.labels
    return dict(zip(corpus.ids, map(bool, hits), strict=True)), parameters(classifier)


def _check_test(test: Spec, classes: Sequence[str], *, teacher: Run, labels: str | Path | None, download: bool) -> None:
    """Before anything is trained. Raises `DataError` for a test set without labels or with labels of its own."""
    check_labelled_sources(test, labels=labels, download=download)
    there = {label for label in open_source(test, labels=labels, download=download).labels if label is not None}
    unknown = sorted(there - set(classes))
    if unknown:
        raise DataError(
            f"--test has classes that the teacher {teacher.path} does not know: {', '.join(unknown[:5])}; "
            f"its own: {', '.join(classes[:10])}"
        )


def _network_of(teacher: Run) -> str:
    """The name of the teacher's encoder, for a student of the same kind."""
    about = read_encoder_config(teacher.encoder)["twoviews"]
    return str(about["name"]) if about["source"] in ("builtin", "timm") else f"{about['source']}:{about['name']}"


def _defaults(teacher: Run, recipe: dict[str, Any], *, classes: int, narrator: Narrator) -> list[str]:
    """Settings that the user's come after: the method, and what the teacher sees."""
    seen = Preprocessing.of(teacher.encoder)
    stored = seen.storage
    values: dict[str, Any] = {
        "method.name": "distillation",  # first, as it takes the options of another method away
        "method.teacher": str(teacher.path),
        "method.classes": classes,
        "data.channels": stored.channels,
        "data.cache_side": stored.cache_side,
        "data.intensity": stored.intensity,
        "data.background": stored.background,
        "data.pages": stored.pages,
        "views.normalization": "measured",
        "views.mean": list(seen.mean),
        "views.std": list(seen.std),
    }
    views = make_recipe(recipe).views
    if views.policy == AUTO:
        values["views.policy"] = make_recipe(teacher.settings()).evaluate.policy
        narrator.chose("views.policy", values["views.policy"], "those of the teacher's fine-tuning")
    if views.size is not None:
        values["views.size"] = seen.image_size  # a teacher sees images of the size that it was made for
    return [f"{key}={tomli_w.dumps({'v': value}).partition('=')[2].strip()}" for key, value in values.items()]


def _own(encoder: str | nn.Module | None) -> nn.Module | None:
    return encoder if isinstance(encoder, nn.Module) else None
