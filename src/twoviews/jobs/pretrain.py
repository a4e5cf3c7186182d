"""From unlabelled data and a recipe to a finished run; and from an interrupted run to a finished one."""

import copy
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twoviews.compute import Compute, choose_compute, cpu_name
from twoviews.config import Recipe, make_recipe, parse_assignment
from twoviews.data.corpus import Corpus, load_corpus, write_manifest, write_rejected
from twoviews.data.loading import fetch
from twoviews.data.source import Spec
from twoviews.encoders import Encoder, build_encoder, save_encoder, stem_choice, wrap_encoder
from twoviews.errors import DataError, NotFiniteError, RefusedError, TwoviewsError, UsageError, unknown_name
from twoviews.jobs.online import health_evaluator, probe_evaluator
from twoviews.methods import Method, build_method
from twoviews.narrate import Narrator
from twoviews.recipes import load_recipe
from twoviews.run import Run, prepare_output, provenance, write_text
from twoviews.training.checkpoint import load_checkpoint, restore, sha256_file
from twoviews.training.loop import Evaluator, Plan, train, train_step
from twoviews.training.optim import build_optimizer, parameter_groups, scaled_lr
from twoviews.views.policies import NORMALIZATIONS, POLICIES, Views, find_policy
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

    `data`: whatever `twoviews.data.open_source` takes. `recipe`: a name or a TOML file. `encoder`: a name from
    `twoviews encoders`, any timm or torchvision name, or a module (B, C, S, S) -> (B, D). `init`: `pretrained` for timm's
    public weights, or a safetensors file. `minutes`: the whole call takes about that long; the speed is measured on
    throw-away steps and the number of steps is fixed and recorded before the first one. `settings`: `section.key=value`.

    Raises the errors of `twoviews.errors`: `UsageError`, `DataError`, `RefusedError`, `NotFiniteError`, `ResourceError`.

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
    _check_names(config)
    run = prepare_output(Path(out), overwrite=overwrite)
    run.update(**provenance(), status="starting")

    # Data
    size = config.data.image_size
    corpus = load_corpus(
        data,
        cache_side=config.data.cache_side or round(1.25 * (size or 96)),
        channels=config.data.channels,
        download=download,
        narrator=narrator,
    )
    probe_corpus = None
    if probe_data is not None:
        probe_corpus = load_corpus(
            probe_data,
            cache_side=config.data.cache_side or round(1.25 * (size or 96)),
            channels=corpus.values.shape[3],
            download=download,
            narrator=narrator,
        )
    write_manifest(run.manifest, corpus)
    write_rejected(run.rejected, corpus)

    # Decisions
    config = _decide(config, corpus, asked_batch=asked_batch, narrator=narrator)
    job = _assemble(config, corpus, encoder=encoder if isinstance(encoder, nn.Module) else None, narrator=narrator)
    evaluators = _evaluators(config, corpus, probe_corpus, job)
    contact_sheet(
        fetch(corpus, range(min(8, len(corpus))), device=torch.device("cpu")), job.views, seed=config.train.seed
    ).save(run.views)

    # Pre-flight: speed and memory on a copy that is thrown away, so that the run itself starts untouched.
    steps_per_epoch = len(corpus) // _required(config.train.batch_size)
    seconds_a_step, seconds_evaluating = _measure(job, corpus, evaluators)
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
    peak = _peak_memory_gb(job.compute)
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
        probe_data=str(probe_data) if probe_data is not None else None,
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
    job = _assemble(config, corpus, encoder=encoder, narrator=narrator).with_steps(info["steps"])
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
    evaluators = _evaluators(config, corpus, corpora.get("probe_data"), job)
    skipped = checkpoint.facts["skipped"] if checkpoint is not None else 0
    resumed = [*info.get("resumed_at", []), start]
    run.update(resumed_at=resumed)
    return _finish(run, job, corpus, evaluators, start=start, skipped=skipped, narrator=narrator)


