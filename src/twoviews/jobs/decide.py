"""What a configuration leaves open and what it cannot mean: decided or refused, with the reason told."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twoviews import distributed
from twoviews.config import Recipe, make_recipe
from twoviews.data.assemble import Storage
from twoviews.data.checking.suggest import suggest_encoder, suggest_policy
from twoviews.data.corpus import Corpus
from twoviews.data.source import Spec, open_source, path_text
from twoviews.encoders import stem_choice
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.compare import check_arms
from twoviews.jobs.head import first_layer
from twoviews.jobs.parts import Parts
from twoviews.methods import METHODS, Method, Pool, build_method
from twoviews.narrate import Narrator
from twoviews.views.multicrop import cropping
from twoviews.views.policies import NORMALIZATIONS, find_policy
from twoviews.views.statistics import measure_normalization

AUTO = "auto"
"""A name that is decided when the data is known."""


def check_names(config: Recipe) -> None:
    """Refuse unknown names before anything is read or written."""
    for policy in (config.views.policy, config.evaluate.policy):
        if policy != AUTO:
            find_policy(policy)
    if config.views.normalization not in (AUTO, "measured", *NORMALIZATIONS):
        raise unknown_name("normalization", config.views.normalization, (AUTO, "measured", *NORMALIZATIONS))
    if (config.views.mean is None) != (config.views.std is None):
        raise UsageError("views.mean and views.std belong together: give both or neither")
    storage_of(config)
    method = _rehearsed(config)
    if config.views.local_crops and not METHODS[config.method.name].takes_crops:
        able = ", ".join(name for name, cls in METHODS.items() if cls.takes_crops)
        raise UsageError(
            f"method {config.method.name} takes no local crops: leave views.local_crops out, or take {able}"
        )
    if config.views.local_crops and config.views.policy != AUTO:
        cropping(find_policy(config.views.policy))
    if config.views.local_size and not config.views.local_crops:
        raise UsageError("views.local_size is the side of local crops: set views.local_crops too")
    if config.data.validation and config.data.labelled is None:
        raise UsageError(
            "data.validation goes with data.labelled: of labelled data beside the images, evaluate.validation is held "
            "out"
        )
    if config.data.labelled is not None and config.evaluate.validation is not None:
        raise UsageError("with data.labelled, data.validation says how many labels are held out: leave out evaluate's")
    if config.train.labelled_batch and config.train.batch_size:
        _check_labelled_batch(config.train.labelled_batch, config.train.batch_size)
    if config.train.minutes is not None and config.train.fraction < 1:
        raise UsageError("train.fraction is a part of epochs or steps: give it or a time, not both")
    check_arms(config.evaluate.arms or ())
    if config.evaluate.finetune_from == "head" and first_layer(method) is None:
        raise UsageError(
            f"method {config.method.name} has no projection head of several layers: leave evaluate.finetune_from out"
        )
    if config.encoder.name != "auto":
        stem_choice(config.encoder.name, image_size=32, stem="auto")


def _rehearsed(config: Recipe) -> Method:
    """The method around an encoder that does nothing. Raises UsageError for an unknown name or option."""
    nothing = nn.Identity()
    nothing.num_features = 8  # type: ignore[assignment]
    return build_method(config.method.name, nothing, options=config.method.options)


def check_labels(config: Recipe, data: Spec, *, download: bool) -> None:
    """Refuse a method that learns from the labels of `data` where it has none: opened, nothing is decoded."""
    # What Python hands over may be read once only.
    if _rehearsed(config).uses_labels and spec_text(data) is not None:
        source = open_source(data, download=download)
        if not any(label is not None for label in source.labels):
            METHODS[config.method.name].suited(config.method.options, Pool(len(source)))


def _check_labelled_batch(of_batch: int, batch: int) -> None:
    if of_batch > batch - 2:
        raise UsageError(
            f"train.labelled_batch is {of_batch} in a batch of {batch}: at least 2 of it must be images without label; "
            + (f"give at most {batch - 2}, or a larger --batch-size" if batch > 2 else "give a larger --batch-size")
        )


def decide_views(config: Recipe, corpus: Corpus, *, narrator: Narrator) -> Recipe:
    """Fill in the size of the images, the views and those of fine-tuning, telling why."""
    channels = corpus.values.shape[3]
    size, views, evaluate = config.data.image_size, config.views.policy, config.evaluate.policy
    if size is None:
        own = native_size(corpus)
        size = own or 96
        reason = "the images' own size" if own else "images of several sizes; a small default that CPUs can train"
        narrator.chose("image_size", size, reason)
    if views == AUTO:
        suggested = suggest_policy(size, channels=channels)
        views = str(suggested.value)
        narrator.chose("views.policy", views, suggested.reason)
    if evaluate == AUTO:
        evaluate = "digits" if views == "digits" else "weak"
        narrator.chose("evaluate.policy", evaluate, f"for fine-tuning and baseline, beside views of {views!r}")
    decided: dict[str, Any] = {
        "data": {"image_size": size},
        "views": {"policy": views, **_decide_normalization(config, corpus, narrator=narrator)},
        "evaluate": {"policy": evaluate},
    }
    for name in dict.fromkeys((views, evaluate)):
        if unused := find_policy(name).unused(channels):
            narrator.say(f"views {name!r}: {', '.join(unused)} switched off, as the images have {channels} channels")
    return make_recipe(config.model_dump(exclude_none=True), decided)


def _decide_normalization(config: Recipe, corpus: Corpus, *, narrator: Narrator) -> dict[str, Any]:
    """Which mean and standard deviation a channel; measured ones in numbers."""
    name, channels = config.views.normalization, corpus.values.shape[3]
    if name == AUTO:
        usual = channels in (1, 3) and corpus.intensity == "uint8"
        name = "symmetric" if usual else "measured"
        reason = "8-bit images in grey or RGB" if usual else f"{channels} channels, intensity {corpus.intensity}"
        if not usual:
            narrator.chose("views.normalization", name, reason)
    if name != "measured" or config.views.mean:
        return {"normalization": name}
    mean, std = measure_normalization(corpus.values)
    return {"normalization": name, "mean": mean, "std": std}


def native_size(corpus: Corpus) -> int | None:
    """The images' own side in pixels when they are all of one size and stored as they are, else None."""
    _, height, width, _ = corpus.values.shape
    return min(height, width) if bool((corpus.sizes == (width, height)).all()) else None


