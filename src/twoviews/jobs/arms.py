"""The arms of a comparison on a run: features computed once, encoders built, training fitted to the time there is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from twoviews import distributed
from twoviews.compute import Compute
from twoviews.config import Evaluate, Recipe
from twoviews.data.corpus import Corpus
from twoviews.encoders import build_encoder, load_encoder, wrap_encoder
from twoviews.evaluation.compare import Arm, Budget, Fitted, selection_budget
from twoviews.evaluation.features import fingerprint_module, frozen
from twoviews.evaluation.finetune import Classifier, FitPlan, class_scores, estimate_statistics, fit_classifier
from twoviews.evaluation.knn import knn_predict
from twoviews.evaluation.probe import LinearProbe, fit_probe
from twoviews.evaluation.softmax import fit_softmax
from twoviews.jobs.embed import Preprocessing, embed_corpus
from twoviews.jobs.head import with_head
from twoviews.jobs.labelled import Labelled
from twoviews.jobs.length import Length, Work, fit_to_time
from twoviews.jobs.online import batches, vectors_of
from twoviews.narrate import Narrator
from twoviews.run import Run
from twoviews.views.policies import POLICIES, Views

PIXEL_SIDE = 32
"""Raw-pixel arms see the clean view at this side or less: more adds cost, not accuracy."""

NO_SCORES = np.empty((0, 1))


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
        self._head_features: np.ndarray | None = None
        self.curves: list[dict[str, Any]] = []
        self.trial_curves: list[dict[str, Any]] = []
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

    def _tuned_encoder(self) -> nn.Module:
        """What fine-tuning begins from: the encoder, or with the first layer of its head on it."""
        encoder = self.trained_encoder()
        return encoder if self.options.finetune_from == "h" else with_head(encoder, self.run.head)

    def _tuned_features(self) -> np.ndarray:
        """(N, D) of the training part, as fine-tuning's linear layer meets them at the start."""
        if self.options.finetune_from == "h":
            return self.features["train"].vectors
        assert self._head_features is not None, "prepared before"
        return self._head_features

    def prepare_finetuning(self) -> None:
        """What all processes compute together, before each goes on with trainings of its own."""
        if self.options.finetune_from == "head" and self.options.head == "probe":
            encoder = self.compute.place(self._tuned_encoder()).eval()
            with frozen(encoder):
                self._head_features = vectors_of(encoder, self.data.train, self.clean, compute=self.compute)

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
        if "linear-adam" in wanted:
            arms.append(self._softmax_arm("linear-adam", vectors))
        if "random-linear" in wanted:
            encoder = self.compute.place(self.fresh_encoder(self.options.first_seed))
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
        def fit(indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            def scores(part: str) -> np.ndarray:
                return knn_predict(
                    vectors["train"][indices],
                    self.data.split.train[indices],
                    vectors[part],
                    classes=len(self.data.split.classes),
                    k=self.options.knn_k,
                    temperature=self.options.knn_temperature,
                )

            return Fitted(scores("val") if len(vectors["val"]) else NO_SCORES, lambda: scores("test"))

        return Arm(name, fit)

    def _linear_arm(self, name: str, vectors: dict[str, np.ndarray]) -> Arm:
        def fit(indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            probe = fit_probe(
                vectors["train"][indices],
                self.data.split.train[indices],
                classes=len(self.data.split.classes),
                strength=setting / len(indices),
            )
            return _fitted(probe, vectors)

        return Arm(name, fit, settings=self.options.penalties, fixed=self.options.fixed_penalty)

    def _softmax_arm(self, name: str, vectors: dict[str, np.ndarray]) -> Arm:
        def fit(indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            layer = fit_softmax(
                vectors["train"][indices],
                self.data.split.train[indices],
                classes=len(self.data.split.classes),
                lr=setting,
                batch_size=self.options.linear_batch,
                epochs=self.options.linear_epochs,
                seed=seed,
                eps=self.options.eps,
            )
            return _fitted(layer, vectors)

        return Arm(name, fit, settings=(self.options.linear_lr,), fixed=self.options.linear_lr)

    @property
    def length(self) -> Length:
        """How long the trained arms train where time cuts nothing."""
        o = self.options
        return Length(o.updates if o.epochs is None else o.epochs, o.batch_size, passes=o.epochs is not None)

    def trained_arm(self, name: str, length: Length, *, largest: Budget) -> Arm:
        """Fine-tuning or the supervised baseline: one function, two starts; followed closely at the largest budget."""

        def fit(indices: np.ndarray, setting: Any, *, seed: int, budget: Budget, trial: bool) -> Fitted:
            classifier, plan = self._start(name, indices, lr=setting, seed=seed, length=length)
            followed = len(self.data.val) and (budget, seed, trial) == (largest, self.options.first_seed, False)
            curve = fit_classifier(
                classifier,
                self.data.train,
                indices,
                plan=plan,
                views=self.augmented,
                clean=self.clean,
                compute=self.compute,
                measure=self._on_validation if followed else None,
            )
            scores = self._scores(classifier, self.data.val)
            # The classifier is what its last point would measure.
            curve[-1] = replace(curve[-1], measured=self._accuracy(scores) if len(scores) else None)
            (self.trial_curves if trial else self.curves).extend(
                {
                    "arm": name,
                    "labels_per_class": budget,
                    "seed": seed,
                    "lr": setting,
                    "update": point.update,
                    "epoch": round(point.epoch, 4),
                    "train_loss": round(point.train_loss, 5),
                    "val_accuracy": None if point.measured is None else round(point.measured, 5),
                }
                for point in curve
            )
            if self.tick is not None:
                self.tick(distributed.size())
            return Fitted(scores, lambda: self._scores(classifier, self.data.test), classifier)

        return Arm(name, fit, settings=self.options.lrs, fixed=self.options.fixed_lr)

    def _start(
        self, name: str, indices: np.ndarray, *, lr: float, seed: int, length: Length
    ) -> tuple[Classifier, FitPlan]:
        classes = len(self.data.split.classes)
        finetune = name == "finetune"
        classifier = Classifier(self._tuned_encoder() if finetune else self.fresh_encoder(seed), classes=classes)
        if self.options.head == "glorot":
            classifier.start_at_random(seed=seed)
        elif finetune and self.options.head == "probe":
            labels = self.data.split.train[indices]
            strength = self.options.fixed_penalty / len(indices)
            classifier.start_from(
                fit_probe(self._tuned_features()[indices], labels, classes=classes, strength=strength)
            )
        plan = FitPlan(
            updates=length.updates(len(indices)),
            batch_size=length.batch_of(len(indices)),
            lr=lr,
            encoder_ratio=self.options.encoder_lr_ratio if finetune else 1.0,
            weight_decay=self.options.weight_decay,
            seed=seed,
            optimizer=self.options.optimizer,
            eps=self.options.eps,
            schedule=self.options.schedule,
            warmup=self.options.warmup,
            points=self.options.curves,
        )
        return classifier, plan

    def _on_validation(self, classifier: nn.Module) -> float:
        return self._accuracy(self._scores(classifier, self.data.val))

    def _accuracy(self, scores: np.ndarray) -> float:
        return float((scores.argmax(1) == self.data.split.val).mean())

    def _scores(self, classifier: nn.Module, corpus: Corpus) -> np.ndarray:
        if not len(corpus):
            return np.empty((0, len(self.data.split.classes)), np.float32)
        return class_scores(classifier, batches(corpus, self.clean, compute=self.compute), compute=self.compute)

    def length_in_time(
        self, names: Sequence[str], budgets: Sequence[Budget], seeds: list[int], deadline: float | None
    ) -> tuple[Length, list[int], list[str]]:
        """Length and seeds that fit into the time left, and what that cut, in words."""
        if deadline is None:
            return self.length, seeds, []
        a_few = self.data.split.subset(budgets[0], 0)
        started = time.monotonic()
        classifier, plan = self._start(names[0], a_few, lr=1e-3, seed=0, length=replace(self.length, count=1))
        full = replace(plan, batch_size=self.options.batch_size)  # a pass over few samples is a smaller batch
        self._fit_quickly(classifier, replace(full, updates=2), a_few)  # the first updates choose kernels
        middle = time.monotonic()
        classifier, _ = self._start(names[0], a_few, lr=1e-3, seed=0, length=self.length)
        self._fit_quickly(classifier, replace(full, updates=12), a_few)
        per_update = (time.monotonic() - middle) / 12
        middle = time.monotonic()
        some = self.data.train.select(np.arange(min(1000, len(self.data.train))))
        self._scores(classifier, some)
        per_sample = (time.monotonic() - middle) / len(some)
        # Units go to the processes in turn; what is decided here must be decided alike.
        per_update, per_sample = (distributed.agreed(t / distributed.size()) for t in (per_update, per_sample))
        time_left = distributed.agreed(deadline - time.monotonic())
        tried_at = selection_budget(self.data.split, self.options.lrs, budgets)
        work = Work(
            arms=len(names),
            labels={budget: len(self.data.split.subset(budget, 0)) for budget in budgets},
            trials=len(self.options.lrs) * len(names) if tried_at is not None else 0,
            tried_at=tried_at,
            val=len(self.data.val),
            test=len(self.data.test),
            points=self.options.curves,
        )
        length, kept, cut = fit_to_time(
            self.length, seeds, work, seconds=time_left, per_update=per_update, per_sample=per_sample
        )
        self.narrator.say(
            f"fine-tuning and baseline: {length}, {len(kept)} seeds; {per_update:.2f} s an update; "
            f"measured in {time.monotonic() - started:.0f} s"
        )
        return length, kept, cut

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


def _fitted(probe: LinearProbe, vectors: dict[str, np.ndarray]) -> Fitted:
    val = probe.scores(vectors["val"]) if len(vectors["val"]) else NO_SCORES
    return Fitted(val, lambda: probe.scores(vectors["test"]), probe)