def build_views(config: Recipe, *, image_size: int) -> Views:
    """The augmentation of a configuration."""
    v = config.views
    policy = find_policy(v.policy).with_options(min_scale=v.min_scale, strength=v.strength, blur=v.blur, flip=v.flip)
    if v.normalization not in NORMALIZATIONS:
        raise unknown_name("normalization", v.normalization, NORMALIZATIONS)
    mean, std = NORMALIZATIONS[v.normalization]
    return Views(policy, image_size=image_size, mean=mean, std=std)


def native_size(corpus: Corpus) -> int | None:
    """The images' own side in pixels when they are all of one size and stored as they are, else None."""
    _, height, width, _ = corpus.values.shape
    return min(height, width) if bool((corpus.sizes == (width, height)).all()) else None


@dataclass(frozen=True)
class _Job:
    """What a configuration and a corpus amount to, ready to train."""

    config: Recipe
    compute: Compute
    encoder: Encoder
    method: Method
    optimizer: torch.optim.Optimizer
    views: Views
    plan: Plan

    def with_steps(self, steps: int) -> "_Job":
        return replace(self, plan=replace(self.plan, steps=steps))


def _check_names(config: Recipe) -> None:
    """Refuse unknown names before anything is read or written."""
    build_views(config, image_size=8)
    find_policy(config.evaluate.policy)
    probe = nn.Identity()
    probe.num_features = 8  # type: ignore[assignment]
    build_method(config.method.name, probe, options=config.method.options)
    if config.encoder.name != "auto":
        stem_choice(config.encoder.name, image_size=32, stem="auto")


def _decide(config: Recipe, corpus: Corpus, *, asked_batch: bool, narrator: Narrator) -> Recipe:
    """Fill in what the recipe leaves open, telling why."""
    count, height, width, channels = corpus.values.shape
    if count < 2:
        raise DataError(f"{corpus.spec} has {count} readable image: contrastive learning needs at least 2")
    train: dict[str, Any] = {}
    data: dict[str, Any] = {"channels": channels}
    size = config.data.image_size
    if size is None:
        own = native_size(corpus)
        size = own or 96
        reason = "the images' own size" if own else "images of several sizes; a small default that CPUs can train"
        narrator.chose("image_size", size, reason)
        data["image_size"] = size
    if config.data.cache_side is None:
        data["cache_side"] = round(1.25 * size) if (height, width) != (size, size) else max(height, size)
    encoder: dict[str, Any] = {}
    if config.encoder.name == "auto":
        gpu = torch.cuda.is_available() and config.train.device in ("auto", "cuda")
        name = "resnet18" if gpu else "resnet_mini" if size > 16 else "convnet_tiny"
        narrator.chose("encoder", name, "a GPU is there" if gpu else f"a small network for a CPU at {size} px")
        encoder["name"] = name
    batch = config.train.batch_size
    if batch is None:
        batch = min(256, count)
        narrator.chose("batch_size", batch, "256 or all images, whichever is less")
    if batch > count:
        if asked_batch:
            raise UsageError(f"batch size {batch} is larger than the data ({count} images): give --batch-size {count}")
        batch = count
        narrator.chose("batch_size", batch, f"the recipe's {config.train.batch_size} is more than the {count} images")
    train["batch_size"] = batch
    group = config.train.bn_group
    if group is None or group > batch:
        group = next(g for g in range(min(batch, 256), 0, -1) if batch % g == 0)
        narrator.chose("bn_group", group, "the batch up to 256 samples")
    if batch % group:
        raise UsageError(f"batch size {batch} is not a multiple of train.bn_group {group}")
    train["bn_group"] = group
    if config.train.epochs is None and config.train.minutes is None and config.train.steps is None:
        train["epochs"] = 100
        narrator.chose("epochs", 100, "no --epochs or --minutes given")
    return make_recipe(
        config.model_dump(exclude_none=True), {"data": data, "encoder": encoder, "train": train}
    )


