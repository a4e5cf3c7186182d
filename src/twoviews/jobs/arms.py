"""The arms of a comparison on a run: features computed once, encoders built, training fitted to the time there is."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from twoviews import distributed
from twoviews.compute import Compute
from twoviews.config import Evaluate, Recipe
from twoviews.data.corpus import Corpus
from twoviews.encoders import build_encoder, load_encoder, wrap_encoder
from twoviews.evaluation.compare import Arm, Budget, Fitted, reference_budget
from twoviews.evaluation.features import fingerprint_module, frozen
from twoviews.evaluation.finetune import Classifier, FitPlan, class_scores, estimate_statistics, fit_classifier
from twoviews.evaluation.knn import knn_predict
from twoviews.evaluation.probe import fit_probe
from twoviews.jobs.embed import Preprocessing, embed_corpus
from twoviews.jobs.labelled import Labelled
from twoviews.jobs.online import batches, vectors_of
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.views.policies import POLICIES, Views

PIXEL_SIDE = 32
"""Raw-pixel arms see the clean view at this side or less: more adds cost, not accuracy."""

MIN_UPDATES = 60
"""Fewer updates than this are no training: seeds are cut instead."""

MIN_SEEDS = 3


class Arms:
    """Builds the arms of a comparison: what they stand on is loaded once, here."""

    def __init__(
        self,
        run: Run,
        config: Recipe,
        info: dict[str, Any],
        *,
        compute: Compute,
        data: Labelled,
        module: Callable[[], nn.Module] | None,
        narrator: Narrator,
    ) -> None:
        self.run, self.info, self.compute, self.data, self.narrator = run, info, compute, data, narrator
        self.module = module
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
        self.encoder = compute.place(self.trained_encoder()).eval()
        self.encoder_hash = fingerprint_module(self.encoder)
        with frozen(self.encoder):
            self.features = {
                name: embed_corpus(run, self.encoder, corpus, preprocessing=self.preprocessing, compute=compute)
                for name, corpus in self._parts().items()
            }

    def _parts(self) -> dict[str, Corpus]:
        return {"train": self.data.train, "val": self.data.val, "test": self.data.test}

    def trained_encoder(self) -> nn.Module:
        """A copy of the run's encoder."""
        return load_encoder(self.run.encoder, module=self.module() if self.module is not None else None)

    def fresh_encoder(self, seed: int) -> nn.Module:
        """The run's architecture with random weights."""
        a = self.info["encoder"]
        torch.manual_seed(seed)
        if self.module is not None:
            return wrap_encoder(self.module(), image_size=a["image_size"], channels=a["channels"])
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
            accuracy = None
            if len(scores):
                accuracy = round(float((scores.argmax(1) == self.data.split.val).mean()), 5)
            what = {"arm": name, "labels_per_class": budget, "seed": seed, "lr": setting}
            self.curves += [
                {**what, "update": u, "train_loss": round(x, 5), "val_accuracy": accuracy if u == updates else None}
                for u, x in curve
            ]
            if self.tick is not None:
                self.tick(distributed.size())
            return Fitted(scores, lambda: self._scores(classifier, self.data.test), classifier)

        return Arm(name, fit, settings=self.options.lrs, fixed=self.options.fixed_lr)

    def _start(
        self, name: str, indices: np.ndarray, *, lr: float, seed: int, updates: int
    ) -> tuple[Classifier, FitPlan]:
        classes = len(self.data.split.classes)
        finetune = name == "finetune"
        classifier = Classifier(self.trained_encoder() if finetune else self.fresh_encoder(seed), classes=classes)
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
        some = self.data.train.select(np.arange(min(1000, len(self.data.train))))
        self._scores(classifier, some)
        per_sample = (time.monotonic() - middle) / len(some)
        # Units go to the processes in turn; what is decided here must be decided alike.
        per_update, per_sample = (distributed.agreed(t / distributed.size()) for t in (per_update, per_sample))
        time_left = distributed.agreed(deadline - time.monotonic())
        narrator = self.narrator
        trials = (len(self.options.lrs) if reference_budget(budgets) is not None else 0) * len(names)
        cut = []
        for kept in range(len(seeds), 0, -1):
            pairs = sum(len(seeds_of(b, seeds[:kept])) for b in budgets)
            samples = (trials + pairs * len(names)) * (len(self.data.val) + 512) + pairs * len(names) * len(
                self.data.test
            )
            left = 0.92 * time_left - samples * per_sample
            affordable = int(left / ((trials + pairs * len(names)) * per_update))
            if affordable >= updates or kept <= MIN_SEEDS or affordable >= updates // 2:
                break
        if kept < len(seeds):
            cut.append(f"{kept} of {len(seeds)} seeds for the trained arms, to keep to the time asked for")
        affordable = max(affordable, min(MIN_UPDATES, updates))
        if affordable < updates:
            cut.append(
                f"{affordable} of at most {updates} updates for fine-tuning and baseline alike, to keep to the time"
            )
        narrator.say(
            f"fine-tuning and baseline: {min(affordable, updates)} updates, {kept} seeds; {per_update:.2f} s each; "
            f"measured in {time.monotonic() - started:.0f} s"
        )
        return min(affordable, updates), seeds[:kept], cut

    def _fit_quickly(self, classifier: Classifier, plan: FitPlan, indices: np.ndarray) -> None:
        fit_classifier(
            classifier,
            self.data.train,
            indices,
            plan=plan,
            views=self.augmented,
            clean=self.clean,
            compute=self.compute,
        )


def seeds_of(budget: Budget, seeds: Sequence[int]) -> Sequence[int]:
    """All labels are one subset, so one seed."""
    return seeds[:1] if budget == "all" else seeds