def storage_of(config: Recipe) -> Storage:
    """How the images of a configuration are stored. Raises UsageError for settings that mean nothing."""
    d = config.data
    side = d.cache_side or round(1.25 * (d.image_size or 96))
    return Storage(side, d.channels, d.intensity, d.background, d.pages)


def spec_text(data: Spec | None) -> str | None:
    """Data as text that `open_source` reads back, or None for what only Python can hand over."""
    if isinstance(data, list | tuple) and data and all(isinstance(part, str | Path) for part in data):
        return spec_text(data[0]) if len(data) == 1 else json.dumps([spec_text(part) for part in data])
    if isinstance(data, Path):
        return path_text(data)
    return data if isinstance(data, str) else None


def decide(
    config: Recipe,
    parts: Parts,
    *,
    storage: Storage,
    asked_batch: bool,
    asked_labelled_batch: bool = False,
    narrator: Narrator,
) -> Recipe:
    """Fill in what the recipe leaves open, telling why; what was asked for by itself is kept, or refused."""
    corpus = parts.pool
    count = parts.unlabelled
    if count < 2:
        raise DataError(f"{corpus.spec} has {count} readable image: contrastive learning needs at least 2")
    train: dict[str, Any] = {}
    # Exactly what the corpus was loaded with, so that it can be read again, and other data like it.
    data = {"channels": storage.channels, "cache_side": storage.cache_side, "intensity": storage.intensity}
    config = decide_views(config, corpus, narrator=narrator)
    size = required(config.data.image_size)
    encoder: dict[str, Any] = {}
    if config.encoder.name == "auto":
        gpu = torch.cuda.is_available() and config.train.device in ("auto", "cuda")
        suggested = suggest_encoder(size, gpu=gpu)
        narrator.chose("encoder", suggested.value, suggested.reason)
        encoder["name"] = suggested.value
    labelled = 0 if parts.labelled is None else len(parts.labelled)
    train |= decide_batch(
        config,
        count,
        labelled=labelled,
        asked=asked_batch,
        asked_labelled=asked_labelled_batch,
        narrator=narrator,
    )
    if config.train.epochs is None and config.train.minutes is None and config.train.steps is None:
        train["epochs"] = 100
        narrator.chose("epochs", 100, "no --epochs or --minutes given")
    decided = {"data": data, "encoder": encoder, "train": train}
    return _decide_method(make_recipe(config.model_dump(exclude_none=True), decided), parts, narrator=narrator)


def _decide_method(config: Recipe, parts: Parts, *, narrator: Narrator) -> Recipe:
    """Options of the method that the data decides."""
    seen = parts.labelled or parts.pool
    pool = Pool(
        parts.unlabelled,
        int((seen.labels >= 0).sum()),
        len(seen.classes),
        required(config.train.batch_size),
        config.train.labelled_batch or 0,
    )
    chosen: dict[str, Any] = {}
    for name, (value, reason) in METHODS[config.method.name].suited(config.method.options, pool).items():
        narrator.chose(f"method.{name}", value, reason)
        chosen[name] = value
    return make_recipe(config.model_dump(exclude_none=True), {"method": chosen})


