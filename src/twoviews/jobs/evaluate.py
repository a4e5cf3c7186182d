"""From a finished run and labelled data to rows, a verdict and a classifier."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
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
    FIXED_BELOW,
    TRAINED_ARMS,
    Arm,
    Budget,
    Comparison,
    check_arms,
    check_budgets,
    parse_budgets,
    reference_budget,
    verdict,
)
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.finetune import Classifier
from twoviews.evaluation.gallery import build_gallery
from twoviews.evaluation.metrics import confusion, per_class
from twoviews.evaluation.probe import LinearProbe
from twoviews.jobs.arms import PIXEL_SIDE, Arms, seeds_of
from twoviews.jobs.classifier import save_classifier
from twoviews.jobs.labelled import Labelled, load_labelled
from twoviews.narrate import Narrator
from twoviews.report import write_report
from twoviews.run import Run, provenance, write_json, write_rows, write_text

FINISHING_SECONDS = 20
"""Of a `minutes` budget, kept for pictures and page."""


def evaluate(
    run: Run | str | Path,
    *,
    train: Spec,
    test: Spec,
    val: Spec | None = None,
    arms: Sequence[str] | None = None,
    labels_per_class: str | Iterable[Budget] = "1,5,10,all",
    seeds: int = 5,
    minutes: float | None = None,
    encoder: Callable[[], nn.Module] | None = None,
    labels: str | Path | None = None,
    exclude: str | Path | None = None,
    download: bool = False,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Compare what the encoder gives with what the labels give without it; the content of `evaluation/results.json`.

    Also writes the classifier and the report.

    `train`, `val`, `test`: labelled data. Without `val`, a stratified fifth of train (at most 5,000) is held out for
    choosing settings. `labels_per_class`: budgets, e.g. "1,5,10,all". `arms`: of `ARMS`; naming `finetune` or
    `supervised` also runs them on more than `evaluate.all_limit` labels. `minutes`: of the whole call; fewer updates,
    then fewer seeds are used to fit, the same for fine-tuning and the baseline, and what was cut is in the result.
    `encoder`: for a run that trained your own module, the function that makes it with random weights. `labels`: a
    manifest joined to all data by id. `exclude`: a CSV file with ids of train to leave out, as `check` writes it; what
    lies in test too leaves train by itself.

    Raises `UsageError` for a run that is not finished, unknown arms and budgets; `DataError` for labels that do not
    suffice.
    """
    if minutes is not None and not minutes > 0:
        raise UsageError(f"evaluate needs a positive time, got {minutes} minutes")
    wanted, budgets = check_request(arms=arms, labels_per_class=labels_per_class, seeds=seeds)
    distributed.join()
    deadline = None if minutes is None else time.monotonic() + 60 * minutes - FINISHING_SECONDS
    narrator = narrator or Narrator()
    run = run if isinstance(run, Run) else Run(run)
    info = run.require_finished()
    config = make_recipe(run.settings(), origin=str(run.config))
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
        download=download,
        narrator=narrator,
    )
    check_budgets(data.split, budgets)
    began = time.monotonic()

    comparison = Comparison(data.split)
    room = Arms(run, config, info, compute=compute, data=data, module=encoder, narrator=narrator)
    all_budgets = list(budgets)
    list_of_seeds = list(range(seeds))
    last = budgets[-1]

    # Arms on cached features: cheap, so all of them, at every budget.
    cached = room.feature_arms(wanted)
    with narrator.track(sum(len(seeds_of(b, list_of_seeds)) for b in budgets) * len(cached), "features") as tick:
        for arm in cached:
            comparison.choose(arm, all_budgets, list_of_seeds)

            def run_cached(unit: tuple[Budget, int], arm: Arm = arm) -> dict[str, Any]:
                tick(distributed.size())
                return comparison.run_arm(arm, *unit, keep_model=unit == (last, 0))

            for record in distributed.spread([(b, s) for b in budgets for s in seeds_of(b, list_of_seeds)], run_cached):
                comparison.add(record)

    # Trained arms: the cost of the comparison, planned to the time that is left.
    names = [arm for arm in TRAINED_ARMS if arm in wanted]
    trained_budgets = [b for b in budgets if b != "all" or _train_all(data, config, asked=arms, narrator=narrator)]
    cut: list[str] = []
    updates = config.evaluate.updates
    if names and trained_budgets:
        updates, kept, cut = room.fit_to_time(names, trained_budgets, list_of_seeds, deadline)
        for text in cut:
            narrator.warn(text)
        trained = [room.trained_arm(name, updates) for name in names]
        units = [(b, s) for s in kept for b in trained_budgets if s in seeds_of(b, kept)]
        trials = sum(len(arm.settings) for arm in trained) if reference_budget(trained_budgets) else 0
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
                records = [comparison.run_arm(arm, *unit, keep_model=unit[1] == 0) for arm in trained]
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
    shipped = _ship_classifier(room, comparison)
    # The baseline starts from random weights: what public weights brought is not credited to the pictures.
    init = config.encoder.init
    subject = "self-supervision" if init is None else f"self-supervision on top of the initial weights ({init})"
    results = {
        "rows": comparison.rows,
        "protocol": _protocol(
            room, comparison, budgets, list_of_seeds, updates, names, seconds=time.monotonic() - began
        ),
        "verdict": verdict(comparison, budgets, subject=subject),
        "classes": list(data.split.classes),
        "classifier": shipped,
        "cut": cut,
        "excluded": data.excluded,
    }
    curves = list(chain.from_iterable(distributed.exchange(room.curves)))
    if distributed.is_main():
        _write_pictures(room, comparison, shipped)
        write_json(run.results, results)
        write_text(run.evaluation / "curves.jsonl", "".join(json.dumps(row) + "\n" for row in curves))
        write_report(run.path)
    distributed.barrier()
    return results


