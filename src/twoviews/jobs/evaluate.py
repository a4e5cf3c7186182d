"""From a finished run and labelled data to rows, a verdict and a classifier."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from twoviews import distributed
from twoviews.compute import choose_compute
from twoviews.config import Recipe, make_recipe
from twoviews.data.source import Spec
from twoviews.errors import UsageError
from twoviews.evaluation.compare import (
    ARMS,
    DEFAULT_ARMS,
    PRETRAINED_ARMS,
    TRAINED_ARMS,
    Arm,
    Budget,
    Comparison,
    check_arms,
    check_budgets,
    parse_budgets,
    selection_budget,
)
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.finetune import Classifier, WithHead
from twoviews.evaluation.gallery import build_gallery
from twoviews.evaluation.metrics import classification_metrics, confusion, per_class
from twoviews.evaluation.probe import LinearProbe
from twoviews.evaluation.verdict import primary_arm, verdict
from twoviews.jobs.arms import Arms
from twoviews.jobs.classifier import save_classifier
from twoviews.jobs.head import with_head
from twoviews.jobs.labelled import Labelled, load_labelled
from twoviews.jobs.length import seeds_of
from twoviews.jobs.protocol import protocol
from twoviews.narrate import Narrator
from twoviews.report import write_report
from twoviews.run import Run, read_json, write_json, write_rows, write_text

FINISHING_SECONDS = 20
"""Of a `minutes` budget, kept for pictures and page."""


def evaluate(
    run: Run | str | Path,
    *,
    test: Spec,
    train: Spec | None = None,
    val: Spec | None = None,
    arms: Sequence[str] | None = None,
    labels_per_class: str | Iterable[Budget] | None = None,
    seeds: int | None = None,
    minutes: float | None = None,
    encoder: Callable[[], nn.Module] | None = None,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    download: bool = False,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Compare what the encoder gives with what the labels give without it; the content of `evaluation/results.json`.

    Also writes the classifier and the report. The classifier of a student of `distill` is what its training was for: it
    is never replaced or removed, and the result has none of its own.

    `test`, `train`, `val`: labelled data; without `train`, the labelled part that the run was trained on. Without
    `val`, a stratified fifth of train (at most 5,000), or `evaluate.validation` of it, is held out for choosing
    settings. `labels_per_class`: budgets, e.g. "1,5,10,all". `arms`: of `ARMS`, all but `linear-adam` by default;
    naming `finetune` or `supervised` also runs them on more than `evaluate.all_limit` labels. `minutes`: of the whole
    call; fewer updates, then fewer seeds are used to fit, the same for fine-tuning and the baseline, and what was cut
    is in the result. `encoder`: for a run that trained your own module, the function that makes it with random
    weights. `labels`: a manifest joined to all data by id. `exclude`: a CSV file with ids of train to leave out, as
    `check` writes it; what lies in test too leaves train by itself.

    Raises `UsageError` for a run that is not finished, unknown arms and budgets; `DataError` for labels that do not
    suffice.
    """
    if minutes is not None and not minutes > 0:
        raise UsageError(f"evaluate needs a positive time, got {minutes} minutes")
    if arms is not None or labels_per_class is not None:
        check_request(arms=arms, labels_per_class=labels_per_class or "all", seeds=1)
    distributed.join()
    deadline = None if minutes is None else time.monotonic() + 60 * minutes - FINISHING_SECONDS
    narrator = narrator or Narrator()
    run = run if isinstance(run, Run) else Run(run)
    info = run.require_finished()
    config = make_recipe(run.settings(), origin=str(run.config))
    arms, labels_per_class, seeds = requested(config, arms=arms, labels_per_class=labels_per_class, seeds=seeds)
    wanted, budgets = check_request(arms=arms, labels_per_class=labels_per_class, seeds=seeds)
    compute = choose_compute(
        device=config.train.device,
        precision=info["precision"],
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
        part=config.evaluate.validation,
        split_seed=config.evaluate.split_seed,
        download=download,
        narrator=narrator,
    )
    check_budgets(data.split, budgets)
    if "finetune" in wanted and config.evaluate.finetune_from == "head":
        with_head(nn.Identity(), run.head)  # whether there is one
    began = time.monotonic()

    comparison = Comparison(data.split)
    room = Arms(run, config, info, compute=compute, data=data, module=encoder, narrator=narrator)
    all_budgets = list(budgets)
    first_seed = config.evaluate.first_seed
    list_of_seeds = list(range(first_seed, first_seed + seeds))
    last = budgets[-1]

    # Arms on cached features: cheap, so all of them, at every budget.
    cached = room.feature_arms(wanted)
    with narrator.track(sum(len(seeds_of(b, list_of_seeds)) for b in budgets) * len(cached), "features") as tick:
        for arm in cached:
            comparison.choose(arm, all_budgets, list_of_seeds)

            def run_cached(unit: tuple[Budget, int], arm: Arm = arm) -> dict[str, Any]:
                tick(distributed.size())
                return comparison.run_arm(arm, *unit, keep_model=unit == (last, first_seed))

            for record in distributed.spread([(b, s) for b in budgets for s in seeds_of(b, list_of_seeds)], run_cached):
                comparison.add(record)

    # Trained arms: the cost of the comparison, planned to the time that is left.
    names = [arm for arm in TRAINED_ARMS if arm in wanted]
    trained_budgets = [b for b in budgets if b != "all" or _train_all(data, config, asked=arms, narrator=narrator)]
    cut: list[str] = []
    length = room.length
    if names and trained_budgets:
        if "finetune" in names:
            room.prepare_finetuning()
        length, kept, cut = room.length_in_time(names, trained_budgets, list_of_seeds, deadline)
        for text in cut:
            narrator.warn(text)
        trained = [room.trained_arm(name, length, largest=trained_budgets[-1]) for name in names]
        units = [(b, s) for s in kept for b in trained_budgets if s in seeds_of(b, kept)]
        trials = sum(
            len(arm.settings) for arm in trained if selection_budget(data.split, arm.settings, trained_budgets)
        )
        with narrator.track(len(units) * len(trained) + trials, "fine-tuning and baseline") as tick:
            room.tick = tick
            for arm in trained:
                comparison.choose(arm, trained_budgets, list_of_seeds[:1])
            slowest, first = 0.0, units[distributed.rank() :][:1]

            def run_pair(unit: tuple[Budget, int]) -> list[dict[str, Any]]:
                nonlocal slowest
                started = time.monotonic()
                if deadline is not None and started + slowest > deadline and [unit] != first:
                    return []
                # Both arms of a pair, or neither: differences stay paired.
                records = [comparison.run_arm(arm, *unit, keep_model=unit[1] == first_seed) for arm in trained]
                slowest = max(slowest, time.monotonic() - started)
                return records

            pairs = distributed.spread(units, run_pair)
            for record in chain.from_iterable(pairs):
                comparison.add(record)
            if skipped := pairs.count([]):
                cut.append(f"time was up: {skipped} of {len(units)} pairs of fine-tuning and baseline were not run")
                narrator.warn(cut[-1])
            room.tick = None

    order = {arm: i for i, arm in enumerate(ARMS)}
    comparison.rows.sort(key=lambda r: (order[r["arm"]], budgets.index(r["labels_per_class"]), r["seed"]))
    shipped = _ship_classifier(room, comparison, budgets)
    # The baseline starts from random weights: what public weights brought is not credited to the pictures.
    init = config.encoder.init
    credited = "training on labels" if info.get("labels_trained_on") else "self-supervision"
    subject = credited if init is None else f"{credited} on top of the initial weights ({init})"
    results = {
        "rows": comparison.rows,
        "protocol": protocol(room, comparison, budgets, list_of_seeds, length, names, seconds=time.monotonic() - began),
        "verdict": verdict(comparison, budgets, subject=subject),
        "classes": list(data.split.classes),
        "classifier": shipped,
        "cut": cut,
        "excluded": data.excluded,
    }
    # Trials first, whichever process ran them: the last curve of an arm, budget and seed is the one that counts.
    curves = [row for part in (room.trial_curves, room.curves) for row in chain(*distributed.exchange(part))]
    if distributed.is_main():
        _write_pictures(room, comparison, shipped)
        write_json(run.results, results)
        write_text(run.evaluation / "curves.jsonl", "".join(json.dumps(row) + "\n" for row in curves))
        write_report(run.path)
    distributed.barrier()
    return results


