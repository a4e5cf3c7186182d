"""Several finished runs in one table: methods, encoders, recipes, side by side and, where they can be, in pairs.

A pair is one arm of two runs on the same labels and the same test items, seed by seed: what `evaluate` does to two arms
of one run. Each run is one pretraining; where some are of one recipe with other seeds, how far they lie apart is told.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.evaluation.compare import Budget, order_of
from twoviews.evaluation.metrics import METRICS
from twoviews.evaluation.verdict import LEVEL, leaves_no_luck
from twoviews.evaluation.wording import METRIC_WORDS, arm_words, budget_words
from twoviews.jobs.comparing.paired import Evaluated, known_same, paired, place_of, why_not_same
from twoviews.report import write_runs_page
from twoviews.run import Run, read_json, write_rows

ARMS = ("finetune", "linear", "knn")
"""What runs are held against each other by, where the first run's own arm is not in all of them."""
COLUMNS = ["run", "path", "arm", "labels_per_class", "metric", "mean", "deviation", "n", "n_train"]


def compare_runs(
    runs: Sequence[Run | str | Path],
    *,
    arm: str | None = None,
    metric: str | None = None,
    out: str | Path | None = None,
    table: str | Path | None = None,
) -> dict[str, Any]:
    """Scores of several evaluated runs in one table, and each of the others held against the first.

    `arm`: what runs are held against each other by; by default the first run's own arm of the verdict where all have
    it. `metric`: accuracy, balanced_accuracy or f1_macro; by default that of the first run. `out`: an HTML file to
    write; `table`: a CSV file, a line a run, arm and budget.

    sentence    what came out
    metric, arm, against (the first run's name), budgets
    runs        name, path, method, encoder, image_size, images, epochs, seed, test, primary_arm, sentence of its own
    rows        run, arm, labels_per_class, mean and deviation (over seeds), n, n_train
    pairs       run, against, arm, labels_per_class, mean_difference, low and high (95 %), n, n_test, p, p_adjusted
                (Holm over all pairs here) and conclusion: "better", "worse" or "cannot tell"; where the first run chose
                the arm among k, p counts k times, and low and high are of 1 - 0.05 / k
    not_paired  sentences: which run cannot be held against the first, as its data or settings differ, and why
    notes       sentences: how to read it

    Raises UsageError for a run given twice, one that is no run, an arm that not all have; DataError for one without
    results.

    >>> compare_runs(["runs/simclr", "runs/vicreg"], out="both.html")["sentence"]       # doctest: +SKIP
    """
    found = [_read(Run(run.path if isinstance(run, Run) else run), name) for run, name in _named(runs)]
    first = found[0]
    used = metric or (first.metric if first.metric in METRICS else "accuracy")
    if used not in METRICS:
        raise unknown_name("metric", used, METRICS)
    chosen = _arm(found, arm)
    rows = [row for run in found for row in _rows(run, used)]
    rows.sort(key=lambda row: (order_of(row["arm"]), [r.name for r in found].index(row["run"]), _rank(row)))
    own = arm is None and chosen == first.verdict.get("primary_arm")
    choices = max(1, len(first.verdict.get("chosen_among") or ())) if own else 1
    pairs, not_paired = paired(found, chosen, used, choices=choices) if chosen is not None else ([], [])
    compared: dict[str, Any] = {
        "sentence": "",
        "metric": used,
        "arm": chosen,
        "against": first.name,
        "budgets": sorted({row["labels_per_class"] for row in rows}, key=place_of),
        "runs": [_described(run) for run in found],
        "rows": rows,
        "pairs": pairs,
        "not_paired": not_paired,
        "notes": _notes(found, used, chosen, rows, pairs, choices=choices),
    }
    compared["sentence"] = _sentence(compared)
    if table is not None:
        paths = {run.name: str(run.run.path) for run in found}
        lines = [{**row, "path": paths[row["run"]], "metric": used} for row in rows]
        write_rows(Path(table), lines, columns=COLUMNS)
    if out is not None:
        write_runs_page(Path(out), compared)
    return compared


def _named(runs: Sequence[Run | str | Path]) -> list[tuple[Run | str | Path, str]]:
    """Each run with the shortest end of its path that no other one has."""
    if not runs:
        raise UsageError("nothing to compare: give one or more run directories")
    paths = [(run.path if isinstance(run, Run) else Path(run)).resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"{path} is given twice: name each run once")
    names = []
    for path in paths:
        length = 1
        while sum(other.parts[-length:] == path.parts[-length:] for other in paths) > 1:
            length += 1
        names.append("/".join(path.parts[-length:]))
    return list(zip(runs, names, strict=True))


