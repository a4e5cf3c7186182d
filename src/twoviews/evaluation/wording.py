"""The verdict in words: a sentence for whoever reads only that, and notes for whoever doubts it."""

from collections.abc import Sequence
from typing import Any

from twoviews.evaluation.compare import Budget

METRIC_WORDS = {
    "accuracy": "test accuracy",
    "balanced_accuracy": "balanced test accuracy (the mean over the classes)",
    "f1_macro": "test macro F1",
}

ARM_WORDS = {
    "knn": "nearest neighbours on the frozen encoder",
    "linear": "a linear probe on the frozen encoder",
    "linear-adam": "a softmax layer on the frozen encoder, trained with Adam",
    "finetune": "fine-tuning the encoder",
    "distill": "a student of the fine-tuned encoder",
    "supervised": "training from scratch",
    "random-linear": "a linear probe on an untrained encoder",
    "pixels-linear": "a linear probe on pixels",
    "pixels-knn": "nearest neighbours on pixels",
    "shuffled-linear": "a linear probe trained on shuffled labels",
}

LISTED = 4
"""Budgets of one conclusion that are listed; more are summed up by their range."""

WIDE = 3.0
"""Points of half-width from which the sentence says what hides a difference."""

FEW_OF_A_CLASS = 10
"""Test items of the smallest class below which a metric that gives it a full vote is warned about."""


def arm_words(arm: str) -> str:
    """An arm in words: `reference-linear:NAME` is a linear probe on public weights (NAME)."""
    kind, colon, _ = arm.partition(":")
    if not colon:
        return ARM_WORDS.get(arm, arm)
    way = "fine-tuning" if kind == "reference-finetune" else "a linear probe on"
    return f"{way} {reference_words(arm)}"


def reference_words(arm: str) -> str:
    """Whose encoder a reference arm has: a name of timm is public weights, a path may be anything."""
    name = arm.partition(":")[2]
    public = not {"/", "="} & set(name) or name.startswith(("timm:", "timm/", "hf-hub:", "hf_hub:"))
    return f"public weights ({name})" if public else f"the reference ({name})"


def sentence_of(facts: dict[str, Any], choice: dict[str, Any]) -> str:
    """What was found, for a manager; at its end, what was compared, for a reviewer."""
    primary, rows, subject = facts["primary_arm"], facts["comparisons"], choice["subject"]
    if primary is None:
        if choice["named"] is not None:
            return f"No verdict: the arm named for it, {choice['named']!r}, was not run."
        return "No verdict: neither the linear probe nor fine-tuning was run."
    if not rows:
        why = "at the same labels" if choice["baseline"] else "at all"
        return " ".join(
            [f"No verdict: the supervised baseline was not run {why} beside {arm_words(primary)}.", *_reference(facts)]
        )
    parts = [*_conclusions(rows, subject), *_saved(facts), *_floor(facts, subject), *_reference(facts), *_hidden(rows)]
    return " ".join([*parts, _compared(facts)])


def _conclusions(rows: list[dict[str, Any]], subject: str) -> list[str]:
    start = f"{subject[0].upper()}{subject[1:]}"
    groups = {name: [row for row in rows if row["conclusion"] == name] for name in ("helps", "hurts", "cannot tell")}
    found = []
    if groups["helps"]:
        found.append(f"{start} helped {_budgets(groups['helps'], rows)}.")
    if groups["hurts"]:
        found.append(f"{'It' if found else start} hurt {_budgets(groups['hurts'], rows)}.")
    if groups["cannot tell"]:
        words = "There is no clear difference" if found else f"Cannot tell whether {subject} helped"
        found.append(f"{words} {_budgets(groups['cannot tell'], rows)}.")
    return found