def _assemble(config: Recipe, corpus: Corpus, *, encoder: nn.Module | None, narrator: Narrator) -> _Job:
    """Build everything from a decided configuration; the weights are a function of the seed."""
    train, size = config.train, _required(config.data.image_size)
    channels = corpus.values.shape[3]
    compute = choose_compute(device=train.device, precision=train.precision, threads=train.threads, narrator=narrator)
    torch.manual_seed(train.seed)
    if encoder is not None:
        built = wrap_encoder(encoder, image_size=size, channels=channels)
    else:
        stem, reason = stem_choice(config.encoder.name, image_size=size, stem=config.encoder.stem)
        narrator.chose("encoder.stem", stem, reason)
        built = build_encoder(
            config.encoder.name, image_size=size, channels=channels, stem=stem, init=config.encoder.init
        )
    method = build_method(config.method.name, built, options=config.method.options)
    compute.place(method)
    optim = config.optim
    batch = _required(train.batch_size)
    lr = scaled_lr(optim.lr, batch_size=batch, reference=optim.lr_batch, scaling=optim.lr_scaling)
    if optim.lr_scaling != "none":
        narrator.chose("lr", round(lr, 6), f"{optim.lr} x {optim.lr_scaling} scaling of {batch}/{optim.lr_batch}")
    optimizer = build_optimizer(
        parameter_groups(method, weight_decay=optim.weight_decay), name=optim.name, momentum=optim.momentum
    )
    plan = Plan(
        steps=1,
        batch_size=batch,
        bn_group=_required(train.bn_group),
        seed=train.seed,
        lr=lr,
        warmup=optim.warmup,
        schedule=optim.schedule,
        compile=train.compile,
        checkpoint_minutes=train.checkpoint_minutes,
        keep_checkpoints=train.keep_checkpoints,
        evaluations=train.evaluations,
    )
    views = build_views(config, image_size=size)
    return _Job(config, compute, built, method, optimizer, views, plan)


def _evaluators(config: Recipe, corpus: Corpus, labelled: Corpus | None, job: _Job) -> list[Evaluator]:
    clean = Views(POLICIES["none"], image_size=job.views.image_size, mean=job.views.mean, std=job.views.std)
    evaluators = [health_evaluator(corpus, views=job.views, clean=clean, compute=job.compute, seed=job.plan.seed)]
    if labelled is not None:
        evaluators.append(
            probe_evaluator(
                labelled,
                clean=clean,
                compute=job.compute,
                k=config.evaluate.knn_k,
                temperature=config.evaluate.knn_temperature,
                penalty=config.evaluate.fixed_penalty,
            )
        )
    return evaluators


def _measure(job: _Job, corpus: Corpus, evaluators: Sequence[Evaluator]) -> tuple[float, float]:
    """Seconds a step (median), and seconds of all evaluations, on a copy of the model."""
    method, groups = copy.deepcopy(job.method), []
    groups = parameter_groups(method, weight_decay=job.config.optim.weight_decay)
    optimizer = build_optimizer(groups, name=job.config.optim.name, momentum=job.config.optim.momentum)
    forward: nn.Module = torch.compile(method) if job.plan.compile else method  # type: ignore[assignment]
    method.train()
    taken: list[float] = []
    plan = replace(job.plan, steps=10**6)
    for step in range(40):
        started = time.monotonic()
        train_step(
            method, optimizer, job.views, corpus, step=step, plan=plan, compute=job.compute, forward=forward
        )
        if step >= 2:  # the first steps choose kernels and allocate
            taken.append(time.monotonic() - started)
        if len(taken) >= 3 and sum(taken) > 6:
            break
    started = time.monotonic()
    if job.plan.evaluations:
        for evaluator in evaluators:
            list(evaluator(method.encoder))
    return sum(taken) / len(taken), (time.monotonic() - started) * job.plan.evaluations


def _facts(job: _Job, corpus: Corpus, narrator: Narrator) -> dict[str, Any]:
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
    job: _Job,
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
        extra={"cache_side": job.config.data.cache_side, "data": corpus.spec, "method": job.config.method.name},
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
        peak_memory_gb=round(_peak_memory_gb(job.compute), 2),
    )
    narrator.say(f"encoder in {run.encoder}  sha256 {digest[:16]}...  {_duration(taken)}")
    return run


def _peak_memory_gb(compute: Compute) -> float:
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _required(value: int | None) -> int:
    assert value is not None, "decided before"
    return value