def decide_batch(
    config: Recipe, count: int, *, labelled: int, asked: bool, asked_labelled: bool = False, narrator: Narrator
) -> dict[str, Any]:
    """Batch and BatchNorm groups for `count` images and `labelled` ones beside them, and whether processes and
    micro-batches can share them. `asked`, `asked_labelled`: batch and its labelled part are not the recipe's.
    """
    batch, group, micro = config.train.batch_size, config.train.bn_group, config.train.micro_batch
    processes = distributed.size()
    beside: dict[str, Any] = {}
    if labelled:
        count += labelled
    elif config.train.labelled_batch:
        raise UsageError(
            f"train.labelled_batch is {config.train.labelled_batch}, but there is no labelled data to train on: add "
            "--labelled DATA, or --set data.labelled=N for N of the images' own labels"
        )
    if batch is None:
        batch = min(256, count) // processes * processes
        narrator.chose("batch_size", batch, "256 or all images, whichever is less")
    if labelled and config.train.labelled_batch:
        part, others = config.train.labelled_batch, count - labelled
        _check_labelled_batch(part, batch)
        if asked_labelled and part > labelled:
            raise UsageError(
                f"train.labelled_batch is {part}, but there are {labelled} labelled images: give at most {labelled}"
            )
        # Where the data is too small for the recipe's batch: with the labelled part asked for, or in its proportion.
        fitting = part + others if asked_labelled else min(others * batch // (batch - part), labelled * batch // part)
        if not asked and fitting < batch:
            fitting = fitting // processes * processes
            reason = f"{batch} do not fit {labelled} labelled and {others} unlabelled images"
            narrator.chose("batch_size", fitting, f"the recipe's {reason}" if config.train.batch_size else reason)
            beside["labelled_batch"] = part if asked_labelled else max(1, round(part * fitting / batch))
            if beside["labelled_batch"] != part:
                narrator.chose("labelled_batch", beside["labelled_batch"], f"as {part} to a batch of {batch}")
            batch = fitting
    if batch > count:
        if asked:
            raise UsageError(f"batch size {batch} is larger than the data ({count} images): give --batch-size {count}")
        batch = count // processes * processes
        narrator.chose("batch_size", batch, f"the recipe's {config.train.batch_size} is more than the {count} images")
    if batch % processes or batch < 2:
        fitting = max(1, batch // processes) * processes
        raise UsageError(
            f"batch size {batch} cannot be shared by {processes} processes: give --batch-size {max(2, fitting)}"
        )
    if labelled:
        of_batch = beside.get("labelled_batch", config.train.labelled_batch)
        if of_batch is None:
            of_batch = min(batch - 2, max(1, round(batch * labelled / count)))
            narrator.chose("labelled_batch", of_batch, f"the share of {labelled:,} labelled among {count:,} images")
        if not 0 < of_batch <= batch - 2 or of_batch > labelled or batch - of_batch > count - labelled:
            raise UsageError(
                f"{of_batch} labelled samples in a batch of {batch} cannot be drawn from {labelled} labelled and "
                f"{count - labelled} unlabelled images: set train.labelled_batch and train.batch_size to fit"
            )
        beside = {"labelled_batch": of_batch}
    own = batch // processes
    if group == "global":
        if processes > 1 and not torch.cuda.is_available():
            raise UsageError("train.bn_group=global is for GPUs (SyncBatchNorm): give a number, e.g. the default, 256")
        if isinstance(micro, int) and micro < own:
            raise UsageError(f"train.bn_group=global needs the whole batch at once: micro-batch {micro} cuts it")
        return {"batch_size": batch, **beside}
    if group is None or group > batch:
        group = _group_of(own)
        reason = "the batch, in equal groups of up to 256 samples"
        if group != _group_of(batch):
            reason = f"{own} samples in each of {processes} processes; set it to get the same numbers from one process"
        narrator.chose("bn_group", group, reason)
    if own % group:
        whose = f"batch size {batch}" if processes == 1 else f"{own} samples in each of {processes} processes"
        raise UsageError(
            f"{whose} is not a multiple of train.bn_group {group}: give --batch-size "
            f"{max(1, batch // (group * processes)) * group * processes}, or another train.bn_group"
        )
    if isinstance(micro, int) and micro % group and micro < own:
        raise UsageError(
            f"micro-batch {micro} is not a multiple of train.bn_group {group}, whose samples share statistics: give "
            f"--micro-batch {max(group, micro // group * group)}, or --set train.bn_group={micro}, which changes them"
        )
    return {"batch_size": batch, "bn_group": group, **beside}


def _group_of(samples: int) -> int:
    """The largest divisor up to 256; without a fitting one all: statistics of a handful of samples would be noise."""
    return next((g for g in range(min(samples, 256), 31, -1) if samples % g == 0), samples)


def required(value: int | str | None) -> int:
    assert isinstance(value, int), "decided before"
    return value