def _budgets(group: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Where, with points: a list, or where it is long the range of budgets and of points."""
    if len(group) <= LISTED:
        return _join([f"{budget_words(row['labels_per_class'])} ({_points(row)})" for row in group])
    first, last = (budget_words(group[i]["labels_per_class"]) for i in (0, -1))
    places = [i for i, row in enumerate(rows) if row in group]
    whole = places[-1] - places[0] + 1 == len(group)
    among = "every budget" if whole else f"{len(group)} of the {places[-1] - places[0] + 1} budgets"
    least, most = (pick(group, key=lambda row: row["mean_difference"]) for pick in (min, max))
    return f"at {among} from {_bare(first)} to {_bare(last)} ({_points(least, '')} to {_points(most)})"


def _saved(facts: dict[str, Any]) -> list[str]:
    """One line of `labels_saved`, of a budget at which the primary arm is better for sure."""
    better = [row["labels_per_class"] for row in facts["comparisons"] if row["conclusion"] == "helps"]
    rows = [
        row for row in facts["labels_saved"] if row["arm"] == facts["primary_arm"] and row["labels_per_class"] in better
    ]
    measured = [row for row in rows if row["baseline_labels"] is not None and row["baseline_labels"] > row["labels"]]
    if measured:
        row = max(measured, key=lambda row: row["baseline_labels"] - row["labels"])
        return [
            f"With {row['labels']:,} labels it was as good as training from scratch with about "
            f"{_about(row['baseline_labels'])}."
        ]
    beyond = [row for row in rows if row["more_than"] is not None]
    if beyond:
        row = min(beyond, key=lambda row: row["labels"])
        most = row["more_than"]
        than = "as many" if most == row["labels"] else f"{most:,}, the most that were tried"
        return [f"With {row['labels']:,} labels it was better than training from scratch with {than}."]
    return []


def _floor(facts: dict[str, Any], subject: str) -> list[str]:
    """Where the primary arm helps but is not better than the same probe on an untrained encoder."""
    better = [row["labels_per_class"] for row in facts["comparisons"] if row["conclusion"] == "helps"]
    # One untrained encoder, as there is with all labels, concludes nothing: neither is it a doubt.
    rows = [
        row
        for row in facts["others"]
        if (row["arm"], row["against"]) == (facts["primary_arm"], "random-linear")
        and row["n"] > 1
        and row["conclusion"] != "helps"
        and row["labels_per_class"] in better
    ]
    if not rows:
        return []
    where = _join([f"{budget_words(row['labels_per_class'])} ({_points(row)})" for row in rows[:LISTED]])
    where += " and elsewhere" if len(rows) > LISTED else ""
    return [
        f"But it is not clearly better than {arm_words('random-linear')} {where}: what helped there may be the probe, "
        f"not {subject}."
    ]


def _reference(facts: dict[str, Any]) -> list[str]:
    """The reference that is most ahead, or most clearly behind, where one is."""
    primary = facts["primary_arm"]
    rows = [row for row in facts["others"] if row["arm"] == primary and row["against"].startswith("reference-")]
    ahead = [row for row in rows if row["conclusion"] == "hurts"]
    behind = [row for row in rows if row["conclusion"] == "helps"]
    if ahead:
        # At the largest budget that shows it: whoever has more labels stands at that end.
        last = _latest(ahead)
        row = min((r for r in ahead if r["labels_per_class"] == last), key=lambda r: r["mean_difference"])
        name = reference_words(row["against"])
        verb, them = ("are", "them") if name.startswith("public") else ("is", "it")
        turned = {"mean_difference": -row["mean_difference"], "low": row["low"], "high": row["high"]}
        fact = f"{name} {verb} better by {_points(turned).lstrip('+')} {budget_words(last)}"
        way = "fine-tuned" if row["against"].startswith("reference-finetune") else "frozen, with a linear probe"
        worse = [r for r in behind if reference_words(r["against"]) == name]
        if not worse:
            return [f"{fact[0].upper()}{fact[1:]} ({way}): use {them}."]
        return [f"{fact[0].upper()}{fact[1:]} ({way}), but worse {_budgets(worse, worse)}: use {them} there only."]
    if behind and len({row["against"] for row in rows}) == len({row["against"] for row in behind}):
        row = min(behind, key=lambda r: r["mean_difference"])
        name = reference_words(row["against"])
        return [f"It is better than {name} {budget_words(row['labels_per_class'])} ({_points(row)})."]
    return []


def _latest(rows: Sequence[dict[str, Any]]) -> Budget:
    budgets: list[Budget] = [row["labels_per_class"] for row in rows]
    return "all" if "all" in budgets else max(budget for budget in budgets if budget != "all")


def _hidden(rows: list[dict[str, Any]]) -> list[str]:
    """Where nothing can be told with wide intervals: what makes them wide, and what would help."""
    open_rows = [row for row in rows if row["conclusion"] == "cannot tell" and row["low"] is not None and row["n"] > 1]
    wide = [row for row in open_rows if _half(row) >= WIDE]
    if not wide:
        return []
    widest = max(wide, key=_half)
    if widest["items_share"] >= 0.5:
        return [
            f"The {_tested(widest)} are few: they do not show a difference below about "
            f"{_half(widest):.0f} points, and more of them would."
        ]
    return [
        f"The {widest['n']} seeds differ much: they do not show a difference below about {_half(widest):.0f} points, "
        "and more of them would."
    ]


def _compared(facts: dict[str, Any]) -> str:
    rows = facts["comparisons"]
    seeds = sorted({row["n"] for row in rows})
    number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    unit = "seed" if seeds == [1] else "seeds"
    several = f"; what is said of the {len(rows)} budgets holds for all together (Holm)" if len(rows) > 1 else ""
    return (
        f"Compared: {METRIC_WORDS[facts['metric']]} of {arm_words(facts['primary_arm'])} and of "
        f"{arm_words(facts['against'])} on the same labels, ± a 95 % interval over {number} {unit} and "
        f"{_tested(rows[0])}{several}. The encoder was pretrained once."
    )


def _tested(row: dict[str, Any]) -> str:
    """The test images, and of how many groups they are where some belong together."""
    images, units = row["n_test"], row.get("n_units", row["n_test"])
    return f"{images:,} test images" + (f" in {units:,} groups" if units < images else "")


def notes_of(facts: dict[str, Any], choice: dict[str, Any]) -> list[str]:
    """How to read the verdict, and what throws doubt on it, a sentence each; doubts first."""
    rows, primary = facts["comparisons"], facts["primary_arm"]
    notes = []
    if choice["shuffled"]:
        where = _join([budget_words(budget) for budget in choice["shuffled"]])
        notes.append(
            f"A probe trained on shuffled labels is right more often than chance {where}: something leaks from the "
            "test images into training, so believe no number here before it is found."
        )
    notes += _reference(facts) + _hidden(rows)
    if facts["metric"] != "accuracy" and choice["smallest_class"] < FEW_OF_A_CLASS:
        notes.append(
            f"The smallest class has {choice['smallest_class']} test images, and each class has the same vote: "
            "intervals are rough."
        )
    if any(row["n"] == 1 and row["p_adjusted"] == 1 for row in rows):
        notes.append(
            "Where there is one seed the interval covers the test images only, not the luck of training, and nothing "
            "is concluded."
        )
    rivals = choice["rivals"]
    if primary is not None and len(rivals) > 1:
        others = _join([arm for arm in rivals if arm != primary])
        notes.append(
            f"The arm of the verdict, {primary}, was chosen over {others} on validation, {budget_words(choice['at'])}: "
            f"as luck may have chosen too, its p-values count {len(rivals)} times and its intervals are as much wider. "
            "Naming it beforehand costs nothing."
        )
    if primary is not None and choice["named"] is not None:
        notes.append(f"The arm of the verdict, {primary}, was named beforehand.")
    if len(rows) > 1:
        notes.append(
            f"p-values of the {len(rows)} budgets are corrected by Holm's method; each interval is of its budget by "
            "itself, so one may leave out 0 where nothing is concluded."
        )
    if facts["others"]:
        notes.append(
            "Further pairs of arms are corrected over their budgets, not for their number: of many, some differ by "
            "chance."
        )
    if any(row["labels_per_class"] == "all" for row in rows):
        notes.append("With all labels every seed has the same ones: the interval is for these labels, not for others.")
    if rows:
        notes.append(
            "The encoder was pretrained once, and label subsets come from one labelled pool: intervals cover neither a "
            "further pretraining nor a further pool."
        )
    return notes


def budget_words(budget: Budget) -> str:
    if budget == "all":
        return "with all labels"
    return f"at {budget} label{'' if budget == 1 else 's'} a class"


def _bare(words: str) -> str:
    return words.removeprefix("at ").removeprefix("with ")


def _half(row: dict[str, Any]) -> float:
    return float(50 * (row["high"] - row["low"]))


def _points(row: dict[str, Any], unit: str = " points") -> str:
    spread = f" ± {_half(row):.1f}" if row["low"] is not None else ""
    return f"{100 * row['mean_difference']:+.1f}{spread}{unit}{', one seed' if row.get('n') == 1 else ''}"


def _about(number: float) -> str:
    """To two digits, as a curve through a few budgets is no finer."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