def _read(run: Run, name: str) -> Evaluated:
    info = run.info()
    if not run.results.is_file():
        raise DataError(f"{run.path} is not evaluated: twoviews evaluate {run.path} --train DATA --test DATA")
    results = read_json(run.results)
    rows = results.get("rows") if isinstance(results, Mapping) else None
    if not isinstance(rows, list) or not all(
        isinstance(row, Mapping)
        and isinstance(row.get("arm"), str)
        and isinstance(row.get("labels_per_class"), int | str)
        for row in rows
    ):
        raise DataError(f"{run.results} holds no rows of a comparison: evaluate {run.path} again")
    return Evaluated(name, run, info, run.settings() if run.config.is_file() else {}, dict(results))


def _arm(runs: Sequence[Evaluated], asked: str | None) -> str | None:
    """The arm that runs are held against each other by; None where they have none in common."""
    if asked is not None:
        lacking = [run.name for run in runs if asked not in run.arms]
        if lacking:
            common = set.intersection(*(run.arms for run in runs))
            shown = ", ".join(sorted(common, key=order_of)) or "none"
            raise UsageError(f"{', '.join(lacking)} has no arm {asked!r}: in all runs there is {shown}")
        return asked
    own = runs[0].verdict.get("primary_arm")
    candidates = [arm for arm in (own, *ARMS) if arm and all(arm in run.arms for run in runs)]
    return candidates[0] if candidates else None


def _rows(run: Evaluated, metric: str) -> list[dict[str, Any]]:
    """Mean and deviation of each arm and budget of a run."""
    values: dict[tuple[str, Budget], list[dict[str, Any]]] = {}
    for row in run.results["rows"]:
        if isinstance(row.get(metric), int | float) and row[metric] == row[metric]:
            values.setdefault((row["arm"], row["labels_per_class"]), []).append(row)
    return [
        {
            "run": run.name,
            "arm": arm,
            "labels_per_class": budget,
            "mean": round(fmean(row[metric] for row in here), 6),
            "deviation": round(stdev(row[metric] for row in here), 6) if len(here) > 1 else None,
            "n": len(here),
            "n_train": here[0].get("n_train"),
        }
        for (arm, budget), here in values.items()
    ]


def _described(run: Evaluated) -> dict[str, Any]:
    info, settings = run.info, run.settings
    encoder, data = info.get("encoder") or {}, info.get("data") or {}
    return {
        "name": run.name,
        "path": str(run.run.path),
        "method": (settings.get("method") or {}).get("name"),
        "encoder": encoder.get("name") or (settings.get("encoder") or {}).get("name"),
        "init": (settings.get("encoder") or {}).get("init"),
        "image_size": encoder.get("image_size"),
        "images": data.get("count"),
        "epochs": info.get("epochs"),
        "seed": info.get("seed"),
        "test": run.protocol.get("test"),
        "n_test": run.protocol.get("n_test"),
        "metric": run.metric,
        "primary_arm": run.verdict.get("primary_arm"),
        "sentence": run.verdict.get("sentence"),
    }


def _sentence(found: Mapping[str, Any]) -> str:
    """What came out, for whoever reads only that."""
    if found["arm"] is None:
        return "The runs have no arm in common: nothing was compared in pairs."
    parts, alike = [], []
    for run in found["runs"][1:]:
        mine = [pair for pair in found["pairs"] if pair["run"] == run["name"]]
        clear = {word: [p for p in mine if p["conclusion"] == word] for word in ("better", "worse")}
        said = [f"{word} {_places(rows, len(mine))}" for word, rows in clear.items() if rows]
        if said:
            parts.append(f"{run['name']} is {' and '.join(said)} than {found['against']}.")
        elif mine:
            alike.append(run["name"])
    if alike:
        names = alike[0] if len(alike) == 1 else f"{', '.join(alike[:-1])} and {alike[-1]}"
        verb = "is" if len(alike) == 1 else "are"
        parts.append(f"{names} {verb} not clearly different from {found['against']} at any number of labels.")
    if not parts:
        return " ".join(["Nothing could be compared in pairs."] if len(found["runs"]) > 1 else ["One run: no pair."])
    n_test = found["pairs"][0]["n_test"]
    what = f"{METRIC_WORDS[found['metric']]} of {arm_words(found['arm'])}"
    return " ".join([*parts, f"Compared: {what} on the same labels and {n_test:,} test items."])