def requested(
    config: Recipe,
    *,
    arms: Sequence[str] | None,
    labels_per_class: str | Iterable[Budget] | None,
    seeds: int | None,
) -> tuple[Sequence[str] | None, str | Iterable[Budget], int]:
    """What is asked for, and else what the configuration says."""
    e = config.evaluate
    return (
        arms if arms is not None else e.arms,
        labels_per_class if labels_per_class is not None else e.labels_per_class,
        seeds if seeds is not None else e.seeds,
    )


def check_request(
    *, arms: Sequence[str] | None, labels_per_class: str | Iterable[Budget], seeds: int
) -> tuple[tuple[str, ...], tuple[Budget, ...]]:
    """The arms and budgets asked for. Raises `UsageError`; called before anything costly."""
    wanted, budgets = check_arms(arms if arms is not None else DEFAULT_ARMS), parse_budgets(labels_per_class)
    if seeds < 1 or not wanted or not budgets:
        raise UsageError(f"evaluate needs an arm, a label budget and a seed, got {arms}, {labels_per_class!r}, {seeds}")
    return wanted, budgets


def _ship_classifier(room: Arms, comparison: Comparison, budgets: Sequence[Budget]) -> dict[str, Any] | None:
    """Write the best model of the pretrained arms, and give its metrics; None where a student keeps its own.

    Best on validation; without validation, that of the verdict's arm at the largest budget it reached.
    """
    if _is_distilled(room.run):
        room.narrator.say(f"{room.run.classifier} stays as distillation trained it: an evaluation writes none over it")
        if distributed.is_main():
            (room.run.evaluation / "predictions.csv").unlink(missing_ok=True)
        return None
    found = [key for key in comparison.shippable if key[0] in PRETRAINED_ARMS]
    best = max(found, key=lambda key: comparison.val_scores.get(key, 0.0), default=None)
    if not len(room.data.val):
        primary = primary_arm(comparison, budgets)
        best = max((key for key in found if key[0] == primary), key=lambda key: budgets.index(key[1]), default=None)
    if best is None:  # one of an earlier evaluation would not fit these results
        if distributed.is_main():
            if room.run.classifier.exists():
                room.narrator.warn(
                    "these arms fit no classifier: that of an earlier evaluation is removed with its results"
                )
            shutil.rmtree(room.run.classifier, ignore_errors=True)
            (room.run.evaluation / "predictions.csv").unlink(missing_ok=True)
        return None
    key = best
    arm, budget, seed = key
    accuracy = comparison.val_scores.get(key)
    validated = {"val_accuracy": None if accuracy is None else round(accuracy, 4)}
    model = comparison.models.get(key)
    if model is not None:  # in the one process that fitted it
        save_classifier(
            room.run.classifier,
            probe=model if isinstance(model, LinearProbe) else None,
            classifier=model if isinstance(model, Classifier) else None,
            encoder=room.run.encoder,
            head=room.run.head if isinstance(model, Classifier) and isinstance(model.encoder, WithHead) else None,
            classes=room.data.split.classes,
            facts={"arm": arm, "labels_per_class": budget, "seed": seed, **validated},
        )
    distributed.barrier()
    predicted = comparison.predictions[key]
    truth, classes = room.data.split.test, room.data.split.classes
    return {
        "arm": arm,
        "labels_per_class": budget,
        "seed": seed,
        **validated,
        **{n: round(v, 4) for n, v in classification_metrics(truth, predicted, classes=len(classes)).items()},
        "per_class": per_class(truth, predicted, classes=list(classes)),
        "confusion": confusion(truth, predicted, classes=len(classes)).tolist(),
    }


