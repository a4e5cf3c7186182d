"""What a new run and a resumed one share: the data of all processes, the facts of a run, training to its end."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from twoviews import distributed
from twoviews.compute import cpu_name
from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus, load_corpus, read_excluded
from twoviews.data.source import Spec, open_source
from twoviews.encoders import save_encoder
from twoviews.errors import DataError, NotFiniteError, TwoviewsError
from twoviews.jobs.preflight import peak_memory_gb, told_what_fits
from twoviews.jobs.prepare import Job
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.training.checkpoint import sha256_file
from twoviews.training.loop import Evaluator, train

EACH_ITS_OWN = 256 * 2**20
"""Bytes up to which each process of a machine holds decoded data of its own; above, they share one file."""


def load_shared(
    data: Spec,
    storage: Storage,
    *,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    download: bool = False,
    narrator: Narrator,
) -> Corpus:
    """The decoded data; processes of one machine share a memory-mapped copy, which the first of them makes.

    `exclude`: a CSV file with the ids that are left out.
    """
    left_out = read_excluded(Path(exclude)) if exclude is not None else ()
    with distributed.one_before_others():
        corpus = load_corpus(
            data,
            cache_side=storage.cache_side,
            channels=storage.channels,
            intensity=storage.intensity,
            background=storage.background,
            pages=storage.pages,
            labels=labels,
            exclude=left_out,
            download=download,
            memory_limit=EACH_ITS_OWN if distributed.local_size() > 1 else None,
            narrator=narrator,
        )
    distributed.require_equal(f"{len(corpus)} images, fingerprint {corpus.fingerprint[:16]}", f"content of {data}")
    return corpus


def check_labelled_sources(*specs: Spec | None, labels: str | Path | None = None, download: bool = False) -> None:
    """Open labelled data without decoding it. Raises `DataError` where it is missing or has no labels."""
    for spec in specs:
        if spec is None:
            continue
        source = open_source(spec, labels=labels, download=download)
        if not any(label is not None for label in source.labels):
            raise DataError(f"{spec} has no labels: give class folders or a manifest with a label column")


def facts_of(job: Job, corpus: Corpus, narrator: Narrator) -> dict[str, Any]:
    count, height, width, channels = corpus.values.shape
    return {
        "status": "running",
        "step": 0,
        "steps": job.plan.steps,
        "epochs": round(job.plan.steps / (count // job.plan.batch_size), 3),
        "batch_size": job.plan.batch_size,
        "bn_group": job.plan.bn_group,
        "micro_batch": job.plan.micro_batch,
        "processes": distributed.size(),
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
    distributed.require_equal(list(alike), "starting step, device, precision or torch")
    try:
        with told_what_fits(job):
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
        # By then a method that draws by itself, or a fault, would have led the processes apart.
        distributed.require_equal(float(sum(p.detach().double().sum() for p in job.method.parameters())), "weights")
    except TwoviewsError as error:
        if main:
            status = "not finite" if isinstance(error, NotFiniteError) else "interrupted"
            run.update(status=status, seconds=seconds())
        raise
    if main:
        _write_encoder(run, job, corpus, start=start, began=began, skipped=skipped, taken=seconds(), narrator=narrator)
    distributed.barrier()  # whoever returns finds the run finished
    return run


def _write_encoder(
    run: Run,
    job: Job,
    corpus: Corpus,
    *,
    start: int,
    began: float,
    skipped: int,
    taken: float,
    narrator: Narrator,
) -> None:
    """The encoder, and that the run is finished."""
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
    digest = sha256_file(run.encoder / "model.safetensors")
    run.update(
        status="finished",
        step=job.plan.steps,
        skipped=skipped,
        seconds=taken,
        images_per_second=round((job.plan.steps - start) * job.plan.batch_size / (time.monotonic() - began), 1),
        encoder_sha256=digest,
        peak_memory_gb=round(peak_memory_gb(job.compute), 2),
    )
    narrator.say(f"encoder in {run.encoder}  sha256 {digest[:16]}...  {in_words(taken)}")


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