def check_request(
    *, arms: Sequence[str] | None, labels_per_class: str | Iterable[Budget], seeds: int
) -> tuple[tuple[str, ...], tuple[Budget, ...]]:
    """The arms and budgets asked for. Raises `UsageError`; called before anything costly."""
    wanted, budgets = check_arms(arms if arms is not None else ARMS), parse_budgets(labels_per_class)
    if seeds < 1 or not wanted or not budgets:
        raise UsageError(f"evaluate needs an arm, a label budget and a seed, got {arms}, {labels_per_class!r}, {seeds}")
    return wanted, budgets


def _protocol(
    room: Arms,
    comparison: Comparison,
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    updates: int,
    trained: Sequence[str],
    *,
    seconds: float,
) -> dict[str, Any]:
    """How the numbers came about."""
    o = room.options
    return {
        "train": room.data.train.spec,
        "test": room.data.test.spec,
        "validation": room.data.val_origin,
        "pool_overlap": room.data.overlap,
        "n_train_available": len(room.data.train),
        "n_val": len(room.data.val),
        "n_test": len(room.data.test),
        "labels_per_class": list(budgets),
        "seeds": len(seeds),
        "subsets": "stratified, seeded, nested over budgets, the same for all arms; one seed at all labels",
        "pretraining": "run once, without labels; only the label subsets and the classifiers are reseeded",
        "features": "h, the encoder's output, of one clean view; never the projection z",
        "knn": f"cosine, {o.knn_k} neighbours or all if fewer, weights exp(similarity / {o.knn_temperature:g})",
        "linear": "multinomial logistic regression by L-BFGS on standardised features; mean loss + strength x squared "
        "weights, intercept free, strength = penalty / labels",
        "trained": f"{' and '.join(trained)}: {updates} updates of {o.batch_size} samples, AdamW, warm-up and cosine, "
        f"views '{o.policy}', last update; the encoder's rate is {o.encoder_lr_ratio:g} of the head's in fine-tuning, "
        "1 in the baseline; fine-tuning starts from the linear probe"
        if trained
        else "not run",
        "batchnorm": "statistics re-estimated on 512 clean training samples without labels, in both trained arms alike",
        "floors": f"random-linear: the same network with random weights; pixels: the clean view at "
        f"{min(PIXEL_SIDE, room.clean.image_size)} px",
        "selection": f"one setting an arm, on validation at the reference budget; below {FIXED_BELOW} labels a class "
        "fixed beforehand (n_val = 0)",
        "settings": comparison.chosen,
        "test_reads": "each arm's once, after its setting was chosen",
        "metrics": "macro averages over classes; scikit-learn's definitions",
        "encoder_hash": room.encoder_hash,
        "frozen": "a hash over weights and buffers was equal before and after the frozen arms",
        "data_fingerprints": {n: c.fingerprint for n, c in room._parts().items()},
        "seconds": round(seconds, 1),
        "command": provenance()["command"],
    }


def _ship_classifier(room: Arms, comparison: Comparison) -> dict[str, Any] | None:
    """Write the validation-best model of the largest budgets that linear and fine-tune reached; its metrics."""
    best: tuple[float, tuple[str, Budget, int]] | None = None
    for key in comparison.shippable:
        if key[0] in ("linear", "finetune"):
            accuracy = comparison.val_accuracy.get(key, 0.0)
            if best is None or accuracy > best[0]:
                best = (accuracy, key)
    if best is None:  # one of an earlier evaluation would not fit these results
        if distributed.is_main():
            if room.run.classifier.exists():
                room.narrator.warn(
                    "these arms fit no classifier: that of an earlier evaluation is removed with its results"
                )
            shutil.rmtree(room.run.classifier, ignore_errors=True)
            (room.run.evaluation / "predictions.csv").unlink(missing_ok=True)
        return None
    accuracy, key = best
    arm, budget, seed = key
    model = comparison.models.get(key)
    if model is not None:  # in the one process that fitted it
        save_classifier(
            room.run.classifier,
            probe=model if isinstance(model, LinearProbe) else None,
            classifier=model if isinstance(model, Classifier) else None,
            encoder=room.run.encoder,
            classes=room.data.split.classes,
            facts={"arm": arm, "labels_per_class": budget, "seed": seed, "val_accuracy": round(accuracy, 4)},
        )
    distributed.barrier()
    predicted = comparison.predictions[key]
    truth, classes = room.data.split.test, room.data.split.classes
    return {
        "arm": arm,
        "labels_per_class": budget,
        "seed": seed,
        "val_accuracy": round(accuracy, 4),
        "accuracy": round(float((predicted == truth).mean()), 4),
        "per_class": per_class(truth, predicted, classes=list(classes)),
        "confusion": confusion(truth, predicted, classes=len(classes)).tolist(),
    }


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
