"""What an evaluation is asked for: configuration, arms, budgets, and the hash by which an interrupted one is known."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from twoviews.config import Evaluate, Recipe, make_recipe, parse_assignment
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.compare import (
    ARMS,
    DEFAULT_ARMS,
    PRETRAINED_ARMS,
    TRAINED_ARMS,
    TRAINED_LADDER,
    Budget,
    Split,
    check_arms,
    check_budgets,
    parse_budgets,
    usual_budgets,
)
from twoviews.jobs.comparing.arms import Arms
from twoviews.jobs.comparing.labelled import GIVEN, Labelled
from twoviews.narrate import Narrator
from twoviews.run import Run, provenance

SUBSETS = 20
"""Label subsets of arms on cached features, where the trained ones have enough seeds for a verdict."""
ENOUGH_SEEDS = 5

PRIMARY = ("auto", *PRETRAINED_ARMS, "knn")
"""What the verdict may be about: arms that use the encoder."""


def check_request(
    *, arms: str | Sequence[str] | None, labels_per_class: str | Iterable[Budget] | None, seeds: int | None
) -> tuple[tuple[str, ...], tuple[Budget, ...]]:
    """The arms and budgets asked for. Raises `UsageError`; called before anything costly."""
    names = listed(arms) if arms is not None else DEFAULT_ARMS
    if not any(name.strip() for name in names):
        raise UsageError(f"no arm is named, got {arms!r}: give some of {','.join(ARMS)}, or leave --arms out")
    wanted = check_arms(names)
    budgets = parse_budgets(labels_per_class if labels_per_class is not None else "all")
    if not budgets:
        raise UsageError(f"no label budget is named, got {labels_per_class!r}: write 1,5,10,all")
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds must be 1 or more, got {seeds}")
    return wanted, budgets


def check_options(o: Evaluate) -> tuple[str, ...]:
    """The arms of a configuration, in their order. Raises `UsageError` for what does not fit together."""
    wanted, _ = check_request(arms=o.arms, labels_per_class=o.labels_per_class, seeds=o.seeds)
    if o.primary not in PRIMARY:
        if o.primary not in ARMS:
            raise unknown_name("evaluate.primary", o.primary, PRIMARY)
        raise UsageError(
            f"evaluate.primary = {o.primary!r} does not use the encoder, so no verdict on it can be had: choose one of "
            f"{', '.join(PRIMARY)}"
        )
    if o.primary not in ("auto", *wanted):
        raise UsageError(f"evaluate.primary = {o.primary!r} is not among the arms that run: {', '.join(wanted)}")
    return wanted


def listed(names: str | Sequence[str]) -> Sequence[str]:
    """Names, also of a text with commas between them."""
    return names.split(",") if isinstance(names, str) else names


def configured(run: Run, settings: Sequence[str], **asked: Any) -> Recipe:
    """The run's configuration, with what is asked for in its section `evaluate`.

    `arms` may be a text with commas between names, `references` one name. Raises `UsageError`.
    """
    check_request(arms=asked.get("arms"), labels_per_class=asked.get("labels_per_class"), seeds=asked.get("seeds"))
    if asked.get("arms") is not None:
        asked["arms"] = listed(asked["arms"])
    if isinstance(asked.get("references"), str):  # the name of a file may have a comma
        asked["references"] = [asked["references"]]
    tables = [parse_assignment(text) for text in settings]
    if foreign := [text for text, table in zip(settings, tables, strict=True) if set(table) != {"evaluate"}]:
        raise UsageError(f"an evaluation takes settings of evaluate only, got {foreign[0]!r}")
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in asked.items()}
    return make_recipe(run.settings(), *tables, {"evaluate": own}, origin=str(run.config))


def text_of(budgets: str | Iterable[Budget] | None) -> str | None:
    """Budgets as the configuration has them."""
    return budgets if budgets is None or isinstance(budgets, str) else ",".join(map(str, budgets))


def subsets_of(o: Evaluate) -> int:
    """Label subsets of arms on cached features, of which the trained ones use the first."""
    if o.subsets is not None:
        return max(o.subsets, o.seeds)
    return max(SUBSETS, o.seeds) if o.seeds >= ENOUGH_SEEDS else o.seeds


def seeds_from(o: Evaluate, count: int) -> list[int]:
    """So many seeds from the first one on."""
    return list(range(o.first_seed, o.first_seed + count))


def budgets_of(config: Recipe, data: Labelled, narrator: Narrator) -> tuple[tuple[Budget, ...], tuple[Budget, ...]]:
    """All budgets, and those at which arms are trained. Raises as `asked_budgets` does."""
    o = config.evaluate
    budgets, trained = asked_budgets(o, data.split, held_out=data.val_origin != GIVEN)
    if o.labels_per_class is None:
        narrator.chose("evaluate.labels_per_class", ",".join(map(str, budgets)), "as far as the smallest class reaches")
    if len(data.train) > o.all_limit and o.trained_at is None and not (o.arms and set(o.arms) & set(TRAINED_ARMS)):
        narrator.say(
            f"all labels: arms on cached features only, as there are more than {o.all_limit:,}; name finetune and "
            "supervised in --arms to train them too"
        )
        trained = tuple(budget for budget in trained if budget != "all")
    return budgets, trained


def asked_budgets(o: Evaluate, split: Split, *, held_out: bool) -> tuple[tuple[Budget, ...], tuple[Budget, ...]]:
    """All budgets that are asked for, and those at which arms are to be trained.

    `held_out`: whether validation was taken out of train. Raises `UsageError` for a training at no budget, `DataError`
    for labels that do not suffice.
    """
    budgets = usual_budgets(split) if o.labels_per_class is None else parse_budgets(o.labels_per_class)
    if o.trained_at is not None:
        trained = parse_budgets(o.trained_at)
        if missing := [str(budget) for budget in trained if budget not in budgets]:
            raise UsageError(
                f"evaluate.trained_at has {', '.join(missing)}, which is not among the budgets "
                f"{','.join(map(str, budgets))}: add it to --labels-per-class"
            )
    elif o.labels_per_class is not None:
        trained = budgets
    else:
        trained = tuple(budget for budget in budgets if budget in (*TRAINED_LADDER, "all"))
    try:
        check_budgets(split, budgets)
    except DataError as error:
        left, held = (np.bincount(labels, minlength=len(split.classes)) for labels in (split.train, split.val))
        poorest = int(left.argmin())
        if len(split.classes) < 2 or not held_out or not held[poorest]:
            raise
        count, taken = int(left[poorest] + held[poorest]), int(held[poorest])
        is_held = "1 is" if taken == 1 else f"{taken} are"
        raise DataError(f"{error} (of {count}, {is_held} held out for validation)") from None
    return budgets, trained


def identity_of(
    room: Arms,
    wanted: Sequence[str],
    budgets: Sequence[Budget],
    trained_budgets: Sequence[Budget],
    *,
    references: Mapping[str, Any],
    minutes: float | None,
) -> str:
    """A hash of all that decides a comparison's results: one that goes on must have the same."""
    options = room.options.model_dump(mode="json")
    parts = {name: [corpus.fingerprint, corpus.labels.tolist()] for name, corpus in room.ground.parts.items()}
    compute = [str(room.compute.device), room.compute.precision, room.compute.threads]
    facts = [
        provenance()["twoviews"],
        options,
        parts,
        room.encoder_hash,
        wanted,
        budgets,
        trained_budgets,
        references,
        minutes,
        compute,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
