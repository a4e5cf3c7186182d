"""From a run whose classifier teaches, and unlabelled data, to a student that classifies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tomli_w
from torch import nn

from twoviews import distributed
from twoviews.config import make_recipe, parse_assignment
from twoviews.data.source import Spec, open_source
from twoviews.encoders import read_encoder_config
from twoviews.errors import UsageError
from twoviews.jobs.classifying.classifier import load_classifier
from twoviews.jobs.comparing.student import compare_with_teacher
from twoviews.jobs.decide import AUTO, required, spec_text, storage_of
from twoviews.jobs.pretraining.pretrain import pretrain
from twoviews.jobs.pretraining.teacher import check_known
from twoviews.jobs.reading import check_labelled_sources
from twoviews.jobs.vectors.embed import Preprocessing
from twoviews.narrate import Narrator
from twoviews.recipes import load_recipe
from twoviews.run import Run


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
    take it; `evaluate` leaves the student's classifier as it is. `test`: labelled data on which both are measured at
    the end: `run.info()["distillation"]`, with how many of its images each side was trained on; of an interrupted run
    `resume` does it. `labels` is joined to `test` too. With `settings=["method.labelled_weight=0.1"]` and `labelled`
    data, labels are learned from as well. Everything else: as in `pretrain`, which does the training.

    Raises `UsageError` for a teacher without a classifier, one that cannot see such images, or one that `out` would
    replace, `DataError` for classes of `test` or `labelled` that the teacher does not know, and what `pretrain` raises.

    >>> distill("runs/large", "photos/", out="runs/small", encoder="resnet18", epochs=100)  # doctest: +SKIP
    """
    narrator = narrator or Narrator()
    teacher = teacher if isinstance(teacher, Run) else Run(teacher)
    if teacher.path.resolve().is_relative_to(Path(out).resolve()):
        raise UsageError(f"--out {out} would replace the teacher {teacher.path}: choose another --out")
    _check_method(settings)
    _, classes = load_classifier(teacher)
    distributed.join()
    if test is not None:
        with distributed.one_before_others():
            _check_test(test, classes, teacher=teacher, labels=labels, download=download)
    tables = load_recipe(recipe)
    image_size = image_size or Preprocessing.of(teacher.encoder).image_size
    if encoder is None and make_recipe(tables).encoder.name == AUTO:
        encoder = _network_of(teacher)
        narrator.chose("encoder", encoder, "the teacher's")
    run = pretrain(
        data,
        out=out,
        recipe=recipe,
        encoder=encoder,
        init=init,
        image_size=image_size,
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
        settings=[
            *_defaults(teacher, tables, classes=len(classes), narrator=narrator),
            *_stored_side(teacher, image_size, settings, narrator=narrator),
            *settings,
        ],
        overwrite=overwrite,
        download=download,
        facts=None if test is None else {"distillation_test": _asked(teacher, test, labels, download=download)},
        narrator=narrator,
    )
    if test is not None:
        compare_with_teacher(
            run, teacher, test, labels=labels, download=download, module=_own(encoder), narrator=narrator
        )
    return run


def _asked(teacher: Run, test: Spec, labels: str | Path | None, *, download: bool) -> dict[str, Any]:
    """What `compare_as_asked` needs."""
    return {
        "teacher": str(teacher.path),
        "test": spec_text(test),
        "labels": None if labels is None else str(labels),
        "download": download,
    }


def _check_test(test: Spec, classes: Sequence[str], *, teacher: Run, labels: str | Path | None, download: bool) -> None:
    """Before anything is trained. Raises `DataError` for a test set without labels or with labels of its own."""
    check_labelled_sources(test, labels=labels, download=download)
    there = {label for label in open_source(test, labels=labels, download=download).labels if label is not None}
    check_known(there, classes, of="--test", teacher=teacher)


def _network_of(teacher: Run) -> str:
    """The name of the teacher's encoder, for a student of the same kind."""
    about = read_encoder_config(teacher.encoder)["twoviews"]
    return str(about["name"]) if about["source"] in ("builtin", "timm") else f"{about['source']}:{about['name']}"


def _check_method(settings: Sequence[str]) -> None:
    for table in map(parse_assignment, settings):
        name = table.get("method", {}).get("name", "distillation")
        if name != "distillation":
            raise UsageError(
                f"method.name = {name!r} learns nothing from a teacher: leave it out, or train with it by twoviews "
                "pretrain"
            )


def _stored_side(teacher: Run, image_size: int, settings: Sequence[str], *, narrator: Narrator) -> list[str]:
    """The side of stored images, as a setting before the user's: the teacher's, or that of another image size."""
    seen = Preprocessing.of(teacher.encoder)
    own = make_recipe({"data": {"image_size": image_size}}, *map(parse_assignment, settings)).data
    side = seen.storage.cache_side
    if (size := required(own.image_size)) != seen.image_size:
        side = storage_of(make_recipe({"data": {"image_size": size}})).cache_side
        if own.cache_side is None:
            narrator.chose("data.cache_side", side, f"for {size} px; the teacher has {seen.image_size} px")
    return [] if side is None else [f"data.cache_side={side}"]


def _defaults(teacher: Run, recipe: dict[str, Any], *, classes: int, narrator: Narrator) -> list[str]:
    """Settings that the user's come after: the method, and what the teacher sees."""
    seen = Preprocessing.of(teacher.encoder)
    stored = seen.storage
    values: dict[str, Any] = {
        "method.name": "distillation",  # first, as it takes the options of another method away
        "method.teacher": str(teacher.path),
        "method.classes": classes,
        "data.channels": stored.channels,
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
