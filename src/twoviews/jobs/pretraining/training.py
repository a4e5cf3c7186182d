"""What a new run and a resumed one share: the facts of a run, training to its end."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from twoviews import distributed
from twoviews.compute import cpu_name, gpu_name, tf32
from twoviews.data.corpus import Corpus
from twoviews.encoders import save_encoder
from twoviews.errors import NotFiniteError, TwoviewsError
from twoviews.evaluation.health import collapse
from twoviews.jobs.head import save_head
from twoviews.jobs.pretraining.preflight import peak_memory_gb, told_what_fits
from twoviews.jobs.pretraining.prepare import Job
from twoviews.jobs.pretraining.teacher import save_student
from twoviews.narrate import Narrator
from twoviews.run import Run, read_lines
from twoviews.training.checkpoint import sha256_file
from twoviews.training.loop import Evaluator, train

HEALTH = ("effective_rank", "spread", "projection_spread")


def facts_of(job: Job, corpus: Corpus, narrator: Narrator) -> dict[str, Any]:
    """What of a job goes into `run.json`; `corpus`: the whole pool, as it was read."""
    count, height, width, channels = corpus.values.shape
    shown = job.method.uses_labels and job.streams.labelled is None  # the pool's labels, not those beside it
    return {
        "status": "running",
        "step": 0,
        "steps": job.plan.steps,
        "epochs": round(job.plan.steps / job.streams.steps_per_epoch, 3),
        "batch_size": job.plan.batch_size,
        "labelled_batch": job.streams.labelled_batch,
        "labels_trained_on": job.streams.labelled_count if job.method.uses_labels else 0,
        "bn_group": job.plan.bn_group,
        "micro_batch": job.plan.micro_batch,
        "processes": distributed.size(),
        "seed": job.plan.seed,
        "compile": job.plan.compile,
        "device": str(job.compute.device),
        "threads": job.compute.threads,
        "precision": job.compute.precision,
        "cpu": cpu_name(),
        "gpu": gpu_name(job.compute.device),
        "tf32": tf32(job.compute.device),
        "torch": torch.__version__,
        "data": {
            "spec": corpus.spec,
            "fingerprint": corpus.fingerprint,
            "labels_fingerprint": corpus.labels_fingerprint if shown else None,
            "count": count,
            "rejected": len(corpus.rejected),
            "excluded": corpus.excluded,
            "intensity": corpus.intensity,
            "height": height,
            "width": width,
            "channels": channels,
        },
        "decisions": narrator.decisions,
        "views": job.views.policy.describe(),
        "encoder": job.encoder.architecture,
        "parameters": sum(p.numel() for p in job.encoder.parameters()),
        "teacher": None if job.teacher is None else job.teacher.fingerprint,
    }


def finish(
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
    main = distributed.is_main()
    began = time.monotonic()
    spent = float(run.info().get("seconds", 0.0)) if main else 0.0

    def seconds() -> float:
        return round(spent + time.monotonic() - began, 1)

    alike = (start, job.compute.device.type, job.compute.precision, torch.__version__)
    told: list[str] = []

    def watch(measured: Mapping[str, Any]) -> None:
        words = _collapse_in(measured)
        if words and not told:
            narrator.warn(words)
            told.append(words)

    distributed.require_equal(list(alike), "starting step, device, precision or torch")
    try:
        with told_what_fits(job):
            skipped = train(
                job.method,
                job.optimizer,
                job.views,
                job.streams,
                plan=job.plan,
                compute=job.compute,
                online=job.online,
                run=run,
                start=start,
                facts={"skipped": skipped},
                evaluators=evaluators,
                watch=watch,
                narrator=narrator,
            )
        # By then a method that draws by itself, or a fault, would have led the processes apart.
        distributed.require_equal(float(sum(p.detach().double().sum() for p in job.method.parameters())), "weights")
        if main:
            taken = seconds()
            digest = _write_encoder(run, job, corpus, start=start, began=began, skipped=skipped, taken=taken)
    except BaseException as error:
        if main:
            status = "not finite" if isinstance(error, NotFiniteError) else "interrupted"
            with suppress(TwoviewsError):  # on a full disk, say: what is told is why the training stopped
                run.update(status=status, seconds=seconds())
        raise
    if main:
        narrator.say(f"encoder in {run.encoder}  sha256 {digest[:16]}...  {in_words(taken)}")
    distributed.barrier()  # whoever returns finds the run finished
    return run


def _write_encoder(run: Run, job: Job, corpus: Corpus, *, start: int, began: float, skipped: int, taken: float) -> str:
    """The encoder, a student's classifier, and that the run is finished; returns the sha256 of the weights."""
    job.method.eval()
    mean, std = job.views.normalization(corpus.values.shape[3])
    save_encoder(
        job.encoder,
        run.encoder,
        preprocessing={
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        },
        extra={
            "cache_side": job.config.data.cache_side,
            "intensity": corpus.intensity,
            "background": job.config.data.background,
            "pages": job.config.data.pages,
            "data": corpus.spec,
            "method": job.config.method.name,
        },
    )
    save_head(run, job.method)
    if job.teacher is not None:
        save_student(run, job.method, job.teacher)
    digest = sha256_file(run.encoder / "model.safetensors")
    measured: dict[str, Any] = {}
    for row in read_lines(run.metrics):
        measured |= row
    health = {name: measured[name] for name in HEALTH if name in measured}
    health = {name: value if math.isfinite(value) else None for name, value in health.items()}
    trained = (job.plan.steps - start) * job.plan.batch_size
    # A run that was killed after its last step has its speed from then, if any.
    speed = {"images_per_second": round(trained / (time.monotonic() - began), 1)} if trained else {}
    run.update(
        status="finished",
        health=health,
        collapse=_collapse_in(measured),
        step=job.plan.steps,
        skipped=skipped,
        seconds=taken,
        **speed,
        encoder_sha256=digest,
        peak_memory_gb=round(peak_memory_gb(job.compute), 2),
    )
    return digest


def _collapse_in(measured: Mapping[str, Any]) -> str | None:
    found = {name: measured[name] for name in HEALTH if name in measured}
    return collapse(**found) if "effective_rank" in found else None


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
