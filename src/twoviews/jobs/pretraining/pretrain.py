"""From unlabelled data and a recipe to a finished run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from twoviews import distributed
from twoviews.config import make_recipe, parse_assignment
from twoviews.data.corpus import write_manifest, write_rejected
from twoviews.data.source import Spec
from twoviews.errors import UsageError
from twoviews.jobs.decide import AUTO, check_labels, check_names, decide, spec_text, storage_of
from twoviews.jobs.parts import part_labelled, write_parts
from twoviews.jobs.pretraining.preflight import fitting_micro_batch, measure, peak_memory_gb, told_what_fits
from twoviews.jobs.pretraining.prepare import assemble, evaluators_of, some_samples
from twoviews.jobs.pretraining.teacher import as_taught
from twoviews.jobs.pretraining.training import facts_of, finish, in_words
from twoviews.jobs.reading import check_labelled_sources, load_shared
from twoviews.narrate import Narrator
from twoviews.recipes import load_recipe
from twoviews.run import Run, check_output, make_output, provenance, write_text
from twoviews.views.sheet import contact_sheet

RESERVE = 0.03
"""Part of a `minutes` budget kept for what the first steps cannot show: checkpoints, a slower hour."""

FORECAST_SECONDS, BUDGET_SECONDS = 2, 6
"""Spent on measuring the speed: for telling how long it will take, and for keeping to a time."""


def pretrain(
    data: Spec,
    *,
    out: str | Path,
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
    facts: Mapping[str, Any] | None = None,
    narrator: Narrator | None = None,
) -> Run:
    """Train an encoder on unlabelled data; everything about it is in the run directory `out`.

    `data`: whatever `twoviews.open_source` takes. `recipe`: a name or a TOML file. `encoder`: a name from
    `twoviews encoders`, any timm or torchvision name, or a module (B, C, S, S) -> (B, D). `init`: `pretrained` for
    timm's public weights, or a safetensors file. `minutes`: the whole call takes about that long; the speed is
    measured on throw-away steps, and the number of steps is fixed and recorded before the first one. `fraction`: that
    part of the recipe's epochs or steps, with the whole schedule in it. `batch_size`: samples that are compared with
    each other, over all processes. `micro_batch`: samples whose graph a process keeps at a time, or `auto` for the
    most that memory holds; changes memory and time, not the result. `labelled`: labelled data that is trained on
    together with the unlabelled, `train.labelled_batch` of each batch, with a linear probe trained on it beside the
    method. `probe_data`: labelled data that is only measured on. `labels`: a manifest joined to either by id.
    `exclude`: a CSV file with a column `id`, of items to leave out, as `check` writes it. `settings`:
    `section.key=value`. `facts`: more for `run.json`, there from the start.

    Under `torchrun` the processes share the work and give the numbers of one; process 0 writes and speaks.

    Raises `UsageError`, `DataError`, `RefusedError`, `NotFiniteError` and `ResourceError` of `twoviews.errors`.

    >>> run = pretrain("photos/", out="runs/a", epochs=100)          # doctest: +SKIP
    """
    began = time.monotonic()
    narrator = narrator or Narrator()
    named, own_module = (encoder, None) if isinstance(encoder, str) else (None, encoder)
    options: dict[str, Any] = {
        "data": {
            "source": spec_text(data),
            "image_size": image_size,
            "exclude": None if exclude is None else str(exclude),
            "labelled_source": spec_text(labelled),
        },
        "encoder": {"name": named, "init": init},
        "train": {
            "epochs": epochs,
            "minutes": minutes,
            "fraction": fraction,
            "batch_size": batch_size,
            "micro_batch": micro_batch,
            "seed": seed,
        },
    }
    assigned = [parse_assignment(text) for text in settings]
    set_here = {key for layer in assigned for key in layer.get("train", ())}
    if len(lengths := [name for name in ("epochs", "minutes", "steps") if name in set_here]) > 1:
        # As in one table of a file; no one means an order among settings.
        raise UsageError(f"give one of epochs, minutes and steps, not {' and '.join(lengths)}")
    config = make_recipe(load_recipe(recipe), options, *assigned)
    check_names(config)
    distributed.join()
    main = distributed.is_main()
    if main:
        check_output(Path(out), overwrite=overwrite)

    # Data
    with distributed.one_before_others():
        check_labelled_sources(probe_data, labelled, labels=labels, download=download)
        if labelled is None and config.data.labelled_source is None and config.data.labelled is None:
            check_labels(config, data, download=download)
    storage = storage_of(config)
    corpus = load_shared(data, storage, exclude=config.data.exclude, download=download, narrator=narrator)
    storage = replace(storage, channels=corpus.values.shape[3], intensity=corpus.intensity)
    probe_corpus = None
    if probe_data is not None:
        probe_corpus = load_shared(probe_data, storage, labels=labels, download=download, narrator=narrator)

    parts = part_labelled(
        config, corpus, given=labelled, storage=storage, labels=labels, download=download, narrator=narrator
    )
    parts = as_taught(config, parts)

    # Decisions
    config = decide(
        config,
        parts,
        storage=storage,
        asked_batch=batch_size is not None or "batch_size" in set_here,
        asked_labelled_batch="labelled_batch" in set_here,
        narrator=narrator,
    )
    job = assemble(config, parts, encoder=own_module, narrator=narrator)
    evaluators = evaluators_of(config, parts, probe_corpus, job)
    run = Run(out)
    if main:
        make_output(Path(out), overwrite=overwrite)
        run.update(**provenance(), status="starting", **(facts or {}))
        write_manifest(run.manifest, corpus)
        write_rejected(run.rejected, corpus)
        if parts.labelled is not None:
            write_parts(run, parts)
        contact_sheet(some_samples(corpus), job.views, seed=config.train.seed).save(run.views)

    # Pre-flight: memory and speed, on a copy that is thrown away, so that the run itself starts untouched.
    minutes, asked_fraction = config.train.minutes, config.train.fraction
    steps_per_epoch = job.streams.steps_per_epoch
    if config.train.micro_batch == AUTO:
        job = job.with_plan(micro_batch=fitting_micro_batch(job, narrator=narrator))
    with told_what_fits(job):
        seconds_a_step, seconds_evaluating = measure(
            job, evaluators, FORECAST_SECONDS if minutes is None else BUDGET_SECONDS
        )
    if minutes is not None:
        left = minutes * 60 * (1 - RESERVE) - (time.monotonic() - began) - seconds_evaluating
        steps = distributed.agreed(max(1, int(left / seconds_a_step)))
        spent = f"{max(0.0, left):.0f} s are left, less reading, measuring, {seconds_evaluating:.0f} s of evaluation"
        narrator.chose("steps", steps, f"{minutes:g} minutes at {seconds_a_step:.3f} s a step, {spent}")
        if steps < steps_per_epoch:
            narrator.warn(
                "less than one epoch fits into this time: an encoder that is hardly trained; give more --minutes"
            )
    else:
        whole = config.train.steps or (config.train.epochs or 100) * steps_per_epoch
        steps = max(1, round(whole * config.train.fraction))
        if steps < whole:
            narrator.chose("steps", steps, f"{config.train.fraction:g} of the recipe's {whole:,}")
    job = job.with_plan(steps=steps)
    config = make_recipe(
        config.model_dump(exclude_none=True),
        {"train": {"steps": steps, "fraction": 1.0, "micro_batch": job.plan.micro_batch}},
    )
    batch = job.plan.batch_size
    chance = job.method.chance_loss(batch)
    peak = peak_memory_gb(job.compute)
    narrator.say(
        f"{len(corpus):,} images, {len(corpus.rejected)} rejected; {steps:,} steps of {batch} = "
        f"{steps / steps_per_epoch:.1f} epochs; {batch / seconds_a_step:,.0f} images/s; "
        f"about {in_words(steps * seconds_a_step + seconds_evaluating)}; memory {peak:.1f} GB"
        + (f"; a loss of {chance:.2f} is chance" if chance else "")
    )
    if main:
        write_text(run.config, config.to_toml())
        run.update(
            **facts_of(job, corpus, narrator),
            chance_loss=chance,
            images_per_second_predicted=round(batch / seconds_a_step, 1),
            minutes_asked=minutes,
            fraction_asked=asked_fraction,
            probe_data=spec_text(probe_data),
            probe_labels=None if labels is None else str(labels),
            labelled=None
            if parts.labelled is None
            else {
                "spec": config.data.source if config.data.labelled else config.data.labelled_source,
                "fingerprint": parts.fingerprint(),
                "labels": None if labels is None or config.data.labelled_source is None else str(labels),
                "train": len(parts.labelled),
                "validation": 0 if parts.validation is None else len(parts.validation),
                "unlabelled": parts.unlabelled,
            },
            custom_encoder=type(own_module).__name__ if own_module is not None else None,
        )
    return finish(run, job, corpus, evaluators, start=0, narrator=narrator)
