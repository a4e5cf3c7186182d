"""From a decided configuration and data to a job that is ready to train: everything is built here."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from twoviews import distributed
from twoviews.compute import Compute, choose_compute
from twoviews.config import Recipe
from twoviews.data.corpus import Corpus
from twoviews.data.loading import Batch, fetch
from twoviews.data.streams import Streams
from twoviews.encoders import Encoder, build_encoder, stem_choice, wrap_encoder
from twoviews.errors import UsageError
from twoviews.jobs.decide import required
from twoviews.jobs.parts import Parts
from twoviews.jobs.pretraining.teacher import Teacher, hand_over_teacher
from twoviews.jobs.vectors.online import health_evaluator, online_evaluator, probe_evaluator
from twoviews.methods import METHODS, Method, build_method
from twoviews.narrate import Narrator
from twoviews.training.large_batch import synchronise_norms
from twoviews.training.loop import Evaluator, Online, Plan
from twoviews.training.online_probe import OnlineProbe
from twoviews.training.optim import build_optimizer, parameter_groups, scaled_lr
from twoviews.views.multicrop import SMALLEST, AnyViews, MultiCrop, cropping
from twoviews.views.policies import NORMALIZATIONS, POLICIES, Views, find_policy


def build_views(config: Recipe) -> AnyViews:
    """The augmentation of a configuration whose views are decided."""
    v = config.views
    policy = find_policy(v.policy).with_options(min_scale=v.min_scale, strength=v.strength, blur=v.blur, flip=v.flip)
    mean, std = (v.mean, v.std) if v.mean and v.std else NORMALIZATIONS[v.normalization]
    views = Views(policy, image_size=v.size or required(config.data.image_size), mean=mean, std=std)
    if not v.local_crops:
        return views
    return MultiCrop(
        views,
        global_views=METHODS[config.method.name].n_views,
        local_views=v.local_crops,
        local_size=v.local_size or max(SMALLEST, views.image_size // 2),
        local_scale=v.local_scale,
        global_min_scale=v.min_scale or max(cropping(policy).min_scale, v.local_scale[1]),
    )


def some_samples(corpus: Corpus, *, count: int = 8) -> Batch:
    """Samples from all over the corpus, for a contact sheet."""
    return fetch(corpus, range(0, len(corpus), max(1, len(corpus) // count))[:count], device="cpu")


@dataclass(frozen=True)
class Job:
    """What a configuration and a corpus amount to, ready to train."""

    config: Recipe
    compute: Compute
    encoder: Encoder
    method: Method
    optimizer: torch.optim.Optimizer
    views: AnyViews
    streams: Streams
    plan: Plan
    online: Online | None = None
    teacher: Teacher | None = None

    def with_plan(self, *, steps: int | None = None, micro_batch: int | None = None) -> "Job":
        """The job with another length or another memory."""
        plan = self.plan
        return replace(
            self,
            plan=replace(
                plan,
                steps=plan.steps if steps is None else steps,
                micro_batch=plan.micro_batch if micro_batch is None else micro_batch,
            ),
        )


def assemble(config: Recipe, parts: Parts, *, encoder: nn.Module | None, narrator: Narrator) -> Job:
    """Build everything from a decided configuration; the weights are a function of the seed."""
    train, size = config.train, required(config.data.image_size)
    channels = parts.pool.values.shape[3]
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
    if train.bn_group == "global" and distributed.size() > 1:
        synchronise_norms(method)
    compute.place(method)
    # One seed gives one start everywhere, but a module of the user's own may have been made without it.
    distributed.broadcast_([*method.parameters(), *method.buffers()])
    optim = config.optim
    batch = required(train.batch_size)
    lr = scaled_lr(optim.lr, batch_size=batch, reference=optim.lr_batch, scaling=optim.lr_scaling)
    if optim.lr_scaling != "none":
        narrator.chose("lr", round(lr, 6), f"{optim.lr} x {optim.lr_scaling} scaling of {batch}/{optim.lr_batch}")
    optimizer = optimizer_of(config, method)
    plan = Plan(
        steps=1,
        batch_size=batch,
        bn_group=batch // distributed.size() if train.bn_group == "global" else required(train.bn_group),
        micro_batch=train.micro_batch if isinstance(train.micro_batch, int) else None,
        seed=train.seed,
        lr=lr,
        warmup=optim.warmup,
        schedule=optim.schedule,
        compile=train.compile,
        checkpoint_minutes=train.checkpoint_minutes,
        keep_checkpoints=train.keep_checkpoints,
        evaluations=train.evaluations,
    )
    views = build_views(config)
    _try_sizes(built, views, channels=channels, compute=compute)
    of_batch = train.labelled_batch or 0
    streams = Streams(parts.pool, batch - of_batch, parts.labelled, of_batch, parts.items)
    online = None
    if parts.labelled is not None:
        probe = OnlineProbe(built.num_features, classes=len(parts.labelled.classes), eps=optim.eps)
        compute.place(probe)
        distributed.broadcast_(list(probe.parameters()))
        weak = Views(find_policy(config.evaluate.policy), image_size=size, mean=views.mean, std=views.std)
        online = Online(probe, weak)
    teacher = hand_over_teacher(method, config, streams, views, compute=compute, narrator=narrator)
    return Job(config, compute, built, method, optimizer, views, streams, plan, online, teacher)


def _try_sizes(encoder: Encoder, views: AnyViews, *, channels: int, compute: Compute) -> None:
    """Raise `UsageError` where the network does not take views of one of the sizes that it will be given."""
    size = encoder.architecture["image_size"]
    others = {views.image_size, views.local_size if isinstance(views, MultiCrop) else size} - {size}
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    for side in others:
        try:
            with torch.no_grad(), compute.autocast():
                encoder(compute.arrange(torch.zeros(1, channels, side, side, device=compute.device)))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UsageError(
                f"encoder {encoder.architecture['name']} for images of {size} px does not take views of {side} px "
                f"({str(error).splitlines()[0]}): set views.size and views.local_size to sizes that it takes"
            ) from None
    for module, training in modes:
        module.training = training


def evaluators_of(config: Recipe, parts: Parts, labelled: Corpus | None, job: Job) -> list[Evaluator]:
    size = required(config.data.image_size)
    clean = Views(POLICIES["none"], image_size=size, mean=job.views.mean, std=job.views.std)
    evaluators = [health_evaluator(parts.pool, views=job.views, clean=clean, compute=job.compute, seed=job.plan.seed)]
    if job.online is not None and parts.validation is not None and len(parts.validation):
        evaluators.append(online_evaluator(job.online.probe, parts.validation, clean=clean, compute=job.compute))
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


def optimizer_of(config: Recipe, method: nn.Module) -> torch.optim.Optimizer:
    """The configuration's optimiser over the parameters that are trained."""
    optim = config.optim
    groups = parameter_groups(method, weight_decay=optim.weight_decay)
    return build_optimizer(groups, name=optim.name, momentum=optim.momentum, eps=optim.eps)