def _places(rows: Sequence[Mapping[str, Any]], of: int) -> str:
    """Where, with points; summed up where there are many."""
    points = [f"{100 * row['mean_difference']:+.1f}" for row in rows]
    if len(rows) > 3:
        low, high = (f"{100 * pick(r['mean_difference'] for r in rows):+.1f}" for pick in (min, max))
        return f"at {len(rows)} of {of} numbers of labels ({low} to {high} points)"
    texts = [f"{budget_words(row['labels_per_class'])} ({p} points)" for row, p in zip(rows, points, strict=True)]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _notes(
    runs: Sequence[Evaluated],
    metric: str,
    arm: str | None,
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    *,
    choices: int,
) -> list[str]:
    notes = []
    if other := [f"{run.name} by {run.metric}" for run in runs if run.metric != metric]:
        notes.append(
            f"Other runs were judged, and their settings chosen, otherwise, {', '.join(other)}; here all are compared "
            f"by {metric}."
        )
    notes += filter(None, (_tested(runs[0], run) for run in runs[1:]))
    if len(pairs) > 1:
        notes.append(f"p-values are corrected for all {len(pairs)} pairs (Holm); each interval stands for itself.")
    if pairs and choices > 1:
        notes.append(
            f"The arm was the best of {choices} in {runs[0].name}, by its luck too: p-values count {choices} times, "
            f"intervals are of {1 - LEVEL / choices:.1%}, and differences lean towards {runs[0].name}. An arm that is "
            "named (--arm) pays nothing."
        )
    for family in _families(runs):
        names = [run.name for run in family]
        here = [row for row in rows if row["run"] in names and row["arm"] == arm]
        last = max((row["labels_per_class"] for row in here), key=place_of, default=None)
        means = [row["mean"] for row in here if row["labels_per_class"] == last]
        if last is not None and len(means) > 1:
            notes.append(
                f"{', '.join(names)} are one recipe pretrained with other seeds: {budget_words(last)} their means have "
                f"a standard deviation of {100 * stdev(means):.1f} points, from {100 * min(means):.1f} to "
                f"{100 * max(means):.1f} %. A difference between them is the luck of pretraining."
            )
    if any(not leaves_no_luck(pair["n"], pair["labels_per_class"], pair["arm"]) for pair in pairs):
        notes.append(
            "Where two runs share one seed the interval covers the test items only, not the luck of label subsets and "
            "trainings, and nothing is concluded."
        )
    if pairs:
        covered = "label subsets, trainings and test items" if any(pair["n"] > 1 for pair in pairs) else "test items"
        notes.append(
            f"Each run is one pretraining: an interval covers {covered}, not what another pretraining of the same "
            "recipe would give."
        )
    return notes


def _tested(first: Evaluated, run: Evaluated) -> str | None:
    """Where two runs had other pixels or labels to test on: whether they tell of the same images."""
    why = why_not_same(first, run, "test")
    if known_same(first, run, "test"):
        if run.fingerprint("test") == first.fingerprint("test"):
            return None
        train = ", and labelled training images too" if known_same(first, run, "train") else ""
        return (
            f"The images of {run.name} and {first.name} differ in pixels ({why}): test items are taken for the same by "
            f"their ids and labels{train}."
        )
    return (
        f"The test images of {run.name} and {first.name} are not known to be the same ({why}): their scores stand side "
        "by side, but not on one scale."
    )


def _families(runs: Sequence[Evaluated]) -> list[list[Evaluated]]:
    """Runs whose settings are the same but for the seed of pretraining."""
    found: dict[str, list[Evaluated]] = {}
    for run in runs:
        if run.settings:
            kept = {name: part for name, part in run.settings.items() if name != "evaluate"}
            kept["train"] = {k: v for k, v in (kept.get("train") or {}).items() if k != "seed"}
            found.setdefault(json.dumps(kept, sort_keys=True, default=str), []).append(run)
    return [family for family in found.values() if len({run.info.get("seed") for run in family}) > 1]


def _rank(row: Mapping[str, Any]) -> tuple[bool, int]:
    return place_of(row["labels_per_class"])
