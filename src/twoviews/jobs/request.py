"""What an evaluation is asked for: configuration, arms, budgets, and the hash by which an interrupted one is known."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from twoviews.config import Evaluate, Recipe, make_recipe, parse_assignment
from twoviews.errors import UsageError
from twoviews.evaluation.compare import (
    DEFAULT_ARMS,
    TRAINED_ARMS,
    TRAINED_LADDER,
    Budget,
    check_arms,
    parse_budgets,
    usual_budgets,
)
from twoviews.jobs.arms import Arms
from twoviews.jobs.labelled import Labelled
from twoviews.narrate import Narrator
from twoviews.run import Run, provenance

SUBSETS = 20
"""Label subsets of arms on cached features, where the trained ones have enough seeds for a verdict."""
ENOUGH_SEEDS = 5


def check_request(
    *, arms: Sequence[str] | None, labels_per_class: str | Iterable[Budget] | None, seeds: int
) -> tuple[tuple[str, ...], tuple[Budget, ...]]:
    """The arms and budgets asked for. Raises `UsageError`; called before anything costly."""
    wanted = check_arms(arms if arms is not None else DEFAULT_ARMS)
    budgets = parse_budgets(labels_per_class if labels_per_class is not None else "all")
    if seeds < 1 or not wanted or not budgets:
        raise UsageError(f"evaluate needs an arm, a label budget and a seed, got {arms}, {labels_per_class!r}, {seeds}")
    return wanted, budgets


def configured(run: Run, settings: Sequence[str], **asked: Any) -> Recipe:
    """The run's configuration, with what is asked for in its section `evaluate`."""
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


def budgets_of(config: Recipe, data: Labelled, narrator: Narrator) -> tuple[tuple[Budget, ...], tuple[Budget, ...]]:
    """All budgets, and those at which arms are trained."""
    o = config.evaluate
    budgets = usual_budgets(data.split) if o.labels_per_class is None else parse_budgets(o.labels_per_class)
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
    if o.labels_per_class is None:
        narrator.chose("evaluate.labels_per_class", ",".join(map(str, budgets)), "as far as the smallest class reaches")
    if len(data.train) > o.all_limit and o.trained_at is None and not (o.arms and set(o.arms) & set(TRAINED_ARMS)):
        narrator.say(
            f"all labels: arms on cached features only, as there are more than {o.all_limit:,}; name finetune and "
            "supervised in --arms to train them too"
        )
        trained = tuple(budget for budget in trained if budget != "all")
    return budgets, trained


def identity_of(
    room: Arms,
    wanted: Sequence[str],
    budgets: Sequence[Budget],
    trained_budgets: Sequence[Budget],
    *,
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
        minutes,
        compute,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
