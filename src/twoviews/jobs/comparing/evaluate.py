"""From a finished run and labelled data to rows, a verdict and a classifier."""

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from twoviews import distributed
from twoviews.compute import choose_compute_as
from twoviews.data.corpus import Corpus
from twoviews.data.source import Spec
from twoviews.encoders.public import Absent
from twoviews.errors import UsageError
from twoviews.evaluation.compare import (
    REFERENCE_ARMS,
    TRAINED_ARMS,
    Arm,
    Budget,
    Comparison,
    order_of,
    seeds_of,
    selection_budget,
)
from twoviews.evaluation.floors import floors
from twoviews.evaluation.verdict import verdict
from twoviews.jobs.comparing.arms import Arms, Ground
from twoviews.jobs.comparing.doubts import doubts_of
from twoviews.jobs.comparing.early import check_comparison
from twoviews.jobs.comparing.labelled import load_labelled
from twoviews.jobs.comparing.length import Planned
from twoviews.jobs.comparing.looks import finish_opening, in_words, last_finished, looks, record_opening
from twoviews.jobs.comparing.protocol import protocol
from twoviews.jobs.comparing.records import Journal
from twoviews.jobs.comparing.reference import check_references, load_references
from twoviews.jobs.comparing.request import (
    budgets_of,
    check_options,
    check_request,
    configured,
    identity_of,
    seeds_from,
    subsets_of,
    text_of,
)
from twoviews.jobs.comparing.shipped import ship_classifier, write_pictures
from twoviews.jobs.comparing.trained import Trained
from twoviews.jobs.decide import storage_of
from twoviews.jobs.head import with_head
from twoviews.jobs.reading import load_shared
from twoviews.narrate import Narrator
from twoviews.report import write_report
from twoviews.run import Run, provenance, write_json, write_text

FINISHING_SECONDS = 20
"""Of a `minutes` budget, kept for pictures and page."""

TRANSDUCTIVE = (
    "The verdict is transductive: some test images, or near copies of them, were among those that the encoder was "
    "trained on, without their labels, so on pictures that it has not seen its arms may score lower "
    "(evaluate.overlap=drop takes them out of test)."
)

RECORDED = ("row", "predicted", "val_score")
"""Of a record, what stays beside the results."""


