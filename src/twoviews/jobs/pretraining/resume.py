"""From an interrupted run to a finished one."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from twoviews import distributed
from twoviews.config import make_recipe
from twoviews.errors import RefusedError, UsageError
from twoviews.jobs.comparing.student import compare_as_asked
from twoviews.jobs.decide import AUTO, decide_batch, storage_of
from twoviews.jobs.parts import part_labelled
from twoviews.jobs.pretraining.preflight import fitting_micro_batch
from twoviews.jobs.pretraining.prepare import assemble, evaluators_of
from twoviews.jobs.pretraining.teacher import as_taught
from twoviews.jobs.pretraining.training import facts_of, finish
from twoviews.jobs.reading import load_shared
from twoviews.narrate import Narrator
from twoviews.run import Run, provenance
from twoviews.training.checkpoint import load_checkpoint, restore

PROMISE = (
    *("device", "processes", "threads", "precision", "torch", "twoviews"),
    *("cpu", "gpu", "tf32", "compile", "bn_group", "teacher"),
)
"""What must be the same for a resumed run to give the same bytes."""


def resume(
    path: str | Path,
    *,
    anyway: bool = False,
    micro_batch: int | Literal["auto"] | None = None,
    encoder: nn.Module | None = None,
    narrator: Narrator | None = None,
) -> Run:
    """Continue an interrupted run from its newest whole checkpoint, to the same bytes on the same kind of machine.

    Raises `RefusedError` when data, labels that are learned from, processor, GPU, threads, precision or versions differ
    from those recorded; `anyway` goes on without the promise, though never on other data or labels. A run that is
    finished is returned as it is. A comparison with the teacher that `distill` was asked for and has not made is made.
    `micro_batch`: as in `pretrain`, for another memory.
    """
    narrator = narrator or Narrator()
    run = Run(path)
    info = run.info()
    if info.get("status") == "finished":
        narrator.say(f"{run.path} is finished already")
        compare_as_asked(run, module=encoder, narrator=narrator)
        return run
    if not run.config.is_file() or "data" not in info:
        raise UsageError(f"{run.path} stopped before its first step: start it again with twoviews pretrain --overwrite")
    if info.get("custom_encoder") and encoder is None:
        raise UsageError(
            f"{run.path} trains your own module {info['custom_encoder']}: continue it from Python with "
            "twoviews.resume(path, encoder=module)"
        )
    config = make_recipe(run.settings(), {"train": {"micro_batch": micro_batch}}, origin=str(run.config))
    distributed.join()
    corpora = {}
    for name in ("data", "probe_data"):
        spec = config.data.source if name == "data" else info.get("probe_data")
        if name == "data" and spec is None:
            raise UsageError(f"{run.path} was trained on arrays handed over in Python: they cannot be read again")
        if spec is not None:
            exclude = config.data.exclude if name == "data" else None
            labels = info.get("probe_labels") if name == "probe_data" else None
            corpora[name] = load_shared(spec, storage_of(config), labels=labels, exclude=exclude, narrator=narrator)
    corpus = corpora["data"]
    if corpus.fingerprint != info["data"]["fingerprint"]:
        raise RefusedError(
            f"{config.data.source} has changed since {run.path} began ({info['data']['count']} images then, "
            f"{len(corpus)} now): start a new run"
        )
    labels_then = info["data"].get("labels_fingerprint")  # where the method learns from them
    if labels_then is not None and corpus.labels_fingerprint != labels_then:
        raise RefusedError(f"labels of {config.data.source} have changed since {run.path} began: start a new run")
    together = info.get("labelled") or {}
    if together and together["spec"] is None:
        raise UsageError(f"{run.path} was trained on labelled arrays handed over in Python: they cannot be read again")
    parts = part_labelled(config, corpus, storage=storage_of(config), labels=together.get("labels"), narrator=narrator)
    if together and parts.fingerprint() != together["fingerprint"]:
        raise RefusedError(
            f"images or labels of {together['spec']} have changed since {run.path} began: start a new run"
        )
    if "unlabelled" not in together and config.data.labelled is None:
        parts = replace(parts, items=None)  # a run of before, when labelled images stayed in the pool
    parts = as_taught(config, parts)
    labelled = 0 if parts.labelled is None else len(parts.labelled)
    # Whether these processes can share it:
    decide_batch(config, parts.unlabelled, labelled=labelled, asked=True, narrator=narrator)
    job = assemble(config, parts, encoder=encoder, narrator=narrator).with_plan(steps=info["steps"])
    if config.train.micro_batch == AUTO:
        job = job.with_plan(micro_batch=fitting_micro_batch(job, narrator=narrator))
    facts = {**provenance(), **facts_of(job, corpus, narrator)}
    # Runs of before there were several processes, or a teacher, and of before these were recorded:
    unknown = {"processes": 1, "teacher": None, **{name: facts[name] for name in ("gpu", "tf32", "twoviews")}}
    recorded = {**unknown, **info}
    differences = [f"{k} was {recorded[k]} and is {facts[k]}" for k in PROMISE if recorded[k] != facts[k]]
    differences = distributed.agreed(differences)  # facts are those of process 0, and others may have another GPU
    if differences and not anyway:
        raise RefusedError(
            f"the same bytes cannot be promised: {'; '.join(differences)}. "
            f"Restore that, or go on without the promise: twoviews resume {run.path} --anyway"
        )
    checkpoint = load_checkpoint(run.checkpoints, narrator=narrator)
    start = 0
    if checkpoint is not None:
        online = job.online.probe if job.online is not None else None
        restore(checkpoint, module=job.method, optimizer=job.optimizer, online=online)
        start = checkpoint.facts["step"]
    narrator.say(f"continuing at step {start:,} of {job.plan.steps:,}")
    evaluators = evaluators_of(config, parts, corpora.get("probe_data"), job)
    skipped = checkpoint.facts["skipped"] if checkpoint is not None else 0
    resumed = [*info.get("resumed_at", []), start]
    if distributed.is_main():
        run.update(resumed_at=resumed, status="running")
    finish(run, job, corpus, evaluators, start=start, skipped=skipped, narrator=narrator)
    compare_as_asked(run, module=encoder, narrator=narrator)
    return run
