"""From a finished run and labelled data to rows, a verdict and a classifier."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from twoviews.compute import Compute, choose_compute
from twoviews.config import Evaluate, Recipe, make_recipe
from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.source import Spec
from twoviews.encoders import build_encoder, load_encoder
from twoviews.errors import DataError
from twoviews.evaluation.compare import (
    ARMS,
    FIXED_BELOW,
    TRAINED_ARMS,
    Arm,
    Budget,
    Comparison,
    Fitted,
    Split,
    check_arms,
    check_budgets,
    parse_budgets,
    reference_budget,
    verdict,
)
from twoviews.evaluation.features import Embeddings, fingerprint_module, frozen
from twoviews.evaluation.finetune import Classifier, FitPlan, class_scores, estimate_statistics, fit_classifier
from twoviews.evaluation.gallery import build_gallery
from twoviews.evaluation.knn import knn_predict
from twoviews.evaluation.metrics import confusion, per_class
from twoviews.evaluation.probe import LinearProbe, fit_probe
from twoviews.evaluation.subsets import split_validation
from twoviews.jobs.classifier import save_classifier
from twoviews.jobs.embed import Preprocessing, embed_corpus
from twoviews.jobs.online import batches, vectors_of
from twoviews.narrate import Narrator
from twoviews.run import Run, provenance, read_json, write_json, write_rows, write_text
from twoviews.views.policies import POLICIES, Views

PIXEL_SIDE = 32
"""Raw-pixel arms see the clean view at this side or less: more adds cost, not accuracy."""

MIN_UPDATES = 60
"""Fewer updates than this are no training: seeds are cut instead."""

MIN_SEEDS = 3


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
    download: bool = False,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Compare what the encoder gives with what the labels give without it; the content of `evaluation/results.json`.

    `train`, `val`, `test`: labelled data. Without `val`, a stratified fifth of train (at most 5,000) is held out for
    choosing settings. `labels_per_class`: budgets, e.g. "1,5,10,all". `arms`: of `ARMS`; naming `finetune` or
    `supervised` also runs them on more than `evaluate.all_limit` labels. `minutes`: of the whole call; fewer updates, then
    fewer seeds are used to fit, the same for fine-tuning and the baseline, and what was cut is in the result.

    Raises `UsageError` for a run that is not finished, unknown arms and budgets; `DataError` for labels that do not
    suffice.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    narrator = narrator or Narrator()
    run = run if isinstance(run, Run) else Run(run)
    info = run.require_finished()
    config = make_recipe(run.settings(), origin=str(run.config))
    wanted = check_arms(arms if arms is not None else ARMS)
    budgets = parse_budgets(labels_per_class)
    compute = choose_compute(
        device=config.train.device,
        precision=info["precision"],
        threads=config.train.threads,
        narrator=narrator,
    )
    data = _load(config, info, train=train, val=val, test=test, download=download, narrator=narrator)
    check_budgets(data.split, budgets)
    began = time.monotonic()

    comparison = Comparison(data.split)
    room = _Room(run, config, info, compute, data, narrator)
    all_budgets = list(budgets)
    list_of_seeds = list(range(seeds))
    last = budgets[-1]

    # Arms on cached features: cheap, so all of them, at every budget.
    cached = [arm for arm in room.feature_arms(wanted)]
    with narrator.track(sum(len(_seeds_of(b, list_of_seeds)) for b in budgets) * len(cached), "features") as tick:
        for arm in cached:
            comparison.choose(arm, all_budgets, list_of_seeds)
            for budget in budgets:
                for seed in _seeds_of(budget, list_of_seeds):
                    comparison.run_arm(arm, budget, seed, keep_model=budget == last and seed == 0)
                    tick()

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
        units = [(b, s) for s in kept for b in trained_budgets if s in _seeds_of(b, kept)]
        trials = sum(len(arm.settings) for arm in trained) if reference_budget(trained_budgets) else 0
        with narrator.track(len(units) * len(trained) + trials, "fine-tuning and baseline") as tick:
            room.tick = tick
            for arm in trained:
                comparison.choose(arm, trained_budgets, list_of_seeds[:1])
            slowest = 0.0
            for number, (budget, seed) in enumerate(units):
                started = time.monotonic()
                if deadline is not None and started + slowest > deadline and number:
                    skipped = len(units) - number
                    cut.append(f"time was up: {skipped} of {len(units)} pairs of fine-tuning and baseline were not run")
                    narrator.warn(cut[-1])
                    break
                for arm in trained:  # both arms of a pair, or neither: differences stay paired
                    comparison.run_arm(arm, budget, seed, keep_model=seed == 0)
                slowest = max(slowest, time.monotonic() - started)
            room.tick = None

    order = {arm: i for i, arm in enumerate(ARMS)}
    comparison.rows.sort(key=lambda r: (order[r["arm"]], budgets.index(r["labels_per_class"]), r["seed"]))
    results = {
        "rows": comparison.rows,
        "protocol": room.protocol(comparison, budgets, list_of_seeds, updates, names, seconds=time.monotonic() - began),
        "verdict": verdict(comparison, budgets),
        "classes": list(data.split.classes),
        "classifier": room.ship_classifier(comparison, budgets),
        "cut": cut,
        "excluded": data.excluded,
    }
    room.write_pictures(comparison, results["classifier"])
    write_json(run.results, results)
    write_text(run.evaluation / "curves.jsonl", "".join(json.dumps(row) + "\n" for row in room.curves))
    return results


@dataclass(frozen=True)
class _Data:
    """The three labelled parts, with one list of classes."""

    train: Corpus
    val: Corpus
    test: Corpus
    split: Split
    val_origin: str
    excluded: list[str]


def _load(
    config: Recipe,
    info: dict[str, Any],
    *,
    train: Spec,
    val: Spec | None,
    test: Spec,
    download: bool,
    narrator: Narrator,
) -> _Data:
    parts: dict[str, Corpus] = {}
    excluded = []
    for name, spec in (("train", train), ("val", val), ("test", test)):
        if spec is None:
            continue
        corpus = load_corpus(
            spec,
            cache_side=config.data.cache_side,
            channels=info["data"]["channels"],
            download=download,
            narrator=narrator,
        )
        labelled = np.flatnonzero(corpus.labels >= 0)
        if not len(labelled):
            raise DataError(f"--{name} {corpus.spec} has no labels: give class folders or a manifest with a label column")
        if len(labelled) < len(corpus):
            excluded.append(f"{len(corpus) - len(labelled)} items of {name} without a label")
        if corpus.rejected:
            excluded.append(f"{len(corpus.rejected)} unreadable items of {name}")
        parts[name] = corpus.select(labelled)
    classes = parts["train"].classes
    for name in ("val", "test"):
        if name in parts:
            unknown = sorted(set(parts[name].classes) - set(classes))
            if unknown:
                raise DataError(
                    f"--{name} has classes that --train lacks: {', '.join(unknown[:5])}; its classes: {', '.join(classes[:10])}"
                )
            parts[name] = parts[name].relabel(classes)
    origin = "given by --val"
    if "val" not in parts:
        keep, held_out = split_validation(parts["train"].labels, seed=0)
        origin = f"a stratified fifth of train, at most 5,000, held out before any subset is drawn: {len(held_out)} labels"
        parts["val"] = parts["train"].select(held_out)
        parts["train"] = parts["train"].select(keep)
    split = Split(parts["train"].labels, parts["val"].labels, parts["test"].labels, classes)
    narrator.say(
        f"labelled: train {len(split.train):,}, validation {len(split.val):,} ({origin}), test {len(split.test):,}; "
        f"{len(classes)} classes"
    )
    return _Data(parts["train"], parts["val"], parts["test"], split, origin, excluded)


class _Room:
    """Everything the arms stand on: features, views, encoders."""

    def __init__(
        self, run: Run, config: Recipe, info: dict[str, Any], compute: Compute, data: _Data, narrator: Narrator
    ) -> None:
        self.run, self.info, self.compute, self.data, self.narrator = run, info, compute, data, narrator
        self.options: Evaluate = config.evaluate
        self.preprocessing = Preprocessing.of(run.encoder)
        self.clean = self.preprocessing.views()
        self.augmented = Views(
            POLICIES[config.evaluate.policy],
            image_size=self.clean.image_size,
            mean=self.clean.mean,
            std=self.clean.std,
        )
        self.curves: list[dict[str, Any]] = []
        self.tick: Callable[..., None] | None = None
        self.seconds: dict[str, float] = {}
        self.encoder = compute.place(load_encoder(run.encoder)).eval()
        self.encoder_hash = fingerprint_module(self.encoder)
        with frozen(self.encoder):
            self.features = {
                name: embed_corpus(run, self.encoder, corpus, preprocessing=self.preprocessing, compute=compute)
                for name, corpus in self._parts().items()
            }

    def _parts(self) -> dict[str, Corpus]:
        return {"train": self.data.train, "val": self.data.val, "test": self.data.test}

    def fresh_encoder(self, seed: int) -> nn.Module:
        """The run's architecture with random weights."""
        a = self.info["encoder"]
        torch.manual_seed(seed)
        name = a["name"] if ":" in a["name"] or a["source"] == "builtin" else f"{a['source']}:{a['name']}"
        return build_encoder(name, image_size=a["image_size"], channels=a["channels"], stem=a["stem"])

    def feature_arms(self, wanted: Sequence[str]) -> list[Arm]:
        """The arms that need no training of an encoder, in order; their features are computed here, once."""
        vectors = {name: embedded.vectors for name, embedded in self.features.items()}
        arms = []
        if "knn" in wanted:
            arms.append(self._knn_arm("knn", vectors))
        if "linear" in wanted:
            arms.append(self._linear_arm("linear", vectors))
        if "random-linear" in wanted:
            encoder = self.compute.place(self.fresh_encoder(0))
            estimate_statistics(encoder, self.data.train, clean=self.clean, compute=self.compute)
            with frozen(encoder):
                random = {n: vectors_of(encoder, c, self.clean, compute=self.compute) for n, c in self._parts().items()}
            arms.append(self._linear_arm("random-linear", random))
        if "pixels-linear" in wanted or "pixels-knn" in wanted:
            small = Views(
                POLICIES["none"],
                image_size=min(PIXEL_SIDE, self.clean.image_size),
                mean=self.clean.mean,
                std=self.clean.std,
            )
            exact = Compute(self.compute.device, bf16=False, threads=self.compute.threads)
            pixels = {n: vectors_of(nn.Flatten(), c, small, compute=exact) for n, c in self._parts().items()}
            if "pixels-linear" in wanted:
                arms.append(self._linear_arm("pixels-linear", pixels))
            if "pixels-knn" in wanted:
                arms.append(self._knn_arm("pixels-knn", pixels))
        return arms

    def _knn_arm(self, name: str, vectors: dict[str, np.ndarray]) -> Arm:
        def fit(indices: np.ndarray, setting: Any, seed: int, budget: Budget) -> Fitted:
            def scores(part: str) -> np.ndarray:
                return knn_predict(
                    vectors["train"][indices],
                    self.data.split.train[indices],
                    vectors[part],
                    classes=len(self.data.split.classes),
                    k=self.options.knn_k,
                    temperature=self.options.knn_temperature,
                )

            return Fitted(scores("val") if len(vectors["val"]) else np.empty((0, 1)), lambda: scores("test"))

        return Arm(name, fit)

    def _linear_arm(self, name: str, vectors: dict[str, np.ndarray]) -> Arm:
        def fit(indices: np.ndarray, setting: Any, seed: int, budget: Budget) -> Fitted:
            probe = fit_probe(
                vectors["train"][indices],
                self.data.split.train[indices],
                classes=len(self.data.split.classes),
                strength=setting / len(indices),
            )
            return Fitted(probe.scores(vectors["val"]), lambda: probe.scores(vectors["test"]), probe)

        return Arm(name, fit, settings=self.options.penalties, fixed=self.options.fixed_penalty)

    def trained_arm(self, name: str, updates: int) -> Arm:
        """Fine-tuning or the supervised baseline: one function, two starts."""

        def fit(indices: np.ndarray, setting: Any, seed: int, budget: Budget) -> Fitted:
            classifier, plan = self._start(name, indices, lr=setting, seed=seed, updates=updates)
            curve = fit_classifier(
                classifier,
                self.data.train,
                indices,
                plan=plan,
                views=self.augmented,
                clean=self.clean,
                compute=self.compute,
            )
            scores = self._scores(classifier, self.data.val)
            self.curves += [
                {"arm": name, "labels_per_class": budget, "seed": seed, "lr": setting, "update": u, "train_loss": round(x, 5),
                 "val_accuracy": round(float((scores.argmax(1) == self.data.split.val).mean()), 5)
                 if u == updates and len(scores) else None}
                for u, x in curve
            ]  # fmt: skip
            if self.tick is not None:
                self.tick()
            return Fitted(scores, lambda: self._scores(classifier, self.data.test), classifier)

        return Arm(name, fit, settings=self.options.lrs, fixed=self.options.fixed_lr)

    def _start(
        self, name: str, indices: np.ndarray, *, lr: float, seed: int, updates: int
    ) -> tuple[Classifier, FitPlan]:
        classes = len(self.data.split.classes)
        finetune = name == "finetune"
        classifier = Classifier(load_encoder(self.run.encoder) if finetune else self.fresh_encoder(seed), classes=classes)
        if finetune:
            labels = self.data.split.train[indices]
            strength = self.options.fixed_penalty / len(indices)
            classifier.start_from(
                fit_probe(self.features["train"].vectors[indices], labels, classes=classes, strength=strength)
            )
        plan = FitPlan(
            updates=updates,
            batch_size=self.options.batch_size,
            lr=lr,
            encoder_ratio=self.options.encoder_lr_ratio if finetune else 1.0,
            weight_decay=self.options.weight_decay,
            seed=seed,
        )
        return classifier, plan

    def _scores(self, classifier: nn.Module, corpus: Corpus) -> np.ndarray:
        if not len(corpus):
            return np.empty((0, len(self.data.split.classes)), np.float32)
        return class_scores(classifier, batches(corpus, self.clean, compute=self.compute), compute=self.compute)

    def fit_to_time(
        self, names: Sequence[str], budgets: Sequence[Budget], seeds: list[int], deadline: float | None
    ) -> tuple[int, list[int], list[str]]:
        """Updates and seeds that fit into the time left, and what that cut, in words."""
        updates = self.options.updates
        if deadline is None:
            return updates, seeds, []
        a_few = self.data.split.subset(budgets[0], 0)
        started = time.monotonic()
        classifier, plan = self._start(names[0], a_few, lr=1e-3, seed=0, updates=2)
        self._fit_quickly(classifier, plan, a_few)  # the first updates choose kernels
        middle = time.monotonic()
        classifier, plan = self._start(names[0], a_few, lr=1e-3, seed=0, updates=12)
        self._fit_quickly(classifier, plan, a_few)
        per_update = (time.monotonic() - middle) / 12
        middle = time.monotonic()
        some = self.data.test.select(np.arange(min(1000, len(self.data.test))))
        self._scores(classifier, some)
        per_sample = (time.monotonic() - middle) / len(some)
        narrator = self.narrator
        trials = (len(self.options.lrs) if reference_budget(budgets) is not None else 0) * len(names)
        cut = []
        for kept in range(len(seeds), 0, -1):
            pairs = sum(len(_seeds_of(b, seeds[:kept])) for b in budgets)
            samples = (trials + pairs * len(names)) * (len(self.data.val) + 512) + pairs * len(names) * len(self.data.test)
            left = 0.92 * (deadline - time.monotonic()) - samples * per_sample
            affordable = int(left / ((trials + pairs * len(names)) * per_update))
            if affordable >= updates or kept <= MIN_SEEDS or affordable >= updates // 2:
                break
        if kept < len(seeds):
            cut.append(f"{kept} of {len(seeds)} seeds for the trained arms, to keep to the time asked for")
        if affordable < updates:
            affordable = max(affordable, MIN_UPDATES)
            cut.append(
                f"{affordable} of at most {updates} updates for fine-tuning and baseline alike, to keep to the time asked for"
            )
        narrator.say(
            f"fine-tuning and baseline: {min(affordable, updates)} updates, {kept} seeds; {per_update:.2f} s an update; "
            f"measured in {time.monotonic() - started:.0f} s"
        )
        return min(affordable, updates), seeds[:kept], cut

    def _fit_quickly(self, classifier: Classifier, plan: FitPlan, indices: np.ndarray) -> None:
        fit_classifier(
            classifier, self.data.train, indices, plan=plan, views=self.augmented, clean=self.clean, compute=self.compute
        )

    def protocol(
        self,
        comparison: Comparison,
        budgets: Sequence[Budget],
        seeds: Sequence[int],
        updates: int,
        trained: Sequence[str],
        *,
        seconds: float,
    ) -> dict[str, Any]:
        """How the numbers came about."""
        o = self.options
        return {
            "train": self.data.train.spec,
            "test": self.data.test.spec,
            "validation": self.data.val_origin,
            "n_train_available": len(self.data.train),
            "n_val": len(self.data.val),
            "n_test": len(self.data.test),
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
            "1 in the baseline; fine-tuning starts from the linear probe" if trained else "not run",
            "batchnorm": "statistics re-estimated on 512 clean training samples without labels, in fine-tuning and baseline "
            "alike",
            "floors": f"random-linear: the same network with random weights; pixels: the clean view at "
            f"{min(PIXEL_SIDE, self.clean.image_size)} px",
            "selection": f"one setting an arm, on validation at the reference budget; below {FIXED_BELOW} labels a class "
            "fixed beforehand (n_val = 0)",
            "settings": comparison.chosen,
            "test_reads": "once, after all settings were chosen",
            "metrics": "macro averages over classes; scikit-learn's definitions",
            "encoder_hash": self.encoder_hash,
            "frozen": "a hash over weights and buffers was equal before and after the frozen arms",
            "data_fingerprints": {n: c.fingerprint for n, c in self._parts().items()},
            "seconds": round(seconds, 1),
            "command": provenance()["command"],
        }

    def ship_classifier(self, comparison: Comparison, budgets: Sequence[Budget]) -> dict[str, Any] | None:
        """Write the validation-best model of the largest budgets that linear and fine-tune reached; its metrics."""
        best: tuple[float, tuple[str, Budget, int]] | None = None
        for key in comparison.models:
            if key[0] in ("linear", "finetune") and comparison.models[key] is not None:
                accuracy = comparison.val_accuracy.get(key, 0.0)
                if best is None or accuracy > best[0]:
                    best = (accuracy, key)
        if best is None:
            return None
        accuracy, key = best
        arm, budget, seed = key
        model = comparison.models[key]
        save_classifier(
            self.run.classifier,
            probe=model if isinstance(model, LinearProbe) else None,
            classifier=model if isinstance(model, Classifier) else None,
            encoder=self.run.encoder,
            classes=self.data.split.classes,
            facts={"arm": arm, "labels_per_class": budget, "seed": seed, "val_accuracy": round(accuracy, 4)},
        )
        predicted = comparison.predictions[key]
        truth, classes = self.data.split.test, self.data.split.classes
        return {
            "arm": arm,
            "labels_per_class": budget,
            "seed": seed,
            "val_accuracy": round(accuracy, 4),
            "accuracy": round(float((predicted == truth).mean()), 4),
            "per_class": per_class(truth, predicted, classes=list(classes)),
            "confusion": confusion(truth, predicted, classes=len(classes)).tolist(),
        }

    def write_pictures(self, comparison: Comparison, classifier: dict[str, Any] | None) -> None:
        """Predictions and the gallery that the report shows."""
        embedded: Embeddings = self.features["test"]
        predicted = None
        if classifier is not None:
            predicted = comparison.predictions[classifier["arm"], classifier["labels_per_class"], classifier["seed"]]
            names = self.data.split.classes
            write_rows(
                self.run.evaluation / "predictions.csv",
                (
                    {"id": i, "label": names[t], "predicted": names[p]}
                    for i, t, p in zip(self.data.test.ids, self.data.split.test, predicted, strict=True)
                ),
                columns=["id", "label", "predicted"],
            )
        content, sprite = build_gallery(self.data.test.values, embedded, predicted, seed=0)
        write_json(self.run.evaluation / "gallery.json", content)
        sprite.save(self.run.evaluation / "thumbnails.png")


def _seeds_of(budget: Budget, seeds: Sequence[int]) -> Sequence[int]:
    """All labels are one subset, so one seed."""
    return seeds[:1] if budget == "all" else seeds


def _train_all(data: _Data, config: Recipe, *, asked: Sequence[str] | None, narrator: Narrator) -> bool:
    """Whether fine-tuning and baseline run on all labels."""
    limit = config.evaluate.all_limit
    if len(data.train) <= limit or (asked is not None and set(asked) & set(TRAINED_ARMS)):
        return True
    narrator.say(
        f"all labels: arms on cached features only, as there are more than {limit:,}; name finetune and supervised in "
        "--arms to train them too"
    )
    return False


def load_results(run: Run) -> dict[str, Any] | None:
    """`evaluation/results.json`, where there is one."""
    if not run.results.is_file():
        return None
    loaded: dict[str, Any] = read_json(run.results)
    return loaded