def evaluate(
    run: Run | str | Path,
    *,
    test: Spec,
    train: Spec | None = None,
    val: Spec | None = None,
    arms: str | Sequence[str] | None = None,
    references: str | Sequence[str] | None = None,
    labels_per_class: str | Iterable[Budget] | None = None,
    trained_at: str | Iterable[Budget] | None = None,
    seeds: int | None = None,
    subsets: int | None = None,
    metric: str | None = None,
    minutes: float | None = None,
    encoder: Callable[[], nn.Module] | None = None,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    settings: Sequence[str] = (),
    download: bool = False,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Compare what the encoder gives with what the labels give without it; the content of `evaluation/results.json`.

    Also writes the classifier and the report. The classifier of a student of `distill` is what its training was for: it
    is never replaced or removed, and the result has none of its own. Killed, the same call goes on where it stopped, to
    the same results; the clock of `minutes` begins anew, so that what it would have cut may be run.

    `test`, `train`, `val`: labelled data; without `train`, the labelled part that the run was trained on. Without
    `val`, a stratified fifth of train (at most 5,000), or `evaluate.validation` of it, is held out for choosing
    settings. `labels_per_class`: budgets, e.g. "1,5,10,all"; `trained_at`: those at which arms are trained. `arms`: of
    `ARMS`, all but `linear-adam`, `distill` and `shuffled-linear` by default; naming `finetune` or `supervised` also
    runs them on more than `evaluate.all_limit` labels. `references`: encoders that were not trained here (a name of
    timm, a folder or file of weights, another run), each frozen and fine-tuned. `seeds`: trainings a budget; `subsets`:
    label subsets of arms on cached features. `metric`: accuracy, balanced_accuracy or f1_macro, for settings and
    verdict. `minutes`: of the whole call; fewer updates, then fewer seeds are used to fit, the same for fine-tuning and
    the baseline, and what was cut is in the result. `encoder`: for a run that trained your own module, the function
    that makes it with random weights. `labels`: a manifest joined to all data by id. `exclude`: a CSV file with ids of
    train to leave out, as `check` writes it; what lies in test too leaves train by itself. `settings`:
    `evaluate.KEY=VALUE`, over the run's own.

    Raises `UsageError` for a run that is not finished, unknown arms and budgets; `DataError` for labels that do not
    suffice.
    """
    if minutes is not None and not minutes > 0:
        raise UsageError(f"evaluate needs a positive time, got {minutes} minutes")
    if arms is not None or labels_per_class is not None:
        check_request(arms=arms, labels_per_class=labels_per_class, seeds=1)
    distributed.join()
    deadline = None if minutes is None else time.monotonic() + 60 * minutes - FINISHING_SECONDS
    narrator = narrator or Narrator()
    run = run if isinstance(run, Run) else Run(run)
    info = run.require_finished()
    config = configured(
        run,
        settings,
        arms=arms,
        references=references,
        labels_per_class=text_of(labels_per_class),
        trained_at=text_of(trained_at),
        seeds=seeds,
        subsets=subsets,
        metric=metric,
    )
    o = config.evaluate
    wanted = check_options(o)
    check_comparison(o, train=train, val=val, test=test, labels=labels, exclude=exclude, download=download)
    check_references(o.references, download=download)
    compute = choose_compute_as(
        device=config.train.device,
        # Arms that train would crawl through a bf16 that this processor has not.
        precision="auto" if info["precision"] == "bf16" else info["precision"],
        threads=config.train.threads,
        narrator=narrator,
    )
    data = load_labelled(
        run,
        train=train,
        val=val,
        test=test,
        labels=labels,
        exclude=exclude,
        part=o.validation,
        split_seed=o.split_seed,
        overlap=o.overlap,
        download=download,
        narrator=narrator,
    )
    budgets, trained_budgets = budgets_of(config, data, narrator)
    if set(wanted) & {"finetune", "distill"} and o.finetune_from == "head":
        with_head(nn.Identity(), run.head)  # whether there is one

    began = time.monotonic()
    room = Arms(run, config, info, compute=compute, data=data, module=encoder, narrator=narrator)
    specs = {"train": train, "val": val if val is not None else train, "test": test}
    grounds, facts, absent = _references(room, specs, labels=labels, download=download)
    identity = identity_of(room, wanted, budgets, trained_budgets, references=facts, minutes=minutes)
    command = provenance()["command"]
    if distributed.is_main():
        record_opening(run, test_fingerprint=data.test_fingerprint, comparison=identity, command=command)
    journal = Journal(run, identity)
    if len(journal):
        narrator.say(f"going on with a comparison that was interrupted: {len(journal):,} results are there")
    elif (last := last_finished(run)) is not None:
        when = datetime.fromisoformat(last["time"]).astimezone()
        narrator.say(f"this replaces the evaluation of {when:%Y-%m-%d %H:%M} ({last['command']})")
    comparison = Comparison(data.split, metric=o.metric, remember=lambda key, make: journal.made(*key, make=make))

    # Arms on cached features: cheap, so all of them, at every budget.
    cached = room.feature_arms(wanted)
    cached += [room.reference_arm(f"{REFERENCE_ARMS[0]}:{name}", ground) for name, ground in grounds.items()]
    _compare_cached(comparison, cached, budgets, seeds_from(o, subsets_of(o)), narrator)

    # Trained arms: the cost of the comparison, planned to the time that is left.
    tuned = {f"{REFERENCE_ARMS[1]}:{name}": ground for name, ground in grounds.items()}
    names = [arm for arm in TRAINED_ARMS if arm in wanted]
    names += tuned if {"finetune", "supervised"} & set(names) else []
    training = Trained(room, tuned, pool=_pool_of(room))
    length, cut = training.length, list(absent)
    trained: list[Arm] = []
    if names and trained_budgets:
        training.prepare(names)
        seeds_wanted = seeds_from(o, o.seeds)
        # What a clock decided once holds for a comparison that goes on.
        plan = distributed.agreed(
            journal.made(
                "plan",
                make=lambda: _planned(training.length_in_time(names, trained_budgets, seeds_wanted, deadline)),
            )
        )
        length = replace(length, count=plan["count"])
        for text in plan["cut"]:
            narrator.warn(text)
        cut += plan["cut"]
        names = names if plan["seeds"] else []
        trained = [
            training.arm(name, length, largest=trained_budgets[-1], chosen=comparison.chosen, tried=plan["tried"])
            for name in names
        ]
        cut += _compare_trained(
            comparison, training, trained, trained_budgets, plan["seeds"], deadline=deadline, narrator=narrator
        )

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return order_of(row["arm"]), budgets.index(row["labels_per_class"]), row["seed"]

    comparison.rows.sort(key=place)
    comparison.records.sort(key=lambda record: place(record["row"]))
    shipped = ship_classifier(room, comparison, budgets, {arm.name: arm for arm in (*cached, *trained)})
    # The baseline starts from random weights: what public weights brought is not credited to the pictures.
    init = config.encoder.init
    credited = "training on labels" if info.get("labels_trained_on") else "self-supervision"
    subject = credited if init is None else f"{credited} on top of the initial weights ({init})"
    found = looks(run, data.test_fingerprint) if distributed.is_main() else {}
    words = protocol(room, comparison, budgets, length=length, trained=names, trained_budgets=trained_budgets)
    words["test_reads"] = f"each arm's once, after its setting was chosen; {in_words(found)}" if found else ""
    if facts:
        words["references"] = facts
    words["command"] = command
    judged = verdict(comparison, budgets, subject=subject, primary=o.primary)
    doubts = doubts_of(comparison, trained_budgets)
    judged["sentence"] = " ".join([judged["sentence"], *doubts])  # whoever reads only that must not miss them
    judged["notes"] += doubts + ([TRANSDUCTIVE] if data.transductive else [])
    results: dict[str, Any] = {
        "comparison": identity,
        "rows": comparison.rows,
        "floors": floors(data.split),
        "protocol": words,
        "verdict": judged,
        "classes": list(data.split.classes),
        "classifier": shipped,
        "details": [record["details"] for record in comparison.records if record["details"] is not None],
        "looks": found,
        "cut": cut,
        "excluded": data.excluded,
    }
    results = dict(distributed.agreed(results))
    # The trials' curves first: the last curve of an arm, budget and seed is the one that counts.
    curves = [*journal.curves("trial"), *chain.from_iterable(record["curve"] for record in comparison.records)]
    if distributed.is_main():
        write_pictures(room, comparison, shipped)
        write_json(run.results, results)
        write_text(run.evaluation / "results.csv", _as_csv(comparison.rows))
        write_json(run.evaluation / "timing.json", {"seconds": round(time.monotonic() - began, 1)})
        write_text(run.evaluation / "curves.jsonl", "".join(json.dumps(row) + "\n" for row in curves))
        journal.close(run, [{key: record[key] for key in RECORDED} for record in comparison.records])
        finish_opening(run, comparison=identity)
        write_report(run.path)
    distributed.barrier()
    return results


def _compare_cached(
    comparison: Comparison, arms: Sequence[Arm], budgets: Sequence[Budget], seeds: list[int], narrator: Narrator
) -> None:
    """Arms on cached features, on every subset of every budget."""
    units = [(b, s) for b in budgets for s in seeds_of(b, seeds)]
    with narrator.track(len(units) * len(arms), "features") as tick:
        for arm in arms:
            comparison.choose(arm, budgets, seeds)

            def fit(unit: tuple[Budget, int], arm: Arm = arm) -> dict[str, Any]:
                tick(distributed.size())
                last = unit == (budgets[-1], seeds[0])
                return comparison.run_arm(arm, *unit, keep_model=last, detailed=last)

            for record in distributed.spread(units, fit):
                comparison.add(record)


def _compare_trained(
    comparison: Comparison,
    training: Trained,
    arms: Sequence[Arm],
    budgets: Sequence[Budget],
    seeds: list[int],
    *,
    deadline: float | None,
    narrator: Narrator,
) -> list[str]:
    """Arms that train an encoder, until time is up; what that cut, in words."""
    pairs = [(b, s) for s in seeds for b in budgets]
    trials = sum(len(arm.settings) for arm in arms if selection_budget(comparison.split, arm.settings, budgets))
    with narrator.track(len(pairs) * len(arms) + trials, "trained arms") as tick:
        training.tick = tick
        for arm in arms:
            comparison.choose(arm, budgets, seeds[:1])
        slowest, first = 0.0, pairs[distributed.rank() :][:1]

        def fit(unit: tuple[Budget, int]) -> list[dict[str, Any]]:
            nonlocal slowest
            started = time.monotonic()
            if deadline is not None and started + slowest > deadline and [unit] != first:
                return []
            # All arms of a pair, or none: differences stay paired.
            detailed = unit == (budgets[-1], seeds[0])
            records = [
                comparison.run_arm(arm, *unit, keep_model=unit[1] == seeds[0], detailed=detailed) for arm in arms
            ]
            slowest = max(slowest, time.monotonic() - started)
            return records

        done = distributed.spread(pairs, fit)
        training.tick = None
    for record in chain.from_iterable(done):
        comparison.add(record)
    if not (skipped := done.count([])):
        return []
    text = f"time was up: {skipped} of {len(pairs)} pairs of fine-tuning and baseline were not run"
    narrator.warn(text)
    return [text]


def _references(
    room: Arms, specs: Mapping[str, Spec | None], *, labels: str | Path | None, download: bool
) -> tuple[dict[str, Ground], dict[str, Any], list[str]]:
    """What the arms of each reference stand on, facts of each, and, of those that could not be had, why."""
    storage, data = room.preprocessing.storage, room.data
    references, absent = load_references(
        room.options.references, storage=storage, sizes=data.train.sizes, download=download, narrator=room.narrator
    )
    # Labels that the run was trained on are read as it read them.
    own = room.info.get("labelled") or {}
    read = {n: (own.get("spec"), own.get("labels")) if s is None else (s, labels) for n, s in specs.items()}
    grounds, facts = {}, {}
    for reference in references:
        parts = reference.decode(room.ground.parts, read, storage=storage, download=download, narrator=room.narrator)
        seen = reference.seen(parts["test"], download=download, narrator=room.narrator)
        if isinstance(seen, Absent):
            absent.append(f"reference {reference.name} was not measured: {seen.reason}")
            room.narrator.warn(absent[-1])
            continue
        clean = reference.views
        grounds[reference.name] = Ground(reference.module, parts, clean, room.augmented_like(clean))
        facts[reference.name] = reference.facts | ({"seen": seen} if seen else {})
    return grounds, facts, absent


def _planned(found: Planned) -> dict[str, Any]:
    return {"count": found.length.count, "seeds": found.seeds, "cut": found.cut, "tried": found.tried}


def _pool_of(room: Arms) -> Callable[[], Corpus]:
    """The images that the encoder was trained on, read when asked for."""

    @cache
    def pool() -> Corpus:
        data = room.config.data
        if data.source is None:
            raise UsageError(
                f"{room.run.path} was trained on arrays handed over in Python: leave distill out of the arms"
            )
        return load_shared(data.source, storage_of(room.config), exclude=data.exclude, narrator=room.narrator)

    return pool


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
