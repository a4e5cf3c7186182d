"""What was tried before the test set was read, how often it was read, and what the protocol says."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twoviews.report.arms import arm_of, budget_text, order_arms
from twoviews.report.results import Looks, Results
from twoviews.report.words import per_cent, said

APART = ("paragraph", "command", "settings")
"""What of the protocol is shown by itself."""
FIRST = ("train", "validation", "test", "n_test", "pool_overlap", "pretraining", "seeds", "selection", "test_reads")
"""What of the protocol stands open; the rest unfolds."""


@dataclass(frozen=True)
class Tried:
    """The search of one arm: (setting, score on validation in words, chosen), each trial; what came out, where."""

    name: str
    trials: list[tuple[str, str, bool]]
    chosen: str
    where: str


@dataclass(frozen=True)
class Protocol:
    """The protocol as the page shows it."""

    paragraph: str
    command: str
    first: dict[str, str]
    rest: dict[str, str]


def tried(results: Results) -> list[Tried]:
    """An entry for each arm whose settings are known; whatever shape they have."""
    settings = results.protocol.get("settings")
    if not isinstance(settings, Mapping):
        return []
    return [_tried(name, settings[name]) for name in order_arms(str(key) for key in settings) if name in settings]


def _tried(name: str, search: Any) -> Tried:
    if not isinstance(search, Mapping):
        return Tried(arm_of(name).name, [], said(search), "")
    chosen, found = search.get("setting"), search.get("trials")
    trials = [trial for trial in found if isinstance(trial, Mapping)] if isinstance(found, Sequence) else []
    budget = search.get("reference_budget")
    where = budget_text(budget) if isinstance(budget, int | str) and budget != "" else ""
    return Tried(
        arm_of(name).name,
        [(said(t.get("setting")), _score(t), t.get("setting") == chosen) for t in trials],
        said(chosen),
        where,
    )


def _score(trial: Mapping[str, Any]) -> str:
    """The score on validation, which older versions call accuracy."""
    value = trial.get("val_score", trial.get("val_accuracy"))
    return per_cent(value) if isinstance(value, float | int) and value == value else "–"


def protocol(results: Results) -> Protocol:
    """Its paragraph, its command and its words."""
    words, command = results.protocol, results.protocol.get("command", "")
    if isinstance(command, Sequence) and not isinstance(command, str):
        command = shlex.join(str(part) for part in command)
    texts = {key: said(value) for key, value in words.items() if key not in APART}
    texts |= {key: f"{value:,}" for key, value in words.items() if key.startswith("n_") and type(value) is int}
    return Protocol(
        paragraph=said(words.get("paragraph")),
        command=said(command),
        first={key: texts[key] for key in FIRST if texts.get(key)},
        rest={key: text for key, text in texts.items() if key not in FIRST and text},
    )


def tested_on(results: Results) -> str:
    """On what the scores were measured, and whether the encoder had seen it."""
    first = protocol(results).first
    what, count, overlap = (first.get(key, "") for key in ("test", "n_test", "pool_overlap"))
    parts = [f"Tested on {f'{count} items of ' if count else ''}{what}." if what else ""]
    parts.append(f"Overlap with the pool: {overlap}." if overlap else "")
    return " ".join(part for part in parts if part)


def looks_text(looks: Looks | None) -> tuple[str, bool]:
    """How often the test set was opened, and whether that is oftener than once."""
    if looks is None or not (looks.count or looks.openings):
        return "", False
    count = looks.count if looks.count is not None else len(looks.openings)
    if count == 1:
        return "The test set was opened once for this run.", False
    return (
        f"The test set was opened {count} times for this run: what was changed in between may have been chosen by it.",
        True,
    )