def _is_distilled(run: Run) -> bool:
    """Whether the run's classifier is a student; one that cannot be read is not worth keeping."""
    with suppress(UsageError):
        return bool(read_json(run.classifier / "config.json").get("arm") == "distillation")
    return False


def _write_pictures(room: Arms, comparison: Comparison, classifier: dict[str, Any] | None) -> None:
    """Predictions and the gallery that the report shows."""
    embedded: Embeddings = room.features["test"]
    predicted = None
    if classifier is not None:
        predicted = comparison.predictions[classifier["arm"], classifier["labels_per_class"], classifier["seed"]]
        names = room.data.split.classes
        write_rows(
            room.run.evaluation / "predictions.csv",
            (
                {"id": i, "label": names[t], "predicted": names[p]}
                for i, t, p in zip(room.data.test.ids, room.data.split.test, predicted, strict=True)
            ),
            columns=["id", "label", "predicted"],
        )
    content, sprite = build_gallery(room.data.test.values, embedded, predicted, seed=0)
    write_json(room.run.evaluation / "gallery.json", content)
    sprite.save(room.run.evaluation / "thumbnails.png")


def _train_all(data: Labelled, config: Recipe, *, asked: Sequence[str] | None, narrator: Narrator) -> bool:
    """Whether fine-tuning and baseline run on all labels."""
    limit = config.evaluate.all_limit
    if len(data.train) <= limit or (asked is not None and set(asked) & set(TRAINED_ARMS)):
        return True
    narrator.say(
        f"all labels: arms on cached features only, as there are more than {limit:,}; name finetune and supervised in "
        "--arms to train them too"
    )
    return False
