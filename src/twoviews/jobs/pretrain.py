"""From unlabelled data and a recipe to a finished run; and from an interrupted run to a finished one."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twoviews.compute import cpu_name
from twoviews.config import make_recipe, parse_assignment
from twoviews.data.corpus import Corpus, load_corpus, write_manifest, write_rejected
from twoviews.data.source import Spec
from twoviews.encoders import save_encoder
from twoviews.errors import NotFiniteError, RefusedError, TwoviewsError, UsageError
from twoviews.jobs.prepare import (
    Job,
    assemble,
    check_names,
    decide,
    evaluators_of,
    measure,
    peak_memory_gb,
    required,
    some_samples,
)
from twoviews.narrate import Narrator
from twoviews.recipes import load_recipe
from twoviews.run import Run, check_output, make_output, provenance, write_text
from twoviews.training.checkpoint import load_checkpoint, restore, sha256_file
from twoviews.training.loop import Evaluator, train
from twoviews.views.sheet import contact_sheet

RESERVE = 0.03
"""Part of a `minutes` budget kept for what the first steps cannot show: checkpoints, a slower hour."""

PROMISE = ("device", "threads", "precision", "torch", "cpu", "compile", "bn_group")
"""What must be the same for a resumed run to give the same bytes."""


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
    batch_size: int | None = None,
    seed: int | None = None,
    probe_data: Spec | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Run:
    """Train an encoder on unlabelled data; everything about it is in the run directory `out`.

    `data`: whatever `twoviews.open_source` takes. `recipe`: a name or a TOML file. `encoder`: a name from
    `twoviews encoders`, any timm or torchvision name, or a module (B, C, S, S) -> (B, D). `init`: `pretrained` for
    timm's public weights, or a safetensors file. `minutes`: the whole call takes about that long; the speed is
    measured on throw-away steps, and the number of steps is fixed and recorded before the first one. `settings`:
    `section.key=value`.

    Raises `UsageError`, `DataError`, `RefusedError`, `NotFiniteError` and `ResourceError` of `twoviews.errors`.

    >>> run = pretrain("photos/", out="runs/a", epochs=100)          # doctest: +SKIP
    """
    began = time.monotonic()
    narrator = narrator or Narrator()
    named = encoder if isinstance(encoder, str) else None
    options: dict[str, Any] = {
        "data": {"source": str(data) if isinstance(data, (str, Path)) else None, "image_size": image_size},
        "encoder": {"name": named, "init": init},
        "train": {"epochs": epochs, "minutes": minutes, "batch_size": batch_size, "seed": seed},
    }
    assigned = [parse_assignment(text) for text in settings]
    config = make_recipe(load_recipe(recipe), options, *assigned)
    asked_batch = batch_size is not None or any("batch_size" in layer.get("train", {}) for layer in assigned)
    check_names(config)
    check_output(Path(out), overwrite=overwrite)

    # Data
    cache_side = config.data.cache_side or round(1.25 * (config.data.image_size or 96))
    corpus = load_corpus(
        data,
        cache_side=cache_side,
        channels=config.data.channels,
        download=download,
        narrator=narrator,
    )
    probe_corpus = None
    if probe_data is not None:
        probe_corpus = load_corpus(
            probe_data,
            cache_side=cache_side,
            channels=corpus.values.shape[3],
            download=download,
            narrator=narrator,
        )

    # Decisions
    config = decide(config, corpus, asked_side=cache_side, asked_batch=asked_batch, narrator=narrator)
    job = assemble(config, corpus, encoder=encoder if isinstance(encoder, nn.Module) else None, narrator=narrator)
    evaluators = evaluators_of(config, corpus, probe_corpus, job)
    run = make_output(Path(out), overwrite=overwrite)
    run.update(**provenance(), status="starting")
    write_manifest(run.manifest, corpus)
    write_rejected(run.rejected, corpus)
    contact_sheet(some_samples(corpus), job.views, seed=config.train.seed).save(run.views)

    # Pre-flight: speed and memory on a copy that is thrown away, so that the run itself starts untouched.
    steps_per_epoch = len(corpus) // required(config.train.batch_size)
    seconds_a_step, seconds_evaluating = measure(job, corpus, evaluators)
    if config.train.minutes is not None:
        left = config.train.minutes * 60 * (1 - RESERVE) - (time.monotonic() - began) - seconds_evaluating
        steps = max(1, int(left / seconds_a_step))
        narrator.chose("steps", steps, f"{config.train.minutes:g} minutes at {seconds_a_step:.3f} s a step")
    elif config.train.steps is not None:
        steps = config.train.steps
    else:
        steps = (config.train.epochs or 100) * steps_per_epoch
    job = job.with_steps(steps)
    config = make_recipe(config.model_dump(exclude_none=True), {"train": {"steps": steps}})
    batch = job.plan.batch_size
    chance = job.method.chance_loss(batch)
    peak = peak_memory_gb(job.compute)
    narrator.say(
        f"{len(corpus):,} images, {len(corpus.rejected)} rejected; {steps:,} steps of {batch} = "
        f"{steps / steps_per_epoch:.1f} epochs; {batch / seconds_a_step:,.0f} images/s; "
        f"about {_duration(steps * seconds_a_step + seconds_evaluating)}; memory {peak:.1f} GB"
        + (f"; a loss of {chance:.2f} is chance" if chance else "")
    )
    write_text(run.config, config.to_toml())
    run.update(
        **_facts(job, corpus, narrator),
        chance_loss=chance,
        images_per_second_predicted=round(batch / seconds_a_step, 1),
        minutes_asked=minutes,
        probe_data=str(probe_data) if isinstance(probe_data, (str, Path)) else None,
        custom_encoder=type(encoder).__name__ if isinstance(encoder, nn.Module) else None,
    )
    return _finish(run, job, corpus, evaluators, start=0, narrator=narrator)


def resume(
    path: str | Path,
    *,
    anyway: bool = False,
    encoder: nn.Module | None = None,
    narrator: Narrator | None = None,
) -> Run:
    """Continue an interrupted run from its newest whole checkpoint, to the same bytes on the same kind of machine.

    Raises `RefusedError` when data, threads, precision or versions differ from those recorded; `anyway` goes on without
    the promise, though never on other data. A run that is finished is returned as it is.
    """
    narrator = narrator or Narrator()
    run = Run(path)
    info = run.info()
    if info.get("status") == "finished":
        narrator.say(f"{run.path} is finished already")
        return run
    if not run.config.is_file() or "data" not in info:
        raise UsageError(f"{run.path} stopped before its first step: start it again with twoviews pretrain --overwrite")
    if info.get("custom_encoder") and encoder is None:
        raise UsageError(
            f"{run.path} trains your own module {info['custom_encoder']}: continue it from Python with "
            "twoviews.resume(path, encoder=module)"
        )
    config = make_recipe(run.settings(), origin=str(run.config))
    corpora = {}
    for name in ("data", "probe_data"):
        spec = config.data.source if name == "data" else info.get("probe_data")
        if name == "data" and spec is None:
            raise UsageError(f"{run.path} was trained on arrays handed over in Python: they cannot be read again")
        if spec is not None:
            corpora[name] = load_corpus(
                spec, cache_side=config.data.cache_side, channels=info["data"]["channels"], narrator=narrator
            )
    corpus = corpora["data"]
    if corpus.fingerprint != info["data"]["fingerprint"]:
        raise RefusedError(
            f"{config.data.source} has changed since {run.path} began ({info['data']['count']} images then, "
            f"{len(corpus)} now): start a new run"
        )
    job = assemble(config, corpus, encoder=encoder, narrator=narrator).with_steps(info["steps"])
    facts = _facts(job, corpus, narrator)
    differences = [f"{k} was {info[k]} and is {facts[k]}" for k in PROMISE if info[k] != facts[k]]
    if differences and not anyway:
        raise RefusedError(
            f"the same bytes cannot be promised: {'; '.join(differences)}. "
            f"Restore that, or go on without the promise: twoviews resume {run.path} --anyway"
        )
    checkpoint = load_checkpoint(run.checkpoints, narrator=narrator)
    start = 0
    if checkpoint is not None:
        restore(checkpoint, module=job.method, optimizer=job.optimizer)
        start = checkpoint.facts["step"]
    narrator.say(f"continuing at step {start:,} of {job.plan.steps:,}")
    evaluators = evaluators_of(config, corpus, corpora.get("probe_data"), job)
    skipped = checkpoint.facts["skipped"] if checkpoint is not None else 0
    resumed = [*info.get("resumed_at", []), start]
    run.update(resumed_at=resumed)
    return _finish(run, job, corpus, evaluators, start=start, skipped=skipped, narrator=narrator)


def _facts(job: Job, corpus: Corpus, narrator: Narrator) -> dict[str, Any]:
    count, height, width, channels = corpus.values.shape
    return {
        "status": "running",
        "step": 0,
        "steps": job.plan.steps,
        "epochs": round(job.plan.steps / (count // job.plan.batch_size), 3),
        "batch_size": job.plan.batch_size,
        "bn_group": job.plan.bn_group,
        "seed": job.plan.seed,
        "compile": job.plan.compile,
        "device": str(job.compute.device),
        "threads": job.compute.threads,
        "precision": job.compute.precision,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "data": {
            "spec": corpus.spec,
            "fingerprint": corpus.fingerprint,
            "count": count,
            "rejected": len(corpus.rejected),
            "height": height,
            "width": width,
            "channels": channels,
        },
        "decisions": narrator.decisions,
        "views": job.views.policy.describe(),
        "encoder": job.encoder.architecture,
        "parameters": sum(p.numel() for p in job.encoder.parameters()),
    }


def _finish(
    run: Run,
    job: Job,
    corpus: Corpus,
    evaluators: Sequence[Evaluator],
    *,
    start: int,
    skipped: int = 0,
    narrator: Narrator,
) -> Run:
    """Train to the end and write the encoder; the status says how it ended."""
    began = time.monotonic()
    spent = float(run.info().get("seconds", 0.0))

    def seconds() -> float:
        return round(spent + time.monotonic() - began, 1)

    try:
        skipped = train(
            job.method,
            job.optimizer,
            job.views,
            corpus,
            plan=job.plan,
            compute=job.compute,
            run=run,
            start=start,
            facts={"skipped": skipped},
            evaluators=evaluators,
            narrator=narrator,
        )
    except NotFiniteError:
        run.update(status="not finite", seconds=seconds())
        raise
    except TwoviewsError:
        run.update(status="interrupted", seconds=seconds())
        raise
    job.method.eval()
    save_encoder(
        job.encoder,
        run.encoder,
        preprocessing={
            "mean": list(job.views.mean),
            "std": list(job.views.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        },
        extra={
            "cache_side": job.config.data.cache_side,
            "data": corpus.spec,
            "method": job.config.method.name,
        },
    )
    digest = sha256_file(run.encoder / "model.safetensors")
    taken = seconds()
    run.update(
        status="finished",
        step=job.plan.steps,
        skipped=skipped,
        seconds=taken,
        images_per_second=round((job.plan.steps - start) * job.plan.batch_size / (time.monotonic() - began), 1),
        encoder_sha256=digest,
        peak_memory_gb=round(peak_memory_gb(job.compute), 2),
    )
    narrator.say(f"encoder in {run.encoder}  sha256 {digest[:16]}...  {_duration(taken)}")
    return run


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
